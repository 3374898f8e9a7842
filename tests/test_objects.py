"""DICOM objects that are not MR images are withheld."""

import pytest
from small_dicom import MR, mr, write

from efface import inventory, status
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
        # the class alone withholds an object that is labelled MR
        yield pytest.param({"SOPClassUID": STORAGE + sop}, id=name + ", with modality MR")
    for name, changes in OTHER.items():
        yield pytest.param(changes, id=name)


@pytest.mark.parametrize("changes", list(cases()))
def test_each_object_is_withheld_with_a_reason(changes, tmp_path):
    folder = tmp_path / "source" / "a"
    write(folder)
    path = folder / "object"
    other = {"SOPInstanceUID": "1.9.9", "SeriesInstanceUID": "1.9"}
    ds = mr(1, **other | changes)
    ds.file_meta.MediaStorageSOPClassUID = changes.get("SOPClassUID", MR) or "1.2.3.4"
    ds.save_as(path, enforce_file_format=True)
    entry = inventory.run_entry(tmp_path / "source", "a", KEY)
    reasons = {f.path.rsplit("/", 1)[1]: f.reason for f in entry.files}
    phrase = reasons.pop("object").split(":", 1)[0]
    assert phrase in {
        status.SECONDARY_CAPTURE, status.STRUCTURED_REPORT, status.NOT_MR,
        status.OBJECT_TYPE_NOT_ALLOWED, status.NO_IMAGE, status.TEXT_BURNED_IN, status.UNREADABLE,
    }  # fmt: skip
    assert set(reasons.values()) == {""}
    (session,) = inventory.merge([entry], KEY)
    good, bad = sorted(session.series, key=lambda s: s.status, reverse=True)
    assert (good.status, good.kind, len(good.files)) == ("pass", "image", 4)
    assert (bad.status, bad.kind) == ("fail", "object")
    assert bad.reasons
    # the scrub makes the same decision independently
    with pytest.raises(WithheldError):
        scrub_file(path, tmp_path / "out.dcm", KEY, "sub-a", "ses-b")
    assert not (tmp_path / "out.dcm").exists()


def test_an_object_in_a_series_of_images_is_withheld_alone(tmp_path):
    """A capture with the series UID of images is withheld; the images are not."""
    folder = tmp_path / "source" / "a"
    write(folder)
    capture = mr(9, SOPClassUID=STORAGE + "7")
    capture.save_as(folder / "capture", enforce_file_format=True)
    (session,) = inventory.merge([inventory.run_entry(tmp_path / "source", "a", KEY)], KEY)
    assert sorted((s.kind, s.status, len(s.files)) for s in session.series) == [
        ("image", "pass", 4),
        ("object", "fail", 1),
    ]
