"""Put together the candidate of a scan: the files as they would be released."""

from __future__ import annotations

import json
import os
import shutil
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from efface import __version__
from efface.errors import of_machine
from efface.manifest import Manifest, Scan, Stage, write_json
from efface.measures import Measures
from efface.status import SCAN_LOST, STAGE_FAILED

_IMAGE_DERIVATIVE = {"SkullStripped": False}
"""What BIDS requires of every image in a dataset of type derivative."""
# entities that a defacing mask may have in BIDS, beside mod-
_MASK_ENTITIES = ("sub", "ses", "task", "acq", "ce", "rec", "run")


@dataclass(frozen=True)
class Staging:
    """Sources and target of the candidates of one session."""

    session: str
    convert: Stage
    distort: Stage
    qc: Stage
    folder: Path
    """Receives the candidates."""
    retain: tuple[str, ...]
    layout: str

    @property
    def place(self) -> str:
        """``{sub}/{ses}``."""
        return self.session.replace("_", "/")


def stage(scan: Scan, staging: Staging) -> Scan:
    """Link the files of one scan of qc into the candidate.

    Returns the scan with its files relative to the candidate's folder. It fails if a file of an
    earlier stage is missing or malformed.
    """
    converted = _of(staging.convert[1], scan.scan)
    distorted = _of(staging.distort[1], scan.scan)
    files: dict[str, str] = {}
    try:
        if distorted and scan.measures["form"] == "dicom":
            _series(scan, distorted, staging, files)
        elif distorted and converted:
            scan = _image(scan, converted, distorted, staging, files)
        else:
            scan = scan.mark("fail", SCAN_LOST)
    except (OSError, KeyError, ValueError) as e:
        if of_machine(e):
            raise
        scan = scan.mark("fail", f"{STAGE_FAILED}: audit ({type(e).__name__})")
    # also of a failed scan: the files that were linked before it failed are deleted by these names
    return replace(scan, files=files)


def _of(manifest: Manifest, name: str) -> Scan | None:
    return next((s for s in manifest.scans if s.scan == name), None)


def _series(scan: Scan, distorted: Scan, staging: Staging, files: dict[str, str]) -> None:
    """Link a DICOM series."""
    files["dicom"] = f"dicom/{staging.place}/{scan.series}"
    source = staging.distort[0] / distorted.files["dicom"]
    for path in sorted(p for p in source.rglob("*") if p.is_file()):
        _link(path, staging.folder / files["dicom"] / path.relative_to(source))


def _image(
    scan: Scan, converted: Scan, distorted: Scan, staging: Staging, files: dict[str, str]
) -> Scan:
    """Link a NIfTI with its companions and pictures, and write its sidecar."""
    from efface.convert import companions

    folder = staging.folder
    # a scan without a place in BIDS is searched too, and kept apart from the dataset
    datatype = scan.measures.get("datatype") or "none"
    base = f"{'bids' if datatype != 'none' else 'rest'}/{staging.place}/{datatype}"
    stem = f"{base}/{image_name(scan.scan, staging.layout)}"
    files["nifti"] = f"{stem}.nii.gz"
    _link(staging.distort[0] / distorted.files["nifti"], folder / files["nifti"])
    for role in ("bval", "bvec"):
        if role in converted.files:
            # BIDS has no desc- for gradients: without it they apply to the image by inheritance
            files[role] = f"{base}/{scan.scan}.{role}"
            _link(staging.convert[0] / converted.files[role], folder / files[role])
    files["sidecar"] = f"{stem}.json"
    for role in companions.SUFFIXES:
        if role in converted.files:
            files[role] = f"{base}/{converted.files[role]}"
            _link(staging.convert[0] / converted.files[role], folder / files[role])
    scan = _sidecar(scan, converted, staging, folder / files["sidecar"])
    mask = mask_name(scan.scan) if datatype == "anat" else ""
    if mask and "mask" in distorted.files:
        files["mask"] = f"{base}/{mask}.nii.gz"
        _link(staging.distort[0] / distorted.files["mask"], folder / files["mask"])
        if staging.layout == "derivative":
            files["mask_sidecar"] = f"{base}/{mask}.json"
            write_json(folder / files["mask_sidecar"], _IMAGE_DERIVATIVE)
    for role, name in scan.files.items():
        # pictures from before distorting show the face: they stay where they are
        if not role.startswith("before"):
            files[role] = f"pictures/{name}"
            _link(staging.qc[0] / name, folder / files[role])
    return scan


