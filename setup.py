"""The packages of a wheel. All else about the build is in pyproject.toml.

Workflow, settings and models lie at the top of the repository. In a wheel they lie in the package,
as ``efface/shipped`` (:mod:`efface.resources`).
"""

from setuptools import find_packages, setup
from setuptools.command.build_py import build_py

SHIPPED = "efface.shipped"


class Build(build_py):
    """The build step, which takes only data from the top of the repository, not this file."""

    def find_package_modules(self, package, package_dir):  # noqa: D102, ANN001, ANN201
        return [] if package == SHIPPED else super().find_package_modules(package, package_dir)


setup(
    packages=[*find_packages(include=["efface", "efface.*"]), SHIPPED],
    package_dir={SHIPPED: "."},
    cmdclass={"build_py": Build},
)
