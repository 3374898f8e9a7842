"""Distort: remove the face, irreversibly, from the NIfTI and the DICOM form of every scan.

:mod:`~efface.distort.region` computes the voxels to replace, :mod:`~efface.distort.methods` their
new values. :mod:`~efface.distort.mapping` and :mod:`~efface.distort.dicom` write the new values to
the DICOM files, and :mod:`~efface.distort.readback` compares these, converted again, with the
images.
"""

from __future__ import annotations

import dataclasses
import shutil
import sys
import traceback
from collections.abc import Iterable, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

import nibabel as nib
import numpy as np
from numpy.typing import NDArray

from efface import nifti
from efface.distort import dicom, frames, mapping, methods, mosaic, readback
from efface.distort.image import deface_image
from efface.distort.methods import METHODS
from efface.distort.region import Bool, coverage, parse_features
from efface.errors import of_machine
from efface.inventory.ocr import CLEAR
from efface.manifest import Scan, Stage
from efface.measures import Measures
from efface.pixels import NotDecoded
from efface.pixels import pixels as stored_pixels
from efface.pseudonym import Key
from efface.segment import segmentation
from efface.segment.labels import LABELS
from efface.segment.segmentation import Segmentation
from efface.session import Series, Session
from efface.status import (
    BRAIN_TOUCHED,
    DICOM_DIFFERS,
    DICOM_UNMAPPED,
    METHOD_KEEPS_FACE,
    NOT_CONVERTED,
    STAGE_FAILED,
    VOXELS_CHANGED_OUTSIDE,
    worst,
)

__all__ = [
    "METHODS",
    "coverage",
    "deface_image",
    "parse_features",
    "run",
]


@dataclass(frozen=True)
class _Distorted:
    """The image of a scan before and after, kept until its DICOM form is written."""

    scan: Scan
    before: nib.Nifti1Image
    after: nib.Nifti1Image
    mask: Bool
    gradients: tuple[list[list[float]], list[list[float]]] = ([], [])
    """Rows of numbers in the b-value and the b-vector file."""


def run(
    session: Session,
    convert: Stage,
    segment: Stage,
    scrub: Stage,
    folder: Path,
    key: Key,
    features: str | Iterable[str] = "face",
    method: str = methods.DEFAULT,
    log: Path | None = None,
) -> tuple[Scan, ...]:
    """Distort the scans of a session in both forms, NIfTI and DICOM.

    ``session``: the inventory's record; ``convert``, ``segment``, ``scrub``: folders and manifests
    of these stages; ``log``: file for tracebacks (restricted zone), else standard error. Writes
    ``folder/nifti/{scan}.nii.gz``, ``folder/nifti/{scan}_mask.nii.gz`` and
    ``folder/dicom/{series}/``. Returns one scan for each converted one, and one for each series of
    DICOM images (its DICOM form, named as the series). A scan that fails, here or before, leaves
    no file; the others go on. Raises :class:`EffaceError` for an unknown feature or method.
    """
    methods.method(method)
    task = _Task(folder, parse_features(features), method, key)
    labelled = {s.scan: s for s in segment[1].scans}
    scrubbed = {s.series: s for s in scrub[1].scans}
    series = {s.series: s for s in session.series if s.kind == "image"}
    by_series: dict[str, list[Scan]] = {name: [] for name in series}
    for scan in convert[1].scans:
        by_series.setdefault(scan.series, []).append(scan)
    out: list[Scan] = []
    # series by series: both forms need the same voxels, too many for a whole session
    for name, scans in by_series.items():
        images: list[Scan] = []
        done: list[_Distorted] = []
        for scan in scans:
            seed = key.seed("distort", session.session, scan.scan)
            labels = labelled.get(scan.scan)
            result, kept = _nifti(task, scan, labels, (convert[0], segment[0]), seed)
            images.append(result)
            done += [kept] if kept else []
        own = series.get(name)
        if session.source == "dicom" and own and own.status != "fail":
            failed = [s for s in images if s.status == "fail"]
            form = _dicom(task, own, (scrubbed.get(name), scrub[0]), done, failed)
            # a series without an image has the name of its DICOM form
            images = [s for s in images if s.scan != form.scan] + [form]
        out += images
    with log.open("a") if log else nullcontext(sys.stderr) as stream:
        for fault in task.faults:
            traceback.print_exception(fault, file=stream)
    return tuple(out)


