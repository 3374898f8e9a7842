"""Labels of a session's scans from the best scan in the same frame of reference.

A field map, an EPI or a few thick slices may show a face to a person, but not enough of it for the
networks. If a scan in the same frame of reference has a whole face, its labels are transferred to
them (:mod:`efface.segment.resample`) and joined with their own (:mod:`efface.segment.agreement`).

A shared frame gives the position of the table, not that of the head. So labels are transferred only
if nothing can have moved (magnitude and phase of one acquisition), or if a registration of both
images proves that the head lies alike (:mod:`efface.segment.motion`). If it proves a motion, or the
scan's own labels contradict, the scan goes to review.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import nibabel as nib
import numpy as np

from efface import nifti
from efface.errors import of_machine
from efface.manifest import Scan
from efface.measures import Measures, Propagated
from efface.segment import agreement, masks, motion, organs_in_view, resample, volumes, wrap
from efface.segment import grid as grids
from efface.segment.geometry import voxel_sizes
from efface.segment.labels import FEATURES, LABELS
from efface.segment.organs_in_view import COUNT, Organ
from efface.segment.resample import Floats, Labels, Shape
from efface.segment.segmentation import volumes_ml
from efface.status import HEAD_MOVED, OTHER_SCAN_INCOMPLETE, STAGE_FAILED

SOURCE_CONFIDENCE = 0.75
"""Lowest confidence of a source in its brain and in each organ."""
SOURCE_BRAIN_ML = 800.0
"""Smallest brain of a source."""
PAIR_RATIO = 0.3
"""Smallest ratio of the volumes of a source's two eyes, or ears."""
CONFIDENT = 0.5
"""From this confidence on a scan's own label is compared with the source's."""
OVERLAP = 0.8
"""Least Dice coefficient of both brains in the field of view of both scans."""
OVERLAP_PHASE = 0.6
"""The same for a phase image of one acquisition, which shows no edge of the brain."""
MOVED_MM = 5.0
"""A head that moved no more than this lies alike: the margin of the region is three times that."""
COMPARE_MM = 3.0
"""Step at which labels are compared with each other."""
HEAD_MM = 12.0
"""Images are registered within this distance of the labels."""
SOURCES = 4
"""Number of sources of a frame that are kept in memory."""
MAGNITUDES = frozenset({"magnitude", "magnitude1", "magnitude2"})
PHASES = frozenset({"fieldmap", "phase", "phase1", "phase2", "phasediff"})


@dataclass(frozen=True)
class _Read:
    """A labelled scan of a session with its labels in memory."""

    scan: Scan
    converted: Scan
    labels: Labels
    affine: Floats

    @property
    def shape(self) -> Shape:
        return (self.labels.shape[0], self.labels.shape[1], self.labels.shape[2])


def session(
    converted: Sequence[Scan],
    images: Path,
    labelled: Sequence[Scan],
    folder: Path,
    register: bool = True,
) -> tuple[Scan, ...]:
    """Propagate the labels of the best scan of each frame of reference to the others.

    ``converted``: scans with files in ``images``; ``labelled``: the same with label maps in
    ``folder``, which are overwritten if labels are propagated. A scan that was compared has the
    measure ``propagated``: the scan that its labels come ``from`` (empty if they were not
    propagated), the scan it was ``compared`` with, the ``overlap`` of both brains, how far the head
    ``moved_mm`` and the ``organs`` (:class:`Organ`). Without ``register`` no images are registered,
    so that only scans of one acquisition get labels of another.
    """
    known = {s.scan: s for s in converted}
    frames: dict[str, list[Scan]] = defaultdict(list)
    for scan in labelled:
        if wrap.from_measures(scan.measures) != wrap.NO_ROLL:
            continue  # labels of a wrapped image do not lie where the head was
        if scan.status != "fail" and "labels" in scan.files and scan.scan in known:
            frame = str(known[scan.scan].measures.get("frame_of_reference", ""))
            frames[frame].append(scan)
    out = {s.scan: s for s in labelled}
    for frame, scans in frames.items():
        if len(scans) < 2:
            continue
        sources = _sources(scans, known, folder)
        # sources first, best first: labels that they gain from the best reach the others
        first = [s.scan.scan for s in sources]
        place = {name: n for n, name in enumerate(first)}
        for scan in sorted(scans, key=lambda s: place.get(s.scan, len(first))):
            of_one = (s for s in sources if _one_acquisition(s.converted, known[scan.scan]))
            source = next(of_one, sources[0] if sources else None)
            if source is None or scan.scan == first[0]:
                continue
            new = _try(source, scan, known, images, folder, shared=bool(frame), register=register)
            out[scan.scan] = new
            if scan.scan in place and new.status == scan.status:
                sources[place[scan.scan]] = _read(new, known, folder)
    return tuple(out[s.scan] for s in labelled)


