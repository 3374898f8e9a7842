"""Tables beside an image of a BIDS source (``_events.tsv``, ``_aslcontext.tsv``), by allow-list."""

from __future__ import annotations

import csv
import io
import re
from collections.abc import Mapping, Sequence

from efface.inventory.bids import TABLES

SUFFIXES = tuple(TABLES)
"""Suffixes of the tables that are released beside an image."""

VOLUME_TYPES = ("control", "label", "m0scan", "deltam", "cbf", "noRF", "n/a")
"""Types of volumes of an ASL series (BIDS 1.11, Arterial Spin Labeling)."""

_NUMBERS = ("onset", "duration", "sample", "response_time")
_NUMBER = re.compile(r"[+-]?([0-9]+\.?[0-9]*|\.[0-9]+)([eE][+-]?[0-9]{1,3})?")
_LABEL = re.compile(r"[A-Za-z][A-Za-z0-9_.+-]{0,39}")
_NOT_OF_EVENTS = ("echo", "part", "chunk")
_MISSING = "n/a"


def cleaned(suffix: str, text: str) -> str:
    r"""Releasable part of a table, as TSV; empty if the table is not usable.

    ``suffix`` is ``events`` or ``aslcontext``. Events keep the columns onset, duration, sample and
    response_time (numbers) and trial_type (a word that starts with a letter); other values in these
    columns become ``n/a``. ASL context has one column with :data:`VOLUME_TYPES`.

    >>> cleaned("events", "onset\tduration\tname\n1.0\t2\tJane Doe\n")
    'onset\tduration\n1.0\t2\n'
    """
    try:
        # BIDS has no quoting: a quotation mark is an ordinary character
        plain = io.StringIO(text.removeprefix("\ufeff"))
        reader = csv.DictReader(plain, delimiter="\t", quoting=csv.QUOTE_NONE)
        rows = list(reader)
    except csv.Error:
        return ""
    columns = list(reader.fieldnames or ())
    if suffix == "aslcontext":
        kinds = [(row.get("volume_type") or "").strip() for row in rows]
        return _tsv(["volume_type"], [[k] for k in kinds]) if set(kinds) <= {*VOLUME_TYPES} else ""
    if not {"onset", "duration"} <= set(columns):
        return ""
    # BIDS requires onset and duration first
    kept = [c for c in (*_NUMBERS, "trial_type") if c in columns]
    return _tsv(kept, [[_event(c, row.get(c) or "") for c in kept] for row in rows])


def _event(column: str, value: str) -> str:
    value = value.strip()
    if column not in _NUMBERS:
        return value if _LABEL.fullmatch(value) else _MISSING
    # float() accepts more, such as 1_000
    return value if _NUMBER.fullmatch(value) else _MISSING


def _tsv(columns: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    return "".join("\t".join(line) + "\n" for line in (columns, *rows)) if rows else ""


def name(session: str, entities: Mapping[str, str], order: Sequence[str], suffix: str) -> str:
    """File name of a table: the entities of its image without echo, part and chunk."""
    kept = [f"{e}-{entities[e]}" for e in order if e in entities and e not in _NOT_OF_EVENTS]
    return "_".join([session, *kept, suffix]) + ".tsv"
