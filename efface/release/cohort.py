"""The release as a whole: put the cohort's files in place and list every file."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from efface import tables
from efface.errors import EffaceError
from efface.manifest import Manifest, write_atomic
from efface.release.copying import MTIME, sidecar_of
from efface.release.decisions import FORMS, decide, released_paths
from efface.release.reviews import Judgements

MANIFEST = "manifest.tsv"
COLUMNS = ("path", "bytes", "sha256", "session", "scan")


@dataclass(frozen=True, order=True)
class ReleasedFile:
    """A row of ``manifest.tsv``."""

    path: str
    """Relative to ``OUT/release``."""
    bytes: int
    sha256: str
    session: str = "n/a"
    scan: str = "n/a"


def cohort(
    release: Path,
    manifests: Sequence[Manifest],
    reviews: Judgements,
    files: Mapping[str, bytes],
) -> list[ReleasedFile]:
    """Write ``files`` and ``manifest.tsv``, and delete what no manifest lists.

    ``release`` is ``OUT/release``, ``manifests`` are the audit's, ``files`` the contents of the
    cohort's files by path. Raises :class:`EffaceError` if a file that should have been released is
    missing.
    """
    # by path: the echoes of a scan share a table of events
    rows = {row.path: row for m in manifests for row in _of_session(release, m, reviews)}
    for name, content in files.items():
        _put(release / name, content)
        rows[name] = ReleasedFile(name, len(content), hashlib.sha256(content).hexdigest())
    prune(release, {*rows, MANIFEST})
    ordered = sorted(rows.values())
    write_atomic(release / MANIFEST, tables.text(map(asdict, ordered), COLUMNS))
    return ordered


def _of_session(release: Path, manifest: Manifest, reviews: Judgements) -> list[ReleasedFile]:
    decisions = decide(manifest, reviews)
    audited = release.parent / "restricted" / "audit" / manifest.session
    rows = []
    for name, scan in (n for form in FORMS for n in released_paths(manifest, decisions, form)):
        path = release / name
        if not path.is_file():
            raise EffaceError(
                f"{path}: missing from the release; delete its session's folder there and run again"
            )
        sidecar = sidecar_of(audited, name, scan, decisions)
        digest = hashlib.sha256(sidecar).hexdigest() if sidecar else manifest.sha256[name]
        rows.append(ReleasedFile(name, path.stat().st_size, digest, manifest.session, scan))
    return rows


def _put(path: Path, content: bytes) -> None:
    """Write a file with the time of all files of a release, and keep the time of its folder.

    Snakemake makes the report again if a session's folder is newer.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    folder = path.parent.stat()
    write_atomic(path, content)
    os.utime(path, (MTIME, MTIME))
    os.utime(path.parent, ns=(folder.st_atime_ns, folder.st_mtime_ns))


def prune(folder: Path, keep: Iterable[str]) -> None:
    """Delete every file below ``folder`` that is not in ``keep``, and folders left empty."""
    known = set(keep)
    for path in sorted(folder.rglob("*"), reverse=True):
        if path.is_dir() and not path.is_symlink():
            if not any(path.iterdir()):
                path.rmdir()
        elif path.relative_to(folder).as_posix() not in known:
            path.unlink()
