"""Where the organs of a head lie about its brain, and how sure one can be of it.

``models/anatomy.json`` holds the mean and the spread of seven structures over many heads, in a
frame of the head: origin at the centre of the brain, x to the right, y anterior, z superior, in
mm. :func:`fit` lays this frame into a scan by what was found there, and says for every organ where
it must be, give or take how much. Whether it can be in the field of view is then geometry.

Measure again with ``python -m efface.segment.anatomy HEADS OUT.json``, where HEADS holds
``*_labels.nii.gz`` (values of :data:`efface.segment.labels.LABELS`).
"""

from __future__ import annotations

import json
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
from numpy.typing import NDArray
from scipy import ndimage
from scipy.optimize import least_squares
from scipy.spatial.transform import Rotation

from efface import resources
from efface.errors import EffaceError
from efface.manifest import write_json
from efface.segment.labels import LABELS

Floats = NDArray[np.float64]

PARTS: dict[str, str] = {
    "left eye": "eyes",
    "right eye": "eyes",
    "nose": "nose",
    "left ear": "ears",
    "right ear": "ears",
    "mouth": "mouth",
}
"""The six parts of a face that must be accounted for, and the label each lies in."""

MODEL = "anatomy.json"

# How far a head may be turned against the scanner's axes before anything is found (sd, radians),
# wider than measured: people lie askew; and the sd of the logarithm of its size.
_TURN_SD, _SIZE_SD = 0.20, 0.09
# What a brain label may err: centre and extent in mm, volume as a ratio.
_CENTRE_SD, _EXTENT_SD, _VOLUME_SD = 4.0, 3.0, 0.12
SURE = 2.5
"""Standard deviations from where a part is expected, beyond which it is not."""
_BRAIN_STEP = 12.0  # between the points of the mean brain, mm
_EDGE_MM = 4.0  # softness of the edge of the field of view, so that the fit is smooth


@dataclass(frozen=True)
class Part:
    """One part of the face in the frame of the head."""

    mean: Floats
    """Centre (3,), mm."""
    cov: Floats
    """Covariance (3, 3) of the centre over heads, mm²."""
    half: Floats
    """Half extents (3,) of the part about its centre, mm."""
    volume: float
    """Mean volume in mm³."""


@dataclass(frozen=True)
class Anatomy:
    """Means and spreads over heads."""

    parts: dict[str, Part]
    brain: Floats
    """Points (n, 3) evenly spread in the mean brain, mm."""
    brain_ml: float


@dataclass(frozen=True)
class View:
    """A field of view: a box of voxels in the world."""

    affine: Floats
    shape: tuple[int, int, int]

    def distances(self, points: Floats) -> Floats:
        """Signed distances (n, 6) of points (n, 3) to the six faces in mm, positive inside."""
        inverse = np.linalg.inv(self.affine)
        index = points @ inverse[:3, :3].T + inverse[:3, 3]
        scale = np.linalg.norm(inverse[:3, :3], axis=1)
        low = (index + 0.5) / scale
        high = (np.asarray(self.shape) - 0.5 - index) / scale
        return np.concatenate([low, high], axis=1)

    def normals(self) -> Floats:
        """Inward unit normals (6, 3) of the faces, in the order of :meth:`distances`."""
        inverse = np.linalg.inv(self.affine)[:3, :3]
        unit = inverse / np.linalg.norm(inverse, axis=1, keepdims=True)
        return np.concatenate([unit, -unit])


@dataclass(frozen=True)
class Pose:
    """The frame of the head as it lies in a scan."""

    turn: Floats
    """Rotation (3, 3), head to world."""
    size: float
    origin: Floats
    cov: Floats
    """Covariance (7, 7) of rotation vector, log size and origin."""
    misfit: float
    """Root mean square of the residuals in units of their spread; about 1 for a head."""

    def to_world(self, points: Floats) -> Floats:
        """Points (n, 3) of the head frame in the world, mm."""
        return self.size * points @ self.turn.T + self.origin

    def to_head(self, points: Floats) -> Floats:
        """World points (n, 3) in the head frame, mm of a head of mean size."""
        return (points - self.origin) @ self.turn / self.size


def load(path: Path | None = None) -> Anatomy:
    """Read the measured anatomy (default: the shipped one).

    Raises :class:`EffaceError` if the file is not usable.
    """
    path = path or resources.models() / MODEL
    try:
        raw = json.loads(path.read_text())
        parts = {
            name: Part(
                np.array(raw["parts"][name]["mean"], float),
                np.array(raw["parts"][name]["cov"], float),
                np.array(raw["parts"][name]["half"], float),
                float(raw["parts"][name]["volume"]),
            )
            for name in PARTS
        }
        return Anatomy(parts, np.array(raw["brain"]["points"], float), float(raw["brain"]["ml"]))
    except (OSError, ValueError, KeyError) as e:
        raise EffaceError(f"{path}: not the anatomy that quality control needs ({e})") from e


