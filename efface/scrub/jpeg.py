"""Rebuild JPEG and JPEG-LS streams from what a decoder needs.

Only the standard fields of each segment are written. Comments, application data, unused tables and
bytes after the last field of a segment are removed.
ITU-T T.81 Annex B (JPEG), T.87 Annex C (JPEG-LS).
"""

from __future__ import annotations

import struct
from dataclasses import dataclass, field

from efface import status
from efface.scrub import entropy
from efface.scrub.codec import DamagedError

_SOI, _EOI, _SOS, _DQT, _DHT, _DRI, _DNL = 0xD8, 0xD9, 0xDA, 0xDB, 0xC4, 0xDD, 0xDC
_LS_FRAME, _LS_PARAMETERS = 0xF7, 0xF8
_PROGRESSIVE, _LOSSLESS = 0xC2, 0xC3
# baseline, extended sequential, progressive and lossless with Huffman codes: the JPEG of DICOM
_FRAMES = frozenset([0xC0, 0xC1, _PROGRESSIVE, _LOSSLESS])
_OTHER_CODING = frozenset([0xC5, 0xC6, 0xC7, 0xC9, 0xCA, 0xCB, 0xCD, 0xCE, 0xCF, 0xDE, 0xDF])
_ALONE = frozenset([0x01, *range(0xD0, 0xD8)])  # markers without a segment


@dataclass
class _Stream:
    """State of reading and writing one stream."""

    ls: bool
    out: list[bytes] = field(default_factory=lambda: [bytes((0xFF, _SOI))])
    kind: int = 0
    """Marker of the frame; 0 before it."""
    frame: bytes = b""
    quantised: dict[int, int] = field(default_factory=dict)
    """Quantisation table by component."""
    tables: dict[tuple[int, int], bytes] = field(default_factory=dict)
    """Contents of tables by marker and by class and destination; LSE parameters under their id."""
    written: dict[tuple[int, int], bytes] = field(default_factory=dict)
    scanned: bool = False

    def put(self, marker: int, body: bytes) -> None:
        self.out.append(struct.pack(">BBH", 0xFF, marker, len(body) + 2) + body)

    def put_table(self, marker: int, which: int) -> None:
        """Write a table that a scan needs, unless it was written before."""
        body = self.tables.get((marker, which))
        if body is None:
            raise DamagedError(status.UNREADABLE)
        if self.written.get((marker, which)) != body:
            self.written[marker, which] = body
            self.put(marker, body)


def clean(data: bytes, ls: bool) -> bytes:
    """Remove everything that the decoder does not need; every pixel decodes as before.

    Raises :class:`DamagedError`, :class:`IndexError` or :class:`struct.error` if it is invalid.
    """
    if data[:2] != bytes((0xFF, _SOI)):
        raise DamagedError(status.UNREADABLE)
    stream, pos = _Stream(ls), 2
    while True:
        while data[pos : pos + 2] == b"\xff\xff":  # fill bytes
            pos += 1
        if data[pos] != 0xFF:
            raise DamagedError(status.UNREADABLE)
        marker = data[pos + 1]
        if marker == _EOI:
            if len(stream.out) < 4:  # no scan
                raise DamagedError(status.UNREADABLE)
            return b"".join([*stream.out, bytes((0xFF, _EOI))])
        if marker in _ALONE:
            pos += 2
            continue
        end = pos + 2 + struct.unpack_from(">H", data, pos + 2)[0]
        body = data[pos + 4 : end]
        if end > len(data):
            raise DamagedError(status.TRUNCATED)
        if marker == _SOS:
            start, end = end, _end_of_scan(data, end, 0x80 if ls else 1)
            tables = _scan(stream, body)
            stream.out.append(_coded(stream, data[start:end], tables))
        else:
            _segment(stream, marker, body)
        pos = end


def frame(data: bytes) -> tuple[int, int]:
    """Bits of a pixel and number of pixels (0 if a later segment has it) of a cleaned stream."""
    pos = 2
    while data[pos + 1] not in (*_FRAMES, _LS_FRAME):
        pos += 2 + struct.unpack_from(">H", data, pos + 2)[0]
    bits, lines, columns = struct.unpack_from(">BHH", data, pos + 4)
    return bits, lines * columns


