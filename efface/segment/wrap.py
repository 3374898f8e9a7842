"""Phase wrap: what lies beyond one edge of the field of view appears at the opposite edge.

A wrapped image is periodic, and its edge is a cut through the object like any other.
:func:`better` looks for a cut through which less of the object passes; the image rolled to that cut
(:func:`rolled`, :func:`affine`) shows the head in one piece.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from efface import nifti
from efface.segment.resample import block_mean

if TYPE_CHECKING:
    import nibabel as nib

Array = NDArray[np.float32]
Bool = NDArray[np.bool_]
Floats = NDArray[np.float64]
Roll = tuple[int, int, int]
"""Voxels by which an image is rolled along each of its axes."""
T = TypeVar("T", bound=np.generic)

AS_IT_IS: Roll = (0, 0, 0)

MM = 2.0
"""Signal is looked for on voxels of about this size."""
LEVEL = 0.05, 0.25
"""Signal exceeds at least and at most this share of the range of intensities (2nd to 99.5th
percentile). At 0.1 the wrapped nose of IXI013, a shell of skin, is missed."""
NOISE = 5.0
"""Between these, the share as a multiple of the distance from the 2nd to the 20th percentile, which
are air: 3.7 standard deviations of smoothed Rayleigh noise above its mean."""
EDGE_MM = 6.0
"""Slices this near to an edge belong to it. In IXI, resampled, the last one or two are empty."""
LEAST_MM2 = 400.0
"""At least this must pass through the edge for a roll: a nose cut 10 mm behind its tip has more.
Smaller pieces are found by :mod:`efface.distort.folded`."""
BETTER = 0.5
"""Through a better cut passes less than this share of what passes through the edge. Of 142 heads as
they are, none is rolled: where shoulders reach both sides, every cut holds as much."""


def better(v: Array, spacing: Floats) -> Roll:
    """The roll that moves the edges of a wrapped image to where least of the object passes.

    ``v``: intensities (X, Y, Z), air dark; ``spacing``: mm (3,). :data:`AS_IT_IS` where the edges
    lie well: where nothing continues at the opposite edge, or as much passes everywhere.
    """
    sig, steps = signal(v, spacing)
    size = spacing * steps
    roll = [0, 0, 0]
    for axis, n in enumerate(v.shape):
        slices = np.moveaxis(sig, axis, 0)
        edge = max(1, int(EDGE_MM / size[axis] + 1e-6))
        if len(slices) < 4 * edge:
            continue
        mm2 = float(np.prod(np.delete(size, axis)))
        through = np.count_nonzero(slices[:edge].any(axis=0) & slices[-edge:].any(axis=0)) * mm2
        areas = slices.reshape(len(slices), -1).sum(axis=1) * mm2
        least = float(areas[edge:-edge].min())
        if through < LEAST_MM2 or least > BETTER * through:
            continue
        low = areas <= least + (through - least) / 10
        low[:edge] = low[-edge:] = False
        cut = _middle(low) * int(steps[axis])
        roll[axis] = -cut if cut <= n / 2 else n - cut
    return roll[0], roll[1], roll[2]


def rolled(a: NDArray[T], roll: Roll) -> NDArray[T]:
    """An array (X, Y, Z) or (X, Y, Z, T) rolled along its first three axes."""
    if roll == AS_IT_IS:
        return a
    out = np.empty_like(a)  # in memory order as a
    out[...] = np.roll(a, roll, axis=(0, 1, 2))
    return out


def back(roll: Roll) -> Roll:
    """The roll that undoes another."""
    return -roll[0], -roll[1], -roll[2]


def of(measures: Mapping[str, Any]) -> Roll:
    """The roll in the measures of the segment stage."""
    x, y, z = measures.get("roll", AS_IT_IS)
    return int(x), int(y), int(z)


def affine(of: NDArray[np.floating], roll: Roll) -> Floats:
    """The affine (4, 4) of a rolled image: voxels that were not carried over an edge stay."""
    out = np.array(of, np.float64)
    out[:3, 3] -= out[:3, :3] @ roll
    return out


def signal(v: Array, spacing: Floats) -> tuple[Bool, NDArray[np.intp]]:
    """Where there is more than air, on voxels of about :data:`MM`; voxels averaged on each axis."""
    sizes = zip(spacing, v.shape, strict=True)
    steps = np.array([int(min(max(MM / s + 0.25, 1), n)) for s, n in sizes])
    rest = [(0, int(-n % f)) for n, f in zip(v.shape, steps, strict=True)]
    v = np.pad(v, rest, mode="edge") if any(n for _, n in rest) else v
    v = ndimage.gaussian_filter(block_mean(v, steps.tolist()), 0.6)
    low, air, high = np.percentile(v, (2, 20, 99.5))
    share = np.clip(NOISE * (air - low), LEVEL[0] * (high - low), LEVEL[1] * (high - low))
    return v > low + share, steps


def _middle(low: Bool) -> int:
    """The middle of the longest run of True."""
    groups, n = ndimage.label(low)
    longest = int(np.bincount(groups)[1:].argmax()) + 1 if n else 0
    run = np.flatnonzero(groups == longest)
    return int(run[len(run) // 2])


def image(img: nib.Nifti1Image, roll: Roll) -> nib.Nifti1Image:
    """An image rolled along its first three axes, with its scaling."""
    if roll == AS_IT_IS:
        return img
    out = type(img)(rolled(nifti.stored(img), roll), affine(img.affine, roll), img.header)
    out.header.set_slope_inter(*nifti.scaling(img))
    return out
