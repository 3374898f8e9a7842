"""From an image as it comes to the network's grid, and labels back again.

The network sees every head on one grid: axes right, anterior and superior, isotropic voxels,
intensities scaled by percentiles. Orientation, voxel size and scaling of the file end here.
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

LARGEST_MM = 400.0
"""Beyond this extent of a grid axis an image is no head scan that fits in memory."""

LEAST = 48
"""Voxels on each axis at least, so that a thin slab has a middle at the coarsest level too."""

ROOM_MM = (160.0, 208.0, 256.0)
"""What the networks see at least, right, anterior and superior: they learned on volumes of
this size or more. Means over a slab alone are others, and its crown is taken for a mouth."""

LEAN = 12.0
"""An image whose axes lean no farther than this from the world's, in degrees, keeps its own: heads
lie askew by as much in images that do not lean, and nothing need be interpolated askew."""

BLOCK = 4
"""Voxels on an axis of the grid come in blocks of so many: the network folds pairs of them, and air
is looked for block by block."""
AIR, AIR_MM = 0.1, 12.0
"""Blocks of the grid with a lower mean (of a normalised image) hold air; how far about the others
the network looks."""

NEEDED = 0.45
"""Probability that a voxel needs to get a label: below one half, since a face voxel missed costs
more than one too many."""


@dataclass(frozen=True)
class Grid:
    """An isotropic grid; its axes are right, anterior and superior, or lean by :data:`LEAN`."""

    shape: tuple[int, int, int]
    affine: NDArray[np.float64]

    @property
    def mm(self) -> float:
        """Edge of a voxel."""
        return float(np.linalg.norm(self.affine[:3, 0]))


def around(shape: tuple[int, ...], affine: NDArray[np.float64], mm: float, multiple: int) -> Grid:
    """The smallest grid of ``mm`` voxels that holds the whole field of view.

    Its axes are the image's where these lean little, else the world's. Each is a ``multiple`` of
    voxels, and ``LEAST`` of them; the field of view stands in its middle. Axes longer than
    ``LARGEST_MM`` are cut there, evenly at both ends.
    """
    corners = np.array(np.meshgrid(*[(-0.5, n - 0.5) for n in shape[:3]])).reshape(3, -1).T
    axes = _axes(affine)
    along = apply_affine(affine, corners) @ axes
    low, high = along.min(0), along.max(0)
    extent = np.minimum(high - low, LARGEST_MM)
    steps = np.maximum(np.ceil(extent / mm / multiple - 1e-6).astype(int) * multiple, LEAST)
    origin = (low + high) / 2 - (steps - 1) / 2 * mm
    out = np.eye(4)
    out[:3, :3], out[:3, 3] = axes * mm, axes @ origin
    return Grid((int(steps[0]), int(steps[1]), int(steps[2])), out)


def _axes(affine: NDArray[np.float64]) -> NDArray[np.float64]:
    """Unit vectors (3, 3), as columns, of a grid's axes: right, anterior and superior."""
    unit = np.asarray(affine[:3, :3], np.float64) / voxel_sizes(affine)
    own = np.eye(3)
    for column, (axis, sign) in zip(unit.T, io_orientation(affine), strict=True):
        own[:, int(axis)] = sign * column
    lean = np.degrees(np.arccos(np.clip((np.trace(own) - 1) / 2, -1, 1)))
    square = np.allclose(own.T @ own, np.eye(3), atol=1e-4)
    return own if square and lean <= LEAN else np.eye(3)


def volume(voxels: NDArray[np.generic], slope: float = 1.0, inter: float = 0.0) -> Array:
    """One finite float32 3D volume of stored voxels: the mean over time of a 4D image."""
    v = np.asarray(voxels)
    v = v.mean(axis=3, dtype=np.float32) if v.ndim == 4 else v.astype(np.float32)
    if voxels.dtype.kind == "f" and not np.isfinite(v).all():
        v = np.nan_to_num(v, nan=0.0, posinf=0.0, neginf=0.0)
    if slope not in (0.0, 1.0) and np.isfinite(slope):
        v *= np.float32(slope)
    if inter and np.isfinite(inter):
        v += np.float32(inter)
    return v


def bright_about(v: Array) -> bool:
    """Whether a volume (X, Y, Z) is brighter at its edges, where air is, than within."""
    edges = [np.moveaxis(v, axis, 0)[end].ravel() for axis in range(3) for end in (0, -1)]
    return bool(np.median(np.concatenate(edges)) > v.mean())


