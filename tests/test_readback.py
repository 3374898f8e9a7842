"""The DICOM form of a series converts to the NIfTI released with it, or is withheld."""

import dataclasses
import struct
from pathlib import Path

import nibabel as nib
import numpy as np
import pydicom
import pytest
import small_diffusion
import small_mosaic
from hypothesis import given
from hypothesis import strategies as st
from pydicom.dataset import Dataset
from pydicom.sequence import Sequence
from small_dicom import mr

from efface import convert, distort, inventory, nifti, scrub
from efface.distort import readback
from efface.distort.readback import Image, first_difference
from efface.manifest import Manifest, Scan
from efface.pseudonym import Key
from efface.scrub import csa
from efface.scrub.folder import scrub_folder
from efface.status import DICOM_DIFFERS

KEY = Key(b"k" * 32)
SAFE = ("safe-private",)


def stages(source, work, retain=(), between=None):
    """Run a source of one session without a face up to distort; returns images and DICOM forms.

    ``between`` is called with the folder of the scrubbed headers before distort.
    """
    entries = [inventory.run_entry(source, n, KEY) for n in inventory.entries(source, KEY).values()]
    (session,) = inventory.merge(entries, KEY)
    name = session.session
    folders = {stage: work / stage for stage in ("convert", "segment", "scrub", "distort")}
    for folder in folders.values():
        folder.mkdir(parents=True)
    converted = convert.run(session, folders["convert"], KEY)
    labels = []
    for scan in converted:
        if "nifti" in scan.files:
            img = nifti.load(folders["convert"] / scan.files["nifti"])
            none = nib.Nifti1Image(np.zeros(img.shape[:3], np.uint8), img.affine)
            file = f"{scan.scan}.nii.gz"
            nifti.save(none, folders["segment"] / file)
            labels.append(Scan(scan.scan, scan.series, scan.modality, files={"labels": file}))
    scrubbed = scrub.run(session, folders["scrub"], KEY, retain)
    if between:
        between(folders["scrub"])
    scans = distort.run(
        session,
        (folders["convert"], Manifest("convert", name, converted)),
        (folders["segment"], Manifest("segment", name, tuple(labels))),
        (folders["scrub"], Manifest("scrub", name, scrubbed)),
        folders["distort"],
        KEY,
        log=work / "log",
    )
    images = [s for s in scans if s.scan != s.series]
    forms = [s for s in scans if s.scan == s.series]
    return images, forms


def converted(folder, work):
    """Convert all files in a folder; returns the images in the order of their shapes."""
    work.mkdir(exist_ok=True)
    files = sorted(p for p in folder.rglob("*") if p.is_file())
    return sorted(readback.convert(files, work), key=lambda i: i.voxels.shape)


# comparison


@pytest.fixture
def image():
    rng = np.random.default_rng(1)
    rotation = small_diffusion.rotation()
    affine = np.eye(4)
    affine[:3, :3] = rotation @ np.diag([-1.5, 2, 3])
    affine[:3, 3] = 10, -20, 30
    gradients = small_diffusion.GRADIENTS.astype(float)
    voxels = rng.integers(0, 900, (5, 6, 7, len(gradients))).astype(np.int16)
    return Image(voxels, affine, 2.5, -3, gradients)


def reordered(image, axes, flips):
    """Store the axes of an image in another order, with the affine of that order."""
    ornt = np.array([[axes.index(a), -1 if a in flips else 1] for a in range(3)])
    affine = image.affine @ nib.orientations.inv_ornt_aff(ornt, image.voxels.shape[:3])
    voxels = nib.orientations.apply_orientation(image.voxels, ornt)
    return dataclasses.replace(image, voxels=voxels, affine=affine)


@pytest.mark.parametrize("axes", [(0, 1, 2), (2, 0, 1), (1, 0, 2)])
@pytest.mark.parametrize("flips", [(), (0,), (1, 2), (0, 1, 2)])
def test_images_with_reordered_axes_and_affine_are_equal(image, axes, flips):
    assert first_difference([image], [reordered(image, axes, flips)]) == ""


