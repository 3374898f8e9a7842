"""The end of a run: search the cohort's files for identifiers, then put them in place."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from efface import tables
from efface.audit import IDENTIFIERS
from efface.audit.identifiers import Identifier, from_json
from efface.audit.redact import matcher, search, without_names, without_settings, without_texts
from efface.audit.report import About, LeftOut, Row, pictures, report
from efface.audit.sources import of_machine
from efface.errors import EffaceError
from efface.manifest import Manifest, write_atomic
from efface.release.bids import cohort_files
from efface.release.cohort import cohort, prune
from efface.release.decisions import decide
from efface.release.reviews import Judgements
from efface.status import phrase_of

if TYPE_CHECKING:
    import pandas as pd

    from efface.audit.matcher import Matcher
    from efface.inventory.identity import Verdict
    from efface.inventory.records import Entry

FILES = ("path", "bytes", "entry", "session", "series", "disposition", "reason")
"""Columns of files.tsv."""


@dataclass(frozen=True)
class _Run:
    """What the files of the cohort are made from."""

    manifests: Sequence[Manifest]
    """The audit's, of all sessions."""
    reviews: Judgements
    about: About
    entries: Sequence[Entry]
    """The inventory's."""
    source: Path
    verdict: Verdict
    """Of the identity cross-check of all entries."""


@dataclass(frozen=True)
class _Cohort:
    """The files of the cohort before they are put in place."""

    manifests: Sequence[Manifest]
    rows: Sequence[Row]
    account: pd.DataFrame
    """A row for each file of the source, with the columns :data:`FILES`."""
    audit: Mapping[str, bytes]
    """Contents by path below ``OUT/audit``."""
    release: Mapping[str, bytes]
    """Contents by path below ``OUT/release``."""

    def files(self) -> dict[str, bytes]:
        """Contents by path below ``OUT``."""
        return {
            **{f"audit/{name}": content for name, content in self.audit.items()},
            **{f"release/{name}": content for name, content in self.release.items()},
        }


def finish(
    out: Path,
    manifests: Sequence[Manifest],
    reviews: Judgements,
    about: About,
    entries: Sequence[Entry],
    source: Path,
) -> None:
    """Write audit, release manifest and files.tsv.

    ``manifests`` are the audit's of all sessions, ``entries`` the inventory's. The files of the
    cohort are searched for the identifiers of all sessions before they are written. A scan with an
    identifier in its name is withheld. A reason, note or measure with an identifier is left out of
    the report, which lists what it left out. Raises :class:`EffaceError` and writes nothing if an
    identifier is found all the same.
    """
    from efface import inventory

    restricted = out / "restricted"
    verdict = inventory.cross_check(s for entry in entries for s in entry.people)
    about = replace(about, identity=verdict.counts)
    run = _Run(manifests, reviews, about, entries, source, verdict)
    sought = matcher(_identifiers(restricted, manifests) | of_machine())
    whole = _cohort(run)
    if search(whole.files(), sought):
        whole = _cohort(run, sought)
        findings = search(whole.files(), sought)
        if findings:
            places = ", ".join(sorted({str(f) for f in findings})[:5])
            raise EffaceError(f"{out}: the report contains an identifier ({places}); not written")
    shown = pictures(whole.rows)
    for name, (session, path) in shown.items():
        content = (restricted / "audit" / session / path).read_bytes()
        write_atomic(out / "audit" / name, content)
    prune(out / "audit", {*shown, *whole.audit})
    write_atomic(restricted / "files.tsv", tables.text(whole.account, FILES))
    cohort(out / "release", whole.manifests, reviews, whole.release)
    # last: where the page is, all that it refers to is there
    for name, content in whole.audit.items():
        write_atomic(out / "audit" / name, content)


def _cohort(run: _Run, sought: Matcher | None = None) -> _Cohort:
    """Make the files of the cohort; with ``sought`` leave out what contains an identifier."""
    manifests, left_out = list(run.manifests), list[LeftOut]()
    if sought:
        renamed = [without_names(manifest, sought) for manifest in manifests]
        manifests = [manifest for manifest, _ in renamed]
        left_out += [item for _, items in renamed for item in items]
    rows = [
        Row(manifest.session, d.scan, d.released, d.note, d.withheld)
        for manifest in manifests
        for d in decide(manifest, run.reviews)
    ]
    account = _account(run, rows)
    about = replace(run.about, files=_counts(account))
    if sought:
        cleaned = [without_texts(row, sought) for row in rows]
        rows = [row for row, _ in cleaned]
        about, items = without_settings(about, sought)
        left_out += [*items, *(item for _, items in cleaned for item in items)]
    audit = report(rows, about, left_out)
    described = cohort_files(manifests, run.reviews, about.settings.get("layout", "raw"))
    return _Cohort(manifests, rows, account, audit, described)


def _counts(account: pd.DataFrame) -> dict[str, int]:
    """Number of source files by disposition and phrases of the reasons."""
    phrases = account["reason"].map(
        lambda text: "; ".join(dict.fromkeys(map(phrase_of, text.split("; "))))
    )
    kinds = account["disposition"].str.cat(phrases, sep=": ").str.removesuffix(": ")
    return {str(kind): int(n) for kind, n in kinds.value_counts().items()}


def _identifiers(restricted: Path, manifests: Iterable[Manifest]) -> set[Identifier]:
    """Identifiers of all sessions, as the audit of each session has written them."""
    identifiers: set[Identifier] = set()
    for manifest in manifests:
        path = restricted / "audit" / manifest.session / IDENTIFIERS
        if path.is_file():
            identifiers |= from_json(path.read_text())
        # a session whose audit failed has no such file, and nothing of it is released
        elif any(s.status != "fail" for s in manifest.scans):
            raise EffaceError(f"{path}: missing; delete restricted/audit and run again")
    return identifiers


def _account(run: _Run, rows: Sequence[Row]) -> pd.DataFrame:
    """Every file of the source once, with its final disposition; columns :data:`FILES`."""
    import pandas as pd

    from efface.inventory import files_table

    outcome: dict[tuple[str, str], tuple[str, str]] = {}
    for row in rows:
        series = (row.session, row.scan.series)
        if row.released:
            outcome[series] = ("released", "")
        elif series not in outcome:
            why = "; ".join(row.scan.reasons) or row.note or "not released"
            outcome[series] = ("withheld", why)
    files = files_table(run.entries, outcome, run.verdict)
    account = pd.DataFrame(files, columns=FILES)
    account["path"] = account["path"].str.removeprefix(f"{run.source}/")
    return account
