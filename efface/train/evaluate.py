"""How good the model is where labels are known: on heads as they are, and transformed.

Every case goes the way of :func:`efface.deface`: labels, region, distortion, gate.
"""

from __future__ import annotations

import csv
import io
import time
import warnings
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from efface import nifti
from efface.distort import deface_positions
from efface.qc import judge
from efface.segment import Segmenter
from efface.segment.grid import BLOCK
from efface.segment.labels import FEATURES, LABELS
from efface.segment.masks import BRAIN_MARGIN, within
from efface.segment.organs import voxel_sizes
from efface.segment.parts import PARTS
from efface.train import combine, transform
from efface.train.data import SCALE, Head, find
from efface.train.transform import Case

if TYPE_CHECKING:
    import nibabel as nib


@dataclass(frozen=True)
class Row:
    """What became of one case."""

    head: str
    group: str
    name: str
    is_head: bool
    dice: dict[str, float]
    """Per label; NaN where neither map holds it."""
    coverage: dict[str, float]
    """Share of each organ's true voxels that the distorted region holds; NaN for none."""
    possible: dict[str, float]
    """The same if the true labels had been found: what lies within 2 mm of the true brain stays."""
    brain_changed: int
    """Voxels of the true brain that were replaced."""
    brain_changed_agreed: int
    """Of these, the ones that the model calls brain too: none, by construction."""
    geometry: dict[str, float]
    """What the gate measured of the brain and the pose (:data:`GEOMETRY`); NaN if not asked."""
    missed: tuple[str, ...]
    """Organs that the case shows and of which the model found too few."""
    certainty: dict[str, float]
    """Mean probability of each label found, before calibration."""
    status: str
    reasons: tuple[str, ...]

    @property
    def bad(self) -> bool:
        """Whether this must not pass: no head, or a part of the face would stay."""
        return not self.is_head or any(v < STAYS for v in self.coverage.values())


GEOMETRY = ("maybe_brain_replaced_ml", "brain_likeness", "pose_misfit")
"""Measures of the gate that its limits are set by."""
STAYS = 0.80
"""An organ of which less is replaced counts as left in: labels err by a voxel at their rim, which
is 10 to 15 % of an ear."""


def heads(folder: Path, segmenter: Segmenter) -> Iterator[Row]:
    """A row for every head of a folder of heads and label maps, as it is."""
    for name, img, truth in _known(folder):
        yield measure(name, Case("as it is", "", img, truth), segmenter)[0]


def combined(folder: Path, segmenter: Segmenter, each: int) -> Iterator[Row]:
    """Rows for every head of the folder with several things amiss at once, in ``each`` ways."""
    for i, (name, img, truth) in enumerate(_known(folder)):
        for case in combine.cases(transform.head(img, truth), each, seed=i):
            yield measure(name, case, segmenter)[0]


def transformed(folder: Path, segmenter: Segmenter, count: int) -> Iterator[Row]:
    """Rows for all transformations of ``count`` heads of the folder, and for what is no head."""
    for i, (name, img, truth) in enumerate(_known(folder)):
        if i >= count:
            return
        head = transform.head(img, truth)
        for case in transform.cases(head):
            yield measure(name, case, segmenter)[0]
        _, after = measure(name, Case("", "", img, truth), segmenter)
        for case in transform.no_heads(head, transform.head(after, truth).v):
            yield measure(name, case, segmenter)[0]


def measure(head: str, case: Case, segmenter: Segmenter) -> tuple[Row, nib.Nifti1Image]:
    """Deface and judge a case: its row, and the defaced image."""
    from scipy import ndimage

    seen = segmenter.segment(case.image)
    after, masks = deface_positions(case.image, seen)
    status, reasons, measures = judge(case.image, after, seen, masks, "face", "noise", segmenter)
    mask = masks[0]
    dice, cover, missed = {}, {}, []
    for organ, k in LABELS.items():
        a, b = seen.labels == k, case.truth == k
        total = int(a.sum()) + int(b.sum())
        dice[organ] = 2 * int((a & b).sum()) / total if total else float("nan")
        if organ in FEATURES:
            cover[organ] = float(mask[b].mean()) if b.any() else float("nan")
            pieces, n = ndimage.label(b)
            sizes = np.bincount(pieces.ravel(), minlength=n + 1)[1:]
            shown = min(int((sizes >= 0.2 * sizes.max()).sum()), PARTS[organ]) if n else 0
            if seen.parts[organ] < shown:
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
        int((brain & (seen.labels == LABELS["brain"])).sum()),
        {n: float("nan") if (m := measures.get(n)) is None else float(m) for n in GEOMETRY},
        tuple(missed),
        seen.certainty,
        status,
        tuple(reasons),
    )
    return row, after


def _known(folder: Path) -> Iterator[tuple[str, nib.Nifti1Image, NDArray[np.uint8]]]:
    for name, image, labels in find(folder):
        img, known = nifti.load(image), nifti.load(labels)
        truth = _on_grid_of(img.affine, img.shape[:3], known.affine, np.asarray(known.dataobj))
        yield name, img, truth


