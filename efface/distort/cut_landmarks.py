"""Replace where a landmark that the field of view cuts may lie, if it was hardly labelled.

Of an ear in the upper third of a slab, or a mouth in its lowest slices, too little may be in view
to be labelled, or labelled whole. The pose tells where it lies, with an uncertainty; all of that is
replaced. A landmark that should be whole in view is not guessed: the gate sends it to review.
"""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
from numpy.typing import NDArray

from efface.distort.region import Bool, parse_features
from efface.segment.anatomy import LANDMARKS
from efface.segment.geometry import View
from efface.segment.pose import KNOWN, Pose

LITTLE = 0.5
"""A cut landmark is not known if less than this share of what should be in view is labelled."""


def add_cut_landmarks(
    mask: Bool,
    labels: NDArray[np.uint8],
    affine: NDArray[np.float64],
    pose: Pose | None,
    features: str | Iterable[str] = "face",
) -> tuple[str, ...]:
    """Add to ``mask``, in place, where cut landmarks may lie; return their names.

    ``mask``: the region (X, Y, Z); ``labels``: uint8, on its grid; ``affine`` (4, 4): voxel to
    world, mm; ``pose``: of the head in ``labels``. Neither the brain nor what lies within 2 mm of
    it is added, and nothing if the pose is not known well. Raises :class:`EffaceError` for unknown
    features.
    """
    chosen = parse_features(features)
    if pose is None or not pose.consistent:
        return ()
    view = View(affine, (labels.shape[0], labels.shape[1], labels.shape[2]))
    labelled = [name for name in LANDMARKS if pose.is_found(name, view)]
    if len(labelled) < KNOWN:
        return ()
    added = []
    for name, label in LANDMARKS.items():
        if chosen != ("face",) and label not in chosen:
            continue
        if not pose.is_cut(name, view) or pose.outside(name, view):
            continue
        whole = pose.share_in_view(name, view) * pose.whole_volume(name)
        enough = name in labelled and pose.landmarks[name].volume >= LITTLE * whole
        if enough and pose.is_plausible(name):
            continue
        box, may = pose.possible_voxels(name, labels, affine)
        mask[box] |= may
        added.append(name)
    return tuple(added)
