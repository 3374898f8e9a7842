"""Segment: head to brain, eyes, nose, ears and mouth.

One network pass on a coarse grid (:mod:`efface.segment.grid`), the largest components kept, and
labels brought back to the image's own grid.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from efface import nifti
from efface.errors import EffaceError
from efface.manifest import Manifest, Scan, sha256
from efface.segment import grid as grids
from efface.segment.labels import LABELS
from efface.status import STAGE_FAILED

if TYPE_CHECKING:
    import nibabel as nib

    from efface.segment.network import AttentionUNet

MODEL = "face"
PARTS = {"brain": 1, "eyes": 2, "nose": 1, "ears": 2, "mouth": 1}
"""How many of each a head has."""
SMALLEST_MM3 = 60.0
"""A component below this volume is noise, not an organ."""


@dataclass(frozen=True)
class Segmentation:
    """What the network saw in one image."""

    labels: NDArray[np.uint8]
    """On the image's own grid, shape (X, Y, Z); values of ``LABELS``."""
    confidence: dict[str, float]
    """Mean probability, 0 to 1, over the voxels of each label found; 0 where none was."""
    volume_ml: dict[str, float]
    parts: dict[str, int]
    """How many components of each label were found."""


@dataclass(frozen=True)
class Plan:
    """How the network was trained, kept beside its weights (models/face.json)."""

    mm: float
    widths: tuple[int, ...]
    attention: bool


class Segmenter:
    """The face model, loaded once for many images."""

    def __init__(self, network: AttentionUNet, plan: Plan, device: str = "cpu") -> None:
        self._network = network.eval()
        self.plan = plan
        self.device = device

    @staticmethod
    def load(
        models: Path | None = None, device: str = "auto", threads: int | None = None
    ) -> Segmenter:
        """Load ``face.safetensors`` and its plan from a folder (default: the shipped model).

        ``device`` is ``cpu``, ``cuda`` or ``auto``: the GPU where there is one; ``threads`` is
        for the CPU, as many as torch chooses where it is None. Raises
        :class:`EffaceError` if the model is missing or the device is not there.
        """
        import torch
        from safetensors.torch import load_file

        from efface.segment.network import AttentionUNet

        folder = models or shipped_models()
        try:
            raw = json.loads((folder / f"{MODEL}.json").read_text())["plan"]
            plan = Plan(float(raw["mm"]), tuple(raw["widths"]), bool(raw["attention"]))
            weights = load_file(folder / f"{MODEL}.safetensors")
        except (OSError, ValueError, KeyError) as e:
            raise EffaceError(
                f"{folder}: no face model there ({MODEL}.safetensors and {MODEL}.json): {e}"
            ) from e
        if threads:
            torch.set_num_threads(threads)
        there = torch.cuda.is_available()
        if device == "cuda" and not there:
            raise EffaceError("device cuda was asked for, but torch sees no GPU: use device cpu")
        chosen = "cuda" if there and device in ("auto", "cuda") else "cpu"
        network = AttentionUNet(plan.widths, len(LABELS) + 1, plan.attention)
        network.load_state_dict({k: v.float() for k, v in weights.items()})
        return Segmenter(network.to(chosen), plan, chosen)

    def segment(self, img: nib.Nifti1Image) -> Segmentation:
        """Label a 3D image, or the mean over time of a 4D one."""
        slope, inter = nifti.scaling(img)
        v = grids.volume(nifti.stored(img), slope, inter)
        grid = grids.around(v.shape, img.affine, self.plan.mm, 2 ** len(self.plan.widths))
        on_grid, inside = grids.resample(v, img.affine, grid)
        p = self.probabilities(grids.normalise(on_grid, inside))
        p[1:, ~inside] = 0
        kept = _components(p, self.plan.mm)
        names = list(LABELS)
        shape = (img.shape[0], img.shape[1], img.shape[2])
        labels = grids.labels_to(np.where(_grown(kept), p, 0), grid, shape, img.affine)
        ml = abs(np.linalg.det(img.affine[:3, :3])) / 1000
        counts = np.bincount(labels.ravel(), minlength=len(LABELS) + 1)
        return Segmentation(
            labels=labels,
            confidence={
                n: round(float(p[k][kept[k]].mean()), 4) if kept[k].any() else 0.0
                for n, k in LABELS.items()
            },
            volume_ml={n: round(float(counts[k] * ml), 3) for n, k in LABELS.items()},
            parts={n: _count(kept[LABELS[n]]) for n in names},
        )

    def probabilities(self, v: NDArray[np.float32]) -> NDArray[np.float32]:
        """Class probabilities (classes, X, Y, Z) of a normalised volume on the grid."""
        import torch

        with torch.inference_mode():
            x = torch.from_numpy(v)[None, None].to(self.device)
            p: NDArray[np.float32] = self._network(x)[0].float().softmax(0).cpu().numpy()
        return p


