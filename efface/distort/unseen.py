"""What the edge of the field of view cuts, and was not found, goes where it may be.

Of an ear that a slab shows the upper third of, or a mouth at its lowest slices, too little may be
left to be found, or to be found whole. The brain and the organs that were found say where it lies,
give or take so much; all of that is replaced. Of a part that should be whole in view nothing is
guessed: that it was not found is for a person to look at.
"""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
from numpy.typing import NDArray

from efface.distort.region import Bool, parse_features
from efface.segment import anatomy as anatomies
from efface.segment import pose as poses
from efface.segment.anatomy import PARTS, Anatomy
from efface.segment.pose import Head

LITTLE = 0.5
"""A cut part of which less than this share of what should be in view was found, is not known."""


def add_unseen(
    mask: Bool,
    labels: NDArray[np.uint8],
    head: Head,
    features: str | Iterable[str] = "face",
    anatomy: Anatomy | None = None,
) -> tuple[str, ...]:
    """Add to ``mask``, in place, where cut parts may be that were hardly found; their names.

    ``mask``: the region (X, Y, Z); ``labels``: uint8, on its grid; ``head``: what they show.
    Neither the brain nor what lies within 2 mm of it is added. Raises :class:`EffaceError` for
    unknown features.
    """
    chosen = parse_features(features)
    seen, laid = head.scene, head.laid
    if laid is None:
        return ()
    anatomy = anatomies.load() if anatomy is None else anatomy
    found = [n for n in PARTS if laid.found(anatomy, seen.view, n)]
    if laid.pose.misfit > poses.MISFIT or len(found) < poses.KNOWN:
        return ()
    added = []
    for name, label in PARTS.items():
        if chosen != ("face",) and label not in chosen:
            continue
        share = anatomies.inside(anatomy, laid.pose, seen.view, name)
        whole = anatomy.parts[name].volume * laid.pose.size**3
        enough = name in found and laid.volumes[name] >= LITTLE * share * whole
        known = enough and not anatomies.strays(anatomy, laid.pose, name, laid.centres[name])
        if known or share >= poses.CUT or anatomies.outside(anatomy, laid.pose, seen.view, name):
            continue
        box, may = poses.room(labels, seen.view.affine, anatomy, laid.pose, name)
        mask[box] |= may
        added.append(name)
    return tuple(added)
