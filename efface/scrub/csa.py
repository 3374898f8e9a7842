"""The CSA image header of Siemens (0029,xx10), reduced to numbers that readers need.

It is the only place with the slice order of a mosaic and the sign of the phase encoding direction.
The header is rewritten: only the values of the fields below are kept.
"""

from __future__ import annotations

import re
import struct
from dataclasses import dataclass

_NUMBER = re.compile(r"[+-]?\d{1,9}(\.\d{1,12})?")
# 64p*64, 128*128s
_MATRIX = re.compile(r"\d{1,4}[ps]?\*\d{1,4}[ps]?")


@dataclass(frozen=True)
class Field:
    """A kept field: its VR, the largest number of values, and their form."""

    vr: str
    most: int
    form: re.Pattern[str] = _NUMBER


KEPT = {
    "NumberOfImagesInMosaic": Field("US", 1),
    "SliceNormalVector": Field("FD", 3),
    "AcquisitionMatrixText": Field("SH", 1, _MATRIX),
    "MosaicRefAcqTimes": Field("FD", 512),
    "ProtocolSliceNumber": Field("IS", 1),
    "PhaseEncodingDirectionPositive": Field("IS", 1),
    "BandwidthPerPixelPhaseEncode": Field("FD", 1),
    "SliceMeasurementDuration": Field("DS", 1),
    "RealDwellTime": Field("IS", 1),
    "TimeAfterStart": Field("DS", 1),
    "B_value": Field("IS", 1),
    "DiffusionGradientDirection": Field("FD", 3),
    "B_matrix": Field("FD", 6),
}
"""Documented numbers (note 2 of PS3.15 E.3.10); most are kept as private elements too. nibabel and
SPM need the matrix to recognise a mosaic."""

_TYPES = {"FD": 4, "DS": 3, "IS": 6, "US": 10, "SH": 22}
_ENTRY = struct.Struct("<64si4siii")
_LENGTHS = struct.Struct("<4i")
_MOST_ENTRIES = 256


def clean(header: bytes) -> bytes | None:
    """A CSA image header with only the fields of :data:`KEPT`, or None if it has none of them.

    >>> clean(b"no header") is None
    True
    """
    entries = []
    for name, values in _entries(header):
        rule = KEPT.get(name)
        if rule and 0 < len(values) <= rule.most and all(map(rule.form.fullmatch, values)):
            entries.append((name, rule.vr, values))
    return _written(entries) if entries else None


def _entries(header: bytes) -> list[tuple[str, list[str]]]:
    """Name and values of each field, both as text; empty if it is not a complete CSA header."""
    newer = header[:4] == b"SV10"
    at = 8 if newer else 0
    out = []
    try:
        count, _ = struct.unpack_from("<2I", header, at)
        if count > _MOST_ENTRIES:
            return []
        at += 8
        shift = 0
        for entry in range(count):
            name, most, _, _, items, _ = _ENTRY.unpack_from(header, at)
            at += _ENTRY.size
            if entry == 0 and not newer:
                shift = items  # the older format adds it to every length
            values = []
            for _ in range(items):
                lengths = _LENGTHS.unpack_from(header, at)
                at += _LENGTHS.size
                size = lengths[1] if newer else lengths[0] - shift
                if size < 0 or at + size > len(header):
                    return []
                text = header[at : at + size].split(b"\0", 1)[0].decode("latin-1").strip()
                at += (size + 3) // 4 * 4
                values += [text] if text else []
            out.append((name.split(b"\0", 1)[0].decode("latin-1"), values[: most or None]))
    except struct.error:
        return []
    return out


def _written(entries: list[tuple[str, str, list[str]]]) -> bytes:
    """The newer format of the header (SV10), with six items for each field, as scanners write it.

    Readers depend on that: dcm2niix reads three items of fields that have one.
    """
    parts = [b"SV10\4\3\2\1", struct.pack("<2I", len(entries), 77)]
    for name, vr, values in entries:
        items = max(len(values), 6)
        many = 0 if name == "MosaicRefAcqTimes" else len(values)
        parts.append(_ENTRY.pack(name.encode(), many, vr.encode(), _TYPES[vr], items, 77))
        for value in values:
            data = value.encode() + b"\0"
            parts.append(_LENGTHS.pack(len(data), len(data), 77, len(data)))
            parts.append(data + bytes(-len(data) % 4))
        parts += [_LENGTHS.pack(0, 0, 205, 0)] * (items - len(values))
    return b"".join(parts) + bytes(4)
