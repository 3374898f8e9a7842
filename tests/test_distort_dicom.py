"""Mapping of DICOM frames to voxels, DICOM files with replaced pixels, and the distort stage."""

import dataclasses
import io
import shutil
import subprocess
import sys
import warnings
from pathlib import Path

import nibabel as nib
import numpy as np
import pydicom
import pytest
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.sequence import Sequence
from pydicom.uid import (
    ExplicitVRBigEndian,
    ExplicitVRLittleEndian,
    ImplicitVRLittleEndian,
)
from small_session import series_record, session_record

from efface import nifti
from efface.distort import dicom, frames, run
from efface.distort.frames import UnmappedError
from efface.distort.mapping import ConvertedImage, FrameMatcher, distorted_pixels
from efface.distort.methods import replace
from efface.manifest import Manifest, Scan
from efface.phantom.export import Identity, write_dicom
from efface.pixels import NotDecoded
from efface.pixels import pixels as stored_pixels
from efface.pseudonym import Key
from efface.scrub import scrub_file, state_face_removed
from efface.status import DICOM_UNMAPPED, STAGE_FAILED
from tests.test_distort import head

warnings.filterwarnings("ignore", module="pydicom")
KEY = Key(b"k" * 32)


def series(volume, affine, signed=False, syntax=ExplicitVRLittleEndian):
    """Single-frame datasets of a volume (x, y, z, t), one per slice along z; RAS affine."""
    lps = np.diag([-1.0, -1.0, 1.0]) @ affine[:3]
    sizes = np.linalg.norm(lps[:, :3], axis=0)
    out = []
    for t in range(volume.shape[3]):
        for k in range(volume.shape[2]):
            ds = Dataset()
            ds.file_meta = FileMetaDataset()
            ds.file_meta.TransferSyntaxUID = syntax
            ds.SOPClassUID = "1.2.840.10008.5.1.4.1.1.4"
            ds.SOPInstanceUID = f"1.2.3.{t + 1}.{k + 1}"
            ds.file_meta.MediaStorageSOPClassUID = ds.SOPClassUID
            ds.file_meta.MediaStorageSOPInstanceUID = ds.SOPInstanceUID
            ds.Modality = "MR"
            ds.ImageType = ["ORIGINAL", "PRIMARY", "M"]
            ds.Rows, ds.Columns = volume.shape[1], volume.shape[0]
            ds.SamplesPerPixel, ds.PhotometricInterpretation = 1, "MONOCHROME2"
            ds.BitsAllocated, ds.BitsStored, ds.HighBit = 16, 12, 11
            ds.PixelRepresentation = int(signed)
            ds.PixelSpacing = [float(sizes[1]), float(sizes[0])]
            ds.ImageOrientationPatient = [float(v) for a in (0, 1) for v in lps[:, a] / sizes[a]]
            ds.ImagePositionPatient = [float(v) for v in lps[:, 3] + k * lps[:, 2]]
            pixels = volume[:, :, k, t].T.astype(np.int16 if signed else np.uint16)
            order = "<" if syntax != ExplicitVRBigEndian else ">"
            ds.PixelData = pixels.astype(pixels.dtype.newbyteorder(order)).tobytes()
            ds["PixelData"].VR = "OW"
            ds.add_new(0x00280106, "US" if not signed else "SS", int(pixels.min()))
            ds.add_new(0x00280107, "US" if not signed else "SS", int(pixels.max()))
            out.append(ds)
    return out


def as_bytes(ds):
    buffer = io.BytesIO()
    pydicom.dcmwrite(buffer, ds, enforce_file_format=True)
    return buffer.getvalue()


def save(ds, path):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(as_bytes(ds))


def image(shape=(9, 8, 7, 1), seed=0, high=4000):
    volume = np.random.default_rng(seed).integers(0, high, shape).astype(np.int16)
    # tilted and anisotropic, as acquisitions are
    angle = np.deg2rad(12)
    rotation = np.array(
        [[1, 0, 0], [0, np.cos(angle), -np.sin(angle)], [0, np.sin(angle), np.cos(angle)]]
    )
    affine = np.eye(4)
    affine[:3, :3] = rotation @ np.diag([-1.1, 1.2, 3.3])
    affine[:3, 3] = 90, -110, -60
    return volume, affine


