"""Verification of a release, without the sources and without the key.

The manifest is complete and every digest matches, there are no other files, every file has the
structure of a released one, and none holds an identifier of a given list.
"""

from __future__ import annotations

import os
import stat
import time
from collections.abc import Sequence
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path

from efface import tables
from efface.audit import leaks
from efface.audit.identifiers import of_line
from efface.audit.matcher import Matcher
from efface.errors import EffaceError
from efface.release.cohort import COLUMNS, MANIFEST


@dataclass(frozen=True)
class Report:
    """Result of :func:`verify`."""

    files: int
    bytes: int
    problems: tuple[str, ...] = ()
    """One line each: the kind and place of what is wrong, never the value."""
    identifiers: int = 0
    """Number of identifiers searched for."""

    def summary(self) -> str:
        """The result in one line."""
        size = f"{self.files} files, {self.bytes / 1e6:.1f} MB, {self.identifiers} identifiers"
        if self.problems:
            return f"not sound: {len(self.problems)} problems ({size})"
        return f"sound: {size}"


def verify(release: Path, identifiers: Sequence[str] = ()) -> Report:
    """Check a release folder (``OUT/release``).

    ``identifiers`` are searched for; a date as YYYYMMDD or YYYY-MM-DD in other spellings too.
    Raises :class:`EffaceError` if there is no readable manifest.
    """
    lines = [line for line in identifiers if line.strip()]
    matcher = Matcher(
        one for number, line in enumerate(lines, start=1) for one in of_line(line, number)
    )
    listed = _manifest(release / MANIFEST)
    files, problems = _listing(release, matcher)
    size = 0
    for name in sorted({*listed, *files} - {MANIFEST}):
        path = files.get(name)
        safe = name if not matcher.search(os.fsencode(name)) else _NAMELESS
        if path is None:
            problems.append(f"{safe}: in the manifest, but the file is missing")
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
            problems.append(f"{safe}: differs from the file in the manifest")
        problems += [str(f) for f in leaks.scan(name, data, matcher)]
    manifest = (release / MANIFEST).read_bytes()
    problems += [str(f) for f in leaks.scan(MANIFEST, manifest, matcher)]
    return Report(len(files), size + len(manifest), tuple(problems), len(lines))


_NAMELESS = "a file whose name is an identifier"


def _listing(release: Path, matcher: Matcher) -> tuple[dict[str, Path], list[str]]:
    """Regular files by their path in the release, and problems of all other entries.

    Links are not followed; the paths that they point to are searched, and so are the modification
    times of files and folders (as dates) and the names of folders.
    """
    files: dict[str, Path] = {}
    problems: list[str] = []
    for folder, below, names in os.walk(release, onerror=lambda e: problems.append(_unreadable(e))):
        for path in sorted(Path(folder) / n for n in (*below, *names)):
            name = path.relative_to(release).as_posix()
            safe = name if not matcher.search(os.fsencode(name)) else _NAMELESS
            info = path.lstat()
            for clock in (time.gmtime, time.localtime):
                day = time.strftime("%Y%m%d", clock(info.st_mtime))
                for _, kind in matcher.search(day.encode()):
                    problems.append(f"{safe}: {kind} in the modification time")
            if path.is_symlink():
                problems.append(f"{safe}: not a regular file")
                for _, kind in matcher.search(os.fsencode(path.readlink())):
                    problems.append(f"{safe}: {kind} in the target of a link")
            elif stat.S_ISREG(info.st_mode):
                files[name] = path
            elif not stat.S_ISDIR(info.st_mode):
                problems.append(f"{safe}: not a regular file")
            else:
                for _, kind in matcher.search(os.fsencode(path.name)):
                    problems.append(f"{_NAMELESS}: {kind} in the name of a folder")
                if not any(path.iterdir()):
                    problems.append(f"{safe}: an empty folder")
    return files, list(dict.fromkeys(problems))


def _unreadable(fault: OSError) -> str:
    return f"a folder cannot be read ({fault.strerror})"


def _manifest(path: Path) -> dict[str, dict[str, str]]:
    """Rows of the manifest by path."""
    rows = tables.read(path, COLUMNS).to_dict("records")
    out = {row["path"]: row for row in rows}
    if len(out) < len(rows):
        raise EffaceError(f"{path}: lists a file twice; the release is damaged")
    return out
