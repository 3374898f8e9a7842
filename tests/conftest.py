"""Fixtures of the tests: the folder of real data, a demo export of phantoms, the command line."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from filelock import FileLock
from hypothesis import HealthCheck, settings
from real_data import missing_files

# no deadline: a busy machine must not fail a test
settings.register_profile(
    "efface", deadline=None, max_examples=50, suppress_health_check=[HealthCheck.too_slow]
)
settings.load_profile("efface")

ROOT = Path(__file__).resolve().parents[1]
WORKER = os.environ.get("PYTEST_XDIST_WORKER", "")

if WORKER:
    # Give each worker and its child processes separate processors. The network and numpy start one
    # thread for each processor, and the threads of several workers would slow each other down.
    _all = sorted(os.sched_getaffinity(0))
    _own = _all[int(WORKER.removeprefix("gw")) :: int(os.environ["PYTEST_XDIST_WORKER_COUNT"])]
    os.sched_setaffinity(0, _own or _all)


@pytest.fixture(scope="session")
def data():
    """Folder of real heads and DICOM files that the variable EFFACE_DATA names.

    Tests that need it are skipped if the variable is not set, and fail if the folder lacks files.
    """
    folder = os.environ.get("EFFACE_DATA")
    if folder is None:
        pytest.skip("EFFACE_DATA is not set")
    if missing := missing_files(Path(folder)):
        pytest.fail("EFFACE_DATA is incomplete:\n" + "\n".join(missing), pytrace=False)
    return Path(folder)


def pytest_collection_modifyitems(items):
    """Mark the tests that use real data, and start with the modules that have slow tests.

    Each module runs in one worker. If a slow module started last, the other workers would be idle.
    """
    for item in items:
        if "data" in item.fixturenames:
            item.add_marker("data")
    slow = {item.path for item in items if item.get_closest_marker("slow")}
    items.sort(key=lambda item: item.path not in slow)


@pytest.fixture(scope="session")
def shared(tmp_path_factory):
    """Make a folder once for all workers: ``shared(name, make)`` calls ``make(folder)`` once."""
    base = tmp_path_factory.getbasetemp()
    base = (base.parent if WORKER else base) / "shared"
    base.mkdir(exist_ok=True)

    def folder(name, make):
        target, unfinished = base / name, base / f"{name}.unfinished"
        with FileLock(base / f"{name}.lock"):
            if not target.exists():
                shutil.rmtree(unfinished, ignore_errors=True)
                make(unfinished)
                unfinished.rename(target)
        return target

    return folder


@pytest.fixture(scope="session")
def demo(shared):
    """A DICOM export of phantoms (folder) and the identifiers planted in it."""
    from efface.phantom import demo_source

    folder = shared("demo", lambda target: demo_source(target / "source"))
    lines = (folder / "identifiers.txt").read_text().splitlines()
    return folder / "source", [line for line in lines if line]


@pytest.fixture(scope="session")
def bids_errors():
    """Function that returns the errors of a dataset, as the BIDS validator reports them."""

    def errors(folder):
        process = subprocess.run(
            [Path(sys.executable).with_name("bids-validator-deno"), folder, "--format", "json"],
            capture_output=True,
            text=True,
            check=False,
            env=os.environ | {"NO_COLOR": "1"},
        )
        issues = json.loads(process.stdout)["issues"]["issues"]
        return [issue for issue in issues if issue.get("severity") == "error"]

    return errors


@pytest.fixture(scope="session")
def command():
    """Function that runs ``efface …`` in a new process and returns the finished process."""

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
