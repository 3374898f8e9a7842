"""The tables beside this file, and what they decide for an attribute in its place.

``profile.tsv``  PS3.15 Table E.1-1: Basic Profile action and option columns
``iod.tsv``      PS3.3: the attributes of the MR objects and their types
``beyond.tsv``   what efface decides where the profile is silent
``words.tsv``    words that name nobody
"""

from __future__ import annotations

import csv
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from functools import lru_cache
from importlib.resources import files
from typing import Literal

from efface.errors import EffaceError

Action = Literal["X", "Z", "D", "U", "K", "C", "text", "vr"]
"""Remove, empty, dummy, new UID, keep, clean, technical text, or what its VR says."""

IODS = {
    "1.2.840.10008.5.1.4.1.1.4": "mr",
    "1.2.840.10008.5.1.4.1.1.4.1": "enhanced-mr",
    "1.2.840.10008.5.1.4.1.1.4.4": "legacy-mr",
}
"""SOP classes that pass, and their column in ``iod.tsv``. All others are withheld."""

OPTIONS = {
    "uids": ("113110", "Retain UIDs Option"),
    "device": ("113109", "Retain Device Identity Option"),
    "institution": ("113112", "Retain Institution Identity Option"),
    "patient-characteristics": ("113108", "Retain Patient Characteristics Option"),
    "dates-full": ("113106", "Retain Longitudinal Temporal Information Full Dates Option"),
    "dates-shifted": ("113107", "Retain Longitudinal Temporal Information Modified Dates Option"),
    "descriptors": ("113105", "Clean Descriptors Option"),
}
"""Options of PS3.15 that efface offers: column of ``profile.tsv`` to CID 7050."""

_LATER = {
    "safe-private": "private elements are always removed",
    "structured-content": "structured content is always removed",
    "graphics": "overlays and graphics are always removed",
}
_DATES = ("dates-full", "dates-shifted")


@dataclass(frozen=True)
class Decision:
    """What happens to an attribute, and what instead where its value cannot be kept safely."""

    action: Action
    otherwise: Literal["X", "Z", "D"]


def check_options(retain: Iterable[str]) -> tuple[str, ...]:
    """The options, sorted and each once.

    Raises :class:`EffaceError` for an unknown option and for options that exclude each other.
    """
    chosen = tuple(sorted(set(retain)))
    for option in chosen:
        if option in _LATER:
            raise EffaceError(f"option {option} is not offered: {_LATER[option]}")
        if option not in OPTIONS:
            raise EffaceError(f"unknown option {option}; options are: {', '.join(OPTIONS)}")
    if set(_DATES) <= set(chosen):
        raise EffaceError("dates-full and dates-shifted exclude each other: choose one of them")
    return chosen


@dataclass(frozen=True)
class Policy:
    """The tables as they read for one kind of object under a choice of options."""

    iod: str
    retain: tuple[str, ...]

    def decide(self, parent: int, tag: int, is_date: bool) -> Decision:
        """The decision for a public attribute inside sequence ``parent`` (0 at the top).

        An attribute that no MR object has is removed, whatever else is said of it. Dates are
        kept by an option on dates only, so that keeping the device keeps no calibration date.
        """
        kinds = _iod()
        if tag not in kinds.tags:
            return Decision("X", "X")
        kind = kinds.types.get((parent, tag), {}).get(self.iod) or "3"
        row = _profile().get(tag)
        if row is None:
            action = _beyond(tag) or "vr"
            return Decision(action, "X" if action == "X" else _by_type("X/Z/D", kind))
        said = [row[o] for o in self.retain if not is_date or o in _DATES]
        base = row["basic"]
        uid = base == "U" or (base == "X/Z/U*" and kind.startswith("1"))
        otherwise = _by_type("X/Z/D" if uid else base, kind)
        if "K" in said:
            return Decision("K", otherwise)
        if "C" in said:
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
    for row in _rows("iod.tsv"):
        parent = _tag(row["parent"]) if row["parent"] else 0
        types[parent, _tag(row["tag"])] = {c: row[c] for c in IODS.values()}
    return _Iod(types, frozenset(tag for _, tag in types))


@lru_cache(maxsize=1)
def _profile() -> dict[int, dict[str, str]]:
    """By tag; the three repeating groups and the private ones are in the codec and beyond.tsv."""
    return {
        _tag(row["tag"]): row
        for row in _rows("profile.tsv")
        if not set(row["tag"]) - set("0123456789ABCDEF,")
    }


@lru_cache(maxsize=4096)
def _beyond(tag: int) -> Literal["X", "text"] | None:
    """The decision of ``beyond.tsv`` on a tag, an exact line before a pattern."""
    lines, text = _beyond_lines(), f"{tag:08X}"
    action = lines.get(text)
    if action is None:
        for pattern, said in lines.items():
            if "x" in pattern and all(p in ("x", t) for p, t in zip(pattern, text, strict=True)):
                action = said
                break
    if action not in (None, "X", "text"):
        raise ValueError(f"beyond.tsv: {text} has the action {action}")
    return action  # type: ignore[return-value]


@lru_cache(maxsize=1)
def _beyond_lines() -> dict[str, str]:
    return {row["tag"].replace(",", ""): row["action"] for row in _rows("beyond.tsv")}


@lru_cache(maxsize=4)
def words(kind: Literal["protocol", "maker", "common"]) -> frozenset[str]:
    """Words of ``words.tsv`` that name nobody."""
    return frozenset(
        w for row in _rows("words.tsv") if row["kind"] == kind for w in row["words"].split()
    )


def _rows(name: str) -> Iterator[dict[str, str]]:
    lines = files(__package__).joinpath(name).read_text().splitlines()
    return csv.DictReader((line for line in lines if not line.startswith("#")), delimiter="\t")


def _tag(text: str) -> int:
    return int(text.replace(",", ""), 16)
