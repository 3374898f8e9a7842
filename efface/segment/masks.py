"""Boolean masks on a label map's own grid: boxes, neighbourhoods in mm, connected components."""

from __future__ import annotations

from collections.abc import Iterable
from itertools import product

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from efface.segment.geometry import voxel_sizes
from efface.segment.labels import LABELS

Bool = NDArray[np.bool_]
Box = tuple[slice, slice, slice]

BRAIN_MARGIN = 2.0
"""No voxel whose centre lies this near to the centre of a brain voxel is ever replaced, in mm."""
THIN_MM = 2.0


def clear_of_organs(labels: NDArray[np.uint8], spacing: NDArray[np.floating]) -> None:
    """Clear the brain label, in place, within :data:`BRAIN_MARGIN` of an organ.

    Between the brain and an eye or an ear lie bone and fat. Where both labels touch, one of them is
    wrong by a voxel; the organ must go and no brain may change. ``labels``: 3D, values of
    :data:`LABELS`; ``spacing``: voxel size in mm (3,).
    """
    box = box_of(labels > LABELS["brain"])
    if box is None:
        return
    part = labels[wider(box, BRAIN_MARGIN, spacing)]
    part[within(part == LABELS["brain"], part > LABELS["brain"], BRAIN_MARGIN, spacing)] = 0


def within(mask: Bool, of: Bool, mm: float, spacing: NDArray[np.floating]) -> Bool:
    """Return the voxels of ``mask`` whose centres lie within ``mm`` of one of ``of``."""
    out = np.zeros(mask.shape, bool, order="F")
    box, other = box_of(mask), box_of(of)
    if box is None or other is None:
        return out
    offsets = ball(mm, spacing)
    reach = np.abs(offsets).max(axis=0)
    # where both come near to each other
    pairs = zip(wider(box, mm, spacing), wider(other, mm, spacing), strict=True)
    wide = tuple(slice(max(a.start, b.start), min(a.stop, b.stop)) for a, b in pairs)
    if any(s.stop <= s.start for s in wide):
        return out
    source, part, found = of[wide], mask[wide], out[wide]
    # only the surface, and only near the mask, can bring a voxel within reach
    inner = source.copy(order="K")
    near = part.view(np.uint8)
    for axis in range(3):
        n = source.shape[axis]
        low, high = _along(axis, 0, n - 1), _along(axis, 1, n)
        inner[high] &= source[low]
        inner[low] &= source[high]
        near = ndimage.maximum_filter1d(near, 2 * int(reach[axis]) + 1, axis=axis)
    set_around(found, indices(source & ~inner & near.astype(bool)), offsets)
    found |= source
    found &= part
    return out


def components(mask: Bool, *, corners: bool = False) -> list[NDArray[np.intp]]:
    """Return the indices (n, 3) of each connected component of a 3D mask, the largest first.

    ``corners``: voxels that share only an edge or a corner are connected too.
    """
    box = box_of(mask)
    if box is None:
        return []
    numbers, count = ndimage.label(mask[box], np.ones((3, 3, 3)) if corners else None)
    index = np.argwhere(numbers)
    number = numbers[tuple(index.T)]
    index += [s.start for s in box]
    order = np.argsort(number, kind="stable")
    sizes = np.bincount(number, minlength=count + 1)[1:]
    parts = np.split(index[order], np.cumsum(sizes)[:-1])
    return [parts[i] for i in np.argsort(-sizes, kind="stable")]


def connected(mask: Bool, least: float = 1.0, *, largest: bool = False) -> Bool:
    """Return the connected components of at least ``least`` voxels, or only the largest of them.

    Voxels that share an edge or a corner are connected.
    """
    out = np.zeros(mask.shape, bool, order="F" if mask.flags.f_contiguous else "C")
    parts = components(mask, corners=True)
    for index in parts[:1] if largest else parts:
        if len(index) >= least:
            out[tuple(index.T)] = True
    return out