def table(rows: Sequence[Row]) -> str:
    """One line a case as TSV, then their means, medians and worst."""
    figures = np.array(
        [[*r.dice.values(), *r.coverage.values(), *r.possible.values()] for r in rows]
    )
    lines: list[list[object]] = []
    for r, line in zip(rows, figures, strict=True):
        lines.append(
            [
                r.head,
                r.group,
                r.name,
                *_round(line),
                r.brain_changed,
                *("" if np.isnan(m) else f"{m:.3f}" for m in r.geometry.values()),
                ",".join(r.missed),
                r.status,
                "; ".join(r.reasons),
            ]
        )
    passed = f"{sum(r.status == 'pass' for r in rows)} of {len(rows)} pass"
    n = sum(r.brain_changed for r in rows)
    missed = sum(len(r.missed) for r in rows)
    blank = [""] * len(GEOMETRY)
    mean = _round(_of(np.nanmean, figures))
    lines.append(["mean", "", "", *mean, n, *blank, missed, passed, ""])
    rest = [*blank, *[""] * 4]
    lines.append(["median", "", "", *_round(_of(np.nanmedian, figures)), *rest])
    lines.append(["worst", "", "", *_round(_of(np.nanmin, figures)), *rest])
    possible = (f"possible_{o}" for o in FEATURES)
    names = (
        "head",
        "case",
        "variant",
        *_COLUMNS,
        *possible,
        "brain_changed",
        *GEOMETRY,
        "missed",
        "status",
        "reasons",
    )
    return _tsv(names, lines)


def groups(rows: Sequence[Row]) -> str:
    """One line for each transformation as TSV: mean Dice, least coverage, what the gate said."""
    lines: list[list[object]] = []
    names = dict.fromkeys(r.group if r.is_head else f"{r.group}: {r.name}" for r in rows)
    for name in names:
        own = [r for r in rows if (r.group if r.is_head else f"{r.group}: {r.name}") == name]
        dice = _of(np.nanmean, np.array([[*r.dice.values()] for r in own]))
        cover = _of(np.nanmin, np.array([[*r.coverage.values()] for r in own]))
        said = Counter(r.status for r in own)
        reasons = Counter(why for r in own for why in r.reasons).most_common(1)
        known = own[0].is_head
        lines.append(
            [
                name,
                len(own),
                *(_round(np.concatenate([dice, cover])) if known else [""] * 9),
                max(r.brain_changed for r in own) if known else "",
                sum(len(r.missed) for r in own) if known else "",
                *(said[s] for s in ("pass", "review", "fail")),
                sum(r.status == "pass" and r.bad for r in own),
                reasons[0][0] if reasons else "",
            ]
        )
    columns = ("case", "n", *_COLUMNS, "most_brain_changed", "missed", "pass", "review", "fail")
    return _tsv((*columns, "bad_passed", "most_frequent_reason"), lines)


_COLUMNS = (*(f"dice_{o}" for o in LABELS), *(f"covered_{o}" for o in FEATURES))


def _tsv(names: Sequence[str], lines: Iterable[Sequence[object]]) -> str:
    out = io.StringIO()
    writer = csv.writer(out, delimiter="\t", lineterminator="\n")
    writer.writerow(names)
    writer.writerows(lines)
    return out.getvalue()


def _of(statistic: Callable[..., Any], figures: NDArray[np.float64]) -> NDArray[np.float64]:
    """A statistic over the first axis, NaN where there is nothing, without a warning for it."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", RuntimeWarning)
        result: NDArray[np.float64] = statistic(figures, axis=0)
    return result


def _round(line: NDArray[np.float64]) -> list[str]:
    return ["" if np.isnan(v) else f"{v:.4f}" for v in line]


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


def dice_of(known: list[Head], segmenter: Segmenter) -> dict[str, float]:
    """Mean Dice per label over heads that are on the network's grid already: cheap, for curves."""
    scores: dict[str, list[float]] = {organ: [] for organ in LABELS}
    for head in known:
        wide = [-n % BLOCK for n in head.image.shape]
        v = np.pad(np.float32(head.image) / np.float32(SCALE), [(0, n) for n in wide])
        found = segmenter.network(v).argmax(0)[tuple(slice(n) for n in head.image.shape)]
        for organ, k in LABELS.items():
            a, b = found == k, head.labels == k
            total = int(a.sum()) + int(b.sum())
            if total:
                scores[organ].append(2 * int((a & b).sum()) / total)
    return {organ: round(float(np.mean(s)), 4) for organ, s in scores.items() if s}


def compared(known: list[Head], segmenter: Segmenter) -> str:
    """Dice and seconds with and without the refining network, as TSV.

    ``known``: heads on the network's grid. Seconds are of the networks alone, a head.
    """
    lines: list[list[object]] = []
    for name, refine in (
        ("both networks", segmenter.network.refine),
        ("coarse network alone", None),
    ):
        one = Segmenter(replace(segmenter.network, refine=refine), segmenter.plan)
        dice_of(known[:1], one)  # the first one waits for the graph
        began = time.perf_counter()
        dice = dice_of(known, one)
        seconds = (time.perf_counter() - began) / len(known)
        lines.append([name, *dice.values(), f"{seconds:.2f}"])
    return _tsv(("network", *LABELS, "seconds"), lines)


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
        seen = segmenter.segment(img)
        after, (mask, *_) = deface_positions(img, seen)
        before, replaced = img.get_fdata(dtype=np.float32), after.get_fdata(dtype=np.float32)
        views = [
            *render.views(before, img.affine).values(),
            *render.views(replaced, img.affine).values(),
        ]
        sheets.append(_row_of([*views, render.slices(before, img.affine, mask, seen.labels)]))
    wide = max(s.shape[1] for s in sheets)
    sheet = np.concatenate([np.pad(s, [(0, 4), (0, wide - s.shape[1]), (0, 0)]) for s in sheets])
    render.save_png(sheet, out)


def _row_of(pictures: list[NDArray[np.uint8]]) -> NDArray[np.uint8]:
    high = max(p.shape[0] for p in pictures)
    colour = [p if p.ndim == 3 else np.repeat(p[..., None], 3, 2) for p in pictures]
    return np.concatenate([np.pad(p, [(0, high - p.shape[0]), (0, 4), (0, 0)]) for p in colour], 1)
