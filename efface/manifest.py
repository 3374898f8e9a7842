"""What one stage hands to the next: a folder and a JSON manifest, both written atomically."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

from efface.errors import EffaceError
from efface.status import Status, worst


@dataclass(frozen=True)
class Scan:
    """One image of a session, or one series that yields none."""

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
    measures: dict[str, Any] = field(default_factory=dict)

    def mark(self, status: Status, reason: str) -> Scan:
        """The scan with a further reason and the more cautious status."""
        return replace(self, status=worst(self.status, status), reasons=(*self.reasons, reason))


@dataclass(frozen=True)
class Manifest:
    """The scans of a session as one stage leaves them."""

    stage: str
    session: str
    scans: tuple[Scan, ...]
    sha256: dict[str, str] = field(default_factory=dict)
    """Path relative to the stage's folder, to the digest of its bytes."""


def sha256(path: Path) -> str:
    """Hex digest of a file's bytes."""
    with path.open("rb") as f:
        return hashlib.file_digest(f, "sha256").hexdigest()


def write_atomic(path: Path, content: str | bytes) -> None:
    """Write a file so that it is either there whole or not at all.

    A file that already holds just this content is left as it is, with its time.
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
    """Write an image's file so that it is there whole or not at all.

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
    """Write JSON atomically, keys sorted: the same value gives the same bytes.

    Escaped to ASCII, so that file names that are no UTF-8 come through too.
    """
    write_atomic(path, json_text(value))


def json_text(value: object) -> str:
    """The text that :func:`write_json` writes."""
    return json.dumps(value, indent=1, sort_keys=True) + "\n"


@contextmanager
def new_folder(path: Path) -> Iterator[Path]:
    """A folder under a temporary name that takes ``path``'s place when the block succeeds."""
    path.parent.mkdir(parents=True, exist_ok=True)
    for left in path.parent.glob(f".{path.name}.*.part"):  # by a run that was killed
        shutil.rmtree(left, ignore_errors=True)
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

    Raises :class:`EffaceError` if it is missing or not whole.
    """
    try:
        raw = json.loads(path.read_text())
        scans = tuple(Scan(**{**s, "reasons": tuple(s["reasons"])}) for s in raw.pop("scans"))
        return Manifest(scans=scans, **raw)
    except (OSError, ValueError, KeyError, TypeError) as e:
        raise EffaceError(f"{path}: not a readable manifest ({e}); delete it and run again") from e
