"""The conversion: names, sidecars and headers, without any other text of the source."""

import gzip
import json
import shutil

import nibabel as nib
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from small_dicom import write
from small_session import series_record

from efface import convert, inventory, nifti
from efface.convert import dcm2niix, header, names, sidecar
from efface.errors import EffaceError
from efface.pseudonym import Key
from efface.session import BidsName

KEY = Key(b"k" * 32)
PLACE = {"SeriesInstanceUID": "1.2.3.4.7", "AcquisitionTime": "111111", "SeriesNumber": 4}


def sessions_of(source):
    entries = [inventory.run_entry(source, n, KEY) for n in inventory.entries(source, KEY).values()]
    return inventory.merge(entries, KEY)


def converted(source, folder, **more):
    """Convert a source of one session; return its scans by stem, without the session."""
    (session,) = sessions_of(source)
    scans = convert.run(session, folder, KEY, **more)
    return {s.scan.removeprefix(session.session + "_"): s for s in scans}


def image(path, shape=(6, 7, 8), value=1):
    path.parent.mkdir(parents=True, exist_ok=True)
    rng = np.random.default_rng(value)
    img = nib.Nifti1Image(rng.integers(0, 999, shape).astype(np.int16), np.diag([2, 2, 3, 1.0]))
    img.header["descrip"] = b"Quillfeather"
    img.header["aux_file"] = b"Quillfeather"
    img.header["db_name"] = b"Quillfeather"
    img.header["intent_name"] = b"Quillfeather"
    img.header.extensions.append(nib.nifti1.Nifti1Extension("comment", b"Quillfeather"))
    nib.save(img, path)
    return img


def bytes_of(folder):
    """Names and decompressed content of all files in a folder."""
    out = b""
    for path in sorted(p for p in folder.rglob("*") if p.is_file()):
        data = path.read_bytes()
        out += str(path.relative_to(folder)).encode()
        out += gzip.decompress(data) if path.suffix == ".gz" else data
    return out


def test_a_series_becomes_a_scan(tmp_path):
    write(tmp_path / "source" / "Quillfeather")
    scans = converted(tmp_path / "source", tmp_path / "out")
    (scan,) = scans.values()
    assert list(scans) == ["T1w"]
    assert (scan.status, scan.modality, scan.reasons) == ("pass", "T1w", ())
    assert scan.measures["datatype"] == "anat"
    assert scan.measures["source_series"] == scan.series
    assert scan.measures["frame_of_reference"] == KEY.uid("1.2.3.4.6")
    # dcm2niix may reorder the axes of a 3D series
    assert sorted(scan.measures["shape"]) == [4, 12, 16]
    assert sorted(scan.measures["spacing"]) == [1.5, 1.5, 2.0]
    assert sorted(p.name for p in (tmp_path / "out").iterdir()) == sorted(scan.files.values())
    side = json.loads((tmp_path / "out" / scan.files["sidecar"]).read_text())
    assert side["EchoTime"] == 0.003
    assert b"quillfeather" not in bytes_of(tmp_path / "out").lower()


def test_stored_values_are_those_of_the_dicom(tmp_path):
    import pydicom

    paths = write(tmp_path / "source" / "a")
    (scan,) = converted(tmp_path / "source", tmp_path / "out").values()
    img = nifti.load(tmp_path / "out" / scan.files["nifti"])
    pixels = np.concatenate([pydicom.dcmread(p).pixel_array.ravel() for p in paths])
    np.testing.assert_array_equal(np.sort(nifti.stored(img).ravel()), np.sort(pixels))


def test_a_second_conversion_gives_the_same_bytes(tmp_path):
    write(tmp_path / "source" / "a")
    converted(tmp_path / "source", tmp_path / "one")
    converted(tmp_path / "source", tmp_path / "two")
    for path in (tmp_path / "one").iterdir():
        assert path.read_bytes() == (tmp_path / "two" / path.name).read_bytes()


