"""The network's grid: resampling of images to it, and of labels back to the image.

The input of the network has axes right, anterior and superior, isotropic voxels, and intensities
normalised by percentiles, whatever the orientation, voxel size and scaling of the file.
"""

from __future__ import annotations

import os
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from math import ceil
from typing import Literal

import numpy as np
from nibabel.affines import apply_affine, voxel_sizes
from nibabel.orientations import io_orientation
from numpy.typing import NDArray
from scipy import ndimage

from efface.segment.masks import box_of
from efface.segment.resample import block_mean

Array = NDArray[np.float32]

MAX_EXTENT_MM = 400.0
"""Largest extent of a grid axis: an image of a head is smaller, and memory is limited."""

MIN_VOXELS = 48
"""Fewest voxels on each axis, so that a thin slab has an interior at the coarsest level too."""

MIN_EXTENT_MM = (160.0, 208.0, 256.0)
"""Smallest extent of the networks' input along right, anterior and superior: the networks were
trained on volumes of this size or more. The means over a thin slab alone differ, and its crown is
then labelled as a mouth."""

MAX_TILT = 12.0
"""Largest angle in degrees between an image's axes and the world's for a grid along the image's
axes. Heads are tilted by as much within images that are not, so that such a grid is as good, and
no interpolation along tilted axes is needed."""

BLOCK = 4
"""Voxels on each axis come in multiples of this: the network pools pairs of them, and air is
detected block by block."""
AIR_LEVEL = 0.1
"""Blocks with a lower mean, in a normalised image, hold air."""
AIR_MARGIN_MM = 12.0
"""Margin around the other blocks that is part of the network's input."""

MIN_PROBABILITY = 0.45
"""Smallest probability of a labelled voxel. It is below one half because a missed face voxel costs
more than one too many."""


@dataclass(frozen=True)
class Grid:
    """Isotropic grid with axes right, anterior and superior, tilted by up to :data:`MAX_TILT`."""

    shape: tuple[int, int, int]
    affine: NDArray[np.float64]
    """4 × 4, voxel to world in mm."""

    @property
    def mm(self) -> float:
        """Voxel size in mm."""
        return float(np.linalg.norm(self.affine[:3, 0]))


def covering(shape: tuple[int, ...], affine: NDArray[np.float64], mm: float, multiple: int) -> Grid:
    """Smallest grid of voxels of ``mm`` that covers an image's field of view.

    Its axes are the image's if these are tilted by up to :data:`MAX_TILT`, else the world's. Each
    axis has a ``multiple`` of voxels, at least :data:`MIN_VOXELS`, with the field of view in the
    middle. Axes longer than :data:`MAX_EXTENT_MM` are cut evenly at both ends.
    """
    corners = np.array(np.meshgrid(*[(-0.5, n - 0.5) for n in shape[:3]])).reshape(3, -1).T
    axes = _axes(affine)
    projected = apply_affine(affine, corners) @ axes
    low, high = projected.min(0), projected.max(0)
    extent = np.minimum(high - low, MAX_EXTENT_MM)
    steps = np.maximum(np.ceil(extent / mm / multiple - 1e-6).astype(int) * multiple, MIN_VOXELS)
    origin = (low + high) / 2 - (steps - 1) / 2 * mm
    out = np.eye(4)
    out[:3, :3], out[:3, 3] = axes * mm, axes @ origin
    return Grid((int(steps[0]), int(steps[1]), int(steps[2])), out)


def _axes(affine: NDArray[np.float64]) -> NDArray[np.float64]:
    """Unit vectors of a grid's axes right, anterior and superior, as columns (3, 3)."""
    unit = np.asarray(affine[:3, :3], np.float64) / voxel_sizes(affine)
    own = np.eye(3)
    for column, (axis, sign) in zip(unit.T, io_orientation(affine), strict=True):
        own[:, int(axis)] = sign * column
    tilt = np.degrees(np.arccos(np.clip((np.trace(own) - 1) / 2, -1, 1)))
    orthogonal = np.allclose(own.T @ own, np.eye(3), atol=1e-4)
    return own if orthogonal and tilt <= MAX_TILT else np.eye(3)


def volume(voxels: NDArray[np.generic], slope: float = 1.0, inter: float = 0.0) -> Array:
    """Scaled intensities (X, Y, Z) of stored voxels, float32 and finite; 4D: mean over time."""
    v = np.asarray(voxels)
    v = v.mean(axis=3, dtype=np.float32) if v.ndim == 4 else v.astype(np.float32)
    if voxels.dtype.kind == "f" and not np.isfinite(v).all():
        v = np.nan_to_num(v, nan=0.0, posinf=0.0, neginf=0.0)
    if slope not in (0.0, 1.0) and np.isfinite(slope):
        v *= np.float32(slope)
    if inter and np.isfinite(inter):
        v += np.float32(inter)
    return v


