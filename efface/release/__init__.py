"""Release: the one door. What passed, or was reviewed and accepted, is copied out; nothing else.

:func:`decide` says of every scan of a session whether it goes out, :func:`bids` and :func:`dicom`
copy the two forms from the session's audit folder, checked against the digests of its manifest,
and :func:`cohort` writes the files that describe the whole release.
"""

from __future__ import annotations

import csv
import hashlib
import io
import json
import os
import shutil
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from importlib.metadata import PackageNotFoundError, metadata
from pathlib import Path
from typing import Any, Literal

from efface import __version__
from efface.convert import references
from efface.errors import EffaceError
from efface.manifest import Manifest, Scan, json_text, new_folder, sha256, write_atomic

__all__ = [
    "FORMS",
    "MANIFEST",
    "SETTINGS",
    "Decision",
    "Form",
    "Judgement",
    "Judgements",
    "cohort",
    "cohort_files",
    "copy",
    "decide",
    "gate_row",
    "gate_table",
    "judgements",
    "prune",
    "released_paths",
    "table",
    "table_of",
    "tables",
]

Form = Literal["bids", "dicom"]
FORMS: tuple[Form, ...] = ("bids", "dicom")

SETTINGS = ("features", "method", "retain", "device", "layout")
"""Settings that an audit shows: none that holds a path or a site's own words."""

MANIFEST = "manifest.tsv"
COLUMNS = ("path", "bytes", "sha256", "session", "scan")

MTIME = 946684800
"""2000-01-01: the time of every file in a release, so that it tells nothing."""


@dataclass(frozen=True)
class Judgement:
    """What a person said of a scan in review."""

    accept: bool
    reviewer: str
    reason: str
    sha256: str = ""
    """Digest of the image that was looked at, where it was recorded."""


@dataclass(frozen=True)
class Decision:
    """Whether a scan goes out, and why."""

    scan: Scan
    released: bool
    note: str = ""
    """Who accepted or rejected it, or why it stays in although it passed."""


Judgements = Mapping[tuple[str, str], Judgement]


def judgements(path: Path | None) -> dict[tuple[str, str], Judgement]:
    """Read the table of what reviewers said, by session and scan.

    Tab-separated columns ``session``, ``scan``, ``reviewer``, ``reason``; and if they are there
    ``verdict`` (``accept``, the default, or ``reject``) and ``sha256`` of the defaced NIfTI that
    was looked at, so that a verdict does not hold for another image. Raises :class:`EffaceError`
    for a table that is not like that: a slip must not open the door.
    """
    if path is None:
        return {}
    try:
        text = path.read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as e:
        raise EffaceError(f"{path}: the table of accepted scans cannot be read ({e})") from e
    out: dict[tuple[str, str], Judgement] = {}
    reader = csv.DictReader(io.StringIO(text), delimiter="\t")
    needed = {"session", "scan", "reviewer", "reason"}
    if not needed <= set(reader.fieldnames or ()):
        raise EffaceError(
            f"{path}: needs the tab-separated columns session, scan, reviewer and reason"
        )
    for line, raw in enumerate(reader, start=2):
        row = {k: (v or "").strip() for k, v in raw.items() if isinstance(k, str)}
        if not any(row.values()):
            continue
        verdict = row.get("verdict") or "accept"
        if verdict not in ("accept", "reject"):
            raise EffaceError(f"{path}: line {line}: verdict must be accept or reject")
        if not all(row[k] for k in needed):
            raise EffaceError(f"{path}: line {line}: name session, scan, reviewer and reason")
        where = (row["session"], row["scan"])
        one = Judgement(verdict == "accept", row["reviewer"], row["reason"], row.get("sha256", ""))
        if where in out and out[where].accept != one.accept:
            raise EffaceError(f"{path}: line {line}: the scan is accepted and rejected")
        out[where] = one
    return out


