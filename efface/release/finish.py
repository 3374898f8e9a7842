"""The end of a run: the cohort's files, searched before they are put in place."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from efface.audit import IDENTIFIERS
from efface.audit.identifiers import Identifier, from_json
from efface.audit.report import (
    About,
    Row,
    matcher,
    named,
    pictures,
    plain,
    report,
    search,
    without,
)
from efface.audit.sources import of_machine
from efface.errors import EffaceError
from efface.manifest import Manifest, write_atomic
from efface.release import Judgements, cohort, cohort_files, decide, prune, table

FILES = ("path", "bytes", "entry", "session", "series", "disposition", "reason")


def finish(
    out: Path,
    manifests: Sequence[Manifest],
    said: Judgements,
    about: About,
    entries: Sequence[dict[str, Any]],
    source: Path,
) -> None:
    """Write audit, release manifest and the account of all source files.

    ``manifests`` are the audit's of all sessions; ``entries`` the inventory's. The files of the
    cohort are searched for the identifiers of all sessions before they are written. A scan whose
    name tells one stays in; a reason, a note or a measure that does is left out of the report,
    which says so. If something is found all the same, nothing is written: :class:`EffaceError` says
    where.
    """
    restricted = out / "restricted"
    sought = matcher(_identifiers(restricted, manifests) | of_machine())
    rows, account = _rows(manifests, said, entries, source)
    about = replace(about, files=_counts(account))
    evidence, described = (
        report(rows, about),
        cohort_files(manifests, said, about.settings.get("layout", "raw")),
    )
    if search(_placed(evidence, described), sought):
        renamed = [named(m, sought) for m in manifests]
        manifests = [m for m, _ in renamed]
        rows, account = _rows(manifests, said, entries, source)
        cleaned = [without(row, sought) for row in rows]
        rows = [row for row, _ in cleaned]
        about, told = plain(replace(about, files=_counts(account)), sought)
        left_out = [*told, *(item for _, items in (*renamed, *cleaned) for item in items)]
        evidence, described = (
            report(rows, about, left_out),
            cohort_files(manifests, said, about.settings.get("layout", "raw")),
        )
        found = search(_placed(evidence, described), sought)
        if found:
            places = ", ".join(sorted({str(f) for f in found})[:5])
            raise EffaceError(f"{out}: the report would tell an identifier ({places}); not written")

    shown = pictures(rows)
    for name, (session, path) in shown.items():
        content = (restricted / "audit" / session / path).read_bytes()
        write_atomic(out / "audit" / name, content)
    prune(out / "audit", {*shown, *evidence})
    write_atomic(restricted / "files.tsv", table(account, FILES))
    cohort(out / "release", manifests, said, described)
    # last: where the page is, all that it speaks of is there
    for name, content in evidence.items():
        write_atomic(out / "audit" / name, content)


def _rows(
    manifests: Sequence[Manifest],
    said: Judgements,
    entries: Sequence[dict[str, Any]],
    source: Path,
) -> tuple[list[Row], list[dict[str, str]]]:
    """What became of every scan, and of every file of the source."""
    rows = [Row(m.session, d.scan, d.released, d.note) for m in manifests for d in decide(m, said)]
    return rows, _account(entries, rows, source)


def _counts(account: Iterable[dict[str, str]]) -> dict[str, int]:
    return dict(
        Counter(
            f"{r['disposition']}: {_phrase(r['reason'])}" if r["reason"] else r["disposition"]
            for r in account
        )
    )


def _placed(evidence: dict[str, bytes], described: dict[str, bytes]) -> dict[str, bytes]:
    return {
        **{f"audit/{k}": v for k, v in evidence.items()},
        **{f"release/{k}": v for k, v in described.items()},
    }


def _identifiers(restricted: Path, manifests: Iterable[Manifest]) -> set[Identifier]:
    found: set[Identifier] = set()
    for manifest in manifests:
        path = restricted / "audit" / manifest.session / IDENTIFIERS
        if not path.is_file():
            # a session whose audit failed has none, and none of it is released
            if any(s.status != "fail" for s in manifest.scans):
                raise EffaceError(f"{path}: missing; delete restricted/audit and run again")
            continue
        found |= from_json(path.read_text())
    return found


def _account(
    entries: Sequence[dict[str, Any]], rows: Sequence[Row], source: Path
) -> list[dict[str, str]]:
    """Every file of the source once, with its final disposition."""
    from efface.inventory import files_table

    outcome: dict[tuple[str, str], tuple[str, str]] = {}
    for row in rows:
        where = (row.session, row.scan.series)
        if row.released:
            outcome[where] = ("released", "")
        elif where not in outcome:
            why = "; ".join(row.scan.reasons) or row.note or "not released"
            outcome[where] = ("withheld", why)
    base = f"{source}/"
    return [
        {**entry, "path": entry["path"].removeprefix(base)}
        for entry in files_table(entries, outcome)
    ]


def _phrase(reason: str) -> str:
    return "; ".join(dict.fromkeys(part.split(": ")[0] for part in reason.split("; ")))
