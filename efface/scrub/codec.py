"""DICOM's byte layout (PS3.5): a data set's bytes to elements and back, nothing interpreted.

Elements keep their value as bytes; what is written is written from scratch, so that lengths,
paddings, delimiters and trailing bytes of the source never reach the result. Private elements are
walked over and not even kept.
"""

from __future__ import annotations

import struct
import zlib
from collections.abc import Iterable
from dataclasses import dataclass
from functools import lru_cache

from pydicom.datadict import dictionary_VR

from efface import status
from efface.errors import EffaceError

_LONG = frozenset(["OB", "OD", "OF", "OL", "OV", "OW", "SQ", "SV", "UC", "UN", "UR", "UT", "UV"])
_SHORT = frozenset(["AE", "AS", "AT", "CS", "DA", "DS", "DT", "FD", "FL", "IS", "LO", "LT", "PN"])
_SHORT |= {"SH", "SL", "SS", "ST", "TM", "UI", "UL", "US"}
_VRS = {vr.encode(): vr for vr in _LONG | _SHORT}
_UNDEFINED = 0xFFFFFFFF
_ITEM, _ITEM_END, _SEQUENCE_END = 0xFFFEE000, 0xFFFEE00D, 0xFFFEE0DD
_PIXEL_DATA = 0x7FE00010
_DEEPEST = 64
_NUL_PADDED = frozenset(["OB", "OD", "OF", "OL", "OV", "OW", "UI", "UN"])

_NATIVE = {
    "1.2.840.10008.1.2": (False, True, False),
    "1.2.840.10008.1.2.1": (True, True, False),
    "1.2.840.10008.1.2.1.99": (True, True, True),
    "1.2.840.10008.1.2.2": (True, False, False),
}
# still images only: no video, no pixel data that lies elsewhere (JPIP)
_COMPRESSED = frozenset(
    ["1.2.840.10008.1.2.5"]
    + [f"1.2.840.10008.1.2.4.{n}" for n in (50, 51, 57, 70, 80, 81, 90, 91, 201, 202, 203)]
)


class WithheldError(EffaceError):
    """A file that does not go further; ``reason`` is one of :mod:`efface.status`."""

    def __init__(self, name: str, reason: str) -> None:
        super().__init__(f"{name}: not scrubbed, nothing written ({reason})")
        self.reason = reason


class DamagedError(Exception):
    """The bytes are no DICOM data set; ``args[0]`` is a phrase of :mod:`efface.status`."""


class Element:
    """One data element. ``items`` for a sequence, ``fragments`` for encapsulated pixel data."""

    __slots__ = ("fragments", "items", "tag", "value", "vr")

    def __init__(
        self,
        tag: int,
        vr: str,
        value: bytes = b"",
        items: list[list[Element]] | None = None,
        fragments: list[bytes] | None = None,
    ) -> None:
        self.tag = tag
        self.vr = vr
        self.value = value
        self.items = items
        self.fragments = fragments

    def __repr__(self) -> str:  # never the value
        return f"Element({self.tag:08X} {self.vr})"


@dataclass(frozen=True)
class Syntax:
    """What a transfer syntax says of the bytes."""

    uid: str
    explicit: bool
    little: bool
    deflated: bool
    encapsulated: bool


@lru_cache(maxsize=64)
def syntax(uid: str) -> Syntax:
    """The transfer syntax of a UID; :class:`DamagedError` for one that efface cannot pass on."""
    if uid in _NATIVE:
        return Syntax(uid, *_NATIVE[uid], encapsulated=False)
    if uid in _COMPRESSED:
        return Syntax(uid, explicit=True, little=True, deflated=False, encapsulated=True)
    raise DamagedError(f"{status.UNREADABLE}: transfer syntax not supported")


@lru_cache(maxsize=8192)
def standard_vr(tag: int) -> str:
    """VR by pydicom's dictionary (``US or SS`` where it depends), ``UN`` if it has none."""
    try:
        return dictionary_VR(tag)
    except KeyError:
        return "UN"


