"""Verify a release: for anyone who receives one, without the sources and without the key.

The manifest is complete and every digest matches, nothing else lies there, every file is built as
a release's files are, and none holds an identifier that one gives.
"""

from __future__ import annotations

import csv
import io
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from efface.audit import leaks, needles
from efface.errors import EffaceError
from efface.manifest import sha256

MANIFEST = "manifest.tsv"
_COLUMNS = {"path", "bytes", "sha256", "session", "scan"}


@dataclass(frozen=True)
class Report:
    """What :func:`verify` found."""

    files: int
    bytes: int
    problems: tuple[str, ...] = ()
    """One line each, with places and never with values."""
    identifiers: int = 0
    """How many were searched."""

    def summary(self) -> str:
        """One line."""
        size = f"{self.files} files, {self.bytes / 1e6:.1f} MB, {self.identifiers} identifiers"
        if self.problems:
            return f"not sound: {len(self.problems)} problems ({size})"
        return f"sound: {size}"


def verify(release: Path, needles_given: Sequence[str] | None = None) -> Report:
    """Check a release folder (``OUT/release``).

    ``needles_given`` are identifiers to search for; a date as YYYYMMDD or YYYY-MM-DD is searched in
    other spellings too. Raises :class:`EffaceError` if there is no readable manifest.
    """
    given = [n for n in needles_given or [] if n.strip()]
    matcher = leaks.Matcher(
        n for number, line in enumerate(given, start=1) for n in needles.given(line, number)
    )
    listed = _manifest(release / MANIFEST)
    there = {
        p.relative_to(release).as_posix(): p for p in sorted(release.rglob("*")) if not p.is_dir()
    }
    problems: list[str] = []
    size = 0
    for name in sorted({*listed, *there} - {MANIFEST}):
        path = there.get(name)
        safe = name if not matcher.search(name.encode()) else "a file whose name is an identifier"
        if path is None:
            problems.append(f"{safe}: in the manifest, but not there")
            continue
        if path.is_symlink() or not path.is_file():
            problems.append(f"{safe}: no plain file")
            continue
        row = listed.get(name)
        if row is None:
            problems.append(f"{safe}: not in the manifest")
        elif row["bytes"] != str(path.stat().st_size) or row["sha256"] != sha256(path):
            problems.append(f"{safe}: not the file that the manifest lists")
        data = path.read_bytes()
        size += len(data)
        problems += [str(f) for f in leaks.scan(name, data, matcher)]
    manifest = (release / MANIFEST).read_bytes()
    problems += [str(f) for f in leaks.scan(MANIFEST, manifest, matcher)]
    return Report(len(there), size + len(manifest), tuple(problems), len(given))


def _manifest(path: Path) -> dict[str, dict[str, str]]:
    try:
        reader = csv.DictReader(io.StringIO(path.read_text()), delimiter="\t")
        rows = list(reader)
    except (OSError, UnicodeDecodeError, csv.Error) as e:
        raise EffaceError(f"{path}: no readable manifest; is this the release folder?") from e
    if _COLUMNS - set(reader.fieldnames or ()):
        raise EffaceError(f"{path}: not a manifest of efface; is this the release folder?")
    out: dict[str, dict[str, str]] = {}
    for row in rows:
        if row["path"] in out:
            raise EffaceError(f"{path}: lists a file twice")
        out[row["path"]] = row
    return out
