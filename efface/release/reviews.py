"""The table of accepted scans: what reviewers decided, by session and scan."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from efface import tables
from efface.errors import EffaceError

COLUMNS = ("session", "scan", "reviewer", "reason")
"""Columns that the table must have, with a text in each row."""


@dataclass(frozen=True)
class Judgement:
    """Decision of a reviewer on one scan."""

    accept: bool
    reviewer: str
    reason: str
    sha256: str = ""
    """Digest of the image that the reviewer looked at, if the table has it."""

    def __str__(self) -> str:
        verb = "accepted" if self.accept else "rejected"
        return f"{verb} by {self.reviewer}: {self.reason}"


Judgements = Mapping[tuple[str, str], Judgement]
"""By session and scan."""


def judgements(path: Path | None) -> dict[tuple[str, str], Judgement]:
    """Read the table of accepted scans; empty for no path.

    Tab-separated columns ``session``, ``scan``, ``reviewer``, ``reason``. Optional are ``verdict``
    (``accept``, the default, or ``reject``) and ``sha256`` of the defaced NIfTI that the reviewer
    looked at: the verdict then holds for no other image. Raises :class:`EffaceError` for a
    malformed table.
    """
    if path is None:
        return {}
    out: dict[tuple[str, str], Judgement] = {}
    for line, cells in tables.read(path, COLUMNS).iterrows():
        row = dict(cells)
        verdict = row.get("verdict") or "accept"
        if verdict not in ("accept", "reject"):
            raise EffaceError(f"{path}: line {line}: verdict must be accept or reject")
        if not all(row[name] for name in COLUMNS):
            raise EffaceError(f"{path}: line {line}: fill in session, scan, reviewer and reason")
        scan = (row["session"], row["scan"])
        one = Judgement(verdict == "accept", row["reviewer"], row["reason"], row.get("sha256", ""))
        if scan in out and out[scan].accept != one.accept:
            raise EffaceError(f"{path}: line {line}: the scan is both accepted and rejected")
        out[scan] = one
    return out
