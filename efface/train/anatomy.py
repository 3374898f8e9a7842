"""Measure the mean head: places and spreads of brain, eyes, nose, ears and mouth over label maps.

Measure again with ``python -m efface.train.anatomy HEADS OUT.json``, where HEADS holds
``*_labels.nii.gz`` (values of :data:`efface.segment.labels.LABELS`).
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
from numpy.typing import NDArray
from scipy.spatial.transform import Rotation

from efface.errors import EffaceError
from efface.manifest import write_json
from efface.segment.anatomy import BRAIN_STEP, LANDMARKS
from efface.segment.labels import LABELS
from efface.segment.masks import components

Floats = NDArray[np.float64]


def measure(folder: Path) -> dict[str, Any]:
    """Return mean and spread over the ``*_labels.nii.gz`` of a folder, as in ``anatomy.json``.

    The heads are first fits by rotation, size and shift (generalised Procrustes), so that the
    spread is of anatomy, not of pose. Landmarks cut by the field of view are left out.

    Raises :class:`EffaceError` for fewer than 8 label maps.
    """
    heads = [_read(p) for p in sorted(folder.glob("*_labels.nii.gz"))]
    if len(heads) < 8:
        raise EffaceError(f"{folder}: at least 8 label maps are needed, found {len(heads)}")
    names = ["brain", *LANDMARKS]
    mean = {n: np.mean([h[n][0] for h in heads if n in h], axis=0) for n in names}
    for _ in range(10):
        fits = []
        for head in heads:
            both = [n for n in names if n in head]
            rotation, size, at = _similarity(
                np.array([head[n][0] for n in both]), np.array([mean[n] for n in both])
            )
            fits.append((rotation, size, at))
        mean = {
            n: np.mean(
                [s * r @ h[n][0] + t for h, (r, s, t) in zip(heads, fits, strict=True) if n in h],
                axis=0,
            )
            for n in names
        }
        scale = np.exp(np.mean([np.log(s) for _, s, _ in fits]))
        mean = {n: m / scale for n, m in mean.items()}
    out: dict[str, Any] = {"heads": len(heads), "parts": {}}
    for n in LANDMARKS:
        at = np.array(
            [s * r @ h[n][0] + t for h, (r, s, t) in zip(heads, fits, strict=True) if n in h]
        )
        # about the brain as it lies in each head: that is what a scan will tell
        brain = np.array(
            [s * r @ h["brain"][0] + t for h, (r, s, t) in zip(heads, fits, strict=True) if n in h]
        )
        points = [
            np.abs((h[n][1] - h[n][0]) @ r.T * s)
            for h, (r, s, _) in zip(heads, fits, strict=True)
            if n in h
        ]
        out["parts"][n] = {
            "mean": np.mean(at - brain, axis=0).round(2).tolist(),
            "cov": np.cov((at - brain).T).round(3).tolist(),
            "half": np.percentile([np.percentile(p, 99, axis=0) for p in points], 95, axis=0)
            .round(1)
            .tolist(),
            "volume": round(float(np.mean([h[n][2] for h in heads if n in h]))),
            "heads": len(at),
        }
    reach = 96.0
    ticks = np.arange(-reach, reach + 1, BRAIN_STEP)
    grid = np.stack(np.meshgrid(ticks, ticks, ticks, indexing="ij"), axis=-1).reshape(-1, 3)
    votes = np.zeros(len(grid))
    for head, (rotation, size, _) in zip(heads, fits, strict=True):
        labels, affine = head["map"]
        world = grid @ rotation / size + head["brain"][0]
        back = np.linalg.inv(affine)
        index = np.rint(world @ back[:3, :3].T + back[:3, 3]).astype(int)
        ok = ((index >= 0) & (index < labels.shape)).all(axis=1)
        votes[ok] += labels[tuple(index[ok].T)] == LABELS["brain"]
    out["brain"] = {
        "ml": round(float(np.mean([h["brain"][2] for h in heads])) / 1000, 1),
        "points": grid[votes > len(heads) / 2].astype(int).tolist(),
    }
    angles = [Rotation.from_matrix(r).magnitude() for r, _, _ in fits]
    out["pose"] = {
        "turn_rms_degrees": round(float(np.degrees(np.sqrt(np.mean(np.square(angles))))), 2),
        "log_size_sd": round(float(np.std([np.log(s) for _, s, _ in fits])), 4),
    }
    return out


def _similarity(source: Floats, target: Floats) -> tuple[Floats, float, Floats]:
    """Rotation, size and shift from source to target (Umeyama 1991)."""
    a, b = source.mean(axis=0), target.mean(axis=0)
    u, d, vt = np.linalg.svd((target - b).T @ (source - a))
    sign = np.diag([1, 1, np.sign(np.linalg.det(u @ vt))])
    rotation = u @ sign @ vt
    size = float((d * np.diag(sign)).sum() / ((source - a) ** 2).sum())
    return rotation, size, b - size * rotation @ a


def _read(path: Path) -> dict[str, Any]:
    """Centre, points and volume of each structure of one head that is not cut."""
    img: Any = nib.load(path)
    labels: NDArray[np.uint8] = np.asarray(img.dataobj, np.uint8)
    affine: Floats = np.asarray(img.affine, np.float64)
    voxel = abs(np.linalg.det(affine[:3, :3]))
    head: dict[str, Any] = {"map": (labels, affine)}
    middle = 0.0
    for name, value in LABELS.items():
        index = np.argwhere(labels == value)
        world = index @ affine[:3, :3].T + affine[:3, 3]
        cut = bool(((index < 1) | (index > np.array(labels.shape) - 2)).any())
        if name == "brain":
            head[name] = (world.mean(axis=0), world, len(world) * voxel)
            middle = float(world[:, 0].mean())
        elif name in ("eyes", "ears"):
            # the mid-plane of the head bends off the brain's centre: cut between the two
            pair = components(labels == value)[:2]
            if len(pair) == 2 and len(pair[1]) > 0.3 * len(pair[0]):
                middle_pair = np.mean(
                    [index[:, 0].mean() * affine[0, 0] + affine[0, 3] for index in pair]
                )
            else:
                middle_pair = middle
            for side, mask in (
                ("left", world[:, 0] < middle_pair),
                ("right", world[:, 0] >= middle_pair),
            ):
                if mask.sum() * voxel > 1000 and not cut:
                    part = world[mask]
                    head[f"{side} {name[:-1]}"] = (part.mean(axis=0), part, len(part) * voxel)
        elif len(index) * voxel > 1000 and not cut:
            head[name] = (world.mean(axis=0), world, len(world) * voxel)
    return head


if __name__ == "__main__":
    measured = measure(Path(sys.argv[1]))
    measured["source"] = (
        "Measured by efface.train.anatomy on 2 mm label maps of T1w heads of the IXI study "
        "(https://brain-development.org/ixi-dataset/, CC BY-SA 3.0). Aggregates only."
    )
    write_json(Path(sys.argv[2]), measured)
