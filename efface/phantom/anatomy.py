"""Parametric model of a head: the shape of one person, and the tissue at any point.

Frame of the head: millimetres, x to the right, y to the front, z up; the origin is midway between
the ear canals, and the Frankfurt plane is horizontal. All shapes are analytic functions of the
position, so any grid (orientation, spacing, field of view) is evaluated without resampling.
Proportions follow adult anthropometry: head about 155 wide, 195 long, 220 mm from vertex to chin.
"""

from __future__ import annotations

import dataclasses
import itertools
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from efface.phantom.shapes import (
    FAR,
    Block,
    Cone,
    Ellipsoid,
    Float,
    Vec,
    carve,
    mirrored,
    nearest,
    smooth_min,
    unite,
)
from efface.segment.labels import LABELS

Tissue = NDArray[np.uint8]

AIR, SKIN, FAT, MUSCLE, BONE, MARROW, CSF, GREY, WHITE = range(9)
VITREOUS, LENS, MUCOSA, CARTILAGE, TOOTH, VESSEL, DURA = range(9, 16)
TISSUES = (
    *("air", "skin", "fat", "muscle", "bone", "marrow", "csf", "grey", "white"),
    *("vitreous", "lens", "mucosa", "cartilage", "tooth", "vessel", "dura"),
)

_BLOCK = 28  # voxels along the edge of a block: its arrays fit into the cache of the processor


@dataclass(frozen=True)
class HeadShape:
    """Head shape of one person. Lengths in mm, angles in degrees; defaults: average adult."""

    seed: int = 0
    size: float = 1.0
    cranium_width: float = 77.0
    cranium_length: float = 96.0
    cranium_height: float = 81.0
    forehead: float = 0.0
    brow: float = 0.0
    brow_height: float = 0.0
    face_width: float = 1.0
    face_length: float = 1.0
    eye_half: float = 31.0
    eye_forward: float = 0.0
    lid: float = 1.8
    nose_length: float = 44.0
    nose_projection: float = 20.0
    nose_half: float = 17.0
    nose_hump: float = 0.0
    nose_tilt: float = 0.0
    nose_tip: float = 7.0
    nose_bridge: float = 5.5
    mouth_half: float = 24.0
    lip_upper: float = 4.4
    lip_lower: float = 5.0
    lips_forward: float = 0.0
    chin_forward: float = 0.0
    chin_width: float = 16.0
    chin_drop: float = 0.0
    jaw_half: float = 46.0
    cheek: float = 0.0
    cheek_fat: float = 6.0
    fullness: float = 0.0
    ear_length: float = 62.0
    ear_width: float = 36.0
    ear_flare: float = 24.0
    ear_tilt: float = 12.0
    ear_y: float = 0.0
    ear_z: float = 0.0
    ear_lobe: float = 6.0
    neck: float = 55.0
    fat: float = 3.0
    ventricle: float = 1.0
    warp: tuple[float, ...] = (0.0,) * 18

    @classmethod
    def from_seed(cls, seed: int) -> HeadShape:
        """Shape of the person ``seed``: the same numbers on every machine."""
        rng = np.random.Generator(np.random.PCG64(seed))
        drawn: dict[str, float] = {}
        for f in dataclasses.fields(cls):
            if f.name in _SPREAD:
                # between uniform and normal: clear differences without extreme shapes
                t = float(np.clip(rng.uniform(-1, 1) * 0.8 + rng.normal() * 0.25, -1.2, 1.2))
                drawn[f.name] = float(getattr(cls, f.name)) + t * _SPREAD[f.name]
        warp = tuple(float(w) for w in rng.uniform(-1, 1, 18))
        return cls(seed=seed, warp=warp, **drawn)


_SPREAD = {
    "size": 0.03,
    "cranium_width": 5.0,
    "cranium_length": 6.0,
    "cranium_height": 5.0,
    "forehead": 4.0,
    "brow": 3.0,
    "brow_height": 3.0,
    "face_width": 0.055,
    "face_length": 0.075,
    "eye_half": 2.6,
    "eye_forward": 1.5,
    "lid": 0.5,
    "nose_length": 6.0,
    "nose_projection": 5.0,
    "nose_half": 3.0,
    "nose_hump": 3.2,
    "nose_tilt": 5.0,
    "nose_tip": 1.3,
    "nose_bridge": 1.2,
    "mouth_half": 4.0,
    "lip_upper": 1.6,
    "lip_lower": 1.6,
    "lips_forward": 2.0,
    "chin_forward": 6.0,
    "chin_width": 5.5,
    "chin_drop": 4.5,
    "jaw_half": 6.0,
    "cheek": 3.0,
    "cheek_fat": 3.0,
    "fullness": 3.5,
    "ear_length": 6.0,
    "ear_width": 3.5,
    "ear_flare": 9.0,
    "ear_tilt": 7.0,
    "ear_y": 3.0,
    "ear_z": 4.0,
    "ear_lobe": 1.8,
    "neck": 5.0,
    "fat": 1.0,
    "ventricle": 0.25,
}


