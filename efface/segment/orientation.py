"""The orientation of the head in the header's world, by right angles.

A wrong patient position at the console rotates the head by right angles in the header's world:
prone, on a side, feet first. The network labels such a head too, but confuses left and right, and
loses the rim of an ear. :func:`estimate` compares the centres of the labels with the mean head. The
image is then labelled again with the orientation undone. No affine of a file is changed.

An orientation is written as the directions of the header's world in which the head's right,
anterior and superior point: ``RAS`` is the header's own, ``LPS`` is prone stored as supine.
"""

from __future__ import annotations

from itertools import permutations, product

import numpy as np
from numpy.typing import NDArray

from efface.segment import anatomy
from efface.segment.geometry import voxel_sizes
from efface.segment.labels import LABELS

Floats = NDArray[np.float64]

STANDARD = "RAS"
"""The head lies as the header says."""
_LETTERS = ("LR", "PA", "IS")
_STEP = 4.0
"""Voxels are sampled about this far apart, in mm."""
_ENOUGH = 5
"""Fewest sampled voxels of a label for its centre to count."""
_CLEARLY = 0.95
"""Another orientation must bring the centres nearer to their places: to this share of the sum of
distances."""


def matrix(orientation: str) -> Floats:
    """Return the rotation (3, 3) of the world that undoes an orientation.

    >>> matrix("LPS").tolist()
    [[-1.0, 0.0, 0.0], [0.0, -1.0, 0.0], [0.0, 0.0, 1.0]]
    """
    out = np.zeros((3, 3))
    for row, letter in enumerate(orientation):
        axis = next(i for i, pair in enumerate(_LETTERS) if letter in pair)
        out[row, axis] = 1.0 if letter == _LETTERS[axis][1] else -1.0
    return out


ORIENTATIONS = tuple(
    code
    for order in permutations(_LETTERS)
    for code in map("".join, product(*order))
    if np.linalg.det(matrix(code)) > 0
)
"""All 24 of them."""

LYING = ("LPS", "PRS", "ALS")
"""Those of a person who lies prone, or on a side."""


def inverse(orientation: str) -> str:
    """Return the orientation that undoes another."""
    undone = matrix(orientation).T
    return next(other for other in ORIENTATIONS if np.array_equal(matrix(other), undone))


def estimate(labels: NDArray[np.uint8], affine: NDArray[np.floating]) -> str:
    """Return the orientation in which the centres of the labels fit the mean head best.

    All labels count, so that a mouth labelled on a forehead does not turn a head upside down. If
    neither mouth nor ears are labelled, the rest lies on a line: the header's superior is then
    kept, which is right for a head that lies prone or on a side. Returns :data:`STANDARD` where no
    other orientation is clearly better. ``labels``: 3D, values of :data:`LABELS`; ``affine``
    (4, 4): voxel to world, by the header.
    """
    spacing = voxel_sizes(affine)
    step = np.maximum(1, np.rint(_STEP / spacing)).astype(int)
    thin = labels[:: step[0], :: step[1], :: step[2]]
    to_world = np.asarray(affine, np.float64)[:3, :3] * step
    index = {name: np.argwhere(thin == k) for name, k in LABELS.items()}
    at = {name: to_world @ i.mean(axis=0) for name, i in index.items() if len(i) >= _ENOUGH}
    if not {"brain", "eyes"} <= set(at) or len(at) < 3:
        return STANDARD
    centres = _centred(list(at.values()))
    expected = _centred([_mean_centre(name) for name in at])
    orientations = ORIENTATIONS
    if not {"mouth", "ears"} & set(at):
        orientations = tuple(o for o in ORIENTATIONS if o.endswith("S"))
        centres[:, 2] = expected[:, 2]
    # the sum of distances, not of their squares: one misplaced label must not decide
    off = {
        o: float(np.linalg.norm(centres @ matrix(o).T - expected, axis=1).sum())
        for o in orientations
    }
    best = min(off, key=off.__getitem__)
    return best if off[best] < _CLEARLY * off[STANDARD] else STANDARD


def _mean_centre(label: str) -> Floats:
    """Mean centre (3,) of a label in the frame of the head; of a pair the middle."""
    parts = anatomy.load().parts
    of = [parts[name].mean for name in anatomy.names_of(label)]
    return np.asarray(np.mean(of, axis=0) if of else np.zeros(3), np.float64)


def _centred(points: list[Floats]) -> Floats:
    out = np.array(points)
    return np.asarray(out - out.mean(axis=0), np.float64)


def undo(affine: NDArray[np.floating], orientation: str) -> Floats:
    """Return an affine (4, 4) with the orientation undone."""
    out = np.array(affine, np.float64)
    if orientation != STANDARD:
        out[:3] = matrix(orientation) @ out[:3]
    return out
