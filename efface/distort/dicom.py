"""The distorted voxels, back in the DICOM files they came from, pixel for pixel.

dcm2niix only flips and reorders. So every pixel of a raw frame has one voxel, which the frame's
geometry names; and that it is the right one is proven by equality: the frame's stored values must
be those of the converted image, every one. Geometry is read from the raw file (a Siemens mosaic's
lies in a private header), pixels are written into the scrubbed one. What cannot be proven is
:class:`Unmapped`, and the series keeps its DICOM form to itself.

Geometry: PS3.3 C.7.6.2 (image plane), C.7.6.16 (functional groups); mosaics by nibabel.nicom.
"""

from __future__ import annotations

import hashlib
import io
import warnings
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pydicom
from numpy.typing import NDArray
from pydicom import uid
from pydicom.dataset import Dataset, FileDataset
from pydicom.sequence import Sequence as Items

from efface.distort.region import Bool, Float
from efface.pixels import pixels, transfer_syntax

TOLERANCE = 0.4
"""How far from a voxel's centre a pixel's centre may lie, in voxels.

It only has to name one voxel; the proof is that the values are equal. Positions rounded in the
header add up over the slices, because dcm2niix takes the gap from the first ones (seen: 0.19).
"""

LPS_TO_RAS = np.diag([-1.0, -1.0, 1.0])

_STALE = (
    0x00280106,  # Smallest Image Pixel Value
    0x00280107,  # Largest Image Pixel Value
    0x00280108,  # Smallest Pixel Value in Series
    0x00280109,  # Largest Pixel Value in Series
    0x00280110,  # Smallest Image Pixel Value in Plane
    0x00280111,  # Largest Image Pixel Value in Plane
    0x00880200,  # Icon Image Sequence: the face, small
    0x7FE00001,  # Extended Offset Table
    0x7FE00002,  # Extended Offset Table Lengths
    0x7FE00003,  # Encapsulated Pixel Data Value Total Length
    0xFFFCFFFC,  # Data Set Trailing Padding
)
"""Statements about the pixels, or pictures of them, that stop being true or must not stay."""


_DESCRIPTION = (
    *("Rows", "Columns", "NumberOfFrames", "BitsAllocated", "BitsStored", "HighBit"),
    *("PixelRepresentation", "SamplesPerPixel", "PhotometricInterpretation", "PixelData"),
)
"""All it takes to read the pixels back."""


class Unmapped(Exception):  # noqa: N818 - a finding, not an error
    """A frame's place in the converted image could not be proven; the text names no file."""


@dataclass(frozen=True)
class Frame:
    """One image plane in a file: a frame, or a tile of a mosaic."""

    number: int
    """Which of the file's frames holds it, from 0."""
    rows: slice
    columns: slice
    plane: Float
    """3 × 3: RAS millimetres of a step down a column, a step along a row, and the first pixel."""
    slope: float = 1.0
    intercept: float = 0.0

    @property
    def shape(self) -> tuple[int, int]:
        """Rows and columns."""
        return self.rows.stop - self.rows.start, self.columns.stop - self.columns.start


@dataclass(frozen=True)
class Place:
    """Where a frame lies in a volume: the voxels of pixel (0, 0), and of steps along both axes."""

    axes: tuple[int, int, int]
    """Voxel axis of the frame's rows (i), its columns (j), and the one across it."""
    signs: tuple[int, int]
    start: tuple[int, int, int]
    """Voxel index of pixel (0, 0)."""
    shape: tuple[int, int]

    def of(self, volume: NDArray[Any]) -> NDArray[Any]:
        """The frame's pixels in a 3D volume: a view of shape (rows, columns)."""
        index: list[Any] = list(self.start)
        for axis, sign, n in zip(self.axes[:2], self.signs, self.shape, strict=True):
            stop = self.start[axis] + sign * n
            index[axis] = slice(self.start[axis], stop if stop >= 0 else None, sign)
        view: NDArray[Any] = volume[tuple(index)]
        return view if self.axes[0] < self.axes[1] else view.T


