"""Where the face is: from the organs' labels to the voxels that are replaced.

The region is a smooth hull of the organs that reaches into the air in front of the face and beside
the ears, so that its outline does not follow the skin. It is the intersection of a few dozen half
spaces (a discrete oriented polytope): all that it tells of a face is how far the organs extend in
these directions. The directions are the head's, by its pose, since headers can be wrong; they are
the header's where the pose is not known.

Lengths are millimetres. Inside, a point is index times voxel size ("voxel millimetres").
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from math import ceil

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from efface.distort.organs import Organ, find_organs
from efface.errors import EffaceError
from efface.segment.geometry import voxel_sizes, world_to_voxel_axes
from efface.segment.labels import FEATURES, LABELS
from efface.segment.masks import BRAIN_MARGIN, ball, box_of, set_around, wider, within
from efface.segment.pose import Pose

Bool = NDArray[np.bool_]
Float = NDArray[np.float64]
Box = tuple[slice, slice, slice]


GRID = 2.5
"""Step of the coarse grid on which the hull is evaluated, in mm."""

SMOOTH = 1.5
"""Temperature of the smooth maximum that rounds the hull's edges, in mm."""


@dataclass(frozen=True)
class Margins:
    """How far a hull reaches beyond its organs, in mm."""

    side: float
    """Across the direction in which the hull opens."""
    back: float
    """Into the head."""
    brain: float
    """Voxels of the hull without an organ label stay this far from the brain: its border is known
    to about 2 mm, and bone lies there, not skin."""
    air: float = 25.0
    """Out of the head, beyond the outermost organ voxel."""


FACE_MARGINS = Margins(side=16.0, back=3.0, brain=4.0)
ORGAN_MARGINS = {
    "eyes": Margins(side=6.0, back=3.0, brain=4.0),
    "nose": Margins(side=6.0, back=3.0, brain=4.0),
    "ears": Margins(side=12.0, back=9.0, brain=3.0),
    "mouth": Margins(side=9.0, back=3.0, brain=4.0),
}


def parse_features(features: str | Iterable[str]) -> tuple[str, ...]:
    """Return ``("face",)`` or the named organs, in the order of ``FEATURES``.

    >>> parse_features("mouth,eyes")
    ('eyes', 'mouth')

    Raises :class:`EffaceError` for an unknown name, or for none.
    """
    names = features.split(",") if isinstance(features, str) else list(features)
    asked = {name.strip() for name in names if name.strip()}
    unknown = sorted(asked - {"face", *FEATURES})
    if unknown or not asked:
        what = f"unknown feature {unknown[0]!r}" if unknown else "no feature given"
        raise EffaceError(f"{what}; choose from face, {', '.join(FEATURES)}")
    return ("face",) if "face" in asked else tuple(f for f in FEATURES if f in asked)


def region(
    labels: NDArray[np.uint8],
    affine: NDArray[np.floating],
    pose: Pose | None,
    features: str | Iterable[str] = "face",
) -> Bool:
    """Return the voxels to replace: hulls of the chosen organs, less the brain and 2 mm about it.

    ``labels``: 3D, values as in :data:`efface.segment.labels.LABELS`; ``affine`` (4, 4): voxel to
    world, mm; ``pose``: of the head in ``labels``. Returns a 3D mask, Fortran order, all False
    where none of the organs is labelled. It holds every voxel of the organs but those in the brain
    and its margin.

    Raises :class:`EffaceError` for unknown features, labels that are not 3D, or an unusable affine.
    """
    chosen = parse_features(features)
    spacing = voxel_sizes(affine)
    if labels.ndim != 3:
        raise EffaceError(f"labels: expected a 3D volume, got shape {labels.shape}")
    mask = np.zeros(labels.shape, dtype=bool, order="F")
    organs = find_organs(labels, spacing)
    if not organs:
        return mask
    axes = _head_axes(affine, pose)
    for group, outward, margins in _hulls(organs, chosen, axes):
        points = np.concatenate([o.points for o in group])
        _add_hull(mask, labels, spacing, points, outward, axes, margins)
    for organ in (o for o in organs if chosen == ("face",) or o.name in chosen):
        mask[tuple(np.rint(organ.points / spacing).astype(np.intp).T)] = True
        set_around(mask, organ.stray, ball(GRID, spacing))
    spare_brain(mask, labels, spacing)
    return mask


