"""The gate: whether a scan may leave the restricted zone.

Three questions, each answered from the voxels. :func:`face`: is there a head, and is every landmark
of its face found or outside the field of view? :func:`change`: did the face change, and nothing
else? :func:`remains`: is the face gone? :func:`gate` asks all three. A scan for which one is not
proven never passes.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import nibabel as nib
import numpy as np
from nibabel.affines import apply_affine
from numpy.typing import NDArray

from efface import nifti
from efface.distort.folded import Folded, folded
from efface.distort.methods import METHODS
from efface.measures import Figure, OrganMeasures
from efface.qc import blank, ct
from efface.segment import fit, orientation
from efface.segment.anatomy import LANDMARKS, names_of
from efface.segment.fit import Sample
from efface.segment.geometry import voxel_sizes
from efface.segment.labels import FEATURES, LABELS
from efface.segment.masks import around_all, box_of, indices, thinned, within
from efface.segment.pose import KNOWN, LEAST_MM3, Pose
from efface.segment.segmentation import Segmentation
from efface.status import (
    ALREADY_DEFACED,
    BRAIN_SHAPE_UNLIKELY,
    BRAIN_TOUCHED,
    FACE_NOT_FOUND,
    FACE_REMAINS,
    GEOMETRY_CHANGED,
    GRID_CHANGED,
    LANDMARKS_INCONSISTENT,
    LOW_CONFIDENCE,
    MAYBE_BRAIN_REPLACED,
    MAYBE_CT,
    METHOD_KEEPS_FACE,
    NOT_A_HEAD,
    PART_NOT_FOUND,
    POSITION_UNLIKELY,
    SKULL_STRIPPED,
    VOXELS_CHANGED_OUTSIDE,
    Status,
    worst,
)

Labels = NDArray[np.uint8]
Bool = NDArray[np.bool_]

BRAIN_ML = (300.0, 2200.0)
"""Smallest and largest volume of a whole brain."""
CUT_BRAIN_ML = 60.0
"""Smallest volume of a brain that the field of view cuts (three thick slices)."""
SHARE_LABELLED = 0.5
"""Share that must be labelled of what is in view of an organ that another scan shows whole."""
COVERED = 0.9
"""A landmark that was not found is covered if this share of where it may lie was replaced: a sliver
at the edge of the field of view, beside organs that were found."""
COVERED_MISFIT = 0.75
"""Largest misfit at which where a landmark may lie is reliable. Of 21 landmarks that counted as
covered in 100 hard cases, the one with a larger misfit (0.80) was not."""
LIKENESS = 0.82
"""Smallest Dice of the labelled brain with the mean brain."""
CONFIDENCE = 0.5
"""Below this confidence a scan goes to review."""
BRAIN_REPLACED_ML = 12.0
"""Largest replaced volume of possible brain that has no label; more means that brain was missed."""
COVERAGE = 0.99
"""Share of each organ's voxels that must lie in the replaced region."""
REMAINS_SHARE, REMAINS_MM3 = 0.4, 300.0
"""An organ labelled again beside the region, above both, means that the face may remain. Most of
an eye that was missed is labelled so, and of a face of which nothing was missed only some of the
ears (tests/test_qc.py checks real heads)."""
REMAINS_BESIDE = 4.0
"""Nearer to the region than this, in mm, organs labelled again do not count: the network guesses at
the rim of what was cut."""
REMAINS_INSIDE = 0.65
"""The same share inside the region: the network labels up to half of the eyes in an orbit of noise,
and nearly all of them in a head that was not distorted."""
RESEMBLANCE = 0.5
"""Largest correlation of the organs' voxels before and after."""


@dataclass(frozen=True)
class Verdict:
    """Status, reasons, and the measures that they rest on."""

    status: Status = "pass"
    reasons: tuple[str, ...] = ()
    measures: dict[str, Figure] = field(default_factory=dict)

    def mark(self, status: Status, reason: str) -> Verdict:
        """Return the verdict with a further reason and the more cautious status."""
        return Verdict(worst(self.status, status), (*self.reasons, reason), self.measures)

    def __add__(self, other: Verdict) -> Verdict:
        return Verdict(
            worst(self.status, other.status),
            (*self.reasons, *(r for r in other.reasons if r not in self.reasons)),
            {**self.measures, **other.measures},
        )