def resample(v: Array, affine: NDArray[np.float64], grid: Grid) -> tuple[Array, NDArray[np.bool_]]:
    """``v`` on the grid by trilinear interpolation, and where the grid lies in its field of view.

    Voxels finer than half the grid's are averaged first, so that noise does not alias.
    """
    mm = grid.mm
    sizes = zip(voxel_sizes(affine), v.shape, strict=True)
    factors = [int(min(max(mm / size + 0.25, 1), n)) for size, n in sizes]
    affine = affine.copy()
    v = block_mean(v, factors)
    affine[:3, 3] += affine[:3, :3] @ ((np.array(factors) - 1) / 2)
    affine[:3, :3] *= factors
    to_voxel = np.linalg.inv(affine) @ grid.affine
    out = _interpolated(v, to_voxel[:3, :3], to_voxel[:3, 3], grid.shape, "nearest")
    inside = np.ones(grid.shape, bool)
    index = np.ogrid[tuple(slice(0, n) for n in grid.shape)]
    for axis, n in enumerate(v.shape):
        terms = [to_voxel[axis, k] * index[k] for k in range(3) if abs(to_voxel[axis, k]) > 1e-9]
        at = sum(terms[1:], terms[0]) + to_voxel[axis, 3]
        inside &= (at > -0.75) & (at < n - 0.25)
    out[~inside] = 0
    return out, inside


