"""Readers of the kinds of files in a release: each searches all bytes and checks the structure.

A reader knows the layout of one kind of file. It yields what must not be there as :class:`Hit`;
rules of structure need no identifier (private elements, a header field in use, a key that is not on
the allow-list). Readers raise any exception for a file that they cannot read, which
:func:`efface.audit.leaks.scan` turns into a finding.
"""
