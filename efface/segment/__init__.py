"""Segment: head to brain, eyes, nose, ears and mouth.

Two networks on a coarse grid (:mod:`efface.segment.cascade`, :mod:`efface.segment.grid`), the
largest components kept, and labels brought back to the image's own grid.
"""

from __future__ import annotations

import importlib.util
import json
import shutil
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray
from safetensors import SafetensorError

from efface import nifti, resources
from efface.errors import EffaceError
from efface.manifest import Manifest, Scan
from efface.segment import calibration, masks, orientation, parts, pose, positions, volumes, wrap
from efface.segment import grid as grids
from efface.segment.cascade import Array, Cascade, Network
from efface.segment.labels import FEATURES, LABELS
from efface.segment.organs import voxel_sizes
from efface.segment.parts import PARTS
from efface.segment.pose import Head
from efface.status import STAGE_FAILED

if TYPE_CHECKING:
    import nibabel as nib
    from torch import nn

WEIGHTS, PLAN = "face.safetensors", "face.json"
"""Files of the face model."""
AROUND_MM = 16.0
"""How far beside the face :meth:`Segmenter.again` looks."""
MAYBE = 0.1
"""From this probability on a voxel that is labelled nothing may be brain after all."""
SETTLED_CONFIDENCE, SETTLED_ORGANS = 0.5, 2
"""A head of which so many organs were found so surely, and in their places, is one."""


@dataclass(frozen=True)
class Segmentation:
    """What the network saw in one image."""

    labels: NDArray[np.uint8]
    """On the image's own grid, shape (X, Y, Z); values of ``LABELS``."""
    certainty: dict[str, float]
    """Mean probability, 0 to 1, over the voxels of each label found; 0 where none was."""
    confidence: dict[str, float]
    """The same, calibrated: how often a label found with this certainty is right."""
    volume_ml: dict[str, float]
    parts: dict[str, int]
    """How many components of each label were found."""
    turn: str = orientation.AS_IT_IS
    """How the head lies in the header's world (:mod:`efface.segment.orientation`)."""
    head: Head | None = None
    """How it lies by what was found, with the turn undone."""
    maybe_brain: NDArray[np.bool_] | None = None
    """On the voxels that :func:`efface.segment.masks.thinned` chooses: whether the network gives
    brain at least the probability :data:`MAYBE`."""
    negative: bool = False
    """Whether the image was looked at in the negative: its air is brighter than the head."""
    roll: wrap.Roll = wrap.AS_IT_IS
    """How the image was rolled to undo a phase wrap (:mod:`efface.segment.wrap`); ``head`` and
    ``maybe_brain`` are of the rolled image, ``labels`` of the image as it is."""
    volumes: tuple[int, ...] = ()
    """Indices of the volumes of a 4D image that all of this holds for; empty for all of them."""
    moved: tuple[Segmentation, ...] = ()
    """What was found in the volumes in which the head lies elsewhere, one for each position."""

    @property
    def misfit(self) -> float:
        """How badly what was found makes up a head (:class:`efface.segment.anatomy.Pose`)."""
        return self.head.laid.pose.misfit if self.head and self.head.laid else np.inf

    @property
    def evidence(self) -> float:
        """Sum over the parts of a head of how surely each was found, 7 for a whole one; less the
        misfit: what a network sees in a head laid wrong is much, but no head.
        """
        found = sum(min(n, PARTS[o]) * self.certainty[o] for o, n in self.parts.items())
        return found - self.misfit

    @property
    def settled(self) -> bool:
        """Whether what was found is a head beyond doubt."""
        sure = [o for o in FEATURES if self.parts[o] and self.confidence[o] >= SETTLED_CONFIDENCE]
        return len(sure) >= SETTLED_ORGANS and self.misfit <= pose.MISFIT


@dataclass(frozen=True)
class Plan:
    """How the network was trained, kept beside its weights (models/face.json)."""

    mm: float
    widths: tuple[int, ...]
    attention: bool
    cut: tuple[int, ...] = ()
    """Widths of the network that cuts; none where the first one does all."""


