"""Training of the network that cuts: on boxes about what the first one, now fixed, finds.

Most boxes come from heads as they are, whole: a label map follows the scanner's axes and the skin's
rim, and both are lost in a head that is turned or cut. The others keep it steady elsewhere.
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
from efface.segment.cascade import Array, seen
from efface.segment.grid import BLOCK
from efface.segment.labels import LABELS
from efface.segment.network import AttentionUNet, Cut
from efface.train.data import LABEL_VALUES, SCALE, Head
from efface.train.loop import Settings, example_of, fit

ENOUGH_MM3 = 800.0
"""Of an organ in a box, from which on its overlap counts: a sliver's is chance."""
IN_TURN = 3
"""Boxes of a head, one a step: the face and both ears. Many small steps learn faster."""
SHIFT_MM = 6.0
"""A box may lie off by as much in each direction."""


def train(
    find: AttentionUNet,
    heads: list[Head],
    settings: Settings,
    checkpoint: Path,
    curve: Path,
    device: str = "cpu",
    validate: Callable[[Cut], dict[str, float]] | None = None,
    report: Callable[[str], None] = print,
    seconds: float = math.inf,
) -> Cut | None:
    """As :func:`efface.train.loop.train`, of the second network; ``find`` is the first, trained."""
    torch.manual_seed(settings.seed)
    net = Cut(settings.cut, LABEL_VALUES, settings.attention)
    find = find.to(device).eval()
    kind = device.partition(":")[0]

    own = replace(
        settings,
        steps=settings.cut_steps,
        learning_rate=settings.cut_learning_rate,
        as_it_is=0.0,
    )

    def found_in(x: Tensor) -> Array:
        with torch.no_grad(), torch.autocast(kind, torch.bfloat16):
            out: Array = find(x.to(device))[0].float().softmax(0).cpu().numpy()
        return out

    known = [_known(head, found_in, settings.mm) for head in heads]

    @lru_cache(maxsize=1)
    def head_of(turn: int) -> list[_Part]:
        chance = np.random.default_rng([settings.seed, turn, 1])
        if chance.random() < settings.cut_as_it_is:
            return known[chance.integers(len(known))]
        x, y = example_of(heads, own, turn, device, mishaps=False)
        image, labels = x[0, 0].cpu().numpy(), y[0].cpu().numpy()
        return _boxes(image, labels, found_in(x), settings.mm)

    def learn(step: int) -> float:
        turn, place = divmod(step, IN_TURN)
        shown = head_of(turn)
        if not shown:
            return 0.0
        chance = np.random.default_rng([settings.seed, step, 2])
        one = _shifted(shown[place % len(shown)], chance, _off(settings.mm))
        inputs = torch.from_numpy(one.seen[None]).to(device)
        truth = torch.from_numpy(one.truth[None]).to(device)
        with torch.autocast(kind, torch.bfloat16):
            logits = net(inputs.contiguous(memory_format=torch.channels_last_3d))
        value = loss(logits.float(), truth, one.organs, enough)
        value.backward()
        return value.item()

    enough = ENOUGH_MM3 / settings.mm**3
    before = settings.steps  # of the curve: the first network's
    return fit(net, learn, own, checkpoint, curve, device, validate, report, seconds, before)


def loss(logits: Tensor, labels: Tensor, organs: tuple[int, ...], enough: float) -> Tensor:
    """Cross-entropy, not weighted, plus soft Dice of the brain and the box's own organs.

    ``enough``: voxels of an organ from which on its overlap counts.

    Weights would draw borders too wide; the organs fill enough of a box to be learned without.
    """
    p = logits.softmax(1)
    lost = []
    for k in (LABELS["brain"], *organs):
        truth = (labels == k).float()
        if truth.sum() >= enough:
            both, size = (p[:, k] * truth).sum(), p[:, k].sum() + truth.sum()
            lost.append(1 - (2 * both + 1) / (size + 1))
    entropy = functional.cross_entropy(logits, labels)
    return entropy + torch.stack(lost).mean() if lost else entropy


@dataclass(frozen=True)
class _Part:
    """What a box holds."""

    organs: tuple[int, ...]
    seen: Array
    """As :func:`efface.segment.cascade.seen` gives it (1 + classes, X, Y, Z)."""
    truth: NDArray[np.int64]
    """Labels (X, Y, Z)."""


def _known(head: Head, found_in: Callable[[Tensor], Array], mm: float) -> list[_Part]:
    """The parts of a head as it is: what is found there need be looked for but once."""
    wide = [(0, -n % BLOCK) for n in head.image.shape]
    image = np.pad(np.float32(head.image) / np.float32(SCALE), wide)
    labels = np.pad(head.labels.astype(np.int64), wide)
    return [
        replace(one, seen=one.seen.astype(np.float16))
        for one in _boxes(image, labels, found_in(torch.from_numpy(image)[None, None]), mm)
    ]


def _boxes(image: Array, labels: NDArray[np.int64], found: Array, mm: float) -> list[_Part]:
    """The parts of a head, with :data:`SHIFT_MM` more on each side than the network sees."""
    out, off = [], _off(mm)
    for box in boxes.boxes(components.largest(components.hardest(found), mm), mm):
        x, y, z = (s - off for s in box.start)
        i, j, k = (n + 2 * off for n in box.shape)
        wide = replace(box, start=(x, y, z), shape=(i, j, k))
        truth = boxes.cut_out(labels.astype(np.float32)[None], wide, np.zeros(1, np.float32))[0]
        out.append(_Part(box.labels, seen(image, found, wide), truth.astype(np.int64)))
    return out


def _off(mm: float) -> int:
    """:data:`SHIFT_MM` in voxels."""
    return round(SHIFT_MM / mm)


def _shifted(part: _Part, chance: np.random.Generator, off: int) -> _Part:
    """A part a little off its place, in a little other light; a face now and then in the mirror.

    ``off``: the most voxels it may be off by.
    """
    first = chance.integers(0, 2 * off + 1, 3).tolist()
    at = tuple(slice(f, f + n - 2 * off) for f, n in zip(first, part.truth.shape, strict=True))
    x, t = part.seen[(slice(None), *at)].astype(np.float32), part.truth[at]
    x[0] = x[0].clip(0, 2) ** math.exp(chance.uniform(-0.2, 0.2))
    x[0] += chance.normal(0, chance.uniform(0, 0.04), x[0].shape)
    if len(part.organs) > 1 and chance.random() < 0.5:  # ears all lie the same way
        x, t = x[:, ::-1], t[::-1]
    return replace(part, seen=np.ascontiguousarray(x), truth=np.ascontiguousarray(t))
