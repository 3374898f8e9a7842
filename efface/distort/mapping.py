"""Mapping of DICOM frames to the voxels of converted images, exact to the pixel.

dcm2niix only flips and reorders voxels. So the geometry of a frame gives one voxel for each pixel,
and the mapping is proven by equality: all stored values of the frame must equal those of the
voxels. Without that proof the frame is unmapped (:class:`~efface.distort.frames.UnmappedError`),
and the series has no DICOM form. Geometry is read from the raw file, because the geometry of a
Siemens mosaic is in a private header.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from pydicom.dataset import Dataset

from efface.distort.frames import Frame, UnmappedError, frames
from efface.distort.region import Bool, Float

TOLERANCE = 0.4
"""Largest distance of a pixel's centre from a voxel's centre, in voxels.

It only has to select one voxel; the proof is that the values are equal. Positions rounded in the
header add up over the slices, because dcm2niix takes the gap from the first ones (measured: 0.19).
"""


@dataclass(frozen=True)
class VoxelPlane:
    """The voxels of a frame's pixels in a volume."""

    axes: tuple[int, int, int]
    """Voxel axis along which the frame's rows are counted, its columns, and the third axis."""
    signs: tuple[int, int]
    """1 or -1: direction along the first two axes."""
    start: tuple[int, int, int]
    """Voxel index of pixel (0, 0)."""
    shape: tuple[int, int]
    """Rows and columns."""

    def view(self, volume: NDArray[Any]) -> NDArray[Any]:
        """View of the frame's pixels, shape (rows, columns), in a 3D volume."""
        index: list[Any] = list(self.start)
        for axis, sign, n in zip(self.axes[:2], self.signs, self.shape, strict=True):
            stop = self.start[axis] + sign * n
            index[axis] = slice(self.start[axis], stop if stop >= 0 else None, sign)
        view: NDArray[Any] = volume[tuple(index)]
        return view if self.axes[0] < self.axes[1] else view.T


@dataclass(frozen=True)
class ConvertedImage:
    """A converted image before and after distortion."""

    raw: NDArray[np.generic]
    """Stored values, shape (x, y, z, t)."""
    distorted: NDArray[np.generic]
    """Stored values after distortion, same shape and dtype."""
    mask: Bool
    """Replaced voxels, shape (x, y, z)."""
    affine: Float
    slope: float = 1.0
    intercept: float = 0.0
    gradients: Float | None = None
    """Shape (t, 4): b-value in s/mm² and direction, unit vector in RAS; None without b-values."""


@dataclass(frozen=True)
class MappedFrame:
    """A frame and its voxels in a converted image."""

    frame: Frame
    image: ConvertedImage
    plane: VoxelPlane
    volume: int
    """Index of the volume, from 0."""


@dataclass(frozen=True)
class DistortedPixels:
    """Pixels of a file after distortion."""

    values: NDArray[np.generic]
    """Shape (frames, rows, columns), dtype of the raw pixels."""
    mask: Bool
    """Replaced pixels, same shape."""
    frames: tuple[MappedFrame, ...]
    """In the order of :func:`efface.distort.frames.frames`."""


def distorted_pixels(
    ds: Dataset, values: NDArray[np.generic], matcher: FrameMatcher
) -> DistortedPixels:
    """Replace a file's pixels wherever the voxels of its converted images are replaced.

    ``ds``: the raw dataset; ``values``: its :func:`~efface.distort.frames.pixels`; ``matcher``: of
    the images of its series. Pixels outside the mask are the raw ones. Raises
    :class:`~efface.distort.frames.UnmappedError` if a frame has no proven match.
    """
    out, replaced = values.copy(), np.zeros(values.shape, dtype=bool)
    mapped_frames = []
    stored, signed = int(ds.get("BitsStored", ds.BitsAllocated)), values.dtype.kind == "i"
    low, high = (-(2 ** (stored - 1)), 2 ** (stored - 1) - 1) if signed else (0, 2**stored - 1)
    in_frames = np.zeros(values.shape, dtype=bool)
    for frame in frames(ds):
        tile = frame.number, frame.rows, frame.columns
        mapped = matcher.match(frame, values[tile])
        mapped_frames.append(mapped)
        image = mapped.image
        mask = mapped.plane.view(image.mask)
        new = mapped.plane.view(image.distorted[..., mapped.volume])[mask].astype(np.float64)
        if image.raw.dtype.kind == "f":
            new = np.rint((new - frame.intercept) / frame.slope)
        out[tile][mask] = np.clip(new, low, high).astype(values.dtype)
        replaced[tile] = mask
        in_frames[tile] = True
    # a mosaic has empty tiles after its last slice; other pixels outside the frames may show a face
    if not in_frames.all() and values[~in_frames].any():
        raise UnmappedError("nonzero pixels outside all frames")
    return DistortedPixels(out, replaced, tuple(mapped_frames))


