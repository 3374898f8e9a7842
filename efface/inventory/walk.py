"""List the files of a source in a fixed order, without following links out of it."""

# A cohort has millions of files, and os is several times faster than pathlib:
# ruff: noqa: PTH100, PTH110, PTH112, PTH113, PTH116, PTH118, PTH120, PTH208

from __future__ import annotations

import os
import stat
from collections.abc import Iterator
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path

from efface.errors import EffaceError
from efface.pseudonym import Key
from efface.status import LINK_NOT_FOLLOWED, NO_PERMISSION, NOT_DICOM, UNREADABLE

TO_FOLDER = f"{LINK_NOT_FOLLOWED}: it points to a folder; replace the link by the folder"


@dataclass(frozen=True)
class SourceFile:
    """A file of the source; ``reason`` says why it must not be opened."""

    path: str
    """Absolute."""
    bytes: int = 0
    mtime_ns: int = 0
    reason: str = ""


def entries(source: Path, key: Key) -> dict[str, str]:
    """Names of the top-level entries of the source, by label.

    Raises :class:`EffaceError` if the source is missing, not a folder, not readable or empty.
    """
    try:
        names = sorted(os.listdir(source), key=os.fsencode)
    except FileNotFoundError as e:
        raise EffaceError(f"{source}: the source does not exist") from e
    except NotADirectoryError as e:
        raise EffaceError(f"{source}: the source must be a folder; unpack an archive first") from e
    except PermissionError as e:
        raise EffaceError(f"{source}: no permission to read the source") from e
    if not names:
        raise EffaceError(f"{source}: the source is empty")
    return {entry_label(key, name): name for name in names}


def entry_label(key: Key, name: str) -> str:
    """Pseudonym ``entry-…`` of a top-level entry; a name that is not UTF-8 is used as bytes."""
    return "entry-" + key.label("entry", os.fsencode(name).decode(errors="backslashreplace"))


def entry_fingerprint(entry: Path) -> str:
    """Sixteen hex digits that change if a file below ``entry`` is added, removed or changed.

    Computed from names, sizes and times; no file is opened. About 3 µs a file on a local disk.
    """
    digest = sha256()
    stack = [os.fspath(entry)]
    while stack:
        path = stack.pop()
        try:
            status = os.lstat(path)
            children = sorted(os.scandir(path), key=lambda e: os.fsencode(e.name))
        except NotADirectoryError:
            digest.update(b"%d %d\n" % (status.st_size, status.st_mtime_ns))
            continue
        except OSError as e:
            digest.update(b"error %d\n" % (e.errno or 0))
            continue
        digest.update(b"folder %d\n" % len(children))
        for child in children:
            if child.is_dir(follow_symlinks=False):
                stack.append(child.path)
                digest.update(b"%s/\n" % os.fsencode(child.name))
                continue
            try:
                # links are followed, because the target can change while the link stays
                status = child.stat()
            except OSError:
                digest.update(b"%s broken\n" % os.fsencode(child.name))
                continue
            line = b"%s %d %d\n" % (os.fsencode(child.name), status.st_size, status.st_mtime_ns)
            digest.update(line)
    return digest.hexdigest()[:16]


def walk(source: Path, entry: str) -> Iterator[SourceFile]:
    """Every file of a top-level entry (a folder, or a file at the root), folders in name order.

    Links to folders are not followed. Links to files are followed within the source and into the
    annex of the dataset or submodule that holds the link. Folders and files that cannot be read are
    yielded with a reason.
    """
    yield from _visit(os.path.join(os.path.abspath(source), entry), os.path.realpath(source))


def annex(folder: str) -> str:
    """Folder of the annex objects of the git repository that holds ``folder`` (git-annex, DataLad).

    The ``.git`` of a submodule is a file that names the real folder. Empty if there is no annex.
    """
    here = Path(folder)
    git = next((p / ".git" for p in (here, *here.parents) if (p / ".git").exists()), None)
    if git is None:
        return ""
    try:
        if git.is_file():
            git = git.parent / git.read_text("utf-8")[:4096].removeprefix("gitdir:").strip()
        objects = (git / "annex" / "objects").resolve()
        return str(objects) if objects.is_dir() else ""
    except (OSError, ValueError):
        return ""


def _visit(top: str, root: str) -> Iterator[SourceFile]:
    # no recursion: folders can be nested deeper than the stack of Python
    stack = [top]
    while stack:
        path = stack.pop()
        try:
            status = os.lstat(path)
            if stat.S_ISLNK(status.st_mode):
                yield _link(path, root)
            elif stat.S_ISREG(status.st_mode):
                yield _file(path, status)
            elif stat.S_ISDIR(status.st_mode):
                names = sorted(os.listdir(path), key=os.fsencode, reverse=True)
                stack += [os.path.join(path, name) for name in names]
            else:
                # opening a pipe would block
                yield SourceFile(path, reason=f"{NOT_DICOM}: not a regular file")
        except PermissionError:
            yield SourceFile(path, reason=NO_PERMISSION)
        except OSError:
            yield SourceFile(path, reason=UNREADABLE)


def _link(path: str, root: str) -> SourceFile:
    target = os.path.realpath(path)
    if not os.path.exists(target):
        if "/annex/objects/" in target:
            return SourceFile(
                path, reason=f"{LINK_NOT_FOLLOWED}: its content is missing; run datalad get"
            )
        return SourceFile(path, reason=f"{LINK_NOT_FOLLOWED}: its target does not exist")
    if os.path.isdir(target):
        return SourceFile(path, reason=TO_FOLDER)
    own = annex(os.path.realpath(os.path.dirname(path)))
    if not any(os.path.commonpath([r, target]) == r for r in (root, own) if r):
        return SourceFile(path, reason=f"{LINK_NOT_FOLLOWED}: it points out of the source")
    if not os.path.isfile(target):
        return SourceFile(path, reason=f"{LINK_NOT_FOLLOWED}: it does not point to a regular file")
    return _file(path, os.stat(path))


def _file(path: str, status: os.stat_result) -> SourceFile:
    if not os.access(path, os.R_OK):
        return SourceFile(path, status.st_size, status.st_mtime_ns, NO_PERMISSION)
    return SourceFile(path, status.st_size, status.st_mtime_ns)