def gate(
    before: nib.Nifti1Image,
    after: nib.Nifti1Image,
    seg: Segmentation,
    mask: Bool,
    resegment: Callable[[], Labels | None],
    method: str,
    features: Collection[str] = FEATURES,
    known: Sequence[OrganMeasures] = (),
) -> Verdict:
    """Ask all questions of one scan.

    ``seg``: segmentation of ``before``, of one position of the head in an image that is not
    rolled; ``mask`` (bool): the replaced region, on the same grid; ``resegment``, called last,
    returns the labels of ``after`` as :func:`remains` takes them, or None if it could not be
    segmented again, which is never a pass. ``features``: the organs to remove; ``known`` as in
    :func:`face`.
    """
    features = _features(features)
    labels, pose = seg.labels, seg.pose
    few = fit.sample(labels, before.affine)
    image = Image(before, seg.inverted)
    verdict = _face(few, pose, seg.confidence, known, mask, image)
    if seg.orientation != orientation.STANDARD:
        verdict.measures["head_lies"] = seg.orientation
    if verdict.status == "fail":
        return verdict
    verdict = verdict + change(before, after, labels, mask, method, features)
    if pose is None or "pose_misfit" not in verdict.measures:
        return verdict
    if seg.possible_brain is not None:
        verdict = verdict + _spared(few, mask, seg.possible_brain)
    voxel = float(abs(np.linalg.det(np.asarray(before.affine, float)[:3, :3])))
    rest = folded(before, labels, mask, pose, seg.inverted)
    verdict = verdict + _wrapped(rest, mask, voxel)
    after_labels = resegment()
    if after_labels is None:
        return verdict.mark("review", f"{FACE_REMAINS}: the scan could not be segmented again")
    missed = [n for n in LANDMARKS if verdict.measures[_key(n)] == "missing"]
    # an organ labelled again where the image was blank before is not evidence of a face
    possible = [f for f in features if not _all_blank(verdict, f)]
    placed = pose if pose.consistent else None
    left = remains(labels, after_labels, mask, before.affine, possible, placed, missed)
    reported = {f"{PART_NOT_FOUND}: {n}" for n in missed if any(n in r for r in left.reasons)}
    return replace(verdict, reasons=tuple(r for r in verdict.reasons if r not in reported)) + left


def _key(landmark: str) -> str:
    """The measure that holds the state of a landmark."""
    return landmark.replace(" ", "_")


def _all_blank(verdict: Verdict, organ: str) -> bool:
    return all(verdict.measures[_key(n)] == "blank" for n in names_of(organ))


@dataclass(frozen=True)
class Image:
    """An image before distorting, to tell removed from missed landmarks, and CT from MR."""

    img: nib.Nifti1Image
    inverted: bool
    """Whether its air is brighter than the head."""


def face(
    labels: Labels,
    confidence: Mapping[str, float],
    affine: NDArray[np.floating[Any]],
    known: Sequence[OrganMeasures] = (),
    mask: Bool | None = None,
) -> Verdict:
    """Judge whether there is a head, and every landmark is found or outside the field of view.

    ``labels``: uint8 (X, Y, Z); ``affine`` (4, 4): voxel to world, mm; ``known``: organs that
    another scan of the same head shows whole (:class:`efface.segment.propagate.Organ`), which tell
    how much of them is in view; ``mask`` (bool): the replaced region, which may cover all of where
    a landmark that was not found can lie.
    """
    pose = fit.estimate(labels, affine, known=known)
    return _face(fit.sample(labels, affine), pose, confidence, known, mask)


