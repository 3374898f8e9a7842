"""Scans of phantoms: NIfTI images with their label maps, and a small BIDS dataset."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
from numpy.typing import NDArray

from efface import nifti
from efface.errors import EffaceError
from efface.phantom.anatomy import HeadShape, labels_of, tissues
from efface.phantom.contrast import CONTRASTS, image, signal

orientations: Any = nib.orientations  # untyped in nibabel

FOV = (188.0, 252.0, 256.0)
"""Default field of view, mm along right, anterior, superior: head, ears, nose and some neck."""

CENTRE = (0.0, 6.0, 14.0)
"""Centre of the default field of view in the frame of the head, mm."""

_THICK = 3.0  # mm: above it a voxel is averaged from several points along that axis


def grid(
    spacing: tuple[float, float, float],
    shape: tuple[int, int, int] | None = None,
    axcodes: str = "RAS",
    centre: tuple[float, float, float] = CENTRE,
    oblique: tuple[float, float, float] = (0.0, 0.0, 0.0),
) -> tuple[tuple[int, int, int], NDArray[np.float64]]:
    """Shape and affine of an acquisition.

    ``spacing`` (mm) and ``shape`` are along the voxel axes, which point to ``axcodes`` and are then
    rotated by ``oblique`` (degrees around x, y, z). Without ``shape`` the grid spans :data:`FOV`.
    The centre of the grid is at ``centre``.
    """
    codes = orientations.axcodes2ornt(axcodes)
    if np.isnan(codes).any() or sorted(codes[:, 0]) != [0, 1, 2]:
        raise EffaceError(f"{axcodes}: not three axis codes such as RAS")
    if shape is None:
        extent = [FOV[int(a)] for a in codes[:, 0]]
        n = [max(2, round(e / s)) for e, s in zip(extent, spacing, strict=True)]
        shape = (n[0], n[1], n[2])
    linear = np.zeros((3, 3))
    for voxel_axis, (world_axis, sign) in enumerate(codes):
        linear[int(world_axis), voxel_axis] = sign * spacing[voxel_axis]
    for axis, degrees in enumerate(oblique):
        c, s = np.cos(np.deg2rad(degrees)), np.sin(np.deg2rad(degrees))
        i, j = (axis + 1) % 3, (axis + 2) % 3
        turn = np.eye(3)
        turn[i, i] = turn[j, j] = c
        turn[i, j], turn[j, i] = -s, s
        linear = turn @ linear
    affine = np.eye(4)
    affine[:3, :3] = linear
    affine[:3, 3] = np.array(centre) - linear @ ((np.array(shape) - 1) / 2)
    return shape, affine


def phantom(
    seed: int,
    contrast: str = "T1w",
    *,
    spacing: tuple[float, float, float] = (2.0, 2.0, 2.0),
    shape: tuple[int, int, int] | None = None,
    axcodes: str = "RAS",
    centre: tuple[float, float, float] = CENTRE,
    oblique: tuple[float, float, float] = (0.0, 0.0, 0.0),
    pose: NDArray[np.floating] | None = None,
    noise: float = 0.02,
    bias: float = 0.25,
    scan: int = 0,
    dtype: type = np.int16,
    scale: float = 6.0,
) -> tuple[nib.Nifti1Image, nib.Nifti1Image]:
    """A scan of person ``seed`` and its label map (uint8, same grid).

    ``pose`` (4, 4) maps the frame of the head to the world, default identity; ``scan`` selects
    other noise and tissue values for the same person. Grid as in :func:`grid`. Stored values are
    ``scale`` times the signal (T1w white matter 100), rounded for an integer ``dtype``. The same
    arguments give the same bytes.
    """
    head = HeadShape.from_seed(seed)
    shape, affine = grid(spacing, shape, axcodes, centre, oblique)
    to_head = affine if pose is None else np.linalg.inv(pose) @ affine
    if contrast not in CONTRASTS:
        raise EffaceError(
            f"{contrast}: unknown contrast of the phantom; choose one of {', '.join(CONTRASTS)}"
        )
    key = (seed, scan, list(CONTRASTS).index(contrast))
    rng = np.random.Generator(np.random.PCG64(key))
    parts = [max(1, int(np.ceil(s / _THICK - 0.01))) for s in spacing]
    if parts == [1, 1, 1]:
        tissue, labels, cover = tissues(head, shape, to_head)
        clean = signal(tissue, contrast, rng) * cover
    else:
        fine = (shape[0] * parts[0], shape[1] * parts[1], shape[2] * parts[2])
        step = np.diag([*(1 / p for p in parts), 1.0])
        step[:3, 3] = [(1 / p - 1) / 2 for p in parts]
        tissue, _, cover = tissues(head, fine, to_head @ step)
        clean = signal(tissue, contrast, rng) * cover
        split = clean.reshape(shape[0], parts[0], shape[1], parts[1], shape[2], parts[2])
        clean = split.mean(axis=(1, 3, 5), dtype=np.float32)
        labels = labels_of(head, shape, to_head)
    voxels = image(clean, to_head, rng, noise=noise, bias=bias) * np.float32(scale)
    if np.issubdtype(dtype, np.integer):
        top = np.iinfo(dtype).max
        voxels = np.clip(np.rint(voxels), 0, top)
    return _nifti(voxels.astype(dtype), affine), _nifti(labels, affine)


def _nifti(voxels: NDArray[Any], affine: NDArray[np.float64]) -> nib.Nifti1Image:
    out = nib.Nifti1Image(voxels, affine)
    out.header.set_xyzt_units("mm", "sec")
    out.set_qform(affine, 1)
    out.set_sform(affine, 1)
    return out


def write_nifti(
    folder: Path,
    name: str,
    seed: int,
    contrast: str = "T1w",
    **how: Any,  # noqa: ANN401
) -> tuple[Path, Path]:
    """Write ``name.nii.gz`` and ``name_labels.nii.gz`` of :func:`phantom` into ``folder``."""
    img, labels = phantom(seed, contrast, **how)
    paths = folder / f"{name}.nii.gz", folder / f"{name}_labels.nii.gz"
    nifti.save(img, paths[0])
    nifti.save(labels, paths[1])
    return paths


def write_bids(
    folder: Path,
    seeds: tuple[int, ...] = (1, 2),
    contrasts: tuple[str, ...] = ("T1w", "T2w"),
    **how: Any,  # noqa: ANN401
) -> list[Path]:
    """Write a small BIDS dataset of phantoms: one session each, sidecars included.

    Returns the images in order. ``how`` goes to :func:`phantom`.
    """
    folder.mkdir(parents=True, exist_ok=True)
    _json(
        folder / "dataset_description.json",
        {"Name": "Phantom heads", "BIDSVersion": "1.10.0", "DatasetType": "raw", "License": "CC0"},
    )
    (folder / "README").write_text("Computed heads; no person was scanned.\n", encoding="utf-8")
    rows = ["participant_id\tage\tsex"]
    images = []
    for n, seed in enumerate(seeds, start=1):
        subject = f"sub-{n:02d}"
        rows.append(f"{subject}\t{25 + seed % 50}\t{'MF'[seed % 2]}")
        for number, contrast in enumerate(contrasts):
            path = folder / subject / "anat" / f"{subject}_{contrast}.nii.gz"
            img, _ = phantom(seed, contrast, **{"scan": number, **how})
            nifti.save(img, path)
            _json(path.with_name(f"{subject}_{contrast}.json"), sidecar(contrast))
            images.append(path)
    (folder / "participants.tsv").write_text("\n".join(rows) + "\n", encoding="utf-8")
    return images


def sidecar(contrast: str) -> dict[str, Any]:
    """Acquisition parameters of ``contrast`` for a BIDS sidecar (times in seconds)."""
    echo, repetition, inversion, flip, sequence = PROTOCOL[contrast]
    out: dict[str, Any] = {
        "Modality": "MR",
        "MagneticFieldStrength": 3,
        "Manufacturer": "Siemens",
        "EchoTime": echo,
        "RepetitionTime": repetition,
        "FlipAngle": flip,
        "MRAcquisitionType": "3D",
        "ScanningSequence": sequence,
    }
    if inversion:
        out["InversionTime"] = inversion
    return out


PROTOCOL: dict[str, tuple[float, float, float, float, str]] = {
    "T1w": (0.00298, 2.3, 0.9, 9.0, "GR"),
    "T2w": (0.098, 4.8, 0.0, 150.0, "SE"),
    "FLAIR": (0.087, 9.0, 2.5, 150.0, "SE"),
    "PDw": (0.011, 3.0, 0.0, 150.0, "SE"),
}
"""Echo, repetition and inversion time (s; 0 for none), flip angle (degrees), sequence type."""


def _json(path: Path, content: dict[str, Any]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(content, indent=2, sort_keys=True) + "\n", encoding="utf-8")
