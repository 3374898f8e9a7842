"""Quality control: measures, pictures, the gate.

:func:`run` judges every scan of a session as it would be released, from the voxels, and draws it
before and after. The pictures of before show the face: they stay in the restricted zone.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any, Protocol

import nibabel as nib
import numpy as np
from numpy.typing import NDArray

from efface import nifti
from efface.errors import of_machine
from efface.manifest import Manifest, Scan
from efface.qc import gate
from efface.qc.gate import Verdict
from efface.segment import orientation, positions, volumes, wrap
from efface.segment.labels import FEATURES, LABELS
from efface.segment.pose import Head
from efface.status import NOT_A_HEAD, NOT_CONVERTED, REVIEW, STAGE_FAILED, Status, worst

Stage = tuple[Path, Manifest]
"""A stage's folder and its manifest."""

NAMED = 6
"""So many volumes at most are named in a reason."""

__all__ = ["Segmentation", "Segmenter", "Stage", "Verdict", "gate", "judge", "run"]


class Segmentation(Protocol):
    """What quality control needs of a segmentation."""

    @property
    def labels(self) -> NDArray[np.uint8]:
        """uint8 (x, y, z)."""

    @property
    def confidence(self) -> Mapping[str, float]:
        """0 to 1 by label name."""

    @property
    def turn(self) -> str:
        """How the head lies in the header's world, (:mod:`efface.segment.orientation`)."""

    @property
    def head(self) -> Head | None:
        """How it lies by the labels, where that was found already."""

    @property
    def maybe_brain(self) -> NDArray[np.bool_] | None:
        """Voxels (thinned) that may be brain, labelled so or not; None where nobody asked."""

    @property
    def negative(self) -> bool:
        """Whether the face was found in the negative of the image."""

    @property
    def roll(self) -> wrap.Roll:
        """How the image is rolled to undo a phase wrap (:mod:`efface.segment.wrap`)."""

    @property
    def volumes(self) -> tuple[int, ...]:
        """Indices of the volumes of a 4D image that this holds for; empty for all of them."""

    @property
    def moved(self) -> tuple[Segmentation, ...]:
        """The same for volumes in which the head lies elsewhere, one for each position."""


class Segmenter(Protocol):
    """What finds the organs again; :class:`efface.segment.Segmenter` outside tests."""

    def again(
        self, img: nib.Nifti1Image, labels: NDArray[np.uint8], negative: bool, /
    ) -> NDArray[np.uint8]:
        """Labels found in a distorted 3D or 4D image, where ``labels`` say the face was."""


def judge(
    before: nib.Nifti1Image,
    after: nib.Nifti1Image,
    seen: Segmentation,
    masks: Sequence[NDArray[np.bool_]],
    features: str | Collection[str],
    method: str,
    segmenter: Segmenter,
) -> tuple[Status, tuple[str, ...], dict[str, Any]]:
    """Status, reasons and measures of one defaced image.

    ``seen`` is what ``before`` showed; ``masks`` are the replaced regions, one for each position
    of the head: that of ``seen``, then those of ``seen.moved``.
    """
    verdict = _verdict(before, after, seen, masks, features, method, segmenter)
    return verdict.status, verdict.reasons, verdict.measures


def run(
    session: Mapping[str, Any],
    convert: Stage,
    segment: Stage,
    distort: Stage,
    folder: Path,
    segmenter: Segmenter,
    features: str | Collection[str] = FEATURES,
    method: str = "noise",
) -> tuple[Scan, ...]:
    """Judge the scans of a session.

    ``session`` is the inventory's entry. NIfTI scans get ``before_*``, ``after_*`` and ``slices``
    pictures in ``folder``; a series in DICOM (its scan named as the series) takes the most cautious
    status of the NIfTI scans made from it, beside its own reasons.
    """
    series = {s["series"]: s for s in session["series"]}
    stages = [convert, segment, distort]
    names = list(dict.fromkeys(s.scan for _, m in (convert, distort) for s in m.scans))
    images: list[Scan] = []
    forms: list[Scan] = []
    for name in names:
        seen = [{s.scan: s for s in m.scans}.get(name) for _, m in stages]
        scan = _joined([s for s in seen if s is not None], session["source"])
        origin = series.get(scan.series, {})
        if origin.get("status", "pass") != "pass":
            for reason in origin.get("reasons", ()) or (STAGE_FAILED + ": inventory",):
                scan = _once(scan, origin["status"], reason)
        if scan.measures["form"] == "dicom":
            forms.append(scan)
            continue
        try:
            scan = _image(scan, seen, stages, folder, segmenter, features, method)
        except Exception as e:
            if of_machine(e):
                raise
            # one scan that cannot be judged must not take its neighbours along
            scan = _once(scan, "fail", f"{STAGE_FAILED}: quality control ({type(e).__name__})")
        images.append(scan)
    images = _as_their_sources(images, segment[1])
    return (*images, *(_form(f, images) for f in forms))