def has_bright_background(v: Array) -> bool:
    """Whether a volume (X, Y, Z) is brighter at its edges, where air is, than on average."""
    edges = [np.moveaxis(v, axis, 0)[end].ravel() for axis in range(3) for end in (0, -1)]
    return bool(np.median(np.concatenate(edges)) > v.mean())


def resample(v: Array, affine: NDArray[np.float64], grid: Grid) -> tuple[Array, NDArray[np.bool_]]:
    """Resample a volume to the grid; returns values and a mask of the volume's field of view.

    Interpolation is trilinear. Voxels finer than half the grid's are averaged first, so that noise
    does not alias.
    """
    mm = grid.mm
    sizes = zip(voxel_sizes(affine), v.shape, strict=True)
    factors = [int(min(max(mm / size + 0.25, 1), n)) for size, n in sizes]
    affine = affine.copy()
    v = block_mean(v, factors)
    affine[:3, 3] += affine[:3, :3] @ ((np.array(factors) - 1) / 2)
    affine[:3, :3] *= factors
    to_voxel = np.linalg.inv(affine) @ grid.affine
    out = _interpolate(v, to_voxel[:3, :3], to_voxel[:3, 3], grid.shape, "nearest")
    inside = np.ones(grid.shape, bool)
    index = np.ogrid[tuple(slice(0, n) for n in grid.shape)]
    for axis, n in enumerate(v.shape):
        terms = [to_voxel[axis, k] * index[k] for k in range(3) if abs(to_voxel[axis, k]) > 1e-9]
        at = sum(terms[1:], terms[0]) + to_voxel[axis, 3]
        inside &= (at > -0.75) & (at < n - 0.25)
    out[~inside] = 0
    return out, inside


