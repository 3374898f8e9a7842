"""Transformations of one head, and images that are not a head, to evaluate the model on.

Every case is an image as a file would hold it, with the labels that are true on its grid. Lengths
are millimetres. A head comes with voxels of about 2 mm or finer, axes as they may be.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import permutations, product
from typing import Any

import nibabel as nib
import numpy as np
from nibabel.orientations import apply_orientation, inv_ornt_aff
from numpy.typing import NDArray
from scipy import ndimage
from scipy.spatial.transform import Rotation

from efface.segment.geometry import voxel_sizes
from efface.segment.labels import LABELS
from efface.segment.masks import largest_component

Floats = NDArray[np.float32]
Labels = NDArray[np.uint8]
Affine = NDArray[np.float64]


@dataclass(frozen=True)
class Case:
    """An image to deface, and its true labels."""

    group: str
    """The row of the evaluation's table."""
    name: str
    image: nib.Nifti1Image
    truth: Labels
    """On the image's grid (X, Y, Z); empty if it is not a head."""
    head: bool = True
    """Whether it is a head; else it must not pass."""


@dataclass(frozen=True)
class Head:
    """A head in RAS order: intensities 0 to about 1 (X, Y, Z), labels, affine."""

    v: Floats
    labels: Labels
    affine: Affine


def head(img: nib.Nifti1Image, labels: Labels) -> Head:
    """Return a head from an image (3D) and labels on its grid."""
    ornt = nib.io_orientation(img.affine)
    v = img.get_fdata(dtype=np.float32)
    affine = img.affine @ inv_ornt_aff(ornt, img.shape)
    top = float(np.percentile(v, 99.5)) or 1.0
    return Head(
        np.ascontiguousarray(apply_orientation(v, ornt) / np.float32(top)),
        np.ascontiguousarray(apply_orientation(labels, ornt)),
        affine,
    )


def cases(h: Head, seed: int = 0) -> Iterator[Case]:
    """Yield all cases of a head."""
    rng = np.random.default_rng(seed)
    yield case("as it is", "", h)
    for group, name, other in [
        *_orientations(h),
        *_oblique(h),
        *(("position other than the header tells", name, other) for name, other in positions(h)),
        *_spacings(h),
        *_views(h),
        *_faults(h, rng),
        *_wrapped(h),
        *((f"contrast {name}", "", other) for name, other in contrasts(h, rng)),
    ]:
        yield case(group, name, other)
    yield from _stored(h)


def no_heads(h: Head, defaced: Floats, seed: int = 0) -> Iterator[Case]:
    """Yield cases that must never pass; ``defaced``: the voxels of ``h`` after distorting."""
    rng = np.random.default_rng(seed)
    shape = h.v.shape
    at = np.stack(np.meshgrid(*[np.arange(n) - n / 2 for n in shape], indexing="ij"), -1) * 2.0
    noise = rng.random(shape).astype(np.float32)
    sphere = (np.linalg.norm(at, axis=-1) < 80).astype(np.float32)
    knee = np.zeros(shape, np.float32)
    for x in (-45.0, 45.0):
        r = np.hypot(at[..., 0] - x, at[..., 1])
        knee += (r < 40) * np.float32(0.8) - (r < 14) * np.float32(0.5)
    organs = ndimage.binary_dilation(h.labels > 1, iterations=4) & (h.labels != 1)
    things = {
        "sphere": sphere + 0.05 * noise,
        "knees": knee + 0.05 * noise,
        "noise": noise,
        "nothing": np.zeros_like(h.v),
        "stripped brain": h.v * (h.labels == LABELS["brain"]),
        "defaced by efface": defaced,
        "face zeroed": np.where(organs, 0, h.v).astype(np.float32),
    }
    nothing = np.zeros(shape, np.uint8)
    for name, v in things.items():
        yield Case("no head", name, _image(v, h.affine), nothing, head=False)


