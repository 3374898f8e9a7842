"""Training of the coarse network, and the training loop of both networks.

A training can be stopped at any step and continues from its checkpoint, with the same result.
"""

from __future__ import annotations

import copy
import csv
import math
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from efface.segment.network import Coarse
from efface.train.augment import example
from efface.train.data import LABEL_VALUES, Head

Net = TypeVar("Net", bound=nn.Module)


@dataclass(frozen=True)
class Settings:
    """models/training.yaml, field by field."""

    mm: float
    shape: tuple[int, int, int]
    coarse_widths: tuple[int, ...]
    attention: bool
    steps: int
    learning_rate: float
    warmup: int
    decay: float
    average: float
    organ_weight: float
    phantoms: int
    unchanged: float
    refine_widths: tuple[int, ...]
    refine_steps: int
    refine_learning_rate: float
    refine_unchanged: float
    seed: int
    checkpoint_every: int
    validate_every: int

    @staticmethod
    def of(raw: dict[str, Any]) -> Settings:
        """From parsed YAML."""
        lists = {name: tuple(raw[name]) for name in ("shape", "coarse_widths", "refine_widths")}
        return Settings(**{**raw, **lists})


def loss(logits: Tensor, labels: Tensor, organ_weight: float) -> Tensor:
    """Weighted cross-entropy plus soft Dice over the classes that occur.

    ``logits``: (N, classes, X, Y, Z); ``labels``: (N, X, Y, Z). The organs are 1 % of the voxels:
    without weights only the brain is learned for many steps.
    """
    weight = torch.full((LABEL_VALUES,), organ_weight, device=logits.device)
    weight[:2] = 1.0
    entropy = functional.cross_entropy(logits, labels, weight)
    p = logits.softmax(1)
    truth = functional.one_hot(labels, LABEL_VALUES).movedim(-1, 1).float()
    axes = (0, 2, 3, 4)
    both, size = (p * truth).sum(axes), p.sum(axes) + truth.sum(axes)
    present = truth.sum(axes) > 0
    dice = 1 - (2 * both + 1) / (size + 1)
    return entropy + dice[1:][present[1:]].sum() / (LABEL_VALUES - 1)


def train(
    heads: list[Head],
    settings: Settings,
    checkpoint: Path,
    curve: Path,
    device: str = "cpu",
    validate: Callable[[Coarse], dict[str, float]] | None = None,
    report: Callable[[str], None] = print,
    seconds: float = math.inf,
) -> Coarse | None:
    """Train the coarse network from the checkpoint, if there is one, to the last step.

    Returns the averaged network, or None if ``seconds`` passed before the last step; the next call
    then continues from the checkpoint. ``validate`` gives figures of a network for the ``curve``.
    """
    torch.manual_seed(settings.seed)
    net = Coarse(settings.coarse_widths, LABEL_VALUES, settings.attention)

    def learn(step: int) -> float:
        x, y = example_of(heads, settings, step, device)
        with torch.autocast(device.partition(":")[0], torch.bfloat16):
            logits = net(x)
        value = loss(logits.float(), y, settings.organ_weight)
        value.backward()
        return value.item()

    return fit(net, learn, settings, checkpoint, curve, device, validate, report, seconds)


def fit(
    net: Net,
    learn: Callable[[int], float],
    settings: Settings,
    checkpoint: Path,
    curve: Path,
    device: str,
    validate: Callable[[Net], dict[str, float]] | None,
    report: Callable[[str], None],
    seconds: float,
    before: int = 0,
) -> Net | None:
    """Train ``net`` in place; return its average, or None, as :func:`train` does.

    ``learn`` adds the gradients of a step to ``net`` and returns the loss. ``before``: number of
    the curve's steps that belong to another network.
    """
    mean = copy.deepcopy(net).to(device)
    net.to(memory_format=torch.channels_last_3d).to(device)  # type: ignore[call-overload]
    optimizer = torch.optim.AdamW(
        net.parameters(), settings.learning_rate, weight_decay=settings.decay
    )
    start = 0
    if checkpoint.exists():
        state = torch.load(checkpoint, map_location=device, weights_only=True)
        net.load_state_dict(state["net"])
        mean.load_state_dict(state["mean"])
        optimizer.load_state_dict(state["optimizer"])
        start = int(state["step"])
        report(f"resumed at step {start}")
    started, losses = time.monotonic(), []
    for step in range(start, settings.steps):
        rate = _rate(step, settings)
        for group in optimizer.param_groups:
            group["lr"] = rate
        optimizer.zero_grad()
        losses.append(learn(step))
        torch.nn.utils.clip_grad_norm_(net.parameters(), 1.0)
        optimizer.step()
        keep = min(settings.average, (1 + step) / (10 + step))
        with torch.no_grad():
            for a, b in zip(mean.parameters(), net.parameters(), strict=True):
                a.lerp_(b, 1 - keep)
        done = step + 1
        out_of_time = time.monotonic() - started > seconds
        last = done == settings.steps
        if done % settings.checkpoint_every == 0 or last or out_of_time:
            _save(checkpoint, net, mean, optimizer, done)
            row = {"step": before + done, "loss": round(float(np.mean(losses)), 4), "rate": rate}
            losses = []
            if validate and (done % settings.validate_every == 0 or last):
                row |= validate(mean)
            _append(curve, row)
            report(f"step {done}/{settings.steps} " + str(row))
        if out_of_time and not last:
            return None
    return mean


def example_of(
    heads: list[Head], settings: Settings, step: int, device: str, removals: bool = True
) -> tuple[Tensor, Tensor]:
    """The augmented head of a step; the order of the heads is shuffled anew in each epoch.

    It depends on the step alone, so that a continued training gets the same heads.
    """
    epoch, place = divmod(step, len(heads))
    order = np.random.default_rng([settings.seed, epoch]).permutation(len(heads))
    seed = settings.seed * 10**9 + step
    shape, mm = settings.shape, settings.mm
    return example(heads[order[place]], shape, seed, device, mm, settings.unchanged, removals)


def _rate(step: int, s: Settings) -> float:
    """Learning rate: linear warm-up, then half a cosine down to a hundredth."""
    if step < s.warmup:
        return s.learning_rate * (step + 1) / s.warmup
    done = (step - s.warmup) / max(1, s.steps - s.warmup)
    return s.learning_rate * (0.01 + 0.99 * 0.5 * (1 + math.cos(math.pi * done)))


def _save(
    path: Path,
    net: nn.Module,
    mean: nn.Module,
    optimizer: torch.optim.Optimizer,
    step: int,
) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_suffix(".part")
    torch.save(
        {
            "net": net.state_dict(),
            "mean": mean.state_dict(),
            "optimizer": optimizer.state_dict(),
            "step": step,
        },
        temporary,
    )
    temporary.replace(path)


def _append(curve: Path, row: dict[str, Any]) -> None:
    """Add a row to the curve, without rows of later steps from a run that was interrupted."""
    rows: list[dict[str, Any]] = []
    if curve.exists():
        with curve.open(newline="") as f:
            rows = [r for r in csv.DictReader(f) if int(r["step"]) < row["step"]]
    rows.append(row)
    names = list(dict.fromkeys(k for r in rows for k in r))
    curve.parent.mkdir(parents=True, exist_ok=True)
    with curve.open("w", newline="") as f:
        writer = csv.DictWriter(f, names, restval="")
        writer.writeheader()
        writer.writerows(rows)
