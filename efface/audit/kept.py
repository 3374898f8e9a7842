"""Age, sex and time of acquisition, as far as options of the scrub keep them.

The options are ``patient-characteristics``, ``dates-full`` and ``dates-shifted``; without one
nothing is kept. Of a BIDS source's participants.tsv and scans.tsv no other column is kept.
"""

from __future__ import annotations

import math
import re
import warnings
from collections.abc import Iterable
from datetime import datetime, timedelta
from pathlib import Path

from efface import tables
from efface.inventory.identity import SEXES
from efface.pseudonym import Key
from efface.session import Series, Session

BEFORE_1925 = 10_436
"""Weeks (200 years) added to each person's own shift in a BIDS dataset: by the BIDS specification a
year before 1925 marks a shifted date. The same number for all persons."""

OLDEST = 89
"""Highest age in years. BIDS 1.11 writes ages above 89 as 89."""


def of_person(session: Session, retain: Iterable[str]) -> dict[str, str]:
    """``age`` (years, at most 89) and ``sex`` (M, F, O), if an option keeps them.

    ``session`` is the inventory's.
    """
    if "patient-characteristics" not in set(retain):
        return {}
    if session.source == "bids":
        row = participant(session)
        given_age, given_sex = row.get("age", ""), row.get("sex", "")
    else:
        given_age, given_sex = _of_header(session)
    out = {"age": age(given_age), "sex": SEXES.get(given_sex.strip().lower(), "")}
    return {k: v for k, v in out.items() if v}


def age(text: str) -> str:
    """Age in whole years, at most 89; empty if ``text`` is not an age.

    >>> age("045Y"), age("018M"), age("8"), age("93.5"), age("89+"), age("Jane"), age("200")
    ('45', '1', '8', '89', '89', '', '')
    """
    text = text.strip()
    if text == f"{OLDEST}+":
        return str(OLDEST)  # the spelling of BIDS before 1.10.1
    match = re.fullmatch(r"(\d{3})([DWMY])|(\d{1,3}(?:\.\d{1,2})?)", text)
    if not match:
        return ""
    if match[3]:
        years = float(match[3])
    else:
        years = int(match[1]) / {"D": 365.25, "W": 52.18, "M": 12, "Y": 1}[match[2]]
    if years > 130:
        return ""
    return str(min(OLDEST, math.floor(years)))


def acquired(session: Session, series: Series, retain: Iterable[str], key: Key | None) -> str:
    """Time of acquisition as in BIDS (``1826-03-07T10:11:12``); empty without an option.

    A shifted time is the real one minus a whole number of weeks, the subject's own plus
    :data:`BEFORE_1925`. This keeps the time between two scans of a person and the day of the week.
    """
    options = {"dates-full", "dates-shifted"} & set(retain)
    moment = _moment(session, series) if options else None
    if moment is None:
        return ""
    if "dates-full" in options:
        return moment.isoformat()
    if "dates-shifted" in options and key is not None:
        return shifted(moment, key.weeks(session.subject))
    return ""


def shifted(moment: datetime, weeks: int) -> str:
    """The time ``weeks`` plus :data:`BEFORE_1925` earlier; empty if that is before year 1."""
    try:
        return (moment - timedelta(weeks=weeks + BEFORE_1925)).isoformat()
    except OverflowError:
        return ""


def _moment(session: Session, series: Series) -> datetime | None:
    if session.source == "bids":
        image = Path(series.files[0])
        folder = image.parent.parent
        where = "_".join(session.study.split("/"))
        name = f"{image.parent.name}/{image.name}"
        text = _row(folder, f"{where}_scans.tsv", "filename", name).get("acq_time", "")
        try:
            moment = datetime.fromisoformat(text.strip())
        except ValueError:
            return None
        # a date without a time is not used; a time zone is removed, because it tells the place
        return moment.replace(tzinfo=None) if "T" in text else None
    a = series.attributes
    for text in (
        str(a.get("AcquisitionDateTime", "")),
        f"{a.get('AcquisitionDate', '')}{a.get('AcquisitionTime', '')}",
        f"{a.get('SeriesDate', '')}{a.get('SeriesTime', '')}",
    ):
        match = re.match(r"(\d{14})(\.\d{1,6})?", text.replace(":", ""))
        if match:
            try:
                whole = datetime.strptime(match[1], "%Y%m%d%H%M%S")
            except ValueError:
                continue
            return whole + timedelta(seconds=float(match[2] or 0))
    return None


def participant(session: Session) -> dict[str, str]:
    """Row of the person in participants.tsv; empty if there is none, or several."""
    rows = participants(session)
    return rows[0] if len(rows) == 1 else {}


def participants(session: Session) -> list[dict[str, str]]:
    """Rows of the person in the participants.tsv of a BIDS source; more than one is an error."""
    rows = tables.read_source(_root(session) / "participants.tsv")
    return [row for row in rows if row.get("participant_id") == session.patient[0]]


def visit(session: Session) -> list[dict[str, str]]:
    """Rows of the scans.tsv of a session of a BIDS source; empty if there is none."""
    where = session.study.split("/")
    return tables.read_source(_root(session).joinpath(*where) / f"{'_'.join(where)}_scans.tsv")


def _root(session: Session) -> Path:
    """Root of a BIDS source, by the path of its first image."""
    image = Path(session.series[0].files[0])
    return image.parents[1 + len(session.study.split("/"))]


def _row(folder: Path, name: str, column: str, value: str) -> dict[str, str]:
    """Row of a table whose ``column`` holds ``value``; empty if there is none, or several."""
    rows = [r for r in tables.read_source(folder / name) if r.get(column) == value]
    return rows[0] if len(rows) == 1 else {}


def _of_header(session: Session) -> tuple[str, str]:
    import pydicom

    for series in session.series:
        for name in series.files[:1]:
            try:
                with warnings.catch_warnings():
                    warnings.simplefilter("ignore")
                    ds = pydicom.dcmread(
                        name,
                        stop_before_pixels=True,
                        specific_tags=["PatientAge", "PatientSex"],
                    )
                    person = str(ds.get("PatientAge") or ""), str(ds.get("PatientSex") or "")
            except Exception:  # an unreadable file has no age
                continue
            if any(person):
                return person
    return "", ""