def case(group: str, name: str, h: Head) -> Case:
    """Return a case with the image that a file of the head would hold."""
    return Case(group, name, _image(h.v, h.affine), h.labels)


def _image(v: Floats, affine: Affine, dtype: Any = np.int16) -> nib.Nifti1Image:  # noqa: ANN401
    top = float(np.abs(v).max()) or 1.0
    if np.dtype(dtype).kind in "iu":
        v = np.rint(v * (1000 / top if np.iinfo(dtype).max > 1000 else 250 / top))
    return nib.Nifti1Image(np.asarray(v).astype(dtype), affine)


def _orientations(h: Head) -> Iterator[tuple[str, str, Head]]:
    for order in permutations(range(3)):
        for flips in product((1, -1), repeat=3):
            ornt = np.array([*zip(order, flips, strict=True)])
            affine = h.affine @ inv_ornt_aff(ornt, h.v.shape)
            name = "".join("RAS"[a] if f > 0 else "LPI"[a] for a, f in ornt)
            v, labels = apply_orientation(h.v, ornt), apply_orientation(h.labels, ornt)
            yield "48 axis orders and flips", name, Head(v, labels, affine)


def _on(h: Head, affine: Affine, shape: tuple[int, ...]) -> Head:
    """Resample the head to another grid of the same world."""
    m = np.linalg.inv(h.affine) @ affine
    args: dict[str, Any] = {"output_shape": tuple(int(n) for n in shape)}
    return Head(
        ndimage.affine_transform(h.v, m[:3, :3], m[:3, 3], order=1, **args),
        ndimage.affine_transform(h.labels, m[:3, :3], m[:3, 3], order=0, **args),
        affine,
    )


def _oblique(h: Head) -> Iterator[tuple[str, str, Head]]:
    for axis, degrees in product("xyz", (-30, 30)):
        turn = np.eye(4)
        turn[:3, :3] = Rotation.from_euler(axis, degrees, degrees=True).as_matrix()
        yield "oblique ±30°", f"{axis} {degrees}", on_turned_grid(h, turn)


def on_turned_grid(h: Head, turn: Affine) -> Head:
    """Resample the head to its grid rotated (4, 4) about the middle; the head does not move."""
    centre = h.affine @ [*(np.array(h.v.shape) - 1) / 2, 1]
    affine = turn @ h.affine
    affine[:3, 3] += (centre - affine @ [*(np.array(h.v.shape) - 1) / 2, 1])[:3]
    return _on(h, affine, h.v.shape)


def positions(h: Head) -> Iterator[tuple[str, Head]]:
    """Yield the head in other orientations than the header states: its affine is wrong."""
    for name, turns in (("prone", 2), ("left side", 1), ("right side", 3), ("feet first", 0)):
        axis = "z" if turns else "y"
        turn = np.eye(4)
        turn[:3, :3] = Rotation.from_euler(axis, 90 * (turns or 2), degrees=True).as_matrix()
        yield name, Head(h.v, h.labels, turn @ h.affine)


def within(h: Head, axis: int, start: int, stop: int) -> Head:
    """Cut the head by the field of view: slices ``start`` to ``stop`` along an axis."""
    cut: list[slice] = [slice(None)] * 3
    cut[axis] = slice(start, stop)
    affine = h.affine.copy()
    affine[:3, 3] += affine[:3, axis] * start
    return Head(h.v[tuple(cut)], h.labels[tuple(cut)], affine)


def _spacings(h: Head) -> Iterator[tuple[str, str, Head]]:
    size = voxel_sizes(h.affine)
    for mm in (0.5, 1.0, 2.0, 4.0):
        yield f"{mm:g} mm", "", resampled(h, size, np.full(3, mm))
    for thick, (axis, plane) in product(
        (5.0, 7.0), enumerate(("sagittal", "coronal", "transverse"))
    ):
        voxel = np.where(np.arange(3) == axis, thick, 1.0)
        yield f"1 x 1 x {thick:g} mm", plane, resampled(h, size, voxel)


