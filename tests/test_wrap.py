"""Phase wrap: faces that appear at the opposite edge of the field of view are replaced."""

from dataclasses import replace
from functools import cache

import nibabel as nib
import numpy as np
import pytest
from nibabel.orientations import axcodes2ornt, io_orientation, ornt_transform
from small_session import head as head_of_parts
from small_session import segmented, session_record

import efface
from efface import nifti
from efface.distort import deface_image
from efface.distort.folded import folded
from efface.distort.region import region
from efface.manifest import Scan
from efface.phantom import phantom
from efface.qc import gate
from efface.segment import Segmentation, Segmenter, fit, masks, motion, positions, wrap
from efface.segment.labels import LABELS

MM = np.full(3, 2.0)
FOLDED = "the face may be folded over onto the other edge of the image"


@cache
def person():
    """Voxels, true labels and affine of a phantom, 2 mm, RAS."""
    img, labels = phantom(3, spacing=(2, 2, 2))
    return np.asanyarray(img.dataobj), np.asanyarray(labels.dataobj), img.affine


def crop_and_add(a, axis, n):
    """Add the last ``n`` slices to the first ones and remove them; for n < 0 the reverse."""
    a = np.moveaxis(a, axis, 0)
    a = a if n > 0 else a[::-1]
    out = a[: -abs(n)].copy()
    out[: abs(n)] = (
        out[: abs(n)] + a[-abs(n) :] if a.dtype != bool else out[: abs(n)] | a[-abs(n) :]
    )
    return np.moveaxis(out if n > 0 else out[::-1], 0, axis)


def covered(result, labels, change):
    """Smallest replaced share of the organs of a changed phantom."""
    return min(float(result.mask[change(labels == k)].mean()) for k in range(2, 6))


def brain_kept(result, before):
    same = np.asanyarray(result.image.dataobj) == before
    return same[result.labels == LABELS["brain"]].all() and same[~result.mask].all()


@pytest.mark.parametrize(
    ("axis", "n"),
    [(1, 14), (1, 20), (1, 33), (1, 60), (1, -15), (0, 12), (0, 47), (0, -20), (2, -30), (2, 50)],
)
def test_a_roll_along_any_axis_is_undone(axis, n):
    voxels, labels, _ = person()
    roll = wrap.find_roll(np.roll(voxels, n, axis).astype(np.float32), MM)
    whole = wrap.rolled(np.roll(labels, n, axis), roll)
    # the head is in one piece, whatever the new place of the edge
    for k in range(1, 6):
        before, after = masks.box_of(labels == k)[axis], masks.box_of(whole == k)[axis]
        assert after.stop - after.start == before.stop - before.start
    assert [r for a, r in enumerate(roll) if a != axis] == [0, 0]


def test_images_without_wrap_are_not_rolled():
    voxels, _, affine = person()
    v = voxels.astype(np.float32)
    rng = np.random.default_rng(0)
    noise = rng.normal(100, 20, v.shape).astype(np.float32)
    slab = v[:, :, 60:90]
    tight = v[:, 4:-9]
    for one in (v, noise, np.zeros_like(v), slab, slab[:, :, ::6], tight):
        assert wrap.find_roll(one, MM) == wrap.NO_ROLL
    assert wrap.rolled(v, wrap.NO_ROLL) is v
    assert np.array_equal(wrap.rolled_affine(affine, wrap.NO_ROLL), affine)


@pytest.mark.parametrize("roll", [(0, -3, 0), (5, 0, -2), (-7, 4, 1)])
def test_rolled_voxels_keep_their_world_position(roll):
    img = nib.Nifti1Image(
        np.arange(990, dtype=np.int32).reshape(9, 10, 11), np.diag([2.0, 3.0, 1.5, 1.0])
    )
    img.header.set_slope_inter(2.0, 1.0)
    out = wrap.rolled_image(img, roll)
    assert nifti.scaling(out) == nifti.scaling(img)
    for at in ((4, 5, 5), (4, 4, 3)):
        to = np.array(at) + roll
        if ((to < 0) | (to >= img.shape)).any():
            continue
        assert out.dataobj[tuple(to)] == img.dataobj[at]
        assert np.allclose(out.affine @ [*to, 1], img.affine @ [*at, 1])
    assert np.array_equal(
        wrap.rolled(wrap.rolled(img.dataobj, roll), wrap.inverse(roll)), img.dataobj
    )


