"""The DICOM form of a series, converted again and compared with the NIfTI images released with it.

A reader gets a series as dcm2niix makes it. What a scrubbed header no longer says (private elements
held the order of the slices, the scaling, the gradients) shows here and nowhere else. Images are
compared in the world: a reader may store the axes in another order, as long as the affine says so.
"""

from __future__ import annotations

import subprocess
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import product
from pathlib import Path

import nibabel as nib
import numpy as np
from numpy.typing import NDArray

from efface import nifti
from efface.convert import dcm2niix, numbers
from efface.distort.dicom import Placed
from efface.distort.region import Bool, Float
from efface.distort.restore import restore
from efface.errors import EffaceError, of_machine

TIMEOUT = 1800.0
"""Seconds that dcm2niix may take for one series."""

_PLACE = 0.1
"""Largest distance of a voxel's centre from where the NIfTI has it, as a share of its size.

dcm2niix reads positions in single precision: 0.001 voxels were measured in the real series of the
tests. A slice that is missing or a flip that the affine does not say moves voxels by one or more.
"""
_SCALE = 1e-5
"""Largest relative difference of slopes: they are single precision numbers in the NIfTI header."""
_B_VALUE = 0.5
"""Largest difference of b-values, s/mm²: b-values are whole numbers."""
_DIRECTION = 0.01
"""Largest distance of the tips of unit vectors: text files of both hold six digits, and dcm2niix
orthogonalises the axes (measured: 0.0005)."""


@dataclass(frozen=True)
class Image:
    """What of an image must come back."""

    voxels: NDArray[np.generic]
    """Stored values, shape (x, y, z, t)."""
    affine: Float
    slope: float = 1.0
    intercept: float = 0.0
    gradients: Float | None = None
    """Shape (t, 4): b-value in s/mm² and direction, unit vector in RAS; None without b-values."""
    free: Bool | None = None
    """Voxels, shape (x, y, z), which need not be the same: DICOM holds them rounded."""


def image(
    img: nib.Nifti1Image,
    bval: Sequence[float] = (),
    bvec: Sequence[Sequence[float]] = (),
    free: Bool | None = None,
) -> Image:
    """An :class:`Image` of a NIfTI and the numbers of its gradient files (one, and three rows).

    Floats come scaled, with a slope of 1.
    """
    voxels = nifti.stored(img)
    affine = np.asarray(img.affine, dtype=np.float64)
    slope, intercept = nifti.scaling(img)
    if voxels.dtype.kind == "f" and (slope, intercept) != (1, 0):
        # the converter may scale floats itself, or leave it to the header
        scale = np.array([slope, intercept], voxels.dtype)
        voxels = np.asarray(voxels * scale[0] + scale[1])
        slope, intercept = 1.0, 0.0
    gradients = None
    volumes = 1 if voxels.ndim == 3 else voxels.shape[3]
    if len(bval) == volumes and len(bvec) == 3 and all(len(r) == volumes for r in bvec):
        directions = world(np.array(bvec, dtype=np.float64).T, affine)
        gradients = np.column_stack([np.array(bval, dtype=np.float64), directions])
    return Image(voxels.reshape(*voxels.shape[:3], -1), affine, slope, intercept, gradients, free)


def world(directions: Float, affine: Float) -> Float:
    """Directions of a .bvec file, shape (n, 3), as unit vectors in RAS; zeros stay zeros.

    They are along the voxel axes, the first of them reversed where the affine's determinant is
    positive (FSL's convention, which BIDS has taken over).
    """
    axes = affine[:3, :3] / np.linalg.norm(affine[:3, :3], axis=0)
    first = -1.0 if np.linalg.det(axes) > 0 else 1.0
    out: Float = (directions * [first, 1, 1]) @ axes.T
    length = np.linalg.norm(out, axis=1, keepdims=True)
    return out / np.where(length > 0, length, 1)


def check(folder: Path, places: Mapping[str, Sequence[Placed]], released: Sequence[Image]) -> str:
    """What a reader of a series' files gets otherwise than it is released, or nothing.

    ``places``: by name of the file in ``folder``, where its frames lie in the images. Where
    something differs, gradients and scaling are written into the files
    (:func:`efface.distort.restore.restore`), and the files are converted once more.
    """

    def read() -> str:
        try:
            again = convert([folder / name for name in places], folder.parent)
        except EffaceError as e:
            if of_machine(e):
                raise
            return str(e)
        return differences(released, again)

    what = read()
    if what:
        changed = [restore(folder / name, where) for name, where in places.items()]
        what = read() if any(changed) else what
    return what


def differences(released: Sequence[Image], again: Sequence[Image]) -> str:
    """What a reader gets otherwise than it is released, or nothing.

    Each released image must be one of those converted again, and there must be no others. Which
    one it is follows from the content; names and order do not count.
    """
    left = [_upright(i) for i in again]
    found = []
    for one in (_upright(i) for i in released):
        if not left:
            return f"{len(again)} images instead of {len(released)}" if again else "no image"
        compared = [_compare(one, other) for other in left]
        # the one that agrees in most
        best = max(range(len(left)), key=lambda i: compared[i][0])
        found.append(compared[best])
        if not compared[best][1]:
            del left[best]
    for _, what in found:
        if what and len(released) == len(again):
            return what
    if len(released) != len(again):
        return f"{len(again)} images instead of {len(released)}"
    return ""