def other(image, **changes):
    return dataclasses.replace(image, **changes)


WRONG = {
    "left and right exchanged": lambda i: other(i, voxels=i.voxels[::-1]),
    "bottom and top exchanged": lambda i: other(i, voxels=i.voxels[:, :, ::-1]),
    "different position": lambda i: other(i, affine=i.affine + np.eye(4, k=3)),
    "different order of volumes": lambda i: other(i, voxels=i.voxels[..., ::-1]),
    "different voxel values": lambda i: other(i, voxels=i.voxels + (np.arange(7)[:, None] == 3)),
    "5×6×6×5 voxels": lambda i: other(i, voxels=i.voxels[:, :, 1:]),
    "slope 1.29": lambda i: other(i, slope=1.29),
    "intercept 0": lambda i: other(i, intercept=0),
    "no gradients": lambda i: other(i, gradients=None),
    "different b-values": lambda i: other(i, gradients=i.gradients * (2, 1, 1, 1)),
    "different gradient directions": lambda i: other(i, gradients=i.gradients * (1, 1, -1, 1)),
}


@pytest.mark.parametrize("what", WRONG)
def test_differences_are_described(image, what):
    assert what in first_difference([image], [WRONG[what](image)])
    # a second, equal image does not hide the difference
    second = other(image, voxels=image.voxels + 1000)
    assert what in first_difference([second, image], [WRONG[what](image), second])


def test_images_are_matched_by_content_and_counted(image):
    second = other(image, voxels=image.voxels + 1000)
    assert first_difference([image, second], [second, image]) == ""
    assert first_difference([image, second], [image]) == "1 images instead of 2"
    assert first_difference([image], [image, second]) == "2 images instead of 1"
    assert first_difference([image, second], [image, image]) != ""
    assert first_difference([image], []) == "no image"


def test_floats_are_compared_to_single_precision_outside_excluded_voxels(image):
    floats = other(image, voxels=image.voxels.astype(np.float32) * 1.7)
    floats.voxels[1, 2, 3, 0] = np.nan
    assert (
        first_difference([floats], [other(floats, voxels=floats.voxels * np.float32(1 + 1e-6))])
        == ""
    )
    changed = other(floats, voxels=floats.voxels + (np.arange(7)[:, None] == 3))
    excluded = np.zeros((5, 6, 7), bool)
    excluded[:, :, 3] = True
    assert first_difference([floats], [changed]) == "different voxel values"
    assert first_difference([other(floats, excluded=excluded)], [changed]) == ""


# diffusion series of each vendor


@pytest.mark.parametrize("retain", [(), SAFE], ids=["", "safe-private"])
@pytest.mark.parametrize("maker", small_diffusion.MAKERS)
def test_gradients_are_restored(maker, retain, tmp_path):
    small_diffusion.write(tmp_path / "source" / "a", maker)
    (image,), (form,) = stages(tmp_path / "source", tmp_path, retain)
    assert image.status == "pass"
    if maker == "uih" and not retain:
        # dcm2niix reads no standard attribute of directions for this vendor
        assert form.status == "fail"
        assert form.reasons == (f"{DICOM_DIFFERS}: different gradient directions",)
        assert not form.files
        assert not (tmp_path / "distort" / "dicom" / form.series).exists()
        return
    assert form.status == "pass"
    (before,) = converted(tmp_path / "source", tmp_path / "x")
    (after,) = converted(tmp_path / "distort" / "dicom", tmp_path / "x")
    assert np.array_equal(after.voxels, before.voxels)
    np.testing.assert_allclose(after.affine, before.affine, atol=1e-4)
    np.testing.assert_allclose(after.slope, before.slope, rtol=1e-6)
    np.testing.assert_allclose(after.gradients, before.gradients, atol=2e-3)
    assert before.gradients[:, 0].tolist() == small_diffusion.GRADIENTS[:, 0].tolist()
    first = pydicom.dcmread(next((tmp_path / "distort" / "dicom").rglob("000006.dcm")))
    assert not retain or maker in ("canon", "toshiba") or any(e.tag.is_private for e in first)
    assert retain or not any(e.tag.is_private for e in first)


