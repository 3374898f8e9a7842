"""Clear the bits of a pixel that the image does not use (PS3.5 8.1.1).

Older systems stored overlays in them, and the header need not declare these.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.encaps import encapsulate, generate_frames
from pydicom.uid import UID

from efface import status
from efface.scrub import streams as compressed
from efface.scrub.codec import DamagedError, Syntax

_ENCODERS = frozenset(f"1.2.840.10008.1.2.{n}" for n in ("5", "4.80", "4.90"))
"""Lossless syntaxes in which pixels can be compressed again."""


@dataclass(frozen=True)
class Cells:
    """Layout of a pixel cell: Bits Allocated, Bits Stored, High Bit, Pixel Representation."""

    allocated: int
    stored: int
    high: int
    signed: bool

    @property
    def all_used(self) -> bool:
        """Whether every bit of a cell belongs to the pixel."""
        return self.stored >= self.allocated

    def clear(self, value: bytes, little: bool) -> bytes:
        """Set the unused bits of all pixels to zero; above a signed pixel, to its sign.

        Returns the same bytes if no unused bit is set, because some signed images do not repeat
        the sign. Raises :class:`DamagedError` for cells that are not whole bytes.
        """
        if self.all_used:
            return value
        if self.allocated not in (8, 16, 32, 64):
            raise DamagedError(f"{status.UNREADABLE}: pixels of {self.allocated} bits")
        order = "<" if little else ">"
        voxels = np.frombuffer(value, f"{order}u{self.allocated // 8}")
        lowest = self.high + 1 - self.stored
        used = ((1 << self.stored) - 1) << lowest
        if not (voxels & ~voxels.dtype.type(used)).any():
            return value
        kind = np.dtype(f"{order}{'i' if self.signed else 'u'}{self.allocated // 8}")
        above = self.allocated - 1 - self.high
        pixels = (voxels.view(kind) << above) >> (above + lowest) << lowest
        return pixels.astype(kind).tobytes()


def cells(allocated: int, stored: int, high: int, signed: bool) -> Cells:
    """Layout from the values of a header; values that make no sense are replaced.

    ``stored`` and ``high`` are 0 if the header does not have them.
    """
    if not 0 < stored <= allocated:
        stored = allocated
    if not stored <= high + 1 <= allocated:
        high = stored - 1
    return Cells(allocated, stored, high, signed)


def cleared(
    streams: list[bytes], form: Syntax, layout: Cells, shape: tuple[int, int]
) -> list[bytes]:
    """Clear the unused bits in compressed streams; unchanged streams are returned as they are.

    Pixels are decoded only if a stream has more bits than the header declares. Raises
    :class:`DamagedError` if a stream cannot be decoded, or has unused bits set and cannot be
    compressed again.
    """
    fits = layout.high + 1 == layout.stored and all(
        compressed.precision(s, form, layout.allocated) <= layout.stored for s in streams
    )
    if layout.all_used or fits:
        return streams
    clear = [_clear(stream, form.uid, layout, shape) for stream in streams]
    return clear if clear != streams else streams


def _clear(stream: bytes, uid: str, layout: Cells, shape: tuple[int, int]) -> bytes:
    ds = _dataset(uid, layout, shape)
    ds.PixelData = encapsulate([stream])
    try:
        value = ds.pixel_array.astype(f"<u{layout.allocated // 8}").tobytes()
    except Exception as e:  # any error of the decoders
        raise DamagedError(f"{status.UNREADABLE}: the pixels do not decode") from e
    clean = layout.clear(value, little=True)
    if clean == value:
        return stream
    if uid not in _ENCODERS:
        raise DamagedError(status.TEXT_BURNED_IN)
    ds = _dataset("1.2.840.10008.1.2.1", layout, shape)
    if layout.high + 1 == layout.stored:  # the stream then declares the stored bits only
        ds.BitsStored, ds.HighBit = layout.stored, layout.high
    ds.PixelData = clean
    try:
        ds.compress(UID(uid), generate_instance_uid=False)
    except Exception as e:  # any error of the encoders
        raise DamagedError(status.TEXT_BURNED_IN) from e
    return next(generate_frames(ds.PixelData, number_of_frames=1))


def _dataset(uid: str, layout: Cells, shape: tuple[int, int]) -> Dataset:
    """A data set of one frame without pixels, with all bits used."""
    ds = Dataset()
    ds.file_meta = FileMetaDataset()
    ds.file_meta.TransferSyntaxUID = UID(uid)
    ds.Rows, ds.Columns = shape
    ds.SamplesPerPixel, ds.PhotometricInterpretation, ds.NumberOfFrames = 1, "MONOCHROME2", 1
    ds.BitsAllocated = ds.BitsStored = layout.allocated
    ds.HighBit, ds.PixelRepresentation = layout.allocated - 1, int(layout.signed)
    return ds