@dataclass
class Converted:
    """A converted image with its distorted form, and what has been matched in it so far."""

    scan: str
    raw: NDArray[np.generic]
    """Stored values, shape (x, y, z, t)."""
    distorted: NDArray[np.generic]
    """The same after distortion, same shape and dtype."""
    mask: Bool
    """What was replaced, shape (x, y, z)."""
    affine: Float
    slope: float = 1.0
    intercept: float = 0.0
    gradients: Float | None = None
    """Shape (t, 4): b-value in s/mm² and direction, unit vector in RAS; None without b-values."""
    planes: dict[Place, dict[bytes, list[int]]] = field(default_factory=dict)
    """Per place, digest of each volume's plane to the volumes that have it and wait for a frame."""
    used: set[tuple[Place, int]] = field(default_factory=set)


def read(path: Path) -> FileDataset:
    """Read a DICOM file, with or without preamble."""
    return pydicom.dcmread(path, force=True)


def frames(ds: Dataset) -> tuple[Frame, ...]:
    """All image planes of a dataset, with their geometry.

    Single-frame, enhanced multi-frame, and Siemens mosaics as long as their private header is
    there. Raises :class:`Unmapped` where an attribute that says where a plane lies is missing.
    """
    if int(ds.get("SamplesPerPixel", 1)) != 1:
        raise Unmapped("colour images have no converted form")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            if "PerFrameFunctionalGroupsSequence" in ds:
                return _enhanced(ds)
            if int(ds.get("NumberOfFrames") or 1) != 1:
                raise Unmapped("several frames without their positions")
            if "MOSAIC" in (ds.get("ImageType") or ()):
                return _mosaic(ds)
            plane = _plane(ds.PixelSpacing, ds.ImageOrientationPatient, ds.ImagePositionPatient)
            return (_whole(ds, 0, plane, *rescale(ds)),)
    except (AttributeError, KeyError, IndexError, TypeError, ValueError) as e:
        raise Unmapped(f"the position of a frame is missing ({type(e).__name__})") from e


def _plane(spacing: Sequence[Any], orientation: Sequence[Any], position: Sequence[Any]) -> Float:
    row_step, column_step = (float(v) for v in spacing)
    along = np.array([float(v) for v in orientation]).reshape(2, 3)
    first = np.array([float(v) for v in position])
    if first.shape != (3,):
        raise Unmapped("the position of a frame is missing")
    # orientation is (along a row, down a column); spacing is (between rows, between columns)
    plane: Float = LPS_TO_RAS @ np.stack(
        [along[1] * row_step, along[0] * column_step, first], axis=1
    )
    return plane


def _whole(ds: Dataset, number: int, plane: Float, slope: float, intercept: float) -> Frame:
    return Frame(number, slice(0, int(ds.Rows)), slice(0, int(ds.Columns)), plane, slope, intercept)


def rescale(ds: Dataset) -> tuple[float, float]:
    """Rescale Slope and Intercept of a dataset or functional group; 1 and 0 where absent."""
    slope, intercept = ds.get("RescaleSlope"), ds.get("RescaleIntercept")
    return 1.0 if slope is None else float(slope), 0.0 if intercept is None else float(intercept)


def _enhanced(ds: Dataset) -> tuple[Frame, ...]:
    shared = (ds.get("SharedFunctionalGroupsSequence") or [Dataset()])[0]

    def group(own: Dataset, name: str) -> Dataset:
        sequence = own.get(name) or shared.get(name)
        if not sequence:
            raise Unmapped(f"a frame has no {name}")
        item: Dataset = sequence[0]
        return item

    out = []
    for n, own in enumerate(ds.PerFrameFunctionalGroupsSequence):
        plane = _plane(
            group(own, "PixelMeasuresSequence").PixelSpacing,
            group(own, "PlaneOrientationSequence").ImageOrientationPatient,
            group(own, "PlanePositionSequence").ImagePositionPatient,
        )
        name = "PixelValueTransformationSequence"
        scale = (own.get(name) or shared.get(name) or [Dataset()])[0]
        out.append(_whole(ds, n, plane, *rescale(scale)))
    return tuple(out)


