"""Release: which scans are released, with which files, and that the bytes are reproducible."""

import json
import stat as modes
from dataclasses import replace

import pytest
from small_session import SERIES, SESSION, STEM
from test_audit import ABOUT, raw, run_audit

from efface import audit, release, status
from efface.audit.identifiers import to_json
from efface.errors import EffaceError
from efface.manifest import Manifest, Scan, read_manifest, write_manifest
from efface.release import bids
from efface.release.finish import finish
from efface.verify import verify

SUB, SES = SESSION.split("_")


def scan(name=STEM, status="pass", form="nifti", own="pass", files=None, series=SERIES):
    place = {"nifti": f"bids/{SUB}/{SES}/anat/{name}.nii.gz"}
    if form == "dicom":
        place = {"dicom": f"dicom/{SUB}/{SES}/{series}"}
    return Scan(
        name,
        series,
        "T1w",
        status,
        ("part of the face not found: nose",) if status != "pass" else (),
        place if files is None else files,
        {"form": form, "own_status": own, "datatype": "anat"},
    )


def released(scans, reviews=None, digests=None):
    manifest = Manifest("audit", SESSION, tuple(scans), digests or {})
    return {d.scan.scan: d.released for d in release.decide(manifest, reviews or {})}


def accepts(*names, sha256="", verdict=True):
    return {
        (SESSION, n): release.Judgement(verdict, "R. Viewer", "looks fine", sha256) for n in names
    }


def test_only_scans_that_passed_are_released():
    names = {
        "pass": f"{SESSION}_run-1_T1w",
        "review": f"{SESSION}_run-2_T1w",
        "fail": f"{SESSION}_run-3_T1w",
    }
    out = released([scan(n, s, series=f"series-{s}") for s, n in names.items()])
    assert out == {names["pass"]: True, names["review"]: False, names["fail"]: False}


def test_an_accepted_scan_is_released_and_a_failed_one_never():
    assert released([scan(status="review")], accepts(STEM))[STEM]
    assert not released([scan(status="fail")], accepts(STEM))[STEM]
    assert not released([scan()], accepts(STEM, verdict=False))[STEM]


def test_an_accept_is_valid_for_one_image_only():
    one = scan(status="review")
    digests = {one.files["nifti"]: "abc"}
    assert released([one], accepts(STEM, sha256="abc"), digests)[STEM]
    assert not released([one], accepts(STEM, sha256="other"), digests)[STEM]


def test_a_dicom_series_is_released_with_its_images():
    form = scan(SERIES, "review", "dicom")
    image = scan(status="review")
    assert not released([image, form])[SERIES]
    assert released([image, form], accepts(STEM))[SERIES]
    other = scan(f"{SESSION}_run-2_T1w", "review")
    assert not released([image, other, form], accepts(STEM))[SERIES]
    assert not released(
        [image, replace(form, measures={**form.measures, "own_status": "review"})], accepts(STEM)
    )[SERIES]
    assert not released([image, replace(form, status="fail")], accepts(STEM))[SERIES]
    rejected = accepts(STEM, verdict=False)
    assert not released([scan(), scan(SERIES, "pass", "dicom")], rejected)[SERIES]


def test_a_scan_without_a_place_in_bids_is_released_only_as_dicom():
    image = scan(files={"nifti": f"rest/{SUB}/{SES}/none/{STEM}.nii.gz"})
    out = released([image, scan(SERIES, "pass", "dicom")])
    assert out == {STEM: False, SERIES: True}


@pytest.mark.parametrize(
    "text",
    [
        "session\tscan\n",
        "session,scan,reviewer,reason\n",
        f"session\tscan\treviewer\treason\n{SESSION}\t{STEM}\t\tfine\n",
        f"session\tscan\treviewer\treason\n{SESSION}\t{STEM}\tA\t\n",
        f"session\tscan\treviewer\treason\tverdict\n{SESSION}\t{STEM}\tA\tok\tmaybe\n",
        f"session\tscan\treviewer\treason\tverdict\n{SESSION}\t{STEM}\tA\tok\taccept\n"
        f"{SESSION}\t{STEM}\tB\tno\treject\n",
        # with the quote, the reject would be a part of the reason of the accept
        f'session\tscan\treviewer\treason\tverdict\n{SESSION}\t{STEM}\tA\t"ok\taccept\n'
        f"{SESSION}\t{STEM}\tB\tno\treject\n",
        f"session\tscan\treviewer\treason\treason\n{SESSION}\t{STEM}\tA\tok\tok\n",
        f"session\tscan\treviewer\treason\n{SESSION}\t{STEM}\tA\tok\treject\n",
        f"session\tscan\treviewer\treason\n{SESSION}\t{STEM}\tA\n",
    ],
)
def test_a_malformed_table_of_accepted_scans_is_rejected(tmp_path, text):
    path = tmp_path / "accept.tsv"
    path.write_text(text)
    with pytest.raises(EffaceError, match=r"accept\.tsv"):
        release.judgements(path)