def normalise(v: Array, inside: NDArray[np.bool_]) -> Array:
    """Intensities so that the 2nd percentile in the field of view is 0 and the 99.5th is 1.

    Clipped to -0.2 to 2; 0 outside the field of view.
    """
    seen = v[inside]
    if seen.size == 0:
        return np.zeros_like(v)
    low, high = np.percentile(seen[:: max(1, seen.size // 200_000)], (2, 99.5))
    out: Array = np.clip((v - low) / max(high - low, 1e-6), -0.2, 2.0).astype(np.float32)
    out[~inside] = 0
    return out


def without_air(v: Array, grid: Grid) -> tuple[slice, slice, slice]:
    """The box of a normalised volume outside of which there is air alone, ``AIR_MM`` about it.

    Whole blocks on each axis, as :func:`around` has them. Noise is averaged over blocks; where
    it lies above :data:`AIR`, or the air is bright, the box is the whole grid: slower, no worse.
    """
    mm = grid.mm
    blocks = v.reshape([n for s in v.shape for n in (s // BLOCK, BLOCK)]).mean((1, 3, 5))
    box = box_of(blocks > AIR)
    if box is None:
        return slice(0, v.shape[0]), slice(0, v.shape[1]), slice(0, v.shape[2])
    out = []
    for span, n in zip(box, v.shape, strict=True):
        margin = round(AIR_MM / mm)
        start, stop = max(BLOCK * span.start - margin, 0), min(BLOCK * span.stop + margin, n)
        wide = min(max(-(-(stop - start) // BLOCK) * BLOCK, LEAST), n)
        start = min(max((start + stop - wide) // 2, 0), n - wide)
        out.append(slice(start, start + wide))
    return out[0], out[1], out[2]


def with_room(v: Array, mm: float) -> tuple[Array, tuple[slice, slice, slice]]:
    """A volume in the middle of at least ``ROOM_MM`` of nothing, and where it lies in that."""
    room = [max(0, BLOCK * ceil(r / mm / BLOCK) - n) for r, n in zip(ROOM_MM, v.shape, strict=True)]
    x, y, z = (slice(r // 2, r // 2 + n) for r, n in zip(room, v.shape, strict=True))
    out = np.pad(v, [(r // 2, r - r // 2) for r in room])
    return np.ascontiguousarray(out), (x, y, z)


def part(grid: Grid, box: tuple[slice, slice, slice]) -> Grid:
    """The grid of a box of a grid."""
    affine = grid.affine.copy()
    affine[:3, 3] += affine[:3, :3] @ [s.start for s in box]
    return Grid(tuple(s.stop - s.start for s in box), affine)


def labels_to(
    probabilities: NDArray[np.float32],
    kept: NDArray[np.bool_],
    grid: Grid,
    shape: tuple[int, int, int],
    affine: NDArray[np.float64],
) -> NDArray[np.uint8]:
    """Labels on an image's own grid, in Fortran order as its voxels are.

    From class probabilities (classes, X, Y, Z) on the grid; ``kept`` (the same shape) says where
    a class may be. Each is interpolated only inside the box where it occurs; the largest wins.
    """
    to_grid = np.linalg.inv(grid.affine) @ affine
    # axes reversed: what numpy fills row by row is then Fortran order to the image
    best = np.zeros(shape[::-1], np.float32)
    out = np.zeros(shape[::-1], np.uint8)
    for label in range(1, len(probabilities)):
        box = box_of(kept[label])
        if box is None:
            continue
        wide = tuple(slice(max(s.start - 2, 0), s.stop + 2) for s in box)
        low = np.array([s.start for s in wide])
        # one voxel more on each side, so that interpolation finds a border where it is
        near = ndimage.binary_dilation(kept[label][wide])
        p = np.where(near, probabilities[label][wide], np.float32(0))
        ends = zip(low - 1.0, low + np.array(p.shape), strict=True)
        corners = np.array(np.meshgrid(*ends)).reshape(3, -1).T
        at = apply_affine(np.linalg.inv(to_grid), corners)
        first = np.clip(np.floor(at.min(0)).astype(int), 0, shape)
        last = np.clip(np.ceil(at.max(0)).astype(int) + 1, 0, shape)
        if (last <= first).any():
            continue
        offset = apply_affine(to_grid, first) - low
        here = tuple(slice(a, b) for a, b in zip(first, last, strict=True))[::-1]
        size = tuple((last - first)[::-1].tolist())
        fine = _interpolated(p.T, to_grid[:3, :3][::-1, ::-1], offset[::-1], size, "constant")
        wins = (fine > best[here]) & (fine > NEEDED)
        np.copyto(best[here], fine, where=wins)
        out[here][wins] = label
    return out.T


def values_at(
    values: Array, grid: Grid, shape: tuple[int, int, int], affine: NDArray[np.float64]
) -> Array:
    """Values (X, Y, Z) of a grid at the voxels of another, trilinear; 0 beyond the first one."""
    to_grid = np.linalg.inv(grid.affine) @ affine
    return _interpolated(values, to_grid[:3, :3], to_grid[:3, 3], shape, "constant")


Edge = Literal["nearest", "constant"]


def _interpolated(
    v: Array,
    matrix: NDArray[np.float64],
    offset: NDArray[np.float64],
    shape: tuple[int, ...],
    edge: Edge,
) -> Array:
    """Trilinear, as ``ndimage.affine_transform`` does it; beyond the edge the nearest voxel or 0.

    Axis by axis where the axes are parallel, and on as many threads as there are slabs worth one
    where they are not.
    """
    follows = np.abs(matrix).argmax(axis=1)  # which axis of the result each axis goes along
    away = np.abs(matrix).sum(axis=1) - np.abs(matrix).max(axis=1)
    if (away * np.max(shape) < 1e-3).all() and len(set(follows.tolist())) == 3:
        return _separable(v, np.diag(matrix[:, follows]), follows, offset, shape, edge)
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


def _separable(
    v: Array,
    steps: NDArray[np.float64],
    follows: NDArray[np.intp],
    offset: NDArray[np.float64],
    shape: tuple[int, ...],
    edge: Edge,
) -> Array:
    """Interpolation as a product with a matrix along each axis, the one that shrinks most first."""
    for axis in sorted(range(3), key=lambda i: shape[follows[i]] / v.shape[i]):
        at = steps[axis] * np.arange(shape[follows[axis]]) + offset[axis]
        weights = _weights(at, v.shape[axis], edge)
        v = np.moveaxis(np.tensordot(weights, v, (1, axis)), 0, axis)
    return np.ascontiguousarray(v.transpose(np.argsort(follows)))


def _weights(at: NDArray[np.float64], n: int, edge: Edge) -> Array:
    """Matrix (points, ``n`` voxels) of linear interpolation along one axis."""
    near = np.clip(at, 0, n - 1)
    below = np.minimum(near.astype(int), max(n - 2, 0))
    rows, part = np.arange(len(at)), near - below
    out = np.zeros((len(at), n), np.float32)
    out[rows, below] = 1 - part
    if n > 1:
        out[rows, below + 1] = part
    if edge == "constant":
        out[np.abs(at - near) > 1e-6] = 0
    return out
