"""Voxel sizes and fields of view: where the voxels of a grid lie in the world."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from efface.errors import EffaceError

Floats = NDArray[np.float64]


def voxel_sizes(affine: NDArray[np.floating]) -> Floats:
    """Return the edge lengths of a voxel in mm, shape (3,).

    Raises :class:`EffaceError` if the affine is not a usable 4 × 4 matrix.
    """
    matrix = np.asarray(affine, dtype=np.float64)
    if matrix.shape != (4, 4) or not np.isfinite(matrix).all():
        raise EffaceError("the affine is not a usable 4 x 4 matrix")
    sizes: Floats = np.sqrt((matrix[:3, :3] ** 2).sum(axis=0))
    if (sizes < 1e-3).any() or abs(np.linalg.det(matrix[:3, :3] / sizes)) < 1e-3:
        raise EffaceError("the affine is not a usable 4 x 4 matrix")
    return sizes


def world_to_voxel_axes(affine: NDArray[np.floating]) -> Floats:
    """Return the rotation (3, 3) from world directions to directions in voxel millimetres.

    Voxel millimetres are index times voxel size. A sheared affine gives the nearest rotation
    (polar decomposition).
    """
    u, _, vt = np.linalg.svd(np.asarray(affine, np.float64)[:3, :3] / voxel_sizes(affine))
    rotation: Floats = (u @ vt).T
    return rotation


@dataclass(frozen=True)
class View:
    """A field of view: a box of voxels in the world."""

    affine: Floats
    """Voxel to world, mm (4, 4)."""
    shape: tuple[int, int, int]

    def distances(self, points: Floats) -> Floats:
        """Signed distances (n, 6) of points (n, 3) to the six faces in mm, positive inside."""
        inverse = np.linalg.inv(self.affine)
        index = points @ inverse[:3, :3].T + inverse[:3, 3]
        scale = np.linalg.norm(inverse[:3, :3], axis=1)
        low = (index + 0.5) / scale
        high = (np.asarray(self.shape) - 0.5 - index) / scale
        return np.concatenate([low, high], axis=1)

    def normals(self) -> Floats:
        """Inward unit normals (6, 3) of the faces, in the order of :meth:`distances`."""
        inverse = np.linalg.inv(self.affine)[:3, :3]
        unit = inverse / np.linalg.norm(inverse, axis=1, keepdims=True)
        return np.concatenate([unit, -unit])
