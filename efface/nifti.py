"""Read and write NIfTI images with their stored values bit for bit."""

from __future__ import annotations

import io
import math
import zlib
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
from isal import igzip
from isal.igzip_lib import IsalError
from numpy.typing import NDArray

from efface.errors import EffaceError
from efface.manifest import write_whole
from efface.paths import in_pair, is_header, pair

_NIFTI2 = (b"\x1c\x02\0\0", b"\0\0\x02\x1c")
"""The first bytes of a NIFTI-2 file: the length of its header, 540, in either byte order."""
_NIFTI1_HEADER = 348
"""Bytes of a NIfTI-1 header."""


_GZIP = b"\x1f\x8b"
_POINTERS = (b"/annex/objects/", b"version https://git-lfs")
"""First bytes of a file that represents content not yet downloaded (git-annex, git-lfs)."""


def load(path: Path) -> nib.Nifti1Image:
    """Load a 3D or 4D NIfTI image; gzip is detected by content, not by file name.

    ``path`` may be either file of a ``.hdr``/``.img`` pair; the result is a single-file image.
    Raises :class:`EffaceError` if the file is missing, unreadable, truncated or not an image, or if
    its shape or affine is not usable.
    """
    if not path.exists():
        raise EffaceError(f"{path}: no such file")
    if path.is_dir():
        raise EffaceError(
            f"{path}: this is a folder; name one image, or use efface run for a folder"
        )
    files = pair(path)
    try:
        img = _of_pair(path, files) if len(files) > 1 else _of_file(path)
        check(img, str(path))
        _whole(img, path)
        return single(img)
    except EffaceError:
        raise
    except PermissionError as e:
        raise EffaceError(f"{path}: no permission to read it") from e
    except Exception as e:
        raise EffaceError(f"{path}: not a readable NIfTI image ({_short(e)})") from e


def _of_file(path: Path) -> nib.Nifti1Image:
    data = _content(path)
    if in_pair(path) and data[344:348] != b"n+1\0" and data[4:8] != b"n+2\0":
        raise EffaceError(
            f"{path}: the other file of the .hdr/.img pair is missing; put both into one folder"
        )
    if not data:
        raise EffaceError(f"{path}: the file is empty")
    if data.startswith(_POINTERS):
        raise EffaceError(
            f"{path}: the content of this file is missing; run datalad get (or git lfs pull)"
        )
    if len(data) < _NIFTI1_HEADER:
        raise EffaceError(
            f"{path}: not a readable NIfTI image ({len(data)} bytes cannot hold its header)"
        )
    kind = nib.Nifti2Image if data[:4] in _NIFTI2 else nib.Nifti1Image
    img: nib.Nifti1Image = kind.from_bytes(data)
    proxy: Any = img.dataobj
    if proxy.offset < img.header.single_vox_offset:
        # nibabel accepts 0, and the texts of the header would become voxels
        raise EffaceError(f"{path}: vox_offset points into the header; correct this field")
    return img


def _of_pair(path: Path, files: list[Path]) -> nib.Nifti1Pair:
    """The image of a ``.hdr``/``.img`` pair."""
    headers = [f for f in files if is_header(f)]
    images = [f for f in files if f not in headers]
    if len(headers) != 1 or len(images) != 1:
        raise EffaceError(
            f"{path}: one .hdr and one .img file are needed, but there are {len(files)} files"
        )
    header = _content(headers[0])
    if header[344:348] == b"ni1\0":
        kind = nib.Nifti1Pair
    elif header[4:8] == b"ni2\0":
        kind = nib.Nifti2Pair
    else:
        raise EffaceError(
            f"{path}: the header is ANALYZE, not NIfTI, and does not tell left from right;"
            " convert the image to NIfTI first"
        )
    holders = {
        "header": nib.FileHolder(fileobj=io.BytesIO(header)),
        "image": nib.FileHolder(fileobj=io.BytesIO(_content(images[0]))),
    }
    img: nib.Nifti1Pair = kind.from_file_map(holders)
    return img


def _content(path: Path) -> bytes:
    """Bytes of a file, decompressed if the content is gzip."""
    data = path.read_bytes()
    if data[:2] != _GZIP:
        return data
    try:
        return bytes(igzip.decompress(data))
    except (EOFError, OSError, IsalError) as e:  # type: ignore[misc]  # its stub has no base
        raise EffaceError(f"{path}: truncated or damaged: the gzip stream is incomplete") from e


def _whole(img: nib.Nifti1Pair, path: Path) -> None:
    """Raise :class:`EffaceError` if the file ends before the last voxel."""
    proxy: Any = img.dataobj
    there = proxy.file_like.seek(0, io.SEEK_END)
    needed = int(proxy.offset) + math.prod(img.shape) * img.get_data_dtype().itemsize
    if there < needed:
        raise EffaceError(f"{path}: truncated: the file has {there} of {needed} bytes")


def single(img: nib.Nifti1Pair) -> nib.Nifti1Image:
    """Convert a ``.hdr``/``.img`` pair to a single-file image with the same header and voxels."""
    if isinstance(img, nib.Nifti1Image):
        return img
    kind = nib.Nifti2Image if isinstance(img, nib.Nifti2Pair) else nib.Nifti1Image
    old = img.header
    header = kind.header_class(old.binaryblock, old.endianness, False, old.extensions)
    return kind.from_bytes(_bytes(header, stored(img), *scaling(img)))