def fit(
    anatomy: Anatomy,
    view: View,
    brain: Floats,
    brain_ml: float,
    found: dict[str, Floats],
) -> Pose:
    """Lay the frame of the head into a scan.

    ``brain`` are points (n, 3) evenly spread in the brain that was found, in world mm; ``found``
    centres (3,) of parts that were found whole. A brain cut by the field of view is compared with
    what of the mean brain lies within it.
    """
    centre, spread = brain.mean(axis=0), np.cov(brain.T)
    width = np.sqrt(np.diag(spread))
    upper = np.triu_indices(3, 1)

    def residuals(p: Floats) -> Floats:
        turn, size, origin = _unpack(p)
        world = size * anatomy.brain @ turn.T + origin
        seen = np.prod(1 / (1 + np.exp(-view.distances(world) / _EDGE_MM)), axis=1)
        total = seen.sum() + 1e-6
        middle = seen @ world / total
        away = world - middle
        cov = (away * seen[:, None]).T @ away / total
        ml = anatomy.brain_ml * size**3 * total / len(world)
        out = [
            p[:3] / _TURN_SD,
            [p[3] / _SIZE_SD],
            (middle - centre) / _CENTRE_SD,
            (np.sqrt(np.diag(cov) + 1e-6) - width) / _EXTENT_SD,
            # the tilt of the brain: weak, since its axes are of nearly the same length
            (cov[upper] - spread[upper]) / (40 * _EXTENT_SD),
            [np.log((ml + 1) / (brain_ml + 1)) / _VOLUME_SD],
        ]
        for name, point in found.items():
            part = anatomy.parts[name]
            at = size * turn @ part.mean + origin
            whiten = np.linalg.inv(np.linalg.cholesky(part.cov + 9 * np.eye(3)))
            out.append(whiten @ turn.T @ (at - point))
        return np.concatenate([np.asarray(o, float) for o in out])

    # start where the mean brain, not cut, would have the same centre; then let the edges count
    start = np.concatenate([np.zeros(4), centre])
    # to a thousandth of a millimetre: further steps change nothing
    stop = {"ftol": 1e-4, "xtol": 1e-4, "max_nfev": 60}
    result = least_squares(residuals, start, x_scale=[0.1, 0.1, 0.1, 0.05, 5, 5, 5], **stop)
    misfit = float(np.sqrt(np.mean(result.fun**2)))
    cov = np.linalg.pinv(result.jac.T @ result.jac) * max(1.0, misfit**2)
    turn, size, origin = _unpack(result.x)
    return Pose(turn, size, origin, cov, misfit)


def expected(anatomy: Anatomy, pose: Pose, name: str) -> tuple[Floats, Floats]:
    """Where a part must be: centre (3,) in world mm, and its covariance (3, 3) in mm²."""
    part = anatomy.parts[name]
    at = pose.to_world(part.mean[None])[0]
    arm = pose.size * pose.turn @ part.mean
    jacobian = np.zeros((3, 7))
    # small rotation w about the origin moves a point by w x arm
    jacobian[:, :3] = -np.array([[0, -arm[2], arm[1]], [arm[2], 0, -arm[0]], [-arm[1], arm[0], 0]])
    jacobian[:, 3] = arm
    jacobian[:, 4:] = np.eye(3)
    own = pose.size**2 * pose.turn @ part.cov @ pose.turn.T
    return at, jacobian @ pose.cov @ jacobian.T + own


def outside(anatomy: Anatomy, pose: Pose, view: View, name: str, sds: float = SURE) -> bool:
    """Whether a part lies wholly outside the field of view, beyond doubt.

    True if one face of the field of view parts it from all of the part (an ellipsoid of its half
    extents), even if the part lies ``sds`` standard deviations further in than expected.
    """
    at, cov = expected(anatomy, pose, name)
    half = pose.size * anatomy.parts[name].half
    for distance, normal in zip(view.distances(at[None])[0], view.normals(), strict=True):
        reach = float(np.linalg.norm(pose.turn.T @ normal * half))  # the part as an ellipsoid
        if distance + reach + sds * float(np.sqrt(normal @ cov @ normal)) < 0:
            return True
    return False


