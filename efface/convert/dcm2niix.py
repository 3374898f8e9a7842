"""Run dcm2niix on one series and read its output.

Its messages, sidecars and default file names hold descriptions and paths. They leave the restricted
zone only through :mod:`efface.convert.sidecar` and
:mod:`efface.convert.names`.
"""

from __future__ import annotations

import json
import os
import re
import subprocess
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from efface.errors import EffaceError

FLAGS = (
    *("-g", "i"),  # no defaults file: the same on every machine
    *("-b", "y", "-ba", "y"),  # sidecar without the keys that dcm2niix considers identifying
    *("-z", "n"),  # efface compresses, without name and time
    *("-f", "image"),  # neutral; dcm2niix appends _e2, _ph, a, b, …
    *("-l", "o"),  # stored values unchanged, so that DICOM and NIfTI can be matched
    *("-x", "n"),  # no cropping
    *("-w", "2"),  # never overwrite an image
    *("-d", "0"),
)

# resampled copies of another image in the folder
_RESAMPLED = re.compile(r"_(Eq|Tilt)(_\d+)?[a-z]?$")
_OVERLAY = re.compile(r"_ROI\d*[a-z]?$")


@dataclass(frozen=True)
class Converted:
    """One image made from a series."""

    nifti: Path
    sidecar: dict[str, Any]
    bval: Path | None = None
    bvec: Path | None = None


@dataclass(frozen=True)
class Outcome:
    """Result of dcm2niix for one series."""

    images: tuple[Converted, ...]
    code: int
    uneven: bool
    """Whether it also made a resampled copy, because the slices are not evenly spaced."""
    text: str
    """Its messages, which contain paths."""


def binary() -> str:
    """Path of the program in the package ``dcm2niix``.

    Raises :class:`EffaceError` if the package is not installed.
    """
    try:
        import dcm2niix
    except ImportError as e:
        raise EffaceError("dcm2niix is not installed; run: pip install dcm2niix") from e
    return str(dcm2niix.bin)


def convert(files: Sequence[str], folder: Path, timeout: float) -> Outcome:
    """Convert the DICOM files of one series into ``folder``.

    Raises :class:`subprocess.TimeoutExpired`, and :class:`OSError` for missing files.
    """
    inputs, made = folder / "dicom", folder / "nifti"
    inputs.mkdir(parents=True)
    made.mkdir()
    for i, path in enumerate(files, 1):
        (inputs / f"{i:06d}.dcm").symlink_to(Path(path).absolute())
    ran = subprocess.run(
        [binary(), *FLAGS, "-o", os.fspath(made), os.fspath(inputs)],
        capture_output=True,
        timeout=timeout,
        check=False,
        stdin=subprocess.DEVNULL,
    )
    images = sorted(made.glob("*.nii"), key=lambda p: (len(p.name), p.name))
    stems = {p: p.name.removesuffix(".nii") for p in images}
    kept = [p for p in images if not _OVERLAY.search(stems[p]) and not _RESAMPLED.search(stems[p])]
    return Outcome(
        tuple(_read(p) for p in kept),
        ran.returncode,
        any(_RESAMPLED.search(s) for s in stems.values()),
        (ran.stdout + ran.stderr).decode(errors="replace"),
    )


def _read(path: Path) -> Converted:
    beside = {e: path.with_suffix(e) for e in (".json", ".bval", ".bvec")}
    sidecar: dict[str, Any] = {}
    if beside[".json"].is_file():
        # dcm2niix copies bytes of the header unchanged, which can be invalid in JSON
        sidecar = json.loads(beside[".json"].read_text(errors="replace"), strict=False)
    return Converted(
        path,
        sidecar,
        beside[".bval"] if beside[".bval"].is_file() else None,
        beside[".bvec"] if beside[".bvec"].is_file() else None,
    )