def _face(
    few: Sample,
    pose: Pose | None,
    confidence: Mapping[str, float],
    known: Sequence[OrganMeasures],
    mask: Bool | None,
    image: Image | None = None,
) -> Verdict:
    """As :func:`face`, from the sample of the labels and the pose."""
    ml = few.brain_ml
    measures: dict[str, Figure] = {"brain_ml": round(ml, 1)}
    if pose is None:
        return _no_head("no brain found", few, image, measures)
    last = np.array(few.labels.shape) - 1
    edge = ((few.brain == 0) | (few.brain == last)).any(axis=1)
    cut = np.count_nonzero(edge) * few.voxel ** (2 / 3) > 100  # mm² at the edge of the view
    measures["brain_cut"] = bool(cut)
    if ml > BRAIN_ML[1] or ml < (CUT_BRAIN_ML if cut else BRAIN_ML[0]):
        return _no_head(f"{ml:.0f} ml of brain found", few, image, measures)
    measures["pose_misfit"] = round(pose.misfit, 2)
    verdict = Verdict("pass", (), measures)
    if image is not None:
        bright = ct.bright_skull(image.img, few, pose, inverted=image.inverted)
        measures["bright_skull"] = None if bright is None else round(bright, 3)
        is_ct = bright is not None and bright >= ct.BRIGHT_SKULL
        if is_ct or ct.in_hounsfield_units(image.img, few):
            verdict = verdict.mark("review", MAYBE_CT)
    if not pose.consistent:
        verdict = verdict.mark("review", LANDMARKS_INCONSISTENT)
    like = fit.likeness(few, pose)
    measures["brain_likeness"] = None if like is None else round(like, 3)
    if like is not None and like < LIKENESS:
        verdict = verdict.mark("review", BRAIN_SHAPE_UNLIKELY)
    enough = _enough(few, pose, confidence)
    verdict = _landmarks(verdict, few, pose, known, mask, image, enough=enough)
    return _confidences(verdict, few, pose, confidence, mask, enough=enough)


def _no_head(why: str, few: Sample, image: Image | None, measures: dict[str, Figure]) -> Verdict:
    if image is not None and (
        ct.in_hounsfield_units(image.img, few) or ct.windowed(image.img, few)
    ):
        return Verdict("review", (f"{MAYBE_CT}: {why}",), measures)
    return Verdict("fail", (f"{NOT_A_HEAD}: {why}",), measures)


def _landmarks(
    verdict: Verdict,
    few: Sample,
    pose: Pose,
    known: Sequence[OrganMeasures],
    mask: Bool | None,
    image: Image | None,
    *,
    enough: bool,
) -> Verdict:
    """Add the state of each landmark to the measures, and reasons for those without a good one."""
    measures, view = verdict.measures, few.view
    organs = fit.match_organs(known, pose)
    misplaced: list[str] = []
    for name in LANDMARKS:
        if pose.is_found(name, view):
            state = "found"
            covered = pose.is_cut(name, view) and _covered(name, few, pose, mask, enough)
            if not pose.is_plausible(name) and not covered:
                misplaced.append(name)
        elif name in organs:
            mark = pose.landmarks.get(name)
            state = _state_of_known(organs[name], mark.volume if mark else 0.0)
        elif pose.consistent and pose.outside(name, view):
            state = "outside"
        elif _covered(name, few, pose, mask, enough):
            state = "covered"
        else:
            state = "missing"
        measures[_key(name)] = state
    missing = [n for n in LANDMARKS if measures[_key(n)] == "missing"]
    if missing and image is not None and pose.consistent:
        removed = [n for n in missing if blank.removed(image.img, few, pose, n)]
        measures |= {_key(n): "blank" for n in removed}
        missing = [n for n in missing if n not in removed]
        if removed and blank.stripped(image.img, few):
            verdict = verdict.mark("review", SKULL_STRIPPED)
        elif removed:
            where = f"one constant value in the place of {', '.join(removed)}"
            verdict = verdict.mark("review", f"{ALREADY_DEFACED}: {where}")
    if missing and not any(measures[_key(n)] in ("found", "blank") for n in LANDMARKS):
        verdict = verdict.mark("review", f"{FACE_NOT_FOUND}: {', '.join(missing)}")
    else:
        for name in missing:
            verdict = verdict.mark("review", f"{PART_NOT_FOUND}: {name}")
    for name in misplaced:
        verdict = verdict.mark("review", f"{POSITION_UNLIKELY}: {name}")
    return verdict