def test_runs_are_numbered_in_the_order_of_acquisition(tmp_path):
    write(tmp_path / "source" / "a", SeriesNumber=9)
    # acquired later although numbered lower
    write(tmp_path / "source" / "b", **PLACE)
    scans = converted(tmp_path / "source", tmp_path / "out")
    assert list(scans) == ["run-1_T1w", "run-2_T1w"]
    (session,) = sessions_of(tmp_path / "source")
    number = {s.series: s.number for s in session.series}
    assert [number[s.series] for s in scans.values()] == [9, 4]


def test_a_series_that_cannot_be_converted_does_not_stop_the_others(tmp_path):
    write(tmp_path / "source" / "a")
    write(tmp_path / "source" / "b", slices=1, **PLACE)
    scans = converted(tmp_path / "source", tmp_path / "out")
    good = scans.pop("T1w")
    (bad,) = scans.values()
    assert good.status == "pass"
    assert bad.status == "fail"
    assert bad.scan == bad.series
    assert bad.reasons[0].startswith("not converted: a single slice")
    assert str(tmp_path) not in bad.reasons[0]


def test_a_crash_or_a_hang_fails_the_series(tmp_path, monkeypatch):
    write(tmp_path / "source" / "a")
    program = tmp_path / "program"
    program.write_text("#!/bin/sh\nkill -9 $$\n")
    program.chmod(0o755)
    monkeypatch.setattr(dcm2niix, "binary", lambda: str(program))
    (scan,) = converted(tmp_path / "source", tmp_path / "one").values()
    assert (scan.status, scan.reasons) == ("fail", ("not converted: dcm2niix crashed",))
    program.write_text("#!/bin/sh\nexec sleep 20\n")
    (scan,) = converted(tmp_path / "source", tmp_path / "two", timeout=0.2).values()
    assert scan.status == "fail"
    assert "longer than" in scan.reasons[0]
    assert not list((tmp_path / "two").iterdir())


def test_removed_files_fail_the_series(tmp_path):
    paths = write(tmp_path / "source" / "a")
    (session,) = sessions_of(tmp_path / "source")
    for path in paths:
        path.unlink()
    (scan,) = convert.run(session, tmp_path / "out", KEY)
    assert scan.status == "fail"


def test_unevenly_spaced_slices_go_to_review(tmp_path):
    folder = tmp_path / "source" / "a"
    write(folder, slices=8)
    (folder / "IM003").unlink()
    (folder / "IM006").unlink()
    scans = converted(tmp_path / "source", tmp_path / "out")
    assert {s.status for s in scans.values()} == {"review"}


def test_objects_are_not_converted(tmp_path):
    write(tmp_path / "source" / "a", SOPClassUID="1.2.840.10008.5.1.4.1.1.7")
    assert converted(tmp_path / "source", tmp_path / "out") == {}


def test_images_without_a_bids_name_go_to_review(tmp_path):
    write(tmp_path / "source" / "a", SeriesDescription="localizer Quillfeather")
    (scan,) = converted(tmp_path / "source", tmp_path / "out").values()
    assert scan.scan.endswith("_localizer")
    assert (scan.status, scan.measures["datatype"]) == ("review", "")
    assert "no BIDS name" in scan.reasons[0]


def test_naming_rules_of_the_setting_come_first(tmp_path):
    write(tmp_path / "source" / "a")
    rule = {"match": {"description": "mprage"}, "datatype": "anat", "suffix": "T2w"}
    scans = converted(tmp_path / "source", tmp_path / "out", rules=[rule])
    assert list(scans) == ["T2w"]


# names


FACTS = {"description": "", "part": "mag", "sequence": "SE", "volumes": 1.0, "diffusion": "no"}


