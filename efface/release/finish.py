"""The end of a run: the cohort's files, searched before they are put in place."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from efface.audit import NEEDLES
from efface.audit.needles import Needle
from efface.audit.report import About, Row, pictures, report, search
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

    ``manifests`` are the audit's of all sessions; ``entries`` the inventory's. Nothing is written
    if the files of the cohort hold an identifier of any session: :class:`EffaceError` says where.
    """
    restricted = out / "restricted"
    rows = [Row(m.session, d.scan, d.released, d.note) for m in manifests for d in decide(m, said)]
    account = _account(entries, rows, source)
    counts = Counter(
        f"{r['disposition']}: {_phrase(r['reason'])}" if r["reason"] else r["disposition"]
        for r in account
    )
    evidence = report(rows, replace(about, files=dict(counts)))
    described = cohort_files(manifests, said)
    searched = {f"audit/{k}": v for k, v in evidence.items()}
    searched |= {f"release/{k}": v for k, v in described.items()}
    found = search(searched, _needles(restricted, manifests))
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


def _needles(restricted: Path, manifests: Iterable[Manifest]) -> set[Needle]:
    found: set[Needle] = set()
    for manifest in manifests:
        path = restricted / "audit" / manifest.session / NEEDLES
        if not path.is_file():
            # a session whose audit failed has none, and none of it is released
            if any(s.status != "fail" for s in manifest.scans):
                raise EffaceError(f"{path}: missing; delete restricted/audit and run again")
            continue
        found |= {Needle(kind, text) for kind, text in json.loads(path.read_text())}
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
