"""Pictures of a head for visual review: renders of the skin, and slices with outlines.

The skin is rendered by ray casting. Each ray stops at the first voxel of the head; the depth is
interpolated between the two voxels around the threshold; the surface is shaded by Lambert's law.
This needs NumPy and SciPy only, no display and no VTK. Views are named by the patient's
directions, whatever the orientation of the voxels.
"""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
from numpy.typing import NDArray
from PIL import Image
from scipy import ndimage

from efface.errors import EffaceError
from efface.manifest import write_whole
from efface.segment.geometry import voxel_sizes
from efface.segment.masks import largest_component
from efface.segment.resample import block_mean
from efface.segment.threshold import otsu

Float = NDArray[np.float32]
Bool = NDArray[np.bool_]
Gray = NDArray[np.uint8]

orientations: Any = nib.orientations  # untyped in nibabel

MM = 1.5
"""Size of a pixel of the renders, in mm."""

COLOURS = ((90, 170, 255), (255, 230, 60), (255, 90, 90), (120, 230, 120), (240, 130, 240))
"""RGB of the outlines of labels 1 to 5 (brain, eyes, nose, ears, mouth); a mask gets the third."""

_LIGHT = (-0.30, 0.45, 0.84)  # x right, y up, z towards the viewer: from the upper left
_MAX_EXTENT_MM = 600.0  # a larger field of view has a wrong affine, and could exhaust memory


def skin_threshold(volume: NDArray[np.generic], affine: NDArray[np.floating]) -> float:
    """Intensity between air and skin of a 3D volume in any contrast.

    Pass the threshold of the original scan to :func:`views` for the scans before and after
    defacing, so that both show the same surface.
    """
    return _threshold(_smoothed(_isotropic(volume, affine, MM)[0]))


def views(
    volume: NDArray[np.generic],
    affine: NDArray[np.floating],
    *,
    threshold: float | None = None,
    mm: float = MM,
) -> dict[str, Gray]:
    """Shaded renders of the skin by name (front, left, right), each uint8 (rows, columns).

    ``mm``: size of a pixel. Rows run from superior to inferior. "front" has the patient's right at
    the picture's left; "left" shows the patient's left side, with the face towards the picture's
    left. Air is 0. The same ``affine`` and shape give pictures of the same size, so that before and
    after can be compared pixel by pixel.

    Raises :class:`ValueError` if ``volume`` is not 3D, :class:`EffaceError` if the affine spans an
    impossible field of view.
    """
    ras = _smoothed(_isotropic(volume, affine, mm)[0])
    level = _threshold(ras) if threshold is None else float(threshold)
    head = largest_component(ras > level)
    # axes of each view: down, to the right of the picture, away from the viewer
    out = {}
    for name, axes, flips in (
        ("front", (2, 0, 1), (0, 1, 2)),
        ("left", (2, 1, 0), (0, 1)),
        ("right", (2, 1, 0), (0, 2)),
    ):
        v = np.flip(ras.transpose(axes), flips)
        h = np.flip(head.transpose(axes), flips)
        out[name] = _shaded(v, h, level)
    return out


