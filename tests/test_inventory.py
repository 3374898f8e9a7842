"""Every file is accounted for once, with the right reason; sessions are stable."""

import bz2
import copy
import gzip
import io
import json
import lzma
import os
import shutil
import tarfile
import zipfile
from pathlib import Path

import pytest
from small_dicom import mr, write

from efface import inventory, status
from efface.errors import EffaceError
from efface.inventory import Entry, bids, objects
from efface.manifest import json_text
from efface.pseudonym import Key
from efface.session import BidsName, Session, as_dict, read_session

KEY = Key(b"k" * 32)


def entries_of(source, ocr="auto"):
    names = inventory.entries(source, KEY).values()
    return [inventory.run_entry(source, name, KEY, ocr) for name in names]


def reasons(source):
    rows = inventory.files_table(entries_of(source), {})
    return {os.path.relpath(r["path"], source): r["reason"] for r in rows}


def series_of(source):
    return [s for session in inventory.merge(entries_of(source), KEY) for s in session.series]


def test_a_series_becomes_a_session(tmp_path):
    write(tmp_path / "Quillfeather")
    (session,) = inventory.merge(entries_of(tmp_path), KEY)
    (series,) = session.series
    assert session.session.startswith(session.subject + "_ses-")
    assert session.source == "dicom"
    assert (series.kind, series.status, series.reasons) == ("image", "pass", ())
    assert series.uid == "1.2.3.4.5"
    assert [Path(f).name for f in series.files] == ["IM001", "IM002", "IM003", "IM004"]
    assert series.attributes["EchoTime"] == 3.0
    assert series.frame_of_reference == KEY.uid("1.2.3.4.6")
    # a second inventory gives the same bytes
    (second,) = inventory.merge(entries_of(tmp_path), KEY)
    assert json.dumps(as_dict(second)) == json.dumps(as_dict(session))


def test_each_reason(tmp_path):
    write(tmp_path / "a")
    (tmp_path / "a" / "empty").touch()
    (tmp_path / "a" / "notes.txt").write_text("x" * 500)
    odd = {
        "sc": {"SOPClassUID": "1.2.840.10008.5.1.4.1.1.7"},
        "sr": {"SOPClassUID": "1.2.840.10008.5.1.4.1.1.88.22"},
        "ct": {"SOPClassUID": "1.2.840.10008.5.1.4.1.1.2"},
        "pdf": {"SOPClassUID": "1.2.840.10008.5.1.4.1.1.104.1"},
        "color": {"SOPClassUID": "1.2.840.10008.5.1.4.1.1.4.3"},
        "private": {"SOPClassUID": "1.3.12.2.1107.5.9.1"},
        "dir": {"SOPClassUID": "1.2.840.10008.1.3.10"},
        "burned": {"BurnedInAnnotation": "YES"},
        "converted": {"ConversionType": "WSD"},
        "screen": {"ImageType": ["DERIVED", "SECONDARY", "SCREEN SAVE"]},
        "rgb": {"SamplesPerPixel": 3, "PixelData": b"\0" * 576},
        "modality": {"Modality": "OT"},
        "nouid": {"StudyInstanceUID": None},
        "nopixels": {"PixelData": b""},
        "shape": {"Rows": None},
    }
    for i, (name, changes) in enumerate(odd.items()):
        uid = {"SOPInstanceUID": f"1.9.{i}", "SeriesInstanceUID": f"1.8.{i}"}
        mr(1, **uid | changes).save_as(tmp_path / "a" / name, enforce_file_format=True)
    whole = (tmp_path / "a" / "IM001").read_bytes()
    (tmp_path / "a" / "cut").write_bytes(whole[:-100])
    (tmp_path / "a" / "cut_head").write_bytes(whole[:700])
    by_path = reasons(tmp_path)
    expected = {
        "empty": "empty file",
        "notes.txt": "not DICOM",
        "sc": "secondary capture",
        "sr": "structured report",
        "ct": "not MR: CT Image Storage",
        "pdf": "object type not allowed: Encapsulated PDF Storage",
        "color": "object type not allowed: Enhanced MR Color Image Storage",
        "private": "object type not allowed",
        "dir": "no image: DICOMDIR",
        "burned": "text may be burned in: declared in the header",
        "converted": "text may be burned in: converted from another form",
        "screen": "text may be burned in: screen capture",
        "rgb": "text may be burned in: colour image",
        "modality": "not MR",
        "nouid": "unreadable: no study, series or instance UID",
        "nopixels": "truncated",
        "shape": "unreadable: the shape or type of the pixels is not usable",
        "cut": "truncated",
        "cut_head": "truncated: no pixel data",
    }
    assert {n: by_path[f"a/{n}"] for n in expected} == expected
    assert len(by_path) == len(expected) + 4
    kinds = {s.uid: (s.kind, s.status) for s in series_of(tmp_path)}
    # a truncated copy of a complete slice does not affect the series
    assert kinds["1.2.3.4.5"] == ("image", "pass")
    assert {v for k, v in kinds.items() if k.startswith("1.8")} == {
        ("object", "fail"),
        ("image", "fail"),
    }