def test_the_table_of_accepted_scans_is_read(tmp_path):
    path = tmp_path / "accept.tsv"
    path.write_text(f"session\tscan\treviewer\treason\n{SESSION}\t{STEM}\tR. Viewer\tchin cut\n\n")
    reviews = release.judgements(path)
    assert reviews == {(SESSION, STEM): release.Judgement(True, "R. Viewer", "chin cut")}
    assert release.judgements(None) == {}
    with pytest.raises(EffaceError):
        release.judgements(tmp_path / "none.tsv")


@pytest.fixture
def out(tmp_path):
    """A session through the audit, in the folders of a run."""
    source = tmp_path / "source" / "QUILLFEATHER_MARA" / "IM1"
    source.parent.mkdir(parents=True)
    source.write_bytes(raw())
    restricted = tmp_path / "out" / "restricted"
    restricted.mkdir(parents=True)
    scans, folder = run_audit(restricted, sources=[source])
    write_manifest(
        restricted / "audit" / f"{SESSION}.json",
        Manifest("audit", SESSION, tuple(scans.values())),
        folder,
    )
    return tmp_path / "out"


def audits(out):
    return read_manifest(out / "restricted" / "audit" / f"{SESSION}.json")


def make_release(out, reviews=None):
    manifest = audits(out)
    for form in release.FORMS:
        if form in release.gate_row(manifest, reviews or {}).forms:
            target = out / "release" / form / SUB / SES
            folder = out / "restricted" / "audit" / SESSION
            release.copy(folder, manifest, reviews or {}, form, target)
    finish(out, [manifest], reviews or {}, ABOUT, [], out)


def content(folder):
    return {str(p.relative_to(folder)): p.read_bytes() for p in folder.rglob("*") if p.is_file()}


def test_a_release_verifies_and_is_reproducible(out):
    make_release(out)
    first = content(out / "release") | content(out / "audit")
    assert f"bids/{SUB}/{SES}/anat/{STEM}.nii.gz" in first
    assert f"dicom/{SUB}/{SES}/{SERIES}/000001.dcm" in first
    report = verify(out / "release", ["Quillfeather", "Mara"])
    assert report.problems == ()
    make_release(out)
    assert content(out / "release") | content(out / "audit") == first


def test_all_released_files_have_one_time(out):
    make_release(out)
    for name in content(out / "release"):
        if name != release.MANIFEST:
            assert (out / "release" / name).stat().st_mtime == release.MTIME


def test_pictures_from_before_distorting_are_not_released(out):
    make_release(out)
    names = content(out / "audit").keys() | content(out / "release").keys()
    assert any("after_front" in n for n in names)
    assert not any("before" in n for n in names)


def test_files_that_no_manifest_lists_are_deleted(out):
    make_release(out)
    stray = out / "release" / "bids" / "sub-zzzzzzzzzz" / "ses-y" / "anat" / "x.nii.gz"
    stray.parent.mkdir(parents=True)
    stray.write_bytes(b"")
    (out / "release" / "dicom" / SUB / SES / ".snakemake_timestamp").touch()
    (out / "audit" / "pictures" / "old.png").write_bytes(b"")
    make_release(out)
    assert not stray.parent.parent.parent.exists()
    assert not list(out.rglob("*timestamp*"))
    assert not (out / "audit" / "pictures" / "old.png").exists()


def test_a_file_changed_after_the_audit_is_not_released(out):
    manifest = audits(out)
    folder = out / "restricted" / "audit" / SESSION
    name = next(n for n in manifest.sha256 if n.endswith(".dcm"))
    path = folder / name
    data = path.read_bytes()
    path.unlink()
    path.write_bytes(data + b"x")
    with pytest.raises(EffaceError, match="not the file that the audit searched"):
        release.copy(folder, manifest, {}, "dicom", out / "release" / "dicom" / SUB / SES)
    assert not (out / "release" / "dicom" / SUB / SES).exists()