def reordered(volume, affine, order, flips):
    """Permute and flip the axes of an image, as a converter may."""
    img = nib.Nifti1Image(volume, affine)
    for axis in flips:
        ornt = np.array([[0, 1], [1, 1], [2, 1]])
        ornt[axis, 1] = -1
        img = img.as_reoriented(ornt)
    ornt = np.array([[order.index(a), 1] for a in range(3)])
    img = img.as_reoriented(ornt)
    return np.asarray(img.dataobj), img.affine


def converted(volume, affine):
    mask = np.zeros(volume.shape[:3], bool)
    mask[1:4, 2:6, 1:5] = True
    return ConvertedImage(volume, replace(volume, mask, "noise", 1), mask, affine)


def distorted(ds, *images):
    """Distorted pixels of a dataset, and the mask of replaced pixels."""
    new = distorted_pixels(ds, stored_pixels(ds), FrameMatcher(images))
    return new.values, new.mask


@pytest.mark.parametrize("order", [(0, 1, 2), (2, 0, 1), (1, 2, 0), (1, 0, 2)])
@pytest.mark.parametrize("flips", [(), (1,), (0, 2), (0, 1, 2)])
@pytest.mark.parametrize("signed", [False, True])
def test_pixels_are_mapped_in_any_order_of_axes(order, flips, signed):
    volume, affine = image((9, 8, 7, 2))
    volume -= 2000 if signed else 0
    picture = converted(*reordered(volume, affine, order, flips))
    # index of each voxel in the volume before reordering
    index, _ = reordered(np.arange(504, dtype=np.int32).reshape(9, 8, 7), affine, order, flips)
    truth = np.zeros(volume[..., 0].size, bool)
    truth[index[picture.mask]] = True
    truth = truth.reshape(9, 8, 7)
    new = np.empty_like(volume)
    for t in range(2):
        flat = np.empty(volume[..., 0].size, volume.dtype)
        flat[index.ravel()] = picture.distorted[..., t].ravel()
        new[..., t] = flat.reshape(9, 8, 7)
    for n, ds in enumerate(series(volume, affine, signed)):
        t, k = divmod(n, 7)
        pixels, mask = distorted(ds, picture)
        assert np.array_equal(mask[0], truth[:, :, k].T)
        assert np.array_equal(pixels[0], new[:, :, k, t].T)


def test_equal_volumes_are_matched_in_order():
    volume, affine = image()
    picture = converted(np.repeat(volume, 2, axis=3), affine)
    assert not np.array_equal(picture.distorted[..., 0], picture.distorted[..., 1])
    ds = series(volume, affine)[2]
    matcher = FrameMatcher([picture, converted(volume, affine)])
    matches = [matcher.match(*frames.frames(ds), stored_pixels(ds)[0]) for _ in range(4)]
    numbers = [(m.image is picture, m.volume) for m in matches]
    assert numbers == [(True, 0), (True, 1), (False, 0), (True, 1)]


def test_enhanced_multi_frame_and_two_echoes():
    first, affine = image((9, 8, 7, 1), 1)
    second, _ = image((9, 8, 7, 1), 2)
    singles = series(np.concatenate([second, first], axis=3), affine)
    ds = singles[0]
    groups = []
    for one in singles:
        item, position = Dataset(), Dataset()
        position.ImagePositionPatient = one.ImagePositionPatient
        item.PlanePositionSequence = Sequence([position])
        groups.append(item)
    shared, measures, orientation = Dataset(), Dataset(), Dataset()
    measures.PixelSpacing = ds.PixelSpacing
    orientation.ImageOrientationPatient = ds.ImageOrientationPatient
    shared.PixelMeasuresSequence = Sequence([measures])
    shared.PlaneOrientationSequence = Sequence([orientation])
    ds.SharedFunctionalGroupsSequence = Sequence([shared])
    ds.PerFrameFunctionalGroupsSequence = Sequence(groups)
    ds.NumberOfFrames = len(groups)
    ds.PixelData = b"".join(one.PixelData for one in singles)
    images = [converted(first, affine), converted(second, affine)]
    pixels, mask = distorted(ds, *images)
    assert np.array_equal(pixels[:7], images[1].distorted[..., 0].transpose(2, 1, 0))
    assert np.array_equal(pixels[7:], images[0].distorted[..., 0].transpose(2, 1, 0))
    assert mask.sum() == 2 * images[0].mask.sum()
    del groups[3].PlanePositionSequence
    with pytest.raises(UnmappedError, match="PlanePosition"):
        frames.frames(ds)


