"""PNG files: chunks beside the picture, compressed text, pixels, trailing bytes."""

from __future__ import annotations

import struct
import zlib
from collections.abc import Iterator

from efface.audit.matcher import Matcher
from efface.audit.readers.hits import Hit, search

_MOST_INFLATED = 1 << 26


def hits(data: bytes, matcher: Matcher) -> Iterator[Hit]:
    """What must not be in a PNG file. Raises :class:`ValueError` if it is none."""
    if data[:8] != b"\x89PNG\r\n\x1a\n":
        raise ValueError("not a PNG file")
    at = 8
    pixels = []
    while at + 12 <= len(data):
        (length,) = struct.unpack_from(">I", data, at)
        kind = data[at + 4 : at + 8]
        chunk = data[at + 8 : at + 8 + length]
        if kind not in (b"IHDR", b"PLTE", b"IDAT", b"IEND"):
            yield Hit("structure: a chunk beside the picture", "PNG")
        if kind in (b"zTXt", b"iTXt", b"iCCP"):
            yield from search(matcher, _inflated_text(chunk), "compressed text in PNG, byte")
        if kind == b"IDAT":
            pixels.append(chunk)
        else:
            yield from search(matcher, chunk, "PNG at byte", offset=at + 8)
        at += 12 + length
        if kind == b"IEND":
            break
    stream = zlib.decompressobj()
    picture = stream.decompress(b"".join(pixels), _MOST_INFLATED)
    yield from search(matcher, picture, "inflated pixels at byte", voxels=True)
    if stream.unused_data or stream.unconsumed_tail:
        yield Hit("structure: bytes after the pixels", "PNG")
        yield from search(matcher, stream.unused_data, "byte after the pixels")
    if at != len(data):
        yield Hit("structure: bytes after the picture", "PNG")
        yield from search(matcher, data[at:], "byte", offset=at)


def _inflated_text(chunk: bytes) -> bytes:
    """The compressed part of a chunk of text or colours; empty if nothing can be inflated."""
    for at in (i for i, c in enumerate(chunk[:512]) if c == 0x78):  # how zlib streams begin
        try:
            return zlib.decompressobj().decompress(chunk[at:], _MOST_INFLATED)
        except zlib.error:
            continue
    return b""
