"""The workflow as a command: Snakemake in its own process, its output as progress."""

from __future__ import annotations

import re
import subprocess
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import Any, TextIO

import yaml

from efface import setting
from efface.errors import EffaceError
from efface.manifest import write_atomic

_JOB = re.compile(r"^ +jobid: (\d+)")
_WILDCARDS = re.compile(r"^ +wildcards: (.*)")
_FINISHED = re.compile(r"^Finished jobid: (\d+) \(Rule: (\w+)\)")
_DONE = re.compile(r"^(\d+) of (\d+) steps")


def run(
    source: Path,
    out: Path,
    level: str,
    settings: dict[str, Any],
    cores: int,
    profile: str | None = None,
    verbose: bool = False,
) -> int:
    """Run the workflow on ``source``; returns Snakemake's exit code.

    All that Snakemake says goes to ``out/restricted/logs/efface.log``. Raises
    :class:`EffaceError` before anything starts if a setting or folder is wrong.
    """
    if cores < 1:
        raise EffaceError("--cores must be at least 1")
    root = root_folder()
    defaults = yaml.safe_load((root / "config.yaml").read_text())
    config = defaults | settings | {"source": str(source.resolve()), "out": str(out.resolve())}
    setting.check(config)
    setting.prepare(config, lock=False)
    restricted = out.resolve() / "restricted"
    write_atomic(restricted / "config.yaml", yaml.safe_dump(config, sort_keys=True))
    command = [sys.executable, "-m", "snakemake", "--snakefile", str(root / "Snakefile")]
    command += ["--cores", str(cores), "--configfile", str(restricted / "config.yaml")]
    # the repository's default profile is found by itself only where snakemake runs in it
    command += ["--workflow-profile", str(_profile(root, profile or "default"))]
    command += ["participant"] if level == "participant" else []
    log = restricted / "logs" / "efface.log"
    log.parent.mkdir(parents=True, exist_ok=True)
    with (
        log.open("w") as record,
        subprocess.Popen(
            command,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            errors="replace",
            cwd=restricted,
        ) as process,
    ):
        assert process.stdout
        try:
            _follow(process.stdout, record, verbose)
        except BaseException:
            process.terminate()
            raise
    if process.returncode:
        raise EffaceError(f"the run did not finish; the reason is in {log}")
    if level == "group":
        print(setting.outcome(out.resolve()))
        if line := setting.identity(out.resolve()):
            print(line)
    return 0


def _follow(lines: Iterable[str], record: TextIO, verbose: bool) -> None:
    """Record every line; show all, or one for every job that is done."""
    job, finished, about = "", "", {}
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


def _profile(root: Path, name: str) -> Path:
    for folder in (root / "profiles" / name, Path(name).resolve()):
        if folder.is_dir():
            return folder
    there = ", ".join(sorted(p.name for p in (root / "profiles").iterdir()))
    raise EffaceError(f"--profile {name}: no such profile; there are {there}, or name a folder")


def root_folder() -> Path:
    """Where Snakefile, rules/ and scripts/ lie.

    Raises :class:`EffaceError` where the package was installed without them.
    """
    root = Path(__file__).resolve().parents[1]
    if not (root / "Snakefile").exists():
        raise EffaceError(
            "efface run needs the workflow beside the package: install from a clone with"
            " pip install --editable ."
        )
    return root
