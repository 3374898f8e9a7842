"""Compressed frames without what is no picture: comments, application data, bytes past the end.

Of each stream only the segments stay that decoding needs, byte for byte, so that every pixel
decodes as before. What does not read as a stream of its kind raises :class:`DamagedError`.

Markers: ITU-T T.81 Annex B (JPEG), T.87 Annex C (JPEG-LS), T.800 Annex A (JPEG 2000). RLE: PS3.5
Annex G.
"""

from __future__ import annotations

import struct

from efface import status
from efface.scrub.codec import DamagedError, Syntax

_RLE = "1.2.840.10008.1.2.5"
_JPEG_LS = frozenset(["1.2.840.10008.1.2.4.80", "1.2.840.10008.1.2.4.81"])
_JPEG_2000 = frozenset(f"1.2.840.10008.1.2.4.{n}" for n in (90, 91, 201, 202, 203))

_SOI, _EOI, _SOS = 0xD8, 0xD9, 0xDA
# start of frame (all but 0xC4 DHT and 0xC8, reserved), tables, restart interval, lines, LS presets
_JPEG_NEEDED = frozenset([*range(0xC0, 0xC8), *range(0xC9, 0xD0), 0xDB, 0xDC, 0xDD, 0xF7, 0xF8])

_SOT, _SOD, _EOC = 0xFF90, 0xFF93, 0xFFD9
# CAP SIZ COD COC PRF CPF QCD QCC RGN POC PPM PPT; no comments, and no lengths (TLM PLM PLT), which
# only speed reading up
_J2K_NEEDED = frozenset([0xFF50, 0xFF51, 0xFF52, 0xFF53, 0xFF56, 0xFF59])
_J2K_NEEDED |= frozenset(range(0xFF5C, 0xFF62))
_JP2 = b"\0\0\0\x0cjP  \r\n\x87\n"


def clean(fragments: list[bytes], form: Syntax, frames: int, pixels: int) -> list[bytes]:
    """Encapsulated pixel data anew: an offset table, and one fragment a frame.

    ``fragments``: the offset table and what follows it; ``pixels``: in each frame, all samples.
    """
    streams = _by_frame(fragments, frames)
    try:
        if form.uid in _JPEG_2000:
            kept = [_jpeg_2000(s) for s in streams]
        elif form.uid == _RLE:
            kept = [_rle(s, pixels) for s in streams]
        else:
            kept = [_jpeg(s, 0x80 if form.uid in _JPEG_LS else 1) for s in streams]
    except (IndexError, struct.error) as e:
        raise DamagedError(status.TRUNCATED) from e
    offsets, at = [], 0
    for stream in kept:
        offsets.append(at)
        at += 8 + len(stream) + len(stream) % 2
    table = struct.pack(f"<{len(offsets)}I", *offsets) if at < 1 << 32 else b""
    return [table, *kept]


