"""The organs in a label map, one by one, as points for the hulls of the region.

Lengths are millimetres. A point is index times voxel size ("voxel millimetres").
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from efface.segment.labels import FEATURES, LABELS
from efface.segment.masks import Box, box_of, indices

Float = NDArray[np.float64]

_CELL = 2.5
"""Edge of the cells in which voxels count as connected, in mm."""

_APART = {"eyes": 35.0, "ears": 80.0}
"""Two components farther apart than this are two organs, not two pieces of one."""

_REACH = {"eyes": 30.0, "nose": 40.0, "ears": 50.0, "mouth": 60.0}
"""A component farther than this from the organ's main component does not widen the hull."""


@dataclass(frozen=True)
class Organ:
    """One organ, or one of a pair."""

    name: str
    points: Float
    """Voxel centres in voxel millimetres, shape (n, 3)."""
    stray: NDArray[np.intp]
    """Indices (n, 3) of voxels with this label far from the organ, left out of the hull."""

    @property
    def centre(self) -> Float:
        """Mean of the points, shape (3,)."""
        centre: Float = self.points.mean(axis=0)
        return centre


def find_organs(labels: NDArray[np.uint8], spacing: Float) -> list[Organ]:
    """Return the organs of a label map: up to two eyes and ears, one nose and mouth.

    ``spacing``: voxel size in mm (3,).
    """
    boxes = ((name, box_of(labels == LABELS[name])) for name in FEATURES)
    return [o for name, box in boxes if box for o in _organs(labels, name, box, spacing)]


def _organs(labels: NDArray[np.uint8], name: str, box: Box, spacing: Float) -> list[Organ]:
    start = np.array([s.start for s in box], dtype=np.intp)
    index = indices(labels[box] == LABELS[name]) + start
    pieces = _pieces(index, spacing)
    sizes = np.bincount(pieces)
    centres = np.stack([index[pieces == i].mean(axis=0) for i in range(len(sizes))]) * spacing
    order = np.argsort(-sizes, kind="stable")
    mains = [int(order[0])]
    if name in _APART:
        for i in order[1:]:
            far = np.linalg.norm(centres[i] - centres[mains[0]]) > _APART[name]
            if far and sizes[i] >= 0.1 * sizes[mains[0]]:
                mains.append(int(i))
                break
    distances = np.linalg.norm(centres[:, None] - centres[mains][None], axis=2)
    owner = distances.argmin(axis=1)
    owner[distances.min(axis=1) > _REACH[name]] = -1
    owners = owner[pieces]
    nothing = np.zeros((0, 3), dtype=np.intp)
    return [
        Organ(
            name,
            index[owners == n] * spacing,
            index[owners == -1] if n == 0 else nothing,
        )
        for n in range(len(mains))
    ]


def _pieces(index: NDArray[np.intp], spacing: Float) -> NDArray[np.intp]:
    """Number of the component of each voxel; voxels of one coarse cell are connected."""
    cell = np.maximum(1, np.rint(_CELL / spacing)).astype(np.intp)
    coarse = index // cell
    coarse = coarse - coarse.min(axis=0)
    grid = np.zeros(coarse.max(axis=0) + 1, dtype=bool)
    grid[tuple(coarse.T)] = True
    numbered, _ = ndimage.label(grid, structure=np.ones((3, 3, 3)))
    pieces: NDArray[np.intp] = numbered[tuple(coarse.T)].astype(np.intp) - 1
    return pieces
