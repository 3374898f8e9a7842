"""The positions of the head in a 4D image: what was found in each, and the files that hold it.

Volumes of different contrast may look like different positions (:mod:`efface.segment.volumes`).
So each group is labelled alone. It is no position of its own if its organs lie where they lie in
the largest group, or, where it shows less of a face, if a registration of both proves that the
head lies alike (:mod:`efface.segment.motion`). The labels of the largest group then hold for it.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import nibabel as nib
import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from efface import nifti
from efface.errors import EffaceError
from efface.manifest import Scan
from efface.segment import grid as grids
from efface.segment import masks, motion, orientation, wrap
from efface.segment.labels import FEATURES, LABELS
from efface.segment.pose import KNOWN, Head
from efface.segment.volumes import MAX_MOTION_MM, select

if TYPE_CHECKING:
    from efface.segment import Segmentation

MOST = 16
"""Positions that are looked at; volumes in further ones go to review. A slow nod by 30 degrees over
16 volumes has nine."""
AROUND_MM = 12.0
"""How far beside the labels two groups of volumes are compared."""


@dataclass(frozen=True)
class Position:
    """A segmentation read from the files of its stage, for volumes with one head position."""

    labels: NDArray[np.uint8]
    """On the image's grid (X, Y, Z)."""
    confidence: Mapping[str, float]
    turn: str = orientation.AS_IT_IS
    head: Head | None = None
    maybe_brain: NDArray[np.bool_] | None = None
    negative: bool = False
    roll: wrap.Roll = wrap.NO_ROLL
    """How the image is rolled to undo a phase wrap."""
    volumes: tuple[int, ...] = ()
    """Indices of the volumes; empty for all of them."""
    moved: tuple[Position, ...] = ()
    """The other positions of the head in the image."""


def found(
    img: nib.Nifti1Image,
    groups: Sequence[tuple[int, ...]],
    look: Callable[[nib.Nifti1Image], Segmentation],
) -> Segmentation:
    """What the volumes of a 4D image show, with each further position of the head in ``moved``.

    ``groups``: from :func:`efface.segment.volumes.group_by_position`; ``look``:
    labels the mean of an image over time. The first position is that of the largest group that
    shows all of a face that any group shows. Volumes in more than :data:`MOST` groups get empty
    labels, in which the gate finds no head.
    """
    looks = [replace(look(select(img, g)), volumes=g) for g in groups[:MOST]]
    best = max(looks, key=lambda s: s.evidence)
    first = next((s for s in looks if shows(s, best)), best)
    own, held = [], set(first.volumes)
    for other in looks:
        if other is first:
            continue
        if _lies_alike(img, first, other):
            held.update(other.volumes)
        else:
            own.append(other)
    rest = tuple(sorted(t for g in groups[MOST:] for t in g))
    if rest:
        own.append(_nothing(first, rest))
    return replace(first, volumes=tuple(sorted(held)) if own else (), moved=tuple(own))


def shows(one: Segmentation, other: Segmentation) -> bool:
    """Whether one group of volumes shows a head, and no less of its face than another does."""
    return one.settled and all(one.parts[o] >= other.parts[o] for o in FEATURES)


def _lies_alike(img: nib.Nifti1Image, first: Segmentation, other: Segmentation) -> bool:
    """Whether the head provably lies alike in both groups: by its organs, or by registration."""
    if shows(other, first):
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
    reach = np.ceil(AROUND_MM / np.linalg.norm(affine[:3, :3], axis=0)).astype(int)
    head = ndimage.maximum_filter(labels > 0, size=tuple(2 * reach + 1))
    points = np.array(at) @ affine[:3, :3].T + affine[:3, 3]
    moved = motion.between((means[1], affine), (means[0], affine), head, points)
    return moved.known and moved.mm <= MAX_MOTION_MM


