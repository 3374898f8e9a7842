"""Phantoms: plausible anatomy, the same head on every grid, and valid DICOM."""

import hashlib
import subprocess
import sys
from pathlib import Path

import nibabel as nib
import numpy as np
import pydicom
import pytest
from scipy import ndimage

from efface.errors import EffaceError
from efface.phantom import HeadShape, Identity, demo_source, phantom, write_bids, write_dicom
from efface.phantom.export import write_capture, write_report
from efface.segment.labels import LABELS

MM = 2.5


def make(seed=3, contrast="T1w", **how):
    return phantom(seed, contrast, **{"spacing": (MM, MM, MM), **how})


@pytest.fixture(scope="module")
def pair():
    """T1w of one person and its labels, 2.5 mm, RAS."""
    return make()


def world(labels, value):
    """Centre of a label in mm."""
    where = np.argwhere(np.asarray(labels.dataobj) == value)
    return nib.affines.apply_affine(labels.affine, where.mean(axis=0))


@pytest.mark.parametrize("seed", [1, 2, 3, 4])
def test_organs_have_plausible_sizes_and_numbers(seed):
    labels = np.asarray(make(seed)[1].dataobj)
    litres = {k: (labels == v).sum() * MM**3 / 1e6 for k, v in LABELS.items()}
    assert 1.1 < litres["brain"] < 1.9
    assert 0.012 < litres["eyes"] < 0.030
    assert 0.008 < litres["nose"] < 0.045
    assert 0.03 < litres["ears"] < 0.10
    assert 0.03 < litres["mouth"] < 0.12
    for name, parts in {"eyes": 2, "ears": 2, "brain": 1, "nose": 1, "mouth": 1}.items():
        components, n = ndimage.label(labels == LABELS[name], np.ones((3, 3, 3)))
        sizes = np.sort(np.bincount(components.ravel())[1:])[::-1]
        assert n >= parts
        assert sizes[:parts].sum() > 0.98 * sizes.sum(), name
        if parts == 2:
            assert sizes[1] > 0.85 * sizes[0], name


def test_organs_have_plausible_positions(pair):
    labels = pair[1]
    at = {k: world(labels, v) for k, v in LABELS.items()}
    assert at["nose"][1] > at["eyes"][1] > at["ears"][1] + 60
    assert at["brain"][2] > at["eyes"][2] > at["nose"][2] > at["mouth"][2]
    assert at["mouth"][1] > at["brain"][1] + 70
    for name in at:
        assert abs(at[name][0]) < 4, name
    eyes = np.argwhere(np.asarray(labels.dataobj) == LABELS["eyes"])
    x = nib.affines.apply_affine(labels.affine, eyes)[:, 0]
    assert 54 < x[x > 0].mean() - x[x < 0].mean() < 72


@pytest.mark.parametrize("contrast", ["T1w", "T2w", "FLAIR", "PDw"])
def test_labels_are_the_same_in_every_contrast_and_contrasts_differ(contrast, pair):
    img, labels = make(3, contrast)
    v, k = np.asarray(img.dataobj, float), np.asarray(labels.dataobj)
    air = np.median(v[k == 0])
    assert np.median(v[k == LABELS["brain"]]) > 8 * air
    np.testing.assert_array_equal(k, pair[1].dataobj)
    inner = ndimage.binary_erosion(k == LABELS["eyes"], iterations=2)
    ratio = v[inner].mean() / np.median(v[k == LABELS["brain"]])
    low, high = {"T1w": (0, 0.5), "FLAIR": (0, 0.5), "PDw": (0.7, 1.4), "T2w": (1.5, 4)}[contrast]
    assert low < ratio < high


