"""Class probabilities to labels: the largest connected components of each class."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from efface.segment.labels import LABELS
from efface.segment.masks import box_of

COUNTS = {"brain": 1, "eyes": 2, "nose": 1, "ears": 2, "mouth": 1}
"""How many of each a head has."""
SMALLEST_MM3 = 60.0
"""A component below this volume is noise, not an organ."""


def hardest(p: NDArray[np.float32]) -> NDArray[np.uint8]:
    """Return the most probable class of each voxel, as argmax does, ten times faster."""
    best = p[0].copy()
    hard = np.zeros(best.shape, np.uint8)
    for k in range(1, len(p)):
        wins = p[k] > best
        hard[wins] = k
        np.maximum(best, p[k], out=best)
    return hard


def largest(hard: NDArray[np.integer], mm: float) -> NDArray[np.bool_]:
    """Return the voxels of each class (classes, X, Y, Z) that lie in its largest components.

    ``hard``: class of each voxel (X, Y, Z); ``mm``: edge of a voxel. Of each class as many
    components as a head has (:data:`COUNTS`).
    """
    from scipy import ndimage

    kept = np.zeros((len(LABELS) + 1, *hard.shape), bool)
    boxes = ndimage.find_objects(hard, max_label=len(LABELS))
    for (name, k), box in zip(LABELS.items(), boxes, strict=True):
        if box is None:
            continue
        parts, n = ndimage.label(hard[box] == k)
        sizes: Sequence[int] = np.bincount(parts.ravel(), minlength=n + 1)[1:].tolist()
        likely = [i for i in range(n) if sizes[i] * mm**3 >= SMALLEST_MM3]
        for part in sorted(likely, key=lambda i: -sizes[i])[: COUNTS[name]]:
            kept[k][box] |= parts == part + 1
    return kept


def count(mask: NDArray[np.bool_]) -> int:
    """Return the number of components of a mask."""
    from scipy import ndimage

    box = box_of(mask)
    return 0 if box is None else int(ndimage.label(mask[box])[1])