def test_frames_that_differ_in_a_pixel_or_position_are_unmapped():
    volume, affine = image()
    ds = series(volume, affine)[3]
    other = volume.copy()
    other[8, 0, 3, 0] += 1
    with pytest.raises(UnmappedError, match="pixels differ"):
        distorted(ds, converted(other, affine))
    moved = affine.copy()
    moved[:3, 3] += 0.5 * affine[:3, 0]
    with pytest.raises(UnmappedError, match="no voxels"):
        distorted(ds, converted(volume, moved))
    flipped = affine @ np.diag([1, 1, -1, 1])
    with pytest.raises(UnmappedError):
        distorted(ds, converted(volume, flipped))


@pytest.mark.parametrize(
    "missing", ["PixelSpacing", "ImagePositionPatient", "ImageOrientationPatient"]
)
def test_missing_geometry_is_unmapped(missing):
    volume, affine = image()
    ds = series(volume, affine)[0]
    delattr(ds, missing)
    with pytest.raises(UnmappedError, match="position"):
        frames.frames(ds)


def test_scaled_floats_are_matched_and_scaled_back():
    volume, affine = image(high=4000)
    files = series(volume, affine)
    scaled = np.empty(volume.shape, np.float32)
    for k, ds in enumerate(files):
        ds.RescaleSlope, ds.RescaleIntercept = f"{1.5 + 0.1 * k:.3f}", str(-3 * k)
        scaled[:, :, k] = volume[:, :, k] * float(ds.RescaleSlope) + float(ds.RescaleIntercept)
    picture = converted(scaled, affine)
    for k, ds in enumerate(files):
        pixels, mask = distorted(ds, picture)
        assert np.array_equal(pixels[~mask], stored_pixels(ds)[~mask])
        back = pixels[mask] * float(ds.RescaleSlope) + float(ds.RescaleIntercept)
        expected = (
            picture.distorted[:, :, k, 0]
            .T[mask[0]]
            .clip(
                float(ds.RescaleIntercept),
                4095 * float(ds.RescaleSlope) + float(ds.RescaleIntercept),
            )
        )
        assert np.abs(back - expected).max(initial=0) <= 0.51 * float(ds.RescaleSlope)


@pytest.mark.parametrize(
    "syntax", [ImplicitVRLittleEndian, ExplicitVRLittleEndian, ExplicitVRBigEndian]
)
@pytest.mark.parametrize("signed", [False, True])
def test_written_file(tmp_path, syntax, signed):
    volume, affine = image()
    volume -= 2000 if signed else 0
    raw = series(volume, affine, signed, syntax)[2]
    raw.add_new(0x60003000, "OW", b"\0\1" * 8)
    raw.IconImageSequence = Sequence([Dataset()])
    raw.LossyImageCompression = "01"
    raw.WindowCenter = "600"
    if not signed:
        # an overlay in the unused bits, as older files have it
        stored = np.frombuffer(raw.PixelData, ">u2" if syntax == ExplicitVRBigEndian else "<u2")
        raw.PixelData = (stored | np.uint16(0x8000)).astype(stored.dtype).tobytes()
    save(raw, tmp_path / "raw.dcm")
    ds = frames.read(tmp_path / "raw.dcm")
    pixels, mask = distorted(ds, converted(volume, affine))
    assert mask.any()
    for name in ("a.dcm", "b.dcm"):
        dicom.write(tmp_path / "raw.dcm", tmp_path / name, ds, pixels)
    assert (tmp_path / "a.dcm").read_bytes() == (tmp_path / "b.dcm").read_bytes()
    written = pydicom.dcmread(tmp_path / "a.dcm")
    assert np.array_equal(written.pixel_array, pixels[0])
    assert np.array_equal(written.pixel_array[~mask[0]], volume[:, :, 2, 0].T[~mask[0]])
    assert written.SmallestImagePixelValue == pixels.min()
    assert written.LargestImagePixelValue == pixels.max()
    assert 0x60003000 not in written
    assert "IconImageSequence" not in written
    assert written.LossyImageCompression == "01"
    assert written.WindowCenter == 600
    assert written.BitsStored == 12
    assert not written.file_meta.TransferSyntaxUID.is_compressed
    assert written.file_meta.TransferSyntaxUID != ExplicitVRBigEndian