def test_a_missing_file_stops_the_release(out):
    make_release(out)
    (out / "release" / "bids" / SUB / SES / "anat" / f"{STEM}.nii.gz").unlink()
    with pytest.raises(EffaceError, match="missing from the release"):
        finish(out, [audits(out)], {}, ABOUT, [], out)


def test_a_report_with_an_identifier_is_not_written(out):
    manifest = audits(out)
    bad = replace(manifest.scans[0], reasons=("low confidence: quillfeather",), status="review")
    edited = replace(manifest, scans=(bad, *manifest.scans[1:]))
    blocked = replace(ABOUT, code="quillfeather")
    with pytest.raises(
        EffaceError, match=r"contains an identifier.*audit/index.html: patient name"
    ) as error:
        finish(out, [edited], {}, blocked, [], out)
    assert "uillfeather" not in str(error.value).lower()
    assert not (out / "audit").exists()
    assert not (out / "release").exists()


def make_release_of(out, manifest, reviews=None, about=ABOUT):
    """Release another manifest; returns the report."""
    folder = out / "restricted" / "audit" / SESSION
    for form in release.FORMS:
        target = out / "release" / form / SUB / SES
        release.copy(folder, manifest, reviews or {}, form, target)
    finish(out, [manifest], reviews or {}, about, [], out)
    texts = {k: v for k, v in content(out).items() if k.startswith(("audit/", "release/"))}
    assert not any(b"quillfeather" in v.lower() for v in texts.values())
    assert not any("quillfeather" in k.lower() for k in texts)
    return json.loads((out / "audit" / "audit.json").read_text())


def changed(manifest, **changes):
    """The manifest with the NIfTI scan changed."""
    scans = tuple(replace(s, **changes) if s.scan == STEM else s for s in manifest.scans)
    return replace(manifest, scans=scans)


def test_texts_with_identifiers_are_left_out_of_the_report_and_listed(out):
    manifest = audits(out)
    one = next(s for s in manifest.scans if s.scan == STEM)
    edited = changed(
        manifest,
        status="review",
        reasons=("low confidence: like Quillfeather", "low confidence: chin"),
        measures={**one.measures, "method": "Quillfeather", "brain_ml": 1400},
    )
    reviews = {(SESSION, STEM): release.Judgement(True, "R. Viewer", "is Mara Quillfeather")}
    about = replace(ABOUT, settings={"method": "noise", "device": "quillfeather"})
    data = make_release_of(out, edited, reviews, about)
    row = next(s for s in data["scans"] if s["scan"] == STEM)
    assert row["reasons"] == ["low confidence: left out: patient name", "low confidence: chin"]
    assert row["note"] == "accepted (left out: patient name)"
    assert row["brain_ml"] == 1400
    assert "method" not in row
    assert row["released"] == "yes"
    assert data["settings"] == {"method": "noise"}
    assert {(i["scan"], i["field"], i["kind"]) for i in data["left_out"]} == {
        (STEM, "reasons", "patient name"),
        (STEM, "note", "patient name"),
        (STEM, "method", "patient name"),
        ("", "settings", "patient name"),
    }
    assert "Left out of this report" in (out / "audit" / "index.html").read_text()
    assert verify(out / "release", ["Quillfeather"]).problems == ()


def test_a_scan_with_an_identifier_in_its_name_is_withheld(out):
    manifest = audits(out)
    edited = changed(manifest, scan=f"{SESSION}_acq-Quillfeather_T1w")
    data = make_release_of(out, edited)
    by_name = {(s["scan"], s["form"]): s for s in data["scans"]}
    assert by_name[SERIES, "dicom"]["released"] == "yes"
    assert by_name[SERIES, "source"]["released"] == "no"
    assert by_name[SERIES, "source"]["reasons"] == [
        "identifier found: patient name in the name of the scan"
    ]
    assert not list((out / "release" / "bids").rglob("*.nii.gz"))
    assert list((out / "release" / "dicom").rglob("*.dcm"))
    assert verify(out / "release", ["Quillfeather"]).problems == ()


def test_nothing_is_left_out_of_a_clean_report(out):
    make_release(out)
    data = json.loads((out / "audit" / "audit.json").read_text())
    assert data["left_out"] == []
    assert "Left out" not in (out / "audit" / "index.html").read_text()