def test_a_truncated_slice_without_a_complete_copy_goes_to_review(tmp_path):
    paths = write(tmp_path / "a")
    paths[2].write_bytes(paths[2].read_bytes()[:-50])
    (series,) = series_of(tmp_path)
    assert series.status == "review"
    assert series.reasons == ("truncated: 1 of 4 images",)
    assert len(series.files) == 3


def test_encapsulated_pixels_are_checked(tmp_path):
    ds = mr(1)
    ds.compress("1.2.840.10008.1.2.5")
    ds.save_as(tmp_path / "rle", enforce_file_format=True)
    assert reasons(tmp_path)["rle"] == "stage failed: no result"
    whole = (tmp_path / "rle").read_bytes()
    (tmp_path / "rle").write_bytes(whole[:-60])
    assert reasons(tmp_path)["rle"] == "truncated"


@pytest.mark.parametrize("syntax", ["1.2.840.10008.1.2", "1.2.840.10008.1.2.1.99"])
def test_other_native_syntaxes(tmp_path, syntax):
    ds = mr(1)
    ds.file_meta.TransferSyntaxUID = syntax
    ds.save_as(tmp_path / "x", enforce_file_format=True)
    (series,) = series_of(tmp_path)
    assert series.status == "pass"


def test_duplicates(tmp_path):
    first, *_ = write(tmp_path / "a")
    shutil.copy(first, tmp_path / "a" / "ZZ_same")
    shutil.copy(first, tmp_path / "b_same_in_another_entry")
    assert series_of(tmp_path)[0].status == "pass"
    by_path = reasons(tmp_path)
    assert by_path["a/ZZ_same"] == by_path["b_same_in_another_entry"] == "duplicate"
    mr(1, EchoTime=4).save_as(tmp_path / "a" / "ZZ_other", enforce_file_format=True)
    assert reasons(tmp_path)["a/ZZ_other"] == "duplicate: the content differs"
    (series,) = series_of(tmp_path)
    assert series.status == "review"
    assert len(series.files) == 4


def test_a_session_may_span_entries(tmp_path):
    write(tmp_path / "one", SeriesInstanceUID="1.1")
    write(tmp_path / "two", SeriesInstanceUID="1.2")
    write(tmp_path / "three", StudyInstanceUID="9.9", SeriesInstanceUID="1.3")
    entries = entries_of(tmp_path)
    named = [(e.entry, e) for e in entries]
    together = sorted(sorted(g) for g in inventory.groups(named))
    assert sorted(len(g) for g in together) == [1, 2]
    by_name = dict(named)
    split = [s for g in together for s in inventory.merge([by_name[n] for n in g], KEY)]
    whole = inventory.merge(entries, KEY)
    assert sorted(split, key=lambda s: s.session) == whole
    assert {s.subject for s in whole} == {whole[0].subject}


def test_merging_does_not_change_its_arguments(tmp_path):
    first, *_ = write(tmp_path / "a")
    shutil.copy(first, tmp_path / "b")
    entries = entries_of(tmp_path)
    before = copy.deepcopy(entries)
    inventory.merge(entries, KEY)
    inventory.files_table(entries, {})
    assert entries == before


def test_records_are_the_same_after_json(tmp_path):
    write(tmp_path / "dicom" / "a")
    shutil.copytree(tmp_path / "dicom" / "a", tmp_path / "dicom" / "b")
    (tmp_path / "dicom" / "b" / "notes").write_text("x")
    for source in (tmp_path / "dicom", bids_source(tmp_path)):
        found = entries_of(source)
        for entry in found:
            assert Entry.from_dict(json.loads(json_text(as_dict(entry)))) == entry
        for session in inventory.merge(found, KEY):
            assert Session.from_dict(json.loads(json_text(as_dict(session)))) == session


def test_optional_fields_without_a_value_are_not_stored(tmp_path):
    write(tmp_path / "a")
    (entry,) = map(as_dict, entries_of(tmp_path, ocr="never"))
    (series,) = entry["series"].values()
    assert "bids" not in series
    assert {"text", "doubt", "number"} <= series.keys()
    assert all(f.keys().isdisjoint({"sha256", "relative"}) for f in entry["files"])
    assert all("number" in f for f in entry["files"])


