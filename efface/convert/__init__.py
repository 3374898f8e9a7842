"""Convert raw DICOM, or a BIDS source, to NIfTI with a sidecar under a BIDS name.

The raw files are converted, because dcm2niix needs private elements that the scrub removes. The
output is limited in three ways: names come from rules (:mod:`names`), sidecars and headers from
allow-lists (:mod:`sidecar`, :mod:`header`).
"""

from __future__ import annotations

import logging
import math
import shutil
import subprocess
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np

from efface import nifti
from efface.convert import companions, dcm2niix, header, names, references, sidecar
from efface.errors import EffaceError, of_machine
from efface.manifest import Scan, write_json
from efface.measures import Measures
from efface.pseudonym import Key
from efface.session import Series, Session
from efface.status import (
    CONVERTER_ERROR,
    NO_BIDS_NAME,
    NOT_CONVERTED,
    SLICES_UNEVEN,
    VOXELS_LOST,
    Status,
)

log = logging.getLogger(__name__)

TIMEOUT = 1800.0
"""Time limit of dcm2niix for one series, in seconds."""


@dataclass(frozen=True)
class _Image:
    """A converted image that does not have a name yet."""

    series: Series
    path: Path
    raw: Mapping[str, Any]
    """The original sidecar."""
    shape: tuple[int, ...]
    affine: np.ndarray[Any, np.dtype[np.float64]]
    gradients: tuple[list[list[float]], list[list[float]]]
    """Rows of numbers in the b-value and the b-vector file."""
    facts: names.Facts
    status: Status = "pass"
    reasons: tuple[str, ...] = ()
    tables: Mapping[str, str] = field(default_factory=dict)
    """Cleaned text of the tables beside an image of a BIDS source, by suffix."""
    unusable: tuple[str, ...] = ()
    """Suffixes of the tables that are not usable."""


def run(
    session: Session,
    folder: Path,
    key: Key,
    rules: Sequence[Mapping[str, Any]] | None = None,
    timeout: float = TIMEOUT,
) -> tuple[Scan, ...]:
    """Convert the image series of a session into ``folder``.

    Writes ``{scan}.nii.gz``, ``.json`` and, for diffusion, ``.bval`` and ``.bvec``. Returns one
    :class:`Scan` for each image, and one with status fail for each series without images.
    ``measures`` are ``datatype`` (empty: no place in BIDS), ``source_series``,
    ``frame_of_reference``, ``shape``, ``spacing`` in mm, and, if there are any, ``gradients`` (rows
    of b-values and of directions) and ``tables_dropped``. ``rules`` are those of the setting
    ``names``. Raises :class:`EffaceError` for an invalid rule. A series that cannot be converted
    does not stop the others.
    """
    table = names.read_rules(rules)
    work = folder / ".work"
    work.mkdir(parents=True)
    images: list[_Image] = []
    scans: list[Scan] = []
    for series in session.series:
        if series.kind != "image" or series.status == "fail":
            continue
        try:
            if session.source == "bids":
                converted = _from_bids(series)
            else:
                converted = _from_dicom(series, work / series.series, timeout)
        except subprocess.TimeoutExpired:
            scans.append(_failed(series, f"dcm2niix took longer than {timeout:.0f} s"))
        except Exception as e:  # no file may stop the other series
            if of_machine(e):
                raise
            log.exception("%s", series.series)
            scans.append(_failed(series, "the files could not be read"))
        else:
            images += [i for i in converted if not isinstance(i, Scan)]
            scans += [s for s in converted if isinstance(s, Scan)]
    images.sort(key=_acquired)
    places = names.numbered([_place(image, table, key) for image in images])
    linked = _linked(images, places, session.session)
    for image, place, (refs, dropped) in zip(images, places, linked, strict=True):
        try:
            scan = _write(image, place, session.session, folder, refs)
            if dropped:
                scan = replace(scan, measures={**scan.measures, "references_dropped": dropped})
            scans.append(scan)
        except Exception as e:
            if of_machine(e):
                raise
            log.exception("%s", image.series.series)
            scans.append(_failed(image.series, "the image could not be written"))
    shutil.rmtree(work)
    return tuple(sorted(_once(scans), key=lambda s: s.scan))


def _linked(
    images: Sequence[_Image], places: Sequence[names.Name], session: str
) -> list[tuple[dict[str, Any], int]]:
    """References of each image with new names, and the number of dropped references."""
    base = session.replace("_", "/")
    targets = {
        image.series.uid: f"{base}/{place.datatype}/{place.stem(session)}.nii.gz"
        for image, place in zip(images, places, strict=True)
        if place.datatype and image.series.bids
    }
    fields = references.fields(image.raw for image in images)
    return [
        references.renamed(image.raw, image.series.uid.partition("/")[0], targets, fields)
        for image in images
    ]


