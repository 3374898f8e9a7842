"""``efface.deface`` as a developer calls it, on images that were not read from files."""

import subprocess
import sys

import nibabel as nib
import numpy as np
import pytest
from scipy.spatial.transform import Rotation

import efface
from efface.errors import EffaceError
from efface.phantom import phantom
from efface.segment import orientation


@pytest.fixture(scope="module")
def head():
    return phantom(3, spacing=(2, 2, 2))


@pytest.mark.parametrize("dtype", [np.int16, np.uint8, np.float32])
def test_an_image_made_of_an_array_is_defaced_and_passes(head, dtype):
    img, labels = head
    v = img.get_fdata(dtype=np.float32)
    tilt = np.eye(4)
    # an affine whose numbers are no exact binary fractions
    tilt[:3, :3] = Rotation.from_euler("x", 7, degrees=True).as_matrix()
    tilted = nib.Nifti1Image((v / v.max() * 200).astype(dtype), tilt @ img.affine)
    result = efface.deface(tilted)
    assert result.report.status == "pass", result.report.reasons
    after = np.asanyarray(result.image.dataobj)
    assert after.dtype == dtype
    changed = after != np.asanyarray(tilted.dataobj)
    assert not changed[~result.mask].any()
    truth = np.asanyarray(labels.dataobj)
    for organ in range(2, 6):
        assert result.mask[truth == organ].mean() > 0.95
    assert not changed[result.labels == 1].any()
    # the phantom's brain reaches to the skull: the model labels less of the fluid at its rim
    assert changed[truth == 1].mean() < 0.02


@pytest.mark.parametrize("name", ["LPS", "ALS", "PRS", "LAI", "SRA"])
def test_a_wrong_orientation_in_the_header_gives_almost_the_same_mask(head, straight, name):
    img, _ = head
    reoriented = nib.Nifti1Image(
        np.asanyarray(img.dataobj), orientation.undo(img.affine, orientation.inverse(name))
    )
    result = efface.deface(reoriented)
    assert result.report.status == "pass", result.report.reasons
    assert result.report.measures["head_lies"] == name
    assert np.array_equal(result.image.affine, reoriented.affine)
    # not the same to the voxel: the pose is fitted with a weak prior on the header's axes
    assert _dice(result.mask, straight.mask) > 0.97


@pytest.mark.parametrize("dtype", [np.int16, np.uint16, np.float32])
def test_an_inverted_image_gives_almost_the_same_labels_and_mask(head, straight, dtype):
    img, _ = head
    v = np.asanyarray(img.dataobj).astype(np.float32)
    bright = nib.Nifti1Image((v.max() - v).astype(dtype), img.affine)
    result = efface.deface(bright)
    assert result.report.status == "pass", result.report.reasons
    assert np.mean(result.labels != straight.labels) < 1e-4
    assert _dice(result.mask, straight.mask) > 0.999
    assert np.array_equal(
        np.asanyarray(result.image.dataobj)[~result.mask],
        np.asanyarray(bright.dataobj)[~result.mask],
    )


@pytest.fixture(scope="module")
def straight(head):
    return efface.deface(head[0])


@pytest.mark.parametrize("extra", [(1,), (1, 1)])
def test_dimensions_of_one_change_nothing(head, straight, extra):
    img, _ = head
    voxels = np.asanyarray(img.dataobj)
    result = efface.deface(nib.Nifti1Image(voxels.reshape(voxels.shape + extra), img.affine))
    assert result.report == straight.report
    assert result.image.shape == voxels.shape + extra
    assert np.array_equal(
        np.asanyarray(result.image.dataobj).reshape(voxels.shape),
        np.asanyarray(straight.image.dataobj),
    )
    assert result.labels.shape == result.mask.shape == voxels.shape


@pytest.mark.parametrize("keep", [False, True])
def test_the_header_is_cleaned_or_kept(head, straight, keep):
    img, _ = head
    voxels = np.asanyarray(img.dataobj)
    named = nib.Nifti1Pair(voxels, img.affine)
    named.header["descrip"] = b"DOE^JANE"
    named.header["intent_name"] = b"MRN4471902"
    named.header.extensions.append(nib.nifti1.Nifti1Extension(6, b"DOE^JANE"))
    result = efface.deface(named, keep_header=keep)
    assert result.report.status == "pass"
    removed = () if keep else ("descrip", "intent_name", "1 extension")
    assert result.report.removed == removed
    assert type(result.image) is nib.Nifti1Image
    data = result.image.to_bytes()
    assert (b"DOE" in data) == (b"MRN" in data) == keep
    assert len(result.image.header.extensions) == keep
    assert np.array_equal(result.image.dataobj, straight.image.dataobj)
    assert named.header["descrip"] == b"DOE^JANE"


def _dice(a, b):
    return 2 * np.count_nonzero(a & b) / (np.count_nonzero(a) + np.count_nonzero(b))


def test_invalid_images_and_features_are_rejected(head):
    with pytest.raises(EffaceError, match="3D or 4D"):
        efface.deface(nib.Nifti1Image(np.zeros((4, 4), np.int16), np.eye(4)))
    with pytest.raises(EffaceError, match="unknown feature"):
        efface.deface(head[0], features="hair")


def test_no_connection_is_opened(head, tmp_path):
    """Neither images nor data about their use are sent."""
    nib.save(head[0], tmp_path / "head.nii.gz")
    script = """
import sys
connections = []
out = ("socket.connect", "socket.sendto", "socket.sendmsg", "socket.getaddrinfo")
sys.addaudithook(lambda event, _: connections.append(event) if event in out else None)
import efface, nibabel
efface.deface(nibabel.load(sys.argv[1]))
assert not connections, connections
"""
    command = [sys.executable, "-c", script, tmp_path / "head.nii.gz"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
