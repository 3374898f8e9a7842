"""Labels from the best scan of a session to the others that share its frame of reference.

A field map, an EPI or a few thick slices show too little of a face for the network, but not too
little for a person who looks for one. Where such a scan lies in the frame of reference of one whose
face was found, that one's labels say where its face is: :func:`carry` takes them over, :func:`join`
puts them together with the scan's own.

A shared frame says where the table was, not where the head was. So labels are taken over only
where nothing can have moved (magnitude and phase of one acquisition) or where the images
themselves say that the head lies as it lay (:mod:`efface.segment.motion`); where they say
otherwise, or the scan's own labels do, a person looks.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from efface import nifti
from efface.errors import of_machine
from efface.manifest import Scan
from efface.segment import grid as grids
from efface.segment import masks, motion, volumes, wrap
from efface.segment.labels import FEATURES, LABELS
from efface.status import REVIEW, STAGE_FAILED

Labels = NDArray[np.uint8]
Bool = NDArray[np.bool_]
Floats = NDArray[np.float64]
Shape = tuple[int, int, int]

COUNT = {"eyes": 2, "nose": 1, "ears": 2, "mouth": 1}
"""How many of each organ a head has; a scan that lacks one is no source."""
SURE = 0.75
"""A source's least confidence in the brain and in each organ."""
EVEN = 0.3
"""The smaller of a source's two eyes, or ears, has at least this share of the larger's volume."""
BRAIN_ML = 800.0
"""A source holds a brain of at least this."""
LEAST_MM3 = 100.0
"""Less of an organ than this counts for nothing."""
NEAR_MM = 8.0
"""An organ's own label that lies within this of the propagated one agrees with it."""
AWAY_MM3, AWAY_SHARE = 400.0, 0.3
"""So much of an organ, farther than that and found with confidence, is a disagreement: a third is
one of two ears, and some."""
CONFIDENT = 0.5
OVERLAP = 0.8
"""Dice of both brains, where both scans see, from which on they are one."""
OVERLAP_WEAK = 0.6
"""The same for a phase image, whose contrast is none that shows a brain's edge."""
MOVED_MM = 5.0
"""A head that moved no more than this lies as it lay: the region's margin is three times that."""
BRAIN_NEAR_MM = 4.0
"""Both brains' outlines may differ by this; farther out, one scan's word is not enough."""
COARSE_MM = 3.0
"""Step at which labels are compared with each other."""

SOURCES = 4
"""So many of a frame's scans are kept in memory as sources."""
MAGNITUDES = frozenset({"magnitude", "magnitude1", "magnitude2"})
PHASES = frozenset({"fieldmap", "phase", "phase1", "phase2", "phasediff"})


@dataclass(frozen=True)
class Organ:
    """One organ of the source, or one of a pair, and what the other scan sees of it."""

    label: str
    centre: tuple[float, float, float]
    """World, mm."""
    mm3: float
    in_view_mm3: float
    """How much of it lies in the other scan's field of view."""
    outside_mm: float
    """How far its nearest voxel lies from that field of view; 0 where some of it is in view."""
    cut: bool
    """The source's field of view ends in it, and the other scan sees on."""


@dataclass(frozen=True)
class _Read:
    """A labelled scan of a session with its voxels in memory."""

    scan: Scan
    given: Scan
    labels: Labels
    affine: Floats

    @property
    def shape(self) -> Shape:
        return (self.labels.shape[0], self.labels.shape[1], self.labels.shape[2])


# --- from one grid to another ---------------------------------------------------------------------


def carry(labels: Labels, affine: Floats, shape: Shape, onto: Floats) -> Labels:
    """Labels on another grid, growing the face and not the brain.

    ``labels``: uint8 on the grid of ``affine``; returns the same on the grid of ``shape`` and
    ``onto``. A voxel takes the label at its centre; one that has none takes the label of any organ
    of which it touches a voxel. Nothing is labelled outside the field of view of ``labels``, save
    by such growth. The same grid gives the same labels.
    """
    out = _at_centres(labels, affine, shape, onto)
    for name in ("nose", "mouth", "eyes", "ears"):
        grown = touched(labels == LABELS[name], affine, shape, onto)
        out[grown & (out == 0)] = LABELS[name]
    return out


