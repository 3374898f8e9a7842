"""The gate: which scans pass, go to review, or fail."""

import nibabel as nib
import numpy as np
import pytest
from PIL import Image
from scipy import ndimage
from scipy.spatial.transform import Rotation
from small_session import (
    SERIES,
    SESSION,
    STEM,
    SURE,
    FixedSegmenter,
    head,
    images,
    segmented,
    session,
    stages,
    write_stage,
)

from efface import qc, segment, status
from efface.distort import deface_image
from efface.distort.region import region
from efface.manifest import Manifest, Scan
from efface.phantom import phantom
from efface.qc import gate
from efface.segment import Segmenter, anatomy, fit
from efface.segment.labels import LABELS
from efface.segment.masks import thinned
from efface.segment.segmentation import of_labels
from efface.train.anatomy import measure

STATES = [n.replace(" ", "_") for n in anatomy.LANDMARKS]


def only_brain(labels):
    return np.where(labels == LABELS["brain"], labels, 0).astype(np.uint8)


def verdict_of(labels, affine, **more):
    before, after, mask = images(labels, affine)
    seg = {n: more.pop(n) for n in ("confidence", "possible_brain", "inverted") if n in more}
    resegmented = more.pop("resegmented", only_brain(labels))
    arguments = {
        "method": "noise",
        "before": before,
        "after": after,
        "seg": segmented(labels, affine, **seg),
        "mask": mask,
    } | more
    return gate.gate(**arguments, resegment=lambda: resegmented)


def test_a_whole_head_passes():
    verdict = verdict_of(*head())
    assert verdict.reasons == ()
    assert verdict.status == "pass"
    assert {verdict.measures[p] for p in STATES} == {"found"}
    assert verdict.measures["brain_voxels_changed"] == 0
    assert verdict.measures["coverage_nose"] == 1.0


@pytest.mark.parametrize("name", list(anatomy.LANDMARKS))
def test_a_missing_part_goes_to_review_and_is_named(name):
    verdict = gate.face(head(without=(name,))[0], SURE, head()[1])
    assert verdict.status == "review"
    assert verdict.reasons == (f"{status.PART_NOT_FOUND}: {name}",)


@pytest.mark.parametrize("degrees", [(0, 0, 35), (25, 0, 0), (0, 20, -20), (-20, 10, 25)])
def test_a_rotated_head_passes_and_its_left_and_right_eye_are_distinguished(degrees):
    turn = Rotation.from_euler("xyz", degrees, degrees=True).as_matrix()
    wide = {"low": (-150,) * 3, "high": (150,) * 3}
    labels, affine = head(turn=turn, **wide)
    assert gate.face(labels, SURE, affine).status == "pass"
    labels, affine = head(turn=turn, without=("left eye",), **wide)
    assert gate.face(labels, SURE, affine).measures["left_eye"] == "missing"
    assert gate.face(labels, SURE, affine).measures["right_eye"] == "found"


@pytest.mark.parametrize("size", [0.82, 1.12])
def test_small_and_large_heads_pass(size):
    labels, affine = head(size=size, low=(-120, -140, -170), high=(120, 160, 120))
    assert gate.face(labels, SURE, affine).status == "pass"


def test_anisotropic_and_flipped_grids_give_the_same_verdict():
    labels, affine = head(mm=2.0)
    thick = labels[:, :, ::2]
    flipped = thick[::-1]
    grid = affine.copy()
    grid[:3, 2] *= 2
    grid[0, 0] *= -1
    grid[0, 3] = affine[0, 3] + (labels.shape[0] - 1) * 2.0
    assert gate.face(flipped, SURE, grid).status == "pass"
    missing = np.where(flipped == LABELS["nose"], 0, flipped).astype(np.uint8)
    assert gate.face(missing, SURE, grid).reasons == (f"{status.PART_NOT_FOUND}: nose",)


def test_parts_outside_the_field_of_view_give_no_reason():
    # the back of the head: face in front of the field of view
    labels, affine = head(high=(100, 30, 100))
    verdict = gate.face(labels, SURE, affine)
    assert verdict.status == "pass"
    for name in ("left_eye", "right_eye", "nose", "mouth"):
        assert verdict.measures[name] == "outside"
    assert verdict.measures["left_ear"] == "found"


