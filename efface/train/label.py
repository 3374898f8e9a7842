"""Drafts of label maps for new training heads, to be corrected by hand.

The model labels each head several times: as it is, mirrored, and tilted. The draft is the majority
of these views; if they differ, it should be corrected first.
"""

from __future__ import annotations

import csv
import io
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import nibabel as nib
import numpy as np
from numpy.typing import NDArray
from scipy.spatial.transform import Rotation

from efface import nifti
from efface.errors import EffaceError
from efface.segment import Segmenter
from efface.segment.labels import LABELS
from efface.train.data import labels_of

AGREED = 0.8
"""Least Dice between each view and the draft; below it the draft should be corrected."""

TILTS = (("x", 10.0), ("z", -10.0))
"""Axis and angle in degrees of the tilted views."""


@dataclass(frozen=True)
class Draft:
    """Result for one head."""

    head: str
    agreement: dict[str, float]
    """Least Dice of a view with the draft, by label; 0 for a label that does not occur."""
    note: str
    """What a person should do; empty if nothing."""


def drafts(folder: Path, segmenter: Segmenter) -> Iterator[Draft]:
    """Write ``NAME_labels.nii.gz`` beside each head that has none; one row a head.

    Existing label maps are not changed: they may be corrected by hand. A head that cannot be read
    has the error in its row. Raises :class:`EffaceError` if the folder holds no heads.
    """
    heads = [p for p in sorted(folder.glob("*.nii.gz")) if not p.name.endswith("_labels.nii.gz")]
    if not heads:
        raise EffaceError(f"{folder}: no heads (NAME_T1w.nii.gz)")
    for path in heads:
        out = labels_of(path)
        if out.exists():
            continue
        name = path.name.removesuffix(".nii.gz")
        try:
            img = nifti.load(path)
            labels, agreement = vote(img, segmenter)
        except EffaceError as e:
            yield Draft(name, dict.fromkeys(LABELS, 0.0), str(e))
            continue
        nifti.save(nib.Nifti1Image(labels, img.affine), out)
        low = [n for n, d in agreement.items() if d < AGREED]
        yield Draft(name, agreement, f"correct by hand: {', '.join(low)}" if low else "")


def vote(img: nib.Nifti1Image, segmenter: Segmenter) -> tuple[NDArray[np.uint8], dict[str, float]]:
    """Labels (X, Y, Z) by majority of the views, and their least Dice with a view, by label."""
    views = [segmenter.segment(view).labels for view in _views(img)]
    votes = np.stack(
        [sum((v == k).astype(np.uint8) for v in views) for k in range(len(LABELS) + 1)]
    )
    labels = votes.argmax(0).astype(np.uint8)
    agreement = {}
    for name, k in LABELS.items():
        own = labels == k
        sizes = [int(own.sum()) + int((s == k).sum()) for s in views]
        both = [int((own & (s == k)).sum()) for s in views]
        dice = [2 * b / n if n else 1.0 for b, n in zip(both, sizes, strict=True)]
        agreement[name] = round(min(dice), 3) if own.any() else 0.0
    return labels, agreement


def _views(img: nib.Nifti1Image) -> Iterator[nib.Nifti1Image]:
    """The same voxels with other affines, for other positions of the head on the networks' grid."""
    rotations = [np.eye(3), np.diag([-1.0, 1.0, 1.0])]
    rotations += [Rotation.from_euler(a, d, degrees=True).as_matrix() for a, d in TILTS]
    for rotation in rotations:
        affine = img.affine.copy()
        affine[:3] = rotation @ affine[:3]
        yield type(img)(img.dataobj, affine, img.header)


def table(rows: list[Draft]) -> str:
    """Rows as TSV, those to be corrected first."""
    out = io.StringIO()
    writer = csv.writer(out, delimiter="\t", lineterminator="\n")
    writer.writerow(["head", *(f"agreement_{n}" for n in LABELS), "note"])
    for r in sorted(rows, key=lambda r: (not r.note, min(r.agreement.values()))):
        writer.writerow([r.head, *r.agreement.values(), r.note])
    return out.getvalue()