def test_scrubbed_header_that_does_not_describe_the_pixels_is_rejected(tmp_path):
    volume, affine = image()
    raw = series(volume, affine)[0]
    save(raw, tmp_path / "raw.dcm")
    other = frames.read(tmp_path / "raw.dcm")
    other.Rows = 7
    with pytest.raises(UnmappedError, match="Rows"):
        dicom.write(tmp_path / "raw.dcm", tmp_path / "out.dcm", other, stored_pixels(raw))
    assert not (tmp_path / "out.dcm").exists()


@pytest.mark.parametrize("change", ["truncated", "colour", "rows", "bits"])
def test_broken_pixels_are_unmapped(change):
    volume, affine = image()
    ds = series(volume, affine)[0]
    if change == "truncated":
        ds.PixelData = ds.PixelData[:40]
    elif change == "colour":
        ds.SamplesPerPixel = 3
    elif change == "rows":
        del ds.Rows
    else:
        ds.BitsStored = 40
    with pytest.raises((UnmappedError, NotDecoded)):
        distorted(ds, converted(volume, affine))


@pytest.fixture
def session(tmp_path):
    """Arguments of run() for a session of two series."""
    labels, affine = head((4.0, 4.0, 4.0))
    name = "sub-aaaaaaaaaa_ses-bbbbbbbbbb"
    folders = {n: tmp_path / n for n in ("convert", "segment", "scrub", "raw", "out")}
    described, scans, labelled, scrubbed = [], [], [], []
    for n, modality in enumerate(("T1w", "T2w")):
        one = f"series-{'cd'[n] * 10}"
        random = np.random.default_rng(n)
        volume = (np.where(labels > 0, 800, 20) + random.integers(0, 60, labels.shape))[..., None]
        sources, files = [], []
        for i, ds in enumerate(series(volume.astype(np.int16), affine), 1):
            path = folders["raw"] / one / f"patient-name-{i}"
            save(ds, path)
            out = f"{one}/{i:06d}.dcm"
            save(ds, folders["scrub"] / out)
            files.append(str(path))
            sources.append([str(path), out])
        stem = f"{name}_{modality}"
        flipped = volume[::-1, ..., 0].astype(np.int16)
        at = affine @ np.array(
            [[-1, 0, 0, len(labels) - 1], [0, 1, 0, 0], [0, 0, 1, 0], [0, 0, 0, 1]], float
        )
        nifti.save(nib.Nifti1Image(flipped, at), folders["convert"] / f"{stem}.nii.gz")
        nifti.save(nib.Nifti1Image(labels[::-1], at), folders["segment"] / f"{stem}.nii.gz")
        described.append(series_record(one, files=files))
        scans.append(Scan(stem, one, modality, files={"nifti": f"{stem}.nii.gz"}))
        labelled.append(Scan(stem, one, modality, files={"labels": f"{stem}.nii.gz"}))
        scrubbed.append(Scan(one, one, "MR", files={"dicom": one}, measures={"sources": sources}))
    return {
        "session": session_record(*described, session=name),
        "convert": (folders["convert"], Manifest("convert", name, tuple(scans))),
        "segment": (folders["segment"], Manifest("segment", name, tuple(labelled))),
        "scrub": (folders["scrub"], Manifest("scrub", name, tuple(scrubbed))),
        "folder": folders["out"],
        "key": KEY,
        "log": tmp_path / "log",
    }


def contents(folder):
    return {p.relative_to(folder): p.read_bytes() for p in folder.rglob("*") if p.is_file()}


def test_both_forms_of_a_session_are_distorted(session):
    scans = run(**session)
    assert [s.status for s in scans] == ["pass"] * 4
    assert not any(s.reasons for s in scans)
    by_name = {s.scan: s for s in scans}
    for scan in session["convert"][1].scans:
        image_scan = by_name[scan.scan]
        before = nifti.load(session["convert"][0] / scan.files["nifti"])
        after = nifti.load(session["folder"] / image_scan.files["nifti"])
        mask = nifti.stored(nifti.load(session["folder"] / image_scan.files["mask"])).astype(bool)
        old, new = nifti.stored(before), nifti.stored(after)
        assert np.array_equal(old[~mask], new[~mask])
        assert np.array_equal(after.affine, before.affine)
        assert (
            image_scan.measures["brain_voxels_changed"]
            == image_scan.measures["outside_changed"]
            == 0
        )
        assert image_scan.measures["region_voxels"] == mask.sum()
        assert min(image_scan.measures["coverage"].values()) > 0.9
        dicom_scan = by_name[scan.series]
        files = sorted((session["folder"] / dicom_scan.files["dicom"]).iterdir())
        slices = [pydicom.dcmread(f) for f in files]
        volume = np.stack([ds.pixel_array for ds in slices], axis=2).transpose(1, 0, 2)
        assert np.array_equal(volume[::-1], new)
        assert all(ds.RecognizableVisualFeatures == "NO" for ds in slices)
        assert dicom_scan.measures["region_voxels"] == mask.sum()