@pytest.mark.parametrize(
    ("facts", "stem"),
    [
        ({"description": "t1_mprage_sag"}, "_T1w"),
        ({"description": "ax t2 flair"}, "_FLAIR"),
        ({"description": "t2_tse_tra"}, "_T2w"),
        ({"description": "pd+t2", "te": 15.0, "echoes": 2.0, "echo": 1.0}, "_echo-1_PDw"),
        ({"description": "pd+t2", "te": 90.0, "echoes": 2.0, "echo": 2.0}, "_echo-2_T2w"),
        ({"description": "t2*_gre", "sequence": "GR"}, "_T2starw"),
        ({"description": "tof_3d"}, "_angio"),
        ({"te": 90.0, "tr": 5000.0}, "_T2w"),
        ({"te": 12.0, "tr": 500.0}, "_T1w"),
        ({"te": 12.0, "tr": 2500.0}, "_PDw"),
        ({"sequence": "SE\\IR", "te": 120.0, "tr": 9000.0, "ti": 2500.0}, "_FLAIR"),
        ({"sequence": "GR\\IR", "variant": "SP\\MP", "te": 3.0}, "_T1w"),
        ({"sequence": "EP", "volumes": 200.0}, "_task-unknown_bold"),
        ({"sequence": "EP", "volumes": 200.0, "description": "rest_run"}, "_task-rest_bold"),
        (
            {"sequence": "EP", "volumes": 2.0, "description": "se_pa", "direction": "PA"},
            "_dir-PA_epi",
        ),
        ({"diffusion": "yes", "sequence": "EP", "direction": "AP"}, "_dir-AP_dwi"),
        ({"field_map": "yes", "echo": 2.0}, "_magnitude2"),
        ({"field_map": "yes", "part": "phase", "phase_difference": "yes"}, "_phasediff"),
        ({"field_map": "yes", "part": "fieldmap"}, "_fieldmap"),
        ({"description": "mprage", "contrast_agent": "yes"}, "_ce-contrast_T1w"),
        ({"description": "mprage", "part": "phase"}, "_part-phase_T1w"),
        ({"description": "Quillfeather"}, "_unnamed"),
        ({"description": "scout mprage"}, "_localizer"),
        ({"image_type": "DERIVED\\PRIMARY\\DIFFUSION\\ADC"}, "_dwimap"),
    ],
)
def test_names(facts, stem):
    assert names.name(names.Facts(**{**FACTS, **facts}), names.read_rules()).stem("") == stem


@given(
    st.dictionaries(
        st.sampled_from(["description", "sequence", "image_type", "sequence_name", "part"]),
        st.text(max_size=30),
    )
)
def test_texts_are_not_copied_into_names(facts):
    stem = names.name(names.Facts(**facts), names.read_rules()).stem("")
    entities, suffix = stem.split("_")[1:-1], stem.split("_")[-1]
    assert all(e in ("task-unknown", "task-rest") or e.startswith("part-") for e in entities)
    known = {r.suffix or "unnamed" for r in names.read_rules()} | {"unnamed"}
    assert suffix in known


@pytest.mark.parametrize(
    "rule",
    [
        {"datatype": "anat", "suffix": "T1w"},
        {"match": {}, "datatype": "anat", "suffix": "bold"},
        {"match": {}, "datatype": "anat", "suffix": "T1w", "entities": {"dir": "x"}},
        {"match": {}, "datatype": "anat", "suffix": "T1w", "entities": {"acq": "../x"}},
        {"match": {}, "suffix": "a/b", "out": "x"},
        {"match": {"te": 5}, "datatype": "anat", "suffix": "T1w"},
        {"match": {"description": "("}, "datatype": "anat", "suffix": "T1w"},
        {"match": {}, "datatype": "anat", "suffix": "T1w", "unknown": 1},
    ],
)
def test_an_invalid_rule_is_rejected(rule):
    with pytest.raises(EffaceError, match="setting names, rule 1"):
        names.read_rules([rule])


def test_numbered_names_never_collide():
    same = names.Name("anat", "T1w")
    with_run = names.Name("anat", "T1w", {"run": "1"})
    out = [
        n.stem("") for n in names.numbered([same, same, with_run, with_run, names.Name("", "T2w")])
    ]
    assert len(set(out)) == 5
    assert out[-1] == "_T2w"