# --- tables of the BIDS dataset


def tables_of(out):
    bids = out / "release" / "bids"
    scans = (bids / SUB / SES / f"{SESSION}_scans.tsv").read_text().splitlines()
    people = (bids / "participants.tsv").read_text().splitlines()
    return scans, people


def test_tables_without_an_option_have_only_names(out):
    make_release(out)
    scans, people = tables_of(out)
    assert scans == ["filename", f"anat/{STEM}.nii.gz"]
    assert people == ["participant_id", SUB]
    assert not (out / "release" / "bids" / "scans.json").exists()
    described = json.loads((out / "release" / "bids" / "participants.json").read_text())
    assert list(described) == ["participant_id"]


def test_tables_with_age_sex_and_times(out, bids_errors):
    manifest = audits(out)
    one = next(s for s in manifest.scans if s.scan == STEM)
    added = {"person": {"age": "89", "sex": "F"}, "acq_time": "1816-03-07T10:11:12"}
    edited = changed(manifest, measures={**one.measures, **added})
    make_release_of(out, edited)
    scans, people = tables_of(out)
    assert scans == ["filename\tacq_time", f"anat/{STEM}.nii.gz\t1816-03-07T10:11:12"]
    assert people == ["participant_id\tage\tsex", f"{SUB}\t89\tF"]
    for name, columns in (("participants", people[0]), ("scans", scans[0])):
        meaning = json.loads((out / "release" / "bids" / f"{name}.json").read_text())
        assert list(meaning) == columns.split("\t")
    assert bids_errors(out / "release" / "bids") == []
    assert verify(out / "release").problems == ()


def test_a_person_with_several_sessions_has_one_row():
    def manifest_of(visit, age, sex):
        files = {"nifti": f"bids/{SUB}/{visit}/anat/{SUB}_{visit}_T1w.nii.gz"}
        one = replace(
            scan(f"{SUB}_{visit}_T1w", files=files),
            measures={"form": "nifti", "person": {"age": age, "sex": sex}},
        )
        return Manifest("audit", f"{SUB}_{visit}", (one,), {files["nifti"]: "aa"})

    tables = release.cohort_tables(
        [manifest_of("ses-c", "41", "F"), manifest_of("ses-b", "39", "F")], {}
    )
    assert tables["bids/participants.tsv"].decode() == (f"participant_id\tage\tsex\n{SUB}\t39\tF\n")
    tables = release.cohort_tables(
        [manifest_of("ses-c", "89", "F"), manifest_of("ses-b", "88", "M")], {}
    )
    assert tables["bids/participants.tsv"].decode() == f"participant_id\tage\n{SUB}\t88\n"
    tables = release.cohort_tables(
        [manifest_of("ses-c", "9", "F"), manifest_of("ses-b", "10", "F")], {}
    )
    assert tables["bids/participants.tsv"].decode() == f"participant_id\tage\tsex\n{SUB}\t9\tF\n"
    assert release.cohort_tables([], {}) == {}


def test_the_reviewer_is_in_the_audit(out):
    manifest = audits(out)
    one = next(s for s in manifest.scans if s.scan == STEM)
    pending = replace(one, status="review", reasons=("part of the face not found: nose",))
    edited = replace(
        manifest, scans=tuple(pending if s.scan == STEM else s for s in manifest.scans)
    )
    reviews = accepts(STEM)
    for form in release.FORMS:
        folder = out / "restricted" / "audit" / SESSION
        release.copy(folder, edited, reviews, form, out / "release" / form / SUB / SES)
    finish(out, [edited], reviews, ABOUT, [], out)
    data = json.loads((out / "audit" / "audit.json").read_text())
    row = next(s for s in data["scans"] if s["scan"] == STEM)
    assert row["note"] == "accepted by R. Viewer: looks fine"
    assert row["status"] == "review"
    assert row["released"] == "yes"
    assert data["summary"]["accepted"] == 1


