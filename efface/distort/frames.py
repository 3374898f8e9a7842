"""Frames of DICOM files: geometry and stored pixel values.

Geometry follows PS3.3 C.7.6.2 (image plane) and C.7.6.16 (functional groups). Siemens mosaics are
read with nibabel.nicom from their private header.
"""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pydicom
from pydicom.dataset import Dataset, FileDataset

from efface.distort.region import Float

LPS_TO_RAS = np.diag([-1.0, -1.0, 1.0])


class UnmappedError(Exception):
    """A frame could not be decoded or matched to voxels; the message names no file."""


@dataclass(frozen=True)
class Frame:
    """Geometry of one image plane of a file: a frame, or a tile of a mosaic."""

    number: int
    """Index from 0 of the file's frame that holds the plane."""
    rows: slice
    columns: slice
    plane: Float
    """3 × 3, RAS in mm. Columns: step to the next row, step to the next column, first pixel."""
    slope: float = 1.0
    intercept: float = 0.0

    @property
    def shape(self) -> tuple[int, int]:
        """Rows and columns."""
        return self.rows.stop - self.rows.start, self.columns.stop - self.columns.start


def read(path: Path) -> FileDataset:
    """Read a DICOM file, with or without preamble."""
    return pydicom.dcmread(path, force=True)


def frames(ds: Dataset) -> tuple[Frame, ...]:
    """All image planes of a raw dataset, in the order of the file.

    Supports single-frame objects, enhanced multi-frame objects, and Siemens mosaics with their
    private header. Raises :class:`UnmappedError` if a position is missing.
    """
    if int(ds.get("SamplesPerPixel", 1)) != 1:
        raise UnmappedError("colour images are not supported")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            if "PerFrameFunctionalGroupsSequence" in ds:
                return _enhanced(ds)
            if int(ds.get("NumberOfFrames") or 1) != 1:
                raise UnmappedError("several frames without positions")
            if is_mosaic(ds):
                return _mosaic(ds)
            plane = _plane(ds.PixelSpacing, ds.ImageOrientationPatient, ds.ImagePositionPatient)
            return (_whole(ds, 0, plane, *rescale(ds)),)
    except (AttributeError, KeyError, IndexError, TypeError, ValueError) as e:
        raise UnmappedError(f"the position of a frame is missing ({type(e).__name__})") from e


def is_mosaic(ds: Dataset) -> bool:
    """Whether the frame is a mosaic: all slices of a volume as tiles of one picture."""
    return "MOSAIC" in (ds.get("ImageType") or ())


def _plane(spacing: Sequence[Any], orientation: Sequence[Any], position: Sequence[Any]) -> Float:
    row_step, column_step = (float(v) for v in spacing)
    directions = np.array([float(v) for v in orientation]).reshape(2, 3)
    first = np.array([float(v) for v in position])
    if first.shape != (3,):
        raise UnmappedError("the position of a frame is missing")
    # orientation is (along a row, down a column); spacing is (between rows, between columns)
    plane: Float = LPS_TO_RAS @ np.stack(
        [directions[1] * row_step, directions[0] * column_step, first], axis=1
    )
    return plane


def _whole(ds: Dataset, number: int, plane: Float, slope: float, intercept: float) -> Frame:
    return Frame(number, slice(0, int(ds.Rows)), slice(0, int(ds.Columns)), plane, slope, intercept)


def rescale(ds: Dataset) -> tuple[float, float]:
    """Rescale Slope and Intercept of a dataset or functional group; 1 and 0 if absent."""
    slope, intercept = ds.get("RescaleSlope"), ds.get("RescaleIntercept")
    return 1.0 if slope is None else float(slope), 0.0 if intercept is None else float(intercept)


def _enhanced(ds: Dataset) -> tuple[Frame, ...]:
    shared = (ds.get("SharedFunctionalGroupsSequence") or [Dataset()])[0]

    def group(own: Dataset, name: str) -> Dataset:
        sequence = own.get(name) or shared.get(name)
        if not sequence:
            raise UnmappedError(f"a frame has no {name}")
        item: Dataset = sequence[0]
        return item

    out = []
    for n, own in enumerate(ds.PerFrameFunctionalGroupsSequence):
        plane = _plane(
            group(own, "PixelMeasuresSequence").PixelSpacing,
            group(own, "PlaneOrientationSequence").ImageOrientationPatient,
            group(own, "PlanePositionSequence").ImagePositionPatient,
        )
        name = "PixelValueTransformationSequence"
        scale = (own.get(name) or shared.get(name) or [Dataset()])[0]
        out.append(_whole(ds, n, plane, *rescale(scale)))
    return tuple(out)


def _mosaic(ds: Dataset) -> tuple[Frame, ...]:
    from nibabel.nicom import dicomwrappers

    try:
        mosaic = dicomwrappers.wrapper_from_data(ds)
        count = int(mosaic.n_mosaic)
        affine = np.asarray(mosaic.affine, dtype=np.float64)
    except Exception as e:
        raise UnmappedError("a mosaic without a readable Siemens header") from e
    tiles_per_row = int(np.ceil(np.sqrt(count)))
    rows, columns = int(ds.Rows) // tiles_per_row, int(ds.Columns) // tiles_per_row
    out = []
    for n in range(count):
        top, left = n // tiles_per_row * rows, n % tiles_per_row * columns
        first = affine[:3, 3] + n * affine[:3, 2]
        plane = LPS_TO_RAS @ np.stack([affine[:3, 0], affine[:3, 1], first], axis=1)
        tile = slice(top, top + rows), slice(left, left + columns)
        out.append(Frame(0, *tile, plane, *rescale(ds)))
    return tuple(out)
