"""Sidecars by an allow-list: technical numbers, words of closed lists and technical texts."""

from __future__ import annotations

import codecs
import csv
import io
import json
import math
import re
import sys
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

from efface.errors import EffaceError
from efface.technical import is_technical

_HERE = Path(__file__).parent
_LONGEST = 100_000

_ATTRIBUTES = {"model": 0x00081090, "software": 0x00181020}
"""Kinds of values with the forms of a DICOM attribute: model name, software versions."""
_CONVERTER = re.compile(r"v\d\.\d\.20[2-9]\d{5}")
"""Versions of dcm2niix, such as v1.0.20260724."""
_LABEL = "[a-z2-7]{10}"
# as efface.convert.references writes them: pseudonyms and words of BIDS
_REFERENCES = {
    "image": re.compile(
        rf"bids::(sub-{_LABEL})/(ses-{_LABEL})/[a-z]+/\1_\2(_[a-z]+-[A-Za-z0-9+]+)*"
        r"_[A-Za-z0-9]+\.nii\.gz"
    ),
    "field": re.compile(r"fieldmap\d{1,4}"),
}


@dataclass(frozen=True)
class Allowed:
    """One row of sidecar.tsv: the values that a key may have."""

    kind: str
    low: float = -math.inf
    high: float = math.inf
    values: frozenset[str] = frozenset()


@cache
def table() -> dict[str, Allowed]:
    """Keys that may be released, with their allowed values."""
    with (_HERE / "sidecar.tsv").open(newline="") as f:
        return {
            row["key"]: Allowed(
                row["kind"],
                float(row["low"] or -math.inf),
                float(row["high"] or math.inf),
                frozenset(row["values"].split()),
            )
            for row in csv.DictReader(f, delimiter="\t")
        }


def allowed(raw: Mapping[str, Any]) -> dict[str, Any]:
    """Copy the keys and values of a sidecar that are on the allow-list; keys sorted.

    Numbers must be in the range of the key, words in its list. Nested values are removed.

    >>> allowed({"EchoTime": 0.03, "SeriesDescription": "Jane Doe", "Units": "Jane"})
    {'EchoTime': 0.03}
    """
    out = {}
    for key in sorted(raw):
        rule = table().get(key)
        if rule is not None:
            value = _checked(raw[key], rule)
            if value is not None and value != []:
                out[key] = value
    return out


def _checked(value: object, rule: Allowed) -> object:
    if rule.kind in ("number", "integer"):
        if isinstance(value, list):
            fits = 0 < len(value) <= _LONGEST and all(_number(v, rule) for v in value)
            return value if fits else None
        return value if _number(value, rule) else None
    if rule.kind == "boolean":
        return value if isinstance(value, bool) else None
    if rule.kind == "words":
        many = value if isinstance(value, list) else str(value).split("\\")
        kept = [v for v in many if isinstance(v, str) and v in rule.values]
        return kept if isinstance(value, list) else "\\".join(kept) or None
    if rule.kind in _REFERENCES:
        one = value if isinstance(value, list) else [value]
        pattern = _REFERENCES[rule.kind]
        known = bool(one) and all(isinstance(v, str) and pattern.fullmatch(v) for v in one)
        return value if known else None
    if not isinstance(value, str):
        return None
    if rule.kind == "word":
        return value if value in rule.values else None
    if rule.kind == "phrase":
        return value if value and set(value.split()) <= rule.values else None
    if rule.kind == "label":
        return value if re.fullmatch(r"[A-Za-z0-9]{1,30}", value) else None
    if rule.kind == "converter":
        return value if _CONVERTER.fullmatch(value) else None
    values = [v.strip() for v in value.split("\\")]
    known = any(values) and is_technical(_ATTRIBUTES[rule.kind], values)
    return "\\".join(values) if known else None


def _number(value: object, rule: Allowed) -> bool:
    if not finite(value):
        return False
    assert isinstance(value, (int, float))
    if rule.kind == "integer" and value != int(value):
        return False
    return rule.low <= value <= rule.high


def finite(value: object) -> bool:
    """Whether a JSON value is a finite number in the range of a double.

    The JSON reader of Python also accepts ``NaN``, ``Infinity`` and integers of any length.
    """
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        return False
    return abs(value) <= sys.float_info.max


def consistent(sidecar: Mapping[str, Any], slices: int) -> dict[str, Any]:
    """Remove slice times that contradict the image, which the BIDS validator rejects."""
    out = dict(sidecar)
    times = out.get("SliceTiming")
    longest = out.get("RepetitionTime", math.inf)
    if times is not None and (
        not isinstance(times, list)
        or len(times) != slices
        or isinstance(longest, list)
        or max(times) > longest
    ):
        del out["SliceTiming"]
    return out


def text(path: Path) -> str:
    """Text of a file, decoded as UTF-8 or by its byte order mark.

    Invalid bytes become a replacement character.
    """
    data = path.read_bytes()
    marks = ((codecs.BOM_UTF8, "utf-8-sig"), *_MARKS)
    encoding = next((name for mark, name in marks if data.startswith(mark)), "utf-8")
    return io.StringIO(data.decode(encoding, errors="replace"), newline=None).read()


_MARKS = (
    # first, because the mark of UTF-32 begins with that of UTF-16
    *((codecs.BOM_UTF32_LE, "utf-32"), (codecs.BOM_UTF32_BE, "utf-32")),
    *((codecs.BOM_UTF16_LE, "utf-16"), (codecs.BOM_UTF16_BE, "utf-16")),
)


def merged(paths: Iterable[Path]) -> dict[str, Any]:
    """Merge sidecars; later ones override earlier ones (BIDS inheritance principle).

    An empty file counts as an empty object. Raises :class:`EffaceError` for a file that is not a
    JSON object.
    """
    out: dict[str, Any] = {}
    for path in paths:
        try:
            value = json.loads(text(path).strip() or "{}")
        except (ValueError, RecursionError) as e:
            raise EffaceError("a .json file that describes the image is not valid JSON") from e
        if not isinstance(value, dict):
            raise EffaceError("a .json file that describes the image is not a JSON object")
        out |= value
    return out


CODES = {
    "113100": "Basic Application Confidentiality Profile",
    "113101": "Clean Pixel Data Option",
    "113102": "Clean Recognizable Visual Features Option",
    "113103": "Clean Graphics Option",
    "113104": "Clean Structured Content Option",
    "113105": "Clean Descriptors Option",
    "113106": "Retain Longitudinal Temporal Information Full Dates Option",
    "113107": "Retain Longitudinal Temporal Information Modified Dates Option",
    "113108": "Retain Patient Characteristics Option",
    "113109": "Retain Device Identity Option",
    "113110": "Retain UIDs Option",
    "113111": "Retain Safe Private Option",
    "113112": "Retain Institution Identity Option",
}
"""Codes of DICOM PS3.16 CID 7050, de-identification methods."""


def deidentified(
    sidecar: Mapping[str, Any], methods: Sequence[str], codes: Sequence[str]
) -> dict[str, Any]:
    """Add DeidentificationMethod and DeidentificationMethodCodeSequence to a sidecar.

    ``codes`` are keys of :data:`CODES`.
    """
    return {
        **sidecar,
        "DeidentificationMethod": list(methods),
        "DeidentificationMethodCodeSequence": [
            {
                "CodeValue": code,
                "CodingSchemeDesignator": "DCM",
                "CodingSchemeVersion": "2026a",
                "CodeMeaning": CODES[code],
            }
            for code in codes
        ],
    }
