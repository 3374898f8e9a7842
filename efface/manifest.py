"""Output of a stage for the next one: a folder and a JSON manifest, both written atomically."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path

from efface.errors import EffaceError
from efface.measures import Measures
from efface.status import Status, worst


@dataclass(frozen=True)
class Scan:
    """One image of a session, or one series without an image."""

    scan: str
    """BIDS stem (``sub-…_ses-…_T1w``) once converted; before that the series pseudonym."""
    series: str
    """Pseudonym of the series (``series-…``)."""
    modality: str = ""
    """BIDS suffix (T1w, bold, …) once known, else the DICOM modality."""
    status: Status = "pass"
    reasons: tuple[str, ...] = ()
    files: dict[str, str] = field(default_factory=dict)
    """Role (``nifti``, ``sidecar``, ``labels``, …) to path relative to the stage's folder."""
    measures: Measures = field(default_factory=Measures)

    def mark(self, status: Status, reason: str) -> Scan:
        """Add a reason; of the two statuses the more cautious one remains."""
        return replace(self, status=worst(self.status, status), reasons=(*self.reasons, reason))


@dataclass(frozen=True)
class Manifest:
    """The scans of a session after one stage."""

    stage: str
    session: str
    scans: tuple[Scan, ...]
    sha256: dict[str, str] = field(default_factory=dict)
    """Hex digest of each file, by path relative to the stage's folder."""


Stage = tuple[Path, Manifest]
"""A stage's folder and its manifest."""


def sha256(path: Path) -> str:
    """SHA-256 of a file's bytes, in hex digits."""
    with path.open("rb") as f:
        return hashlib.file_digest(f, "sha256").hexdigest()


def write_atomic(path: Path, content: str | bytes) -> None:
    """Write a file whole or not at all.

    A file that already has this content is not written, and keeps its time.
    """
    data = content.encode() if isinstance(content, str) else content
    path.parent.mkdir(parents=True, exist_ok=True)
    if path.is_file() and path.read_bytes() == data:
        return
    temporary = path.with_name(f".{path.name}.{os.getpid()}.part")
    with temporary.open("wb") as f:
        f.write(data)
        f.flush()
        os.fsync(f.fileno())
    temporary.replace(path)


def write_whole(path: Path, data: bytes) -> None:
    """Write a file of a user whole or not at all.

    Raises :class:`EffaceError` if the disk is full or the folder cannot be written.
    """
    temporary = path.with_name(f".{path.name}.{os.getpid()}.part")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        temporary.write_bytes(data)
        temporary.replace(path)
    except OSError as e:
        temporary.unlink(missing_ok=True)
        raise EffaceError(f"{path}: cannot be written ({e.strerror})") from e


def write_json(path: Path, value: object) -> None:
    """Write JSON atomically, with sorted keys: the same value gives the same bytes.

    All else than ASCII is escaped, because file names need not be UTF-8.
    """
    write_atomic(path, json_text(value))


def json_text(value: object) -> str:
    """Text of a JSON file of :func:`write_json`."""
    return json.dumps(value, indent=1, sort_keys=True) + "\n"


@contextmanager
def new_folder(path: Path) -> Iterator[Path]:
    """Make a folder under a temporary name; it replaces ``path`` if the block succeeds."""
    path.parent.mkdir(parents=True, exist_ok=True)
    for abandoned in path.parent.glob(f".{path.name}.*.part"):  # of a run that was killed
        shutil.rmtree(abandoned, ignore_errors=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.part")
    temporary.mkdir()
    try:
        yield temporary
    except BaseException:
        shutil.rmtree(temporary, ignore_errors=True)
        raise
    if path.exists():
        shutil.rmtree(path)
    temporary.rename(path)


def write_manifest(path: Path, manifest: Manifest, folder: Path) -> None:
    """Write the manifest beside its folder, with the digest of every file in the folder."""
    digests = {
        str(p.relative_to(folder)): sha256(p) for p in sorted(folder.rglob("*")) if p.is_file()
    }
    write_json(path, asdict(replace(manifest, sha256=digests)))


def read_manifest(path: Path) -> Manifest:
    """Read a manifest.

    Raises :class:`EffaceError` if it is missing or malformed.
    """
    try:
        raw = json.loads(path.read_text())
        scans = tuple(Scan(**{**s, "reasons": tuple(s["reasons"])}) for s in raw.pop("scans"))
        return Manifest(scans=scans, **raw)
    except (OSError, ValueError, KeyError, TypeError) as e:
        raise EffaceError(
            f"{path}: malformed or missing manifest ({e}); delete it and run again"
        ) from e