@dataclass(frozen=True)
class Ear:
    """A pinna (``side`` +1 right, -1 left): concave plate, helix, antihelix, lobe."""

    side: float
    head: HeadShape

    @property
    def middle(self) -> Vec:
        """Centre of the pinna."""
        h, flare = self.head, np.deg2rad(self.head.ear_flare)
        back = h.ear_width / 2 - 2
        return (
            self.side * (69.0 * h.face_width + back * float(np.sin(flare))),
            6.0 + h.ear_y - back * float(np.cos(flare)),
            6.0 + h.ear_z,
        )

    @property
    def reach(self) -> float:
        """Radius of a sphere around the pinna, mm."""
        return self.head.ear_length / 2 + 12

    def frame(self, b: Block) -> tuple[Float, Float, Float]:
        """Coordinates in the plane of the ear: to the back, up, and out of the head."""
        flare, tilt = np.deg2rad(self.head.ear_flare), np.deg2rad(self.head.ear_tilt)
        c = self.middle
        x, y, z = b.x - np.float32(c[0]), b.y - np.float32(c[1]), b.z - np.float32(c[2])
        cf, sf = np.float32(np.cos(flare)), np.float32(np.sin(flare))
        ct, st = np.float32(np.cos(tilt)), np.float32(np.sin(tilt))
        side = np.float32(self.side)
        back, out = side * sf * x - cf * y, side * cf * x + sf * y
        v, w = ct * back - st * z, ct * z + st * back
        return np.asarray(v, np.float32), np.asarray(w, np.float32), np.asarray(out, np.float32)

    def outline(self, v: Float, w: Float) -> tuple[Float, Float]:
        """Egg-shaped outline: the relative radius, and the distance within the plane (mm)."""
        half, tall = self.head.ear_width / 2, self.head.ear_length / 2
        wide = np.float32(half) * (1 + np.float32(0.2 / tall) * np.clip(w, -tall, tall))
        q = np.sqrt((v / wide) ** 2 + (w / np.float32(tall)) ** 2)
        edge = (q - 1) * np.sqrt(v * v + w * w) / np.maximum(q, np.float32(0.05))
        return np.asarray(q, np.float32), np.asarray(edge, np.float32)

    def distance(self, b: Block) -> Float:
        """Approximate signed distance of each point, mm."""
        half, tall = self.head.ear_width / 2, self.head.ear_length / 2
        v, w, n = self.frame(b)
        q, edge = self.outline(v, w)
        # a concave plate: the concha is deep in the middle front, the rim is turned outwards
        bowl = np.exp(-(((v + 0.15 * half) / (0.55 * half)) ** 2) - ((w + 4) / (0.36 * tall)) ** 2)
        level = np.float32(1.5) * q * q - np.float32(8) * bowl
        d = np.maximum(edge, np.abs(n - level) * np.float32(0.85) - np.float32(1.7))
        # helix: a tube along the rim, absent at the lower front near the face
        tube = np.clip(1.0 - np.clip(-(v + 0.35 * half) / (0.5 * half), 0, 1) * (w < 10), 0.1, 1)
        helix = np.sqrt((edge + 2.2) ** 2 + (n - level - 1.6) ** 2) - np.float32(2.7) * tube
        d = smooth_min(d, helix.astype(np.float32), 1.5)
        # antihelix: an inner ridge on the back half, forked at the top
        ridge = np.sqrt(((q - 0.60) * half) ** 2 + (n - level - 1.2) ** 2)
        on = np.clip((v / half + 0.25) * 3, 0, 1) * np.clip((w / tall + 0.75) * 4, 0, 1)
        d = smooth_min(d, (ridge - 2.5 * on + 1.5 * (1 - on)).astype(np.float32), 2.0)
        lobe = self.head.ear_lobe
        for cv, cw, cn, r in (
            (-0.30 * half, -0.86 * tall, 1.0, (lobe, lobe * 1.25, 2.9)),
            (-0.78 * half, -0.12 * tall, 2.0, (3.5, 5.5, 3.8)),  # tragus
            (-0.35 * half, -2.0, -11.0, (0.55 * half, 0.42 * tall, 8.5)),  # root, to the head
        ):
            k = np.sqrt(((v - cv) / r[0]) ** 2 + ((w - cw) / r[1]) ** 2 + ((n - cn) / r[2]) ** 2)
            d = smooth_min(d, ((k - 1) * min(r)).astype(np.float32), 2.0)
        return np.asarray(d, np.float32)


@dataclass(frozen=True)
class Landmarks:
    """Points on the face, mm in the frame of the head, for shapes and labels."""

    eye: Vec
    nasion: Vec
    tip: Vec
    subnasale: Vec
    mouth: Vec
    chin: Vec


def landmarks(h: HeadShape) -> Landmarks:
    """Positions of the right eye, nose, mouth and chin of ``h``."""
    eye = (h.eye_half, 77.0 + h.eye_forward, 22.0)
    nasion = (0.0, 93.0 + 0.5 * h.brow, 28.0)
    base = nasion[2] - (h.nose_length + 4) * h.face_length
    face = 100.0  # y of the upper lip's base
    tip = (0.0, face + h.nose_projection - h.nose_tip, base + 12 + h.nose_tilt)
    subnasale = (0.0, face, base)
    mouth = (0.0, 98.0 + h.lips_forward, base - 22 * h.face_length)
    chin = (0.0, 80.0 + h.chin_forward, mouth[2] - 31 * h.face_length - h.chin_drop)
    return Landmarks(eye, nasion, tip, subnasale, mouth, chin)


