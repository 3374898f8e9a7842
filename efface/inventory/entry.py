"""One top-level entry of the source, file by file."""

from __future__ import annotations

from hashlib import file_digest
from pathlib import Path
from typing import Any

from efface.inventory import bids, ocr
from efface.inventory.header import Header, read
from efface.inventory.walk import Found, entry_label, walk
from efface.pseudonym import Key, series_label, session_label, subject_label

Entry = dict[str, Any]
"""``entry`` label, ``source`` kind, ``series`` by id, and ``files``; JSON-able."""


def run_entry(source: Path, entry: str, key: Key, text: ocr.Mode = "auto") -> Entry:
    """Account for every file below ``source / entry``.

    Returns the entry's label, its series (attributes of the first image of each) and its files in
    a fixed order: ``path`` (absolute), ``bytes``, ``mtime_ns``, ``reason`` (empty: a whole MR
    image), ``series`` (id in ``series``, or empty), ``instance``, ``number``. Files that share an
    instance UID carry ``sha256``. ``text`` says at which series :mod:`efface.inventory.ocr` looks.
    Holds identifiers: for the restricted zone only.
    """
    base: Entry = {"entry": entry_label(key, entry), "series": {}, "files": []}
    if bids.is_bids(source):
        return {**base, "source": "bids", **bids.read_entry(source, walk(source, entry), key)}
    series: dict[str, dict[str, Any]] = {}
    files = []
    for found in walk(source, entry):
        head = read(found)
        where = _series(series, head, found, key) if head.study and head.series else ""
        files.append(
            {
                "path": found.path,
                "bytes": found.bytes,
                "mtime_ns": found.mtime_ns,
                "reason": head.reason,
                "series": where,
                "instance": head.instance if where else "",
                "number": head.number,
            }
        )
    _look_for_text(series, files, text)
    _digest_twins(files)
    return {**base, "source": "dicom", "series": series, "files": files}


def digest(path: str) -> str:
    """SHA-256 of a file, or empty if it cannot be read."""
    try:
        with Path(path).open("rb") as f:
            return file_digest(f, "sha256").hexdigest()
    except OSError:
        return ""


def _series(series: dict[str, dict[str, Any]], head: Header, found: Found, key: Key) -> str:
    """Note the file's series, with the attributes of its first image; return the id."""
    subject = subject_label(key, head.patient, head.issuer, head.study)
    session = f"{subject}_{session_label(key, head.study)}"
    # what is no image gets a series of its own, also when it shares the UID with images
    uid = head.series if head.image else f"{head.series} {head.sop_class} {head.reason}"
    label = series_label(key, uid)
    where = f"{session} {label}"
    rank = [head.number if head.number is not None else 1 << 31, found.path]
    if where not in series or rank < series[where]["rank"]:
        frame = head.frame_of_reference
        series[where] = {
            "rank": rank,
            "session": session,
            "subject": subject,
            "patient": [head.patient, head.issuer],
            "study": head.study,
            "series": label,
            "uid": head.series,
            "kind": "image" if head.image else "object",
            "modality": head.modality,
            "sop_class": head.sop_class,
            "frame_of_reference": key.uid(frame) if frame else "",
            "number": head.attributes.get("SeriesNumber"),
            "attributes": head.attributes,
        }
    return where


def _look_for_text(
    series: dict[str, dict[str, Any]], files: list[dict[str, Any]], mode: ocr.Mode
) -> None:
    """Withhold the images of each series whose picture shows text, and note what was searched.

    A series in doubt keeps its images and the reason to review it, ``doubt``.
    """
    members: dict[str, list[dict[str, Any]]] = {}
    for f in files:
        if f["series"] and not f["reason"]:
            members.setdefault(f["series"], []).append(f)
    for where, whole in members.items():
        whole.sort(key=lambda f: (f["number"] is None, f["number"] or 0, f["path"]))
        paths = [f["path"] for f in whole]
        reason, series[where]["text"] = ocr.look(paths, series[where]["attributes"], mode)
        series[where]["doubt"] = reason
        if reason == ocr.REASON:
            for f in whole:
                f["reason"] = reason


def _digest_twins(files: list[dict[str, Any]]) -> None:
    """Digest the files that share an instance UID, so that merging need not open them again."""
    groups: dict[str, list[dict[str, Any]]] = {}
    for f in files:
        if f["instance"] and not f["reason"]:
            groups.setdefault(f"{f['series']} {f['instance']}", []).append(f)
    for twins in groups.values():
        if len(twins) > 1:
            for f in twins:
                f["sha256"] = digest(f["path"])
