"""Estimate the pose of a head from its label map."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
from nibabel.affines import apply_affine
from numpy.typing import NDArray
from scipy.optimize import least_squares
from scipy.spatial.transform import Rotation

from efface.measures import OrganMeasures
from efface.segment import anatomy
from efface.segment import orientation as orientations
from efface.segment.anatomy import LANDMARKS, names_of
from efface.segment.geometry import View
from efface.segment.labels import FEATURES, LABELS
from efface.segment.masks import connected, indices, thinned
from efface.segment.pose import LEAST_MM3, Landmark, Pose

Labels = NDArray[np.uint8]
Floats = NDArray[np.float64]

# How far a head may be rotated against the scanner's axes before anything is known (sd, radians),
# wider than measured: people lie askew; and the sd of the logarithm of its size.
_ROTATION_SD, _SIZE_SD = 0.20, 0.09
# What a brain label may err: centre and extent in mm, volume as a ratio.
_CENTRE_SD, _EXTENT_SD, _VOLUME_SD = 4.0, 3.0, 0.12
_EDGE_MM = 4.0  # softness of the edge of the field of view, so that the fit is smooth
_WHOLE = 0.4
"""A landmark of less than this share of its mean volume is cut or labelled in part: its centre
would bend the pose."""
_LEAST_BRAIN = 8
"""Fewest voxels of the sample in the brain for a pose."""
_INSIDE_MM, _FEW = 4.0, 50
"""Points of the mean brain so far inside the field of view count for :func:`likeness`, and so many
are needed."""
_POINTS = 4000
"""Points of the brain that the fit uses."""


@dataclass(frozen=True)
class Sample:
    """A label map thinned to voxels about 2 mm apart: enough for volumes and centres."""

    labels: Labels
    """On the voxels that :func:`efface.segment.masks.thinned` chooses."""
    affine: Floats
    """Of these voxels, to world in mm (4, 4)."""
    voxel: float
    """Volume of one of them, mm³."""
    view: View
    """Of the whole label map."""
    brain: NDArray[np.intp]
    """Indices (n, 3) of the largest component of the brain."""

    @property
    def brain_ml(self) -> float:
        """Volume of the brain."""
        return len(self.brain) * self.voxel / 1000

    def brain_points(self) -> Floats:
        """Return world points (n, 3) in the brain, at most 4000."""
        rng = np.random.default_rng(0)
        index = self.brain
        if len(index) > _POINTS:
            index = index[rng.choice(len(index), _POINTS, replace=False)]
        return np.asarray(apply_affine(self.affine, index), np.float64)


def sample(labels: Labels, affine: NDArray[np.floating]) -> Sample:
    """Return the sample of a label map (X, Y, Z); ``affine`` (4, 4): voxel to world, mm."""
    whole: Floats = np.asarray(affine, np.float64)
    thin, grid = thinned(whole)
    # contiguous: all that follows walks over these voxels many times
    few = labels[thin].copy(order="K")
    voxel = float(abs(np.linalg.det(grid[:3, :3])))
    view = View(whole, (labels.shape[0], labels.shape[1], labels.shape[2]))
    brain = connected(few == LABELS["brain"], LEAST_MM3 / voxel, largest=True)
    return Sample(few, grid, voxel, view, indices(brain))


def estimate(
    labels: Labels,
    affine: NDArray[np.floating],
    orientation: str | None = None,
    known: Sequence[OrganMeasures] = (),
) -> Pose | None:
    """Return the pose of the head in a label map (X, Y, Z), None if it shows too little brain.

    ``affine`` (4, 4): voxel to world, mm; ``orientation``: of the head, estimated from the labels
    if not given; ``known``: organs that another scan of the same head shows whole
    (:class:`efface.segment.propagate.Organ`), whose centres are then fitted instead of those of the
    labels.
    """
    if orientation is None:
        orientation = orientations.estimate(labels, affine)
    few = sample(labels, orientations.undo(affine, orientation))
    if len(few.brain) < _LEAST_BRAIN:
        return None
    pose = _fit_landmarks(few)
    back = orientations.matrix(orientation).T
    if known:
        turned: list[OrganMeasures] = [
            {**o, "centre": (back.T @ np.array(o["centre"], float)).tolist()} for o in known
        ]
        centres = {n: np.array(o["centre"], float) for n, o in match_organs(turned, pose).items()}
        pose = replace(_fit(few, centres), landmarks=pose.landmarks)
    # a thousandth of a degree: the last digits of one machine's solver decide nothing
    return replace(
        pose,
        rotation=np.round(back @ pose.rotation, 6),
        origin=back @ pose.origin,
        cov=_rotated(pose.cov, back),
        landmarks={n: replace(m, centre=back @ m.centre) for n, m in pose.landmarks.items()},
        orientation=orientation,
    )


def match_organs(organs: Sequence[OrganMeasures], pose: Pose) -> dict[str, OrganMeasures]:
    """Return the organs that another scan shows, by landmark.

    Of a pair, the side is that of its centre in the frame of the head. A landmark that several
    organs match is left out.
    """
    out: dict[str, list[OrganMeasures]] = {}
    for organ in organs:
        left = pose.to_head(np.array(organ["centre"], float)[None])[0, 0] < 0
        names = names_of(organ["label"])
        side = "left" if left else "right"
        for name in (n for n in names if len(names) == 1 or n.startswith(side)):
            out.setdefault(name, []).append(organ)
    return {name: matches[0] for name, matches in out.items() if len(matches) == 1}


def likeness(few: Sample, pose: Pose) -> float | None:
    """Return the Dice of the labelled brain with the mean brain in the pose, of what is in view.

    None where too little of the brain is in view. The pose is fitted to centre, extent and size
    alone, which something else may have too.
    """
    world = pose.to_world(anatomy.load().brain)
    world = world[(few.view.distances(world) > _INSIDE_MM).all(axis=1)]
    if len(world) < _FEW or not len(few.brain):
        return None
    index = np.rint(apply_affine(np.linalg.inv(few.affine), world)).astype(np.intp)
    index = np.clip(index, 0, np.array(few.labels.shape) - 1)
    filled = float((few.labels[tuple(index.T)] == LABELS["brain"]).mean())
    agreed = float(pose.in_mean_brain(few.brain_points()).mean())
    return 2 * filled * agreed / max(filled + agreed, 1e-6)


def _fit_landmarks(few: Sample) -> Pose:
    """Fit the brain with nose and mouth, then with eyes and ears too.

    The first fit tells left from right, so that a rotated head does not get two left eyes.
    """
    points = {
        label: apply_affine(
            few.affine, indices(connected(few.labels == LABELS[label], LEAST_MM3 / few.voxel))
        )
        for label in FEATURES
    }
    landmarks: dict[str, Landmark] = {}
    pose = _fit(few, {})
    for labels in (("nose", "mouth"), ("ears",), ("eyes",)):
        for name in (n for label in labels for n in names_of(label)):
            own = points[LANDMARKS[name]]
            if len(own) and name.startswith(("left", "right")):
                left = pose.to_head(own)[:, 0] < 0
                own = own[left if name.startswith("left") else ~left]
            if len(own) * few.voxel >= LEAST_MM3:
                landmarks[name] = Landmark(own.mean(axis=0), len(own) * few.voxel)
        whole = {
            n: m.centre for n, m in landmarks.items() if m.volume >= _WHOLE * pose.whole_volume(n)
        }
        pose = _fit(few, whole)
    return replace(pose, landmarks=landmarks)


def _fit(few: Sample, centres: Mapping[str, Floats]) -> Pose:
    """Fit the frame of the head to a brain, and to centres (3,) of landmarks, in world mm.

    A brain cut by the field of view is compared with what of the mean brain lies within it.
    """
    mean = anatomy.load()
    brain = few.brain_points()
    centre, spread = brain.mean(axis=0), np.cov(brain.T)
    width = np.sqrt(np.diag(spread))
    upper = np.triu_indices(3, 1)
    whiteners = {
        name: np.linalg.inv(np.linalg.cholesky(mean.parts[name].cov + 9 * np.eye(3)))
        for name in centres
    }

    def residuals(p: Floats) -> Floats:
        rotation, size, origin = _unpack(p)
        world = size * mean.brain @ rotation.T + origin
        in_view = np.prod(1 / (1 + np.exp(-few.view.distances(world) / _EDGE_MM)), axis=1)
        total = in_view.sum() + 1e-6
        middle = in_view @ world / total
        away = world - middle
        cov = (away * in_view[:, None]).T @ away / total
        ml = mean.brain_ml * size**3 * total / len(world)
        out = [
            p[:3] / _ROTATION_SD,
            [p[3] / _SIZE_SD],
            (middle - centre) / _CENTRE_SD,
            (np.sqrt(np.diag(cov) + 1e-6) - width) / _EXTENT_SD,
            # the tilt of the brain: weak, since its axes are of nearly the same length
            (cov[upper] - spread[upper]) / (40 * _EXTENT_SD),
            [np.log((ml + 1) / (few.brain_ml + 1)) / _VOLUME_SD],
        ]
        for name, point in centres.items():
            at = size * rotation @ mean.parts[name].mean + origin
            out.append(whiteners[name] @ rotation.T @ (at - point))
        return np.concatenate([np.asarray(o, float) for o in out])

    start = np.concatenate([np.zeros(4), centre])
    # to a thousandth of a millimetre: further steps change nothing
    stop = {"ftol": 1e-4, "xtol": 1e-4, "max_nfev": 60}
    result = least_squares(residuals, start, x_scale=[0.1, 0.1, 0.1, 0.05, 5, 5, 5], **stop)
    misfit = float(np.sqrt(np.mean(result.fun**2)))
    cov = np.linalg.pinv(result.jac.T @ result.jac) * max(1.0, misfit**2)
    return Pose(*_unpack(result.x), cov, misfit, {})


def _rotated(cov: Floats, rotation: Floats) -> Floats:
    """Covariance (7, 7) of a pose in a rotated world."""
    full = np.eye(7)
    full[:3, :3] = full[4:, 4:] = rotation
    return np.asarray(full @ cov @ full.T, np.float64)


def _unpack(p: Floats) -> tuple[Floats, float, Floats]:
    return Rotation.from_rotvec(p[:3]).as_matrix(), float(np.exp(p[3])), p[4:]