class FrameMatcher:
    """Match of a series' frames to the volumes of its converted images.

    Remembers which volumes were matched: of equal volumes each is matched once before one is
    matched again, so that an image that a series holds twice is distorted twice.
    """

    def __init__(self, images: Sequence[ConvertedImage]) -> None:
        self.images = tuple(images)
        # by image and plane: digest of the voxels to the volumes that have it, the last one next
        self._volumes: dict[tuple[int, VoxelPlane], dict[bytes, list[int]]] = {}
        self._used: set[tuple[int, VoxelPlane, int]] = set()

    def match(self, frame: Frame, values: NDArray[np.generic]) -> MappedFrame:
        """Find the voxels whose stored values all equal the frame's pixels.

        ``values``: the frame's stored pixels, shape (rows, columns). Raises
        :class:`~efface.distort.frames.UnmappedError` if there are none.
        """
        overlaps, repeated = False, None
        for number, image in enumerate(self.images):
            plane = voxel_plane(frame, image.affine, image.raw.shape)
            if plane is None:
                continue
            overlaps = True
            if image.raw.dtype.kind == "f":
                volume = self._match_scaled(frame, values, number, plane)
            else:
                volume = self._match_stored(values, number, plane)
            if volume is None:
                continue
            mapped = MappedFrame(frame, image, plane, volume)
            if (number, plane, volume) not in self._used:
                self._used.add((number, plane, volume))
                return mapped
            repeated = repeated or mapped
        if repeated:
            return repeated  # a frame that the series holds more often than the images do
        raise UnmappedError(
            "pixels differ from the voxels" if overlaps else "no voxels at the position of a frame"
        )

    def _match_stored(
        self, values: NDArray[np.generic], number: int, plane: VoxelPlane
    ) -> int | None:
        """First volume that holds the pixels and was not matched; else one that was; else None."""
        key = number, plane
        if key not in self._volumes:
            raw = self.images[number].raw
            by_digest: dict[bytes, list[int]] = {}
            for t in reversed(range(raw.shape[3])):
                by_digest.setdefault(_digest(plane.view(raw[..., t])), []).append(t)
            self._volumes[key] = by_digest
        volumes = self._volumes[key].get(_digest(values))
        if volumes is None:
            return None
        while len(volumes) > 1 and (number, plane, volumes[-1]) in self._used:
            volumes.pop()
        return volumes[-1]

    def _match_scaled(
        self, frame: Frame, values: NDArray[np.generic], number: int, plane: VoxelPlane
    ) -> int | None:
        """As :meth:`_match_stored`, for floats.

        dcm2niix applies the scaling itself, and stores floats, if frames differ in it.
        """
        scaled = values.astype(np.float64) * frame.slope + frame.intercept
        allowed = 1e-6 * max(float(np.abs(scaled).max()), abs(frame.slope))
        if allowed > 0.25 * abs(frame.slope):
            return None  # neighbouring stored values are equal in single precision
        repeated = None
        raw = self.images[number].raw
        for t in range(raw.shape[3]):
            if (np.abs(plane.view(raw[..., t]) - scaled) <= allowed).all():
                if (number, plane, t) not in self._used:
                    return t
                repeated = t
        return repeated


def voxel_plane(frame: Frame, affine: Float, shape: tuple[int, ...]) -> VoxelPlane | None:
    """Position of the frame in a volume with this affine (4 × 4) and shape; None if outside of it.

    The frame's corners must be within :data:`TOLERANCE` of voxel centres, and its steps along
    voxel axes.
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
    return VoxelPlane(
        axes=(i, j, 3 - i - j),
        signs=(int(steps[i, 0]), int(steps[j, 1])),
        start=(int(start[0]), int(start[1]), int(start[2])),
        shape=frame.shape,
    )


def _digest(values: NDArray[np.generic]) -> bytes:
    """Digest of integer values, independent of their type and memory order."""
    data = np.ascontiguousarray(values, dtype=np.int64).tobytes()
    return hashlib.blake2b(data, digest_size=16).digest()
