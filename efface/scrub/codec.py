"""Read and write the byte layout of DICOM (PS3.5) without interpreting values.

Elements keep their values as bytes. Files are written from scratch, so that lengths, paddings,
delimiters and trailing bytes of the source never reach the result. Private elements are skipped
unless the caller requests them.
"""

from __future__ import annotations

import os
import stat
import struct
import zlib
from collections.abc import Iterable
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

from efface import status
from efface.dictionary import standard_vr
from efface.errors import EffaceError
from efface.inventory import packed
from efface.inventory.fragments import (
    ITEM,
    MOST_ITEMS,
    SEQUENCE_END,
    BrokenItemsError,
    TruncatedItemsError,
    walk_items,
)

_LONG = frozenset(["OB", "OD", "OF", "OL", "OV", "OW", "SQ", "SV", "UC", "UN", "UR", "UT", "UV"])
_SHORT = frozenset(["AE", "AS", "AT", "CS", "DA", "DS", "DT", "FD", "FL", "IS", "LO", "LT", "PN"])
_SHORT |= {"SH", "SL", "SS", "ST", "TM", "UI", "UL", "US"}
_VRS = {vr.encode(): vr for vr in _LONG | _SHORT}
_UNDEFINED = 0xFFFFFFFF
_PIXEL_DATA = 0x7FE00010
# files beyond these limits are damaged or an attack: real ones are far smaller
_DEEPEST = 64
_LARGEST = 2 << 30
_LARGEST_INFLATED = 256 << 20
_MOST_IN_A_DATA_SET = 1 << 16
_MOST_ELEMENTS = 1 << 22
_NUL_PADDED = frozenset(["OB", "OD", "OF", "OL", "OV", "OW", "UI", "UN"])

_TOO_MANY = f"{status.UNREADABLE}: more elements than an image has"
_NO_MEMORY = f"{status.UNREADABLE}: it needs more memory than there is"

_IMPLICIT, _EXPLICIT = "1.2.840.10008.1.2", "1.2.840.10008.1.2.1"
_NATIVE = {
    _IMPLICIT: (False, True, False),
    _EXPLICIT: (True, True, False),
    "1.2.840.10008.1.2.1.99": (True, True, True),
    "1.2.840.10008.1.2.2": (True, False, False),
}
# still images only: no video, no pixel data outside the file (JPIP)
_COMPRESSED = frozenset(
    ["1.2.840.10008.1.2.5"]
    + [f"1.2.840.10008.1.2.4.{n}" for n in (50, 51, 57, 70, 80, 81, 90, 91, 201, 202, 203)]
)


class WithheldError(EffaceError):
    """A file that is withheld; ``reason`` starts with a phrase of :mod:`efface.status`."""

    def __init__(self, name: str, reason: str) -> None:
        super().__init__(f"{name}: not scrubbed, nothing written ({reason})")
        self.reason = reason


class DamagedError(Exception):
    """Bytes that are not a usable data set; ``args[0]`` is a reason (:mod:`efface.status`)."""


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
    """Properties of a transfer syntax."""

    uid: str
    explicit: bool
    little: bool
    deflated: bool
    encapsulated: bool


@lru_cache(maxsize=64)
def syntax(uid: str) -> Syntax:
    """Transfer syntax of a UID; raises :class:`DamagedError` if efface does not support it."""
    if uid in _NATIVE:
        return Syntax(uid, *_NATIVE[uid], encapsulated=False)
    if uid in _COMPRESSED:
        return Syntax(uid, explicit=True, little=True, deflated=False, encapsulated=True)
    raise DamagedError(f"{status.UNREADABLE}: transfer syntax not supported")