def _sidecar(scan: Scan, converted: Scan, staging: Staging, target: Path) -> Scan:
    """Write the sidecar; the scan with measures of what it refers to."""
    from efface.convert import references
    from efface.convert.sidecar import deidentified
    from efface.scrub.table import OPTIONS

    sidecar = references.with_names(
        _read(staging.convert[0] / converted.files["sidecar"]),
        lambda name: image_name(name, staging.layout),
    )
    measures: Measures = {
        **scan.measures,
        "intended_for": references.intended(sidecar),
        "fields": references.labels(sidecar, references.IDENTIFIER),
        "field_sources": references.labels(sidecar, references.SOURCE),
        "references_dropped": converted.measures.get("references_dropped", 0),
        "tables_dropped": converted.measures.get("tables_dropped", []),
    }
    methods = [f"efface {__version__}", f"face: {scan.measures.get('method', 'unknown')}"]
    codes = ["113100", "113102", *sorted(OPTIONS[option][0] for option in staging.retain)]
    if staging.layout == "derivative":
        sidecar = _IMAGE_DERIVATIVE | sidecar
    write_json(target, deidentified(sidecar, methods, codes))
    return replace(scan, measures=measures)


def image_name(scan: str, layout: str) -> str:
    """BIDS stem of a released image.

    >>> image_name("sub-a_ses-b_T1w", "derivative")
    'sub-a_ses-b_desc-defaced_T1w'
    """
    entities, _, suffix = scan.rpartition("_")
    return f"{entities}_desc-defaced_{suffix}" if layout == "derivative" else scan


def mask_name(scan: str) -> str:
    """BIDS stem of the defacing mask of an anatomical scan; empty where BIDS has no such name.

    >>> mask_name("sub-a_ses-b_run-1_T1w")
    'sub-a_ses-b_run-1_mod-T1w_defacemask'
    """
    *entities, suffix = scan.split("_")
    if any(e.partition("-")[0] not in _MASK_ENTITIES for e in entities):
        return ""
    return "_".join((*entities, f"mod-{suffix}", "defacemask"))


def paths(scan: Scan, folder: Path) -> list[str]:
    """All files of a staged scan, relative to the candidate's folder, sorted."""
    out = []
    for name in scan.files.values():
        path = folder / name
        inner = path.rglob("*") if path.is_dir() else [path]
        out += [p.relative_to(folder).as_posix() for p in inner if p.is_file()]
    return sorted(out)


def discard(scan: Scan, folder: Path) -> Scan:
    """Delete the files of a staged scan; the scan without them."""
    for name in scan.files.values():
        path = folder / name
        if path.is_dir():
            shutil.rmtree(path)
        else:
            path.unlink(missing_ok=True)
    return replace(scan, files={})


def prune_empty(folder: Path) -> None:
    """Delete empty folders below ``folder``."""
    for path in sorted((p for p in folder.rglob("*") if p.is_dir()), reverse=True):
        if not any(path.iterdir()):
            path.rmdir()


def _link(source: Path, target: Path) -> None:
    """Make a hard link, or a copy where the file system has none."""
    target.parent.mkdir(parents=True, exist_ok=True)
    try:
        os.link(source, target)
    except FileNotFoundError:
        raise
    except OSError:
        shutil.copyfile(source, target)


def _read(path: Path) -> dict[str, Any]:
    content = json.loads(path.read_text())
    if not isinstance(content, dict):
        raise ValueError("a sidecar must hold a JSON object")
    return content
