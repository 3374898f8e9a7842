"""The segmentation of one image, and the files that hold it in the stage's folder."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path

import nibabel as nib
import numpy as np
from numpy.typing import NDArray

from efface import nifti
from efface.errors import EffaceError
from efface.manifest import Scan
from efface.measures import Measures
from efface.segment import fit, masks, orientation, wrap
from efface.segment import pose as poses
from efface.segment.components import COUNTS
from efface.segment.labels import FEATURES, LABELS
from efface.segment.pose import Pose

CONFIDENT, ORGANS = 0.5, 2
"""A segmentation of which so many organs reach this confidence, consistent with a head, is
settled."""


@dataclass(frozen=True)
class Segmentation:
    """The labels of one image, and the pose of the head by them.

    All is of the image as it is, but ``pose`` and ``possible_brain`` of a phase-wrapped image: they
    are of the rolled image (``roll``).
    """

    labels: NDArray[np.uint8]
    """On the image's own grid, shape (X, Y, Z); values of ``LABELS``."""
    confidence: Mapping[str, float]
    """Calibrated confidence of each label: probability that one with this certainty is correct."""
    pose: Pose | None
    """None where too little brain is labelled."""
    certainty: Mapping[str, float] = field(default_factory=dict)
    """Mean probability, 0 to 1, over the voxels of each label; 0 for a label without voxels."""
    components: Mapping[str, int] = field(default_factory=dict)
    """Number of connected components of each label."""
    possible_brain: NDArray[np.bool_] | None = None
    """On the voxels that :func:`efface.segment.masks.thinned` chooses: whether the network gives
    the brain a probability of at least ``POSSIBLE``."""
    inverted: bool = False
    """Whether the air is brighter than the head, so that inverted intensities were labelled."""
    roll: wrap.Roll = wrap.NO_ROLL
    """How the image is rolled to undo a phase wrap (:mod:`efface.segment.wrap`)."""
    volumes: tuple[int, ...] = ()
    """Indices of the volumes of a 4D image that all of this holds for; empty for all of them."""
    moved: tuple[Segmentation, ...] = ()
    """The segmentations of the volumes in which the head lies elsewhere, one a position."""

    @property
    def positions(self) -> tuple[Segmentation, ...]:
        """The segmentation itself, then one for each further position of the head."""
        return (self, *self.moved)

    @property
    def orientation(self) -> str:
        """Orientation of the head in the header's world, by right angles."""
        return self.pose.orientation if self.pose else orientation.STANDARD

    @property
    def evidence(self) -> float:
        """Sum over the components of their label's certainty, 7 for a whole head, less the misfit.

        The misfit counts because a network labels much in a head in a wrong orientation, but
        nothing that is consistent with a head.
        """
        sure = sum(min(n, COUNTS[o]) * self.certainty[o] for o, n in self.components.items())
        return sure - (self.pose.misfit if self.pose else np.inf)

    @property
    def settled(self) -> bool:
        """Whether the labels are those of a head beyond doubt."""
        sure = [o for o in FEATURES if self.components[o] and self.confidence[o] >= CONFIDENT]
        return len(sure) >= ORGANS and self.pose is not None and self.pose.consistent

    def rolled(self) -> Segmentation:
        """Return the same with labels of the rolled image too."""
        return replace(self, labels=wrap.rolled(self.labels, self.roll), roll=wrap.NO_ROLL)


def of_labels(labels: NDArray[np.uint8], affine: NDArray[np.floating]) -> Segmentation:
    """Return a segmentation of labels that are known; ``affine`` (4, 4): voxel to world, mm."""
    return Segmentation(labels, dict.fromkeys(LABELS, 1.0), fit.estimate(labels, affine))


def empty(like: Segmentation, volumes: tuple[int, ...]) -> Segmentation:
    """Return the segmentation of volumes that were not labelled: no label, no pose."""
    none = dict.fromkeys(LABELS, 0.0)
    return Segmentation(
        np.zeros_like(like.labels),
        none,
        None,
        none,
        dict.fromkeys(LABELS, 0),
        volumes=volumes,
    )


