"""Tests on real data fail if data are missing; none passes on an empty folder."""

import os
import subprocess
import sys
from pathlib import Path
from xml.etree import ElementTree

import pytest
from real_data import NEEDED, missing_files

ROOT = Path(__file__).resolve().parents[1]


def empty_files(folder, without=None):
    """Make a folder with every file that is needed, each of them empty."""
    for pattern, number in NEEDED.items():
        for n in range(number if pattern != without else number - 1):
            path = folder / pattern.replace("*", f"x{n}")
            path.parent.mkdir(parents=True, exist_ok=True)
            path.touch()
    return folder


@pytest.mark.parametrize("pattern", NEEDED)
def test_a_folder_with_too_few_files_of_a_pattern_is_reported(tmp_path, pattern):
    (line,) = missing_files(empty_files(tmp_path, without=pattern))
    assert line.startswith(f"{tmp_path / pattern}: {NEEDED[pattern] - 1} files")


def test_a_complete_folder_lacks_no_file(tmp_path):
    assert missing_files(empty_files(tmp_path)) == []
    assert missing_files(tmp_path / "none") == [f"{tmp_path / 'none'}: no such folder"]


def outcomes(folder, tmp_path):
    """Outcome and message of every test on real data, run with another folder."""
    report = tmp_path / "report.xml"
    environment = {k: v for k, v in os.environ.items() if k != "EFFACE_DATA"}
    environment |= {"EFFACE_DATA": str(folder)} if folder else {}
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-m", "data", "-p", "no:cacheprovider", "-p", "no:xdist",
         f"--junit-xml={report}", f"--basetemp={tmp_path / 'tests'}"],
        cwd=ROOT, capture_output=True, text=True, check=False, env=environment,
    )  # fmt: skip
    cases = ElementTree.parse(report).getroot().iter("testcase")
    results = {}
    for case in cases:
        result = next((x for x in case if x.tag in ("error", "failure", "skipped")), None)
        results[f"{case.get('classname')}.{case.get('name')}"] = (
            ("passed", "") if result is None else (result.tag, result.get("message", ""))
        )
    assert len(results) > 25, done.stdout[-2000:]
    return results


MISSING_PROGRAM = ("tesseract is not installed", "dicom3tools are not installed")


@pytest.mark.slow
def test_no_test_passes_on_an_empty_folder(tmp_path):
    empty = tmp_path / "empty"
    empty.mkdir()
    for name, (outcome, message) in outcomes(empty, tmp_path).items():
        if outcome == "skipped":
            assert message in MISSING_PROGRAM, name
        else:
            assert outcome == "error", name
            assert f"{empty}/heads/val/*_T1w.nii.gz: 0 files" in message, name


@pytest.mark.slow
def test_no_test_passes_on_empty_files(tmp_path):
    for name, (outcome, message) in outcomes(empty_files(tmp_path / "files"), tmp_path).items():
        if outcome == "skipped":
            assert message in MISSING_PROGRAM, name
        else:
            assert outcome == "failure", name


@pytest.mark.slow
def test_without_the_variable_every_test_on_real_data_is_skipped(tmp_path):
    assert {outcome for outcome, _ in outcomes(None, tmp_path).values()} == {"skipped"}


def test_only_the_fixture_reads_the_variable():
    """All of them use the fixture, which first checks that the data are complete."""
    named = {p.name for p in (ROOT / "tests").glob("*.py") if "EFFACE_DATA" in p.read_text()}
    assert named == {"conftest.py", "real_data.py", Path(__file__).name}