def test_a_malformed_record_is_rejected(tmp_path):
    write(tmp_path / "source" / "a")
    (entry,) = map(as_dict, entries_of(tmp_path / "source"))
    (session,) = map(as_dict, inventory.merge(entries_of(tmp_path / "source"), KEY))
    path = tmp_path / "record.json"
    for read, good in ((inventory.read_entry, entry), (read_session, session)):
        path.write_text(json.dumps(good))
        assert as_dict(read(path))
        bad = [{**good, "unknown": 1}, [good], None, {**good, "series": [1]}]
        bad += [{k: v for k, v in good.items() if k != name} for name in good]
        for value in bad:
            path.write_text(json.dumps(value))
            with pytest.raises(EffaceError, match=r"record\.json"):
                read(path)
        path.unlink()
        with pytest.raises(EffaceError, match=r"record\.json"):
            read(path)


def test_without_a_patient_id_studies_stay_apart(tmp_path):
    write(tmp_path / "a", PatientID="")
    write(tmp_path / "b", PatientID=None, StudyInstanceUID="9.9", SeriesInstanceUID="9.8")
    one, two = inventory.merge(entries_of(tmp_path), KEY)
    assert one.subject != two.subject


def test_links(tmp_path):
    source = tmp_path / "source"
    (path, *_) = write(source / "a")
    (tmp_path / "outside").write_bytes(b"secret")
    (source / "a" / "out").symlink_to(tmp_path / "outside")
    (source / "a" / "broken").symlink_to(source / "nothing")
    (source / "a" / "within").symlink_to(path)
    (source / "a" / "loop").symlink_to(source)
    os.mkfifo(source / "a" / "pipe")
    by_path = reasons(source)
    assert by_path["a/out"] == "link not followed: it points out of the source"
    assert by_path["a/broken"] == "link not followed: its target does not exist"
    assert by_path["a/loop"].startswith("link not followed: it points to a folder")
    assert by_path["a/within"] == "duplicate"
    assert by_path["a/pipe"] == "not DICOM: not a regular file"


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read everything")
def test_no_permission(tmp_path):
    (path, *_) = write(tmp_path / "a")
    path.chmod(0)
    assert reasons(tmp_path)["a/IM001"] == "no permission"


def test_a_folder_without_permission(tmp_path, monkeypatch):
    write(tmp_path / "a")
    listdir = os.listdir

    def refuse(path):
        if os.fspath(path).endswith("/a"):
            raise PermissionError
        return listdir(path)

    monkeypatch.setattr(os, "listdir", refuse)
    assert reasons(tmp_path) == {"a": "no permission"}


def test_file_names_that_are_not_text(tmp_path):
    name = os.fsdecode(b"caf\xe9\tx")
    (tmp_path / name).mkdir()
    write(tmp_path / name)
    entries = entries_of(tmp_path)
    stored = [Entry.from_dict(json.loads(json.dumps(as_dict(e)))) for e in entries]
    rows = inventory.files_table(stored, {})
    assert rows[0]["path"].endswith("caf\\xe9\\x09x/IM001")
    (session,) = inventory.merge(entries, KEY)
    assert Path(session.series[0].files[0]).exists()


def test_disposition(tmp_path):
    write(tmp_path / "a")
    (tmp_path / "a" / "notes").write_text("x")
    entries = entries_of(tmp_path)
    (session,) = inventory.merge(entries, KEY)
    key = (session.session, session.series[0].series)
    rows = inventory.files_table(entries, {key: ("released", "")})
    assert [r["disposition"] for r in rows] == ["released"] * 4 + ["withheld"]
    assert rows[0]["session"] == session.session
    assert rows[4]["session"] == rows[4]["series"] == ""


@pytest.mark.parametrize("make", ["missing", "empty", "file"])
def test_an_invalid_source_is_rejected(tmp_path, make):
    source = tmp_path / "source"
    if make == "empty":
        source.mkdir()
    elif make == "file":
        source.touch()
    with pytest.raises(EffaceError, match="source"):
        inventory.entries(source, KEY)


def test_every_change_changes_the_fingerprint(tmp_path):
    paths = write(tmp_path / "a" / "deep")
    fingerprints = [inventory.entry_fingerprint(tmp_path / "a")]
    assert inventory.entry_fingerprint(tmp_path / "a") == fingerprints[0]
    os.utime(paths[0], ns=(1, 1))
    fingerprints.append(inventory.entry_fingerprint(tmp_path / "a"))
    paths[1].unlink()
    fingerprints.append(inventory.entry_fingerprint(tmp_path / "a"))
    (tmp_path / "a" / "new").mkdir()
    fingerprints.append(inventory.entry_fingerprint(tmp_path / "a"))
    assert len(set(fingerprints)) == 4
    assert inventory.entry_fingerprint(paths[2]) != inventory.entry_fingerprint(paths[3])
    assert inventory.entry_fingerprint(tmp_path / "gone")


