"""The gate: may this scan leave the restricted zone?

Three questions, each answered from the voxels: is there a head whose face is accounted for
(:func:`face`); did distorting change the face, and nothing else (:func:`change`); is the face gone
(:func:`remains`). :func:`gate` asks all three. What is not proven is never ``pass``.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any

import nibabel as nib
import numpy as np
from nibabel.affines import apply_affine
from numpy.typing import NDArray

from efface import nifti
from efface.distort.folded import Folded, folded
from efface.distort.methods import METHODS
from efface.qc import blank, ct
from efface.segment import anatomy as anatomies
from efface.segment import orientation
from efface.segment import pose as poses
from efface.segment.anatomy import PARTS, Anatomy, Pose, View
from efface.segment.labels import FEATURES, LABELS
from efface.segment.masks import around_all, box_of, indices, thinned, within
from efface.segment.organs import voxel_sizes
from efface.segment.pose import LEAST_MM3, MISFIT, Head, Scene
from efface.status import (
    BRAIN_TOUCHED,
    CT,
    FACE_REMAINS,
    NO_FACE,
    NOT_A_HEAD,
    REVIEW,
    Status,
    worst,
)

Labels = NDArray[np.uint8]
Bool = NDArray[np.bool_]

BRAIN_ML = (300.0, 2200.0)
"""A whole brain is no smaller and no larger than this."""
CUT_BRAIN_ML = 60.0
"""A brain cut by the field of view may be as small as this (three thick slices)."""
SHARE_LABELLED = 0.5
"""Of a part that another scan saw whole, so much of what is in view must be labelled."""
COVERED = 0.9
"""A part that was not found is accounted for if so much of where it may be was replaced: a sliver
at the edge of the field of view, beside organs that were found."""
COVERED_MISFIT = 0.75
"""Where a part may be is believed only if the parts that were found fit so well: of 21 parts that
counted as covered in 100 hard heads, the one where they fitted worse (0.80) was not."""
LIKENESS = 0.82
"""Of the brain that was found with the mean brain (Dice)."""
CONFIDENCE = 0.5
"""Below this a person looks."""
BRAIN_REPLACED_ML = 12.0
"""More than this replaced of what the network gives some probability of brain, and is labelled
neither brain nor organ, means that brain was not found there."""
COVERAGE = 0.99
"""Share of each organ's voxels that must lie in the replaced region."""
REMAINS_SHARE, REMAINS_MM3 = 0.4, 300.0
"""An organ found again beside the region, above both, means that the face may remain.

Most of an eye that was missed is found so, and of a face nothing of which was missed only some of
the ears (tests/test_qc.py holds real heads to it)."""
REMAINS_BESIDE = 4.0
"""Nearer to the region than this lies its rim, where the network guesses on what was cut, in mm."""
REMAINS_INSIDE = 0.65
"""The same where it was: the network guesses up to half of the eyes into an orbit of noise, but
nearly all of them are found in a head that was not distorted."""
RESEMBLANCE = 0.5
"""Correlation of the organs' voxels before and after from which on they are no replacement."""


@dataclass(frozen=True)
class Verdict:
    """Status, reasons in words for a data manager, and the numbers they rest on."""

    status: Status = "pass"
    reasons: tuple[str, ...] = ()
    measures: dict[str, Any] = field(default_factory=dict)

    def mark(self, status: Status, reason: str) -> Verdict:
        """The verdict with a further reason and the more cautious status."""
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
    labels: Labels,
    mask: Bool,
    confidence: Mapping[str, float],
    again: Callable[[], Labels | None],
    method: str,
    features: Collection[str] = FEATURES,
    anatomy: Anatomy | None = None,
    known: Sequence[Mapping[str, Any]] = (),
    turn: str = orientation.AS_IT_IS,
    head: Head | None = None,
    maybe_brain: Bool | None = None,
    negative: bool = False,
) -> Verdict:
    """All questions to one scan.

    ``labels`` (uint8) and ``mask`` (bool, the replaced region) are 3D on the grid of ``before``;
    ``again``, called last, gives the labels that the segmentation finds in ``after`` (as
    :func:`remains` takes them), None if it could not be asked, which is never a pass. ``features``
    are the organs that were to go; ``known`` as in :func:`face`; ``turn``: how the head lies
    otherwise than the header tells; ``head``: how it lies by its labels, where that is known;
    ``maybe_brain``: voxels that may be brain though nobody labelled them so, chosen as ``again``;
    ``negative``: the air is brighter than the head.
    """
    features = _features(features)
    anatomy = anatomies.load() if anatomy is None else anatomy
    straight = orientation.affine(before.affine, turn)
    head = poses.head(labels, straight, anatomy) if head is None else head
    verdict, pose = _face(head, confidence, anatomy, known, mask, before, negative=negative)
    if turn != orientation.AS_IT_IS:
        verdict.measures["head_lies"] = turn  # where its right, anterior and superior point
    if verdict.status == "fail":
        return verdict
    verdict = verdict + change(before, after, labels, mask, method, features)
    if pose is None:
        return verdict
    if maybe_brain is not None:
        verdict = verdict + _spared(head.scene, mask, maybe_brain)
    voxel = float(abs(np.linalg.det(np.asarray(before.affine, float)[:3, :3])))
    rest = folded(before, labels, mask, head, negative, anatomy)
    verdict = verdict + _wrapped(rest, mask, voxel)
    found = again()
    if found is None:
        return verdict.mark("review", f"{FACE_REMAINS}: the scan could not be segmented again")
    may_be = None
    if pose is not None and pose.misfit <= MISFIT:
        may_be = partial(_may_be, anatomy, pose, straight)
    missed = [n for n in PARTS if verdict.measures[_key(n)] == "missing"]
    # what the network sees of an organ in a blank place is no second finding
    sought = [f for f in features if not _all_blank(verdict, f)]
    left = remains(labels, found, mask, before.affine, sought, may_be, missed)
    told = {f"{REVIEW}: {n} not found" for n in missed if any(n in r for r in left.reasons)}
    return replace(verdict, reasons=tuple(r for r in verdict.reasons if r not in told)) + left