def _once(scans: Iterable[Scan]) -> list[Scan]:
    """One scan for each name, because the planes of a localizer fail separately."""
    out: dict[str, Scan] = {}
    for scan in scans:
        known = out.setdefault(scan.scan, scan)
        reasons = tuple(dict.fromkeys((*known.reasons, *scan.reasons)))
        out[scan.scan] = replace(known, reasons=reasons)
    return list(out.values())


def _failed(series: Series, why: str) -> Scan:
    scan = Scan(
        scan=series.series,
        series=series.series,
        modality=modality(series),
        reasons=series.reasons,
        measures=_measures(series),
    )
    return scan.mark("fail", f"{NOT_CONVERTED}: {why}")


def modality(series: Series) -> str:
    """BIDS suffix or DICOM modality of a series without images.

    Only known suffixes are used, because any other could be the name of a person.
    """
    own = series.bids
    if own and (own.datatype, own.suffix) in names.ENTITIES:
        return own.suffix
    return series.modality


def _measures(series: Series) -> Measures:
    return {
        "datatype": "",
        "source_series": series.series,
        "frame_of_reference": series.frame_of_reference,
    }


def _from_dicom(series: Series, work: Path, timeout: float) -> list[_Image | Scan]:
    made = dcm2niix.convert(series.files, work, timeout)
    log.info("%s: dcm2niix ended with %d\n%s", series.series, made.code, made.text)
    if made.code < 0:
        return [_failed(series, "dcm2niix crashed")]
    if not made.images:
        return [_failed(series, "dcm2niix made no image")]
    status = series.status
    reasons = list(series.reasons)
    if made.code:
        reasons.append(CONVERTER_ERROR)
    if made.uneven:
        reasons.append(SLICES_UNEVEN)
    out: list[_Image | Scan] = []
    for one in made.images:
        try:
            out.append(_image(series, one.nifti, one.sidecar, one.bval, one.bvec))
        except EffaceError as e:
            # the message starts with the path
            out.append(_failed(series, str(e).removeprefix(f"{one.nifti}: ")))
    images = [i for i in out if isinstance(i, _Image)]
    expected = _voxels(series)
    there = sum(math.prod(i.shape) for i in images)
    if images and expected and there != expected:
        reasons.append(f"{VOXELS_LOST}: {there} of {expected}")
    if len(reasons) > len(series.reasons):
        status = "review" if status == "pass" else status
    echoes = float(len({i.facts.te for i in images if i.facts.te is not None}) or 1)
    partner = "fieldmap" if any(i.facts.part == "fieldmap" for i in images) else ""
    return [
        replace(
            i,
            status=status,
            reasons=tuple(reasons),
            facts=replace(i.facts, echoes=echoes, partner=partner),
        )
        if isinstance(i, _Image)
        else i
        for i in out
    ]


def _voxels(series: Series) -> int:
    """Number of voxels of a series, or 0 if the header does not determine it."""
    attributes = series.attributes
    if "MOSAIC" in [str(v).upper() for v in attributes.get("ImageType", [])]:
        return 0
    try:
        frames = len(series.files) * int(attributes.get("NumberOfFrames", 1))
        return frames * int(attributes["Rows"]) * int(attributes["Columns"])
    except (KeyError, TypeError, ValueError):
        return 0


def _from_bids(series: Series) -> list[_Image | Scan]:
    image, *others = (Path(p) for p in series.files)
    by_kind = {p.suffix: p for p in others}
    texts = {
        p.name.removesuffix(".tsv").rpartition("_")[2]: sidecar.text(p)
        for p in others
        if p.suffix == ".tsv"
    }
    tables = {suffix: companions.cleaned(suffix, text) for suffix, text in texts.items()}
    try:
        raw = sidecar.merged(p for p in others if p.suffix == ".json")
        converted = _image(series, image, raw, by_kind.get(".bval"), by_kind.get(".bvec"))
        unusable = tuple(suffix for suffix, table in tables.items() if not table)
        return [
            replace(converted, tables={k: v for k, v in tables.items() if v}, unusable=unusable)
        ]
    except EffaceError as e:
        if of_machine(e):
            raise
        return [_failed(series, str(e).removeprefix(f"{image}: "))]


