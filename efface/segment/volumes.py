"""Groups of volumes of a 4D image with the same position of the head.

Labels of the mean over time are valid only for volumes in which the head has the position of the
mean. So volumes are grouped by the position of the head, and each group is segmented, distorted and
judged as a separate image.

The motion of a volume relative to a reference is estimated with one linear least-squares step on
blocks of :data:`BLOCK_MM`. The regressors are powers of the reference, which model differences in
contrast, and the six derivatives of the reference for rigid motion. One step is exact only for
small motions, but a large motion is not estimated as small: either the estimate is large or the fit
is poor.
"""

from __future__ import annotations

import nibabel as nib
import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from efface import nifti
from efface.segment import grid as grids
from efface.segment.geometry import voxel_sizes
from efface.segment.resample import block_mean

Array = NDArray[np.float32]
Floats = NDArray[np.float64]

BLOCK_MM = 8.0
"""Edge of the blocks over which voxels are averaged before volumes are compared."""
MIN_BLOCKS = 4
"""Fewest blocks on each axis; in a thin slab they are thinner than :data:`BLOCK_MM`."""
SMOOTHING_MM = 5.6
"""Standard deviation of the Gaussian that blurs the blocks, so that the linear model holds for
larger motions."""
MAX_MOTION_MM = 5.0
"""Largest motion of any voxel of a head in one position: the region's margin is three times that.
Largest estimate for heads that did not move: 1.3 in real fMRI, 2.7 between contrasts (b=0 to
b=1000), 4.9 between b=0 and noisy b=3000 (phantoms). Smallest estimate for a nod by 8 degrees: 7.3,
and for the real heads that moved: 10.7."""
COMPRESSION = 0.5
"""Intensities are compressed to v / (v + c), where c is this share of the head's mean. This raises
the weight of the skin relative to the brain, whose contrast differs between diffusion directions:
at b=3000 that gave estimates of up to 6.6 mm without compression."""
MIN_CORRELATION = 0.8
"""Smallest correlation of a volume and its fit, corrected for noise, of a valid estimate."""
MIN_SIGNAL = 0.3
"""Smallest share of signal in the variance of a volume's blocks; with less it shows no head."""


