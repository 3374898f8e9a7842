"""Training heads with label maps: reading, checks, split by person, the networks' grid."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

import nibabel as nib
import numpy as np
from numpy.typing import NDArray

from efface import nifti
from efface.errors import EffaceError
from efface.segment import grid as grids

LABEL_VALUES = 6
SCALE = 180
"""Stored intensity of a normalised intensity of 1; brighter voxels have up to 255."""


@dataclass(frozen=True)
class Head:
    """One head on the network's grid: intensities 0 to 255 and labels, both uint8 (X, Y, Z)."""

    name: str
    image: NDArray[np.uint8]
    labels: NDArray[np.uint8]


def find(folder: Path) -> list[tuple[str, Path, Path]]:
    """Pairs ``NAME_<suffix>.nii.gz`` and ``NAME_labels.nii.gz`` in a folder, by name.

    Raises :class:`EffaceError` if the folder holds none, or a head lacks its labels.
    """
    pairs = []
    for image in sorted(folder.glob("*.nii.gz")):
        # NAME_brain.nii.gz is a brain mask
        if image.name.endswith(("_labels.nii.gz", "_brain.nii.gz")):
            continue
        name = image.name.removesuffix(".nii.gz")
        labels = labels_of(image)
        if not labels.exists():
            raise EffaceError(
                f"{image}: no label map {labels.name} beside it; make one with `snakemake label`"
            )
        pairs.append((name, image, labels))
    if not pairs:
        raise EffaceError(f"{folder}: no heads (NAME_T1w.nii.gz with NAME_labels.nii.gz)")
    return pairs


def labels_of(image: Path) -> Path:
    """Path of a head's label map: ``NAME_labels.nii.gz`` for ``NAME_T1w.nii.gz``."""
    name = image.name.removesuffix(".nii.gz")
    return image.with_name(re.sub(r"_[^_]*$", "", name) + "_labels.nii.gz")


def unlabelled(folder: Path) -> list[str]:
    """Names of the heads in a folder that have no label map."""
    images = [
        p
        for p in sorted(folder.glob("*.nii.gz"))
        if not p.name.endswith(("_labels.nii.gz", "_brain.nii.gz"))
    ]
    return [p.name for p in images if not labels_of(p).exists()]


def read(name: str, image: Path, labels: Path, mm: float) -> Head:
    """Read a head and resample it to the grid.

    Raises :class:`EffaceError` if the labels have other values than 0 to 5, or no brain.
    """
    img, seg = nifti.load(image), nifti.load(labels)
    values = np.asarray(seg.dataobj)
    if not np.isin(np.unique(values), range(LABEL_VALUES)).all():
        raise EffaceError(f"{labels}: labels must be 0 to {LABEL_VALUES - 1}")
    if not (values == 1).any():
        raise EffaceError(f"{labels}: no brain label (1)")
    return as_head(name, img, seg, mm)


def as_head(name: str, img: nib.Nifti1Image, seg: nib.Nifti1Image, mm: float) -> Head:
    """An image and its label map on the network's grid."""
    values = np.asarray(seg.dataobj)
    grid = grids.covering(img.shape, img.affine, mm, 2)
    v, inside = grids.resample(
        grids.volume(nifti.stored(img), *_finite(nifti.scaling(img))), img.affine, grid
    )
    v = grids.normalise(v, inside)
    out = np.zeros(grid.shape, np.uint8)
    best = np.zeros(grid.shape, np.float32)
    # resampled as probabilities: nearest neighbour loses thin parts
    for label in range(LABEL_VALUES):
        p, _ = grids.resample((values == label).astype(np.float32), seg.affine, grid)
        wins = p > best
        out[wins], best[wins] = label, p[wins]
    return Head(name, np.clip(np.round(v * SCALE), 0, 255).astype(np.uint8), out)


def cached(folder: Path, cache: Path, mm: float) -> list[Head]:
    """All heads of a folder on the grid, from one compressed file if it is there, else written."""
    store = cache / f"{folder.name}_{mm:g}mm.npz"
    pairs = find(folder)
    if store.exists():
        with np.load(store) as z:
            if list(z["names"]) == [n for n, _, _ in pairs]:
                return [
                    Head(n, z[f"image_{i}"], z[f"labels_{i}"]) for i, (n, _, _) in enumerate(pairs)
                ]
    heads = [read(*p, mm) for p in pairs]
    cache.mkdir(parents=True, exist_ok=True)
    arrays: dict[str, NDArray[np.generic]] = {f"image_{i}": h.image for i, h in enumerate(heads)}
    arrays |= {f"labels_{i}": h.labels for i, h in enumerate(heads)}
    temporary = store.with_suffix(".part.npz")
    arrays["names"] = np.array([h.name for h in heads])
    np.savez_compressed(temporary, allow_pickle=False, **arrays)
    temporary.replace(store)
    return heads


def sets(folder: Path, cache: Path, mm: float) -> tuple[list[Head], list[Head]]:
    """Heads to train on and heads to validate: ``train/`` and ``val/`` of the folder, or a split.

    Raises :class:`EffaceError` if there are no heads, or all are on one side of the split.
    """
    if not folder.is_dir():
        raise EffaceError(f"{folder}: no such folder of heads (--config heads=DIR)")
    if (folder / "train").is_dir() and (folder / "val").is_dir():
        return cached(folder / "train", cache, mm), cached(folder / "val", cache, mm)
    training, validation = split(cached(folder, cache, mm))
    if not training or not validation:
        raise EffaceError(
            f"{folder}: too few people for a split into training and validation heads"
        )
    return training, validation


def phantoms(count: int, mm: float) -> list[Head]:
    """Generated heads as further training data, in the contrasts T1w, T2w, FLAIR and PDw."""
    from efface.phantom import phantom

    contrasts = ("T1w", "T2w", "FLAIR", "PDw")
    heads = []
    for i in range(count):
        img, labels = phantom(10_000 + i, contrasts[i % 4], spacing=(mm, mm, mm))
        heads.append(as_head(f"phantom{i}", img, labels, mm))
    return heads


def split(heads: list[Head], validation: float = 0.15) -> tuple[list[Head], list[Head]]:
    """Split by person (the name before the first ``_`` or ``-``), the same at every call."""
    import hashlib

    def chosen(head: Head) -> bool:
        person = re.split(r"[_-]", head.name)[0]
        return int(hashlib.sha256(person.encode()).hexdigest(), 16) % 1000 < 1000 * validation

    return [h for h in heads if not chosen(h)], [h for h in heads if chosen(h)]


def _finite(pair: tuple[float, float]) -> tuple[float, float]:
    slope, inter = pair
    return (slope if np.isfinite(slope) else 1.0), (inter if np.isfinite(inter) else 0.0)


def save_head(folder: Path, name: str, img: nib.Nifti1Image, labels: nib.Nifti1Image) -> None:
    """Write a head as :func:`find` expects it."""
    nifti.save(img, folder / f"{name}.nii.gz")
    nifti.save(labels, folder / f"{re.sub(r'_[^_]*$', '', name)}_labels.nii.gz")
