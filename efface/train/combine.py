"""One head with several random transformations at once, as in scans of other sites.

Each of :mod:`efface.train.transform` alone is easier than a thick slab of a small, tilted head.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage
from scipy.spatial.transform import Rotation

from efface.segment.geometry import voxel_sizes
from efface.segment.labels import LABELS
from efface.train import transform
from efface.train.transform import Case, Head

Step = Callable[[Head, np.random.Generator], tuple[str, Head]]

GROUP = "several at once"


def cases(h: Head, count: int, seed: int = 0) -> Iterator[Case]:
    """Yield ``count`` cases of a head with all organs, named by their transformations."""
    for i in range(count):
        rng = np.random.default_rng([seed, i])
        made, done = h, []
        for share, step in STEPS:
            if rng.random() < share:
                what, made = step(made, rng)
                done.append(what)
        yield transform.case(GROUP, " ".join(done), made)


def thick_slab(h: Head, group: str, seed: int = 0) -> Case:
    """Return the head in another contrast, as a slab of thick slices above the mouth."""
    rng = np.random.default_rng([seed, 1])
    made, done = h, []
    for step in (_contrast, _slab, _slices):
        what, made = step(made, rng)
        done.append(what)
    return transform.case(group, " ".join(done), made)


def motion(seed: int = 0) -> NDArray[np.float64]:
    """Return a motion of the head (4, 4): 8 degrees about a random axis, 10 mm along another."""
    rng = np.random.default_rng([seed, 2])
    axis, along = (v / np.linalg.norm(v) for v in rng.normal(size=(2, 3)))
    out = np.eye(4)
    out[:3, :3] = Rotation.from_rotvec(np.radians(8) * axis).as_matrix()
    out[:3, 3] = 10 * along
    return out


def _contrast(h: Head, rng: np.random.Generator) -> tuple[str, Head]:
    names = ["T2w-like", "T2w-like", "FLAIR-like", "PDw-like", "enhanced"]
    name = str(rng.choice(names))
    if name == "enhanced":
        # vessels, mucosa and meninges: lumps of the head outside the brain
        lumps = ndimage.zoom(rng.random((8, 8, 8)), np.array(h.v.shape) / 8, order=1) > 0.6
        outside = (h.labels != LABELS["brain"]) & (h.v > 0.15)
        return name, replace(h, v=np.where(lumps & outside, 2.2 * h.v, h.v).astype(np.float32))
    return name, dict(transform.contrasts(h, rng))[name]


def _tumour(h: Head, rng: np.random.Generator) -> tuple[str, Head]:
    brain = np.argwhere(h.labels == LABELS["brain"])
    centre, radius = brain[rng.integers(len(brain))], rng.uniform(8, 16)
    at = np.ogrid[tuple(slice(0, n) for n in h.v.shape)]
    far = sum((a - c) ** 2 for a, c in zip(at, centre, strict=True)) ** 0.5
    value = np.float32(rng.choice([0.05, 0.3, 1.2]))
    return "tumour", replace(h, v=np.where(far < radius, value, h.v))


def _size(h: Head, rng: np.random.Generator) -> tuple[str, Head]:
    k = float(rng.choice([0.78, 0.85, 1.1]))
    return f"x{k:g}", replace(h, affine=h.affine @ np.diag([k, k, k, 1]))


def _tilt(h: Head, rng: np.random.Generator) -> tuple[str, Head]:
    angles = rng.normal(0, [10, 4, 5])
    turn = np.eye(4)
    turn[:3, :3] = Rotation.from_euler("xyz", angles, degrees=True).as_matrix()
    name = "tilted by " + ",".join(f"{a:.0f}" for a in angles)
    return name, transform.on_turned_grid(h, turn)


def _slab(h: Head, rng: np.random.Generator) -> tuple[str, Head]:
    where = {o: np.argwhere(h.labels == LABELS[o])[:, 2] for o in ("mouth", "eyes", "brain")}
    low = max(0, int(rng.uniform(where["mouth"].min() - 5, where["eyes"].max() - 2)))
    high = h.v.shape[2]
    if rng.random() < 0.5:  # no air above the crown
        high = min(high, int(where["brain"].max() + rng.integers(-4, 8)))
    return f"slices {low} to {high}", transform.within(h, 2, low, high)


def _narrow(h: Head, rng: np.random.Generator) -> tuple[str, Head]:
    ears = np.argwhere(h.labels == LABELS["ears"])[:, 0]
    off = int(rng.integers(0, 8))
    return f"{off} voxels off each ear", transform.within(h, 0, ears.min() + off, ears.max() - off)


def _short(h: Head, rng: np.random.Generator) -> tuple[str, Head]:
    nose = np.argwhere(h.labels == LABELS["nose"])[:, 1]
    off = int(rng.integers(0, 8))
    return f"{off} voxels off the nose", transform.within(h, 1, 0, nose.max() - off)


def _slices(h: Head, rng: np.random.Generator) -> tuple[str, Head]:
    axis, thick = int(rng.choice([2, 2, 2, 0, 1])), float(rng.choice([3, 4, 5, 6, 7]))
    voxel = np.where(np.arange(3) == axis, thick, 1.0)
    plane = ("sagittal", "coronal", "transverse")[axis]
    size = voxel_sizes(h.affine)
    return f"{plane} slices of {thick:g} mm", transform.resampled(h, size, voxel)


def _position(h: Head, rng: np.random.Generator) -> tuple[str, Head]:
    other = list(transform.positions(h))[:3]
    name, turned = other[rng.integers(len(other))]
    return f"{name} unknown to the header", turned


def _noise(h: Head, rng: np.random.Generator) -> tuple[str, Head]:
    sd = rng.uniform(0, 0.06)
    a, b = rng.normal(0, sd, (2, *h.v.shape))
    return f"{100 * sd:.0f} % noise", replace(h, v=np.hypot(h.v + a, b).astype(np.float32))


STEPS: tuple[tuple[float, Step], ...] = (
    (0.8, _contrast),
    (0.2, _tumour),
    (0.5, _size),
    (0.6, _tilt),
    (0.2, _narrow),
    (0.2, _short),
    (0.5, _slab),
    (0.6, _slices),
    (0.15, _position),
    (1.0, _noise),
)
"""Transformations in their order, each with the share of cases in which it is applied."""