def touched(mask: Bool, affine: Floats, shape: Shape, onto: Floats) -> Bool:
    """The voxels of another grid that overlap a True voxel of ``mask``.

    On oblique grids a few more: each voxel counts as the box along the other grid's axes that
    holds it. Less than a thousandth of a voxel is no overlap.
    """
    out = np.zeros(shape, bool, order="F")
    box = masks.box_of(mask)
    if box is None:
        return out
    index = masks.indices(mask)
    to = np.linalg.inv(onto) @ affine
    centre = index @ to[:3, :3].T + to[:3, 3]
    half = np.abs(to[:3, :3]).sum(axis=1) / 2 + 0.5 - 1e-3
    last = np.array(shape) - 1
    low = np.maximum(np.ceil(centre - half), 0).astype(np.intp)
    high = np.minimum(np.floor(centre + half), last).astype(np.intp)
    seen = (low <= high).all(axis=1)
    low, high = low[seen], high[seen] + 1
    if not len(low):
        return out
    # one count up where a box starts and one down where it ends: sums along the axes fill it
    first = low.min(axis=0)
    size = high.max(axis=0) - first + 1
    counts = np.zeros(int(np.prod(size)), np.int64)
    for corner in np.ndindex(2, 2, 2):
        at = np.where(np.array(corner, bool), high, low) - first
        flat = np.ravel_multi_index((at[:, 0], at[:, 1], at[:, 2]), tuple(size))
        counts += np.bincount(flat, minlength=len(counts)) * (-1) ** sum(corner)
    filled = counts.reshape(size)
    for axis in range(3):
        filled = np.cumsum(filled, axis=axis)
    here = tuple(slice(int(a), int(a + n - 1)) for a, n in zip(first, size, strict=True))
    out[here] = filled[:-1, :-1, :-1] > 0
    return out


def _at_centres(labels: Labels, affine: Floats, shape: Shape, onto: Floats) -> Labels:
    """The label that each voxel's centre lies in, 0 outside the field of view."""
    out = np.zeros(shape, np.uint8, order="F")
    box = masks.box_of(labels > 0)
    if box is None:
        return out
    corners = np.array(np.meshgrid(*[(s.start - 0.5, s.stop - 0.5) for s in box])).reshape(3, -1)
    to = np.linalg.inv(onto) @ affine
    at = to[:3, :3] @ corners + to[:3, 3:]
    first = np.clip(np.floor(at.min(axis=1)), 0, shape).astype(int)
    last = np.clip(np.ceil(at.max(axis=1)) + 1, 0, shape).astype(int)
    if (last <= first).any():
        return out
    back = np.linalg.inv(affine) @ onto
    size = last - first
    start = back[:3, :3] @ first + back[:3, 3]
    found = ndimage.affine_transform(
        labels, back[:3, :3], start, tuple(size), order=0, mode="nearest"
    )
    found[~_within(back[:3, :3], start, tuple(size), labels.shape)] = 0
    out[tuple(slice(a, b) for a, b in zip(first, last, strict=True))] = found
    return out


def _within(linear: Floats, start: Floats, size: tuple[int, ...], shape: tuple[int, ...]) -> Bool:
    """Where index ``linear @ i + start`` lies in a grid of ``shape``, for all i of ``size``."""
    inside = np.ones(size, bool)
    index = np.ogrid[tuple(slice(0, n) for n in size)]
    for axis, n in enumerate(shape):
        at = sum(linear[axis, k] * index[k] for k in range(3)) + start[axis]
        # half a voxel, and what an affine in float32 rounds
        inside &= (at >= -0.501) & (at <= n - 0.499)
    return inside


def view(shape: Shape, affine: Floats, onto_shape: Shape, onto: Floats) -> Bool:
    """The voxels of the second grid whose centres lie in the field of view of the first."""
    back = np.linalg.inv(affine) @ onto
    return _within(back[:3, :3], back[:3, 3], onto_shape, shape)


