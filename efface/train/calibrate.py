"""Fit of the confidence curves (:mod:`efface.segment.calibration`) to evaluated cases."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import minimize

from efface.segment.labels import LABELS
from efface.train.evaluate import Row

CORRECT = 0.5
"""A label with at least this Dice is correct; two label maps of a head agree to 0.75 or more."""


def curves(rows: Sequence[Row]) -> dict[str, Any]:
    """Content of ``models/calibration.json``: offset, slope and number of cases of each label."""
    fitted = {}
    for name in LABELS:
        certainty, correct = _pairs(rows, name)
        offset, slope = fit(certainty, correct)
        fitted[name] = {
            "offset": round(offset, 3),
            "slope": round(slope, 3),
            "found": len(correct),
            "right": int(correct.sum()),
        }
    return {"curves": fitted, "cases": len(rows)}


def fit(certainty: NDArray[np.float64], correct: NDArray[np.bool_]) -> tuple[float, float]:
    """Offset and slope by maximum likelihood, with a weak penalty towards the identity.

    The targets are Platt's, not exactly 1 and 0, so that no curve becomes a step.
    """
    if not len(certainty):
        return 0.0, 1.0
    p = np.clip(certainty, 1e-3, 1 - 1e-3)
    x = np.log(p / (1 - p))
    good, bad = int(correct.sum()), int((~correct).sum())
    target = np.where(correct, (good + 1) / (good + 2), 1 / (bad + 2))

    def cost(at: NDArray[np.float64]) -> float:
        z = at[0] + at[1] * x
        loss = np.logaddexp(0, z) - target * z
        return float(loss.sum() + 0.05 * (at[0] ** 2 + (at[1] - 1) ** 2))

    offset, slope = minimize(cost, np.array([0.0, 1.0]), bounds=[(-20, 20), (0.1, 10)]).x
    return float(offset), float(slope)


def _pairs(rows: Sequence[Row], name: str) -> tuple[NDArray[np.float64], NDArray[np.bool_]]:
    """Certainty of a label in each case in which it occurs, and whether it was correct."""
    pairs = [
        (r.certainty[name], r.is_head and r.dice[name] >= CORRECT)
        for r in rows
        # an image without a face may still have a brain: a stripped or a defaced head
        if r.certainty.get(name) and (r.is_head or name != "brain")
    ]
    certainty, correct = zip(*pairs, strict=True) if pairs else ((), ())
    return np.array(certainty, np.float64), np.array(correct, bool)
