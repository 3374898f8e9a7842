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

ASKED = {
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

# as scanners and dcm2niix say it; and a key of the same kind with a person in it
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


def promised():
    """Rows of the table: DICOM keywords, sidecar keys, suffixes."""
    text = DOCS.read_text().split("## Attributes kept for research", 1)[1].split("\n\n")[2]
    for line in text.splitlines()[2:]:
        _, dicom, keys, suffixes = (cell.strip() for cell in line.strip("|").split("|"))
        known = [w for w in dicom.split() if tag_for_keyword(w)]
        assert known or "private" in dicom or "(removed)" in dicom
        assert set(dicom.split()) - set(known) <= {"private", "and", "(removed)"}
        yield known, [] if keys.startswith("(") else keys.split(), suffixes.split()


def keys_of(suffix):
    return {k for _, keys, of in promised() for k in keys if suffix in of or of == ["all"]}


def test_the_table_is_read():
    rows = list(promised())
    assert len(rows) > 15
    assert {"EchoTime", "SliceTiming", "TotalReadoutTime"} <= keys_of("bold")


@pytest.mark.parametrize("suffix", [*ASKED, "dwi", "asl"])
def test_a_sidecar_of_each_suffix_keeps_what_is_promised(suffix):
    keys = keys_of(suffix)
    assert ASKED.get(suffix, set()) <= keys
    raw = {k: EXAMPLES.get(k, 1) for k in keys} | {"SeriesDescription": "Zarquon"}
    kept = sidecar.allowed(raw)
    assert kept == {k: v for k, v in raw.items() if k != "SeriesDescription"}


def kept_of(source, folder):
    """For each scan of a source: suffix, what dcm2niix said of it, what is in its sidecar."""
    found = [inventory.run_entry(source, n, KEY) for n in inventory.entries(source, KEY).values()]
    for session in inventory.merge(found, KEY):
        out = folder / session.session
        for scan in convert.run(session, out, KEY):
            if scan.status == "fail" or not scan.files:
                continue
            (series,) = [s for s in session.series if s.series == scan.series]
            again = out / "again" / scan.scan
            again.mkdir(parents=True)
            said = [dict(i.sidecar) for i in dcm2niix.convert(series.files, again, 600).images]
            own = json.loads((out / scan.files["sidecar"]).read_text())
            # a series may give several images: the one whose times and kind are these
            same = [
                raw
                for raw in said
                if all(raw.get(k) == own.get(k) for k in ("EchoTime", "EchoTime1"))
                and set(own.get("ImageType", [])) <= set(raw.get("ImageType", []))
            ]
            assert same, scan.modality
            yield scan.modality, same[0], own


def check(found):
    seen = set()
    for suffix, raw, own in found:
        seen.add(suffix)
        assert ASKED.get(suffix, set()) - {"FlipAngle"} <= set(own), suffix
        for key in keys_of(suffix) & raw.keys() - {"TaskName", "Units", "ImageType"}:
            if key in ("SliceTiming", "MatrixCoilMode") and key not in own:
                # times that contradict the image; a mode that is no term
                assert sidecar.consistent(raw, len(raw.get("SliceTiming", []))) != raw or raw[
                    key
                ] not in ("SENSE", "GRAPPA")
                continue
            assert own.get(key) == raw[key], (suffix, key)
    return seen


def test_phantoms_keep_it(demo, tmp_path):
    source, _ = demo
    assert {"T1w", "T2w", "FLAIR"} <= check(kept_of(source, tmp_path))


def test_real_series_keep_it(data, tmp_path):
    seen = set()
    for site in ("SITE_A", "SITE_B"):
        seen |= check(kept_of(data / "dicom" / site, tmp_path / site))
    assert {"T1w", "T2w"} <= seen


def test_the_dicom_form_keeps_it(data):
    keywords = {k for dicom, _, _ in promised() for k in dicom}

    def pairs(was, now):
        for e in was:
            if e.VR == "SQ" and e.tag in now:
                for a, b in zip(e.value, now[e.tag].value, strict=False):
                    yield from pairs(a, b)
            elif e.keyword in keywords and e.value not in ("", None):
                yield e, now.get(e.tag)

    compared = set()
    files = [p for p in sorted((data / "dicom").rglob("*")) if p.is_file()]
    for path in files[::7] + [p for p in files if p.parent.name in ("enh", "xa30")]:
        try:
            out = scrub_bytes(path.read_bytes(), *WHO)
        except WithheldError:
            continue
        was = pydicom.dcmread(path, stop_before_pixels=True)
        for e, now in pairs(was, pydicom.dcmread(io.BytesIO(out), stop_before_pixels=True)):
            if e.VR in ("LO", "SH"):
                continue  # texts are cleaned; one that names the person goes
            assert now is not None, e.keyword
            assert now.value == e.value, e.keyword
            compared.add(e.keyword)
    assert len(compared) > 30
