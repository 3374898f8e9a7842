"""One stage on one session: what its rule hands to the script, and how the script runs it.

A stage writes its whole result or none of it, and the failure of a session does not end the run.
"""

from __future__ import annotations

import sys
import traceback
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from efface.errors import of_machine
from efface.manifest import Manifest, Scan, Stage, new_folder, read_manifest, write_manifest
from efface.pseudonym import Key, read_key
from efface.session import Session, read_session
from efface.status import STAGE_FAILED


@dataclass(frozen=True)
class Job:
    """One stage on one session."""

    stage: str
    session: str
    folder: Path
    """Folder of the stage's result."""
    manifest: Path
    """Manifest beside it."""
    log: Path | None = None
    """In the restricted zone. Exceptions go here, to standard error if it is None."""
    earlier: dict[str, Stage] = field(default_factory=dict)
    """Folder and manifest of each earlier stage that the rule names as input."""
    key_file: Path | None = None
    record_file: Path | None = None

    def scans(self, stage: str) -> tuple[Scan, ...]:
        """Scans in the manifest of an earlier stage."""
        return self.earlier[stage][1].scans

    def record(self) -> Session:
        """The inventory's record of the session."""
        assert self.record_file
        return read_session(self.record_file)

    def key(self) -> Key:
        """The project key."""
        assert self.key_file
        return read_key(self.key_file)


def job(snakemake: Any) -> Job:  # noqa: ANN401 - the object that Snakemake gives to a script
    """Read the files of a rule's job.

    The rule is named as its stage. Its outputs are ``folder`` and ``manifest``. Its inputs are
    ``key``, and ``NAME`` and ``NAME_folder`` for each earlier stage. The parameter ``record`` is
    the inventory's record of the session. Raises :class:`efface.errors.EffaceError` for a manifest
    that cannot be read.
    """
    inputs, params = dict(snakemake.input.items()), dict(snakemake.params.items())
    stages = [n.removesuffix("_folder") for n in inputs if n.endswith("_folder")]
    return Job(
        snakemake.rule,
        snakemake.wildcards.session,
        Path(snakemake.output.folder),
        Path(snakemake.output.manifest),
        Path(snakemake.log[0]),
        {s: (Path(inputs[f"{s}_folder"]), read_manifest(Path(inputs[s]))) for s in stages},
        Path(inputs["key"]) if "key" in inputs else None,
        Path(params["record"]) if "record" in params else None,
    )


def run(job: Job, inputs: tuple[Scan, ...], work: Callable[[Path], tuple[Scan, ...]]) -> None:
    """Call ``work`` with a temporary folder, put it in place, and write the manifest beside it.

    ``work`` returns the scans as the stage leaves them. If it raises an exception, every scan in
    ``inputs`` (those that the stage received) fails with a reason, the folder is empty, and the log
    has the traceback. The reason gives only the type of the exception, since it leaves the
    restricted zone. An exception of the machine, such as a full disk, ends the job.
    """
    with new_folder(job.folder) as temporary:
        try:
            scans = work(temporary)
        except Exception as e:
            if of_machine(e):
                raise
            with job.log.open("a") if job.log else sys.stderr as out:
                traceback.print_exc(file=out)
            _empty(temporary)
            reason = f"{STAGE_FAILED}: {job.stage} ({type(e).__name__}, see the log of the session)"
            scans = tuple(replace(s, files={}, measures={}).mark("fail", reason) for s in inputs)
    write_manifest(job.manifest, Manifest(job.stage, job.session, scans), job.folder)


def _empty(folder: Path) -> None:
    import shutil

    for path in folder.iterdir():
        shutil.rmtree(path) if path.is_dir() else path.unlink()
