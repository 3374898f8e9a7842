"""Verification reports every problem of a release and its place."""

import calendar
import gzip
import os

import pytest
from test_release import make_release, out  # noqa: F401 - the fixture

from efface.errors import EffaceError
from efface.verify import verify


@pytest.fixture
def sound(out):  # noqa: F811
    make_release(out)
    return out / "release"


def first(release, pattern):
    return sorted(release.rglob(pattern))[0]


def test_an_intact_release_is_sound(sound):
    report = verify(sound, ["Quillfeather", "19710423", ""])
    assert report.problems == ()
    assert report.summary().startswith("sound: ")
    assert report.identifiers == 2


def test_a_changed_a_missing_and_an_additional_file_are_reported(sound):
    image = first(sound, "*_T1w.nii.gz")
    data = bytearray(gzip.decompress(image.read_bytes()))
    data[-1] ^= 1
    image.write_bytes(gzip.compress(bytes(data), mtime=0))
    first(sound, "*.dcm").unlink()
    (sound / "more.tsv").write_text("x\n")
    problems = "\n".join(verify(sound).problems)
    assert "differs from the file in the manifest" in problems
    assert "in the manifest, but the file is missing" in problems
    assert "more.tsv: not in the manifest" in problems
    assert verify(sound).summary().startswith("not sound: 4 ")


def test_an_identifier_is_reported_by_its_line_not_by_its_value(sound):
    (sound / "bids" / "README.md").write_text("thanks to Mara, born 23.04.1971\n")
    problems = verify(sound, ["nobody", "Mara", "1971-04-23"]).problems
    text = "\n".join(problems)
    assert "identifier on line 2" in text
    assert "identifier on line 3" in text
    assert "Mara" not in text
    assert "1971" not in text


def test_structure_is_checked_without_identifiers(sound):
    path = first(sound, "*.dcm")
    data = bytearray(path.read_bytes())
    data[3] = 65
    path.write_bytes(bytes(data))
    sidecar = first(sound, "*_T1w.json")
    sidecar.write_text('{"EchoTime": 0.003, "PatientName": "X"}')
    text = "\n".join(verify(sound).problems)
    assert "something in the preamble" in text
    assert "not on the allow-list" in text


def test_names_of_folders_targets_of_links_and_times_are_searched(sound):
    (sound / "bids" / "Quillfeather").mkdir()
    (sound / "bids" / "here").symlink_to("/home/mara", target_is_directory=True)
    (sound / "pipe").mkdir()
    os.mkfifo(sound / "pipe" / "p")
    image = first(sound, "*_T1w.nii.gz")
    noon = calendar.timegm((2019, 3, 7, 12, 0, 0))
    os.utime(image, (noon, noon))
    problems = verify(sound, ["Quillfeather", "Mara", "20190307"]).problems
    text = "\n".join(problems)
    assert "identifier on line 1 in the name of a folder" in text
    assert "bids/here: not a regular file" in text
    assert "identifier on line 2 in the target of a link" in text
    assert "pipe/p: not a regular file" in text
    assert f"{image.relative_to(sound)}: identifier on line 3 in the modification time" in text
    for value in ("quillfeather", "mara", "2019"):
        assert value not in text.lower()


def test_a_link_is_a_problem(sound):
    path = first(sound, "*_T1w.json")
    target = sound.parent / "elsewhere.json"
    path.rename(target)
    path.symlink_to(target)
    assert any("not a regular file" in p for p in verify(sound).problems)


@pytest.mark.parametrize("text", [None, "", "path\tsize\n", "\xff"])
def test_a_missing_or_malformed_manifest_is_rejected(tmp_path, text):
    if text is not None:
        (tmp_path / "manifest.tsv").write_bytes(text.encode("latin-1"))
    with pytest.raises(EffaceError, match="manifest"):
        verify(tmp_path)
