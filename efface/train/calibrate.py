"""The curve from the network's certainty to how often it is right, from evaluated cases."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import minimize

from efface.segment.labels import LABELS
from efface.train.evaluate import Row

RIGHT = 0.5
"""A label with at least this Dice is in its place; labels themselves agree to 0.75 and more."""


def curves(rows: Sequence[Row]) -> dict[str, Any]:
    """What ``models/calibration.json`` holds: offset and slope by label, and what they rest on."""
    fitted = {}
    for name in LABELS:
        sure, right = _pairs(rows, name)
        offset, slope = fit(sure, right)
        fitted[name] = {
            "offset": round(offset, 3),
            "slope": round(slope, 3),
            "found": len(right),
            "right": int(right.sum()),
        }
    return {"curves": fitted, "cases": len(rows)}


def fit(sure: NDArray[np.float64], right: NDArray[np.bool_]) -> tuple[float, float]:
    """Offset and slope by maximum likelihood, with a weak pull towards no correction.

    The targets are Platt's (one and zero kept at a distance), so that no curve becomes a step.
    """
    if not len(sure):
        return 0.0, 1.0
    p = np.clip(sure, 1e-3, 1 - 1e-3)
    x = np.log(p / (1 - p))
    good, bad = int(right.sum()), int((~right).sum())
    target = np.where(right, (good + 1) / (good + 2), 1 / (bad + 2))

    def cost(at: NDArray[np.float64]) -> float:
        z = at[0] + at[1] * x
        loss = np.logaddexp(0, z) - target * z
        return float(loss.sum() + 0.05 * (at[0] ** 2 + (at[1] - 1) ** 2))

    found = minimize(cost, np.array([0.0, 1.0]), bounds=[(-20, 20), (0.1, 10)])
    return float(found.x[0]), float(found.x[1])


def _pairs(rows: Sequence[Row], name: str) -> tuple[NDArray[np.float64], NDArray[np.bool_]]:
    """Certainty of every label found, and whether it was right."""
    pairs = [
        (r.certainty[name], r.is_head and r.dice[name] >= RIGHT)
        for r in rows
        # what is no head may hold a brain for all that: a stripped one, a defaced one
        if r.certainty.get(name) and (r.is_head or name != "brain")
    ]
    sure, right = zip(*pairs, strict=True) if pairs else ((), ())
    return np.array(sure, np.float64), np.array(right, bool)