def read_file(data: bytes) -> tuple[Syntax, list[Element]]:
    """A whole file's syntax and its data set.

    Raises :class:`DamagedError` where it is empty, no DICOM, cut off or not to be understood.
    """
    if not data:
        raise DamagedError(status.EMPTY)
    if data[128:132] != b"DICM":
        raise DamagedError(status.NOT_DICOM)
    meta, pos = _meta(data)
    uid = next((e.value for e in meta if e.tag == 0x00020010), b"")
    form = syntax(uid.decode("latin-1").strip("\0 "))
    body, start = (_inflate(data[pos:]), 0) if form.deflated else (data, pos)
    return form, parse(body, form, start)


def write_file(form: Syntax, meta: Iterable[Element], elements: Iterable[Element]) -> bytes:
    """A whole file: a preamble of zeros, the meta group with its length, the data set."""
    head = encode(meta, syntax("1.2.840.10008.1.2.1"))
    group_length = struct.pack("<HH2sHI", 2, 0, b"UL", 4, len(head))
    body = encode(elements, form)
    if form.deflated:
        squeeze = zlib.compressobj(wbits=-zlib.MAX_WBITS)
        body = squeeze.compress(body) + squeeze.flush()
        body += b"\0" * (len(body) % 2)
    return bytes(128) + b"DICM" + group_length + head + body


def parse(data: bytes, form: Syntax, start: int = 0) -> list[Element]:
    """The public elements of a data set, sequences with their items, in the order they stand.

    What follows the pixel data and is no element is padding, and left behind.
    """
    try:
        return _Reader(data, form.explicit, form.little).elements(start, len(data), 0)[0]
    except (struct.error, IndexError) as e:
        raise DamagedError(status.TRUNCATED) from e


def encode(elements: Iterable[Element], form: Syntax) -> bytes:
    """Elements as bytes, in order of their tags, every length defined."""
    out: list[bytes] = []
    order = "<" if form.little else ">"
    short = struct.Struct(order + "HH2sH")
    long = struct.Struct(order + "HH2sHI")
    plain = struct.Struct(order + "HHI")
    end = plain.pack(0xFFFE, 0xE0DD, 0)
    for e in sorted(elements, key=lambda e: e.tag):
        group, number = e.tag >> 16, e.tag & 0xFFFF
        undefined = False
        if e.fragments is not None:
            value = b"".join(
                plain.pack(0xFFFE, 0xE000, len(f) + len(f) % 2) + f + b"\0" * (len(f) % 2)
                for f in e.fragments
            )
            value, undefined = value + end, True
        elif e.items is not None:
            bodies = [encode(item, form) for item in e.items]
            value = b"".join(plain.pack(0xFFFE, 0xE000, len(b)) + b for b in bodies)
        else:
            value = e.value
            if len(value) % 2:
                value += b"\0" if e.vr in _NUL_PADDED else b" "
        length = _UNDEFINED if undefined else len(value)
        if not form.explicit:
            out.append(plain.pack(group, number, length))
        elif e.vr in _LONG:
            out.append(long.pack(group, number, e.vr.encode(), 0, length))
        else:
            out.append(short.pack(group, number, e.vr.encode(), length))
        out.append(value)
    return b"".join(out)


def _meta(data: bytes) -> tuple[list[Element], int]:
    """The file meta group and where the data set starts."""
    reader, pos, meta = _Reader(data, explicit=True, little=True), 132, []
    try:
        while pos + 8 <= len(data) and data[pos : pos + 2] == b"\x02\x00":
            element, pos = reader.element(pos, len(data), 0)
            if element is not None:
                meta.append(element)
    except (struct.error, IndexError) as e:
        raise DamagedError(status.TRUNCATED) from e
    return meta, pos


def _inflate(data: bytes) -> bytes:
    try:
        stream = zlib.decompressobj(wbits=-zlib.MAX_WBITS)
        body = stream.decompress(data)
    except zlib.error as e:
        raise DamagedError(status.UNREADABLE) from e
    if not stream.eof:
        raise DamagedError(status.TRUNCATED)
    return body


