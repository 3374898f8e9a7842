"""The gate: what passes, what a person must see, and what never goes out."""

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
    hand_on,
    head,
    images,
    segmented,
    session,
    stages,
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


def judged(labels, affine, **more):
    before, after, mask = images(labels, affine)
    seg = {n: more.pop(n) for n in ("confidence", "possible_brain", "inverted") if n in more}
    again = more.pop("again", only_brain(labels))
    given = {
        "method": "noise",
        "before": before,
        "after": after,
        "given": segmented(labels, affine, **seg),
        "mask": mask,
    } | more
    return gate.gate(**given, resegment=lambda: again)


def test_a_whole_head_passes():
    verdict = judged(*head())
    assert verdict.reasons == ()
    assert verdict.status == "pass"
    assert {verdict.measures[p] for p in STATES} == {"found"}
    assert verdict.measures["brain_voxels_changed"] == 0
    assert verdict.measures["coverage_nose"] == 1.0


@pytest.mark.parametrize("name", list(anatomy.LANDMARKS))
def test_each_part_that_is_missed_goes_to_review_by_name(name):
    verdict = gate.face(head(without=(name,))[0], SURE, head()[1])
    assert verdict.status == "review"
    assert verdict.reasons == (f"{status.PART_NOT_FOUND}: {name}",)


@pytest.mark.parametrize("degrees", [(0, 0, 35), (25, 0, 0), (0, 20, -20), (-20, 10, 25)])
def test_a_turned_head_passes_and_its_eyes_are_told_apart(degrees):
    turn = Rotation.from_euler("xyz", degrees, degrees=True).as_matrix()
    wide = {"low": (-150,) * 3, "high": (150,) * 3}
    labels, affine = head(turn=turn, **wide)
    assert gate.face(labels, SURE, affine).status == "pass"
    labels, affine = head(turn=turn, without=("left eye",), **wide)
    assert gate.face(labels, SURE, affine).measures["left_eye"] == "missing"
    assert gate.face(labels, SURE, affine).measures["right_eye"] == "found"


@pytest.mark.parametrize("size", [0.82, 1.12])
def test_small_and_large_heads_pass(size):
    assert (
        gate.face(*swap(head(size=size, low=(-120, -140, -170), high=(120, 160, 120)))).status
        == "pass"
    )


def swap(pair):
    return pair[0], SURE, pair[1]


def test_oblique_anisotropic_and_flipped_grids_give_the_same_answer():
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


def test_parts_outside_the_field_of_view_are_no_reason():
    # the back of the head: face in front of the field of view
    labels, affine = head(high=(100, 30, 100))
    verdict = gate.face(labels, SURE, affine)
    assert verdict.status == "pass"
    for name in ("left_eye", "right_eye", "nose", "mouth"):
        assert verdict.measures[name] == "outside"
    assert verdict.measures["left_ear"] == "found"


def test_a_part_cut_by_the_edge_counts_as_found_if_what_is_left_was():
    labels, affine = head(high=(100, 112, 100))
    assert gate.face(labels, SURE, affine).measures["nose"] == "found"
    bare = np.where(labels == LABELS["nose"], 0, labels).astype(np.uint8)
    assert gate.face(bare, SURE, affine).measures["nose"] == "missing"


def test_a_sliver_beside_what_was_replaced_is_covered_and_a_missed_part_is_not():
    # an axial slab that ends a little above where the mouth is expected to begin
    labels, affine = head(mm=2.0, low=(-100, -120, -66))
    bare = np.where(labels == LABELS["mouth"], 0, labels).astype(np.uint8)
    assert gate.face(bare, SURE, affine).measures["mouth"] == "missing"
    mask = region(bare, affine, fit.estimate(bare, affine))
    verdict = gate.face(bare, SURE, affine, mask=mask)
    assert (verdict.status, verdict.measures["mouth"]) == ("pass", "covered")
    assert gate.face(bare, SURE, affine, mask=mask & False).measures["mouth"] == "missing"
    # in a field of view that shows all of it, the hull of the others does not hold the mouth
    labels, affine = head(mm=2.0)
    bare = np.where(labels == LABELS["mouth"], 0, labels).astype(np.uint8)
    mask = region(bare, affine, fit.estimate(bare, affine))
    assert gate.face(bare, SURE, affine, mask=mask).measures["mouth"] == "missing"


