"""Propagation of labels between the scans of a session: resampling, motion, status by the gate."""

from dataclasses import replace
from functools import partial

import nibabel as nib
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from nibabel.affines import apply_affine
from scipy import ndimage
from scipy.spatial.transform import Rotation
from small_session import SURE, head

from efface import nifti, segment, status
from efface.manifest import Manifest, Scan
from efface.phantom import phantom
from efface.qc import _as_their_sources, gate
from efface.segment import (
    agreement,
    fit,
    masks,
    motion,
    organs_in_view,
    orientation,
    propagate,
    resample,
    threshold,
)
from efface.segment.components import COUNTS
from efface.segment.labels import FEATURES, LABELS
from efface.segment.segmentation import volumes_ml

SHAPE = (9, 8, 7)
maps = arrays(np.uint8, SHAPE, elements=st.integers(0, 5), fill=st.just(0))


@st.composite
def affines(draw, least=0.5, most=4.0):
    """Oblique, anisotropic, flipped."""
    rotation = Rotation.from_rotvec([draw(st.floats(-1.5, 1.5)) for _ in range(3)]).as_matrix()
    sizes = [draw(st.floats(least, most)) * draw(st.sampled_from([-1, 1])) for _ in range(3)]
    out = np.eye(4)
    out[:3, :3] = rotation * sizes
    out[:3, 3] = [draw(st.floats(-8, 8)) for _ in range(3)]
    return out


def centres_in(labels, affine, shape, onto):
    """Label at each voxel's centre, and whether that point is clear of the borders of voxels."""
    index = np.indices(shape).reshape(3, -1).T
    at = apply_affine(np.linalg.inv(affine) @ onto, index)
    near = np.rint(at).astype(int)
    inside = ((near >= 0) & (near < labels.shape)).all(axis=1)
    values = np.zeros(len(index), np.uint8)
    values[inside] = labels[tuple(near[inside].T)]
    clear = (np.abs(np.abs(at - near) - 0.5) > 0.01).all(axis=1)
    return values.reshape(shape), clear.reshape(shape)


@settings(max_examples=60)
@given(maps, affines(), affines())
def test_a_voxel_gets_the_label_at_its_centre(labels, affine, onto):
    out = resample.transfer(labels, affine, SHAPE, onto)
    expected, clear = centres_in(labels, affine, SHAPE, onto)
    labelled = clear & (expected > 0)
    assert (out[labelled] == expected[labelled]).all()
    # only organs are enlarged, never the brain
    assert (out[clear & (expected == 0)] != LABELS["brain"]).all()


@settings(max_examples=60)
@given(maps, affines(), affines(), st.integers(0, 2**32 - 1))
def test_every_voxel_that_overlaps_an_organ_is_marked(labels, affine, onto, seed):
    mask = labels == LABELS["nose"]
    out = resample.overlapping(mask, affine, SHAPE, onto)
    rng = np.random.default_rng(seed)
    index = np.argwhere(mask)
    if not len(index):
        assert not out.any()
        return
    # any point of an organ voxel lies in a voxel that is marked
    points = index[rng.integers(len(index), size=400)] + rng.uniform(-0.5, 0.5, (400, 3))
    at = apply_affine(np.linalg.inv(onto) @ affine, points)
    near = np.rint(at).astype(int)
    clear = (np.abs(at - near) < 0.499).all(axis=1)
    ok = clear & ((near >= 0) & (near < SHAPE)).all(axis=1)
    assert out[tuple(near[ok].T)].all()


@settings(max_examples=60)
@given(maps, affines(least=1.0), affines(least=1.0))
def test_nothing_is_labelled_far_outside_the_field_of_view(labels, affine, onto):
    out = resample.transfer(labels, affine, SHAPE, onto)
    index = np.argwhere(out > 0)
    at = apply_affine(np.linalg.inv(affine) @ onto, index)
    # at most the diagonals of a voxel of each grid
    reach = (np.abs(np.linalg.inv(affine)[:3, :3] @ onto[:3, :3]).sum(axis=1) + 1) * 2 + 1
    assert (at > -0.5 - reach).all()
    assert (at < np.array(SHAPE) - 0.5 + reach).all()