def _sources(scans: Sequence[Scan], known: dict[str, Scan], folder: Path) -> list[_Read]:
    """The scans with a whole face and high confidence, best first."""
    ranks = {s.scan: r for s in scans if (r := rank(s, known[s.scan])) is not None}
    out: list[_Read] = []
    for scan in sorted((s for s in scans if s.scan in ranks), key=lambda s: ranks[s.scan]):
        read = _read(scan, known, folder)
        if _balanced(read):
            out.append(read)
        if len(out) == SOURCES:
            break
    return out


def _try(
    source: _Read,
    scan: Scan,
    known: dict[str, Scan],
    images: Path,
    folder: Path,
    *,
    shared: bool,
    register: bool,
) -> Scan:
    try:
        target = _read(scan, known, folder)
        return _propagate(source, target, images, folder, shared=shared, register=register)
    except Exception as e:
        if of_machine(e):
            raise
        # one scan that cannot be compared must not fail the others
        why = f"{STAGE_FAILED}: propagation ({type(e).__name__})"
        return replace(scan, files={}, measures={}).mark("fail", why)


def rank(scan: Scan, converted: Scan) -> tuple[float, float, str] | None:
    """Sort key of a scan as a source, the best first; None for a scan that cannot be one."""
    measures = scan.measures
    confidence, parts = measures.get("confidence", {}), measures.get("components", {})
    if converted.modality in PHASES or "_part-phase_" in scan.scan:
        return None
    if any(parts.get(name) != n for name, n in COUNT.items()):
        return None
    least = min(float(confidence.get(name, 0.0)) for name in LABELS)
    brain_ml = float(measures.get("volume_ml", {}).get("brain", 0.0))
    if least < SOURCE_CONFIDENCE or brain_ml < SOURCE_BRAIN_ML:
        return None
    voxel = float(np.prod(converted.measures.get("spacing", [9.0])[:3]))
    # of scans with about the same confidence the one with the finest voxels
    return -round(least * 10) / 10, voxel, scan.scan


def _balanced(scan: _Read) -> bool:
    """Whether both eyes, and both ears, have similar volumes: neither is a fragment."""
    sizes: dict[str, list[int]] = defaultdict(list)
    for name, index in organs_in_view.pieces(scan.labels, scan.affine):
        sizes[name].append(len(index))
    return all(
        len(sizes[name]) == n and min(sizes[name]) >= PAIR_RATIO * max(sizes[name])
        for name, n in COUNT.items()
    )


def _one_acquisition(source: Scan, scan: Scan) -> bool:
    """Whether the scans are magnitude and phase of one acquisition, so that nothing can have moved.

    They are if they share the series and the frame of reference.
    """
    return (
        source.modality in MAGNITUDES
        and scan.modality in PHASES
        and source.series == scan.series
        and bool(scan.measures.get("frame_of_reference"))
        and source.measures.get("shape") == scan.measures.get("shape")
    )


def _read(scan: Scan, known: dict[str, Scan], folder: Path) -> _Read:
    img = nifti.load(folder / scan.files["labels"])
    labels = np.asarray(nifti.stored(img), np.uint8)
    return _Read(scan, known[scan.scan], labels, np.asarray(img.affine, np.float64))


