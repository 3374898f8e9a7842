"""The positions of the head in a 4D image.

Volumes of different contrast may look like different positions (:mod:`efface.segment.volumes`).
So each group of volumes is labelled alone. A group takes the labels of the largest group if its
organs lie in the same place or, where it shows less of a face, if a registration of both proves
that the head did not move (:mod:`efface.segment.motion`). Otherwise it is a position of its own.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace

import nibabel as nib
import numpy as np
from scipy import ndimage

from efface import nifti
from efface.segment import grid as grids
from efface.segment import masks, motion, wrap
from efface.segment.geometry import voxel_sizes
from efface.segment.labels import FEATURES, LABELS
from efface.segment.pose import KNOWN
from efface.segment.segmentation import Segmentation, empty
from efface.segment.volumes import MAX_MOTION_MM, select

MOST = 16
"""Groups that are labelled; volumes in further ones go to review. A slow nod by 30 degrees over
16 volumes has nine positions."""
AROUND_MM = 12.0
"""Two groups of volumes are compared within this distance of the labels."""


def segment_groups(
    img: nib.Nifti1Image,
    groups: Sequence[tuple[int, ...]],
    label: Callable[[nib.Nifti1Image], Segmentation],
) -> Segmentation:
    """Label the groups of volumes of a 4D image; each further position of the head is in ``moved``.

    ``groups``: from :func:`efface.segment.volumes.group_by_position`; ``label``:
    labels the mean of an image over time. The first position is that of the largest group that
    shows no less of a face than any other. Volumes beyond :data:`MOST` groups get empty labels, in
    which the gate finds no head.
    """
    each = [replace(label(select(img, g)), volumes=g) for g in groups[:MOST]]
    best = max(each, key=lambda s: s.evidence)
    first = next((s for s in each if shows_no_less(s, best)), best)
    moved, held = [], set(first.volumes)
    for other in each:
        if other is first:
            continue
        if _in_one_place(img, first, other):
            held.update(other.volumes)
        else:
            moved.append(other)
    rest = tuple(sorted(t for g in groups[MOST:] for t in g))
    if rest:
        moved.append(empty(first, rest))
    volumes = tuple(sorted(held)) if moved else ()
    return replace(first, volumes=volumes, moved=tuple(moved))


def shows_no_less(one: Segmentation, other: Segmentation) -> bool:
    """Whether one segmentation is settled and has no fewer components of any organ than another."""
    return one.settled and all(one.components[o] >= other.components[o] for o in FEATURES)


def _in_one_place(img: nib.Nifti1Image, first: Segmentation, other: Segmentation) -> bool:
    """Whether the head provably lies in one place: by its organs, or by registration."""
    if shows_no_less(other, first):
        return _apart(first, other) <= MAX_MOTION_MM
    # rolled as the first group is: a head in two pieces does not move as one
    volumes = [grids.volume(nifti.stored(select(img, s.volumes))) for s in (first, other)]
    means = [wrap.rolled(v, first.roll) for v in volumes]
    labels = wrap.rolled(first.labels, first.roll)
    affine = wrap.rolled_affine(img.affine, first.roll)
    organs = [labels == LABELS[name] for name in FEATURES]
    at = [masks.indices(organ).mean(axis=0) for organ in organs if organ.any()]
    box = masks.box_of(labels > 0)
    if box is None:
        return False
    if not at:
        at = list(np.array(np.meshgrid(*[(s.start, s.stop) for s in box])).reshape(3, -1).T)
    reach = np.ceil(AROUND_MM / voxel_sizes(affine)).astype(int)
    head = ndimage.maximum_filter(labels > 0, size=tuple(2 * reach + 1))
    points = np.array(at) @ affine[:3, :3].T + affine[:3, 3]
    moved = motion.between((means[1], affine), (means[0], affine), head, points)
    return moved.known and moved.mm <= MAX_MOTION_MM


def _apart(one: Segmentation, other: Segmentation) -> float:
    """Largest distance, in mm, between the landmarks that both segmentations have."""
    if (one.orientation, one.roll) != (other.orientation, other.roll):
        return np.inf
    if one.pose is None or other.pose is None:
        return np.inf
    a, b = one.pose.landmarks, other.pose.landmarks
    both = a.keys() & b.keys()
    if len(both) < KNOWN:
        return np.inf
    return max(float(np.linalg.norm(a[n].centre - b[n].centre)) for n in both)