def test_outside_is_never_claimed_of_a_part_in_view():
    """Crops of many kinds, with all organs taken out of the labels: what the head has in view
    must not count as outside."""
    rng = np.random.default_rng(5)
    for _ in range(25):
        turn = Rotation.from_rotvec(rng.normal(0, 0.1, 3)).as_matrix()
        low = rng.uniform((-110, -120, -150), (-30, -60, -20))
        high = rng.uniform((30, 20, 40), (110, 140, 100))
        labels, affine = head(turn=turn, size=rng.uniform(0.9, 1.1), low=low, high=high)
        seen = gate.face(only_brain(labels), SURE, affine)
        for name, label in anatomy.LANDMARKS.items():
            if seen.measures.get(name.replace(" ", "_")) != "outside":
                continue
            world = np.argwhere(labels == LABELS[label]) * 4.0 + low
            own = world @ turn
            if name.startswith(("left", "right")):
                own = own[(own[:, 0] < 0) == name.startswith("left")]
            assert len(own) * 64 < 300, (name, low, high)


def test_no_face_where_one_must_be():
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
def test_what_has_no_brain_is_not_a_head(labels, words):
    verdict = gate.face(labels, SURE, np.diag([4.0, 4, 4, 1]))
    assert verdict.status == "fail"
    assert verdict.reasons[0].startswith(status.NOT_A_HEAD)
    assert words in verdict.reasons[0]


@pytest.mark.parametrize("value", [0.2, float("nan"), None])
def test_low_confidence_goes_to_review(value):
    sure = SURE | {"nose": value} if value is not None else {k: 1.0 for k in SURE if k != "nose"}
    verdict = gate.face(head()[0], sure, head()[1])
    assert verdict.reasons == (f"{status.LOW_CONFIDENCE}: nose",)


def test_an_organ_in_an_unlikely_place():
    labels, affine = head(without=("nose",))
    top = np.argwhere(labels == LABELS["brain"])[:, 2].max()
    labels[20:30, 25:35, top + 1 : top + 5] = LABELS["nose"]
    verdict = gate.face(labels, SURE, affine)
    assert verdict.status == "review"
    assert any("nose" in r or status.LANDMARKS_INCONSISTENT in r for r in verdict.reasons)


def test_one_brain_voxel_is_a_failure():
    labels, affine = head()
    before, after, mask = images(labels, affine)
    voxels = np.asarray(after.dataobj).copy()
    at = tuple(np.argwhere(labels == LABELS["brain"])[500])
    voxels[at] += 1
    after = nib.Nifti1Image(voxels, affine)
    verdict = judged(labels, affine, before=before, after=after, mask=mask)
    assert verdict.status == "fail"
    assert any(r.startswith(status.BRAIN_TOUCHED) for r in verdict.reasons)
    assert verdict.measures["brain_voxels_changed"] == 1


def test_what_has_a_brain_s_place_and_size_but_not_its_shape_goes_to_review():
    labels, affine = head()
    verdict = judged(labels, affine)
    assert verdict.measures["brain_likeness"] > gate.LIKENESS
    # the middle turned into four columns of the same volume, as inserts of a test object are
    brain = labels == LABELS["brain"]
    at = np.argwhere(brain)
    low, high = at.min(0), at.max(0)
    away = np.abs(
        (np.indices(labels.shape).T - (low + high) / 2).T / (high - low)[:, None, None, None]
    )
    columns = (away[:2] > 0.2).all(0) & (away < 0.55).all(0)
    labels[brain & ~columns] = 0
    labels[columns & (labels == 0)] = LABELS["brain"]
    assert any(status.BRAIN_SHAPE_UNLIKELY in r for r in judged(labels, affine).reasons)