class _Reader:
    """Walks a buffer; every method takes a position and gives the next one."""

    def __init__(self, data: bytes, explicit: bool, little: bool) -> None:
        order = "<" if little else ">"
        self.data, self.explicit, self.little = data, explicit, little
        self.head = struct.Struct(order + "HH2sH").unpack_from
        self.plain = struct.Struct(order + "HHI").unpack_from
        self.long = struct.Struct(order + "I").unpack_from

    def elements(self, pos: int, end: int | None, depth: int) -> tuple[list[Element], int]:
        """Elements up to ``end``, or up to an item's delimiter where ``end`` is None."""
        if depth > _DEEPEST:
            raise DamagedError(status.UNREADABLE)
        found: list[Element] = []
        limit = len(self.data) if end is None else end
        while pos < limit or end is None:
            if depth == 0 and self._is_padding(pos, limit, found):
                break
            group, number, length = self.plain(self.data, pos)
            if group == 0xFFFE:
                if end is None and number == 0xE00D:
                    return found, pos + 8
                if number in (0xE00D, 0xE0DD) and length == 0:  # a stray delimiter, seen in exports
                    pos += 8
                    continue
            element, pos = self.element(pos, limit, depth)
            if element is not None:
                found.append(element)
        if depth and end is not None and pos != end:
            raise DamagedError(status.UNREADABLE)
        return found, pos

    def element(self, pos: int, limit: int, depth: int) -> tuple[Element | None, int]:
        """One element; None in place of a private one or a group length."""
        if self.explicit:
            group, number, code, length = self.head(self.data, pos)
            vr = _VRS.get(code)
            if vr is None:
                raise DamagedError(status.UNREADABLE)
            pos += 8
            if vr in _LONG:
                (length,) = self.long(self.data, pos)
                pos += 4
        else:
            group, number, length = self.plain(self.data, pos)
            vr, pos = standard_vr(group << 16 | number), pos + 8
        tag = group << 16 | number
        skipped = bool(group & 1) or number == 0
        if length == _UNDEFINED:
            if tag == _PIXEL_DATA:
                fragments, pos = self.fragments(pos, limit)
                return Element(tag, vr, fragments=fragments), pos
            # PS3.5 6.2.2 note 2: a UN of undefined length is an implicit little-endian sequence
            inner = self
            if vr == "UN" and self.explicit:
                inner = _Reader(self.data, explicit=False, little=True)
                vr = standard_vr(tag) if self.little else vr
            items, pos = inner.items(pos, None, depth)
            return (None if skipped else Element(tag, vr, items=items)), pos
        end = pos + length
        if end > limit:
            raise DamagedError(status.TRUNCATED)
        if skipped:
            return None, end
        if vr == "SQ":
            items, pos = self.items(pos, end, depth)
            return Element(tag, vr, items=items), end
        return Element(tag, vr, self.data[pos:end]), end

    def items(self, pos: int, end: int | None, depth: int) -> tuple[list[list[Element]], int]:
        """The items of a sequence up to ``end``, or up to its delimiter where ``end`` is None."""
        found: list[list[Element]] = []
        while end is None or pos < end:
            group, number, length = self.plain(self.data, pos)
            tag, pos = group << 16 | number, pos + 8
            if tag == _SEQUENCE_END:
                if end is None or pos == end:
                    return found, pos
                continue
            if tag != _ITEM:
                raise DamagedError(status.UNREADABLE)
            stop = None if length == _UNDEFINED else pos + length
            if stop is not None and stop > (len(self.data) if end is None else end):
                raise DamagedError(status.TRUNCATED)
            item, pos = self.elements(pos, stop, depth + 1)
            found.append(item)
        return found, pos

    def fragments(self, pos: int, limit: int) -> tuple[list[bytes], int]:
        """The basic offset table and the fragments of encapsulated pixel data."""
        found: list[bytes] = []
        while True:
            group, number, length = self.plain(self.data, pos)
            tag, pos = group << 16 | number, pos + 8
            if tag == _SEQUENCE_END:
                return found, pos
            if tag != _ITEM:
                raise DamagedError(status.UNREADABLE)
            if pos + length > limit:
                raise DamagedError(status.TRUNCATED)
            found.append(self.data[pos : pos + length])
            pos += length

    def _is_padding(self, pos: int, limit: int, found: list[Element]) -> bool:
        if limit - pos < 8:
            return bool(found)
        if not found or found[-1].tag != _PIXEL_DATA:
            return False
        group, number, code, _ = self.head(self.data, pos)
        return group << 16 | number <= _PIXEL_DATA or (self.explicit and code not in _VRS)
