"""Clean NIfTI headers by an allow-list: keep geometry, type and scaling, remove all texts."""

from __future__ import annotations

import nibabel as nib
import numpy as np

from efface import nifti

KEPT = (
    *("sizeof_hdr", "dim_info", "dim", "datatype", "bitpix", "slice_start", "pixdim"),
    *("vox_offset", "scl_slope", "scl_inter", "slice_end", "slice_code", "xyzt_units"),
    *("cal_max", "cal_min", "slice_duration", "qform_code", "sform_code"),
    *("quatern_b", "quatern_c", "quatern_d", "qoffset_x", "qoffset_y", "qoffset_z"),
    *("srow_x", "srow_y", "srow_z", "magic", "eol_check"),
)
"""Fields of NIfTI-1 and -2 that are copied. Removed are descrip, aux_file, intent with its name and
parameters, db_name, data_type, toffset (can be the time of day), unused fields and extensions."""
_SLICE_CODES = range(7)
"""Slice orders that NIfTI defines."""


def clean(img: nib.Nifti1Image) -> nib.Nifti1Image:
    """Copy an image with the same stored voxels and geometry, and a header without texts."""
    old = img.header
    new = type(old)(endianness=old.endianness)
    for field in KEPT:
        if field in old.structarr.dtype.names:
            new.structarr[field] = old.structarr[field]
    _clear_unused(new)
    voxels = nifti.stored(img)
    out = type(img)(voxels, new.get_best_affine(), new)
    # nibabel clears the scaling of the header of a new image
    out.header["scl_slope"], out.header["scl_inter"] = nifti.scaling(img)
    return out


def _clear_unused(header: nib.Nifti1Header) -> None:
    """Reset the unused parts of the kept fields, which can hold any value.

    These are dimensions beyond those of the image (except pixdim[4], where converters write the
    repetition time of a 3D image), undefined bits, slice numbers out of range, and the qform or
    sform if its code is 0.
    """
    fields = header.structarr
    n = int(fields["dim"][0])
    fields["dim"][n + 1 :] = 1
    sizes = fields["pixdim"][max(n, 4) + 1 :]
    sizes[(sizes != 0) & (sizes != 1)] = 1
    for name in ("dim_info", "xyzt_units"):
        fields[name] = int(fields[name]) & 0x3F
    last = int(fields["dim"][1:4].max()) - 1
    for name in ("slice_start", "slice_end"):
        if not 0 <= fields[name] <= last:
            fields[name] = 0
    if fields["slice_code"] not in _SLICE_CODES:
        fields["slice_code"] = 0
    if not fields["qform_code"]:
        for name in nifti.QFORM:
            fields[name] = 0
    if not fields["sform_code"]:
        for name in nifti.SFORM:
            fields[name] = 0


def removed(img: nib.Nifti1Image) -> tuple[str, ...]:
    """What :func:`clean` removes: names of the fields with values, and the number of extensions.

    Names only, because the values can identify the person.
    """
    old = img.header.structarr
    empty = type(img.header)(endianness=img.header.endianness).structarr
    fields = [
        name
        for name in old.dtype.names
        if name not in KEPT
        and old[name].tobytes().strip(b"\0") not in (b"", b"r")  # "r": "regular" of ANALYZE
        and old[name] != empty[name]
    ]
    count = len(img.header.extensions)
    return (*fields, *([f"{count} extension{'s' if count > 1 else ''}"] if count else []))


def with_repetition_time(img: nib.Nifti1Image, seconds: float) -> nib.Nifti1Image:
    """Set the time step of a 4D image if the header has none or a different one."""
    step = float(img.header["pixdim"][4])
    space, time = img.header.get_xyzt_units()
    factor = {"sec": 1.0, "msec": 1e-3, "usec": 1e-6}.get(time, 0.0)
    if img.ndim == 4 and not np.isclose(step * factor, seconds, atol=5e-4):
        img.header["pixdim"][4] = seconds
        img.header.set_xyzt_units(space, "sec")
    return img