def normalise(v: Array, inside: NDArray[np.bool_]) -> Array:
    """Scale the 2nd percentile in the field of view to 0, and the 99.5th to 1.

    The result is clipped to -0.2 to 2, and 0 outside the field of view.
    """
    values = v[inside]
    if values.size == 0:
        return np.zeros_like(v)
    low, high = np.percentile(values[:: max(1, values.size // 200_000)], (2, 99.5))
    out: Array = np.clip((v - low) / max(high - low, 1e-6), -0.2, 2.0).astype(np.float32)
    out[~inside] = 0
    return out


def box_without_air(v: Array, grid: Grid) -> tuple[slice, slice, slice]:
    """Smallest box of a normalised volume around all blocks that are not air, with a margin.

    The box has whole blocks on each axis, as the grid of :func:`covering`. Noise is averaged over
    blocks. If noise exceeds :data:`AIR_LEVEL`, or the air is bright, the box is the whole grid,
    which is slower but no less accurate.
    """
    mm = grid.mm
    blocks = v.reshape([n for s in v.shape for n in (s // BLOCK, BLOCK)]).mean((1, 3, 5))
    box = box_of(blocks > AIR_LEVEL)
    if box is None:
        return slice(0, v.shape[0]), slice(0, v.shape[1]), slice(0, v.shape[2])
    out = []
    for span, n in zip(box, v.shape, strict=True):
        margin = round(AIR_MARGIN_MM / mm)
        start, stop = max(BLOCK * span.start - margin, 0), min(BLOCK * span.stop + margin, n)
        size = min(max(-(-(stop - start) // BLOCK) * BLOCK, MIN_VOXELS), n)
        start = min(max((start + stop - size) // 2, 0), n - size)
        out.append(slice(start, start + size))
    return out[0], out[1], out[2]


def padded(v: Array, mm: float) -> tuple[Array, tuple[slice, slice, slice]]:
    """Pad a volume with zeros to at least :data:`MIN_EXTENT_MM`; also returns the volume's box."""
    extents = zip(MIN_EXTENT_MM, v.shape, strict=True)
    missing = [max(0, BLOCK * ceil(extent / mm / BLOCK) - n) for extent, n in extents]
    x, y, z = (slice(m // 2, m // 2 + n) for m, n in zip(missing, v.shape, strict=True))
    out = np.pad(v, [(m // 2, m - m // 2) for m in missing])
    return np.ascontiguousarray(out), (x, y, z)


def subgrid(grid: Grid, box: tuple[slice, slice, slice]) -> Grid:
    """Grid of the voxels in a box of another grid."""
    affine = grid.affine.copy()
    affine[:3, 3] += affine[:3, :3] @ [s.start for s in box]
    return Grid(tuple(s.stop - s.start for s in box), affine)


def resample_labels(
    probabilities: NDArray[np.float32],
    allowed: NDArray[np.bool_],
    grid: Grid,
    shape: tuple[int, int, int],
    affine: NDArray[np.float64],
) -> NDArray[np.uint8]:
    """Labels on an image's own grid, uint8 of this shape in Fortran order.

    ``probabilities``: of the classes on the grid, (classes, X, Y, Z); ``allowed``: voxels that may
    have a class, same shape; ``affine``: of the image. Each class is interpolated within the box
    of its allowed voxels; a voxel gets the label of the largest probability.
    """
    to_grid = np.linalg.inv(grid.affine) @ affine
    # axes are reversed, so that the C order of these arrays is the Fortran order of the image
    best = np.zeros(shape[::-1], np.float32)
    out = np.zeros(shape[::-1], np.uint8)
    for label in range(1, len(probabilities)):
        box = box_of(allowed[label])
        if box is None:
            continue
        wide = tuple(slice(max(s.start - 2, 0), s.stop + 2) for s in box)
        low = np.array([s.start for s in wide])
        # one more voxel on each side, because interpolation at the border needs both sides of it
        near = ndimage.binary_dilation(allowed[label][wide])
        p = np.where(near, probabilities[label][wide], np.float32(0))
        ends = zip(low - 1.0, low + np.array(p.shape), strict=True)
        corners = np.array(np.meshgrid(*ends)).reshape(3, -1).T
        index = apply_affine(np.linalg.inv(to_grid), corners)
        first = np.clip(np.floor(index.min(0)).astype(int), 0, shape)
        last = np.clip(np.ceil(index.max(0)).astype(int) + 1, 0, shape)
        if (last <= first).any():
            continue
        offset = apply_affine(to_grid, first) - low
        target = tuple(slice(a, b) for a, b in zip(first, last, strict=True))[::-1]
        size = tuple((last - first)[::-1].tolist())
        fine = _interpolate(p.T, to_grid[:3, :3][::-1, ::-1], offset[::-1], size, "constant")
        is_best = (fine > best[target]) & (fine > MIN_PROBABILITY)
        np.copyto(best[target], fine, where=is_best)
        out[target][is_best] = label
    return out.T


def resample_values(
    values: Array, grid: Grid, shape: tuple[int, int, int], affine: NDArray[np.float64]
) -> Array:
    """Interpolate values (X, Y, Z) of a grid at the voxels of an image, trilinear; 0 outside."""
    to_grid = np.linalg.inv(grid.affine) @ affine
    return _interpolate(values, to_grid[:3, :3], to_grid[:3, 3], shape, "constant")


Edge = Literal["nearest", "constant"]


def _interpolate(
    v: Array,
    matrix: NDArray[np.float64],
    offset: NDArray[np.float64],
    shape: tuple[int, ...],
    edge: Edge,
) -> Array:
    """Trilinear interpolation as by ``ndimage.affine_transform``, but faster.

    ``edge``: values beyond the edge are those of the nearest voxel, or 0 (``constant``). Parallel
    axes are interpolated one by one; otherwise large results are split over threads.
    """
    output_axes = np.abs(matrix).argmax(axis=1)  # axis of the result parallel to each input axis
    off_axis = np.abs(matrix).sum(axis=1) - np.abs(matrix).max(axis=1)
    if (off_axis * np.max(shape) < 1e-3).all() and len(set(output_axes.tolist())) == 3:
        steps = np.diag(matrix[:, output_axes])
        return _interpolate_by_axis(v, steps, output_axes, offset, shape, edge)
    out = np.empty(shape, np.float32)
    threads = min(os.cpu_count() or 1, 4, 1 + out.size // 200_000)
    edges = np.linspace(0, len(out), threads + 1).astype(int)

    def slab(start: int, stop: int) -> None:
        ndimage.affine_transform(
            v, matrix, offset + matrix[:, 0] * start, output=out[start:stop], order=1, mode=edge
        )

    if threads == 1:
        slab(0, len(out))
    else:
        with ThreadPoolExecutor(threads) as pool:
            list(pool.map(slab, edges[:-1], edges[1:]))
    return out


def _interpolate_by_axis(
    v: Array,
    steps: NDArray[np.float64],
    output_axes: NDArray[np.intp],
    offset: NDArray[np.float64],
    shape: tuple[int, ...],
    edge: Edge,
) -> Array:
    """Multiply with an interpolation matrix along each axis, the one that shrinks most first."""
    for axis in sorted(range(3), key=lambda i: shape[output_axes[i]] / v.shape[i]):
        at = steps[axis] * np.arange(shape[output_axes[axis]]) + offset[axis]
        weights = _interpolation_matrix(at, v.shape[axis], edge)
        v = np.moveaxis(np.tensordot(weights, v, (1, axis)), 0, axis)
    return np.ascontiguousarray(v.transpose(np.argsort(output_axes)))


def _interpolation_matrix(at: NDArray[np.float64], n: int, edge: Edge) -> Array:
    """Matrix (points, ``n`` voxels) of linear interpolation at positions along one axis."""
    clipped = np.clip(at, 0, n - 1)
    below = np.minimum(clipped.astype(int), max(n - 2, 0))
    rows, fraction = np.arange(len(at)), clipped - below
    out = np.zeros((len(at), n), np.float32)
    out[rows, below] = 1 - fraction
    if n > 1:
        out[rows, below + 1] = fraction
    if edge == "constant":
        out[np.abs(at - clipped) > 1e-6] = 0
    return out
