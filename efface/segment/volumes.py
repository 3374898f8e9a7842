"""Volumes of a 4D image in which the head lies alike, told from one another by rigid motion.

The mean over time shows where the face is only in volumes in which the head lies where the mean
shows it. So the volumes are grouped by the position of the head, and each group is segmented,
distorted and judged as an image of its own.

The motion of a volume against a reference is estimated by one linear least-squares step on blocks
of :data:`BLOCK_MM`: the volume is fitted by a polynomial of the reference, which takes up
differences in contrast, and by the six derivatives of the reference for rigid motion. One step is
exact only for small motions, but a large motion never comes out small: either the estimate is
large or the fit is poor.
"""

from __future__ import annotations

import nibabel as nib
import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from efface import nifti
from efface.segment import grid as grids
from efface.segment.resample import block_mean

Array = NDArray[np.float32]
Floats = NDArray[np.float64]

BLOCK_MM = 8.0
"""Edge of the blocks over which voxels are averaged before volumes are compared."""
LEAST_BLOCKS = 4
"""Blocks on each axis at least; in a thin slab they are thinner than :data:`BLOCK_MM`."""
SMOOTH_MM = 5.6
"""Standard deviation of the Gaussian that blurs the blocks, so that derivatives hold farther."""
MOVED_MM = 5.0
"""A head no voxel of which moved farther lies as it lay: the region's margin is three times that.
Largest estimate for heads that lay still: 1.3 in real fMRI, 2.7 between contrasts (b=0 to b=1000),
4.9 between b=0 and noisy b=3000 (phantoms). Smallest for a nod by 8 degrees: 7.3, and for the real
heads that moved: 10.7."""
COMPRESS = 0.5
"""Intensities are compressed to v / (v + so much of the head's mean), so that the skin counts
beside the brain, whose contrast differs between diffusion directions: at b=3000 this looked like a
motion of up to 6.6 mm without it."""
FIT = 0.8
"""Correlation of a volume and its fit, noise apart, from which on the estimate is believed."""
VISIBLE = 0.3
"""Share of the variance of a volume's blocks that is not noise; with less it shows no head."""


