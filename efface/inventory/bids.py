"""A source that is a BIDS dataset already: each NIfTI with its sidecars counts as a series."""

from __future__ import annotations

import csv
import io
import os
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

from efface.inventory.identity import Statement
from efface.inventory.walk import Found
from efface.pseudonym import Key, series_label, session_label, subject_label
from efface.status import EMPTY, NO_IMAGE, NOT_BIDS, NOT_MR

MR_DATATYPES = ("anat", "dwi", "fmap", "func", "perf")
OTHER_DATATYPES = ("beh", "eeg", "ieeg", "meg", "micr", "motion", "mrs", "nirs", "pet")

_SIDECAR = (".json", ".bval", ".bvec")
SHARED = f"{NOT_BIDS}: its metadata went into the scans it describes"


@dataclass(frozen=True)
class Name:
    """A BIDS file name taken apart."""

    entities: dict[str, str]
    suffix: str
    extension: str


def is_bids(source: Path) -> bool:
    """A folder with ``dataset_description.json`` and at least one ``sub-*`` folder."""
    return (source / "dataset_description.json").is_file() and any(
        p.is_dir() for p in source.glob("sub-*")
    )


def parse(name: str) -> Name | None:
    """Entities, suffix and extension of a file name, or ``None`` if it is not built like one.

    >>> parse("sub-01_run-2_T1w.nii.gz")
    Name(entities={'sub': '01', 'run': '2'}, suffix='T1w', extension='.nii.gz')
    """
    stem, dot, extension = name.partition(".")
    *pairs, suffix = stem.split("_")
    entities: dict[str, str] = {}
    for pair in pairs:
        entity, dash, label = pair.partition("-")
        if not dash or not re.fullmatch(r"[A-Za-z0-9+]+", label) or not entity.isalpha():
            return None
        if entity in entities:
            return None
        entities[entity] = label
    if not re.fullmatch(r"[A-Za-z0-9]+", suffix):
        return None
    return Name(entities, suffix, dot + extension)


def read_entry(source: Path, found: Iterable[Found], key: Key) -> dict[str, Any]:
    """``series`` and ``files`` of one top-level entry, as :func:`efface.inventory.run_entry`."""
    root = source.absolute()
    series: dict[str, dict[str, Any]] = {}
    files = []
    for f in found:
        relative = os.path.relpath(f.path, root)
        reason = f.reason or (EMPTY if f.bytes == 0 else "")
        where = ""
        if not reason:
            described, reason = _image(relative, key)
            if described:
                where = f"{described['session']} {described['series']}"
                series[where] = {"rank": [0, f.path], **described}
        files.append(
            {
                "path": f.path,
                "relative": relative,
                "bytes": f.bytes,
                "mtime_ns": f.mtime_ns,
                "reason": reason,
                "series": where,
                "instance": relative if where else "",
                "number": None,
            }
        )
    return {"series": series, "files": files}


def _image(relative: str, key: Key) -> tuple[dict[str, Any] | None, str]:
    """The series that a file is, or why it is none."""
    *folders, name = PurePosixPath(relative).parts
    parsed = parse(name)
    if parsed is None or parsed.extension not in (".nii", ".nii.gz"):
        return None, NOT_BIDS
    subject = parsed.entities.get("sub", "")
    visit = parsed.entities.get("ses", "")
    wanted = [f"sub-{subject}"] + ([f"ses-{visit}"] if visit else [])
    if not subject or folders[:-1] != wanted:
        return None, NOT_BIDS
    datatype = folders[-1]
    if datatype in OTHER_DATATYPES:
        return None, f"{NOT_MR}: {datatype}"
    if datatype not in MR_DATATYPES:
        return None, NOT_BIDS
    if parsed.suffix in ("defacemask", "mask"):
        return None, f"{NO_IMAGE}: mask"
    study = "/".join(wanted)
    label = subject_label(key, f"sub-{subject}", "bids", "")
    return {
        "session": f"{label}_{session_label(key, study)}",
        "subject": label,
        "patient": [f"sub-{subject}", "bids"],
        "study": study,
        "series": series_label(key, relative),
        "uid": relative,
        "kind": "image",
        "modality": "MR",
        "sop_class": "",
        "frame_of_reference": "",
        "number": None,
        "attributes": {},
        "bids": {
            "datatype": datatype,
            "suffix": parsed.suffix,
            "entities": parsed.entities,
        },
    }, ""


def participants(source: Path, entry: str, key: Key) -> set[Statement]:
    """What the rows of a BIDS source's participants.tsv state; empty for any other entry."""
    if entry != "participants.tsv":
        return set()
    try:
        text = (source / entry).read_text(encoding="utf-8-sig", errors="replace")
        rows = list(csv.DictReader(io.StringIO(text), delimiter="\t"))
    except (OSError, csv.Error):
        return set()
    out = set()
    for row in rows:
        patient = "sub-" + (row.get("participant_id") or "").strip().removeprefix("sub-")
        label = subject_label(key, patient, "bids", "")
        out.add(Statement(f"{label}_", "", patient, "bids", sex=row.get("sex") or ""))
    return out


Sidecar = tuple[tuple[str, ...], Name, dict[str, Any]]
"""Folders, name and file record."""


def sidecars(files: Iterable[dict[str, Any]]) -> list[Sidecar]:
    """The files that may describe images: JSON, b-values and b-vectors with a BIDS name."""
    out = []
    for f in files:
        *folders, name = PurePosixPath(f["relative"]).parts
        parsed = parse(name)
        usable = f["reason"] in ("", NOT_BIDS, SHARED) and f["bytes"]
        if usable and parsed is not None and parsed.extension in _SIDECAR:
            out.append((tuple(folders), parsed, f))
    return out


def inherited(image: dict[str, Any], candidates: Sequence[Sidecar]) -> list[dict[str, Any]]:
    """The sidecars that apply to an image by BIDS's inheritance principle, outermost first."""
    *folders, name = PurePosixPath(image["relative"]).parts
    parsed = parse(name)
    assert parsed is not None
    hits = []
    for where, candidate, record in candidates:
        if (
            candidate.suffix == parsed.suffix
            and tuple(folders[: len(where)]) == where
            and candidate.entities.items() <= parsed.entities.items()
        ):
            hits.append(((len(where), len(candidate.entities)), candidate.extension, record))
    hits.sort(key=lambda h: (h[0], h[2]["relative"]))
    chosen = [record for _, extension, record in hits if extension == ".json"]
    for extension in (".bval", ".bvec"):
        # gradients are not merged: the nearest file counts
        chosen += [record for _, e, record in hits if e == extension][-1:]
    return chosen
