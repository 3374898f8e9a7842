"""Field maps, ASL and events of a BIDS source keep their references and tables."""

import hashlib
import json
from dataclasses import replace

import nibabel as nib
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from small_session import SERIES, SESSION
from test_convert import KEY, sessions_of

from efface import audit, convert, release
from efface.audit import leaks
from efface.audit.matcher import Matcher
from efface.convert import companions, references, sidecar
from efface.manifest import Manifest, Scan, read_manifest, write_manifest

SUB, SES = SESSION.split("_")


def write(root, name, content):
    path = root / name
    path.parent.mkdir(parents=True, exist_ok=True)
    if name.endswith(".nii.gz"):
        nib.save(nib.Nifti1Image(np.ones(content, np.int16), np.eye(4)), path)
    elif isinstance(content, str):
        path.write_text(content)
    else:
        path.write_text(json.dumps(content))


ASL = {
    "MagneticFieldStrength": 3,
    "MRAcquisitionType": "3D",
    "EchoTime": 0.01,
    "TotalAcquiredPairs": 1,
    "ArterialSpinLabelingType": "PCASL",
    "PostLabelingDelay": 1.8,
    "LabelingDuration": 1.8,
    "BackgroundSuppression": False,
    "M0Type": "Separate",
    "RepetitionTimePreparation": 2.5,
}


def source(root, intended, b0="pepolar of Mara"):
    """One visit of Mara with a field map, a task and an ASL series."""
    place = "sub-mara/ses-1"
    name = "sub-mara_ses-1"
    write(root, "dataset_description.json", {"Name": "x", "BIDSVersion": "1.9.0"})
    write(root, f"{place}/fmap/{name}_dir-AP_epi.nii.gz", (4, 4, 4))
    write(
        root,
        f"{place}/fmap/{name}_dir-AP_epi.json",
        {
            "PhaseEncodingDirection": "j",
            "TotalReadoutTime": 0.05,
            "IntendedFor": intended,
            "B0FieldIdentifier": b0,
        },
    )
    for echo in (1, 2):
        write(root, f"{place}/func/{name}_task-rest_echo-{echo}_bold.nii.gz", (4, 4, 4, 3))
    write(
        root,
        "task-rest_bold.json",
        {"RepetitionTime": 2, "EchoTime": 0.03, "TaskName": "rest", "B0FieldSource": [b0, "gone"]},
    )
    write(
        root,
        f"{place}/func/{name}_task-rest_events.tsv",
        "onset\tduration\ttrial_type\tcomment\n0.5\t1\tgo\tMara pressed late\n2\tn/a\t19710423\t\n",
    )
    write(root, f"{place}/perf/{name}_asl.nii.gz", (4, 4, 4, 2))
    write(root, f"{place}/perf/{name}_asl.json", ASL)
    write(root, f"{place}/perf/{name}_aslcontext.tsv", "volume_type\ncontrol\nlabel\n")
    write(root, f"{place}/perf/{name}_m0scan.nii.gz", (4, 4, 4))
    write(
        root,
        f"{place}/perf/{name}_m0scan.json",
        {
            "RepetitionTimePreparation": 6,
            "EchoTime": 0.01,
            "IntendedFor": f"bids::{place}/perf/{name}_asl.nii.gz",
        },
    )
    return root


FUNC = "ses-1/func/sub-mara_ses-1_task-rest_echo-1_bold.nii.gz"