@given(maps, affines())
def test_the_same_grid_gives_the_same_labels(labels, affine):
    assert np.array_equal(resample.transfer(labels, affine, SHAPE, affine), labels)


@settings(max_examples=40)
@given(maps, affines(), affines())
def test_transfer_and_union_are_idempotent(labels, affine, onto):
    once = resample.transfer(labels, affine, SHAPE, onto)
    assert np.array_equal(resample.transfer(once, onto, SHAPE, onto), once)
    joined = agreement.union(labels, labels, affine)
    assert np.array_equal(joined, labels)
    both = agreement.union(once, once[::-1], onto)
    again = agreement.union(both, once[::-1], onto)
    # the brain may grow further: what is near the added brain is near the brain now
    assert np.array_equal(again[both > 0], both[both > 0])
    assert (again[both != again] == LABELS["brain"]).all()


@settings(max_examples=40)
@given(maps, affines(least=1.0, most=2.0), affines(least=0.6, most=1.0))
def test_transfer_to_an_oblique_grid_and_back_covers_every_organ(labels, affine, oblique):
    labels = np.where(labels == LABELS["nose"], labels, 0).astype(np.uint8)
    # a finer grid that contains the first
    corners = np.array(np.meshgrid(*[(-1, n) for n in SHAPE])).reshape(3, -1).T
    world = apply_affine(affine, corners)
    at = apply_affine(np.linalg.inv(oblique), world)
    shape = tuple(np.ceil(at.max(0) - at.min(0)).astype(int) + 3)
    onto = oblique.copy()
    onto[:3, 3] = apply_affine(oblique, np.floor(at.min(0)) - 1)
    there = resample.transfer(labels, affine, shape, onto)
    back = resample.transfer(there, onto, SHAPE, affine)
    assert (back[labels > 0] == LABELS["nose"]).all()


def test_brain_far_from_the_first_scans_brain_is_not_added():
    grid = np.diag([2.0, 2.0, 2.0, 1.0])
    first = np.zeros((20, 20, 20), np.uint8)
    first[:8] = LABELS["brain"]
    second = np.zeros_like(first)
    second[:14] = LABELS["brain"]
    second[16] = LABELS["nose"]
    out = agreement.union(first, second, grid)
    assert (out[:10] == LABELS["brain"]).all()  # 4 mm further
    assert (out[10:16] == 0).all()
    assert (out[16] == LABELS["nose"]).all()


def test_organs_have_their_volume_in_view_and_a_flag_if_the_source_cuts_them():
    labels, affine = head(mm=4.0)
    low = affine.copy()
    low[2, 3] = 0.0  # the upper half: nose and mouth lie below
    shape = (50, 65, 25)
    organs = organs_in_view.organs(labels, affine, shape, low)
    assert sorted(o.label for o in organs) == ["ears", "ears", "eyes", "eyes", "mouth", "nose"]
    assert next(o for o in organs if o.label == "mouth").in_view_mm3 == 0
    assert not any(o.cut for o in organs)
    # a source that ends in the nose, another scan that shows all of it
    short = labels[:, : int((110 + 120) / 4)]
    cut = organs_in_view.organs(short, affine, labels.shape, affine)
    assert {o.label for o in cut if o.cut} == {"nose", "mouth"}
    assert not any(o.cut for o in organs_in_view.organs(short, affine, short.shape, affine))


@given(arrays(bool, SHAPE), st.booleans(), st.booleans())
def test_components_are_those_of_scipy_in_order_of_size(mask, corners, fortran):
    mask = np.asfortranarray(mask) if fortran else mask
    numbers, count = ndimage.label(mask, np.ones((3, 3, 3)) if corners else None)
    parts = masks.components(mask, corners=corners)
    assert len(parts) == count
    assert [len(p) for p in parts] == sorted((len(p) for p in parts), reverse=True)
    for number in range(1, count + 1):
        index = np.argwhere(numbers == number)
        assert any(np.array_equal(index, p) for p in parts)