def _confidences(
    verdict: Verdict,
    few: Sample,
    pose: Pose,
    confidence: Mapping[str, float],
    mask: Bool | None,
    *,
    enough: bool,
) -> Verdict:
    """Add the confidence of each label found, and a reason where it is low."""
    measures = verdict.measures

    def replaced(label: str) -> bool:
        """Whether only cut landmarks are in view, and all they may take up was replaced."""
        names = names_of(label)
        return bool(names) and all(
            measures[_key(n)] in ("outside", "covered")
            or (pose.is_cut(n, few.view) and _covered(n, few, pose, mask, enough))
            for n in names
        )

    for label in ("brain", *FEATURES):
        names = names_of(label)
        if label != "brain" and not any(measures[_key(n)] == "found" for n in names):
            continue
        sure = float(confidence.get(label, float("nan")))
        measures[f"confidence_{label}"] = None if np.isnan(sure) else round(sure, 3)
        # NaN is low too
        if not sure >= CONFIDENCE and not replaced(label):
            verdict = verdict.mark("review", f"{LOW_CONFIDENCE}: {label}")
    return verdict


def _enough(few: Sample, pose: Pose, confidence: Mapping[str, float]) -> bool:
    """Whether enough landmarks are certain for the others to be placed by them."""
    certain = [
        name
        for name, label in LANDMARKS.items()
        if float(confidence.get(label, 0.0)) >= CONFIDENCE
        and pose.is_found(name, few.view)
        and pose.is_plausible(name)
    ]
    return len(certain) >= KNOWN


def _covered(name: str, few: Sample, pose: Pose, mask: Bool | None, enough: bool) -> bool:
    """Whether all of where a landmark may lie was replaced."""
    if mask is None or pose.misfit > COVERED_MISFIT:
        return False
    box, may = pose.possible_voxels(name, few.labels, few.affine)
    if not may.any():
        return True
    return enough and bool(mask[thinned(few.view.affine)[0]][box][may].mean() >= COVERED)


def change(
    before: nib.Nifti1Image,
    after: nib.Nifti1Image,
    labels: Labels,
    mask: Bool,
    method: str,
    features: Collection[str] = FEATURES,
) -> Verdict:
    """Judge whether the stored voxels changed in the face, and nowhere else."""
    features = _features(features)
    old, new = nifti.stored(before), nifti.stored(after)
    if old.shape != new.shape or old.dtype != new.dtype or mask.shape != old.shape[:3]:
        return Verdict("fail", (GRID_CHANGED,))
    if not _same_geometry(before, after):
        return Verdict("fail", (GEOMETRY_CHANGED,))
    # in memory order as the voxels: mixed orders make every later step ten times slower
    changed = np.zeros(mask.shape, bool, order="F" if old.flags.f_contiguous else "C")
    for t in range(old.shape[3] if old.ndim == 4 else 1):
        a, b = (old[..., t], new[..., t]) if old.ndim == 4 else (old, new)
        changed |= _differs(a, b)
    region = mask.astype(bool, copy=False)
    # from here on only where something changed or should have: most of an image is elsewhere
    organs = labels > LABELS["brain"]
    box = around_all(map(box_of, (changed, region, organs)))
    near = (slice(0, 1),) * 3 if box is None else box
    old, new, labels = old[near], new[near], labels[near]
    changed, region = changed[near], region[near]
    in_brain = int(np.count_nonzero(changed & (labels == LABELS["brain"])))
    elsewhere = int(np.count_nonzero(changed & ~region))
    region_ml = float(np.count_nonzero(region))
    voxel = float(abs(np.linalg.det(np.asarray(before.affine, float)[:3, :3])))
    measures: dict[str, Figure] = {
        "method": method,
        "region_ml": round(region_ml * voxel / 1000, 2),
        "brain_voxels_changed": in_brain,
        "voxels_changed_outside_region": elsewhere,
    }
    verdict = Verdict("pass", (), measures)
    if in_brain:
        verdict = verdict.mark("fail", f"{BRAIN_TOUCHED}: {in_brain} voxels")
    if elsewhere:
        verdict = verdict.mark("fail", f"{VOXELS_CHANGED_OUTSIDE}: {elsewhere}")
    if method not in METHODS or METHODS[method].depends_on_face:
        verdict = verdict.mark("review", f"{METHOD_KEEPS_FACE}: {method}")
    at = tuple(indices(organs[near]).T)
    kind, replaced = labels[at], region[at]
    for name in features:
        organ = kind == LABELS[name]
        n = int(np.count_nonzero(organ))
        if n * voxel < LEAST_MM3:
            continue
        share = float(np.count_nonzero(organ & replaced)) / n
        measures[f"coverage_{name}"] = round(share, 4)
        if share < COVERAGE:
            # rounded down, so that 98.99 does not read as 99
            percent = np.floor(1000 * share) / 10
            verdict = verdict.mark(
                "review", f"{FACE_REMAINS}: only {percent:.1f} % of the {name} was replaced"
            )
    inner = replaced & np.isin(kind, [LABELS[f] for f in features])
    if inner.any():
        at = tuple(i[inner] for i in at)
        measures["organ_voxels_changed"] = round(float(changed[at].mean()), 4)
        alike = _resemblance(old, new, at)
        measures["resemblance"] = None if alike is None else round(alike, 3)
        if alike is not None and alike > RESEMBLANCE:
            verdict = verdict.mark(
                "review", f"{FACE_REMAINS}: the new voxels resemble the old ({alike:.2f})"
            )
    return verdict