@pytest.mark.parametrize(
    ("axcodes", "oblique"), [("PIL", (0, 0, 0)), ("LPS", (0, 0, 0)), ("ASR", (12, -8, 15))]
)
def test_the_head_has_the_same_position_on_any_grid(pair, axcodes, oblique):
    labels = make(axcodes=axcodes, oblique=oblique)[1]
    if oblique == (0, 0, 0):
        assert nib.aff2axcodes(labels.affine) == tuple(axcodes)
    for name, value in LABELS.items():
        np.testing.assert_allclose(
            world(labels, value), world(pair[1], value), atol=1.0, err_msg=name
        )


def test_a_flip_of_the_axes_only_reorders_labels(pair):
    flipped = make(axcodes="LPI")[1]
    back = nib.as_closest_canonical(flipped)
    np.testing.assert_allclose(back.affine, pair[1].affine, atol=1e-6)
    a, b = np.asarray(back.dataobj), np.asarray(pair[1].dataobj)
    assert (a != b).mean() < 1e-4


def test_pose_moves_the_head(pair):
    pose = np.eye(4)
    pose[:3, 3] = 6, -4, 3
    moved = make(pose=pose)[1]
    shift = world(moved, LABELS["nose"]) - world(pair[1], LABELS["nose"])
    np.testing.assert_allclose(shift, (6, -4, 3), atol=0.6)


def test_a_smaller_field_of_view_does_not_move_the_head(pair):
    labels = make(shape=(76, 60, 64), centre=(0, -20, 30))[1]
    assert labels.shape == (76, 60, 64)
    assert not (np.asarray(labels.dataobj) == LABELS["nose"]).any()
    np.testing.assert_allclose(
        world(labels, LABELS["ears"])[:2], world(pair[1], LABELS["ears"])[:2], atol=1.5
    )


def test_thick_slices_have_the_mean_of_thin_slices(pair):
    img, labels = make(spacing=(MM, MM, 5.0))
    assert labels.shape == img.shape
    fine = np.asarray(pair[0].dataobj, float)
    coarse = np.asarray(img.dataobj, float)
    brain = np.asarray(labels.dataobj) == 1
    assert coarse[brain].mean() == pytest.approx(
        fine[np.asarray(pair[1].dataobj) == 1].mean(), rel=0.15
    )


def test_same_arguments_give_the_same_bytes_and_each_seed_another_head(pair):
    again = make()
    for one, other in zip(pair, again, strict=True):
        assert one.header.binaryblock == other.header.binaryblock
        np.testing.assert_array_equal(one.dataobj, other.dataobj)
    rescan = make(scan=1)
    np.testing.assert_array_equal(rescan[1].dataobj, pair[1].dataobj)
    assert (np.asarray(rescan[0].dataobj) != np.asarray(pair[0].dataobj)).mean() > 0.5
    other = np.asarray(make(4)[1].dataobj)
    mine = np.asarray(pair[1].dataobj)
    for value in LABELS.values():
        both = ((mine == value) & (other == value)).sum()
        assert 2 * both / ((mine == value).sum() + (other == value).sum()) < 0.97
    assert HeadShape.from_seed(1) == HeadShape.from_seed(1)
    assert HeadShape.from_seed(1).nose_length != HeadShape.from_seed(2).nose_length


def test_an_unknown_contrast_or_orientation_is_rejected():
    with pytest.raises(EffaceError, match="T1q"):
        phantom(1, "T1q")
    with pytest.raises(EffaceError, match="RRS"):
        phantom(1, axcodes="RRS")


