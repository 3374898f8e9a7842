"""Copy b-value and gradient direction of a classic object from private to standard attributes.

Siemens and Philips store them in private elements in patient coordinates, as the MR Diffusion macro
requires (PS3.3 C.8.13.5.9). Canon stores the direction in Image Comments, in image coordinates; it
stays there, in the only form that readers recognise.
"""

from __future__ import annotations

import math
import re
import struct
from collections.abc import Iterable

from efface.scrub.codec import Element

_B, _KIND, _DIRECTION, _COMMENTS = 0x00189087, 0x00189075, 0x00189089, 0x00204000
_SIEMENS, _PHILIPS = "siemens mr header", "philips imaging dd 001"
_PHILIPS_MR = "philips mr imaging dd 001"
# by creator and element (group, last two digits): VR, and place among b, x, y, z
_SOURCES = {
    (_SIEMENS, 0x00190C): ("IS", 0),
    (_SIEMENS, 0x00190E): ("FD", 1),
    (_PHILIPS, 0x200103): ("FL", 0),
    (_PHILIPS_MR, 0x2005B0): ("FL", 1),
    (_PHILIPS_MR, 0x2005B1): ("FL", 2),
    (_PHILIPS_MR, 0x2005B2): ("FL", 3),
}
PRIVATE = frozenset(element for _, element in _SOURCES)
"""The private elements that are read, as :func:`efface.scrub.codec.parse` asks."""

_SIZES = {"FL": ("f", 4), "FD": ("d", 8)}
_LARGEST_B = 100_000
# b=1500(0.445,0.000,0.895)
_CANON = re.compile(rb"b=\d{1,5}\((-?[01]\.\d{1,6},){2}-?[01]\.\d{1,6}\)")


def standard(elements: Iterable[Element], little: bool) -> list[Element]:
    """Standard attributes that a data set lacks; ``little``: its byte order."""
    by_tag = {e.tag: e for e in elements}
    out = []
    comments = by_tag.get(_COMMENTS)
    if comments is not None and _CANON.fullmatch(comments.value.strip(b"\0 ")):
        out.append(Element(_COMMENTS, "LT", comments.value.strip(b"\0 ")))
    b, *direction = _gradient(by_tag, little)
    if b is None or any(t in by_tag and by_tag[t].value for t in (_B, _DIRECTION)):
        return out
    order = "<" if little else ">"
    length = math.sqrt(sum(v * v for v in direction if v is not None))
    weighted = b > 0
    kind = b"DIRECTIONAL" if weighted and length else b"ISOTROPIC" if weighted else b"NONE"
    out.append(Element(_B, "FD", struct.pack(f"{order}d", b)))
    out.append(Element(_KIND, "CS", kind))
    if kind == b"DIRECTIONAL":
        unit = [(v or 0.0) / length for v in direction]
        out.append(Element(_DIRECTION, "FD", struct.pack(f"{order}3d", *unit)))
    return out


def _gradient(by_tag: dict[int, Element], little: bool) -> list[float | None]:
    """b-value and direction, each None if the private elements do not have it."""
    values: list[float | None] = [None] * 4
    for tag, e in by_tag.items():
        by = by_tag.get(tag & 0xFFFF0000 | tag >> 8 & 0xFF)
        if not tag & 0x10000 or tag & 0xFFFF < 0x1000 or by is None or e.items is not None:
            continue
        creator = by.value.strip(b"\0 ").decode("latin-1").casefold()
        source = _SOURCES.get((creator, tag >> 8 & 0xFFFF00 | tag & 0xFF))
        if source:
            vr, place = source
            for n, value in enumerate(_numbers(e, vr, little)):
                if place + n < len(values):
                    values[place + n] = value
    b, *direction = values
    if b is None or not 0 <= b <= _LARGEST_B:
        return [None] * 4
    if any(v is not None and not abs(v) <= 1.01 for v in direction):
        return [b, None, None, None] if b == 0 else [None] * 4
    return values


def _numbers(e: Element, vr: str, little: bool) -> list[float]:
    """Values of a private element; with VR UN they are little endian."""
    if e.vr not in (vr, "UN"):
        return []
    if vr == "IS":
        text = e.value.strip(b"\0 ")
        return [float(text)] if re.fullmatch(rb"\d{1,6}", text) else []
    kind, size = _SIZES[vr]
    if not e.value or len(e.value) % size or len(e.value) > 3 * size:
        return []
    order = "<" if little or e.vr == "UN" else ">"
    values = struct.unpack(f"{order}{len(e.value) // size}{kind}", e.value)
    return list(values) if all(map(math.isfinite, values)) else []
