"""Audit: what may be released is put together, searched for identifiers, and reported.

:func:`run` makes the candidate of a session (the files just as they would be released, in the
restricted zone) and searches every byte of it with the identifiers of that session's sources. The
release copies from there and from nowhere else, so what was searched is what goes out.
:mod:`efface.audit.report` writes the evidence of the whole cohort.
"""

from __future__ import annotations

import os
import re
import shutil
from collections.abc import Iterable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from efface import __version__
from efface.audit import kept, leaks, sources
from efface.audit.identifiers import to_json
from efface.audit.leaks import Finding
from efface.audit.matcher import Matcher
from efface.errors import of_machine
from efface.manifest import Manifest, Scan, write_atomic, write_json
from efface.pseudonym import Key
from efface.status import LEAK, STAGE_FAILED, Status, worst

__all__ = ["IDENTIFIERS", "Stage", "mask_name", "paths", "run"]

Stage = tuple[Path, Manifest]
"""A stage's folder and its manifest."""

IDENTIFIERS = "identifiers.json"
"""In a session's folder: its identifiers, for the search of the cohort's files. UIDs are left out:
a cohort's files may hold no UID but new ones, which is a rule of structure."""

_IMAGE_DERIVATIVE = {"SkullStripped": False}
"""What BIDS requires of every image in a dataset of type derivative."""
_MOST_FINDINGS = 8
# entities that a defacing mask may have in BIDS, beside mod-
_MASK_ENTITIES = ("sub", "ses", "task", "acq", "ce", "rec", "run")


def run(
    session: Mapping[str, Any],
    convert: Stage,
    distort: Stage,
    qc: Stage,
    folder: Path,
    retain: Iterable[str] = (),
    key: Key | None = None,
    layout: str = "raw",
) -> tuple[Scan, ...]:
    """The candidate of a session in ``folder``, and every series of it with its status.

    Writes ``bids/{sub}/{ses}/…``, ``dicom/{sub}/{ses}/{series}/…`` and ``pictures/…`` for scans
    that did not fail; ``identifiers.json``. A scan in which anything is found fails, in both forms
    (DICOM series and the images made from it), and its files are removed again. Series that the
    inventory withheld, or that a stage lost, are scans too.

    ``retain`` are the options of the scrub; what they keep of the person and the day goes into the
    measures ``person`` and ``acq_time``, for the tables of the release. ``key`` shifts the dates.
    With the ``layout`` ``derivative`` the names of images have ``desc-defaced``.
    """
    retain = tuple(retain)
    identifiers = sources.of_session(session, retain)
    matcher = Matcher(identifiers | sources.of_machine())
    subject, visit = session["session"].split("_")
    scans = []
    for scan in qc[1].scans:
        staged = (
            scan
            if scan.status == "fail"
            else _stage(scan, (subject, visit), convert, distort, qc[0], folder, retain, layout)
        )
        if staged.status != "fail":
            staged = _search(staged, folder, matcher, "uids" not in retain)
        scans.append(staged)
    scans = [_without_files(scan, folder) for scan in _in_both_forms(scans)]
    scans = [_with_kept(scan, session, retain, key) for scan in scans]
    scans += _missing(session, scans)
    write_atomic(folder / IDENTIFIERS, to_json(identifiers))
    _prune_empty(folder)
    return tuple(scans)


def _in_both_forms(scans: Iterable[Scan]) -> list[Scan]:
    """The scans, failed where an identifier was found in another form of the same series."""
    scans = list(scans)
    leaked = {s.series for s in scans if any(r.startswith(LEAK) for r in s.reasons)}
    return [
        s
        if s.status == "fail" or s.series not in leaked
        else s.mark("fail", f"{LEAK}: in another form of this series")
        for s in scans
    ]


def _without_files(scan: Scan, folder: Path) -> Scan:
    """The scan; if it failed, without its files, which are deleted."""
    if scan.status != "fail":
        return scan
    _discard(scan, folder)
    return replace(scan, files={})