def slices(
    volume: NDArray[np.generic],
    affine: NDArray[np.floating],
    mask: NDArray[np.generic] | None = None,
    labels: NDArray[np.generic] | None = None,
    *,
    mm: float = 1.0,
    window: tuple[float, float] | None = None,
) -> NDArray[np.uint8]:
    """Axial, coronal and sagittal slices through the face in one row, uint8 (rows, columns, 3).

    ``mask`` (bool) and ``labels`` (1 brain to 5 mouth), on the grid of ``volume``, are drawn as
    outlines. The planes go through the eyes (axial), the ears (coronal) and the nose (sagittal) of
    the labels; without these through the centre of the mask, and without a mask through that of the
    head. ``window``: intensities of black and white, from :func:`display_window`, so that before
    and after can share them. Radiological convention: the patient's right is at the picture's left.
    """
    ras, origin = _isotropic(volume, affine, mm)
    # (array on the volume's grid, value in it, colour)
    overlays: list[tuple[NDArray[np.generic], int, tuple[int, int, int]]] = []
    # on the isotropic grid, by label; 0 for the mask or head
    centres = {0: _centre(ras > _threshold(ras))}
    if labels is not None:
        overlays += [(labels, value, colour) for value, colour in enumerate(COLOURS, start=1)]
    if mask is not None:
        overlays.append((mask != 0, 1, COLOURS[2] if labels is None else (255, 255, 255)))
    for grid, value, _ in overlays:
        centre = _centre(grid == value)
        if centre is not None:
            world = nib.affines.apply_affine(affine, centre)
            centres[value if grid is labels else 0] = (world - origin) / mm
    middle = centres[0] if centres[0] is not None else np.array(ras.shape) / 2
    nose, ears, eyes = (centres.get(value, middle) for value in (3, 4, 2))
    i, j, k = (
        min(max(round(float(c[axis])), 0), ras.shape[axis] - 1)
        for axis, c in enumerate(c if c is not None else middle for c in (nose, ears, eyes))
    )

    low, high = window if window is not None else display_window(ras)
    grey = np.clip((ras - low) / max(high - low, 1e-6) * 255, 0, 255).astype(np.uint8)

    def planes(v: NDArray[np.generic]) -> list[NDArray[np.generic]]:
        return [
            v[::-1, ::-1, k].T,  # axial: rows from anterior, columns from the right
            v[::-1, j, ::-1].T,  # coronal: rows from superior, columns from the right
            v[i, ::-1, ::-1].T,  # sagittal: rows from superior, columns from anterior
        ]

    panels = [np.repeat(p[..., None], 3, axis=2).astype(np.uint8) for p in planes(grey)]
    index = tuple(slice(n) for n in ras.shape)
    # overlays are sampled at the pixels of the three planes only
    to_voxel = np.linalg.inv(affine)
    for number, panel in enumerate(panels):
        pixel = np.stack(
            [planes(np.broadcast_to(a, ras.shape))[number] for a in np.ogrid[index]], axis=-1
        )
        voxel = nib.affines.apply_affine(to_voxel, origin + mm * pixel)
        voxel = np.rint(voxel).astype(int)
        inside = ((voxel >= 0) & (voxel < volume.shape)).all(axis=-1)
        voxel[~inside] = 0
        for grid, value, colour in overlays:
            section = inside & (grid[tuple(np.moveaxis(voxel, -1, 0))] == value)
            edge = section & ~ndimage.binary_erosion(section, border_value=1)
            panel[edge] = colour
    height = max(p.shape[0] for p in panels)
    gap = np.zeros((height, 4, 3), np.uint8)
    row: list[NDArray[np.uint8]] = []
    for panel in panels:
        top = (height - panel.shape[0]) // 2
        padding = ((top, height - panel.shape[0] - top), (0, 0), (0, 0))
        row += [np.pad(panel, padding), gap]
    return np.concatenate(row[:-1], axis=1)


