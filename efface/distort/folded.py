"""Parts of a face that a phase wrap folds over onto the opposite edge of the image.

A nose tip beyond the front edge appears behind the head. :func:`folded` follows the signal of the
region through an edge, and returns the voxels at the opposite edge that show the rest of the face.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from math import ceil

import nibabel as nib
import numpy as np
from nibabel.affines import apply_affine
from numpy.typing import NDArray
from scipy import ndimage

from efface import nifti
from efface.distort.region import Bool, Box, Float
from efface.segment import anatomy
from efface.segment import grid as grids
from efface.segment.geometry import View, voxel_sizes
from efface.segment.labels import LABELS
from efface.segment.pose import Pose
from efface.segment.wrap import EDGE_MM, Roll, signal

SHORTEST_MM = 150.0
"""An image that is shorter along an axis is a slab there: both edges lie in the head, and signal at
both tells nothing."""
CROWN_TO_CHIN_MM = 200.0
"""The same for the axis from crown to chin. The mean head has 205 mm from the lower end of the
mouth to the skin of the crown (models/anatomy.json, and 15 mm above the brain). A field map of
159 mm showed its crown, cut off, where the mouth would be folded over."""
LEAST_MM2 = 40.0
"""Less signal through an edge is noise (10 voxels of 2 mm): the smallest of the nose tips that wrap
in 4 of 20 heads, in IXI638, has 176."""
DEEP_MM = 48.0
"""A piece that reaches farther than this from the opposite edge is the head itself: from the
corners of the eyes to the tip of the nose it is less."""
AROUND_MM = 6.0
"""How far about a folded piece voxels are replaced, so that its outline cannot be recognised."""
ORGAN_MM = 30.0
"""An edge that is farther than this from all organs does not cut the face: hulls end 25 mm before
the outermost organ."""


def spare_brain_below(
    mask: Bool, affine: NDArray[np.float64], pose: Pose | None, roll: Roll
) -> None:
    """Clear the mask of a rolled image, in place, where the mean brain adds to the face.

    In an image smaller than the head, what a roll carries over an edge is the sum of the face and
    of what lies one field of view away. ``mask``: (X, Y, Z); ``affine`` (4, 4): voxel to world, mm;
    ``pose``: of the head in the rolled image.
    """
    for axis, (by, n) in enumerate(zip(roll, mask.shape, strict=True)):
        carried = [slice(None)] * 3
        carried[axis] = slice(n + by, n) if by < 0 else slice(0, by)
        part = mask[tuple(carried)]
        at = np.nonzero(part)
        index = np.stack(at, axis=1)
        index[:, axis] += -n if by < 0 else n
        brain = _in_mean_brain(pose, affine, index)
        part[tuple(a[brain] for a in at)] = False


@dataclass(frozen=True)
class Folded:
    """The parts of a face that are folded over."""

    region: Bool
    """The voxels to replace (X, Y, Z), without the mean brain; labels are not considered."""
    face: Bool
    """The voxels that show the face."""


@dataclass(frozen=True)
class _End:
    """An end of an axis at which the region is cut near an organ."""

    axis: int
    last: bool
    section: Bool
    """The part of the region's section that lies before organs (all axes but this one)."""
    organs: Bool
    """Where organs reach the edge, on the same voxels."""


def folded(
    img: nib.Nifti1Image,
    labels: NDArray[np.uint8],
    mask: Bool,
    pose: Pose | None,
    inverted: bool = False,
) -> Folded | None:
    """Return what of the face is folded over onto the opposite edges, None if nothing is.

    ``img``: 3D or 4D; ``labels`` and ``mask``, the region: on its grid; ``pose``: of the head in
    ``labels``; ``inverted``: whether air is bright. A piece that is separate from the head is
    replaced in a box about it. Where it lies over the head, a box is replaced in front of each
    landmark, as deep as the landmark is expected to reach beyond the edge.
    """
    spacing = voxel_sizes(img.affine)
    view = View(np.asarray(img.affine, np.float64), labels.shape)
    ends = list(_ends(labels, mask, spacing, _shortest(pose, view)))
    if not ends:
        return None
    v = grids.volume(nifti.stored(img), *nifti.scaling(img))
    sig, steps = signal(-v if inverted else v, spacing)
    size = spacing * steps
    region, face = np.zeros(sig.shape, bool), np.zeros(sig.shape, bool)
    for end in ends:
        # the cut end of the axis last, what is folded first
        visible, replaced, shown = (
            np.moveaxis(a, end.axis, 0)[:: 1 if end.last else -1] for a in (sig, region, face)
        )
        order = [end.axis, *(a for a in range(3) if a != end.axis)]
        across_steps = steps[order[1:]]
        cuts = [(_coarse(end.organs, across_steps), EDGE_MM)]
        cuts += [(_coarse(a, across_steps), mm) for a, mm in _landmarks(pose, view, end)]
        section = _coarse(end.section, across_steps)
        for depth, group, show in _pieces(visible, section, cuts, size[order]):
            (first, *across) = group
            around = _wider(tuple(across), size[order[1:]])
            replaced[: depth + ceil(AROUND_MM / size[end.axis]), *around] = True
            shown[first, *across] |= show
    if not region.any():
        return None
    # signal that is the sum of face and brain is labelled as neither
    at = np.nonzero(region)
    index = np.stack(at, axis=1) * steps + (steps - 1) / 2
    region[at] = ~_in_mean_brain(pose, view.affine, index)
    return Folded(_fine(region, steps, mask.shape), _fine(face & sig, steps, mask.shape))


