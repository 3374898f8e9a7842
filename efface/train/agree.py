"""Correction of gross errors in label maps, where models agree against them.

Semi-automatic label maps have errors in lumps: fat of the orbit or of the neck labelled as brain. A
network trained on many heads does not repeat an error that differs from head to head. Where several
predictions agree with each other against a label, far from any voxel that they give that label,
theirs is taken. Near borders the label map stays: there it is as good as a network.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from efface.segment.grid import BLOCK
from efface.segment.labels import LABELS
from efface.train.data import LABEL_VALUES, SCALE, Head

BORDER = 2
"""Voxels no farther than this from a voxel to which any prediction gives the label stay."""

CORRECTED = (LABELS["brain"],)
"""Labels that are corrected. Not nose and mouth: where dental metal leaves a void no network labels
a face, and the label map is right. Not ears: how far they reach is a rule of the label maps' maker,
the same for a head and its mirror image, which may differ from a network's."""

Predict = Callable[[NDArray[np.float32]], NDArray[np.float32]]
"""From a normalised volume (X, Y, Z) to class probabilities (classes, X, Y, Z)."""


def predictions(head: Head, models: Sequence[Predict]) -> list[NDArray[np.uint8]]:
    """Labels (X, Y, Z) of the head, and of the mirrored head, by each model."""
    pad = [(0, -n % BLOCK) for n in head.image.shape]
    v = np.pad(np.float32(head.image) / np.float32(SCALE), pad)
    part = tuple(slice(n) for n in head.image.shape)
    out = []
    for model in models:
        out.append(model(v).argmax(0)[part].astype(np.uint8))
        mirrored = model(np.ascontiguousarray(v[::-1])).argmax(0)[::-1]
        out.append(mirrored[part].astype(np.uint8))
    return out


def corrected(
    labels: NDArray[np.uint8], predicted: Sequence[NDArray[np.uint8]]
) -> tuple[NDArray[np.uint8], NDArray[np.intp]]:
    """Corrected labels (X, Y, Z), and the number of corrected voxels of each label (6,)."""
    out = labels.copy()
    agreed = np.logical_and.reduce([p == predicted[0] for p in predicted])
    counts = np.zeros(LABEL_VALUES, np.intp)
    for label in CORRECTED:
        any_of = np.logical_or.reduce([p == label for p in predicted])
        near = ndimage.binary_dilation(any_of, np.ones((3, 3, 3)), iterations=BORDER)
        lump = (labels == label) & agreed & ~near
        out[lump] = predicted[0][lump]
        counts[label] = np.count_nonzero(lump)
    return out, counts
