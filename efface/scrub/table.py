"""Read the tables of this folder, and decide on each attribute.

``profile.tsv``  PS3.15 Table E.1-1: Basic Profile action and option columns
``iod.tsv``      PS3.3: the attributes of the MR objects and their types
``beyond.tsv``   decisions of efface on attributes that are not in the profile
``terms.tsv``    allowed values of code strings
``safe_private.tsv``  the private elements that the option safe-private keeps
``words.tsv``    words that are not names
"""

from __future__ import annotations

import csv
import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from functools import lru_cache
from importlib.resources import files
from typing import Literal

from efface.errors import EffaceError
from efface.scrub import diffusion

Action = Literal["X", "Z", "D", "U", "K", "C", "text", "vr"]
"""Remove, empty, dummy, new UID, keep, clean, technical text, or decide by VR."""

IODS = {
    "1.2.840.10008.5.1.4.1.1.4": "mr",
    "1.2.840.10008.5.1.4.1.1.4.1": "enhanced-mr",
    "1.2.840.10008.5.1.4.1.1.4.4": "legacy-mr",
}
"""Allowed SOP classes, with their column in ``iod.tsv``. All others are withheld."""

OPTIONS = {
    "uids": ("113110", "Retain UIDs Option"),
    "device": ("113109", "Retain Device Identity Option"),
    "institution": ("113112", "Retain Institution Identity Option"),
    "patient-characteristics": ("113108", "Retain Patient Characteristics Option"),
    "dates-full": ("113106", "Retain Longitudinal Temporal Information Full Dates Option"),
    "dates-shifted": ("113107", "Retain Longitudinal Temporal Information Modified Dates Option"),
    "safe-private": ("113111", "Retain Safe Private Option"),
    "descriptors": ("113105", "Clean Descriptors Option"),
    "structured-content": ("113104", "Clean Structured Content Option"),
    "graphics": ("113103", "Clean Graphics Option"),
}
"""Options of PS3.15 E.3 on headers: code and meaning of CID 7050, by column of ``profile.tsv``."""

_DATES = ("dates-full", "dates-shifted")
_OF_THINGS = frozenset(
    {0x00080106, 0x00080107, 0x0014407C, 0x0014407E, 0x0018700C, 0x0018700E, 0x0040DB06, 0x0040DB07}
) | frozenset(range(0x00181200, 0x00181206))
"""Dates and times of devices and of vocabularies (calibration, manufacture, installation, version
of a context group). Others know them too: shifted like the dates of the person, they would reveal
the shift."""


@dataclass(frozen=True)
class Decision:
    """Action for an attribute, and the alternative if its value cannot be kept safely."""

    action: Action
    otherwise: Literal["X", "Z", "D"]


def check_options(retain: Iterable[str]) -> tuple[str, ...]:
    """Options, sorted and without repetition.

    Raises :class:`EffaceError` for an unknown option and for options that exclude each other.
    """
    chosen = tuple(sorted(set(retain)))
    for option in chosen:
        if option not in OPTIONS:
            raise EffaceError(f"unknown option {option}; options are: {', '.join(OPTIONS)}")
    if set(_DATES) <= set(chosen):
        raise EffaceError(
            "dates-full and dates-shifted exclude each other: a date is unchanged or shifted;"
            " choose one of them"
        )
    return chosen


@dataclass(frozen=True)
class Policy:
    """The tables for one kind of object and a set of options."""

    iod: str
    retain: tuple[str, ...]

    def decide(self, parent: int, tag: int, is_date: bool) -> Decision:
        """Decision on a public attribute inside sequence ``parent`` (0 at the top level).

        Attributes that no MR object has are removed. Only options on dates keep dates, so that
        the option ``device`` does not keep calibration dates.
        """
        kinds = _iod()
        if tag not in kinds.tags:
            return Decision("X", "X")
        kind = kinds.types.get((parent, tag), {}).get(self.iod) or "3"
        row = _profile().get(tag)
        if row is None:
            action = _beyond(tag) or "vr"
            return Decision(action, "X" if action == "X" else _by_type("X/Z/D", kind))
        options = [row[o] for o in self.retain if not is_date or o in _DATES]
        if tag in _OF_THINGS and "dates-full" not in self.retain:
            options = []
        base = row["basic"]
        uid = base == "U" or (base == "X/Z/U*" and kind.startswith("1"))
        otherwise = _by_type("X/Z/D" if uid else base, kind)
        if "K" in options:
            return Decision("K", otherwise)
        if "C" in options:
            return Decision("C", otherwise)
        return Decision("U" if uid else otherwise, otherwise)


def _by_type(action: str, kind: str) -> Literal["X", "Z", "D"]:
    """Resolve a conditional action by the attribute's type in the object (PS3.15 E.3)."""
    strict = kind[0]
    if action in ("X", "D"):
        return "X" if action == "X" else "D"
    if strict == "3" and action.startswith("X"):
        return "X"
    if strict == "1" or action == "X/D":
        return "D"
    return "Z"


