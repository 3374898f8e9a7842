"""Verify a release: for anyone who receives one, without the sources and without the key.

The manifest is complete and every digest matches, nothing else lies there, every file is built as
a release's files are, and none holds an identifier that one gives.
"""

from __future__ import annotations

import csv
import io
import os
import stat
import time
from collections.abc import Sequence
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path

from efface.audit import leaks
from efface.audit.identifiers import of_line
from efface.audit.matcher import Matcher
from efface.errors import EffaceError

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


def verify(release: Path, identifiers: Sequence[str] = ()) -> Report:
    """Check a release folder (``OUT/release``).

    ``identifiers`` are identifiers to search for; a date as YYYYMMDD or YYYY-MM-DD is searched in
    other spellings too. Raises :class:`EffaceError` if there is no readable manifest.
    """
    lines = [line for line in identifiers if line.strip()]
    matcher = Matcher(
        one for number, line in enumerate(lines, start=1) for one in of_line(line, number)
    )
    listed = _manifest(release / MANIFEST)
    there, problems = _listing(release, matcher)
    size = 0
    for name in sorted({*listed, *there} - {MANIFEST}):
        path = there.get(name)
        safe = name if not matcher.search(os.fsencode(name)) else _NAMELESS
        if path is None:
            problems.append(f"{safe}: in the manifest, but not there")
            continue
        try:
            data = path.read_bytes()
        except OSError as e:
            problems.append(f"{safe}: cannot be read ({e.strerror})")
            continue
        size += len(data)
        row = listed.get(name)
        if row is None:
            problems.append(f"{safe}: not in the manifest")
        elif row["bytes"] != str(len(data)) or row["sha256"] != sha256(data).hexdigest():
            problems.append(f"{safe}: not the file that the manifest lists")
        problems += [str(f) for f in leaks.scan(name, data, matcher)]
    manifest = (release / MANIFEST).read_bytes()
    problems += [str(f) for f in leaks.scan(MANIFEST, manifest, matcher)]
    return Report(len(there), size + len(manifest), tuple(problems), len(lines))


_NAMELESS = "a file whose name is an identifier"


def _listing(release: Path, matcher: Matcher) -> tuple[dict[str, Path], list[str]]:
    """Plain files by their path in the release; and what else is wrong with what lies there.

    Links are not followed: their targets are read, which may hold a name. The times of files and
    folders are searched as dates. Empty folders and folders' names count too.
    """
    files: dict[str, Path] = {}
    problems: list[str] = []
    for folder, below, names in os.walk(release, onerror=lambda e: problems.append(_unread(e))):
        for path in sorted(Path(folder) / n for n in (*below, *names)):
            name = path.relative_to(release).as_posix()
            safe = name if not matcher.search(os.fsencode(name)) else _NAMELESS
            about = path.lstat()
            for clock in (time.gmtime, time.localtime):
                day = time.strftime("%Y%m%d", clock(about.st_mtime))
                for _, kind in matcher.search(day.encode()):
                    problems.append(f"{safe}: {kind} in the modification time")
            if path.is_symlink():
                problems.append(f"{safe}: no plain file")
                for _, kind in matcher.search(os.fsencode(path.readlink())):
                    problems.append(f"{safe}: {kind} in the target of a link")
            elif stat.S_ISREG(about.st_mode):
                files[name] = path
            elif not stat.S_ISDIR(about.st_mode):
                problems.append(f"{safe}: no plain file")
            else:
                for _, kind in matcher.search(os.fsencode(path.name)):
                    problems.append(f"{_NAMELESS}: {kind} in the name of a folder")
                if not any(path.iterdir()):
                    problems.append(f"{safe}: an empty folder")
    return files, list(dict.fromkeys(problems))


def _unread(fault: OSError) -> str:
    return f"a folder cannot be read ({fault.strerror})"


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