def group_by_position(
    voxels: NDArray[np.generic], affine: NDArray[np.floating]
) -> tuple[tuple[int, ...], ...]:
    """Group the volumes of a 4D image by the position of the head.

    ``voxels``: stored values (X, Y, Z, T); ``affine``: 4 × 4, voxel to world in mm. Returns the
    indices of each group's volumes, the largest group first. Each volume is in exactly one group.
    Volumes of noise or of one value show no head, and are in the largest group.
    """
    spacing = voxel_sizes(affine)
    sizes = zip(spacing, voxels.shape, strict=False)
    steps = [max(1, min(round(BLOCK_MM / s), n // MIN_BLOCKS)) for s, n in sizes]
    mm, count = spacing * steps, voxels.shape[3]
    volumes = (grids.volume(voxels[..., t]) for t in range(count))
    blocks = np.stack([_compressed(v, steps, mm) for v in volumes], axis=-1)
    unmoved = _unmoved(blocks, blocks.mean(axis=3), mm, np.ones(count))
    if unmoved.all():
        return (tuple(range(count)),)
    index = np.ogrid[tuple(slice(0, n) for n in voxels.shape[:3])]
    checkerboard = (1 - 2 * (sum(index[1:], index[0]) % 2)).astype(np.float32)
    volumes = (grids.volume(voxels[..., t]) for t in range(count))
    signal = np.array([_signal_share(v, checkerboard, steps, mm) for v in volumes])
    empty, rest = signal < MIN_SIGNAL, np.flatnonzero(signal >= MIN_SIGNAL)
    groups: list[NDArray[np.intp]] = []
    while rest.size:
        unmoved = _one_group(blocks[..., rest], mm, signal[rest])
        groups.append(rest[unmoved])
        rest = rest[~unmoved]
    groups.sort(key=lambda g: (-len(g), g[0]))
    groups[:1] = [np.sort(np.concatenate([*groups[:1], np.flatnonzero(empty)]))]
    return tuple(tuple(int(t) for t in g) for g in groups)


def select(img: nib.Nifti1Image, volumes: tuple[int, ...]) -> nib.Nifti1Image:
    """Select volumes of a 4D image; returns the image itself for all volumes, none, or 3D."""
    if img.ndim < 4 or not volumes or len(volumes) == img.shape[3]:
        return img
    return nifti.with_stored(img, np.asfortranarray(nifti.stored(img)[..., list(volumes)]))


def _half_intensity(blocks: Array) -> np.float32:
    """Intensity that compression maps to one half."""
    magnitude = np.abs(blocks)
    head = magnitude[magnitude > magnitude.mean()]
    return np.float32(COMPRESSION * head.mean()) if head.size else np.float32(1)


def _compressed(v: Array, steps: list[int], mm: Floats) -> Array:
    """Block means of a volume, compressed and blurred; ``steps``, ``mm``: size of the blocks."""
    blocks = block_mean(v, steps)
    compressed = blocks / (np.abs(blocks) + _half_intensity(blocks))
    out: Array = ndimage.gaussian_filter(compressed, SMOOTHING_MM / mm)
    return out


def _signal_share(v: Array, checkerboard: Array, steps: list[int], mm: Floats) -> float:
    """Share of the variance of a volume's blocks, as of :func:`_compressed`, that is not noise.

    ``checkerboard``: alternating +1 and -1. The block means of their product with the volume hold
    the noise of the volume, but not the head.
    """
    total = float(_compressed(v, steps, mm).var())
    if total == 0 or max(steps) == 1:
        return float(total > 0)
    blocks = block_mean(v, steps)
    half = _half_intensity(blocks)
    noise = block_mean(v * checkerboard, steps) * half / (np.abs(blocks) + half) ** 2
    return 1 - float(ndimage.gaussian_filter(noise, SMOOTHING_MM / mm).var()) / total


def _one_group(blocks: Array, mm: Floats, signal: Floats) -> NDArray[np.bool_]:
    """Select volumes (X, Y, Z, T) whose head position is that of their mean; at least one."""
    for reference in (blocks.mean(axis=3), blocks[..., 0]):
        # the mean of several positions may match none of them
        unmoved = _unmoved(blocks, reference, mm, signal)
        while unmoved.any():
            closer = unmoved & _unmoved(blocks, blocks[..., unmoved].mean(axis=3), mm, signal)
            if closer.sum() == unmoved.sum():
                return unmoved
            unmoved = closer
    first = np.zeros(blocks.shape[3], bool)
    first[0] = True
    return first


def _unmoved(blocks: Array, reference: Array, mm: Floats, signal: Floats) -> NDArray[np.bool_]:
    """Whether the head has the position of a reference (X, Y, Z), for volumes (X, Y, Z, T).

    ``signal``: of each volume, from :func:`_signal_share`. Returns shape (T,).
    """
    regressors, points = _regressors(reference, mm)
    flat = blocks.reshape(-1, blocks.shape[3])
    factors = np.linalg.pinv(regressors).astype(np.float32) @ flat
    spread = flat.std(axis=0) * np.sqrt(signal)
    # regression of the fitted contrast on the reference: scales the derivatives' factors to mm
    covariance = np.cov(regressors, rowvar=False)
    slope = covariance[1, :4] @ factors[:4] / max(float(covariance[1, 1]), 1e-12)
    fitted = np.sqrt(np.einsum("it,ij,jt->t", factors, covariance, factors).clip(0))
    motion = np.array([_largest_motion(f, points) for f in factors[4:].T])
    valid = fitted >= MIN_CORRELATION * spread
    unmoved: NDArray[np.bool_] = valid & (motion <= MAX_MOTION_MM * np.abs(slope))
    return unmoved


def _largest_motion(parameters: Array, points: Floats) -> float:
    """Largest motion of points (n, 3) by a shift and small rotations about the axes (6,)."""
    a, b, c = parameters[3:].tolist()
    rotated = points @ np.array([[0, c, -b], [-c, 0, a], [b, -a, 0]])
    return float(np.linalg.norm(parameters[:3] + rotated, axis=1).max(initial=0.0))


def _regressors(reference: Array, mm: Floats) -> tuple[Floats, Floats]:
    """Regressors of a volume, and points of the head.

    Returns (blocks, 10): powers 0 to 3 of the reference, scaled to a maximum of 1, and its
    derivatives for shifts along the axes, in mm, and rotations about them, in radians. The points
    (n, 3) are the blocks brighter than the mean, in mm from their centre.
    """
    scale = max(float(np.abs(reference).max()), 1e-12)
    v = reference.astype(np.float64) / scale
    slopes = [
        np.gradient(v, size, axis=axis) if v.shape[axis] > 1 else np.zeros_like(v)
        for axis, size in enumerate(mm)
    ]
    centres = np.indices(v.shape).reshape(3, -1).T * mm
    bright = v.ravel() > v.mean()
    centres -= centres[bright].mean(axis=0) if bright.any() else 0
    shifts = np.stack([s.ravel() for s in slopes], axis=1)
    powers = np.stack([v.ravel() ** k for k in range(4)], axis=1)
    return np.hstack([powers, shifts, np.cross(centres, shifts)]), centres[bright]
