"""Decoded pixels of a DICOM file.

Inventory and distort both read them. A stage imports only earlier stages and modules of this level.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from pydicom import uid
from pydicom.dataset import Dataset


class NotDecoded(Exception):  # noqa: N818 - a property of the file, not an error of the program
    """The pixel data cannot be decoded; the text names no file."""


def pixels(ds: Dataset) -> NDArray[np.generic]:
    """Stored pixel values, shape (frames, rows, columns), little endian, decoded losslessly.

    Bits above Bits Stored (once used for overlays) are cleared, or repeat the sign. Raises
    :class:`NotDecoded` if the pixel data cannot be decoded.
    """
    try:
        shape = (int(ds.get("NumberOfFrames") or 1), int(ds.Rows), int(ds.Columns))
        allocated, signed = int(ds.BitsAllocated), int(ds.get("PixelRepresentation", 0)) == 1
        stored = int(ds.get("BitsStored", allocated))
        high_bit = int(ds.get("HighBit", stored - 1))
    except (AttributeError, TypeError, ValueError) as e:
        raise NotDecoded("attributes that describe the pixels are missing or invalid") from e
    if allocated not in (8, 16, 32) or not 0 < stored <= allocated:
        raise NotDecoded(f"unsupported pixels: {stored} of {allocated} bits stored")
    dtype = np.dtype(f"<{'i' if signed else 'u'}{allocated // 8}")
    syntax = transfer_syntax(ds)
    try:
        if not syntax.is_compressed and syntax.is_little_endian:
            data = ds.PixelData[: int(np.prod(shape)) * dtype.itemsize]
            values = np.frombuffer(data, dtype).reshape(shape)
        else:
            values = np.asarray(ds.pixel_array).reshape(shape).astype(dtype)
    except Exception as e:
        raise NotDecoded(f"pixels cannot be decoded ({type(e).__name__})") from e
    unused = allocated - stored
    if unused and high_bit == stored - 1:
        values = values << unused >> unused
    return values


def transfer_syntax(ds: Dataset) -> uid.UID:
    """Transfer syntax of the file; implicit little endian where the file meta has none."""
    meta = getattr(ds, "file_meta", None) or Dataset()
    return uid.UID(meta.get("TransferSyntaxUID", uid.ImplicitVRLittleEndian))