def test_incomplete_metadata():
    bold = names.Name("func", "bold", {"task": "rest"})
    full = {"RepetitionTime": 2, "TaskName": "rest"}
    assert names.incomplete(bold, full, (4, 4, 4, 9), (0, 0)) == ""
    assert names.incomplete(bold, full, (4, 4, 4), (0, 0))
    assert names.incomplete(bold, {}, (4, 4, 4, 9), (0, 0))
    dwi = names.Name("dwi", "dwi")
    assert names.incomplete(dwi, {}, (4, 4, 4, 9), (9, 9)) == ""
    assert names.incomplete(dwi, {}, (4, 4, 4, 9), (8, 9))
    asl = dict.fromkeys(names._NEEDED["perf", "asl"], 1)
    assert names.incomplete(names.Name("perf", "asl"), asl, (4, 4, 4, 9), (0, 0))
    assert names.incomplete(names.Name("perf", "asl"), asl, (4, 4, 4, 9), (0, 0), 8)
    assert not names.incomplete(names.Name("perf", "asl"), asl, (4, 4, 4, 9), (0, 0), 9)
    assert names.incomplete(names.Name("anat", "T2w", {"echo": "1"}), {}, (4, 4, 4), (0, 0))


@pytest.mark.parametrize(
    ("axis", "codes", "label"),
    [
        ("j", "RAS", "PA"),
        ("j-", "RAS", "AP"),
        ("i", "LAS", "RL"),
        ("k-", "RSA", "AP"),
        ("", "RAS", ""),
    ],
)
def test_direction(axis, codes, label):
    start = nib.orientations.axcodes2ornt("RAS")
    transform = nib.orientations.ornt_transform(start, nib.orientations.axcodes2ornt(codes))
    affine = nib.orientations.inv_ornt_aff(transform, (4, 4, 4))
    assert "".join(nib.aff2axcodes(affine)) == codes
    assert names.direction(axis, affine) == label


# sidecars


def test_the_allow_list():
    raw = {
        "EchoTime": 0.03,
        "RepetitionTime": 71003442,
        "SliceTiming": [0, 1, 0.5],
        "FlipAngle": True,
        "PixelBandwidth": float("nan"),
        "EchoTrainLength": 4.5,
        "ImageType": ["ORIGINAL", "Quillfeather", "M"],
        "ScanningSequence": "GR\\IR\\Quillfeather",
        "Manufacturer": "Quillfeather",
        "ManufacturersModelName": "MAGNETOM Prisma Fit",
        "SoftwareVersions": "27\\LX\\MR Software release:DV26.0_R01_1725.a",
        "PhaseEncodingDirection": "j-",
        "SeriesDescription": "Quillfeather",
        "PatientName": "Quillfeather",
        "DeviceSerialNumber": "71003442",
        "TaskName": "n back of Quillfeather",
        "Nested": {"EchoTime": 1},
        "SpacingBetweenSlices": {"a": 1},
        "Units": ["Hz"],
    }
    assert sidecar.allowed(raw) == {
        "EchoTime": 0.03,
        "ImageType": ["ORIGINAL", "M"],
        "ManufacturersModelName": "MAGNETOM Prisma Fit",
        "PhaseEncodingDirection": "j-",
        "ScanningSequence": "GR\\IR",
        "SliceTiming": [0, 1, 0.5],
        "SoftwareVersions": "27\\LX\\MR Software release:DV26.0_R01_1725.a",
    }


@pytest.mark.parametrize(
    ("key", "value", "kept"),
    [
        ("SoftwareVersions", "syngo MR E11", True),
        ("SoftwareVersions", "5.7.1\\5.7.1.1", True),
        ("SoftwareVersions", "17.4.63", False),
        ("ManufacturersModelName", "MAGNETOM Vida", True),
        ("ManufacturersModelName", "Victor 63 Hero", False),
        ("ConversionSoftwareVersion", "v1.0.20260724", True),
        ("ConversionSoftwareVersion", "v1.0.19630417", False),
    ],
)
def test_model_and_versions_have_the_forms_of_the_dicom_attributes(key, value, kept):
    assert sidecar.allowed({key: value}) == ({key: value} if kept else {})


@pytest.mark.parametrize("key", sorted(sidecar.table()))
def test_no_key_keeps_a_text_or_an_id(key):
    for value in (
        "Quillfeather",
        "Mara Quillfeather",
        "MRN-7741902",
        "71003442",
        71003442,
        ["Quillfeather"],
        [["a"]],
        {"a": 1},
        "19710423",
        None,
    ):
        kept = sidecar.allowed({key: value})
        if key == "TaskName":
            # only the label of the name is written there
            continue
        if key.startswith("Philips") or key == "UsePhilipsFloatNotDisplayScaling":
            kept = {k: v for k, v in kept.items() if not isinstance(v, int)}
        assert kept == {} or kept == {key: value} == {"FrameAcquisitionDuration": value}


