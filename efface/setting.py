"""The settings of a run: checked against their schema, and the places that follow from them."""

from __future__ import annotations

import csv
import fcntl
import hashlib
import json
import os
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

from efface import paths
from efface.errors import EffaceError
from efface.paths import Given
from efface.pseudonym import new_key, read_key

_PACKAGE = Path(__file__).parent
_NOT_OF_A_RUN = {"phantom", "train", "cli", "evaluate"}
_WRITTEN = (
    *("release", "release/bids", "release/dicom", "audit"),
    *("restricted/inventory", "restricted/scrub", "restricted/convert", "restricted/segment"),
    *("restricted/distort", "restricted/qc", "restricted/audit", "restricted/gate"),
    *("restricted/logs", "restricted/.snakemake", "restricted/config.yaml", "restricted/lock"),
    *("restricted/files.tsv", "restricted/identity.tsv", "restricted/gate.tsv"),
    "restricted/lookups.tsv",
)
"""What a run writes, replaces or clears below its folder of results."""
_held: list[int] = []


@dataclass(frozen=True)
class Run:
    """Where a run reads and writes; absolute paths."""

    source: str
    out: str
    key: str
    entries: dict[str, str]
    """Pseudonym of a top-level entry of the source, to its name."""


def check(config: dict[str, Any]) -> None:
    """Make paths absolute; raise :class:`EffaceError` naming the first setting that is wrong."""
    import jsonschema
    import yaml

    schema = yaml.safe_load((_PACKAGE / "config.schema.yaml").read_text())
    for name in ("features", "participants", "retain"):
        if isinstance(config.get(name), str):
            # --config features=eyes,nose is what people type
            config[name] = [v for v in config[name].split(",") if v]
    for name in ("source", "out", "key", "accept", "models", "heads"):
        # absolute, since the jobs work in another folder than the command was typed in
        config[name] = str(paths.resolved(Path(config[name]))) if config.get(name) else ""
    compare_paths(config)
    error = jsonschema.exceptions.best_match(
        jsonschema.Draft202012Validator(schema).iter_errors(config)
    )
    if error:
        where = ".".join(str(p) for p in error.absolute_path) or "config"
        raise EffaceError(f"setting {where}: {error.message}")
    from efface.distort.methods import METHODS

    if config["method"] not in METHODS:
        raise EffaceError(f"setting method: {config['method']!r} is none of {', '.join(METHODS)}")
    from efface.scrub import check_options

    check_options(config["retain"])
    if config["accept"]:
        from efface.release import judgements

        judgements(Path(config["accept"]))
    if config["source"] and not config["out"]:
        raise EffaceError("setting out: name a folder for the results (--config out=DIR)")


def prepare(config: dict[str, Any], lock: bool = True) -> Run:
    """Make the restricted zone and the key, and list the source's entries.

    With ``lock``, no second run may work on the same folder; the lock ends with the process, so a
    killed run leaves none. Raises :class:`EffaceError` for a missing source, a folder that cannot
    be written, a release inside the source or the source inside the release, or a key that is gone.
    """
    from efface import inventory

    source, out = Path(config["source"]).resolve(), Path(config["out"]).resolve()
    if not source.exists():
        raise EffaceError(f"{source}: no such folder; set source to a DICOM tree or BIDS dataset")
    if not source.is_dir():
        raise EffaceError(f"{source}: a file; for one image use efface deface, else name a folder")
    compare_paths(config)
    restricted = out / "restricted"
    try:
        restricted.mkdir(parents=True, exist_ok=True)
        restricted.chmod(0o700)
        # what is in the restricted zone is nobody else's to read, whatever the umask was
        os.umask(0o027)
        if lock:
            _lock(restricted / "lock", out)
    except OSError as e:
        raise EffaceError(f"{out}: cannot be written ({e.strerror})") from e
    key = Path(config["key"]).resolve() if config["key"] else restricted / "key"
    if not config["key"] and not key.exists():
        if (restricted / "inventory").exists():
            raise EffaceError(
                f"{key}: the key of this run is gone, and a new one would give everybody another "
                "pseudonym; put it back, or delete the folder of results and begin anew"
            )
        new_key(key)
    entries = inventory.entries(source, read_key(key))
    return Run(str(source), str(out), str(key), entries)


def compare_paths(config: dict[str, Any]) -> None:
    """Compare source, results, key and table of accepted scans before anything is read or written.

    The key and the table may lie in the folder of results, but not in a part of it that a run
    writes. Raises :class:`efface.errors.UsageError`.
    """
    if not config["out"]:
        return
    out = Path(config["out"])
    reads = [Given(n, Path(config[n])) for n in ("source", "key", "accept") if config[n]]
    paths.check([r for r in reads if r.role == "source"], [Given("out", out)])
    for name in _WRITTEN:
        paths.check(reads, [Given("out", out / name)])


