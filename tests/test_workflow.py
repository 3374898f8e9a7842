"""Real snakemake runs on phantoms: from an export to a release, again, and after a kill."""

import csv
import gzip
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import nibabel
import pytest

import efface

ROOT = Path(__file__).resolve().parents[1]
pytestmark = pytest.mark.slow


def snakemake(source, out, *more, **how):
    return subprocess.run(
        [
            *[sys.executable, "-m", "snakemake", "--cores", "2", *more],
            # relative, as people type them
            *["--config", f"source={os.path.relpath(source, ROOT)}"],
            f"out={os.path.relpath(out, ROOT)}",
        ],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
        **how,
    )


def rows(path):
    with path.open(newline="") as f:
        return list(csv.DictReader(f, delimiter="\t"))


def contents(folder):
    return {str(p.relative_to(folder)): p.read_bytes() for p in folder.rglob("*") if p.is_file()}


def jobs(done):
    """Rule names of the jobs that snakemake ran."""
    text = done.stdout + done.stderr
    assert done.returncode == 0, text
    return [
        line.split()[1].rstrip(":")
        for line in text.splitlines()
        if line.startswith(("rule ", "localrule ", "checkpoint ", "localcheckpoint "))
    ]


@pytest.fixture(scope="module")
def run(demo, tmp_path_factory):
    source = tmp_path_factory.mktemp("workflow") / "source"
    shutil.copytree(demo[0], source)
    out = source.parent / "out"
    done = snakemake(source, out)
    jobs(done)
    return source, out, demo[1]


def test_every_file_is_listed_once(run):
    source, out, _ = run
    listed = sorted(r["path"] for r in rows(out / "restricted" / "files.tsv"))
    expected = sorted(str(p.relative_to(source)) for p in source.rglob("*") if p.is_file())
    assert listed == expected


def test_heads_are_released_and_other_scans_have_a_reason(run):
    _, out, _ = run
    scans = rows(out / "audit" / "scans.tsv")
    assert list(scans[0])[:5] == ["session", "scan", "modality", "status", "reasons"]
    assert {"pass"} <= {s["status"] for s in scans}
    assert all(s["reasons"] for s in scans if s["status"] != "pass")
    assert list((out / "release" / "bids").rglob("*_T1w.nii.gz"))
    assert list((out / "release" / "dicom").rglob("*.dcm"))


def test_the_workflow_and_deface_measure_the_same(run):
    """The files between the stages keep everything that the gate measures."""
    _, out, _ = run

    def scans(stage):
        manifests = (out / "restricted" / stage).glob("*.json")
        return {s["scan"]: s for p in manifests for s in json.loads(p.read_text())["scans"]}

    # a scan without labels transferred from another scan of its session
    names = (n for n, s in scans("segment").items() if "propagated" not in s["measures"])
    paths = {p.name: p for p in (out / "restricted" / "convert").rglob("*.nii.gz")}
    name = next(n for n in names if f"{n}.nii.gz" in paths)
    path, scan = paths[f"{name}.nii.gz"], scans("qc")[name]
    alone = efface.deface(nibabel.load(path)).report
    assert alone.status == scan["status"]
    for measure in ("brain_ml", "region_ml", "nose", "maybe_brain_replaced_ml"):
        assert scan["measures"][measure] == alone.measures[measure]


def test_no_identifier_is_released(run):
    _, out, identifiers = run
    assert identifiers
    for zone in (out / "release", out / "audit"):
        for path in zone.rglob("*"):
            data = path.read_bytes() if path.is_file() else b""
            if path.name.endswith(".gz"):
                data = gzip.decompress(data)
            text = (str(path.relative_to(out)).encode() + b"\0" + data).lower()
            # the digits of a new UID come from a hash, and rarely contain a date by chance
            text = re.sub(rb"2\.25\.[0-9]{20,39}", b"", text)
            for identifier in identifiers:
                assert identifier.lower().encode() not in text, (path, identifier)


def test_release_verifies(run, command):
    _, out, _ = run
    identifiers = out / "restricted" / "test-needles.txt"
    identifiers.write_text("\n".join(run[2]))
    done = command("verify", out / "release", "--needles", identifiers)
    assert done.returncode == 0, done.stdout + done.stderr


def test_bids_is_valid(run, bids_errors):
    _, out, _ = run
    assert bids_errors(out / "release" / "bids") == []


def test_the_restricted_zone_is_private_and_the_audit_has_no_picture_before(run):
    _, out, _ = run
    assert (out / "restricted").stat().st_mode & 0o077 == 0
    assert not [p for p in (out / "audit").rglob("*") if "before" in p.name]


def test_second_run_does_nothing(run):
    source, out, _ = run
    before = contents(out / "release")
    assert jobs(snakemake(source, out)) == []
    assert contents(out / "release") == before


def test_only_a_deleted_session_is_processed_again(run):
    source, out, _ = run
    before = contents(out / "release")
    session = next((out / "release" / "bids").glob("sub-*/ses-*"))
    shutil.rmtree(session)
    name = f"{session.parent.name}_{session.name}"
    for path in (out / "restricted").glob(f"*/{name}*"):
        if path.parent.name in ("scrub", "convert", "segment", "distort", "qc", "audit"):
            shutil.rmtree(path) if path.is_dir() else path.unlink()
    made = jobs(snakemake(source, out))
    assert made.count("segment") == 1
    assert made.count("inventory_entry") == 0
    assert contents(out / "release") == before


def test_only_a_new_person_is_processed(run):
    source, out, _ = run
    from efface.phantom import demo_source

    before = contents(out / "release" / "dicom")
    extra = source.parent / "extra"
    demo_source(extra, people=1, seed=77, mm=3.0)
    person = next(p for p in sorted(extra.iterdir()) if p.is_dir())
    shutil.copytree(person, source / "ZZ_new_person")
    made = jobs(snakemake(source, out))
    assert made.count("inventory_entry") == 1
    assert made.count("segment") == 1
    after = contents(out / "release" / "dicom")
    assert {k: after[k] for k in before} == before
    assert len(after) > len(before)


def kill(source, out, stage):
    """Start a run and kill it, with all its processes, while a stage is at work."""
    process = subprocess.Popen(
        [
            *[sys.executable, "-m", "snakemake", "--cores", "2"],
            *["--config", f"source={source}", f"out={out}"],
        ],
        cwd=ROOT,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    )
    # a stage writes its folder under a temporary name
    while process.poll() is None and not any((out / "restricted" / stage).glob(".*")):
        time.sleep(0.01)
    assert process.poll() is None, "the run ended before it was killed"
    os.killpg(process.pid, signal.SIGKILL)
    process.wait()


def test_a_run_that_was_killed_three_times_finishes_with_the_same_bytes(tmp_path):
    from efface.phantom import demo_source

    source, whole, out = (tmp_path / name for name in ("source", "whole", "out"))
    demo_source(source, people=1, seed=5, mm=3.0)
    jobs(snakemake(source, whole))
    (out / "restricted").mkdir(parents=True, mode=0o700)
    shutil.copy2(whole / "restricted" / "key", out / "restricted" / "key")
    for stage in ("convert", "distort", "audit"):
        kill(source, out, stage)
        assert not (out / "release" / "manifest.tsv").exists()
    assert jobs(snakemake(source, out))
    assert contents(out / "release") == contents(whole / "release")
