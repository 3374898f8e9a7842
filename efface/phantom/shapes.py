"""Implicit shapes: signed distances in millimetres, negative inside, evaluated on blocks of points.

Every shape has a bounding sphere, so that distant blocks of points skip it. Formulas
after I. Quilez, "3D SDFs" and "smooth minimum" (https://iquilezles.org/articles), reimplemented.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

Float = NDArray[np.float32]
Vec = tuple[float, float, float]

FAR = np.float32(1e3)


@dataclass(frozen=True)
class Block:
    """Points in the head's frame (mm, x right, y anterior, z superior) within a sphere."""

    x: Float
    y: Float
    z: Float
    centre: Vec
    radius: float

    def near(self, centre: Vec, reach: float) -> bool:
        """Whether any point may lie within ``reach`` mm of ``centre``."""
        x, y, z = self.centre
        return math.dist((x, y, z), centre) < reach + self.radius


class Shape(Protocol):
    """Interface of the shapes for :func:`unite` and :func:`carve`."""

    @property
    def middle(self) -> Vec:
        """Centre of the bounding sphere."""

    @property
    def reach(self) -> float:
        """Radius of the bounding sphere, mm."""

    def distance(self, b: Block) -> Float:
        """Signed distance of each point, mm, negative inside."""


@dataclass(frozen=True)
class Ellipsoid:
    """Axis-aligned ellipsoid. ``radii`` in mm. Distance to first order."""

    middle: Vec
    radii: Vec

    @property
    def reach(self) -> float:
        """Radius of the bounding sphere, mm."""
        return max(self.radii)

    def distance(self, b: Block) -> Float:
        """Signed distance of each point, mm."""
        u = [
            (p - np.float32(c)) / np.float32(r)
            for p, c, r in zip((b.x, b.y, b.z), self.middle, self.radii, strict=True)
        ]
        k0 = np.sqrt(u[0] * u[0] + u[1] * u[1] + u[2] * u[2])
        v = [a / np.float32(r) for a, r in zip(u, self.radii, strict=True)]
        k1 = np.sqrt(v[0] * v[0] + v[1] * v[1] + v[2] * v[2])
        return np.asarray(k0 * (k0 - 1) / (k1 + np.float32(1e-6)), np.float32)


@dataclass(frozen=True)
class Cone:
    """Rounded cone (a capsule if both radii are equal) from ``a`` to ``b``.

    ``stretch`` scales space first: 2 along x makes the cross-section twice as wide as high.
    """

    a: Vec
    b: Vec
    ra: float
    rb: float
    stretch: Vec = (1.0, 1.0, 1.0)
    middle: Vec = field(init=False)
    reach: float = field(init=False)

    def __post_init__(self) -> None:
        a, b = np.array(self.a), np.array(self.b)
        object.__setattr__(self, "middle", tuple((a + b) / 2))
        reach = float(np.linalg.norm(a - b)) / 2 + max(self.ra, self.rb) * max(self.stretch)
        object.__setattr__(self, "reach", reach)

    def distance(self, b: Block) -> Float:
        """Signed distance of each point, mm."""
        s = np.array(self.stretch, np.float32)
        a = np.array(self.a, np.float32) / s
        d = np.array(self.b, np.float32) / s - a
        x, y, z = b.x / s[0] - a[0], b.y / s[1] - a[1], b.z / s[2] - a[2]
        t = np.clip((x * d[0] + y * d[1] + z * d[2]) / np.float32(max(float(d @ d), 1e-6)), 0, 1)
        x, y, z = x - t * d[0], y - t * d[1], z - t * d[2]
        radius = np.float32(self.ra) + t * np.float32(self.rb - self.ra)
        return np.asarray(np.sqrt(x * x + y * y + z * z) - radius, np.float32)


def mirrored(shape: Ellipsoid | Cone) -> tuple[Ellipsoid | Cone, Ellipsoid | Cone]:
    """The shape and its mirror image on the other side of the head."""
    if isinstance(shape, Ellipsoid):
        x, y, z = shape.middle
        return shape, Ellipsoid((-x, y, z), shape.radii)
    (ax, ay, az), (bx, by, bz) = shape.a, shape.b
    return shape, Cone((-ax, ay, az), (-bx, by, bz), shape.ra, shape.rb, shape.stretch)


def smooth_min(a: Float, b: Float, k: float) -> Float:
    """Union of two shapes given by their distances, rounded over about ``k`` mm."""
    h = np.maximum(np.float32(k) - np.abs(a - b), 0) / np.float32(k)
    return np.asarray(np.minimum(a, b) - h * h * np.float32(k / 4), np.float32)


def unite(d: Float, b: Block, shape: Shape, k: float) -> Float:
    """Add ``shape`` to the body ``d``, rounded over ``k`` mm."""
    if not b.near(shape.middle, shape.reach + k):
        return d
    return smooth_min(d, shape.distance(b), k)


def carve(d: Float, b: Block, shape: Shape, k: float) -> Float:
    """Remove ``shape`` from the body ``d``, rounded over ``k`` mm."""
    if not b.near(shape.middle, shape.reach + k):
        return d
    return -smooth_min(-d, shape.distance(b), k)


def nearest(b: Block, shapes: tuple[Ellipsoid | Cone, ...], margin: float = 4.0) -> Float | None:
    """Distance to the union of ``shapes``; None if all are farther than ``margin`` mm."""
    d: Float | None = None
    for s in shapes:
        if b.near(s.middle, s.reach + margin):
            one = s.distance(b)
            d = one if d is None else np.minimum(d, one)
    return d