def _mosaic(ds: Dataset) -> tuple[Frame, ...]:
    from nibabel.nicom import dicomwrappers

    try:
        mosaic = dicomwrappers.wrapper_from_data(ds)
        count = int(mosaic.n_mosaic)
        affine = np.asarray(mosaic.affine, dtype=np.float64)
    except Exception as e:
        raise Unmapped("a mosaic without a readable Siemens header") from e
    across = int(np.ceil(np.sqrt(count)))
    rows, columns = int(ds.Rows) // across, int(ds.Columns) // across
    out = []
    for n in range(count):
        top, left = n // across * rows, n % across * columns
        first = affine[:3, 3] + n * affine[:3, 2]
        plane = LPS_TO_RAS @ np.stack([affine[:3, 0], affine[:3, 1], first], axis=1)
        where = slice(top, top + rows), slice(left, left + columns)
        out.append(Frame(0, *where, plane, *rescale(ds)))
    return tuple(out)


def place(frame: Frame, affine: Float, shape: tuple[int, ...]) -> Place | None:
    """Where the frame lies in a volume with this affine and shape; None if it does not.

    Its four corners must be within :data:`TOLERANCE` of voxel centres, its steps along voxel axes.
    """
    inverse = np.linalg.inv(affine)
    to_voxel = inverse[:3, :3] @ frame.plane
    to_voxel[:, 2] += inverse[:3, 3]
    steps = np.rint(to_voxel[:, :2]).astype(int)
    if (np.abs(steps).sum(axis=0) != 1).any():
        return None
    i, j = (int(a) for a in np.abs(steps).argmax(axis=0))
    if i == j:
        return None
    start = np.rint(to_voxel[:, 2]).astype(int)
    rows, columns = frame.shape
    corners = np.array([(r, c, 1) for r in (0, rows - 1) for c in (0, columns - 1)]).T
    exact = to_voxel @ corners
    snapped = np.column_stack([steps, start]) @ corners
    inside = (snapped >= 0) & (snapped < np.array(shape[:3])[:, None])
    if (np.abs(exact - snapped) > TOLERANCE).any() or not inside.all():
        return None
    return Place(
        axes=(i, j, 3 - i - j),
        signs=(int(steps[i, 0]), int(steps[j, 1])),
        start=(int(start[0]), int(start[1]), int(start[2])),
        shape=frame.shape,
    )


def match(
    frame: Frame, values: NDArray[np.generic], converted: Iterable[Converted]
) -> tuple[Converted, Place, int]:
    """The image, place and volume whose stored voxels equal the frame's pixels, every one.

    ``values``: the frame's stored pixels, shape (rows, columns). A volume is taken once as long as
    another equal one waits, in this image or a later one: an image that a series holds twice is
    distorted twice. Raises :class:`Unmapped` if there is none.
    """
    fits, again = False, None
    for image in converted:
        where = place(frame, image.affine, image.raw.shape)
        if where is None:
            continue
        fits = True
        if image.raw.dtype.kind == "f":
            t = _match_scaled(frame, values, image, where)
        else:
            t = _match_stored(values, image, where)
        if t is None:
            continue
        if (where, t) not in image.used:
            image.used.add((where, t))
            return image, where, t
        again = again or (image, where, t)
    if again:
        return again  # a frame that comes twice has the same voxels as before
    raise Unmapped("pixels differ from the voxels" if fits else "no voxels where a frame lies")


def _match_stored(values: NDArray[np.generic], image: Converted, where: Place) -> int | None:
    """The volume that holds the pixels, the first that is not taken if there is one."""
    if where not in image.planes:
        index: dict[bytes, list[int]] = {}
        for t in reversed(range(image.raw.shape[3])):
            index.setdefault(_digest(where.of(image.raw[..., t])), []).append(t)
        image.planes[where] = index
    waiting = image.planes[where].get(_digest(values))
    if waiting is None:
        return None
    while len(waiting) > 1 and (where, waiting[-1]) in image.used:
        waiting.pop()
    return waiting[-1]


