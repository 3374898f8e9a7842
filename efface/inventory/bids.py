"""Inventory of a BIDS source: each NIfTI image with its sidecars is a series.

An image that cannot be converted (a name that BIDS does not allow, a link without content, another
datatype) is a series with status fail and a reason, so that the audit lists it.
"""

from __future__ import annotations

import csv
import io
import os
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path, PurePosixPath

from efface.inventory.identity import Statement
from efface.inventory.records import EntrySeries, ListedFile
from efface.inventory.walk import SourceFile
from efface.pseudonym import Key, series_label, session_label, subject_label
from efface.session import BidsName
from efface.status import EMPTY_FILE, LINK_NOT_FOLLOWED, NO_FILES, NO_IMAGE, NOT_BIDS, NOT_MR

MR_DATATYPES = ("anat", "dwi", "fmap", "func", "perf")
OTHER_DATATYPES = ("beh", "eeg", "ieeg", "meg", "micr", "motion", "mrs", "nirs", "pet")

IMAGE = (".nii", ".nii.gz", ".hdr", ".img", ".hdr.gz", ".img.gz")
"""File name extensions of NIfTI and ANALYZE images."""
_OTHER_IMAGE = re.compile(
    # compressed by another program, encrypted, partly copied, or a backup copy
    r"\.(nii|hdr|img)(\.\w+)?\.(bz2|xz|zst|lz4|lzma|zip|7z|z|gpg|part|tmp|bak|orig|old|\d+)$"
    r"|\.(nii|hdr|img)(\.gz)?~$"
    # FreeSurfer, MINC, NRRD, MetaImage, AFNI
    r"|\.(mgh|mgz|mnc|mnc\.gz|nrrd|nhdr|mha|mhd|head|brik|brik\.gz)$",
    re.IGNORECASE,
)
"""Extensions of images that efface does not read."""
_SIDECAR = (".json", ".bval", ".bvec")
TABLES = {"events": ("bold", "cbv"), "aslcontext": ("asl",)}
"""Suffixes of the tables that are released beside an image, with the suffixes of these images."""
SHARED = f"{NOT_BIDS}: its metadata went into the scans it describes"
OUTSIDE = (
    f"{NOT_BIDS}: the source is not a BIDS dataset; name the image"
    " sub-LABEL/anat/sub-LABEL_T1w.nii.gz, or use efface deface for a single image"
)
NESTED = (
    f"{NOT_BIDS}: the source is not a BIDS dataset, but a folder inside it may be one; run efface"
    " on the folder that holds the sub-LABEL folders"
)
NO_CONTENT = (
    f"{NO_FILES}: the folder of the subject is empty; for a DataLad dataset, run datalad get"
)
_CONVERT = "convert it to .nii.gz, with the extension in lower case"
NO_SUBJECT = "outside the sub- folders"
"""Used in place of a study for images outside all subject folders."""


@dataclass(frozen=True)
class FileName:
    """The components of a BIDS file name."""

    entities: dict[str, str]
    suffix: str
    extension: str


def is_bids(source: Path) -> bool:
    """Whether a folder is a BIDS dataset.

    It has ``sub-*`` folders, and either a ``dataset_description.json`` or, because many datasets
    lack that file, a datatype folder with a NIfTI image (``sub-01/anat/*.nii.gz``,
    ``sub-01/ses-1/anat/…``).
    """
    subjects = sorted(p for p in source.glob("sub-*") if p.is_dir())
    if not subjects:
        return False
    return (source / "dataset_description.json").is_file() or any(map(_has_images, subjects))


def _has_images(subject: Path) -> bool:
    return any(
        is_image(path.name)
        for visit in (subject, *subject.glob("ses-*"))
        for datatype in MR_DATATYPES
        if (visit / datatype).is_dir()
        for path in (visit / datatype).iterdir()
    )


def is_image(name: str) -> bool:
    """Whether a file name has the extension of a NIfTI or ANALYZE image."""
    return name.lower().endswith(IMAGE)


def outside(relative: str) -> str:
    """Reason against an image in a source that is not a BIDS dataset."""
    folders = PurePosixPath(relative).parts[1:-1]
    return NESTED if any(part.startswith("sub-") for part in folders) else OUTSIDE


