"""The region and its new values: covered organs, unchanged brain, independence of the face."""

import hashlib

import nibabel as nib
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import ndimage

from efface import nifti
from efface.distort import deface_image, methods
from efface.distort.methods import METHODS, replace, statistics
from efface.distort.region import coverage, parse_features
from efface.distort.region import region as region_by_pose
from efface.errors import EffaceError
from efface.segment import anatomy, fit
from efface.segment.geometry import voxel_sizes
from efface.segment.labels import FEATURES, LABELS
from efface.segment.segmentation import of_labels

PARTS = anatomy.load().parts
EYES = (PARTS["left eye"].mean + PARTS["right eye"].mean) / 2
CENTRES = [("brain", -EYES), *((anatomy.LANDMARKS[n], p.mean - EYES) for n, p in PARTS.items())]
"""Labels and their centres in mm, relative to the point between the eyes."""
RADII = {
    "brain": (68, 82, 62),
    "eyes": (14, 13, 13),
    "nose": (16, 16, 24),
    "ears": (10, 16, 28),
    "mouth": (30, 16, 26),
}


def head(spacing=(3.0, 3.0, 3.0), axes="RAS", tilt=0.0, fov=((-100, 100), (-190, 60), (-120, 110))):
    """Labels and affine of a head made of ellipsoids, in the given orientation and voxel size."""
    codes = nib.orientations.axcodes2ornt(axes)
    low, high = np.array(fov, float).T
    affine = np.eye(4)
    affine[:3, :3] = 0
    for axis, (world, flip) in enumerate(codes):
        affine[int(world), axis] = flip * spacing[axis]
        affine[int(world), 3] = low[int(world)] if flip > 0 else high[int(world)]
    extent = [(high - low)[int(w)] for w, _ in codes]
    shape = tuple(max(2, round(e / s)) for e, s in zip(extent, spacing, strict=True))
    index = np.stack(np.meshgrid(*map(np.arange, shape), indexing="ij"), axis=-1)
    at = index @ affine[:3, :3].T + affine[:3, 3]
    c, s = np.cos(np.deg2rad(tilt)), np.sin(np.deg2rad(tilt))
    at = at @ np.array([[1, 0, 0], [0, c, -s], [0, s, c]])
    labels = np.zeros(shape, np.uint8)
    for name, centre in CENTRES:
        inside = (((at - centre) / RADII[name]) ** 2).sum(axis=-1) <= 1
        labels[inside & (labels == 0)] = LABELS[name]
    return labels, affine


def region(labels, affine, features="face"):
    pose = fit.estimate(labels, affine) if labels.ndim == 3 and affine.any() else None
    return region_by_pose(labels, affine, pose, features)


def near_brain(labels, affine):
    away = ndimage.distance_transform_edt(labels != LABELS["brain"], sampling=voxel_sizes(affine))
    return away <= 2.0


def overlap(a, b):
    return 2 * (a & b).sum() / (a.sum() + b.sum())


@settings(max_examples=8)
@given(
    axes=st.sampled_from(["RAS", "LPS", "PSR", "SLA", "AIL"]),
    spacing=st.sampled_from([(2.0, 2.0, 2.0), (3.0, 1.5, 3.0), (1.5, 1.5, 7.0), (7.0, 2.0, 2.0)]),
    tilt=st.sampled_from([-25.0, 0.0, 20.0]),
    features=st.sampled_from(["face", "eyes", "nose", "ears", "mouth", "eyes,mouth"]),
)
def test_organs_covered_and_brain_spared_in_any_grid(axes, spacing, tilt, features):
    labels, affine = head(spacing, axes, tilt)
    mask = region(labels, affine, features)
    spared = near_brain(labels, affine)
    chosen = FEATURES if features == "face" else features.split(",")
    for name in chosen:
        assert mask[(labels == LABELS[name]) & ~spared].all(), name
    assert not (mask & spared).any()
    for name in set(FEATURES) - set(chosen):
        assert coverage(labels, mask)[name] < 0.7


