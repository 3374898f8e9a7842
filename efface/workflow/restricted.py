"""The restricted zone of a run: its folder, lock and key."""

from __future__ import annotations

import fcntl
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from efface.errors import EffaceError
from efface.pseudonym import new_key, read_key
from efface.workflow.settings import compare_paths

_held: list[int] = []


@dataclass(frozen=True)
class Run:
    """Where a run reads and writes; absolute paths."""

    source: str
    out: str
    key: str
    entries: dict[str, str]
    """Pseudonym of each top-level entry of the source, to its name."""


def prepare(config: dict[str, Any], lock: bool = True) -> Run:
    """Make the restricted zone and the key, and list the source's entries.

    With ``lock``, no second run may work on the same folder of results. The lock ends with the
    process, so that a killed run does not leave one. Raises :class:`EffaceError` for a missing
    source, a folder that cannot be written, a release inside the source or the source inside the
    release, and a missing key of an earlier run.
    """
    from efface import inventory

    source, out = Path(config["source"]).resolve(), Path(config["out"]).resolve()
    if not source.exists():
        raise EffaceError(f"{source}: no such folder; set source to a DICOM tree or BIDS dataset")
    if not source.is_dir():
        raise EffaceError(
            f"{source}: source must be a folder, and this is a file; for one image use efface"
            " deface"
        )
    compare_paths(config)
    restricted = out / "restricted"
    try:
        restricted.mkdir(parents=True, exist_ok=True)
        restricted.chmod(0o700)
        # other users must not read the restricted zone, whatever the umask was
        os.umask(0o027)
        if lock:
            _lock(restricted / "lock", out)
    except OSError as e:
        raise EffaceError(f"{out}: cannot be written ({e.strerror})") from e
    key = Path(config["key"]).resolve() if config["key"] else restricted / "key"
    if not config["key"] and not key.exists():
        if (restricted / "inventory").exists():
            raise EffaceError(
                f"{key}: the key of this run is missing, and a new key would give every participant"
                " another pseudonym; put the key back, or delete the folder of results and start"
                " again"
            )
        new_key(key)
    entries = inventory.entries(source, read_key(key))
    return Run(str(source), str(out), str(key), entries)


def _lock(path: Path, out: Path) -> None:
    handle = os.open(path, os.O_RDWR | os.O_CREAT, 0o600)
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError as e:
        os.close(handle)
        raise EffaceError(
            f"{out}: another efface run uses this folder; wait until it has finished"
        ) from e
    _held.append(handle)