def test_a_part_cut_by_the_edge_is_found_if_its_visible_rest_is_labelled():
    labels, affine = head(high=(100, 112, 100))
    assert gate.face(labels, SURE, affine).measures["nose"] == "found"
    bare = np.where(labels == LABELS["nose"], 0, labels).astype(np.uint8)
    assert gate.face(bare, SURE, affine).measures["nose"] == "missing"


def test_a_sliver_beside_the_region_is_covered_and_a_missed_part_is_missing():
    # an axial slab that ends a little above where the mouth is expected to begin
    labels, affine = head(mm=2.0, low=(-100, -120, -66))
    bare = np.where(labels == LABELS["mouth"], 0, labels).astype(np.uint8)
    assert gate.face(bare, SURE, affine).measures["mouth"] == "missing"
    mask = region(bare, affine, fit.estimate(bare, affine))
    verdict = gate.face(bare, SURE, affine, mask=mask)
    assert (verdict.status, verdict.measures["mouth"]) == ("pass", "covered")
    assert gate.face(bare, SURE, affine, mask=mask & False).measures["mouth"] == "missing"
    # if all of the mouth is in view, the hull of the other organs does not contain it
    labels, affine = head(mm=2.0)
    bare = np.where(labels == LABELS["mouth"], 0, labels).astype(np.uint8)
    mask = region(bare, affine, fit.estimate(bare, affine))
    assert gate.face(bare, SURE, affine, mask=mask).measures["mouth"] == "missing"


def test_no_part_in_view_is_reported_as_outside():
    """In random crops without organ labels, no part in view is reported as outside."""
    rng = np.random.default_rng(5)
    for _ in range(25):
        turn = Rotation.from_rotvec(rng.normal(0, 0.1, 3)).as_matrix()
        low = rng.uniform((-110, -120, -150), (-30, -60, -20))
        high = rng.uniform((30, 20, 40), (110, 140, 100))
        labels, affine = head(turn=turn, size=rng.uniform(0.9, 1.1), low=low, high=high)
        verdict = gate.face(only_brain(labels), SURE, affine)
        for name, label in anatomy.LANDMARKS.items():
            if verdict.measures.get(name.replace(" ", "_")) != "outside":
                continue
            world = np.argwhere(labels == LABELS[label]) * 4.0 + low
            own = world @ turn
            if name.startswith(("left", "right")):
                own = own[(own[:, 0] < 0) == name.startswith("left")]
            assert len(own) * 64 < 300, (name, low, high)


def test_a_head_without_a_face_goes_to_review():
    verdict = gate.face(only_brain(head()[0]), SURE, head()[1])
    assert verdict.status == "review"
    assert verdict.reasons[0].startswith(status.FACE_NOT_FOUND)


@pytest.mark.parametrize(
    ("labels", "words"),
    [
        (np.zeros((20, 20, 20), np.uint8), "no brain found"),
        (head(without=("brain",))[0], "no brain found"),
        (np.pad(np.ones((10, 10, 10), np.uint8), 8), "ml of brain found"),
        (np.pad(np.ones((40, 40, 40), np.uint8), 2), "ml of brain found"),
    ],
)
def test_labels_without_a_plausible_brain_are_not_a_head(labels, words):
    verdict = gate.face(labels, SURE, np.diag([4.0, 4, 4, 1]))
    assert verdict.status == "fail"
    assert verdict.reasons[0].startswith(status.NOT_A_HEAD)
    assert words in verdict.reasons[0]


@pytest.mark.parametrize("value", [0.2, float("nan"), None])
def test_low_confidence_goes_to_review(value):
    sure = SURE | {"nose": value} if value is not None else {k: 1.0 for k in SURE if k != "nose"}
    verdict = gate.face(head()[0], sure, head()[1])
    assert verdict.reasons == (f"{status.LOW_CONFIDENCE}: nose",)


