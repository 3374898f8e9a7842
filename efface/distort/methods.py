"""Methods that replace the voxels of the face.

A method computes new values for the masked voxels of one volume. The new values must depend only on
the region, on statistics from outside the region and on a keyed seed, and not on the original
values under the mask (docs/distortion.md). Methods that break this rule are marked with
``depends_on_face``, and the gate sends their scans to review.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from math import ceil
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from efface.distort.region import Bool, Box, Float
from efface.errors import EffaceError
from efface.segment.geometry import voxel_sizes
from efface.segment.labels import LABELS
from efface.segment.masks import box_of
from efface.segment.threshold import otsu

NOISE_MM = 1.0
"""Standard deviation of the Gaussian that correlates noise; at least 0.7 voxels on each axis."""

BLUR_MM = 8.0
"""Standard deviation of the Gaussian of the blur."""

_SAMPLE_SIZE = 400_000
"""Approximate number of voxels outside the region from which statistics are computed."""

_MIN_BRAIN_VOXELS = 200
"""Fewest brain voxels from which the statistics of the head are computed."""


@dataclass(frozen=True)
class Statistics:
    """Intensities of the finite voxels outside the region.

    These are order statistics, not sums, so that they are equal to the last bit on every machine.
    """

    low: float
    """Minimum."""
    high: float
    """Maximum."""
    head: float
    """Median of the head's voxels."""
    spread: float
    """Half the difference between the 84th and the 16th percentile of the head's voxels."""
    background: float
    """Median of the other voxels."""


Fill = Callable[[NDArray[np.generic], Bool, Statistics, Float, np.random.Generator], Float]
"""Function of one volume, mask, statistics, voxel sizes in mm and random generator, to the new
values in the order of ``volume[mask]``. It must not use the values of ``volume`` under the mask,
unless :data:`METHODS` marks it with ``depends_on_face``."""


@dataclass(frozen=True)
class Method:
    """A method that replaces a face."""

    fill: Fill
    depends_on_face: bool


def _noise(
    volume: NDArray[np.generic],
    mask: Bool,
    outside: Statistics,
    spacing: Float,
    random: np.random.Generator,
) -> Float:
    """Gaussian random field around the median of the head."""
    sigma = np.maximum(NOISE_MM / spacing, 0.7)
    field = random.standard_normal(mask.shape, dtype=np.float32)
    norm = 1.0
    for axis in range(3):
        radius = ceil(3 * sigma[axis])
        kernel = np.exp(-0.5 * (np.arange(-radius, radius + 1) / sigma[axis]) ** 2)
        # rounded, because the last bits of exp differ between machines
        kernel = np.round(kernel / kernel.sum(), 6)
        field = ndimage.convolve1d(field, kernel, axis=axis, mode="wrap")
        norm *= float(np.sqrt((kernel**2).sum()))
    return outside.head + outside.spread / norm * field[mask].astype(np.float64)


def _remove(
    volume: NDArray[np.generic],
    mask: Bool,
    outside: Statistics,
    spacing: Float,
    random: np.random.Generator,
) -> Float:
    """Median of the background."""
    return np.full(int(mask.sum()), outside.background)


def _blur(
    volume: NDArray[np.generic],
    mask: Bool,
    outside: Statistics,
    spacing: Float,
    random: np.random.Generator,
) -> Float:
    """The face, smoothed."""
    clean = np.nan_to_num(volume.astype(np.float32), nan=0.0, posinf=0.0, neginf=0.0)
    smooth: NDArray[np.float32] = ndimage.gaussian_filter(clean, BLUR_MM / spacing, truncate=3.0)
    return smooth[mask].astype(np.float64)


METHODS: dict[str, Method] = {
    "noise": Method(_noise, depends_on_face=False),
    "remove": Method(_remove, depends_on_face=False),
    "blur": Method(_blur, depends_on_face=True),  # for comparison only: it can be undone in part
}
"""Methods by name. A new entry is tested by the property tests of tests/test_distort.py."""

DEFAULT = "noise"


def method(name: str) -> Method:
    """Look up a method; raises :class:`EffaceError` for an unknown name."""
    try:
        return METHODS[name]
    except KeyError:
        raise EffaceError(f"{name!r} is no method; choose from {', '.join(METHODS)}") from None


_MAX_PIECES = 16
"""A mask with more pieces is filled as a whole: a face has three, itself and two ears."""


