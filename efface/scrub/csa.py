"""The CSA image header of Siemens (0029,xx10), reduced to numbers that readers need.

A mosaic says only here in which order its slices follow one another, and a series only here in
which direction its phase was encoded. The header is written anew: nothing of the source's bytes
stays but the values of the entries below.
"""

from __future__ import annotations

import re
import struct
from dataclasses import dataclass

_NUMBER = re.compile(r"[+-]?\d{1,9}(\.\d{1,12})?")
# 64p*64, 128*128s
_MATRIX = re.compile(r"\d{1,4}[ps]?\*\d{1,4}[ps]?")


@dataclass(frozen=True)
class Entry:
    """An entry that is kept: its VR, how many values it may have, and their form."""

    vr: str
    most: int
    form: re.Pattern[str] = _NUMBER


KEPT = {
    "NumberOfImagesInMosaic": Entry("US", 1),
    "SliceNormalVector": Entry("FD", 3),
    "AcquisitionMatrixText": Entry("SH", 1, _MATRIX),
    "MosaicRefAcqTimes": Entry("FD", 512),
    "ProtocolSliceNumber": Entry("IS", 1),
    "PhaseEncodingDirectionPositive": Entry("IS", 1),
    "BandwidthPerPixelPhaseEncode": Entry("FD", 1),
    "SliceMeasurementDuration": Entry("DS", 1),
    "RealDwellTime": Entry("IS", 1),
    "TimeAfterStart": Entry("DS", 1),
    "B_value": Entry("IS", 1),
    "DiffusionGradientDirection": Entry("FD", 3),
    "B_matrix": Entry("FD", 6),
}
"""Documented numbers (note 2 of PS3.15 E.3.10); most are kept as private elements too. Without the
matrix nibabel and SPM do not take a picture for a mosaic."""

_TYPES = {"FD": 4, "DS": 3, "IS": 6, "US": 10, "SH": 22}
_ENTRY = struct.Struct("<64si4siii")
_LENGTHS = struct.Struct("<4i")
_MOST_ENTRIES = 256


def clean(header: bytes) -> bytes | None:
    """A CSA image header with the entries of :data:`KEPT` alone, or None if it has none of them.

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
    """Name and values of each entry, both as text; none if it is not a whole CSA header."""
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
                shift = items  # the older form has it added to every length
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
    """The newer form of the header (SV10), with six items an entry as scanners write it.

    Readers rely on that: dcm2niix reads three items of entries that have one.
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
