"""``efface run``: the workflow in a Snakemake process, whose output becomes lines of progress."""

from __future__ import annotations

import re
import subprocess
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import Any, TextIO

import yaml

from efface import resources
from efface.errors import EffaceError
from efface.manifest import write_atomic
from efface.workflow import restricted, settings
from efface.workflow.summary import summary

NOTHING_RELEASED = 3
_JOB = re.compile(r"^ +jobid: (\d+)")
_WILDCARDS = re.compile(r"^ +wildcards: (.*)")
_FINISHED = re.compile(r"^Finished jobid: (\d+) \(Rule: (\w+)\)")
_SENTENCE = re.compile(r"^ *EffaceError: (.+)")
_DONE = re.compile(r"^(\d+) of (\d+) steps")


def run(
    source: Path,
    out: Path,
    level: str,
    changes: dict[str, Any],
    cores: int,
    profile: str | None = None,
    verbose: bool = False,
) -> int:
    """Run the workflow on ``source``; returns 0, or 3 if nothing was released.

    ``changes``: settings that differ from ``config.yaml``. The output of Snakemake goes to
    ``out/restricted/logs/efface.log``. Raises :class:`EffaceError` before anything starts if a
    setting or folder is wrong, and afterwards if a job failed.
    """
    if cores < 1:
        raise EffaceError("--cores must be at least 1")
    root = resources.root()
    defaults = yaml.safe_load((root / "config.yaml").read_text())
    config = defaults | changes | {"source": str(source.resolve()), "out": str(out.resolve())}
    settings.check(config)
    restricted.prepare(config, lock=False)
    zone = out.resolve() / "restricted"
    write_atomic(zone / "config.yaml", yaml.safe_dump(config, sort_keys=True))
    command = [sys.executable, "-m", "snakemake", "--snakefile", str(root / "Snakefile")]
    command += ["--cores", str(cores), "--configfile", str(zone / "config.yaml")]
    # snakemake finds the default profile by itself only in its working directory
    command += ["--workflow-profile", str(_profile(root, profile or "default"))]
    command += ["participant"] if level == "participant" else []
    log = zone / "logs" / "efface.log"
    log.parent.mkdir(parents=True, exist_ok=True)
    with (
        log.open("w") as record,
        subprocess.Popen(
            command,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            errors="replace",
            cwd=zone,
        ) as process,
    ):
        assert process.stdout
        try:
            reason = _follow(process.stdout, record, verbose)
        except BaseException:
            process.terminate()
            raise
    if process.returncode:
        raise EffaceError(reason or f"the run did not finish; {log} says why")
    if level == "participant":
        return 0
    text, released = summary(out.resolve())
    print(text)
    return 0 if released else NOTHING_RELEASED


def _follow(lines: Iterable[str], record: TextIO, verbose: bool) -> str:
    """Write every line to ``record``; print all of them, or one line for each finished job.

    Returns the message of the first :class:`EffaceError`; empty if there was none.
    """
    job, finished, about, reason = "", "", {}, ""
    for line in lines:
        record.write(line)
        record.flush()
        if verbose:
            print(line, end="")
        elif found := _JOB.match(line):
            job = found[1]
        elif found := _WILDCARDS.match(line):
            about[job] = " ".join(w.split("=")[1] for w in found[1].split(", "))
        elif found := _FINISHED.match(line):
            finished = f"{found[2]} {about.get(found[1], '')}"
        elif found := _DONE.match(line):
            print(f"{found[1]:>4} of {found[2]}  {finished}", flush=True)
        elif line.startswith(("WorkflowError", "Error in rule")):
            print(line, end="", file=sys.stderr)
        elif found := _SENTENCE.match(line):
            reason = reason or found[1]
    return reason


def _profile(root: Path, name: str) -> Path:
    for folder in (root / "profiles" / name, Path(name).resolve()):
        if folder.is_dir():
            return folder
    names = ", ".join(sorted(p.name for p in (root / "profiles").iterdir()))
    raise EffaceError(f"--profile {name}: no such profile; choose from {names}, or name a folder")