class _Body:
    """The shapes of one head; :meth:`classify` evaluates them for a block of points."""

    def __init__(self, h: HeadShape) -> None:
        self.h = h
        m = self.m = landmarks(h)
        w, fl = h.face_width, h.fullness
        ex, ey, ez = m.eye
        self.ears = (Ear(1.0, h), Ear(-1.0, h))
        jaw_z = m.mouth[2] - 8
        # -- skin: (shape, rounding) joined in turn
        self.skin: list[tuple[Ellipsoid | Cone, float]] = [
            (
                Ellipsoid((0, 50 + h.forehead, 56), (57 * w, 46 + h.brow * 0.3, 46)),
                22,
            ),
            *((s, 14) for s in mirrored(Ellipsoid((46 * w, -2, -8), (25, 40, 44)))),
            (Ellipsoid((0, 44, -8), (58 * w, 46, 52)), 16),
            (Cone((0, -20, -28), (0, -26, -190), h.neck, h.neck + 4, (1.0, 1.1, 1.0)), 34),
            (Ellipsoid((0, -60, -150), (150, 60, 45)), 30),  # shoulders
            *(
                (s, 16)
                for s in mirrored(
                    Cone((h.jaw_half * w, 16, jaw_z), (13, m.chin[1] - 8, m.chin[2] + 6), 17, 13)
                )
            ),
            (Ellipsoid((0, 62, m.mouth[2]), (38 * w, 35, 36)), 14),
            *(
                (s, 14)
                for s in mirrored(Ellipsoid((38 * w, 60 + h.cheek, -4), (24, 22 + h.cheek, 25)))
            ),
            *(
                (s, 18)
                for s in mirrored(Ellipsoid((35 * w, 54 + fl, m.mouth[2] + 10), (22 + fl, 28, 31)))
            ),
            *((s, 16) for s in mirrored(Ellipsoid((48 * w, 24, -26), (18 + fl, 30, 40)))),
            *(
                (s, 12)
                for s in mirrored(
                    Cone(
                        (10, 87.5 + h.brow, 38 + h.brow_height),
                        (40 * w, 76 + h.brow * 0.5, 40 + h.brow_height),
                        8.5,
                        8,
                    )
                )
            ),
            (
                Ellipsoid((0, m.chin[1], m.chin[2] + 4), (h.chin_width + 4, 15, 14)),
                10,
            ),
        ]
        self.sockets = mirrored(Ellipsoid((ex + 1, ey + 23, ez - 1), (16.5, 11.5, 11.0)))
        self.folds = (
            Ellipsoid((0, m.mouth[1] + 4.5, (m.mouth[2] + m.chin[2]) / 2 + 1.5), (15, 7, 5)),
            *mirrored(  # from the wing of the nose to the corner of the mouth
                Cone(
                    (h.nose_half + 6, 101, m.subnasale[2] + 2),
                    (h.mouth_half + 7, 96, m.mouth[2] - 4),
                    3.2,
                    2.6,
                )
            ),
        )
        self.lids = mirrored(Ellipsoid((ex, ey, ez), (13.4 + h.lid,) * 3))
        hump = (
            0.0,
            (m.nasion[1] + m.tip[1]) / 2 + 1 + h.nose_hump,
            (m.nasion[2] + m.tip[2]) / 2 + 3,
        )
        wing = (h.nose_half - 6.2, m.subnasale[1] + 2, m.subnasale[2] + 7)
        self.nose: list[tuple[Ellipsoid | Cone, float]] = [
            (Cone(m.nasion, hump, h.nose_bridge, h.nose_bridge + 0.5, (1.0, 1.0, 1.0)), 7),
            (Cone(hump, m.tip, h.nose_bridge + 0.5, h.nose_tip), 6),
            # the body of the nose, a wedge that widens to the base
            (Cone((0, 88, 20), (0, 97, m.subnasale[2] + 10), 7, 11.0, (0.95, 1, 1)), 7),
            *((s, 8) for s in mirrored(Cone(wing, m.tip, 6.0, 4.5))),
            *((s, 5) for s in mirrored(Ellipsoid(wing, (5.8, 9.5, 6.8)))),
            (Cone((0, m.tip[1] - 2, m.tip[2] - 4), m.subnasale, 4.0, 4.0), 6),
        ]
        nostril_x = 0.42 * h.nose_half
        self.nostrils = mirrored(
            Cone(
                (nostril_x + 0.5, wing[1] + 3, m.subnasale[2] - 4),
                (nostril_x - 2, wing[1] - 8, m.subnasale[2] + 14),
                3.0,
                4.2,
                (0.8, 1.2, 1.0),
            )
        )
        mx, my, mz = h.mouth_half, m.mouth[1], m.mouth[2]
        self.lips: list[tuple[Ellipsoid | Cone, float]] = [
            *(
                (s, 4)
                for s in (
                    *mirrored(Cone((4, my - 1, mz + 4.6), (mx, my - 8, mz - 1), h.lip_upper, 2.6)),
                    *mirrored(Cone((2, my - 2, mz - 5.0), (mx, my - 8, mz - 1), h.lip_lower, 2.8)),
                )
            ),
        ]
        self.slit = tuple(
            s
            for s in mirrored(
                Cone((0, my + 1, mz), (mx - 1, my - 7, mz - 1), 5.0, 3.6, (1, 1, 0.16))
            )
        )
        self.philtrum = Cone(
            (0, m.subnasale[1] + 3.0, m.subnasale[2] - 6), (0, my + 5.5, mz + 9), 1.8, 2.4
        )
        # -- within the head
        self.globes = mirrored(Ellipsoid(m.eye, (12.0, 12.0, 12.0)))
        self.lenses = mirrored(Ellipsoid((ex, ey + 8.2, ez), (4.6, 2.1, 4.6)))
        apex = (14.0, 40.0, 19.0)
        self.orbits = mirrored(Cone((ex, ey - 1, ez), apex, 17.0, 5.0))
        self.nerves = mirrored(Cone((ex - 2, ey - 12, ez), apex, 2.4, 2.2))
        rectus: list[Ellipsoid | Cone] = []
        for dx, dz in ((11, 0), (-11, 0), (0, 11), (0, -11)):
            rectus += mirrored(
                Cone((ex + dx * 1.1, ey, ez + dz * 1.1), (14 + dx * 0.25, 42, 19 + dz * 0.25), 2, 2)
            )
        self.recti = tuple(rectus)
        floor = m.subnasale[2] + 3
        self.nasal = (
            Cone((0, 48, floor + 4), (0, 88, floor + 5), 11, 10, (1.1, 1, 1)),
            Cone((0, 46, floor + 22), (0, 84, floor + 26), 8, 6, (0.8, 1, 1.5)),
        )
        self.turbinates = (
            *mirrored(Cone((9, 48, floor), (8, 82, floor + 1), 5.0, 3.5, (0.75, 1, 1.2))),
            *mirrored(Cone((8, 46, floor + 14), (6, 76, floor + 15), 4.0, 2.5, (0.7, 1, 1.4))),
        )
        self.sinuses = (
            *mirrored(Ellipsoid((28 * w, 60, -10), (13, 17, 17))),
            *mirrored(Ellipsoid((11, 87.5 + h.brow + h.forehead * 0.3, 39), (10, 4, 9))),
            *mirrored(Ellipsoid((8, 24, 12), (9, 11, 10))),
        )
        self.ethmoid = mirrored(Ellipsoid((7.5, 60, 20), (6.5, 21, 11)))
        self.pharynx = (
            Cone((0, 40, floor + 6), (0, 22, floor - 8), 9, 7, (1.3, 1, 1)),
            Cone((0, 22, floor - 8), (0, 14, mz - 20), 5.5, 5.5, (1.9, 0.9, 1)),
            Cone((0, 14, mz - 20), (0, 12, -200), 7, 9, (1.3, 1.0, 1)),
        )
        self.canals = mirrored(Cone((74 * w, 3, 1), (34, 6, 2), 3.2, 2.4))
        self.mastoids = mirrored(Ellipsoid((50 * w, -18, -6), (12, 14, 17)))
        self.petrous = mirrored(Cone((52, -10, 3), (18, 10, 4), 10, 6))
        palate = floor - 7
        self.mandible = (
            *mirrored(
                Cone((h.jaw_half * w, 18, jaw_z + 2), (9, m.chin[1] - 2, m.chin[2] + 7), 8, 8)
            ),
            *mirrored(Cone((h.jaw_half * w, 18, jaw_z), (49 * w, 12, -4), 7, 6, (0.7, 1.3, 1))),
            Cone((-9, m.chin[1] - 2, m.chin[2] + 7), (9, m.chin[1] - 2, m.chin[2] + 7), 8, 8),
        )
        self.face_bone = (
            Ellipsoid((0, 62, palate + 1), (25, 32, 4.5)),
            *mirrored(Cone((26, 76, -4), (19, 87, 2), 7, 5)),
            *mirrored(Cone((34 * w, 74, -3), (54 * w, 52, 0), 8, 6)),
            *mirrored(Cone((54 * w, 52, 0), (63 * w, 14, 1), 5, 4, (0.7, 1, 1.2))),
            *mirrored(Cone((50 * w, 68, 8), (46 * w, 72, 40), 6, 6)),
            *mirrored(Cone((8, 86.5 + 0.5 * h.brow, 34), (44, 74, 40), 7, 7)),
            Cone((0, 84, 34), (0, 93, 12), 6, 3),
            Cone((0, 12, 4), (0, 2, -22), 11, 9, (1.5, 1, 1)),  # clivus
            *mirrored(Cone((22, 38, -28), (20, 34, 2), 3, 5)),  # pterygoid
        )
        self.spine = (
            Cone((0, -4, -28), (0, -8, -200), 11, 13, (1.25, 0.95, 1)),
            Cone((0, -44, -62), (0, -58, -200), 5, 7, (0.7, 1.9, 1)),
        )
        self.cord = (Cone((0, -24, -10), (0, -30, -200), 10, 9, (1.2, 1, 1)),)
        self.vessels = (
            *mirrored(Cone((25, 6, -20), (33, 8, -200), 3.0, 3.4)),
            *mirrored(Cone((34, -2, -20), (42, 4, -200), 4.0, 5.0)),
        )
        self.tongue = (
            Ellipsoid((0, 52, mz - 2), (23, 33, 19)),
            Cone((0, 40, mz - 8), (0, 62, m.chin[2] + 8), 15, 9, (1.4, 1, 1)),
        )
        self.mouth_air = (Ellipsoid((0, 54, mz + 4), (26, 35, 16)),)
        self.arch = (palate - 2, mz - 13.5, my - 11)  # top and bottom of the teeth; front y
        # -- intracranial
        cw, cl, ch = h.cranium_width - 13, h.cranium_length - 13, h.cranium_height - 13
        self.cranium = Ellipsoid((0, 0, 48), (h.cranium_width, h.cranium_length, h.cranium_height))
        self.intracranial: list[tuple[Ellipsoid | Cone, float]] = [
            (Ellipsoid((0, 24 + h.forehead * 0.8, 56), (54 * w, 57, 43)), 12),
            *((s, 10) for s in mirrored(Ellipsoid((39, 18, 21), (24, 34, 26)))),
            (Ellipsoid((0, -46, 5), (49, 34, 31)), 8),
            (Cone((0, -8, 10), (0, -22, -32), 16, 10), 6),
        ]
        self.vault = Ellipsoid((0, 0, 49), (cw, cl, ch))
        self.cerebellum = (
            *mirrored(Ellipsoid((21, -46, 3), (26.5, 30, 27))),
            Ellipsoid((0, -44, 4), (14, 25, 22)),
        )
        self.stem = (
            Cone((0, -8, 34), (0, -6, 12), 11, 13, (1.2, 1, 1)),
            Cone((0, -6, 12), (0, -18, -14), 13.5, 8.5, (1.15, 1, 1)),
            Cone((0, -18, -14), (0, -25, -60), 7.5, 6.0, (1.15, 1, 1)),
        )
        v = h.ventricle
        self.ventricles = (
            *mirrored(Cone((8, 30, 56), (9, 8, 63), 4.5 * v, 4.5 * v, (0.8, 1.2, 1))),
            *mirrored(Cone((9, 8, 63), (15, -24, 63), 4.5 * v, 5 * v)),
            *mirrored(Cone((15, -24, 63), (26, -38, 50), 5 * v, 5.5 * v)),
            *mirrored(Cone((26, -38, 50), (32, -8, 28), 4 * v, 2.2 * v)),
            *mirrored(Cone((24, -42, 50), (20, -60, 50), 4 * v, 2 * v)),
            Cone((0, 10, 46), (0, -16, 50), 6, 6, (0.35 * v, 1, 1)),
            Cone((0, -24, 8), (0, -27, -2), 5, 3, (1.4, 0.6, 1)),
        )
        self.nuclei = (
            *mirrored(Ellipsoid((11, -9, 50), (8.5, 14, 9))),
            *mirrored(Ellipsoid((25, 8, 47), (5.5, 18, 11))),
            *mirrored(Cone((13, 26, 53), (17, -6, 64), 4.5, 2.5)),
        )
        self.cisterns = (
            Ellipsoid((0, 14, 27), (11, 8, 7)),
            Ellipsoid((0, -24, 36), (11, 5, 7)),
            Ellipsoid((0, -42, -26), (16, 10, 7)),
        )
        self.sylvian = mirrored(Cone((24, 24, 30), (62, -8, 44), 2.0, 2.6, (1, 1.0, 1)))

    # -- distances ------------------------------------------------------------------------------

    def _egg(self, b: Block) -> Block:
        """Taper the cranium, which is broader at the back than at the front."""
        taper = 1 + np.float32(0.0011) * np.clip(b.y, -90, 90)
        return Block(b.x * taper, b.y, b.z, b.centre, b.radius * 1.2 + 8)

    def base(self, b: Block) -> Float:
        """Distance to the closed skin without nose, ears and lips."""
        d = self.cranium.distance(self._egg(b))
        for shape, k in self.skin:
            d = unite(d, b, shape, k)
        for shape in self.sockets:
            d = carve(d, b, shape, 9)
        for shape in self.folds:
            d = carve(d, b, shape, 7)
        for shape in self.lids:
            d = unite(d, b, shape, 4)
        return d

    def closed(self, b: Block, base: Float) -> Float:
        """Distance to the skin with nose, lips and ears, with closed openings."""
        d = base
        for shape, k in (*self.nose, *self.lips):
            d = unite(d, b, shape, k)
        d = carve(d, b, self.philtrum, 3)
        for ear in self.ears:
            d = unite(d, b, ear, 3)
        return d

    def brain_case(self, b: Block, base: Float) -> Float:
        """Distance to the inner surface of the skull."""
        if not b.near((0, -3, 30), 115):
            return np.full_like(b.x, FAR)
        d = self.vault.distance(self._egg(b))
        # the lower half of the vault is replaced by the middle and posterior fossae
        d = np.maximum(d, np.float32(18) - b.z - np.float32(0.25) * b.y)
        for shape, k in self.intracranial:
            d = unite(d, b, shape, k)
        for orbit in self.orbits:
            d = carve(d, b, orbit, 8)
        d = np.maximum(d, np.float32(-36) - b.z)
        return np.asarray(np.maximum(d, base + np.float32(9.5)), np.float32)

    # -- tissues --------------------------------------------------------------------------------

    def classify(
        self, b: Block, mm: float, *, labels_only: bool = False
    ) -> tuple[Tissue, Tissue, Float]:
        """Tissue, label, and fraction of the voxel of ``mm`` that is not air, at each point."""
        base = self.base(b)
        closed = self.closed(b, base)
        case = self.brain_case(b, base)
        labels = self._labels(b, base, closed, case)
        if labels_only:
            return labels, labels, closed
        t = self._soft(b, base, closed)
        self._bones(b, t, closed, case)
        self._airways(b, t, closed)
        self._mouth(b, t, closed)
        self._neck(b, t, closed)
        self._eyes(b, t, closed, case)
        self._brain(b, t, case)
        cover = np.clip(np.float32(0.5) - closed / np.float32(mm), 0, 1)
        t[cover == 0] = AIR
        return t, labels, cover

    def _labels(self, b: Block, base: Float, closed: Float, case: Float) -> Tissue:
        m, h = self.m, self.h
        head = closed < 0
        out = np.zeros(b.x.shape, np.uint8)
        side = np.abs(b.x)
        z_base, z_top = m.subnasale[2] - 2.0, m.nasion[2] + 1.0
        # mouth and chin: the outer 14 mm under the nose
        if b.near((0, 85, m.mouth[2] - 10), 70):
            front = (closed > -14) & (b.y > m.chin[1] - 14) & (side < 34)
            mouth = head & front & (b.z < z_base + 1) & (b.z > m.chin[2] - 10)
            out[mouth] = LABELS["mouth"]
        if b.near((0, 95, 0), 60):
            # a ramp from the root of the nose to its base, some mm behind the skin of the face
            f = np.clip((b.z - z_base) / np.float32(z_top - z_base), 0, 1)
            ramp = np.float32(m.subnasale[1] - 6) + f * np.float32(m.nasion[1] - m.subnasale[1] + 2)
            nose = head & (side < h.nose_half + 4) & (b.z > z_base) & (b.z < z_top) & (b.y > ramp)
            out[nose] = LABELS["nose"]
        for ear in self.ears:
            if b.near(ear.middle, ear.reach + 8):
                v, w, n = ear.frame(b)
                q, _ = ear.outline(v, w)
                pinna = head & (q < 1.12) & ((base > 0) | (base > -12)) & (n > -22)
                out[pinna] = LABELS["ears"]
        for globe in self.globes:
            if b.near(globe.middle, 28):
                x, y, z = (
                    p - np.float32(c) for p, c in zip((b.x, b.y, b.z), globe.middle, strict=True)
                )
                disc = x * x + z * z
                ball = disc + y * y < 12.6**2
                lid = (disc < 12.6**2) & (y > 0) & (y < 20)
                out[head & (ball | lid)] = LABELS["eyes"]
        out[head & (case < 0)] = LABELS["brain"]
        return out

    def _soft(self, b: Block, base: Float, closed: Float) -> Tissue:
        """Skin, subcutaneous fat, and muscle with fat in between."""
        t = np.full(b.x.shape, MUSCLE, np.uint8)
        # septa between muscles run along the neck
        ripple = _ripples(Block(b.x, b.y, b.z * np.float32(0.25), b.centre, b.radius), 26.0, 0.3)
        t[np.abs(ripple) < 0.055] = FAT
        cheek = np.exp(
            -(((np.abs(b.x) - 40) / 22) ** 2) - ((b.y - 55) / 24) ** 2 - ((b.z + 22) / 24) ** 2
        )
        nape = np.exp(-(((b.y + 70) / 28) ** 2) - ((b.z + 60) / 50) ** 2)
        thin = np.exp(-((b.x / 26) ** 2) - ((b.y - 104) / 16) ** 2 - ((b.z + 5) / 30) ** 2)
        thick = np.float32(self.h.fat) + self.h.cheek_fat * cheek + 7 * nape
        thick = thick * (1 - 0.55 * thin) + 1.7
        t[(closed > -thick) & (closed < 0)] = FAT
        t[closed > -1.7] = SKIN
        t[(base > 0) & (closed < -2.6)] = CARTILAGE  # within nose and ears
        return t

    def _bones(self, b: Block, t: Tissue, closed: Float, case: Float) -> None:
        deep = closed < -3.0
        shell = (case < 7.5) & (case >= 0) & (closed < -4.2)
        t[shell] = BONE
        diploe = (case > 2.4) & (case < 5.0) & shell & (b.z > 12)
        t[diploe] = MARROW
        for group in (self.face_bone, self.mandible, self.spine):
            d = nearest(b, group)
            if d is not None:
                t[(d < 0) & deep] = BONE
                t[(d < -1.9) & deep] = MARROW
        if b.near((0, -6, -110), 100):
            disc = (np.mod(b.z, 18.0) < 4.0) & (b.z < -50)
            d = nearest(b, self.spine[:1])
            if d is not None:
                t[(d < -1) & disc & deep] = CARTILAGE
        d = nearest(b, self.petrous)
        if d is not None:
            t[(d < 0) & deep] = BONE
        d = nearest(b, self.mastoids)
        if d is not None:
            cells = _ripples(b, 7.0, 0.9) > 0.0
            t[(d < 0) & deep] = BONE
            t[(d < -1) & deep & cells] = AIR

    def _airways(self, b: Block, t: Tissue, closed: Float) -> None:
        deep = closed < -2.2
        for group, lining in ((self.nasal, 1.5), (self.sinuses, 1.0), (self.pharynx, 1.2)):
            d = nearest(b, group)
            if d is not None:
                t[(d < lining) & (d > 0) & deep] = MUCOSA
                t[(d <= 0) & deep] = AIR
        d = nearest(b, self.ethmoid)
        if d is not None:
            wall = np.abs(_ripples(b, 11.0, 0.5)) < 0.12
            t[(d < 0) & deep] = AIR
            t[(d < 0) & deep & wall] = MUCOSA
        d = nearest(b, self.nasal)
        if d is not None:
            septum = (np.abs(b.x) < 1.4) & (d < 0) & deep
            t[septum] = MUCOSA
            d = nearest(b, self.turbinates)
            if d is not None:
                t[(d < 0) & (np.abs(b.x) > 2.4) & deep] = MUCOSA
        d = nearest(b, self.nostrils)
        if d is not None:
            t[d < 0] = AIR
        d = nearest(b, self.canals)
        if d is not None:
            t[d < 0] = AIR

    def _mouth(self, b: Block, t: Tissue, closed: Float) -> None:
        if not b.near((0, 60, self.m.mouth[2]), 70):
            return
        deep = closed < -4.0
        top, bottom, front = self.arch
        d = nearest(b, self.mouth_air)
        if d is not None:
            t[(d < 1.5) & deep] = MUCOSA
            t[(d < 0) & deep & (b.z < top)] = AIR
        d = nearest(b, self.tongue)
        if d is not None:
            t[(d < 0) & deep] = MUSCLE
            t[(d < -2) & deep & (np.abs(_ripples(b, 9.0, 0.2)) < 0.16)] = FAT
        # teeth: a parabolic arch
        sag = np.float32(front) - b.x * b.x / np.float32(26.0)
        slope = np.sqrt(1 + (b.x / np.float32(13.0)) ** 2)
        row = np.abs(b.y - sag + 4) / slope
        teeth = (row < 3.4) & (b.z < top) & (b.z > bottom) & (b.y > 40) & deep
        gap = np.abs(b.z - np.float32(self.m.mouth[2])) < 0.8
        t[teeth] = TOOTH
        t[teeth & gap] = AIR
        d = nearest(b, self.slit)
        if d is not None:
            t[(d < 0) & (b.y > front - 4)] = AIR

    def _neck(self, b: Block, t: Tissue, closed: Float) -> None:
        deep = closed < -4.0
        d = nearest(b, self.vessels)
        if d is not None:
            t[(d < 0) & deep & (b.z < -12)] = VESSEL
        d = nearest(b, self.cord)
        if d is not None:
            t[(d < 1.5) & deep & (b.z < -20)] = BONE
            t[(d < 0) & deep] = CSF
            stem = nearest(b, self.stem)
            if stem is not None:
                t[(stem < 0) & deep] = WHITE
        # the cord goes on below the stem
        d = nearest(b, (Cone((0, -25, -50), (0, -30, -200), 6, 5.5, (1.2, 1, 1)),))
        if d is not None:
            t[(d < 0) & deep] = WHITE

    def _eyes(self, b: Block, t: Tissue, closed: Float, case: Float) -> None:
        d = nearest(b, self.orbits)
        if d is None:
            return
        deep = (closed < -1.8) & (case > 1.0)
        t[(d < 1.2) & (d >= 0) & (b.y < self.m.eye[1] + 2) & deep] = BONE
        t[(d < 0) & deep] = FAT
        for group, tissue, skin in (
            (self.recti, MUSCLE, 0.0),
            (self.nerves, CSF, 0.0),
            (self.nerves, WHITE, -1.0),
            (self.globes, MUSCLE, 1.0),
            (self.globes, VITREOUS, 0.0),
            (self.lenses, LENS, 0.0),
        ):
            d = nearest(b, group)
            if d is not None:
                t[(d < skin) & deep] = tissue
        for globe in self.globes:
            if b.near(globe.middle, 20):
                r = globe.distance(b)
                f = np.abs(b.z - np.float32(globe.middle[2] - 2) - np.float32(0.02) * r)
                line = (f < 0.75) & (r > 1.6) & (closed > -3.5) & (b.y > globe.middle[1] + 4)
                t[line & (np.abs(b.x - np.float32(globe.middle[0])) < 13)] = AIR

    def _brain(self, b: Block, t: Tissue, case: Float) -> None:
        inside = case < 0
        if not inside.any():
            return
        depth = -case
        side = np.abs(b.x)
        # cerebral cortex: sulci are the level sheet of a warped gyroid, open to the surface
        g, slope = _gyroid(b, self.h.warp)
        sheet = np.abs(g) * slope
        hemi = np.abs(
            b.x - np.float32(1.4) * np.sin(b.y * np.float32(0.07) + b.z * np.float32(0.09))
        )
        inner = (
            ((b.y + 4) / 42) ** 2 + ((b.z - 47) / 24) ** 2 + (b.x / 40) ** 4
        )  # callosum, basal ganglia: no sulci
        reach = np.where(inner < 1.0, np.float32(0), np.float32(17))
        t[inside] = WHITE
        grey = (sheet < 3.2) & (depth < reach)
        grey |= depth < 2.2 + 2.8
        split = (inner > 1.0) & (b.z > 22)
        grey |= (hemi < 3.8) & split
        t[inside & grey] = GREY
        d = nearest(b, self.sylvian, 8)
        if d is not None:
            t[inside & (d < 3.0)] = GREY
            t[inside & (d < 0)] = CSF
        for group, tissue in ((self.nuclei, GREY), (self.ventricles, CSF), (self.cisterns, CSF)):
            d = nearest(b, group)
            if d is not None:
                t[inside & (d < 0)] = tissue
        wet = (sheet < 0.75 + 0.5 * (depth < 6)) & (depth < reach - 2)
        wet |= (hemi < 0.7) & split
        wet |= depth < 2.0 + 0.8 * np.clip(g, -1, 1)
        t[inside & wet] = CSF
        # below the tentorium: cerebellum and stem in fluid
        low = b.z < 27 - 0.30 * np.clip(-b.y - 20, 0, 60) - 0.012 * b.x * b.x
        low &= (b.y < 6) & (side < 56)
        low |= (b.z < -4) & (b.y < 4)
        t[inside & low] = CSF
        d = nearest(b, self.cerebellum)
        if d is not None:
            leaf = np.sin(
                (b.z * 0.92 - b.y * 0.38 + 1.5 * np.sin(b.x / 9)) * np.float32(2 * np.pi / 6.5)
            )
            c = inside & (d < 0)
            t[c] = GREY
            t[c & (d < -4) & (leaf > 0.45)] = WHITE
            t[c & (d < -10)] = WHITE
            t[c & (leaf < -0.86) & (d > -7)] = CSF
        d = nearest(b, self.stem)
        if d is not None:
            t[inside & (d < 0) & (b.z < 36)] = WHITE
        d = nearest(b, self.ventricles[-1:])
        if d is not None:
            t[inside & (d < 0)] = CSF
        t[inside & (depth < 0.9)] = DURA