def _segment(stream: _Stream, marker: int, body: bytes) -> None:
    if marker in (*_FRAMES, _LS_FRAME):
        if stream.frame or stream.ls != (marker == _LS_FRAME):
            raise DamagedError(status.UNREADABLE)
        stream.kind, stream.frame = marker, body[: 6 + 3 * body[5]]
        if len(stream.frame) != 6 + 3 * body[5]:
            raise DamagedError(status.UNREADABLE)
        stream.quantised = {body[6 + 3 * n]: body[8 + 3 * n] for n in range(body[5])}
    elif marker in _OTHER_CODING:
        raise DamagedError(status.UNREADABLE)  # arithmetic or hierarchical coding
    elif marker == _DQT and not stream.ls:
        pos = 0
        while pos < len(body):
            end = pos + 65 + 64 * (body[pos] >> 4)
            stream.tables[marker, body[pos] & 15] = _whole(body[pos:end], end - pos)
            pos = end
    elif marker == _DHT and not stream.ls:
        pos = 0
        while pos < len(body):
            end = pos + 17 + sum(body[pos + 1 : pos + 17])
            stream.tables[marker, body[pos]] = _whole(body[pos:end], end - pos)
            pos = end
    elif marker == _DRI:
        stream.tables[marker, 0] = _whole(body[:2], 2)
    elif marker == _DNL and stream.frame[1:3] == b"\0\0":
        stream.put(marker, _whole(body[:2], 2))
    elif marker == _LS_PARAMETERS and stream.ls and body[0] == 1:
        stream.tables[marker, 1] = _whole(body[:11], 11)


def _coded(stream: _Stream, data: bytes, tables: list[bytes]) -> bytes:
    """Coded data of a scan up to the last pixel; unchanged for JPEG-LS and progressive JPEG."""
    lines, columns = struct.unpack_from(">HH", stream.frame, 1)
    if stream.ls or stream.kind == _PROGRESSIVE or not lines:
        return data
    units = lines * columns
    if stream.kind != _LOSSLESS:
        units = -(-lines // 8) * -(-columns // 8)
    restart = int.from_bytes(stream.tables.get((_DRI, 0), b""))
    return entropy.trimmed(data, units, restart, tuple(tables))


def _scan(stream: _Stream, body: bytes) -> list[bytes]:
    """Write the frame and the tables that a scan refers to, then the header of the scan.

    Returns the Huffman tables, in the order of their use.
    """
    if not stream.frame or stream.frame[5] != 1:
        raise DamagedError(status.UNREADABLE)  # not of one component
    if stream.scanned and stream.kind != _PROGRESSIVE:
        raise DamagedError(status.UNREADABLE)  # decoders ignore a second scan
    stream.scanned = True
    count = body[0]
    header = _whole(body[: 4 + 2 * count], 4 + 2 * count)
    parts = [(header[1 + 2 * n], header[2 + 2 * n]) for n in range(count)]
    first, last = header[-3], header[-2]
    if stream.ls and any(table for _, table in parts):
        raise DamagedError(status.UNREADABLE)  # a palette
    if not stream.ls and stream.kind != _LOSSLESS:
        for component, _ in parts:
            stream.put_table(_DQT, stream.quantised.get(component, -1))
    if not stream.written.get((stream.kind, 0)):
        stream.written[stream.kind, 0] = stream.frame
        stream.put(stream.kind, stream.frame)
    if (_LS_PARAMETERS, 1) in stream.tables:
        stream.put_table(_LS_PARAMETERS, 1)
    used = []
    for _, tables in parts if not stream.ls else []:
        # the range of coefficients matters in progressive scans only; others can have it wrong
        if stream.kind != _PROGRESSIVE or first == 0:
            used.append(tables >> 4)
        if stream.kind != _LOSSLESS and (stream.kind != _PROGRESSIVE or last > 0):
            used.append(0x10 | tables & 15)
    for which in used:
        _check_code(stream.tables.get((_DHT, which)), stream.kind)
        stream.put_table(_DHT, which)
    if (_DRI, 0) in stream.tables:
        stream.put_table(_DRI, 0)
    stream.put(_SOS, header)
    return [stream.tables[_DHT, which] for which in used]


def _check_code(table: bytes | None, kind: int) -> None:
    """Raise :class:`DamagedError` for a Huffman table with invalid codes (T.81 F.1.2, H.1.2)."""
    if table is None:
        raise DamagedError(status.UNREADABLE)
    counts, symbols = table[1:17], table[17:]
    room = sum(n << (15 - i) for i, n in enumerate(counts))
    largest = 16 if kind == _LOSSLESS else 15 if table[0] < 0x10 else 255
    if len(set(symbols)) != len(symbols) or room > 1 << 16 or max(symbols, default=0) > largest:
        raise DamagedError(status.UNREADABLE)


def _whole(body: bytes, length: int) -> bytes:
    if len(body) != length:
        raise DamagedError(status.UNREADABLE)
    return body


def _end_of_scan(data: bytes, pos: int, first_marker: int) -> int:
    """Position of the marker after entropy-coded data; restart markers are part of the data.

    ``first_marker``: the lowest byte after FF that is not coded data.
    """
    while True:
        pos = data.find(b"\xff", pos)
        if pos < 0:
            raise DamagedError(status.TRUNCATED)
        after = data[pos + 1]
        if after >= first_marker and after != 0xFF and not 0xD0 <= after <= 0xD7:
            return pos
        pos += 1 if after == 0xFF else 2
