"""Objects that are no images of the head, and pictures with text in them: all stay in."""

import shutil

import numpy as np
import pytest
from PIL import Image, ImageDraw, ImageFont
from small_dicom import MR, mr, write

from efface import inventory, status
from efface.inventory import ocr
from efface.pseudonym import Key
from efface.scrub import WithheldError, scrub_file

KEY = Key(b"o" * 32)
STORAGE = "1.2.840.10008.5.1.4.1.1."
OBJECTS = {
    "secondary capture": ("7", "SC"),
    "multi-frame secondary capture, one bit": ("7.1", "OT"),
    "multi-frame secondary capture, colour": ("7.4", "OT"),
    "basic text report": ("88.11", "SR"),
    "comprehensive 3D report": ("88.34", "SR"),
    "key object selection": ("88.59", "KO"),
    "grey presentation state": ("11.1", "PR"),
    "blending presentation state": ("11.4", "PR"),
    "encapsulated PDF": ("104.1", "DOC"),
    "encapsulated CDA": ("104.2", "DOC"),
    "encapsulated STL": ("104.3", "M3D"),
    "raw data": ("66", "MR"),
    "spatial registration": ("66.1", "REG"),
    "segmentation": ("66.4", "SEG"),
    "surface segmentation": ("66.5", "SEG"),
    "spectroscopy": ("4.2", "MR"),
    "enhanced MR in colour": ("4.3", "MR"),
    "video of a microscope": ("77.1.2.1", "GM"),
    "photograph": ("77.1.4", "XC"),
    "12-lead ECG": ("9.1.1", "ECG"),
    "CT image": ("2", "CT"),
    "positron emission": ("128", "PT"),
    "ultrasound": ("6.1", "US"),
    "structure set": ("481.3", "RTSTRUCT"),
    "parametric map": ("30", "MR"),
    "tractography": ("66.6", "MR"),
}
OTHER = {
    "DICOMDIR": {"SOPClassUID": "1.2.840.10008.1.3.10"},
    "private class of Siemens": {"SOPClassUID": "1.3.12.2.1107.5.9.1"},
    "unknown class": {"SOPClassUID": "1.2.3.4"},
    "no class": {"SOPClassUID": ""},
    "class with a tail": {"SOPClassUID": MR + ".99"},
    "another modality": {"Modality": "OT"},
    "burned in, by flag": {"BurnedInAnnotation": "YES"},
    "burned in, by conversion type": {"ConversionType": "DV"},
    "burned in, scanned film": {"ConversionType": "DF"},
    "burned in, screen save": {"ImageType": ["DERIVED", "SECONDARY", "SCREEN SAVE"]},
    "colour": {
        "SamplesPerPixel": 3,
        "PhotometricInterpretation": "RGB",
        "PlanarConfiguration": 0,
        "BitsAllocated": 8,
        "PixelData": bytes(576),
    },
    "palette": {"PhotometricInterpretation": "PALETTE COLOR"},
}


def cases():
    for name, (sop, modality) in OBJECTS.items():
        yield pytest.param({"SOPClassUID": STORAGE + sop, "Modality": modality}, id=name)
        # a class that lies about its modality stays in by its class
        yield pytest.param({"SOPClassUID": STORAGE + sop}, id=name + ", said to be MR")
    for name, changes in OTHER.items():
        yield pytest.param(changes, id=name)


