"""The coarse and the refining network as one network.

The coarse network labels the whole grid. The refining network then labels boxes about the organs
again, given the image and the probabilities of the coarse network. Without organs there are no
boxes.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from efface.segment import boxes, components

Array = NDArray[np.float32]
Network = Callable[[Array], Array]
"""From a normalised volume (X, Y, Z) on the grid to class probabilities (classes, X, Y, Z). The
refining network takes the output of :func:`box_input` instead."""

PRIOR_WEIGHT = 0.25
"""Factor of the logarithm of the coarse network's probabilities in the logits of the refining
network. With a factor of 1 the corrections are learned several times slower."""
PRIOR_MIN = 1e-3
"""Lower bound of these probabilities, so that the refining network can correct a probability of
zero."""


@dataclass(frozen=True)
class Cascade:
    """Both networks on a grid of ``mm``; ``refine`` is None if the coarse network is used alone."""

    coarse: Network
    refine: Network | None
    mm: float

    def __call__(self, v: Array) -> Array:
        """Class probabilities (classes, X, Y, Z) of a normalised volume (X, Y, Z)."""
        coarse = self.coarse(v)
        if self.refine is None:
            return coarse
        organs = components.largest(components.hardest(coarse), self.mm)
        out = coarse.copy()
        for box in boxes.boxes(organs, self.mm):
            boxes.paste(out, self.refine(box_input(v, coarse, box)), box)
        return out


def box_input(v: Array, coarse: Array, box: boxes.Box) -> Array:
    """Input of the refining network: intensity and probabilities in a box (1 + classes, ...).

    ``v``: normalised volume (X, Y, Z); ``coarse``: its class probabilities (classes, X, Y, Z).
    """
    outside = np.zeros(1 + len(coarse), np.float32)
    outside[1] = 1.0  # background, with certainty
    image = boxes.crop(v[None], box, outside[:1])
    return np.concatenate([image, boxes.crop(coarse, box, outside[1:])])
