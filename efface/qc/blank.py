"""Places with one constant value, as defacing and skull-stripping tools leave them.

A landmark that is not found in such a place was removed before; the reason can say so.
"""

from __future__ import annotations

import nibabel as nib
import numpy as np
from nibabel.affines import apply_affine
from numpy.typing import NDArray

from efface import nifti
from efface.segment.fit import Sample
from efface.segment.geometry import voxel_sizes
from efface.segment.labels import LABELS
from efface.segment.masks import indices, within
from efface.segment.pose import Pose

Bool = NDArray[np.bool_]
Floats = NDArray[np.float64]

SHARE = 0.5
"""From this share of constant voxels on a place is blank.

Measured on 4 heads of the validation set, untouched and with the face, the organs or all but the
brain set to 0. Within :data:`AROUND_MM` of where a landmark is expected: untouched at most 0.01,
removed at least 0.73. In the shell about the brain: untouched or defaced at most 0.17, stripped
0.60 (with a rim of 4 voxels) to 1.
"""
AROUND_MM = 8.0
"""Radius of a ball within the landmark, whose place is known to some mm only."""
SHELL_MM = (4.0, 14.0)
"""Distances from the brain between which every whole head has skull and scalp."""


def stripped(img: nib.Nifti1Image, few: Sample) -> bool:
    """Whether skull and scalp are blank about the brain; ``few``: of the labels of ``img``."""
    brain = few.labels == LABELS["brain"]
    spacing = voxel_sizes(few.affine)
    inner, outer = (within(np.ones_like(brain), brain, mm, spacing) for mm in SHELL_MM)
    return _blank(img, few, apply_affine(few.affine, indices(outer & ~inner)))


def removed(img: nib.Nifti1Image, few: Sample, pose: Pose, name: str) -> bool:
    """Whether ``img`` is blank where a landmark is expected."""
    steps = np.arange(-AROUND_MM, AROUND_MM + 1, 2.0)
    ball = np.stack(np.meshgrid(steps, steps, steps), axis=-1).reshape(-1, 3)
    ball = ball[np.linalg.norm(ball, axis=1) <= AROUND_MM]
    return _blank(img, few, pose.expected(name)[0] + ball)


def _blank(img: nib.Nifti1Image, few: Sample, points: Floats) -> bool:
    """Whether most of the points (n, 3; world mm) in view, off the brain, are constant."""
    voxels = nifti.stored(img)
    voxels = voxels if voxels.ndim == 3 else voxels[..., 0]
    last = np.array(voxels.shape) - 1
    index = np.rint(apply_affine(np.linalg.inv(few.view.affine), points)).astype(np.intp)
    # each voxel is compared with the next one along every axis
    index = index[((index >= 0) & (index < last)).all(axis=1)]
    small = np.rint(apply_affine(np.linalg.inv(few.affine) @ few.view.affine, index))
    small = np.clip(small.astype(np.intp), 0, np.array(few.labels.shape) - 1)
    index = index[few.labels[tuple(small.T)] != LABELS["brain"]]
    return len(index) > 0 and bool(_constant(voxels, index).mean() >= SHARE)


def _constant(voxels: NDArray[np.generic], index: NDArray[np.intp]) -> Bool:
    """Which voxels (n, 3) equal the next one along each axis; NaN equals NaN."""
    here = voxels[tuple(index.T)]
    steps = np.eye(3, dtype=np.intp)
    equal = [_equal(here, voxels[tuple((index + step).T)]) for step in steps]
    return equal[0] & equal[1] & equal[2]


def _equal(a: NDArray[np.generic], b: NDArray[np.generic]) -> Bool:
    equal = np.asarray(a == b)
    return equal | (np.isnan(a) & np.isnan(b)) if a.dtype.kind == "f" else equal
