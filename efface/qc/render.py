"""Pictures of a head for a person to judge: the skin in 3D, and slices with outlines.

The skin is drawn by first hit: along each ray of a view the first voxel of the head is found, its
depth refined between the two voxels around the threshold, and the surface shaded by Lambert's law.
NumPy only: no display, no VTK. Views are named by the patient's directions, whatever the
orientation of the voxels.
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
from efface.segment.resample import block_mean
from efface.segment.threshold import otsu

Float = NDArray[np.float32]
Bool = NDArray[np.bool_]
Gray = NDArray[np.uint8]

orientations: Any = nib.orientations  # untyped in nibabel

MM = 1.5
"""Edge of a voxel, and so of a pixel, that the pictures are made from."""

COLOURS = ((90, 170, 255), (255, 230, 60), (255, 90, 90), (120, 230, 120), (240, 130, 240))
"""RGB of the outlines of labels 1 to 5 (brain, eyes, nose, ears, mouth); a mask gets the third."""

_LIGHT = (-0.30, 0.45, 0.84)  # from the upper left of the viewer: x right, y up, z to the viewer
_MAX_EXTENT_MM = 600.0  # a field of view beyond this is a broken affine: do not allocate for it


def skin_threshold(volume: NDArray[np.generic], affine: NDArray[np.floating]) -> float:
    """Intensity between air and skin, from the data alone.

    ``volume`` is 3D in any contrast. Give the result of the scan before defacing to
    :func:`views` for both before and after, so that they show the same surface.
    """
    return _threshold(_calm(_isotropic(volume, affine, MM)[0]))


def views(
    volume: NDArray[np.generic],
    affine: NDArray[np.floating],
    *,
    threshold: float | None = None,
    mm: float = MM,
) -> dict[str, Gray]:
    """Shaded renders of the skin: ``{"front", "left", "right"}``, each uint8 (rows, columns).

    One pixel is ``mm``; rows run from superior to inferior. In "front" the patient's right is at
    the picture's left; in "left" one looks at the patient's left side and the face points to the
    picture's left. Air is 0. The three pictures share a grid: the same ``affine`` and shape give
    the same sizes, so before and after can be compared pixel by pixel.

    Raises :class:`ValueError` if ``volume`` is not 3D, :class:`EffaceError` if the affine spans an
    impossible field of view.
    """
    ras = _calm(_isotropic(volume, affine, mm)[0])
    level = _threshold(ras) if threshold is None else float(threshold)
    head = largest_component(ras > level)
    # each: the volume as (down, to the right of the picture, away from the viewer)
    out = {}
    for name, axes, flips in (
        ("front", (2, 0, 1), (0, 1, 2)),
        ("left", (2, 1, 0), (0, 1)),
        ("right", (2, 1, 0), (0, 2)),
    ):
        v = np.flip(ras.transpose(axes), flips)
        h = np.flip(head.transpose(axes), flips)
        out[name] = _first_hit(v, h, level)
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

    ``mask`` (bool) and ``labels`` (1 brain to 5 mouth) are arrays on the grid of ``volume``, drawn
    as outlines. The planes run through the eyes (axial), the ears (coronal) and the nose
    (sagittal) where labels say where they are, else through the middle of the mask, else of the
    head. ``window`` fixes the grey values, so that before and after can share them. Radiological
    convention: the patient's right is at the picture's left.
    """
    ras, origin = _isotropic(volume, affine, mm)
    # (array on the volume's grid, value in it, colour)
    overlays: list[tuple[NDArray[np.generic], int, tuple[int, int, int]]] = []
    at = {0: _centre(ras > _threshold(ras))}
    if labels is not None:
        overlays += [(labels, value, colour) for value, colour in enumerate(COLOURS, start=1)]
    if mask is not None:
        overlays.append((mask != 0, 1, COLOURS[2] if labels is None else (255, 255, 255)))
    for grid, value, _ in overlays:
        centre = _centre(grid == value)
        if centre is not None:
            world = nib.affines.apply_affine(affine, centre)
            at[value if grid is labels else 0] = (world - origin) / mm
    middle = at[0] if at[0] is not None else np.array(ras.shape) / 2
    cut = (at.get(3, middle), at.get(4, middle), at.get(2, middle))  # nose, ears, eyes
    i, j, k = (
        min(max(round(float(c[axis])), 0), ras.shape[axis] - 1)
        for axis, c in enumerate(c if c is not None else middle for c in cut)
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
    # only the three planes of an overlay are looked up, in its own voxels
    to_voxel = np.linalg.inv(affine)
    for number, panel in enumerate(panels):
        where = np.stack(
            [planes(np.broadcast_to(a, ras.shape))[number] for a in np.ogrid[index]], axis=-1
        )
        voxel = nib.affines.apply_affine(to_voxel, origin + mm * where)
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
        room = ((top, height - panel.shape[0] - top), (0, 0), (0, 0))
        row += [np.pad(panel, room), gap]
    return np.concatenate(row[:-1], axis=1)


def display_window(volume: NDArray[np.generic]) -> tuple[float, float]:
    """Intensities to show as black and white: 0.5th and 99.7th percentile of the finite voxels."""
    v = np.asarray(volume, np.float32)
    v = v[np.isfinite(v)]
    if v.size == 0:
        return 0.0, 1.0
    low, high = np.percentile(v[:: max(1, v.size // 1_000_000)], (0.5, 99.7))
    return float(low), float(max(high, low + 1e-6))


def montage(rows: list[list[Gray]], gap: int = 4) -> Gray:
    """Pictures (uint8, gray) side by side and one row below the other, on black."""
    widths = [max(r[c].shape[1] for r in rows if c < len(r)) for c in range(max(map(len, rows)))]
    lines = []
    for r in rows:
        height = max(p.shape[0] for p in r)
        cells = [
            np.pad(p, ((0, height - p.shape[0] + gap), (0, w - p.shape[1] + gap)))
            for p, w in zip(r, widths, strict=False)
        ]
        line = np.concatenate(cells, axis=1)
        lines.append(np.pad(line, ((0, 0), (0, sum(widths) + gap * len(widths) - line.shape[1]))))
    return np.concatenate(lines)[:-gap, :-gap] if gap else np.concatenate(lines)


def save_png(picture: NDArray[np.uint8], path: Path) -> None:
    """Write a gray (rows, columns) or RGB (rows, columns, 3) picture; the same bytes every time.

    Atomic, without time or other metadata. Raises :class:`EffaceError` if it cannot be written.
    """
    picture = np.ascontiguousarray(picture)
    if picture.dtype != np.uint8 or picture.ndim not in (2, 3):
        raise ValueError(f"a picture is uint8 in 2D or RGB, not {picture.dtype} {picture.shape}")
    out = io.BytesIO()
    Image.fromarray(picture).save(out, format="PNG", compress_level=6)
    write_whole(path, out.getvalue())


def largest_component(mask: Bool) -> Bool:
    """The largest 6-connected part of a 3D mask; an empty mask stays empty."""
    parts, n = ndimage.label(mask)
    if n <= 1:
        return mask
    sizes = np.bincount(parts.ravel())
    sizes[0] = 0
    return np.asarray(parts == sizes.argmax())


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
    """``volume`` on an isotropic RAS grid that covers it, and the world position of its corner."""
    if volume.ndim != 3:
        raise ValueError(f"expected a 3D volume, found shape {volume.shape}")
    turn = orientations.io_orientation(affine)
    if np.isnan(turn).any():
        raise EffaceError("the affine does not say how the voxels lie in space")
    back = orientations.inv_ornt_aff(turn, volume.shape)
    data = orientations.apply_orientation(np.asarray(volume), turn)
    world = np.asarray(affine, np.float64) @ back
    data = data.astype(np.float32)
    np.nan_to_num(data, copy=False, nan=0.0, posinf=0.0, neginf=0.0)
    data, world = _reduced(data, world, mm)
    corners = np.array(np.meshgrid(*[(-0.5, s - 0.5) for s in data.shape])).reshape(3, -1)
    spread = world[:3, :3] @ corners + world[:3, 3:]
    low, high = spread.min(axis=1), spread.max(axis=1)
    if (high - low).max() > _MAX_EXTENT_MM:
        raise EffaceError(f"a field of view of {(high - low).max():.0f} mm is not that of a head")
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
    steps = np.linalg.norm(world[:3, :3], axis=0)
    factors = np.maximum(np.floor(mm / steps + 1e-3), 1).astype(int)
    factors = np.minimum(factors, data.shape)
    scale = np.diag([*factors, 1.0]).astype(np.float64)
    scale[:3, 3] = (factors - 1) / 2
    return block_mean(data, factors.tolist()), world @ scale


def _calm(ras: Float) -> Float:
    """Smooth a little: less noise, and no steps where thick voxels were interpolated."""
    return np.asarray(ndimage.gaussian_filter(ras, 0.7, truncate=2.0))


def _threshold(ras: Float) -> float:
    """Intensity between air and skin of an isotropic volume.

    Otsu's threshold parts the bright half of the head from the rest, too high for dark skin and
    thick slices. It serves to measure both sides only: air as the mode of the low side with its
    spread, tissue as the median of the high side. The threshold is a third of the way up,
    and never within the noise of the air.
    """
    v = ras[::2, ::2, ::2].ravel()
    split = sum(otsu(v, 99.5, 512)) / 2
    dark, bright = v[v <= split], v[v > split]
    if bright.size == 0 or dark.size == 0:
        return split
    tissue = float(np.median(bright))
    # the lower half of what Otsu calls dark is air, even in a tight field of view
    air = float(np.percentile(dark, 25))
    below = dark[dark <= air]
    spread = 1.5 * (air - float(np.percentile(below, 5))) if below.size else 0.0
    return float(min(max(air + 0.28 * (tissue - air), air + 5.0 * spread), split))


def _first_hit(volume: Float, head: Bool, level: float) -> Gray:
    """Shade the first hit along the last axis; rows run down, columns right, depth away."""
    hit = head.any(axis=2)
    z = head.argmax(axis=2)
    rows, cols = np.nonzero(hit)
    zi = z[rows, cols]
    inside = volume[rows, cols, zi]
    before = volume[rows, cols, np.maximum(zi - 1, 0)]
    step = np.where(zi > 0, (inside - level) / np.maximum(inside - before, 1e-6), 0.0)
    depth = np.zeros(hit.shape, np.float32)
    depth[rows, cols] = zi - np.clip(step, 0.0, 1.0)

    # The gradient of the depth, not of the intensity: fat beside skin must not bend the normal.
    # Smoothed within the head only (normalised convolution), so that the rim stays sharp; a jump
    # in depth (ear before cheek) is an edge and is clipped.
    weight = ndimage.gaussian_filter(hit.astype(np.float32), 0.7)
    smooth = ndimage.gaussian_filter(depth, 0.7) / np.maximum(weight, 1e-3)
    far = ndimage.grey_erosion(np.where(hit, smooth, np.inf).astype(np.float32), size=3)
    filled = np.where(hit, smooth, np.where(np.isfinite(far), far, 0.0))
    down, right = np.gradient(filled)
    down, right = np.clip(down, -4, 4), np.clip(right, -4, 4)
    # depth grows away from the viewer: the normal towards him is (d/dx, d/dy, -1) turned round
    length = np.sqrt(down**2 + right**2 + 1)
    lx, ly, lz = np.array(_LIGHT) / np.linalg.norm(_LIGHT)
    lambert = np.clip((right * lx + -down * ly + lz) / length, 0, 1)
    nearest = np.percentile(depth[hit], 1) if hit.any() else 0.0
    fade = 1 - 0.35 * np.clip((depth - nearest) / volume.shape[2], 0, 1)
    shade = (0.12 + 0.88 * lambert) * fade
    return np.where(hit, np.clip(shade * 255, 1, 255), 0).astype(np.uint8)
