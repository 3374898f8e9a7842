"""The audit of a cohort: a page that a person reads, a table and a JSON file that say the same.

All three are made of pseudonyms, statuses, reasons and numbers. Pictures are shown of scans that
are released, and of no others: what waits for review, or failed, may still show a face. The same
input gives the same bytes; there is no time in them.
"""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from efface import __version__
from efface.audit import leaks
from efface.audit.identifiers import Identifier
from efface.audit.leaks import Finding
from efface.audit.matcher import Matcher
from efface.audit.words import own_words
from efface.manifest import Manifest, Scan
from efface.status import LEAK

MEASURES = [
    "series",
    "form",
    "released",
    "note",
    "datatype",
    "method",
    "region_ml",
    "brain_ml",
    "brain_cut",
    "brain_voxels_changed",
    "voxels_changed_outside_region",
    "organ_voxels_changed",
    "resemblance",
    "pose_misfit",
    "left_eye",
    "right_eye",
    "nose",
    "left_ear",
    "right_ear",
    "mouth",
    "coverage_eyes",
    "coverage_nose",
    "coverage_ears",
    "coverage_mouth",
    "found_again_eyes",
    "found_again_nose",
    "found_again_ears",
    "found_again_mouth",
    "confidence_brain",
    "confidence_eyes",
    "confidence_nose",
    "confidence_ears",
    "confidence_mouth",
    "searched_bytes",
    "text_in_picture",
]
"""Columns of scans.tsv after session, scan, modality, status and reasons."""

_PACKAGES = ("numpy", "scipy", "nibabel", "pydicom", "openvino", "dcm2niix", "snakemake")
_PHRASE = re.compile(r":\s")


@dataclass(frozen=True)
class Row:
    """A scan of a session and what became of it."""

    session: str
    scan: Scan
    released: bool
    note: str = ""


@dataclass(frozen=True)
class About:
    """What an audit says of how it was made."""

    key: str
    """Fingerprint of the project key."""
    settings: Mapping[str, Any]
    code: str = ""
    """Hash of efface's sources."""
    model: str = ""
    """Digest of the face model."""
    files: Mapping[str, int] = field(default_factory=dict)
    """Files of the source by what became of them."""
    identity: Mapping[str, int] = field(default_factory=dict)
    """Counts of the cross-check of who is one person (:mod:`efface.inventory.identity`)."""


@dataclass(frozen=True, order=True)
class LeftOut:
    """Something that the report would have told of a person, and does not."""

    session: str
    scan: str
    field: str
    """Where it stood: ``name``, ``reasons``, ``note``, a measure, a setting."""
    kind: str
    """Of the identifier."""


def report(rows: Sequence[Row], about: About, left_out: Iterable[LeftOut] = ()) -> dict[str, bytes]:
    """index.html, scans.tsv and audit.json, by name."""
    content = data(rows, about, left_out)
    return {
        "index.html": page(content).encode(),
        "scans.tsv": scans_table(content["scans"]).encode(),
        "audit.json": (json.dumps(content, indent=1, sort_keys=True) + "\n").encode(),
    }


def data(rows: Sequence[Row], about: About, left_out: Iterable[LeftOut] = ()) -> dict[str, Any]:
    """What the audit says, as plain values."""
    forms = {"nifti": 0, "dicom": 1}
    ordered = sorted(
        rows,
        key=lambda r: (r.session, forms.get(r.scan.measures.get("form", ""), 2), r.scan.scan),
    )
    scans = [_entry(r) for r in ordered]
    reasons = Counter(
        phrase
        for r in ordered
        if not r.released
        # a scan that gives a reason twice counts once
        for phrase in {
            _PHRASE.split(reason, maxsplit=1)[0] for reason in (*r.scan.reasons, r.note) if reason
        }
    )
    statuses = Counter(r.scan.status for r in ordered)
    return {
        "efface": __version__,
        "code": about.code,
        "model": about.model,
        "key": about.key,
        "packages": {name: _version(name) for name in _PACKAGES},
        "settings": dict(about.settings),
        "files": dict(sorted(about.files.items())),
        "identity": dict(about.identity),
        "summary": {
            "sessions": len({r.session for r in ordered}),
            "scans": len(ordered),
            "released": sum(r.released for r in ordered),
            "accepted": sum(r.released and r.scan.status == "review" for r in ordered),
            "waiting": sum(not r.released and r.scan.status == "review" for r in ordered),
            "withheld": sum(not r.released and r.scan.status != "review" for r in ordered),
            "pass": statuses["pass"],
            "review": statuses["review"],
            "fail": statuses["fail"],
        },
        "left_out": [asdict(item) for item in sorted(set(left_out))],
        "reasons": dict(sorted(reasons.items(), key=lambda p: (-p[1], p[0]))),
        "scans": scans,
    }


def _entry(row: Row) -> dict[str, Any]:
    scan = row.scan
    out = {
        "session": row.session,
        "scan": scan.scan,
        "modality": scan.modality,
        "status": scan.status,
        "reasons": list(scan.reasons),
        "series": scan.series,
        "form": scan.measures.get("form", "source"),
        "released": "yes" if row.released else "no",
        "note": row.note,
        "pictures": sorted(pictures([row])),
    }
    measured = {k: scan.measures[k] for k in MEASURES if k in scan.measures}
    return {**measured, **out}


def pictures(rows: Iterable[Row]) -> dict[str, tuple[str, str]]:
    """Pictures of released scans: path below ``audit/``, to session and path below its folder."""
    out = {}
    for row in rows:
        if not row.released:
            continue
        for name in row.scan.files.values():
            if name.startswith("pictures/"):
                inner = name.removeprefix("pictures/")
                out[f"pictures/{row.session}/{inner}"] = (row.session, name)
    return out