def _match_scaled(
    frame: Frame, values: NDArray[np.generic], image: Converted, where: Place
) -> int | None:
    """As :func:`_match_stored`, for floats.

    dcm2niix applies the scale itself, to floats, where frames differ in it.
    """
    scaled = values.astype(np.float64) * frame.slope + frame.intercept
    allowed = 1e-6 * max(float(np.abs(scaled).max()), abs(frame.slope))
    if allowed > 0.25 * abs(frame.slope):
        return None  # single precision cannot tell two stored values apart
    again = None
    for t in range(image.raw.shape[3]):
        if (np.abs(where.of(image.raw[..., t]) - scaled) <= allowed).all():
            if (where, t) not in image.used:
                return t
            again = t
    return again


def _digest(plane: NDArray[np.generic]) -> bytes:
    """Of the values, whatever their integer type and memory order."""
    data = np.ascontiguousarray(plane, dtype=np.int64).tobytes()
    return hashlib.blake2b(data, digest_size=16).digest()


@dataclass(frozen=True)
class Placed:
    """A frame, and the volume of a converted image that holds it."""

    frame: Frame
    image: Converted
    volume: int


def distorted(
    ds: Dataset, values: NDArray[np.generic], converted: list[Converted]
) -> tuple[NDArray[np.generic], Bool]:
    """The file's pixels with what was replaced in the converted image replaced here, and where.

    ``ds``: the raw dataset; ``values``: its :func:`pixels`. Returns pixels of the same shape and
    dtype and a mask of the same shape; pixels outside the mask are the raw ones. Raises
    :class:`Unmapped` if a frame's place cannot be proven.
    """
    new, mask, _ = placed(ds, values, converted)
    return new, mask


def placed(
    ds: Dataset, values: NDArray[np.generic], converted: list[Converted]
) -> tuple[NDArray[np.generic], Bool, tuple[Placed, ...]]:
    """As :func:`distorted`, with the place of each frame, in the order of :func:`frames`."""
    out, where_changed = values.copy(), np.zeros(values.shape, dtype=bool)
    places = []
    stored, signed = int(ds.get("BitsStored", ds.BitsAllocated)), values.dtype.kind == "i"
    low, high = (-(2 ** (stored - 1)), 2 ** (stored - 1) - 1) if signed else (0, 2**stored - 1)
    seen = np.zeros(values.shape, dtype=bool)
    for frame in frames(ds):
        tile = frame.number, frame.rows, frame.columns
        image, where, t = match(frame, values[tile], converted)
        places.append(Placed(frame, image, t))
        mask = where.of(image.mask)
        new = where.of(image.distorted[..., t])[mask].astype(np.float64)
        if image.raw.dtype.kind == "f":
            new = np.rint((new - frame.intercept) / frame.slope)
        out[tile][mask] = np.clip(new, low, high).astype(values.dtype)
        where_changed[tile] = mask
        seen[tile] = True
    # a mosaic has empty tiles beyond its last slice; anything else there has not been looked at
    if not seen.all() and values[~seen].any():
        raise Unmapped("pixels outside all frames")
    return out, where_changed, tuple(places)


def _graphics(ds: Dataset) -> list[Any]:
    """Tags of the curve and overlay groups: drawings over a picture that is gone."""
    return [t for t in ds.keys() if 0x5000 <= t.group <= 0x501E or 0x6000 <= t.group <= 0x601E]  # noqa: SIM118 - iterating a dataset decodes its elements


_LOSSY = ("1.2.840.10008.1.2.4.50", "1.2.840.10008.1.2.4.51")
"""JPEG Baseline and Extended: there is no lossless form of these."""


def _derived(ds: Dataset) -> None:
    """Say that the pixels are no longer those of the acquisition (PS3.3 C.7.6.1.1.2, C.7.6.1.1.3).

    The source image is not named: it is not released. Enhanced objects keep their Image Type: under
    DERIVED they must name their source, and could not keep how they were acquired (C.8.13.4); what
    was done to them is said by the code of the de-identification.
    """
    if "PerFrameFunctionalGroupsSequence" in ds:
        return
    if ds.get("ImageType"):
        ds.ImageType = ["DERIVED", *list(ds["ImageType"].value)[1:]]
    how = Dataset()
    # of CID 7203, which has no code of its own for a face
    how.CodeValue, how.CodingSchemeDesignator = "113047", "DCM"
    how.CodeMeaning = "Pixel by pixel mask"
    ds.DerivationDescription = "Face replaced"
    ds.DerivationCodeSequence = Items([*ds.get("DerivationCodeSequence", []), how])


