"""The attributes that docs/headers.md lists for research are kept, in real series too."""

import io
import json
from pathlib import Path

import pydicom
import pytest
from pydicom.datadict import tag_for_keyword

from efface import convert, inventory
from efface.convert import dcm2niix, sidecar
from efface.pseudonym import Key
from efface.scrub import WithheldError, scrub_bytes

KEY = Key(b"k" * 32)
WHO = (KEY, "sub-aaaaaaaaaa", "ses-bbbbbbbbbb")
DOCS = Path(__file__).parents[1] / "docs" / "headers.md"

REQUIRED = {
    "bold": {"RepetitionTime", "TaskName"},
    "epi": {"PhaseEncodingDirection", "TotalReadoutTime"},
    "phasediff": {"EchoTime1", "EchoTime2"},
    "fieldmap": {"Units"},
    "T1w": {"EchoTime", "RepetitionTime", "FlipAngle"},
    "T2w": {"EchoTime", "RepetitionTime", "FlipAngle"},
    "FLAIR": {"EchoTime", "RepetitionTime", "InversionTime", "FlipAngle"},
    "PDw": {"EchoTime", "RepetitionTime", "FlipAngle"},
}
"""What a sidecar of this suffix must hold (BIDS 1.10), or cannot be used without."""

# values as scanners and dcm2niix write them
EXAMPLES = {
    "MagneticFieldStrength": 3,
    "SliceTiming": [0, 0.5, 1],
    "ImageType": ["ORIGINAL", "PRIMARY", "M", "ND"],
    "PhaseEncodingDirection": "j-",
    "PatientPosition": "HFS",
    "ImageOrientationPatientDICOM": [1, 0, 0, 0, 1, 0],
    "Manufacturer": "Siemens",
    "ManufacturersModelName": "Prisma_fit",
    "SoftwareVersions": "syngo MR E11",
    "SliceEncodingDirection": "k",
    "InPlanePhaseEncodingDirectionDICOM": "ROW",
    "PartialFourierDirection": "PHASE",
    "ParallelAcquisitionTechnique": "SMS",
    "MatrixCoilMode": "SENSE",
    "CoilCombinationMethod": "Sum of Squares",
    "MRTransmitCoilSequence": "BODY",
    "BodyPart": "BRAIN",
    "Units": "Hz",
    "TaskName": "rest",
    "PulseSequenceType": "Multiband Gradient Echo EPI",
    "ScanningSequence": "EP",
    "SequenceVariant": "SK\\SP",
    "ScanOptions": "FS\\PFP",
    "MRAcquisitionType": "2D",
    "SpoilingType": "RF",
    "ArterialSpinLabelingType": "PCASL",
    "M0Type": "Included",
    "BolusCutOffTechnique": "QUIPSSII",
    "ContrastBolusIngredient": "GADOLINIUM",
    **dict.fromkeys(
        [
            *("NonlinearGradientCorrection", "MTState", "SpoilingState", "BackgroundSuppression"),
            *("VascularCrushing", "BolusCutOffFlag"),
        ],
        True,
    ),
}


def documented():
    """Rows of the table: DICOM keywords, sidecar keys, suffixes."""
    text = DOCS.read_text().split("## Attributes kept for research", 1)[1].split("\n\n")[2]
    for line in text.splitlines()[2:]:
        _, dicom, keys, suffixes = (cell.strip() for cell in line.strip("|").split("|"))
        known = [w for w in dicom.split() if tag_for_keyword(w)]
        assert known or "private" in dicom or "(removed)" in dicom
        assert set(dicom.split()) - set(known) <= {"private", "and", "(removed)"}
        yield known, [] if keys.startswith("(") else keys.split(), suffixes.split()


def keys_of(suffix):
    return {k for _, keys, of in documented() for k in keys if suffix in of or of == ["all"]}


def test_the_documented_table_is_parsed():
    rows = list(documented())
    assert len(rows) > 15
    assert {"EchoTime", "SliceTiming", "TotalReadoutTime"} <= keys_of("bold")