def _key(part: str) -> str:
    """The measure that holds the state of a part of the face."""
    return part.replace(" ", "_")


def _all_blank(verdict: Verdict, organ: str) -> bool:
    return all(verdict.measures[_key(n)] == "blank" for n, label in PARTS.items() if label == organ)


def face(
    labels: Labels,
    confidence: Mapping[str, float],
    affine: NDArray[np.floating[Any]],
    anatomy: Anatomy | None = None,
    known: Sequence[Mapping[str, Any]] = (),
    mask: Bool | None = None,
) -> Verdict:
    """Whether there is a head, and every part of its face was found or provably is not in view.

    ``labels``: uint8 (x, y, z), world in mm by ``affine``. ``known``: where another scan of the
    same head saw the organs whole, as :class:`efface.segment.propagate.Organ` has it; they say of
    their parts what of them is in view. ``mask`` (bool): the replaced region, which may hold all of
    where a part that was not found can be.
    """
    anatomy = anatomies.load() if anatomy is None else anatomy
    return _face(poses.head(labels, affine, anatomy), confidence, anatomy, known, mask)[0]


def _face(
    head: Head,
    confidence: Mapping[str, float],
    anatomy: Anatomy,
    known: Sequence[Mapping[str, Any]],
    mask: Bool | None,
    image: nib.Nifti1Image | None = None,
    *,
    negative: bool = False,
) -> tuple[Verdict, Pose | None]:
    """As :func:`face`, and the pose of the head if there is one.

    ``image``: the image as it was, to tell parts that were removed before from parts not found, and
    CT from MR; ``negative``: its air is brighter than the head.
    """
    seen, laid = head.scene, head.laid
    view, small, index, ml = seen.view, seen.small, seen.brain, seen.brain_ml
    measures: dict[str, Any] = {"brain_ml": round(ml, 1)}

    def no_head(why: str) -> tuple[Verdict, None]:
        if image is not None and (ct.in_hounsfield_units(image, seen) or ct.windowed(image, seen)):
            return Verdict("review", (f"{REVIEW}: {CT}, {why}",), measures), None
        return Verdict("fail", (f"{NOT_A_HEAD}: {why}",), measures), None

    if laid is None:
        return no_head("no brain found")
    edge = index[((index == 0) | (index == np.array(small.shape) - 1)).any(axis=1)]
    cut = len(edge) * seen.voxel ** (2 / 3) > 100  # mm² of the brain on the edge of the view
    measures["brain_cut"] = bool(cut)
    if ml > BRAIN_ML[1] or ml < (CUT_BRAIN_ML if cut else BRAIN_ML[0]):
        return no_head(f"{ml:.0f} ml of brain found")

    pose, told = _told(known, laid.pose, anatomy, view, seen.points(), ml)
    laid = replace(laid, pose=pose)
    measures["pose_misfit"] = round(pose.misfit, 2)
    verdict = Verdict("pass", (), measures)
    if image is not None:
        bright = ct.bright_skull(image, seen, negative=negative)
        measures["bright_skull"] = None if bright is None else round(bright, 3)
        is_ct = bright is not None and bright >= ct.BRIGHT_SKULL
        if is_ct or ct.in_hounsfield_units(image, seen):
            verdict = verdict.mark("review", f"{REVIEW}: {CT}")
    if pose.misfit > MISFIT:
        verdict = verdict.mark("review", f"{REVIEW}: the parts found do not make up a head")
    like = poses.likeness(seen, pose, anatomy)
    measures["brain_likeness"] = None if like is None else round(like, 3)
    if like is not None and like < LIKENESS:
        verdict = verdict.mark("review", f"{REVIEW}: the brain found is not shaped as a brain")

    def certain(name: str) -> bool:
        sure = float(confidence.get(PARTS[name], 0.0)) >= CONFIDENCE
        there = sure and laid.found(anatomy, view, name)
        return there and not anatomies.strays(anatomy, pose, name, laid.centres[name])

    enough = sum(map(certain, PARTS)) >= poses.KNOWN

    def covered(name: str) -> bool:
        if mask is None or pose.misfit > COVERED_MISFIT:
            return False
        box, may = poses.room(small, seen.grid, anatomy, pose, name)
        if not may.any():
            return True
        return enough and bool(mask[thinned(view.affine)[0]][box][may].mean() >= COVERED)

    def is_cut(name: str) -> bool:
        return anatomies.inside(anatomy, pose, view, name) < poses.CUT

    def gone(label: str) -> bool:
        """Whether of an organ only cut parts are in view, and all they may take up was replaced."""
        names = [n for n, where in PARTS.items() if where == label]
        return bool(names) and all(
            measures[_key(n)] in ("outside", "covered") or (is_cut(n) and covered(n)) for n in names
        )

    missing: list[str] = []
    off: list[str] = []
    for name in PARTS:
        if laid.found(anatomy, view, name):
            state = "found"
            if anatomies.strays(anatomy, pose, name, laid.centres[name]) and not (
                is_cut(name) and covered(name)
            ):
                off.append(name)
        elif name in told:
            state = _of_told(told[name], laid.volumes.get(name, 0.0))
        elif pose.misfit <= MISFIT and anatomies.outside(anatomy, pose, view, name):
            state = "outside"
        elif covered(name):
            state = "covered"
        else:
            state = "missing"
        if state == "missing":
            missing.append(name)
        measures[_key(name)] = state
    if missing and image is not None and pose.misfit <= MISFIT:
        gone_before = [n for n in missing if blank.removed(image, seen, laid, anatomy, n)]
        measures |= {_key(n): "blank" for n in gone_before}
        missing = [n for n in missing if n not in gone_before]
        if gone_before and blank.stripped(image, seen):
            verdict = verdict.mark("review", f"{NO_FACE}: skull-stripped?")
        elif gone_before:
            verdict = verdict.mark("review", f"{NO_FACE}: already defaced? {_blank(gone_before)}")
    if missing and not any(measures[_key(n)] in ("found", "blank") for n in PARTS):
        verdict = verdict.mark("review", f"{NO_FACE}: not found: {', '.join(missing)}")
    else:
        for name in missing:
            verdict = verdict.mark("review", f"{REVIEW}: {name} not found")
    for name in off:
        verdict = verdict.mark("review", f"{REVIEW}: {name} found in an unlikely place")
    for label in ("brain", *FEATURES):
        if label != "brain" and not any(
            measures[_key(n)] == "found" for n, where in PARTS.items() if where == label
        ):
            continue
        sure = float(confidence.get(label, float("nan")))
        measures[f"confidence_{label}"] = None if np.isnan(sure) else round(sure, 3)
        # NaN is not sure either; what is gone wherever it may be need not be known
        if not sure >= CONFIDENCE and not gone(label):
            verdict = verdict.mark("review", f"{REVIEW}: low confidence in the {label}")
    return verdict, pose


