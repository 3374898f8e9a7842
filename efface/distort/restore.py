"""What the conversion read from private elements, written into standard attributes of a file.

Gradients go into the attributes of the MR Diffusion macro (PS3.3 C.8.13.5.9), at the top level of
classic objects, where scanners have them too. The scaling goes into Rescale Slope and Intercept
(C.7.6.16.2.9), which readers apply; dcm2niix does not apply a Real World Value Mapping.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from pydicom.dataset import Dataset
from pydicom.sequence import Sequence as Items

from efface.distort import dicom

_CLOSE = 1e-6
"""Relative difference of scalings that is none: the NIfTI header holds single precision."""


def restore(path: Path, places: Sequence[dicom.Placed]) -> bool:
    """Write gradients and scaling of the images that hold a file's frames into the file.

    ``places``: as :func:`efface.distort.dicom.placed` returns them for the raw file. An attribute
    that has a value is left as it is, but for a scaling that differs. Returns whether anything was
    changed.
    """
    ds = dicom.read(path)
    own = ds.get("PerFrameFunctionalGroupsSequence")
    changed = False
    for place in places:
        group = own[place.frame.number] if own else None
        changed |= _gradient(ds, group, place)
        changed |= _scaling(ds, group, place)
    if changed:
        path.write_bytes(dicom.encoded(ds))
    return changed


def _gradient(ds: Dataset, group: Dataset | None, place: dicom.Placed) -> bool:
    if place.image.gradients is None:
        return False
    b, *direction = place.image.gradients[place.volume]
    # RAS to the patient's coordinates
    x, y, z = np.array(direction) * (-1, -1, 1)
    target = ds
    if group is not None:
        if not group.get("MRDiffusionSequence"):
            group.MRDiffusionSequence = Items([Dataset()])
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
            target.DiffusionGradientDirectionSequence = Items([Dataset()])
        holder = target.DiffusionGradientDirectionSequence[0]
    # zeros in classic objects without weighting, as scanners write them: dcm2niix believes that
    # directions are the patient's, and not the image's, only if the first file has one
    if (group is None or kind == "DIRECTIONAL") and not holder.get("DiffusionGradientOrientation"):
        holder.DiffusionGradientOrientation = [float(v) for v in (x, y, z)]
        return True
    return len(target) != before


def _scaling(ds: Dataset, group: Dataset | None, place: dicom.Placed) -> bool:
    image = place.image
    name = "PixelValueTransformationSequence"
    target, windows = ds, ds
    if group is not None:
        shared = ds.get("SharedFunctionalGroupsSequence") or [Dataset()]
        target, windows = (
            (group.get(n) or shared[0].get(n) or [Dataset()])[0]
            for n in (name, "FrameVOILUTSequence")
        )
        if not group.get(name) and not shared[0].get(name):
            group.PixelValueTransformationSequence = Items([target])
    old = dicom.rescale(target)
    new = image.slope, image.intercept
    if image.raw.dtype.kind == "f":
        # the converter has applied the frame's own scaling, because frames differ in it
        frame = place.frame
        new = frame.slope * new[0], frame.intercept * new[0] + new[1]
    largest = 2.0 ** int(ds.get("BitsStored", 16)) * abs(new[0])
    if abs(old[0] - new[0]) <= _CLOSE * abs(new[0]) and abs(old[1] - new[1]) <= _CLOSE * largest:
        return False
    target.RescaleSlope, target.RescaleIntercept = (f"{v:.10g}" for v in new)
    if not target.get("RescaleType"):
        target.RescaleType = "US"
    for window, shift in (("WindowCenter", True), ("WindowWidth", False)):
        values = windows.get(window)
        if values in (None, ""):
            continue
        factor = new[0] / old[0]
        numbers = np.atleast_1d(np.array(values, dtype=np.float64))
        moved = (numbers - old[1]) * factor + new[1] if shift else numbers * abs(factor)
        setattr(windows, window, [f"{v:.8g}" for v in moved])
    return True