@pytest.mark.parametrize(
    ("intended", "dropped"),
    [
        (FUNC, 0),
        ([FUNC], 0),
        ([f"bids::sub-mara/{FUNC}"], 0),
        (f"./{FUNC}", 0),
        (f"sub-mara/{FUNC}", 0),
        ([f"bids::./sub-mara//{FUNC}", ""], 0),
        ([f"ses-1/../{FUNC}", "../sub-02/func/sub-02_task-rest_bold.nii.gz"], 1),
        ([FUNC, "ses-1/func/sub-mara_ses-1_task-gone_bold.nii.gz"], 1),
        ([FUNC, f"bids:other:sub-mara/{FUNC}", "/home/mara/x.nii.gz", 7], 2),
    ],
)
def test_references_to_files_get_their_new_names(tmp_path, intended, dropped):
    (session,) = sessions_of(source(tmp_path / "in", intended))
    scans = convert.run(session, tmp_path / "out", KEY)
    assert {s.status for s in scans} == {"pass"}
    by = {s.scan.removeprefix(session.session + "_"): s for s in scans}

    def read(scan):
        return json.loads((tmp_path / "out" / by[scan].files["sidecar"]).read_text())

    base = session.session.replace("_", "/")
    epi = read("dir-AP_epi")
    bold = f"{session.session}_task-rest_echo-1_bold"
    assert epi["IntendedFor"] == [f"bids::{base}/func/{bold}.nii.gz"]
    assert epi["B0FieldIdentifier"] == "fieldmap1"
    assert by["dir-AP_epi"].measures.get("references_dropped", 0) == dropped
    assert read("task-rest_echo-1_bold")["B0FieldSource"] == "fieldmap1"
    assert by["task-rest_echo-1_bold"].measures["references_dropped"] == 1
    asl = f"{session.session}_asl"
    assert read("m0scan")["IntendedFor"] == [f"bids::{base}/perf/{asl}.nii.gz"]
    everything = b"".join(
        p.name.encode() + p.read_bytes() for p in (tmp_path / "out").iterdir() if p.suffix != ".gz"
    ).lower()
    assert b"mara" not in everything
    assert b"pepolar" not in everything


def test_tables_keep_allowed_columns_and_values(tmp_path):
    (session,) = sessions_of(source(tmp_path / "in", FUNC))
    scans = convert.run(session, tmp_path / "out", KEY)
    events = [s.files["events"] for s in scans if "events" in s.files]
    # both echoes share one table, whose name has no echo
    assert events == [f"{session.session}_task-rest_events.tsv"]
    text = (tmp_path / "out" / events[0]).read_text()
    assert text == "onset\tduration\ttrial_type\n0.5\t1\tgo\n2\tn/a\tn/a\n"
    (context,) = [s.files["aslcontext"] for s in scans if "aslcontext" in s.files]
    assert (tmp_path / "out" / context).read_text() == "volume_type\ncontrol\nlabel\n"


@pytest.mark.parametrize(
    "context", ["volume_type\ncontrol\n", "volume_type\ncontrol\nof Mara\n", "control\nlabel\n", ""]
)
def test_asl_without_a_usable_context_goes_to_review(tmp_path, context):
    root = source(tmp_path / "in", FUNC)
    write(root, "sub-mara/ses-1/perf/sub-mara_ses-1_aslcontext.tsv", context)
    (session,) = sessions_of(root)
    scans = {s.modality: s for s in convert.run(session, tmp_path / "out", KEY)}
    assert scans["asl"].status == "review"
    assert "context" in " ".join(scans["asl"].reasons)


@pytest.mark.parametrize(
    ("change", "missing"),
    [
        ({"LabelingDuration": None}, "LabelingDuration"),
        ({"ArterialSpinLabelingType": "PASL"}, "BolusCutOffFlag"),
        ({"M0Type": "Estimate"}, "M0Estimate"),
        ({"PostLabelingDelay": None}, "PostLabelingDelay"),
    ],
)
def test_asl_without_a_required_key_goes_to_review(tmp_path, change, missing):
    root = source(tmp_path / "in", FUNC)
    raw = {k: v for k, v in {**ASL, **change}.items() if v is not None}
    write(root, "sub-mara/ses-1/perf/sub-mara_ses-1_asl.json", raw)
    (session,) = sessions_of(root)
    scans = {s.modality: s for s in convert.run(session, tmp_path / "out", KEY)}
    assert f"asl without {missing}" in scans["asl"].reasons[0]


CELLS = st.text(st.characters(blacklist_characters="\t\r\n", codec="utf-8"), max_size=12)


@given(st.lists(st.tuples(*[CELLS | st.sampled_from(["1.5", "go", "n/a"])] * 4), max_size=5))
def test_a_cleaned_table_has_no_findings(rows):
    lines = [("onset", "duration", "trial_type", "name"), *rows]
    text = "".join("\t".join(line) + "\n" for line in lines)
    cleaned = companions.cleaned("events", text)
    assert companions.cleaned("events", cleaned) == cleaned
    path = f"bids/{SUB}/{SES}/func/{SESSION}_task-rest_events.tsv"
    matcher = Matcher(())
    if cleaned:
        assert cleaned.splitlines()[0] == "onset\tduration\ttrial_type"
        assert len(cleaned.splitlines()) == len(rows) + 1
        assert leaks.scan(path, cleaned.encode(), matcher) == []
    if rows:
        assert leaks.scan(path, text.encode(), matcher) != []