def write(
    seg: Segmentation, img: nib.Nifti1Image, folder: Path, name: str
) -> tuple[dict[str, str], Measures]:
    """Write ``{name}_labels.nii.gz`` and ``{name}_possible_brain.nii.gz``.

    Returns the files by role, and the measures for the manifest. For the second position of the
    head the roles and names end in ``_2``, and so on; its measures are the first entry of the
    measure ``moved``.
    """
    files = {"labels": f"{name}_labels.nii.gz"}
    nifti.save(nib.Nifti1Image(seg.labels, img.affine), folder / files["labels"])
    if seg.possible_brain is not None:
        files["possible_brain"] = f"{name}_possible_brain.nii.gz"
        grid = masks.thinned(wrap.rolled_affine(img.affine, seg.roll))[1]
        possible = nib.Nifti1Image(seg.possible_brain.astype(np.uint8), grid)
        nifti.save(possible, folder / files["possible_brain"])
    measures: Measures = {
        "confidence": dict(seg.confidence),
        "volume_ml": volumes_ml(seg.labels, img.affine),
        "components": dict(seg.components),
        "pose": seg.pose.as_dict() if seg.pose else None,
        "inverted": seg.inverted,
        "roll": list(seg.roll),
    }
    if seg.volumes:
        measures["volumes"] = list(seg.volumes)
    for n, other in enumerate(seg.moved, 2):
        more, own = write(other, img, folder, f"{name}_position-{n}")
        files |= {f"{role}_{n}": file for role, file in more.items()}
        measures.setdefault("moved", []).append(own)
    return files, measures


def volumes_ml(labels: NDArray[np.uint8], affine: NDArray[np.floating]) -> dict[str, float]:
    """Return the volume of each label in ml; ``affine`` (4, 4): voxel to world, mm."""
    ml = abs(np.linalg.det(affine[:3, :3])) / 1000
    counts = np.bincount(labels.ravel(order="K"), minlength=max(LABELS.values()) + 1)
    return {name: round(float(counts[k] * ml), 3) for name, k in LABELS.items()}


def read(folder: Path, scan: Scan, img: nib.Nifti1Image) -> Segmentation:
    """Read what :func:`write` wrote of a scan; ``img``: the scan's image.

    Raises :class:`EffaceError` if the labels are on another grid than the image.
    """
    measures = (scan.measures, *scan.measures.get("moved", ()))
    first, *others = (
        _read(folder, scan.files, f"_{n}" if n > 1 else "", own, img)
        for n, own in enumerate(measures, 1)
    )
    return replace(first, moved=tuple(others))


def _read(
    folder: Path,
    files: Mapping[str, str],
    end: str,
    measures: Measures,
    img: nib.Nifti1Image,
) -> Segmentation:
    labels = nifti.load(folder / files[f"labels{end}"])
    if labels.shape != img.shape[:3] or not np.allclose(labels.affine, img.affine, atol=1e-3):
        raise EffaceError("the labels are on another grid than the image")
    possible = files.get(f"possible_brain{end}")
    pose = measures.get("pose")
    return Segmentation(
        np.asarray(nifti.stored(labels), np.uint8),
        measures.get("confidence", {}),
        poses.from_dict(pose) if pose else None,
        components=measures.get("components", {}),
        possible_brain=_flags(folder / possible) if possible else None,
        inverted=measures.get("inverted", False),
        roll=wrap.from_measures(measures),
        volumes=tuple(measures.get("volumes", ())),
    )


def _flags(path: Path) -> NDArray[np.bool_]:
    """Voxels that are not 0. Thinned, a slab may be one slice, which nifti.load refuses."""
    return np.asarray(nib.Nifti1Image.from_filename(path).dataobj) > 0
