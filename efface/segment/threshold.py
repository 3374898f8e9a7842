"""Otsu's threshold between two classes of intensities."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray


def otsu(values: NDArray[np.floating[Any]], top: float, bins: int) -> tuple[float, float]:
    """Lower and upper edge of the histogram bin that ends the dark class.

    Values above the percentile ``top`` are clipped to it. Both edges are equal if no value lies
    below it. N. Otsu, IEEE Trans. Syst. Man Cybern. 9:62 (1979).
    """
    low, high = (float(v) for v in np.percentile(values, (0, top)))
    if high <= low:
        return low, low
    counts, edges = np.histogram(np.clip(values, low, high), bins=bins, range=(low, high))
    below = np.cumsum(counts)
    moment = np.cumsum(counts * (edges[:-1] + edges[1:]) / 2)
    total, mean = below[-1], moment[-1]
    with np.errstate(divide="ignore", invalid="ignore"):
        between = (mean * below - moment * total) ** 2 / (below * (total - below).astype(float))
    last = int(np.nanargmax(between[:-1]))
    return float(edges[last]), float(edges[last + 1])