@pytest.mark.parametrize(
    "value",
    [
        "func/sub-mara_bold.nii.gz",
        ["bids::sub-mara/func/sub-mara_bold.nii.gz"],
        f"bids::{SUB}/{SES}/func/{SUB}_ses-ccccccccca_bold.nii.gz",
        "",
        [],
        7,
    ],
)
def test_a_sidecar_keeps_only_references_to_names_of_a_release(value):
    assert "IntendedFor" not in sidecar.allowed({"IntendedFor": value})
    good = f"bids::{SUB}/{SES}/func/{SESSION}_task-rest_bold.nii.gz"
    assert sidecar.allowed({"IntendedFor": [good]}) == {"IntendedFor": [good]}
    assert sidecar.allowed({"B0FieldSource": "of Mara"}) == {}


@pytest.mark.parametrize("layout", ["raw", "derivative"])
def test_the_release_is_valid_bids(tmp_path, layout, bids_errors):
    root = source(tmp_path / "in", [FUNC])
    place = "sub-mara/ses-1/anat/sub-mara_ses-1_T1w"
    write(root, f"{place}.nii.gz", (4, 4, 4))
    place = "sub-mara/ses-1/dwi/sub-mara_ses-1_dwi"
    write(root, f"{place}.nii.gz", (4, 4, 4, 2))
    write(root, f"{place}.bval", "0 1000\n")
    write(root, f"{place}.bvec", "0 1\n0 0\n0 0\n")
    (session,) = sessions_of(root)
    folder = tmp_path / "convert"
    write_manifest(
        tmp_path / "convert.json",
        Manifest("convert", session.session, convert.run(session, folder, KEY)),
        folder,
    )
    converted = read_manifest(tmp_path / "convert.json")
    # the results of the stages between, as if every image had passed
    distorted = tuple(
        replace(
            s,
            files={"nifti": s.files["nifti"], "mask": s.files["nifti"]},
            measures={**s.measures, "form": "nifti", "method": "noise"},
        )
        for s in converted.scans
    )
    checked = tuple(replace(s, files={}) for s in distorted)
    out = tmp_path / "out" / "restricted" / "audit" / session.session
    scans = audit.run(
        session,
        (folder, converted),
        (folder, replace(converted, scans=distorted)),
        (folder, replace(converted, scans=checked)),
        out,
        layout=layout,
    )
    assert {s.status for s in scans} == {"pass"}, scans
    write_manifest(out.with_suffix(".json"), Manifest("audit", session.session, scans), out)
    manifest = read_manifest(out.with_suffix(".json"))
    target = tmp_path / "out" / "release" / "bids" / session.session.replace("_", "/")
    release.copy(out, manifest, {}, "bids", target)
    files = release.cohort_files([manifest], {}, layout)
    release.cohort(tmp_path / "out" / "release", [manifest], {}, files)
    bids = tmp_path / "out" / "release" / "bids"
    assert bids_errors(bids) == []
    named = [p.name for p in bids.rglob("*_T1w.nii.gz")]
    assert ["desc-defaced" in n for n in named] == [layout == "derivative"]
    for path in bids.rglob("*.json"):
        for reference in json.loads(path.read_text()).get("IntendedFor", []):
            assert (bids / reference.removeprefix("bids::")).is_file()


def scan(suffix, datatype, status="pass", **measures):
    name = f"{SESSION}_{suffix}"
    stem = f"bids/{SUB}/{SES}/{datatype}/{name}"
    return Scan(
        name,
        f"{SERIES[:-1]}{suffix[0]}",
        suffix,
        status,
        (),
        {"nifti": f"{stem}.nii.gz", "sidecar": f"{stem}.json"},
        {"form": "nifti", "datatype": datatype, **measures},
    )


def path(suffix, datatype):
    return f"{SUB}/{SES}/{datatype}/{SESSION}_{suffix}.nii.gz"