@pytest.mark.parametrize("changes", list(cases()))
def test_each_stays_in_with_a_reason(changes, tmp_path):
    folder = tmp_path / "source" / "a"
    write(folder)
    path = folder / "object"
    other = {"SOPInstanceUID": "1.9.9", "SeriesInstanceUID": "1.9"}
    ds = mr(1, **other | changes)
    ds.file_meta.MediaStorageSOPClassUID = changes.get("SOPClassUID", MR) or "1.2.3.4"
    ds.save_as(path, enforce_file_format=True)
    entry = inventory.run_entry(tmp_path / "source", "a", KEY)
    reasons = {f["path"].rsplit("/", 1)[1]: f["reason"] for f in entry["files"]}
    phrase = reasons.pop("object").split(":", 1)[0]
    assert phrase in {
        status.SECONDARY_CAPTURE, status.STRUCTURED_REPORT, status.NOT_MR, status.NOT_ALLOWED,
        status.NO_IMAGE, status.BURNED_IN, status.UNREADABLE,
    }  # fmt: skip
    assert set(reasons.values()) == {""}
    (session,) = inventory.merge([entry], KEY)
    good, bad = sorted(session["series"], key=lambda s: s["status"], reverse=True)
    assert (good["status"], good["kind"], len(good["files"])) == ("pass", "image", 4)
    assert (bad["status"], bad["kind"]) == ("fail", "object")
    assert bad["reasons"]
    # the scrub decides by itself, and the same
    with pytest.raises(WithheldError):
        scrub_file(path, tmp_path / "out.dcm", KEY, "sub-a", "ses-b")
    assert not (tmp_path / "out.dcm").exists()


def test_objects_of_a_series_do_not_hide_in_it(tmp_path):
    """A capture with the series UID of images stays in, and the images go on."""
    folder = tmp_path / "source" / "a"
    write(folder)
    capture = mr(9, SOPClassUID=STORAGE + "7")
    capture.save_as(folder / "capture", enforce_file_format=True)
    (session,) = inventory.merge([inventory.run_entry(tmp_path / "source", "a", KEY)], KEY)
    assert sorted((s["kind"], s["status"], len(s["files"])) for s in session["series"]) == [
        ("image", "pass", 4),
        ("object", "fail", 1),
    ]


def picture(text="", size=12, where=(6, 6), shape=(192, 256)):
    """A grey ball in noise, and bright text as a workstation burns it in."""
    rng = np.random.default_rng(1)
    rows, columns = np.indices(shape)
    ball = np.hypot(rows - 96, columns - 128) < 70
    out = rng.normal(40, 12, shape) + ball * rng.normal(500, 60, shape)
    if text:
        ink = Image.new("L", shape[::-1])
        font = ImageFont.load_default(size)
        ImageDraw.Draw(ink).multiline_text(where, text, fill=255, font=font)
        out[np.asarray(ink) > 100] = 1200
    return np.clip(out, 0, 4095).astype("<u2")


def series(folder, text="", kind=("ORIGINAL", "PRIMARY", "M"), slices=3, **how):
    folder.mkdir(parents=True)
    for n in range(1, slices + 1):
        shown = picture(text, **how)
        ds = mr(n, ImageType=list(kind), PixelData=shown.tobytes(), Rows=192, Columns=256)
        ds.save_as(folder / f"IM{n}", enforce_file_format=True)
    return folder


@pytest.fixture
def calls(monkeypatch):
    """How often tesseract was asked; it sees nothing."""
    asked = []
    monkeypatch.setattr(shutil, "which", lambda name: f"/bin/{name}")
    monkeypatch.setattr(ocr, "read", lambda shown: asked.append(shown.shape) or [])
    return asked


def said(tmp_path, mode="auto"):
    """What inventory says of the text, and the reasons of the files."""
    entry = inventory.run_entry(tmp_path, "a", KEY, mode)
    (one,) = entry["series"].values()
    return one["text"], {f["reason"] for f in entry["files"]}


def test_pictures_that_a_scanner_measured_are_not_looked_at(tmp_path, calls):
    series(tmp_path / "a")
    assert said(tmp_path) == ("not looked: nothing suspicious", {""})
    assert not calls
    assert said(tmp_path, "always")[0] == "looked"
    assert len(calls) == 1


