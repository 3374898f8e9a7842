"""Whether a head lies in two images of one session where it lay: a rigid registration of both.

The images may differ in contrast, resolution and field of view, so that what is compared is their
normalised mutual information (Studholme et al., Pattern Recognition 32, 1999). One optimum proves
nothing: a search that starts where the header says will stay there in an image of noise. So it
starts from several places, and only where they end in one is the answer believed.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from nibabel.affines import apply_affine
from numpy.typing import NDArray
from scipy import ndimage
from scipy.optimize import minimize
from scipy.spatial.transform import Rotation

from efface.segment import grid as grids

Floats = NDArray[np.float64]

MM = 3.0
"""Voxels of the grids on which the images are compared."""
BINS = 32
SAMPLES = 8_000
AGREE_MM = 5.0
"""Searches that end within this of the best one, at every point asked for, agree with it."""
STARTS: tuple[tuple[float, ...], ...] = (
    (0, 0, 0, 0, 0, 0),
    (0.12, 0, 0, 0, 8, 0),
    (-0.12, 0, 0, 0, -8, 0),
    (0, 0.1, 0.1, 8, 0, 0),
    (0, -0.1, -0.1, -8, 0, 8),
    (0.05, 0.05, -0.1, 0, 0, -8),
)
"""Rotation vectors (radians) and shifts (mm) about the head's middle from which is searched."""
NEEDED = 5
"""So many of the searches must agree."""


@dataclass(frozen=True)
class Motion:
    """Where a head lies in one image against another."""

    each: tuple[float, ...]
    """How far the best search moves each of the points asked for, in mm."""
    agreed: int
    """How many of the searches from :data:`STARTS` ended with the best one."""

    @property
    def known(self) -> bool:
        """Whether the searches ended in one place, so that ``each`` means something."""
        return self.agreed >= NEEDED

    @property
    def mm(self) -> float:
        """How far the farthest of them moves."""
        return max(self.each, default=0.0)


def between(
    first: tuple[NDArray[np.float32], Floats],
    second: tuple[NDArray[np.float32], Floats],
    head: NDArray[np.bool_],
    points: Floats,
) -> Motion:
    """How far the head moved from the first image to the second.

    Each image is a 3D volume with its affine (voxel to one common world in mm); ``head``, on the
    grid of ``second``, says where to compare; ``points`` (n, 3) are the world places whose motion
    counts. The same input gives the same answer.
    """
    still, to_still = _smooth(*first)
    moving, affine = _smooth(*second)
    to_index = np.linalg.inv(second[1]) @ affine
    where = ndimage.affine_transform(
        head.astype(np.uint8), to_index[:3, :3], to_index[:3, 3], moving.shape, order=0
    )
    index = np.argwhere(where > 0)
    if len(index) < 500:
        return Motion((float("inf"),) * len(points), 0)
    rng = np.random.default_rng(0)
    if len(index) > SAMPLES:
        index = index[rng.choice(len(index), SAMPLES, replace=False)]
    # off the grid's points, where interpolation would smooth nothing and so favour no motion
    at = index + rng.uniform(-0.5, 0.5, index.shape)
    values = _binned(ndimage.map_coordinates(moving, at.T, order=1, mode="nearest"))
    world = at @ affine[:3, :3].T + affine[:3, 3]
    middle = world.mean(axis=0)
    back = np.linalg.inv(to_still)
    edges = _levels(still)

    def moves(p: Floats) -> Floats:
        turn = Rotation.from_rotvec(p[:3]).as_matrix()
        out = np.eye(4)
        out[:3, :3], out[:3, 3] = turn, middle - turn @ middle + p[3:]
        return out

    x, y, z = np.ascontiguousarray(world.T)

    def cost(scaled: Floats) -> float:
        # row by row: threads of a matrix product would cost more than they save, many times over
        to = [
            m[0] * x + m[1] * y + m[2] * z + m[3] for m in (back @ moves(scaled * scale)).tolist()
        ]
        inside = np.ones(len(x), bool)
        for at, n in zip(to, still.shape, strict=False):
            inside &= (at >= 0) & (at <= n - 1)
        if np.count_nonzero(inside) < 0.5 * len(inside):
            return 0.0
        within = [at[inside] for at in to[:3]]
        other = ndimage.map_coordinates(still, within, order=1, mode="nearest")
        return -_information(np.clip(np.interp(other, *edges), 0, BINS - 1), values[inside])

    # a radian moves the face by about 100 mm
    scale = np.array([0.01] * 3 + [1.0] * 3)
    ends = [
        minimize(
            cost,
            np.array(s) / scale,
            method="Powell",
            options={"xtol": 0.05, "ftol": 1e-5, "maxiter": 12},
        )
        for s in STARTS
    ]
    best = min(ends, key=lambda e: float(e.fun))

    def moved(p: Floats) -> Floats:
        out: Floats = apply_affine(moves(p * scale), points)
        return out

    of_best = moved(best.x)
    agreed = sum(bool(np.linalg.norm(moved(e.x) - of_best, axis=1).max() <= AGREE_MM) for e in ends)
    return Motion(tuple(np.linalg.norm(of_best - points, axis=1).tolist()), agreed)


def _smooth(v: NDArray[np.float32], affine: Floats) -> tuple[NDArray[np.float32], Floats]:
    """The volume on a grid of its own of :data:`MM` voxels, a little blurred."""
    grid = grids.covering(v.shape, affine, MM, 1)
    on_grid, _ = grids.resample(v, affine, grid)
    return ndimage.gaussian_filter(on_grid, 0.7), grid.affine


def _levels(v: NDArray[np.float32]) -> tuple[Floats, Floats]:
    """Intensities and their bins, between the 1st and the 99th percentile."""
    low, high = np.percentile(v, (1, 99))
    return np.array([low, max(high, low + 1e-6)]), np.array([0.0, BINS - 1.0])


def _binned(v: NDArray[np.float32]) -> NDArray[np.intp]:
    out: NDArray[np.intp] = np.rint(np.interp(v, *_levels(v))).astype(np.intp)
    return out


def _information(a: Floats, b: NDArray[np.intp]) -> float:
    """Normalised mutual information of binned values; ``a`` may lie between two bins."""
    low = np.minimum(a.astype(np.intp), BINS - 2)
    part = a - low
    joint = np.bincount(low * BINS + b, 1 - part, BINS * BINS)
    joint += np.bincount((low + 1) * BINS + b, part, BINS * BINS)
    p = joint.reshape(BINS, BINS) / joint.sum()

    def entropy(q: Floats) -> float:
        q = q[q > 0]
        return -float((q * np.log(q)).sum())

    return (entropy(p.sum(axis=0)) + entropy(p.sum(axis=1))) / max(entropy(p), 1e-9)