def display_window(volume: NDArray[np.generic]) -> tuple[float, float]:
    """Intensities of black and white: 0.5th and 99.7th percentile of the finite voxels."""
    v = np.asarray(volume, np.float32)
    v = v[np.isfinite(v)]
    if v.size == 0:
        return 0.0, 1.0
    low, high = np.percentile(v[:: max(1, v.size // 1_000_000)], (0.5, 99.7))
    return float(low), float(max(high, low + 1e-6))


def save_png(picture: NDArray[np.uint8], path: Path) -> None:
    """Write a gray (rows, columns) or RGB (rows, columns, 3) picture of uint8.

    The file is written atomically and has no metadata; the same picture gives the same bytes.
    Raises :class:`ValueError` for other types or shapes, :class:`EffaceError` if it cannot be
    written.
    """
    picture = np.ascontiguousarray(picture)
    if picture.dtype != np.uint8 or picture.ndim not in (2, 3):
        raise ValueError(
            f"expected uint8 in 2D or RGB, got {picture.dtype} of shape {picture.shape}"
        )
    out = io.BytesIO()
    Image.fromarray(picture).save(out, format="PNG", compress_level=6)
    write_whole(path, out.getvalue())


def _centre(mask: Bool) -> NDArray[np.float64] | None:
    """Mean index of the voxels of a mask; None for an empty one."""
    sums = [mask.sum(axis=tuple(a for a in range(3) if a != axis)) for axis in range(3)]
    total = float(sums[0].sum())
    if total == 0:
        return None
    return np.array([float(n @ np.arange(n.size)) / total for n in sums])


def _isotropic(
    volume: NDArray[np.generic], affine: NDArray[np.floating], mm: float
) -> tuple[Float, NDArray[np.float64]]:
    """Resample a volume to an isotropic RAS grid; also returns the position of its first voxel."""
    if volume.ndim != 3:
        raise ValueError(f"expected a 3D volume, got shape {volume.shape}")
    to_ras = orientations.io_orientation(affine)
    if np.isnan(to_ras).any():
        raise EffaceError("the affine is singular: it gives no orientation of the voxels")
    data = orientations.apply_orientation(np.asarray(volume), to_ras)
    world = np.asarray(affine, np.float64) @ orientations.inv_ornt_aff(to_ras, volume.shape)
    data = data.astype(np.float32)
    np.nan_to_num(data, copy=False, nan=0.0, posinf=0.0, neginf=0.0)
    data, world = _reduced(data, world, mm)
    corners = np.array(np.meshgrid(*[(-0.5, s - 0.5) for s in data.shape])).reshape(3, -1)
    positions = world[:3, :3] @ corners + world[:3, 3:]
    low, high = positions.min(axis=1), positions.max(axis=1)
    if (high - low).max() > _MAX_EXTENT_MM:
        extent = f"{(high - low).max():.0f} mm"
        raise EffaceError(f"a field of view of {extent} is larger than a head; check the affine")
    shape = tuple(int(n) for n in np.maximum(np.ceil((high - low) / mm - 1e-6), 2))
    origin = low + mm / 2
    inverse = np.linalg.inv(world)
    matrix = inverse[:3, :3] * mm
    offset = inverse[:3, :3] @ origin + inverse[:3, 3]
    off_diagonal = np.abs(matrix - np.diag(np.diag(matrix))).max()
    out = ndimage.affine_transform(
        data,
        np.diag(matrix) if off_diagonal < 1e-6 else matrix,
        offset,
        output_shape=shape,
        output=np.float32,
        order=1,
        mode="grid-constant" if off_diagonal >= 1e-6 else "nearest",
    )
    return out, origin


def _reduced(
    data: Float, world: NDArray[np.float64], mm: float
) -> tuple[Float, NDArray[np.float64]]:
    """Average voxels that are finer than the picture: less noise, less to resample."""
    steps = voxel_sizes(world)
    factors = np.maximum(np.floor(mm / steps + 1e-3), 1).astype(int)
    factors = np.minimum(factors, data.shape)
    scale = np.diag([*factors, 1.0]).astype(np.float64)
    scale[:3, 3] = (factors - 1) / 2
    return block_mean(data, factors.tolist()), world @ scale


def _smoothed(ras: Float) -> Float:
    """Smooth slightly, against noise and against steps from interpolated thick voxels."""
    return np.asarray(ndimage.gaussian_filter(ras, 0.7, truncate=2.0))


def _threshold(ras: Float) -> float:
    """Intensity between air and skin of an isotropic volume.

    Otsu's threshold separates the bright half of the head from the rest, and is too high for dark
    skin and thick slices. It only selects the voxels of air and of tissue. The result is 0.28 of
    the way from air (25th percentile of the dark voxels) to tissue (median of the bright ones), but
    above the noise of the air and at most Otsu's threshold.
    """
    v = ras[::2, ::2, ::2].ravel()
    split = sum(otsu(v, 99.5, 512)) / 2
    dark, bright = v[v <= split], v[v > split]
    if bright.size == 0 or dark.size == 0:
        return split
    tissue = float(np.median(bright))
    # the lower half of the dark voxels is air, even in a tight field of view
    air = float(np.percentile(dark, 25))
    below = dark[dark <= air]
    spread = 1.5 * (air - float(np.percentile(below, 5))) if below.size else 0.0
    return float(min(max(air + 0.28 * (tissue - air), air + 5.0 * spread), split))


def _shaded(volume: Float, head: Bool, level: float) -> Gray:
    """Shade the first voxels of the head along the last axis; axes: down, right, away."""
    hit = head.any(axis=2)
    z = head.argmax(axis=2)
    rows, cols = np.nonzero(hit)
    zi = z[rows, cols]
    inside = volume[rows, cols, zi]
    before = volume[rows, cols, np.maximum(zi - 1, 0)]
    step = np.where(zi > 0, (inside - level) / np.maximum(inside - before, 1e-6), 0.0)
    depth = np.zeros(hit.shape, np.float32)
    depth[rows, cols] = zi - np.clip(step, 0.0, 1.0)

    # Normals come from the gradient of the depth, because that of the intensity is wrong where fat
    # is next to skin. The depth is smoothed within the head only (normalised convolution), which
    # keeps the rim sharp. Jumps in depth (ear to cheek) are clipped.
    weight = ndimage.gaussian_filter(hit.astype(np.float32), 0.7)
    smooth = ndimage.gaussian_filter(depth, 0.7) / np.maximum(weight, 1e-3)
    around = ndimage.grey_erosion(np.where(hit, smooth, np.inf).astype(np.float32), size=3)
    filled = np.where(hit, smooth, np.where(np.isfinite(around), around, 0.0))
    down, right = np.gradient(filled)
    down, right = np.clip(down, -4, 4), np.clip(right, -4, 4)
    # the normal is (right, -down, 1): x right, y up, z towards the viewer
    length = np.sqrt(down**2 + right**2 + 1)
    lx, ly, lz = np.array(_LIGHT) / np.linalg.norm(_LIGHT)
    lambert = np.clip((right * lx + -down * ly + lz) / length, 0, 1)
    nearest = np.percentile(depth[hit], 1) if hit.any() else 0.0
    fade = 1 - 0.35 * np.clip((depth - nearest) / volume.shape[2], 0, 1)
    shade = (0.12 + 0.88 * lambert) * fade
    return np.where(hit, np.clip(shade * 255, 1, 255), 0).astype(np.uint8)