@given(arrays(np.float32, (7, 8, 9), elements=st.floats(-100, 100, width=32)), st.booleans())
def test_block_means(v, fortran):
    v = np.asfortranarray(v) if fortran else v
    expected = v[:6, :8, :9].reshape(3, 2, 2, 4, 9, 1).mean(axis=(1, 3, 5))
    np.testing.assert_allclose(resample.block_mean(v, (2, 4, 1)), expected, atol=1e-3)


def test_otsu_splits_two_classes():
    rng = np.random.default_rng(0)
    values = np.concatenate([rng.normal(10, 2, 3000), rng.normal(60, 5, 1000)])
    low, high = threshold.otsu(values, 99, 256)
    assert 15 < low < high < 45
    assert threshold.otsu(np.full(9, 4.0), 99, 256) == (4.0, 4.0)


# --- motion, by phantoms --------------------------------------------------------------------------


def volume(img):
    return np.asarray(img.dataobj, np.float32), np.asarray(img.affine, float)


@pytest.fixture(scope="module")
def whole():
    return phantom(1, "T1w", spacing=(2.0, 2.0, 2.0))


def slab(pose=None, **how):
    defaults = {"spacing": (3.5, 3.5, 5.0), "shape": (64, 64, 20), "centre": (0, 6, 40)}
    return phantom(1, "T2w", scan=4, pose=pose, **defaults | how)


def rotated(degrees, shift=(0, 0, 0)):
    pose = np.eye(4)
    pose[:3, :3] = Rotation.from_euler("xyz", degrees, degrees=True).as_matrix()
    pose[:3, 3] = shift
    return pose


def measure_motion(whole, second, labels):
    at = organs_in_view.organs(
        np.asarray(whole[1].dataobj), whole[1].affine, labels.shape, labels.affine
    )
    where = agreement.dilated(np.asarray(labels.dataobj) > 0, labels.affine, 12.0)
    points = np.array([o.centre for o in at])
    return motion.between(volume(whole[0]), volume(second), where, points), points


@pytest.mark.parametrize(
    "pose", [rotated((0, 0, 0)), rotated((8, 0, 0)), rotated((0, 3, 4), (5, 0, 6))]
)
def test_motion_is_measured_across_contrasts(whole, pose):
    img, labels = slab(pose)
    result, points = measure_motion(whole, img, labels)
    expected = np.linalg.norm(apply_affine(pose, points) - points, axis=1).max()
    assert result.known
    assert result.mm == pytest.approx(expected, abs=2.5)


def test_motion_against_noise_is_unknown(whole):
    img, labels = slab()
    rng = np.random.default_rng(2)
    noise = nib.Nifti1Image(rng.normal(100, 20, img.shape).astype(np.float32), img.affine)
    assert not measure_motion(whole, noise, labels)[0].known


# --- sessions -------------------------------------------------------------------------------------


class Network:
    """Return the given labels and confidence of each image, in the order of the scans."""

    def __init__(self, *answers):
        self.answers = list(answers)

    def segment(self, img):
        labels, confidence = self.answers.pop(0)
        labels = np.asarray(labels)
        # labels without eyes suggest a wrong orientation
        likely = orientation.STANDARD if (labels == LABELS["eyes"]).any() else "IRP"
        return segment.Segmentation(
            labels,
            dict.fromkeys(LABELS, confidence),
            fit.estimate(labels, img.affine, likely),
            dict.fromkeys(LABELS, confidence),
            {n: COUNTS[n] if (labels == k).any() else 0 for n, k in LABELS.items()},
            possible_brain=labels[masks.thinned(img.affine)[0]] == LABELS["brain"],
        )


def session(folder, *scans, frames=("2.25.1", "2.25.1"), network=None):
    """Segment a session of (suffix, image, labels, confidence, series): scans and label maps."""
    source, out = folder / "convert", folder / "segment"
    source.mkdir()
    out.mkdir()
    converted = []
    for (suffix, img, _, _, series), frame in zip(scans, frames, strict=True):
        nifti.save(img, source / f"sub-a_{suffix}.nii.gz")
        converted.append(
            Scan(
                f"sub-a_{suffix}",
                series,
                suffix,
                files={"nifti": f"sub-a_{suffix}.nii.gz"},
                measures={
                    "frame_of_reference": frame,
                    "shape": list(img.shape),
                    "spacing": [float(s) for s in nib.affines.voxel_sizes(img.affine)],
                },
            )
        )
    segmenter = network or Network(*[(labels, confidence) for _, _, labels, confidence, _ in scans])
    result = segment.run((source, Manifest("convert", "sub-a", tuple(converted))), out, segmenter)
    maps = [np.asarray(nifti.stored(nifti.load(out / s.files["labels"]))) for s in result]
    return result, maps