def _with_kept(
    scan: Scan, session: Mapping[str, Any], retain: Iterable[str], key: Key | None
) -> Scan:
    series = next((s for s in session["series"] if s["series"] == scan.series), None)
    if scan.status == "fail" or series is None or not series["files"]:
        return scan
    told = {
        "person": kept.of_person(session, retain),
        "acq_time": kept.acquired(session, series, retain, key),
        "text_in_picture": str(series.get("text", "")),
    }
    return replace(scan, measures={**scan.measures, **{k: v for k, v in told.items() if v}})


def _stage(
    scan: Scan,
    place: tuple[str, str],
    convert: Stage,
    distort: Stage,
    pictures: Path,
    folder: Path,
    retain: Iterable[str],
    layout: str,
) -> Scan:
    """Link a scan's files into the candidate; roles to paths below ``folder``."""
    from efface.convert import companions, references
    from efface.convert.sidecar import deidentified
    from efface.scrub.table import OPTIONS

    files: dict[str, str] = {}
    given = {s.scan: s for s in convert[1].scans}.get(scan.scan)
    new = {s.scan: s for s in distort[1].scans}.get(scan.scan)
    try:
        if new is None:
            raise KeyError(scan.scan)
        if scan.measures["form"] == "dicom":
            files["dicom"] = "/".join(("dicom", *place, scan.series))
            source = distort[0] / new.files["dicom"]
            for path in sorted(p for p in source.rglob("*") if p.is_file()):
                _link(path, folder / files["dicom"] / path.relative_to(source))
            return replace(scan, files=files)
        if given is None:
            raise KeyError(scan.scan)
        # a scan without a place in BIDS is searched like the others, and told apart by its folder
        datatype = scan.measures.get("datatype") or "none"
        name = image_name(scan.scan, layout)
        base = "/".join(("bids" if datatype != "none" else "rest", *place, datatype))
        stem = f"{base}/{name}"
        files["nifti"] = f"{stem}.nii.gz"
        _link(distort[0] / new.files["nifti"], folder / files["nifti"])
        for role in ("bval", "bvec"):
            if role in given.files:
                # BIDS has no desc- for gradients: without it they apply to the image by inheritance
                files[role] = f"{base}/{scan.scan}.{role}"
                _link(convert[0] / given.files[role], folder / files[role])
        files["sidecar"] = f"{stem}.json"
        for role in companions.SUFFIXES:
            if role in given.files:
                files[role] = f"{base}/{given.files[role]}"
                _link(convert[0] / given.files[role], folder / files[role])
        sidecar = references.with_names(
            _read(convert[0] / given.files["sidecar"]), lambda name: image_name(name, layout)
        )
        measures = {
            **scan.measures,
            "intended_for": references.intended(sidecar),
            "fields": references.labels(sidecar, references.IDENTIFIER),
            "field_sources": references.labels(sidecar, references.SOURCE),
            "references_dropped": given.measures.get("references_dropped", []),
            "tables_dropped": given.measures.get("tables_dropped", []),
        }
        scan = replace(scan, measures={k: v for k, v in measures.items() if v != []})
        methods = [f"efface {__version__}", f"face: {scan.measures.get('method', 'unknown')}"]
        codes = ["113100", "113102", *sorted(OPTIONS[option][0] for option in retain)]
        if layout == "derivative":
            sidecar = _IMAGE_DERIVATIVE | sidecar
        write_json(folder / files["sidecar"], deidentified(sidecar, methods, codes))
        mask = mask_name(scan.scan) if datatype == "anat" else ""
        if mask and "mask" in new.files:
            files["mask"] = f"{base}/{mask}.nii.gz"
            _link(distort[0] / new.files["mask"], folder / files["mask"])
            if layout == "derivative":
                files["mask_sidecar"] = f"{base}/{mask}.json"
                write_json(folder / files["mask_sidecar"], _IMAGE_DERIVATIVE)
        for role, name in scan.files.items():
            # pictures from before show the face: they stay where they are
            if not role.startswith("before"):
                files[role] = f"pictures/{name}"
                _link(pictures / name, folder / files[role])
    except (OSError, KeyError, ValueError) as e:
        if of_machine(e):
            raise
        return replace(scan, files=files).mark(
            "fail", f"{STAGE_FAILED}: audit ({type(e).__name__})"
        )
    return replace(scan, files=files)


