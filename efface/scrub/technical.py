"""Which text of a scanner may stay: that which has a form of ``technical.tsv`` as a whole.

Such attributes (model, software, coils, pulse sequence) hold whatever a person types into them. So
a value stays only if all of it can be a scanner's, and what is not known goes.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from functools import cache

from pydicom._dicom_dict import DicomDictionary
from pydicom.datadict import keyword_for_tag

from efface.scrub.table import _rows

_LONGEST = 64  # characters of an LO


def is_technical(tag: int, values: Sequence[str]) -> bool:
    """Whether all values of the attribute have a form that scanners give them.

    >>> is_technical(0x00081090, ["Prisma_fit"]), is_technical(0x00081090, ["St Olaves Prisma"])
    (True, False)
    """
    form = _forms().get(keyword_for_tag(tag))
    return form is not None and all(
        len(v) <= _LONGEST and (not v or form.fullmatch(v)) for v in values
    )


@cache
def words(kind: str) -> frozenset[str]:
    """The words of one list, as they are written in the table."""
    return frozenset(
        w
        for row in _rows("technical.tsv")
        if row["kind"] in ("words", "exact") and row["name"] == kind
        for w in row["text"].split()
    )


@cache
def _forms() -> dict[str, re.Pattern[str]]:
    """By keyword of the attribute, its forms as one expression."""
    found: dict[str, list[str]] = {}
    for row in _rows("technical.tsv"):
        if row["kind"] == "form":
            form = re.sub(r"<(\w+)>", lambda m: _any_of(m[1]), row["text"])
            for keyword in row["name"].split():
                found.setdefault(keyword, []).append(f"(?:{form})")
    return {k: re.compile("|".join(forms), re.ASCII) for k, forms in found.items()}


@cache
def _any_of(kind: str) -> str:
    """An expression for the words of a list; a long one before those that it starts with."""
    known = _attributes() if kind == "attribute" else words(kind)
    if not known:
        raise ValueError(f"technical.tsv: no words {kind}")
    exact = any((row["kind"], row["name"]) == ("exact", kind) for row in _rows("technical.tsv"))
    every = {v for w in known for v in ((w,) if exact else (w, w.upper(), w.lower()))}
    return f"(?:{'|'.join(map(re.escape, sorted(every, key=lambda w: (-len(w), w))))})"


def _attributes() -> Iterable[str]:
    """Names and keywords of the attributes that DICOM has."""
    return {text for _, _, name, _, keyword in DicomDictionary.values() for text in (name, keyword)}
