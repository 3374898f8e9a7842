"""Search the pictures of a series for text that was drawn into them.

Every frame is searched for letters. tesseract (Apache-2.0), called as a command where it is
installed, then reads what is suspicious.
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
from efface.status import BURNED_IN

Mode = Literal["auto", "always", "never"]

CLEAR = "looked"
"""Every frame was searched, and no text was found."""
FOUND = "looked: text found"

REASON = f"{BURNED_IN}: text in the picture"
LETTERS = f"{BURNED_IN}: shapes like letters in the picture; look at it"
NO_TESSERACT = f"{BURNED_IN}: tesseract is missing; install it, or run with ocr: never"
NO_ANSWER = f"{BURNED_IN}: tesseract gave no answer; look at the picture, or run with ocr: never"
NOT_DECODED = f"{BURNED_IN}: the pixels cannot be decoded; run with ocr: never to skip the search"

_SECONDS = 60
_LARGEST = 4096
_WIDTH = 2304
_SURE = 70.0
"""Confidence (0 to 100) from which tesseract's word counts."""
_WORD = re.compile(r"[^\W_]{3,}")
_SHOWN = 3
"""Frames that tesseract reads."""


def look(paths: Sequence[str], attributes: dict[str, Any], mode: Mode = "auto") -> tuple[str, str]:
    """Reason against a series for text in its pictures (empty: none), and how that is known.

    ``paths`` are the files of one series in order. Every frame is decoded and searched for letters
    (:mod:`efface.inventory.letters`). tesseract reads three frames, for 60 s at most, where letters
    were found, where the series is not original and primary, and with ``always``. With the reason
    :data:`REASON` the series is to be withheld, with any other reviewed. The second part is
    :data:`CLEAR` only if every frame was searched and nothing found.
    """
    if mode == "never":
        return "", "not looked: switched off"
    try:
        found, shown = _search(paths)
    except Exception:  # a decoder meets anything
        return NOT_DECODED, "not looked: the pixels cannot be decoded"
    if mode == "auto" and not found and _is_original(attributes):
        return "", CLEAR
    doubt, seen = (LETTERS, FOUND) if found else ("", CLEAR)
    if shutil.which("tesseract") is None:
        return doubt or NO_TESSERACT, FOUND if found else "not looked: tesseract is missing"
    joined = np.concatenate([_upright(f, shown[0].shape) for f in shown], axis=1)
    # and below it the highest values alone: text over the brain stands out there
    words = read(np.concatenate([joined, (joined == 1).astype(np.float32)]))
    if words is None:
        return doubt or NO_ANSWER, FOUND if found else "not looked: tesseract gave no answer"
    if is_text(words):
        return REASON, FOUND
    return doubt, seen


def _search(paths: Sequence[str]) -> tuple[bool, list[NDArray[np.generic]]]:
    """Whether letters were found in any frame, and the pictures for tesseract to read.

    These are the first three frames with letters, or the first, the middle and the last frame; and
    the maximum over all frames, in which text of any one of them stands out from the air. Raises
    what :func:`_frames` raises.
    """
    still = letters.Still()
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


def _frames(paths: Sequence[str]) -> Iterator[tuple[NDArray[np.generic], bool]]:
    """Every frame as stored, shape (rows, columns), and whether it is first, middle or last.

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
    """The frame from 0 to 1, its highest value."""
    low, high = float(frame.min()), float(frame.max())
    scaled: NDArray[np.float32] = (frame.astype(np.float32) - low) / np.float32((high - low) or 1)
    return scaled


def _upright(frame: NDArray[np.generic], shape: tuple[int, ...]) -> NDArray[np.float32]:
    """The scaled frame, cut or padded to the height of the others."""
    grey = _scaled(frame)
    out = np.zeros((shape[0], grey.shape[1]), np.float32)
    rows = min(shape[0], grey.shape[0])
    out[:rows] = grey[:rows]
    return out