@dataclass(frozen=True)
class _Iod:
    types: dict[tuple[int, int], dict[str, str]]
    tags: frozenset[int]


@lru_cache(maxsize=1)
def _iod() -> _Iod:
    types = {}
    for row in rows("iod.tsv"):
        parent = _tag(row["parent"]) if row["parent"] else 0
        types[parent, _tag(row["tag"])] = {c: row[c] for c in IODS.values()}
    return _Iod(types, frozenset(tag for _, tag in types))


@lru_cache(maxsize=1)
def _profile() -> dict[int, dict[str, str]]:
    """Rows by tag. The codec and beyond.tsv cover repeating groups and private elements."""
    return {
        _tag(row["tag"]): row
        for row in rows("profile.tsv")
        if not set(row["tag"]) - set("0123456789ABCDEF,")
    }


@lru_cache(maxsize=4096)
def _beyond(tag: int) -> Literal["X", "text"] | None:
    """Decision of ``beyond.tsv`` on a tag; an exact tag precedes a pattern."""
    lines, text = _beyond_lines(), f"{tag:08X}"
    action = lines.get(text)
    if action is None:
        for pattern, decision in lines.items():
            if "x" in pattern and all(p in ("x", t) for p, t in zip(pattern, text, strict=True)):
                action = decision
                break
    if action not in (None, "X", "text"):
        raise ValueError(f"beyond.tsv: {text} has the action {action}")
    return action  # type: ignore[return-value]


@lru_cache(maxsize=1)
def _beyond_lines() -> dict[str, str]:
    return {row["tag"].replace(",", ""): row["action"] for row in rows("beyond.tsv")}


@dataclass(frozen=True)
class Safe:
    """A row of ``safe_private.tsv``: a private element that can be kept."""

    vr: str
    most: int
    values: frozenset[str]


@lru_cache(maxsize=1)
def safe_private() -> dict[tuple[str, int], Safe]:
    """Rows by creator (case folded), and by group and last two digits: ``0x001929``."""
    return {
        (row["creator"].casefold(), int(row["group"] + row["element"], 16)): Safe(
            row["vr"], int(row["most"]), frozenset(row["values"].split())
        )
        for row in rows("safe_private.tsv")
    }


def wanted_private(retain: Iterable[str]) -> frozenset[int]:
    """Private elements to read, as an argument of :func:`efface.scrub.codec.parse`."""
    safe = safe_private() if "safe-private" in retain else ()
    return diffusion.PRIVATE.union(e for _, e in safe)


# a letter, a number, or a letter with a number: T1, E2, B1000, 2D
_SHORT_TERM = re.compile(r"[A-Z]?\d{1,3}|[A-Z]\d{0,4}|\d{1,2}[A-Z]")
_BETWEEN = re.compile(r"[ _/+.-]+")


@lru_cache(maxsize=8192)
def is_term(tag: int, value: str) -> bool:
    """Whether ``terms.tsv`` allows this value of the attribute."""
    row = _terms().get(tag)
    if row is None:
        return False
    if value in row[1] or not value:
        return True
    if not row[0]:
        return False
    parts = [w for w in _BETWEEN.split(value) if w]
    strange = [w for w in parts if w not in _scanner_words()]
    # two letters with numbers can be a ward and a bed, or initials
    return len(strange) <= 1 and all(
        _SHORT_TERM.fullmatch(w) and not (w.isdigit() and len(parts) == 1) for w in strange
    )


def other_term(tag: int) -> str:
    """``OTHER`` if it is a term of the attribute, or empty."""
    row = _terms().get(tag)
    return "OTHER" if row and "OTHER" in row[1] else ""


@lru_cache(maxsize=1)
def _terms() -> dict[int, tuple[bool, frozenset[str]]]:
    """By tag: whether manufacturers add their own terms, and the terms."""
    return {
        _tag(row["tag"]): (row["open"] == "yes", frozenset(row["terms"].split(",")))
        for row in rows("terms.tsv")
        if row["tag"] != "any"
    }


@lru_cache(maxsize=1)
def _scanner_words() -> frozenset[str]:
    """Words of the terms of attributes to which manufacturers add their own terms."""
    open_rows = [row for row in rows("terms.tsv") if row["open"] == "yes"]
    return frozenset(w for r in open_rows for t in r["terms"].split(",") for w in _BETWEEN.split(t))


@lru_cache(maxsize=4)
def words(kind: Literal["protocol", "common"]) -> frozenset[str]:
    """Words of ``words.tsv`` of one kind."""
    return frozenset(
        w for row in rows("words.tsv") if row["kind"] == kind for w in row["words"].split()
    )


def rows(name: str) -> Iterator[dict[str, str]]:
    """Rows of a table of this folder, without its comments."""
    lines = files(__package__).joinpath(name).read_text().splitlines()
    return csv.DictReader((line for line in lines if not line.startswith("#")), delimiter="\t")


def _tag(text: str) -> int:
    return int(text.replace(",", ""), 16)