def alike(voxels: NDArray[np.generic], affine: NDArray[np.floating]) -> tuple[tuple[int, ...], ...]:
    """Indices of the volumes in which the head lies in one place, the largest group first.

    ``voxels``: stored values (X, Y, Z, T); ``affine`` (4, 4): voxel to world in mm. Volumes of
    noise or of one value show no head, and belong to the largest group. Every volume is in one
    group; the same voxels give the same groups.
    """
    spacing = np.linalg.norm(np.asarray(affine, np.float64)[:3, :3], axis=0)
    sizes = zip(spacing, voxels.shape, strict=False)
    steps = [max(1, min(round(BLOCK_MM / s), n // LEAST_BLOCKS)) for s, n in sizes]
    mm, count = spacing * steps, voxels.shape[3]
    volumes = (grids.volume(voxels[..., t]) for t in range(count))
    blocks = np.stack([_compressed(v, steps, mm) for v in volumes], axis=-1)
    still = _still(blocks, blocks.mean(axis=3), mm, np.ones(count))
    if still.all():
        return (tuple(range(count)),)
    index = np.ogrid[tuple(slice(0, n) for n in voxels.shape[:3])]
    turns = (1 - 2 * (sum(index[1:], index[0]) % 2)).astype(np.float32)
    volumes = (grids.volume(voxels[..., t]) for t in range(count))
    visible = np.array([_visible(v, turns, steps, mm) for v in volumes])
    empty, left = visible < VISIBLE, np.flatnonzero(visible >= VISIBLE)
    groups: list[NDArray[np.intp]] = []
    while left.size:
        still = _together(blocks[..., left], mm, visible[left])
        groups.append(left[still])
        left = left[~still]
    groups.sort(key=lambda g: (-len(g), g[0]))
    groups[:1] = [np.sort(np.concatenate([*groups[:1], np.flatnonzero(empty)]))]
    return tuple(tuple(int(t) for t in g) for g in groups)


def only(img: nib.Nifti1Image, volumes: tuple[int, ...]) -> nib.Nifti1Image:
    """A 4D image of these volumes alone; the image itself where they are all of it, or none."""
    if img.ndim < 4 or not volumes or len(volumes) == img.shape[3]:
        return img
    return nifti.with_stored(img, np.asfortranarray(nifti.stored(img)[..., list(volumes)]))


def _bend(blocks: Array) -> np.float32:
    """The intensity that compression halves."""
    size = np.abs(blocks)
    head = size[size > size.mean()]
    return np.float32(COMPRESS * head.mean()) if head.size else np.float32(1)


def _compressed(v: Array, steps: list[int], mm: Floats) -> Array:
    """Means of a volume over blocks of ``steps`` voxels and ``mm``, compressed and blurred."""
    blocks = block_mean(v, steps)
    out: Array = ndimage.gaussian_filter(blocks / (np.abs(blocks) + _bend(blocks)), SMOOTH_MM / mm)
    return out


def _visible(v: Array, turns: Array, steps: list[int], mm: Floats) -> float:
    """Share of the variance of a volume's blocks, as :func:`_compressed`, that is not noise.

    ``turns``: +1 and -1 in turns. A volume times these has the noise of the volume in the means
    over its blocks, and nothing of the head.
    """
    total = float(_compressed(v, steps, mm).var())
    if total == 0 or max(steps) == 1:
        return float(total > 0)
    blocks = block_mean(v, steps)
    bend = _bend(blocks)
    noise = block_mean(v * turns, steps) * bend / (np.abs(blocks) + bend) ** 2
    return 1 - float(ndimage.gaussian_filter(noise, SMOOTH_MM / mm).var()) / total


def _together(blocks: Array, mm: Floats, visible: Floats) -> NDArray[np.bool_]:
    """Some volumes (X, Y, Z, T) in which the head lies alike: each lies as their mean does."""
    for reference in (blocks.mean(axis=3), blocks[..., 0]):
        # the mean of several positions is like none of them, or like a few by chance
        still = _still(blocks, reference, mm, visible)
        while still.any():
            closer = still & _still(blocks, blocks[..., still].mean(axis=3), mm, visible)
            if closer.sum() == still.sum():
                return still
            still = closer
    alone = np.zeros(blocks.shape[3], bool)
    alone[0] = True
    return alone


def _still(blocks: Array, reference: Array, mm: Floats, visible: Floats) -> NDArray[np.bool_]:
    """In which volumes (X, Y, Z, T) the head lies as in a reference (X, Y, Z)."""
    terms, points = _terms(reference, mm)
    flat = blocks.reshape(-1, blocks.shape[3])
    factors = np.linalg.pinv(terms).astype(np.float32) @ flat
    spread = flat.std(axis=0) * np.sqrt(visible)
    # how the volume's intensity follows the reference's: turns derivatives into lengths
    covariance = np.cov(terms, rowvar=False)
    slope = covariance[1, :4] @ factors[:4] / max(float(covariance[1, 1]), 1e-12)
    fitted = np.sqrt(np.einsum("it,ij,jt->t", factors, covariance, factors).clip(0))
    moved = np.array([_farthest(f, points) for f in factors[4:].T])
    still: NDArray[np.bool_] = (fitted >= FIT * spread) & (moved <= MOVED_MM * np.abs(slope))
    return still


def _farthest(motion: Array, points: Floats) -> float:
    """How far a shift and small turns about the axes (6,) move the farthest of points (n, 3)."""
    a, b, c = motion[3:].tolist()
    turned = points @ np.array([[0, c, -b], [-c, 0, a], [b, -a, 0]])
    return float(np.linalg.norm(motion[:3] + turned, axis=1).max(initial=0.0))


def _terms(reference: Array, mm: Floats) -> tuple[Floats, Floats]:
    """What a volume is fitted by, and the points of the head whose motion counts.

    Returns (blocks, 10): powers 0 to 3 of the reference, scaled to 1 at its largest value, and its
    derivatives for shifts along the axes, in mm, and turns about them, in radians; and (points, 3),
    mm from the middle of the head, of the blocks brighter than the mean.
    """
    scale = max(float(np.abs(reference).max()), 1e-12)
    v = reference.astype(np.float64) / scale
    slopes = [
        np.gradient(v, size, axis=axis) if v.shape[axis] > 1 else np.zeros_like(v)
        for axis, size in enumerate(mm)
    ]
    at = np.indices(v.shape).reshape(3, -1).T * mm
    bright = v.ravel() > v.mean()
    at -= at[bright].mean(axis=0) if bright.any() else 0
    shifts = np.stack([s.ravel() for s in slopes], axis=1)
    powers = np.stack([v.ravel() ** k for k in range(4)], axis=1)
    return np.hstack([powers, shifts, np.cross(at, shifts)]), at[bright]