def may_hold(
    anatomy: Anatomy, pose: Pose, name: str, points: Floats, sds: float = SURE
) -> NDArray[np.bool_]:
    """Which world points (n, 3) a part may take up.

    Those in an ellipsoid of its half extents about where it is expected, ``sds`` standard
    deviations wider.
    """
    away = (pose.to_head(points) - anatomy.parts[name].mean) / _half(anatomy, pose, name, sds)
    may: NDArray[np.bool_] = (away**2).sum(axis=1) <= 1
    return may


def in_mean_brain(anatomy: Anatomy, pose: Pose, points: Floats) -> NDArray[np.bool_]:
    """Which world points (n, 3) lie in the mean brain, as the pose lays it."""
    low = anatomy.brain.min(axis=0) - _BRAIN_STEP
    index = np.rint((anatomy.brain - low) / _BRAIN_STEP).astype(int)
    grid = np.zeros(index.max(axis=0) + 2)
    grid[tuple(index.T)] = 1.0
    at = (pose.to_head(points) - low) / _BRAIN_STEP
    within: NDArray[np.bool_] = ndimage.map_coordinates(grid, at.T, order=1) >= 0.5
    return within


def strays(anatomy: Anatomy, pose: Pose, name: str, point: NDArray[np.float64]) -> bool:
    """Whether a part found at a world point (3,) lies farther off than its own size and 5 sd."""
    away = pose.to_head(point[None])[0] - anatomy.parts[name].mean
    return bool((np.abs(away) > _half(anatomy, pose, name, 5.0)).any())


