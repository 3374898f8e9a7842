"""What takes the face's place.

A method gets the stored voxels of one volume with the mask of what goes, and returns new values
for the voxels under the mask. The rule (docs/distortion.md): the new values depend on the region,
on statistics from outside the region and on a keyed seed, never on what was under the mask. A
method that breaks it says so with ``depends_on_face`` and the gate sends its scans to review.
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
from efface.segment.labels import LABELS
from efface.segment.masks import box_of
from efface.segment.organs import voxel_sizes
from efface.segment.threshold import otsu

CORRELATION = 1.0
"""Sd of the Gaussian that correlates the noise, in mm but at least 0.7 voxels on each axis."""

BLUR = 8.0
"""Sd of the blur, in mm."""

_SAMPLE = 400_000
"""About how many voxels outside the region the statistics are taken from."""

_BRAIN_ENOUGH = 200
"""So many brain voxels say what the head's intensities are."""


@dataclass(frozen=True)
class Outside:
    """What is known of the voxels outside the region; all of it order statistics.

    Order statistics, not sums: they come out the same to the last bit on every machine.
    """

    low: float
    """Least and greatest finite value outside."""
    high: float
    head: float
    """Median of the head's voxels, and half the width between their 16th and 84th percentile."""
    spread: float
    background: float
    """Median of what is not head."""


Fill = Callable[[NDArray[np.generic], Bool, Outside, Float, np.random.Generator], Float]
"""(one volume, mask, outside, voxel sizes in mm, generator) to the new values where the mask is
True, in the order of ``volume[mask]``. What it may use of ``volume`` under the mask: nothing,
unless it is entered in :data:`METHODS` as depending on the face."""


@dataclass(frozen=True)
class Method:
    """One way to replace a face."""

    fill: Fill
    depends_on_face: bool
    help: str


def _noise(
    volume: NDArray[np.generic],
    mask: Bool,
    outside: Outside,
    spacing: Float,
    random: np.random.Generator,
) -> Float:
    """Gaussian random field around the head's median."""
    sigma = np.maximum(CORRELATION / spacing, 0.7)
    field = random.standard_normal(mask.shape, dtype=np.float32)
    norm = 1.0
    for axis in range(3):
        radius = ceil(3 * sigma[axis])
        kernel = np.exp(-0.5 * (np.arange(-radius, radius + 1) / sigma[axis]) ** 2)
        # rounded, so that the last bits of one machine's exp decide nothing
        kernel = np.round(kernel / kernel.sum(), 6)
        field = ndimage.convolve1d(field, kernel, axis=axis, mode="wrap")
        norm *= float(np.sqrt((kernel**2).sum()))
    return outside.head + outside.spread / norm * field[mask].astype(np.float64)


def _remove(
    volume: NDArray[np.generic],
    mask: Bool,
    outside: Outside,
    spacing: Float,
    random: np.random.Generator,
) -> Float:
    """The level of the background."""
    return np.full(int(mask.sum()), outside.background)


def _blur(
    volume: NDArray[np.generic],
    mask: Bool,
    outside: Outside,
    spacing: Float,
    random: np.random.Generator,
) -> Float:
    """The face itself, smoothed."""
    clean = np.nan_to_num(volume.astype(np.float32), nan=0.0, posinf=0.0, neginf=0.0)
    smooth: NDArray[np.float32] = ndimage.gaussian_filter(clean, BLUR / spacing, truncate=3.0)
    return smooth[mask].astype(np.float64)


METHODS: dict[str, Method] = {
    "noise": Method(_noise, False, "smooth random noise with the intensities of the head's rest"),
    "remove": Method(_remove, False, "one value, that of the background"),
    "blur": Method(_blur, True, "the face smoothed; can be undone in part, for comparison only"),
}
"""Name to method. To add one: write a :data:`Fill`, say whether it depends on the face, enter it.
tests/test_distort.py then runs the properties on it."""

DEFAULT = "noise"


def method(name: str) -> Method:
    """The method of that name.

    Raises :class:`EffaceError` if there is none.
    """
    try:
        return METHODS[name]
    except KeyError:
        raise EffaceError(f"{name!r} is no method; choose from {', '.join(METHODS)}") from None


_MOST_PIECES = 16
"""A mask in more pieces than these is filled as one: a face has one, and two ears."""