def run(convert: tuple[Path, Manifest], folder: Path, segmenter: Segmenter) -> tuple[Scan, ...]:
    """Label every NIfTI of a session; writes ``{scan}_labels.nii.gz``.

    A scan that cannot be labelled fails with its reason; the others go on.
    """
    source, manifest = convert
    return tuple(_one(scan, source, folder, segmenter) for scan in manifest.scans)


def _one(scan: Scan, source: Path, folder: Path, segmenter: Segmenter) -> Scan:
    import nibabel as nib

    if scan.status == "fail" or "nifti" not in scan.files:
        return replace(scan, files={}, measures={})
    try:
        img = nifti.load(source / scan.files["nifti"])
        seen = segmenter.segment(img)
    except EffaceError as e:
        # without the path that the message starts with: the audit prints the reason
        why = str(e).removeprefix(f"{source / scan.files['nifti']}: ")
        return replace(scan, files={}, measures={}).mark("fail", f"{STAGE_FAILED}: {why}")
    name = f"{scan.scan}_labels.nii.gz"
    out = nib.Nifti1Image(seen.labels, img.affine)
    nifti.save(out, folder / name)
    measures: dict[str, Any] = {
        "confidence": seen.confidence,
        "volume_ml": seen.volume_ml,
        "parts": seen.parts,
    }
    return replace(scan, files={"labels": name}, measures=measures)


def model_hash(models: Path | None = None) -> str:
    """Digest of the weights and their plan; empty where there are none."""
    folder = models or shipped_models()
    files = [folder / f"{MODEL}.json", folder / f"{MODEL}.safetensors"]
    return "-".join(sha256(f)[:16] for f in files) if all(f.exists() for f in files) else ""


def shipped_models() -> Path:
    """The folder of weights: ``models/`` of the repository or of the installed package."""
    here = Path(__file__).resolve().parents[1]
    for folder in (here / "models", here.parent / "models"):
        if (folder / f"{MODEL}.json").exists():
            return folder
    return here.parent / "models"


def _components(p: NDArray[np.float32], mm: float) -> NDArray[np.bool_]:
    """Per class, the voxels that win and lie in one of the largest components."""
    from scipy import ndimage

    hard = p.argmax(0)
    kept = np.zeros(p.shape, bool)
    for name, k in LABELS.items():
        parts, n = ndimage.label(hard == k)
        sizes: Sequence[int] = np.bincount(parts.ravel(), minlength=n + 1)[1:].tolist()
        for part in sorted(range(n), key=lambda i: -sizes[i])[: PARTS[name]]:
            if sizes[part] * mm**3 >= SMALLEST_MM3:
                kept[k] |= parts == part + 1
    return kept


def _grown(kept: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """One voxel more on each side, so that interpolation finds a border where it is."""
    from scipy import ndimage

    return np.stack([ndimage.binary_dilation(k) if k.any() else k for k in kept])


def _count(mask: NDArray[np.bool_]) -> int:
    from scipy import ndimage

    return int(ndimage.label(mask)[1])