def resampled(h: Head, size: Affine, mm: Affine) -> Head:
    """Resample to voxels of ``mm``: averaged where coarser, interpolated where finer."""
    sigma = [
        max(0.0, float(np.sqrt(max((m / s) ** 2 - 1, 0)) / 3.5))
        for m, s in zip(mm, size, strict=True)
    ]
    smooth = Head(ndimage.gaussian_filter(h.v, sigma), h.labels, h.affine)
    ratio = np.array(mm) / size
    affine = h.affine @ np.diag([*ratio, 1.0])
    affine[:3, 3] += h.affine[:3, :3] @ ((ratio - 1) / 2)
    shape = np.maximum(2, np.floor(np.array(h.v.shape) / ratio)).astype(int)
    return _on(smooth, affine, tuple(shape))


def _views(h: Head) -> Iterator[tuple[str, str, Head]]:
    """Yield fields of view that cut the head; the axes are right, anterior, superior."""
    where = {n: np.argwhere(h.labels == k) for n, k in LABELS.items()}
    n = h.v.shape
    middle = n[0] // 2
    nose = where["nose"][:, 1] if len(where["nose"]) else np.array([n[1] - 1])
    left = where["ears"][where["ears"][:, 0] < middle][:, 0]
    ear = int(np.median(left)) if len(left) else n[0] // 8
    eyes = where["eyes"][:, 2] if len(where["eyes"]) else np.array([n[2] // 2])
    crown = where["brain"][:, 2]
    cuts = {
        "at the nose tip": (1, 0, int(np.median(nose))),
        "at one ear": (0, ear, n[0]),
        "below the orbits": (2, int(eyes.min()), n[2]),
        "above the eyebrows": (2, min(int(eyes.max()) + 8, n[2] - 12), n[2]),
        "without the crown": (2, 0, int(np.percentile(crown, 75))),
    }
    for name, (axis, start, stop) in cuts.items():
        yield f"field of view cut {name}", "", within(h, axis, start, stop)
    yield "with neck and shoulders", "", _shoulders(h)


def _shoulders(h: Head) -> Head:
    """Add 60 slices below, in which a neck becomes as wide as the field of view."""
    deep = 60
    v = np.pad(h.v, [(0, 0), (0, 0), (deep, 0)])
    labels = np.pad(h.labels, [(0, 0), (0, 0), (deep, 0)])
    last = h.v[..., :3].mean(-1)
    y, x = float(np.average(np.arange(v.shape[1]), weights=last.sum(0) + 1e-6)), v.shape[0] / 2
    for k in range(deep):
        wide = 28 + (v.shape[0] / 2 - 30) * min(1.0, max(0.0, (deep - k - 15) / 25))
        at = np.ogrid[: v.shape[0], : v.shape[1]]
        v[..., k][((at[0] - x) / wide) ** 2 + ((at[1] - y) / 30) ** 2 < 1] = 0.5
    v[..., :deep] += 0.05 * np.random.default_rng(0).random(v[..., :deep].shape, dtype=np.float32)
    affine = h.affine.copy()
    affine[:3, 3] -= affine[:3, 2] * deep
    return Head(v, labels, affine)


def _faults(h: Head, rng: np.random.Generator) -> Iterator[tuple[str, str, Head]]:
    def made(v: Floats) -> Head:
        return Head(v.astype(np.float32), h.labels, h.affine)

    def rician(sd: float) -> Floats:
        a, b = rng.normal(0, sd, (2, *h.v.shape))
        noisy: Floats = np.hypot(h.v + a, b)
        return noisy

    yield "noise", "5 %", made(rician(0.05))
    yield "noise", "10 %", made(rician(0.10))
    coarse = rng.normal(0, 0.35, (3, 3, 3))
    field = ndimage.zoom(coarse, np.array(h.v.shape) / 3, order=1)
    yield "bias field", "", made(h.v * np.exp(field))
    for axis in (1, 2):
        ghost = 0.15 * np.roll(h.v, h.v.shape[axis] // 3, axis)
        yield "ghosting", "xyz"[axis], made(h.v + ghost)
    for axis in range(3):
        dropped = np.moveaxis(h.v.copy(), axis, 0)
        dropped[::5] *= 0.2
        yield "signal drop-out", "xyz"[axis], made(np.moveaxis(dropped, 0, axis))


def _wrapped(h: Head) -> Iterator[tuple[str, str, Head]]:
    """Yield the head phase-wrapped: what leaves the field of view enters it on the other side."""
    size = voxel_sizes(h.affine)
    for axis, direction, mm in ((0, "left", 50.0), (1, "anterior", 50.0), (1, "posterior", 80.0)):
        by = round(mm / size[axis]) * (-1 if direction in ("left", "posterior") else 1)
        rolled = Head(np.roll(h.v, by, axis), np.roll(h.labels, by, axis), h.affine)
        yield "phase-wrapped", f"{direction} by {mm:g} mm", rolled


def contrasts(h: Head, rng: np.random.Generator) -> Iterator[tuple[str, Head]]:
    """Yield contrasts made from a T1w head by its labels and intensities."""
    v = np.clip(h.v, 0, 1.2)
    inside = _inside(v)
    brain, eyes = h.labels == LABELS["brain"], h.labels == LABELS["eyes"]
    grain = rng.normal(0, 0.02, v.shape)
    fluid = brain & (v < 0.25)
    vitreous = eyes & (v < 0.35)
    t2 = np.where(brain, 1.0 - 0.8 * v, 0.25 + 0.5 * v)
    t2[fluid | vitreous] = 1.0
    flair = np.where(brain, 0.8 - 0.5 * v, 0.3 + 0.4 * v)
    flair[fluid | vitreous] = 0.08
    density = np.where(v > 0.12, 0.55 + 0.25 * v, 0.1)
    tissue = v > 0.15
    ct = np.where(tissue | brain, 40.0 + 30 * v, 900.0)
    made: dict[str, tuple[Floats, float]] = {
        "inverted": (1.2 - v, 1.2),
        "T2w-like": (t2, 0.02),
        "FLAIR-like": (flair, 0.02),
        "PDw-like": (density, 0.02),
        "CT-like": (ct, -1000.0),
    }
    for name, (values, air) in made.items():
        scale = 10 if name == "CT-like" else 1
        out = np.where(inside, values + grain * scale, air + np.abs(grain))
        if name == "inverted":
            out = values + grain
        yield name, Head(out.astype(np.float32), h.labels, h.affine)


def _inside(v: Floats) -> NDArray[np.bool_]:
    """Segment the head with all its cavities by threshold."""
    head = largest_component(ndimage.binary_closing(v > 0.1, iterations=4))
    filled: NDArray[np.bool_] = ndimage.binary_fill_holes(head)
    return filled


def _stored(h: Head) -> Iterator[Case]:
    """Yield the same voxels in other types, scaled, negative, with NaN, and as a time series."""
    group = "types and scaling"

    def of(name: str, img: nib.Nifti1Image) -> Case:
        return Case(group, name, img, h.labels)

    for dtype in (np.uint8, np.uint16, np.float32, np.float64):
        yield of(np.dtype(dtype).name, _image(h.v, h.affine, dtype))
    scaled = bytearray(_image(h.v, h.affine).to_bytes())
    struct.pack_into("<ff", scaled, 112, 0.0037, -2.5)  # scl_slope and scl_inter of NIfTI-1
    yield of("scl_slope", nib.Nifti1Image.from_bytes(bytes(scaled)))
    yield of("negative", _image(h.v - 5, h.affine, np.float32))
    holes = h.v.copy()
    holes[_inside(np.clip(h.v, 0, 1.2)) == 0] = np.nan
    yield of("NaN for air", _image(holes, h.affine, np.float32))
    series = np.stack([h.v, 0.9 * h.v, 1.1 * h.v], -1)
    yield of("4D", _image(series, h.affine))
