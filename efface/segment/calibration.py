"""Calibrated confidence: probability that a label with a given certainty is correct.

The certainty of a label is the network's mean probability over its voxels. It is higher than the
share of correct labels. ``models/calibration.json`` holds for each label a logistic curve (Platt
1999) from certainty to the share of validation heads and transformations with a correct label; it
is fitted by :mod:`efface.train.calibrate`.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from efface.errors import EffaceError
from efface.segment.labels import LABELS

FILE = "calibration.json"


@dataclass(frozen=True)
class Curve:
    """Logistic curve from certainty to confidence."""

    offset: float = 0.0
    slope: float = 1.0
    """Coefficients of the certainty's log odds; the defaults keep the certainty as it is."""

    def confidence(self, certainty: float) -> float:
        """Probability from 0 to 1."""
        p = min(max(certainty, 1e-3), 1 - 1e-3)
        z = self.offset + self.slope * np.log(p / (1 - p))
        return float(1 / (1 + np.exp(-np.clip(z, -50, 50))))


def load(folder: Path) -> dict[str, Curve]:
    """Read the curves of the model in ``folder``, by label; empty if it was not calibrated.

    Raises :class:`EffaceError` if the file is malformed.
    """
    path = folder / FILE
    if not path.exists():
        return {}
    try:
        raw = json.loads(path.read_text())["curves"]
        return {n: Curve(float(raw[n]["offset"]), float(raw[n]["slope"])) for n in LABELS}
    except (OSError, ValueError, KeyError, TypeError) as e:
        raise EffaceError(f"{path}: not the calibration of a face model ({e})") from e


def confidence(certainty: Mapping[str, float], curves: Mapping[str, Curve]) -> dict[str, float]:
    """Confidence of each label, from 0 to 1; 0 for a label without voxels."""
    return {
        name: round(curves.get(name, Curve()).confidence(value), 4) if value else 0.0
        for name, value in certainty.items()
    }