@pytest.mark.parametrize("maker", ["siemens", "philips", "canon", "toshiba"])
def test_the_scrub_alone_keeps_gradients(maker, tmp_path):
    small_diffusion.write(tmp_path / "source", maker)
    scrub_folder(tmp_path / "source", tmp_path / "out", KEY)
    (before,) = converted(tmp_path / "source", tmp_path / "x")
    (after,) = converted(tmp_path / "out", tmp_path / "x")
    np.testing.assert_allclose(after.gradients, before.gradients, atol=2e-3)


@pytest.mark.parametrize(
    "comment",
    ["Zarquon b=1000(0.1,0.2,0.3)", "b=1000(0.1,0.2,0.3) Zarquon", "b=19710423(0.1,0.2,0.3)"],
)
def test_a_comment_of_another_form_is_removed(comment, tmp_path):
    from efface.scrub import scrub_file

    mr(1, ImageComments=comment, Manufacturer="CANON_MEC").save_as(
        tmp_path / "a", enforce_file_format=True
    )
    scrub_file(tmp_path / "a", tmp_path / "b", KEY, "sub-a", "ses-b")
    assert "ImageComments" not in pydicom.dcmread(tmp_path / "b")


# mosaics


@pytest.mark.parametrize("retain", [(), SAFE], ids=["", "safe-private"])
@pytest.mark.parametrize("along", [1, -1])
@pytest.mark.parametrize("plane", small_mosaic.PLANES)
def test_mosaics_convert_to_the_same_image(plane, along, retain, tmp_path):
    gradients = small_diffusion.GRADIENTS if plane in ("sagittal", "oblique") else None
    small_mosaic.write(tmp_path / "source" / "a", plane, along, gradients=gradients)
    (image,), (form,) = stages(tmp_path / "source", tmp_path, retain)
    assert form.status == image.status == "pass"
    (before,) = converted(tmp_path / "source", tmp_path / "x")
    (after,) = converted(tmp_path / "distort" / "dicom", tmp_path / "x")
    files = sorted((tmp_path / "distort" / "dicom" / form.series).iterdir())
    if retain:
        # still one file per volume, and exactly the same image
        assert len(files) == before.voxels.shape[3]
        assert np.array_equal(after.voxels, before.voxels)
        assert np.array_equal(after.affine, before.affine)
    else:
        assert len(files) == before.voxels.shape[3] * small_mosaic.SLICES
        slices = [pydicom.dcmread(p) for p in files]
        assert len({ds.SOPInstanceUID for ds in slices}) == len(files)
        assert sorted(ds.InstanceNumber for ds in slices) == list(range(1, len(files) + 1))
        assert {(ds.Rows, ds.Columns) for ds in slices} == {(12, 16)}
        assert not any("MOSAIC" in ds.ImageType for ds in slices)
        assert not any(e.tag.is_private for ds in slices for e in ds)
    assert form.measures["files"] == len(files)
    assert first_difference([before], [after]) == ""
    again = stages(tmp_path / "source", tmp_path / "again", retain)[1][0]
    for file in files:
        other_file = tmp_path / "again" / "distort" / "dicom" / again.series / file.name
        assert file.read_bytes() == other_file.read_bytes()


def test_a_real_sagittal_mosaic_converts_the_same(data, tmp_path):
    source = data / "cases" / "mosaic_sagittal"
    scrub_folder(source, tmp_path / "out", KEY, SAFE)
    (before,) = converted(source, tmp_path / "x")
    (after,) = converted(tmp_path / "out", tmp_path / "x")
    assert np.array_equal(after.voxels, before.voxels)
    assert np.array_equal(after.affine, before.affine)