def load(path: Path | str) -> bytes:
    """Bytes of a file that can be DICOM; other large files are not read completely.

    Raises :class:`DamagedError` if it is not a regular file (a pipe would block), cannot be read or
    is larger than any image.
    """
    try:
        if not stat.S_ISREG(os.stat(path).st_mode):  # noqa: PTH116 - a third of a file's time
            raise DamagedError(f"{status.NOT_DICOM}: not a regular file")
        with open(path, "rb", buffering=0) as f:  # noqa: PTH123
            size = os.fstat(f.fileno()).st_size
            if size > 1 << 20 and _start(os.pread(f.fileno(), 132, 0)) is None:
                raise DamagedError(packed.reason(os.pread(f.fileno(), packed.START, 0)))
            if size > _LARGEST:
                raise DamagedError(f"{status.UNREADABLE}: larger than 2 GiB")
            return f.readall()
    except PermissionError as e:
        raise DamagedError(status.NO_PERMISSION) from e
    except OSError as e:
        raise DamagedError(status.UNREADABLE) from e
    except MemoryError as e:
        raise DamagedError(_NO_MEMORY) from e


def read_file(data: bytes, private: frozenset[int] = frozenset()) -> tuple[Syntax, list[Element]]:
    """Transfer syntax and data set of a file; ``private`` as in :func:`parse`.

    Raises :class:`DamagedError` if it is empty, not DICOM, truncated or unreadable.
    """
    if not data:
        raise DamagedError(status.EMPTY_FILE)
    start = _start(data)
    if start is None:
        raise DamagedError(packed.reason(data[: packed.START]))
    try:
        meta, pos = _meta(data, start)
        uid = next((e.value for e in meta if e.tag == 0x00020010), b"")
        if start or meta:
            form = syntax(uid.decode("latin-1").strip("\0 "))
        else:
            form = syntax(_EXPLICIT if data[4:6] in _VRS else _IMPLICIT)
        body, start = (_inflate(memoryview(data)[pos:]), 0) if form.deflated else (data, pos)
        return form, parse(body, form, start, private)
    except MemoryError as e:
        raise DamagedError(_NO_MEMORY) from e


def write_file(form: Syntax, meta: Iterable[Element], elements: Iterable[Element]) -> bytes:
    """Bytes of a file: a preamble of zeros, the meta group with its length, the data set."""
    head = encode(meta, syntax("1.2.840.10008.1.2.1"))
    group_length = struct.pack("<HH2sHI", 2, 0, b"UL", 4, len(head))
    body = encode(elements, form)
    if form.deflated:
        squeeze = zlib.compressobj(wbits=-zlib.MAX_WBITS)
        body = squeeze.compress(body) + squeeze.flush()
        body += b"\0" * (len(body) % 2)
    return bytes(128) + b"DICM" + group_length + head + body


def parse(
    data: bytes, form: Syntax, start: int = 0, private: frozenset[int] = frozenset()
) -> list[Element]:
    """Public elements of a data set in file order, sequences with their items.

    ``private`` selects private elements by group and last two digits (``0x001929`` for 0019,xx29);
    they are returned with the creators of their groups, whoever the creator is. Bytes after the
    pixel data that are not an element are padding and ignored.
    """
    try:
        reader = _Reader(data, form.explicit, form.little, private)
        return reader.elements(start, len(data), 0)[0]
    except (struct.error, IndexError) as e:
        raise DamagedError(status.TRUNCATED) from e


def encode(elements: Iterable[Element], form: Syntax) -> bytes:
    """Bytes of elements in order of their tags, with defined lengths."""
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


def _start(data: bytes) -> int | None:
    """Position after the preamble. Some archives omit the preamble and the meta group."""
    if data[128:132] == b"DICM":
        return 132
    return 0 if data[:2] in (b"\2\0", b"\x08\0") and data[3:4] == b"\0" else None


def _meta(data: bytes, start: int) -> tuple[list[Element], int]:
    """The file meta group and the position of the data set."""
    meta: list[Element] = []
    reader, pos = _Reader(data, explicit=True, little=True), start
    try:
        while pos + 8 <= len(data) and data[pos : pos + 2] == b"\x02\x00":
            if len(meta) > 256:
                raise DamagedError(status.UNREADABLE)
            element, pos = reader.element(pos, len(data), 0)
            if element is not None:
                meta.append(element)
    except (struct.error, IndexError) as e:
        raise DamagedError(status.TRUNCATED) from e
    return meta, pos