json_values = st.recursive(
    st.none() | st.booleans() | st.floats() | st.integers() | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=6,
)


@given(st.dictionaries(st.sampled_from(sorted(sidecar.table())) | st.text(), json_values))
def test_any_sidecar_is_accepted(raw):
    kept = sidecar.allowed(raw)
    assert kept.keys() <= sidecar.table().keys()
    json.dumps(kept, allow_nan=False)


def test_slice_times_that_contradict_the_image_are_removed():
    timing = {"SliceTiming": [0, 1, 2], "RepetitionTime": 3}
    assert "SliceTiming" in sidecar.consistent(timing, 3)
    assert "SliceTiming" not in sidecar.consistent(timing, 4)
    assert "SliceTiming" not in sidecar.consistent({**timing, "RepetitionTime": 1}, 3)


# headers


@pytest.mark.parametrize("kind", [nib.Nifti1Image, nib.Nifti2Image])
@pytest.mark.parametrize("order", ["<", ">"])
def test_a_clean_header_keeps_voxels_and_geometry(tmp_path, kind, order):
    voxels = np.arange(60, dtype=order + "i2").reshape(3, 4, 5)
    first = kind(voxels, np.diag([2, 3, -4, 1.0]))
    if order == ">":
        first = kind(voxels, first.affine, type(first.header)(endianness=">"))
        first.header.set_data_dtype(">i2")
    first.header["descrip"] = b"Quillfeather"
    first.header["intent_name"] = b"Quillfeather"
    first.header.extensions.append(nib.nifti1.Nifti1Extension("comment", b"Quillfeather"))
    first.header.set_sform(first.affine, 2)
    first.header.set_qform(first.affine, 1)
    first.header.set_slope_inter(2.5, -7)
    (tmp_path / "in.nii").write_bytes(nifti.to_bytes(first))
    raw = (tmp_path / "in.nii").read_bytes()
    assert b"Quill" in raw
    before = nib.load(tmp_path / "in.nii")
    nifti.save(header.clean(before), tmp_path / "out.nii.gz")
    data = gzip.decompress((tmp_path / "out.nii.gz").read_bytes())
    assert b"Quill" not in data
    after = (
        nifti.load(tmp_path / "out.nii.gz") if kind is nib.Nifti1Image else kind.from_bytes(data)
    )
    np.testing.assert_array_equal(nifti.stored(after), voxels)
    np.testing.assert_array_equal(after.affine, before.affine)
    np.testing.assert_allclose(after.get_fdata(), before.get_fdata())
    for code in ("qform_code", "sform_code", "xyzt_units"):
        assert after.header[code] == before.header[code]
    assert nifti.stored(after).dtype == voxels.dtype


def test_the_time_step_of_a_bold_series():
    img = nib.Nifti1Image(np.zeros((3, 3, 3, 2), np.int16), np.eye(4))
    img.header["pixdim"][4] = 0
    img = header.with_repetition_time(img, 2.5)
    assert img.header.get_zooms()[3] == 2.5
    assert img.header.get_xyzt_units()[1] == "sec"


# BIDS sources


def bids_source(root):
    (root / "sub-mara").mkdir(parents=True)
    (root / "dataset_description.json").write_text('{"Name": "x", "BIDSVersion": "1.10.0"}')
    (root / "task-nback_bold.json").write_text(
        json.dumps({"RepetitionTime": 2.5, "TaskName": "of Mara", "Instructions": "Mara"})
    )
    image(root / "sub-mara/anat/sub-mara_acq-mara19710423_T1w.nii.gz")
    image(root / "sub-mara/anat/sub-mara_acq-mpr_rec-norm_T1w.nii", value=2)
    image(root / "sub-mara/func/sub-mara_task-nback_bold.nii.gz", (6, 7, 8, 3))
    image(root / "sub-mara/perf/sub-mara_asl.nii.gz", (6, 7, 8, 3))
    image(root / "sub-mara/dwi/sub-mara_dwi.nii.gz", (6, 7, 8, 3))
    (root / "sub-mara/dwi/sub-mara_dwi.bval").write_text("0 1000 1000\n")
    (root / "sub-mara/dwi/sub-mara_dwi.bvec").write_text("0 1 0\n0 0 1\n0 0 0\n")
    (root / "sub-mara/anat/sub-mara_T2w.nii.gz").write_bytes(b"no image")
    return root