def decide(manifest: Manifest, said: Judgements) -> tuple[Decision, ...]:
    """What goes out of a session; ``manifest`` is the audit's.

    A scan goes out if it passed, or is in review and a person accepted it; never if it failed or a
    person rejected it. A series in DICOM goes out with its images: if it is in review for their
    reasons alone, all of them must be accepted.
    """
    images = _referenced(
        {s.scan: _image(manifest, s, said) for s in manifest.scans if not _is_dicom(s)}
    )
    out = []
    for scan in manifest.scans:
        if not _is_dicom(scan):
            out.append(images[scan.scan])
            continue
        made = [d for d in images.values() if d.scan.series == scan.series]
        judged = said.get((manifest.session, scan.scan))
        released, note = False, ""
        rejected = [d.note for d in made if d.note.startswith("rejected")]
        if judged and not judged.accept:
            note = _note(judged)
        elif rejected:
            note = rejected[0]
        elif scan.status == "pass":
            released = True
        elif scan.status == "review" and judged:
            released, note = True, _note(judged)
        elif scan.status == "review" and scan.measures.get("own_status") == "pass":
            released = bool(made) and all(_open(d) for d in made)
            note = next((d.note for d in made if d.note), "") if released else ""
        if released and not scan.files.get("dicom"):
            released, note = False, "no files"
        out.append(Decision(scan, released, note))
    return tuple(out)


def _referenced(images: dict[str, Decision]) -> dict[str, Decision]:
    """The decisions, with a note where an image that IntendedFor names is not released.

    An M0 scan of which no ASL series is released stays in: BIDS has no place for it.
    """
    there = _released_images(images.values())
    images = {name: _with_series(decision, there) for name, decision in images.items()}
    there, fields = _released_images(images.values()), _released_fields(images.values())
    return {name: _with_note(decision, there, fields) for name, decision in images.items()}


def _with_series(decision: Decision, there: set[str]) -> Decision:
    named = decision.scan.measures.get("intended_for", [])
    if decision.released and decision.scan.modality == "m0scan" and not there.intersection(named):
        note = "; ".join(filter(None, (decision.note, "no released ASL series")))
        return replace(decision, released=False, note=note)
    return decision


def _with_note(decision: Decision, there: set[str], fields: set[str]) -> Decision:
    measures = decision.scan.measures
    gone = sum(path not in there for path in measures.get("intended_for", ()))
    gone += sum(label not in fields for label in measures.get("field_sources", ()))
    gone += int(measures.get("references_dropped", 0))
    if not decision.released:
        return decision
    notes = [decision.note]
    if gone:
        what = "1 reference" if gone == 1 else f"{gone} references"
        notes.append(f"{what} to what is not released removed")
    for suffix in measures.get("tables_dropped", ()):
        notes.append(
            f"its _{suffix}.tsv left out: BIDS's columns, separated by tabs, are not there"
        )
    return replace(decision, note="; ".join(filter(None, notes)))


def _released_fields(decisions: Iterable[Decision]) -> set[str]:
    """Labels of the fields that released images measure."""
    return {f for d in decisions if d.released for f in d.scan.measures.get("fields", ())}


def _released_images(decisions: Iterable[Decision]) -> set[str]:
    """Released NIfTI images, relative to the root of the BIDS dataset."""
    return {
        d.scan.files["nifti"].removeprefix("bids/")
        for d in decisions
        if d.released and d.scan.files.get("nifti", "").startswith("bids/")
    }


def sidecar_of(folder: Path, name: str, scan: str, decisions: Sequence[Decision]) -> bytes | None:
    """A sidecar without references to what is not released; None where nothing changes.

    ``folder`` is the session's folder of the audit stage, ``name`` a path in it, ``scan`` the scan
    to which the file belongs.
    """
    if not name.endswith(".json"):
        return None
    measures = next(d.scan.measures for d in decisions if d.scan.scan == scan)
    paths = _released_images(decisions)
    fields = _released_fields(decisions)
    if paths.issuperset(measures.get("intended_for", ())) and fields.issuperset(
        measures.get("field_sources", ())
    ):
        return None
    audited = json.loads((folder / name).read_text())
    return json_text(references.released(audited, paths, fields)).encode()


def _image(manifest: Manifest, scan: Scan, said: Judgements) -> Decision:
    judged = said.get((manifest.session, scan.scan))
    if scan.status == "fail":
        return Decision(scan, released=False)
    if judged and not judged.accept:
        return Decision(scan, False, _note(judged))
    note = ""
    if scan.status == "review":
        if judged is None:
            return Decision(scan, released=False)
        seen = manifest.sha256.get(scan.files.get("nifti", ""), "")
        if judged.sha256 and judged.sha256 != seen:
            return Decision(scan, False, "the image has changed since it was accepted")
        note = _note(judged)
    if not scan.files.get("nifti", "").startswith("bids/"):
        said_it = f"{note}; " if note else ""
        return Decision(scan, False, f"{said_it}has no place in BIDS")
    return Decision(scan, True, note)


