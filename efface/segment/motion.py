"""Motion of the head between two images: a rigid registration of both.

The images may differ in contrast, resolution and field of view. So the registration maximises their
normalised mutual information (Studholme et al., Pattern Recognition 32, 1999). One optimum is no
proof: a search in an image of noise ends where it starts. So it starts from several positions, and
its result counts only if they end in one.

SimpleITK 2.5 (Mattes mutual information, gradient descent, the same starts) was compared on 56
pairs of real and simulated scans with known motions. It gave the same decision (unmoved, moved,
unknown) for 49; neither called a head unmoved that had moved by more than 7.5 mm. It needs 0.9
instead of 2.1 s of CPU time a pair, but adds 264 MB to the installation and replaces 45 lines.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

import numpy as np
from nibabel.affines import apply_affine
from numpy.typing import NDArray
from scipy import ndimage
from scipy.optimize import minimize
from scipy.spatial.transform import Rotation

from efface.segment import grid as grids

Floats = NDArray[np.float64]

MM = 3.0
"""Voxel size at which the images are compared."""
BINS = 32
SAMPLES = 8_000
"""Number of points at which intensities are compared."""
SAMPLES_MIN = 500
"""With fewer points in the head the motion is unknown."""
AGREE_MM = 5.0
"""Two searches agree if no given point differs by more than this."""
STARTS: tuple[tuple[float, ...], ...] = (
    (0, 0, 0, 0, 0, 0),
    (0.12, 0, 0, 0, 8, 0),
    (-0.12, 0, 0, 0, -8, 0),
    (0, 0.1, 0.1, 8, 0, 0),
    (0, -0.1, -0.1, -8, 0, 8),
    (0.05, 0.05, -0.1, 0, 0, -8),
)
"""Start of each search: rotation vector (radians) and shift (mm) about the centre of the head."""
NEEDED = 5
"""Number of searches that must agree with the best one, itself included."""
RADIAN_MM = 100.0
"""A rotation by a radian moves the face by about this: the scale of rotations in a search."""


@dataclass(frozen=True)
class Motion:
    """Motion of the head from one image to another."""

    each: tuple[float, ...]
    """Distance by which each given point moves, in mm."""
    agreed: int
    """Number of searches that ended with the best one."""

    @property
    def known(self) -> bool:
        """Whether enough searches agree; ``each`` means nothing otherwise."""
        return self.agreed >= NEEDED

    @property
    def mm(self) -> float:
        """Largest of the distances."""
        return max(self.each, default=0.0)


UNKNOWN: Final = Motion((), 0)


def between(
    first: tuple[NDArray[np.float32], Floats],
    second: tuple[NDArray[np.float32], Floats],
    head: NDArray[np.bool_],
    points: Floats,
) -> Motion:
    """Motion of the head from the first image to the second.

    Each image is a 3D volume with its affine (voxel to a common world in mm). ``head``: mask on the
    grid of ``second`` in which intensities are compared; ``points`` (n, 3): world positions whose
    motion is wanted. The same input gives the same answer.
    """
    still, to_still = _smooth(*first)
    moving, affine = _smooth(*second)
    to_index = np.linalg.inv(second[1]) @ affine
    where = ndimage.affine_transform(
        head.astype(np.uint8), to_index[:3, :3], to_index[:3, 3], moving.shape, order=0
    )
    index = np.argwhere(where > 0)
    if len(index) < SAMPLES_MIN:
        return UNKNOWN
    rng = np.random.default_rng(0)
    if len(index) > SAMPLES:
        index = index[rng.choice(len(index), SAMPLES, replace=False)]
    # between grid points: at grid points nothing is smoothed by interpolation, which favours them
    at = index + rng.uniform(-0.5, 0.5, index.shape)
    values = _binned(ndimage.map_coordinates(moving, at.T, order=1, mode="nearest"))
    world = at @ affine[:3, :3].T + affine[:3, 3]
    centre = world.mean(axis=0)
    back = np.linalg.inv(to_still)
    edges = _levels(still)

    def rigid(p: Floats) -> Floats:
        """The affine (4, 4) of a rotation vector and a shift about the centre."""
        rotation = Rotation.from_rotvec(p[:3]).as_matrix()
        out = np.eye(4)
        out[:3, :3], out[:3, 3] = rotation, centre - rotation @ centre + p[3:]
        return out

    x, y, z = np.ascontiguousarray(world.T)

    def cost(scaled: Floats) -> float:
        # row by row: threads of a matrix product would cost many times more than they save
        to = [
            m[0] * x + m[1] * y + m[2] * z + m[3] for m in (back @ rigid(scaled * scale)).tolist()
        ]
        inside = np.ones(len(x), bool)
        for at, n in zip(to, still.shape, strict=False):
            inside &= (at >= 0) & (at <= n - 1)
        if np.count_nonzero(inside) < 0.5 * len(inside):
            return 0.0
        within = [at[inside] for at in to[:3]]
        other = ndimage.map_coordinates(still, within, order=1, mode="nearest")
        return -_information(np.clip(np.interp(other, *edges), 0, BINS - 1), values[inside])

    scale = np.array([1 / RADIAN_MM] * 3 + [1.0] * 3)
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
        out: Floats = apply_affine(rigid(p * scale), points)
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
    """The 1st and 99th percentile of the intensities, and their bins."""
    low, high = np.percentile(v, (1, 99))
    return np.array([low, max(high, low + 1e-6)]), np.array([0.0, BINS - 1.0])


def _binned(v: NDArray[np.float32]) -> NDArray[np.intp]:
    out: NDArray[np.intp] = np.rint(np.interp(v, *_levels(v))).astype(np.intp)
    return out


def _information(a: Floats, b: NDArray[np.intp]) -> float:
    """Normalised mutual information of bins; each ``a`` counts for both bins it lies between."""
    low = np.minimum(a.astype(np.intp), BINS - 2)
    part = a - low
    joint = np.bincount(low * BINS + b, 1 - part, BINS * BINS)
    joint += np.bincount((low + 1) * BINS + b, part, BINS * BINS)
    p = joint.reshape(BINS, BINS) / joint.sum()

    def entropy(q: Floats) -> float:
        q = q[q > 0]
        return -float((q * np.log(q)).sum())

    return (entropy(p.sum(axis=0)) + entropy(p.sum(axis=1))) / max(entropy(p), 1e-9)
