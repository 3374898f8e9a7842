"""Search the images of a series for burned-in text.

Every frame is searched for letters. tesseract (Apache-2.0), called as a command if it is installed,
then reads suspicious series.
"""

from __future__ import annotations

import io
import os
import re
import shutil
import subprocess
import warnings
from collections.abc import Iterator, Sequence
from typing import Any, Literal

import numpy as np
import pydicom
from numpy.typing import NDArray

from efface.inventory import letters
from efface.pixels import NotDecoded, pixels
from efface.status import TEXT_BURNED_IN

Mode = Literal["auto", "always", "never"]

CLEAR = "looked"
"""Every frame was searched, and no text was found."""
FOUND = "looked: text found"

REASON = f"{TEXT_BURNED_IN}: text in the picture"
LETTERS = f"{TEXT_BURNED_IN}: shapes like letters in the picture; check it"
NO_TESSERACT = f"{TEXT_BURNED_IN}: tesseract is not installed; install it, or run with ocr: never"
NO_ANSWER = (
    f"{TEXT_BURNED_IN}: tesseract failed or timed out; check the picture, or run with ocr: never"
)
NOT_DECODED = (
    f"{TEXT_BURNED_IN}: the pixels cannot be decoded; run with ocr: never to skip the search"
)

_SECONDS = 60
_LARGEST = 4096
_WIDTH = 2304
_SURE = 70.0
"""Smallest confidence (0 to 100) of a word read by tesseract."""
_WORD = re.compile(r"[^\W_]{3,}")
_SHOWN = 3
"""Number of frames that tesseract reads."""


def look(paths: Sequence[str], attributes: dict[str, Any], mode: Mode = "auto") -> tuple[str, str]:
    """Reason against a series for text in its pixels (empty: none), and the result of the search.

    ``paths`` are the files of one series in order. Every frame is decoded and searched for letters
    (:mod:`efface.inventory.letters`). tesseract reads three frames, for at most 60 s, if letters
    were detected, if the series is not ORIGINAL and PRIMARY, or with ``always``. The reason
    :data:`REASON` withholds the series, any other reason sends it to review. The second value is
    :data:`CLEAR` only if every frame was searched and no text was detected.
    """
    if mode == "never":
        return "", "not searched: switched off"
    try:
        has_letters, shown = _search(paths)
    except Exception:  # any error of the decoder
        return NOT_DECODED, "not searched: the pixels cannot be decoded"
    if mode == "auto" and not has_letters and _is_original(attributes):
        return "", CLEAR
    doubt, result = (LETTERS, FOUND) if has_letters else ("", CLEAR)
    if shutil.which("tesseract") is None:
        return doubt or NO_TESSERACT, FOUND if has_letters else "not searched: tesseract is missing"
    joined = np.concatenate([_upright(f, shown[0].shape) for f in shown], axis=1)
    # and below it the highest values alone: there, text over the brain has contrast
    words = read(np.concatenate([joined, (joined == 1).astype(np.float32)]))
    if words is None:
        text = FOUND if has_letters else "not searched: tesseract gave no answer"
        return doubt or NO_ANSWER, text
    if is_text(words):
        return REASON, FOUND
    return doubt, result


def _search(paths: Sequence[str]) -> tuple[bool, list[NDArray[np.generic]]]:
    """Whether any frame has letters, and the images for tesseract.

    The images are the first three frames with letters, or the first, middle and last frame; and the
    maximum over all frames, which shows text of any frame against the air. Raises the errors of
    :func:`_frames`.
    """
    still = letters.ConstantPixels()
    drawn: list[NDArray[np.generic]] = []
    chosen: list[NDArray[np.generic]] = []
    highest = np.zeros((0, 0), np.float32)
    for frame, wanted in _frames(paths):
        still.add(frame)
        if len(drawn) < _SHOWN and letters.has_letters(frame):
            drawn.append(frame)
        if wanted:
            chosen.append(frame)
        scaled = _scaled(frame)
        same = highest.shape == scaled.shape
        highest = np.maximum(highest, scaled) if same else scaled
    return bool(drawn) or still.has_letters(), [*(drawn or chosen), highest]


def read(picture: NDArray[np.generic]) -> list[str] | None:
    """Words of three or more letters or digits that tesseract reads with confidence.

    ``None`` if it failed or timed out.
    """
    from PIL import Image

    low, high = float(picture.min()), float(picture.max())
    grey = ((picture.astype(np.float32) - low) * (255 / ((high - low) or 1))).astype(np.uint8)
    # tesseract needs black text on white, with letters of 20 pixels or more
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
    """Whether the words are more than tesseract reads in images without text."""
    telling = [w for w in words if len(set(w.casefold())) >= (4 if w.isdigit() else 3)]
    return sum(len(w) for w in telling) >= 6


def _is_original(attributes: dict[str, Any]) -> bool:
    kind = attributes.get("ImageType") or []
    kind = kind if isinstance(kind, list) else [kind]
    return [str(k).upper() for k in kind[:2]] == ["ORIGINAL", "PRIMARY"]


def _frames(paths: Sequence[str]) -> Iterator[tuple[NDArray[np.generic], bool]]:
    """Every stored frame, shape (rows, columns), and whether it is first, middle or last.

    Raises :class:`~efface.pixels.NotDecoded`, or what pydicom raises, for a file that cannot be
    decoded.
    """
    for n, path in enumerate(paths):
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            ds = pydicom.dcmread(path, force=True)
            if not 0 < max(ds.Rows, ds.Columns) <= _LARGEST:
                raise NotDecoded("the picture is too large")
            frames = pixels(ds)
        for m, frame in enumerate(frames):
            where, count = (m, len(frames)) if len(paths) == 1 else (n, len(paths))
            yield frame, where in (0, count // 2, count - 1) and (m == 0 or len(paths) == 1)


def _scaled(frame: NDArray[np.generic]) -> NDArray[np.float32]:
    """The frame, scaled from 0 to 1."""
    low, high = float(frame.min()), float(frame.max())
    scaled: NDArray[np.float32] = (frame.astype(np.float32) - low) / np.float32((high - low) or 1)
    return scaled


def _upright(frame: NDArray[np.generic], shape: tuple[int, ...]) -> NDArray[np.float32]:
    """The scaled frame, cropped or padded to the height of the others."""
    grey = _scaled(frame)
    out = np.zeros((shape[0], grey.shape[1]), np.float32)
    rows = min(shape[0], grey.shape[0])
    out[:rows] = grey[:rows]
    return out