def test_a_second_run_gives_the_same_bytes(session):
    run(**session)
    first = contents(session["folder"])
    shutil.rmtree(session["folder"])
    run(**session)
    assert contents(session["folder"]) == first


def test_a_broken_scan_does_not_stop_the_others(session):
    broken = session["convert"][1].scans[0]
    (session["convert"][0] / broken.files["nifti"]).write_bytes(b"no image at /secret/patient")
    scans = {s.scan: s for s in run(**session)}
    assert scans[broken.scan].status == "fail"
    assert scans[broken.scan].reasons[0].startswith(STAGE_FAILED)
    assert scans[broken.series].status == "fail"
    assert not any("/" in r for s in scans.values() for r in s.reasons)
    assert "Traceback" in session["log"].read_text()
    others = [s for s in scans.values() if s.series != broken.series]
    assert [s.status for s in others] == ["pass", "pass"]
    assert not any(broken.series in str(p) for p in contents(session["folder"]))


def test_unmapped_dicom_is_withheld_and_the_nifti_kept(session):
    path = Path(session["session"].series[0].files[20])
    ds = pydicom.dcmread(path)
    data = bytearray(ds.PixelData)
    data[100] ^= 1
    ds.PixelData = bytes(data)
    save(ds, path)
    scans = {s.scan: s for s in run(**session)}
    name = session["session"].series[0].series
    assert scans[name].status == "fail"
    assert scans[name].reasons[0].startswith(DICOM_UNMAPPED)
    assert not (session["folder"] / "dicom" / name).exists()
    assert [s.status for s in scans.values()].count("pass") == 3


def test_scans_that_failed_in_an_earlier_stage_stay_failed(session):
    folder, manifest = session["segment"]
    first, second = manifest.scans
    failed = first.mark("fail", "not a head")
    session["segment"] = (folder, Manifest("segment", manifest.session, (failed, second)))
    scans = {s.scan: s for s in run(**session)}
    assert scans[first.scan].reasons == ("not a head",)
    assert scans[first.series].reasons == ("not a head",)
    assert {scans[first.scan].status, scans[first.series].status} == {"fail"}
    assert scans[second.scan].status == "pass"


def test_blur_needs_review_and_headers_without_a_face_state_no_removal(session):
    blurred = run(**session, method="blur")
    assert {s.status for s in blurred} == {"review"}
    shutil.rmtree(session["folder"])
    for scan in session["segment"][1].scans:
        path = session["segment"][0] / scan.files["labels"]
        img = nifti.load(path)
        brain_only = np.where(nifti.stored(img) == 1, 1, 0).astype(np.uint8)
        nifti.save(nib.Nifti1Image(brain_only, img.affine), path)
    # qc judges whether the image should show a face
    scans = run(**session)
    assert {s.measures["region_voxels"] for s in scans if "nifti" in s.files} == {0}
    dicom_scan = next(s for s in scans if "dicom" in s.files)
    first = next((session["folder"] / dicom_scan.files["dicom"]).iterdir())
    assert "RecognizableVisualFeatures" not in pydicom.dcmread(first)


def test_a_bids_session_has_no_dicom_form(session):
    session["session"] = dataclasses.replace(session["session"], source="bids")
    session["scrub"] = (session["scrub"][0], Manifest("scrub", "", ()))
    scans = run(**session)
    assert len(scans) == 2
    assert not (session["folder"] / "dicom").exists()


def niftis(folder, out):
    """Convert a folder of DICOM files with dcm2niix; returns the images."""
    out.mkdir()
    tool = Path(sys.executable).parent / "dcm2niix"
    arguments = ["-b", "n", "-z", "n", "-f", "%s_%e_%z", "-o", out, folder]
    subprocess.run([tool, *arguments], check=True, capture_output=True)
    return [nifti.load(path) for path in sorted(out.glob("*.nii"))]


