"""DICOM files with replaced pixels: the scrubbed header and the distorted pixel values."""

from __future__ import annotations

import io
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pydicom
from numpy.typing import NDArray
from pydicom import uid
from pydicom.dataset import Dataset, FileDataset
from pydicom.sequence import Sequence

from efface.distort.frames import UnmappedError, read, rescale
from efface.pixels import pixels, transfer_syntax

_STALE_TAGS = (
    0x00280106,  # Smallest Image Pixel Value
    0x00280107,  # Largest Image Pixel Value
    0x00280108,  # Smallest Pixel Value in Series
    0x00280109,  # Largest Pixel Value in Series
    0x00280110,  # Smallest Image Pixel Value in Plane
    0x00280111,  # Largest Image Pixel Value in Plane
    0x00880200,  # Icon Image Sequence: a small picture of the face
    0x7FE00001,  # Extended Offset Table
    0x7FE00002,  # Extended Offset Table Lengths
    0x7FE00003,  # Encapsulated Pixel Data Value Total Length
    0xFFFCFFFC,  # Data Set Trailing Padding
)
"""Attributes about the original pixels that are wrong after replacement, or show the face."""

_PIXEL_KEYWORDS = (
    *("Rows", "Columns", "NumberOfFrames", "BitsAllocated", "BitsStored", "HighBit"),
    *("PixelRepresentation", "SamplesPerPixel", "PhotometricInterpretation", "PixelData"),
)
"""Attributes that are needed to decode the pixels."""

_LOSSY = ("1.2.840.10008.1.2.4.50", "1.2.840.10008.1.2.4.51")
"""Transfer syntaxes JPEG Baseline and Extended, which are always lossy."""


def write(
    scrubbed: Path,
    target: Path,
    raw: Dataset,
    values: NDArray[np.generic],
    annotate: Callable[[Dataset], None] | None = None,
    derived: bool = False,
) -> None:
    """Write the scrubbed file with other pixels, uncompressed, and verify it by decoding it again.

    ``values``: shape (frames, rows, columns), from
    :func:`~efface.distort.mapping.distorted_pixels`. ``derived``: whether pixels of the series were
    replaced, in this file or another. The header then states it, and windows are reset; all files
    of a series must agree, or readers take them for several images. ``annotate``: adds to the
    header what was done, such as :func:`efface.scrub.state_face_removed`.

    Little endian input keeps its transfer syntax; big endian, deflated and compressed input becomes
    Explicit VR Little Endian. The same input gives the same bytes. The file is not synced to disk:
    the stage's folder is renamed as a whole. Raises :class:`UnmappedError` if the scrubbed header
    does not describe the raw pixels, or if the written pixels differ when decoded again.
    """
    ds = read(scrubbed)
    for name in ("Rows", "Columns", "BitsAllocated", "BitsStored", "PixelRepresentation"):
        if ds.get(name) != raw.get(name):
            raise UnmappedError(f"{name} of the scrubbed header differs from the source file")
    smallest, largest = 0x00280106 in ds, 0x00280107 in ds
    for tag in _STALE_TAGS:
        if tag in ds:
            del ds[tag]
    for tag in _graphics_tags(ds):
        del ds[tag]
    vr = "SS" if values.dtype.kind == "i" else "US"
    if values.dtype.itemsize <= 2:
        if smallest:
            ds.add_new(0x00280106, vr, int(values.min()))
        if largest:
            ds.add_new(0x00280107, vr, int(values.max()))
    data = np.ascontiguousarray(values, dtype=values.dtype.newbyteorder("<")).tobytes()
    data += b"\0" * (len(data) % 2)
    if derived:
        _mark_derived(ds)
        _reset_windows(ds, values)
    if transfer_syntax(raw) in _LOSSY and "LossyImageCompression" not in ds:
        # decompression does not undo the loss, and the transfer syntax no longer shows it
        # (C.7.6.1.1.5)
        ds.LossyImageCompression, ds.LossyImageCompressionMethod = "01", "ISO_10918_1"
        ds.LossyImageCompressionRatio = f"{len(data) / max(len(raw.PixelData), 1):.4g}"
    ds.add_new(0x7FE00010, "OB" if values.dtype.itemsize == 1 else "OW", data)
    if annotate is not None:
        annotate(ds)
    if ds.file_meta.get("TransferSyntaxUID") != uid.ImplicitVRLittleEndian:
        ds.file_meta.TransferSyntaxUID = uid.ExplicitVRLittleEndian
    content = encode(ds)
    decoded = pixels(pydicom.dcmread(io.BytesIO(content), specific_tags=list(_PIXEL_KEYWORDS)))
    if decoded.dtype != values.dtype or not np.array_equal(decoded, values):
        raise UnmappedError("the written pixels differ when decoded again")
    target.parent.mkdir(parents=True, exist_ok=True)
    target.write_bytes(content)