def test_bids_source(tmp_path):
    source = bids_source(tmp_path / "source")
    (session,) = sessions_of(source)
    scans = convert.run(session, tmp_path / "out", KEY)
    status = {s.scan.removeprefix(session.session + "_"): s.status for s in scans}
    (failed,) = [s for s in scans if s.status == "fail"]
    hidden = "acq-" + KEY.label("entity", "acq", "mara19710423") + "_T1w"
    assert status == {
        "acq-mpr_rec-norm_T1w": "pass",
        hidden: "pass",
        "task-nback_bold": "pass",
        "asl": "review",
        "dwi": "pass",
        failed.series: "fail",
    }
    assert str(source) not in "".join(failed.reasons)
    by_suffix = {s.modality: s for s in scans}
    out = tmp_path / "out"
    bold = json.loads((out / by_suffix["bold"].files["sidecar"]).read_text())
    assert bold == {"RepetitionTime": 2.5, "TaskName": "nback"}
    assert nifti.load(out / by_suffix["bold"].files["nifti"]).header.get_zooms()[3] == 2.5
    assert (out / by_suffix["dwi"].files["bval"]).read_text() == "0 1000 1000\n"
    first = nib.load(source / "sub-mara/anat/sub-mara_acq-mpr_rec-norm_T1w.nii")
    mine = nifti.load(out / f"{session.session}_acq-mpr_rec-norm_T1w.nii.gz")
    np.testing.assert_array_equal(nifti.stored(mine), nifti.stored(first))
    np.testing.assert_array_equal(mine.affine, first.affine)
    everything = bytes_of(out).lower()
    assert b"mara" not in everything
    assert b"quillfeather" not in everything


@pytest.mark.parametrize(
    ("path", "raw", "why"),
    [
        ("fmap/sub-mara_TB1map.nii.gz", {}, ""),
        ("fmap/sub-mara_acq-anat_TB1TFL.nii.gz", {}, ""),
        ("fmap/sub-mara_flip-1_TB1DAM.nii.gz", {"FlipAngle": 60}, ""),
        ("fmap/sub-mara_TB1DAM.nii.gz", {"FlipAngle": 60}, "TB1DAM without flip in its name"),
        ("anat/sub-mara_UNIT1.nii.gz", {}, ""),
        ("anat/sub-mara_echo-1_MEGRE.nii.gz", {"EchoTime": 0.01}, ""),
        ("anat/sub-mara_MEGRE.nii.gz", {"EchoTime": 0.01}, "MEGRE without echo in its name"),
        ("dwi/sub-mara_FA.nii.gz", {}, ""),
        ("anat/sub-mara_hands.nii.gz", {}, "unknown suffix"),
    ],
)
def test_every_bids_suffix_has_a_datatype(tmp_path, path, raw, why):
    root = tmp_path / "source"
    (root / "sub-mara").mkdir(parents=True)
    image(root / "sub-mara" / path)
    (root / "sub-mara" / path).with_suffix("").with_suffix(".json").write_text(json.dumps(raw))
    (session,) = sessions_of(root)
    (scan,) = convert.run(session, tmp_path / "out", KEY)
    assert scan.status == ("review" if why else "pass")
    assert why in "".join(scan.reasons)


@pytest.mark.parametrize("encoding", ["utf-8-sig", "utf-16", "utf-16-be", "utf-32", "utf-32-be"])
def test_a_sidecar_with_a_byte_order_mark(tmp_path, encoding):
    root = bids_source(tmp_path / "source")
    mark = "\ufeff" if encoding.endswith("be") else ""
    for name in ("T1w.json", "sub-mara/func/sub-mara_task-nback_bold.json"):
        text = mark + json.dumps({"EchoTime": 0.004})
        (root / name).write_bytes(text.encode(encoding))
    gradients = root / "sub-mara/dwi/sub-mara_dwi.bval"
    gradients.write_bytes((mark + "0 1000 1000\r\n").encode(encoding))
    (session,) = sessions_of(root)
    scans = convert.run(session, tmp_path / "out", KEY)
    sidecars = [
        json.loads((tmp_path / "out" / s.files["sidecar"]).read_text())
        for s in scans
        if s.modality in ("T1w", "bold")
    ]
    assert [r["EchoTime"] for r in sidecars] == [0.004] * 3
    assert [s.status for s in scans if s.modality == "dwi"] == ["pass"]


