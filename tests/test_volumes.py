"""4D images in which the head moves: each position is segmented, distorted and judged."""

from functools import lru_cache

import nibabel as nib
import numpy as np
import pytest
from scipy.spatial.transform import Rotation
from small_session import SERIES, STEM, series_record, session_record, write_stage

import efface
from efface import distort, nifti, qc, segment
from efface.distort import methods
from efface.manifest import Manifest, Scan
from efface.phantom import phantom
from efface.pseudonym import new_key
from efface.segment import Segmentation, Segmenter, positions, segmentation, volumes
from efface.segment.labels import LABELS

STILL = (0, 0, 0, 0, 0, 0)
MOVES = {
    "nod": (-35, 0, 0, 0, 0, 0),
    "nod a little": (12, 0, 0, 0, 0, 0),
    "yaw": (0, 0, 40, 0, 0, 0),
    "roll": (0, 20, 0, 0, 0, 0),
    "shift": (0, 0, 0, 0, 0, -30),
}
SMALL = (1, 0, 1, 1, 0, 1)


@lru_cache(maxsize=32)
def volume(move=STILL, contrast="T1w", scan=0, spacing=3.0):
    """Voxels, labels and affine of a phantom rotated (degrees about x, y, z) and shifted (mm)."""
    pose = np.eye(4)
    pose[:3, :3] = Rotation.from_euler("xyz", move[:3], degrees=True).as_matrix()
    pose[:3, 3] = move[3:]
    shape = tuple(round(n * 3 / spacing) for n in (72, 92, 92))
    settings = {"spacing": (spacing,) * 3, "shape": shape, "pose": pose, "scan": scan}
    # the coil is the same in all volumes of a series
    img, labels = phantom(3, contrast, bias=0, **settings)
    return np.asanyarray(img.dataobj), np.asanyarray(labels.dataobj), img.affine


def noise(scan=0):
    """Volume of noise, as from an acquisition without excitation."""
    like, _, _ = volume()
    rng = np.random.default_rng(scan)
    return np.hypot(*rng.normal(0, 12, (2, *like.shape))).astype(like.dtype)


def stack(*parts):
    return np.stack(parts, axis=-1)


def groups(*parts):
    return volumes.group_by_position(stack(*parts), volume()[2])


@pytest.mark.parametrize("move", MOVES.values(), ids=MOVES)
@pytest.mark.parametrize("still", [1, 4])
def test_volumes_with_a_moved_head_are_a_group(move, still):
    parts = [volume(scan=n)[0] for n in range(still)]
    assert groups(*parts, volume(move)[0]) == (tuple(range(still)), (still,))


def test_two_alternating_positions_are_two_groups():
    a, b = volume()[0], volume(MOVES["yaw"])[0]
    assert groups(a, b, a, b, a) == ((0, 2, 4), (1, 3))


def test_volumes_of_an_unmoved_head_are_one_group_in_any_contrast_and_noise():
    parts = [volume(contrast=c)[0] for c in ("T1w", "T2w", "FLAIR", "PDw")]
    parts += [volume(SMALL)[0], volume(scan=2)[0] * 3, noise(), noise(1), np.zeros_like(noise())]
    assert groups(*parts) == (tuple(range(len(parts))),)


def test_a_moved_head_is_a_group_among_contrasts_and_noise():
    parts = [noise(), volume()[0], volume(contrast="T2w")[0], volume(MOVES["nod"])[0]]
    assert groups(*parts) == ((0, 1, 2), (3,))


@pytest.mark.slow
def test_a_slow_drift_has_few_groups_that_hold_all_volumes():
    parts = [volume((a, 0, 0, 0, 0, 0))[0] for a in range(13)]
    result = groups(*parts)
    assert sorted(t for g in result for t in g) == list(range(len(parts)))
    assert 2 <= len(result) <= 8
    assert all(max(g) - min(g) <= 6 for g in result)


@pytest.mark.parametrize("dtype", [np.uint8, np.int16, np.float32, np.float64])
def test_groups_are_the_same_for_any_stored_type_and_with_nan(dtype):
    parts = stack(volume()[0], volume(MOVES["roll"])[0], volume()[0])
    voxels = (parts / parts.max() * 250).astype(dtype)
    if voxels.dtype.kind == "f":
        voxels[:3, :3, :3] = np.nan
    assert volumes.group_by_position(voxels, volume()[2]) == ((0, 2), (1,))


