# What the rules share: the settings, checked; where things lie; what is in the source.
import sys
from pathlib import Path

ROOT = Path(workflow.basedir)
sys.path.insert(0, str(ROOT))

from snakemake.exceptions import WorkflowError

from efface import setting
from efface.errors import EffaceError

try:
    setting.check(config)
    # jobs on other nodes read the Snakefile again, without taking the lock of the main process
    RUN = (
        setting.prepare(config, lock=workflow.is_main_process)
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
VERSION = setting.source_hash()
STAGES = ("scrub", "convert", "segment", "distort", "qc", "audit")


def fingerprint(wildcards):
    """What a session's inventory says, as a hash: a change re-runs that session alone."""
    return setting.fingerprint(checkpoints.inventory.get().output[0], wildcards.session)


def manifests(people):
    """The audit's manifests, the last before the door: of all people, or of those named."""
    sessions = setting.sessions(checkpoints.inventory.get().output[0], people)
    return [f"{OUT}/restricted/audit/{session}.json" for session in sessions]


def audited(wildcards):
    """Every session of the source."""
    return manifests([])


def asked(wildcards):
    """The sessions of the people asked for. The door never looks at this: naming one person must
    not take the others out of a release."""
    return manifests(config["participants"])


wildcard_constraints:
    session="sub-[a-z0-9]+_ses-[a-z0-9]+",
    entry="entry-[a-z0-9]+",