class Segmenter:
    """The face model, loaded once for many images."""

    def __init__(
        self, network: Cascade, plan: Plan, curves: dict[str, calibration.Curve] | None = None
    ) -> None:
        self.network = network
        self.plan = plan
        self.curves = curves or {}

    @staticmethod
    def load(
        models: Path | None = None, device: str = "auto", threads: int | None = None
    ) -> Segmenter:
        """Load ``face.safetensors`` and its plan from a folder (default: the shipped model).

        ``device`` is ``cpu``, ``cuda`` or ``auto``: the GPU where there is one and torch to use
        it; ``threads`` is for the CPU, as many as the runtime chooses where it is None. Raises
        :class:`EffaceError` if the model is missing or the device is not there.
        """
        from safetensors.numpy import load_file

        folder = models or resources.models()
        try:
            raw = json.loads((folder / PLAN).read_text())["plan"]
            plan = Plan(
                float(raw["mm"]),
                tuple(raw["widths"]),
                bool(raw["attention"]),
                tuple(raw["cut"]),
            )
            stored = load_file(folder / WEIGHTS)
            weights = {name: np.asarray(v, np.float32) for name, v in stored.items()}
        except (OSError, ValueError, KeyError, SafetensorError) as e:
            raise EffaceError(f"{folder}: no face model there ({WEIGHTS} and {PLAN}): {e}") from e
        curves = calibration.load(folder)
        if device == "cuda" or (device == "auto" and _gpu_likely()):
            network = _on_gpu(weights, plan)
            if network is not None:
                return Segmenter(network, plan, curves)
            if device == "cuda":
                raise EffaceError(
                    "device cuda was asked for, but torch sees no GPU: use device cpu"
                )
        from efface.segment import runtime

        return Segmenter(runtime.compiled(weights, plan, threads), plan, curves)

    def segment(self, img: nib.Nifti1Image) -> Segmentation:
        """Label a 3D image, or the mean over time of a 4D one.

        Where the head moved between volumes, the mean of each group of volumes in which it lies
        in one place is labelled alone (:mod:`efface.segment.positions`).
        """
        if img.ndim == 3:
            return self._labelled(img)
        groups = volumes.alike(nifti.stored(img), img.affine)
        if len(groups) == 1:
            return self._labelled(img)
        return positions.found(img, groups, self._labelled)

    def _labelled(self, img: nib.Nifti1Image) -> Segmentation:
        """Label a 3D image, or the mean over time of a 4D one.

        Where the edges of the image are brighter than the rest it looks at the negative too, and
        believes what shows more of a head.

        Where the organs found lie turned against the header, or make up no head beyond doubt, it
        looks again with that turn undone, and at each of the turns of one who lies prone or on a
        side. The header is believed unless another look shows more of a head, and the organs found
        in it say so too.

        A phase-wrapped image is segmented as it is and rolled (:func:`efface.segment.wrap.better`).
        The rolled result is kept if it shows a head with no fewer organs, or more of a head: of a
        head in two pieces all organs may be found, but not all of the brain.
        """
        voxels = grids.volume(nifti.stored(img), *nifti.scaling(img))
        best = self._best(voxels, img.affine)
        roll = wrap.better(-voxels if best.negative else voxels, voxel_sizes(img.affine))
        if roll == wrap.AS_IT_IS:
            return best
        other = self._best(wrap.rolled(voxels, roll), wrap.affine(img.affine, roll))
        if other.evidence < best.evidence and not positions.shows(other, best):
            return best
        return replace(other, labels=wrap.rolled(other.labels, wrap.back(roll)), roll=roll)

    def _best(self, voxels: Array, header: NDArray[np.float64]) -> Segmentation:
        """The best of the segmentations of voxels (X, Y, Z), in the negative and turned."""
        best = self._seen(voxels, header, orientation.AS_IT_IS)
        if grids.bright_about(voxels):
            other = self._seen(-voxels, header, orientation.AS_IT_IS)
            if other.evidence > best.evidence:
                return replace(self._turned(-voxels, header, other), negative=True)
        return self._turned(voxels, header, best)

    def _turned(
        self, voxels: Array, header: NDArray[np.float64], best: Segmentation
    ) -> Segmentation:
        """The best of what is seen with turns undone, and of what was seen as it is."""
        likely = orientation.found(best.labels, header)
        if likely == orientation.AS_IT_IS and best.settled:
            return best
        for turn in dict.fromkeys((likely, *orientation.LYING)):
            if turn == orientation.AS_IT_IS:
                continue
            other = self._seen(voxels, header, turn)
            if other.evidence > best.evidence and orientation.found(other.labels, header) == turn:
                best = other
                if best.settled:
                    break
        return best

    def _seen(self, voxels: Array, header: NDArray[np.float64], turn: str) -> Segmentation:
        """What one look shows of voxels (X, Y, Z), of which the header's affine says where."""
        affine = orientation.affine(header, turn)
        p, kept, grid = self._on_grid(voxels, affine, self.network)
        shape = (voxels.shape[0], voxels.shape[1], voxels.shape[2])
        labels = grids.labels_to(p, kept, grid, shape, affine)
        masks.clear_of_organs(labels, np.linalg.norm(affine[:3, :3], axis=0))
        thin, coarse = masks.thinned(affine)
        few = labels[thin].shape
        brain = grids.values_at(p[LABELS["brain"]], grid, (few[0], few[1], few[2]), coarse)
        ml = abs(np.linalg.det(affine[:3, :3])) / 1000
        counts = {k: int(np.count_nonzero(labels == k)) for k in LABELS.values()}
        certainty = {
            n: round(float(p[k][kept[k]].mean()), 4) if kept[k].any() else 0.0
            for n, k in LABELS.items()
        }
        return Segmentation(
            labels=labels,
            certainty=certainty,
            confidence=calibration.confidence(certainty, self.curves),
            volume_ml={n: round(float(counts[k] * ml), 3) for n, k in LABELS.items()},
            parts={n: parts.count(kept[k]) for n, k in LABELS.items()},
            turn=turn,
            head=pose.head(labels, affine),
            maybe_brain=brain >= MAYBE,
        )

    def again(
        self, img: nib.Nifti1Image, labels: NDArray[np.uint8], negative: bool = False
    ) -> NDArray[np.uint8]:
        """What of a face is found in a distorted image, looking where ``labels`` say it was.

        In the ``negative``, if that is how the face was found.

        On the voxels that :func:`efface.segment.masks.thinned` chooses: labels in the box of the
        organs and ``AROUND_MM`` about it, 0 elsewhere and for the brain; the whole image is looked
        at where ``labels`` (on its grid) hold no organ. Only the network that finds looks: whether
        there is an organ counts here, not where it ends.
        """
        thin, affine = masks.thinned(img.affine)
        box = masks.box_of(labels >= LABELS["eyes"])
        if box is None:
            return self.segment(img).labels[thin]
        part = masks.wider(box, AROUND_MM, np.linalg.norm(img.affine[:3, :3], axis=0))
        voxels = grids.volume(nifti.stored(img)[part], *nifti.scaling(img))
        voxels = -voxels if negative else voxels
        p, kept, grid = self._on_grid(voxels, _from(img.affine, part), self.network.find)
        kept[LABELS["brain"]] = False  # not asked for, and the costliest to bring back
        shape = labels[thin].shape
        return grids.labels_to(p, kept, grid, (shape[0], shape[1], shape[2]), affine)

    def _on_grid(
        self,
        voxels: Array,
        affine: NDArray[np.float64],
        network: Network,
    ) -> tuple[NDArray[np.float32], NDArray[np.bool_], grids.Grid]:
        """Class probabilities on the network's grid, what of them is kept, and the grid."""
        grid = grids.around(voxels.shape, affine, self.plan.mm, grids.BLOCK)
        on_grid, inside = grids.resample(voxels, affine, grid)
        on_grid = grids.normalise(on_grid, inside)
        box = grids.without_air(on_grid, grid)
        grid, inside = grids.part(grid, box), inside[box]
        seen, own = grids.with_room(on_grid[box], self.plan.mm)
        p = np.ascontiguousarray(network(seen)[(slice(None), *own)])
        hard = parts.hardest(p)
        hard[~inside] = 0
        return p, parts.components(hard, self.plan.mm), grid