def _by_frame(fragments: list[bytes], frames: int) -> list[bytes]:
    """The stream of each frame (PS3.5 A.4): one fragment each, or as the offset table says."""
    table, parts = fragments[0], fragments[1:]
    if len(parts) == frames:
        return parts
    if frames == 1:
        return [b"".join(parts)]
    offsets = struct.unpack(f"<{len(table) // 4}I", table[: len(table) // 4 * 4])
    if len(offsets) != frames:
        raise DamagedError(status.UNREADABLE)
    starts, streams, at = set(offsets), [], 0
    for part in parts:
        if at in starts:
            streams.append(part)
        elif streams:
            streams[-1] += part
        at += 8 + len(part)
    if len(streams) != frames:
        raise DamagedError(status.UNREADABLE)
    return streams


def _jpeg(data: bytes, first_marker: int) -> bytes:
    """JPEG or JPEG-LS; ``first_marker``: the lowest byte after FF that is no coded data."""
    if data[:2] != bytes((0xFF, _SOI)):
        raise DamagedError(status.UNREADABLE)
    out, pos = [data[:2]], 2
    while True:
        while data[pos : pos + 2] == b"\xff\xff":  # fill bytes
            pos += 1
        if data[pos] != 0xFF:
            raise DamagedError(status.UNREADABLE)
        marker = data[pos + 1]
        if marker == _EOI:
            return b"".join([*out, data[pos : pos + 2]])
        end = pos + 2 + struct.unpack_from(">H", data, pos + 2)[0]
        if marker == _SOS:
            end = _end_of_scan(data, end, first_marker)
        if end > len(data):
            raise DamagedError(status.TRUNCATED)
        if marker in _JPEG_NEEDED or marker in (0xC4, _SOS):
            out.append(data[pos:end])
        pos = end


def _end_of_scan(data: bytes, pos: int, first_marker: int) -> int:
    """Where the marker after entropy-coded data stands; restart markers are part of the data."""
    while True:
        pos = data.find(b"\xff", pos)
        if pos < 0:
            raise DamagedError(status.TRUNCATED)
        after = data[pos + 1]
        if after >= first_marker and after != 0xFF and not 0xD0 <= after <= 0xD7:
            return pos
        pos += 1 if after == 0xFF else 2


def _jpeg_2000(data: bytes) -> bytes:
    """A codestream, out of its JP2 boxes if it came in some, which DICOM does not allow."""
    if data.startswith(_JP2):
        data = _codestream(data)
    if data[:4] != b"\xff\x4f\xff\x51":
        raise DamagedError(status.UNREADABLE)
    header, pos = _segments(data, 2, _SOT)
    out = [data[:2], *header]
    while True:
        (marker,) = struct.unpack_from(">H", data, pos)
        if marker == _EOC:
            return b"".join([*out, data[pos : pos + 2]])
        if marker != _SOT:
            raise DamagedError(status.UNREADABLE)
        _, _, tile, length, part, parts = struct.unpack_from(">HHHIBB", data, pos)
        # a length of 0: the last part, up to the end of the codestream
        end = pos + length if length else data.rindex(b"\xff\xd9")
        segments, body = _segments(data, pos + 12, _SOD)
        if not body < end <= len(data):
            raise DamagedError(status.TRUNCATED)
        rest = [*segments, data[body:end]]
        length = 12 + sum(map(len, rest))
        out += [struct.pack(">HHHIBB", _SOT, 10, tile, length, part, parts), *rest]
        pos = end


def _segments(data: bytes, pos: int, last: int) -> tuple[list[bytes], int]:
    """The needed segments of a header from ``pos`` to the marker ``last``, and where that is."""
    kept: list[bytes] = []
    while True:
        marker, length = struct.unpack_from(">HH", data, pos)
        if marker == last:
            return kept, pos
        if marker < 0xFF30 or length < 2:
            raise DamagedError(status.UNREADABLE)
        if marker in _J2K_NEEDED:
            kept.append(data[pos : pos + 2 + length])
        pos += 2 + length


def _codestream(data: bytes) -> bytes:
    """The contents of the jp2c box (T.800 Annex I)."""
    pos = 0
    while True:
        length, kind = struct.unpack_from(">I4s", data, pos)
        start = pos + 8
        if length == 1:
            (length,) = struct.unpack_from(">Q", data, start)
            start += 8
        end = pos + length if length else len(data)
        if kind == b"jp2c":
            return data[start:end]
        if end <= pos:
            raise DamagedError(status.UNREADABLE)
        pos = end


def _rle(data: bytes, pixels: int) -> bytes:
    """Segments end where they have given all their bytes; offsets of no segment become zero."""
    count, *offsets = struct.unpack_from("<16I", data)
    if not 0 < count <= 15 or offsets[0] != 64:
        raise DamagedError(status.UNREADABLE)
    segments = []
    for n in range(count):
        start, stop = offsets[n], offsets[n + 1] if n + 1 < count else len(data)
        if not 64 <= start <= stop <= len(data):
            raise DamagedError(status.UNREADABLE)
        segments.append(data[start : _end_of_runs(data, start, stop, pixels)])
    out, at = b"", 64
    head = [count]
    for segment in segments:
        head.append(at)
        padded = segment + b"\0" * (len(segment) % 2)
        out += padded
        at += len(padded)
    return struct.pack("<16I", *head, *[0] * (16 - len(head))) + out


def _end_of_runs(data: bytes, pos: int, stop: int, pixels: int) -> int:
    """Where a PackBits segment has given one byte for each pixel."""
    given = 0
    while given < pixels:
        if pos >= stop:
            raise DamagedError(status.TRUNCATED)
        control = data[pos]
        if control < 128:
            given += control + 1
            pos += control + 2
        elif control > 128:
            given += 257 - control
            pos += 2
        else:
            pos += 1
    if pos > stop:
        raise DamagedError(status.TRUNCATED)
    return pos
