"""De-identify DICOM headers: PS3.15 Annex E, Basic Profile, and its options.

``scrub_dataset`` and ``scrub_file`` work on one object, :func:`efface.scrub.folder.scrub_folder` on
a tree (the command ``efface scrub``), ``run`` on a session of the workflow. docs/headers.md
describes the rules.
"""

from efface.scrub.codec import WithheldError
from efface.scrub.dataset import scrub_dataset, state_face_removed
from efface.scrub.files import run, scrub_bytes, scrub_file, to_scrub
from efface.scrub.table import OPTIONS, check_options

__all__ = [
    "OPTIONS",
    "WithheldError",
    "check_options",
    "run",
    "scrub_bytes",
    "scrub_dataset",
    "scrub_file",
    "state_face_removed",
    "to_scrub",
]
