"""A CT is recognized by its voxels, with any window of intensities, and goes to review."""

import nibabel as nib
import numpy as np
import pytest
from scipy import ndimage
from small_session import segmented

import efface
from efface import status
from efface.phantom import HeadShape, tissues
from efface.phantom.anatomy import TISSUES
from efface.phantom.contrast import image, signal
from efface.phantom.scans import grid
from efface.qc import gate
from efface.segment.labels import LABELS

HU = {"air": -1000, "skin": 40, "fat": -90, "muscle": 55, "bone": 1100, "marrow": 400, "csf": 8}
HU |= {"grey": 37, "white": 28, "vitreous": 8, "lens": 80, "mucosa": 40, "cartilage": 120}
HU |= {"tooth": 2000, "vessel": 45, "dura": 60}
IS_CT = status.MAYBE_CT


@pytest.fixture(scope="module")
def generated():
    """Tissue, labels, cover (X, Y, Z) and affine of a generated head."""
    shape, affine = grid((2.0, 2.0, 2.0))
    return *tissues(HeadShape.from_seed(11), shape, affine), affine


@pytest.fixture(scope="module")
def scanned(generated):
    """Hounsfield units (X, Y, Z), labels and affine of the generated head."""
    tissue, labels, cover, affine = generated
    table = np.array([HU[name] for name in TISSUES], np.float32)
    values = table[tissue] * cover - 1000 * (1 - cover)
    values = ndimage.gaussian_filter(values, 0.5)
    noise = np.random.default_rng(1).normal(0, 5, tissue.shape)
    return np.rint(values + noise), labels, affine


def padded(hu):
    """Replace the values outside the reconstructed circle with the padding value of scanners."""
    x, y = (np.arange(n) - n / 2 for n in hu.shape[:2])
    outside = np.hypot(x[:, None], y) > max(len(x), len(y)) / 2
    return np.where(outside[..., None], -3024, hu)


FORMS = {
    "Hounsfield units": lambda hu: hu.astype(np.int16),
    "no negative value": lambda hu: np.clip(hu + 1024, 0, 4095).astype(np.uint16),
    "padded": lambda hu: padded(hu).astype(np.int16),
    "scaled": lambda hu: ((hu + 1024) / 4095).astype(np.float32),
    "inverted": lambda hu: (3000 - np.clip(hu, -1000, 3000)).astype(np.int16),
    "4D": lambda hu: np.stack([hu, hu], axis=-1).astype(np.int16),
}
for low, high in (
    (0, 80),
    (-100, 300),
    (-160, 240),
    (-1000, 1000),
    (20, 60),
    (0, 40),
    (-500, 1300),
):

    def cut(hu, low=low, high=high):
        return np.clip(hu, low, high)

    def as_bytes(hu, low=low, high=high):
        return np.rint((cut(hu, low, high) - low) * 255 / (high - low)).astype(np.uint8)

    FORMS |= {f"{low} to {high}": cut, f"{low} to {high}, 8 bits": as_bytes}


def judged(voxels, labels, affine, **more):
    """Verdict of the gate on an image in which nothing was replaced."""
    img = nib.Nifti1Image(voxels, affine)
    mask = np.zeros(labels.shape, bool)
    return gate.gate(img, img, segmented(labels, affine, **more), mask, lambda: None, "noise")


@pytest.mark.parametrize("form", FORMS)
def test_ct_is_reported_and_goes_to_review(scanned, form):
    hu, labels, affine = scanned
    verdict = judged(FORMS[form](hu), labels, affine, inverted=form == "inverted")
    assert verdict.status == "review"
    assert IS_CT in verdict.reasons


@pytest.mark.parametrize("axcodes", ["LPS", "ASR"])
def test_ct_is_reported_in_any_orientation_and_with_thick_slices(scanned, axcodes):
    hu, labels, affine = scanned
    reoriented = [
        nib.as_closest_canonical(nib.Nifti1Image(v, affine)).as_reoriented(
            nib.orientations.ornt_transform(
                nib.orientations.axcodes2ornt("RAS"), nib.orientations.axcodes2ornt(axcodes)
            )
        )
        for v in (np.clip(hu, 0, 80).astype(np.int16), labels)
    ]
    voxels, new_labels = (np.asarray(r.dataobj) for r in reoriented)
    assert IS_CT in judged(voxels, new_labels, reoriented[0].affine).reasons
    up = axcodes.index("S")
    thick = (slice(None),) * up + (slice(None, None, 3),)
    scale = np.diag([3.0 if axis == up else 1.0 for axis in range(3)] + [1.0])
    assert IS_CT in judged(voxels[thick], new_labels[thick], reoriented[0].affine @ scale).reasons


@pytest.mark.parametrize("contrast", ["T1w", "T2w", "FLAIR", "PDw"])
@pytest.mark.parametrize("inverted", [False, True])
def test_mr_is_not_reported_as_ct(generated, contrast, inverted):
    tissue, labels, cover, affine = generated
    rng = np.random.default_rng(4)
    voxels = image(signal(tissue, contrast, rng) * cover, affine, rng)
    voxels = voxels.max() - voxels if inverted else voxels
    verdict = judged(voxels, labels, affine, inverted=inverted)
    assert not any(status.MAYBE_CT in r for r in verdict.reasons)
    assert verdict.measures["bright_skull"] < 0.15


@pytest.mark.parametrize("form", ["Hounsfield units", "0 to 80", "0 to 80, 8 bits", "20 to 60"])
@pytest.mark.parametrize("ml", [0, 40, 2500])
def test_ct_with_an_impossible_brain_volume_is_reported(scanned, form, ml):
    hu, labels, affine = scanned
    from_brain = ndimage.distance_transform_edt(labels != LABELS["brain"])
    depth = ndimage.distance_transform_edt(labels == LABELS["brain"]) - from_brain
    n = round(ml * 1000 / 8)
    brain_only = np.zeros(labels.shape, np.uint8)
    brain_only.flat[np.argsort(-depth, axis=None)[:n]] = LABELS["brain"]
    verdict = judged(FORMS[form](hu), brain_only, affine)
    assert verdict.status == "review"
    assert verdict.reasons[0].startswith(IS_CT)


def test_images_without_a_head_fail_if_they_are_not_ct(scanned, generated):
    hu, labels, affine = scanned
    mr = 6 * signal(generated[0], "T1w", np.random.default_rng(4))
    nothing = np.zeros(labels.shape, np.uint8)
    noise = np.random.default_rng(2).integers(0, 200, labels.shape)
    phase = np.random.default_rng(3).integers(-4096, 4096, labels.shape)
    bone = (hu > 300).astype(np.int16)
    for voxels in (mr, noise, phase, bone, labels, nothing):
        verdict = judged(voxels.astype(np.int16), nothing, affine)
        assert verdict.status == "fail"
        assert verdict.reasons == (f"{status.NOT_A_HEAD}: no brain found",)


def test_deface_sends_a_ct_to_review(scanned):
    hu, _, affine = scanned
    report = efface.deface(nib.Nifti1Image(FORMS["0 to 80"](hu).astype(np.int16), affine)).report
    assert report.status == "review"
    assert IS_CT in report.reasons
