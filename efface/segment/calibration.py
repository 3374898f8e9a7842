"""Confidence that means something: how often an organ found with this certainty was right.

A network is surer of itself than it should be. ``models/calibration.json`` holds for each label the
two numbers of a logistic curve (Platt 1999) from the mean probability over the label's voxels to
the share of validation heads and transformations where the label was right; made by
:mod:`efface.train.calibrate`.
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
    """The curves beside a model; none where it was never calibrated.

    Raises :class:`EffaceError` if the file cannot be understood.
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
    """Probability, 0 to 1, that each label is right; 0 where it was not found at all."""
    out = {}
    for name, sure in certainty.items():
        offset, slope = curves.get(name, (0.0, 1.0))
        out[name] = round(odds(sure, offset, slope), 4) if sure else 0.0
    return out


def odds(sure: float, offset: float, slope: float) -> float:
    """The logistic curve at a mean probability."""
    sure = min(max(sure, 1e-3), 1 - 1e-3)
    z = offset + slope * np.log(sure / (1 - sure))
    return float(1 / (1 + np.exp(-np.clip(z, -50, 50))))