def only_brain(labels):
    labels = np.asarray(labels.dataobj)
    return np.where(labels == LABELS["brain"], labels, 0).astype(np.uint8)


def as_array(labels):
    return np.asarray(labels.dataobj)


def test_a_scan_without_a_face_gets_the_labels_of_the_best_scan(tmp_path, whole):
    img, labels = slab()
    (best, epi), (_, transferred) = session(
        tmp_path,
        ("T1w", whole[0], as_array(whole[1]), 0.95, "series-1"),
        ("bold", img, only_brain(labels), 0.9, "series-2"),
    )
    assert best.measures.get("propagated") is None
    assert (epi.status, epi.reasons) == ("pass", ())
    assert epi.measures["propagated"]["from"] == "sub-a_T1w"
    assert epi.measures["propagated"]["moved_mm"] < 3
    for name in FEATURES:
        expected = as_array(labels) == LABELS[name]
        if expected.any():
            assert (transferred[expected] != 0).mean() > 0.98, name
            assert (transferred[expected] == LABELS[name]).mean() > 0.9, name
    # the gate distinguishes organs outside the field of view from missed organs
    known = epi.measures["propagated"]["organs"]
    verdict = gate.face(transferred, epi.measures["confidence"], img.affine, known=known)
    assert verdict.reasons == ()
    assert verdict.measures["mouth"] == "outside"
    alone = gate.face(only_brain(labels), SURE, img.affine)
    assert alone.status == "review"


@pytest.mark.parametrize("pose", [rotated((9, 0, 0)), rotated((0, 0, 0), (0, 9, 4))])
def test_a_head_that_moved_goes_to_review_with_its_own_labels(tmp_path, whole, pose):
    img, labels = slab(pose)
    own = only_brain(labels)
    (_, epi), (_, got) = session(
        tmp_path,
        ("T1w", whole[0], as_array(whole[1]), 0.95, "series-1"),
        ("bold", img, own, 0.9, "series-2"),
    )
    assert epi.status == "review"
    assert epi.reasons[0].startswith(status.HEAD_MOVED)
    assert epi.measures["propagated"]["from"] == ""
    assert np.array_equal(got, own)


def test_noise_in_the_same_frame_goes_to_review(tmp_path, whole):
    img, labels = slab()
    rng = np.random.default_rng(2)
    noise = nib.Nifti1Image(rng.normal(100, 20, img.shape).astype(np.int16), img.affine)
    (_, other), _ = session(
        tmp_path,
        ("T1w", whole[0], as_array(whole[1]), 0.95, "series-1"),
        ("bold", noise, only_brain(labels), 0.9, "series-2"),
    )
    assert other.status == "review"
    assert "not reliable" in other.reasons[0]


def test_without_registration_no_labels_are_transferred(tmp_path, whole, monkeypatch):
    img, labels = slab()
    own = only_brain(labels)
    scans = (
        ("T1w", whole[0], as_array(whole[1]), 0.95, "series-1"),
        ("bold", img, own, 0.9, "series-2"),
    )
    monkeypatch.setattr(segment, "run", partial(segment.run, register=False))
    (_, other), (_, got) = session(tmp_path, *scans)
    assert other.status == "review"
    assert other.measures["propagated"]["from"] == ""
    assert np.array_equal(got, own)


def test_a_brain_at_another_place_goes_to_review(tmp_path, whole):
    img, labels = slab()
    own = np.roll(only_brain(labels), 12, axis=1)
    (_, other), _ = session(
        tmp_path,
        ("T1w", whole[0], as_array(whole[1]), 0.95, "series-1"),
        ("bold", img, own, 0.9, "series-2"),
    )
    assert other.status == "review"
    assert "brain is elsewhere" in other.reasons[0]