def test_an_edited_file_changes_its_session_only(tmp_path):
    paths = write(tmp_path / "a")
    write(tmp_path / "b", StudyInstanceUID="9.9", SeriesInstanceUID="9.8", PatientID="other")
    before = {s.subject: s.fingerprint for s in inventory.merge(entries_of(tmp_path), KEY)}
    os.utime(paths[0], ns=(1, 1))
    after = {s.subject: s.fingerprint for s in inventory.merge(entries_of(tmp_path), KEY)}
    assert before.keys() == after.keys()
    assert sum(before[k] != after[k] for k in before) == 1


def test_the_list_of_objects_is_closed():
    assert objects.reason("1.2.840.10008.5.1.4.1.1.4") == ""
    assert objects.reason("1.2.3") == "object type not allowed"
    assert objects.reason("1.2.840.10008.5.1.4.1.1.128") != ""
    assert objects.reason("1.2.840.10008.5.1.4.1.1.4.2").startswith("object type not allowed")


def bids_source(folder):
    """Two people, shared metadata, and files that are no images."""
    for path in (
        "sub-01/anat/sub-01_T1w.nii.gz",
        "sub-01/anat/sub-01_T1w.json",
        "sub-01/func/sub-01_task-nback_bold.nii.gz",
        "sub-01/func/sub-01_task-nback_events.tsv",
        "sub-02/ses-a/dwi/sub-02_ses-a_dwi.nii.gz",
        "sub-02/ses-a/dwi/sub-02_ses-a_dwi.bval",
        "sub-02/ses-a/dwi/sub-02_ses-a_dwi.bvec",
        "sub-02/ses-a/func/sub-02_ses-a_task-nback_bold.nii.gz",
        "sub-02/ses-a/pet/sub-02_ses-a_pet.nii.gz",
        "sub-02/anat/sub-02_ses-a_T1w.nii.gz",
        "derivatives/x/sub-01/anat/sub-01_T1w.nii.gz",
        "task-nback_bold.json",
        "participants.tsv",
        "dataset_description.json",
    ):
        (folder / path).parent.mkdir(parents=True, exist_ok=True)
        (folder / path).write_text("{}")
    return folder


def test_bids_source(tmp_path):
    source = bids_source(tmp_path)
    assert bids.is_bids(source)
    entries = entries_of(source)
    sessions = inventory.merge(entries, KEY)
    assert all(s.source == "bids" for s in sessions)
    every = [s for session in sessions for s in session.series]
    withheld = {s.uid: (s.status, s.reasons) for s in every if s.kind == "object"}
    assert set(withheld) == {
        "sub-02/ses-a/pet/sub-02_ses-a_pet.nii.gz",
        "sub-02/anat/sub-02_ses-a_T1w.nii.gz",
        "derivatives/x/sub-01/anat/sub-01_T1w.nii.gz",
    }
    assert all(status == "fail" and len(why) == 1 for status, why in withheld.values())
    series = {s.uid: s for s in every if s.kind == "image"}
    files = {uid: [os.path.relpath(f, source) for f in s.files] for uid, s in series.items()}
    assert files == {
        "sub-01/anat/sub-01_T1w.nii.gz": [
            "sub-01/anat/sub-01_T1w.nii.gz",
            "sub-01/anat/sub-01_T1w.json",
        ],
        "sub-01/func/sub-01_task-nback_bold.nii.gz": [
            "sub-01/func/sub-01_task-nback_bold.nii.gz",
            "task-nback_bold.json",
            "sub-01/func/sub-01_task-nback_events.tsv",
        ],
        "sub-02/ses-a/dwi/sub-02_ses-a_dwi.nii.gz": [
            "sub-02/ses-a/dwi/sub-02_ses-a_dwi.nii.gz",
            "sub-02/ses-a/dwi/sub-02_ses-a_dwi.bval",
            "sub-02/ses-a/dwi/sub-02_ses-a_dwi.bvec",
        ],
        "sub-02/ses-a/func/sub-02_ses-a_task-nback_bold.nii.gz": [
            "sub-02/ses-a/func/sub-02_ses-a_task-nback_bold.nii.gz",
            "task-nback_bold.json",
        ],
    }
    described = series["sub-02/ses-a/dwi/sub-02_ses-a_dwi.nii.gz"].bids
    assert described == BidsName("dwi", "dwi", {"sub": "02", "ses": "a"})
    why = reasons(source)
    assert len(why) == 14
    assert why["sub-02/ses-a/pet/sub-02_ses-a_pet.nii.gz"] == "not MR: pet"
    assert why["sub-02/anat/sub-02_ses-a_T1w.nii.gz"].startswith("not a BIDS image: name and")
    assert why["task-nback_bold.json"].startswith("not a BIDS image: its metadata")
    assert why["participants.tsv"] == "not a BIDS image"
    # a sidecar at the root changes the sessions that it describes
    before = {s.session: s.fingerprint for s in sessions}
    os.utime(source / "task-nback_bold.json", ns=(1, 1))
    after = {s.session: s.fingerprint for s in inventory.merge(entries_of(source), KEY)}
    described = {s.session for s in sessions for f in s.series if len(f.files) > 1}
    assert len(described) == 2
    assert all((after[s] != before[s]) == (s in described) for s in before)