def test_brain_that_was_not_found_and_replaced_goes_to_review():
    labels, affine = head()
    brain = np.argwhere(labels == LABELS["brain"])
    missed = tuple(brain[brain[:, 0] > np.percentile(brain[:, 0], 85)].T)
    possible = (labels == LABELS["brain"])[thinned(affine)[0]]
    labels[missed] = 0
    before, after, mask = images(labels, affine)
    told = judged(labels, affine, before=before, after=after, mask=mask, possible_brain=possible)
    assert told.measures["maybe_brain_replaced_ml"] < gate.BRAIN_REPLACED_ML
    assert not any(status.MAYBE_BRAIN_REPLACED in r for r in told.reasons)
    voxels = np.asarray(after.dataobj).copy()
    voxels[missed] = np.random.default_rng(1).normal(300, 40, len(missed[0]))
    mask[missed] = True
    after = nib.Nifti1Image(voxels, affine)
    verdict = judged(labels, affine, before=before, after=after, mask=mask, possible_brain=possible)
    assert verdict.status == "review"
    assert any(status.MAYBE_BRAIN_REPLACED in r for r in verdict.reasons)
    lost = len(missed[0]) * abs(np.linalg.det(affine[:3, :3])) / 1000
    assert verdict.measures["maybe_brain_replaced_ml"] == pytest.approx(lost, rel=0.1)


def test_one_voxel_outside_the_region_is_a_failure_also_as_minus_zero_or_in_one_volume():
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


def test_nan_that_stays_nan_has_not_changed():
    labels, affine = head()
    _, _, mask = images(labels, affine)
    values = np.full(labels.shape, np.nan, np.float32)
    image = nib.Nifti1Image(values, affine)
    verdict = gate.change(image, nib.Nifti1Image(values.copy(), affine), labels, mask, "noise")
    assert verdict.measures["voxels_changed_outside_region"] == 0


def test_other_geometry_is_a_failure():
    labels, affine = head()
    before, after, mask = images(labels, affine)
    moved = affine.copy()
    moved[0, 3] += 0.5
    other = nib.Nifti1Image(np.asarray(after.dataobj), moved)
    assert gate.change(before, other, labels, mask, "noise").status == "fail"


def test_an_organ_left_out_goes_to_review():
    labels, affine = head()
    before, after, mask = images(labels, affine)
    ears = labels == LABELS["ears"]
    verdict = judged(labels, affine, mask=mask & ~ears)
    assert any("of the ears was replaced" in r for r in verdict.reasons)
    voxels = np.where(ears, np.asarray(before.dataobj), np.asarray(after.dataobj))
    without = nib.Nifti1Image(voxels.astype(np.int16), affine)
    asked = gate.change(before, without, labels, mask & ~ears, "noise", ["eyes", "nose", "mouth"])
    assert asked.status == "pass"


@pytest.mark.parametrize("method", ["blur", "unheard-of"])
def test_methods_that_keep_something_of_the_face_go_to_review(method):
    verdict = judged(*head(), method=method)
    assert verdict.status == "review"
    assert any(method in r for r in verdict.reasons)


def test_a_replacement_that_resembles_goes_to_review():
    labels, affine = head()
    before, _, mask = images(labels, affine)
    kept = np.asarray(before.dataobj).copy()
    kept[mask] = kept[mask] // 2 + 9  # darker, but the same face
    verdict = judged(labels, affine, after=nib.Nifti1Image(kept, affine))
    assert any("resemble" in r for r in verdict.reasons)
    assert verdict.measures["resemblance"] > 0.95


def test_a_face_found_again_goes_to_review_and_a_speck_does_not():
    labels, affine = head()
    again = only_brain(labels)
    again[labels == LABELS["nose"]] = LABELS["nose"]
    verdict = judged(labels, affine, again=again)
    assert verdict.reasons == (f"{status.FACE_REMAINS}: nose found again after distorting",)
    # a guess where only noise is
    again[:, :, : int(np.argwhere(labels == LABELS["nose"]).mean(0)[2])] = 0
    assert judged(labels, affine, again=again).status == "pass"