def replace(
    stored: NDArray[np.generic],
    mask: Bool,
    method_name: str = DEFAULT,
    seed: int = 0,
    labels: NDArray[np.uint8] | None = None,
    affine: NDArray[np.floating] | None = None,
    volumes: Sequence[int] = (),
) -> NDArray[np.generic]:
    """Replace the voxels under the mask in a copy of stored voxels.

    ``stored``: (X, Y, Z) or (X, Y, Z, T), any integer or float type; ``mask``: (X, Y, Z);
    ``seed``: from :meth:`efface.pseudonym.Key.seed`; ``labels``: (X, Y, Z), whose brain gives the
    statistics of the head, which otherwise is segmented by a threshold; ``affine``: 4 × 4, gives
    voxel sizes in mm, which otherwise are 1; ``volumes``: indices of the volumes to change, empty
    for all.

    Returns the same dtype, byte order and memory order; voxels outside the mask keep their bits.
    Raises :class:`EffaceError` for an unknown method, or shapes that do not match.
    """
    chosen = method(method_name)
    if stored.ndim not in (3, 4) or stored.shape[:3] != mask.shape:
        raise EffaceError(f"a mask of shape {mask.shape} does not fit an image of {stored.shape}")
    if labels is not None and labels.shape != mask.shape:
        raise EffaceError(f"labels of shape {labels.shape} do not fit an image of {stored.shape}")
    spacing = np.ones(3) if affine is None else voxel_sizes(affine)
    out = stored.copy(order="K")
    # blur uses voxels beyond the mask
    margin_mm = 3 * BLUR_MM if chosen.depends_on_face else 0.0
    margin = np.ceil(margin_mm / spacing).astype(int)
    pieces = list(_pieces(mask, margin))
    if not pieces:
        return out
    for t in volumes or range(1 if stored.ndim == 3 else stored.shape[3]):
        source = stored if stored.ndim == 3 else stored[..., t]
        target = out if stored.ndim == 3 else out[..., t]
        outside = statistics(source, mask, labels)
        random = np.random.Generator(np.random.Philox(np.random.SeedSequence([seed, t])))
        for box, part in pieces:
            values = chosen.fill(source[box], part, outside, spacing, random)
            target[box][part] = _to_stored(values, outside, stored.dtype)
    return out


def _pieces(mask: Bool, margin: NDArray[np.intp]) -> Iterator[tuple[Box, Bool]]:
    """Box of each connected piece of a mask, with a margin in voxels (3,), and its mask in the box.

    The pieces are the face and both ears. One box of all three would hold the brain, which is not
    filled. Pieces at most two voxels apart may be combined.
    """
    whole = box_of(mask)
    if whole is None:
        return
    every = mask[whole].T  # masks are in Fortran order
    halved = _halved(every)
    numbered, count = ndimage.label(halved)
    if count > _MAX_PIECES:
        numbered = halved.astype(np.uint8)
    for n, halved_box in enumerate(ndimage.find_objects(numbered), 1):
        own = numbered[halved_box] == n
        fine = tuple(slice(2 * s.start, 2 * s.stop) for s in halved_box)
        part = every[fine]
        for axis in range(3):
            own = np.repeat(own, 2, axis).take(range(part.shape[axis]), axis)
        part = (part & own).T
        box, padding = [], []
        sizes = zip(fine[::-1], part.shape, whole, mask.shape, margin.tolist(), strict=True)
        for s, length, w, size, m in sizes:
            start = w.start + s.start
            stop = start + length
            wide = slice(max(0, start - m), min(size, stop + m))
            box.append(wide)
            padding.append((start - wide.start, wide.stop - stop))
        yield (box[0], box[1], box[2]), np.pad(part, padding)


def _halved(mask: Bool) -> Bool:
    """Mask on a grid of half the size: True if any of 2 × 2 × 2 voxels is."""
    for axis in range(3):
        even: list[slice] = [slice(None)] * mask.ndim
        odd = even.copy()
        even[axis], odd[axis] = slice(0, None, 2), slice(1, None, 2)
        half = mask[tuple(even)].copy()
        part = mask[tuple(odd)]
        even[axis] = slice(0, part.shape[axis])
        half[tuple(even)] |= part
        mask = half
    return mask


def statistics(
    volume: NDArray[np.generic], mask: Bool, labels: NDArray[np.uint8] | None = None
) -> Statistics:
    """Statistics of a 3D volume's voxels outside the mask.

    The head's voxels are those labelled brain, which is present in every contrast. Without enough
    of them they are separated by a threshold, which fails for signed images (phase, field maps).
    """
    fortran = volume.flags.f_contiguous
    flat, outside = _flat(volume, fortran), ~_flat(mask, fortran)
    every = flat[outside]
    usable = every[np.isfinite(every)] if every.dtype.kind == "f" else every
    if not usable.size:
        return Statistics(0.0, 0.0, 0.0, 0.0, 0.0)
    low, high = float(usable.min()), float(usable.max())
    # an odd step has no common factor with usual matrix sizes, and so samples all rows and columns
    step = max(1, usable.size // _SAMPLE_SIZE) | 1
    values = usable[::step].astype(np.float64)
    is_head = values > otsu(values, 99, 256)[1]
    head = values[is_head] if is_head.any() else values
    rest = values[~is_head] if (~is_head).any() else values
    if labels is not None:
        brain = flat[outside & (_flat(labels, fortran) == LABELS["brain"])]
        brain = brain[np.isfinite(brain)][:: max(1, brain.size // _SAMPLE_SIZE) | 1]
        if brain.size >= _MIN_BRAIN_VOXELS:
            head = brain.astype(np.float64)
    p16, p50, p84 = np.percentile(head, (16, 50, 84))
    return Statistics(low, high, float(p50), float(p84 - p16) / 2, float(np.median(rest)))


def _to_stored(values: Float, outside: Statistics, dtype: np.dtype[Any]) -> NDArray[np.generic]:
    """Clip values to the range outside the region and convert them to the stored type."""
    low, high = outside.low, outside.high
    if dtype.kind in "iu":
        info = np.iinfo(dtype)
        # a double cannot hold the largest 64-bit integers
        high = min(high, float(np.nextafter(float(info.max), 0)) if info.bits == 64 else info.max)
        values = np.rint(values)
    return np.clip(values, low, high).astype(dtype)


def _flat(array: NDArray[np.generic], fortran: bool) -> NDArray[Any]:
    """Voxels as a 1D array, without a copy if they are in this memory order."""
    return array.ravel(order="F" if fortran else "C")
