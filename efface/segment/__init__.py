"""Segment: a head image to labels of brain, eyes, nose, ears and mouth, and the pose of the head.

Two networks on a coarse grid (:mod:`~efface.segment.cascade`, :mod:`~efface.segment.grid`) give
class probabilities, whose largest components become labels on the image's own grid
(:mod:`~efface.segment.segmenter`). The pose is fitted to them (:mod:`~efface.segment.fit`).
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np

from efface import nifti
from efface.errors import EffaceError
from efface.manifest import Scan, Stage
from efface.segment import fit, segmentation
from efface.segment import pose as poses
from efface.segment.runtime import Plan
from efface.segment.segmentation import Segmentation
from efface.segment.segmenter import Segmenter
from efface.status import STAGE_FAILED

__all__ = [
    "Plan",
    "Segmentation",
    "Segmenter",
    "run",
]


def run(
    convert: Stage, folder: Path, segmenter: Segmenter, register: bool = True
) -> tuple[Scan, ...]:
    """Label every NIfTI of a session.

    Writes the files of :func:`efface.segment.segmentation.write`. Scans in one frame of reference
    get the best one's labels as well (``register``: :func:`efface.segment.propagate.session`). A
    scan that cannot be labelled fails with its reason; the others go on.
    """
    from efface.segment import propagate

    source, manifest = convert
    labelled = tuple(_label(scan, source, folder, segmenter) for scan in manifest.scans)
    propagated = propagate.session(manifest.scans, source, labelled, folder, register)
    orientations = {s.scan: _orientation(s) for s in labelled}
    return tuple(_with_pose(scan, folder, orientations) for scan in propagated)


def _label(scan: Scan, source: Path, folder: Path, segmenter: Segmenter) -> Scan:
    if scan.status == "fail" or "nifti" not in scan.files:
        return replace(scan, files={}, measures={})
    try:
        img = nifti.load(source / scan.files["nifti"])
        result = segmenter.segment(img)
    except EffaceError as e:
        # without the path that the message starts with: the audit prints the reason
        why = str(e).removeprefix(f"{source / scan.files['nifti']}: ")
        return replace(scan, files={}, measures={}).mark("fail", f"{STAGE_FAILED}: {why}")
    files, measures = segmentation.write(result, img, folder, scan.scan)
    return replace(scan, files=files, measures=measures)


def _orientation(scan: Scan) -> str | None:
    pose = scan.measures.get("pose")
    return poses.from_dict(pose).orientation if pose else None


def _with_pose(scan: Scan, folder: Path, orientations: dict[str, str | None]) -> Scan:
    """Return a scan whose labels were propagated with the pose of its new labels.

    The organs that the source of the labels shows whole are fitted, in the source's orientation.
    """
    propagated = scan.measures.get("propagated", {})
    if scan.status == "fail" or not propagated:
        return scan
    img = nifti.load(folder / scan.files["labels"])
    labels = np.asarray(nifti.stored(img), np.uint8)
    orientation = orientations[propagated["from"] or scan.scan]
    pose = fit.estimate(labels, img.affine, orientation, propagated.get("organs", ()))
    return replace(scan, measures={**scan.measures, "pose": pose.as_dict() if pose else None})