def _upright(img: Image) -> Image:
    """The image with its axes in the order and direction of RAS, as near as they come to it."""
    to_ras = nib.orientations.io_orientation(img.affine)
    if np.isnan(to_ras).any():
        return img
    voxels = nib.orientations.apply_orientation(img.voxels, to_ras)
    affine = img.affine @ nib.orientations.inv_ornt_aff(to_ras, img.voxels.shape[:3])
    free = img.free
    if free is not None:
        free = nib.orientations.apply_orientation(free, to_ras)
    return replace(img, voxels=voxels, affine=affine, free=free)


def _compare(one: Image, other: Image) -> tuple[int, str]:
    """How many steps two images agree in, and the first difference in words."""
    shape, other_shape = one.voxels.shape, other.voxels.shape
    if shape != other_shape:
        return 0, f"{_by(other_shape)} voxels instead of {_by(shape)}"
    same_voxels = _same(one.voxels, other.voxels, one.free)
    if not _same_place(one.affine, other.affine, shape[:3]):
        what = "in another place" if same_voxels else _reordered(one, other)
        return 1, what or "in another place, with other voxels"
    if not same_voxels:
        return 2, _reordered(one, other) or "other voxels"
    scale = max(abs(one.slope), abs(other.slope))
    reach = scale * max(float(np.abs(one.voxels).max()), 1.0)
    if abs(one.slope - other.slope) > _SCALE * scale or (
        abs(one.intercept - other.intercept) > _SCALE * max(abs(one.intercept), reach)
    ):
        return 3, (
            f"slope {other.slope:.6g} and intercept {other.intercept:.6g} "
            f"instead of {one.slope:.6g} and {one.intercept:.6g}"
        )
    if one.gradients is None:
        return 5, ""
    if other.gradients is None:
        return 4, "no gradients"
    b = one.gradients[:, 0]
    if (np.abs(b - other.gradients[:, 0]) > _B_VALUE).any():
        return 4, "other b-values"
    mine, theirs = (g[b > 0, 1:] for g in (one.gradients, other.gradients))
    # all of them reversed is the same: dcm2niix reverses them where slices run against the normal
    apart = [np.linalg.norm(mine - sign * theirs, axis=1).max(initial=0) for sign in (1, -1)]
    if min(apart) > _DIRECTION:
        return 4, "other gradient directions"
    return 5, ""


def _by(shape: tuple[int, ...]) -> str:
    return "×".join(str(n) for n in (shape if shape[3] > 1 else shape[:3]))


def _same(one: NDArray[np.generic], other: NDArray[np.generic], free: Bool | None = None) -> bool:
    """Whether all voxels outside ``free`` are equal: floats to single precision, NaN to NaN."""
    for t in range(one.shape[3]):
        a, b = one[..., t], other[..., t]
        if a.dtype.kind == "f" or b.dtype.kind == "f":
            close = np.isclose(
                a.astype(np.float64), b.astype(np.float64), rtol=1e-5, atol=1e-6, equal_nan=True
            )
        else:
            close = a == b
        if not (close if free is None else close | free).all():
            return False
    return True


def _same_place(one: Float, other: Float, shape: tuple[int, ...]) -> bool:
    """Whether the corners of both grids lie at the same places."""
    corners = np.array([(*c, 1) for c in product(*((0, n - 1) for n in shape))])
    apart = np.linalg.inv(one) @ (other - one) @ corners.T
    return bool((np.abs(apart[:3]) <= _PLACE).all())


def _reordered(one: Image, other: Image) -> str:
    """In words, how the voxels of an image are those of the other in another order, or nothing."""
    for axis, name in enumerate(("left and right", "back and front", "bottom and top")):
        if _same(one.voxels, np.flip(other.voxels, axis), one.free):
            return f"{name} exchanged"
    if one.voxels.shape[3] > 1:
        sums = [
            sorted(float(v[..., t].astype(np.float64).sum()) for t in range(v.shape[3]))
            for v in (one.voxels, other.voxels)
        ]
        if sums[0] == sums[1]:
            return "volumes in another order"
    return ""


def convert(files: Sequence[Path], folder: Path) -> tuple[Image, ...]:
    """What dcm2niix makes of DICOM files; ``folder``: where it may work.

    Raises :class:`EffaceError` if it crashes, takes longer than :data:`TIMEOUT`, or makes of them
    what is no image.
    """
    with tempfile.TemporaryDirectory(dir=folder) as work:
        try:
            made = dcm2niix.convert([str(f) for f in files], Path(work), TIMEOUT)
        except subprocess.TimeoutExpired as e:
            raise EffaceError(f"dcm2niix took longer than {TIMEOUT:.0f} s") from e
        if made.code < 0:
            raise EffaceError("dcm2niix crashed")
        try:
            return tuple(_read(one) for one in made.images)
        except EffaceError as e:  # the message starts with a path
            raise EffaceError("an image that is no volume") from e


def _read(one: dcm2niix.Converted) -> Image:
    bval = numbers(one.bval)
    return image(nifti.load(one.nifti), bval[0] if bval else (), numbers(one.bvec))
