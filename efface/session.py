"""Record of a session, as the inventory hands it on to the other stages.

It is stored as JSON; keys are the names of the fields. It holds identifiers: restricted zone only.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, fields, is_dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from efface.errors import EffaceError

if TYPE_CHECKING:
    from _typeshed import DataclassInstance

    from efface.status import Status

Source = Literal["dicom", "bids"]


@dataclass(frozen=True, slots=True)
class BidsName:
    """Name of an image in a BIDS source."""

    datatype: str
    suffix: str
    entities: dict[str, str]
    """With sub and ses."""

    @classmethod
    def from_dict(cls, raw: Mapping[str, Any] | None) -> BidsName | None:
        """The name in a JSON object, if there is one."""
        return cls(**raw) if raw is not None else None


@dataclass(frozen=True, slots=True, kw_only=True)
class SeriesHeader:
    """What the headers of a series say."""

    series: str
    """Pseudonym (``series-…``)."""
    uid: str
    """Series Instance UID, or the path of an image in a BIDS source."""
    kind: Literal["image", "object"]
    """Object: anything but MR images, and images that cannot be converted."""
    modality: str
    sop_class: str
    frame_of_reference: str
    """Pseudonym of the frame of reference; empty if there is none."""
    number: object
    """Series number; None if there is none."""
    attributes: dict[str, Any]
    """:data:`efface.inventory.header.ATTRIBUTES` of the first image; values as in the header."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Series(SeriesHeader):
    """A series of a session."""

    text: str
    """Result of the search for text in the images: see :mod:`efface.inventory.ocr`."""
    status: Status
    reasons: tuple[str, ...]
    files: tuple[str, ...]
    """Absolute paths of the images in order; in a BIDS source an image and its sidecars."""
    bids: BidsName | None = None

    @classmethod
    def from_dict(cls, raw: Mapping[str, Any]) -> Series:
        """The record in a JSON object."""
        known = {"reasons": tuple(raw["reasons"]), "files": tuple(raw["files"])}
        return cls(**{**raw, **known, "bids": BidsName.from_dict(raw.get("bids"))})


@dataclass(frozen=True, slots=True, kw_only=True)
class Session:
    """One study of one person."""

    session: str
    """Pseudonym (``sub-…_ses-…``)."""
    subject: str
    """Pseudonym (``sub-…``)."""
    patient: tuple[str, str]
    """Patient id and its issuer; in a BIDS source the subject folder and ``bids``."""
    study: str
    """Study Instance UID, or the folders of a BIDS session."""
    key: str
    """Fingerprint of the project key."""
    source: Source
    series: tuple[Series, ...]
    fingerprint: str
    """Sixteen hex digits that change if a file, a reason or the key changes."""

    @classmethod
    def from_dict(cls, raw: Mapping[str, Any]) -> Session:
        """The record in a JSON object.

        Raises TypeError, ValueError, KeyError or AttributeError if it is no such record.
        """
        patient, issuer = raw["patient"]
        series = tuple(Series.from_dict(s) for s in raw["series"])
        return cls(**{**raw, "patient": (patient, issuer), "series": series})


def read_session(path: Path) -> Session:
    """Read the record of a session.

    Raises :class:`EffaceError` if it is missing or malformed.
    """
    try:
        return Session.from_dict(json.loads(path.read_text()))
    except OSError as e:
        raise EffaceError(f"{path}: cannot be read ({e.strerror}); run efface again") from e
    except (ValueError, TypeError, KeyError, AttributeError) as e:
        raise EffaceError(f"{path}: not an inventory of this version; run efface again") from e


def as_dict(record: DataclassInstance) -> dict[str, Any]:
    """JSON object of a record; optional fields without a value are left out."""
    return {
        field.name: _json(value)
        for field in fields(record)
        if (value := getattr(record, field.name)) is not None or field.default is not None
    }


def _json(value: Any) -> Any:  # noqa: ANN401 - of any field
    if isinstance(value, dict):
        return {k: _json(v) for k, v in value.items()}
    if isinstance(value, (list, tuple)):
        return [_json(v) for v in value]
    return as_dict(value) if is_dataclass(value) and not isinstance(value, type) else value
