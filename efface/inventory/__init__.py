"""Inventory of a source: people, sessions and series, and the files that are not MR images.

The source is walked one top-level entry at a time (:func:`run_entry`), so that adding a person
runs one small job; :func:`merge` combines the entries. Every file of the source is listed exactly
once, with its series or with the reason why it is excluded.
"""

from efface.inventory.bids import is_bids
from efface.inventory.entry import run_entry
from efface.inventory.identity import cross_check
from efface.inventory.records import Entry, read_entry
from efface.inventory.sessions import files_table, groups, merge
from efface.inventory.walk import entries, entry_fingerprint, entry_label

__all__ = [
    "Entry",
    "cross_check",
    "entries",
    "entry_fingerprint",
    "entry_label",
    "files_table",
    "groups",
    "is_bids",
    "merge",
    "read_entry",
    "run_entry",
]
