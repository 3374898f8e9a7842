"""Evaluate the model on heads with known labels, as they are and transformed.

Every case goes the way of :func:`efface.deface`: labels, region, distortion, gate.
"""

from __future__ import annotations

import math
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from efface import nifti
from efface.distort import deface_image
from efface.measures import OrganMeasures
from efface.qc import judge
from efface.segment import Segmentation, Segmenter
from efface.segment.components import COUNTS
from efface.segment.geometry import voxel_sizes
from efface.segment.grid import BLOCK
from efface.segment.labels import FEATURES, LABELS
from efface.segment.masks import BRAIN_MARGIN, components, within
from efface.status import Status
from efface.train import combine, transform
from efface.train.data import SCALE, Head, find
from efface.train.transform import Case

if TYPE_CHECKING:
    import nibabel as nib


@dataclass(frozen=True)
class Row:
    """The result of one case."""

    head: str
    group: str
    name: str
    is_head: bool
    dice: dict[str, float]
    """By label; NaN where neither map holds it."""
    coverage: dict[str, float]
    """Share of each organ's true voxels in the replaced region; NaN without any."""
    possible: dict[str, float]
    """The largest possible coverage: voxels within 2 mm of the true brain stay."""
    brain_changed: int
    """Voxels of the true brain that were replaced."""
    brain_changed_agreed: int
    """Of these, the voxels that the model labels brain too: none, by construction."""
    geometry: dict[str, float]
    """Measures of the gate (:data:`GEOMETRY`); NaN if not measured."""
    missed: tuple[str, ...]
    """Organs of which the model labels fewer than the case shows."""
    certainty: dict[str, float]
    """Mean probability of each label found, before calibration."""
    status: Status
    reasons: tuple[str, ...]

    @property
    def bad(self) -> bool:
        """Whether this must not pass: no head, or a part of the face would stay."""
        return not self.is_head or any(v < STAYS for v in self.coverage.values())


GEOMETRY = ("maybe_brain_replaced_ml", "brain_likeness", "pose_misfit")
"""Measures of the gate from which its limits are set."""
STAYS = 0.80
"""An organ of which less is replaced counts as left in: labels are wrong by a voxel at their rim,
which is 10 to 15 % of an ear."""


def heads(folder: Path, segmenter: Segmenter) -> Iterator[Row]:
    """Yield a row for every head of a folder of heads and label maps, as it is."""
    for name, img, truth in known(folder):
        yield measure(name, Case("as it is", "", img, truth), segmenter)[0]


def combined(folder: Path, segmenter: Segmenter, each: int) -> Iterator[Row]:
    """Yield ``each`` rows for every head of the folder with several transformations at once."""
    for i, (name, img, truth) in enumerate(known(folder)):
        for case in combine.cases(transform.head(img, truth), each, seed=i):
            yield measure(name, case, segmenter)[0]


def transformed(folder: Path, segmenter: Segmenter, count: int) -> Iterator[Row]:
    """Yield rows for all transformations of ``count`` heads, and for images that are not a head."""
    for i, (name, img, truth) in enumerate(known(folder)):
        if i >= count:
            return
        head = transform.head(img, truth)
        for case in transform.cases(head):
            yield measure(name, case, segmenter)[0]
        _, after = measure(name, Case("", "", img, truth), segmenter)
        for case in transform.no_heads(head, transform.head(after, truth).v):
            yield measure(name, case, segmenter)[0]


def measure(
    head: str,
    case: Case,
    segmenter: Segmenter,
    seg: Segmentation | None = None,
    known: Sequence[OrganMeasures] = (),
) -> tuple[Row, nib.Nifti1Image]:
    """Deface and judge a case: return its row, and the defaced image.

    ``seg``: its segmentation, if that is known; ``known``: organs that another scan of the
    session shows whole.
    """
    seg = seg or segmenter.segment(case.image)
    after, masks = deface_image(case.image, seg, options=segmenter.options)
    status, reasons, measures = judge(
        case.image, after, seg, masks, "face", "noise", segmenter, known
    )
    mask = masks[0]
    dice, cover, missed = {}, {}, []
    for organ, k in LABELS.items():
        a, b = seg.labels == k, case.truth == k
        total = int(a.sum()) + int(b.sum())
        dice[organ] = 2 * int((a & b).sum()) / total if total else float("nan")
        if organ in FEATURES:
            cover[organ] = float(mask[b].mean()) if b.any() else float("nan")
            sizes = [len(index) for index in components(b)]
            shown = min(sum(n >= 0.2 * sizes[0] for n in sizes), COUNTS[organ])
            if seg.components[organ] < shown:
                missed.append(organ)
    true_brain = case.truth == LABELS["brain"]
    kept = true_brain | within(
        case.truth > LABELS["brain"], true_brain, BRAIN_MARGIN, voxel_sizes(case.image.affine)
    )
    possible = {
        o: float(1 - kept[case.truth == LABELS[o]].mean()) if np.isfinite(c) else float("nan")
        for o, c in cover.items()
    }
    brain = mask & true_brain
    row = Row(
        head,
        case.group,
        case.name,
        case.head,
        dice,
        cover,
        possible,
        int(brain.sum()),
        int((brain & (seg.labels == LABELS["brain"])).sum()),
        {n: float(m) if isinstance(m := measures.get(n), float) else math.nan for n in GEOMETRY},
        tuple(missed),
        dict(seg.certainty),
        status,
        tuple(reasons),
    )
    return row, after


