"""Tell CT from MR by the voxels: a NIfTI file does not hold its modality.

In CT bone is the brightest tissue, in MR one of the darkest. So the skull about the brain separates
them, for any window, rescale intercept and voxel type. Where no brain is labelled, or the labels
are poor, Hounsfield units and the limits of a window separate them.
"""

from __future__ import annotations

from typing import Final

import nibabel as nib
import numpy as np
from numpy.typing import NDArray

from efface import nifti
from efface.segment import grid as grids
from efface.segment import orientation
from efface.segment.fit import Sample
from efface.segment.geometry import voxel_sizes
from efface.segment.labels import LABELS
from efface.segment.masks import thinned, within
from efface.segment.pose import Pose

Floats = NDArray[np.float32]

SKULL_MM: Final = (2.0, 8.0)
"""Distances from the brain between which there is mostly skull."""
BRAIN_PERCENTILE: Final = 98.0
BRIGHT_SKULL: Final = 0.3
"""From this share of bright voxels in the place of the skull on an image is a CT.

Measured with the labels that the network finds: MR of four sites (24 images) at most 0.04,
contrasts simulated from two validation heads at most 0.09 (a T1 map), CT that would otherwise pass
(simulated from two validation heads, seven windows, thin and thick slices) at least 0.38. With the
true labels, narrower than the network's, T1 maps reach 0.30 and R1 maps 0.20.
"""
LEAST_VOXELS: Final = 100
AT_LOWEST, AT_HIGHEST, LEAST_VALUES = 0.3, 0.1, 16
"""A windowed image holds its lowest value in so many of its voxels (air), its highest value in so
many of the others (bone), and so many values at least: a mask holds fewer. In head CT in windows up
to 400 HU 0.14 and more are at the highest value; in MR, less than 0.01."""
AIR_HU, TISSUE_HU = (-1100, -900), (0, 100)
AIR_SHARE, TISSUE_SHARE = 0.1, 0.05
"""Shares of an image in Hounsfield units that are air and soft tissue."""


def bright_skull(
    img: nib.Nifti1Image, few: Sample, pose: Pose, *, inverted: bool = False
) -> float | None:
    """Return the share of the skull as bright as the brightest 2 % of the brain, 0 to 1.

    ``few`` and ``pose``: of the labels of ``img``; ``inverted``: the air is brighter than the head.
    Only voxels above the middle of the brain count, where nothing but skull and scalp lies about
    it. None if the field of view shows too little of that.
    """
    v = _voxels(img, few)
    v = -v if inverted else v
    brain = few.labels == LABELS["brain"]
    spacing = voxel_sizes(few.affine)
    inner, outer = (within(np.ones_like(brain), brain, mm, spacing) for mm in SKULL_MM)
    high = _high(few, pose)
    skull = v[outer & ~inner & high & (few.labels == 0)]
    inside = v[brain & high]
    if min(len(skull), len(inside)) < LEAST_VOXELS:
        return None
    # a tight window gives the brightest of the brain the same value as the bone: equal counts
    return float(np.mean(skull >= np.percentile(inside, BRAIN_PERCENTILE)))


def in_hounsfield_units(img: nib.Nifti1Image, few: Sample) -> bool:
    """Whether an image holds air and soft tissue at their values in CT. No label is used."""
    v = _voxels(img, few)
    air, tissue = (np.mean((v >= low) & (v <= high)) for low, high in (AIR_HU, TISSUE_HU))
    return bool(air >= AIR_SHARE and tissue >= TISSUE_SHARE)


def windowed(img: nib.Nifti1Image, few: Sample) -> bool:
    """Whether an image is cut off at both ends, as a window for CT does. No label is used."""
    v = _voxels(img, few)
    rest = v[v > v.min()]
    if 1 - rest.size / v.size < AT_LOWEST or len(np.unique(rest)) < LEAST_VALUES:
        return False
    return bool(np.mean(rest == rest.max()) >= AT_HIGHEST)


def _voxels(img: nib.Nifti1Image, few: Sample) -> Floats:
    """Voxels (X, Y, Z) of the image where ``few`` has its labels; mean of a 4D image."""
    thin, _ = thinned(few.view.affine)
    return grids.volume(nifti.stored(img)[thin], *nifti.scaling(img))


def _high(few: Sample, pose: Pose) -> NDArray[np.bool_]:
    """The voxels of a sample above the middle of the brain, in the head's orientation."""
    index = np.ogrid[tuple(slice(0, n) for n in few.labels.shape)]
    up = orientation.undo(few.affine, pose.orientation)[2, :3]
    middle = float(few.brain.mean(axis=0) @ up)
    return np.asarray(sum(step * i for step, i in zip(up, index, strict=True)) > middle)