def _open(decision: Decision) -> bool:
    """Whether an image may be seen, be it that it has no place in BIDS."""
    return decision.released or (
        decision.scan.status != "fail"
        and decision.note.endswith("has no place in BIDS")
        and (decision.scan.status == "pass" or decision.note.startswith("accepted"))
    )


def _note(judged: Judgement) -> str:
    verb = "accepted" if judged.accept else "rejected"
    return f"{verb} by {judged.reviewer}: {judged.reason}"


def _is_dicom(scan: Scan) -> bool:
    return bool(
        scan.measures.get("form", "dicom" if scan.scan == scan.series else "nifti") != "nifti"
    )


def gate_row(manifest: Manifest, said: Judgements) -> tuple[str, str, str, str]:
    """Session, yes or no for BIDS, yes or no for DICOM, and a fingerprint of what goes out."""
    decisions = decide(manifest, said)
    flags = []
    digest = hashlib.sha256()
    for form in FORMS:
        names = released_paths(manifest, decisions, form)
        flags.append("yes" if names else "no")
        for name, _ in names:
            digest.update(f"{name}\t{manifest.sha256.get(name, '')}\n".encode())
    return (manifest.session, flags[0], flags[1], digest.hexdigest()[:16])


def gate_table(rows: Iterable[tuple[str, str, str, str]]) -> str:
    """The gate's table: ``session``, ``bids``, ``dicom`` (yes or no), ``fingerprint``."""
    lines = [("session", *FORMS, "fingerprint"), *sorted(rows)]
    return "".join("\t".join(line) + "\n" for line in lines)


def table_of(path: str | Path, form: Form) -> dict[str, str]:
    """Sessions that the gate opens in one form, to the fingerprint of what goes out."""
    return {s: mark for s, (forms, mark) in _gate(str(path), _time(path)).items() if form in forms}


def _time(path: str | Path) -> int:
    return Path(path).stat().st_mtime_ns


@lru_cache(maxsize=2)
def _gate(path: str, _: int) -> dict[str, tuple[tuple[str, ...], str]]:
    out: dict[str, tuple[tuple[str, ...], str]] = {}
    for line in Path(path).read_text().splitlines()[1:]:
        session, *flags, mark = line.split("\t")
        out[session] = (tuple(f for f, yes in zip(FORMS, flags, strict=True) if yes == "yes"), mark)
    return out


def released_paths(
    manifest: Manifest, decisions: Iterable[Decision], form: Form
) -> list[tuple[str, str]]:
    """Paths below the session's audit folder that go out in one form, each with its scan."""
    out = []
    for decision in decisions:
        if not decision.released or _is_dicom(decision.scan) != (form == "dicom"):
            continue
        roots = [n for n in decision.scan.files.values() if n.startswith(f"{form}/")]
        for root in roots:
            inner = [n for n in manifest.sha256 if n == root or n.startswith(f"{root}/")]
            out += [(n, decision.scan.scan) for n in inner]
    return sorted(out)


def copy(folder: Path, manifest: Manifest, said: Judgements, form: Form, target: Path) -> int:
    """Copy one form of a session to ``target`` (``OUT/release/{form}/{sub}/{ses}``), whole or not.

    Returns the number of files. Raises :class:`EffaceError` if a file is not the one that was
    audited.
    """
    subject, visit = manifest.session.split("_")
    base = f"{form}/{subject}/{visit}/"
    decisions = decide(manifest, said)
    names = released_paths(manifest, decisions, form)
    with new_folder(target) as temporary:
        for name, scan in names:
            if not name.startswith(base):
                raise EffaceError(f"{manifest.session}: {name} lies outside its session")
            place = temporary / name.removeprefix(base)
            place.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(folder / name, place)
            if sha256(place) != manifest.sha256[name]:
                raise EffaceError(
                    f"{manifest.session}: {name} is not what was audited; delete "
                    "restricted/audit of this session and run again"
                )
            sidecar = sidecar_of(folder, name, scan, decisions)
            if sidecar is not None:
                place.write_bytes(sidecar)
            os.utime(place, (MTIME, MTIME))
    return len(names)


