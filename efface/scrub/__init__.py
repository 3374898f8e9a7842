"""De-identify DICOM headers: PS3.15 Annex E, Basic Profile, and its options.

``scrub_dataset`` and ``scrub_file`` work on one object, ``scrub_folder`` on a tree (the command
``efface scrub``), ``run`` on a session of the workflow. docs/headers.md describes the rules.
"""

from efface.scrub.codec import WithheldError
from efface.scrub.dataset import scrub_dataset, state_face_removed
from efface.scrub.files import Report, given, run, scrub_bytes, scrub_file, scrub_folder
from efface.scrub.table import OPTIONS, check_options

__all__ = [
    "OPTIONS",
    "Report",
    "WithheldError",
    "check_options",
    "given",
    "run",
    "scrub_bytes",
    "scrub_dataset",
    "scrub_file",
    "scrub_folder",
    "state_face_removed",
]
