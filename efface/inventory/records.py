"""Record of one top-level entry of the source: its series, files and persons.

It is stored as JSON; keys are the names of the fields. It holds identifiers: restricted zone only.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from efface.errors import EffaceError
from efface.inventory.identity import Statement
from efface.session import BidsName, SeriesHeader, Source


@dataclass(frozen=True, slots=True, kw_only=True)
class ListedFile:
    """A file of the source."""

    path: str
    """Absolute."""
    bytes: int
    mtime_ns: int
    reason: str
    """Reason against the file; empty for a complete MR image."""
    series: str
    """Key in :attr:`Entry.series`, or empty."""
    instance: str
    """SOP Instance UID, or the path of an image in a BIDS source; empty for other files."""
    number: int | None
    """Instance number."""
    relative: str | None = None
    """In a BIDS source: the path relative to the source."""
    sha256: str | None = None
    """Of files with the same instance UID; empty if the file could not be read."""


@dataclass(frozen=True, slots=True, kw_only=True)
class EntrySeries(SeriesHeader):
    """The part of a series that lies in one entry."""

    rank: tuple[int, str]
    """Instance number and path of the first image."""
    session: str
    """Pseudonym of the session from the first image alone (:func:`efface.inventory.merge`)."""
    subject: str
    patient: tuple[str, str]
    """Patient id and its issuer; in a BIDS source the subject folder and ``bids``."""
    study: str
    """Study Instance UID, or the folders of a BIDS session."""
    text: str | None = None
    """Result of the search for text in the images; None without a complete DICOM image."""
    doubt: str | None = None
    """Reason of that search for review; empty if there is none."""
    bids: BidsName | None = None

    @property
    def where(self) -> str:
        """Session and series: the key of the series in :attr:`Entry.series`."""
        return f"{self.session} {self.series}"

    @classmethod
    def from_dict(cls, raw: Mapping[str, Any]) -> EntrySeries:
        """The record in a JSON object."""
        number, path = raw["rank"]
        patient, issuer = raw["patient"]
        known = {"rank": (number, path), "patient": (patient, issuer)}
        return cls(**{**raw, **known, "bids": BidsName.from_dict(raw.get("bids"))})


@dataclass(frozen=True, slots=True, kw_only=True)
class Entry:
    """A top-level entry of the source."""

    entry: str
    """Pseudonym (``entry-…``)."""
    source: Source
    series: dict[str, EntrySeries]
    """By session and series pseudonym."""
    files: tuple[ListedFile, ...]
    """In the order of :func:`efface.inventory.walk.walk`."""
    people: tuple[Statement, ...]
    """Each distinct statement of a file about its person once."""

    @classmethod
    def from_dict(cls, raw: Mapping[str, Any]) -> Entry:
        """The record in a JSON object.

        Raises TypeError, ValueError, KeyError or AttributeError if it is no such record.
        """
        known = {
            "series": {where: EntrySeries.from_dict(s) for where, s in raw["series"].items()},
            "files": tuple(ListedFile(**f) for f in raw["files"]),
            "people": tuple(
                Statement(**{**p, "others": tuple(p["others"])}) for p in raw["people"]
            ),
        }
        return cls(**{**raw, **known})


def read_entry(path: Path) -> Entry:
    """Read the record of an entry.

    Raises :class:`EffaceError` if it is missing or malformed.
    """
    try:
        return Entry.from_dict(json.loads(path.read_text()))
    except (OSError, ValueError, TypeError, KeyError, AttributeError) as e:
        raise EffaceError(f"{path}: malformed or missing inventory; delete it, run again") from e
