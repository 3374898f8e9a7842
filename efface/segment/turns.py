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
from efface.segment.organs import voxel_sizes

if TYPE_CHECKING:
    import nibabel as nib

AS_IT_IS = "RAS"
_LETTERS = ("LR", "PA", "IS")
_STEP = 4.0
"""Voxels are looked at about this far apart, in mm."""
_ENOUGH = 5
"""Of these voxels each organ must have so many to be believed over the header."""


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


def inverse(turn: str) -> str:
    """The turn that undoes another."""
    return next(other for other in TURNS if np.array_equal(matrix(other), matrix(turn).T))


def found(labels: NDArray[np.uint8], affine: NDArray[np.floating]) -> str:
    """The turn by right angles that the organs tell of; as it is, where they do not.

    From the mouth to the eyes is up, from the brain to the face is forwards. Where a slab ends
    above the mouth, the nose says what is forwards, and what is up the header is believed: prone or
    on a side it is right in that. ``labels``: 3D, values of :data:`LABELS`; ``affine``: to world,
    as the header tells.
    """
    spacing = voxel_sizes(affine)
    step = np.maximum(1, np.rint(_STEP / spacing)).astype(int)
    thin = labels[:: step[0], :: step[1], :: step[2]]
    to_world = np.asarray(affine, np.float64)[:3, :3] * step
    at = {}
    for name, k in LABELS.items():
        index = np.argwhere(thin == k)
        if len(index) >= _ENOUGH:
            at[name] = to_world @ index.mean(axis=0)
    if not {"brain", "eyes"} <= set(at) or not {"mouth", "nose"} & set(at):
        return AS_IT_IS
    lower = at["mouth"] if "mouth" in at else at["nose"]
    top = at["eyes"] - lower if "mouth" in at else np.array([0.0, 0.0, 1.0])
    top /= np.linalg.norm(top)
    front = (at["eyes"] + lower) / 2 - at["brain"]
    front -= (front @ top) * top
    front /= np.linalg.norm(front) + 1e-9
    head = np.stack([np.cross(front, top), front, top])  # rows: the head's axes in the world
    return max(TURNS, key=lambda turn: float((matrix(turn) * head).sum()))


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
