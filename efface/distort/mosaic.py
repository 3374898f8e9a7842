"""Siemens mosaics as one file per slice.

Only private elements describe the position of a mosaic's tiles. Without them a mosaic cannot be
read, while a file of one slice holds its position in standard attributes (PS3.3 C.7.6.2).
"""

from __future__ import annotations

import copy
from collections.abc import Iterator, Sequence
from dataclasses import replace

import numpy as np
from pydicom.dataset import Dataset, FileDataset

from efface.distort.frames import LPS_TO_RAS, Frame
from efface.distort.mapping import MappedFrame
from efface.pixels import pixels
from efface.pseudonym import Key


def has_tile_positions(mosaic: Dataset) -> bool:
    """Whether a mosaic still has the private header that describes the position of its tiles."""
    creators = (mosaic.get((0x0029, n)) for n in range(0x10, 0x100))
    return any(c is not None and c.value == "SIEMENS CSA HEADER" for c in creators)


def split(
    mosaic: FileDataset, tiles: Sequence[MappedFrame], key: Key, before: int
) -> Iterator[tuple[FileDataset, MappedFrame]]:
    """Split a mosaic into datasets of one slice, each with its mapping as a file of one frame.

    ``mosaic``: scrubbed, with the pixels to release; ``tiles``: its mapped tiles; ``before``:
    number of slices of the series that precede it, from which instance numbers follow. Slices keep
    the mosaic's attributes, except position, size and identifiers of the instance.
    """
    values = pixels(mosaic)
    common = copy.deepcopy(mosaic)
    del common.PixelData
    common.remove_private_tags()  # remaining ones may describe the mosaic
    common.ImageType = [t for t in common.ImageType if t != "MOSAIC"]
    common.pop("SliceLocation", None)
    if len(tiles) > 1:
        first, second = (t.frame.plane[:, 2] for t in tiles[:2])
        common.SpacingBetweenSlices = f"{np.linalg.norm(second - first):.8g}"
    for n, mapped in enumerate(tiles, 1):
        frame, ds = mapped.frame, copy.deepcopy(common)
        tile = np.ascontiguousarray(values[frame.number, frame.rows, frame.columns])
        ds.InstanceNumber = before + n
        ds.SOPInstanceUID = key.uid(f"{mosaic.SOPInstanceUID} {n}")
        ds.file_meta.MediaStorageSOPInstanceUID = ds.SOPInstanceUID
        ds.ImagePositionPatient = [f"{v:.10g}" for v in LPS_TO_RAS @ frame.plane[:, 2]]
        ds.Rows, ds.Columns = frame.shape
        for name, value in (("Smallest", tile.min()), ("Largest", tile.max())):
            if f"{name}ImagePixelValue" in ds:
                setattr(ds, f"{name}ImagePixelValue", int(value))
        data = tile.tobytes()
        ds.add_new(0x7FE00010, mosaic["PixelData"].VR, data + b"\0" * (len(data) % 2))
        rows, columns = (slice(0, size) for size in frame.shape)
        single = Frame(0, rows, columns, frame.plane, frame.slope, frame.intercept)
        yield ds, replace(mapped, frame=single)