@pytest.mark.parametrize("suffix", [*REQUIRED, "dwi", "asl"])
def test_a_sidecar_of_each_suffix_keeps_the_documented_keys(suffix):
    keys = keys_of(suffix)
    assert REQUIRED.get(suffix, set()) <= keys
    raw = {k: EXAMPLES.get(k, 1) for k in keys} | {"SeriesDescription": "Zarquon"}
    kept = sidecar.allowed(raw)
    assert kept == {k: v for k, v in raw.items() if k != "SeriesDescription"}


def kept_of(source, folder):
    """For each scan of a source: suffix, sidecar by dcm2niix, and the released sidecar."""
    entries = [inventory.run_entry(source, n, KEY) for n in inventory.entries(source, KEY).values()]
    for session in inventory.merge(entries, KEY):
        out = folder / session.session
        for scan in convert.run(session, out, KEY):
            if scan.status == "fail" or not scan.files:
                continue
            (series,) = [s for s in session.series if s.series == scan.series]
            again = out / "again" / scan.scan
            again.mkdir(parents=True)
            sidecars = [dict(i.sidecar) for i in dcm2niix.convert(series.files, again, 600).images]
            own = json.loads((out / scan.files["sidecar"]).read_text())
            # a series may give several images: the one with the same times and image type
            same = [
                raw
                for raw in sidecars
                if all(raw.get(k) == own.get(k) for k in ("EchoTime", "EchoTime1"))
                and set(own.get("ImageType", [])) <= set(raw.get("ImageType", []))
            ]
            assert same, scan.modality
            yield scan.modality, same[0], own


def check(scans):
    suffixes = set()
    for suffix, raw, own in scans:
        suffixes.add(suffix)
        assert REQUIRED.get(suffix, set()) - {"FlipAngle"} <= set(own), suffix
        for key in keys_of(suffix) & raw.keys() - {"TaskName", "Units", "ImageType"}:
            if key in ("SliceTiming", "MatrixCoilMode") and key not in own:
                # times that contradict the image; a mode that is not a defined term
                assert sidecar.consistent(raw, len(raw.get("SliceTiming", []))) != raw or raw[
                    key
                ] not in ("SENSE", "GRAPPA")
                continue
            assert own.get(key) == raw[key], (suffix, key)
    return suffixes


def test_sidecars_of_phantoms_keep_the_documented_keys(demo, tmp_path):
    source, _ = demo
    assert {"T1w", "T2w", "FLAIR"} <= check(kept_of(source, tmp_path))


def test_sidecars_of_real_series_keep_the_documented_keys(data, tmp_path):
    suffixes = set()
    for site in ("SITE_A", "SITE_B"):
        suffixes |= check(kept_of(data / "dicom" / site, tmp_path / site))
    assert {"T1w", "T2w"} <= suffixes


def test_the_dicom_form_keeps_the_documented_attributes(data):
    keywords = {k for dicom, _, _ in documented() for k in dicom}

    def pairs(before, after):
        for e in before:
            if e.VR == "SQ" and e.tag in after:
                for a, b in zip(e.value, after[e.tag].value, strict=False):
                    yield from pairs(a, b)
            elif e.keyword in keywords and e.value not in ("", None):
                yield e, after.get(e.tag)

    compared = set()
    files = [p for p in sorted((data / "dicom").rglob("*")) if p.is_file()]
    for path in files[::7] + [p for p in files if p.parent.name in ("enh", "xa30")]:
        try:
            out = scrub_bytes(path.read_bytes(), *WHO)
        except WithheldError:
            continue
        before = pydicom.dcmread(path, stop_before_pixels=True)
        for e, after in pairs(before, pydicom.dcmread(io.BytesIO(out), stop_before_pixels=True)):
            if e.VR in ("LO", "SH"):
                continue  # texts are cleaned; one that names the person is removed
            assert after is not None, e.keyword
            assert after.value == e.value, e.keyword
            compared.add(e.keyword)
    assert len(compared) > 30
