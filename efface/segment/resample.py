"""Volumes, labels and masks on other grids.

A grid is a shape and an affine (4, 4) from voxel indices to world coordinates in mm. A voxel is a
box about its centre.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from efface.segment import masks
from efface.segment.geometry import voxel_sizes
from efface.segment.labels import LABELS

Labels = NDArray[np.uint8]
Bool = NDArray[np.bool_]
Floats = NDArray[np.float64]
Shape = tuple[int, int, int]


def block_mean(v: NDArray[np.float32], steps: Sequence[int]) -> NDArray[np.float32]:
    """Means of a volume over blocks of ``steps`` voxels; voxels that fill no block are dropped."""
    # the axis whose voxels lie farthest apart in memory first: its sums run over whole rows
    for axis in np.argsort([-s for s in v.strides], kind="stable"):
        step = int(steps[axis])
        if step == 1:
            continue
        end = v.shape[axis] // step * step
        part: list[slice] = [slice(None)] * v.ndim
        part[axis] = slice(0, end, step)
        total = v[tuple(part)].copy(order="K")
        for first in range(1, step):
            part[axis] = slice(first, end, step)
            total += v[tuple(part)]
        total *= np.float32(1 / step)
        v = total
    return v


def every_nth(v: NDArray[Any], affine: Floats, mm: float) -> tuple[NDArray[Any], Floats]:
    """Every n-th voxel along each axis, for steps of about ``mm``, and the affine of these."""
    steps = [max(1, int(mm // s)) for s in voxel_sizes(affine) + 1e-6]
    out = affine.copy()
    out[:3, 3] += affine[:3, :3] @ np.array([s // 2 for s in steps])
    out[:3, :3] = affine[:3, :3] * steps
    return v[tuple(slice(s // 2, None, s) for s in steps)], out


def transfer(labels: Labels, affine: Floats, shape: Shape, onto: Floats) -> Labels:
    """Labels on another grid; organs of the face grow by up to a voxel, the brain does not.

    ``labels``: uint8 on the grid of ``affine``; returns the same on the grid of ``shape`` and
    ``onto``. A voxel gets the label at its centre, or else that of an organ with which it overlaps.
    Outside the field of view of ``labels`` only such overlaps are labelled. On the same grid the
    labels are the same.
    """
    out = _at_centres(labels, affine, shape, onto)
    for name in ("nose", "mouth", "eyes", "ears"):
        overlap = overlapping(labels == LABELS[name], affine, shape, onto)
        out[overlap & (out == 0)] = LABELS[name]
    return out


def overlapping(mask: Bool, affine: Floats, shape: Shape, onto: Floats) -> Bool:
    """The voxels of another grid that overlap a True voxel of ``mask``.

    On oblique grids a few more: a voxel of ``mask`` is replaced by the box around it along the
    other grid's axes. Less than a thousandth of a voxel is no overlap.
    """
    out = np.zeros(shape, bool, order="F")
    box = masks.box_of(mask)
    if box is None:
        return out
    index = masks.indices(mask)
    to = np.linalg.inv(onto) @ affine
    centre = index @ to[:3, :3].T + to[:3, 3]
    half = np.abs(to[:3, :3]).sum(axis=1) / 2 + 0.5 - 1e-3
    last = np.array(shape) - 1
    low = np.maximum(np.ceil(centre - half), 0).astype(np.intp)
    high = np.minimum(np.floor(centre + half), last).astype(np.intp)
    inside = (low <= high).all(axis=1)
    low, high = low[inside], high[inside] + 1
    if not len(low):
        return out
    # +1 at the first corner of a box and -1 past its last, along each axis: sums along the axes
    # then count the boxes that hold a voxel
    first = low.min(axis=0)
    size = high.max(axis=0) - first + 1
    counts = np.zeros(int(np.prod(size)), np.int64)
    for corner in np.ndindex(2, 2, 2):
        at = np.where(np.array(corner, bool), high, low) - first
        flat = np.ravel_multi_index((at[:, 0], at[:, 1], at[:, 2]), tuple(size))
        counts += np.bincount(flat, minlength=len(counts)) * (-1) ** sum(corner)
    boxes = counts.reshape(size)
    for axis in range(3):
        boxes = np.cumsum(boxes, axis=axis)
    part = tuple(slice(int(a), int(a + n - 1)) for a, n in zip(first, size, strict=True))
    out[part] = boxes[:-1, :-1, :-1] > 0
    return out


def in_view(shape: Shape, affine: Floats, onto_shape: Shape, onto: Floats) -> Bool:
    """The voxels of the second grid whose centres lie in the field of view of the first."""
    to_index = np.linalg.inv(affine) @ onto
    return _within(to_index[:3, :3], to_index[:3, 3], onto_shape, shape)


def _at_centres(labels: Labels, affine: Floats, shape: Shape, onto: Floats) -> Labels:
    """The label at each voxel's centre, 0 outside the field of view."""
    out = np.zeros(shape, np.uint8, order="F")
    box = masks.box_of(labels > 0)
    if box is None:
        return out
    corners = np.array(np.meshgrid(*[(s.start - 0.5, s.stop - 0.5) for s in box])).reshape(3, -1)
    to = np.linalg.inv(onto) @ affine
    at = to[:3, :3] @ corners + to[:3, 3:]
    first = np.clip(np.floor(at.min(axis=1)), 0, shape).astype(int)
    last = np.clip(np.ceil(at.max(axis=1)) + 1, 0, shape).astype(int)
    if (last <= first).any():
        return out
    to_index = np.linalg.inv(affine) @ onto
    size = tuple((last - first).tolist())
    start = to_index[:3, :3] @ first + to_index[:3, 3]
    part = ndimage.affine_transform(labels, to_index[:3, :3], start, size, order=0, mode="nearest")
    part[~_within(to_index[:3, :3], start, size, labels.shape)] = 0
    out[tuple(slice(a, b) for a, b in zip(first, last, strict=True))] = part
    return out


def _within(linear: Floats, start: Floats, size: tuple[int, ...], shape: tuple[int, ...]) -> Bool:
    """Whether index ``linear @ i + start`` lies in a grid of ``shape``, for all i of ``size``."""
    inside = np.ones(size, bool)
    index = np.ogrid[tuple(slice(0, n) for n in size)]
    for axis, n in enumerate(shape):
        at = sum(linear[axis, k] * index[k] for k in range(3)) + start[axis]
        # half a voxel, and the rounding of an affine in float32
        inside &= (at >= -0.501) & (at <= n - 0.499)
    return inside
