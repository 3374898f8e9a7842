"""Dates in DICOM: intervals within a person stay, and nothing tells by how much they moved."""

from datetime import date, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydicom.dataset import Dataset
from pydicom.sequence import Sequence
from small_dicom import mr

from efface.pseudonym import Key
from efface.scrub.dataset import scrub_dataset

KEYS = st.binary(min_size=32, max_size=32).map(Key)
DAYS = st.dates(date(1975, 1, 1), date(2090, 1, 1))
OF_THINGS = {
    "DateOfLastCalibration": "20190301",
    "TimeOfLastCalibration": "080000",
    "DateOfManufacture": "20120201",
    "DateOfInstallation": "20130401",
}


def scrubbed(day, key, subject="sub-a", retain=("dates-shifted",), **more):
    code = Dataset()
    code.CodeValue, code.CodingSchemeDesignator, code.CodeMeaning = "T-D1100", "SRT", "Head"
    code.ContextGroupVersion = "20180101"
    values = {"StudyDate": f"{day:%Y%m%d}", "AcquisitionDate": f"{day:%Y%m%d}", **more}
    ds = mr(**values, AnatomicRegionSequence=Sequence([code]), SoftwareVersions="syngo MR E11")
    return scrub_dataset(ds, key, subject, "ses-a", retain)


def when(ds):
    return date.fromisoformat(f"{ds.StudyDate[:4]}-{ds.StudyDate[4:6]}-{ds.StudyDate[6:]}")


@given(DAYS, DAYS, KEYS)
def test_intervals_between_sessions_stay(one, other, key):
    first, second = (when(scrubbed(day, key)) for day in (one, other))
    assert second - first == other - one
    assert (one - first) % timedelta(weeks=1) == timedelta(0)
    assert timedelta(weeks=1) <= one - first <= timedelta(weeks=520)
    # other people move by another number, but for chance
    assert one - when(scrubbed(one, key, "sub-b")) == timedelta(weeks=key.weeks("sub-b"))


@given(DAYS, KEYS)
def test_dates_of_things_do_not_move_with_the_person(day, key):
    out = scrubbed(day, key, **OF_THINGS)
    for keyword in OF_THINGS:
        assert keyword not in out
    moved = f"{date(2018, 1, 1) - timedelta(weeks=key.weeks('sub-a')):%Y%m%d}"
    text = str(out)
    assert moved not in text
    assert "20180101" not in text
    assert out.SoftwareVersions == "syngo MR E11"


@pytest.mark.parametrize("options", [("dates-shifted", "device"), ("device",), ()])
def test_nor_are_they_kept_by_other_options(options):
    out = scrubbed(date(2019, 3, 7), Key(bytes(32)), retain=options, **OF_THINGS)
    assert not set(OF_THINGS) & set(out.dir())


def test_full_dates_keep_them_as_they_are():
    out = scrubbed(date(2019, 3, 7), Key(bytes(32)), retain=("dates-full",), **OF_THINGS)
    assert out.DateOfLastCalibration == "20190301"
    assert out.StudyDate == "20190307"


@given(KEYS)
def test_without_an_option_no_date_is_left(key):
    out = scrubbed(date(2019, 3, 7), key, retain=(), **OF_THINGS)
    assert "2019" not in f"{out.get('StudyDate')}{out.get('AcquisitionDate')}"
    assert not set(OF_THINGS) & set(out.dir())
