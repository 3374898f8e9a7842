"""Rebuild compressed frames without comments, application data and bytes after the end.

Each stream is rebuilt from the segments that its decoder needs, with their standard fields only, so
that every pixel decodes as before. An invalid stream raises :class:`DamagedError`.

JPEG 2000: ITU-T T.800 Annex A. RLE: PS3.5 Annex G. JPEG and JPEG-LS: :mod:`efface.scrub.jpeg`.
"""

from __future__ import annotations

import struct

from efface import status
from efface.scrub import jpeg
from efface.scrub.codec import DamagedError, Syntax

_RLE = "1.2.840.10008.1.2.5"
_JPEG_LS = frozenset(["1.2.840.10008.1.2.4.80", "1.2.840.10008.1.2.4.81"])
_JPEG_2000 = frozenset(f"1.2.840.10008.1.2.4.{n}" for n in (90, 91, 201, 202, 203))

_SOT, _SOD, _EOC = 0xFF90, 0xFF93, 0xFFD9
_SIZ, _CAP, _COD, _COC, _QCD, _QCC, _RGN = 0xFF51, 0xFF50, 0xFF52, 0xFF53, 0xFF5C, 0xFF5D, 0xFF5E
_POC, _PPM, _PPT = 0xFF5F, 0xFF60, 0xFF61
_JP2 = b"\0\0\0\x0cjP  \r\n\x87\n"