@pytest.mark.parametrize(
    ("content", "why"),
    [
        (b'{"EchoTime": 0.004,}', "not valid JSON"),
        (b"[" * 100_000, "not valid JSON"),
        (b"[1]", "not a JSON object"),
        (b"\xef\xbb\xbf", ""),
        (b" \n", ""),
    ],
)
def test_a_sidecar_that_cannot_be_read_fails_its_scans_with_a_reason(tmp_path, content, why):
    root = bids_source(tmp_path / "source")
    (root / "T1w.json").write_bytes(content)
    (session,) = sessions_of(root)
    scans = convert.run(session, tmp_path / "out", KEY)
    t1w = [s for s in scans if s.modality == "T1w"]
    assert [s.status for s in t1w] == ["fail" if why else "pass"] * 2
    assert all(why in "".join(s.reasons) for s in t1w)
    assert {s.status for s in scans if s.modality in ("bold", "dwi")} == {"pass"}


JSON = st.recursive(
    st.none()
    | st.booleans()
    | st.text(max_size=5)
    | st.floats()
    | st.integers()
    # Python reads integers of any length
    | st.just(10**400),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner),
    max_leaves=4,
)
READ = ("PulseSequenceType", "ImageType", "EchoTime", "EchoNumber", "PhaseEncodingDirection")


@given(st.dictionaries(st.sampled_from((*READ, *sidecar.table())), JSON, max_size=4))
def test_any_value_of_a_sidecar_is_accepted(raw):
    names.facts({}, raw, (4, 5, 6), np.eye(4), [])
    content = sidecar.consistent(sidecar.allowed(raw), 6)
    # standard JSON has no NaN and no infinity
    json.dumps(content, allow_nan=False)


@pytest.mark.parametrize("fault", [ArithmeticError, TypeError, RecursionError])
def test_an_error_in_one_series_does_not_stop_the_others(tmp_path, monkeypatch, fault):
    source = bids_source(tmp_path / "source")
    (session,) = sessions_of(source)
    load = nifti.load

    def refuse(path):
        if "dwi" in path.name:
            raise fault
        return load(path)

    monkeypatch.setattr(nifti, "load", refuse)
    scans = convert.run(session, tmp_path / "out", KEY)
    assert {s.modality for s in scans if s.status == "fail"} == {"dwi", "T2w"}


def test_gradients_that_hold_a_text_fail_the_scan(tmp_path):
    source = bids_source(tmp_path / "source")
    for text, why in (("0 1000 Mara", "not a number"), ("0 1000 nan", "not finite")):
        (source / "sub-mara/dwi/sub-mara_dwi.bval").write_text(text)
        (session,) = sessions_of(source)
        scans = convert.run(session, tmp_path / why, KEY)
        failed = {s.modality: s.reasons for s in scans if s.status == "fail"}
        assert set(failed) == {"dwi", "T2w"}
        assert why in failed["dwi"][0]
        assert "Mara" not in failed["dwi"][0]