def listed(source):
    """Status and reasons of the series of every image of a source, by path."""
    sessions = inventory.merge(entries_of(source), KEY)
    root = source.absolute()
    return {
        os.path.relpath(f, root): (s.status, list(s.reasons))
        for session in sessions
        for s in session.series
        for f in s.files
        if s.kind == "object" or bids.is_image(f)
    }


def put(root, *names, text="x"):
    for name in names:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(text)


@pytest.mark.parametrize("inside", [True, False])
@pytest.mark.parametrize("link", ["sub-02", "sub-02/ses-1", "sub-02/anat", "sub-02/ses-1/anat"])
def test_a_link_to_a_folder_is_listed_with_its_subject(tmp_path, link, inside):
    source = tmp_path / "source"
    target = (source / "sourcedata" if inside else tmp_path) / "pool"
    put(source, "dataset_description.json", "sub-01/anat/sub-01_T1w.nii.gz")
    put(target, "anat/sub-02_T1w.nii.gz")
    (source / link).parent.mkdir(parents=True, exist_ok=True)
    (source / link).symlink_to(target)
    status, (why,) = listed(source)[link]
    assert status == "fail"
    assert "points to a folder" in why
    people = {s.patient[0] for s in inventory.merge(entries_of(source), KEY)}
    assert people >= {"sub-01", "sub-02"}


@pytest.mark.parametrize("make", ["empty", "empty folders", "broken link"])
def test_a_subject_without_files_is_listed(tmp_path, make):
    put(tmp_path, "dataset_description.json", "sub-01/anat/sub-01_T1w.nii.gz")
    place = tmp_path / "sub-02"
    if make == "broken link":
        place.symlink_to("../unmounted/sub-02")
    else:
        (place if make == "empty" else place / "ses-1" / "anat").mkdir(parents=True)
    status, (why,) = listed(tmp_path)["sub-02"]
    assert status == "fail"
    assert why.startswith(("no files", "link not followed: its target does not exist"))


def test_a_file_name_in_another_encoding_does_not_stop_the_others(tmp_path):
    put(tmp_path, "dataset_description.json", "sub-01/anat/sub-01_T1w.nii.gz")
    name = os.fsdecode(b"sub-Zo\xeb/anat/sub-Zo\xeb_T1w.nii.gz")
    put(tmp_path, name)
    statuses = listed(tmp_path)
    assert sorted(status for status, _ in statuses.values()) == ["fail", "pass"]
    # names that differ only in such a byte have different labels
    assert KEY.label("x", "a\udceb") != KEY.label("x", "a\udcec") != KEY.label("x", "a\xec")


def test_a_dataset_inside_the_source_is_reported(tmp_path):
    put(tmp_path, "study/dataset_description.json", "study/sub-01/anat/sub-01_T1w.nii.gz")
    ((status, (why,)),) = listed(tmp_path).values()
    assert status == "fail"
    assert "run efface on the folder that holds the sub-LABEL folders" in why