@pytest.mark.parametrize("shape", [(2, 2, 2, 3), (40, 40, 2, 2), (5, 9, 3, 1)])
def test_small_images_have_groups(shape):
    voxels = np.random.default_rng(0).normal(size=shape)
    result = volumes.group_by_position(voxels, np.diag([3.0, 3.0, 12.0, 1.0]))
    assert sorted(t for g in result for t in g) == list(range(shape[3]))


def test_selected_volumes_keep_scaling_and_geometry():
    voxels = np.arange(240, dtype=np.int16).reshape(4, 5, 3, 4)
    img = nib.Nifti1Image(voxels, np.diag([2.0, 2.0, 3.0, 1.0]))
    img.header.set_slope_inter(2, 1)
    img = nifti.with_stored(img, voxels)
    part = volumes.select(img, (1, 3))
    assert np.array_equal(nifti.stored(part), voxels[..., [1, 3]])
    assert nifti.scaling(part) == (2, 1)
    assert np.array_equal(part.affine, img.affine)
    assert volumes.select(img, ()) is img


def covered(before, after, move, t, spacing=3.0):
    """Share of each organ and of the brain that changed in a volume."""
    _, truth, _ = volume(move, spacing=spacing)
    changed = before[..., t] != after[..., t]
    return {name: float(changed[truth == k].mean()) for name, k in LABELS.items()}


def assert_defaced(before, after, moves, spacing=3.0):
    for t, move in enumerate(moves):
        share = covered(before, after, move, t, spacing)
        assert share.pop("brain") < 0.02, move
        assert min(share.values()) > 0.9, (move, share)


def test_the_segmentation_of_a_thin_slab_is_read_as_written(tmp_path):
    """From three slices, the image of possible brain has one."""
    img = nib.Nifti1Image(np.zeros((3, 40, 40), np.int16), np.diag([5.0, 1, 1, 1]))
    labels = np.zeros(img.shape, np.uint8)
    labels[1, 10:20, 10:20] = LABELS["brain"]
    given = Segmentation(labels, {}, None, possible_brain=np.ones((1, 20, 20), bool))
    files, measures = segmentation.write(given, img, tmp_path, "a")
    scan = Scan("a", SERIES, "T1w", files=files, measures=measures)
    again = segmentation.read(tmp_path, scan, img)
    assert np.array_equal(again.possible_brain, given.possible_brain)
    assert np.array_equal(again.labels, labels)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["yaw", "shift"])
def test_a_face_that_moved_in_one_volume_is_replaced(name):
    moves = [STILL, STILL, MOVES[name]]
    img = nib.Nifti1Image(stack(*(volume(m)[0] for m in moves)), volume()[2])
    result = efface.deface(img)
    assert result.report.status == "pass", result.report.reasons
    assert result.report.measures["head_positions"] == 2
    before, after = np.asanyarray(img.dataobj), np.asanyarray(result.image.dataobj)
    assert_defaced(before, after, moves)
    assert not (before != after)[~result.mask].any()
    assert not (before != after)[..., 0][result.labels == LABELS["brain"]].any()


def test_an_unmoved_head_is_defaced_as_its_mean():
    parts = [volume(contrast=c)[0] for c in ("T1w", "PDw")]
    img = nib.Nifti1Image(stack(*parts), volume()[2])
    result = efface.deface(img)
    assert result.report.status == "pass"
    assert "head_positions" not in result.report.measures
    mean = nib.Nifti1Image(np.asanyarray(img.dataobj).mean(axis=3, dtype=np.float32), img.affine)
    assert np.array_equal(result.mask, efface.deface(mean).mask)


@pytest.mark.slow
def test_a_position_without_a_face_needs_review():
    hidden = volume(MOVES["yaw"])[0].copy()
    hidden[:, 52:] = 0  # the front of the head
    img = nib.Nifti1Image(stack(volume()[0], volume()[0], hidden), volume()[2])
    result = efface.deface(img)
    assert result.report.status == "review"
    assert all("(volume 3)" in r for r in result.report.reasons)


def test_volumes_beyond_the_largest_number_of_positions_need_review(monkeypatch):
    monkeypatch.setattr(positions, "MOST", 1)
    parts = [volume()[0], *(volume(MOVES[n])[0] for n in ("nod", "yaw"))]
    img = nib.Nifti1Image(stack(volume()[0], *parts), volume()[2])
    result = efface.deface(img)
    assert result.report.status == "review"
    assert result.report.reasons == ("head not found in some volumes (volumes 3, 4)",)