def organs(labels: Labels, affine: Floats, shape: Shape, onto: Floats) -> tuple[Organ, ...]:
    """The organs of a source, and what another grid sees of each."""
    voxel = float(abs(np.linalg.det(affine[:3, :3])))
    to = np.linalg.inv(onto) @ affine
    spacing = np.linalg.norm(onto[:3, :3], axis=0)
    out = []
    for name, index in _pieces(labels, affine):
        at = index @ to[:3, :3].T + to[:3, 3]
        beyond = np.maximum(np.maximum(-0.5 - at, at - (np.array(shape) - 0.5)), 0)
        seen = (beyond == 0).all(axis=1)
        centre = np.round(affine[:3, :3] @ index.mean(axis=0) + affine[:3, 3], 2)
        out.append(
            Organ(
                name,
                (float(centre[0]), float(centre[1]), float(centre[2])),
                round(len(index) * voxel, 1),
                round(float(np.count_nonzero(seen)) * voxel, 1),
                round(float(np.linalg.norm(beyond * spacing, axis=1).min()), 1),
                _cut(index, labels.shape, affine, shape, onto),
            )
        )
    return tuple(out)


def _pieces(labels: Labels, affine: Floats) -> list[tuple[str, NDArray[np.intp]]]:
    """Name and voxel indices (n, 3) of each organ: the largest connected pieces of its label."""
    voxel = float(abs(np.linalg.det(affine[:3, :3])))
    out = []
    for name in FEATURES:
        box = masks.box_of(labels == LABELS[name])
        if box is None:
            continue
        parts, n = ndimage.label(labels[box] == LABELS[name], np.ones((3, 3, 3)))
        sizes = np.bincount(parts.ravel(), minlength=n + 1)[1:]
        for part in np.argsort(-sizes, kind="stable")[: COUNT[name]]:
            if sizes[part] * voxel >= LEAST_MM3:
                index = np.argwhere(parts == part + 1) + [s.start for s in box]
                out.append((name, index))
    return out


def _cut(
    index: NDArray[np.intp], shape: tuple[int, ...], affine: Floats, other: Shape, onto: Floats
) -> bool:
    """Whether an organ ends with its grid while the other grid goes on there."""
    steps = 4.0 / np.linalg.norm(affine[:3, :3], axis=0)
    to = np.linalg.inv(onto) @ affine
    for axis in range(3):
        for edge, sign in ((0, -1), (shape[axis] - 1, 1)):
            beyond = index[index[:, axis] == edge].astype(float)
            if len(beyond):
                beyond[:, axis] += sign * max(steps[axis], 1.0)
                at = beyond @ to[:3, :3].T + to[:3, 3]
                if ((at >= -0.5) & (at <= np.array(other) - 0.5)).all(axis=1).any():
                    return True
    return False


# --- two label maps on one grid -------------------------------------------------------------------


def join(first: Labels, second: Labels, affine: Floats, beyond: Bool | None = None) -> Labels:
    """``first``, and what ``second`` adds to it; both on the grid of ``affine``.

    The organs of ``second`` fill what ``first`` leaves empty, save beside its brain, where nothing
    is ever replaced. The brain of ``second`` does so only within
    :data:`BRAIN_NEAR_MM` of the brain of ``first``, or where ``beyond`` says that ``first`` could
    not see: a brain that only one of two saw must not keep a face from being replaced.
    """
    out = first.copy(order="F")
    empty = first == 0
    organ = empty & (second >= LABELS["eyes"])
    spacing = np.linalg.norm(affine[:3, :3], axis=0)
    organ &= ~masks.within(organ, first == LABELS["brain"], masks.BRAIN_MARGIN, spacing)
    out[organ] = second[organ]
    brain = empty & (second == LABELS["brain"])
    if brain.any():
        close = masks.within(brain, first == LABELS["brain"], BRAIN_NEAR_MM, spacing)
        if beyond is not None:
            close |= brain & beyond
        # nor may it come nearer to an organ than one scan's own labels do
        close &= ~masks.within(close, out >= LABELS["eyes"], masks.BRAIN_MARGIN, spacing)
        out[close] = LABELS["brain"]
    return out


def overlap(first: Labels, second: Labels, where: Bool) -> float:
    """Dice coefficient of both brains within a mask; 0 where there is none."""
    a = (first == LABELS["brain"]) & where
    b = (second == LABELS["brain"]) & where
    both = int(np.count_nonzero(a)) + int(np.count_nonzero(b))
    return 2 * float(np.count_nonzero(a & b)) / both if both else 0.0