def test_an_organ_in_an_unlikely_place_goes_to_review():
    labels, affine = head(without=("nose",))
    top = np.argwhere(labels == LABELS["brain"])[:, 2].max()
    labels[20:30, 25:35, top + 1 : top + 5] = LABELS["nose"]
    verdict = gate.face(labels, SURE, affine)
    assert verdict.status == "review"
    assert any("nose" in r or status.LANDMARKS_INCONSISTENT in r for r in verdict.reasons)


def test_one_changed_brain_voxel_fails():
    labels, affine = head()
    before, after, mask = images(labels, affine)
    voxels = np.asarray(after.dataobj).copy()
    at = tuple(np.argwhere(labels == LABELS["brain"])[500])
    voxels[at] += 1
    after = nib.Nifti1Image(voxels, affine)
    verdict = verdict_of(labels, affine, before=before, after=after, mask=mask)
    assert verdict.status == "fail"
    assert any(r.startswith(status.BRAIN_TOUCHED) for r in verdict.reasons)
    assert verdict.measures["brain_voxels_changed"] == 1


def test_a_brain_of_unlikely_shape_goes_to_review():
    labels, affine = head()
    verdict = verdict_of(labels, affine)
    assert verdict.measures["brain_likeness"] > gate.LIKENESS
    # the middle replaced by four columns of the same volume, like the inserts of a test object
    brain = labels == LABELS["brain"]
    at = np.argwhere(brain)
    low, high = at.min(0), at.max(0)
    away = np.abs(
        (np.indices(labels.shape).T - (low + high) / 2).T / (high - low)[:, None, None, None]
    )
    columns = (away[:2] > 0.2).all(0) & (away < 0.55).all(0)
    labels[brain & ~columns] = 0
    labels[columns & (labels == 0)] = LABELS["brain"]
    assert any(status.BRAIN_SHAPE_UNLIKELY in r for r in verdict_of(labels, affine).reasons)


def test_possible_brain_that_was_replaced_goes_to_review():
    labels, affine = head()
    brain = np.argwhere(labels == LABELS["brain"])
    missed = tuple(brain[brain[:, 0] > np.percentile(brain[:, 0], 85)].T)
    possible = (labels == LABELS["brain"])[thinned(affine)[0]]
    labels[missed] = 0
    before, after, mask = images(labels, affine)
    unreplaced = verdict_of(
        labels, affine, before=before, after=after, mask=mask, possible_brain=possible
    )
    assert unreplaced.measures["maybe_brain_replaced_ml"] < gate.BRAIN_REPLACED_ML
    assert not any(status.MAYBE_BRAIN_REPLACED in r for r in unreplaced.reasons)
    voxels = np.asarray(after.dataobj).copy()
    voxels[missed] = np.random.default_rng(1).normal(300, 40, len(missed[0]))
    mask[missed] = True
    after = nib.Nifti1Image(voxels, affine)
    verdict = verdict_of(
        labels, affine, before=before, after=after, mask=mask, possible_brain=possible
    )
    assert verdict.status == "review"
    assert any(status.MAYBE_BRAIN_REPLACED in r for r in verdict.reasons)
    lost = len(missed[0]) * abs(np.linalg.det(affine[:3, :3])) / 1000
    assert verdict.measures["maybe_brain_replaced_ml"] == pytest.approx(lost, rel=0.1)


def test_one_changed_voxel_outside_the_region_fails_even_minus_zero_in_one_volume():
    labels, affine = head()
    _, _, mask = images(labels, affine)
    before = np.zeros((*labels.shape, 3), np.float32)
    after = before.copy()
    at = tuple(np.argwhere((labels == 0) & ~mask)[7])
    after[(*at, 2)] = -0.0
    make = lambda v: nib.Nifti1Image(v, affine)  # noqa: E731
    verdict = gate.change(make(before), make(after), labels, mask, "noise")
    assert verdict.status == "fail"
    assert verdict.measures["voxels_changed_outside_region"] == 1


def test_nan_that_stays_nan_is_no_change():
    labels, affine = head()
    _, _, mask = images(labels, affine)
    values = np.full(labels.shape, np.nan, np.float32)
    image = nib.Nifti1Image(values, affine)
    verdict = gate.change(image, nib.Nifti1Image(values.copy(), affine), labels, mask, "noise")
    assert verdict.measures["voxels_changed_outside_region"] == 0


