"""Names of the folders and files that a run writes below its folder of results."""

from __future__ import annotations

STAGES = ("scrub", "convert", "segment", "distort", "qc", "audit")
"""Stages that work on a session, in order. Each writes the folder ``restricted/STAGE/SESSION`` and
the manifest ``restricted/STAGE/SESSION.json``."""

_RESTRICTED = (
    *("inventory", *STAGES, "gate", "logs", ".snakemake"),
    *("config.yaml", "lock", "files.tsv", "identity.tsv", "gate.tsv", "lookups.tsv"),
)
WRITTEN = (
    *("release", "release/bids", "release/dicom", "audit"),
    *(f"restricted/{name}" for name in _RESTRICTED),
)
"""All that a run writes, replaces or clears; relative to the folder of results."""


def stage_output(out: str, stage: str) -> dict[str, str]:
    """Folder and manifest that a stage writes for a session, with ``{session}`` left open."""
    folder = f"{out}/restricted/{stage}/{{session}}"
    return {"folder": folder, "manifest": f"{folder}.json"}


def stage_input(out: str, *stages: str) -> dict[str, str]:
    """What the given stages wrote: their manifests by name of the stage, and their folders.

    The names are those that :func:`efface.stage.job` reads: ``convert``, ``convert_folder``.
    """
    files: dict[str, str] = {}
    for stage in stages:
        output = stage_output(out, stage)
        files |= {stage: output["manifest"], f"{stage}_folder": output["folder"]}
    return files


def session_record(out: str) -> str:
    """The inventory's record of a session, with ``{session}`` left open."""
    return f"{out}/restricted/inventory/sessions/{{session}}.json"
