"""Labels put right where models agree against them.

Semi-automatic labels err in lumps: fat of the orbit, or of the neck, that is called brain. A
network trained on many heads does not repeat an error that differs from head to
head. Where several predictions agree with each other, and not with the label, far from where they
see that label at all, theirs is taken. Near a border the label stays: there the eye of its maker is
as good as a network's.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from efface.segment.grid import BLOCK
from efface.segment.labels import LABELS
from efface.train.data import LABEL_VALUES, SCALE, Head

FAR = 2
"""Voxels from the nearest one that any prediction gives the label: nearer is a border."""

LUMPY = (LABELS["brain"],)
"""Labels whose makers err in lumps. Not nose and mouth: where dental metal leaves a hole, no
network sees a face, and the label is right all the same. Not ears: how far a labeller lets an ear
reach is its rule, the same for a head and its mirror image, however odd a network finds it."""

Predict = Callable[[NDArray[np.float32]], NDArray[np.float32]]
"""From a normalised volume (X, Y, Z) to class probabilities (classes, X, Y, Z)."""


def predictions(head: Head, models: Sequence[Predict]) -> list[NDArray[np.uint8]]:
    """Labels (X, Y, Z) by each model, and by each of the head in the mirror."""
    wide = [-n % BLOCK for n in head.image.shape]
    v = np.pad(np.float32(head.image) / np.float32(SCALE), [(0, n) for n in wide])
    here = tuple(slice(n) for n in head.image.shape)
    seen = []
    for model in models:
        seen.append(model(v).argmax(0)[here].astype(np.uint8))
        mirrored = model(np.ascontiguousarray(v[::-1])).argmax(0)[::-1]
        seen.append(mirrored[here].astype(np.uint8))
    return seen


def corrected(
    labels: NDArray[np.uint8], seen: Sequence[NDArray[np.uint8]]
) -> tuple[NDArray[np.uint8], NDArray[np.intp]]:
    """Labels with the lumps put right, and how many voxels of each label were: (X, Y, Z), (6,)."""
    out = labels.copy()
    agreed = np.logical_and.reduce([s == seen[0] for s in seen])
    wrong = np.zeros(LABEL_VALUES, np.intp)
    for label in LUMPY:
        own = np.logical_or.reduce([s == label for s in seen])
        near = ndimage.binary_dilation(own, np.ones((3, 3, 3)), iterations=FAR)
        lump = (labels == label) & agreed & ~near
        out[lump] = seen[0][lump]
        wrong[label] = np.count_nonzero(lump)
    return out, wrong