def _inflate(data: memoryview) -> bytes:
    """Inflate a data set, up to the size limit of an image."""
    try:
        stream, blocks, size = zlib.decompressobj(wbits=-zlib.MAX_WBITS), [], 0
        while not stream.eof and (block := stream.decompress(data, 1 << 24)):
            blocks.append(block)
            data, size = memoryview(stream.unconsumed_tail), size + len(block)
            if size > _LARGEST_INFLATED:
                raise DamagedError(f"{status.UNREADABLE}: it inflates to more than 256 MiB")
        body = b"".join(blocks)
    except zlib.error as e:
        raise DamagedError(status.UNREADABLE) from e
    if not stream.eof:
        raise DamagedError(status.TRUNCATED)
    return body


class _Reader:
    """Reader of a buffer; each method takes a position and returns the next one."""

    def __init__(
        self, data: bytes, explicit: bool, little: bool, private: frozenset[int] = frozenset()
    ) -> None:
        order = "<" if little else ">"
        self.data, self.explicit, self.little = data, explicit, little
        self.private, self.private_groups = private, frozenset(p >> 8 for p in private)
        self.head = struct.Struct(order + "HH2sH").unpack_from
        self.total = [0]  # number of elements, shared with nested readers
        self.plain = struct.Struct(order + "HHI").unpack_from
        self.long = struct.Struct(order + "I").unpack_from

    def elements(self, pos: int, end: int | None, depth: int) -> tuple[list[Element], int]:
        """Elements up to ``end``, or up to the delimiter of the item if ``end`` is None."""
        if depth > _DEEPEST:
            raise DamagedError(status.UNREADABLE)
        elements: list[Element] = []
        limit = len(self.data) if end is None else end
        for _ in range(_MOST_IN_A_DATA_SET):
            if pos >= limit and end is not None:
                break
            if depth == 0 and self._is_padding(pos, limit, elements):
                break
            group, number, length = self.plain(self.data, pos)
            if group == 0xFFFE:
                if end is None and number == 0xE00D:
                    self._count(len(elements))
                    return elements, pos + 8
                if (
                    number in (0xE00D, 0xE0DD) and length == 0
                ):  # a stray delimiter, as in some exports
                    pos += 8
                    continue
            element, pos = self.element(pos, limit, depth)
            if element is not None:
                elements.append(element)
        else:
            raise DamagedError(_TOO_MANY)
        if depth and end is not None and pos != end:
            raise DamagedError(status.UNREADABLE)
        self._count(len(elements))
        return elements, pos

    def _count(self, elements: int) -> None:
        self.total[0] += elements
        if self.total[0] > _MOST_ELEMENTS:
            raise DamagedError(_TOO_MANY)

    def element(self, pos: int, limit: int, depth: int) -> tuple[Element | None, int]:
        """One element, or None for a group length or an unrequested private element."""
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
            # explicit VR cannot encode such a length; one value would fill the memory
            if _UNDEFINED > length > 0xFFFF and vr in _SHORT:
                raise DamagedError(status.UNREADABLE)
        tag = group << 16 | number
        skipped = number == 0 or bool(group & 1 and not self._wanted(group, number))
        if length == _UNDEFINED:
            if tag == _PIXEL_DATA:
                fragments, pos = self.fragments(pos, limit)
                return Element(tag, vr, fragments=fragments), pos
            if vr == "UN" and self.explicit:
                vr = standard_vr(tag) if self.little else vr
                items, pos = self._unknown_items(pos, None, depth)
            else:
                items, pos = self.items(pos, None, depth)
            return (None if skipped else Element(tag, vr, items=items)), pos
        end = pos + length
        if end > limit:
            raise DamagedError(status.TRUNCATED)
        if skipped:
            return None, end
        if vr == "SQ":
            items, pos = self.items(pos, end, depth)
            return Element(tag, vr, items=items), end
        if vr == "UN" and self.explicit and self.little:
            return self._unknown(tag, pos, end, depth), end
        return Element(tag, vr, self.data[pos:end]), end

    def _unknown(self, tag: int, pos: int, end: int, depth: int) -> Element:
        """A UN element of defined length, from a system that did not know the attribute.

        Its value is implicit little endian (PS3.5 6.2.2 note 2). It gets the VR of the dictionary
        if there is one. A sequence that cannot be parsed stays UN.
        """
        vr = standard_vr(tag)
        if vr == "SQ":
            try:
                items, _ = self._unknown_items(pos, end, depth)
            except DamagedError:
                return Element(tag, "UN", self.data[pos:end])
            return Element(tag, vr, items=items)
        return Element(tag, vr, self.data[pos:end])

    def _unknown_items(
        self, pos: int, end: int | None, depth: int
    ) -> tuple[list[list[Element]], int]:
        """Items of a sequence with VR UN.

        They are implicit little endian (PS3.5 6.2.2 note 2). Some systems write them explicit, with
        a VR at the position of an implicit length. Raises :class:`DamagedError` if neither form can
        be parsed.
        """
        implicit = _Reader(self.data, explicit=False, little=True, private=self.private)
        implicit.total = self.total
        # 8 bytes of the item, 4 of its first element's tag
        looks_explicit = self.data[pos + 12 : pos + 14] in _VRS
        for reader in (self, implicit) if looks_explicit else (implicit, self):
            before = self.total[0]
            try:
                return reader.items(pos, end, depth)
            except (DamagedError, struct.error, IndexError) as e:
                if e.args and e.args[0] == _TOO_MANY:
                    raise
                self.total[0] = before
        raise DamagedError(f"{status.UNREADABLE}: a sequence with VR UN")

    def _wanted(self, group: int, number: int) -> bool:
        if 0x10 <= number <= 0xFF:
            return group in self.private_groups
        return number > 0xFFF and group << 8 | number & 0xFF in self.private

    def items(self, pos: int, end: int | None, depth: int) -> tuple[list[list[Element]], int]:
        """Items of a sequence up to ``end``, or up to its delimiter if ``end`` is None."""
        items: list[list[Element]] = []
        while end is None or pos < end:
            group, number, length = self.plain(self.data, pos)
            tag, pos = group << 16 | number, pos + 8
            if tag == SEQUENCE_END:
                if end is None or pos == end:
                    return items, pos
                continue
            if tag != ITEM:
                raise DamagedError(status.UNREADABLE)
            stop = None if length == _UNDEFINED else pos + length
            if stop is not None and stop > (len(self.data) if end is None else end):
                raise DamagedError(status.TRUNCATED)
            item, pos = self.elements(pos, stop, depth + 1)
            items.append(item)
            if len(items) > MOST_ITEMS:
                raise DamagedError(_TOO_MANY)
        return items, pos

    def fragments(self, pos: int, limit: int) -> tuple[list[bytes], int]:
        """The basic offset table and the fragments of encapsulated pixel data."""
        try:
            items = walk_items(lambda at, n: self.data[at : at + n], pos, limit)
        except TruncatedItemsError as e:
            raise DamagedError(status.TRUNCATED) from e
        except BrokenItemsError as e:
            raise DamagedError(f"{status.UNREADABLE}: {e}") from e
        if not items.delimited:
            raise DamagedError(status.TRUNCATED)
        return [self.data[at : at + length] for at, length in items.places], items.end

    def _is_padding(self, pos: int, limit: int, elements: list[Element]) -> bool:
        if limit - pos < 8:
            return bool(elements)
        if not elements or elements[-1].tag != _PIXEL_DATA:
            return False
        group, number, code, _ = self.head(self.data, pos)
        return group << 16 | number <= _PIXEL_DATA or (self.explicit and code not in _VRS)