def _apart(one: Segmentation, other: Segmentation) -> float:
    """How far apart the parts of a head lie that were found in both, at most, in mm."""
    if (one.turn, one.roll) != (other.turn, other.roll) or not (one.head and other.head):
        return np.inf
    a, b = one.head.laid, other.head.laid
    both = a.centres.keys() & b.centres.keys() if a and b else set()
    if not (a and b) or len(both) < KNOWN:
        return np.inf
    return max(float(np.linalg.norm(a.centres[n] - b.centres[n])) for n in both)


def _nothing(like: Segmentation, volumes: tuple[int, ...]) -> Segmentation:
    """What is known of volumes that nobody looked at."""
    none = dict.fromkeys(LABELS, 0.0)
    return replace(
        like,
        labels=np.zeros_like(like.labels),
        certainty=none,
        confidence=none,
        volume_ml=none,
        parts=dict.fromkeys(LABELS, 0),
        turn=orientation.AS_IT_IS,
        head=None,
        maybe_brain=None,
        negative=False,
        roll=wrap.NO_ROLL,
        volumes=volumes,
        moved=(),
    )


def write(
    seen: Segmentation, img: nib.Nifti1Image, folder: Path, name: str
) -> tuple[dict[str, str], dict[str, Any]]:
    """Write ``{name}_labels.nii.gz`` and ``{name}_maybe_brain.nii.gz``; their roles, and measures.

    For the second position of the head the roles and names end in ``_2``, and so on; its measures
    are the first entry of the measure ``moved``.
    """
    files = {"labels": f"{name}_labels.nii.gz"}
    nifti.save(nib.Nifti1Image(seen.labels, img.affine), folder / files["labels"])
    if seen.maybe_brain is not None:
        files["maybe_brain"] = f"{name}_maybe_brain.nii.gz"
        grid = masks.thinned(wrap.rolled_affine(img.affine, seen.roll))[1]
        maybe = nib.Nifti1Image(seen.maybe_brain.astype(np.uint8), grid)
        nifti.save(maybe, folder / files["maybe_brain"])
    measures: dict[str, Any] = {
        "confidence": seen.confidence,
        "volume_ml": seen.volume_ml,
        "parts": seen.parts,
        "turn": seen.turn,
        "negative": seen.negative,
        "roll": list(seen.roll),
    }
    if seen.volumes:
        measures["volumes"] = list(seen.volumes)
    for n, other in enumerate(seen.moved, 2):
        more, told = write(other, img, folder, f"{name}_position-{n}")
        files |= {f"{role}_{n}": file for role, file in more.items()}
        measures.setdefault("moved", []).append(told)
    return files, measures


def read(folder: Path, scan: Scan, img: nib.Nifti1Image) -> Position:
    """What :func:`write` wrote of a scan, with each further position of the head in ``moved``.

    Raises :class:`EffaceError` if labels lie elsewhere than the image.
    """
    said = (scan.measures, *scan.measures.get("moved", ()))
    first, *others = (
        _read(folder, scan.files, f"_{n}" if n > 1 else "", measures, img)
        for n, measures in enumerate(said, 1)
    )
    return replace(first, moved=tuple(others))


def _read(
    folder: Path,
    files: Mapping[str, str],
    end: str,
    measures: Mapping[str, Any],
    img: nib.Nifti1Image,
) -> Position:
    of = nifti.load(folder / files[f"labels{end}"])
    if of.shape != img.shape[:3] or not np.allclose(of.affine, img.affine, atol=1e-3):
        raise EffaceError("labels lie elsewhere than the image")
    maybe = files.get(f"maybe_brain{end}")
    return Position(
        np.asarray(nifti.stored(of), np.uint8),
        measures.get("confidence", {}),
        measures.get("turn", orientation.AS_IT_IS),
        maybe_brain=_flags(folder / maybe) if maybe else None,
        negative=measures.get("negative", False),
        roll=wrap.from_measures(measures),
        volumes=tuple(measures.get("volumes", ())),
    )


def _flags(path: Path) -> NDArray[np.bool_]:
    """Voxels that are not 0. Thinned, a slab may be one slice, which nifti.load refuses."""
    return np.asarray(nib.Nifti1Image.from_filename(path).dataobj) > 0
