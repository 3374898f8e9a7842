"""A look for writing in the picture of a series, where tesseract is installed.

Scanners do not write into the pictures they measure; workstations do, into what they derive: so
one look is taken at a series that is not original and primary, or whose picture has many pixels of
its very highest value, as writing has. tesseract (Apache-2.0) is called as a command and need not
be there.
"""

from __future__ import annotations

import io
import os
import re
import shutil
import subprocess
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from efface.status import BURNED_IN

Mode = Literal["auto", "always", "never"]

REASON = f"{BURNED_IN}: text in the picture"
NO_ANSWER = f"{BURNED_IN}: tesseract gave no answer; look at the picture, then run with ocr: never"

_SECONDS = 60
_LARGEST = 4096
_WIDTH = 2304
_SURE = 70.0
"""Confidence (0 to 100) from which tesseract's word counts."""
_WORD = re.compile(r"[^\W_]{3,}")
_SATURATED = 24
"""Pixels of the very highest value; a few are chance, a word has more."""


def look(paths: Sequence[str], attributes: dict[str, Any], mode: Mode = "auto") -> tuple[str, str]:
    """Why to withhold a series for text in its picture (empty: no reason), and how that is known.

    ``paths`` are the files of one series in order; at most three frames of it are read, and
    tesseract runs at most once, for 60 s at most. Where it fails, the series is withheld. A picture
    that cannot be decoded shows no text: the stages after this one cannot read it either.
    """
    if mode == "never":
        return "", "not looked: switched off"
    if shutil.which("tesseract") is None:
        return "", "not looked: tesseract is missing"
    derived = not _is_original(attributes)
    frames = [p for path, index in _chosen(paths, attributes) if (p := _frame(path, index)).size]
    if not frames:
        return "", "not looked: not decoded"
    if mode == "auto" and not derived and not any(is_saturated(f) for f in frames):
        return "", "not looked: nothing suspicious"
    shown = np.concatenate([_upright(f, frames[0].shape) for f in frames], axis=1)
    # and below it the highest values alone: writing that lies on the brain stands out there
    words = read(np.concatenate([shown, (shown == 1).astype(np.float32)]))
    if words is None:
        return NO_ANSWER, "not looked: tesseract gave no answer"
    return REASON if is_text(words) else "", "looked"


def is_saturated(picture: NDArray[np.generic]) -> bool:
    """Whether many pixels have the picture's very highest value, as writing has."""
    top = picture.max()
    return bool(top > picture.min() and np.count_nonzero(picture == top) >= _SATURATED)


def read(picture: NDArray[np.generic]) -> list[str] | None:
    """Words of three or more letters or digits that tesseract is sure to see.

    ``None`` if it failed or took too long.
    """
    from PIL import Image

    low, high = float(picture.min()), float(picture.max())
    grey = ((picture.astype(np.float32) - low) * (255 / ((high - low) or 1))).astype(np.uint8)
    # it reads black on white, in letters of 20 pixels or more
    scale = min(3.0, max(1.0, _WIDTH / grey.shape[1]))
    size = (round(grey.shape[1] * scale), round(grey.shape[0] * scale))
    png = io.BytesIO()
    Image.fromarray(255 - grey).resize(size, Image.Resampling.BICUBIC).save(png, "PNG")
    try:
        done = subprocess.run(
            ["tesseract", "stdin", "stdout", "--psm", "11", "tsv"],  # sparse text
            input=png.getvalue(),
            capture_output=True,
            check=False,
            timeout=_SECONDS,
            env=os.environ | {"OMP_THREAD_LIMIT": "1"},
        )
    except (OSError, subprocess.TimeoutExpired):
        return None
    if done.returncode:
        return None
    rows = [line.split("\t") for line in done.stdout.decode(errors="replace").splitlines()[1:]]
    return [
        word
        for row in rows
        if len(row) == 12 and float(row[10]) >= _SURE
        for word in _WORD.findall(row[11])
    ]


def is_text(words: Sequence[str]) -> bool:
    """Whether the words are more than what tesseract sees in the folds of a brain and in noise."""
    telling = [w for w in words if len(set(w.casefold())) >= (4 if w.isdigit() else 3)]
    return sum(len(w) for w in telling) >= 6


def _is_original(attributes: dict[str, Any]) -> bool:
    kind = attributes.get("ImageType") or []
    kind = kind if isinstance(kind, list) else [kind]
    return [str(k).upper() for k in kind[:2]] == ["ORIGINAL", "PRIMARY"]


def _chosen(paths: Sequence[str], attributes: dict[str, Any]) -> list[tuple[str, int]]:
    """File and frame of the first, the middle and the last image."""
    if len(paths) == 1:
        frames = attributes.get("NumberOfFrames") or 1
        last = frames - 1 if isinstance(frames, int) and frames > 0 else 0
        return [(paths[0], n) for n in sorted({0, last // 2, last})]
    return [(paths[n], 0) for n in sorted({0, len(paths) // 2, len(paths) - 1})]


def _frame(path: str, index: int) -> NDArray[np.generic]:
    """One frame as it is stored; empty where it cannot be decoded."""
    import warnings

    import pydicom
    from pydicom.pixels.utils import pixel_array

    nothing = np.zeros((0, 0))
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            ds = pydicom.dcmread(path, stop_before_pixels=True, specific_tags=["Rows", "Columns"])
            if not 0 < max(ds.Rows, ds.Columns) <= _LARGEST:
                return nothing
            frame = pixel_array(Path(path), index=index)
    except Exception:  # a decoder meets anything
        return nothing
    return frame if frame.ndim == 2 else nothing


def _upright(frame: NDArray[np.generic], shape: tuple[int, ...]) -> NDArray[np.float32]:
    """The frame from 0 to 1 (its highest value), cut or padded to the height of the others."""
    low, high = float(frame.min()), float(frame.max())
    grey = ((frame.astype(np.float32) - low) / ((high - low) or 1)).astype(np.float32)
    out = np.zeros((shape[0], grey.shape[1]), np.float32)
    rows = min(shape[0], grey.shape[0])
    out[:rows] = grey[:rows]
    return out