def _joined(seen: list[Scan], source: str) -> Scan:
    """One scan from what the stages say of it: all reasons, the most cautious status.

    In a DICOM source a scan named as its series is the series' DICOM form; a BIDS source has none.
    """
    last = seen[-1]
    reasons = tuple(dict.fromkeys(r for s in seen for r in s.reasons))
    modality = next((s.modality for s in seen if s.modality), "")
    datatype = next((s.measures["datatype"] for s in seen if "datatype" in s.measures), "")
    return replace(
        last,
        modality=modality,
        status=worst(*(s.status for s in seen)),
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
    seen: list[Scan | None],
    stages: list[Stage],
    folder: Path,
    segmenter: Segmenter,
    features: str | Collection[str],
    method: str,
) -> Scan:
    """Judge and draw one NIfTI scan."""
    if scan.status == "fail":
        return scan  # an earlier stage has said why: there is nothing to look at
    converted, segmented, distorted = seen
    if converted is None or segmented is None or distorted is None:
        return _once(scan, "fail", f"{STAGE_FAILED}: a stage has lost the scan")
    before = nifti.load(stages[0][0] / converted.files["nifti"])
    segmentation = positions.read(stages[1][0], segmented, before)
    after = nifti.load(stages[2][0] / distorted.files["nifti"])
    count = 1 + len(segmentation.moved)
    roles = [f"mask_{n}" for n in range(1, count + 1)] if count > 1 else ["mask"]
    masks = [_labels(stages[2][0] / distorted.files[role]) > 0 for role in roles]
    if any(mask.shape != before.shape[:3] for mask in masks):
        return _once(scan, "fail", f"{STAGE_FAILED}: a mask on another grid")
    known = segmented.measures.get("propagated", {}).get("organs", ())
    verdict = _verdict(before, after, segmentation, masks, features, method, segmenter, known)
    files: dict[str, str] = {}
    for n, (one, mask) in enumerate(zip(_positions(segmentation), masks, strict=True), 1):
        old, new = volumes.select(before, one.volumes), volumes.select(after, one.volumes)
        files |= _draw(scan.scan, old, new, one, mask, folder, f"_position-{n}" if n > 1 else "")
    scan = replace(scan, files=files, measures={**scan.measures, **verdict.measures})
    for reason in verdict.reasons:
        scan = _once(scan, verdict.status, reason)
    return replace(scan, status=worst(scan.status, verdict.status))


def _positions(seen: Segmentation) -> tuple[Segmentation, ...]:
    return (seen, *seen.moved)