def _from(affine: NDArray[np.float64], box: masks.Box) -> NDArray[np.float64]:
    """The affine of a box of an image."""
    out = affine.copy()
    out[:3, 3] += affine[:3, :3] @ [s.start for s in box]
    return out


def of_torch(network: nn.Module, device: str) -> Network:
    """A network of torch as a function to class probabilities (classes, X, Y, Z).

    It takes a volume (X, Y, Z), or one with channels (C, X, Y, Z) for the network that cuts.
    """
    import torch

    network = network.to(device).eval()

    def probabilities(v: Array) -> Array:
        with torch.inference_mode():
            x = torch.from_numpy(v if v.ndim == 4 else v[None])[None].to(device)
            p: Array = network(x)[0].float().softmax(0).cpu().numpy()
        return p

    return probabilities


def _gpu_likely() -> bool:
    """Whether asking torch is worth the seconds of its import."""
    return bool(shutil.which("nvidia-smi")) and importlib.util.find_spec("torch") is not None


def _on_gpu(weights: dict[str, Array], plan: Plan) -> Cascade | None:
    """The networks on the GPU; None where there is no torch, or torch sees none."""
    try:
        import torch
    except ImportError:
        return None
    if not torch.cuda.is_available():
        return None
    from efface.segment import runtime
    from efface.segment.network import AttentionUNet, Cut

    def ready(network: nn.Module, stored: dict[str, Array]) -> Network:
        network.load_state_dict({k: torch.from_numpy(v) for k, v in stored.items()})
        return of_torch(network, "cuda")

    first, second = runtime.both(weights)
    classes = len(LABELS) + 1
    find = ready(AttentionUNet(plan.widths, classes, plan.attention), first)
    cut = ready(Cut(plan.cut, classes, plan.attention), second) if plan.cut else None
    return Cascade(find, cut, plan.mm)