def _ripples(b: Block, length: float, phase: float) -> Float:
    """A smooth pattern between -1 and 1 with structures of about ``length`` mm."""
    k = np.float32(2 * np.pi / length)
    p = np.float32(phase)
    a = np.sin(b.x * k + 2 * np.sin(b.y * k * np.float32(0.37) + p))
    c = np.sin(b.y * k * np.float32(0.83) + 2 * np.sin(b.z * k * np.float32(0.41) + p))
    e = np.sin(b.z * k * np.float32(0.91) + 2 * np.sin(b.x * k * np.float32(0.33) + p))
    return np.asarray((a + c + e) / 3, np.float32)


def _gyroid(b: Block, warp: tuple[float, ...]) -> tuple[Float, float]:
    """A gyroid with the phases of the person, and the factor from its value to mm."""
    k = np.float32(2 * np.pi / 25.0)
    p = [np.float32(3 * w) for w in warp[9:18]]
    x = b.x * k + np.float32(0.9) * np.sin(b.y * np.float32(0.11) + p[0]) + p[1]
    y = b.y * k + np.float32(0.9) * np.sin(b.z * np.float32(0.12) + p[2]) + p[3]
    z = b.z * k + np.float32(0.9) * np.sin(b.x * np.float32(0.10) + p[4]) + p[5]
    g = np.sin(x) * np.cos(y) + np.sin(y) * np.cos(z) + np.sin(z) * np.cos(x)
    return np.asarray(g, np.float32), float(1 / (k * 1.45))


