"""The pose of the head in a scan: where it lies, how large it is, and which landmarks were found.

A pose is estimated once a scan, by :mod:`efface.segment.fit`, and kept in the manifest. It maps the
frame of the head (:mod:`efface.segment.anatomy`) to the header's world, and tells for each landmark
where it is expected, with its uncertainty. Whether a landmark can be in the field of view is then
geometry.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from nibabel.affines import apply_affine
from numpy.typing import NDArray
from scipy import ndimage

from efface.measures import PoseMeasures
from efface.segment import anatomy
from efface.segment import orientation as orientations
from efface.segment.anatomy import BRAIN_STEP
from efface.segment.geometry import View, voxel_sizes
from efface.segment.labels import LABELS
from efface.segment.masks import BRAIN_MARGIN, Box, wider, within

Floats = NDArray[np.float64]
Bool = NDArray[np.bool_]

SHARE_FOUND = 0.15
"""A landmark counts as found from this share of its mean volume on."""
LEAST_MM3 = 100.0
"""A connected component of a label below this volume is noise."""
CUT = 0.9
"""A landmark is cut by the field of view if less than this share of it is expected in view."""
KNOWN = 2
"""At least so many landmarks must be found before the others are placed by the pose."""
MISFIT = 1.5
"""Above this misfit the landmarks are inconsistent with a head, and geometry proves nothing."""
SDS = 2.5
"""Standard deviations about the expected place of a landmark within which it may lie."""
FAR_SDS = 5.0
"""A landmark farther from its expected place than its size and so many standard deviations is
implausible."""


@dataclass(frozen=True)
class Landmark:
    """A landmark as labelled in a scan."""

    centre: Floats
    """World, mm (3,)."""
    volume: float
    """mm³."""


@dataclass(frozen=True)
class Pose:
    """The frame of the head in the header's world."""

    rotation: Floats
    """Head to world (3, 3): its columns are the head's right, anterior and superior."""
    size: float
    """Relative to the mean head."""
    origin: Floats
    """Centre of the mean brain in the world, mm (3,)."""
    cov: Floats
    """Covariance (7, 7) of a rotation vector in the world, log size and origin."""
    misfit: float
    """Root-mean-square residual of the fit, in standard deviations; about 1 for a head."""
    landmarks: Mapping[str, Landmark]
    """The landmarks labelled, by the names of :data:`efface.segment.anatomy.LANDMARKS`."""
    orientation: str = orientations.STANDARD
    """By right angles (:mod:`efface.segment.orientation`)."""

    @property
    def consistent(self) -> bool:
        """Whether brain and landmarks are consistent with a head."""
        return self.misfit <= MISFIT

    def to_world(self, points: Floats) -> Floats:
        """Map points (n, 3) of the head frame to the world, mm."""
        return self.size * points @ self.rotation.T + self.origin

    def to_head(self, points: Floats) -> Floats:
        """Map world points (n, 3) to the head frame, mm of a head of mean size."""
        return (points - self.origin) @ self.rotation / self.size

    def as_dict(self) -> PoseMeasures:
        """Return the pose as JSON values; :func:`from_dict` reads them."""
        return {
            "rotation": self.rotation.tolist(),
            "size": self.size,
            "origin": self.origin.tolist(),
            "cov": self.cov.tolist(),
            "misfit": self.misfit,
            "landmarks": {
                name: {"centre": mark.centre.tolist(), "volume": mark.volume}
                for name, mark in self.landmarks.items()
            },
            "orientation": self.orientation,
        }

    def expected(self, name: str) -> tuple[Floats, Floats]:
        """Return where a landmark must be: centre (3,) in mm, and covariance (3, 3) in mm²."""
        part = anatomy.load().parts[name]
        at = self.to_world(part.mean[None])[0]
        arm = self.size * self.rotation @ part.mean
        jacobian = np.zeros((3, 7))
        # a small rotation w about the origin moves a point by w x arm
        jacobian[:, :3] = -np.array(
            [[0, -arm[2], arm[1]], [arm[2], 0, -arm[0]], [-arm[1], arm[0], 0]]
        )
        jacobian[:, 3] = arm
        jacobian[:, 4:] = np.eye(3)
        own = self.size**2 * self.rotation @ part.cov @ self.rotation.T
        return at, jacobian @ self.cov @ jacobian.T + own

    def outside(self, name: str, view: View) -> bool:
        """Whether a landmark lies wholly outside the field of view, beyond doubt.

        True if one face of the field of view separates it from all of the landmark (an ellipsoid
        of its half extents), even :data:`SDS` standard deviations further in than expected.
        """
        at, cov = self.expected(name)
        half = self.size * anatomy.load().parts[name].half
        for distance, normal in zip(view.distances(at[None])[0], view.normals(), strict=True):
            extent = float(np.linalg.norm(self.rotation.T @ normal * half))
            if distance + extent + SDS * float(np.sqrt(normal @ cov @ normal)) < 0:
                return True
        return False

    def share_in_view(self, name: str, view: View) -> float:
        """Return the share of a landmark, a box where it is expected, in the field of view."""
        part = anatomy.load().parts[name]
        steps = np.linspace(-0.8, 0.8, 5)
        grid = np.stack(np.meshgrid(steps, steps, steps), axis=-1).reshape(-1, 3)
        world = self.to_world(part.mean + grid * part.half)
        return float((view.distances(world) > 0).all(axis=1).mean())

    def is_cut(self, name: str, view: View) -> bool:
        """Whether the field of view cuts a landmark."""
        return self.share_in_view(name, view) < CUT

    def is_found(self, name: str, view: View) -> bool:
        """Whether enough of a landmark is labelled; less suffices where the view cuts it."""
        if name not in self.landmarks:
            return False
        share = max(self.share_in_view(name, view), 0.1)
        least = max(LEAST_MM3, SHARE_FOUND * self.whole_volume(name) * share)
        return self.landmarks[name].volume >= least

    def whole_volume(self, name: str) -> float:
        """Return the expected volume of a landmark in mm³."""
        return anatomy.load().parts[name].volume * self.size**3

    def is_plausible(self, name: str) -> bool:
        """Whether a labelled landmark lies near its expected place (:data:`FAR_SDS`)."""
        away = self.to_head(self.landmarks[name].centre[None])[0] - anatomy.load().parts[name].mean
        return not bool((np.abs(away) > self._half(name, FAR_SDS)).any())

    def may_hold(self, name: str, points: Floats) -> Bool:
        """Return which world points (n, 3) a landmark may take up.

        Those in an ellipsoid of its half extents about its expected centre, :data:`SDS` standard
        deviations wider.
        """
        away = (self.to_head(points) - anatomy.load().parts[name].mean) / self._half(name, SDS)
        may: Bool = (away**2).sum(axis=1) <= 1
        return may

    def possible_voxels(
        self, name: str, labels: NDArray[np.uint8], affine: Floats
    ) -> tuple[Box, Bool]:
        """Return a box of a label map, and the voxels in it that a landmark may take up.

        Neither the brain nor what lies within 2 mm of it. ``affine`` (4, 4): voxel to world, mm.
        """
        middle = self.to_world(anatomy.load().parts[name].mean[None])[0]
        axes = self.size * self.rotation * self._half(name, SDS)  # of the ellipsoid, as columns
        far = np.linalg.norm(axes, axis=1)
        ends = zip(middle - far, middle + far, strict=True)
        corners = np.array(np.meshgrid(*ends)).reshape(3, -1).T
        index = apply_affine(np.linalg.inv(affine), corners)
        first = np.clip(np.floor(index.min(axis=0)).astype(int), 0, labels.shape)
        last = np.clip(np.ceil(index.max(axis=0)).astype(int) + 1, 0, labels.shape)
        x, y, z = (slice(a, b) for a, b in zip(first.tolist(), last.tolist(), strict=True))
        spacing = voxel_sizes(affine)
        box = wider((x, y, z), BRAIN_MARGIN, spacing)
        brain = labels[box] == LABELS["brain"]
        at = np.indices(brain.shape).reshape(3, -1).T + [s.start for s in box]
        may = self.may_hold(name, apply_affine(affine, at)).reshape(brain.shape)
        return box, may & ~within(may, brain, BRAIN_MARGIN, spacing)

    def in_mean_brain(self, points: Floats) -> Bool:
        """Return which world points (n, 3) lie in the mean brain."""
        brain = anatomy.load().brain
        low = brain.min(axis=0) - BRAIN_STEP
        index = np.rint((brain - low) / BRAIN_STEP).astype(int)
        grid = np.zeros(index.max(axis=0) + 2)
        grid[tuple(index.T)] = 1.0
        at = (self.to_head(points) - low) / BRAIN_STEP
        inside: Bool = ndimage.map_coordinates(grid, at.T, order=1) >= 0.5
        return inside

    def _half(self, name: str, sds: float) -> Floats:
        """Half axes (3,) of where a landmark may be, in mm of a head of mean size."""
        _, cov = self.expected(name)
        sd = np.sqrt(np.diag(self.rotation.T @ cov @ self.rotation)) / self.size
        return np.asarray(anatomy.load().parts[name].half + sds * sd)


def from_dict(values: PoseMeasures) -> Pose:
    """Return the pose that :meth:`Pose.as_dict` gave."""
    return Pose(
        np.array(values["rotation"], np.float64),
        float(values["size"]),
        np.array(values["origin"], np.float64),
        np.array(values["cov"], np.float64),
        float(values["misfit"]),
        {
            name: Landmark(np.array(mark["centre"], np.float64), float(mark["volume"]))
            for name, mark in values["landmarks"].items()
        },
        str(values["orientation"]),
    )
