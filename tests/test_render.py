"""Renders have the patient's directions for any order of voxels, and the same bytes each time."""

import nibabel as nib
import numpy as np
import pytest
from PIL import Image

from efface.errors import EffaceError
from efface.phantom import phantom
from efface.qc import render


@pytest.fixture(scope="module")
def head():
    return phantom(6, spacing=(2.0, 2.0, 2.0))


def test_views_show_a_head_from_three_sides(head):
    img, _ = head
    r = render.views(np.asarray(img.dataobj), img.affine)
    assert set(r) == {"front", "left", "right"}
    for name, picture in r.items():
        assert picture.dtype == np.uint8
        share = (picture > 0).mean()
        assert 0.35 < share < 0.85, name

    # the outlines of both sides are mirrored
    face = int(r["left"].shape[0] * 0.55)
    band = slice(face - 12, face + 12)
    left = np.flatnonzero((r["left"][band] > 0).any(axis=0))
    right = np.flatnonzero((r["right"][band] > 0).any(axis=0))
    assert r["left"].shape == r["right"].shape
    np.testing.assert_allclose(left.min(), r["right"].shape[1] - 1 - right.max(), atol=1)


def test_front_has_the_patients_right_at_the_left():
    v = np.zeros((60, 60, 60), np.float32)
    v[20:40, 20:40, 20:40] = 100
    v[40:50, 25:35, 34:38] = 100  # sticks out to the right (x grows), high up
    affine = np.diag([3.0, 3.0, 3.0, 1.0])
    r = render.views(v, affine, threshold=50, mm=3.0)
    rows, cols = np.nonzero(r["front"])
    assert cols.min() == 10
    assert cols.max() == 39
    assert rows[cols == 12].mean() < 30
    back = np.zeros_like(v)
    back[20:40, 20:40, 20:40] = 100
    back[25:35, 40:50, 34:38] = 100  # sticks out to the front
    r = render.views(back, affine, threshold=50, mm=3.0)
    assert np.nonzero(r["left"])[1].min() == 10
    assert np.nonzero(r["right"])[1].max() == 49


@pytest.mark.parametrize("codes", ["PSR", "LPI", "AIL"])
def test_views_are_the_same_for_any_order_of_voxels(head, codes):
    img, _ = head
    transform = nib.orientations.ornt_transform(
        nib.orientations.io_orientation(img.affine), nib.orientations.axcodes2ornt(codes)
    )
    other = img.as_reoriented(transform)
    assert nib.aff2axcodes(other.affine) == tuple(codes)
    a = render.views(np.asarray(img.dataobj), img.affine)
    b = render.views(np.asarray(other.dataobj), other.affine)
    for name in a:
        assert a[name].shape == b[name].shape
        assert np.abs(a[name].astype(int) - b[name]).mean() < 0.5, name


@pytest.mark.parametrize("contrast", ["T1w", "T2w", "FLAIR", "PDw"])
def test_threshold_lies_between_air_and_skin(contrast):
    img, labels = phantom(6, contrast, spacing=(2.5, 2.5, 2.5), noise=0.05)
    v = np.asarray(img.dataobj, np.float32)
    level = render.skin_threshold(v, img.affine)
    air = v[:4, :4]
    assert level > 2 * np.median(air)
    assert level < np.median(v[np.asarray(labels.dataobj) == 3])


def test_a_shared_threshold_shows_the_removed_nose(head):
    img, labels = head
    v = np.asarray(img.dataobj).copy()
    level = render.skin_threshold(v, img.affine)
    before = render.views(v, img.affine, threshold=level)
    v[np.asarray(labels.dataobj) == 3] = 0
    after = render.views(v, img.affine, threshold=level)
    changed = np.abs(before["front"].astype(int) - after["front"]) > 20
    assert 100 < changed.sum() < 0.25 * changed.size
    middle = changed.shape[1] // 2
    assert abs(np.nonzero(changed)[1].mean() - middle) < 8


def test_empty_volumes_give_blank_pictures_and_invalid_ones_are_rejected():
    r = render.views(np.zeros((8, 9, 10)), np.eye(4))
    assert all(not p.any() for p in r.values())
    render.slices(np.zeros((8, 9, 10)), np.eye(4))
    nan = np.full((8, 9, 10), np.nan)
    render.views(nan, np.eye(4))
    with pytest.raises(ValueError, match="3D"):
        render.views(np.zeros((4, 4, 4, 2)), np.eye(4))
    with pytest.raises(EffaceError, match="field of view"):
        render.views(np.zeros((8, 8, 8)), np.diag([500.0, 1, 1, 1]))


def test_slices_draw_the_outlines(head):
    img, labels = head
    plain = render.slices(np.asarray(img.dataobj), img.affine)
    v, k = np.asarray(img.dataobj), np.asarray(labels.dataobj)
    picture = render.slices(v, img.affine, labels=k)
    assert picture.dtype == np.uint8
    assert picture.ndim == 3
    assert (plain[..., 0] == plain[..., 1]).all()
    for colour in render.COLOURS:
        assert (picture == colour).all(axis=-1).any(), colour
    masked = render.slices(v, img.affine, mask=k == 3)
    assert (masked == render.COLOURS[2]).all(axis=-1).any()


def test_png_has_the_picture_and_no_metadata(tmp_path, head):
    img, _ = head
    r = render.views(np.asarray(img.dataobj), img.affine)
    picture = np.concatenate([r["front"], r["left"]], axis=1)
    render.save_png(picture, tmp_path / "a.png")
    render.save_png(picture, tmp_path / "deep" / "b.png")
    one = (tmp_path / "a.png").read_bytes()
    assert one == (tmp_path / "deep" / "b.png").read_bytes()
    assert b"tIME" not in one
    assert b"tEXt" not in one
    np.testing.assert_array_equal(np.asarray(Image.open(tmp_path / "a.png")), picture)
    with pytest.raises(ValueError, match="uint8"):
        render.save_png(picture.astype(float), tmp_path / "c.png")
