"""From class probabilities to the parts of a head: the largest components of each label."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from efface.segment.labels import LABELS
from efface.segment.near import box_of

PARTS = {"brain": 1, "eyes": 2, "nose": 1, "ears": 2, "mouth": 1}
"""How many of each a head has."""
SMALLEST_MM3 = 60.0
"""A component below this volume is noise, not an organ."""


def hardest(p: NDArray[np.float32]) -> NDArray[np.uint8]:
    """The most probable class of each voxel: as argmax, and ten times faster."""
    best = p[0].copy()
    hard = np.zeros(best.shape, np.uint8)
    for k in range(1, len(p)):
        wins = p[k] > best
        hard[wins] = k
        np.maximum(best, p[k], out=best)
    return hard


def components(hard: NDArray[np.integer], mm: float) -> NDArray[np.bool_]:
    """Per class, the voxels that win and lie in one of the largest components."""
    from scipy import ndimage

    kept = np.zeros((len(LABELS) + 1, *hard.shape), bool)
    boxes = ndimage.find_objects(hard, max_label=len(LABELS))
    for (name, k), box in zip(LABELS.items(), boxes, strict=True):
        if box is None:
            continue
        parts, n = ndimage.label(hard[box] == k)
        sizes: Sequence[int] = np.bincount(parts.ravel(), minlength=n + 1)[1:].tolist()
        for part in sorted(range(n), key=lambda i: -sizes[i])[: PARTS[name]]:
            if sizes[part] * mm**3 >= SMALLEST_MM3:
                kept[k][box] |= parts == part + 1
    return kept


def count(mask: NDArray[np.bool_]) -> int:
    """How many components a mask has."""
    from scipy import ndimage

    box = box_of(mask)
    return 0 if box is None else int(ndimage.label(mask[box])[1])