def scans_table(scans: Iterable[Mapping[str, Any]]) -> str:
    """Tab-separated: session, scan, modality, status, reasons, then :data:`MEASURES`."""
    columns = ("session", "scan", "modality", "status", "reasons", *MEASURES)
    lines = ["\t".join(columns)]
    lines += ["\t".join(_cell(s.get(c)) for c in columns) for s in scans]
    return "\n".join(lines) + "\n"


def _cell(value: object) -> str:
    if value is None or value == "":
        return "n/a"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, list):
        value = "; ".join(str(v) for v in value)
    return " ".join(str(value).split())


def page(content: Mapping[str, Any]) -> str:
    """The page: one file, no network, pictures beside it."""
    import jinja2

    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(Path(__file__).parent / "templates"),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    sessions: dict[str, list[Mapping[str, Any]]] = {}
    for scan in content["scans"]:
        sessions.setdefault(scan["session"], []).append(scan)
    shown = [m for m in MEASURES if m not in ("series", "form", "released", "note", "datatype")]
    return environment.get_template("index.html").render(
        **content, sessions=sessions, measures=shown
    )


def matcher(sought: Iterable[Identifier]) -> Matcher:
    """The identifiers of all sessions, for a cohort's files.

    Words that efface itself writes (in its phrases, templates and column names) are no identifiers
    here: somebody is called "White" or "Page". They are still searched together with the other
    parts of a name.
    """
    own = own_words()
    return Matcher(n for n in sought if n.text.casefold() not in own)


def search(files: Mapping[str, bytes], sought: Iterable[Identifier] | Matcher) -> list[Finding]:
    """Findings in a cohort's files, with the identifiers of all sessions."""
    sought = sought if isinstance(sought, Matcher) else matcher(sought)
    found = []
    for name, content in sorted(files.items()):
        found += leaks.scan(name.removeprefix("release/"), content, sought)
        # UIDs have no place in these files at all, but for new ones
        for uid in re.findall(rb"(?<![\d.])[0-2](?:\.\d+){5,}(?![\d.])", content):
            if not uid.startswith(b"2.25."):
                found.append(Finding(name, "structure: a UID", "the file"))
    return found


def named(manifest: Manifest, sought: Matcher) -> tuple[Manifest, list[LeftOut]]:
    """The manifest with every scan failed whose own name tells an identifier of the cohort.

    Such a scan goes by its series' pseudonym from then on, and its files stay in.
    """
    scans: list[Scan] = []
    left_out: list[LeftOut] = []
    for scan in manifest.scans:
        kinds = _kinds(sought, f"{scan.scan} {scan.modality}", *scan.files.values())
        if kinds:
            left_out += [LeftOut(manifest.session, scan.series, "name", kind) for kind in kinds]
            plain = replace(scan, scan=scan.series, modality="", reasons=(), files={}, measures={})
            for kind in kinds:
                plain = plain.mark("fail", f"{LEAK}: {kind} in the name of the scan")
            scans.append(plain)
        else:
            scans.append(scan)
    return replace(manifest, scans=tuple(scans)), left_out


def without(row: Row, sought: Matcher) -> tuple[Row, list[LeftOut]]:
    """The row without the reasons, notes and measures that tell an identifier of the cohort."""
    scan, note = row.scan, row.note
    left_out: list[LeftOut] = []

    def out(field: str, kinds: Iterable[str]) -> str:
        left_out.extend(LeftOut(row.session, scan.scan, field, kind) for kind in kinds)
        return f"left out: {', '.join(kinds)}"

    reasons = []
    for reason in scan.reasons:
        kinds = _kinds(sought, reason)
        phrase = _PHRASE.split(reason, maxsplit=1)[0]
        start = LEAK if _kinds(sought, phrase) else phrase
        reasons.append(f"{start}: {out('reasons', kinds)}" if kinds else reason)
    kinds = _kinds(sought, note)
    if kinds:
        verb = note.split(maxsplit=1)[0]
        verb = verb if verb in ("accepted", "rejected") else "note"
        note = f"{verb} ({out('note', kinds)})"
    measures = {}
    for name, value in scan.measures.items():
        kinds = _kinds(sought, f"{value}") if name in MEASURES else ()
        if kinds:
            out(name, kinds)
        else:
            measures[name] = value
    return replace(
        row, scan=replace(scan, reasons=tuple(reasons), measures=measures), note=note
    ), left_out


def plain(about: About, sought: Matcher) -> tuple[About, list[LeftOut]]:
    """What is said of the run without entries that tell an identifier of the cohort."""
    left_out: list[LeftOut] = []
    parts: dict[str, dict[str, Any]] = {"settings": {}, "files": {}}
    for field_, entries in (("settings", about.settings), ("files", about.files)):
        for name, value in entries.items():
            kinds = _kinds(sought, f"{name} {value}")
            left_out += [LeftOut("", "", field_, kind) for kind in kinds]
            if not kinds:
                parts[field_][name] = value
    return replace(about, settings=parts["settings"], files=parts["files"]), left_out


def _kinds(sought: Matcher, *texts: str) -> tuple[str, ...]:
    joined = "\0".join(texts).encode("utf-8", "surrogateescape")
    return tuple(dict.fromkeys(kind for _, kind in sought.search(joined)))


def _version(name: str) -> str:
    try:
        return version(name)
    except PackageNotFoundError:
        return "not installed"