def _shortest(pose: Pose | None, view: View) -> Float:
    """Lengths of the image's axes in mm (3,) below which both edges lie in the head."""
    shortest = np.full(3, SHORTEST_MM)
    if pose is not None and pose.consistent:
        up = (view.normals()[:3] @ pose.rotation)[:, 2]
        shortest[np.argmax(np.abs(up))] = CROWN_TO_CHIN_MM * pose.size
    return shortest


def _ends(labels: NDArray[np.uint8], mask: Bool, spacing: Float, shortest: Float) -> Iterator[_End]:
    for axis, n in enumerate(labels.shape):
        if n * spacing[axis] < shortest[axis]:
            continue
        for last in (False, True):
            # from the edge inwards
            inwards = slice(None, None, -1) if last else slice(None)
            edge = np.moveaxis(mask, axis, 0)[inwards][0]
            if not edge.any():
                continue
            face = np.moveaxis(labels, axis, 0)[inwards]
            near, touching = (
                face[: ceil(mm / spacing[axis])].max(axis=0) > LABELS["brain"]
                for mm in (ORGAN_MM, EDGE_MM)
            )
            section = np.zeros_like(edge)
            for box in ndimage.find_objects(near.astype(np.uint8)):
                section[_wider(box, np.delete(spacing, axis))] = True
            section &= edge
            if section.any():
                yield _End(axis, last, section, touching)


def _pieces(
    sig: Bool, section: Bool, cuts: Sequence[tuple[Bool, float]], size: Float
) -> Iterator[tuple[int, Box, Bool]]:
    """What is folded from the last slice over to the first: depth in slices, box, voxels in it.

    ``section``: as of :class:`_End`, on the voxels of ``sig``; ``cuts``: where at the edge parts
    of the face are expected, and how far beyond it, mm; ``size``: mm (3,) of a voxel.
    """
    edge = max(1, int(EDGE_MM / size[0] + 1e-6))
    through = sig[-edge:].any(axis=0) & sig[:edge].any(axis=0) & section
    deep = ceil(DEEP_MM / size[0])
    groups, _ = ndimage.label(sig[:deep])
    boxes = ndimage.find_objects(groups)
    for group in np.unique(groups[:edge][:, through]):
        crossing = (groups[:edge] == group).any(axis=0) & through
        if not group or np.count_nonzero(crossing) * size[1] * size[2] < LEAST_MM2:
            continue
        box: Box = boxes[group - 1]
        if box[0].stop < deep:
            yield box[0].stop, box, groups[box] == group
            continue
        # it lies over the head
        for where, mm in cuts:
            for across in ndimage.find_objects((crossing & where).astype(np.uint8)):
                box = (slice(0, ceil(mm / size[0])), *across)
                yield box[0].stop, box, np.ones([s.stop - s.start for s in box], bool)


def _wider(box: tuple[slice, ...], size: Float) -> tuple[slice, ...]:
    reach = [ceil(AROUND_MM / s) for s in size]
    return tuple(slice(max(s.start - r, 0), s.stop + r) for s, r in zip(box, reach, strict=True))


def _landmarks(pose: Pose | None, view: View, end: _End) -> Iterator[tuple[Bool, float]]:
    """Where at an edge landmarks are expected beyond it, and how far beyond in mm."""
    if pose is None or not pose.consistent:
        yield np.ones_like(end.section), DEEP_MM
        return
    others = [a for a in range(3) if a != end.axis]
    for part in anatomy.load().parts.values():
        low, high = view.distances(pose.to_world(part.mean[None]))[0].reshape(2, 3)
        # half extents along the axes of the image, of the landmark as an ellipsoid
        axes = view.normals()[:3] @ pose.rotation
        half = pose.size * np.linalg.norm(axes * part.half, axis=1)
        beyond = float((half - (high if end.last else low))[end.axis])
        if beyond <= 0:
            continue
        where = np.zeros_like(end.section)
        size = (low + high) / np.array(view.shape)
        first = np.floor((low - half) / size).astype(int).clip(0)
        stop = np.ceil((low + half) / size).astype(int).clip(0)
        where[tuple(slice(first[a], stop[a]) for a in others)] = True
        yield where, min(beyond, DEEP_MM)


def _in_mean_brain(
    pose: Pose | None, affine: NDArray[np.float64], index: Float | NDArray[np.intp]
) -> Bool:
    """Which voxels (n, 3) lie in the mean brain; they may lie outside of the image."""
    if pose is None or not pose.consistent or not len(index):
        return np.zeros(len(index), bool)
    return pose.in_mean_brain(apply_affine(affine, index))


def _coarse(section: Bool, steps: NDArray[np.intp]) -> Bool:
    """A slice on coarser voxels: those that hold a True one."""
    a = np.pad(section, [(0, -n % f) for n, f in zip(section.shape, steps, strict=True)])
    shape = [k for n, f in zip(a.shape, steps, strict=True) for k in (n // f, f)]
    return np.asarray(a.reshape(shape).any(axis=(1, 3)))


def _fine(a: Bool, steps: NDArray[np.intp], shape: tuple[int, ...]) -> Bool:
    for axis, f in enumerate(steps):
        a = np.repeat(a, f, axis=axis)
    return np.asfortranarray(a[tuple(slice(0, n) for n in shape)])
