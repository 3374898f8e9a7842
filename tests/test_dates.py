"""Dates in DICOM: the intervals of a person are kept, and no date reveals the shift."""

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
DEVICE_DATES = {
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


def study_date(ds):
    return date.fromisoformat(f"{ds.StudyDate[:4]}-{ds.StudyDate[4:6]}-{ds.StudyDate[6:]}")


@given(DAYS, DAYS, KEYS)
def test_intervals_between_sessions_are_kept(one, other, key):
    first, second = (study_date(scrubbed(day, key)) for day in (one, other))
    assert second - first == other - one
    assert (one - first) % timedelta(weeks=1) == timedelta(0)
    assert timedelta(weeks=1) <= one - first <= timedelta(weeks=520)
    # the dates of another person are shifted by another number of weeks
    assert one - study_date(scrubbed(one, key, "sub-b")) == timedelta(weeks=key.weeks("sub-b"))


@given(DAYS, KEYS)
def test_dates_of_devices_and_codes_are_removed_and_not_shifted(day, key):
    out = scrubbed(day, key, **DEVICE_DATES)
    for keyword in DEVICE_DATES:
        assert keyword not in out
    shifted = f"{date(2018, 1, 1) - timedelta(weeks=key.weeks('sub-a')):%Y%m%d}"
    assert out.StudyDate == out.AcquisitionDate
    del out.StudyDate, out.AcquisitionDate  # may be any day, also one of those below
    text = str(out)
    assert shifted not in text
    assert "20180101" not in text
    assert out.SoftwareVersions == "syngo MR E11"


@pytest.mark.parametrize("options", [("dates-shifted", "device"), ("device",), ()])
def test_other_options_do_not_retain_dates_of_devices(options):
    out = scrubbed(date(2019, 3, 7), Key(bytes(32)), retain=options, **DEVICE_DATES)
    assert not set(DEVICE_DATES) & set(out.dir())


def test_full_dates_retain_dates_of_devices():
    out = scrubbed(date(2019, 3, 7), Key(bytes(32)), retain=("dates-full",), **DEVICE_DATES)
    assert out.DateOfLastCalibration == "20190301"
    assert out.StudyDate == "20190307"


@given(KEYS)
def test_without_an_option_no_date_is_left(key):
    out = scrubbed(date(2019, 3, 7), key, retain=(), **DEVICE_DATES)
    assert "2019" not in f"{out.get('StudyDate')}{out.get('AcquisitionDate')}"
    assert not set(DEVICE_DATES) & set(out.dir())