def reach(
    anatomy: Anatomy, pose: Pose, name: str, sds: float = SURE
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Lowest and highest world coordinates (3,) of what :func:`may_hold` holds."""
    middle = pose.to_world(anatomy.parts[name].mean[None])[0]
    axes = pose.size * pose.turn * _half(anatomy, pose, name, sds)  # of the ellipsoid, as columns
    far = np.linalg.norm(axes, axis=1)
    return middle - far, middle + far


def _half(anatomy: Anatomy, pose: Pose, name: str, sds: float) -> Floats:
    """Half axes (3,) of where a part may be, in mm of a head of mean size."""
    _, cov = expected(anatomy, pose, name)
    sd = np.sqrt(np.diag(pose.turn.T @ cov @ pose.turn)) / pose.size
    return np.asarray(anatomy.parts[name].half + sds * sd)


def inside(anatomy: Anatomy, pose: Pose, view: View, name: str) -> float:
    """The share of a part, taken as a box where it is expected, within the field of view."""
    part = anatomy.parts[name]
    steps = np.linspace(-0.8, 0.8, 5)
    grid = np.stack(np.meshgrid(steps, steps, steps), axis=-1).reshape(-1, 3)
    world = pose.to_world(part.mean + grid * part.half)
    return float((view.distances(world) > 0).all(axis=1).mean())


def measure(folder: Path) -> dict[str, Any]:
    """Mean and spread over all ``*_labels.nii.gz`` of a folder; what ``anatomy.json`` holds.

    The heads are first laid over each other by rotation and size (generalised Procrustes), so that
    the spread is of anatomy, not of pose. Parts cut by the field of view are left out.
    """
    heads = [_read(p) for p in sorted(folder.glob("*_labels.nii.gz"))]
    if len(heads) < 8:
        raise EffaceError(f"{folder}: at least 8 label maps are needed, found {len(heads)}")
    names = ["brain", *PARTS]
    mean = {n: np.mean([h[n][0] for h in heads if n in h], axis=0) for n in names}
    for _ in range(10):
        laid = []
        for head in heads:
            both = [n for n in names if n in head]
            turn, size, at = _similarity(
                np.array([head[n][0] for n in both]), np.array([mean[n] for n in both])
            )
            laid.append((turn, size, at))
        mean = {
            n: np.mean(
                [s * r @ h[n][0] + t for h, (r, s, t) in zip(heads, laid, strict=True) if n in h],
                axis=0,
            )
            for n in names
        }
        scale = np.exp(np.mean([np.log(s) for _, s, _ in laid]))
        mean = {n: m / scale for n, m in mean.items()}
    out: dict[str, Any] = {"heads": len(heads), "parts": {}}
    for n in PARTS:
        at = np.array(
            [s * r @ h[n][0] + t for h, (r, s, t) in zip(heads, laid, strict=True) if n in h]
        )
        # about the brain as it lies in each head: that is what a scan will tell
        brain = np.array(
            [s * r @ h["brain"][0] + t for h, (r, s, t) in zip(heads, laid, strict=True) if n in h]
        )
        points = [
            np.abs((h[n][1] - h[n][0]) @ r.T * s)
            for h, (r, s, _) in zip(heads, laid, strict=True)
            if n in h
        ]
        out["parts"][n] = {
            "mean": np.mean(at - brain, axis=0).round(2).tolist(),
            "cov": np.cov((at - brain).T).round(3).tolist(),
            "half": np.percentile([np.percentile(p, 99, axis=0) for p in points], 95, axis=0)
            .round(1)
            .tolist(),
            "volume": round(float(np.mean([h[n][2] for h in heads if n in h]))),
            "heads": len(at),
        }
    reach = 96.0
    ticks = np.arange(-reach, reach + 1, _BRAIN_STEP)
    grid = np.stack(np.meshgrid(ticks, ticks, ticks, indexing="ij"), axis=-1).reshape(-1, 3)
    votes = np.zeros(len(grid))
    for head, (turn, size, _) in zip(heads, laid, strict=True):
        labels, affine = head["map"]
        world = grid @ turn / size + head["brain"][0]
        back = np.linalg.inv(affine)
        index = np.rint(world @ back[:3, :3].T + back[:3, 3]).astype(int)
        ok = ((index >= 0) & (index < labels.shape)).all(axis=1)
        votes[ok] += labels[tuple(index[ok].T)] == LABELS["brain"]
    out["brain"] = {
        "ml": round(float(np.mean([h["brain"][2] for h in heads])) / 1000, 1),
        "points": grid[votes > len(heads) / 2].astype(int).tolist(),
    }
    turns = [Rotation.from_matrix(r).magnitude() for r, _, _ in laid]
    out["pose"] = {
        "turn_rms_degrees": round(float(np.degrees(np.sqrt(np.mean(np.square(turns))))), 2),
        "log_size_sd": round(float(np.std([np.log(s) for _, s, _ in laid])), 4),
    }
    return out


def _unpack(p: Floats) -> tuple[Floats, float, Floats]:
    return Rotation.from_rotvec(p[:3]).as_matrix(), float(np.exp(p[3])), p[4:]


def _similarity(source: Floats, target: Floats) -> tuple[Floats, float, Floats]:
    """Rotation, size and shift that lay source on target (Umeyama 1991)."""
    a, b = source.mean(axis=0), target.mean(axis=0)
    u, d, vt = np.linalg.svd((target - b).T @ (source - a))
    sign = np.diag([1, 1, np.sign(np.linalg.det(u @ vt))])
    turn = u @ sign @ vt
    size = float((d * np.diag(sign)).sum() / ((source - a) ** 2).sum())
    return turn, size, b - size * turn @ a


def _read(path: Path) -> dict[str, Any]:
    """Centre, points and volume of each structure of one head that is not cut."""
    img: Any = nib.load(path)
    labels: NDArray[np.uint8] = np.asarray(img.dataobj, np.uint8)
    affine: Floats = np.asarray(img.affine, np.float64)
    voxel = abs(np.linalg.det(affine[:3, :3]))
    head: dict[str, Any] = {"map": (labels, affine)}
    middle = 0.0
    for name, value in LABELS.items():
        index = np.argwhere(labels == value)
        world = index @ affine[:3, :3].T + affine[:3, 3]
        cut = bool(((index < 1) | (index > np.array(labels.shape) - 2)).any())
        if name == "brain":
            head[name] = (world.mean(axis=0), world, len(world) * voxel)
            middle = float(world[:, 0].mean())
        elif name in ("eyes", "ears"):
            # the mid-plane of the head bends off the brain's centre: cut between the two
            groups, n = ndimage.label(labels == value)
            sizes = ndimage.sum_labels(np.ones_like(groups), groups, np.arange(1, n + 1))
            if n >= 2 and np.sort(sizes)[-2] > 0.3 * sizes.max():
                two = np.argsort(sizes)[-2:] + 1
                middle_pair = np.mean(
                    [(groups == g).nonzero()[0].mean() * affine[0, 0] + affine[0, 3] for g in two]
                )
            else:
                middle_pair = middle
            for side, mask in (
                ("left", world[:, 0] < middle_pair),
                ("right", world[:, 0] >= middle_pair),
            ):
                if mask.sum() * voxel > 1000 and not cut:
                    part = world[mask]
                    head[f"{side} {name[:-1]}"] = (part.mean(axis=0), part, len(part) * voxel)
        elif len(index) * voxel > 1000 and not cut:
            head[name] = (world.mean(axis=0), world, len(world) * voxel)
    return head


if __name__ == "__main__":
    measured = measure(Path(sys.argv[1]))
    measured["source"] = (
        "Measured by efface.segment.anatomy on 2 mm label maps of T1w heads of the IXI study "
        "(https://brain-development.org/ixi-dataset/, CC BY-SA 3.0). Aggregates only."
    )
    write_json(Path(sys.argv[2]), measured)
