"""The audit of a session: stage its scans, search them for identifiers, list what is missing."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path

from efface.audit import kept, leaks, sources
from efface.audit.identifiers import to_json
from efface.audit.leaks import Finding
from efface.audit.matcher import Matcher
from efface.audit.staging import Staging, discard, paths, prune_empty, stage
from efface.manifest import Scan, Stage, write_atomic
from efface.measures import Measures
from efface.pseudonym import Key
from efface.session import Session
from efface.status import IDENTIFIER_FOUND, SCAN_LOST, Status, worst

IDENTIFIERS = "identifiers.json"
"""In a session's folder: its identifiers, for the search of the cohort's files. UIDs are left out:
no UID but new ones may be in a cohort's files, whatever the identifiers are."""

_MOST_FINDINGS = 8


def run(
    session: Session,
    convert: Stage,
    distort: Stage,
    qc: Stage,
    folder: Path,
    retain: Iterable[str] = (),
    key: Key | None = None,
    layout: str = "raw",
) -> tuple[Scan, ...]:
    """Put the candidate of a session together in ``folder``; every series with its status.

    Writes ``bids/{sub}/{ses}/…``, ``dicom/{sub}/{ses}/{series}/…`` and ``pictures/…`` for scans
    that did not fail, and ``identifiers.json``. A scan with an identifier fails, in both forms
    (DICOM series and the images made from it), and its files are deleted. Series that the inventory
    withheld, or that a stage lost, are scans too.

    ``session`` is the inventory's. ``retain`` are the options of the scrub; what they keep of the
    person and the day goes into the measures ``person`` and ``acq_time``, for the tables of the
    release. ``key`` shifts the dates. With the ``layout`` ``derivative`` the names of images have
    ``desc-defaced``.
    """
    retain = tuple(retain)
    identifiers = sources.of_session(session, retain)
    matcher = Matcher(identifiers | sources.of_machine())
    staging = Staging(session.session, convert, distort, qc, folder, retain, layout)
    scans = []
    for scan in qc[1].scans:
        staged = scan if scan.status == "fail" else stage(scan, staging)
        if staged.status != "fail":
            staged = _search(staged, folder, matcher, uids="uids" not in retain)
        scans.append(staged)
    scans = _in_both_forms(scans)
    scans = [discard(s, folder) if s.status == "fail" else s for s in scans]
    scans = [_with_kept(scan, session, retain, key) for scan in scans]
    scans += _missing(session, scans)
    write_atomic(folder / IDENTIFIERS, to_json(identifiers))
    prune_empty(folder)
    return tuple(scans)


def _in_both_forms(scans: Iterable[Scan]) -> list[Scan]:
    """The scans, failed where an identifier was found in another form of the same series."""
    scans = list(scans)
    leaked = {s.series for s in scans if any(r.startswith(IDENTIFIER_FOUND) for r in s.reasons)}
    return [
        s
        if s.status == "fail" or s.series not in leaked
        else s.mark("fail", f"{IDENTIFIER_FOUND}: in another form of this series")
        for s in scans
    ]


def _with_kept(scan: Scan, session: Session, retain: Iterable[str], key: Key | None) -> Scan:
    """The scan with what options keep of the person and the day, and the search for text."""
    series = next((s for s in session.series if s.series == scan.series), None)
    if scan.status == "fail" or series is None or not series.files:
        return scan
    measures: Measures = {
        **scan.measures,
        "person": kept.of_person(session, retain),
        "acq_time": kept.acquired(session, series, retain, key),
    }
    if series.text:
        measures["text_in_picture"] = series.text
    return replace(scan, measures=measures)


def _search(scan: Scan, folder: Path, matcher: Matcher, *, uids: bool) -> Scan:
    """The scan; if an identifier is in its files, failed, with kind and place of each finding."""
    findings: list[Finding] = []
    size = 0
    names = paths(scan, folder)
    for name in names:
        data = (folder / name).read_bytes()
        size += len(data)
        findings += leaks.scan(name, data, matcher, uids=uids)
    scan = replace(scan, measures={**scan.measures, "searched_bytes": size})
    if not names:
        return scan.mark("fail", f"{SCAN_LOST}: no files")
    # the files of a series share their findings
    places = sorted({f"{f.kind} in {f.place}" for f in findings})
    for place in places[:_MOST_FINDINGS]:
        scan = scan.mark("fail", f"{IDENTIFIER_FOUND}: {place}")
    if len(places) > _MOST_FINDINGS:
        scan = scan.mark(
            "fail", f"{IDENTIFIER_FOUND}: {len(places) - _MOST_FINDINGS} further places"
        )
    return scan


def _missing(session: Session, scans: list[Scan]) -> list[Scan]:
    """Series of the session without a scan: withheld by the inventory, or lost by a stage."""
    from efface.convert import modality

    known = {s.series for s in scans}
    out = []
    for series in session.series:
        name = series.series
        if name in known:
            continue
        status: Status = worst("fail", series.status)
        reasons = series.reasons or (SCAN_LOST,)
        measures: Measures = {"form": "source", "datatype": ""}
        out.append(Scan(name, name, modality(series), status, reasons, {}, measures))
    return out