README = """\
# Defaced and de-identified head MRI

Made by efface {version}. The faces in these images were replaced, the headers de-identified by
the DICOM PS3.15 Basic Profile, and every file was searched for the identifiers of its sources.

- {sessions} of {subjects}, as BIDS in `bids/`{dicom}.
- `*_mod-*_defacemask.nii.gz` say which voxels were replaced. They are no anatomy: leave them out
  of analyses by intensity, and do not fill them by learning methods.
- `participant_id`, `ses-` labels and UIDs are keyed pseudonyms. Do not try to find the people.
- `manifest.tsv` beside this folder lists every file with its digest; `efface verify` checks it.
"""


def _code_url() -> dict[str, Any]:
    """Where the code is, for GeneratedBy: the Source URL of the package, if it has one."""
    try:
        urls = metadata("efface").get_all("Project-URL") or []
    except PackageNotFoundError:
        return {}
    known = dict(url.split(", ", 1) for url in urls if ", " in url)
    return {"CodeURL": known["Source"]} if "Source" in known else {}


def _container() -> dict[str, Any]:
    """The container that efface runs in, for GeneratedBy; its path could tell who made it."""
    inside = os.environ.get("APPTAINER_CONTAINER") or os.environ.get("SINGULARITY_CONTAINER")
    return {"Container": {"Type": "apptainer", "Tag": f"efface:{__version__}"}} if inside else {}


def cohort_files(
    manifests: Sequence[Manifest], said: Judgements, layout: str = "raw"
) -> dict[str, bytes]:
    """The files of a release that belong to no session, by path below ``OUT/release``.

    ``layout`` is the DatasetType of the BIDS dataset, ``raw`` or ``derivative``.
    """
    sessions = [m.session for m in manifests if released_paths(m, decide(m, said), "bids")]
    subjects = sorted({s.split("_")[0] for s in sessions})
    dicom = any(released_paths(m, decide(m, said), "dicom") for m in manifests)
    described = {
        "Name": "Defaced and de-identified head MRI",
        "BIDSVersion": "1.11.1",
        "DatasetType": layout,
        "GeneratedBy": [
            {"Name": "efface", "Version": __version__, **_code_url(), **_container()},
        ],
    }
    text = README.format(
        version=__version__,
        sessions=_count(len(sessions), "session"),
        subjects=_count(len(subjects), "person", "people"),
        dicom=", and as DICOM in `dicom/` beside it" if dicom else "",
    )
    out = {
        "bids/dataset_description.json": _json(described),
        "bids/README.md": text.encode(),
    }
    return {**out, **tables(manifests, said)}


def tables(manifests: Sequence[Manifest], said: Judgements) -> dict[str, bytes]:
    """participants.tsv, the scans.tsv of every session, and what their columns mean.

    Age, sex and times stand in them only if an option kept them (:mod:`efface.audit.kept`).
    """
    people: dict[str, list[Mapping[str, str]]] = {}
    out: dict[str, bytes] = {}
    dated = False
    for manifest in manifests:
        decisions = decide(manifest, said)
        measures = {d.scan.scan: d.scan.measures for d in decisions}
        names = released_paths(manifest, decisions, "bids")
        if not names:
            continue
        subject, visit = manifest.session.split("_")
        base = f"bids/{subject}/{visit}/"
        rows = [
            {
                "filename": name.removeprefix(base),
                "acq_time": str(measures[scan].get("acq_time", "n/a")),
            }
            for name, scan in names
            if name.endswith(".nii.gz") and not name.endswith("_defacemask.nii.gz")
        ]
        known = any(r["acq_time"] != "n/a" for r in rows)
        dated = dated or known
        shown = ("filename", "acq_time") if known else ("filename",)
        out[f"{base}{manifest.session}_scans.tsv"] = table(rows, shown).encode()
        told = [measures[scan].get("person", {}) for _, scan in names]
        people.setdefault(subject, []).extend(told)
    if not people:
        return {}  # a table of nobody is an error to the validator
    rows = [{"participant_id": s, **_person(told)} for s, told in sorted(people.items())]
    columns = tuple(c for c in _COLUMNS if any(c in r for r in rows))
    full = [{c: r.get(c, "n/a") for c in columns} for r in rows]
    out["bids/participants.tsv"] = table(full, columns).encode()
    out["bids/participants.json"] = _json({c: _COLUMNS[c] for c in columns})
    if dated:
        out["bids/scans.json"] = _json(_SCANS)
    return out


