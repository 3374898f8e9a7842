# What the rules share: checked settings, paths, hashes of code and models, sessions of the source.
import sys
from pathlib import Path

# a checkout need not be installed
if Path(workflow.basedir, "efface").is_dir():
    sys.path.insert(0, workflow.basedir)

from snakemake.exceptions import WorkflowError

from efface import resources
from efface.errors import EffaceError
from efface.workflow import dependencies, layout, restricted, sessions, settings

try:
    settings.check(config)
    # jobs on other nodes read the Snakefile again, but do not take the lock of the main process
    RUN = (
        restricted.prepare(config, lock=workflow.is_main_process)
        if config["source"]
        else None
    )
except EffaceError as e:
    raise WorkflowError(str(e)) from None

SOURCE = RUN and RUN.source
OUT = RUN and RUN.out
RESTRICTED = RUN and f"{RUN.out}/restricted"
KEY = RUN and RUN.key
ENTRIES = RUN and RUN.entries
# a parameter, not an input: the inventory is a checkpoint, and an input would start it again
RECORD = layout.session_record(OUT)

# Parameters of the rules, since Snakemake runs a job again when a parameter changes: the hash of the
# code that the script runs, and of the model files that it reads.
code = dependencies.code_hash


def models(*scripts):
    """Hash of the model files that the scripts read."""
    return dependencies.model_hash(config["models"], *scripts)


def stage_output(stage):
    """Folder and manifest that a stage writes for a session."""
    output = layout.stage_output(OUT, stage)
    return output | {"folder": directory(output["folder"])}


def stage_input(*stages):
    """Folders and manifests that earlier stages wrote for a session."""
    return layout.stage_input(OUT, *stages)


def fingerprint(wildcards):
    """Hash of a session's record in the inventory: a change re-runs that session only."""
    table = checkpoints.inventory.get().output[0]
    return sessions.fingerprint(table, wildcards.session)


def audit_manifests(participants):
    """Manifests of the audit for the given participants, or for all if the list is empty."""
    table = checkpoints.inventory.get().output[0]
    return [
        f"{OUT}/restricted/audit/{session}.json"
        for session in sessions.sessions(table, participants)
    ]


def of_everybody(wildcards):
    """Manifests of the audit for every session of the source."""
    return audit_manifests([])


def of_participants(wildcards):
    """Manifests of the audit for the participants of the settings.

    The release does not use this: naming one participant must not remove the others from it.
    """
    return audit_manifests(config["participants"])


def unlabelled_heads(wildcards):
    """Names of the heads without a label map, for the target label."""
    from efface.train.data import unlabelled

    return unlabelled(Path(config["heads"] or "heads"))


wildcard_constraints:
    session="sub-[a-z0-9]+_ses-[a-z0-9]+",
    entry="entry-[a-z0-9]+",
