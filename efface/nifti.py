"""Reading and writing NIfTI without touching a stored value that was not meant to change."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
from isal import igzip
from numpy.typing import NDArray

from efface.errors import EffaceError
from efface.manifest import write_whole

_NIFTI2 = (b"\x1c\x02\0\0", b"\0\0\x02\x1c")
"""The first bytes of a NIFTI-2 file: the length of its header, 540, in either byte order."""


def load(path: Path) -> nib.Nifti1Image:
    """Open a 3D or 4D NIfTI image.

    Raises :class:`EffaceError` with one sentence if it is missing, unreadable, no image, of
    another shape, or has no usable affine.
    """
    if not path.exists():
        raise EffaceError(f"{path}: no such file")
    try:
        data = _inflate(path) if path.suffix == ".gz" else path.read_bytes()
        kind = nib.Nifti2Image if data[:4] in _NIFTI2 else nib.Nifti1Image
        img = kind.from_bytes(data)
    except PermissionError as e:
        raise EffaceError(f"{path}: no permission to read it") from e
    except Exception as e:
        raise EffaceError(f"{path}: not a readable NIfTI image ({_short(e)})") from e
    check(img, str(path))
    return img


def check(img: nib.Nifti1Image, name: str = "image") -> None:
    """Raise :class:`EffaceError` unless ``img`` is a 3D or 4D volume that efface can work on."""
    if not isinstance(img, nib.Nifti1Image):
        raise EffaceError(f"{name}: not a NIfTI image")
    shape = img.shape
    spatial = shape[:3]
    if len(shape) not in (3, 4) or min(shape, default=0) < 1:
        raise EffaceError(f"{name}: expected a 3D or 4D volume, found shape {shape}")
    if min(spatial) < 2:
        raise EffaceError(f"{name}: a single slice of shape {shape} is no volume")
    kind = img.get_data_dtype()
    if kind.fields is not None or kind.kind not in "iuf":
        raise EffaceError(f"{name}: voxels of type {kind} are no scalar image")
    linear = img.affine[:3, :3]
    if not np.isfinite(img.affine).all() or abs(np.linalg.det(linear)) < 1e-6:
        raise EffaceError(f"{name}: the affine does not say how the voxels lie in space")


def stored(img: nib.Nifti1Image) -> NDArray[np.generic]:
    """The voxels as stored, before scl_slope and scl_inter. Shape as the image's."""
    proxy: Any = img.dataobj
    if isinstance(proxy, np.ndarray):
        return proxy
    return np.asanyarray(proxy.get_unscaled())


def with_stored(img: nib.Nifti1Image, voxels: NDArray[np.generic]) -> nib.Nifti1Image:
    """A copy of ``img`` with other stored voxels: header geometry, dtype and scaling kept.

    The voxels may be of fewer or more volumes than those of ``img``. The copy is read from bytes,
    as from a file: an image made of an array would lose the scaling.
    """
    header = img.header
    if voxels.shape != img.shape:
        header = header.copy()
        header.set_data_shape(voxels.shape)
    return type(img).from_bytes(_bytes(header, voxels, *scaling(img)))


def scaling(img: nib.Nifti1Image) -> tuple[float, float]:
    """``scl_slope`` and ``scl_inter``; 1 and 0 where unset, in a file or an array's image."""
    proxy: Any = img.dataobj
    if isinstance(proxy, np.ndarray):
        slope, inter = float(img.header["scl_slope"]), float(img.header["scl_inter"])
        return (slope, inter) if np.isfinite([slope, inter]).all() and slope else (1.0, 0.0)
    return float(proxy.slope), float(proxy.inter)


def to_bytes(img: nib.Nifti1Image) -> bytes:
    """Uncompressed NIfTI file (version as the image's) with the stored voxels as they are."""
    return _bytes(img.header, stored(img), *scaling(img))


def save(img: nib.Nifti1Image, path: Path) -> None:
    """Write ``.nii`` or ``.nii.gz`` atomically; gzip without name and time, so bytes repeat.

    Raises :class:`EffaceError` if the disk is full or the folder cannot be written.
    """
    data = to_bytes(img)
    if path.suffix == ".gz":
        data = igzip.compress(data, compresslevel=2, mtime=0)
    write_whole(path, data)


def _bytes(
    header: nib.Nifti1Header, voxels: NDArray[np.generic], slope: float, inter: float
) -> bytes:
    header = header.copy()
    out = io.BytesIO()
    header.set_data_dtype(voxels.dtype)
    header["vox_offset"] = 0
    header["magic"] = header.single_magic
    header.set_slope_inter(None if np.isnan(slope) else slope, None if np.isnan(inter) else inter)
    header.write_to(out)
    offset = int(header.get_data_offset() if header.extensions else header.single_vox_offset)
    out.write(b"\0" * max(0, offset - out.tell()))
    # no copy of voxels that lie in Fortran order, as those of a file do
    rows = np.ascontiguousarray(voxels.T).reshape(-1).view(np.uint8)
    return b"".join((out.getvalue(), rows.data))


def _inflate(path: Path) -> bytes:
    return bytes(igzip.decompress(path.read_bytes()))


def _short(e: Exception) -> str:
    return (str(e).strip().splitlines() or [type(e).__name__])[0][:120]