# other forms


def test_the_slope_of_an_enhanced_object_is_restored(tmp_path):
    for retain in ((), SAFE):
        work = tmp_path / ("safe" if retain else "plain")
        path = work / "source" / "a" / "IM1"
        path.parent.mkdir(parents=True)
        enhanced().save_as(path, enforce_file_format=True)
        _, (form,) = stages(work / "source", work, retain)
        assert form.status == "pass"
        (before,) = converted(work / "source", tmp_path / "x")
        (after,) = converted(work / "distort" / "dicom", tmp_path / "x")
        assert before.slope == pytest.approx(4201.88, rel=1e-4)
        assert after.slope == pytest.approx(before.slope, rel=1e-6)
        assert np.array_equal(after.voxels, before.voxels)
        ds = pydicom.dcmread(next((work / "distort" / "dicom").rglob("*.dcm")))
        group = ds.PerFrameFunctionalGroupsSequence[0]
        scale = group.PixelValueTransformationSequence[0]
        window = group.FrameVOILUTSequence[0]
        slope = float(scale.RescaleSlope)
        assert slope == pytest.approx(1.29 if retain else 4201.88, rel=1e-4)
        # the window shows the same stored values as before
        assert float(window.WindowCenter) / slope == pytest.approx(1290 / 1.29, rel=1e-4)
        assert float(window.WindowWidth) / slope == pytest.approx(2580 / 1.29, rel=1e-4)


def enhanced(slices=6):
    """Philips enhanced object with its scale in a private element of each frame."""
    ds = mr(
        1,
        SOPClassUID="1.2.840.10008.5.1.4.1.1.4.1",
        Manufacturer="Philips Medical Systems",
        NumberOfFrames=slices,
        SoftwareVersions="5.6.1",
        ImageComments=None,
        ImageOrientationPatient=None,
        ImagePositionPatient=None,
        PixelSpacing=None,
        SliceThickness=None,
        PixelData=np.random.default_rng(3).integers(0, 4000, (slices, 12, 16), np.uint16).tobytes(),
    )

    def item(**values):
        one = Dataset()
        for keyword, value in values.items():
            setattr(one, keyword, value)
        return Sequence([one])

    frames = []
    for n in range(slices):
        frame = Dataset()
        frame.FrameContentSequence = item(
            StackID="1",
            InStackPositionNumber=n + 1,
            TemporalPositionIndex=1,
            DimensionIndexValues=[1, n + 1, 1],
        )
        frame.PlanePositionSequence = item(ImagePositionPatient=[-12, -9, 2.0 * n])
        frame.PlaneOrientationSequence = item(ImageOrientationPatient=[1, 0, 0, 0, 1, 0])
        frame.PixelMeasuresSequence = item(
            PixelSpacing=[1.5, 1.5], SliceThickness=2, SpacingBetweenSlices=2
        )
        frame.PixelValueTransformationSequence = item(
            RescaleSlope="1.29", RescaleIntercept="0", RescaleType="US"
        )
        frame.FrameVOILUTSequence = item(WindowCenter="1290", WindowWidth="2580")
        frame.MREchoSequence = item(EffectiveEchoTime=3.0)
        inner = Dataset()
        inner.private_block(0x2005, "Philips MR Imaging DD 001", True).add_new(
            0x0E, "FL", 1 / 4201.88
        )
        frame.private_block(0x2005, "Philips MR Imaging DD 005", True).add_new(
            0x0F, "SQ", Sequence([inner])
        )
        frames.append(frame)
    ds.PerFrameFunctionalGroupsSequence = Sequence(frames)
    ds.SharedFunctionalGroupsSequence = Sequence([Dataset()])
    return ds


