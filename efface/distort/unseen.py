"""What the edge of the field of view cuts, and nobody found, goes where it may be.

Of an ear that a slab shows the upper third of, or a mouth at its lowest slices, too little may be
left to be found. The brain and the organs that were found say where it lies, give or take so much;
all of that is replaced. Of a part that should be whole in view nothing is guessed: that it was not
found is for a person to look at.
"""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
from numpy.typing import NDArray

from efface.distort.region import Bool, parse_features
from efface.segment import anatomy as anatomies
from efface.segment import pose as poses
from efface.segment import turns
from efface.segment.anatomy import PARTS, Anatomy
from efface.segment.labels import LABELS
from efface.segment.near import BRAIN_MARGIN, wider, within
from efface.segment.organs import find_organs, voxel_sizes

CUT = 0.9
"""Below this share of it in view, as far as that is known, a part is cut."""
KNOWN = 2
"""Of so many other parts at least the place must be known."""


def add_unseen(
    mask: Bool,
    labels: NDArray[np.uint8],
    affine: NDArray[np.floating],
    features: str | Iterable[str] = "face",
    anatomy: Anatomy | None = None,
) -> tuple[str, ...]:
    """Add to ``mask``, in place, where cut parts may be that were not found; their names.

    ``mask``: the region (X, Y, Z); ``labels``: uint8, on its grid; ``affine`` (4, 4): voxel to
    world in mm. Neither the brain nor what lies within 2 mm of it is added. Raises
    :class:`EffaceError` for unknown features.
    """
    chosen = parse_features(features)
    spacing = voxel_sizes(affine)
    organs = find_organs(labels, spacing)
    if not organs or len({(o.name, o.side) for o in organs}) == len(PARTS):
        return ()
    anatomy = anatomies.load() if anatomy is None else anatomy
    straight = turns.affine(affine, turns.found(labels, affine))
    seen = poses.scene(labels, straight)
    if len(seen.brain) < 8:
        return ()
    laid = poses.lay(seen, anatomy)
    found = [n for n in PARTS if laid.found(anatomy, seen.view, n)]
    if laid.pose.misfit > poses.MISFIT or len(found) < KNOWN:
        return ()
    added = []
    for name, label in PARTS.items():
        if name in found or (chosen != ("face",) and label not in chosen):
            continue
        if anatomies.outside(anatomy, laid.pose, seen.view, name):
            continue
        if anatomies.inside(anatomy, laid.pose, seen.view, name) < CUT:
            _add(mask, labels, straight, anatomy, laid.pose, name)
            added.append(name)
    return tuple(added)


def _add(
    mask: Bool,
    labels: NDArray[np.uint8],
    affine: NDArray[np.float64],
    anatomy: Anatomy,
    pose: anatomies.Pose,
    name: str,
) -> None:
    spacing = voxel_sizes(affine)
    low, high = anatomies.reach(anatomy, pose, name)
    back = np.linalg.inv(affine)
    ends = np.array(np.meshgrid(*zip(low, high, strict=True))).reshape(3, -1).T
    index = ends @ back[:3, :3].T + back[:3, 3]
    first = np.clip(np.floor(index.min(axis=0)).astype(int), 0, mask.shape)
    last = np.clip(np.ceil(index.max(axis=0)).astype(int) + 1, 0, mask.shape)
    x, y, z = (slice(a, b) for a, b in zip(first.tolist(), last.tolist(), strict=True))
    box = wider((x, y, z), BRAIN_MARGIN, spacing)
    brain = labels[box] == LABELS["brain"]
    at = np.indices(brain.shape).reshape(3, -1).T + [s.start for s in box]
    may = anatomies.may_hold(anatomy, pose, name, poses.world(at, affine)).reshape(brain.shape)
    mask[box] |= may & ~within(may, brain, BRAIN_MARGIN, spacing)
