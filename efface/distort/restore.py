"""Standard attributes for gradients and scaling that the conversion read from private elements.

Gradients are written to the attributes of the MR Diffusion macro (PS3.3 C.8.13.5.9). In classic
objects they are at the top level, as scanners write them. The scaling is written to Rescale Slope
and Intercept (C.7.6.16.2.9), because dcm2niix does not apply a Real World Value Mapping.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from pydicom.dataset import Dataset
from pydicom.sequence import Sequence as DicomSequence

from efface.distort.dicom import encode
from efface.distort.frames import read, rescale
from efface.distort.mapping import MappedFrame

_SCALE_TOLERANCE = 1e-6
"""Relative tolerance for equal scalings: the NIfTI header holds single precision."""


def restore(path: Path, frames: Sequence[MappedFrame]) -> bool:
    """Write gradients and scaling of the images that hold a file's frames into the file.

    ``frames``: from :func:`efface.distort.mapping.distorted_pixels` for the raw file. Attributes
    that have a value are kept, except a scaling that differs. Returns whether the file changed.
    """
    ds = read(path)
    groups = ds.get("PerFrameFunctionalGroupsSequence")
    changed = False
    for mapped in frames:
        group = groups[mapped.frame.number] if groups else None
        changed |= _write_gradient(ds, group, mapped)
        changed |= _write_scaling(ds, group, mapped)
    if changed:
        path.write_bytes(encode(ds))
    return changed


def _write_gradient(ds: Dataset, group: Dataset | None, mapped: MappedFrame) -> bool:
    if mapped.image.gradients is None:
        return False
    b, *direction = mapped.image.gradients[mapped.volume]
    # from RAS to patient coordinates (LPS)
    x, y, z = np.array(direction) * (-1, -1, 1)
    target = ds
    if group is not None:
        if not group.get("MRDiffusionSequence"):
            group.MRDiffusionSequence = DicomSequence([Dataset()])
        target = group.MRDiffusionSequence[0]
    before = len(target)
    if target.get("DiffusionBValue") is None:
        target.DiffusionBValue = float(b)
    # no weighting, weighting in all directions, or in one
    kind = "NONE" if b <= 0 else "DIRECTIONAL" if any(direction) else "ISOTROPIC"
    if not target.get("DiffusionDirectionality"):
        target.DiffusionDirectionality = kind
    holder = target
    if group is not None and kind == "DIRECTIONAL":
        if not target.get("DiffusionGradientDirectionSequence"):
            target.DiffusionGradientDirectionSequence = DicomSequence([Dataset()])
        holder = target.DiffusionGradientDirectionSequence[0]
    # zeros in classic objects without weighting, as scanners write them: dcm2niix takes directions
    # as relative to the patient, and not to the image, only if the first file has one
    if (group is None or kind == "DIRECTIONAL") and not holder.get("DiffusionGradientOrientation"):
        holder.DiffusionGradientOrientation = [float(v) for v in (x, y, z)]
        return True
    return len(target) != before


def _write_scaling(ds: Dataset, group: Dataset | None, mapped: MappedFrame) -> bool:
    image = mapped.image
    name = "PixelValueTransformationSequence"
    target, windows = ds, ds
    if group is not None:
        shared = ds.get("SharedFunctionalGroupsSequence") or [Dataset()]
        target, windows = (
            (group.get(n) or shared[0].get(n) or [Dataset()])[0]
            for n in (name, "FrameVOILUTSequence")
        )
        if not group.get(name) and not shared[0].get(name):
            group.PixelValueTransformationSequence = DicomSequence([target])
    old = rescale(target)
    new = image.slope, image.intercept
    if image.raw.dtype.kind == "f":
        # the converter has applied the scaling of each frame, because frames differ in it
        frame = mapped.frame
        new = frame.slope * new[0], frame.intercept * new[0] + new[1]
    largest = 2.0 ** int(ds.get("BitsStored", 16)) * abs(new[0])
    same_slope = abs(old[0] - new[0]) <= _SCALE_TOLERANCE * abs(new[0])
    if same_slope and abs(old[1] - new[1]) <= _SCALE_TOLERANCE * largest:
        return False
    target.RescaleSlope, target.RescaleIntercept = (f"{v:.10g}" for v in new)
    if not target.get("RescaleType"):
        target.RescaleType = "US"
    for keyword, is_level in (("WindowCenter", True), ("WindowWidth", False)):
        values = windows.get(keyword)
        if values in (None, ""):
            continue
        factor = new[0] / old[0]
        numbers = np.atleast_1d(np.array(values, dtype=np.float64))
        scaled = (numbers - old[1]) * factor + new[1] if is_level else numbers * abs(factor)
        setattr(windows, keyword, [f"{v:.8g}" for v in scaled])
    return True