def parse(name: str) -> FileName | None:
    """Entities, suffix and extension of a file name, or ``None`` if it is not a BIDS name.

    >>> parse("sub-01_run-2_T1w.nii.gz")
    FileName(entities={'sub': '01', 'run': '2'}, suffix='T1w', extension='.nii.gz')
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
    return FileName(entities, suffix, dot + extension)


def list_files(
    source: Path, sources: Iterable[SourceFile], key: Key
) -> tuple[dict[str, EntrySeries], list[ListedFile]]:
    """Series and files of a top-level entry, as in :class:`efface.inventory.records.Entry`."""
    root = source.absolute()
    series: dict[str, EntrySeries] = {}
    files = []
    for f in sources:
        relative = os.path.relpath(f.path, root)
        name = _described(relative)
        reason = (
            f.reason
            or (EMPTY_FILE if f.bytes == 0 else "")
            or (name if isinstance(name, str) else "")
        )
        described = None
        if not reason and isinstance(name, FileName):
            described = _series(f.path, relative, name, key)
        elif _is_unread_folder(f, relative):
            described = withheld(f.path, f"{relative}/", key)
        elif _is_listed(relative):
            described = withheld(f.path, relative, key)
        if described:
            series[described.where] = described
        files.append(
            ListedFile(
                path=f.path,
                relative=relative,
                bytes=f.bytes,
                mtime_ns=f.mtime_ns,
                reason=reason,
                series=described.where if described else "",
                instance=relative if described and not reason else "",
                number=None,
            )
        )
    return series, files


def _is_listed(relative: str) -> bool:
    """Whether a file is an image that the audit must list.

    Files inside an annex are not, because the dataset has links to them.
    """
    image = is_image(relative) or _OTHER_IMAGE.search(relative) is not None
    return image and ".git" not in PurePosixPath(relative).parts


def _is_unread_folder(f: SourceFile, relative: str) -> bool:
    """Whether a path is a folder, or a link to a folder, that was not read."""
    *folders, name = PurePosixPath(relative).parts
    if not f.reason or not [*folders, name][0].startswith("sub-") or ".git" in (*folders, name):
        return False
    # a broken link can only be judged by its name
    return Path(f.path).is_dir() or (f.reason.startswith(LINK_NOT_FOLLOWED) and "." not in name)


def _described(relative: str) -> FileName | str:
    """The parsed name of an image to convert, or the reason against the file."""
    *folders, name = PurePosixPath(relative).parts
    parsed = parse(name)
    if not is_image(name):
        return f"{NOT_BIDS}: {_CONVERT}" if _OTHER_IMAGE.search(name) else NOT_BIDS
    if not folders or not folders[0].startswith("sub-"):
        return f"{NOT_BIDS}: the file is outside the sub- folders"
    if parsed is None:
        return (
            f"{NOT_BIDS}: rename the file; a BIDS name is sub-LABEL[_ses-LABEL][_KEY-LABEL]_SUFFIX"
            " with labels of letters and digits"
        )
    if parsed.extension not in (".nii", ".nii.gz"):
        return f"{NOT_BIDS}: {_CONVERT}"
    subject, visit = parsed.entities.get("sub", ""), parsed.entities.get("ses", "")
    wanted = [f"sub-{subject}"] + ([f"ses-{visit}"] if visit else [])
    if not subject or folders[:-1] != wanted:
        return f"{NOT_BIDS}: name and folders differ in subject or session, or lack the datatype"
    datatype = folders[-1]
    if datatype in OTHER_DATATYPES:
        return f"{NOT_MR}: {datatype}"
    if datatype not in MR_DATATYPES:
        return f"{NOT_BIDS}: the folder is not one of the datatypes {', '.join(MR_DATATYPES)}"
    if parsed.suffix in ("defacemask", "mask"):
        return f"{NO_IMAGE}: mask"
    return parsed


def _series(path: str, relative: str, name: FileName, key: Key) -> EntrySeries:
    """The series of an image."""
    own = BidsName(PurePosixPath(relative).parts[-2], name.suffix, name.entities)
    return replace(withheld(path, relative, key), kind="image", modality="MR", bids=own)


def withheld(path: str, relative: str, key: Key) -> EntrySeries:
    """The series of an image that cannot be converted, so that the audit lists it.

    Subject and session are those of its folders. Images outside all subject folders share one
    session. ``relative`` ends with a slash if it is a folder that cannot be read.
    """
    folders = relative.split("/")[:-1]
    at = next((n for n, part in enumerate(folders) if part.startswith("sub-")), None)
    subject, study = "", NO_SUBJECT
    if at is not None:
        visits = [part for part in folders[at + 1 : at + 2] if part.startswith("ses-")]
        subject, study = folders[at], "/".join([folders[at], *visits])
    label = subject_label(key, subject, "bids", study)
    return EntrySeries(
        rank=(0, path),
        session=f"{label}_{session_label(key, study)}",
        subject=label,
        patient=(subject, "bids"),
        study=study,
        series=series_label(key, relative),
        uid=relative,
        kind="object",
        modality="",
        sop_class="",
        frame_of_reference="",
        number=None,
        attributes={},
    )


def participants(source: Path, entry: str, key: Key) -> set[Statement]:
    """Statements in the rows of participants.tsv; empty for any other entry."""
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


Sidecar = tuple[tuple[str, ...], FileName, ListedFile]
"""Folders, name and file of a sidecar."""


def sidecars(files: Iterable[ListedFile]) -> list[Sidecar]:
    """Files with BIDS names that can describe images: JSON, gradients, events, ASL context."""
    out = []
    for f in files:
        *folders, name = _parts(f)
        parsed = parse(name)
        usable = f.reason in ("", NOT_BIDS, SHARED) and f.bytes
        if not usable or parsed is None:
            continue
        table = parsed.extension == ".tsv" and parsed.suffix in TABLES
        if parsed.extension in _SIDECAR or table:
            out.append((tuple(folders), parsed, f))
    return out


def inherited(image: ListedFile, candidates: Sequence[Sidecar]) -> list[ListedFile]:
    """Sidecars of an image by the inheritance principle of BIDS, outermost first."""
    *folders, name = _parts(image)
    parsed = parse(name)
    assert parsed is not None
    hits = []
    for where, candidate, f in candidates:
        described = TABLES.get(candidate.suffix, (candidate.suffix,))
        if (
            parsed.suffix in described
            and (candidate.suffix == parsed.suffix or candidate.extension == ".tsv")
            and tuple(folders[: len(where)]) == where
            and candidate.entities.items() <= parsed.entities.items()
        ):
            hits.append(((len(where), len(candidate.entities)), candidate.extension, f))
    hits.sort(key=lambda h: (h[0], h[2].relative or ""))
    chosen = [f for _, extension, f in hits if extension == ".json"]
    for extension in (".bval", ".bvec", ".tsv"):
        # these are not merged: only the nearest file is used
        chosen += [f for _, e, f in hits if e == extension][-1:]
    return chosen


def _parts(f: ListedFile) -> tuple[str, ...]:
    """Folders and name of a file of a BIDS source."""
    assert f.relative is not None
    return PurePosixPath(f.relative).parts
