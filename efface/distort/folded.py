"""What of a face the edge of the field of view cuts off and shows at the opposite edge.

A nose tip beyond the front edge appears behind the head. :func:`folded` follows the signal of what
the region replaces through an edge, and gives the voxels at the opposite edge that show the rest.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from math import ceil

import nibabel as nib
import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from efface import nifti
from efface.distort.region import Bool, Box, Float
from efface.segment import anatomy as anatomies
from efface.segment import grid as grids
from efface.segment.anatomy import PARTS, Anatomy
from efface.segment.labels import LABELS
from efface.segment.organs import voxel_sizes
from efface.segment.pose import MISFIT, Head
from efface.segment.wrap import EDGE_MM, signal

SHORTEST_MM = 150.0
"""An image no longer than this along an axis is a slab: both edges lie in the head, and signal at
both says nothing."""
LEAST_MM2 = 40.0
"""Less signal than this through an edge is noise; a nose tip 2 mm behind its end has more."""
DEEP_MM = 48.0
"""What is connected to signal farther than this from the opposite edge is the head itself."""
AROUND_MM = 6.0
"""How far about what was folded voxels are replaced."""
ORGAN_MM = 30.0
"""An edge that is farther from all organs than this does not cut the face."""


@dataclass(frozen=True)
class Folded:
    """What of a face is folded over."""

    region: Bool
    """The voxels to replace (X, Y, Z), brain not considered."""
    face: Bool
    """Those of them that show the face."""


def folded(
    img: nib.Nifti1Image,
    labels: NDArray[np.uint8],
    mask: Bool,
    head: Head,
    negative: bool = False,
    anatomy: Anatomy | None = None,
) -> Folded | None:
    """What of the face the edges cut off and show at the opposite edges; None if nothing is.

    ``img``: 3D or 4D; ``labels`` and ``mask``, the region: on its grid; ``head``: what the labels
    show; ``negative``: whether air is bright. A piece that is separate from the head is replaced
    in a box about it; where it lies over the head, to the depth to which the face is expected to
    reach beyond the edge.
    """
    spacing = voxel_sizes(img.affine)
    ends = list(_ends(labels, mask, spacing))
    if not ends:
        return None
    v = grids.volume(nifti.stored(img), *nifti.scaling(img))
    sig, steps = signal(-v if negative else v, spacing)
    size = spacing * steps
    region, face = (np.zeros(sig.shape, bool) for _ in range(2))
    for axis, last, section in ends:
        # the cut end of the axis last, what is folded first
        turned = [np.moveaxis(a, axis, 0)[:: 1 if last else -1] for a in (sig, region, face)]
        across = np.array([size[axis], *np.delete(size, axis)])
        beyond = _beyond(head, axis, last, anatomy)
        _follow(*turned, _coarse(section, np.delete(steps, axis)), across, beyond)
    if not region.any():
        return None
    return Folded(_fine(region, steps, mask.shape), _fine(face & sig, steps, mask.shape))


def _ends(
    labels: NDArray[np.uint8], mask: Bool, spacing: Float
) -> Iterator[tuple[int, bool, Bool]]:
    """Axes, whether it is their last end, and the part of the edge that cuts region and organs."""
    for axis, n in enumerate(labels.shape):
        if n * spacing[axis] < SHORTEST_MM:
            continue
        deep, across = ceil(ORGAN_MM / spacing[axis]), np.delete(spacing, axis)
        for last in (False, True):
            edge = np.take(mask, -1 if last else 0, axis=axis)
            if not edge.any():
                continue
            near = np.moveaxis(labels, axis, 0)[slice(-deep, None) if last else slice(0, deep)]
            organs = near.max(axis=0) > LABELS["brain"]
            section = np.zeros_like(edge)
            for box in ndimage.find_objects(organs.astype(np.uint8)):
                section[_wider(box, across)] = True
            section &= edge
            if section.any():
                yield axis, last, section


def _follow(
    sig: Bool, region: Bool, face: Bool, section: Bool, size: Float, beyond: float
) -> None:
    """Add to region and face, in place, what is folded from the last slice over to the first.

    ``section``: the region at the last slice; ``size``: mm (3,) of a voxel; ``beyond``: how far the
    face is expected to reach beyond the edge, mm.
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
        depth = box[0].stop
        if depth == deep:  # it lies over the head
            if not beyond:
                continue
            depth = ceil(beyond / size[0])
            (spans,) = ndimage.find_objects(crossing.astype(np.uint8))
            box = (slice(0, depth), *spans)
            face[box] = True
        else:
            face[:deep] |= groups == group
        region[: depth + ceil(AROUND_MM / size[0]), *_wider(box[1:], size[1:])] = True


def _wider(box: tuple[slice, ...], size: Float) -> tuple[slice, ...]:
    reach = [ceil(AROUND_MM / s) for s in size]
    return tuple(slice(max(s.start - r, 0), s.stop + r) for s, r in zip(box, reach, strict=True))


def _beyond(head: Head, axis: int, last: bool, anatomy: Anatomy | None) -> float:
    """How far a face is expected to reach beyond an edge, in mm."""
    laid = head.laid
    if laid is None or laid.pose.misfit > MISFIT:
        return DEEP_MM
    anatomy = anatomies.load() if anatomy is None else anatomy
    pose, view = laid.pose, head.scene.view
    at = pose.to_world(np.array([anatomy.parts[n].mean for n in PARTS]))
    half = pose.size * np.array([anatomy.parts[n].half for n in PARTS])
    side = axis + 3 * last
    # negative where even the outermost part ends within the view
    reach = np.linalg.norm(half * (pose.turn.T @ view.normals()[side]), axis=1)
    return float(np.clip((reach - view.distances(at)[:, side]).max(), 0, DEEP_MM))


def _coarse(section: Bool, steps: NDArray[np.intp]) -> Bool:
    """A slice on coarser voxels: those that hold a True one."""
    a = np.pad(section, [(0, -n % f) for n, f in zip(section.shape, steps, strict=True)])
    shape = [k for n, f in zip(a.shape, steps, strict=True) for k in (n // f, f)]
    out: Bool = a.reshape(shape).any(axis=(1, 3))
    return out


def _fine(a: Bool, steps: NDArray[np.intp], shape: tuple[int, ...]) -> Bool:
    for axis, f in enumerate(steps):
        a = np.repeat(a, f, axis=axis)
    return np.asfortranarray(a[tuple(slice(0, n) for n in shape)])
