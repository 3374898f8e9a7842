"""The table ``gate.tsv``: which sessions are released, in which form."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

from efface import tables
from efface.errors import EffaceError
from efface.manifest import Manifest
from efface.release.decisions import FORMS, Form, decide, released_paths
from efface.release.reviews import Judgements

COLUMNS = ("session", *FORMS, "fingerprint")


@dataclass(frozen=True, order=True)
class GateRow:
    """What is released of one session."""

    session: str
    forms: tuple[Form, ...]
    fingerprint: str
    """Hash of the paths and digests of the released files."""


def gate_row(manifest: Manifest, reviews: Judgements) -> GateRow:
    """Decide in which forms a session is released; ``manifest`` is the audit's."""
    decisions = decide(manifest, reviews)
    digest = hashlib.sha256()
    forms: list[Form] = []
    for form in FORMS:
        names = released_paths(manifest, decisions, form)
        if names:
            forms.append(form)
        for name, _ in names:
            digest.update(f"{name}\t{manifest.sha256.get(name, '')}\n".encode())
    return GateRow(manifest.session, tuple(forms), digest.hexdigest()[:16])


def gate_table(rows: Iterable[GateRow]) -> str:
    """Text of the table: ``session``, ``bids`` and ``dicom`` (yes or no), ``fingerprint``."""
    return tables.text(
        (
            {
                "session": row.session,
                **{form: "yes" if form in row.forms else "no" for form in FORMS},
                "fingerprint": row.fingerprint,
            }
            for row in sorted(rows)
        ),
        COLUMNS,
    )


def table_of(path: str | Path, form: Form) -> dict[str, str]:
    """Fingerprints of the sessions that are released in one form, by session.

    Raises :class:`EffaceError` for a malformed table.
    """
    rows = _read(Path(path), Path(path).stat().st_mtime_ns)
    return {row.session: row.fingerprint for row in rows if form in row.forms}


@lru_cache(maxsize=2)
def _read(path: Path, _: int) -> tuple[GateRow, ...]:
    """Rows of the table; the second argument is its time, so that an edited table is read anew."""
    table = tables.read(path, COLUMNS)
    flags = table[list(FORMS)]
    if not flags.isin(["yes", "no"]).all(axis=None) or (table == "").any(axis=None):
        raise EffaceError(f"{path}: malformed table; delete it and run again")
    return tuple(
        GateRow(session, tuple(f for f, yes in zip(FORMS, own, strict=True) if yes), fingerprint)
        for session, fingerprint, own in zip(
            table["session"],
            table["fingerprint"],
            (flags == "yes").itertuples(index=False),
            strict=True,
        )
    )
