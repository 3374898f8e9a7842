"""Merge entries into sessions with their series, and list every file of the source."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, fields, replace

from efface.inventory import bids
from efface.inventory.entry import digest
from efface.inventory.identity import Verdict, cross_check
from efface.inventory.ocr import CLEAR
from efface.inventory.records import Entry, EntrySeries, ListedFile
from efface.inventory.split import withhold_split
from efface.pseudonym import Key
from efface.session import Series, SeriesHeader, Session, as_dict
from efface.status import DUPLICATE, STAGE_FAILED, TRUNCATED, Status, worst

_NOT_SEARCHED = "not searched: no DICOM image"
"""Result of the search for text in a series without a complete DICOM image."""
_OTHER_CONTENT = f"{DUPLICATE}: the content differs"


@dataclass(frozen=True)
class _Settled:
    """Files and series of several entries, with the sessions that a verdict gives them."""

    files: list[ListedFile]
    """In path order, with final reasons."""
    series: dict[str, EntrySeries]
    """By session and series pseudonym."""
    doubts: dict[str, tuple[str, ...]]
    """Reasons for review from the verdict, by the same key."""


def merge(entries: Sequence[Entry], key: Key, verdict: Verdict | None = None) -> list[Session]:
    """Sessions of a group of entries that shares no study with other entries.

    ``verdict`` is that of the whole source; without it, ``entries`` must be the whole source. The
    result is sorted and depends on both only. The ``fingerprint`` of a session covers size and time
    of every file and the reasons, so that a changed file or verdict runs the session again.
    """
    settled = _settle(entries, verdict or _verdict(entries))
    by_series: dict[str, list[ListedFile]] = {}
    for f in settled.files:
        if f.series:
            by_series.setdefault(f.series, []).append(f)
    source = entries[0].source if entries else "dicom"
    shared = bids.sidecars(settled.files) if source == "bids" else []
    by_session: dict[str, list[tuple[EntrySeries, Series, list[ListedFile]]]] = {}
    for where, one in sorted(settled.series.items()):
        members = by_series.get(where, [])
        if source == "bids":
            # sidecars are found by inheritance; an image that cannot be converted has none
            members = [m for m in members if m.instance or m.reason]
            members += [s for m in members if m.instance for s in bids.inherited(m, shared)]
        series = _series(one, members, settled.doubts[where])
        by_session.setdefault(one.session, []).append((one, series, members))
    sessions = []
    for name, parts in sorted(by_session.items()):
        first = parts[0][0]
        parts.sort(key=lambda part: _order(part[1]))
        every = [series for _, series, _ in parts]
        session = Session(
            session=name,
            subject=first.subject,
            patient=first.patient,
            study=first.study,
            key=key.fingerprint,
            source=source,
            series=tuple(withhold_split(every) if source == "dicom" else every),
            fingerprint="",
        )
        stats = [[[m.path, m.bytes, m.mtime_ns] for m in members] for _, _, members in parts]
        sessions.append(replace(session, fingerprint=_fingerprint(session, stats)))
    return sessions


def _fingerprint(session: Session, stats: object) -> str:
    record = as_dict(session)
    del record["fingerprint"]
    text = json.dumps([record, stats], sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def groups(entries: Iterable[tuple[str, Entry]]) -> list[list[str]]:
    """Groups of entries to be merged together: those that share a study, or all of a BIDS source.

    Names and entries are read one by one, so that a large source never fills the memory.
    """
    leader: dict[str, str] = {}

    def find(name: str) -> str:
        while leader[name] != name:
            name = leader[name]
        return name

    owner: dict[str, str] = {}
    names = []
    for name, entry in entries:
        names.append(name)
        leader[name] = name
        # a study may have its person in one entry only
        shared = {s.study for s in entry.series.values()}
        if entry.source == "bids":
            # sidecars at the root describe every subject
            shared.add("bids")
        for study in shared:
            other = find(owner.setdefault(study, name))
            leader[find(name)] = other
    together: dict[str, list[str]] = {}
    for name in names:
        together.setdefault(find(name), []).append(name)
    return list(together.values())


def files_table(
    entries: Sequence[Entry],
    released: Mapping[tuple[str, str], tuple[str, str]] | None = None,
    verdict: Verdict | None = None,
) -> list[dict[str, str]]:
    """Rows of a table with every file of the source exactly once; ``entries`` are the whole source.

    ``released`` maps session and series to the final disposition (``released``, ``withheld``) and
    reason; ``verdict`` is that of the cross-check, if it is known. Columns: ``path``, ``bytes``,
    ``entry``, ``session``, ``series``, ``disposition``, ``reason``. Tabs, line breaks and bytes
    that are not text are escaped in paths.
    """
    settled = _settle(entries, verdict or _verdict(entries))
    labels = {f.path: entry.entry for entry in entries for f in entry.files}
    known = released or {}
    rows = []
    for f in settled.files:
        one = settled.series.get(f.series)
        session, label = (one.session, one.series) if one else ("", "")
        if f.reason:
            disposition, reason = "withheld", f.reason
        else:
            nothing = ("withheld", f"{STAGE_FAILED}: no result")
            disposition, reason = known.get((session, label), nothing)
        rows.append(
            {
                "path": _printable(f.path),
                "bytes": str(f.bytes),
                "entry": labels[f.path],
                "session": session,
                "series": label,
                "disposition": disposition,
                "reason": reason,
            }
        )
    return rows


def _verdict(entries: Iterable[Entry]) -> Verdict:
    return cross_check(stated for entry in entries for stated in entry.people)


def _settle(entries: Sequence[Entry], verdict: Verdict) -> _Settled:
    """Assign series and files to the session that ``verdict`` gives, and find duplicate files."""
    series: dict[str, EntrySeries] = {}
    doubts: dict[str, tuple[str, ...]] = {}
    keys: dict[str, str] = {}
    for entry in entries:
        for stated, own in entry.series.items():
            one = _with_owner(own, verdict)
            where = keys[stated] = one.where
            other = series.setdefault(where, one)
            lower = one.rank < other.rank
            if other is one or lower:
                doubts[where] = verdict.doubts.get(own.session, ())
            series[where] = _with_worse_text(one, other) if lower else _with_worse_text(other, one)
    files = [
        replace(f, series=keys.get(f.series, "")) if f.series else f
        for entry in entries
        for f in entry.files
    ]
    files.sort(key=lambda f: os.fsencode(f.path))
    files = _without_duplicates(files)
    if entries and entries[0].source == "bids":
        files = _with_sidecars(files)
    return _Settled(files, series, doubts)


def _with_owner(series: EntrySeries, verdict: Verdict) -> EntrySeries:
    """The series in the session of its owner."""
    owner = verdict.owners.get(series.session)
    if owner is None:
        return series
    return replace(
        series,
        session=verdict.place(series.session),
        subject=owner.subject,
        patient=(owner.patient, owner.issuer),
    )


def _with_worse_text(series: EntrySeries, other: EntrySeries) -> EntrySeries:
    """The series with the worse result of the text search: each entry has a part of the series."""
    worse = max(series, other, key=lambda s: (bool(s.doubt), s.text != CLEAR))
    return series if worse.text is None else replace(series, text=worse.text, doubt=worse.doubt)


def _without_duplicates(files: Iterable[ListedFile]) -> list[ListedFile]:
    """Add a reason against all but the first file of each instance of a series."""
    first: dict[tuple[str, str], ListedFile] = {}
    out = []
    for f in files:
        twin = f if f.reason or not f.instance else first.setdefault((f.series, f.instance), f)
        if twin is f:
            out.append(f)
        else:
            out.append(replace(f, reason=DUPLICATE if _same(twin, f) else _OTHER_CONTENT))
    return out


def _same(a: ListedFile, b: ListedFile) -> bool:
    if a.bytes != b.bytes:
        return False
    mine, other = (f.sha256 or digest(f.path) for f in (a, b))
    return bool(mine) and mine == other


def _with_sidecars(files: Sequence[ListedFile]) -> list[ListedFile]:
    """Assign each sidecar to the series that it describes; one for several series gets a reason."""
    shared = bids.sidecars(files)
    described: dict[str, list[str]] = {}
    for f in files:
        if f.instance:
            for sidecar in bids.inherited(f, shared):
                described.setdefault(sidecar.path, []).append(f.series)
    out = []
    for f in files:
        match described.get(f.path):
            case None:
                out.append(f)
            case [series]:
                out.append(replace(f, series=series, reason=""))
            case _:
                out.append(replace(f, reason=bids.SHARED))
    return out


def _series(one: EntrySeries, members: list[ListedFile], doubts: Iterable[str]) -> Series:
    """Series record for the next stages; ``doubts`` are reasons for review."""
    status: Status = "pass"
    reasons: list[str] = []
    whole = members
    if one.bids is None:
        whole = [m for m in members if not m.reason]
        whole.sort(key=lambda m: (_rank(m.number), m.path))
        status, reasons = _judge(whole, members)
    if status != "fail":
        for reason in (*doubts, *filter(None, [one.doubt])):
            status = worst(status, "review")
            reasons.append(reason)
    return Series(
        **{field.name: getattr(one, field.name) for field in fields(SeriesHeader)},
        bids=one.bids,
        text=_NOT_SEARCHED if one.text is None else one.text,
        status=status,
        reasons=tuple(reasons),
        files=tuple(m.path for m in whole or members),
    )


def _judge(whole: list[ListedFile], members: list[ListedFile]) -> tuple[Status, list[str]]:
    if not whole:
        return "fail", sorted({m.reason for m in members})
    status: Status = "pass"
    reasons = []
    there = {m.instance for m in whole}
    # a truncated copy of an image that is also complete is harmless
    cut = [m for m in members if m.reason and m.instance not in there]
    if cut:
        status = worst(status, "review")
        reasons.append(f"{TRUNCATED}: {len(cut)} of {len(whole) + len(cut)} images")
    other = [m for m in members if m.reason == _OTHER_CONTENT]
    if other:
        status = worst(status, "review")
        reasons.append(f"{DUPLICATE}: {len(other)} images occur again with different content")
    return status, reasons


def _order(series: Series) -> tuple[int, str]:
    return _rank(series.number), series.series


def _rank(number: object) -> int:
    return number if isinstance(number, int) else 1 << 31


def _printable(path: str) -> str:
    text = os.fsencode(path).decode(errors="backslashreplace")
    return "".join(c if c.isprintable() else f"\\x{ord(c):02x}" for c in text)
