"""The paths of one command, compared before anything is read or written.

A file or folder that a command writes must not be one that it reads, contain it or lie inside it.
The same holds between two outputs. Links are resolved. Hard links, and names on file systems that
ignore case, are recognised by the inode. Both files of a ``.hdr``/``.img`` pair count.
"""

from __future__ import annotations

import unicodedata
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import combinations
from pathlib import Path

from efface.errors import UsageError

PAIR = (".hdr", ".img")
"""Extensions of an image in two files: header and voxels."""


@dataclass(frozen=True)
class Argument:
    """A path among the arguments of a command, as the user typed it."""

    role: str
    """``IN``, ``OUT`` or the option, as the command's help calls it."""
    path: Path


def check(reads: Sequence[Argument], writes: Sequence[Argument]) -> None:
    """Compare all paths of a command, without opening a file.

    All of a folder counts as read or written, also where only a part of it is. Raises
    :class:`UsageError` with one sentence for the first conflict.
    """
    for write in writes:
        for read in reads:
            for path in pair(read.path):
                if _same(write.path, path):
                    raise UsageError(
                        f"{write.role} {write.path} and {read.role} {path} are the same: the"
                        f" original would be overwritten; choose another path for {write.role}"
                    )
                _apart(write, Argument(read.role, path))
    for first, second in combinations(writes, 2):
        if _same(first.path, second.path):
            raise UsageError(
                f"{first.role} {first.path} and {second.role} {second.path} are the same: one"
                " result would overwrite the other; choose another path"
            )
        _apart(first, second)


def check_file(write: Argument) -> None:
    """Raise :class:`UsageError` if an output exists and is not a regular file."""
    path = write.path
    if path.is_dir():
        raise UsageError(f"{write.role} {path} is a folder; name a file")
    if path.exists() and not path.is_file():
        raise UsageError(f"{write.role} {path} is a pipe or device; name a file")


def resolved(path: Path) -> Path:
    """Absolute path with links resolved. Raises :class:`UsageError` for a loop of links."""
    try:
        return path.resolve()
    except (OSError, RuntimeError) as e:  # RuntimeError: a loop of links, before Python 3.13
        raise UsageError(f"{path}: this link is part of a loop of links; name another path") from e


def pair(path: Path) -> list[Path]:
    """``path``, and the other files of its image if it is one of a ``.hdr``/``.img`` pair.

    Extensions may be in upper case, and either file may be compressed (``.img.gz``).
    """
    stem = _pair_stem(path.name)
    if stem is None or not path.parent.is_dir():
        return [path]
    others = [p for p in sorted(path.parent.iterdir()) if _pair_stem(p.name) == stem]
    return [path, *(p for p in others if p.name != path.name)]


def in_pair(path: Path) -> bool:
    """Whether the name is that of a file in a ``.hdr``/``.img`` pair."""
    return _pair_stem(path.name) is not None


def is_header(path: Path) -> bool:
    """Whether the name is that of the header in such a pair."""
    return _plain(path.name).lower().endswith(PAIR[0])


def _pair_stem(name: str) -> str | None:
    plain = _plain(name)
    return plain[:-4] if plain.lower().endswith(PAIR) else None


def _plain(name: str) -> str:
    """The file name without ``.gz``."""
    return name[:-3] if name.lower().endswith(".gz") else name


def _apart(one: Argument, other: Argument) -> None:
    if _inside(one.path, other.path) or _inside(other.path, one.path):
        raise UsageError(
            f"{one.role} {one.path} and {other.role} {other.path} must not lie inside each other"
        )


def _inside(path: Path, folder: Path) -> bool:
    return any(_same(parent, folder) for parent in resolved(path).parents)


def _same(one: Path, other: Path) -> bool:
    one, other = resolved(one), resolved(other)
    if one == other:
        return True
    try:
        return one.samefile(other)
    except OSError:
        pass
    # if only one of them exists, the two names are different for the file system
    return not (one.exists() or other.exists()) and _folded(one) == _folded(other)


def _folded(path: Path) -> str:
    """The path as a file system that ignores case and Unicode composition compares it."""
    return unicodedata.normalize("NFC", str(path)).casefold()