def _propagate(
    source: _Read, scan: _Read, images: Path, folder: Path, *, shared: bool, register: bool
) -> Scan:
    """Return a scan with the labels of the source, if it needs them and they are proven to fit."""
    transferred = resample.transfer(source.labels, source.affine, scan.shape, scan.affine)
    organs = organs_in_view.organs(source.labels, source.affine, scan.shape, scan.affine)
    in_view = resample.in_view(source.shape, source.affine, scan.shape, scan.affine)
    own, grid = resample.every_nth(scan.labels, scan.affine, COMPARE_MM)
    other, _ = resample.every_nth(transferred, scan.affine, COMPARE_MM)
    common, _ = resample.every_nth(in_view, scan.affine, COMPARE_MM)
    dice = agreement.brain_overlap(own, other, common)
    confidence = scan.scan.measures.get("confidence", {})
    unsure = {n for n in LABELS if float(confidence.get(n, 0.0)) < CONFIDENT}
    confident = [n for n in FEATURES if n not in unsure]
    one = _one_acquisition(source.converted, scan.converted) and np.allclose(
        source.affine, scan.affine, atol=1e-3
    )
    own_in_view = np.where(common, own, 0).astype(np.uint8)
    displaced = agreement.displaced(own_in_view, other, grid, confident)
    missing = agreement.missing(own, other, grid, organs)
    name = source.scan.scan
    measures: Propagated = {"from": "", "compared": name, "overlap": round(dice, 3)}

    def keep(reason: str) -> Scan:
        """The scan with its own labels."""
        out = replace(scan.scan, measures={**scan.scan.measures, "propagated": measures})
        # without a shared frame, a difference between two scans says nothing about either
        return out.mark("review", reason) if shared else out

    agrees = dice >= OVERLAP and not (displaced or missing)
    if not one and agrees and not any((own == LABELS[n]).any() for n in unsure):
        # both have the whole face: the source's organs only add to the region
        labels = agreement.union(scan.labels, transferred, scan.affine)
        return _write(scan, labels, folder, measures)
    if dice < (OVERLAP_PHASE if one else OVERLAP):
        return keep(f"{HEAD_MOVED}: the brain is elsewhere than in {name}")
    if not one:
        moved = _motion(source, scan, transferred, organs, images) if register else motion.UNKNOWN
        if not moved.known:
            return keep(f"{HEAD_MOVED}: the registration to {name} is not reliable")
        # a rotation about the crown moves the chin far; that matters if the chin may come into view
        near = [d for d, o in zip(moved.each, organs, strict=True) if o.outside_mm <= d + MOVED_MM]
        mm = max(near, default=0.0)
        measures["moved_mm"] = round(mm, 1)
        if mm > MOVED_MM:
            return keep(f"{HEAD_MOVED}: by {mm:.0f} mm against {name}")
        if displaced:
            return keep(f"{HEAD_MOVED}: {' and '.join(displaced)} elsewhere than in {name}")
    else:
        measures["moved_mm"] = 0.0
    cut = sorted({o.label for o in organs if o.cut})
    if cut:
        return keep(f"{OTHER_SCAN_INCOMPLETE}: {name} cuts the {' and '.join(cut)}")
    labels = transferred
    if not one:
        agreeing = np.where(scan.labels == LABELS["brain"], scan.labels, 0).astype(np.uint8)
        for n in confident:
            where = agreement.dilated(transferred == LABELS[n], scan.affine, agreement.NEAR_MM)
            agreeing[(scan.labels == LABELS[n]) & where] = LABELS[n]
        labels = agreement.union(transferred, agreeing, scan.affine)
    masks.clear_of_organs(labels, voxel_sizes(scan.affine))
    measures |= {
        "from": name,
        "organs": [o.as_dict() for o in organs],
        "own_confidence": dict(confidence),
    }
    out = _write(scan, labels, folder, measures)
    # in one frame of reference the head lies as in the source, which shows it better
    confidence = source.scan.measures.get("confidence", {})
    files = dict(out.files)
    # the scan passes only if its source does, and the possible brain of the source was judged
    possible = files.pop("possible_brain", None)
    if possible:
        (folder / possible).unlink(missing_ok=True)
    return replace(out, files=files, measures={**out.measures, "confidence": confidence})


def _write(scan: _Read, labels: Labels, folder: Path, measures: Propagated) -> Scan:
    """Overwrite the label map of a scan; return the scan with the new measures."""
    nifti.save(nib.Nifti1Image(labels, scan.affine), folder / scan.scan.files["labels"])
    sizes = volumes_ml(labels, scan.affine)
    kept: Measures = {**scan.scan.measures, "volume_ml": sizes, "propagated": measures}
    return replace(scan.scan, measures=kept)


def _motion(
    source: _Read, scan: _Read, transferred: Labels, organs: Sequence[Organ], images: Path
) -> motion.Motion:
    """Motion of the organs between two scans, from a registration of their images."""
    means = []
    for one in (source, scan):
        img = nifti.load(images / one.converted.files["nifti"])
        img = volumes.select(img, tuple(one.scan.measures.get("volumes", ())))
        volume = grids.volume(nifti.stored(img), *nifti.scaling(img))
        means.append((volume, np.asarray(img.affine, np.float64)))
    head = agreement.dilated(transferred > 0, scan.affine, HEAD_MM)
    centres = np.array([o.centre for o in organs])
    return motion.between(means[0], means[1], head, centres)