def _lock(path: Path, out: Path) -> None:
    handle = os.open(path, os.O_RDWR | os.O_CREAT, 0o600)
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError as e:
        os.close(handle)
        raise EffaceError(f"{out}: another efface run works here; wait until it is done") from e
    _held.append(handle)


@cache
def source_hash() -> str:
    """Hash of the code that makes results: snakemake re-runs a rule when its parameters change,
    but not when a module that its script imports does.
    """
    digest = hashlib.sha256()
    for path in sorted(_PACKAGE.rglob("*")):
        part = path.relative_to(_PACKAGE).parts[0].removesuffix(".py")
        if path.is_file() and "__pycache__" not in path.parts and part not in _NOT_OF_A_RUN:
            digest.update(str(path.relative_to(_PACKAGE)).encode() + b"\0" + path.read_bytes())
    return digest.hexdigest()[:16]


def unlabelled(heads: str) -> list[str]:
    """Heads of a folder that have no label map, by name."""
    from efface.train.data import labels_of

    found = sorted(Path(heads or "heads").glob("*.nii.gz"))
    images = [p for p in found if not p.name.endswith(("_labels.nii.gz", "_brain.nii.gz"))]
    return [p.name for p in images if not labels_of(p).exists()]


def model_hash(models: str) -> str:
    """Digest of the face model: other weights re-run what they made."""
    from efface.segment import model_hash as digest

    return digest(Path(models) if models else None)


def table(path: str | Path) -> dict[str, str]:
    """Session to fingerprint, from the inventory's sessions.tsv."""
    return _table(Path(path), Path(path).stat().st_mtime_ns)


@cache
def _table(path: Path, _time: int) -> dict[str, str]:
    with path.open(newline="") as f:
        return {r["session"]: r["fingerprint"] for r in csv.DictReader(f, delimiter="\t")}


def sessions(path: str | Path, participants: list[str]) -> list[str]:
    """Sessions of the inventory's table, or those of the people named.

    A person is named by the pseudonym or by the label of the source (the subject label of a BIDS
    dataset, a PatientID), with or without ``sub-``. Raises :class:`EffaceError` for a name that
    nobody has.
    """
    if not participants:
        return list(table(path))
    import pandas as pd

    people = Path(path).parents[1] / "identity.tsv"
    known = pd.read_csv(people, sep="\t", dtype=str, keep_default_na=False)
    named: dict[str, set[str]] = {}
    for session, patient in zip(known["session"], known["patient_id"], strict=True):
        subject = session.partition("_")[0]
        for name in (subject, patient):
            named.setdefault(_bare(name), set()).add(subject)
    unknown = [p for p in participants if not named.get(_bare(p))]
    if unknown:
        raise EffaceError(
            f"participant {', '.join(unknown)}: nobody in the source has this label; {people} lists"
            " the labels and pseudonyms"
        )
    asked = set().union(*(named[_bare(p)] for p in participants))
    return [s for s in table(path) if s.split("_")[0] in asked]


def _bare(label: str) -> str:
    # as the table writes labels
    return " ".join(label.split()).removeprefix("sub-")


def fingerprint(path: str | Path, session: str) -> str:
    """Fingerprint of one session; empty for one that is no more."""
    return table(path).get(session, "")


def identity(out: Path) -> str:
    """One line with the counts of the identity cross-check; empty if all counts are 0.

    From ``audit/audit.json``.
    """
    counts = json.loads((out / "audit" / "audit.json").read_text())["identity"]
    found = ", ".join(f"{what}: {n}" for what, n in counts.items() if n)
    return f"{found}; see {out / 'restricted' / 'identity.tsv'}" if found else ""


def outcome(out: Path) -> tuple[str, bool]:
    """Summary of a run for the terminal, and whether anything was released.

    From ``audit/audit.json``. Where nothing was released, the last line says why.
    """
    audit = json.loads((out / "audit" / "audit.json").read_text())
    summary = audit["summary"]
    counts = ", ".join(f"{summary[s]} {s}" for s in ("pass", "review", "fail"))
    lines = [
        f"scans: {counts}",
        f"release: {out / 'release'}",
        f"audit:   {out / 'audit' / 'index.html'}",
    ]
    if not summary["released"]:
        # no scan at all: what the files of the source are
        reasons = audit["reasons"] or {
            reason.removeprefix("withheld: "): n for reason, n in audit["files"].items()
        }
        why = ", ".join(f"{reason} ({n})" for reason, n in list(reasons.items())[:3])
        found = "" if summary["scans"] else "no MR image was found in the source: "
        lines.append(f"nothing was released: {found}{why}")
    return "\n".join(lines), bool(summary["released"])