def run(convert: tuple[Path, Manifest], folder: Path, segmenter: Segmenter) -> tuple[Scan, ...]:
    """Label every NIfTI of a session.

    Writes ``{scan}_labels.nii.gz``, and ``{scan}_maybe_brain.nii.gz`` for the gate; the same for
    each further position of the head in a 4D image (:func:`efface.segment.positions.write`).

    Scans in one frame of reference get the best one's labels as well
    (:mod:`efface.segment.propagate`). A scan that cannot be labelled fails with its reason; the
    others go on.
    """
    from efface.segment import propagate

    source, manifest = convert
    seen = tuple(_one(scan, source, folder, segmenter) for scan in manifest.scans)
    return propagate.session(manifest.scans, source, seen, folder)


def _one(scan: Scan, source: Path, folder: Path, segmenter: Segmenter) -> Scan:
    if scan.status == "fail" or "nifti" not in scan.files:
        return replace(scan, files={}, measures={})
    try:
        img = nifti.load(source / scan.files["nifti"])
        seen = segmenter.segment(img)
    except EffaceError as e:
        # without the path that the message starts with: the audit prints the reason
        why = str(e).removeprefix(f"{source / scan.files['nifti']}: ")
        return replace(scan, files={}, measures={}).mark("fail", f"{STAGE_FAILED}: {why}")
    files, measures = positions.write(seen, img, folder, scan.scan)
    return replace(scan, files=files, measures=measures)
