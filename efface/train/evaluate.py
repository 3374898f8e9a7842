"""How good the model is on heads whose labels are known: one row a head."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from efface import nifti
from efface.segment import PARTS, Segmenter
from efface.segment.labels import FEATURES, LABELS
from efface.train.data import SCALE, Head, find


@dataclass(frozen=True)
class Row:
    """One head's figures."""

    head: str
    dice: dict[str, float]
    """Per label; NaN where neither map holds it."""
    coverage: dict[str, float]
    """Share of each organ's true voxels that the distorted region holds; NaN for none."""
    brain_changed: int
    """Voxels of the true brain inside the distorted region."""
    missed: tuple[str, ...]
    """Organs that the head shows and of which the model found too few."""


def heads(folder: Path, segmenter: Segmenter) -> Iterable[Row]:
    """A row for every head of a folder of heads and label maps."""
    from efface.distort import region

    for name, image, labels in find(folder):
        img, known = nifti.load(image), nifti.load(labels)
        seen = segmenter.segment(img)
        truth = _on_grid_of(img.affine, img.shape[:3], known.affine, np.asarray(known.dataobj))
        mask = region(seen.labels, img.affine, "face")
        yield row(name, seen.labels, truth, mask, seen.parts)


def row(
    name: str,
    found: NDArray[np.uint8],
    truth: NDArray[np.uint8],
    mask: NDArray[np.bool_],
    parts: dict[str, int],
) -> Row:
    """Compare label maps (X, Y, Z) and the region to be distorted."""
    from scipy import ndimage

    dice, cover, missed = {}, {}, []
    for organ, k in LABELS.items():
        a, b = found == k, truth == k
        total = int(a.sum()) + int(b.sum())
        dice[organ] = 2 * int((a & b).sum()) / total if total else float("nan")
        if organ in FEATURES:
            cover[organ] = float(mask[b].mean()) if b.any() else float("nan")
            pieces, n = ndimage.label(b)
            sizes = np.bincount(pieces.ravel(), minlength=n + 1)[1:]
            shown = min(int((sizes >= 0.2 * sizes.max()).sum()), PARTS[organ]) if n else 0
            if parts[organ] < shown:
                missed.append(organ)
    return Row(name, dice, cover, int((mask & (truth == 1)).sum()), tuple(missed))


def table(rows: list[Row]) -> str:
    """Rows as TSV, then one with the means and one with the worst."""
    out = io.StringIO()
    writer = csv.writer(out, delimiter="\t", lineterminator="\n")
    writer.writerow(
        [
            "head",
            *(f"dice_{o}" for o in LABELS),
            *(f"covered_{o}" for o in FEATURES),
            "brain_changed",
            "missed",
        ]
    )
    figures = np.array([[*r.dice.values(), *r.coverage.values()] for r in rows])
    for r, line in zip(rows, figures, strict=True):
        writer.writerow([r.head, *_round(line), r.brain_changed, ",".join(r.missed)])
    n = sum(r.brain_changed for r in rows)
    missed = sum(len(r.missed) for r in rows)
    writer.writerow(["mean", *_round(np.nanmean(figures, 0)), n, missed])
    writer.writerow(["worst", *_round(np.nanmin(figures, 0)), "", ""])
    return out.getvalue()


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
    multiple = 2 ** len(segmenter.plan.widths)
    scores: dict[str, list[float]] = {organ: [] for organ in LABELS}
    for head in known:
        wide = [-n % multiple for n in head.image.shape]
        v = np.pad(np.float32(head.image) / np.float32(SCALE), [(0, n) for n in wide])
        found = segmenter.probabilities(v).argmax(0)[tuple(slice(n) for n in head.image.shape)]
        for organ, k in LABELS.items():
            a, b = found == k, head.labels == k
            total = int(a.sum()) + int(b.sum())
            if total:
                scores[organ].append(2 * int((a & b).sum()) / total)
    return {organ: round(float(np.mean(s)), 4) for organ, s in scores.items() if s}


def picture(folder: Path, rows: list[Row], segmenter: Segmenter, out: Path, most: int = 4) -> None:
    """Renders before and after, and slices with the labels, of the worst heads by coverage.

    Real faces: for the eyes of whoever may see the heads, and nobody else's.
    """
    from efface.distort import deface_image
    from efface.qc import render

    pairs = {name: image for name, image, _ in find(folder)}
    ranked = sorted(rows, key=lambda r: (len(r.missed) == 0, np.nanmin([*r.coverage.values()])))
    sheets = []
    for r in ranked[:most]:
        img = nifti.load(pairs[r.head])
        seen = segmenter.segment(img)
        after, mask = deface_image(img, seen.labels, "face", "noise", 0)
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