_COLUMNS = {
    "participant_id": {"Description": "keyed pseudonym of the person"},
    "age": {
        "Description": "age at the first scan; ages above 89 are given as 89",
        "Units": "year",
    },
    "sex": {
        "Description": "sex as the source gave it; n/a where it gave none, or where the scans of "
        "this person contradict each other (the audit gives the reason: identity in doubt)",
        "Levels": {"M": "male", "F": "female", "O": "other"},
    },
}
_SCANS = {
    "filename": {"Description": "image, relative to the folder of the session"},
    "acq_time": {
        "Description": "when the acquisition began; a year before 1925 says that the date was "
        "shifted, by a number of whole weeks that is the same for all scans of a person"
    },
}


def _person(told: Iterable[Mapping[str, str]]) -> dict[str, str]:
    """Age at the first scan, and sex if all sessions agree; the inventory reports who do not."""
    ages = [t["age"] for t in told if "age" in t]
    sexes = {t["sex"] for t in told if "sex" in t}
    out = {}
    if ages:
        out["age"] = min(ages, key=int)
    if len(sexes) == 1:
        out["sex"] = sexes.pop()
    return out


def _json(value: object) -> bytes:
    return (json.dumps(value, indent=1) + "\n").encode()


def cohort(
    release: Path, manifests: Sequence[Manifest], said: Judgements, files: Mapping[str, bytes]
) -> list[dict[str, str]]:
    """Put ``files`` in place, take away what no manifest lists, and write ``manifest.tsv``.

    Returns the manifest's rows. Raises :class:`EffaceError` if a file that should have been
    released is not there: the release must be whole.
    """
    rows: dict[str, dict[str, str]] = {}
    for manifest in manifests:
        decisions = decide(manifest, said)
        audited = release.parent / "restricted" / "audit" / manifest.session
        for form in FORMS:
            for name, scan in released_paths(manifest, decisions, form):
                path = release / name
                if not path.is_file():
                    raise EffaceError(
                        f"{path}: missing from the release; delete its session's folder there "
                        "and run again"
                    )
                size = str(path.stat().st_size)
                sidecar = sidecar_of(audited, name, scan, decisions)
                digest = hashlib.sha256(sidecar).hexdigest() if sidecar else manifest.sha256[name]
                row = (name, size, digest, manifest.session, scan)
                rows[name] = dict(zip(COLUMNS, row, strict=True))
    for name, content in files.items():
        _put(release / name, content)
        digest = hashlib.sha256(content).hexdigest()
        row = (name, str(len(content)), digest, "n/a", "n/a")
        rows[name] = dict(zip(COLUMNS, row, strict=True))
    prune(release, {*rows, MANIFEST})
    ordered = [rows[name] for name in sorted(rows)]
    write_atomic(release / MANIFEST, table(ordered, COLUMNS))
    return ordered


def _put(path: Path, content: bytes) -> None:
    """Write a file with the time of all files here, and leave its folder with its own.

    A session's folder that is newer than the report would have Snakemake make the report again.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    folder = path.parent.stat()
    write_atomic(path, content)
    os.utime(path, (MTIME, MTIME))
    os.utime(path.parent, ns=(folder.st_atime_ns, folder.st_mtime_ns))


def prune(folder: Path, keep: Iterable[str]) -> None:
    """Delete every file below ``folder`` that is not in ``keep``, and folders left empty."""
    known = set(keep)
    for path in sorted(folder.rglob("*"), reverse=True):
        if path.is_dir() and not path.is_symlink():
            if not any(path.iterdir()):
                path.rmdir()
        elif path.relative_to(folder).as_posix() not in known:
            path.unlink()


def table(rows: Iterable[Mapping[str, str]], columns: Sequence[str]) -> str:
    """Tab-separated text with a header; tabs and line breaks in values become blanks."""
    lines = ["\t".join(columns)]
    lines += ["\t".join(" ".join(str(r[c]).split()) for c in columns) for r in rows]
    return "\n".join(lines) + "\n"


def _count(n: int, one: str, many: str = "") -> str:
    return f"{n} {one if n == 1 else many or one + 's'}"