def _verdict(
    before: nib.Nifti1Image,
    after: nib.Nifti1Image,
    seen: Segmentation,
    masks: Sequence[NDArray[np.bool_]],
    features: str | Collection[str],
    method: str,
    segmenter: Segmenter,
    known: Sequence[Mapping[str, Any]] = (),
) -> Verdict:
    """What the gate says of each position of the head, in the volumes where it lies so.

    A reason that holds for a further position names its volumes. Measures are those of the first.
    """
    verdicts = []
    for n, (one, mask) in enumerate(zip(_positions(seen), masks, strict=True)):
        old, new = volumes.select(before, one.volumes), volumes.select(after, one.volumes)
        told = known if n == 0 else ()
        verdicts.append(_of_position(old, new, one, mask, features, method, segmenter, told))
    first, *others = verdicts
    if not others:
        return first
    where: dict[str, list[int]] = {}
    status = first.status
    for one, verdict in zip(seen.moved, others, strict=True):
        told_of, reasons = verdict.status, verdict.reasons
        if any(r.startswith(NOT_A_HEAD) for r in reasons):
            told_of, reasons = "review", (f"{REVIEW}: the head was not found",)
        status = worst(status, told_of)
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
    seen: Segmentation,
    mask: NDArray[np.bool_],
    features: str | Collection[str],
    method: str,
    segmenter: Segmenter,
    known: Sequence[Mapping[str, Any]],
) -> Verdict:
    """Verdict of the gate on one position; the image is segmented again in parallel.

    A phase-wrapped image is judged as it is rolled, in one piece.
    """
    before, after = wrap.rolled_image(before, seen.roll), wrap.rolled_image(after, seen.roll)
    labels, mask = wrap.rolled(seen.labels, seen.roll), wrap.rolled(mask, seen.roll)
    with ThreadPoolExecutor(1) as pool:
        straight = orientation.image(after, seen.turn)
        again = pool.submit(segmenter.again, straight, labels, seen.negative)
        verdict = gate.gate(
            before,
            after,
            labels,
            mask,
            seen.confidence,
            again.result,
            method,
            features,
            known=known,
            turn=seen.turn,
            head=seen.head,
            maybe_brain=seen.maybe_brain,
            negative=seen.negative,
        )
    if seen.roll != wrap.NO_ROLL:
        verdict.measures["rolled_by"] = list(seen.roll)
    return verdict


def _as_their_sources(images: list[Scan], segment: Manifest) -> list[Scan]:
    """Scans that have another's labels pass only if that one passes."""
    source = {s.scan: s.measures.get("propagated", {}).get("from", "") for s in segment.scans}
    passed = {i.scan for i in images if i.status == "pass"}
    return [
        i
        if i.status == "fail" or not source.get(i.scan) or source[i.scan] in passed
        else _once(i, "review", f"{REVIEW}: its labels come from a scan that did not pass")
        for i in images
    ]


def _labels(path: Path) -> NDArray[np.uint8]:
    """The voxels of a label map or mask, uint8 (x, y, z)."""
    return np.asarray(nifti.stored(nifti.load(path)), np.uint8)


def _form(form: Scan, images: list[Scan]) -> Scan:
    """A series in DICOM: its own reasons, and those of the NIfTI scans made from it."""
    made = [i for i in images if i.series == form.series]
    # what is wrong with the series itself: a reviewer accepts the images, not the DICOM beside them
    theirs = {reason for image in made for reason in image.reasons}
    own: Status = form.status if not theirs or set(form.reasons) - theirs else "pass"
    if not made and own != "fail":
        form = _once(form, "fail", f"{NOT_CONVERTED}: the series could not be judged")
    for image in made:
        for reason in image.reasons:
            form = _once(form, "pass", reason)
    status = worst(form.status, *(i.status for i in made))
    modality = made[0].modality if made else form.modality
    measures = {**form.measures, "own_status": own}
    return replace(form, status=status, modality=modality, measures=measures)


def _draw(
    name: str,
    before: nib.Nifti1Image,
    after: nib.Nifti1Image,
    seen: Segmentation,
    mask: NDArray[np.bool_],
    folder: Path,
    end: str = "",
) -> dict[str, str]:
    """Render before and after in the same light; role to path relative to ``folder``.

    ``end``: what roles end in.
    """
    from efface.qc import render

    files: dict[str, str] = {}
    labels, sign = seen.labels, -1 if seen.negative else 1  # a render shows what is bright
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
    # the outline of an organ is its profile: after distorting, region and brain alone are drawn
    brain = np.where(labels == LABELS["brain"], labels, 0)
    save("slices", render.slices(new, before.affine, mask, brain, window=window))
    return files


def _mean(img: nib.Nifti1Image) -> NDArray[np.float32]:
    """Mean volume of stored voxels, float32 (x, y, z)."""
    voxels = nifti.stored(img)
    if voxels.ndim == 3:
        return voxels.astype(np.float32)
    return np.asarray(np.mean(np.asarray(voxels, np.float32), axis=3))
