"""Training of the refining network, on boxes about the organs of the trained coarse network.

Most boxes come from whole, unchanged heads: label maps follow the scanner's axes and the skin, and
interpolation or a cut field of view loses both. Changed heads keep the network stable elsewhere.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional

from efface.segment import boxes, components
from efface.segment.cascade import Array, box_input
from efface.segment.grid import BLOCK
from efface.segment.labels import LABELS
from efface.segment.network import Coarse, Refine
from efface.train.data import LABEL_VALUES, SCALE, Head
from efface.train.loop import Settings, example_of, fit

DICE_MIN_MM3 = 800.0
"""Volume of an organ in a box from which on its Dice is part of the loss; below it is chance."""
BOXES_PER_HEAD = 3
"""Boxes of a head, one in each step: the face and both ears. Many small steps learn faster."""
SHIFT_MM = 6.0
"""Largest random shift of a box along each axis."""


def train(
    coarse: Coarse,
    heads: list[Head],
    settings: Settings,
    checkpoint: Path,
    curve: Path,
    device: str = "cpu",
    validate: Callable[[Refine], dict[str, float]] | None = None,
    report: Callable[[str], None] = print,
    seconds: float = math.inf,
) -> Refine | None:
    """Train the refining network as :func:`efface.train.loop.train` does the coarse one.

    ``coarse``: the trained coarse network; it is not changed.
    """
    torch.manual_seed(settings.seed)
    net = Refine(settings.refine_widths, LABEL_VALUES, settings.attention)
    coarse = coarse.to(device).eval()
    kind = device.partition(":")[0]

    own = replace(
        settings,
        steps=settings.refine_steps,
        learning_rate=settings.refine_learning_rate,
        unchanged=0.0,
    )

    def probabilities(x: Tensor) -> Array:
        with torch.no_grad(), torch.autocast(kind, torch.bfloat16):
            out: Array = coarse(x.to(device))[0].float().softmax(0).cpu().numpy()
        return out

    unchanged = [_of_head(head, probabilities, settings.mm) for head in heads]

    @lru_cache(maxsize=1)
    def samples_of(turn: int) -> list[_Sample]:
        chance = np.random.default_rng([settings.seed, turn, 1])
        if chance.random() < settings.refine_unchanged:
            return unchanged[chance.integers(len(unchanged))]
        x, y = example_of(heads, own, turn, device, removals=False)
        image, labels = x[0, 0].cpu().numpy(), y[0].cpu().numpy()
        return _samples(image, labels, probabilities(x), settings.mm)

    def learn(step: int) -> float:
        turn, place = divmod(step, BOXES_PER_HEAD)
        samples = samples_of(turn)
        if not samples:
            return 0.0
        chance = np.random.default_rng([settings.seed, step, 2])
        one = _augmented(samples[place % len(samples)], chance, _margin(settings.mm))
        inputs = torch.from_numpy(one.inputs[None]).to(device)
        truth = torch.from_numpy(one.truth[None]).to(device)
        with torch.autocast(kind, torch.bfloat16):
            logits = net(inputs.contiguous(memory_format=torch.channels_last_3d))
        value = loss(logits.float(), truth, one.organs, dice_min)
        value.backward()
        return value.item()

    dice_min = DICE_MIN_MM3 / settings.mm**3
    before = settings.steps  # of the curve: those of the coarse network
    return fit(net, learn, own, checkpoint, curve, device, validate, report, seconds, before)


def loss(logits: Tensor, labels: Tensor, organs: tuple[int, ...], dice_min: float) -> Tensor:
    """Cross-entropy without weights, plus soft Dice of the brain and the organs of the box.

    ``dice_min``: voxels of an organ from which on its Dice is included. The organs fill enough of a
    box to be learned without weights; weights would make them too large.
    """
    p = logits.softmax(1)
    dice = []
    for k in (LABELS["brain"], *organs):
        truth = (labels == k).float()
        if truth.sum() >= dice_min:
            both, size = (p[:, k] * truth).sum(), p[:, k].sum() + truth.sum()
            dice.append(1 - (2 * both + 1) / (size + 1))
    entropy = functional.cross_entropy(logits, labels)
    return entropy + torch.stack(dice).mean() if dice else entropy


@dataclass(frozen=True)
class _Sample:
    """A box with its truth."""

    organs: tuple[int, ...]
    inputs: Array
    """From :func:`efface.segment.cascade.box_input` (1 + classes, X, Y, Z)."""
    truth: NDArray[np.int64]
    """Labels (X, Y, Z)."""


def _of_head(head: Head, probabilities: Callable[[Tensor], Array], mm: float) -> list[_Sample]:
    """Samples of an unchanged head, computed once and kept."""
    pad = [(0, -n % BLOCK) for n in head.image.shape]
    image = np.pad(np.float32(head.image) / np.float32(SCALE), pad)
    labels = np.pad(head.labels.astype(np.int64), pad)
    return [
        replace(one, inputs=one.inputs.astype(np.float16))
        for one in _samples(image, labels, probabilities(torch.from_numpy(image)[None, None]), mm)
    ]


def _samples(image: Array, labels: NDArray[np.int64], p: Array, mm: float) -> list[_Sample]:
    """Samples of an image, each larger by :data:`SHIFT_MM` on every side than the network's input.

    ``p``: probabilities of the coarse network (classes, X, Y, Z).
    """
    out, margin = [], _margin(mm)
    for box in boxes.boxes(components.largest(components.hardest(p), mm), mm):
        x, y, z = (s - margin for s in box.start)
        i, j, k = (n + 2 * margin for n in box.shape)
        wide = replace(box, start=(x, y, z), shape=(i, j, k))
        truth = boxes.crop(labels.astype(np.float32)[None], wide, np.zeros(1, np.float32))[0]
        out.append(_Sample(box.labels, box_input(image, p, wide), truth.astype(np.int64)))
    return out


def _margin(mm: float) -> int:
    """:data:`SHIFT_MM` in voxels."""
    return round(SHIFT_MM / mm)


def _augmented(sample: _Sample, chance: np.random.Generator, margin: int) -> _Sample:
    """A sample shifted by up to ``margin`` voxels, with other intensities; faces also mirrored."""
    first = chance.integers(0, 2 * margin + 1, 3).tolist()
    at = tuple(slice(f, f + n - 2 * margin) for f, n in zip(first, sample.truth.shape, strict=True))
    x, t = sample.inputs[(slice(None), *at)].astype(np.float32), sample.truth[at]
    x[0] = x[0].clip(0, 2) ** math.exp(chance.uniform(-0.2, 0.2))
    x[0] += chance.normal(0, chance.uniform(0, 0.04), x[0].shape)
    if len(sample.organs) > 1 and chance.random() < 0.5:  # all ears are left ones
        x, t = x[:, ::-1], t[::-1]
    return replace(sample, inputs=np.ascontiguousarray(x), truth=np.ascontiguousarray(t))