def test_region_reaches_into_the_air_in_front_and_beside():
    labels, affine = head()
    mask = region(labels, affine)
    inverse = np.linalg.inv(affine)

    def at(*mm):
        return mask[tuple(np.rint(inverse[:3, :3] @ mm + inverse[:3, 3]).astype(int))]

    assert at(0, 55, -30)  # in front of the nose
    assert at(30, 35, 0)  # in front of an eye, far from it
    assert at(90, -89, -24)
    assert at(-90, -89, -24)
    assert not at(0, -60, 30)
    assert not at(0, -150, -60)  # the neck


def test_outline_does_not_trace_the_skin():
    labels, affine = head((2.0, 2.0, 2.0))
    bumpy = labels.copy()
    # another profile with the same extremes: a dent in the lips
    dent = np.zeros_like(labels, bool)
    dent[:, labels.shape[1] - 40 :, 22:26] = True
    bumpy[dent & (labels == LABELS["mouth"])] = 0
    assert (bumpy != labels).any()
    assert overlap(region(labels, affine), region(bumpy, affine)) > 0.995


def test_region_does_not_depend_on_the_orientation_in_the_header():
    labels, affine = head()
    wrong = affine[[1, 2, 0, 3]]
    assert overlap(region(labels, affine), region(labels, wrong)) > 0.97


def test_axes_follow_a_tilted_head():
    labels, affine = head(tilt=20)
    anterior = fit.estimate(labels, affine).rotation[:, 1]
    nod = np.rad2deg(np.arctan2(anterior[2], anterior[1]))
    assert abs(abs(nod) - 20) < 4


@pytest.mark.parametrize(
    "fov",
    [
        ((-100, 100), (-190, 60), (-20, 110)),  # no nose, no mouth
        ((10, 100), (-190, 60), (-120, 110)),  # one half
        ((-100, 100), (-30, 60), (-120, 110)),  # the face alone, no ears and little brain
        ((-100, 100), (-190, 5), (-120, 40)),  # the nose cut off
    ],
)
def test_partial_field_of_view(fov):
    labels, affine = head(fov=fov)
    mask = region(labels, affine)
    spared = near_brain(labels, affine)
    assert mask[(labels > 1) & ~spared].all()
    assert not (mask & spared).any()
    assert mask.any()


def test_without_organs_the_region_is_empty():
    labels, affine = head()
    labels[labels > 1] = 0
    assert not region(labels, affine).any()
    assert coverage(labels, region(labels, affine)) == {}


def test_a_stray_piece_is_covered_but_does_not_stretch_the_hull():
    labels, affine = head()
    stray = labels.copy()
    stray[33:35, 8:10, 8:10] = LABELS["eyes"]  # at the nape
    before, after = region(labels, affine), region(stray, affine)
    assert after[33:35, 8:10, 8:10].all()
    assert after.sum() - before.sum() < 100


def test_unknown_feature_and_wrong_shape():
    labels, affine = head()
    with pytest.raises(EffaceError, match="chin"):
        region(labels, affine, "chin")
    with pytest.raises(EffaceError, match="shape"):
        region(labels[..., None], affine)
    with pytest.raises(EffaceError, match="affine"):
        region(labels, np.zeros((4, 4)))
    assert parse_features(["ears", "face"]) == ("face",)


DTYPES = ["i1", "u1", "i2", "u2", ">i2", ">u2", "i4", "u4", "i8", "u8", "f4", ">f4", "f8"]