@pytest.mark.parametrize("git", ["link", "file"])
def test_links_into_the_annex_of_a_submodule_are_followed(tmp_path, git):
    source = tmp_path / "study" / "rawdata"
    submodule = tmp_path / "study" / ".git" / "modules" / "sub-01"
    put(submodule, "annex/objects/k/k")
    put(tmp_path / "other", ".git/annex/objects/k/k")
    image = source / "sub-01" / "anat" / "sub-01_T1w.nii.gz"
    image.parent.mkdir(parents=True)
    mark = source / "sub-01" / ".git"
    if git == "link":
        mark.symlink_to("../../.git/modules/sub-01")
    else:
        mark.write_text("gitdir: ../../.git/modules/sub-01\n")
    image.symlink_to(os.path.relpath(submodule / "annex/objects/k/k", image.parent))
    name = "sub-01/anat/sub-01_T1w.nii.gz"
    assert listed(source)[name] == ("pass", [])
    # the annex of the subject's dataset is not that of another subject
    second = source / "sub-02" / "anat" / "sub-02_T1w.nii.gz"
    second.parent.mkdir(parents=True)
    for target in (submodule / "annex/objects/k/k", tmp_path / "other/.git/annex/objects/k/k"):
        second.unlink(missing_ok=True)
        second.symlink_to(target)
        status, (why,) = listed(source)["sub-02/anat/sub-02_T1w.nii.gz"]
        assert status == "fail"
        assert "out of the source" in why


@pytest.mark.parametrize(
    ("path", "reason"),
    [
        ("sub-Zoë/anat/sub-Zoë_T1w.nii.gz", "rename the file"),
        ("sub-04_a/anat/sub-04_a_T1w.nii.gz", "rename the file"),
        ("sub-o'brien/anat/sub-o'brien_T1w.nii", "rename the file"),
        ("sub-05/anat/sub-05_T1w_defaced.nii.gz", "rename the file"),
        ("sub-05/anat/sub-05_T1w (copy).nii.gz", "rename the file"),
        ("sub-05/anat/T1.nii.gz", "name and folders differ"),
        ("sub-05/anat/sub-05_T1w.hdr", "convert it to .nii.gz"),
        ("sub-05/anat/sub-06_T1w.nii.gz", "name and folders differ"),
        ("sub-05/sub-05_T1w.nii.gz", "name and folders differ"),
        ("sub-05/scans/sub-05_T1w.nii.gz", "not one of the datatypes"),
        ("sub-05/anat/sub-05_desc-brain_mask.nii.gz", "mask"),
        ("derivatives/p/sub-05/anat/sub-05_T1w.nii.gz", "outside the sub- folders"),
        ("sourcedata/p.nii.gz", "outside the sub- folders"),
        ("p.nii.gz", "outside the sub- folders"),
        ("sub-05/anat/sub-05_T1w.NII.GZ", "convert it to .nii.gz"),
        ("sub-05/anat/sub-05_T1w.mgz", "convert it to .nii.gz"),
        ("sub-05/anat/sub-05_T1w.nii.bz2", "convert it to .nii.gz"),
        ("sub-05/anat/sub-05_T1w.nii.gz.bak", "convert it to .nii.gz"),
        ("sub-05/anat/sub-05_T1w.nii.gz~", "convert it to .nii.gz"),
        ("sub-05/anat/sub-05_T1w+orig.HEAD", "convert it to .nii.gz"),
    ],
)
def test_every_image_of_a_bids_source_is_listed(tmp_path, path, reason):
    for name in ("sub-01/anat/sub-01_T1w.nii.gz", path):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text("x")
    images = listed(tmp_path)
    assert images["sub-01/anat/sub-01_T1w.nii.gz"] == ("pass", [])
    status, (why,) = images[path]
    assert status == "fail"
    assert reason in why
    # the audit shows the reason
    assert "Zoë" not in why
    assert "brien" not in why


def test_withheld_images_have_the_pseudonym_of_their_subject(tmp_path):
    for name in ("sub-01/anat/sub-01_T1w.nii.gz", "derivatives/a/sub-01/anat/x.nii.gz"):
        (tmp_path / name).parent.mkdir(parents=True)
        (tmp_path / name).write_text("x")
    (session,) = inventory.merge(entries_of(tmp_path), KEY)
    assert [s.status for s in session.series] == ["fail", "pass"]