@pytest.mark.parametrize("extra", [(1,), (1, 1), (1, 1, 1)])
def test_dimensions_of_size_one_give_no_reason(tmp_path, extra):
    root = tmp_path / "source"
    root.mkdir()
    (root / "dataset_description.json").write_text('{"Name": "x", "BIDSVersion": "1.10.0"}')
    (root / "task-nback_bold.json").write_text('{"RepetitionTime": 2.5, "TaskName": "nback"}')
    shape = (6, 7, 8)
    expected = {"anat/sub-a_T1w": shape, "anat/sub-a_FLAIR": shape, "fmap/sub-a_magnitude1": shape}
    expected |= {"func/sub-a_task-nback_bold": (*shape, 1), "dwi/sub-a_dwi": (*shape, 1)}
    for name in expected:
        image(root / f"sub-a/{name}.nii.gz", shape + extra)
    image(root / "sub-a/func/sub-a_task-nback_run-2_bold.nii.gz", (*shape, 3, *extra))
    (root / "sub-a/dwi/sub-a_dwi.bval").write_text("0\n")
    (root / "sub-a/dwi/sub-a_dwi.bvec").write_text("0\n0\n0\n")
    (session,) = sessions_of(root)
    scans = convert.run(session, tmp_path / "out", KEY)
    shapes = {}
    for scan in scans:
        assert scan.status == "pass", scan.reasons
        name = scan.scan.removeprefix(session.session + "_")
        shapes[f"{scan.measures['datatype']}/sub-a_{name}"] = tuple(scan.measures["shape"])
        assert (
            nifti.load(tmp_path / "out" / scan.files["nifti"]).shape
            == shapes[f"{scan.measures['datatype']}/sub-a_{name}"]
        )
    assert shapes == expected | {"func/sub-a_task-nback_run-2_bold": (*shape, 3)}


@pytest.mark.parametrize("zipped", [False, True])
def test_a_truncated_image_fails_with_one_reason(tmp_path, zipped):
    source = bids_source(tmp_path / "source")
    path = source / "sub-mara/anat/sub-mara_acq-mpr_rec-norm_T1w.nii"
    path.write_bytes(path.read_bytes()[:-100])
    if zipped:
        path.write_bytes(gzip.compress(path.read_bytes()))
    (session,) = sessions_of(source)
    scans = convert.run(session, tmp_path / "out", KEY)
    (failed,) = [s for s in scans if s.status == "fail" and s.modality == "T1w"]
    (reason,) = failed.reasons
    assert reason.startswith("not converted: truncated: ")
    assert "mara" not in reason


def test_a_suffix_that_may_be_a_name_is_not_reported():
    assert convert.modality(series_record()) == "MR"
    for suffix, modality in (("OSTRANDER", "MR"), ("FLAIR", "FLAIR")):
        assert convert.modality(series_record(bids=BidsName("anat", suffix, {}))) == modality


# real data


def tree(sessions, folder, root):
    """Write a BIDS dataset of all converted scans that have a BIDS name."""
    for session, scans in sessions:
        subject, visit = session.session.split("_")
        for scan in scans:
            if scan.status != "fail" and scan.measures["datatype"]:
                target = root / subject / visit / scan.measures["datatype"]
                target.mkdir(parents=True, exist_ok=True)
                for name in scan.files.values():
                    shutil.copy(folder / session.session / name, target / name)
    (root / "dataset_description.json").write_text('{"Name": "x", "BIDSVersion": "1.10.0"}')
    (root / "README").write_text("A test.\n")
    people = sorted(p.name for p in root.glob("sub-*"))
    (root / "participants.tsv").write_text("\n".join(["participant_id", *people]) + "\n")


@pytest.mark.slow
def test_real_exports_give_valid_bids_without_identifiers(data, tmp_path, bids_errors):
    identifiers = [n for n in (data / "dicom/needles.txt").read_text().splitlines() if n]
    results = []
    for site in ("SITE_A", "SITE_B", "SITE_C", "SITE_D"):
        for session in sessions_of(data / "dicom" / site):
            results.append((session, convert.run(session, tmp_path / session.session, KEY)))
    suffixes = {s.modality for _, scans in results for s in scans if s.measures["datatype"]}
    assert {"T1w", "T2w", "PDw", "bold", "phasediff", "magnitude1", "fieldmap"} <= suffixes
    tree(results, tmp_path, tmp_path / "bids")
    names_and_texts = b"".join(
        p.name.encode() + (p.read_bytes() if p.suffix != ".gz" else header_of(p))
        for p in (tmp_path / "bids").rglob("*")
        if p.is_file()
    ).lower()
    assert [n for n in identifiers if n.lower().encode() in names_and_texts] == []
    assert bids_errors(tmp_path / "bids") == []


def header_of(path):
    with gzip.open(path) as f:
        return f.read(352)
