"""The command line: exit codes, sentences instead of tracebacks, nothing half-written."""

import errno
import os
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest

from efface import nifti


def ok_image(path, shape=(20, 21, 22), dtype=np.int16):
    rng = np.random.default_rng(0)
    nib.save(nib.Nifti1Image(rng.integers(0, 99, shape).astype(dtype), np.eye(4)), path)
    return path


def refused(done, code, *words):
    assert done.returncode == code, done.stderr
    assert "Traceback" not in done.stderr
    for word in words:
        assert word in done.stderr


def test_help_names_every_command(command):
    text = command("--help").stdout
    assert all(name in text for name in ("run", "deface", "scrub", "verify", "key"))


@pytest.mark.parametrize(
    "arguments", [[], ["nonsense"], ["deface"], ["run", "a"], ["deface", "a", "b", "--device", "x"]]
)
def test_wrong_usage_is_2(command, arguments):
    assert command(*arguments).returncode == 2


def test_missing_image(command, tmp_path):
    refused(command("deface", tmp_path / "no.nii.gz", tmp_path / "o.nii.gz"), 1, "no.nii.gz")


def test_text_is_no_image(command, tmp_path):
    (tmp_path / "a.nii.gz").write_text("no image")
    refused(command("deface", tmp_path / "a.nii.gz", tmp_path / "o.nii.gz"), 1, "not a readable")
    assert not (tmp_path / "o.nii.gz").exists()


def test_wrong_shape(command, tmp_path):
    image = ok_image(tmp_path / "a.nii.gz", (20, 20))
    refused(command("deface", image, tmp_path / "o.nii.gz"), 1, "3D or 4D", "(20, 20)")


def test_truncated_image(command, tmp_path):
    image = ok_image(tmp_path / "a.nii.gz")
    image.write_bytes(image.read_bytes()[:-2000])
    refused(command("deface", image, tmp_path / "o.nii.gz"), 1, "a.nii.gz")


def test_original_is_never_replaced(command, tmp_path):
    image = ok_image(tmp_path / "a.nii.gz")
    before = image.read_bytes()
    refused(command("deface", image, image), 1, "original")
    assert image.read_bytes() == before


def test_missing_folder_is_found_before_the_work(command, tmp_path):
    image = ok_image(tmp_path / "a.nii.gz")
    refused(command("deface", image, tmp_path / "no" / "o.nii.gz"), 1, "no such folder")


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write anywhere")
def test_no_permission(command, tmp_path):
    image = ok_image(tmp_path / "a.nii.gz")
    locked = tmp_path / "locked"
    locked.mkdir(mode=0o500)
    refused(command("deface", image, locked / "o.nii.gz"), 1, "cannot be written")


def test_no_space(tmp_path, monkeypatch):

    def full(*_args, **_more):
        raise OSError(errno.ENOSPC, "No space left on device")

    image = nifti.load(ok_image(tmp_path / "a.nii.gz"))
    monkeypatch.setattr(Path, "write_bytes", full)
    with pytest.raises(Exception, match="No space left"):
        nifti.save(image, tmp_path / "o.nii.gz")
    assert not list(tmp_path.glob(".*part"))


def test_unknown_method_names_the_known(command, tmp_path):
    image = ok_image(tmp_path / "a.nii.gz")
    done = command("deface", image, tmp_path / "o.nii.gz", "--method", "magic")
    refused(done, 1, "magic", "noise")


def test_noise_is_no_head(command, tmp_path):
    rng = np.random.default_rng(0)
    v = rng.normal(500, 100, (60, 60, 60)).astype(np.int16)
    nib.save(nib.Nifti1Image(v, np.diag([3.0, 3, 3, 1])), tmp_path / "a.nii.gz")
    done = command("deface", tmp_path / "a.nii.gz", tmp_path / "o.nii.gz")
    assert done.returncode in (1, 3)
    assert "head" in done.stderr
    assert not (tmp_path / "o.nii.gz").exists()


def test_run_without_source(command, tmp_path):
    refused(command("run", tmp_path / "no", tmp_path / "out"), 1, "no such folder")
    assert not (tmp_path / "out").exists()


def test_scrub_without_key_says_how_to_make_one(command, tmp_path):
    (tmp_path / "in").mkdir()
    done = command("scrub", tmp_path / "in", tmp_path / "out", "--key", tmp_path / "key")
    refused(done, 1, "efface key new")


def test_key_is_private_and_never_overwritten(command, tmp_path):
    key = tmp_path / "key"
    first = command("key", "new", key)
    assert first.returncode == 0
    assert key.stat().st_mode & 0o777 == 0o600
    secret = key.read_text()
    assert secret.strip() not in first.stdout + first.stderr
    refused(command("key", "new", key), 1, "never overwrites")
    assert key.read_text() == secret