def test_contrasts_that_look_like_motion_share_one_position():
    """Groups of an unmoved head are one position."""
    img = nib.Nifti1Image(stack(volume()[0], volume(contrast="T2w")[0]), volume()[2])
    result = positions.segment_groups(img, ((0,), (1,)), Segmenter.load(None, "cpu", 2).segment)
    assert (result.volumes, result.moved) == ((), ())


@pytest.mark.slow
def test_every_stage_handles_all_positions(tmp_path):
    moves = [STILL, MOVES["nod"], STILL]
    img = nib.Nifti1Image(stack(*(volume(m)[0] for m in moves)), volume()[2])
    scan = Scan(STEM, SERIES, "bold", files={"nifti": "i.nii.gz"})
    convert = write_stage(tmp_path, "convert", [scan], {"i.nii.gz": img})
    segmenter = Segmenter.load(None, "cpu", 2)
    for stage in ("segment", "distort", "qc"):
        (tmp_path / stage).mkdir()
    (segmented,) = segment.run(convert, tmp_path / "segment", segmenter)
    assert segmented.measures["volumes"] == [0, 2]
    assert [m["volumes"] for m in segmented.measures["moved"]] == [[1]]
    labelled = (tmp_path / "segment", Manifest("segment", "s", (segmented,)))
    entry = session_record(series_record(), session="s", source="bids")
    key = new_key(tmp_path / "key")
    scrub = (tmp_path, Manifest("scrub", "s", ()))
    (distorted_scan,) = distort.run(entry, convert, labelled, scrub, tmp_path / "distort", key)
    assert distorted_scan.status == "pass", distorted_scan.reasons
    after = nib.load(tmp_path / "distort" / distorted_scan.files["nifti"])
    assert_defaced(np.asanyarray(img.dataobj), np.asanyarray(after.dataobj), moves)
    mask = np.asanyarray(nib.load(tmp_path / "distort" / distorted_scan.files["mask"]).dataobj) > 0
    assert not (np.asanyarray(img.dataobj) != np.asanyarray(after.dataobj))[~mask].any()
    distorted = (tmp_path / "distort", Manifest("distort", "s", (distorted_scan,)))
    (judged,) = qc.run(entry, convert, labelled, distorted, tmp_path / "qc", segmenter)
    assert judged.status == "pass", judged.reasons
    assert judged.measures["head_positions"] == 2
    for role in ("before_front_position-2", "after_front_position-2", "slices_position-2"):
        assert (tmp_path / "qc" / judged.files[role]).is_file()


def test_a_face_that_moved_in_one_volume_of_a_real_head_is_replaced(data):
    """A real head rotated by 35 degrees in the second volume."""
    from scipy.ndimage import affine_transform

    path = data / "heads" / "val" / "IXI104"
    img = nib.as_closest_canonical(nib.load(f"{path}_T1w.nii.gz"))
    truth = nib.as_closest_canonical(nib.load(f"{path}_labels.nii.gz"))
    room = ((8, 8), (16, 16), (0, 0))
    v, labels = (np.pad(np.asanyarray(i.dataobj), room) for i in (img, truth))
    affine = img.affine.copy()
    affine[:3, 3] -= affine[:3, :3] @ [8, 16, 0]
    middle = np.array(v.shape) / 2
    parts, truths = [v], [labels]
    back = Rotation.from_euler("x", -35, degrees=True).as_matrix().T
    at = middle - back @ middle
    parts.append(affine_transform(v, back, at, order=1))
    truths.append(affine_transform(labels, back, at, order=0))
    made = nib.Nifti1Image(stack(*parts), affine)
    result = efface.deface(made)
    assert result.report.status == "pass", result.report.reasons
    changed = nifti.stored(result.image) != nifti.stored(made)
    for t, truth in enumerate(truths):
        for k in range(2, 6):
            assert changed[..., t][truth == k].mean() > 0.95


def test_selected_volumes_are_replaced_with_the_same_noise_as_all():
    voxels = np.random.default_rng(0).normal(300, 40, (12, 11, 10, 4)).astype(np.int16)
    mask = np.zeros(voxels.shape[:3], bool)
    mask[3:8, 3:8, 3:8] = True
    every = methods.replace(voxels, mask, "noise", 3)
    some = methods.replace(voxels, mask, "noise", 3, volumes=(1, 3))
    assert np.array_equal(some[..., [1, 3]], every[..., [1, 3]])
    assert np.array_equal(some[..., [0, 2]], voxels[..., [0, 2]])