def largest_component(mask: Bool) -> Bool:
    """Return the largest component of a 3D mask; voxels that share a face are connected."""
    numbers, count = ndimage.label(mask)
    if count <= 1:
        return mask
    sizes = np.bincount(numbers.ravel())
    sizes[0] = 0
    return np.asarray(numbers == sizes.argmax())


def ball(radius: float, spacing: NDArray[np.floating]) -> NDArray[np.intp]:
    """Return the index offsets (n, 3) of the voxels whose centres lie within ``radius`` mm."""
    reach = [range(-int(radius / s + 1e-6), int(radius / s + 1e-6) + 1) for s in spacing]
    offsets = np.array(list(product(*reach)), dtype=np.intp)
    near: NDArray[np.intp] = offsets[((offsets * spacing) ** 2).sum(axis=1) <= (radius + 1e-6) ** 2]
    return near


def set_around(mask: Bool, index: NDArray[np.intp], offsets: NDArray[np.intp]) -> None:
    """Set the voxels at ``index`` (n, 3) plus each of ``offsets`` (m, 3), inside the mask."""
    shape = np.array(mask.shape)
    for offset in offsets:
        at = index + offset
        at = at[((at >= 0) & (at < shape)).all(axis=1)]
        mask[tuple(at.T)] = True


def indices(mask: NDArray[np.bool_]) -> NDArray[np.intp]:
    """Return the indices (n, 3) of the True voxels, as ``np.argwhere`` does, from their box."""
    box = box_of(mask)
    if box is None:
        return np.zeros((0, 3), np.intp)
    # row by row as the mask lies in memory
    part = mask[box] if mask.flags.c_contiguous else mask[box].T
    found: NDArray[np.intp] = np.argwhere(np.ascontiguousarray(part))
    found = found if mask.flags.c_contiguous else found[:, ::-1]
    found += np.array([s.start for s in box])
    return found


def box_of(mask: NDArray[np.bool_]) -> tuple[slice, slice, slice] | None:
    """Return the smallest box around the True voxels of a 3D mask, None if there are none."""
    spans = [slice(0, 0)] * 3
    cut = mask
    # the axis that lies farthest apart in memory first: whole blocks are looked through
    for axis in sorted(range(3), key=lambda a: -mask.strides[a]):
        hit = np.flatnonzero(cut.any(axis=tuple(a for a in range(3) if a != axis)))
        if not len(hit):
            return None
        spans[axis] = slice(int(hit[0]), int(hit[-1]) + 1)
        cut = cut[(*[slice(None)] * axis, spans[axis])]
    return spans[0], spans[1], spans[2]


def around_all(boxes: Iterable[Box | None]) -> Box | None:
    """Return the smallest box around boxes; None if there are none."""
    some = [b for b in boxes if b is not None]
    if not some:
        return None
    spans = [
        slice(min(s.start for s in x), max(s.stop for s in x)) for x in zip(*some, strict=True)
    ]
    return spans[0], spans[1], spans[2]


def thinned(affine: NDArray[np.floating]) -> tuple[Box, NDArray[np.float64]]:
    """Return slices that take the voxels about :data:`THIN_MM` apart, and the affine of these.

    Enough for volumes and centres of organs.
    """
    out = np.array(affine, np.float64)
    steps = [max(1, int(THIN_MM / s + 0.01)) for s in voxel_sizes(out)]
    out[:3, 3] += out[:3, :3] @ [n // 2 for n in steps]
    out[:3, :3] *= steps
    x, y, z = (slice(n // 2, None, n) for n in steps)
    return (x, y, z), out


def wider(box: Box, mm: float, spacing: NDArray[np.floating]) -> Box:
    """Return a box widened by at least ``mm`` on each side, cut at the low end of the volume."""
    reach = np.ceil(mm / spacing - 1e-6).astype(int).tolist()
    out = [slice(max(s.start - r, 0), s.stop + r) for s, r in zip(box, reach, strict=True)]
    return out[0], out[1], out[2]


def _along(axis: int, start: int, stop: int) -> tuple[slice, ...]:
    cut = [slice(None)] * 3
    cut[axis] = slice(start, stop)
    return tuple(cut)