def test_a_changed_affine_fails():
    labels, affine = head()
    before, after, mask = images(labels, affine)
    moved = affine.copy()
    moved[0, 3] += 0.5
    other = nib.Nifti1Image(np.asarray(after.dataobj), moved)
    assert gate.change(before, other, labels, mask, "noise").status == "fail"


def test_an_organ_that_was_not_replaced_goes_to_review_unless_not_selected():
    labels, affine = head()
    before, after, mask = images(labels, affine)
    ears = labels == LABELS["ears"]
    verdict = verdict_of(labels, affine, mask=mask & ~ears)
    assert any("of the ears was replaced" in r for r in verdict.reasons)
    voxels = np.where(ears, np.asarray(before.dataobj), np.asarray(after.dataobj))
    without = nib.Nifti1Image(voxels.astype(np.int16), affine)
    unselected = gate.change(
        before, without, labels, mask & ~ears, "noise", ["eyes", "nose", "mouth"]
    )
    assert unselected.status == "pass"


@pytest.mark.parametrize("method", ["blur", "unheard-of"])
def test_methods_that_keep_something_of_the_face_go_to_review(method):
    verdict = verdict_of(*head(), method=method)
    assert verdict.status == "review"
    assert any(method in r for r in verdict.reasons)


def test_a_replacement_that_resembles_the_original_goes_to_review():
    labels, affine = head()
    before, _, mask = images(labels, affine)
    kept = np.asarray(before.dataobj).copy()
    kept[mask] = kept[mask] // 2 + 9  # darker, but the same face
    verdict = verdict_of(labels, affine, after=nib.Nifti1Image(kept, affine))
    assert any("resemble" in r for r in verdict.reasons)
    assert verdict.measures["resemblance"] > 0.95


def test_an_organ_found_after_distorting_goes_to_review_and_a_speck_does_not():
    labels, affine = head()
    resegmented = only_brain(labels)
    resegmented[labels == LABELS["nose"]] = LABELS["nose"]
    verdict = verdict_of(labels, affine, resegmented=resegmented)
    assert verdict.reasons == (f"{status.FACE_REMAINS}: nose found again after distorting",)
    # only a small part of it, as in noise
    resegmented[:, :, : int(np.argwhere(labels == LABELS["nose"]).mean(0)[2])] = 0
    assert verdict_of(labels, affine, resegmented=resegmented).status == "pass"


def test_a_part_that_was_missed_and_is_found_beside_the_region_goes_to_review():
    whole, affine = head()
    labels = np.where(whole == LABELS["nose"], 0, whole)
    mask = images(labels, affine)[2] & (whole != LABELS["nose"])
    verdict = gate.remains(labels, whole * (whole == LABELS["nose"]), mask, affine)
    assert verdict.reasons == (f"{status.FACE_REMAINS}: nose found again after distorting",)
    assert gate.remains(labels, only_brain(whole), mask, affine).status == "pass"


