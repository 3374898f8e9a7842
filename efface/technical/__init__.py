"""Technical texts: values that have a form of ``technical.tsv``.

People can type any text into attributes such as model, software, coils and pulse sequence.
Therefore a value is kept only if the whole value has a known form. Scrub and convert both use this.
"""

from __future__ import annotations

import csv
import re
from collections.abc import Iterator, Sequence
from functools import cache
from pathlib import Path

from pydicom._dicom_dict import DicomDictionary
from pydicom.datadict import keyword_for_tag

_LONGEST = 64  # characters of an LO


def is_technical(tag: int, values: Sequence[str]) -> bool:
    """Whether all values of an attribute have a form that scanners write.

    >>> is_technical(0x00081090, ["Prisma_fit"]), is_technical(0x00081090, ["St Olaves Prisma"])
    (True, False)
    """
    keyword = keyword_for_tag(tag)
    form, others = _form(keyword), _attributes() if _names_attributes(keyword) else frozenset()
    return form is not None and all(
        not v or v in others or (len(v) <= _LONGEST and form.fullmatch(v)) for v in values
    )


@cache
def words(kind: str) -> frozenset[str]:
    """Words of one list of the table."""
    return frozenset(
        w
        for row in rows()
        if row["kind"] in ("words", "exact") and row["name"] == kind
        for w in row["text"].split()
    )


@cache
def _form(keyword: str) -> re.Pattern[str] | None:
    """All forms of an attribute as one regular expression, or None."""
    forms = [
        "(?:" + re.sub(r"<(\w+)>", lambda m: _any_of(m[1]), row["text"]) + ")"
        for row in rows()
        if row["kind"] == "form" and keyword in row["name"].split()
    ]
    return re.compile("|".join(forms), re.ASCII) if forms else None


@cache
def _names_attributes(keyword: str) -> bool:
    lines = rows()
    return any(row["kind"] == "attribute" and keyword in row["name"].split() for row in lines)


@cache
def _any_of(kind: str) -> str:
    """Regular expression for the words of a list; longer words first."""
    known = words(kind)
    if not known:
        raise ValueError(f"technical.tsv: no words {kind}")
    exact = any((row["kind"], row["name"]) == ("exact", kind) for row in rows())
    every = {v for w in known for v in ((w,) if exact else (w, w.upper(), w.lower()))}
    return f"(?:{'|'.join(map(re.escape, sorted(every, key=lambda w: (-len(w), w))))})"


@cache
def _attributes() -> frozenset[str]:
    """Names and keywords of all attributes of DICOM."""
    every = DicomDictionary.values()
    return frozenset(text for _, _, name, _, keyword in every for text in (name, keyword))


def rows() -> Iterator[dict[str, str]]:
    """Rows of the table, without its comments."""
    lines = Path(__file__).with_name("technical.tsv").read_text().splitlines()
    return csv.DictReader((line for line in lines if not line.startswith("#")), delimiter="\t")
