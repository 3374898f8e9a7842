"""gzip files: their content, and what their headers hold."""

from __future__ import annotations

from collections.abc import Iterator

from isal import isal_zlib

from efface.audit.matcher import Matcher
from efface.audit.readers import nifti
from efface.audit.readers.hits import Hit, search

_SLACK = 1 << 26
"""Bytes to which a file may inflate beyond what its NIfTI header says."""
_FIRST = 1024
"""Bytes inflated first: they hold the NIfTI header."""


def inflate(data: bytes, name: str) -> tuple[bytes, list[Hit]]:
    """All members inflated; faults are names, times and comments in headers, trailing bytes.

    ``name`` is that of the file without ``.gz``. An image is not inflated further than its header
    says, so that a small file cannot fill the memory: raises :class:`ValueError` where more would
    come.
    """
    out, faults = [], []
    while data:
        if data[:2] != b"\x1f\x8b" or len(data) < 18:
            faults.append(Hit("structure: bytes after the compressed data", "gzip"))
            out.append(data)
            break
        if data[3]:
            faults.append(Hit("structure: a name or comment", "gzip header"))
        if data[4:8] != b"\0\0\0\0":
            faults.append(Hit("structure: a time", "gzip header"))
        stream = isal_zlib.decompressobj(wbits=31)
        start = stream.decompress(data, _FIRST)
        expected = nifti.size(start) if name.endswith(".nii") and not out else 0
        rest = stream.decompress(stream.unconsumed_tail, expected + _SLACK)
        if not stream.eof:
            raise ValueError("cut off, or larger than its header says")
        out += [start, rest]
        data = stream.unused_data
        if data:
            faults.append(Hit("structure: more than one member", "gzip"))
    return b"".join(out), faults


def hits(data: bytes, faults: list[Hit], matcher: Matcher) -> Iterator[Hit]:
    """What must not be in the compressed bytes themselves.

    Without a fault these are ten fixed bytes and the stream, whose every byte comes out when it is
    inflated; nothing has to be searched.
    """
    if not faults:
        return
    yield from faults
    yield from search(matcher, data[:4096], "gzip header at byte")
    yield from search(matcher, data, "compressed byte", voxels=True)