def replace(
    stored: NDArray[np.generic],
    mask: Bool,
    method_name: str = DEFAULT,
    seed: int = 0,
    labels: NDArray[np.uint8] | None = None,
    affine: NDArray[np.floating] | None = None,
    volumes: Sequence[int] = (),
) -> NDArray[np.generic]:
    """A copy of the stored voxels with those under the mask replaced.

    ``stored``: 3D or 4D, any integer or float type; ``mask``: 3D, applied to every volume, or to
    those of a 4D image whose indices are in ``volumes``; ``seed``: from
    :meth:`efface.pseudonym.Key.seed`. ``labels`` (3D) say where the brain is, which then gives the
    statistics; without them a threshold finds the head. ``affine`` gives the voxel size; without
    it voxels count as 1 mm.

    Returns the same dtype, byte order and memory order; every voxel outside the mask is the same
    to the bit. Raises :class:`EffaceError` for an unknown method, or shapes that do not fit.
    """
    chosen = method(method_name)
    if stored.ndim not in (3, 4) or stored.shape[:3] != mask.shape:
        raise EffaceError(f"a mask of shape {mask.shape} does not fit an image of {stored.shape}")
    if labels is not None and labels.shape != mask.shape:
        raise EffaceError(f"labels of shape {labels.shape} do not fit an image of {stored.shape}")
    spacing = np.ones(3) if affine is None else voxel_sizes(affine)
    out = stored.copy(order="K")
    # blur looks past the region's edge; for the others the margin is small and does no harm
    margin = np.ceil(3 * BLUR / spacing).astype(int) if chosen.depends_on_face else np.zeros(3, int)
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
            target[box][part] = _as_stored(values, outside, stored.dtype)
    return out


def _pieces(mask: Bool, margin: NDArray[np.intp]) -> Iterator[tuple[Box, Bool]]:
    """The connected pieces of a mask, each in its box and so much about it: face, ear, ear.

    The box of all of them holds the brain, where there is nothing to fill. What two voxels or less
    part may count as one piece.
    """
    whole = box_of(mask)
    if whole is None:
        return
    every = mask[whole].T  # row by row: masks lie in Fortran order
    halved = _halved(every)
    numbered, count = ndimage.label(halved)
    if count > _MOST_PIECES:
        numbered = halved.astype(np.uint8)
    for n, found in enumerate(ndimage.find_objects(numbered), 1):
        own = numbered[found] == n
        fine = tuple(slice(2 * s.start, 2 * s.stop) for s in found)
        part = every[fine]
        for axis in range(3):
            own = np.repeat(own, 2, axis).take(range(part.shape[axis]), axis)
        part = (part & own).T
        box, room = [], []
        sizes = zip(fine[::-1], part.shape, whole, mask.shape, margin.tolist(), strict=True)
        for s, long, w, size, m in sizes:
            start = w.start + s.start
            stop = start + long
            wide = slice(max(0, start - m), min(size, stop + m))
            box.append(wide)
            room.append((start - wide.start, wide.stop - stop))
        yield (box[0], box[1], box[2]), np.pad(part, room)


def _halved(mask: Bool) -> Bool:
    """On a grid of half the size: True where any of 2x2x2 voxels is."""
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
) -> Outside:
    """What is known of a 3D volume's voxels outside the mask.

    The head is what is labelled brain, else what a threshold finds: images with signs (phase,
    field maps) have no threshold, and the brain is there in every contrast.
    """
    fortran = volume.flags.f_contiguous
    flat, free = _line(volume, fortran), ~_line(mask, fortran)
    every = flat[free]
    usable = every[np.isfinite(every)] if every.dtype.kind == "f" else every
    if not usable.size:
        return Outside(0.0, 0.0, 0.0, 0.0, 0.0)
    low, high = float(usable.min()), float(usable.max())
    # an odd step shares no factor with usual matrix sizes and so meets all rows and columns
    step = max(1, usable.size // _SAMPLE) | 1
    values = usable[::step].astype(np.float64)
    is_head = values > otsu(values, 99, 256)[1]
    head = values[is_head] if is_head.any() else values
    rest = values[~is_head] if (~is_head).any() else values
    if labels is not None:
        brain = flat[free & (_line(labels, fortran) == LABELS["brain"])]
        brain = brain[np.isfinite(brain)][:: max(1, brain.size // _SAMPLE) | 1]
        if brain.size >= _BRAIN_ENOUGH:
            head = brain.astype(np.float64)
    p16, p50, p84 = np.percentile(head, (16, 50, 84))
    return Outside(low, high, float(p50), float(p84 - p16) / 2, float(np.median(rest)))


def _as_stored(values: Float, outside: Outside, dtype: np.dtype[Any]) -> NDArray[np.generic]:
    """Clip to the range outside and bring to the stored type."""
    low, high = outside.low, outside.high
    if dtype.kind in "iu":
        info = np.iinfo(dtype)
        # a double cannot hold the greatest 64-bit integers: stay below them
        high = min(high, float(np.nextafter(float(info.max), 0)) if info.bits == 64 else info.max)
        values = np.rint(values)
    return np.clip(values, low, high).astype(dtype)


def _line(array: NDArray[np.generic], fortran: bool) -> NDArray[Any]:
    """The voxels in one row, without a copy where memory lies so."""
    return array.ravel(order="F" if fortran else "C")
