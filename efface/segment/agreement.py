"""Comparison of two label maps on one grid, and their union.

The first map is a scan's own, the second one comes from another scan of the session
(:mod:`efface.segment.propagate`).
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from efface.segment import masks
from efface.segment.geometry import voxel_sizes
from efface.segment.labels import LABELS
from efface.segment.organs_in_view import COUNT, SMALLEST_MM3, Organ

Labels = NDArray[np.uint8]
Bool = NDArray[np.bool_]
Floats = NDArray[np.float64]

NEAR_MM = 8.0
"""Organs of both maps agree within this distance."""
DISPLACED_MM3, DISPLACED_SHARE = 400.0, 0.3
"""An organ is displaced if more than this volume and share of it lies farther off. The share is
below that of one of two ears."""
BRAIN_NEAR_MM = 4.0
"""Largest distance from the first map's brain at which brain of the second map is added to it."""


def union(first: Labels, second: Labels, affine: Floats) -> Labels:
    """``first`` with the labels of ``second`` where it has none; both on the grid of ``affine``.

    Organs are not added within the margin about the brain of ``first``, where no voxel is replaced.
    Brain is added only within :data:`BRAIN_NEAR_MM` of the brain of ``first``: brain that only one
    scan shows must not protect a face. Nor is it added within the margin about an organ.
    """
    out = first.copy(order="F")
    empty = first == 0
    spacing = voxel_sizes(affine)
    organ = empty & (second >= LABELS["eyes"])
    organ &= ~masks.within(organ, first == LABELS["brain"], masks.BRAIN_MARGIN, spacing)
    out[organ] = second[organ]
    brain = empty & (second == LABELS["brain"])
    if brain.any():
        added = masks.within(brain, first == LABELS["brain"], BRAIN_NEAR_MM, spacing)
        added &= ~masks.within(added, out >= LABELS["eyes"], masks.BRAIN_MARGIN, spacing)
        out[added] = LABELS["brain"]
    return out


def brain_overlap(first: Labels, second: Labels, where: Bool) -> float:
    """Dice coefficient of both brains within a mask; 0 if there is none."""
    a = (first == LABELS["brain"]) & where
    b = (second == LABELS["brain"]) & where
    both = int(np.count_nonzero(a)) + int(np.count_nonzero(b))
    return 2 * float(np.count_nonzero(a & b)) / both if both else 0.0


def displaced(first: Labels, second: Labels, affine: Floats, names: Sequence[str]) -> list[str]:
    """Names of the organs of ``first`` that lie farther than :data:`NEAR_MM` from ``second``'s."""
    voxel = float(abs(np.linalg.det(affine[:3, :3])))
    out = []
    for name in names:
        organ = first == LABELS[name]
        far = np.count_nonzero(organ & ~dilated(second == LABELS[name], affine, NEAR_MM))
        if far * voxel > DISPLACED_MM3 and far > DISPLACED_SHARE * np.count_nonzero(organ):
            out.append(name)
    return out


def missing(first: Labels, second: Labels, affine: Floats, organs: Sequence[Organ]) -> list[str]:
    """Names of the organs of ``second`` of which ``first`` holds less than half.

    ``organs``: those of the scan that ``second`` comes from. Each eye and ear is tested by itself.
    """
    out = []
    voxel = float(abs(np.linalg.det(affine[:3, :3])))
    for name in COUNT:
        of_name = [o for o in organs if o.label == name]
        index = np.argwhere(second == LABELS[name])
        if not len(index) or all(o.in_view_mm3 < SMALLEST_MM3 for o in of_name):
            continue
        held = dilated(first == LABELS[name], affine, NEAR_MM / 2)[tuple(index.T)]
        world = index @ affine[:3, :3].T + affine[:3, 3]
        centres = np.array([o.centre for o in of_name])
        nearest = np.linalg.norm(world[:, None] - centres[None], axis=2).argmin(axis=1)
        parts = [nearest == k for k in range(len(centres))]
        if any(p.sum() * voxel >= SMALLEST_MM3 and held[p].mean() < 0.5 for p in parts):
            out.append(name)
    return out


def dilated(mask: Bool, affine: Floats, mm: float) -> Bool:
    """Voxels whose centres lie within ``mm`` of the mask's, measured along the grid's axes."""
    out = np.zeros(mask.shape, bool)
    box = masks.box_of(mask)
    if box is None:
        return out
    spacing = voxel_sizes(affine)
    reach = np.ceil(mm / spacing).astype(int) + 1
    wide = tuple(
        slice(max(s.start - r, 0), min(s.stop + r, n))
        for s, r, n in zip(box, reach, mask.shape, strict=True)
    )
    distance = ndimage.distance_transform_edt(~mask[wide], sampling=spacing)
    out[wide] = distance <= mm
    return out