@pytest.mark.parametrize(("axis", "n"), [(1, 25), (0, -11), (2, -33)])
def test_a_wrapped_face_is_replaced_at_both_edges(axis, n):
    voxels, labels, affine = person()
    before = np.roll(voxels, n, axis)
    result = efface.deface(nib.Nifti1Image(before, affine))
    assert result.report.status == "pass", result.report.reasons
    assert covered(result, labels, lambda a: np.roll(a, n, axis)) > 0.94
    assert brain_kept(result, before)
    assert (result.mask & (np.roll(labels, n, axis) == LABELS["brain"])).mean() < 1e-3


@pytest.mark.parametrize(("axis", "n"), [(1, 9), (1, 24), (0, 13)])
def test_a_face_folded_over_the_head_is_replaced_or_needs_review(axis, n):
    voxels, labels, affine = person()
    before = crop_and_add(voxels, axis, n)
    result = efface.deface(nib.Nifti1Image(before, affine))
    assert brain_kept(result, before)
    if result.report.status == "pass":
        assert covered(result, labels, lambda a: crop_and_add(a, axis, n)) > 0.94
    else:
        assert any(FOLDED in r for r in result.report.reasons), result.report.reasons


def test_a_wrap_is_undone_in_4d_with_any_order_of_axes():
    voxels, labels, affine = person()
    change = ornt_transform(io_orientation(affine), axcodes2ornt("SPR"))
    img, truth = (
        nib.Nifti1Image(np.roll(a, 14, 1), affine).as_reoriented(change)
        for a in (np.stack([voxels] * 2, -1), labels)
    )
    result = efface.deface(img)
    assert result.report.status == "pass", result.report.reasons
    truth = np.asanyarray(truth.dataobj)
    assert min(result.mask[truth == k].mean() for k in range(2, 6)) > 0.94


def scene(cut=0, gap=3):
    """Image, labels and mask of a head whose nose tip, ``cut`` voxels of 4 mm, wraps to the rear.

    ``gap``: voxels between the head and the rear edge.
    """
    labels, affine = head_of_parts(mm=4.0)
    solid = labels > 0
    nose = masks.box_of(labels == LABELS["nose"])
    first, last = masks.box_of(solid)[1].start, nose[1].stop
    v = np.where(solid, 400, 0)
    v = v[:, first - gap : last - cut] if gap <= first else v
    rest = np.where(labels == LABELS["nose"], 400, 0)[:, last - cut : last]
    v[:, :cut] = v[:, :cut] + rest
    shown = np.zeros(v.shape, bool)
    shown[:, :cut] = rest > 0
    affine = affine.copy()
    affine[1, 3] += 4 * (first - gap)
    return nib.Nifti1Image(v.astype(np.int16), affine), labels[:, first - gap : last - cut], shown