@dataclass(frozen=True)
class _Task:
    """Parameters for all scans of a session, and the exceptions raised so far."""

    folder: Path
    features: tuple[str, ...]
    method: str
    key: Key
    faults: list[Exception] = field(default_factory=list)

    def failed(self, scan: Scan, fault: Exception, *written: str) -> Scan:
        """Return the failed scan, and delete the files written for it.

        The reason names only the type of the exception, because messages may hold paths.
        """
        self.faults.append(fault)
        for name in written:
            _remove(self.folder / name)
        return scan.mark("fail", f"{STAGE_FAILED}: distort ({type(fault).__name__})")


def _nifti(
    task: _Task, scan: Scan, labelled: Scan | None, folders: tuple[Path, Path], seed: int
) -> tuple[Scan, _Distorted | None]:
    """Distort one NIfTI and write it with its mask; ``folders``: of the images, of the labels."""
    result = dataclasses.replace(scan, files={}, measures={})
    if scan.status == "fail":
        return result, None
    if labelled is None:
        return result.mark("fail", f"{STAGE_FAILED}: no labels"), None
    result = _inherit(result, labelled)
    if result.status == "fail":
        return result, None
    image = f"nifti/{scan.scan}.nii.gz"
    files = {"nifti": image, "mask": f"nifti/{scan.scan}_mask.nii.gz"}
    try:
        before = nifti.load(folders[0] / scan.files["nifti"])
        seg = segmentation.read(folders[1], labelled, before)
        after, masks = deface_image(before, seg, task.features, task.method, seed)
        measures: Measures = {
            "method": task.method,
            "features": list(task.features),
            "depends_on_face": METHODS[task.method].depends_on_face,
            **_measure(before, after, seg, masks),
        }
        result = dataclasses.replace(result, measures=measures)
        if measures["brain_voxels_changed"]:
            return result.mark("fail", BRAIN_TOUCHED), None
        if measures["outside_changed"]:
            return result.mark("fail", VOXELS_CHANGED_OUTSIDE), None
        nifti.save(after, task.folder / image)
        mask = np.logical_or.reduce(masks)
        nifti.save(nifti.like(before, mask), task.folder / files["mask"])
        for n, own in enumerate(masks if len(masks) > 1 else (), 1):
            files[f"mask_{n}"] = f"nifti/{scan.scan}_mask-{n}.nii.gz"
            nifti.save(nifti.like(before, own), task.folder / files[f"mask_{n}"])
    except Exception as e:
        if of_machine(e):
            raise
        return task.failed(result, e, *files.values()), None
    if METHODS[task.method].depends_on_face:
        reason = f"{METHOD_KEEPS_FACE}: {task.method}"
        result = result.mark("review", reason)
    result = dataclasses.replace(result, files=files)
    gradients = scan.measures.get("gradients", ([], []))
    return result, _Distorted(result, before, after, mask, gradients)


def _dicom(
    task: _Task,
    series: Series,
    scrubbed: tuple[Scan | None, Path],
    done: list[_Distorted],
    failed: list[Scan],
) -> Scan:
    """Write the DICOM form of a series from its distorted images."""
    name = series.series
    scan = Scan(name, name, series.modality)
    headers, headers_folder = scrubbed
    if headers is None:
        return scan.mark("fail", f"{STAGE_FAILED}: no scrubbed headers")
    scan = _inherit(scan, headers)
    if scan.status == "fail":
        return scan
    for image in failed if not done else [d.scan for d in done]:
        scan = _inherit(scan, image)
    if not done:
        return scan if scan.status == "fail" else scan.mark("fail", NOT_CONVERTED)
    target = f"dicom/{name}"
    released = [_released(d) for d in done]
    try:
        measures, mapped = _write_series(
            headers.measures["sources"],
            headers_folder,
            task.folder / target,
            [_converted(d, image) for d, image in zip(done, released, strict=True)],
            key=task.key,
            says_so=task.features == ("face",) and any(d.mask.any() for d in done),
            no_text=series.text == CLEAR,
        )
        what = readback.check(task.folder / target, mapped, released)
    except (frames.UnmappedError, NotDecoded) as e:
        _remove(task.folder / target)
        scan = scan.mark("fail", f"{DICOM_UNMAPPED}: {e}")
        # frames of an image that failed before have no distorted voxels: add its reasons
        for image in failed:
            scan = _inherit(scan, image)
        return scan
    except Exception as e:
        if of_machine(e):
            raise
        return task.failed(scan, e, target)
    if what:
        _remove(task.folder / target)
        return scan.mark("fail", f"{DICOM_DIFFERS}: {what}")
    return dataclasses.replace(scan, files={"dicom": target}, measures=measures)


def _inherit(scan: Scan, other: Scan) -> Scan:
    """Return the scan with the status and reasons of another stage or form of it too."""
    new = tuple(r for r in other.reasons if r not in scan.reasons)
    return dataclasses.replace(
        scan, status=worst(scan.status, other.status), reasons=(*scan.reasons, *new)
    )