def volume(dtype, shape=(12, 11, 10), seed=0, order="F"):
    """Random voxels that fill the type, with NaN and infinity where there are some."""
    random = np.random.default_rng(seed)
    kind = np.dtype(dtype)
    if kind.kind == "f":
        values = (random.standard_normal(shape) * 1e3).astype(kind)
        values[0, 0, :3] = np.nan
        values[5, 5, 5], values[5, 5, 6], values[5, 5, 7] = np.nan, np.inf, -np.inf
    else:
        info = np.iinfo(kind)
        values = random.integers(info.min, info.max, shape, dtype=kind.newbyteorder("="))
        values = values.astype(kind)
    return np.asarray(values, order=order)


def box(shape):
    mask = np.zeros(shape[:3], bool)
    mask[3:8, 3:8, 3:8] = True
    return mask


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("shape", [(12, 11, 10), (12, 11, 10, 3)])
def test_voxels_outside_the_mask_keep_their_bits_and_type(method, dtype, shape):
    stored = volume(dtype, shape)
    mask = box(shape)
    out = replace(stored, mask, method, 7, None, np.eye(4))
    assert out.dtype == stored.dtype
    assert out.shape == shape
    assert out[~mask].tobytes() == stored[~mask].tobytes()
    assert np.isfinite(out[mask].astype(float)).all()
    assert (out[mask] != stored[mask]).mean() > 0.5
    finite = stored[~mask][np.isfinite(stored[~mask].astype(float))]
    assert float(finite.min()) <= float(out[mask].min())
    assert float(out[mask].max()) <= float(finite.max())


@pytest.mark.parametrize("method", [m for m, how in METHODS.items() if not how.depends_on_face])
@settings(max_examples=15)
@given(
    dtype=st.sampled_from(DTYPES),
    seed=st.integers(0, 2**127),
    faces=st.tuples(st.integers(0, 99), st.integers(100, 199)),
    order=st.sampled_from("FC"),
    four=st.booleans(),
)
def test_new_values_do_not_depend_on_the_face(method, dtype, seed, faces, order, four):
    shape = (12, 11, 10, 2) if four else (12, 11, 10)
    mask = box(shape)
    one = volume(dtype, shape, order=order)
    other = one.copy(order="K")
    one[mask] = volume(dtype, shape, faces[0])[mask]
    other[mask] = volume(dtype, shape, faces[1])[mask]
    a, b = (replace(x, mask, method, seed) for x in (one, other))
    assert a.tobytes() == b.tobytes()


def test_blur_depends_on_the_face_and_is_marked():
    stored = volume("i2")
    changed = stored.copy()
    changed[box(stored.shape)] += 100
    a, b = (replace(x, box(x.shape), "blur", 1) for x in (stored, changed))
    assert (a != b).any()
    assert METHODS["blur"].depends_on_face


def test_the_seed_determines_the_new_values():
    stored, mask = volume("i2"), box((12, 11, 10))
    first = replace(stored, mask, "noise", 3)
    assert first.tobytes() == replace(stored, mask, "noise", 3).tobytes()
    assert (first[mask] != replace(stored, mask, "noise", 4)[mask]).mean() > 0.9
    # fails if a new version of numpy draws other numbers: releases must stay reproducible
    flat = np.tile(np.arange(1000, dtype=np.int16), 2)[: 12 * 11 * 10].reshape(12, 11, 10)
    digest = hashlib.sha256(replace(flat, mask, "noise", 3).tobytes()).hexdigest()
    assert digest[:16] == "23bf6b474f4609c1"


def test_volumes_of_a_series_have_different_noise():
    stored = np.repeat(volume("i2")[..., None], 2, axis=3)
    mask = box(stored.shape)
    out = replace(stored, mask, "noise", 3)
    assert (out[mask][:, 0] != out[mask][:, 1]).mean() > 0.9


