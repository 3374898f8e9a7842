"""Sidecars by an allow-list: technical numbers and words of closed lists, nothing else."""

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

_HERE = Path(__file__).parent
_LONGEST = 100_000

_MODEL_NUMBER = re.compile(r"(MR)?\d{1,3}(\.\d{1,2})?[wT]?|MR\d{1,3}w?|[1-7](\.\d)?T")
# syngo MR E11, XA30, B17; DV26.0_R01_1725.a; 5.7.1.1; v1.0.20260724
_VERSION = re.compile(
    r"v?\d{1,3}(\.\d{1,8}){0,4}|[A-Z]{1,3}\d{1,3}[A-Z]?(\.\d)?(_R\d\d_\d{4}\.[a-z])?"
)
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
    """One line of sidecar.tsv."""

    kind: str
    low: float = -math.inf
    high: float = math.inf
    values: frozenset[str] = frozenset()


@cache
def table() -> dict[str, Allowed]:
    """Every key that may stay, with the values it may have."""
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


@cache
def _words(kind: str) -> frozenset[str]:
    with (_HERE / "words.tsv").open(newline="") as f:
        rows = [r["words"] for r in csv.DictReader(f, delimiter="\t") if r["kind"] == kind]
    return frozenset(" ".join(rows).split())


def allowed(raw: Mapping[str, Any]) -> dict[str, Any]:
    """What of a sidecar may be released; keys sorted.

    Numbers must lie in the key's range, words in its list; nested values go.

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
    words, number = _words(rule.kind), {"model": _MODEL_NUMBER, "version": _VERSION}[rule.kind]
    parts = re.split(r"[\s\\]+", value.strip()) if rule.kind == "model" else _version_parts(value)
    fits = all(p in words or number.fullmatch(p) for p in parts)
    return value.strip() if parts and fits else None


def _version_parts(value: str) -> list[str]:
    return [p for p in re.split(r"[\s\\]+|(?<=release:)", value.strip()) if p]


def _number(value: object, rule: Allowed) -> bool:
    if not finite(value):
        return False
    assert isinstance(value, (int, float))
    if rule.kind == "integer" and value != int(value):
        return False
    return rule.low <= value <= rule.high


def finite(value: object) -> bool:
    """Whether a value of JSON is a number that a double can hold.

    Python's reader also takes ``NaN``, ``Infinity`` and integers of any length.
    """
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        return False
    return abs(value) <= sys.float_info.max


def consistent(sidecar: Mapping[str, Any], slices: int) -> dict[str, Any]:
    """The sidecar without slice times that contradict the image; the validator rejects those."""
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
    """Text of a file beside an image: UTF-8, or what its byte order mark says.

    Bytes that are no such text become a replacement character.
    """
    data = path.read_bytes()
    marks = ((codecs.BOM_UTF8, "utf-8-sig"), *_MARKS)
    encoding = next((name for mark, name in marks if data.startswith(mark)), "utf-8")
    return io.StringIO(data.decode(encoding, errors="replace"), newline=None).read()


_MARKS = (
    # that of UTF-32 begins with that of UTF-16
    *((codecs.BOM_UTF32_LE, "utf-32"), (codecs.BOM_UTF32_BE, "utf-32")),
    *((codecs.BOM_UTF16_LE, "utf-16"), (codecs.BOM_UTF16_BE, "utf-16")),
)


def merged(paths: Iterable[Path]) -> dict[str, Any]:
    """Sidecars put together, later ones over earlier ones (BIDS inheritance principle).

    One of blanks only says nothing. Raises :class:`EffaceError` for a file that is no JSON object.
    """
    out: dict[str, Any] = {}
    for path in paths:
        try:
            value = json.loads(text(path).strip() or "{}")
        except (ValueError, RecursionError) as e:
            raise EffaceError("a .json file that describes the image is no valid JSON") from e
        if not isinstance(value, dict):
            raise EffaceError("a .json file that describes the image holds no JSON object")
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
    """The sidecar with DeidentificationMethod and DeidentificationMethodCodeSequence.

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
