"""Simulate an MR image from tissues: contrast, blur, coil bias, noise."""

from __future__ import annotations

from typing import Final

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from efface.errors import EffaceError
from efface.phantom.anatomy import TISSUES

Float = NDArray[np.float32]

# Relative signal, white matter's T1w = 100; set by eye beside whole-head scans at 1.5 and 3 T.
# fmt: off
CONTRASTS: Final[dict[str, dict[str, float]]] = {
    "T1w": {"skin": 64, "fat": 112, "muscle": 46, "bone": 8, "marrow": 80, "csf": 20, "grey": 71,
            "white": 100, "vitreous": 19, "lens": 44, "mucosa": 70, "cartilage": 44, "tooth": 4,
            "vessel": 24, "dura": 30},
    "T2w": {"skin": 34, "fat": 62, "muscle": 20, "bone": 5, "marrow": 44, "csf": 108, "grey": 52,
            "white": 37, "vitreous": 112, "lens": 14, "mucosa": 84, "cartilage": 28, "tooth": 3,
            "vessel": 4, "dura": 40},
    "FLAIR": {"skin": 44, "fat": 80, "muscle": 36, "bone": 6, "marrow": 56, "csf": 12, "grey": 74,
              "white": 58, "vitreous": 13, "lens": 20, "mucosa": 88, "cartilage": 34, "tooth": 3,
              "vessel": 6, "dura": 32},
    "PDw": {"skin": 58, "fat": 88, "muscle": 54, "bone": 8, "marrow": 62, "csf": 78, "grey": 90,
            "white": 74, "vitreous": 76, "lens": 40, "mucosa": 88, "cartilage": 52, "tooth": 4,
            "vessel": 14, "dura": 50},
}
# fmt: on


def signal(tissue: NDArray[np.uint8], contrast: str, rng: np.random.Generator) -> Float:
    """Noise-free signal of each point, white matter of a T1w about 100; shape as ``tissue``.

    Each tissue varies by some per cent from scan to scan. Raises :class:`EffaceError` for an
    unknown contrast.
    """
    if contrast not in CONTRASTS:
        raise EffaceError(
            f"{contrast}: unknown contrast of the phantom; choose one of {', '.join(CONTRASTS)}"
        )
    table = np.array([CONTRASTS[contrast].get(name, 0.0) for name in TISSUES])
    table *= 1 + 0.04 * rng.standard_normal(len(TISSUES))
    return np.asarray(table.astype(np.float32)[tissue])


def image(
    clean: Float,
    affine: NDArray[np.floating],
    rng: np.random.Generator,
    *,
    noise: float = 0.02,
    bias: float = 0.25,
    texture: float = 0.05,
) -> Float:
    """Add texture, blur, coil bias and noise to ``clean`` (:func:`signal`); same shape and units.

    ``noise`` is the standard deviation of the Rician noise as a fraction of the white matter
    signal, ``bias`` half the range of the coil bias, ``texture`` the contrast within a tissue.
    """
    grain = rng.standard_normal(clean.shape, np.float32)
    grain = ndimage.gaussian_filter(grain, 0.8)
    out = clean * (1 + np.float32(texture / 0.22) * grain)
    # the point spread function of k-space sampling
    out = ndimage.gaussian_filter(out, 0.45, truncate=3.0)
    if bias:
        out *= _coil(clean.shape, affine, rng, bias)
    if noise:
        sd = np.float32(100 * noise)
        real = out + sd * rng.standard_normal(out.shape, np.float32)
        imaginary = sd * rng.standard_normal(out.shape, np.float32)
        out = np.sqrt(real * real + imaginary * imaginary)
    return np.asarray(np.maximum(out, 0), np.float32)


def _coil(
    shape: tuple[int, ...], affine: NDArray[np.floating], rng: np.random.Generator, bias: float
) -> Float:
    """A smooth field around 1: a random quadratic, brighter near the coil elements."""
    grid = np.ogrid[tuple(slice(n) for n in shape)]
    a = np.asarray(affine, np.float32)
    x, y, z = (
        (a[r, 0] * grid[0] + a[r, 1] * grid[1] + a[r, 2] * grid[2] + a[r, 3]) / np.float32(110)
        for r in range(3)
    )
    c = rng.uniform(-1, 1, 6).astype(np.float32)
    field = 0.35 * (c[0] * x + c[1] * y + c[2] * z) + 0.3 * (c[3] * x * y + c[4] * y * z)
    field = field + 0.45 * (x * x + y * y + z * z - 0.5)
    # the neck is at the end of the coil
    field = field - 0.9 * np.maximum(-z - 0.75, 0) ** 2 * 4
    return np.asarray(np.exp(np.float32(bias) * np.clip(field, -3, 1.5)), np.float32)
