"""Drafts of label maps for a hospital's own heads, to be corrected by hand and trained on.

The reference tool registers one marked head to each new one and finds the organs again there. Here
a model that has seen many heads takes the reference's place, and sees each head several times:
straight, in the mirror, and tilted. The vote is the draft; where the views differ, a person looks
first.
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
"""Least Dice between each view and the vote; below, the draft asks for a hand."""

TILTS = (("x", 10.0), ("z", -10.0))
"""Further views: the head tilted about an axis, in degrees."""


@dataclass(frozen=True)
class Draft:
    """What became of one head."""

    head: str
    agreement: dict[str, float]
    """Least Dice of a view with the vote, by label; 0 where it was not found."""
    note: str
    """Empty, or what a person should do."""


def drafts(folder: Path, segmenter: Segmenter) -> Iterator[Draft]:
    """Write ``NAME_labels.nii.gz`` beside each head that has none; one row a head.

    A label map that is there is never touched: it may be corrected by hand. A head that cannot be
    read is named in its row. Raises :class:`EffaceError` if the folder holds no heads.
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
    """Labels (X, Y, Z) by majority of the views, and the least agreement of a view with them."""
    seen = [segmenter.segment(other).labels for other in _views(img)]
    votes = np.stack([sum((s == k).astype(np.uint8) for s in seen) for k in range(len(LABELS) + 1)])
    labels = votes.argmax(0).astype(np.uint8)
    agreement = {}
    for name, k in LABELS.items():
        own = labels == k
        sizes = [int(own.sum()) + int((s == k).sum()) for s in seen]
        both = [int((own & (s == k)).sum()) for s in seen]
        dice = [2 * b / n if n else 1.0 for b, n in zip(both, sizes, strict=True)]
        agreement[name] = round(min(dice), 3) if own.any() else 0.0
    return labels, agreement


def _views(img: nib.Nifti1Image) -> Iterator[nib.Nifti1Image]:
    """The same voxels with other affines: so the head lies otherwise on the network's grid."""
    turns = [np.eye(3), np.diag([-1.0, 1.0, 1.0])]
    turns += [Rotation.from_euler(a, d, degrees=True).as_matrix() for a, d in TILTS]
    for turn in turns:
        affine = img.affine.copy()
        affine[:3] = turn @ affine[:3]
        yield type(img)(img.dataobj, affine, img.header)


def table(rows: list[Draft]) -> str:
    """Rows as TSV, those that ask for a hand first."""
    out = io.StringIO()
    writer = csv.writer(out, delimiter="\t", lineterminator="\n")
    writer.writerow(["head", *(f"agreement_{n}" for n in LABELS), "note"])
    for r in sorted(rows, key=lambda r: (not r.note, min(r.agreement.values()))):
        writer.writerow([r.head, *r.agreement.values(), r.note])
    return out.getvalue()
