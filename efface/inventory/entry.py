"""Inventory of one top-level entry of the source, file by file."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Iterable
from dataclasses import replace
from hashlib import file_digest
from pathlib import Path

from efface.inventory import bids, identity, ocr, packed
from efface.inventory.header import Header, read
from efface.inventory.identity import Statement
from efface.inventory.records import Entry, EntrySeries, ListedFile
from efface.inventory.walk import SourceFile, entry_label, walk
from efface.pseudonym import Key, series_label


def run_entry(source: Path, entry: str, key: Key, text: ocr.Mode = "auto") -> Entry:
    """List every file below ``source / entry``.

    ``text`` is the mode of :func:`efface.inventory.ocr.look`. The result holds identifiers:
    restricted zone only.
    """
    is_bids = bids.is_bids(source)
    if is_bids:
        source_files = list(walk(source, entry))
        if not source_files and entry.startswith("sub-"):
            source_files = [SourceFile(str(source.absolute() / entry), reason=bids.NO_CONTENT)]
        series, files = bids.list_files(source, source_files, key)
        people = _of_folders(series.values()) | bids.participants(source, entry, key)
    else:
        series, files, people = _list_files(source, entry, key, text)
    return Entry(
        entry=entry_label(key, entry),
        source="bids" if is_bids else "dicom",
        series=series,
        files=tuple(files),
        people=tuple(sorted(people)),
    )


def _list_files(
    source: Path, entry: str, key: Key, text: ocr.Mode
) -> tuple[dict[str, EntrySeries], list[ListedFile], set[Statement]]:
    """Series, files and statements of an entry of a DICOM source."""
    series: dict[str, EntrySeries] = {}
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
            described = bids.withheld(file.path, relative, key)
            where = described.where
            series[where] = described
        files.append(
            ListedFile(
                path=file.path,
                bytes=file.bytes,
                mtime_ns=file.mtime_ns,
                reason=head.reason,
                series=where,
                instance=head.instance if where else "",
                number=head.number,
            )
        )
    series, files = _with_text(series, files, text)
    return series, _with_digests(files), people


def _of_folders(series: Iterable[EntrySeries]) -> set[Statement]:
    """Statements in the folder names of a BIDS source: the labels of the subjects."""
    return {Statement(s.session, s.study, *s.patient) for s in series if s.patient[0]}


def digest(path: str) -> str:
    """SHA-256 of a file, or empty if it cannot be read."""
    try:
        with Path(path).open("rb") as f:
            return file_digest(f, "sha256").hexdigest()
    except OSError:
        return ""


def _series(
    series: dict[str, EntrySeries], head: Header, file: SourceFile, key: Key, session: str
) -> str:
    """Add the series of a file, with the attributes of its first image; return its key.

    ``session`` comes from this file alone; :func:`efface.inventory.merge` decides the final one.
    """
    # other objects get their own series, even if they share the UID with images
    uid = head.series if head.image else f"{head.series} {head.sop_class} {head.reason}"
    label = series_label(key, uid)
    where = f"{session} {label}"
    rank = (head.number if head.number is not None else 1 << 31, file.path)
    if where not in series or rank < series[where].rank:
        frame = head.frame_of_reference
        series[where] = EntrySeries(
            rank=rank,
            session=session,
            subject=session.partition("_")[0],
            patient=(head.patient, head.issuer),
            study=head.study,
            series=label,
            uid=head.series,
            kind="image" if head.image else "object",
            modality=head.modality,
            sop_class=head.sop_class,
            frame_of_reference=key.uid(frame) if frame else "",
            number=head.attributes.get("SeriesNumber"),
            attributes=head.attributes,
        )
    return where


def _with_text(
    series: dict[str, EntrySeries], files: list[ListedFile], mode: ocr.Mode
) -> tuple[dict[str, EntrySeries], list[ListedFile]]:
    """Series with the result of the search for text in their images.

    The images of a series with burned-in text are withheld. An uncertain series keeps its images
    and gets a reason for review, ``doubt``.
    """
    members: dict[str, list[ListedFile]] = {}
    for f in files:
        if f.series and not f.reason:
            # the whole series, even if its files state different people
            members.setdefault(f.series.partition("_")[2], []).append(f)
    searched = dict(series)
    withheld: set[str] = set()
    for whole in members.values():
        whole.sort(key=lambda f: (f.number is None, f.number or 0, f.path))
        paths = [f.path for f in whole]
        reason, about = ocr.look(paths, series[whole[0].series].attributes, mode)
        for where in {f.series for f in whole}:
            searched[where] = replace(series[where], text=about, doubt=reason)
        if reason == ocr.REASON:
            withheld.update(paths)
    return searched, [replace(f, reason=ocr.REASON) if f.path in withheld else f for f in files]


def _with_digests(files: list[ListedFile]) -> list[ListedFile]:
    """Add digests of files with the same instance UID, so that merging need not read them."""
    complete = [f for f in files if f.instance and not f.reason]
    count = Counter((f.series, f.instance) for f in complete)
    twins = {f.path for f in complete if count[f.series, f.instance] > 1}
    return [replace(f, sha256=digest(f.path)) if f.path in twins else f for f in files]
