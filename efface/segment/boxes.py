"""Boxes about the organs that the first network found, in which the second one cuts.

On the network's grid, whose axes are right, anterior and superior. All boxes of a kind have the
same shape; what of them lies outside the grid is empty. A right ear is seen in the mirror, so that
the network knows left ones alone.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import ceil

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from efface.segment.labels import LABELS
from efface.segment.masks import box_of

Array = NDArray[np.float32]
Bool = NDArray[np.bool_]

FACE_MM = (96.0, 80.0, 144.0)
"""Of eyes, nose and mouth together."""
EAR_MM = (80.0, 96.0, 112.0)
"""Of an ear, with as much of the head about it as tells where an ear ends."""
MULTIPLE = 8
"""Voxels of a box along each axis: the network that cuts halves them up to three times."""
SMALLEST_MM3 = 500.0
"""An ear of which less was found gets no box."""


@dataclass(frozen=True)
class Box:
    """A box on the grid."""

    labels: tuple[int, ...]
    """The organs it is there for."""
    start: tuple[int, int, int]
    """First voxel; may lie outside the grid."""
    shape: tuple[int, int, int]
    mirrored: bool
    """Whether it is seen in the mirror (along x)."""


def boxes(kept: Bool, mm: float) -> list[Box]:
    """Boxes about the organs; ``kept``: voxels of each class (classes, X, Y, Z).

    At most one for the face and one for each ear, none about what was not found.
    """
    out = []
    ears = LABELS["ears"]
    groups, n = ndimage.label(kept[ears])
    if n:
        middle = _middle(kept)
        sizes = np.bincount(groups.ravel())[1:]
        for part in np.argsort(-sizes, kind="stable")[:2]:
            if sizes[part] * mm**3 < SMALLEST_MM3:
                continue
            at = np.argwhere(groups == part + 1).mean(axis=0)
            out.append(_box((ears,), at, EAR_MM, mm, mirrored=bool(at[0] > middle)))
    face = tuple(LABELS[o] for o in ("eyes", "nose", "mouth"))
    whole = box_of(np.logical_or.reduce([kept[k] for k in face]))
    if whole is not None:
        at = np.array([(s.start + s.stop - 1) / 2 for s in whole])
        out.append(_box(face, at, FACE_MM, mm, mirrored=False))
    return out


def cut_out(volumes: Array, box: Box, empty: Array) -> Array:
    """What of ``volumes`` (C, X, Y, Z) lies in a box, as the network sees it.

    ``empty`` (C,): what stands for voxels outside the grid.
    """
    there, here = _overlap(volumes.shape[1:], box)
    out = np.empty((len(volumes), *box.shape), np.float32)
    if any(s.stop - s.start < n for s, n in zip(here, box.shape, strict=True)):
        out[:] = empty[:, None, None, None]
    out[(slice(None), *here)] = volumes[(slice(None), *there)]
    return np.ascontiguousarray(out[:, ::-1]) if box.mirrored else out


def put_back(volumes: Array, part: Array, box: Box) -> None:
    """Set ``volumes`` (C, X, Y, Z) in a box to what the network made of it; in place."""
    there, here = _overlap(volumes.shape[1:], box)
    part = part[:, ::-1] if box.mirrored else part
    volumes[(slice(None), *there)] = part[(slice(None), *here)]


def _middle(kept: Bool) -> float:
    """Where left and right meet, along x: the middle of the brain, else of all that was found."""
    brain: Bool = kept[LABELS["brain"]]
    found: Bool = brain if brain.any() else np.logical_or.reduce(list(kept[1:]))
    box = box_of(found)
    return kept.shape[1] / 2 if box is None else float(box[0].start + box[0].stop - 1) / 2


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


def _overlap(grid: tuple[int, ...], box: Box) -> tuple[tuple[slice, ...], tuple[slice, ...]]:
    """The part of a box within the grid: as slices of the grid, and of the box."""
    there, here = [], []
    for first, n, size in zip(box.start, box.shape, grid, strict=True):
        low, high = min(max(first, 0), size), max(min(first + n, size), 0)
        there.append(slice(low, max(low, high)))
        here.append(slice(low - first, max(low, high) - first))
    return tuple(there), tuple(here)
