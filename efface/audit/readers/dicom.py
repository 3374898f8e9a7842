"""DICOM files: preamble, elements, pixels, trailing bytes."""

from __future__ import annotations

import io
import struct
import warnings
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

import pydicom
from pydicom.dataelem import RawDataElement
from pydicom.filereader import data_element_generator
from pydicom.tag import BaseTag

from efface.audit.matcher import Matcher
from efface.audit.readers.elements import Element, element_hits, value_bytes
from efface.audit.readers.hits import Hit, search
from efface.inventory.fragments import walk_items

_EXPLICIT = "1.2.840.10008.1.2.1"
_DEFLATED = "1.2.840.10008.1.2.1.99"
_MOST_INFLATED = 1 << 30
_NATIVE = {
    "1.2.840.10008.1.2": (True, True),
    _EXPLICIT: (False, True),
    "1.2.840.10008.1.2.2": (False, False),
}
"""Native transfer syntaxes as implicit VR, little endian (PS3.5 Annex A)."""
_COMPRESSED = ("1.2.840.10008.1.2.4.", "1.2.840.10008.1.2.5")
"""Beginnings of the compressed ones, which are explicit VR, little endian."""
_UNDEFINED = 0xFFFFFFFF
# rows, columns, bits allocated, samples, frames; and what counts if one is missing
_SIZE = {0x00280010: 0, 0x00280011: 0, 0x00280100: 16, 0x00280002: 1, 0x00280008: 1}
_FRAMES = 0x00280008


@dataclass(frozen=True)
class _Header:
    """The elements before the pixels, undecoded."""

    elements: tuple[Element, ...]
    syntax: str
    end: int
    """Offset of the pixel data element; the length of the file if its layout is not known."""


def hits(data: bytes, matcher: Matcher, *, uids: bool) -> Iterator[Hit]:
    """What must not be in a DICOM file; ``uids`` says whether its UIDs must be new.

    Raises :class:`ValueError` where elements or pixels are cut off or something else is in their
    place, and what pydicom raises for a file that is none.
    """
    if data[128:132] != b"DICM":
        yield Hit("structure: no DICOM preamble", "the file")
    elif any(data[:128]):
        yield Hit("structure: something in the preamble", "byte 0")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        header = _header(data)
        if header.syntax == _DEFLATED:
            data, after = _inflated(data)
            if after.strip(b"\0"):
                yield Hit("structure: bytes after the compressed data", "the file")
                yield from search(matcher, after, "byte after the compressed data")
            header = _header(data)
        kinds: set[str] = set()
        for hit in element_hits(header.elements, matcher, uids):
            kinds.add(hit.kind)
            yield hit
    view = memoryview(data)
    end = _end_of_pixels(view, header)
    if end - header.end > _most_bytes(header):
        yield Hit("structure: more bytes than the image has pixels", "(7fe0,0010) PixelData")
    for hit in search(matcher, view[: header.end], "byte"):
        if hit.kind not in kinds:
            yield hit
    pixels = view[header.end : end]
    yield from search(matcher, pixels, "pixels at byte", voxels=True, offset=header.end)
    if view[end:]:
        yield Hit("structure: something after the pixels", f"byte {end}")
        yield from search(matcher, view[end:], "byte", offset=end)


def _inflated(data: bytes) -> tuple[bytes, bytes]:
    """A deflated file (PS3.5 A.5) as a native one, and what follows its stream.

    Raises :class:`ValueError` if it is cut off or inflates to more than 1 GiB.
    """
    (length,) = struct.unpack_from("<I", data, 140)
    meta, stream = data[: 144 + length], zlib.decompressobj(-15)
    content = stream.decompress(data[len(meta) :], _MOST_INFLATED)
    if not stream.eof:
        raise ValueError("cut off, or larger than an image")
    native = _EXPLICIT.encode().ljust(len(_DEFLATED), b"\0")
    return meta.replace(_DEFLATED.encode(), native) + content, stream.unused_data


def _header(data: bytes) -> _Header:
    """The elements up to the pixels.

    Raises :class:`ValueError` if something other than pixels follows the last element.
    """
    stream = io.BytesIO(data)
    stream.seek(132)
    has_preamble = data[128:132] == b"DICM"
    meta = list(data_element_generator(stream, False, True, _past_meta)) if has_preamble else []
    texts = [value_bytes(e) for e in meta if int(e.tag) == 0x00020010]
    syntax = texts[0].decode("latin-1").strip("\0 ") if texts else ""
    if syntax not in _NATIVE and not syntax.startswith(_COMPRESSED):
        # no preamble, no meta, or deflated: pydicom guesses the layout
        ds = pydicom.dcmread(io.BytesIO(data), force=True)
        items = [ds.get_item(t) for t in ds.keys()]  # noqa: SIM118 - else it decodes every element
        return _Header((*meta, *(i for i in items if i is not None)), syntax, len(data))
    implicit, little = _NATIVE.get(syntax, (False, True))
    elements = list(data_element_generator(stream, implicit, little, _at_pixels))
    end = stream.tell()
    for e in elements:
        if isinstance(e, RawDataElement) and len(e.value or b"") != e.length:
            raise ValueError("truncated")
    if data[end : end + 4] != (b"\xe0\x7f\x10\x00" if little else b"\x7f\xe0\x00\x10"):
        raise ValueError("no pixels where the elements end")
    return _Header((*meta, *elements), syntax, end)


def _past_meta(tag: BaseTag, _vr: str | None, _length: int) -> bool:
    return int(tag) >> 16 != 2


def _at_pixels(tag: BaseTag, _vr: str | None, _length: int) -> bool:
    return int(tag) == 0x7FE00010  # pydicom's own comparison is slow


def _most_bytes(header: _Header) -> int:
    """The most bytes that native pixel data may take, the head of the element included."""
    if header.syntax not in _NATIVE:
        return 1 << 62  # compressed
    order: Literal["little", "big"] = "little" if _NATIVE[header.syntax][1] else "big"
    values = {int(e.tag): value_bytes(e) for e in header.elements if int(e.tag) in _SIZE}
    bits = 1
    for tag, default in _SIZE.items():
        value = values.get(tag, b"")
        if tag == _FRAMES:
            digits = value.strip(b"\0 ")
            bits *= int(digits) if digits.isdigit() else default
        else:
            bits *= int.from_bytes(value[:2], order) if value else default
    return 12 + (bits + 7) // 8 + 1  # padded to even length


def _end_of_pixels(data: memoryview, header: _Header) -> int:
    """Offset of what follows the pixel data.

    Raises :class:`ValueError` if they are cut off, or if encapsulated ones are no sequence of items
    with a delimiter at the end.
    """
    start = header.end
    if len(data) < start + 8:
        return start
    implicit, little = _NATIVE.get(header.syntax, (False, True))
    head = 8 if implicit else 12
    order: Literal["little", "big"] = "little" if little else "big"
    length = int.from_bytes(data[start + head - 4 : start + head], order)
    if length != _UNDEFINED:
        if start + head + length > len(data):
            raise ValueError("truncated")
        return start + head + length
    items = walk_items(lambda at, n: bytes(data[at : at + n]), start + head, len(data))
    if not items.delimited:
        raise ValueError("pixel fragments without an end")
    return items.end
