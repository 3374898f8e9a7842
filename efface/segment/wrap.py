"""Phase wrap: parts of the object beyond one edge of the field of view appear at the opposite edge.

A wrapped image is periodic, so that its edges can be moved to another place. :func:`find_roll`
searches for the place with the least area of the object; the image rolled to it (:func:`rolled`,
:func:`rolled_affine`) shows the head in one piece.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, TypeVar

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from efface import nifti
from efface.measures import Measures
from efface.segment.resample import block_mean

if TYPE_CHECKING:
    import nibabel as nib

Array = NDArray[np.float32]
Bool = NDArray[np.bool_]
Floats = NDArray[np.float64]
Roll = tuple[int, int, int]
"""Voxels by which an image is rolled along each of its axes."""
T = TypeVar("T", bound=np.generic)

NO_ROLL: Roll = (0, 0, 0)

VOXEL_MM = 2.0
"""Approximate voxel size on which signal is detected, in mm."""
MIN_THRESHOLD, MAX_THRESHOLD = 0.05, 0.25
"""Limits of the threshold between air and signal, as shares of the range of intensities (2nd to
99.5th percentile). At 0.1 the wrapped nose of IXI013, a shell of skin, is missed."""
NOISE_FACTOR = 5.0
"""Threshold within these limits, as a multiple of the distance from the 2nd to the 20th percentile,
which are air: 3.7 standard deviations of smoothed Rayleigh noise above its mean."""
EDGE_MM = 6.0
"""Depth of an edge: slices within it count. In IXI, resampled, the last one or two are empty."""
MIN_AREA_MM2 = 400.0
"""Smallest area at the edge for a roll: a nose cut 10 mm behind its tip has more. Smaller pieces
are handled by :mod:`efface.distort.folded`."""
MAX_AREA_RATIO = 0.5
"""Largest area at the new place of an edge, relative to that at the edge. None of 142 unchanged
heads is rolled: if shoulders reach both sides, no place has a smaller area."""


def find_roll(v: Array, spacing: Floats) -> Roll:
    """Roll that moves the edges of a wrapped image to the slices with the least signal.

    ``v``: intensities (X, Y, Z) with dark air; ``spacing``: voxel sizes in mm (3,). Returns
    :data:`NO_ROLL` if no signal continues at the opposite edge, or no other slices have less.
    """
    mask, steps = signal(v, spacing)
    size = spacing * steps
    roll = [0, 0, 0]
    for axis, n in enumerate(v.shape):
        slices = np.moveaxis(mask, axis, 0)
        edge = max(1, int(EDGE_MM / size[axis] + 1e-6))
        if len(slices) < 4 * edge:
            continue
        mm2 = float(np.prod(np.delete(size, axis)))
        at_both_edges = slices[:edge].any(axis=0) & slices[-edge:].any(axis=0)
        wrapped = np.count_nonzero(at_both_edges) * mm2
        areas = slices.reshape(len(slices), -1).sum(axis=1) * mm2
        least = float(areas[edge:-edge].min())
        if wrapped < MIN_AREA_MM2 or least > MAX_AREA_RATIO * wrapped:
            continue
        low = areas <= least + (wrapped - least) / 10
        low[:edge] = low[-edge:] = False
        cut = _middle_of_longest_run(low) * int(steps[axis])
        roll[axis] = -cut if cut <= n / 2 else n - cut
    return roll[0], roll[1], roll[2]


def rolled(a: NDArray[T], roll: Roll) -> NDArray[T]:
    """Array (X, Y, Z) or (X, Y, Z, T) rolled along its first three axes, in its memory order."""
    if roll == NO_ROLL:
        return a
    out = np.empty_like(a)
    out[...] = np.roll(a, roll, axis=(0, 1, 2))
    return out


def inverse(roll: Roll) -> Roll:
    """Roll that undoes another."""
    return -roll[0], -roll[1], -roll[2]


def from_measures(measures: Measures) -> Roll:
    """Roll recorded in the measures of the segment stage."""
    x, y, z = measures.get("roll", NO_ROLL)
    return int(x), int(y), int(z)


def rolled_affine(affine: NDArray[np.floating], roll: Roll) -> Floats:
    """Affine (4, 4) of a rolled image; voxels not moved across an edge keep their position."""
    out = np.array(affine, np.float64)
    out[:3, 3] -= out[:3, :3] @ roll
    return out


def signal(v: Array, spacing: Floats) -> tuple[Bool, NDArray[np.intp]]:
    """Mask of signal on voxels of about :data:`VOXEL_MM`, and voxels averaged on each axis (3,)."""
    sizes = zip(spacing, v.shape, strict=True)
    steps = np.array([int(min(max(VOXEL_MM / s + 0.25, 1), n)) for s, n in sizes])
    padding = [(0, int(-n % f)) for n, f in zip(v.shape, steps, strict=True)]
    v = np.pad(v, padding, mode="edge") if any(n for _, n in padding) else v
    v = ndimage.gaussian_filter(block_mean(v, steps.tolist()), 0.6)
    low, air, high = np.percentile(v, (2, 20, 99.5))
    limits = MIN_THRESHOLD * (high - low), MAX_THRESHOLD * (high - low)
    return v > low + np.clip(NOISE_FACTOR * (air - low), *limits), steps


def _middle_of_longest_run(values: Bool) -> int:
    """Index of the middle of the longest run of True."""
    groups, n = ndimage.label(values)
    longest = int(np.bincount(groups)[1:].argmax()) + 1 if n else 0
    run = np.flatnonzero(groups == longest)
    return int(run[len(run) // 2])


def rolled_image(img: nib.Nifti1Image, roll: Roll) -> nib.Nifti1Image:
    """Image rolled along its first three axes, with its scaling."""
    if roll == NO_ROLL:
        return img
    out = type(img)(rolled(nifti.stored(img), roll), rolled_affine(img.affine, roll), img.header)
    out.header.set_slope_inter(*nifti.scaling(img))
    return out