def image_name(scan: str, layout: str) -> str:
    """BIDS stem of a released image.

    >>> image_name("sub-a_ses-b_T1w", "derivative")
    'sub-a_ses-b_desc-defaced_T1w'
    """
    entities, _, suffix = scan.rpartition("_")
    return f"{entities}_desc-defaced_{suffix}" if layout == "derivative" else scan


def mask_name(scan: str) -> str:
    """BIDS stem of the defacing mask of an anatomical scan; empty where BIDS knows none.

    >>> mask_name("sub-a_ses-b_run-1_T1w")
    'sub-a_ses-b_run-1_mod-T1w_defacemask'
    """
    *entities, suffix = scan.split("_")
    if any(e.partition("-")[0] not in _MASK_ENTITIES for e in entities):
        return ""
    return "_".join((*entities, f"mod-{suffix}", "defacemask"))


def paths(scan: Scan, folder: Path) -> list[str]:
    """All files of a staged scan, relative to the session's audit folder, sorted."""
    out = []
    for name in scan.files.values():
        path = folder / name
        inner = path.rglob("*") if path.is_dir() else [path]
        out += [p.relative_to(folder).as_posix() for p in inner if p.is_file()]
    return sorted(out)


def _search(scan: Scan, folder: Path, matcher: Matcher, uids: bool) -> Scan:
    """The scan, failed with places where anything was found in its files."""
    found: list[Finding] = []
    size = 0
    names = paths(scan, folder)
    for name in names:
        data = (folder / name).read_bytes()
        size += len(data)
        found += leaks.scan(name, data, matcher, uids=uids)
    scan = replace(scan, measures={**scan.measures, "searched_bytes": size})
    if not names:
        return scan.mark("fail", f"{STAGE_FAILED}: audit (no files)")
    # many files of a series tell the same: once is enough
    told = sorted({f"{f.kind} in {f.place}" for f in found})
    for text in told[:_MOST_FINDINGS]:
        scan = scan.mark("fail", f"{LEAK}: {text}")
    if len(told) > _MOST_FINDINGS:
        scan = scan.mark("fail", f"{LEAK}: {len(told) - _MOST_FINDINGS} further places")
    return scan


def _missing(session: Mapping[str, Any], scans: list[Scan]) -> list[Scan]:
    """Series that no stage speaks of: withheld at inventory, or lost."""
    from efface.convert import modality

    told = {s.series for s in scans}
    out = []
    for series in session["series"]:
        if series["series"] in told:
            continue
        status: Status = worst("fail", series["status"])
        reasons = tuple(series["reasons"]) or (f"{STAGE_FAILED}: the series was lost",)
        name = series["series"]
        measures = {"form": "source", "datatype": ""}
        out.append(Scan(name, name, modality(series), status, reasons, {}, measures))
    return out


def _discard(scan: Scan, folder: Path) -> None:
    for name in scan.files.values():
        path = folder / name
        if path.is_dir():
            shutil.rmtree(path)
        else:
            path.unlink(missing_ok=True)


def _prune_empty(folder: Path) -> None:
    for path in sorted((p for p in folder.rglob("*") if p.is_dir()), reverse=True):
        if not any(path.iterdir()):
            path.rmdir()


def _link(source: Path, target: Path) -> None:
    """A hard link, or a copy where the file system has none."""
    target.parent.mkdir(parents=True, exist_ok=True)
    try:
        os.link(source, target)
    except FileNotFoundError:
        raise
    except OSError:
        shutil.copyfile(source, target)


def _read(path: Path) -> dict[str, Any]:
    import json

    content = json.loads(path.read_text())
    if not isinstance(content, dict):
        raise ValueError("a sidecar must hold a JSON object")
    return content


def numbered(reasons: Iterable[str]) -> dict[str, int]:
    """How often each kind of reason occurs: the phrase before the colon."""
    out: dict[str, int] = {}
    for reason in reasons:
        phrase = re.split(r":\s", reason, maxsplit=1)[0]
        out[phrase] = out.get(phrase, 0) + 1
    return out