def test_an_organ_at_another_place_goes_to_review(tmp_path, whole):
    img, labels = slab()
    own = only_brain(labels)
    own[28:36, 2:7, 8:14] = LABELS["nose"]  # behind the head
    (_, other), _ = session(
        tmp_path,
        ("T1w", whole[0], as_array(whole[1]), 0.95, "series-1"),
        ("bold", img, own, 0.9, "series-2"),
    )
    assert other.status == "review"
    assert "nose elsewhere" in other.reasons[0]


def test_a_scan_with_a_whole_face_keeps_its_labels(tmp_path, whole):
    img, labels = phantom(1, "T2w", spacing=(2.5, 2.5, 2.5), scan=2)
    own = as_array(labels)
    (_, other), (_, got) = session(
        tmp_path,
        ("T1w", whole[0], as_array(whole[1]), 0.95, "series-1"),
        ("T2w", img, own, 0.9, "series-2"),
    )
    assert other.status == "pass"
    assert other.measures["propagated"]["from"] == ""
    assert other.measures["confidence"]["nose"] == 0.9
    assert np.array_equal(got[own > 0], own[own > 0])


def test_a_phase_image_gets_the_labels_of_its_magnitude(tmp_path):
    img, labels = phantom(1, "T1w", spacing=(3.0, 3.0, 3.0))
    rng = np.random.default_rng(1)
    phase = nib.Nifti1Image(rng.integers(0, 4096, img.shape).astype(np.int16), img.affine)
    wrong = as_array(labels).copy()
    wrong[wrong == LABELS["eyes"]] = LABELS["ears"]
    scans = (
        ("magnitude1", img, as_array(labels), 0.9, "series-1"),
        ("phase1", phase, wrong, 0.8, "series-1"),
    )
    (tmp_path / "a").mkdir()
    (best, other), (_, got) = session(tmp_path / "a", *scans)
    assert other.status == "pass"
    assert other.measures["propagated"]["from"] == "sub-a_magnitude1"
    # its own possible brain is not used: it passes only with the magnitude
    assert "possible_brain" in best.files
    assert "possible_brain" not in other.files
    assert other.measures["pose"]["orientation"] == orientation.STANDARD
    assert np.array_equal(got, as_array(labels))
    # another series may have been acquired later, and noise does not show motion
    (tmp_path / "b").mkdir()
    apart = (scans[0], (*scans[1][:4], "series-2"))
    (_, other), (_, got) = session(tmp_path / "b", *apart)
    assert other.status == "review"
    assert "possible_brain" in other.files
    assert np.array_equal(got, wrong)


def test_labels_are_transferred_in_one_frame_of_reference_or_without_any(tmp_path, whole):
    img, labels = slab()
    own = only_brain(labels)
    scans = (
        ("T1w", whole[0], as_array(whole[1]), 0.95, "series-1"),
        ("bold", img, own, 0.9, "series-2"),
    )
    for name in "abc":
        (tmp_path / name).mkdir()
    (_, other), (_, got) = session(tmp_path / "a", *scans, frames=("2.25.1", "2.25.2"))
    assert "propagated" not in other.measures
    assert np.array_equal(got, own)
    # BIDS has no frame of reference: the images are registered
    (_, other), _ = session(tmp_path / "b", *scans, frames=("", ""))
    assert other.measures["propagated"]["from"] == "sub-a_T1w"
    # after motion the scan keeps its own labels, and gets no reason
    img, labels = slab(rotated((9, 0, 0)))
    moved = ("bold", img, only_brain(labels), 0.9, "series-2")
    (_, other), (_, got) = session(tmp_path / "c", scans[0], moved, frames=("", ""))
    assert other.measures["propagated"]["from"] == ""
    assert (other.status, other.reasons) == ("pass", ())
    assert np.array_equal(got, only_brain(labels))