def away(own: Labels, carried: Labels, affine: Floats, names: Sequence[str]) -> list[str]:
    """Which organs' own labels lie farther than :data:`NEAR_MM` from the propagated ones."""
    voxel = float(abs(np.linalg.det(affine[:3, :3])))
    out = []
    for name in names:
        mine = own == LABELS[name]
        far = np.count_nonzero(mine & ~_near(carried == LABELS[name], affine, NEAR_MM))
        if far * voxel > AWAY_MM3 and far > AWAY_SHARE * np.count_nonzero(mine):
            out.append(name)
    return out


def missed(own: Labels, carried: Labels, affine: Floats, seen: Sequence[Organ]) -> list[str]:
    """Labels of the propagated organs of which the own labels hold less than half.

    Every eye and ear is asked for by itself: one that is found does not stand for the other.
    """
    out = []
    voxel = float(abs(np.linalg.det(affine[:3, :3])))
    for name in COUNT:
        there = [o for o in seen if o.label == name and o.in_view_mm3 >= LEAST_MM3]
        index = np.argwhere(carried == LABELS[name])
        if not there or not len(index):
            continue
        found = _near(own == LABELS[name], affine, NEAR_MM / 2)[tuple(index.T)]
        world = index @ affine[:3, :3].T + affine[:3, 3]
        centres = np.array([o.centre for o in seen if o.label == name])
        owner = np.linalg.norm(world[:, None] - centres[None], axis=2).argmin(axis=1)
        for k in range(len(centres)):
            mine = owner == k
            if np.count_nonzero(mine) * voxel >= LEAST_MM3 and found[mine].mean() < 0.5:
                out.append(name)
                break
    return out


def _near(mask: Bool, affine: Floats, mm: float) -> Bool:
    """Voxels whose centres lie within ``mm`` of the mask's, measured along the grid's axes."""
    out = np.zeros(mask.shape, bool)
    box = masks.box_of(mask)
    if box is None:
        return out
    spacing = np.linalg.norm(affine[:3, :3], axis=0)
    reach = np.ceil(mm / spacing).astype(int) + 1
    wide = tuple(
        slice(max(s.start - r, 0), min(s.stop + r, n))
        for s, r, n in zip(box, reach, mask.shape, strict=True)
    )
    distance = ndimage.distance_transform_edt(~mask[wide], sampling=spacing)
    out[wide] = distance <= mm
    return out