def clean(
    fragments: list[bytes], form: Syntax, frames: int, pixels: int, allocated: int
) -> list[bytes]:
    """Rebuilt stream of each frame.

    ``fragments``: the offset table and the following fragments; ``pixels``: samples of
    a frame; ``allocated``: bits of a sample.
    """
    streams = _by_frame(fragments, frames)
    try:
        if form.uid in _JPEG_2000:
            return [_jpeg_2000(s, pixels) for s in streams]
        if form.uid == _RLE:
            return [_rle(s, pixels, (allocated + 7) // 8) for s in streams]
        kept = [jpeg.clean(s, form.uid in _JPEG_LS) for s in streams]
        if any(jpeg.frame(s)[1] not in (0, pixels) for s in kept):
            raise DamagedError(status.UNREADABLE)
        if form.uid in _JPEG_LS and not all(map(_is_whole, kept)):
            raise DamagedError(status.UNREADABLE)
        return kept
    except (IndexError, struct.error) as e:
        raise DamagedError(status.TRUNCATED) from e


def precision(stream: bytes, form: Syntax, allocated: int) -> int:
    """Largest number of bits of the pixels of a cleaned stream."""
    if form.uid == _RLE:
        return allocated
    if form.uid in _JPEG_2000:
        return (stream[42] & 0x7F) + 1  # in SIZ, which follows the start
    return jpeg.frame(stream)[0]


def encapsulated(streams: list[bytes]) -> list[bytes]:
    """Fragments of pixel data: an offset table, and one fragment for each frame."""
    offsets, at = [], 0
    for stream in streams:
        offsets.append(at)
        at += 8 + len(stream) + len(stream) % 2
    table = struct.pack(f"<{len(offsets)}I", *offsets) if at < 1 << 32 else b""
    return [table, *streams]


def _by_frame(fragments: list[bytes], frames: int) -> list[bytes]:
    """Stream of each frame (PS3.5 A.4): one fragment each, or split by the offset table."""
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


def _is_whole(stream: bytes) -> bool:
    """Whether a JPEG-LS stream decodes without bytes left after the last pixel.

    Only a decoder can check this: CharLS raises an error if bytes are left.
    """
    from jpeg_ls import decode_pixel_data  # only if there is such a stream

    try:
        decode_pixel_data(stream)
    except (RuntimeError, ValueError):
        return False
    return True


def _jpeg_2000(data: bytes, pixels: int) -> bytes:
    """Rebuild a codestream, without the JP2 boxes that DICOM does not allow."""
    if data.startswith(_JP2):
        data = _codestream(data)
    if data[:4] != b"\xff\x4f\xff\x51":
        raise DamagedError(status.UNREADABLE)
    right, bottom, left, top = struct.unpack_from(">4I", data, 8)
    if struct.unpack_from(">H", data, 40)[0] != 1 or (right - left) * (bottom - top) != pixels:
        raise DamagedError(status.UNREADABLE)  # not of one component, or not of this size
    levels: dict[int, int] = {}
    header, pos = _segments(data, 2, _SOT, levels)
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
        segments, body = _segments(data, pos + 12, _SOD, dict(levels))
        if not body < end <= len(data):
            raise DamagedError(status.TRUNCATED)
        rest = [*segments, data[body:end]]
        length = 12 + sum(map(len, rest))
        out += [struct.pack(">HHHIBB", _SOT, 10, tile, length, part, parts), *rest]
        pos = end


def _segments(data: bytes, pos: int, last: int, levels: dict[int, int]) -> tuple[list[bytes], int]:
    """Needed segments of a header from ``pos`` to the marker ``last``, and its position.

    ``levels``: decomposition levels by COD and COC; those of this header are added.
    """
    segments: list[tuple[int, bytes]] = []
    while True:
        marker, length = struct.unpack_from(">HH", data, pos)
        if marker == last:
            break
        if marker < 0xFF30 or length < 2:
            raise DamagedError(status.UNREADABLE)
        body = data[pos + 4 : pos + 2 + length]
        if marker in (_COD, _COC):
            levels[marker] = body[5 if marker == _COD else 2]
        # a segment for another component than the first is not needed
        if marker not in (_COC, _QCC, _RGN) or body[0] == 0:
            segments.append((marker, body))
        pos += 2 + length
    kept = []
    for marker, body in segments:
        size = _needed(marker, body, levels)
        if size > len(body):
            raise DamagedError(status.TRUNCATED)
        if size:
            kept.append(struct.pack(">HH", marker, size + 2) + body[:size])
    return kept, pos


def _needed(marker: int, body: bytes, levels: dict[int, int]) -> int:
    """Number of bytes of a segment that the decoder needs, in an image of one component."""
    if marker == _SIZ:
        return 39
    if marker == _CAP:
        return 4 + 2 * int(struct.unpack_from(">I", body)[0]).bit_count()
    if marker == _COD:
        return 10 + (body[5] + 1 if body[0] & 1 else 0)
    if marker == _COC:
        return 7 + (body[2] + 1 if body[1] & 1 else 0)
    if marker in (_QCD, _QCC):  # a step for each subband (T.800 A.6.4), or one for all
        if not levels:
            raise DamagedError(status.UNREADABLE)
        at = 0 if marker == _QCD else 1
        style = body[at] & 0x1F
        bands = 1 if style == 1 else 3 * levels.get(_COC, levels.get(_COD, 0)) + 1
        return at + 1 + bands * (1 if style == 0 else 2)
    if marker == _RGN:
        return 3
    if marker == _POC:  # progressions: of layers, resolutions and the one component (T.800 A.6.6)
        entries = list(struct.iter_unpack(">BBHBBB", body))
        if any(a > 32 or c0 or not a < b <= 33 or c1 != 1 or p > 4
               for a, c0, _, b, c1, p in entries):  # fmt: skip
            raise DamagedError(status.UNREADABLE)
        return len(body)
    if marker in (_PPM, _PPT):  # packet headers cannot be distinguished from text
        raise DamagedError(f"{status.UNREADABLE}: JPEG 2000 with packed packet headers")
    # comments, lengths (which only make reading faster), profiles and all others
    return 0


def _codestream(data: bytes) -> bytes:
    """Content of the jp2c box (T.800 Annex I)."""
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


def _rle(data: bytes, pixels: int, planes: int) -> bytes:
    """Rebuild an RLE frame: one segment for each byte of a pixel, with the needed runs only."""
    count, *offsets = struct.unpack_from("<16I", data)
    if not planes <= count <= 15 or offsets[0] != 64:
        raise DamagedError(status.UNREADABLE)
    segments = []
    for n in range(planes):
        start, stop = offsets[n], offsets[n + 1] if n + 1 < count else len(data)
        if not 64 <= start <= stop <= len(data):
            raise DamagedError(status.UNREADABLE)
        segments.append(_runs(data, start, stop, pixels))
    return rle_frame(segments)


def rle_frame(segments: list[bytes]) -> bytes:
    """RLE header and segments, each of even length."""
    out, at = b"", 64
    head = [len(segments)]
    for segment in segments:
        head.append(at)
        padded = segment + b"\0" * (len(segment) % 2)
        out += padded
        at += len(padded)
    return struct.pack("<16I", *head, *[0] * (16 - len(head))) + out


def _runs(data: bytes, pos: int, stop: int, pixels: int) -> bytes:
    """PackBits segment up to the last pixel, without bytes that decode to nothing."""
    out, decoded = [], 0
    while decoded < pixels:
        if pos >= stop:
            raise DamagedError(status.TRUNCATED)
        control = data[pos]
        if control == 128:
            pos += 1
            continue
        literal = control < 128
        end = pos + 1 + (control + 1 if literal else 1)
        if end > stop:
            raise DamagedError(status.TRUNCATED)
        length = min(control + 1 if literal else 257 - control, pixels - decoded)
        if length == 1:
            out.append(b"\0" + data[pos + 1 : pos + 2])
        elif literal:
            out.append(bytes((length - 1,)) + data[pos + 1 : pos + 1 + length])
        else:
            out.append(bytes((257 - length,)) + data[pos + 1 : end])
        decoded += length
        pos = end
    return b"".join(out)
