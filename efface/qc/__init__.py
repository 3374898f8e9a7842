"""Quality control: measures, pictures and the verdict on every scan.

:func:`run` judges each scan of a session as it would be released, from the voxels, and draws it
before and after distorting. Pictures from before show the face: they stay in the restricted zone.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Protocol

import nibabel as nib
import numpy as np
from numpy.typing import NDArray

from efface import nifti
from efface.errors import of_machine
from efface.manifest import Manifest, Scan, Stage
from efface.measures import Figure, Measures, OrganMeasures, with_figures
from efface.qc import gate
from efface.qc.gate import Verdict
from efface.segment import segmentation, volumes, wrap
from efface.segment.labels import FEATURES, LABELS
from efface.segment.segmentation import Segmentation
from efface.session import Session
from efface.status import (
    HEAD_NOT_FOUND,
    NOT_A_HEAD,
    NOT_CONVERTED,
    OTHER_SCAN_NOT_PASSED,
    SCAN_LOST,
    STAGE_FAILED,
    Status,
    worst,
)

NAMED = 6
"""Most volumes that a reason names."""

__all__ = ["Segmentation", "Segmenter", "Verdict", "gate", "judge", "run"]


class Segmenter(Protocol):
    """What labels a defaced image again; :class:`efface.segment.Segmenter` outside tests."""

    def resegment(self, img: nib.Nifti1Image, before: Segmentation, /) -> NDArray[np.uint8]:
        """Labels of a defaced image, as :meth:`efface.segment.Segmenter.resegment` gives them."""


def judge(
    before: nib.Nifti1Image,
    after: nib.Nifti1Image,
    seg: Segmentation,
    masks: Sequence[NDArray[np.bool_]],
    features: str | Collection[str],
    method: str,
    segmenter: Segmenter,
    known: Sequence[OrganMeasures] = (),
) -> tuple[Status, tuple[str, ...], dict[str, Figure]]:
    """Return status, reasons and measures of one defaced image.

    ``seg``: segmentation of ``before``; ``masks``: the replaced regions, one for each position
    of the head in it; ``known``: organs that another scan of the session shows whole.
    """
    verdict = _verdict(before, after, seg, masks, features, method, segmenter, known)
    return verdict.status, verdict.reasons, verdict.measures


def run(
    session: Session,
    convert: Stage,
    segment: Stage,
    distort: Stage,
    folder: Path,
    segmenter: Segmenter,
    features: str | Collection[str] = FEATURES,
    method: str = "noise",
) -> tuple[Scan, ...]:
    """Judge the scans of a session.

    ``session``: the inventory's record. NIfTI scans get ``before_*``, ``after_*`` and ``slices``
    pictures in ``folder``; a series in DICOM (its scan named as the series) takes the most cautious
    status of the NIfTI scans made from it, beside its own reasons.
    """
    series = {s.series: s for s in session.series}
    stages = [convert, segment, distort]
    names = list(dict.fromkeys(s.scan for _, m in (convert, distort) for s in m.scans))
    images: list[Scan] = []
    forms: list[Scan] = []
    for name in names:
        records = [{s.scan: s for s in m.scans}.get(name) for _, m in stages]
        scan = _joined([s for s in records if s is not None], session.source)
        origin = series.get(scan.series)
        if origin and origin.status != "pass":
            for reason in origin.reasons or (f"{STAGE_FAILED}: inventory",):
                scan = _once(scan, origin.status, reason)
        if scan.measures["form"] == "dicom":
            forms.append(scan)
            continue
        try:
            scan = _image(scan, records, stages, folder, segmenter, features, method)
        except Exception as e:
            if of_machine(e):
                raise
            # one scan that cannot be judged must not take its neighbours along
            scan = _once(scan, "fail", f"{STAGE_FAILED}: quality control ({type(e).__name__})")
        images.append(scan)
    images = _as_their_sources(images, segment[1])
    return (*images, *(_form(f, images) for f in forms))


def _joined(records: list[Scan], source: str) -> Scan:
    """Join the records of a scan in several stages: all reasons, the most cautious status.

    In a DICOM source a scan with the name of its series is the DICOM form of the series; a BIDS
    source has none.
    """
    last = records[-1]
    reasons = tuple(dict.fromkeys(r for s in records for r in s.reasons))
    modality = next((s.modality for s in records if s.modality), "")
    datatype = next((s.measures["datatype"] for s in records if "datatype" in s.measures), "")
    return replace(
        last,
        modality=modality,
        status=worst(*(s.status for s in records)),
        reasons=reasons,
        files={},
        measures={
            "form": "dicom" if source == "dicom" and last.scan == last.series else "nifti",
            "datatype": datatype,
        },
    )


def _once(scan: Scan, status: Status, reason: str) -> Scan:
    if reason in scan.reasons:
        return replace(scan, status=worst(scan.status, status))
    return scan.mark(status, reason)


def _image(
    scan: Scan,
    records: list[Scan | None],
    stages: list[Stage],
    folder: Path,
    segmenter: Segmenter,
    features: str | Collection[str],
    method: str,
) -> Scan:
    """Judge and draw one NIfTI scan."""
    if scan.status == "fail":
        return scan  # an earlier stage gave the reason
    converted, segmented, distorted = records
    if converted is None or segmented is None or distorted is None:
        return _once(scan, "fail", SCAN_LOST)
    before = nifti.load(stages[0][0] / converted.files["nifti"])
    seg = segmentation.read(stages[1][0], segmented, before)
    after = nifti.load(stages[2][0] / distorted.files["nifti"])
    count = len(seg.positions)
    roles = [f"mask_{n}" for n in range(1, count + 1)] if count > 1 else ["mask"]
    masks = [_labels(stages[2][0] / distorted.files[role]) > 0 for role in roles]
    if any(mask.shape != before.shape[:3] for mask in masks):
        return _once(scan, "fail", f"{STAGE_FAILED}: a mask on another grid")
    known = segmented.measures.get("propagated", {}).get("organs", ())
    verdict = _verdict(before, after, seg, masks, features, method, segmenter, known)
    files: dict[str, str] = {}
    for n, (one, mask) in enumerate(zip(seg.positions, masks, strict=True), 1):
        old, new = volumes.select(before, one.volumes), volumes.select(after, one.volumes)
        files |= _draw(scan.scan, old, new, one, mask, folder, f"_position-{n}" if n > 1 else "")
    scan = replace(scan, files=files, measures=with_figures(scan.measures, verdict.measures))
    for reason in verdict.reasons:
        scan = _once(scan, verdict.status, reason)
    return replace(scan, status=worst(scan.status, verdict.status))


def _verdict(
    before: nib.Nifti1Image,
    after: nib.Nifti1Image,
    seg: Segmentation,
    masks: Sequence[NDArray[np.bool_]],
    features: str | Collection[str],
    method: str,
    segmenter: Segmenter,
    known: Sequence[OrganMeasures] = (),
) -> Verdict:
    """Verdict on each position of the head, in its volumes, joined to one.

    A reason that holds for a further position names its volumes. Measures are those of the first.
    """
    verdicts = []
    for n, (one, mask) in enumerate(zip(seg.positions, masks, strict=True)):
        old, new = volumes.select(before, one.volumes), volumes.select(after, one.volumes)
        organs = known if n == 0 else ()
        verdicts.append(_of_position(old, new, one, mask, features, method, segmenter, organs))
    first, *others = verdicts
    if not others:
        return first
    where: dict[str, list[int]] = {}
    status = first.status
    for one, verdict in zip(seg.moved, others, strict=True):
        own, reasons = verdict.status, verdict.reasons
        if any(r.startswith(NOT_A_HEAD) for r in reasons):
            own, reasons = "review", (HEAD_NOT_FOUND,)
        status = worst(status, own)
        for reason in reasons:
            where.setdefault(reason, []).extend(one.volumes)
    reasons = (*first.reasons, *(f"{r} ({_named(sorted(v))})" for r, v in where.items()))
    return Verdict(status, reasons, {**first.measures, "head_positions": len(masks)})


def _named(where: Sequence[int]) -> str:
    """Volumes by their numbers from 1: all of them if they are few."""
    numbers = [str(t + 1) for t in where]
    if len(numbers) > NAMED:
        numbers[NAMED - 1 :] = [f"{len(numbers) - NAMED + 1} more"]
    return f"{'volume' if len(numbers) == 1 else 'volumes'} {', '.join(numbers)}"


def _of_position(
    before: nib.Nifti1Image,
    after: nib.Nifti1Image,
    seg: Segmentation,
    mask: NDArray[np.bool_],
    features: str | Collection[str],
    method: str,
    segmenter: Segmenter,
    known: Sequence[OrganMeasures],
) -> Verdict:
    """Verdict of the gate on one position; the image is segmented again in parallel.

    A phase-wrapped image is judged rolled, in one piece.
    """
    roll = seg.roll
    before, after = wrap.rolled_image(before, roll), wrap.rolled_image(after, roll)
    seg, mask = seg.rolled(), wrap.rolled(mask, roll)
    with ThreadPoolExecutor(1) as pool:
        resegmented = pool.submit(segmenter.resegment, after, seg)
        verdict = gate.gate(before, after, seg, mask, resegmented.result, method, features, known)
    if roll != wrap.NO_ROLL:
        verdict.measures["rolled_by"] = list(roll)
    return verdict


def _as_their_sources(images: list[Scan], segment: Manifest) -> list[Scan]:
    """Send scans to review whose labels come from a scan that did not pass."""
    source = {s.scan: s.measures.get("propagated", {}).get("from", "") for s in segment.scans}
    passed = {i.scan for i in images if i.status == "pass"}
    return [
        i
        if i.status == "fail" or not source.get(i.scan) or source[i.scan] in passed
        else _once(i, "review", OTHER_SCAN_NOT_PASSED)
        for i in images
    ]


def _labels(path: Path) -> NDArray[np.uint8]:
    """The voxels of a label map or mask, uint8 (x, y, z)."""
    return np.asarray(nifti.stored(nifti.load(path)), np.uint8)


def _form(form: Scan, images: list[Scan]) -> Scan:
    """Join a series in DICOM with the reasons of the NIfTI scans made from it."""
    made = [i for i in images if i.series == form.series]
    # reasons of the series itself: a reviewer accepts the images, not the DICOM beside them
    theirs = {reason for image in made for reason in image.reasons}
    own: Status = form.status if not theirs or set(form.reasons) - theirs else "pass"
    if not made and own != "fail":
        form = _once(form, "fail", f"{NOT_CONVERTED}: the series could not be judged")
    for image in made:
        for reason in image.reasons:
            form = _once(form, "pass", reason)
    status = worst(form.status, *(i.status for i in made))
    modality = made[0].modality if made else form.modality
    own_status: Measures = {**form.measures, "own_status": own}
    return replace(form, status=status, modality=modality, measures=own_status)


def _draw(
    name: str,
    before: nib.Nifti1Image,
    after: nib.Nifti1Image,
    seg: Segmentation,
    mask: NDArray[np.bool_],
    folder: Path,
    end: str = "",
) -> dict[str, str]:
    """Render before and after in the same light; role to path relative to ``folder``.

    ``end``: what roles end in.
    """
    from efface.qc import render

    files: dict[str, str] = {}
    labels, sign = seg.labels, -1 if seg.inverted else 1  # a render shows bright voxels
    old, new = sign * _mean(before), sign * _mean(after)
    threshold, window = render.skin_threshold(old, before.affine), render.display_window(old)

    def save(role: str, picture: NDArray[np.uint8]) -> None:
        files[role + end] = f"{name}/{role}{end}.png"
        render.save_png(picture, folder / files[role + end])

    for role, volume in (("before", old), ("after", new)):
        views = render.views(volume, before.affine, threshold=threshold)
        for side, picture in views.items():
            save(f"{role}_{side}", picture)
    save("before_slices", render.slices(old, before.affine, mask, labels, window=window))
    # the outline of an organ shows its profile: after distorting, only region and brain are drawn
    brain = np.where(labels == LABELS["brain"], labels, 0)
    save("slices", render.slices(new, before.affine, mask, brain, window=window))
    return files


def _mean(img: nib.Nifti1Image) -> NDArray[np.float32]:
    """Mean volume of stored voxels, float32 (x, y, z)."""
    voxels = nifti.stored(img)
    if voxels.ndim == 3:
        return voxels.astype(np.float32)
    return np.asarray(np.mean(np.asarray(voxels, np.float32), axis=3))