@pytest.mark.parametrize(("cut", "gap"), [(1, 3), (2, 4), (2, 2), (3, 5)])
def test_a_cut_nose_is_replaced_at_the_opposite_edge(cut, gap):
    img, labels, shown = scene(cut, gap)
    pose = fit.estimate(labels, img.affine)
    mask = region(labels, img.affine, pose)
    rest = folded(img, labels, mask, pose)
    assert rest.region[shown].all()
    assert not rest.region[:, img.shape[1] // 2 :].any()
    _, (done,) = deface_image(img, segmented(labels, img.affine))
    assert done[shown].all()
    assert not done[labels == LABELS["brain"]].any()


def test_without_signal_at_the_opposite_edge_nothing_is_folded():
    img, labels, _ = scene(cut=0, gap=3)
    labels, v = labels[:, :-2], np.asanyarray(img.dataobj)[:, :-2]
    img = nib.Nifti1Image(v, img.affine)
    pose = fit.estimate(labels, img.affine)
    mask = region(labels, img.affine, pose)
    assert mask[:, -1].any()
    assert folded(img, labels, mask, pose) is None


@pytest.mark.parametrize("top", [50, 60])
def test_a_field_of_view_without_crown_and_chin_shows_no_fold(top):
    """Both edges cut the head: the crown at the upper edge is no folded mouth."""
    labels, affine = head_of_parts(mm=4.0)
    world = np.indices(labels.shape).reshape(3, -1).T * 4.0 + affine[:3, 3]
    solid = (((world - [0, 10, -20]) / [80, 115, 150]) ** 2).sum(axis=1).reshape(labels.shape) < 1
    first, last = (int((z - affine[2, 3]) / 4) for z in (-105, top))
    labels, solid = labels[:, :, first:last], solid[:, :, first:last]
    affine = affine.copy()
    affine[2, 3] += 4 * first
    img = nib.Nifti1Image(np.where(solid | (labels > 0), 400, 0).astype(np.int16), affine)
    pose = fit.estimate(labels, affine)
    mask = region(labels, affine, pose)
    assert mask[:, :, 0].any()
    assert folded(img, labels, mask, pose) is None


@pytest.mark.parametrize("replaced", [True, False])
def test_a_folded_face_that_was_not_replaced_needs_review(replaced):
    img, labels, shown = scene(cut=2, gap=4)
    given = segmented(labels, img.affine)
    after, (mask,) = deface_image(img, given)
    if not replaced:
        rear = np.zeros(mask.shape, bool)
        rear[:, : mask.shape[1] // 2] = True
        v = np.where(rear, np.asanyarray(img.dataobj), np.asanyarray(after.dataobj))
        after, mask = nifti.with_stored(img, v), mask & ~rear
    verdict = gate.gate(img, after, given, mask, lambda: np.zeros_like(labels), "noise")
    assert any(FOLDED in r for r in verdict.reasons) != replaced
    assert verdict.measures["folded_mm3"] >= shown.sum() * 64


@pytest.mark.slow
def test_every_stage_uses_the_roll(tmp_path):
    from efface import distort, qc, segment
    from efface.manifest import Manifest, read_manifest, write_manifest
    from efface.pseudonym import Key

    voxels, labels, affine = person()
    change = lambda a: np.roll(a, 14, 1)  # noqa: E731
    scan = Scan("sub-a_T1w", "series-1", "T1w", files={"nifti": "i.nii.gz"})
    entry = session_record(session="sub-a", source="bids")
    stages = {}

    def stage(name, scans):
        write_manifest(tmp_path / f"{name}.json", Manifest(name, "sub-a", scans), tmp_path / name)
        stages[name] = (tmp_path / name, read_manifest(tmp_path / f"{name}.json"))
        return stages[name]

    for name in ("convert", "segment", "distort", "scrub", "qc"):
        (tmp_path / name).mkdir()
    nifti.save(nib.Nifti1Image(change(voxels), affine), tmp_path / "convert" / "i.nii.gz")
    convert, scrub = stage("convert", (scan,)), stage("scrub", ())
    model = segment.Segmenter.load()
    segmented = stage("segment", segment.run(convert, tmp_path / "segment", model))
    assert segmented[1].scans[0].measures["roll"][1] != 0
    key = Key(bytes(32))
    done = stage(
        "distort", distort.run(entry, convert, segmented, scrub, tmp_path / "distort", key, "face")
    )
    mask = nifti.stored(nifti.load(tmp_path / "distort" / done[1].scans[0].files["mask"])) > 0
    assert min(mask[change(labels) == k].mean() for k in range(2, 6)) > 0.94
    (judged,) = qc.run(entry, convert, segmented, done, tmp_path / "qc", model, "face")
    assert judged.status == "pass", judged.reasons
    # what docs/architecture.md documents: voxels along each axis
    assert judged.measures["rolled_by"] == segmented[1].scans[0].measures["roll"]


@pytest.mark.parametrize(("eyes", "rolled"), [(2, True), (1, False)])
def test_a_roll_with_no_fewer_organs_is_kept_at_any_certainty(monkeypatch, eyes, rolled):
    voxels, labels, affine = person()
    labels = np.roll(labels, 14, 1)
    parts = {"brain": 1, "eyes": 2, "nose": 1, "ears": 2, "mouth": 1}

    def segmentation_with(certainty, components):
        values = dict.fromkeys(LABELS, certainty)
        pose = fit.estimate(np.roll(labels, -14, 1), affine)
        return Segmentation(labels, values, pose, values, components)

    segmentations = iter(
        (segmentation_with(0.95, parts), segmentation_with(0.90, {**parts, "eyes": eyes}))
    )
    model = Segmenter(None, None)
    monkeypatch.setattr(model, "_label_contrasts", lambda *_: next(segmentations))
    img = nib.Nifti1Image(np.roll(voxels, 14, 1), affine)
    assert (model.segment(img).roll != wrap.NO_ROLL) == rolled


def test_groups_of_a_wrapped_image_are_compared_after_the_roll(monkeypatch):
    labels, affine = head_of_parts(mm=4.0)
    nose = masks.box_of(labels == LABELS["nose"])[1]
    n = labels.shape[1] - (nose.start + nose.stop) // 2  # the edge cuts the nose
    calls = []

    def between(first, second, head, points):
        calls.append((second, head, points))
        return motion.Motion((0.0,) * len(points), motion.NEEDED)

    monkeypatch.setattr(positions.motion, "between", between)
    values = dict.fromkeys(LABELS, 0.9)
    pose, each = fit.estimate(labels, affine), dict.fromkeys(LABELS, 1)
    first_group = Segmentation(np.roll(labels, n, 1), values, pose, values, each, roll=(0, -n, 0))
    second_group = replace(
        first_group, components=dict.fromkeys(LABELS, 0), certainty=dict.fromkeys(LABELS, 0.0)
    )
    segmentations = iter((first_group, second_group))
    voxels = np.roll(labels, n, 1).astype(np.int16)
    img = nib.Nifti1Image(np.stack([voxels, voxels], -1), affine)
    result = positions.segment_groups(img, ((0,), (1,)), lambda _: next(segmentations))
    assert (result.volumes, result.moved) == ((), ())
    (((volume, to), head, points),) = calls
    assert np.array_equal(volume, labels)
    assert not (labels[~head] > 0).any()
    centres = [np.argwhere(labels == k).mean(axis=0) for k in range(2, 6)]
    assert np.allclose(points, nib.affines.apply_affine(to, centres))


# --- real heads -----------------------------------------------------------------------------------


def real(data, name, kind="T1w"):
    img = nib.as_closest_canonical(nib.load(data / "heads" / "val" / f"{name}_{kind}.nii.gz"))
    return np.asanyarray(img.dataobj), img.affine


def test_a_wrapped_nose_tip_of_a_real_head_is_replaced(data):
    voxels, affine = real(data, "IXI453")
    result = efface.deface(nib.Nifti1Image(voxels, affine))
    assert result.report.status == "pass", result.report.reasons
    brain = np.median(voxels[result.labels == LABELS["brain"]])
    tip = voxels[:, :2] > 0.2 * brain
    tip[:, :, :30] = False  # the neck
    assert tip.sum() >= 20
    assert result.mask[:, :2][tip].all()


@pytest.mark.parametrize(("name", "axis", "n"), [("IXI104", 1, 14)])
def test_a_real_face_that_wraps_is_replaced(data, name, axis, n):
    voxels, affine = real(data, name)
    truth, _ = real(data, name, "labels")
    result = efface.deface(nib.Nifti1Image(np.roll(voxels, n, axis), affine))
    assert result.report.status == "pass", result.report.reasons
    assert covered(result, truth, lambda a: np.roll(a, n, axis)) > 0.94


def test_a_real_head_with_shoulders_at_both_edges_is_not_folded(data):
    voxels, affine = real(data, "IXI515")
    result = efface.deface(nib.Nifti1Image(voxels, affine))
    assert result.report.status == "pass", result.report.reasons
    assert "folded_mm3" not in result.report.measures
