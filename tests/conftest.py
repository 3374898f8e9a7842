"""What tests share: real data where it is, a demo export of phantoms, a way to run commands."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import settings

# a busy machine is no failure
settings.register_profile("efface", deadline=None, max_examples=50)
settings.load_profile("efface")

ROOT = Path(__file__).resolve().parents[1]


@pytest.fixture(scope="session")
def data():
    """The folder of real heads and DICOM; tests that need it skip without it."""
    folder = os.environ.get("EFFACE_DATA")
    if not folder:
        pytest.skip("EFFACE_DATA names no folder of real data")
    return Path(folder)


@pytest.fixture(scope="session")
def demo(tmp_path_factory):
    """A DICOM export of phantoms (folder) and the identifiers planted in it."""
    from efface.phantom import demo_source

    folder = tmp_path_factory.mktemp("demo")
    demo_source(folder / "source")
    lines = (folder / "identifiers.txt").read_text().splitlines()
    return folder / "source", [line for line in lines if line]


@pytest.fixture(scope="session")
def command():
    """Run ``efface …`` as a user does; returns the finished process."""

    def run(*arguments, **more):
        return subprocess.run(
            [sys.executable, "-m", "efface.cli", *map(str, arguments)],
            capture_output=True,
            text=True,
            check=False,
            env=os.environ | {"PYTHONPATH": str(ROOT)},
            **more,
        )

    return run
