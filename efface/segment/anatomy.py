"""The mean head: where eyes, nose, ears and mouth lie about the brain, and how much this varies.

``models/anatomy.json`` holds means and spreads over many heads in the frame of the head: origin at
the centre of the brain, x to the right, y anterior, z superior, in mm. It is measured by
:mod:`efface.train.anatomy`.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from efface import resources
from efface.errors import EffaceError

Floats = NDArray[np.float64]

LANDMARKS: dict[str, str] = {
    "left eye": "eyes",
    "right eye": "eyes",
    "nose": "nose",
    "left ear": "ears",
    "right ear": "ears",
    "mouth": "mouth",
}
"""The six landmarks of a face, and the label of each."""

FILE = "anatomy.json"
"""In the folder of the models that ship with efface."""
BRAIN_STEP = 12.0
"""Distance between the points of the mean brain, mm."""


def names_of(label: str) -> tuple[str, ...]:
    """Return the landmarks of a label.

    >>> names_of("eyes")
    ('left eye', 'right eye')
    """
    return tuple(name for name, of in LANDMARKS.items() if of == label)


@dataclass(frozen=True)
class Part:
    """A landmark in the frame of the head."""

    mean: Floats
    """Centre (3,), mm."""
    cov: Floats
    """Covariance (3, 3) of the centre over heads, mm²."""
    half: Floats
    """Half extents (3,) about the centre, mm."""
    volume: float
    """Mean volume in mm³."""


@dataclass(frozen=True)
class Anatomy:
    """Means and spreads over heads."""

    parts: dict[str, Part]
    """By the names of :data:`LANDMARKS`."""
    brain: Floats
    """Points (n, 3) of the mean brain on a grid of :data:`BRAIN_STEP`, mm."""
    brain_ml: float


@cache
def load(path: Path | None = None) -> Anatomy:
    """Read the anatomy (default: that of the models that ship with efface).

    Raises :class:`EffaceError` if the file is not usable.
    """
    path = path or resources.models() / FILE
    try:
        raw = json.loads(path.read_text())
        parts = {
            name: Part(
                np.array(raw["parts"][name]["mean"], float),
                np.array(raw["parts"][name]["cov"], float),
                np.array(raw["parts"][name]["half"], float),
                float(raw["parts"][name]["volume"]),
            )
            for name in LANDMARKS
        }
        return Anatomy(parts, np.array(raw["brain"]["points"], float), float(raw["brain"]["ml"]))
    except (OSError, ValueError, KeyError) as e:
        raise EffaceError(f"{path}: not a readable anatomy file ({e}); install efface again") from e