def known(folder: Path) -> Iterator[tuple[str, nib.Nifti1Image, NDArray[np.uint8]]]:
    """Yield name, image and true labels on its grid, for every head of a folder."""
    for name, image, labels in find(folder):
        img, of = nifti.load(image), nifti.load(labels)
        truth = _on_grid_of(img.affine, img.shape[:3], of.affine, np.asarray(of.dataobj))
        yield name, img, truth


def _on_grid_of(
    affine: NDArray[np.float64],
    shape: tuple[int, ...],
    other_affine: NDArray[np.float64],
    labels: NDArray[np.generic],
) -> NDArray[np.uint8]:
    """Labels on another grid of the same space, by nearest neighbour."""
    from scipy import ndimage

    m = np.linalg.inv(other_affine) @ affine
    out: NDArray[np.uint8] = ndimage.affine_transform(
        labels.astype(np.uint8), m[:3, :3], m[:3, 3], output_shape=shape[:3], order=0
    )
    return out


def dice_of(on_grid: list[Head], segmenter: Segmenter) -> dict[str, float]:
    """Return the mean Dice by label over heads on the network's grid: cheap, for curves."""
    scores: dict[str, list[float]] = {organ: [] for organ in LABELS}
    for head in on_grid:
        wide = [-n % BLOCK for n in head.image.shape]
        v = np.pad(np.float32(head.image) / np.float32(SCALE), [(0, n) for n in wide])
        predicted = segmenter.network(v).argmax(0)[tuple(slice(n) for n in head.image.shape)]
        for organ, k in LABELS.items():
            a, b = predicted == k, head.labels == k
            total = int(a.sum()) + int(b.sum())
            if total:
                scores[organ].append(2 * int((a & b).sum()) / total)
    return {organ: round(float(np.mean(s)), 4) for organ, s in scores.items() if s}


def compared(on_grid: list[Head], segmenter: Segmenter) -> list[dict[str, Any]]:
    """Return Dice and seconds with and without the network that refines, a row each.

    ``on_grid``: heads on the network's grid. Seconds are of the networks alone, a head.
    """
    rows: list[dict[str, Any]] = []
    for name, refine in (
        ("both networks", segmenter.network.refine),
        ("coarse network alone", None),
    ):
        one = Segmenter(replace(segmenter.network, refine=refine), segmenter.plan)
        dice_of(on_grid[:1], one)  # the first one waits for the graph
        began = time.perf_counter()
        dice = dice_of(on_grid, one)
        seconds = (time.perf_counter() - began) / len(on_grid)
        rows.append({"network": name, **dice, "seconds": f"{seconds:.2f}"})
    return rows


def picture(
    folder: Path, rows: Sequence[Row], segmenter: Segmenter, out: Path, most: int = 4
) -> None:
    """Renders before and after, and slices with the labels, of the worst heads by coverage.

    Real faces: for the eyes of whoever may see the heads, and nobody else's.
    """
    from efface.qc import render

    pairs = {name: image for name, image, _ in find(folder)}
    ranked = sorted(rows, key=lambda r: (len(r.missed) == 0, np.nanmin([*r.coverage.values()])))
    sheets = []
    for r in ranked[:most]:
        img = nifti.load(pairs[r.head])
        seg = segmenter.segment(img)
        after, (mask, *_) = deface_image(img, seg)
        before, replaced = img.get_fdata(dtype=np.float32), after.get_fdata(dtype=np.float32)
        views = [
            *render.views(before, img.affine).values(),
            *render.views(replaced, img.affine).values(),
        ]
        sheets.append(_row_of([*views, render.slices(before, img.affine, mask, seg.labels)]))
    wide = max(s.shape[1] for s in sheets)
    sheet = np.concatenate([np.pad(s, [(0, 4), (0, wide - s.shape[1]), (0, 0)]) for s in sheets])
    render.save_png(sheet, out)


def _row_of(pictures: list[NDArray[np.uint8]]) -> NDArray[np.uint8]:
    high = max(p.shape[0] for p in pictures)
    colour = [p if p.ndim == 3 else np.repeat(p[..., None], 3, 2) for p in pictures]
    return np.concatenate([np.pad(p, [(0, high - p.shape[0]), (0, 4), (0, 0)]) for p in colour], 1)
