"""Inventory of one top-level entry of the source, file by file."""

from __future__ import annotations

import os
from collections.abc import Iterable
from dataclasses import asdict
from hashlib import file_digest
from pathlib import Path
from typing import Any

from efface.inventory import bids, identity, ocr, packed
from efface.inventory.header import Header, read
from efface.inventory.identity import Statement
from efface.inventory.walk import SourceFile, entry_label, walk
from efface.pseudonym import Key, series_label

Entry = dict[str, Any]
"""``entry`` label, ``source`` kind, ``series`` by id, ``files`` and ``people``; JSON-able."""


def run_entry(source: Path, entry: str, key: Key, text: ocr.Mode = "auto") -> Entry:
    """List every file below ``source / entry``.

    Returns the label of the entry, its series (with the attributes of their first image) and its
    files in a fixed order: ``path`` (absolute), ``bytes``, ``mtime_ns``, ``reason`` (empty for a
    complete MR image), ``series`` (key in ``series``, or empty), ``instance``, ``number``. Files
    with the same instance UID have ``sha256``. ``people`` holds each distinct
    :class:`~efface.inventory.identity.Statement` once. ``text`` is the mode of
    :func:`efface.inventory.ocr.look`. The result holds identifiers: restricted zone only.
    """
    base: Entry = {"entry": entry_label(key, entry), "series": {}, "files": [], "people": []}
    if bids.is_bids(source):
        source_files = list(walk(source, entry))
        if not source_files and entry.startswith("sub-"):
            source_files = [SourceFile(str(source.absolute() / entry), reason=bids.NO_CONTENT)]
        inside = bids.read_entry(source, source_files, key)
        stated = _of_folders(inside["series"].values()) | bids.participants(source, entry, key)
        return {**base, "source": "bids", **inside, "people": _listed(stated)}
    series: dict[str, dict[str, Any]] = {}
    files = []
    people: set[Statement] = set()
    for file in walk(source, entry):
        head = read(file)
        where = ""
        if head.study and head.series:
            one = identity.state(key, head.study, head.patient, head.issuer, **head.person)
            people.add(one)
            where = _series(series, head, file, key, one.session)
        elif bids.is_image(file.path) or head.reason == packed.NIFTI:
            relative = os.path.relpath(file.path, source.absolute())
            if bids.is_image(file.path):
                head = Header(file.reason or bids.outside(relative))
            described = bids.withheld(relative, key)
            where = f"{described['session']} {described['series']}"
            series[where] = {"rank": [0, file.path], **described}
        files.append(
            {
                "path": file.path,
                "bytes": file.bytes,
                "mtime_ns": file.mtime_ns,
                "reason": head.reason,
                "series": where,
                "instance": head.instance if where else "",
                "number": head.number,
            }
        )
    _look_for_text(series, files, text)
    _digest_twins(files)
    return {
        **base,
        "source": "dicom",
        "series": series,
        "files": files,
        "people": _listed(people),
    }


def _of_folders(series: Iterable[dict[str, Any]]) -> set[Statement]:
    """Statements in the folder names of a BIDS source: the labels of the subjects."""
    return {
        Statement(s["session"], s["study"], *s["patient"][:2]) for s in series if s["patient"][0]
    }


def _listed(people: Iterable[Statement]) -> list[dict[str, Any]]:
    return [asdict(stated) for stated in sorted(people)]


def digest(path: str) -> str:
    """SHA-256 of a file, or empty if it cannot be read."""
    try:
        with Path(path).open("rb") as f:
            return file_digest(f, "sha256").hexdigest()
    except OSError:
        return ""


def _series(
    series: dict[str, dict[str, Any]], head: Header, file: SourceFile, key: Key, session: str
) -> str:
    """Add the series of a file, with the attributes of its first image; return its key.

    ``session`` comes from this file alone; :func:`efface.inventory.merge` decides the final one.
    """
    # other objects get their own series, even if they share the UID with images
    uid = head.series if head.image else f"{head.series} {head.sop_class} {head.reason}"
    label = series_label(key, uid)
    where = f"{session} {label}"
    rank = [head.number if head.number is not None else 1 << 31, file.path]
    if where not in series or rank < series[where]["rank"]:
        frame = head.frame_of_reference
        series[where] = {
            "rank": rank,
            "session": session,
            "subject": session.partition("_")[0],
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
    """Withhold the images of each series with burned-in text, and record the search.

    An uncertain series keeps its images and gets a reason for review, ``doubt``.
    """
    members: dict[str, list[dict[str, Any]]] = {}
    for f in files:
        if f["series"] and not f["reason"]:
            # the whole series, even if its files state different people
            members.setdefault(f["series"].partition("_")[2], []).append(f)
    for whole in members.values():
        whole.sort(key=lambda f: (f["number"] is None, f["number"] or 0, f["path"]))
        paths = [f["path"] for f in whole]
        reason, about = ocr.look(paths, series[whole[0]["series"]]["attributes"], mode)
        for f in whole:
            series[f["series"]] |= {"text": about, "doubt": reason}
            if reason == ocr.REASON:
                f["reason"] = reason


def _digest_twins(files: list[dict[str, Any]]) -> None:
    """Add digests of files with the same instance UID, so that merging need not read them."""
    groups: dict[str, list[dict[str, Any]]] = {}
    for f in files:
        if f["instance"] and not f["reason"]:
            groups.setdefault(f"{f['series']} {f['instance']}", []).append(f)
    for twins in groups.values():
        if len(twins) > 1:
            for f in twins:
                f["sha256"] = digest(f["path"])