def _write_series(
    sources: list[list[str]],
    scrubbed: Path,
    target: Path,
    converted: list[mapping.ConvertedImage],
    key: Key,
    says_so: bool,
    no_text: bool,
) -> tuple[Measures, dict[str, tuple[mapping.MappedFrame, ...]]]:
    """Write each scrubbed file with the distorted pixels of its raw one.

    A mosaic whose scrubbed header no longer holds the positions of its tiles becomes one file a
    slice, with UIDs from ``key``. ``says_so``: state in the headers that the face was removed;
    ``no_text``: and that the pictures were searched for text and have none. Returns measures and,
    by name of the file, its mapped frames.
    """
    from efface.scrub import state_face_removed

    replaced = pixels = 0
    mapped: dict[str, tuple[mapping.MappedFrame, ...]] = {}
    derived = any(c.mask.any() for c in converted)
    matcher = mapping.FrameMatcher(converted)
    for source, scrubbed_name in sources:
        raw = frames.read(Path(source))
        values = stored_pixels(raw)
        new = mapping.distorted_pixels(raw, values, matcher)
        if not np.array_equal(new.values[~new.mask], values[~new.mask]):
            raise frames.UnmappedError("pixels outside the face changed")
        path = target / f"{len(mapped) + 1:06d}.dcm"
        annotate = partial(state_face_removed, no_text=no_text) if says_so else None
        dicom.write(scrubbed / scrubbed_name, path, raw, new.values, annotate, derived)
        written = frames.read(path) if frames.is_mosaic(raw) else None
        if written is None or mosaic.has_tile_positions(written):
            mapped[path.name] = new.frames
        else:
            path.unlink()
            for ds, slice_frame in mosaic.split(written, new.frames, key, len(mapped)):
                path = target / f"{len(mapped) + 1:06d}.dcm"
                path.write_bytes(dicom.encode(ds))
                mapped[path.name] = (slice_frame,)
        replaced += int(new.mask.sum())
        pixels += new.mask.size
    measures: Measures = {
        "files": len(mapped),
        "region_voxels": replaced,
        "region_fraction": round(replaced / max(pixels, 1), 6),
        "outside_changed": 0,
    }
    return measures, mapped


def _released(done: _Distorted) -> readback.Image:
    """The NIfTI that is released, as a reader of the DICOM should get it."""
    bval, bvec = done.gradients
    # where frames differ in scale, DICOM holds the new voxels rounded to the frame's slope
    floats = nifti.stored(done.after).dtype.kind == "f"
    excluded = done.mask if floats else None
    return readback.from_nifti(done.after, bval[0] if bval else (), bvec, excluded)


def _converted(done: _Distorted, image: readback.Image) -> mapping.ConvertedImage:
    def four(voxels: NDArray[np.generic]) -> NDArray[np.generic]:
        return voxels if voxels.ndim == 4 else voxels[..., None]

    return mapping.ConvertedImage(
        four(nifti.stored(done.before)),
        four(nifti.stored(done.after)),
        done.mask,
        np.asarray(done.before.affine, dtype=np.float64),
        *nifti.scaling(done.after),
        image.gradients,
    )


def _measure(
    before: nib.Nifti1Image, after: nib.Nifti1Image, seg: Segmentation, masks: Sequence[Bool]
) -> Measures:
    """Count the voxels that changed, compared by their bytes, NaN included.

    Coverage is the lowest of all positions of the head.
    """
    old, new = nifti.stored(before), nifti.stored(after)
    bits = np.dtype(f"u{old.dtype.itemsize}")
    in_brain = outside = 0
    covered: dict[str, float] = {}
    for one, mask in zip(seg.positions, masks, strict=True):
        changed = np.zeros(mask.shape, dtype=bool)
        for t in one.volumes or range(1 if old.ndim == 3 else old.shape[3]):
            a, b = (old, new) if old.ndim == 3 else (old[..., t], new[..., t])
            changed |= a.view(bits) != b.view(bits)
        in_brain += int((changed & (one.labels == LABELS["brain"])).sum())
        outside += int((changed & ~mask).sum())
        for name, share in coverage(one.labels, mask).items():
            covered[name] = round(min(share, covered.get(name, 1.0)), 6)
    mask = np.logical_or.reduce(masks)
    return {
        "region_voxels": int(mask.sum()),
        "region_fraction": round(float(mask.mean()), 6),
        "brain_voxels_changed": in_brain,
        "outside_changed": outside,
        "coverage": covered,
    }


def _remove(path: Path) -> None:
    if path.is_dir():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)