def test_rank_of_sources_of_labels():
    def scan(suffix="T1w", confidence=0.9, brain=1400.0, **parts):
        measures = {
            "confidence": dict.fromkeys(LABELS, confidence),
            "components": COUNTS | parts,
            "volume_ml": {"brain": brain},
        }
        ranked = Scan(f"sub-a_{suffix}", "series-1", suffix, measures=measures)
        return propagate.rank(ranked, Scan(ranked.scan, "series-1", suffix))

    assert scan() < scan(confidence=0.8)
    assert scan(confidence=0.6) is None
    assert scan(ears=1) is None
    assert scan(brain=300.0) is None
    assert scan("phase1") is None


def test_a_source_that_ends_in_an_organ_is_not_used(tmp_path, whole):
    wide, labels = slab(shape=(64, 64, 40), centre=(0, 6, 14))
    own = only_brain(labels)
    # the best scan ends in the middle of the mouth
    best_labels = as_array(whole[1])
    low = int(np.argwhere(best_labels == LABELS["mouth"])[:, 2].mean())
    affine = whole[1].affine.copy()
    affine[:3, 3] += affine[:3, 2] * low
    short = nib.Nifti1Image(as_array(whole[0])[:, :, low:], affine)
    (_, other), (_, got) = session(
        tmp_path,
        ("T1w", short, best_labels[:, :, low:], 0.95, "series-1"),
        ("bold", wide, own, 0.9, "series-2"),
        network=Whole((best_labels[:, :, low:], 0.95), (own, 0.9)),
    )
    assert other.status == "review"
    assert other.reasons[0].endswith("cuts the mouth")
    assert np.array_equal(got, own)


class Whole(Network):
    """Report every organ as whole."""

    def segment(self, img):
        segmented = super().segment(img)
        return replace(segmented, components=dict(COUNTS))


def test_a_scan_with_transferred_labels_passes_only_with_their_source():
    def status_with(source, status="pass"):
        segmented = Manifest(
            "segment",
            "sub-a",
            (
                Scan("sub-a_T1w", "series-1", measures={}),
                Scan("sub-a_bold", "series-2", measures={"propagated": {"from": source}}),
            ),
        )
        images = [
            Scan("sub-a_T1w", "series-1", "T1w", status),
            Scan("sub-a_bold", "series-2", "bold"),
        ]
        return _as_their_sources(images, segmented)[1].status

    assert status_with("sub-a_T1w") == "pass"
    assert status_with("sub-a_T1w", "review") == "review"
    assert status_with("sub-a_T1w", "fail") == "review"
    assert status_with("", "review") == "pass"
    assert status_with("sub-a_gone") == "review"


def test_an_organ_known_in_view_but_not_labelled_is_missing():
    labels, affine = head()
    known = [vars(o) for o in organs_in_view.organs(labels, affine, labels.shape, affine)]
    assert gate.face(labels, SURE, affine, known=known).status == "pass"
    bare = np.where(labels == LABELS["nose"], 0, labels).astype(np.uint8)
    verdict = gate.face(bare, SURE, affine, known=known)
    assert verdict.measures["nose"] == "missing"
    assert verdict.status == "review"


def test_an_error_fails_only_its_own_scan(tmp_path, whole, monkeypatch):
    def broken(*_):
        raise ValueError("broken")

    monkeypatch.setattr(resample, "transfer", broken)
    scans, maps = [], tmp_path / "maps"
    for name, labels in (("T1w", as_array(whole[1])), ("bold", only_brain(whole[1]))):
        nifti.save(nib.Nifti1Image(labels, whole[1].affine), maps / f"{name}.nii.gz")
        segmented = Network((labels, 0.9)).segment(whole[1])
        measures = {
            "confidence": segmented.confidence,
            "components": segmented.components,
            "volume_ml": volumes_ml(segmented.labels, whole[1].affine),
            "frame_of_reference": "2.25.1",
        }
        files = {"labels": f"{name}.nii.gz"}
        scans.append(Scan(name, f"series-{name}", name, files=files, measures=measures))
    best, other = propagate.session(scans, tmp_path, scans, maps)
    assert (best.status, other.status) == ("pass", "fail")
    assert other.reasons == ("stage failed: propagation (ValueError)",)
    assert other.files == {}
