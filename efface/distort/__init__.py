"""Distort: the face goes, from the NIfTI and from the DICOM form of every scan, for good.

:mod:`~efface.distort.region` says which voxels, :mod:`~efface.distort.methods` what takes their
place, :mod:`~efface.distort.dicom` brings the new voxels back into the DICOM files, and
:mod:`~efface.distort.readback` converts these again to see that a reader gets the same images.
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
from typing import Any, Protocol

import nibabel as nib
import numpy as np
from numpy.typing import NDArray

from efface import nifti
from efface.distort import dicom, methods, mosaic, readback
from efface.distort.folded import folded, spare_brain_below
from efface.distort.methods import METHODS, replace
from efface.distort.region import Bool, coverage, parse_features, region, spare_brain
from efface.distort.unseen import add_unseen
from efface.errors import EffaceError, of_machine
from efface.inventory.ocr import CLEAR
from efface.manifest import Manifest, Scan
from efface.pixels import NotDecoded
from efface.pixels import pixels as stored_pixels
from efface.pseudonym import Key
from efface.segment import orientation, positions, wrap
from efface.segment import pose as poses
from efface.segment.labels import LABELS
from efface.segment.organs import voxel_sizes
from efface.segment.pose import Head
from efface.segment.positions import Position
from efface.segment.volumes import only
from efface.status import (
    BRAIN_TOUCHED,
    DICOM_DIFFERS,
    DICOM_UNMAPPED,
    NOT_CONVERTED,
    REVIEW,
    STAGE_FAILED,
    worst,
)

__all__ = [
    "METHODS",
    "Stage",
    "coverage",
    "deface_image",
    "deface_positions",
    "parse_features",
    "region",
    "replace",
    "run",
]

Stage = tuple[Path, Manifest]
"""What an earlier stage left: its folder and its manifest."""


class Found(Protocol):
    """What :func:`deface_positions` needs of a segmentation."""

    @property
    def labels(self) -> NDArray[np.uint8]:
        """On the image's grid (X, Y, Z)."""

    @property
    def head(self) -> Head | None:
        """How the head lies by the labels, where that is known; in the rolled image."""

    @property
    def roll(self) -> wrap.Roll:
        """How the image is rolled to undo a phase wrap (:mod:`efface.segment.wrap`)."""

    @property
    def negative(self) -> bool:
        """Whether the face was found in the negative of the image."""

    @property
    def volumes(self) -> tuple[int, ...]:
        """Indices of the volumes that this holds for; empty for all of them."""

    @property
    def moved(self) -> tuple[Found, ...]:
        """The same for each further position of the head in a 4D image."""


@dataclass(frozen=True)
class _Distorted:
    """A scan's image before and after, kept until its DICOM form is written."""

    scan: Scan
    before: nib.Nifti1Image
    after: nib.Nifti1Image
    mask: Bool
    gradients: tuple[list[list[float]], list[list[float]]] = ([], [])
    """Rows of numbers in the b-value and the b-vector file."""


def deface_image(
    img: nib.Nifti1Image,
    labels: NDArray[np.uint8],
    features: str | Iterable[str] = "face",
    method: str = methods.DEFAULT,
    seed: int = 0,
    head: Head | None = None,
    roll: wrap.Roll = wrap.AS_IT_IS,
    negative: bool = False,
    volumes: tuple[int, ...] = (),
) -> tuple[nib.Nifti1Image, Bool]:
    """The image without its face, and the mask of what was replaced.

    ``img``: 3D or 4D; ``labels``: on its grid, shape ``img.shape[:3]``, as
    :data:`efface.segment.labels.LABELS` numbers them; ``features``: ``face``, or any of eyes,
    nose, ears, mouth; ``seed``: from :meth:`efface.pseudonym.Key.seed`; ``head``: what the labels
    show, where that is known; ``roll``: undoes a phase wrap (:mod:`efface.segment.wrap`), ``head``
    is of the rolled image; ``negative``: air is brighter than the head; ``volumes``: indices of the
    volumes of a 4D image to replace it in, empty for all. Header geometry, dtype and scaling are
    kept and every voxel outside the mask is the same to the bit.

    Raises :class:`EffaceError` if labels do not fit, or feature or method is unknown.
    """
    if labels.shape != img.shape[:3]:
        raise EffaceError(f"labels of shape {labels.shape} do not fit an image of {img.shape}")
    whole, affine = wrap.rolled(labels, roll), wrap.affine(img.affine, roll)
    mask = region(whole, affine, features)
    if head is None:
        head = poses.head(whole, orientation.affine(affine, orientation.found(whole, affine)))
    add_unseen(mask, whole, head, features)
    rest = folded(wrap.image(only(img, volumes), roll), whole, mask, head, negative)
    if rest is not None:
        mask |= rest.region
    spare_brain_below(mask, head, roll)
    mask = wrap.rolled(mask, wrap.back(roll))
    spare_brain(mask, labels, voxel_sizes(img.affine))
    voxels = replace(nifti.stored(img), mask, method, seed, labels, img.affine, volumes)
    return nifti.with_stored(img, voxels), mask