def with_bits(ds, n, stored, allocated, signed):
    """Change the bits of a dataset of :func:`series`; add elements that make dcm2niix stack it."""
    pixels = np.frombuffer(ds.PixelData, np.int16)
    kind = np.dtype(f"<{'i' if signed else 'u'}{allocated // 8}")
    ds.BitsAllocated, ds.BitsStored, ds.HighBit = allocated, stored, stored - 1
    ds.PixelRepresentation = int(signed)
    ds.PixelData = pixels.astype(kind).tobytes() + b"\0" * (pixels.size * kind.itemsize % 2)
    ds["PixelData"].VR = "OB" if allocated == 8 else "OW"
    for tag in (0x00280106, 0x00280107):
        del ds[tag]
    ds.StudyInstanceUID, ds.SeriesInstanceUID = "1.2.3", "1.2.4"
    ds.FrameOfReferenceUID, ds.SeriesNumber, ds.InstanceNumber = "1.2.5", 1, n + 1
    ds.SliceThickness = ds.SpacingBetweenSlices = 3.3
    ds.Manufacturer, ds.EchoTime, ds.RepetitionTime = "SIEMENS", 3, 2000
    ds.WindowCenter, ds.WindowWidth = ["40", "50"], ["80", "90"]
    ds.WindowCenterWidthExplanation = ["A", "B"]
    return ds


DEFLATED, RLE = "1.2.840.10008.1.2.1.99", "1.2.840.10008.1.2.5"
JPEG_LS, JPEG_2000 = "1.2.840.10008.1.2.4.80", "1.2.840.10008.1.2.4.90"
PLAIN = {"syntax": ExplicitVRLittleEndian, "stored": 12, "allocated": 16, "signed": False}
KINDS = {
    "implicit": {"syntax": ImplicitVRLittleEndian},
    "16 bits": {"stored": 16},
    "16 bits, signed": {"stored": 16, "signed": True},
    "12 bits, signed": {"signed": True},
    "8 bits": {"stored": 8, "allocated": 8},
    "big endian": {"syntax": ExplicitVRBigEndian, "stored": 16, "signed": True},
    "deflated": {"syntax": DEFLATED},
    "RLE": {"syntax": RLE},
    "RLE, 8 bits": {"syntax": RLE, "stored": 8, "allocated": 8},
    "JPEG-LS": {"syntax": JPEG_LS},
    "JPEG 2000, signed": {"syntax": JPEG_2000, "stored": 16, "signed": True},
    "rescaled by file": {"rescale": True},
}


@pytest.mark.parametrize("kind", KINDS)
def test_released_dicom_converts_to_the_released_voxels(kind, tmp_path):
    """Files are scrubbed, distorted and written, and converted again with dcm2niix."""
    form = PLAIN | KINDS[kind]
    bits = {k: form[k] for k in ("stored", "allocated", "signed")}
    volume, affine = image((40, 36, 7, 1), high=250 if form["stored"] == 8 else 4000)
    volume -= 2000 if form["signed"] else 0
    files = [with_bits(ds, n, **bits) for n, ds in enumerate(series(volume, affine))]
    for n, ds in enumerate(files):
        if form.get("rescale"):
            ds.RescaleSlope, ds.RescaleIntercept = f"{1.5 + 0.1 * n:.3f}", str(-3 * n)
        save(ds, tmp_path / "plain" / f"{n}.dcm")
    (before,) = niftis(tmp_path / "plain", tmp_path / "before")
    raw_voxels = nifti.stored(before)[..., None]
    mask = np.zeros(before.shape, bool)
    mask[10:20, 12:30, 2:5] = True
    new = replace(raw_voxels, mask, "noise", 1)
    picture = ConvertedImage(raw_voxels, new, mask, before.affine)
    for n, ds in enumerate(files):
        if form["syntax"] in (RLE, JPEG_LS, JPEG_2000):
            ds.compress(form["syntax"], generate_instance_uid=False)
        elif form["syntax"] == ExplicitVRBigEndian:
            ds.PixelData = np.frombuffer(ds.PixelData, "<i2").astype(">i2").tobytes()
        ds.file_meta.TransferSyntaxUID = form["syntax"]
        save(ds, tmp_path / "raw" / f"{n}.dcm")
    for path in sorted((tmp_path / "raw").iterdir()):
        scrubbed, target = tmp_path / "scrub" / path.name, tmp_path / "out" / path.name
        scrub_file(path, scrubbed, KEY, "sub-a", "ses-b")
        raw = frames.read(path)
        pixels, _ = distorted(raw, picture)
        dicom.write(scrubbed, target, raw, pixels, state_face_removed, derived=True)
        ds = pydicom.dcmread(target)
        assert not ds.file_meta.TransferSyntaxUID.is_compressed
        assert ds.ImageType == ["DERIVED", "PRIMARY", "M"]
        assert ds.DerivationCodeSequence[0].CodeValue == "113047"
        assert ds.RecognizableVisualFeatures == "NO"
        assert ds.BurnedInAnnotation == ""  # not searched here
        assert "113102" in [c.CodeValue for c in ds.DeidentificationMethodCodeSequence]
        assert (ds.BitsStored, ds.PixelRepresentation) == (form["stored"], form["signed"])
        scaled = pixels * float(ds.get("RescaleSlope", 1)) + float(ds.get("RescaleIntercept", 0))
        low, high = np.percentile(scaled, [1, 99])
        assert ds.WindowCenter == pytest.approx((low + high) / 2, abs=0.02 * np.ptp(scaled))
        assert ds.WindowWidth == pytest.approx(high - low, abs=0.02 * np.ptp(scaled))
        assert "WindowCenterWidthExplanation" not in ds
    (after,) = niftis(tmp_path / "out", tmp_path / "after")
    assert np.allclose(after.affine, before.affine, atol=1e-4)
    if not form.get("rescale"):
        assert np.array_equal(nifti.stored(after), picture.distorted[..., 0])
        return
    # dcm2niix writes floats: equal within half a step of the slope, and unchanged outside
    now = nifti.stored(after)
    assert np.array_equal(now[~mask], raw_voxels[..., 0][~mask])
    expected = picture.distorted[..., 0]
    mask &= (expected >= 0) & (expected <= 1.5 * 4095)  # what the bits of every slice can hold
    assert np.abs(now - expected)[mask].max() <= 0.51 * 2.1