def test_noise_has_the_intensities_of_the_head():
    random = np.random.default_rng(0)
    stored = random.normal(20, 5, (40, 40, 40)).clip(0)
    stored[8:32, 8:32, 8:32] = random.normal(500, 60, (24, 24, 24))
    mask = np.zeros(stored.shape, bool)
    mask[20:32, 8:38, 8:32] = True
    out = replace(stored, mask, "noise", 1)
    assert abs(out[mask].mean() - 500) < 20
    assert 30 < out[mask].std() < 90
    neighbours = np.corrcoef(out[20:31, 8:38, 8:32].ravel(), out[21:32, 8:38, 8:32].ravel())[0, 1]
    assert neighbours > 0.5
    assert abs(replace(stored, mask, "remove", 1)[mask].mean() - 20) < 5
    assert statistics(stored, mask).head == pytest.approx(500, abs=10)


@pytest.mark.parametrize("fill", [0, 7, np.nan])
def test_images_without_contrast(fill):
    stored = np.full((12, 11, 10), fill, np.float32)
    out = replace(stored, box(stored.shape), "noise", 1)
    assert np.isfinite(out[box(stored.shape)]).all()


def test_a_mask_of_the_whole_image_leaves_zeros():
    out = replace(volume("i2"), np.ones((12, 11, 10), bool), "noise", 1)
    assert not out.any()


def test_invalid_arguments_raise_errors():
    stored = volume("i2")
    with pytest.raises(EffaceError, match="pixelate"):
        replace(stored, box(stored.shape), "pixelate")
    with pytest.raises(EffaceError, match="fit"):
        replace(stored, np.ones((3, 3, 3), bool))
    with pytest.raises(EffaceError, match="fit"):
        replace(stored, box(stored.shape), labels=np.zeros((3, 3, 3), np.uint8))


def test_deface_image_keeps_header_and_scaling(tmp_path):
    labels, affine = head()
    random = np.random.default_rng(0)
    voxels = np.where(labels > 0, 800, 20) + random.integers(0, 60, labels.shape)
    img = nib.Nifti1Image(np.asfortranarray(voxels.astype(np.int16)), affine)
    img.header["scl_slope"], img.header["scl_inter"] = 2.5, -10
    img.set_qform(affine, 1)
    out, (mask,) = deface_image(img, of_labels(labels, img.affine), "face", "noise", 5)
    nifti.save(out, tmp_path / "out.nii.gz")
    saved = nifti.load(tmp_path / "out.nii.gz")
    assert nifti.scaling(saved) == (2.5, -10)
    assert np.array_equal(saved.affine, img.affine)
    assert int(saved.header["qform_code"]) == 1
    assert saved.get_data_dtype() == np.int16
    stored = nifti.stored(saved)
    assert np.array_equal(stored[~mask], voxels[~mask])
    assert not (mask & (labels == 1)).any()
    with pytest.raises(EffaceError, match="fit"):
        deface_image(img, of_labels(labels[1:], img.affine), "face")


def test_real_heads(data):
    paths = sorted(data.glob("heads/val/*_labels.nii.gz"))[::3]
    assert len(paths) >= 6
    for path in paths:
        img = nifti.load(path)
        labels = nifti.stored(img)
        mask = region(labels, img.affine)
        spared = near_brain(labels, img.affine)
        assert mask[(labels > 1) & ~spared].all()
        assert not (mask & spared).any()
        shares = coverage(labels, mask)
        assert min(shares["nose"], shares["mouth"]) > 0.999
        assert min(shares.values()) > 0.94  # the rest lies within 2 mm of the brain
        assert mask.mean() < 0.17


@given(
    st.integers(0, 2**32 - 1),
    st.tuples(*[st.integers(1, 14)] * 3),
    st.sampled_from((0.02, 0.1, 0.5)),
    st.tuples(*[st.integers(0, 2)] * 3),
)
def test_pieces_of_a_mask_cover_it_without_overlap(seed, shape, share, margin):
    mask = np.asfortranarray(np.random.default_rng(seed).random(shape) < share)
    count = np.zeros(shape, int)
    for box, part in methods._pieces(mask, np.array(margin)):
        count[box] += part
    assert (count == mask).all()