def check(img: nib.Nifti1Pair, name: str = "image") -> None:
    """Raise :class:`EffaceError` unless ``img`` is a scalar 3D or 4D image with a usable affine.

    The shape is (X, Y, Z) or (X, Y, Z, T); further dimensions must be 1.
    """
    if not isinstance(img, nib.Nifti1Pair):
        raise EffaceError(f"{name}: not a NIfTI image")
    shape = img.shape
    spatial = shape[:3]
    if len(shape) < 3 or min(shape) < 1 or len(dimensions(shape)) > 4:
        raise EffaceError(f"{name}: expected a 3D or 4D volume, found shape {shape}")
    if min(spatial) < 2:
        raise EffaceError(f"{name}: a single slice of shape {shape} is not a volume")
    kind = img.get_data_dtype()
    if kind.fields is not None or kind.kind not in "iuf" or kind.itemsize > 8:
        raise EffaceError(f"{name}: voxels of type {kind} are not scalar values")
    affine = img.affine
    if affine is None or not np.isfinite(affine).all() or abs(np.linalg.det(affine[:3, :3])) < 1e-6:
        raise EffaceError(f"{name}: the affine is missing, not finite or singular")


def dimensions(shape: tuple[int, ...]) -> tuple[int, ...]:
    """The shape without dimensions of size one after the third."""
    return (*shape[:3], *(n for n in shape[3:] if n != 1))


def without_singletons(img: nib.Nifti1Image, least: int = 3) -> nib.Nifti1Image:
    """Drop dimensions of size one after the third, but keep ``least`` dimensions.

    A (X, Y, Z, 1, 1) image becomes (X, Y, Z), or (X, Y, Z, 1) if ``least`` is 4. No dimension is
    added.
    """
    shape = dimensions(img.shape)
    shape += (1,) * (min(least, img.ndim) - len(shape))
    return img if shape == img.shape else with_stored(img, stored(img).reshape(shape))


def stored(img: nib.Nifti1Pair) -> NDArray[np.generic]:
    """Stored voxels, before scl_slope and scl_inter, in the shape of the image.

    Raises :class:`EffaceError` if the file is truncated or damaged.
    """
    proxy: Any = img.dataobj
    if isinstance(proxy, np.ndarray):
        return proxy
    try:
        return np.asanyarray(proxy.get_unscaled())
    except (OSError, EOFError, ValueError, zlib.error) as e:
        raise EffaceError(f"the voxels of the image cannot be read ({_short(e)})") from e


def with_stored(img: nib.Nifti1Image, voxels: NDArray[np.generic]) -> nib.Nifti1Image:
    """Copy ``img`` with other stored voxels; geometry, data type and scaling stay.

    The number of volumes may differ from that of ``img``, and so may dimensions of size one after
    the third. The copy is made from bytes, because an image made from an array loses its scaling.
    """
    header = img.header
    if voxels.shape != img.shape:
        header = header.copy()
        header.set_data_shape(voxels.shape)
    return type(img).from_bytes(_bytes(header, voxels, *scaling(img)))


QFORM = ("quatern_b", "quatern_c", "quatern_d", "qoffset_x", "qoffset_y", "qoffset_z")
SFORM = ("srow_x", "srow_y", "srow_z")
GEOMETRY = ("qform_code", "sform_code", *QFORM, *SFORM)
"""Header fields with the position of the voxels; voxel sizes and unit are in other fields."""


def like(img: nib.Nifti1Image, voxels: NDArray[np.generic]) -> nib.Nifti1Image:
    """Labels or a mask (X, Y, Z) as a uint8 image on the grid of ``img``.

    NIfTI version, byte order, sform, qform, their codes, voxel sizes and the unit of length are
    copied bit for bit, so that every reader aligns the two images. Nothing else is copied.
    """
    header = type(img.header)(endianness=img.header.endianness)
    header.set_data_shape(voxels.shape)
    for name in GEOMETRY:
        header[name] = img.header[name]
    header["pixdim"][:4] = img.header["pixdim"][:4]
    header["xyzt_units"] = img.header["xyzt_units"] & 0x07
    return type(img).from_bytes(_bytes(header, voxels.astype(np.uint8, order="F"), 1.0, 0.0))


def scaling(img: nib.Nifti1Pair) -> tuple[float, float]:
    """``scl_slope`` and ``scl_inter``; 1 and 0 if they are not set."""
    proxy: Any = img.dataobj
    if isinstance(proxy, np.ndarray):
        slope, inter = float(img.header["scl_slope"]), float(img.header["scl_inter"])
        return (slope, inter) if np.isfinite([slope, inter]).all() and slope else (1.0, 0.0)
    return float(proxy.slope), float(proxy.inter)


def to_bytes(img: nib.Nifti1Image) -> bytes:
    """Bytes of an uncompressed NIfTI file of the same version, with the stored voxels unchanged."""
    return _bytes(img.header, stored(img), *scaling(img))


def save(img: nib.Nifti1Image, path: Path) -> None:
    """Write ``.nii`` or ``.nii.gz`` atomically.

    The gzip header has no name and time, so that the same image gives the same bytes. Raises
    :class:`EffaceError` if the disk is full or the folder cannot be written.
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
    if header.get_data_shape() != voxels.shape:
        header.set_data_shape(voxels.shape)
    # an image made from an array can have a header with the other byte order
    voxels = voxels.astype(header.get_data_dtype(), copy=False)
    header["vox_offset"] = 0
    header["magic"] = header.single_magic
    header.set_slope_inter(None if np.isnan(slope) else slope, None if np.isnan(inter) else inter)
    header.write_to(out)
    offset = int(header.get_data_offset() if header.extensions else header.single_vox_offset)
    out.write(b"\0" * max(0, offset - out.tell()))
    # voxels read from a file are in Fortran order and are not copied
    rows = np.ascontiguousarray(voxels.T).reshape(-1).view(np.uint8)
    return b"".join((out.getvalue(), rows.data))


def _short(e: Exception) -> str:
    return (str(e).strip().splitlines() or [type(e).__name__])[0][:120]