def _image(
    series: Series,
    path: Path,
    raw: Mapping[str, Any],
    bval: Path | None,
    bvec: Path | None,
) -> _Image:
    img = nifti.load(path)
    shape = nifti.dimensions(img.shape)
    gradients = (numbers(bval), numbers(bvec))
    b_values = [b for row in gradients[0] for b in row]
    affine = np.asarray(img.affine, dtype=np.float64)
    known = names.facts(series.attributes, raw, shape, affine, b_values)
    return _Image(series, path, raw, shape, affine, gradients, known, series.status, series.reasons)


def numbers(path: Path | None) -> list[list[float]]:
    """Rows of a .bval or .bvec file; empty without a file.

    Raises :class:`EffaceError` for values that are not finite numbers.
    """
    if path is None:
        return []
    try:
        rows = [[float(v) for v in line.split()] for line in sidecar.text(path).splitlines()]
    except ValueError as e:
        raise EffaceError(f"its {path.suffix} file has a value that is not a number") from e
    if not all(math.isfinite(v) for row in rows for v in row):
        raise EffaceError(f"its {path.suffix} file has a number that is not finite")
    return [row for row in rows if row]


def _acquired(image: _Image) -> tuple[str, int, float, str]:
    """Sort key in order of acquisition: time, if known, then series number."""
    attributes = image.series.attributes
    moment = attributes.get("AcquisitionDateTime") or "".join(
        str(attributes.get(k, "")) for k in ("AcquisitionDate", "AcquisitionTime")
    )
    number = image.series.number
    series_number = number if isinstance(number, int) else 1 << 31
    echo = image.facts.echo or 0.0
    return str(moment)[:21], series_number, echo, f"{image.series.series} {image.path.name}"


def _place(image: _Image, rules: Sequence[names.Rule], key: Key) -> names.Name:
    own = image.series.bids
    if own is None:
        return names.name(image.facts, rules)
    subject = own.entities.get("sub", "")
    return names.own_name(own.datatype, own.suffix, own.entities, key, subject)


def _write(
    image: _Image, place: names.Name, session: str, folder: Path, refs: Mapping[str, Any]
) -> Scan:
    kept = sidecar.consistent(sidecar.allowed({**image.raw, **refs}), image.shape[2])
    for key in references.KEYS - refs.keys():
        kept.pop(key, None)
    kept.pop("TaskName", None)
    if "task" in place.entities:
        # the validator requires TaskName to equal the label; the original may be free text
        kept["TaskName"] = place.entities["task"]
    if place.entities.get("part") == "phase":
        # the validator requires units, and scanners store phase in arbitrary units
        kept.setdefault("Units", "arbitrary")
    counts = [len(rows[0]) if rows else 0 for rows in image.gradients]
    img = header.clean(nifti.load(image.path))
    img = nifti.without_singletons(img, names.least_dimensions(place))
    context = max(image.tables.get("aslcontext", "").count("\n") - 1, 0)
    why = place.why or names.incomplete(place, kept, img.shape, counts, context)
    datatype = "" if why else place.datatype
    stem = place.stem(session)
    if place.suffix == "bold" and isinstance(kept.get("RepetitionTime"), (int, float)):
        img = header.with_repetition_time(img, kept["RepetitionTime"])
    files = {"nifti": f"{stem}.nii.gz", "sidecar": f"{stem}.json"}
    nifti.save(img, folder / files["nifti"])
    write_json(folder / files["sidecar"], kept)
    if place.suffix == "dwi" and all(counts):
        for role, rows in zip(("bval", "bvec"), image.gradients, strict=True):
            files[role] = f"{stem}.{role}"
            (folder / files[role]).write_text(_rows(rows))
    for suffix, text in image.tables.items():
        table = companions.name(session, place.entities, names.ORDER, suffix)
        # the echoes of a series share one table, which the first one writes
        if not (folder / table).exists():
            files[suffix] = table
            (folder / table).write_text(text)
    spacing = nib.affines.voxel_sizes(img.affine)
    scan = Scan(
        scan=stem,
        series=image.series.series,
        modality=place.suffix,
        status=image.status,
        reasons=image.reasons,
        files=files,
        measures={
            **_measures(image.series),
            "datatype": datatype,
            "shape": [int(n) for n in img.shape],
            "spacing": [round(float(s), 4) for s in spacing],
            **({"gradients": image.gradients} if all(counts) else {}),
            **({"tables_dropped": list(image.unusable)} if image.unusable else {}),
        },
    )
    return scan.mark("review", f"{NO_BIDS_NAME}: {why}") if why else scan


def _rows(rows: Iterable[Sequence[float]]) -> str:
    return "".join(" ".join(f"{v:.10g}" for v in row) + "\n" for row in rows)
