"""NIfTI files: texts and extensions of the header, voxels, trailing bytes."""

from __future__ import annotations

import logging
import math
import struct
from collections.abc import Iterator
from dataclasses import dataclass

from nibabel.nifti1 import Nifti1Header
from nibabel.nifti2 import Nifti2Header

from efface.audit.matcher import Matcher
from efface.audit.readers.hits import Hit, search

_CLASSES: dict[int, type[Nifti1Header]] = {348: Nifti1Header, 540: Nifti2Header}
"""Bytes of a header and the class that reads it. Both are of single files (``.nii``)."""
_TEXTS = ("data_type", "db_name", "descrip", "aux_file", "intent_name", "unused_str")
"""Fields of text of both versions."""
_FATAL = 40
"""nibabel's level of a fault from which on a header cannot be used."""
_QUIET = logging.Logger("efface.audit.readers.nifti", logging.CRITICAL)


@dataclass(frozen=True)
class _Layout:
    """Where the parts of a file are, in bytes, and the texts of its header."""

    header: int
    offset: int
    """Of the voxels."""
    voxels: int
    texts: tuple[str, ...]
    """Names of the fields of text that are in use."""


def size(start: bytes) -> int:
    """Bytes of the whole file by its header, which ``start`` holds."""
    layout = _layout(start)
    return layout.offset + layout.voxels


def hits(data: bytes, matcher: Matcher) -> Iterator[Hit]:
    """What must not be in a NIfTI file. Raises :class:`ValueError` if it is none, or not whole."""
    layout = _layout(data)
    end = layout.offset + layout.voxels
    if len(data) < end:
        raise ValueError("truncated")
    for field in layout.texts:
        yield Hit("structure: text in the NIfTI header", field)
    # the four bytes that say whether there are extensions, and the extensions
    if any(data[layout.header : layout.offset]):
        yield Hit("structure: a NIfTI extension", "header")
    view = memoryview(data)
    yield from search(matcher, view[: layout.offset], "NIfTI header at byte")
    yield from search(
        matcher,
        view[layout.offset : end],
        "voxels at byte",
        voxels=True,
        offset=layout.offset,
    )
    if view[end:]:
        yield Hit("structure: bytes after the voxels", "the file")
        yield from search(matcher, view[end:], "byte", offset=end)


def _layout(data: bytes) -> _Layout:
    """Read the header by nibabel; what nibabel would have to guess is rejected."""
    orders = {
        o: length for o in "<>" if (length := struct.unpack(o + "i", data[:4])[0]) in _CLASSES
    }
    if not orders:
        raise ValueError("not a NIfTI header")
    ((order, length),) = orders.items()
    header = _CLASSES[length](data[:length], endianness=order, check=False)
    bits = int(header["bitpix"])
    try:
        header.check_fix(logger=_QUIET, error_level=_FATAL)
    except Exception as e:
        raise ValueError(f"not a NIfTI header: {e}") from e
    dimensions = [int(d) for d in header["dim"]]
    shape = dimensions[1 : dimensions[0] + 1]
    itemsize = header.get_data_dtype().itemsize
    offset = float(header["vox_offset"])
    if header["magic"].item() != header.single_magic:
        raise ValueError("not a NIfTI file: the voxels are in another file")
    if not 1 <= dimensions[0] <= 7 or min(shape) < 0 or bits != 8 * itemsize:
        raise ValueError("not a NIfTI header: the size of the voxels is ambiguous")
    if not length <= offset == int(offset):
        raise ValueError("not a NIfTI header: the voxels do not start after it")
    texts = tuple(f for f in header.keys() if f in _TEXTS and header[f].item().strip(b"\0 "))  # noqa: SIM118 - a header is no dict
    return _Layout(length, int(offset), itemsize * math.prod(shape), texts)