@pytest.mark.parametrize("vendor", ["siemens", "philips", "ge"])
def test_phantoms_of_each_vendor_convert_to_the_same_voxels(vendor, tmp_path):
    volume, affine = image((40, 36, 7, 1))
    img = nib.Nifti1Image(volume[..., 0], affine)
    identifiers = write_dicom(img, tmp_path / "raw", Identity.from_seed(7), vendor=vendor)
    (before,) = niftis(tmp_path / "raw", tmp_path / "before")
    raw_voxels = nifti.stored(before)[..., None]
    mask = np.zeros(before.shape, bool)
    mask[10:20, 12:30, 2:5] = True
    new = replace(raw_voxels, mask, "noise", 1)
    picture = ConvertedImage(raw_voxels, new, mask, before.affine)
    for n, path in enumerate(sorted((tmp_path / "raw").iterdir())):
        scrubbed, target = tmp_path / "scrub" / f"{n}.dcm", tmp_path / "out" / f"{n}.dcm"
        scrub_file(path, scrubbed, KEY, "sub-a", "ses-b")
        raw = frames.read(path)
        pixels, _ = distorted(raw, picture)
        dicom.write(scrubbed, target, raw, pixels, state_face_removed, derived=True)
        assert not [x for x in identifiers if x.encode().lower() in target.read_bytes().lower()]
    (after,) = niftis(tmp_path / "out", tmp_path / "after")
    assert np.allclose(after.affine, before.affine, atol=1e-4)
    assert np.array_equal(nifti.stored(after), picture.distorted[..., 0])


def test_windows_do_not_count_padding():
    ds = Dataset()
    ds.WindowCenter, ds.WindowWidth = "1", "2"
    ds.add_new(0x00280120, "SS", -2000)
    values = np.full((1, 40, 40), -2000, np.int16)
    values[0, :20] = np.arange(800).reshape(20, 40)
    dicom._reset_windows(ds, values)
    assert ds.WindowCenter == pytest.approx(400, abs=2)
    assert ds.WindowWidth == pytest.approx(783, abs=3)
    values[:] = -2000
    dicom._reset_windows(ds, values)
    assert ds.WindowCenter == pytest.approx(400, abs=2)