def remains(
    labels: Labels,
    again: Labels,
    mask: Bool,
    affine: NDArray[np.floating[Any]],
    features: Collection[str] = FEATURES,
    pose: Pose | None = None,
    missed: Collection[str] = (),
) -> Verdict:
    """Judge whether an organ is labelled again in the distorted image, beside or inside the region.

    ``labels`` (uint8) and ``mask``, the region: 3D, the same grid; ``again`` (uint8): on the voxels
    of it that :func:`efface.segment.masks.thinned` chooses. With a ``pose``, an organ beside the
    region counts only where it can lie: the network labels ears in temples and a mouth in a neck
    once it misses the face. Eyes count everywhere: a face in an unexpected place has them.
    ``missed``: the landmarks that were not found before distorting.
    """
    thin, affine = thinned(affine)
    labels, mask = labels[thin], mask[thin]
    voxel = float(abs(np.linalg.det(affine[:3, :3])))
    verdict = Verdict()
    box = box_of((labels > LABELS["brain"]) | (again > LABELS["brain"]))
    if box is None:
        return verdict
    labels, again, mask = labels[box], again[box], mask[box]
    beyond = (again > LABELS["brain"]) & ~mask
    beyond &= ~within(beyond, mask, REMAINS_BESIDE, voxel_sizes(affine))
    first = np.array([s.start for s in box])
    for name in _features(features):
        was, found = labels == LABELS[name], again == LABELS[name]
        size = float(np.count_nonzero(was)) * voxel
        at = indices(found & beyond)
        names = names_of(name)
        if pose is not None and name != "eyes" and len(at):
            points = apply_affine(affine, at + first)
            at = at[np.logical_or.reduce([pose.may_hold(n, points) for n in names])]
        beside = float(len(at)) * voxel
        inside = float(np.count_nonzero(found & was)) * voxel
        if size >= LEAST_MM3:
            verdict.measures[f"found_again_{name}"] = round(beside / size, 3)
        new = [n for n in names if n in missed]
        if beside > REMAINS_MM3 and beside > REMAINS_SHARE * size:
            if new:
                what = f"{name} found after distorting, {' and '.join(new)} not before"
            else:
                what = f"{name} found again after distorting"
        elif inside > REMAINS_MM3 and inside > REMAINS_INSIDE * size:
            others = [n for n in names if n not in missed] if new else [name]
            what = f"{' and '.join(others)} found again after distorting"
        else:
            continue
        verdict = verdict.mark("review", f"{FACE_REMAINS}: {what}")
    return verdict


