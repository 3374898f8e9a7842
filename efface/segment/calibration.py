"""Calibrated confidence: the probability that a label is correct.

The mean probability that the networks give to the voxels of a label is higher than the share of
labels that are correct. ``models/calibration.json`` holds, for each label, the two parameters of a
logistic curve (Platt 1999) from the first to the second, fitted on the validation heads and their
transformations by :mod:`efface.train.calibrate`.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path

import numpy as np

from efface.errors import EffaceError
from efface.segment.labels import LABELS

FILE = "calibration.json"

Curve = tuple[float, float]
"""Offset and slope on the log odds of the mean probability."""


def load(folder: Path) -> dict[str, Curve]:
    """The curves of the model in a folder, by label; empty if it was not calibrated.

    Raises :class:`EffaceError` if the file is damaged.
    """
    path = folder / FILE
    if not path.exists():
        return {}
    try:
        raw = json.loads(path.read_text())["curves"]
        return {name: (float(raw[name]["offset"]), float(raw[name]["slope"])) for name in LABELS}
    except (OSError, ValueError, KeyError, TypeError) as e:
        raise EffaceError(f"{path}: not the calibration of a face model ({e})") from e


def confidence(certainty: Mapping[str, float], curves: Mapping[str, Curve]) -> dict[str, float]:
    """Probability, 0 to 1, that each label is correct; 0 for a label that does not occur.

    ``certainty``: mean probability over the voxels of each label. Without a curve for a label its
    certainty is returned.
    """
    out = {}
    for name, p in certainty.items():
        offset, slope = curves.get(name, (0.0, 1.0))
        out[name] = round(odds(p, offset, slope), 4) if p else 0.0
    return out


def odds(p: float, offset: float, slope: float) -> float:
    """Value of the logistic curve at a mean probability."""
    p = min(max(p, 1e-3), 1 - 1e-3)
    z = offset + slope * np.log(p / (1 - p))
    return float(1 / (1 + np.exp(-np.clip(z, -50, 50))))
