"""A Siemens mosaic as one file a slice.

Only private elements say how the tiles of a mosaic lie in space. Without them no reader can tell,
while a file with one slice says it in standard attributes (PS3.3 C.7.6.2).
"""

from __future__ import annotations

import copy
from collections.abc import Iterator, Sequence

import numpy as np
from pydicom.dataset import Dataset, FileDataset

from efface.distort.dicom import LPS_TO_RAS, Frame, Placed
from efface.pixels import pixels
from efface.pseudonym import Key


def is_mosaic(ds: Dataset) -> bool:
    """Whether the slices of a volume are the tiles of one picture."""
    return "MOSAIC" in (ds.get("ImageType") or ())


def is_lost(mosaic: Dataset) -> bool:
    """Whether a mosaic does not say how its tiles lie, as a private header does."""
    creators = (mosaic.get((0x0029, n)) for n in range(0x10, 0x100))
    return not any(c is not None and c.value == "SIEMENS CSA HEADER" for c in creators)


def split(
    mosaic: FileDataset, places: Sequence[Placed], key: Key, before: int
) -> Iterator[tuple[FileDataset, Placed]]:
    """The slices of a mosaic, each with its place as a file of one frame.

    ``mosaic``: scrubbed, with the pixels to be released; ``places``: of its tiles; ``before``: how
    many slices of the series come before it, which gives instance numbers. Files of slices have
    the mosaic's attributes, but for those that say where it lies and which file it is.
    """
    values = pixels(mosaic)
    common = copy.deepcopy(mosaic)
    del common.PixelData
    common.remove_private_tags()  # what is left of them may describe the mosaic
    common.ImageType = [t for t in common.ImageType if t != "MOSAIC"]
    common.pop("SliceLocation", None)
    if len(places) > 1:
        first, second = (p.frame.plane[:, 2] for p in places[:2])
        common.SpacingBetweenSlices = f"{np.linalg.norm(second - first):.8g}"
    for n, place in enumerate(places, 1):
        frame, ds = place.frame, copy.deepcopy(common)
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
        alone = Frame(0, rows, columns, frame.plane, frame.slope, frame.intercept)
        yield ds, Placed(alone, place.image, place.volume)