@pytest.mark.parametrize(
    ("one", "reviews", "code"),
    [
        (scan(), accepts(STEM, verdict=False), "REJECTED"),
        (scan(files={"nifti": f"rest/{STEM}.nii.gz"}), {}, "NO_PLACE_IN_BIDS"),
        (scan(status="review"), accepts(STEM, sha256="other"), "IMAGE_CHANGED"),
        (replace(scan(), modality="m0scan"), {}, "NO_ASL_SERIES"),
        (scan(SERIES, form="dicom", files={}), {}, "NO_FILES"),
    ],
)
def test_reasons_of_the_release_have_a_code(tmp_path, one, reviews, code):
    (decision,) = release.decide(Manifest("audit", SESSION, (one,)), reviews)
    assert not decision.released
    assert decision.note
    manifest = Manifest("audit", SESSION, (one,))
    identifiers = tmp_path / "restricted" / "audit" / SESSION / audit.IDENTIFIERS
    identifiers.parent.mkdir(parents=True)
    identifiers.write_text(to_json(set()))
    finish(tmp_path, [manifest], reviews, ABOUT, [], tmp_path)
    data = json.loads((tmp_path / "audit" / "audit.json").read_text())
    assert data["scans"][0]["codes"][-1] == code
    assert data["codes"][code] == 1
    # counted by kind, not by the name of the reviewer
    assert status.ALL[code] in data["reasons"]


def test_the_gate_table_is_read_as_written(tmp_path):
    manifest = Manifest("audit", SESSION, (scan(),), {scan().files["nifti"]: "aa"})
    row = release.gate_row(manifest, {})
    path = tmp_path / "gate.tsv"
    path.write_text(release.gate_table([row]))
    assert release.table_of(path, "bids") == {SESSION: row.fingerprint}
    assert release.table_of(path, "dicom") == {}
    other = tmp_path / "other.tsv"
    other.write_text(path.read_text().replace("yes", "maybe"))
    with pytest.raises(EffaceError, match="malformed"):
        release.table_of(other, "bids")
    changed = replace(manifest, sha256={scan().files["nifti"]: "bb"})
    assert release.gate_row(changed, {}).fingerprint != row.fingerprint


def test_bids_is_valid(out, bids_errors):
    make_release(out)
    assert bids_errors(out / "release" / "bids") == []


def test_an_empty_release_is_valid_and_verifies(tmp_path, bids_errors):
    finish(tmp_path, [], {}, ABOUT, [], tmp_path)
    assert verify(tmp_path / "release").problems == ()
    assert bids_errors(tmp_path / "release" / "bids") == []
    assert (tmp_path / "audit" / "index.html").is_file()


def test_every_source_file_is_listed_once(out, tmp_path, monkeypatch):
    from efface import inventory
    from efface.inventory import sessions
    from efface.pseudonym import new_key

    source = tmp_path / "source"
    (source / "notes.txt").write_text("no image")
    key = new_key(tmp_path / "key")
    entries = [inventory.run_entry(source, n, key) for n in inventory.entries(source, key).values()]
    make_release(out)
    calls = []
    check = inventory.cross_check
    monkeypatch.setattr(sessions, "cross_check", None)
    monkeypatch.setattr(inventory, "cross_check", lambda all_: calls.append(1) or check(all_))
    finish(out, [audits(out)], {}, ABOUT, entries, source)
    assert calls == [1]  # it takes seconds for thousands of sessions
    lines = (out / "restricted" / "files.tsv").read_text().splitlines()[1:]
    paths = [line.split("\t")[0] for line in lines]
    assert sorted(paths) == ["QUILLFEATHER_MARA/IM1", "notes.txt"]
    assert modes.S_ISREG((out / "restricted" / "files.tsv").stat().st_mode)


def test_the_description_names_code_and_container(monkeypatch):
    from email.message import Message

    metadata = Message()
    metadata["Project-URL"] = "Source, https://example.org/efface"
    monkeypatch.setattr(bids, "metadata", lambda name: metadata)
    monkeypatch.setenv("APPTAINER_CONTAINER", "/home/quillfeather/efface.sif")
    files = release.cohort_files([], {})
    described = json.loads(files["bids/dataset_description.json"])
    assert described["BIDSVersion"] == "1.11.1"
    (program,) = described["GeneratedBy"]
    assert program["CodeURL"] == "https://example.org/efface"
    assert program["Container"] == {"Type": "apptainer", "Tag": f"efface:{program['Version']}"}
    assert b"quillfeather" not in b"".join(files.values())
    metadata.replace_header("Project-URL", "Homepage, https://example.org")
    monkeypatch.delenv("APPTAINER_CONTAINER")
    monkeypatch.delenv("SINGULARITY_CONTAINER", raising=False)
    described = json.loads(release.cohort_files([], {})["bids/dataset_description.json"])
    assert set(described["GeneratedBy"][0]) == {"Name", "Version"}
