"""A stage writes all its results or none, and failed scans have a reason."""

import errno

import pytest

from efface import stage
from efface.manifest import Manifest, Scan, new_folder, read_manifest, write_manifest

SCANS = (Scan("sub-a_ses-b_T1w", "series-c", files={"nifti": "x"}),)


def run(tmp_path, work):
    job = stage.Job("qc", "sub-a_ses-b", tmp_path / "f", tmp_path / "f.json", tmp_path / "log")
    stage.run(job, SCANS, work)
    return read_manifest(tmp_path / "f.json")


def test_result_and_digests_are_written(tmp_path):
    def work(folder):
        (folder / "x").write_text("done")
        return SCANS

    manifest = run(tmp_path, work)
    assert manifest.scans == SCANS
    assert set(manifest.sha256) == {"x"}
    assert (tmp_path / "f" / "x").read_text() == "done"


def test_an_exception_fails_the_scans_and_leaves_no_file(tmp_path):
    def work(folder):
        (folder / "face").write_text("half")
        raise ValueError("secret /path/of/a/person")

    manifest = run(tmp_path, work)
    assert [s.status for s in manifest.scans] == ["fail"]
    assert "ValueError" in manifest.scans[0].reasons[0]
    assert "secret" not in manifest.scans[0].reasons[0]
    assert "secret" in (tmp_path / "log").read_text()
    assert not list((tmp_path / "f").iterdir())


def test_a_full_disk_stops_the_job_and_fails_no_scan(tmp_path):
    def work(folder):
        try:
            raise OSError(errno.ENOSPC, "No space left on device")
        except OSError as e:
            raise ValueError("cannot be written") from e

    with pytest.raises(ValueError, match="cannot be written"):
        run(tmp_path, work)
    assert not (tmp_path / "f.json").exists()
    assert not (tmp_path / "f").exists()


def test_files_of_a_killed_run_are_deleted(tmp_path):
    (tmp_path / ".f.123.part").mkdir()
    with new_folder(tmp_path / "f") as folder:
        (folder / "x").touch()
    assert [p.name for p in tmp_path.iterdir()] == ["f"]


def test_manifest_round_trip_is_stable(tmp_path):
    (tmp_path / "f").mkdir()
    write_manifest(tmp_path / "m.json", Manifest("qc", "s", SCANS), tmp_path / "f")
    before = (tmp_path / "m.json").read_bytes(), (tmp_path / "m.json").stat().st_mtime_ns
    write_manifest(tmp_path / "m.json", read_manifest(tmp_path / "m.json"), tmp_path / "f")
    assert before == ((tmp_path / "m.json").read_bytes(), (tmp_path / "m.json").stat().st_mtime_ns)
