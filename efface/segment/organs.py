"""The organs in a label map, one by one, and how the head lies by them.

Lengths are millimetres. A point is index times voxel size ("voxel millimetres"); the head's own
axes are right, anterior, superior, as in :data:`LANDMARKS`.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import product

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from efface.errors import EffaceError
from efface.segment.labels import FEATURES, LABELS
from efface.segment.masks import Box, box_of, indices

Float = NDArray[np.float64]

_CELL = 2.5
"""Edge of the cells in which voxels count as connected, in mm."""

LANDMARKS: dict[tuple[str, int], tuple[float, float, float]] = {
    ("brain", 0): (0.0, -83.0, 26.0),
    ("eyes", -1): (-30.0, 0.0, 0.0),
    ("eyes", 1): (30.0, 0.0, 0.0),
    ("ears", -1): (-68.0, -89.0, -24.0),
    ("ears", 1): (68.0, -89.0, -24.0),
    ("nose", 0): (0.0, 27.0, -30.0),
    ("mouth", 0): (0.0, 10.0, -74.0),
}
"""Centres of the labels relative to the point between the eyes (right, anterior, superior; mm):
means over the 122 adults of our training heads, sd 1 to 10 mm."""

_HEADER_WEIGHT = 500.0
"""What the affine's word is worth beside the landmarks, in mm²: two points 30 mm apart weigh 450,
a whole head about 50 000."""

_APART = {"eyes": 35.0, "ears": 80.0}
"""Two pieces further apart than this are two organs, not two pieces of one."""

_REACH = {"eyes": 30.0, "nose": 40.0, "ears": 50.0, "mouth": 60.0}
"""A piece further than this from the organ's main piece is a stray and gets no part in the hull."""


@dataclass(frozen=True)
class Organ:
    """One organ, or one of a pair."""

    name: str
    side: int
    """-1 and 1 for the two of a pair, 0 for what there is one of."""
    points: Float
    """Voxel centres in voxel millimetres, shape (n, 3)."""
    stray: NDArray[np.intp]
    """Indices (n, 3) of voxels so labelled far from the organ; the hull leaves them out."""

    @property
    def centre(self) -> Float:
        """Mean of the points, shape (3,)."""
        centre: Float = self.points.mean(axis=0)
        return centre


def voxel_sizes(affine: NDArray[np.floating]) -> Float:
    """Edge lengths of a voxel in mm, shape (3,).

    Raises :class:`EffaceError` if the affine is no usable 4 × 4 matrix.
    """
    matrix = np.asarray(affine, dtype=np.float64)
    if matrix.shape != (4, 4) or not np.isfinite(matrix).all():
        raise EffaceError("the affine does not say how the voxels lie in space")
    sizes: Float = np.sqrt((matrix[:3, :3] ** 2).sum(axis=0))
    if (sizes < 1e-3).any() or abs(np.linalg.det(matrix[:3, :3] / sizes)) < 1e-3:
        raise EffaceError("the affine does not say how the voxels lie in space")
    return sizes


def find_organs(labels: NDArray[np.uint8], spacing: Float) -> list[Organ]:
    """The labelled organs of a volume: up to two eyes and ears, one nose and mouth.

    Sides are provisional (which of a pair is left shows only in :func:`head_axes`).
    """
    found = ((name, box_of(labels == LABELS[name])) for name in FEATURES)
    return [o for name, box in found if box for o in _organs(labels, name, box, spacing)]


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
            0 if name not in _APART else (-1, 1)[n],
            index[owners == n] * spacing,
            index[owners == -1] if n == 0 else nothing,
        )
        for n in range(len(mains))
    ]


def head_axes(
    labels: NDArray[np.uint8], organs: list[Organ], affine: NDArray[np.floating]
) -> Float:
    """The head's right, anterior and superior in voxel millimetres: rows of an orthogonal matrix.

    Orthogonal Procrustes fit of :data:`LANDMARKS` to the organs' centres, with the affine as a
    weak prior that decides what the organs leave open. Right and left may be swapped: nothing
    here depends on them.
    """
    spacing = voxel_sizes(affine)
    u, _, vt = np.linalg.svd(np.asarray(affine, dtype=np.float64)[:3, :3] / spacing)
    prior = u @ vt
    found: list[tuple[str, int, Float, float]] = [
        (o.name, o.side, o.centre, 1.0) for o in organs if len(o.points)
    ]
    step = np.maximum(1, np.rint(_CELL / spacing)).astype(int)
    thin = labels[:: step[0], :: step[1], :: step[2]] == LABELS["brain"]
    if thin.any():
        found.append(("brain", 0, np.argwhere(thin).mean(axis=0) * step * spacing, 0.5))
    weights = np.array([f[3] for f in found])[:, None]
    seen = np.stack([f[2] for f in found])
    seen = seen - (weights * seen).sum(axis=0) / weights.sum()
    best: tuple[float, Float] | None = None
    for eyes, ears in product((1, -1), repeat=2):
        flip = {"eyes": eyes, "ears": ears}
        model = np.array([LANDMARKS[name, flip.get(name, 1) * side] for name, side, *_ in found])
        model = model - (weights * model).sum(axis=0) / weights.sum()
        u, s, vt = np.linalg.svd((weights * model).T @ seen + _HEADER_WEIGHT * prior)
        if best is None or s.sum() > best[0] + 1e-6:
            best = (float(s.sum()), u @ vt)
    assert best is not None
    # rounded, so that the last bits of one machine's SVD decide nothing
    axes: Float = np.round(best[1], 6)
    return axes


def _pieces(index: NDArray[np.intp], spacing: Float) -> NDArray[np.intp]:
    """Number of the connected piece of each voxel; voxels of one coarse cell are connected."""
    cell = np.maximum(1, np.rint(_CELL / spacing)).astype(np.intp)
    coarse = index // cell
    coarse = coarse - coarse.min(axis=0)
    grid = np.zeros(coarse.max(axis=0) + 1, dtype=bool)
    grid[tuple(coarse.T)] = True
    numbered, _ = ndimage.label(grid, structure=np.ones((3, 3, 3)))
    pieces: NDArray[np.intp] = numbered[tuple(coarse.T)].astype(np.intp) - 1
    return pieces
