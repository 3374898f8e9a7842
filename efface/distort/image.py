"""Remove the face from one image."""

from __future__ import annotations

from collections.abc import Iterable

import nibabel as nib

from efface import nifti
from efface.distort import methods
from efface.distort.cut_landmarks import add_cut_landmarks
from efface.distort.folded import folded, spare_brain_below
from efface.distort.region import Bool, region, spare_brain
from efface.errors import EffaceError
from efface.segment import wrap
from efface.segment.geometry import voxel_sizes
from efface.segment.options import ALL, Options
from efface.segment.segmentation import Segmentation
from efface.segment.volumes import select


def deface_image(
    img: nib.Nifti1Image,
    seg: Segmentation,
    features: str | Iterable[str] = "face",
    method: str = methods.DEFAULT,
    seed: int = 0,
    options: Options = ALL,
) -> tuple[nib.Nifti1Image, tuple[Bool, ...]]:
    """Return the image without its face, and the replaced mask for each position of the head.

    ``img``: 3D or 4D; ``seg``: its segmentation; ``features``: ``face``, or any of eyes, nose,
    ears, mouth; ``seed``: from :meth:`efface.pseudonym.Key.seed`. Header geometry, dtype and
    scaling are kept, and every voxel outside the mask is the same to the bit. In each volume the
    mask of its own position is replaced, so that no volume loses brain to another's face.

    Raises :class:`EffaceError` if labels do not fit, or feature or method is unknown.
    """
    masks = []
    for one in seg.positions:
        mask = _region(img, one, features, options)
        voxels = nifti.stored(img)
        voxels = methods.replace(voxels, mask, method, seed, one.labels, img.affine, one.volumes)
        img = nifti.with_stored(img, voxels)
        masks.append(mask)
    return img, tuple(masks)


def _region(
    img: nib.Nifti1Image, seg: Segmentation, features: str | Iterable[str], options: Options
) -> Bool:
    """The voxels (X, Y, Z) to replace for one position of the head."""
    if seg.labels.shape != img.shape[:3]:
        raise EffaceError(f"labels of shape {seg.labels.shape} do not fit an image of {img.shape}")
    roll, pose = seg.roll, seg.pose
    labels, affine = wrap.rolled(seg.labels, roll), wrap.rolled_affine(img.affine, roll)
    mask = region(labels, affine, pose, features)
    if options.cut_landmarks:
        add_cut_landmarks(mask, labels, affine, pose, features)
    if options.folded:
        volume = wrap.rolled_image(select(img, seg.volumes), roll)
        rest = folded(volume, labels, mask, pose, seg.inverted)
        if rest is not None:
            mask |= rest.region
    spare_brain_below(mask, affine, pose, roll)
    mask = wrap.rolled(mask, wrap.inverse(roll))
    spare_brain(mask, seg.labels, voxel_sizes(img.affine))
    return mask