def encode(ds: FileDataset) -> bytes:
    """Bytes of the file of a little endian dataset."""
    buffer = io.BytesIO()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        implicit = ds.file_meta.TransferSyntaxUID == uid.ImplicitVRLittleEndian
        pydicom.dcmwrite(
            buffer, ds, implicit_vr=implicit, little_endian=True, enforce_file_format=True
        )
    return buffer.getvalue()


def _graphics_tags(ds: Dataset) -> list[Any]:
    """Tags of the curve and overlay groups, which may trace the face."""
    return [t for t in ds.keys() if 0x5000 <= t.group <= 0x501E or 0x6000 <= t.group <= 0x601E]  # noqa: SIM118 - iterating a dataset decodes its elements


def _mark_derived(ds: Dataset) -> None:
    """State in the header that pixels were replaced (PS3.3 C.7.6.1.1.2, C.7.6.1.1.3).

    The source image is not referenced, because it is not released. Enhanced objects keep their
    Image Type: DERIVED would require a reference to the source, and would not allow the attributes
    of the acquisition (C.8.13.4). The de-identification code states the change there.
    """
    if "PerFrameFunctionalGroupsSequence" in ds:
        return
    if ds.get("ImageType"):
        ds.ImageType = ["DERIVED", *list(ds["ImageType"].value)[1:]]
    derivation = Dataset()
    # from CID 7203, which has no code specific to faces
    derivation.CodeValue, derivation.CodingSchemeDesignator = "113047", "DCM"
    derivation.CodeMeaning = "Pixel by pixel mask"
    ds.DerivationDescription = "Face replaced"
    ds.DerivationCodeSequence = Sequence([*ds.get("DerivationCodeSequence", []), derivation])


def _reset_windows(ds: Dataset, values: NDArray[Any]) -> None:
    """Set existing windows to the 1st to 99th percentile of the rescaled pixels (C.11.2.1.2).

    Padding is not counted. The scanner's windows describe the original pixels.
    """
    padding = [int(ds[t].value) for t in (0x00280120, 0x00280121) if t in ds and ds[t].value != ""]

    def reset(group: Dataset, pixels: NDArray[Any], scale: tuple[float, float]) -> None:
        if group.get("WindowCenter") in (None, "") or group.get("WindowWidth") in (None, ""):
            return
        if padding:
            pixels = pixels[(pixels < min(padding)) | (pixels > max(padding))]
        if not pixels.size:
            return
        low, high = np.percentile(pixels, [1, 99], method="nearest").astype(float)
        slope, intercept = scale
        group.WindowCenter = f"{(low + high) / 2 * slope + intercept:.8g}"
        group.WindowWidth = f"{max((high - low) * abs(slope), 1):.8g}"
        if "WindowCenterWidthExplanation" in group:
            del group.WindowCenterWidthExplanation

    reset(ds, values, rescale(ds))
    shared = (ds.get("SharedFunctionalGroupsSequence") or [Dataset()])[0]
    name = "PixelValueTransformationSequence"
    for n, own in enumerate(ds.get("PerFrameFunctionalGroupsSequence", [])):
        scale = rescale((own.get(name) or shared.get(name) or [Dataset()])[0])
        if n == 0 and shared.get("FrameVOILUTSequence"):
            reset(shared.FrameVOILUTSequence[0], values, scale)
        if own.get("FrameVOILUTSequence"):
            reset(own.FrameVOILUTSequence[0], values[n], scale)