def _bend(h: HeadShape, x: Float, y: Float, z: Float) -> tuple[Float, Float, Float]:
    """Asymmetry of the person: a smooth displacement by about 1.5 mm."""
    w = [np.float32(v) for v in h.warp]
    k = np.float32(2 * np.pi / 95)
    s = np.float32(1.1)
    dx = s * (w[0] * np.sin(y * k + 3 * w[1]) + w[2] * np.sin(z * k + 3 * w[3]))
    dy = s * (w[4] * np.sin(x * k + 3 * w[5]))
    dz = s * (w[6] * np.sin(x * k + 3 * w[7]) + w[8] * np.sin(y * k))
    return x + dx, y + dy, z + dz


def tissues(
    head: HeadShape, shape: tuple[int, int, int], affine: NDArray[np.floating]
) -> tuple[Tissue, Tissue, Float]:
    """Tissue (index into :data:`TISSUES`), label and cover of each voxel, arrays of ``shape``.

    ``affine`` maps voxel indices to the frame of the head in mm. Labels are those of
    :data:`efface.segment.labels.LABELS`: 1 brain (all within the skull), 2 eyes (globe and lids),
    3 nose, 4 ears (the pinna and 12 mm below the skin), 5 mouth and chin (the outer 14 mm).
    Cover (0 to 1) is the fraction of the voxel inside the skin; the rest is air.
    """
    return _evaluate(head, shape, affine, labels_only=False)