@pytest.mark.parametrize("organ", ["eyes", "nose", "ears", "mouth"])
@pytest.mark.parametrize("complete", [True, False])
def test_an_organ_found_only_after_distorting_gives_one_reason(organ, complete):
    """Two reasons would contradict each other."""
    whole, affine = head()
    missed = whole == LABELS[organ]
    if not complete and organ in ("eyes", "ears"):
        missed[: whole.shape[0] // 2] = False  # the left one is labelled
    labels = np.where(missed, 0, whole).astype(np.uint8)
    resegmented = only_brain(labels)
    resegmented[missed] = LABELS[organ]
    verdict = verdict_of(
        labels, affine, resegmented=resegmented, mask=images(labels, affine)[2] & ~missed
    )
    (reason,) = (r for r in verdict.reasons if r.startswith(status.FACE_REMAINS))
    missing = [n for n in anatomy.LANDMARKS if verdict.measures[n.replace(" ", "_")] == "missing"]
    assert missing
    assert reason == (
        f"{status.FACE_REMAINS}: {organ} found after distorting, {' and '.join(missing)} not before"
    )
    assert not [r for r in verdict.reasons if "not found" in r]
    assert verdict.status == "review"


def test_the_other_eye_found_again_is_named():
    whole, affine = head()
    left = (whole == LABELS["eyes"]) & (np.arange(len(whole)) < len(whole) / 2)[:, None, None]
    labels = np.where(left, 0, whole).astype(np.uint8)
    resegmented = only_brain(labels)
    resegmented[labels == LABELS["eyes"]] = LABELS["eyes"]
    verdict = verdict_of(
        labels, affine, resegmented=resegmented, mask=images(whole, affine)[2] & ~left
    )
    assert f"{status.FACE_REMAINS}: right eye found again after distorting" in verdict.reasons
    assert f"{status.PART_NOT_FOUND}: left eye" in verdict.reasons


@pytest.mark.parametrize("background", [0, 7, np.nan])
@pytest.mark.parametrize("dtype", [np.int16, np.float32])
@pytest.mark.parametrize("volumes", [1, 3])
@pytest.mark.parametrize("removed", ["stripped", "defaced", "nothing"])
def test_an_image_without_skull_or_face_goes_to_review_with_its_reason(
    background, dtype, volumes, removed
):
    if np.isnan(background) and dtype == np.int16:
        background = -5
    whole, affine = head()
    organs = whole > LABELS["brain"]
    labels = only_brain(whole)
    voxels = np.asanyarray(images(whole, affine)[0].dataobj).astype(dtype)
    if removed == "stripped":
        voxels[whole != LABELS["brain"]] = background
    elif removed == "defaced":
        face = ndimage.binary_dilation(organs, iterations=3) & (whole != LABELS["brain"])
        voxels[face] = background
    if volumes > 1:
        voxels = np.stack([voxels] * volumes, axis=-1)
    before = nib.Nifti1Image(voxels, affine)
    resegmented = np.where(organs, whole, labels)  # even if the network labels organs in it
    mask = np.zeros(whole.shape, bool)
    verdict = verdict_of(
        labels, affine, before=before, after=before, mask=mask, resegmented=resegmented
    )
    states = {verdict.measures[p] for p in STATES}
    assert verdict.status == "review"
    if removed == "nothing":
        assert states == {"missing"}
        assert verdict.reasons[0].startswith(f"{status.FACE_NOT_FOUND}: left eye")
        return
    # an ellipsoid as brain gives a bad estimate of the mouth's place
    assert {verdict.measures[p] for p in STATES if p != "mouth"} == {"blank"}
    reason = {"stripped": status.SKULL_STRIPPED, "defaced": status.ALREADY_DEFACED}[removed]
    assert verdict.reasons[0].startswith(reason)
    assert all("mouth" in r for r in verdict.reasons[1:])
    assert removed == "defaced" or len(verdict.reasons) == 1


def test_a_part_that_was_removed_before_is_named():
    whole, affine = head()
    nose = whole == LABELS["nose"]
    labels = np.where(nose, 0, whole).astype(np.uint8)
    before, _, mask = images(labels, affine)
    voxels = np.asanyarray(before.dataobj).copy()
    voxels[nose] = 0
    before = nib.Nifti1Image(voxels, affine)
    after = np.where(mask, np.asanyarray(images(labels, affine)[1].dataobj), voxels)
    verdict = verdict_of(labels, affine, before=before, after=nib.Nifti1Image(after, affine))
    assert verdict.reasons == (
        f"{status.ALREADY_DEFACED}: one constant value in the place of nose",
    )


@pytest.mark.parametrize(
    ("organ", "place", "expected"),
    [
        ("mouth", "back", "pass"),  # no mouth can be there
        ("eyes", "back", "review"),  # but a second face can, with eyes
        ("nose", "nose", "review"),
    ],
)
def test_an_organ_found_after_distorting_counts_at_a_possible_place_and_eyes_everywhere(
    organ, place, expected
):
    labels, affine = head()
    mask = images(labels, affine)[2]
    resegmented = only_brain(labels)
    if place == "back":
        resegmented[20:30, 1:6, 20:30] = LABELS[organ]
        assert not (labels[20:30, 1:6, 20:30] > 0).any()
    else:
        labels = np.where(labels == LABELS[organ], 0, labels).astype(np.uint8)
        resegmented[(head()[0] == LABELS[organ])] = LABELS[organ]
        mask &= resegmented != LABELS[organ]
    verdict = verdict_of(labels, affine, resegmented=resegmented, mask=mask)
    assert verdict.status == expected
    missed = ", nose not before" if organ == "nose" else ""
    once_more = "" if missed else " again"
    reason = f"{status.FACE_REMAINS}: {organ} found{once_more} after distorting{missed}"
    assert (reason in verdict.reasons) == (expected == "review")


def test_a_scan_that_cannot_be_segmented_again_never_passes():
    assert verdict_of(*head(), resegmented=None).status == "review"


def test_judge_uses_the_segmenter():
    labels, affine = head()
    before, after, mask = images(labels, affine)
    given = segmented(labels, affine)
    result = qc.judge(
        before, after, given, [mask], "face", "noise", FixedSegmenter(only_brain(labels))
    )
    assert result[:2] == ("pass", ())
    result = qc.judge(before, after, given, [mask], "face", "noise", FixedSegmenter(labels))
    assert result[0] == "review"
    assert any(r.startswith(status.FACE_REMAINS) for r in result[1])


def run(tmp_path, labels, affine, resegmented=None, **more):
    convert, segment, distort, _ = stages(tmp_path, labels, affine, dicom=b"")
    segmenter = FixedSegmenter(only_brain(labels) if resegmented is None else resegmented)
    folder = tmp_path / "out"
    folder.mkdir()
    scans = qc.run(session(**more), convert, segment, distort, folder, segmenter)
    return {s.scan: s for s in scans}, folder


def test_run_writes_measures_and_pictures(tmp_path):
    scans, folder = run(tmp_path, *head())
    image, form = scans[STEM], scans[SERIES]
    assert (image.status, form.status) == ("pass", "pass")
    assert image.measures["form"] == "nifti"
    assert image.measures["datatype"] == "anat"
    assert form.measures["form"] == "dicom"
    assert form.modality == "T1w"
    roles = {r for r in image.files if r.startswith("after")}
    assert roles == {"after_front", "after_left", "after_right"}
    assert all((folder / f).is_file() for f in image.files.values())


@pytest.mark.slow
def test_an_inverted_image_is_resegmented_and_drawn_inverted(tmp_path):
    img, _ = phantom(3, spacing=(2, 2, 2))
    v = np.asanyarray(img.dataobj)
    segmenter = Segmenter.load(None, "cpu", 2)
    inverted, fronts = [], []

    class Recorder:
        def resegment(self, img, before):
            inverted.append(before.inverted)
            return segmenter.resegment(img, before)

    for name, voxels in (("dark", v), ("bright", v.max() - v)):
        folder = tmp_path / name
        before = nib.Nifti1Image(voxels, img.affine)
        scan = Scan(STEM, SERIES, "T1w", files={"nifti": "i.nii.gz"})
        convert = write_stage(folder, "convert", [scan], {"i.nii.gz": before})
        (folder / "labels").mkdir()
        (labelled_scan,) = segment.run(convert, folder / "labels", segmenter)
        labels = nib.load(folder / "labels" / labelled_scan.files["labels"])
        given = of_labels(np.asanyarray(labels.dataobj), img.affine)
        after, (mask,) = deface_image(before, given)
        replaced = nib.Nifti1Image(mask.astype(np.uint8), img.affine)
        files = {"i.nii.gz": after, "m.nii.gz": replaced}
        distorted = Scan(STEM, SERIES, "T1w", files={"nifti": "i.nii.gz", "mask": "m.nii.gz"})
        distort = write_stage(folder, "distort", [distorted], files)
        labelled = (folder / "labels", Manifest("segment", SESSION, (labelled_scan,)))
        (scan,) = qc.run(session(), convert, labelled, distort, folder, Recorder())
        assert scan.status == "pass", scan.reasons
        with Image.open(folder / scan.files["before_front"]) as front:
            fronts.append(np.asarray(front, float))
    assert inverted == [False, True]
    assert fronts[0].std() > 20
    assert np.abs(fronts[0] - fronts[1]).mean() < 2


def test_the_dicom_form_shares_the_status_of_its_images(tmp_path):
    scans, _ = run(tmp_path, *head(without=("nose",)))
    assert scans[STEM].status == scans[SERIES].status == "review"
    assert scans[SERIES].reasons == scans[STEM].reasons
    assert scans[SERIES].measures["own_status"] == "pass"


def test_the_status_of_a_series_in_the_inventory_holds_for_its_scans(tmp_path):
    scans, _ = run(tmp_path, *head(), status="review", reasons=[status.TEXT_BURNED_IN])
    assert scans[STEM].status == scans[SERIES].status == "review"
    assert status.TEXT_BURNED_IN in scans[STEM].reasons


def test_unreadable_labels_fail_the_scan_and_its_dicom_form(tmp_path):
    labels, affine = head()
    convert, segment, distort, _ = stages(tmp_path, labels, affine, dicom=b"")
    (segment[0] / "l.nii.gz").write_bytes(b"broken")
    scans = qc.run(session(), convert, segment, distort, tmp_path, FixedSegmenter(labels))
    assert {s.status for s in scans} == {"fail"}
    assert all(r.startswith(status.STAGE_FAILED) for s in scans for r in s.reasons)


@pytest.mark.slow
def test_organs_missed_in_real_heads_are_found_after_distorting(data):
    segmenter = Segmenter.load(None, "cpu", 2)
    for path in sorted((data / "heads" / "val").glob("*_T1w.nii.gz"))[:3]:
        img = nib.load(path)
        original = segmenter.segment(img)
        eyes = np.argwhere(original.labels == LABELS["eyes"])
        across = (eyes @ img.affine[:3, :3].T)[:, 0]
        one_eye = original.labels.copy(order="F")
        one_eye[tuple(eyes[across > np.median(across)].T)] = 0
        no_nose = np.where(original.labels == LABELS["nose"], np.uint8(0), original.labels)

        def remaining(labels, features="face", img=img):
            given = of_labels(labels, img.affine)
            after, (mask,) = deface_image(img, given, features)
            resegmented = segmenter.resegment(after, given)
            return gate.remains(labels, resegmented, mask, img.affine).reasons

        assert remaining(original.labels) == ()
        assert remaining(one_eye) == (f"{status.FACE_REMAINS}: eyes found again after distorting",)
        # without the feature nose, as the hull of the whole face would cover it
        left = remaining(no_nose, "eyes,ears,mouth")
        assert f"{status.FACE_REMAINS}: nose found again after distorting" in left
        whole = np.zeros(original.labels.shape, bool)
        resegmented = segmenter.resegment(img, original)
        untouched = gate.remains(original.labels, resegmented, whole, img.affine)
        assert len(untouched.reasons) == 4


def test_anatomy_of_real_heads(data):
    """Heads of the validation set pass with their reference labels."""
    for path in sorted((data / "heads" / "val").glob("*_labels.nii.gz"))[:8]:
        img = nib.load(path)
        verdict = gate.face(np.asarray(img.dataobj), SURE, img.affine)
        assert verdict.status == "pass", verdict.reasons
        without = np.asarray(img.dataobj).copy()
        without[without == LABELS["nose"]] = 0
        assert gate.face(without, SURE, img.affine).measures["nose"] == "missing"


def test_the_measured_anatomy_is_that_of_the_heads(tmp_path):
    rng = np.random.default_rng(1)
    for i in range(8):
        turn = Rotation.from_rotvec(rng.normal(0, 0.08, 3)).as_matrix()
        wide = {"low": (-150,) * 3, "high": (150,) * 3}
        labels, affine = head(turn=turn, size=rng.uniform(0.95, 1.05), **wide)
        nib.save(nib.Nifti1Image(labels, affine), tmp_path / f"h{i}_labels.nii.gz")
    measured = measure(tmp_path)["parts"]
    ratio = measured["nose"]["mean"][1] / anatomy.load().parts["nose"].mean[1]
    for name, part in anatomy.load().parts.items():
        # rotation and size of the frame are arbitrary: compare distances between parts
        mouth = anatomy.load().parts["mouth"].mean
        there = np.linalg.norm(np.subtract(measured[name]["mean"], measured["mouth"]["mean"]))
        assert there == pytest.approx(ratio * np.linalg.norm(part.mean - mouth), abs=4)