@pytest.mark.parametrize(
    ("kind", "text"),
    [
        (("DERIVED", "PRIMARY", "MPR"), ""),
        (("DERIVED", "SECONDARY"), ""),
        ((), ""),
        (("ORIGINAL", "PRIMARY", "M"), "Quillfeather 77"),
    ],
)
def test_one_look_at_what_is_suspicious(tmp_path, calls, kind, text):
    series(tmp_path / "a", text, kind, slices=7)
    assert said(tmp_path)[0] == "looked"
    assert len(calls) == 1
    assert said(tmp_path, "never")[0] == "not looked: switched off"
    assert len(calls) == 1


def test_without_tesseract_it_is_said_that_nobody_looked(tmp_path, monkeypatch):
    monkeypatch.setattr(shutil, "which", lambda _: None)
    series(tmp_path / "a", "Quillfeather 77")
    assert said(tmp_path) == ("not looked: tesseract is missing", {""})
    (session,) = inventory.merge([inventory.run_entry(tmp_path, "a", KEY)], KEY)
    assert session["series"][0]["text"] == "not looked: tesseract is missing"


def test_where_tesseract_fails_a_suspicious_series_is_withheld(tmp_path, monkeypatch):
    monkeypatch.setattr(shutil, "which", lambda name: name)
    (tmp_path / "bin").mkdir()
    fake = tmp_path / "bin" / "tesseract"
    fake.write_text("#!/bin/sh\nexit 1\n")
    fake.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path / "bin"))
    series(tmp_path / "source" / "a", "Quillfeather 77")
    source = tmp_path / "source"
    assert said(source) == ("not looked: tesseract gave no answer", {ocr.NO_ANSWER})
    assert said(source, "never") == ("not looked: switched off", {""})


def test_pictures_that_cannot_be_decoded_are_not_looked_at(tmp_path, calls):
    write(tmp_path / "a", slices=1, Rows=5000, PixelData=bytes(5000 * 16 * 2))
    assert said(tmp_path, "always") == ("not looked: not decoded", {""})
    assert not calls


def test_words_of_folds_and_noise_are_no_text():
    assert not ocr.is_text(["000", "66660686", "ooo"])
    assert not ocr.is_text(["The"])
    assert ocr.is_text(["Quillfeather"])
    assert ocr.is_text(["19710423"])
    assert ocr.is_text(["Theo", "Mara"])


needs_tesseract = pytest.mark.skipif(
    not shutil.which("tesseract"), reason="tesseract is not installed"
)


@needs_tesseract
@pytest.mark.parametrize("where", [(6, 6), (6, 170), (70, 90)], ids=["above", "below", "on it"])
@pytest.mark.parametrize("text", ["Quillfeather Mara", "19710423", "MRN 7741077"])
def test_burned_in_text_is_found(tmp_path, text, where):
    series(tmp_path / "a", text, where=where)
    assert said(tmp_path) == ("looked", {ocr.REASON})
    (session,) = inventory.merge([inventory.run_entry(tmp_path, "a", KEY)], KEY)
    (one,) = session["series"]
    assert (one["status"], one["reasons"]) == ("fail", [ocr.REASON])


@needs_tesseract
def test_a_picture_without_text_is_let_through(tmp_path):
    series(tmp_path / "a", kind=("DERIVED", "PRIMARY", "MPR"))
    assert said(tmp_path) == ("looked", {""})


@needs_tesseract
def test_a_multi_frame_picture_is_looked_at_too(tmp_path):
    frames = b"".join(picture("Quillfeather" if n == 4 else "").tobytes() for n in range(5))
    write(tmp_path / "a", slices=1, ImageType=["DERIVED", "PRIMARY"], NumberOfFrames=5,
          Rows=192, Columns=256, PixelData=frames, SOPClassUID=STORAGE + "4.1")  # fmt: skip
    assert said(tmp_path) == ("looked", {ocr.REASON})


@needs_tesseract
def test_no_series_of_the_real_exports_is_taken_for_text(data):
    for site in ("SITE_A", "SITE_B", "SITE_C"):
        for name in inventory.entries(data / "dicom" / site, KEY).values():
            entry = inventory.run_entry(data / "dicom" / site, name, KEY)
            assert not [f for f in entry["files"] if f["reason"] == ocr.REASON], site