def _blank(names: Sequence[str]) -> str:
    return f"one constant value in the place of {', '.join(names)}"


def change(
    before: nib.Nifti1Image,
    after: nib.Nifti1Image,
    labels: Labels,
    mask: Bool,
    method: str,
    features: Collection[str] = FEATURES,
) -> Verdict:
    """Whether the stored voxels changed in the face, nowhere in the brain, and nowhere else."""
    features = _features(features)
    old, new = nifti.stored(before), nifti.stored(after)
    if old.shape != new.shape or old.dtype != new.dtype or mask.shape != old.shape[:3]:
        return Verdict("fail", (f"{FACE_REMAINS}: the grid or the voxel type has changed",))
    if not _same_geometry(before, after):
        return Verdict("fail", (f"{REVIEW}: the header geometry has changed",))
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
    measures: dict[str, Any] = {
        "method": method,
        "region_ml": round(region_ml * voxel / 1000, 2),
        "brain_voxels_changed": in_brain,
        "voxels_changed_outside_region": elsewhere,
    }
    verdict = Verdict("pass", (), measures)
    if in_brain:
        verdict = verdict.mark("fail", f"{BRAIN_TOUCHED}: {in_brain} brain voxels changed")
    if elsewhere:
        verdict = verdict.mark("fail", f"{REVIEW}: {elsewhere} voxels changed outside the region")
    if method not in METHODS or METHODS[method].depends_on_face:
        verdict = verdict.mark("review", f"{REVIEW}: method {method} keeps something of the face")
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
    may_be: Callable[[str, NDArray[np.intp]], Bool] | None = None,
    missed: Collection[str] = (),
) -> Verdict:
    """Whether an organ is found again in the distorted image, beside the region or inside it.

    ``labels`` (uint8) and ``mask``, the region: 3D, the same grid; ``again`` (uint8): on the voxels
    of it that :func:`efface.segment.masks.thinned` chooses. ``may_be`` says of such voxels (n, 3)
    where an organ can be, if that is known: the network, which misses a face, sees ears in temples
    and a mouth in a neck. Eyes count wherever they are found: a face that lies where no one thought
    it would has them. ``missed``: the parts of the face that were not found before distorting.
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
        if may_be is not None and name != "eyes":
            at = at[may_be(name, at + first)]
        beside = float(len(at)) * voxel
        inside = float(np.count_nonzero(found & was)) * voxel
        if size >= LEAST_MM3:
            verdict.measures[f"found_again_{name}"] = round(beside / size, 3)
        parts = [n for n, label in PARTS.items() if label == name]
        new = [n for n in parts if n in missed]
        if beside > REMAINS_MM3 and beside > REMAINS_SHARE * size:
            if new:
                said = f"{name} found after distorting, {' and '.join(new)} not before"
            else:
                said = f"{name} found again after distorting"
        elif inside > REMAINS_MM3 and inside > REMAINS_INSIDE * size:
            known = [n for n in parts if n not in missed] if new else [name]
            said = f"{' and '.join(known)} found again after distorting"
        else:
            continue
        verdict = verdict.mark("review", f"{FACE_REMAINS}: {said}")
    return verdict


def _may_be(
    anatomy: Anatomy, pose: Pose, affine: NDArray[np.float64], organ: str, index: NDArray[np.intp]
) -> Bool:
    """Which thinned voxels (n, 3) an organ may take up; ``affine``: of the whole volume."""
    points = apply_affine(thinned(affine)[1], index)
    out = np.zeros(len(points), bool)
    for name in (n for n, label in PARTS.items() if label == organ):
        out |= anatomies.may_hold(anatomy, pose, name, points)
    return out


def _spared(seen: Scene, mask: Bool, maybe_brain: Bool) -> Verdict:
    """Whether brain was spared that the network did not label: where it hesitates, some is."""
    thin, _ = thinned(seen.view.affine)
    doubtful = mask[thin] & (seen.small == 0) & maybe_brain
    ml = float(np.count_nonzero(doubtful) * seen.voxel / 1000)
    verdict = Verdict("pass", (), {"maybe_brain_replaced_ml": round(ml, 2)})
    if ml > BRAIN_REPLACED_ML:
        reason = f"{REVIEW}: {ml:.0f} ml were replaced that may be brain"
        verdict = verdict.mark("review", reason)
    return verdict


def _wrapped(rest: Folded | None, mask: Bool, voxel: float) -> Verdict:
    """Whether all of a face was replaced that a phase wrap shows at another edge."""
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


def _told(
    known: Sequence[Mapping[str, Any]],
    pose: Pose,
    anatomy: Anatomy,
    view: View,
    brain: NDArray[np.float64],
    ml: float,
) -> tuple[Pose, dict[str, Mapping[str, Any]]]:
    """The pose by the organs another scan saw whole, and which part of the face each of them is.

    A part that two organs, or none, lie at the place of is told by none.
    """

    def parts() -> dict[str, Mapping[str, Any]]:
        out: dict[str, list[Mapping[str, Any]]] = {}
        for organ in known:
            left = pose.to_head(np.array(organ["centre"], float)[None])[0, 0] < 0
            names = [n for n, label in PARTS.items() if label == organ["label"]]
            pair = "left" if left else "right"
            names = [n for n in names if len(names) == 1 or n.startswith(pair)]
            for name in names:
                out.setdefault(name, []).append(organ)
        return {n: o[0] for n, o in out.items() if len(o) == 1}

    if not known:
        return pose, {}
    centres = {n: np.array(o["centre"], float) for n, o in parts().items()}
    pose = anatomies.fit(anatomy, view, brain, ml, centres)
    return pose, parts()


def _of_told(organ: Mapping[str, Any], seen: float) -> str:
    """State of a part that another scan saw whole, of which ``seen`` mm³ are labelled in this."""
    in_view = float(organ["in_view_mm3"])
    if in_view < LEAST_MM3:
        return "outside"
    return "found" if seen >= SHARE_LABELLED * in_view else "missing"


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
