"""Merge entries into sessions with their series, and list every file of the source."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

from efface.inventory import bids
from efface.inventory.entry import Entry, digest
from efface.inventory.identity import Statement, Verdict, cross_check
from efface.inventory.ocr import CLEAR
from efface.inventory.split import withhold_split
from efface.pseudonym import Key
from efface.status import DUPLICATE, STAGE_FAILED, TRUNCATED, Status, worst

Session = dict[str, Any]
"""See the schema in docs/architecture.md: ``session``, ``subject``, ``source``, ``series``, …"""

_SERIES_FIELDS = (
    *("series", "uid", "kind", "modality", "sop_class", "frame_of_reference", "number"),
    "attributes",
)


def statements(entry: Entry) -> Iterator[Statement]:
    """Statements about persons in the files of an entry."""
    for stated in entry.get("people", ()):
        yield Statement(**{**stated, "others": tuple(stated["others"])})


def merge(entries: Sequence[Entry], key: Key, verdict: Verdict | None = None) -> list[Session]:
    """Sessions of a group of entries that shares no study with other entries.

    ``verdict`` is that of the whole source; without it, ``entries`` must be the whole source. The
    result is sorted and depends on both only. The ``fingerprint`` of a session covers size and time
    of every file and the reasons, so that a changed file or verdict runs the session again.
    """
    verdict = verdict or _verdict(entries)
    files, series = _settle(entries, verdict)
    by_series: dict[str, list[dict[str, Any]]] = {}
    for f in files:
        if f["series"]:
            by_series.setdefault(f["series"], []).append(f)
    source = entries[0]["source"] if entries else "dicom"
    shared = bids.sidecars(files) if source == "bids" else []
    sessions: dict[str, Session] = {}
    for where, described in sorted(series.items()):
        session = sessions.setdefault(
            described["session"],
            {
                "session": described["session"],
                "subject": described["subject"],
                "patient": described["patient"],
                "study": described["study"],
                "key": key.fingerprint,
                "source": source,
                "series": [],
            },
        )
        members = by_series.get(where, [])
        if source == "bids":
            # sidecars are found by inheritance; an image that cannot be converted has none
            members = [m for m in members if m["instance"] or m["reason"]]
            members += [s for m in members if m["instance"] for s in bids.inherited(m, shared)]
        session["series"].append(_series(described, members, described["doubts"]))
    for session in sessions.values():
        session["series"].sort(key=_order)
        if source == "dicom":
            withhold_split(session["series"])
        stats = [s.pop("stats") for s in session["series"]]
        text = json.dumps([session, stats], sort_keys=True)
        session["fingerprint"] = hashlib.sha256(text.encode()).hexdigest()[:16]
    return [sessions[name] for name in sorted(sessions)]


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
        shared = {s["study"] for s in entry["series"].values()}
        if entry["source"] == "bids":
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
    files, series = _settle(entries, verdict or _verdict(entries))
    known = released or {}
    rows = []
    for f in files:
        described = series.get(f["series"])
        session = described["session"] if described else ""
        label = described["series"] if described else ""
        if f["reason"]:
            disposition, reason = "withheld", f["reason"]
        else:
            nothing = ("withheld", f"{STAGE_FAILED}: no result")
            disposition, reason = known.get((session, label), nothing)
        rows.append(
            {
                "path": _printable(f["path"]),
                "bytes": str(f["bytes"]),
                "entry": f["entry"],
                "session": session,
                "series": label,
                "disposition": disposition,
                "reason": reason,
            }
        )
    return rows


def _verdict(entries: Iterable[Entry]) -> Verdict:
    return cross_check(stated for entry in entries for stated in statements(entry))


def _settle(
    entries: Sequence[Entry], verdict: Verdict
) -> tuple[list[dict[str, Any]], dict[str, dict[str, Any]]]:
    """All files in path order with final reasons, and all series; ``entries`` is not modified.

    Series and files are assigned to the session that ``verdict`` gives.
    """
    files = sorted(
        ({**f, "entry": entry["entry"]} for entry in entries for f in entry["files"]),
        key=lambda f: os.fsencode(f["path"]),
    )
    series: dict[str, dict[str, Any]] = {}
    places: dict[str, str] = {}
    for entry in entries:
        for stated, one in entry["series"].items():
            own = one["session"]
            described = {**one, "doubts": verdict.doubts.get(own, ())}
            owner = verdict.owners.get(own)
            if owner:
                described |= {
                    "session": verdict.place(own),
                    "subject": owner.subject,
                    "patient": [owner.patient, owner.issuer],
                }
            where = places[stated] = f"{described['session']} {described['series']}"
            other = series.get(where, described)
            chosen = described if described["rank"] < other["rank"] else other
            series[where] = _with_worse_text(chosen, described if chosen is other else other)
    for f in files:
        f["series"] = places.get(f["series"], "")
    first: dict[tuple[str, str], dict[str, Any]] = {}
    for f in files:
        if f["reason"] or not f["instance"]:
            continue
        twin = first.setdefault((f["series"], f["instance"]), f)
        if twin is not f:
            f["reason"] = DUPLICATE if _same(twin, f) else f"{DUPLICATE}: the content differs"
    if entries and entries[0]["source"] == "bids":
        _adopt(files)
    return files, series


def _with_worse_text(series: dict[str, Any], other: dict[str, Any]) -> dict[str, Any]:
    """The series with the worse result of the text search: each entry has a part of the series."""
    worse = max(series, other, key=lambda s: (bool(s.get("doubt")), s.get("text") != CLEAR))
    return {**series, **{k: worse[k] for k in ("text", "doubt") if k in worse}}


def _same(a: dict[str, Any], b: dict[str, Any]) -> bool:
    if a["bytes"] != b["bytes"]:
        return False
    mine, other = (f.get("sha256") or digest(f["path"]) for f in (a, b))
    return bool(mine) and mine == other


def _adopt(files: list[dict[str, Any]]) -> None:
    """Assign each sidecar to the series that it describes; one for several series gets a reason."""
    shared = bids.sidecars(files)
    serves: dict[str, list[str]] = {}
    for f in files:
        if f["instance"]:
            for sidecar in bids.inherited(f, shared):
                serves.setdefault(sidecar["path"], []).append(f["series"])
    for f in files:
        used = serves.get(f["path"], [])
        if len(used) == 1:
            f["series"], f["reason"] = used[0], ""
        elif used:
            f["reason"] = bids.SHARED


def _series(
    described: dict[str, Any], members: list[dict[str, Any]], doubts: Iterable[str]
) -> dict[str, Any]:
    """Series record for the next stages; ``doubts`` are reasons for review."""
    out = {field: described[field] for field in _SERIES_FIELDS}
    out["text"] = described.get("text", "not looked: no DICOM image")
    if "bids" in described:
        out["bids"] = described["bids"]
        whole = members
        out["status"], out["reasons"] = "pass", []
    else:
        whole = [m for m in members if not m["reason"]]
        whole.sort(key=lambda m: (_rank(m["number"]), m["path"]))
        out["status"], out["reasons"] = _judge(whole, members)
    if out["status"] != "fail":
        for reason in (*doubts, *filter(None, [described.get("doubt")])):
            out["status"] = worst(out["status"], "review")
            out["reasons"].append(reason)
    out["files"] = [m["path"] for m in whole or members]
    out["stats"] = [[m["path"], m["bytes"], m["mtime_ns"]] for m in members]
    return out


def _judge(whole: list[dict[str, Any]], members: list[dict[str, Any]]) -> tuple[Status, list[str]]:
    if not whole:
        return "fail", sorted({m["reason"] for m in members})
    status: Status = "pass"
    reasons = []
    there = {m["instance"] for m in whole}
    # a truncated copy of an image that is also complete is harmless
    cut = [m for m in members if m["reason"] and m["instance"] not in there]
    if cut:
        status = worst(status, "review")
        reasons.append(f"{TRUNCATED}: {len(cut)} of {len(whole) + len(cut)} images")
    other = [m for m in members if m["reason"] == f"{DUPLICATE}: the content differs"]
    if other:
        status = worst(status, "review")
        reasons.append(f"{DUPLICATE}: {len(other)} images occur again with different content")
    return status, reasons


def _order(series: dict[str, Any]) -> tuple[int, str]:
    return _rank(series["number"]), series["series"]


def _rank(number: object) -> int:
    return number if isinstance(number, int) else 1 << 31


def _printable(path: str) -> str:
    text = os.fsencode(path).decode(errors="backslashreplace")
    return "".join(c if c.isprintable() else f"\\x{ord(c):02x}" for c in text)
