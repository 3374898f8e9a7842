"""The workflow: settings, layout of the results, dependencies of rules, and ``efface run``.

The modules of the stages do not import this package.
"""
