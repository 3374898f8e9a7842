"""Release: what passed, or was reviewed and accepted, is copied out of the restricted zone.

- :mod:`~efface.release.reviews`: the table of accepted scans
- :mod:`~efface.release.decisions`: which scans of a session are released, and which files
- :mod:`~efface.release.opened`: ``gate.tsv``, the sessions that are released
- :mod:`~efface.release.copying`: the files of a session, checked against the audit's digests
- :mod:`~efface.release.bids`: description and tables of the BIDS dataset
- :mod:`~efface.release.cohort`: the whole release and its ``manifest.tsv``
- :mod:`~efface.release.finish`: the end of a run
"""

from efface.release.bids import cohort_files, cohort_tables
from efface.release.cohort import MANIFEST, cohort
from efface.release.copying import MTIME, copy
from efface.release.decisions import FORMS, Decision, Form, decide
from efface.release.opened import GateRow, gate_row, gate_table, table_of
from efface.release.reviews import Judgement, Judgements, judgements

__all__ = [
    "FORMS",
    "MANIFEST",
    "MTIME",
    "SETTINGS",
    "Decision",
    "Form",
    "GateRow",
    "Judgement",
    "Judgements",
    "cohort",
    "cohort_files",
    "cohort_tables",
    "copy",
    "decide",
    "gate_row",
    "gate_table",
    "judgements",
    "table_of",
]

SETTINGS = ("features", "method", "retain", "device", "layout")
"""Settings that the audit shows: none that holds a path or a text of the site."""