def _coarse(labels: Labels, affine: Floats) -> tuple[Labels, Floats]:
    """Every n-th voxel, so that steps are of about :data:`COARSE_MM`."""
    steps = [max(1, int(COARSE_MM // s)) for s in np.linalg.norm(affine[:3, :3], axis=0) + 1e-6]
    small = labels[tuple(slice(s // 2, None, s) for s in steps)]
    grid = affine.copy()
    grid[:3, 3] += affine[:3, :3] @ np.array([s // 2 for s in steps])
    grid[:3, :3] = affine[:3, :3] * steps
    return small, grid


# --- the session ----------------------------------------------------------------------------------


def session(
    given: Sequence[Scan], images: Path, labelled: Sequence[Scan], folder: Path
) -> tuple[Scan, ...]:
    """Labels of a session's scans with those of the best scan of each frame of reference.

    ``given``: what convert made, files in ``images``; ``labelled``: what the network said of it,
    files in ``folder``, where the label maps of the scans that rely on another are written anew.
    Such a scan has the measure ``propagated``: the scan its labels come ``from`` (or empty, if they
    could not be taken over), how far the head ``moved_mm`` between both, the ``overlap`` of both
    brains, and the ``organs`` (:class:`Organ`).
    """
    known = {s.scan: s for s in given}
    frames: dict[str, list[Scan]] = defaultdict(list)
    for scan in labelled:
        if wrap.from_measures(scan.measures) != wrap.NO_ROLL:
            continue  # its labels lie where the wrap shows them, not where the head was
        if scan.status != "fail" and "labels" in scan.files and scan.scan in known:
            frame = str(known[scan.scan].measures.get("frame_of_reference", ""))
            frames[frame].append(scan)
    out = {s.scan: s for s in labelled}
    for frame, scans in frames.items():
        if len(scans) < 2:
            continue
        sources = _sources(scans, known, folder)
        # the sources first, in their order: what they gain from the best goes on to the others
        first = [s.scan.scan for s in sources]
        place = {name: n for n, name in enumerate(first)}
        for scan in sorted(scans, key=lambda s: place.get(s.scan, len(first))):
            of_one = (s for s in sources if _one_acquisition(s.given, known[scan.scan]))
            source = next(of_one, sources[0] if sources else None)
            if source is None or scan.scan == first[0]:
                continue
            done = _tried(source, scan, known, images, folder, shared=bool(frame))
            out[scan.scan] = done
            if scan.scan in place and done.status == scan.status:
                sources[place[scan.scan]] = _read(done, known, folder)
    return tuple(out[s.scan] for s in labelled)


def _sources(scans: Sequence[Scan], known: dict[str, Scan], folder: Path) -> list[_Read]:
    """The scans whose own labels are whole and sure, best first."""
    ranks = {s.scan: r for s in scans if (r := rank(s, known[s.scan])) is not None}
    able = sorted((s for s in scans if s.scan in ranks), key=lambda s: ranks[s.scan])
    out: list[_Read] = []
    for scan in able:
        read = _read(scan, known, folder)
        if _balanced(read):
            out.append(read)
        if len(out) == SOURCES:
            break
    return out


def _tried(
    source: _Read, scan: Scan, known: dict[str, Scan], images: Path, folder: Path, *, shared: bool
) -> Scan:
    try:
        return _propagate(source, _read(scan, known, folder), images, folder, shared=shared)
    except Exception as e:
        if of_machine(e):
            raise
        # one scan that cannot be compared must not take its neighbours along
        why = f"{STAGE_FAILED}: propagation ({type(e).__name__})"
        return replace(scan, files={}, measures={}).mark("fail", why)


def rank(scan: Scan, given: Scan) -> tuple[float, float, str] | None:
    """What scans are ordered by as sources, best first; None for one that can be none."""
    measures = scan.measures
    sure, parts = measures.get("confidence", {}), measures.get("components", {})
    if given.modality in PHASES or "_part-phase_" in scan.scan:
        return None
    if any(parts.get(name) != n for name, n in COUNT.items()):
        return None
    least = min(float(sure.get(name, 0.0)) for name in LABELS)
    if least < SURE or float(measures.get("volume_ml", {}).get("brain", 0.0)) < BRAIN_ML:
        return None
    size = float(np.prod(given.measures.get("spacing", [9.0])[:3]))
    # confidences that differ by little say nothing; then finer voxels are better
    return -round(least * 10) / 10, size, scan.scan


def _balanced(scan: _Read) -> bool:
    """Whether the two of each pair of organs are of a size: no fragment taken for an ear."""
    sizes: dict[str, list[int]] = defaultdict(list)
    for name, index in _pieces(scan.labels, scan.affine):
        sizes[name].append(len(index))
    return all(
        len(sizes[name]) == n and min(sizes[name]) >= EVEN * max(sizes[name])
        for name, n in COUNT.items()
    )


def _one_acquisition(source: Scan, scan: Scan) -> bool:
    """Whether a phase image was acquired with a magnitude: one series, one frame of reference.

    Then both are one complex image, and nothing can have moved between them.
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


def _propagate(source: _Read, scan: _Read, images: Path, folder: Path, *, shared: bool) -> Scan:
    """One scan with the labels of another, if it needs them and they are proven to fit."""
    carried = carry(source.labels, source.affine, scan.shape, scan.affine)
    seen = organs(source.labels, source.affine, scan.shape, scan.affine)
    within = view(source.shape, source.affine, scan.shape, scan.affine)
    own, grid = _coarse(scan.labels, scan.affine)
    other, _ = _coarse(carried, scan.affine)
    both, _ = _coarse(within.view(np.uint8), scan.affine)
    dice = overlap(own, other, both > 0)
    sure = scan.scan.measures.get("confidence", {})
    unsure = {n for n in LABELS if float(sure.get(n, 0.0)) < CONFIDENT}
    confident = [n for n in FEATURES if n not in unsure]
    one = _one_acquisition(source.given, scan.given) and np.allclose(
        source.affine, scan.affine, atol=1e-3
    )
    off = away(np.where(both > 0, own, 0).astype(np.uint8), other, grid, confident)
    lacking = missed(own, other, grid, seen)
    name = source.scan.scan
    measures: dict[str, Any] = {"from": "", "compared": name, "overlap": round(dice, 3)}

    def marked(reason: str) -> Scan:
        kept = {**scan.scan.measures, "propagated": measures}
        out = replace(scan.scan, measures=kept)
        # without a shared frame, that two scans differ says nothing of either
        return out.mark("review", f"{REVIEW}: {reason}") if shared else out

    if (
        not one
        and dice >= OVERLAP
        and not (off or lacking or any((own == LABELS[n]).any() for n in unsure))
    ):
        # seen by both alike: the other scan's organs only add to the region
        return _written(scan, join(scan.labels, carried, scan.affine), folder, measures)
    least = OVERLAP_WEAK if one else OVERLAP
    if dice < least:
        return marked(f"the brain lies elsewhere than in {name}, the head may have moved")
    if one:
        moved = motion.Motion((0.0,) * len(seen), motion.NEEDED)
    else:
        moved = _moved(source, scan, carried, seen, images)
    if not moved.known:
        return marked(f"it is not proven that the head lies as in {name}")
    # a turn about the crown moves the chin far; it counts where the chin may come into view
    counts = [mm for mm, o in zip(moved.each, seen, strict=True) if o.outside_mm <= mm + MOVED_MM]
    mm = max(counts, default=0.0)
    measures["moved_mm"] = round(mm, 1)
    if mm > MOVED_MM:
        return marked(f"the head moved by {mm:.0f} mm against {name}")
    if off and not one:
        return marked(f"the {' and '.join(off)} lie elsewhere than in {name}")
    cut = sorted({o.label for o in seen if o.cut})
    if cut:
        return marked(f"{name} does not show the whole of the {' and '.join(cut)}")
    joined = carried
    if not one:
        agreeing = np.where(scan.labels == LABELS["brain"], scan.labels, 0).astype(np.uint8)
        for n in confident:
            where = _near(carried == LABELS[n], scan.affine, NEAR_MM)
            agreeing[(scan.labels == LABELS[n]) & where] = LABELS[n]
        joined = join(carried, agreeing, scan.affine, ~within)
    masks.clear_of_organs(joined, np.linalg.norm(scan.affine[:3, :3], axis=0))
    measures |= {"from": name, "organs": [vars(o) for o in seen], "own_confidence": dict(sure)}
    out = _written(scan, joined, folder, measures)
    # one frame of reference: the head lies in both as where it was seen better
    said = source.scan.measures
    theirs: dict[str, Any] = {k: said[k] for k in ("confidence",) if k in said}
    files = dict(out.files)
    # where the brain may be besides is theirs to say too, of whom this one passes only if they do
    doubts = files.pop("possible_brain", None)
    if doubts:
        (folder / doubts).unlink(missing_ok=True)
    return replace(out, files=files, measures={**out.measures, **theirs})


def _written(scan: _Read, labels: Labels, folder: Path, measures: dict[str, Any]) -> Scan:
    """Write the new label map in the old one's place."""
    nifti.save(nib.Nifti1Image(labels, scan.affine), folder / scan.scan.files["labels"])
    ml = abs(np.linalg.det(scan.affine[:3, :3])) / 1000
    counts = np.bincount(labels.ravel(order="K"), minlength=len(LABELS) + 1)
    sizes = {n: round(float(counts[k] * ml), 3) for n, k in LABELS.items()}
    kept = {**scan.scan.measures, "volume_ml": sizes, "propagated": measures}
    return replace(scan.scan, measures=kept)


def _moved(
    source: _Read, scan: _Read, carried: Labels, seen: Sequence[Organ], images: Path
) -> motion.Motion:
    """How far the face moved between two scans, by their images."""
    means = []
    for one in (source, scan):
        img = nifti.load(images / one.given.files["nifti"])
        img = volumes.select(img, one.scan.measures.get("volumes", ()))
        volume = grids.volume(nifti.stored(img), *nifti.scaling(img))
        means.append((volume, np.asarray(img.affine, np.float64)))
    head = _near(carried > 0, scan.affine, 12.0)
    centres = np.array([o.centre for o in seen])
    return motion.between(means[0], means[1], head, centres)
