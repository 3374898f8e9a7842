"""The record of de-identification in a scrubbed header, and image types."""

import io

import pydicom
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from pydicom.dataset import Dataset
from pydicom.sequence import Sequence
from small_dicom import mr

from efface import __version__
from efface.pseudonym import Key
from efface.scrub import scrub_bytes
from efface.scrub.table import OPTIONS, is_term

WHO = (Key(b"r" * 32), "sub-aaaaaaaaaa", "ses-bbbbbbbbbb")
OURS = [f"efface {__version__}", "PS3.15 Basic Profile 2026c"]
IMAGE_TYPE = 0x00080008


def scrubbed(retain=(), **attributes):
    out = io.BytesIO()
    ds = mr(1, PatientName="Quaxolotl^Ida", PatientID="QX-1", **attributes)
    ds.save_as(out, enforce_file_format=True)
    return pydicom.dcmread(io.BytesIO(scrub_bytes(out.getvalue(), *WHO, retain)))


def code(value, scheme="DCM", meaning="Clean Pixel Data Option"):
    item = Dataset()
    item.CodeValue, item.CodingSchemeDesignator, item.CodeMeaning = value, scheme, meaning
    return item


def values(ds, keyword):
    value = ds[keyword].value
    return [value] if isinstance(value, str) else list(value)


@pytest.mark.parametrize(
    ("before", "retain", "after"),
    [
        (None, (), "REMOVED"),
        ("MODIFIED", (), "REMOVED"),
        (None, ("dates-full",), "UNMODIFIED"),
        ("UNMODIFIED", ("dates-full",), "UNMODIFIED"),
        ("MODIFIED", ("dates-full",), "MODIFIED"),
        ("REMOVED", ("dates-full",), "REMOVED"),
        ("UNMODIFIED", ("dates-shifted",), "MODIFIED"),
        ("MODIFIED", ("dates-shifted",), "MODIFIED"),
        ("REMOVED", ("dates-shifted",), "REMOVED"),
        ("", ("dates-full",), "UNMODIFIED"),
        ("YES", ("dates-full",), "MODIFIED"),
        ("modified", ("dates-full",), "MODIFIED"),
        ("OSTRANDER", ("dates-full",), "MODIFIED"),
    ],
)
def test_dates_that_were_changed_before_are_not_called_unmodified(before, retain, after):
    out = scrubbed(retain, LongitudinalTemporalInformationModified=before)
    assert out.LongitudinalTemporalInformationModified == after


KNOWN = [
    "Per DICOM PS 3.15 AnnexE. Details in 0012,0064",
    "CTP Default",
    "Orthanc 1.12.1 - PS 3.15-2023b Table E.1-1 Basic Profile",
    "Basic Application Confidentiality Profile",
    "BASIC APPLICATION LEVEL CONFIDENTIALITY PROFILE",
    "Clean Pixel Data Option",
    "XNAT DicomEdit 6.3",
    "efface 0.0.9",
]


@pytest.mark.parametrize("former", KNOWN)
def test_a_former_method_is_kept_before_that_of_efface(former):
    assert values(scrubbed(DeidentificationMethod=former), "DeidentificationMethod") == [
        former,
        *OURS,
    ]


@settings(max_examples=50, suppress_health_check=list(HealthCheck))
@given(
    st.sampled_from(["by {}", "{}", "CTP Default, {}", "{} 1.2", "Profile of {}", "PS3.15 {}"]),
    st.sampled_from(
        [
            *("Mrs Ostrander", "LI", "J.K.", "St Olaves", "17.4.63", "0411-555-4478", "ward 7"),
            *("Müller", "a@b.example", "MRN 88123", "19630417", "Quaxolotl"),
        ]
    ),
)
def test_names_in_an_earlier_method_are_removed(lead, who):
    out = scrubbed(DeidentificationMethod=["CTP Default", lead.format(who)])
    assert values(out, "DeidentificationMethod") == ["CTP Default", *OURS]


def test_former_codes_are_kept_once_with_the_meaning_of_the_standard():
    former = [code("113100", meaning="for Mrs Ostrander"), code("113107"), code("113101")]
    former += [code("113111", "99SITE"), code("OSTRANDER"), code("121327", meaning="x")]
    out = scrubbed(("uids",), DeidentificationMethodCodeSequence=Sequence(former))
    meanings = {c.CodeValue: c.CodeMeaning for c in out.DeidentificationMethodCodeSequence}
    assert list(meanings) == ["113100", "113101", "113107", "113110"]
    assert meanings["113100"] == "Basic Application Confidentiality Profile"
    assert meanings["113107"] == OPTIONS["dates-shifted"][1]
    assert len(out.DeidentificationMethodCodeSequence) == 4
    assert out.PatientIdentityRemoved == "YES"


def test_a_second_scrub_gives_the_same_bytes():
    out = io.BytesIO()
    mr(1, DeidentificationMethod="CTP Default").save_as(out, enforce_file_format=True)
    once = scrub_bytes(out.getvalue(), *WHO, ("uids",))
    assert scrub_bytes(once, *WHO, ("uids",)) == once


# image types of Canon, UIH, GE, Siemens and Philips
REAL = [
    "ORIGINAL\\PRIMARY\\GDC",
    "ORIGINAL\\PRIMARY\\GDC\\NONE\\MAGNITUDE",
    "ORIGINAL\\PRIMARY\\M\\UCA\\IF\\MAGNITUDE",
    "ORIGINAL\\PRIMARY\\M\\VFRAME",
    "ORIGINAL\\PRIMARY\\M\\NORM\\DRS\\DIS2D\\DRB",
    "ORIGINAL\\PRIMARY\\M\\MB\\DIS2D",
    "DERIVED\\SECONDARY\\MPR\\CSA MPR\\\\CSAPARALLEL\\M\\ND\\NORM",
    "ORIGINAL\\PRIMARY\\FMRI\\NONE\\MAGNITUDE",
    "ORIGINAL\\PRIMARY\\M_FFE\\M\\FFE",
    "ORIGINAL\\PRIMARY\\EPI\\NONE",
    "DERIVED\\PRIMARY\\PROJECTION IMAGE",
    "DERIVED\\PRIMARY\\DIFFUSION\\ADC",
]


@pytest.mark.parametrize("image_type", REAL)
def test_image_types_of_manufacturers_are_kept(image_type):
    assert "\\".join(scrubbed(ImageType=image_type.split("\\")).ImageType) == image_type


@pytest.mark.parametrize(
    "typed",
    ["OSTRANDER", "MRS LONG", "WARD 7 BED 2", "17 04 63", "0411 555 44", "J K", "B12 C4", "17"],
)
def test_an_unknown_image_type_becomes_other(typed):
    assert not is_term(IMAGE_TYPE, typed)
    out = scrubbed(ImageType=["ORIGINAL", "PRIMARY", typed, "ND"])
    assert list(out.ImageType) == ["ORIGINAL", "PRIMARY", "OTHER", "ND"]


@pytest.mark.parametrize("offset", ["", "+0100", "-0330"])
def test_shifted_dates_have_no_time_zone(offset):
    moment = "20190307101112.5" + offset
    out = scrubbed(("dates-shifted",), AcquisitionDateTime=moment, TimezoneOffsetFromUTC="+0100")
    assert out.AcquisitionDateTime.endswith("101112.5")
    assert "TimezoneOffsetFromUTC" not in out
    whole = scrubbed(("dates-full",), AcquisitionDateTime=moment)
    assert whole.AcquisitionDateTime == moment
