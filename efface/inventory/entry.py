"""One top-level entry of the source, file by file."""

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
from efface.inventory.walk import Found, entry_label, walk
from efface.pseudonym import Key, series_label

Entry = dict[str, Any]
"""``entry`` label, ``source`` kind, ``series`` by id, ``files`` and ``people``; JSON-able."""


def run_entry(source: Path, entry: str, key: Key, text: ocr.Mode = "auto") -> Entry:
    """Account for every file below ``source / entry``.

    Returns the entry's label, its series (attributes of the first image of each) and its files in
    a fixed order: ``path`` (absolute), ``bytes``, ``mtime_ns``, ``reason`` (empty: a whole MR
    image), ``series`` (id in ``series``, or empty), ``instance``, ``number``. Files that share an
    instance UID carry ``sha256``. ``people`` holds each distinct
    :class:`~efface.inventory.identity.Statement` once. ``text`` says at which series
    :mod:`efface.inventory.ocr` looks. Holds identifiers: for the restricted zone only.
    """
    base: Entry = {"entry": entry_label(key, entry), "series": {}, "files": [], "people": []}
    if bids.is_bids(source):
        seen = list(walk(source, entry))
        if not seen and entry.startswith("sub-"):
            seen = [Found(str(source.absolute() / entry), reason=bids.NO_CONTENT)]
        inside = bids.read_entry(source, seen, key)
        stated = _of_folders(inside["series"].values()) | bids.participants(source, entry, key)
        return {**base, "source": "bids", **inside, "people": _listed(stated)}
    series: dict[str, dict[str, Any]] = {}
    files = []
    people: set[Statement] = set()
    for found in walk(source, entry):
        head = read(found)
        where = ""
        if head.study and head.series:
            one = identity.state(key, head.study, head.patient, head.issuer, **head.person)
            people.add(one)
            where = _series(series, head, found, key, one.session)
        elif bids.is_image(found.path) or head.reason == packed.NIFTI:
            relative = os.path.relpath(found.path, source.absolute())
            if bids.is_image(found.path):
                head = Header(found.reason or bids.outside(relative))
            described = bids.withheld(relative, key)
            where = f"{described['session']} {described['series']}"
            series[where] = {"rank": [0, found.path], **described}
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
    return {
        **base,
        "source": "dicom",
        "series": series,
        "files": files,
        "people": _listed(people),
    }


def _of_folders(series: Iterable[dict[str, Any]]) -> set[Statement]:
    """What a BIDS source states by its folders: the label of the subject."""
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
    series: dict[str, dict[str, Any]], head: Header, found: Found, key: Key, session: str
) -> str:
    """Note the file's series, with the attributes of its first image; return the id.

    ``session`` is the one that the file states by itself; merging settles whose it is.
    """
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
    """Withhold the images of each series whose picture shows text, and note what was searched.

    A series in doubt keeps its images and the reason to review it, ``doubt``.
    """
    members: dict[str, list[dict[str, Any]]] = {}
    for f in files:
        if f["series"] and not f["reason"]:
            # the whole series, whatever its files state of the person
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
    """Digest the files that share an instance UID, so that merging need not open them again."""
    groups: dict[str, list[dict[str, Any]]] = {}
    for f in files:
        if f["instance"] and not f["reason"]:
            groups.setdefault(f"{f['series']} {f['instance']}", []).append(f)
    for twins in groups.values():
        if len(twins) > 1:
            for f in twins:
                f["sha256"] = digest(f["path"])