def _head_axes(affine: NDArray[np.floating], pose: Pose | None) -> Float:
    """The head's right, anterior and superior in voxel millimetres: rows of a matrix (3, 3)."""
    to_voxel = world_to_voxel_axes(affine)
    known = pose is not None and pose.consistent
    head = pose.rotation if pose is not None and known else np.eye(3)
    # rounded, so that the last bits of one machine's arithmetic decide nothing
    axes: Float = np.round(head.T @ to_voxel.T, 6)
    return axes


def coverage(labels: NDArray[np.uint8], mask: Bool) -> dict[str, float]:
    """Return the share of each labelled organ's voxels in the mask, by name."""
    shares = {}
    for name in FEATURES:
        organ = labels == LABELS[name]
        if organ.any():
            shares[name] = float(np.count_nonzero(organ & mask) / np.count_nonzero(organ))
    return shares


def _hulls(
    organs: list[Organ], chosen: tuple[str, ...], axes: Float
) -> Iterable[tuple[list[Organ], Float, Margins]]:
    """Yield the organs of each hull, the direction in which it opens, and its margins."""
    right, anterior = axes[0], axes[1]
    middle = [o for o in organs if o.name != "ears"]
    if chosen == ("face",) and middle:
        yield middle, anterior, FACE_MARGINS
    for organ in organs:
        if organ.name == "ears" and chosen[0] in ("face", *FEATURES):
            if chosen != ("face",) and "ears" not in chosen:
                continue
            # an ear opens away from the rest of the head
            others = [o.centre for o in organs if o is not organ]
            middle_of_head = np.mean(others, axis=0) if others else organ.centre
            outward = right if (organ.centre - middle_of_head) @ right >= 0 else -right
            yield [organ], outward, ORGAN_MARGINS["ears"]
        elif organ.name in chosen:
            yield [organ], anterior, ORGAN_MARGINS[organ.name]


def _directions(outward: Float, axes: Float) -> Float:
    """Unit normals (n, 3) of a hull that is open towards ``outward``."""
    across = [a for a in axes if abs(a @ outward) < 0.5]
    normals = []
    for tilt, count in ((0, 16), (30, 16), (60, 8), (90, 1)):
        for turn in 2 * np.pi * np.arange(count) / count:
            ring = np.cos(turn) * across[0] + np.sin(turn) * across[1]
            back = np.deg2rad(tilt)
            normals.append(np.cos(back) * ring - np.sin(back) * outward)
    return np.array(normals)


