"""Where an image holds one constant value: what defacing and skull-stripping tools leave.

A part of the face that is not found in such a place was removed before; the reason can say so.
"""

from __future__ import annotations

import nibabel as nib
import numpy as np
from nibabel.affines import apply_affine
from numpy.typing import NDArray

from efface import nifti
from efface.segment.anatomy import Anatomy, expected
from efface.segment.labels import LABELS
from efface.segment.masks import indices, within
from efface.segment.organs import voxel_sizes
from efface.segment.pose import Laid, Scene

Bool = NDArray[np.bool_]
Floats = NDArray[np.float64]

SHARE = 0.5
"""From this share of constant voxels on a place is blank.

Measured on 4 heads of the validation set, untouched and with the face, the organs or all but the
brain set to 0. Within :data:`AROUND_MM` of where a part is expected: untouched at most 0.01,
removed at least 0.73. In the shell about the brain: untouched or defaced at most 0.17, stripped
0.60 (with a rim of 4 voxels) to 1.
"""
AROUND_MM = 8.0
"""Radius of a ball that lies within the part, though its place is known to some mm only."""
SHELL_MM = (4.0, 14.0)
"""Distances from the brain between which every whole head has skull and scalp."""


def stripped(img: nib.Nifti1Image, scene: Scene) -> bool:
    """Whether skull and scalp are blank about the brain of ``scene``, found in ``img``."""
    brain = scene.small == LABELS["brain"]
    spacing = voxel_sizes(scene.grid)
    inner, outer = (within(np.ones_like(brain), brain, mm, spacing) for mm in SHELL_MM)
    return _blank(img, scene, apply_affine(scene.grid, indices(outer & ~inner)))


def removed(img: nib.Nifti1Image, scene: Scene, laid: Laid, anatomy: Anatomy, name: str) -> bool:
    """Whether ``img`` is blank where a part of the face (``name``) is expected."""
    steps = np.arange(-AROUND_MM, AROUND_MM + 1, 2.0)
    ball = np.stack(np.meshgrid(steps, steps, steps), axis=-1).reshape(-1, 3)
    ball = ball[np.linalg.norm(ball, axis=1) <= AROUND_MM]
    return _blank(img, scene, expected(anatomy, laid.pose, name)[0] + ball)


def _blank(img: nib.Nifti1Image, scene: Scene, points: Floats) -> bool:
    """Whether most of the points (n, 3; world mm) in view, off the brain, are constant."""
    voxels = nifti.stored(img)
    voxels = voxels if voxels.ndim == 3 else voxels[..., 0]
    last = np.array(voxels.shape) - 1
    index = np.rint(apply_affine(np.linalg.inv(scene.view.affine), points)).astype(np.intp)
    # each voxel is compared with the next one along every axis
    index = index[((index >= 0) & (index < last)).all(axis=1)]
    small = np.rint(apply_affine(np.linalg.inv(scene.grid) @ scene.view.affine, index))
    small = np.clip(small.astype(np.intp), 0, np.array(scene.small.shape) - 1)
    index = index[scene.small[tuple(small.T)] != LABELS["brain"]]
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