def test_a_part_that_was_missed_and_is_found_beside_the_region_goes_to_review():
    whole, affine = head()
    labels = np.where(whole == LABELS["nose"], 0, whole)
    mask = images(labels, affine)[2] & (whole != LABELS["nose"])
    found = gate.remains(labels, whole * (whole == LABELS["nose"]), mask, affine)
    assert found.reasons == (f"{status.FACE_REMAINS}: nose found again after distorting",)
    assert gate.remains(labels, only_brain(whole), mask, affine).status == "pass"


@pytest.mark.parametrize("organ", ["eyes", "nose", "ears", "mouth"])
@pytest.mark.parametrize("all_of_it", [True, False])
def test_an_organ_that_was_missed_is_not_said_to_be_missing_and_found(organ, all_of_it):
    """One reason, where two would contradict each other."""
    whole, affine = head()
    gone = whole == LABELS[organ]
    if not all_of_it and organ in ("eyes", "ears"):
        gone[: whole.shape[0] // 2] = False  # the left one is there
    labels = np.where(gone, 0, whole).astype(np.uint8)
    again = only_brain(labels)
    again[gone] = LABELS[organ]
    verdict = judged(labels, affine, again=again, mask=images(labels, affine)[2] & ~gone)
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
    again = only_brain(labels)
    again[labels == LABELS["eyes"]] = LABELS["eyes"]
    verdict = judged(labels, affine, again=again, mask=images(whole, affine)[2] & ~left)
    assert f"{status.FACE_REMAINS}: right eye found again after distorting" in verdict.reasons
    assert f"{status.PART_NOT_FOUND}: left eye" in verdict.reasons


@pytest.mark.parametrize("background", [0, 7, np.nan])
@pytest.mark.parametrize("dtype", [np.int16, np.float32])
@pytest.mark.parametrize("volumes", [1, 3])
@pytest.mark.parametrize("what", ["stripped", "defaced", "nothing"])
def test_what_was_removed_before_is_told(background, dtype, volumes, what):
    if np.isnan(background) and dtype == np.int16:
        background = -5
    whole, affine = head()
    organs = whole > LABELS["brain"]
    labels = only_brain(whole)
    voxels = np.asanyarray(images(whole, affine)[0].dataobj).astype(dtype)
    if what == "stripped":
        voxels[whole != LABELS["brain"]] = background
    elif what == "defaced":
        face = ndimage.binary_dilation(organs, iterations=3) & (whole != LABELS["brain"])
        voxels[face] = background
    if volumes > 1:
        voxels = np.stack([voxels] * volumes, axis=-1)
    before = nib.Nifti1Image(voxels, affine)
    again = np.where(organs, whole, labels)  # even if the network sees organs in it
    mask = np.zeros(whole.shape, bool)
    verdict = judged(labels, affine, before=before, after=before, mask=mask, again=again)
    states = {verdict.measures[p] for p in STATES}
    assert verdict.status == "review"
    if what == "nothing":
        assert states == {"missing"}
        assert verdict.reasons[0].startswith(f"{status.FACE_NOT_FOUND}: left eye")
        return
    # a brain that is an ellipsoid tells the place of the mouth badly
    assert {verdict.measures[p] for p in STATES if p != "mouth"} == {"blank"}
    reason = {"stripped": status.SKULL_STRIPPED, "defaced": status.ALREADY_DEFACED}[what]
    assert verdict.reasons[0].startswith(reason)
    assert all("mouth" in r for r in verdict.reasons[1:])
    assert what == "defaced" or len(verdict.reasons) == 1


def test_a_part_of_a_face_that_was_removed_before():
    whole, affine = head()
    nose = whole == LABELS["nose"]
    labels = np.where(nose, 0, whole).astype(np.uint8)
    before, _, mask = images(labels, affine)
    voxels = np.asanyarray(before.dataobj).copy()
    voxels[nose] = 0
    before = nib.Nifti1Image(voxels, affine)
    after = np.where(mask, np.asanyarray(images(labels, affine)[1].dataobj), voxels)
    verdict = judged(labels, affine, before=before, after=nib.Nifti1Image(after, affine))
    assert verdict.reasons == (
        f"{status.ALREADY_DEFACED}: one constant value in the place of nose",
    )


@pytest.mark.parametrize(
    ("organ", "lies_at", "what"),
    [
        ("mouth", "back", "pass"),  # no mouth can be there
        ("eyes", "back", "review"),  # but a face may, and it has eyes
        ("nose", "nose", "review"),
    ],
)
def test_an_organ_found_again_counts_where_it_can_be_and_eyes_everywhere(organ, lies_at, what):
    labels, affine = head()
    mask = images(labels, affine)[2]
    again = only_brain(labels)
    if lies_at == "back":
        again[20:30, 1:6, 20:30] = LABELS[organ]
        assert not (labels[20:30, 1:6, 20:30] > 0).any()
    else:
        labels = np.where(labels == LABELS[organ], 0, labels).astype(np.uint8)
        again[(head()[0] == LABELS[organ])] = LABELS[organ]
        mask &= again != LABELS[organ]
    verdict = judged(labels, affine, again=again, mask=mask)
    assert verdict.status == what
    missed = ", nose not before" if organ == "nose" else ""
    again_ = "" if missed else " again"
    found = f"{status.FACE_REMAINS}: {organ} found{again_} after distorting{missed}"
    assert (found in verdict.reasons) == (what == "review")


def test_a_scan_that_cannot_be_segmented_again_never_passes():
    assert judged(*head(), again=None).status == "review"


def test_judge_asks_the_segmenter():
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


def run(tmp_path, labels, affine, again=None, **more):
    convert, segment, distort, _ = stages(tmp_path, labels, affine, dicom=b"")
    segmenter = FixedSegmenter(only_brain(labels) if again is None else again)
    folder = tmp_path / "out"
    folder.mkdir()
    scans = qc.run(session(**more), convert, segment, distort, folder, segmenter)
    return {s.scan: s for s in scans}, folder


def test_run_measures_and_draws(tmp_path):
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
def test_what_was_found_in_the_negative_is_looked_for_and_drawn_in_it(tmp_path):
    img, _ = phantom(3, spacing=(2, 2, 2))
    v = np.asanyarray(img.dataobj)
    segmenter = Segmenter.load(None, "cpu", 2)
    asked, fronts = [], []

    class Watched:
        def resegment(self, img, before):
            asked.append(before.inverted)
            return segmenter.resegment(img, before)

    for name, voxels in (("dark", v), ("bright", v.max() - v)):
        folder = tmp_path / name
        before = nib.Nifti1Image(voxels, img.affine)
        scan = Scan(STEM, SERIES, "T1w", files={"nifti": "i.nii.gz"})
        convert = hand_on(folder, "convert", [scan], {"i.nii.gz": before})
        (folder / "labels").mkdir()
        (seen,) = segment.run(convert, folder / "labels", segmenter)
        labels = nib.load(folder / "labels" / seen.files["labels"])
        given = of_labels(np.asanyarray(labels.dataobj), img.affine)
        after, (mask,) = deface_image(before, given)
        replaced = nib.Nifti1Image(mask.astype(np.uint8), img.affine)
        files = {"i.nii.gz": after, "m.nii.gz": replaced}
        done = Scan(STEM, SERIES, "T1w", files={"nifti": "i.nii.gz", "mask": "m.nii.gz"})
        distort = hand_on(folder, "distort", [done], files)
        labelled = (folder / "labels", Manifest("segment", SESSION, (seen,)))
        (scan,) = qc.run(session(), convert, labelled, distort, folder, Watched())
        assert scan.status == "pass", scan.reasons
        with Image.open(folder / scan.files["before_front"]) as front:
            fronts.append(np.asarray(front, float))
    assert asked == [False, True]
    assert fronts[0].std() > 20
    assert np.abs(fronts[0] - fronts[1]).mean() < 2


def test_the_dicom_form_shares_the_status_of_its_images(tmp_path):
    scans, _ = run(tmp_path, *head(without=("nose",)))
    assert scans[STEM].status == scans[SERIES].status == "review"
    assert scans[SERIES].reasons == scans[STEM].reasons
    assert scans[SERIES].measures["own_status"] == "pass"


def test_what_the_inventory_said_of_a_series_holds_for_its_scans(tmp_path):
    scans, _ = run(tmp_path, *head(), status="review", reasons=[status.TEXT_BURNED_IN])
    assert scans[STEM].status == scans[SERIES].status == "review"
    assert status.TEXT_BURNED_IN in scans[STEM].reasons


def test_a_scan_that_breaks_fails_alone(tmp_path):
    labels, affine = head()
    convert, segment, distort, _ = stages(tmp_path, labels, affine, dicom=b"")
    (segment[0] / "l.nii.gz").write_bytes(b"broken")
    scans = qc.run(session(), convert, segment, distort, tmp_path, FixedSegmenter(labels))
    assert {s.status for s in scans} == {"fail"}
    assert all(r.startswith(status.STAGE_FAILED) for s in scans for r in s.reasons)


@pytest.mark.slow
def test_what_was_missed_is_found_again_in_real_heads(data):
    segmenter = Segmenter.load(None, "cpu", 2)
    for path in sorted((data / "heads" / "val").glob("*_T1w.nii.gz"))[:3]:
        img = nib.load(path)
        seen = segmenter.segment(img)
        eyes = np.argwhere(seen.labels == LABELS["eyes"])
        across = (eyes @ img.affine[:3, :3].T)[:, 0]
        one_eye = seen.labels.copy(order="F")
        one_eye[tuple(eyes[across > np.median(across)].T)] = 0
        no_nose = np.where(seen.labels == LABELS["nose"], np.uint8(0), seen.labels)

        def remaining(labels, features="face", img=img):
            given = of_labels(labels, img.affine)
            after, (mask,) = deface_image(img, given, features)
            again = segmenter.resegment(after, given)
            return gate.remains(labels, again, mask, img.affine).reasons

        assert remaining(seen.labels) == ()
        assert remaining(one_eye) == (f"{status.FACE_REMAINS}: eyes found again after distorting",)
        # the hull of the whole face would cover it
        left = remaining(no_nose, "eyes,ears,mouth")
        assert f"{status.FACE_REMAINS}: nose found again after distorting" in left
        whole = np.zeros(seen.labels.shape, bool)
        again = segmenter.resegment(img, seen)
        untouched = gate.remains(seen.labels, again, whole, img.affine)
        assert len(untouched.reasons) == 4


def test_anatomy_of_real_heads(data):
    """Every head of the validation set passes with the labels it came with."""
    for path in sorted((data / "heads" / "val").glob("*_labels.nii.gz"))[:8]:
        img = nib.load(path)
        verdict = gate.face(np.asarray(img.dataobj), SURE, img.affine)
        assert verdict.status == "pass", verdict.reasons
        without = np.asarray(img.dataobj).copy()
        without[without == LABELS["nose"]] = 0
        assert gate.face(without, SURE, img.affine).measures["nose"] == "missing"


def test_measuring_anatomy_again_finds_what_was_put_in(tmp_path):
    rng = np.random.default_rng(1)
    for i in range(8):
        turn = Rotation.from_rotvec(rng.normal(0, 0.08, 3)).as_matrix()
        wide = {"low": (-150,) * 3, "high": (150,) * 3}
        labels, affine = head(turn=turn, size=rng.uniform(0.95, 1.05), **wide)
        nib.save(nib.Nifti1Image(labels, affine), tmp_path / f"h{i}_labels.nii.gz")
    measured = measure(tmp_path)["parts"]
    ratio = measured["nose"]["mean"][1] / anatomy.load().parts["nose"].mean[1]
    for name, part in anatomy.load().parts.items():
        # the frame is free in its turn and size: compare distances between parts
        mouth = anatomy.load().parts["mouth"].mean
        there = np.linalg.norm(np.subtract(measured[name]["mean"], measured["mouth"]["mean"]))
        assert there == pytest.approx(ratio * np.linalg.norm(part.mean - mouth), abs=4)