def _add_hull(
    mask: Bool,
    labels: NDArray[np.uint8],
    spacing: Float,
    points: Float,
    outward: Float,
    axes: Float,
    margins: Margins,
) -> None:
    """Set the voxels of the smooth hull of ``points``, opened towards ``outward``.

    Not those within ``margins.brain`` of the brain.
    """
    normals = _directions(outward, axes)
    depth = -(normals @ outward)
    half_voxel = np.abs(normals) @ spacing / 2
    reach = (points @ normals.T).max(axis=0) + half_voxel
    reach += margins.side * np.sqrt(np.clip(1 - depth**2, 0, None)) + margins.back * depth
    front = float((points @ outward).max()) + margins.air
    normals = np.vstack([normals, outward])
    # to a tenth of a millimetre: enough for a face, and stable to the last bits of a dot product
    reach = np.round(np.append(reach, front), 1)
    pad = max(margins.side, margins.back) + float(spacing.max())
    ends = np.stack([points.min(axis=0), points.max(axis=0)])
    ends = np.concatenate([ends - pad, ends + pad, ends + margins.air * outward])
    first = np.clip(np.floor(ends.min(axis=0) / spacing), 0, None).astype(int)
    last = np.minimum(np.ceil(ends.max(axis=0) / spacing).astype(int), np.array(mask.shape) - 1)
    fine = [np.arange(a, b + 1) * s for a, b, s in zip(first, last, spacing, strict=True)]
    if not all(len(f) for f in fine):
        return
    coarse = [np.linspace(f[0], f[-1], 1 + ceil(round((f[-1] - f[0]) / GRID, 6))) for f in fine]
    # axes in the order z, y, x: the mask is in Fortran order, so that its transpose lies in rows
    x, y, z = coarse
    distance = np.full((len(z), len(y), len(x)), -np.inf)
    for (along_x, along_y, along_z), r in zip(normals, reach, strict=True):
        plane = (along_x * x - r) + (along_y * y)[:, None] + (along_z * z)[:, None, None]
        np.maximum(distance, plane, out=distance)
    # the smooth maximum adds at most this much: further inside it changes nothing that counts
    near = (distance > -SMOOTH * np.log(len(normals))) & (distance < GRID * 2)
    at = np.nonzero(near)
    beyond = normals @ np.stack([x[at[2]], y[at[1]], z[at[0]]]) - reach[:, None]
    top = distance[near]
    distance[near] += SMOOTH * np.log(np.exp((beyond - top) / SMOOTH).sum(axis=0))
    np.maximum(distance, margins.brain - _from_brain(labels, spacing, coarse), out=distance)
    at_x, at_y, at_z = (_interpolation(f, c) for f, c in zip(fine, coarse, strict=True))
    distance = at_y @ (distance @ at_x.T)
    distance = (at_z @ distance.reshape(len(z), -1)).reshape(-1, len(at_y), len(at_x))
    box = tuple(slice(a, b + 1) for a, b in zip(first, last, strict=True))
    mask[box].T[...] |= distance <= 0


def _from_brain(labels: NDArray[np.uint8], spacing: Float, at: list[Float]) -> Float:
    """Distance in mm to the brain from the points of a grid, shape (z, y, x).

    ``at``: ticks of the grid along x, y, z. Exact to half a step.
    """
    ticks = [np.rint(t / s).astype(np.intp) for t, s in zip(at, spacing, strict=True)]
    brain = (labels[np.ix_(*ticks)] == LABELS["brain"]).T
    if not brain.any():
        return np.full(brain.shape, np.inf)
    steps = [float(t[1] - t[0]) if len(t) > 1 else 1.0 for t in at[::-1]]
    distance: Float = ndimage.distance_transform_edt(~brain, sampling=steps)
    return distance


def _interpolation(fine: Float, coarse: Float) -> Float:
    """Matrix (fine, coarse) of linear interpolation."""
    if len(coarse) == 1:
        return np.ones((len(fine), 1))
    step = coarse[1] - coarse[0]
    at = np.clip((fine - coarse[0]) / step, 0, len(coarse) - 1)
    below = np.minimum(at.astype(int), len(coarse) - 2)
    part = at - below
    weights = np.zeros((len(fine), len(coarse)))
    rows = np.arange(len(fine))
    weights[rows, below] = 1 - part
    weights[rows, below + 1] = part
    return weights


def spare_brain(mask: Bool, labels: NDArray[np.uint8], spacing: Float) -> None:
    """Clear the mask in the brain and :data:`BRAIN_MARGIN` around it, exactly."""
    box = box_of(mask)
    if box is None:
        return
    # the brain that is near the mask need not lie in its box
    wide = wider(box, BRAIN_MARGIN, spacing)
    brain, part = labels[wide] == LABELS["brain"], mask[wide]
    part &= ~brain
    part &= ~within(part, brain, BRAIN_MARGIN, spacing)
