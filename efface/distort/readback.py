"""Comparison of a series' DICOM form, converted again, with the NIfTI images released with it.

A user converts a series with dcm2niix. Attributes that scrubbing removed (private elements with
the order of the slices, the scaling, the gradients) can change the result. Images are compared in
world coordinates: the order and direction of their axes may differ if the affine differs with them.
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
from efface.distort.mapping import MappedFrame
from efface.distort.region import Bool, Float
from efface.distort.restore import restore
from efface.errors import EffaceError, of_machine
from efface.segment.geometry import voxel_sizes

TIMEOUT = 1800.0
"""Time limit of dcm2niix for one series, in seconds."""

_POSITION_TOLERANCE = 0.1
"""Largest distance between the centres of equal voxels, in voxels.

dcm2niix reads positions in single precision: 0.001 voxels were measured in the real series of the
tests. A missing slice, or a flip that the affine does not show, moves voxels by one or more.
"""
_SCALE_TOLERANCE = 1e-5
"""Largest relative difference of slopes: they are single precision numbers in the NIfTI header."""
_B_VALUE_TOLERANCE = 0.5
"""Largest difference of b-values, s/mm²: b-values are whole numbers."""
_DIRECTION_TOLERANCE = 0.01
"""Largest distance between the tips of unit vectors: text files of both hold six digits, and
dcm2niix orthogonalises the axes (measured: 0.0005)."""


@dataclass(frozen=True)
class Image:
    """Content of an image that must be the same after converting the DICOM form again."""

    voxels: NDArray[np.generic]
    """Stored values, shape (x, y, z, t)."""
    affine: Float
    """4 × 4, voxel to RAS in mm."""
    slope: float = 1.0
    intercept: float = 0.0
    gradients: Float | None = None
    """Shape (t, 4): b-value in s/mm² and direction, unit vector in RAS; None without b-values."""
    excluded: Bool | None = None
    """Voxels that are not compared, shape (x, y, z): DICOM holds them rounded."""


def from_nifti(
    img: nib.Nifti1Image,
    bval: Sequence[float] = (),
    bvec: Sequence[Sequence[float]] = (),
    excluded: Bool | None = None,
) -> Image:
    """Content of a NIfTI image and of its gradient files, of one row and of three rows.

    Floats are scaled, with a slope of 1.
    """
    voxels = nifti.stored(img)
    affine = np.asarray(img.affine, dtype=np.float64)
    slope, intercept = nifti.scaling(img)
    if voxels.dtype.kind == "f" and (slope, intercept) != (1, 0):
        # the converter scales floats itself, or leaves it to the header
        scale = np.array([slope, intercept], voxels.dtype)
        voxels = np.asarray(voxels * scale[0] + scale[1])
        slope, intercept = 1.0, 0.0
    gradients = None
    volumes = 1 if voxels.ndim == 3 else voxels.shape[3]
    if len(bval) == volumes and len(bvec) == 3 and all(len(r) == volumes for r in bvec):
        directions = world_directions(np.array(bvec, dtype=np.float64).T, affine)
        gradients = np.column_stack([np.array(bval, dtype=np.float64), directions])
    voxels = voxels.reshape(*voxels.shape[:3], -1)
    return Image(voxels, affine, slope, intercept, gradients, excluded)


def from_conversion(converted: dcm2niix.Converted) -> Image:
    """Content of an image that dcm2niix made; raises :class:`EffaceError` if it is no volume."""
    bval = numbers(converted.bval)
    img = nifti.load(converted.nifti)
    return from_nifti(img, bval[0] if bval else (), numbers(converted.bvec))


def world_directions(directions: Float, affine: Float) -> Float:
    """Unit vectors in RAS of the directions in a .bvec file, shape (n, 3); zeros stay zeros.

    The file holds directions along the voxel axes, the first of them reversed if the affine's
    determinant is positive (FSL's convention, adopted by BIDS).
    """
    axes = affine[:3, :3] / voxel_sizes(affine)
    first = -1.0 if np.linalg.det(axes) > 0 else 1.0
    out: Float = (directions * [first, 1, 1]) @ axes.T
    length = np.linalg.norm(out, axis=1, keepdims=True)
    return out / np.where(length > 0, length, 1)


def check(
    folder: Path, frames: Mapping[str, Sequence[MappedFrame]], released: Sequence[Image]
) -> str:
    """Difference between a series' files, converted again, and the released images; empty if none.

    ``frames``: by name of the file in ``folder``, its mapped frames. If something differs,
    gradients and scaling are written to the files (:func:`efface.distort.restore.restore`), and the
    files are converted once more.
    """

    def difference() -> str:
        try:
            converted = convert([folder / name for name in frames], folder.parent)
        except EffaceError as e:
            if of_machine(e):
                raise
            return str(e)
        return first_difference(released, converted)

    text = difference()
    if text:
        changed = [restore(folder / name, mapped) for name, mapped in frames.items()]
        text = difference() if any(changed) else text
    return text


def first_difference(released: Sequence[Image], converted: Sequence[Image]) -> str:
    """First difference between released images and those of the DICOM form; empty if none.

    Each released image must equal one converted image, and none may be left over. Images are
    paired by content, not by name or order.
    """
    if len(released) != len(converted):
        return f"{len(converted)} images instead of {len(released)}" if converted else "no image"
    unpaired = [_to_ras(i) for i in converted]
    for one in (_to_ras(i) for i in released):
        compared = [_compare(one, other) for other in unpaired]
        best = max(range(len(unpaired)), key=lambda i: compared[i].steps)
        if compared[best].difference:
            return compared[best].difference
        del unpaired[best]
    return ""


def _to_ras(img: Image) -> Image:
    """Reorder the axes to the order and direction closest to RAS."""
    to_ras = nib.orientations.io_orientation(img.affine)
    if np.isnan(to_ras).any():
        return img
    voxels = nib.orientations.apply_orientation(img.voxels, to_ras)
    affine = img.affine @ nib.orientations.inv_ornt_aff(to_ras, img.voxels.shape[:3])
    excluded = img.excluded
    if excluded is not None:
        excluded = nib.orientations.apply_orientation(excluded, to_ras)
    return replace(img, voxels=voxels, affine=affine, excluded=excluded)


@dataclass(frozen=True)
class _Comparison:
    steps: int
    """Number of comparisons in which both images agree, before the first difference."""
    difference: str
    """Empty if there is none."""


def _compare(released: Image, converted: Image) -> _Comparison:
    shape, other_shape = released.voxels.shape, converted.voxels.shape
    if shape != other_shape:
        difference = f"{_shape_text(other_shape)} voxels instead of {_shape_text(shape)}"
        return _Comparison(0, difference)
    same_voxels = _same_voxels(released.voxels, converted.voxels, released.excluded)
    if not _same_position(released.affine, converted.affine, shape[:3]):
        if same_voxels:
            return _Comparison(1, "different position")
        reordering = _reordering(released, converted)
        return _Comparison(1, reordering or "different position and voxel values")
    if not same_voxels:
        return _Comparison(2, _reordering(released, converted) or "different voxel values")
    scale = max(abs(released.slope), abs(converted.slope))
    largest = scale * max(float(np.abs(released.voxels).max()), 1.0)
    tolerance = _SCALE_TOLERANCE * max(abs(released.intercept), largest)
    if (
        abs(released.slope - converted.slope) > _SCALE_TOLERANCE * scale
        or abs(released.intercept - converted.intercept) > tolerance
    ):
        difference = (
            f"slope {converted.slope:.6g} and intercept {converted.intercept:.6g} "
            f"instead of {released.slope:.6g} and {released.intercept:.6g}"
        )
        return _Comparison(3, difference)
    if released.gradients is None:
        return _Comparison(5, "")
    if converted.gradients is None:
        return _Comparison(4, "no gradients")
    b = released.gradients[:, 0]
    if (np.abs(b - converted.gradients[:, 0]) > _B_VALUE_TOLERANCE).any():
        return _Comparison(4, "different b-values")
    ours, theirs = (g[b > 0, 1:] for g in (released.gradients, converted.gradients))
    # dcm2niix reverses all directions if slices run against the normal: that is equivalent
    distances = [np.linalg.norm(ours - sign * theirs, axis=1).max(initial=0) for sign in (1, -1)]
    if min(distances) > _DIRECTION_TOLERANCE:
        return _Comparison(4, "different gradient directions")
    return _Comparison(5, "")


def _shape_text(shape: tuple[int, ...]) -> str:
    return "×".join(str(n) for n in (shape if shape[3] > 1 else shape[:3]))


def _same_voxels(
    one: NDArray[np.generic], other: NDArray[np.generic], excluded: Bool | None
) -> bool:
    """Whether all compared voxels are equal: floats to single precision, NaN to NaN."""
    for t in range(one.shape[3]):
        a, b = one[..., t], other[..., t]
        if a.dtype.kind == "f" or b.dtype.kind == "f":
            equal = np.isclose(
                a.astype(np.float64), b.astype(np.float64), rtol=1e-5, atol=1e-6, equal_nan=True
            )
        else:
            equal = a == b
        if not (equal if excluded is None else equal | excluded).all():
            return False
    return True


def _same_position(one: Float, other: Float, shape: tuple[int, ...]) -> bool:
    """Whether the corners of two grids of this shape have the same positions."""
    corners = np.array([(*c, 1) for c in product(*((0, n - 1) for n in shape))])
    voxels = np.linalg.inv(one) @ (other - one) @ corners.T
    return bool((np.abs(voxels[:3]) <= _POSITION_TOLERANCE).all())


def _reordering(one: Image, other: Image) -> str:
    """How the voxels of ``one`` are reordered in ``other``, in words; empty if they are not."""
    for axis, name in enumerate(("left and right", "back and front", "bottom and top")):
        if _same_voxels(one.voxels, np.flip(other.voxels, axis), one.excluded):
            return f"{name} exchanged"
    if one.voxels.shape[3] > 1:
        sums = [
            sorted(float(v[..., t].astype(np.float64).sum()) for t in range(v.shape[3]))
            for v in (one.voxels, other.voxels)
        ]
        if sums[0] == sums[1]:
            return "different order of volumes"
    return ""


def convert(files: Sequence[Path], folder: Path) -> tuple[Image, ...]:
    """Convert DICOM files with dcm2niix, in a temporary folder within ``folder``.

    Raises :class:`EffaceError` if dcm2niix crashes or takes longer than :data:`TIMEOUT`, or if its
    output is no volume.
    """
    with tempfile.TemporaryDirectory(dir=folder) as work:
        try:
            run = dcm2niix.convert([str(f) for f in files], Path(work), TIMEOUT)
        except subprocess.TimeoutExpired as e:
            raise EffaceError(f"dcm2niix took longer than {TIMEOUT:.0f} s") from e
        if run.code < 0:
            raise EffaceError("dcm2niix crashed")
        try:
            return tuple(from_conversion(one) for one in run.images)
        except EffaceError as e:  # its message names a path
            raise EffaceError("dcm2niix wrote an image that is no volume") from e
