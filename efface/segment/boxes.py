"""Boxes about the organs that the coarse network labelled, input of the refining network.

On the networks' grid, whose axes are right, anterior and superior. All boxes of a kind have the
same shape; the part of a box outside the grid is filled with a constant. The box of a right ear is
mirrored along x, so that the network is trained on left ears only.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import ceil

import numpy as np
from numpy.typing import NDArray

from efface.segment import masks
from efface.segment.labels import LABELS

Array = NDArray[np.float32]
Bool = NDArray[np.bool_]

FACE_MM = (96.0, 80.0, 144.0)
"""Size of the box of eyes, nose and mouth."""
EAR_MM = (80.0, 96.0, 112.0)
"""Size of the box of an ear, with enough of the head about it to show where the ear ends."""
MULTIPLE = 8
"""Box sizes in voxels are multiples of this: the refining network halves them three times."""
SMALLEST_MM3 = 500.0
"""A smaller component of the ears gets no box."""


@dataclass(frozen=True)
class Box:
    """A box on the grid."""

    labels: tuple[int, ...]
    """Labels of the organs in it."""
    start: tuple[int, int, int]
    """First voxel; may lie outside the grid."""
    shape: tuple[int, int, int]
    mirrored: bool
    """Whether the network gets it mirrored along x."""


def boxes(organs: Bool, mm: float) -> list[Box]:
    """Boxes about the organs: at most one about the face and one about each ear.

    ``organs``: mask of each class (classes, X, Y, Z); ``mm``: voxel size.
    """
    out = []
    ear = LABELS["ears"]
    components = masks.components(organs[ear])
    if len(components):
        middle = _middle(organs)
        for index in components[:2]:
            if len(index) * mm**3 < SMALLEST_MM3:
                continue
            centre = index.mean(axis=0)
            out.append(_box((ear,), centre, EAR_MM, mm, mirrored=bool(centre[0] > middle)))
    face = tuple(LABELS[o] for o in ("eyes", "nose", "mouth"))
    around = masks.box_of(np.logical_or.reduce([organs[k] for k in face]))
    if around is not None:
        centre = np.array([(s.start + s.stop - 1) / 2 for s in around])
        out.append(_box(face, centre, FACE_MM, mm, mirrored=False))
    return out


def crop(volumes: Array, box: Box, outside: Array) -> Array:
    """The part of ``volumes`` (C, X, Y, Z) in a box, mirrored if the box is.

    ``outside`` (C,): values of voxels outside the grid.
    """
    grid, part = _overlap(volumes.shape[1:], box)
    out = np.empty((len(volumes), *box.shape), np.float32)
    if any(s.stop - s.start < n for s, n in zip(part, box.shape, strict=True)):
        out[:] = outside[:, None, None, None]
    out[(slice(None), *part)] = volumes[(slice(None), *grid)]
    return np.ascontiguousarray(out[:, ::-1]) if box.mirrored else out


def paste(volumes: Array, values: Array, box: Box) -> None:
    """Set ``volumes`` (C, X, Y, Z) in a box to ``values``, in place: the inverse of ``crop``."""
    grid, part = _overlap(volumes.shape[1:], box)
    values = values[:, ::-1] if box.mirrored else values
    volumes[(slice(None), *grid)] = values[(slice(None), *part)]


def _middle(organs: Bool) -> float:
    """The x index between left and right: the middle of the brain, else of all organs."""
    brain: Bool = organs[LABELS["brain"]]
    box = masks.box_of(brain if brain.any() else np.logical_or.reduce(list(organs[1:])))
    return organs.shape[1] / 2 if box is None else float(box[0].start + box[0].stop - 1) / 2


def _box(
    labels: tuple[int, ...],
    centre: NDArray[np.float64],
    size: tuple[float, float, float],
    mm: float,
    mirrored: bool,
) -> Box:
    shape = [MULTIPLE * ceil(round(s / mm / MULTIPLE, 6)) for s in size]
    start = np.rint(centre - (np.array(shape) - 1) / 2).astype(int).tolist()
    return Box(labels, (start[0], start[1], start[2]), (shape[0], shape[1], shape[2]), mirrored)


def _overlap(shape: tuple[int, ...], box: Box) -> tuple[tuple[slice, ...], tuple[slice, ...]]:
    """The part of a box within a grid of ``shape``: as slices of the grid, and of the box."""
    grid, part = [], []
    for first, n, size in zip(box.start, box.shape, shape, strict=True):
        low, high = min(max(first, 0), size), max(min(first + n, size), 0)
        grid.append(slice(low, max(low, high)))
        part.append(slice(low - first, max(low, high) - first))
    return tuple(grid), tuple(part)