def _rewindow(ds: Dataset, values: NDArray[Any]) -> None:
    """Windows that the header has, set to what the pixels are now (PS3.3 C.11.2.1.2).

    From the 1st to the 99th percentile, after rescaling; padding is not counted. The scanner's
    window was a statement about pixels that are gone.
    """
    padding = [int(ds[t].value) for t in (0x00280120, 0x00280121) if t in ds and ds[t].value != ""]

    def window(group: Dataset, pixels: NDArray[Any], scale: tuple[float, float]) -> None:
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

    window(ds, values, rescale(ds))
    shared = (ds.get("SharedFunctionalGroupsSequence") or [Dataset()])[0]
    name = "PixelValueTransformationSequence"
    for n, own in enumerate(ds.get("PerFrameFunctionalGroupsSequence", [])):
        scale = rescale((own.get(name) or shared.get(name) or [Dataset()])[0])
        if n == 0 and shared.get("FrameVOILUTSequence"):
            window(shared.FrameVOILUTSequence[0], values, scale)
        if own.get("FrameVOILUTSequence"):
            window(own.FrameVOILUTSequence[0], values[n], scale)


def write(
    scrubbed: Path,
    target: Path,
    raw: Dataset,
    values: NDArray[np.generic],
    state: Callable[[Dataset], None] | None = None,
    derived: bool = False,
) -> None:
    """Write the scrubbed file with other pixels, uncompressed, and read it back to be sure.

    ``values``: shape (frames, rows, columns), as :func:`distorted` returns them. ``derived``: some
    pixels of the series were replaced, if not in this file: the header says so, and windows are set
    anew. All files of a series must agree, or readers take them for several images. ``state`` adds
    to the header what was done (:func:`efface.scrub.state_face_removed`). Little endian input keeps
    its transfer syntax; big endian, deflated and compressed become Explicit VR Little Endian. The
    same input gives the same bytes. The file is not synced to disk one by one: the stage's folder
    takes its place whole or not at all. Raises :class:`Unmapped` if the scrubbed header does not
    describe the raw pixels, or if what was written does not read back.
    """
    ds = read(scrubbed)
    for name in ("Rows", "Columns", "BitsAllocated", "BitsStored", "PixelRepresentation"):
        if ds.get(name) != raw.get(name):
            raise Unmapped(f"the scrubbed header has another {name}")
    smallest, largest = 0x00280106 in ds, 0x00280107 in ds
    for tag in _STALE:
        if tag in ds:
            del ds[tag]
    for tag in _graphics(ds):
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
        _derived(ds)
        _rewindow(ds, values)
    if transfer_syntax(raw) in _LOSSY and "LossyImageCompression" not in ds:
        # what was lost stays lost, though the stream that said so is gone (C.7.6.1.1.5)
        ds.LossyImageCompression, ds.LossyImageCompressionMethod = "01", "ISO_10918_1"
        ds.LossyImageCompressionRatio = f"{len(data) / max(len(raw.PixelData), 1):.4g}"
    ds.add_new(0x7FE00010, "OB" if values.dtype.itemsize == 1 else "OW", data)
    if state is not None:
        state(ds)
    if ds.file_meta.get("TransferSyntaxUID") != uid.ImplicitVRLittleEndian:
        ds.file_meta.TransferSyntaxUID = uid.ExplicitVRLittleEndian
    content = encoded(ds)
    again = pixels(pydicom.dcmread(io.BytesIO(content), specific_tags=list(_DESCRIPTION)))
    if again.dtype != values.dtype or not np.array_equal(again, values):
        raise Unmapped("what was written does not read back")
    target.parent.mkdir(parents=True, exist_ok=True)
    target.write_bytes(content)


def encoded(ds: FileDataset) -> bytes:
    """The bytes of a little endian file."""
    buffer = io.BytesIO()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        implicit = ds.file_meta.TransferSyntaxUID == uid.ImplicitVRLittleEndian
        pydicom.dcmwrite(
            buffer, ds, implicit_vr=implicit, little_endian=True, enforce_file_format=True
        )
    return buffer.getvalue()
