"""The report without identifiers: search a cohort's files, and leave out what contains one."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import replace
from typing import Any

from efface.audit import leaks
from efface.audit.identifiers import Identifier
from efface.audit.leaks import Finding
from efface.audit.matcher import Matcher
from efface.audit.report import MEASURES, About, LeftOut, Row
from efface.audit.words import own_words
from efface.manifest import Manifest, Scan
from efface.measures import with_figures
from efface.status import IDENTIFIER_FOUND, phrase_of


def matcher(sought: Iterable[Identifier]) -> Matcher:
    """Matcher of the identifiers of all sessions, for a cohort's files.

    Words that efface itself writes (phrases, codes, templates, column names) are left out, because
    people are called "White" or "Page". They are still searched together with the other parts of a
    name.
    """
    own = own_words()
    return Matcher(one for one in sought if one.text.casefold() not in own)


def search(files: Mapping[str, bytes], sought: Iterable[Identifier] | Matcher) -> list[Finding]:
    """Identifiers in a cohort's files; ``files`` are contents by path."""
    sought = sought if isinstance(sought, Matcher) else matcher(sought)
    findings = []
    for name, content in sorted(files.items()):
        findings += leaks.scan(name.removeprefix("release/"), content, sought)
        # no UID may be in these files but those that efface makes
        for uid in re.findall(rb"(?<![\d.])[0-2](?:\.\d+){5,}(?![\d.])", content):
            if not uid.startswith(b"2.25."):
                findings.append(Finding(name, "structure: a UID", "the file"))
    return findings


def without_names(manifest: Manifest, sought: Matcher) -> tuple[Manifest, list[LeftOut]]:
    """Fail every scan whose own name contains an identifier of the cohort.

    Such a scan is named by its series' pseudonym, and its files are not released.
    """
    scans: list[Scan] = []
    left_out: list[LeftOut] = []
    for scan in manifest.scans:
        kinds = _kinds(sought, f"{scan.scan} {scan.modality}", *scan.files.values())
        left_out += [LeftOut(manifest.session, scan.series, "name", kind) for kind in kinds]
        reasons = tuple(f"{IDENTIFIER_FOUND}: {kind} in the name of the scan" for kind in kinds)
        nameless = Scan(scan.series, scan.series, status="fail", reasons=reasons)
        scans.append(nameless if kinds else scan)
    return replace(manifest, scans=tuple(scans)), left_out


def without_texts(row: Row, sought: Matcher) -> tuple[Row, list[LeftOut]]:
    """Leave out the reasons, the note and the measures that contain an identifier of the cohort."""
    scan, note = row.scan, row.note
    left_out: list[LeftOut] = []

    def leave_out(field: str, kinds: Iterable[str]) -> str:
        left_out.extend(LeftOut(row.session, scan.scan, field, kind) for kind in kinds)
        return f"left out: {', '.join(kinds)}"

    reasons = []
    for reason in scan.reasons:
        kinds = _kinds(sought, reason)
        phrase = phrase_of(reason)
        start = IDENTIFIER_FOUND if _kinds(sought, phrase) else phrase
        reasons.append(f"{start}: {leave_out('reasons', kinds)}" if kinds else reason)
    kinds = _kinds(sought, note)
    if kinds:
        verb = note.split(maxsplit=1)[0]
        verb = verb if verb in ("accepted", "rejected") else "note"
        note = f"{verb} ({leave_out('note', kinds)})"
    measures = {}
    for name, value in scan.measures.items():
        kinds = _kinds(sought, f"{value}") if name in MEASURES else ()
        if kinds:
            leave_out(name, kinds)
        else:
            measures[name] = value
    scan = replace(scan, reasons=tuple(reasons), measures=with_figures({}, measures))
    return replace(row, scan=scan, note=note), left_out


def without_settings(about: About, sought: Matcher) -> tuple[About, list[LeftOut]]:
    """Leave out settings and counts of files that contain an identifier of the cohort."""
    left_out: list[LeftOut] = []
    parts: dict[str, dict[str, Any]] = {"settings": {}, "files": {}}
    for part, entries in (("settings", about.settings), ("files", about.files)):
        for name, value in entries.items():
            kinds = _kinds(sought, f"{name} {value}")
            left_out += [LeftOut("", "", part, kind) for kind in kinds]
            if not kinds:
                parts[part][name] = value
    return replace(about, settings=parts["settings"], files=parts["files"]), left_out


def _kinds(sought: Matcher, *texts: str) -> tuple[str, ...]:
    """Kinds of the identifiers in texts, each once."""
    joined = "\0".join(texts).encode("utf-8", "surrogateescape")
    return tuple(dict.fromkeys(kind for _, kind in sought.search(joined)))