def test_references_to_withheld_images_are_removed_and_reported(tmp_path):
    wanted = [path("bold", "func"), path("sbref", "func")]
    scans = [
        scan("epi", "fmap", intended_for=wanted, fields=["fieldmap1"]),
        scan("bold", "func", field_sources=["fieldmap1"]),
        scan("sbref", "func", "review", field_sources=["fieldmap1"]),
    ]
    texts = {
        "epi": {"IntendedFor": [f"bids::{p}" for p in wanted], "B0FieldIdentifier": "fieldmap1"},
        "bold": {"B0FieldSource": "fieldmap1"},
        "sbref": {"B0FieldSource": "fieldmap1"},
    }
    out = tmp_path / "out"
    folder = out / "restricted" / "audit" / SESSION
    for one in scans:
        for file in one.files.values():
            (folder / file).parent.mkdir(parents=True, exist_ok=True)
            (folder / file).write_text(json.dumps(texts[one.modality]))
    written = folder.with_suffix(".json")
    write_manifest(written, Manifest("audit", SESSION, tuple(scans)), folder)
    manifest = read_manifest(written)
    target = out / "release" / "bids" / SUB / SES

    def released(reviews):
        release.copy(folder, manifest, reviews, "bids", target)
        rows = release.cohort(out / "release", [manifest], reviews, {})
        name = f"bids/{SUB}/{SES}/fmap/{SESSION}_epi.json"
        (digest,) = [r.sha256 for r in rows if r.path == name]
        content = (out / "release" / name).read_bytes()
        assert hashlib.sha256(content).hexdigest() == digest
        notes = {d.scan.modality: d.note for d in release.decide(manifest, reviews)}
        return json.loads(content), notes["epi"]

    sidecar_, note = released({})
    assert sidecar_["IntendedFor"] == [f"bids::{wanted[0]}"]
    assert note == "1 reference to what is not released removed"
    accepted = {(SESSION, f"{SESSION}_sbref"): release.Judgement(True, "A", "fine")}
    sidecar_, note = released(accepted)
    assert sidecar_ == texts["epi"]
    assert note == ""
    # if the field map itself is withheld, no sidecar may name its field
    rejected = {(SESSION, f"{SESSION}_epi"): release.Judgement(False, "A", "face")}
    release.copy(folder, manifest, rejected, "bids", target)
    bold = json.loads((target / "func" / f"{SESSION}_bold.json").read_text())
    assert bold == {}
    notes = {d.scan.modality: d.note for d in release.decide(manifest, rejected)}
    assert notes["bold"] == "1 reference to what is not released removed"


def test_an_m0_scan_is_released_only_with_its_asl_series():
    m0 = scan("m0scan", "perf", intended_for=[path("asl", "perf")])

    def decided(status):
        manifest = Manifest("audit", SESSION, (m0, scan("asl", "perf", status)))
        return {d.scan.modality: d.released for d in release.decide(manifest, {})}

    assert decided("pass") == {"m0scan": True, "asl": True}
    assert decided("review") == {"m0scan": False, "asl": False}


def test_references_to_a_withheld_m0_scan_are_removed():
    m0 = scan("m0scan", "perf", intended_for=[path("asl", "perf")], fields=["fieldmap1"])
    epi = scan("epi", "fmap", intended_for=[path("m0scan", "perf")])
    bold = scan("bold", "func", field_sources=["fieldmap1"])
    manifest = Manifest("audit", SESSION, (m0, scan("asl", "perf", "review"), epi, bold))
    notes = {d.scan.modality: d.note for d in release.decide(manifest, {})}
    assert notes["m0scan"] == "no released ASL series"
    assert notes["epi"] == notes["bold"] == "1 reference to what is not released removed"


@pytest.mark.parametrize(
    "text", ["onset,duration\n1,2\n", "Onset\tDuration\n1\t2\n", "onset\tduration\n", "Mara"]
)
def test_a_table_that_is_left_out_is_reported(tmp_path, text):
    root = source(tmp_path / "in", FUNC)
    write(root, "sub-mara/ses-1/func/sub-mara_ses-1_task-rest_events.tsv", text)
    (session,) = sessions_of(root)
    bold = [s for s in convert.run(session, tmp_path / "out", KEY) if s.modality == "bold"]
    assert all("events" not in s.files for s in bold)
    assert [s.measures["tables_dropped"] for s in bold] == [["events"]] * 2
    dropped = scan("bold", "func", tables_dropped=["events"])
    (decision,) = release.decide(Manifest("audit", SESSION, (dropped,)), {})
    assert decision.released
    assert "_events.tsv left out" in decision.note


def test_events_keep_only_decimal_numbers():
    rows = ["1.5\t2", "-1\t+2e-3", "1_000\tinf", "0x1\t\u0661"]
    cleaned = companions.cleaned("events", "\n".join(["onset\tduration", *rows]))
    assert cleaned.splitlines()[1:] == [rows[0], rows[1], "n/a\tn/a", "n/a\tn/a"]


def test_a_sidecar_without_references_is_unchanged():
    plain = {"EchoTime": 0.03}
    assert references.released(plain, [], []) == plain