def _spared(few: Sample, mask: Bool, possible_brain: Bool) -> Verdict:
    """Judge whether possible brain without a label was replaced: more than a rim was missed."""
    thin, _ = thinned(few.view.affine)
    doubtful = mask[thin] & (few.labels == 0) & possible_brain
    ml = float(np.count_nonzero(doubtful) * few.voxel / 1000)
    verdict = Verdict("pass", (), {"maybe_brain_replaced_ml": round(ml, 2)})
    if ml > BRAIN_REPLACED_ML:
        verdict = verdict.mark("review", f"{MAYBE_BRAIN_REPLACED}: {ml:.0f} ml")
    return verdict


def _wrapped(rest: Folded | None, mask: Bool, voxel: float) -> Verdict:
    """Judge whether all of a face was replaced that a phase wrap folds over."""
    if rest is None:
        return Verdict()
    left = float(np.count_nonzero(rest.face & ~mask)) * voxel
    measures = {"folded_mm3": round(float(np.count_nonzero(rest.face)) * voxel, 1)}
    verdict = Verdict("pass", (), {**measures, "folded_left_mm3": round(left, 1)})
    if left < LEAST_MM3:
        return verdict
    reason = "the face may be folded over onto the other edge of the image"
    return verdict.mark("review", f"{FACE_REMAINS}: {reason}")


def _features(features: Collection[str]) -> tuple[str, ...]:
    if isinstance(features, str):
        features = FEATURES if features == "face" else features.split(",")
    return tuple(f for f in FEATURES if f in features or "face" in features)


def _state_of_known(organ: OrganMeasures, volume: float) -> str:
    """State of a landmark that another scan shows whole, ``volume`` mm³ of it labelled in this."""
    in_view = float(organ["in_view_mm3"])
    if in_view < LEAST_MM3:
        return "outside"
    return "found" if volume >= SHARE_LABELLED * in_view else "missing"


def _differs(a: NDArray[np.generic], b: NDArray[np.generic]) -> Bool:
    """Voxels whose bytes differ; NaN equals the same NaN, 0.0 is not -0.0."""
    if a.dtype.kind != "f" or a.dtype.itemsize not in (2, 4, 8):
        return np.asarray(a != b)
    kind = f"{a.dtype.byteorder}u{a.dtype.itemsize}"
    return np.asarray(a.view(kind) != b.view(kind))


def _same_geometry(before: nib.Nifti1Image, after: nib.Nifti1Image) -> bool:
    # an image made of an array keeps its affine in doubles, a file in singles: the header decides
    if not np.allclose(before.affine, after.affine, rtol=1e-5, atol=1e-4):
        return False
    fields: tuple[str, ...] = ("pixdim", "qform_code", "sform_code", "xyzt_units")
    fields += ("srow_x", "srow_y", "srow_z", "quatern_b", "quatern_c", "quatern_d")
    fields += ("qoffset_x", "qoffset_y", "qoffset_z")
    if any(before.header[f].tobytes() != after.header[f].tobytes() for f in fields):
        return False
    return np.array_equal(nifti.scaling(before), nifti.scaling(after), equal_nan=True)


def _resemblance(
    old: NDArray[np.generic], new: NDArray[np.generic], at: tuple[NDArray[np.intp], ...]
) -> float | None:
    """Largest correlation of old and new voxels over the volumes; None if one is constant."""
    best: float | None = None
    for t in range(old.shape[3] if old.ndim == 4 else 1):
        a, b = (old[..., t], new[..., t]) if old.ndim == 4 else (old, new)
        x, y = np.asarray(a[at], float), np.asarray(b[at], float)
        ok = np.isfinite(x) & np.isfinite(y)
        x, y = (
            x[ok] - x[ok].mean() if ok.any() else x[:0],
            y[ok] - y[ok].mean() if ok.any() else y[:0],
        )
        norm = float(np.sqrt((x @ x) * (y @ y))) if len(x) > 10 else 0.0
        if norm > 0:
            best = max(best if best is not None else -1.0, float(x @ y) / norm)
    return best