def test_images_outside_a_bids_dataset_are_listed(tmp_path):
    for name in ("a.nii.gz", "b/c.NII", "b/d.hdr"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text("x")
    assert not bids.is_bids(tmp_path)
    images = listed(tmp_path)
    assert set(images) == {"a.nii.gz", "b/c.NII", "b/d.hdr"}
    assert all(s == "fail" and "not a BIDS dataset" in why for s, (why,) in images.values())


@pytest.mark.parametrize("folder", ["sub-01/anat", "sub-01/ses-1/func"])
def test_a_bids_dataset_without_description_is_recognized(tmp_path, folder):
    (tmp_path / folder).mkdir(parents=True)
    assert not bids.is_bids(tmp_path)
    (tmp_path / folder / "x.dcm").touch()
    assert not bids.is_bids(tmp_path)
    (tmp_path / folder / "x.nii.gz").touch()
    assert bids.is_bids(tmp_path)


@pytest.mark.parametrize("git", ["folder", "file"], ids=["repository", "submodule"])
@pytest.mark.parametrize("inside", [".", "study/rawdata"])
def test_links_into_the_annex_of_the_repository_are_followed(tmp_path, git, inside):
    repository = tmp_path / "repository"
    source = repository / inside
    image = source / "sub-01" / "anat" / "sub-01_T1w.nii.gz"
    image.parent.mkdir(parents=True)
    real = repository / ".git" if git == "folder" else tmp_path / "modules" / "m"
    content = real / "annex" / "objects" / "k" / "k"
    content.parent.mkdir(parents=True)
    content.write_text("x")
    if git == "file":
        (repository / ".git").write_text("gitdir: ../modules/m\n")
    image.symlink_to(os.path.relpath(content, image.parent))
    images = listed(source)
    assert images == {"sub-01/anat/sub-01_T1w.nii.gz": ("pass", [])}
    # no other file of the repository, and no other repository's annex
    wrong = [tmp_path / "other" / ".git" / "annex" / "objects" / "k"]
    if real.parent != source:
        wrong.append(real / "config")
    for target in wrong:
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_text("x")
        image.unlink()
        image.symlink_to(target)
        ((status, (why,)),) = listed(source).values()
        assert status == "fail"
        assert "out of the source" in why
    image.unlink()
    image.symlink_to("../../.git/annex/objects/gone")
    ((status, (why,)),) = listed(source).values()
    assert status == "fail"
    assert "datalad get" in why


def test_session_file_names_have_no_identifiers(tmp_path):
    write(tmp_path / "Quillfeather_Mara")
    (label,) = inventory.entries(tmp_path, KEY)
    (session,) = inventory.merge(entries_of(tmp_path), KEY)
    assert "uill" not in label + session.session


@pytest.mark.parametrize("site", ["SITE_A", "SITE_B", "SITE_C", "SITE_D"])
def test_real_exports(data, site):
    source = data / "dicom" / site
    entries = entries_of(source, "never")  # tesseract is not installed everywhere
    rows = inventory.files_table(entries, {})
    on_disk = sorted(str(p) for p in source.rglob("*") if p.is_file())
    assert sorted(r["path"] for r in rows) == on_disk
    sessions = inventory.merge(entries, KEY)
    if site != "SITE_D":
        assert all(s.status == "pass" for x in sessions for s in x.series)
        assert len({s.subject for s in sessions}) == 1
        return
    why = {Path(r["path"]).name: r["reason"] for r in rows}
    assert why["EMPTY"] == "empty file"
    assert why["TRUNCATED"].startswith("truncated")
    assert why["notes.txt"] == "not DICOM"
    count = {}
    for session in sessions:
        for s in session.series:
            count[s.kind] = count.get(s.kind, 0) + 1
            assert (s.kind == "object") <= (s.status == "fail")
    assert count["image"] >= 15


def packed_files(image: bytes):
    """Content and expected reason of archives and compressed files, by name."""
    archive, tar = io.BytesIO(), io.BytesIO()
    with zipfile.ZipFile(archive, "w") as z:
        z.writestr("IM1", image)
    with tarfile.open(fileobj=tar, mode="w") as t:
        info = tarfile.TarInfo("IM1")
        info.size = len(image)
        t.addfile(info, io.BytesIO(image))
    empty = io.BytesIO()
    zipfile.ZipFile(empty, "w").close()
    nifti = bytes(344) + b"n+1\0" + bytes(200)
    return {
        "a.zip": (archive.getvalue(), "not DICOM: a zip archive; unpack it first"),
        "empty": (empty.getvalue(), "not DICOM: a zip archive; unpack it first"),
        "a.tar": (tar.getvalue(), "not DICOM: a tar archive; unpack it first"),
        "v7": (
            _without_magic(tar.getvalue()),
            "not DICOM: a tar archive; unpack it first",
        ),
        "a.tgz": (
            gzip.compress(tar.getvalue()),
            "not DICOM: a tar archive compressed by gzip; unpack it first",
        ),
        "a.dcm.gz": (
            gzip.compress(image),
            "not DICOM: DICOM compressed by gzip; uncompress it first",
        ),
        "a.dcm.bz2": (
            bz2.compress(image),
            "not DICOM: a file compressed by bzip2; uncompress it first",
        ),
        "a.dcm.xz": (
            lzma.compress(image),
            "not DICOM: a file compressed by xz; uncompress it first",
        ),
        "a.nii": (nifti, "not DICOM: NIfTI is read only from a BIDS dataset, or by efface deface"),
        "a.nii.gz": (
            gzip.compress(nifti),
            "not DICOM: NIfTI is read only from a BIDS dataset, or by efface deface",
        ),
        "cut.gz": (
            gzip.compress(b"x" * 90)[:12],
            "not DICOM: a file compressed by gzip; uncompress it first",
        ),
        "a.txt": (b"PK is how this text starts" * 30, "not DICOM"),
        "zeros": (bytes(2000), "not DICOM"),
    }


def _without_magic(tar: bytes) -> bytes:
    """The first header as tar wrote it before there was a magic number."""
    head = bytearray(tar[:512])
    head[257:265] = bytes(8)
    head[148:156] = b" " * 8
    head[148:156] = b"%06o\0 " % sum(head)
    return bytes(head) + tar[512:]


@pytest.mark.parametrize("named", [str, lambda name: "IM0001.dcm"], ids=["as is", "as DICOM"])
@pytest.mark.parametrize("name", list(packed_files(bytes(200))))
def test_the_reason_for_a_packed_file_depends_on_its_content(tmp_path, name, named):
    (path,) = write(tmp_path / "b", slices=1)
    content, reason = packed_files(path.read_bytes())[name]
    (tmp_path / "a").mkdir()
    (tmp_path / "a" / named(name)).write_bytes(content)
    relative = f"a/{named(name)}"
    image = bids.is_image(relative)
    assert reasons(tmp_path)[relative] == (bids.OUTSIDE if image else reason)
    # an image has a row in the audit, whatever it is called
    assert (relative in listed(tmp_path)) == (".nii" in name)


def test_dicom_that_begins_like_an_archive_is_dicom(tmp_path):
    (path,) = write(tmp_path / "a", slices=1)
    for start in (b"PK\3\4", b"\x1f\x8b", b"II*\0"):
        path.write_bytes(start + path.read_bytes()[len(start) :])
        assert series_of(tmp_path)[0].status == "pass"


def test_archives_in_the_source_are_reported(tmp_path):
    with zipfile.ZipFile(tmp_path / "a.zip", "w") as z:
        z.writestr("IM1", b"x")
    with pytest.raises(EffaceError, match="unpack an archive first"):
        inventory.entries(tmp_path / "a.zip", KEY)


def slices(folder, count, **changes):
    """Write series of one image each, at different positions."""
    for n in range(1, count + 1):
        write(
            folder / str(n),
            slices=1,
            **{
                "SeriesInstanceUID": f"1.2.3.4.{n}",
                "ImagePositionPatient": [-12, -9, 2 * n],
                **{k: v(n) if callable(v) else v for k, v in changes.items()},
            },
        )


@pytest.mark.parametrize("count", [3, 12])
@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"SeriesNumber": lambda n: n, "FrameOfReferenceUID": lambda n: f"1.2.9.{n}"},
        {"SeriesNumber": None, "SeriesDescription": None, "EchoTime": None},
        {"ImageOrientationPatient": [0, 1, 0, 0, 0, -1]},
    ],
    ids=["same number", "own number and frame", "few elements", "sagittal"],
)
def test_a_series_for_every_slice_fails_with_a_reason(tmp_path, count, changes):
    slices(tmp_path / "a", count, **changes)
    series = series_of(tmp_path)
    assert len(series) == count
    reason = (
        f"{status.SERIES_SPLIT}: {count} similar slices have different series UIDs;"
        " give them one series UID"
    )
    assert {(s.status, *s.reasons) for s in series} == {("fail", reason)}


@pytest.mark.parametrize(
    "changes",
    [
        {"ImagePositionPatient": [0, 0, 0]},
        {"ImageOrientationPatient": lambda n: [[1, 0, 0, 0, 1, 0], [0, 1, 0, 0, 0, -1]][n % 2]},
        {"EchoTime": lambda n: n},
        {"SeriesDescription": lambda n: f"scan {n}"},
        {"ImageType": ["ORIGINAL", "PRIMARY", "M", "MOSAIC"]},
        {"StudyInstanceUID": lambda n: f"1.2.3.{n}"},
    ],
    ids=["same position", "two orientations", "echoes", "other scans", "mosaics", "other studies"],
)
def test_single_images_that_are_not_slices_of_one_scan_pass(tmp_path, changes):
    slices(tmp_path / "a", 4, **changes)
    assert {s.status for s in series_of(tmp_path)} == {"pass"}


def test_a_whole_scan_beside_single_slices_passes(tmp_path):
    write(tmp_path / "a" / "whole", SeriesInstanceUID="1.2.3.9")
    slices(tmp_path / "a", 3)
    assert sorted(s.status for s in series_of(tmp_path)) == ["fail"] * 3 + ["pass"]
