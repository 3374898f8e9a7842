"""Coded entries: standard codes are kept, with the meaning from the standard.

The meaning of a code is free text and can contain a name; so can a code of a local scheme. Standard
codes come from pydicom (PS3.16's context groups: DCM, SNOMED CT, UCUM, …).
"""

from __future__ import annotations

from functools import lru_cache
from typing import Any, cast

from efface.scrub.codec import Element

VALUE, SCHEME, MEANING = 0x00080100, 0x00080102, 0x00080104
MACRO = frozenset(
    # the code sequence macro (PS3.3 Table 8.8-1); only value, scheme and meaning are kept
    0x00080000 | e
    for e in (*range(0x100, 0x108), 0x10B, 0x10D, 0x10F, *range(0x117, 0x123))
)
REMOVED = ("0000", "99EFFACE", "removed")
_UNITS = {"1": "no units", "um2/s": "um2/s", "mm2/s": "mm2/s", "ratio": "ratio"}


def is_code(item: list[Element]) -> bool:
    """Whether a sequence item is a coded entry."""
    return any(e.tag in (VALUE, MEANING, 0x00080119, 0x00080120) for e in item)


def known(item: list[Element]) -> list[Element]:
    """The three attributes that replace those of a coded entry."""
    entry = _entry(item) or REMOVED
    return [
        Element(tag, vr, text.encode())
        for (tag, vr), text in zip(
            ((VALUE, "SH"), (SCHEME, "SH"), (MEANING, "LO")), entry, strict=True
        )
    ]


def is_known(item: list[Element]) -> bool:
    """Whether the standard defines the coded entry."""
    return _entry(item) is not None


def _entry(item: list[Element]) -> tuple[str, str, str] | None:
    texts = {e.tag: e.value.decode("latin-1").strip("\0 ") for e in item if e.items is None}
    value, scheme = texts.get(VALUE, texts.get(0x00080119, "")), texts.get(SCHEME, "")
    meaning = _meanings().get((scheme, value))
    return None if meaning is None or len(value) > 16 else (value, scheme, meaning)


@lru_cache(maxsize=1)
def _meanings() -> dict[tuple[str, str], str]:
    from pydicom.sr._concepts_dict import concepts  # 70 ms: only if there is a code
    from pydicom.sr._snomed_dict import mapping

    meanings: dict[tuple[str, str], str] = {("UCUM", v): m for v, m in _UNITS.items()}
    for scheme, by_keyword in concepts.items():
        for codes in cast("dict[str, dict[str, tuple[str, Any]]]", by_keyword).values():
            for value, (meaning, _) in codes.items():
                plain = meaning if meaning.isascii() and "\\" not in meaning else value
                meanings.setdefault((scheme, value), plain[:64])
    # older names of SNOMED CT in DICOM (PS3.16 Annex 8): its former codes under three designators
    for old, new in mapping["SRT"].items():
        if ("SCT", new) in meanings:
            for scheme in ("SRT", "SNM3", "99SDM"):
                meanings[scheme, old] = meanings["SCT", new]
    return meanings
