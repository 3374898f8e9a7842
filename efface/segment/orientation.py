"""Heads that lie otherwise than their header tells.

A wrong patient position at the console turns the head by right angles in the header's world: prone,
on a side, feet first. The network finds a face there too, but knows left from right and the rim of
an ear less well. How the organs found lie to one another tells of the turn, and the image is looked
at again with it undone. Only what the network sees is turned: no affine of a file is changed.

A turn is written as where the head's right, anterior and superior point in the header's world:
``RAS`` as it should be, ``LPS`` for prone taken as supine.
"""

from __future__ import annotations

from itertools import permutations, product
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from efface.segment.labels import LABELS
from efface.segment.organs import LANDMARKS, voxel_sizes

if TYPE_CHECKING:
    import nibabel as nib

AS_IT_IS = "RAS"
_LETTERS = ("LR", "PA", "IS")
_STEP = 4.0
"""Voxels are looked at about this far apart, in mm."""
_ENOUGH = 5
"""Of these voxels each organ must have so many to be believed over the header."""
_CLEARLY = 0.95
"""With a turn the organs must lie nearer to their places than without: this share as far."""
_MIDDLE = {
    name: np.mean([p for (n, _), p in LANDMARKS.items() if n == name], axis=0) for name in LABELS
}
"""Where each organ, or the middle of a pair, lies in a head, in mm."""


def matrix(turn: str) -> NDArray[np.float64]:
    """Rotation (3, 3) of the world that undoes a turn.

    >>> matrix("LPS").tolist()
    [[-1.0, 0.0, 0.0], [0.0, -1.0, 0.0], [0.0, 0.0, 1.0]]
    """
    out = np.zeros((3, 3))
    for row, letter in enumerate(turn):
        axis = next(i for i, pair in enumerate(_LETTERS) if letter in pair)
        out[row, axis] = 1.0 if letter == _LETTERS[axis][1] else -1.0
    return out


TURNS = tuple(
    code
    for order in permutations(_LETTERS)
    for code in map("".join, product(*order))
    if np.linalg.det(matrix(code)) > 0
)
"""All 24 of them."""


LYING = ("LPS", "PRS", "ALS")
"""Those of one who lies prone, or on a side."""


def inverse(turn: str) -> str:
    """The turn that undoes another."""
    return next(other for other in TURNS if np.array_equal(matrix(other), matrix(turn).T))


def found(labels: NDArray[np.uint8], affine: NDArray[np.floating]) -> str:
    """The turn by right angles that lays the organs best on a head; as it is, where none is better.

    All that was found has its say, so that a mouth seen on a forehead does not turn a head upside
    down. Where neither mouth nor ears are in view the rest lies in a line, and what is up the
    header is believed: prone or on a side it is right in that. ``labels``: 3D, values of
    :data:`LABELS`; ``affine``: voxel to world, as the header tells.
    """
    spacing = voxel_sizes(affine)
    step = np.maximum(1, np.rint(_STEP / spacing)).astype(int)
    thin = labels[:: step[0], :: step[1], :: step[2]]
    to_world = np.asarray(affine, np.float64)[:3, :3] * step
    index = {name: np.argwhere(thin == k) for name, k in LABELS.items()}
    at = {name: to_world @ i.mean(axis=0) for name, i in index.items() if len(i) >= _ENOUGH}
    if not {"brain", "eyes"} <= set(at) or len(at) < 3:
        return AS_IT_IS
    seen = _centred(list(at.values()))
    head = _centred([_MIDDLE[name] for name in at])
    turns = TURNS
    if not {"mouth", "ears"} & set(at):
        turns = tuple(t for t in TURNS if t.endswith("S"))
        seen[:, 2] = head[:, 2]
    # the sum of distances, not of their squares: one organ seen in a wrong place must not decide
    off = {t: float(np.linalg.norm(seen @ matrix(t).T - head, axis=1).sum()) for t in turns}
    best = min(off, key=lambda turn: off[turn])
    return best if off[best] < _CLEARLY * off[AS_IT_IS] else AS_IT_IS


def _centred(points: list[NDArray[np.float64]]) -> NDArray[np.float64]:
    out = np.array(points)
    return np.asarray(out - out.mean(axis=0), np.float64)


def affine(of: NDArray[np.floating], turn: str) -> NDArray[np.float64]:
    """An affine (4, 4) with the turn undone."""
    out = np.array(of, np.float64)
    if turn != AS_IT_IS:
        out[:3] = matrix(turn) @ out[:3]
    return out


def image(img: nib.Nifti1Image, turn: str) -> nib.Nifti1Image:
    """The same voxels with the turn undone."""
    if turn == AS_IT_IS:
        return img
    return type(img)(img.dataobj, affine(img.affine, turn), img.header)