def labels_of(head: HeadShape, shape: tuple[int, int, int], affine: NDArray[np.floating]) -> Tissue:
    """Labels of each voxel; faster than :func:`tissues`."""
    return _evaluate(head, shape, affine, labels_only=True)[1]


def _evaluate(
    head: HeadShape, shape: tuple[int, int, int], affine: NDArray[np.floating], *, labels_only: bool
) -> tuple[Tissue, Tissue, Float]:
    body = _Body(head)
    tissue, labels = np.zeros(shape, np.uint8), np.zeros(shape, np.uint8)
    cover = np.zeros(shape, np.float32)
    a = np.asarray(affine, np.float64).copy()
    a[:3] /= head.size
    mm = float(np.cbrt(np.abs(np.linalg.det(a[:3, :3]))))
    starts = [range(0, n, _BLOCK) for n in shape]
    for corner in itertools.product(*starts):
        at = tuple(slice(c, min(c + _BLOCK, n)) for c, n in zip(corner, shape, strict=True))
        block = _block(head, a, at)
        if not _empty(block):
            tissue[at], labels[at], cover[at] = body.classify(block, mm, labels_only=labels_only)
    return tissue, labels, cover


def _block(head: HeadShape, a: NDArray[np.float64], at: tuple[slice, ...]) -> Block:
    i, j, k = np.ogrid[at]
    m = a.astype(np.float32)
    x, y, z = (m[r, 0] * i + m[r, 1] * j + m[r, 2] * k + m[r, 3] for r in range(3))
    x, y, z = (np.asarray(v, np.float32) for v in (x, y, z))
    middle = np.array([(s.start + s.stop - 1) / 2 for s in at])
    half = np.array([(s.stop - 1 - s.start) / 2 for s in at])
    # the farthest corner; the bend adds up to 2.2 mm along each axis
    corners = np.array(np.meshgrid((-1, 1), (-1, 1), (-1, 1))).reshape(3, -1) * half[:, None]
    radius = float(np.linalg.norm(a[:3, :3] @ corners, axis=0).max()) + 4.0
    cx, cy, cz = (float(c) for c in a[:3, :3] @ middle + a[:3, 3])
    x, y, z = _bend(head, x, y, z)
    return Block(x, y, z, (cx, cy, cz), radius)


def _empty(b: Block) -> bool:
    """Whether a block certainly contains only air."""
    x, y, z = (np.array([c], np.float32) for c in b.centre)
    point = Block(x, y, z, b.centre, 0.0)
    whole = (Ellipsoid((0, 5, 20), (100, 125, 122)), Ellipsoid((0, -40, -150), (160, 130, 130)))
    return all(float(s.distance(point)[0]) > 1.3 * b.radius for s in whole)