def deface_positions(
    img: nib.Nifti1Image,
    seen: Found,
    features: str | Iterable[str] = "face",
    method: str = methods.DEFAULT,
    seed: int = 0,
) -> tuple[nib.Nifti1Image, tuple[Bool, ...]]:
    """The image without its face in any position of the head, and a mask for each position.

    ``seen``: the first position, with the others in ``moved``. In each volume that is replaced
    which the mask of its own position holds, so that no volume loses brain to another's face.
    Raises as :func:`deface_image`.
    """
    masks = []
    for one in (seen, *seen.moved):
        how = (features, method, seed, one.head, one.roll, one.negative, one.volumes)
        img, mask = deface_image(img, one.labels, *how)
        masks.append(mask)
    return img, tuple(masks)


def run(
    session: dict[str, Any],
    convert: Stage,
    segment: Stage,
    scrub: Stage,
    folder: Path,
    key: Key,
    features: str | Iterable[str] = "face",
    method: str = methods.DEFAULT,
    log: Path | None = None,
) -> tuple[Scan, ...]:
    """Distort a session's scans: both forms, NIfTI and DICOM.

    ``session``: as inventory describes it; ``convert``, ``segment``, ``scrub``: what these stages
    left; ``log``: where faults go in full (restricted zone), else standard error. Writes
    ``folder/nifti/{scan}.nii.gz``, ``folder/nifti/{scan}_mask.nii.gz`` and
    ``folder/dicom/{series}/``. Returns one scan for each converted one, and one for each series of
    DICOM images (its DICOM form, named as the series). A scan that fails, here or before, leaves
    no file; the others go on. Raises :class:`EffaceError` for an unknown feature or method.
    """
    methods.method(method)
    task = _Task(folder, parse_features(features), method, key)
    labelled = {s.scan: s for s in segment[1].scans}
    scrubbed = {s.series: s for s in scrub[1].scans}
    series = {s["series"]: s for s in session["series"] if s["kind"] == "image"}
    by_series: dict[str, list[Scan]] = {name: [] for name in series}
    for scan in convert[1].scans:
        by_series.setdefault(scan.series, []).append(scan)
    out: list[Scan] = []
    # one series after the other: both forms need the same voxels, and a session's may be many
    for name, scans in by_series.items():
        images: list[Scan] = []
        done: list[_Distorted] = []
        for scan in scans:
            seed = key.seed("distort", session["session"], scan.scan)
            labels = labelled.get(scan.scan)
            result, kept = _nifti(task, scan, labels, (convert[0], segment[0]), seed)
            images.append(result)
            done += [kept] if kept else []
        of = series.get(name, {"status": "fail"})
        if session["source"] == "dicom" and of["status"] != "fail":
            failed = [s for s in images if s.status == "fail"]
            form = _dicom(task, of, (scrubbed.get(name), scrub[0]), done, failed)
            # a series that yielded no image is already named as its DICOM form is
            images = [s for s in images if s.scan != form.scan] + [form]
        out += images
    with log.open("a") if log else nullcontext(sys.stderr) as stream:
        for fault in task.faults:
            traceback.print_exception(fault, file=stream)
    return tuple(out)