def change_orientation(ds):
    ds.ImageOrientationPatient = [-v for v in ds.ImageOrientationPatient]


def change_position(ds):
    x, y, z = ds.ImagePositionPatient
    ds.ImagePositionPatient = [x, y, -z]


def change_echo(ds):
    ds.EchoTime = ds.InstanceNumber % 2 + 2


@pytest.mark.parametrize("damage", [change_orientation, change_position, change_echo])
def test_dicom_that_converts_differently_is_withheld_and_the_nifti_kept(damage, tmp_path):
    from small_dicom import write

    def between(folder):
        for path in folder.rglob("*.dcm"):
            ds = pydicom.dcmread(path)
            damage(ds)
            ds.save_as(path)

    write(tmp_path / "source" / "a", slices=6)
    (image,), (form,) = stages(tmp_path / "source", tmp_path, between=between)
    assert image.status == "pass"
    assert (tmp_path / "distort" / image.files["nifti"]).is_file()
    assert form.status == "fail"
    assert form.reasons[-1].startswith(f"{DICOM_DIFFERS}: ")
    assert not form.files
    assert not (tmp_path / "distort" / "dicom" / form.series).exists()
    assert str(tmp_path) not in form.reasons[-1]


def test_a_crash_of_dcm2niix_withholds_the_dicom_form(tmp_path, monkeypatch):
    from small_dicom import write

    write(tmp_path / "source" / "a", slices=6)
    real = readback.dcm2niix.convert

    def crash(files, folder, timeout):
        result = real(files, folder, timeout)
        return dataclasses.replace(result, code=-11) if "distort" in str(folder) else result

    monkeypatch.setattr(readback.dcm2niix, "convert", crash)
    (image,), (form,) = stages(tmp_path / "source", tmp_path)
    assert image.status == "pass"
    assert form.status == "fail"
    assert form.reasons == (f"{DICOM_DIFFERS}: dcm2niix crashed",)


# the CSA header

texts = st.text(st.characters(codec="latin-1", exclude_characters="\0"), max_size=30)


@given(st.lists(st.tuples(st.sampled_from([*csa.KEPT, "ImaCoilString", "Zarquon"]), texts)))
def test_a_csa_header_keeps_only_numbers_of_known_entries(entries):
    data = b"".join(
        [b"SV10\4\3\2\1", struct.pack("<2I", len(entries), 77)]
        + [
            struct.pack("<64si4siii", name.encode(), 1, b"LO", 0, 1, 77)
            + struct.pack("<4i", *[len(text)] * 4)
            + text.encode("latin-1")
            + bytes(-len(text) % 4)
            for name, text in entries
        ]
    )
    out = csa.clean(data)
    kept = [] if out is None else csa._entries(out)
    for name, values in kept:
        assert name in csa.KEPT
        assert all(csa.KEPT[name].form.fullmatch(v) for v in values)
    expected = [n for n, t in entries if n in csa.KEPT and csa.KEPT[n].form.fullmatch(t.strip())]
    assert [n for n, _ in kept] == expected


@given(st.binary(max_size=300))
def test_a_broken_csa_header_is_removed(data):
    whole = small_mosaic.header((0, 0, 1), [0.0, 60.0, 120.0])
    assert csa.clean(data) is None
    cut = whole[: len(data)]
    assert csa.clean(cut) is None or len(cut) > 200


def test_known_entries_of_a_real_csa_header_are_kept(data):
    path = data / "cases" / "mosaic_sagittal" / "IM00001"
    raw = pydicom.dcmread(path)[0x0029, 0x1010].value
    clean = csa.clean(raw)
    before, after = dict(csa._entries(raw)), dict(csa._entries(clean))
    assert set(after) == {n for n in before if n in csa.KEPT and before[n]}
    assert all(after[n] == before[n] for n in after)
    assert len(after["MosaicRefAcqTimes"]) == 36
    assert Path(path).stat().st_size > len(clean)
