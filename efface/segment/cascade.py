"""Coarse to find, fine to cut: two networks that act as one.

The first sees the whole head. Boxes about the organs it found go through the second, which knows
what the first one saw there and corrects it. Where nothing was found nothing is cut.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from efface.segment import boxes, components

Array = NDArray[np.float32]
Network = Callable[[Array], Array]
"""From a normalised volume (X, Y, Z) on the grid to class probabilities (classes, X, Y, Z); the
second network takes what :func:`seen` gives."""

TRUST = 0.25
"""What the logarithm of a probability of the first network counts in the second one: anchored to
all of it, the second one learns to correct the first several times slower."""
LEAST = 1e-3
"""The second network takes no probability for lower: what the first one rules out can still be."""


@dataclass(frozen=True)
class Cascade:
    """The two networks as one, on a grid of ``mm``; without ``cut`` the first one does all."""

    find: Network
    cut: Network | None
    mm: float

    def __call__(self, v: Array) -> Array:
        """Class probabilities (classes, X, Y, Z) of a normalised volume (X, Y, Z)."""
        out = self.find(v)
        if self.cut is None:
            return out
        found = out
        for box in boxes.boxes(components.largest(components.hardest(found), self.mm), self.mm):
            out = found.copy() if out is found else out
            boxes.put_back(out, self.cut(seen(v, found, box)), box)
        return out


def seen(v: Array, found: Array, box: boxes.Box) -> Array:
    """What the second network sees of a box: intensity and probabilities (1 + classes, ...).

    ``v``: normalised volume (X, Y, Z); ``found``: what the first network made of it.
    """
    nothing = np.zeros(1 + len(found), np.float32)
    nothing[1] = 1.0  # beyond the grid there is background, surely
    image = boxes.cut_out(v[None], box, nothing[:1])
    return np.concatenate([image, boxes.cut_out(found, box, nothing[1:])])
