"""How a stage runs on one session: whole or not at all, and never taking the cohort down."""

from __future__ import annotations

import sys
import traceback
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

from efface.errors import of_machine
from efface.manifest import Manifest, Scan, new_folder, write_manifest
from efface.status import STAGE_FAILED


def run(
    stage: str,
    session: str,
    given: tuple[Scan, ...],
    folder: Path,
    manifest: Path,
    work: Callable[[Path], tuple[Scan, ...]],
    log: Path | None = None,
) -> None:
    """Call ``work`` with a temporary folder, put it in place, and write the manifest beside it.

    An exception fails every scan in ``given`` (the scans that the stage was handed) with the
    reason, leaves an empty folder, and is written to ``log`` in full: the log lies in the
    restricted zone, the reason does not and so names only the kind of fault.
    """
    with new_folder(folder) as temporary:
        try:
            scans = work(temporary)
        except Exception as e:
            if of_machine(e):
                raise
            with log.open("a") if log else sys.stderr as out:
                traceback.print_exc(file=out)
            _empty(temporary)
            reason = f"{STAGE_FAILED}: {stage} ({type(e).__name__}, see the log of the session)"
            scans = tuple(replace(s, files={}, measures={}).mark("fail", reason) for s in given)
    write_manifest(manifest, Manifest(stage, session, scans), folder)


def _empty(folder: Path) -> None:
    import shutil

    for path in folder.iterdir():
        shutil.rmtree(path) if path.is_dir() else path.unlink()