@dataclass(frozen=True)
class _Task:
    """What holds for all scans of a session, and the faults met on the way."""

    folder: Path
    features: tuple[str, ...]
    method: str
    key: Key
    faults: list[Exception] = field(default_factory=list)

    def failed(self, scan: Scan, fault: Exception, *written: str) -> Scan:
        """The scan failed, what was written of it removed.

        The reason names only the kind of fault, because messages may hold paths.
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
        seen = positions.read(folders[1], labelled, before)
        seen = _laid(seen, before)
        after, masks = deface_positions(before, seen, task.features, task.method, seed)
        measures = {
            "method": task.method,
            "features": list(task.features),
            "depends_on_face": METHODS[task.method].depends_on_face,
            **_measure(before, after, seen, masks),
        }
        result = dataclasses.replace(result, measures=measures)
        if measures["brain_voxels_changed"]:
            return result.mark("fail", BRAIN_TOUCHED), None
        if measures["outside_changed"]:
            return result.mark("fail", f"{STAGE_FAILED}: voxels outside the face changed"), None
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
        reason = f"{REVIEW}: method {task.method} keeps something of the face"
        result = result.mark("review", reason)
    result = dataclasses.replace(result, files=files)
    gradients = scan.measures.get("gradients", ([], []))
    return result, _Distorted(result, before, after, mask, gradients)


def _dicom(
    task: _Task,
    series: dict[str, Any],
    scrubbed: tuple[Scan | None, Path],
    done: list[_Distorted],
    failed: list[Scan],
) -> Scan:
    """Write the DICOM form of a series from its distorted images."""
    name = series["series"]
    scan = Scan(name, name, series.get("modality", ""))
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
        measures, places = _write_series(
            headers.measures["sources"],
            headers_folder,
            task.folder / target,
            [_converted(d, image) for d, image in zip(done, released, strict=True)],
            key=task.key,
            says_so=task.features == ("face",) and any(d.mask.any() for d in done),
            no_text=series.get("text") == CLEAR,
        )
        what = readback.check(task.folder / target, places, released)
    except (dicom.Unmapped, NotDecoded) as e:
        _remove(task.folder / target)
        scan = scan.mark("fail", f"{DICOM_UNMAPPED}: {e}")
        # frames of an image that failed before have no distorted voxels: say why
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
    """The scan with what another stage or form of it has said."""
    new = tuple(r for r in other.reasons if r not in scan.reasons)
    return dataclasses.replace(
        scan, status=worst(scan.status, other.status), reasons=(*scan.reasons, *new)
    )


def _write_series(
    sources: list[list[str]],
    scrubbed: Path,
    target: Path,
    converted: list[dicom.Converted],
    key: Key,
    says_so: bool,
    no_text: bool,
) -> tuple[dict[str, Any], dict[str, tuple[dicom.Placed, ...]]]:
    """Write each scrubbed file with the distorted pixels of its raw one.

    A mosaic whose scrubbed header no longer says how its tiles lie becomes one file a slice;
    ``key`` gives these their UIDs. ``says_so``: the headers shall state that the face was removed;
    ``no_text``: and that the pictures were searched for text and have none. Returns measures and,
    by name of the file, where its frames lie in the images.
    """
    from efface.scrub import state_face_removed

    replaced = pixels = 0
    places: dict[str, tuple[dicom.Placed, ...]] = {}
    derived = any(c.mask.any() for c in converted)
    for source, scrubbed_name in sources:
        raw = dicom.read(Path(source))
        values = stored_pixels(raw)
        new, mask, found = dicom.placed(raw, values, converted)
        if not np.array_equal(new[~mask], values[~mask]):
            raise dicom.Unmapped("pixels outside the face changed")
        where = target / f"{len(places) + 1:06d}.dcm"
        state = partial(state_face_removed, no_text=no_text) if says_so else None
        dicom.write(scrubbed / scrubbed_name, where, raw, new, state, derived)
        places[where.name] = found
        if mosaic.is_mosaic(raw) and mosaic.is_lost(written := dicom.read(where)):
            where.unlink()
            del places[where.name]
            for one, place in mosaic.split(written, found, key, len(places)):
                where = target / f"{len(places) + 1:06d}.dcm"
                where.write_bytes(dicom.encoded(one))
                places[where.name] = (place,)
        replaced += int(mask.sum())
        pixels += mask.size
    measures = {
        "files": len(places),
        "region_voxels": replaced,
        "region_fraction": round(replaced / max(pixels, 1), 6),
        "outside_changed": 0,
    }
    return measures, places


def _released(done: _Distorted) -> readback.Image:
    """The NIfTI that is released, as a reader of the DICOM should get it."""
    bval, bvec = done.gradients
    # where frames differ in scale, DICOM holds the new voxels rounded to the frame's slope
    floats = nifti.stored(done.after).dtype.kind == "f"
    free = done.mask if floats else None
    return readback.image(done.after, bval[0] if bval else (), bvec, free)


def _converted(done: _Distorted, image: readback.Image) -> dicom.Converted:
    def four(voxels: NDArray[np.generic]) -> NDArray[np.generic]:
        return voxels if voxels.ndim == 4 else voxels[..., None]

    return dicom.Converted(
        done.scan.scan,
        four(nifti.stored(done.before)),
        four(nifti.stored(done.after)),
        done.mask,
        np.asarray(done.before.affine, dtype=np.float64),
        *nifti.scaling(done.after),
        image.gradients,
    )


def _laid(seen: Position, img: nib.Nifti1Image) -> Position:
    """The positions with how the head lies in each, its turn undone."""

    def laid(one: Position) -> Position:
        straight = orientation.affine(wrap.affine(img.affine, one.roll), one.turn)
        head = poses.head(wrap.rolled(one.labels, one.roll), straight)
        return dataclasses.replace(one, head=head)

    return dataclasses.replace(laid(seen), moved=tuple(map(laid, seen.moved)))


def _measure(
    before: nib.Nifti1Image, after: nib.Nifti1Image, seen: Position, masks: Sequence[Bool]
) -> dict[str, Any]:
    """Counts that prove what changed; voxels are compared by their bytes, NaN included.

    Coverage is the least of all positions of the head.
    """
    old, new = nifti.stored(before), nifti.stored(after)
    bits = np.dtype(f"u{old.dtype.itemsize}")
    in_brain = outside = 0
    covered: dict[str, float] = {}
    for one, mask in zip((seen, *seen.moved), masks, strict=True):
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