@pytest.mark.parametrize(
    ("vendor", "contrast", "axcodes", "oblique"),
    [
        ("siemens", "T1w", "PIL", (4, -3, 6)),
        ("philips", "T2w", "LPS", (0, 0, 0)),
        ("ge", "FLAIR", "LIP", (0, 5, 0)),
    ],
)
def test_dicom_round_trip_by_dcm2niix(tmp_path, vendor, contrast, axcodes, oblique):
    img, _ = make(5, contrast, spacing=(3.0, 3.0, 4.0), axcodes=axcodes, oblique=oblique)
    identifiers = write_dicom(
        img, tmp_path / "in", Identity.from_seed(5), contrast, vendor=vendor, number=7
    )
    assert len(list((tmp_path / "in").iterdir())) == img.shape[2]
    (tmp_path / "out").mkdir()
    tool = Path(sys.executable).with_name("dcm2niix")
    subprocess.run(
        [tool, "-b", "n", "-f", "x", "-o", tmp_path / "out", tmp_path / "in"],
        check=True,
        capture_output=True,
    )
    back = nib.load(tmp_path / "out" / "x.nii")
    assert sorted(back.shape) == sorted(img.shape)
    here = np.argwhere(np.ones(img.shape, bool))
    there = nib.affines.apply_affine(np.linalg.inv(back.affine) @ img.affine, here)
    assert np.abs(there - np.rint(there)).max() < 0.01
    voxels = np.asarray(back.dataobj.get_unscaled())[tuple(np.rint(there).astype(int).T)]
    np.testing.assert_array_equal(voxels, np.asarray(img.dataobj)[tuple(here.T)])
    one = min((tmp_path / "in").iterdir()).read_bytes()
    for identifier in identifiers:
        assert identifier.encode() in one, identifier


def test_dicom_is_readable_and_reproducible(tmp_path):
    who = Identity.from_seed(9)
    img, _ = make(9, spacing=(6.0, 6.0, 6.0))
    for folder in ("a", "b"):
        write_dicom(img, tmp_path / folder, who)
        write_capture(tmp_path / folder / "sc", who)
        write_report(tmp_path / folder / "sr", who)
    names = sorted(p.name for p in (tmp_path / "a").iterdir())
    for name in names:
        one, two = ((tmp_path / f / name).read_bytes() for f in "ab")
        assert hashlib.sha256(one).digest() == hashlib.sha256(two).digest()
    every = [pydicom.dcmread(tmp_path / "a" / n) for n in names]
    assert len({ds.SOPInstanceUID for ds in every}) == len(every)
    assert {ds.Modality for ds in every} == {"MR", "OT", "SR"}
    assert len({ds.SeriesInstanceUID for ds in every}) == 3
    slices = [ds for ds in every if ds.Modality == "MR"]
    assert all(ds.pixel_array.shape == (img.shape[1], img.shape[0]) for ds in slices)
    assert all(len(ds.SOPInstanceUID) <= 64 for ds in every)
    with pytest.raises(EffaceError, match="acme"):
        write_dicom(img, tmp_path / "c", who, vendor="acme")


def test_identities_do_not_share_identifiers():
    people = [set(Identity.from_seed(s).identifiers) for s in (11, 24, 77)]
    shared = 4  # institution, street, physician, operator may be the same
    for i in range(3):
        for j in range(i):
            assert len(people[i] & people[j]) <= shared
    assert all(len(n) >= 5 for p in people for n in p)


def test_demo_source(tmp_path):
    identifiers = demo_source(tmp_path / "source", people=2, seed=11, mm=4.0)
    written = (tmp_path / "identifiers.txt").read_text().split("\n")
    assert [w for w in written if w] == identifiers
    files = [p for p in (tmp_path / "source").rglob("*") if p.is_file()]
    assert len(list((tmp_path / "source").iterdir())) == 2
    assert {"Note.txt", "EMPTY.dcm", "S002_part"} <= {p.name for p in files}
    kinds = {
        pydicom.dcmread(p, stop_before_pixels=True).Modality
        for p in files
        if p.name not in ("Note.txt", "EMPTY.dcm", "S002_part")
    }
    assert kinds == {"MR", "OT", "SR"}


def test_bids_images_have_sidecars(tmp_path):
    images = write_bids(tmp_path / "b", (1, 2), ("T1w", "FLAIR"), spacing=(6.0, 6.0, 6.0))
    assert [p.name for p in images[:2]] == ["sub-01_T1w.nii.gz", "sub-01_FLAIR.nii.gz"]
    assert all(p.with_name(p.name.replace(".nii.gz", ".json")).exists() for p in images)
    assert (tmp_path / "b" / "dataset_description.json").exists()
