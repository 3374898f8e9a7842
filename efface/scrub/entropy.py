"""End of the coded pixels in a JPEG scan (ITU-T T.81 Annex F and H, Huffman coding).

A decoder stops after the last pixel, so bytes between it and the next marker could hide data. The
end is found by stepping over the codes without decoding pixels.
"""

from __future__ import annotations

import re
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

from efface import status
from efface.scrub.codec import DamagedError

Bytes = NDArray[np.uint8]

_RESTART = re.compile(rb"\xff+[\xd0-\xd7]")


def trimmed(data: bytes, units: int, restart: int, tables: tuple[bytes, ...]) -> bytes:
    """Entropy-coded data of one component up to its last code.

    ``units``: pixels, with one table (lossless), or blocks of 8 by 8 pixels, with two (DC and AC).
    ``restart``: units between two restart markers, or 0. Raises :class:`DamagedError` or
    :class:`IndexError` if the codes are incomplete or invalid.
    """
    each = restart or units
    parts = _RESTART.split(data)
    needed = -(-units // each)
    if len(parts) < needed or (len(parts) > needed and not restart):
        raise DamagedError(status.UNREADABLE)
    out = []
    for n in range(needed):
        plain = parts[n].rstrip(b"\xff").replace(b"\xff\0", b"\xff")
        bits = _walk(plain, min(each, units - n * each), tables)
        length = (bits + 7) // 8
        if length > len(plain):
            raise DamagedError(status.TRUNCATED)
        marker = bytes((0xFF, 0xD0 + n % 8)) if n + 1 < needed else b""
        out.append(plain[:length].replace(b"\xff", b"\xff\0") + marker)
    return b"".join(out)


def _walk(plain: bytes, units: int, tables: tuple[bytes, ...]) -> int:
    """Number of bits of the codes of ``units`` units."""
    padded = np.frombuffer(plain + bytes(8), np.uint8).astype(np.uint32)
    windows = padded[:-2] << 16 | padded[1:-1] << 8 | padded[2:]
    # the 16 bits that start at each bit
    at_bits = (windows[:, None] >> np.arange(8, 0, -1, dtype=np.uint32) & 0xFFFF).ravel()
    steps: list[bytes] = [_codes(t)[0][at_bits].tobytes() for t in tables]
    pos = 0
    if len(tables) == 1:
        (step,) = steps
        for _ in range(units - 1):
            pos += step[pos]
        if not step[pos]:  # a step of 0: no code
            raise DamagedError(status.UNREADABLE)
        return pos + step[pos]
    symbols = _codes(tables[1])[1][at_bits].tobytes()
    first, step = steps
    for _ in range(units):
        if not first[pos]:
            raise DamagedError(status.UNREADABLE)
        pos += first[pos]
        k = 1
        while k < 64:
            symbol, length = symbols[pos], step[pos]
            if not length:
                raise DamagedError(status.UNREADABLE)
            pos += length
            if symbol & 15:
                k += (symbol >> 4) + 1
            elif symbol == 0xF0:  # sixteen zeros
                k += 16
            else:  # end of block
                break
    return pos


@lru_cache(maxsize=64)
def _codes(table: bytes) -> tuple[Bytes, Bytes]:
    """Length (with the bits after the code) and symbol, by the 16 bits that start with a code.

    ``table``: class and destination, 16 counts, symbols (T.81 B.2.4.2). No code: length 0.
    """
    lengths, symbols = np.zeros(1 << 16, np.uint8), np.zeros(1 << 16, np.uint8)
    code, at = 0, 17
    for size, count in enumerate(table[1:17], 1):
        for symbol in table[at : at + count]:
            where = slice(code << (16 - size), (code + 1) << (16 - size))
            # a difference of 32768 (lossless, symbol 16) has no bits after it
            lengths[where], symbols[where] = size + (symbol & 15), symbol
            code += 1
        at += count
        code <<= 1
    return lengths, symbols