def test_windows_of_each_frame_are_set_from_its_pixels():
    ds = Dataset()
    groups = []
    for slope in ("2", "4"):
        group, window, scale = Dataset(), Dataset(), Dataset()
        window.WindowCenter, window.WindowWidth = "1", "2"
        scale.RescaleSlope, scale.RescaleIntercept = slope, "-10"
        group.FrameVOILUTSequence = Sequence([window])
        group.PixelValueTransformationSequence = Sequence([scale])
        groups.append(group)
    ds.PerFrameFunctionalGroupsSequence = Sequence(groups)
    ds.ImageType = ["ORIGINAL", "PRIMARY", "M", "NONE"]
    values = np.stack([np.arange(1000).reshape(25, 40)] * 2).astype(np.uint16)
    dicom._reset_windows(ds, values)
    dicom._mark_derived(ds)
    assert [g.FrameVOILUTSequence[0].WindowCenter for g in groups] == pytest.approx([989, 1988], 2)
    assert "DerivationCodeSequence" not in ds
    assert ds.ImageType[0] == "ORIGINAL"  # DERIVED would not allow attributes of the acquisition


def test_lossy_compression_is_still_stated(tmp_path):
    volume, affine = image((40, 36, 7, 1), high=250)
    ds = with_bits(series(volume, affine)[0], 0, stored=8, allocated=8, signed=False)
    pixels = stored_pixels(ds)
    ds.PixelData = pydicom.encaps.encapsulate([jpeg(pixels[0])])
    ds.file_meta.TransferSyntaxUID = "1.2.840.10008.1.2.4.50"
    save(ds, tmp_path / "raw.dcm")
    raw = frames.read(tmp_path / "raw.dcm")
    scrub_file(tmp_path / "raw.dcm", tmp_path / "scrub.dcm", KEY, "sub-a", "ses-b")
    dicom.write(tmp_path / "scrub.dcm", tmp_path / "out.dcm", raw, stored_pixels(raw))
    out = pydicom.dcmread(tmp_path / "out.dcm")
    assert out.LossyImageCompression == "01"
    assert out.LossyImageCompressionMethod == "ISO_10918_1"
    assert out.LossyImageCompressionRatio > 0.5
    assert np.array_equal(out.pixel_array, stored_pixels(raw)[0])


def jpeg(frame):
    """Grey JPEG of 8 bits."""
    from PIL import Image

    out = io.BytesIO()
    Image.fromarray(frame).save(out, "jpeg", quality=90)
    return out.getvalue()


REAL = {
    "mosaic, rescaled": "SITE_A/*/*/S003",
    "philips field map": "SITE_B/*/*/S002",
    "prone, thick sagittal": "SITE_C/*/S001",
    "enhanced": "SITE_D/*/enh",
    "xa30": "SITE_D/*/xa30",
    "nine transfer syntaxes": "SITE_D/*/ts",
    "GE time series": "SITE_D/*/ge-nih",
    "rounded positions": "SITE_D/*/papaya",
}


@pytest.mark.parametrize("what", REAL)
def test_real_series_convert_to_the_distorted_voxels(what, data, tmp_path):
    """Safe private elements are kept, because mosaics need them."""
    (folder,) = (data / "dicom").glob(REAL[what])
    images = []
    for img in niftis(folder, tmp_path / "before"):
        voxels = nifti.stored(img).reshape(*img.shape[:3], -1)
        mask = np.zeros(img.shape[:3], bool)
        mask[tuple(slice(n // 3, 2 * n // 3 + 1) for n in mask.shape)] = True
        new = replace(voxels, mask, "noise", 1)
        images.append(ConvertedImage(voxels, new, mask, img.affine))
    matcher = FrameMatcher(images)
    replaced = 0
    for path in sorted(folder.iterdir()):
        raw = frames.read(path)
        if raw.Modality != "MR":
            continue
        scrub_file(path, tmp_path / "scrub.dcm", KEY, "sub-a", "ses-b", ["safe-private"])
        values = stored_pixels(raw)
        new = distorted_pixels(raw, values, matcher)
        assert np.array_equal(new.values[~new.mask], values[~new.mask])
        replaced += new.mask.sum()
        target = tmp_path / "out" / f"{path.name}.dcm"
        scrubbed = tmp_path / "scrub.dcm"
        dicom.write(scrubbed, target, raw, new.values, state_face_removed, derived=True)
        assert np.array_equal(stored_pixels(frames.read(target)), new.values)
    # both forms replace the same number of voxels
    assert replaced == sum(i.mask.sum() * i.raw.shape[3] for i in images)
    after = niftis(tmp_path / "out", tmp_path / "after")
    for image in images:
        assert any(
            np.allclose(img.affine, image.affine, atol=1e-3)
            and np.array_equal(
                nifti.stored(img).reshape(*img.shape[:3], -1),
                image.distorted.astype(img.dataobj.dtype),
            )
            for img in after
        )
