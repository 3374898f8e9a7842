"""The organs of one scan, and how much of each lies in the field of view of another scan."""

from __future__ import annotations

from dataclasses import dataclass
from typing import cast

import numpy as np
from numpy.typing import NDArray

from efface.measures import OrganMeasures
from efface.segment import masks
from efface.segment.components import COUNTS
from efface.segment.geometry import voxel_sizes
from efface.segment.labels import FEATURES, LABELS

Labels = NDArray[np.uint8]
Floats = NDArray[np.float64]
Shape = tuple[int, int, int]

COUNT = {name: COUNTS[name] for name in FEATURES}
"""Number of each organ of a head."""
SMALLEST_MM3 = 100.0
"""Smaller parts of organs are ignored."""
EDGE_MM = 4.0
"""Distance beyond the edge of a scan at which the other scan is asked for a view."""


@dataclass(frozen=True)
class Organ:
    """One organ of a scan (of eyes and ears, one of the two), and its part in another scan."""

    label: str
    centre: tuple[float, float, float]
    """World, mm."""
    mm3: float
    in_view_mm3: float
    """Volume within the other scan's field of view."""
    outside_mm: float
    """Distance of its nearest voxel from that field of view; 0 if a part lies within."""
    cut: bool
    """Whether it ends at an edge of its own scan beyond which the other scan continues."""

    def as_dict(self) -> OrganMeasures:
        """Return the organ as JSON values."""
        return cast(OrganMeasures, vars(self))


def organs(labels: Labels, affine: Floats, shape: Shape, onto: Floats) -> tuple[Organ, ...]:
    """The organs of a label map, and their parts in the grid of ``shape`` and ``onto``."""
    voxel = float(abs(np.linalg.det(affine[:3, :3])))
    to = np.linalg.inv(onto) @ affine
    spacing = voxel_sizes(onto)
    out = []
    for name, index in pieces(labels, affine):
        at = index @ to[:3, :3].T + to[:3, 3]
        beyond = np.maximum(np.maximum(-0.5 - at, at - (np.array(shape) - 0.5)), 0)
        inside = (beyond == 0).all(axis=1)
        centre = np.round(affine[:3, :3] @ index.mean(axis=0) + affine[:3, 3], 2)
        out.append(
            Organ(
                name,
                (float(centre[0]), float(centre[1]), float(centre[2])),
                round(len(index) * voxel, 1),
                round(float(np.count_nonzero(inside)) * voxel, 1),
                round(float(np.linalg.norm(beyond * spacing, axis=1).min()), 1),
                _cut(index, labels.shape, affine, shape, onto),
            )
        )
    return tuple(out)


def pieces(labels: Labels, affine: Floats) -> list[tuple[str, NDArray[np.intp]]]:
    """Name and voxel indices (n, 3) of each organ: the largest components of its label."""
    voxel = float(abs(np.linalg.det(affine[:3, :3])))
    return [
        (name, index)
        for name in FEATURES
        for index in masks.components(labels == LABELS[name], corners=True)[: COUNT[name]]
        if len(index) * voxel >= SMALLEST_MM3
    ]


def _cut(
    index: NDArray[np.intp], shape: tuple[int, ...], affine: Floats, other: Shape, onto: Floats
) -> bool:
    """Whether an organ ends at an edge of its grid beyond which the other grid continues."""
    steps = EDGE_MM / voxel_sizes(affine)
    to = np.linalg.inv(onto) @ affine
    for axis in range(3):
        for edge, sign in ((0, -1), (shape[axis] - 1, 1)):
            beyond = index[index[:, axis] == edge].astype(float)
            if len(beyond):
                beyond[:, axis] += sign * max(steps[axis], 1.0)
                at = beyond @ to[:3, :3].T + to[:3, 3]
                if ((at >= -0.5) & (at <= np.array(other) - 0.5)).all(axis=1).any():
                    return True
    return False
