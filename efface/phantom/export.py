"""Phantoms as DICOM exports: classic series with invented identifiers.

The identifiers are at the same places as in real exports: at the top level, in nested sequences, in
private blocks, in comments, in file meta and preamble, and in folder names. Each function returns
the identifiers that must not occur in any release.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import nibabel as nib
import numpy as np
import pydicom
from numpy.typing import NDArray
from PIL import Image, ImageDraw
from pydicom.dataset import Dataset, FileDataset, FileMetaDataset
from pydicom.sequence import Sequence
from pydicom.uid import (
    BasicTextSRStorage,
    ExplicitVRLittleEndian,
    MRImageStorage,
    SecondaryCaptureImageStorage,
)

from efface.errors import EffaceError
from efface.phantom.scans import phantom
from efface.segment.geometry import voxel_sizes

# names are combined from syllables, so that they are unique and not words
_LAST = (
    ("Zwart", "Haver", "Okonj", "Brindl", "Castel", "Mirzh", "Pellow", "Drung", "Ylver", "Quarn"),
    ("en", "a", "o", "ing", "er", "ul", "es"),
    ("dijk", "quist", "welo", "thorpe", "vecchi", "nova", "steyn", "gaard", "mund"),
)
_FIRST = (
    ("Theo", "Isal", "Marlo", "Perpe", "Quint", "Ysab", "Orl", "Wilm", "Fenn", "Gisel", "Ragn"),
    ("dwyn", "dora", "wenna", "tuane", "ijna", "elou", "andis", "owyth"),
)
_PHYSICIAN = ("Vanterpoolen", "Eisenbartl", "Okuyamada", "Leclerquin")
_OPERATOR = ("mta.wiesengrund", "tech.ballantrae", "op.szymborek", "rt.delacourte")
_SITE = ("Klinikum Sankt Amalberga", "Porthkerris Infirmary", "Hospital Rio Verdejo")
_STREET = ("Lindenwurmgasse 14", "Old Tannery Quay 7", "Calle Alcaravan 221")

_DIALECT: Final[dict[str, dict[str, str]]] = {
    "siemens": {
        "maker": "SIEMENS",
        "model": "Prisma_fit",
        "software": "syngo MR E11",
        "root": "1.3.12.2.1107.5.2.43.{serial}.",
        "creator": "SIEMENS MEDCOM HEADER2",
        "file": "{number:04d}_{i:04d}.IMA",
    },
    "philips": {
        "maker": "Philips Medical Systems",
        "model": "Ingenia",
        "software": "5.6.1\\5.6.1.0",
        "root": "1.3.46.670589.11.{serial}.5.",
        "creator": "Philips MR Export DD 001",
        "file": "IM_{i:04d}",
    },
    "ge": {
        "maker": "GE MEDICAL SYSTEMS",
        "model": "DISCOVERY MR750",
        "software": "27\\LX\\MR Software release:DV26.0",
        "root": "1.2.840.113619.2.{serial}.",
        "creator": "GEMS_SITE_NOTES_01",
        "file": "i{i:06d}.MRDC.{number}",
    },
}

# description, protocol, sequence, variant, sequence name, options, TR, TE, TI (ms), flip, 2D or 3D
_PROTOCOL: Final[dict[tuple[str, str], tuple[Any, ...]]] = {
    ("siemens", "T1w"): ("t1_mprage_sag_p2_iso", "t1_mprage_sag_p2_iso", ["GR", "IR"],
                         ["SK", "SP", "MP"], "*tfl3d1_16ns", "IR", 2300, 2.98, 900, 9, "3D"),
    ("siemens", "T2w"): ("t2_tse_tra", "t2_tse_tra", "SE", ["SK", "SP", "OSP"], "*tse2d1_15",
                         "", 5200, 98, None, 150, "2D"),
    ("siemens", "FLAIR"): ("t2_space_dark-fluid_sag", "t2_space_dark-fluid_sag", ["SE", "IR"],
                           ["SK", "SP", "MP"], "*spcir_278ns", "IR", 5000, 387, 1800, 120, "3D"),
    ("siemens", "PDw"): ("pd_tse_tra", "pd_tse_tra", "SE", ["SK", "SP", "OSP"], "*tse2d1_5",
                         "", 3000, 11, None, 150, "2D"),
    ("philips", "T1w"): ("T1W_3D_TFE", "WIP T1W_3D_TFE SENSE", "GR", "MP", "", "FC", 8.1, 3.7,
                         940, 8, "3D"),
    ("philips", "T2w"): ("T2W_TSE", "WIP T2W_TSE SENSE", "SE", "SK", "", "FC", 4200, 95, None, 90,
                         "2D"),
    ("philips", "FLAIR"): ("3D_FLAIR", "WIP 3D_FLAIR SENSE", ["SE", "IR"], "SK", "", "FC", 4800,
                           340, 1650, 90, "3D"),
    ("philips", "PDw"): ("PDW_TSE", "WIP PDW_TSE SENSE", "SE", "SK", "", "FC", 3000, 12, None, 90,
                         "2D"),
    ("ge", "T1w"): ("Ax T1 BRAVO", "Brain routine", ["GR", "IR"], ["SS", "SP", "SK"], "", "IR",
                    8.2, 3.2, 450, 12, "3D"),
    ("ge", "T2w"): ("Ax T2 FSE", "Brain routine", "SE", ["SK", "OSP"], "", "FAST_GEMS", 5400, 102,
                    None, 111, "2D"),
    ("ge", "FLAIR"): ("Ax T2 FLAIR", "Brain routine", ["SE", "IR"], ["SK", "OSP"], "",
                      "FAST_GEMS", 9000, 122, 2480, 160, "2D"),
    ("ge", "PDw"): ("Ax PD FSE", "Brain routine", "SE", ["SK", "OSP"], "", "FAST_GEMS", 2800, 14,
                    None, 111, "2D"),
}  # fmt: skip


@dataclass(frozen=True)
class Identity:
    """An invented person in an invented hospital, as in the headers."""

    last: str
    first: str
    patient_id: str
    birth: str
    """YYYYMMDD."""
    sex: str
    study_date: str
    """YYYYMMDD of the (first) study."""
    institution: str
    street: str
    physician: str
    operator: str
    station: str
    serial: str
    accession: str
    phone: str

    @classmethod
    def from_seed(cls, seed: int) -> Identity:
        """Identity of the person ``seed``; different seeds give different names and numbers."""
        rng = np.random.Generator(np.random.PCG64((seed, 7)))

        def digits(n: int) -> str:
            return "".join(str(d) for d in (rng.integers(1, 10), *rng.integers(0, 10, n - 1)))

        def name(parts: tuple[tuple[str, ...], ...]) -> str:
            return "".join(p[rng.integers(len(p))] for p in parts)

        return cls(
            last=name(_LAST),
            first=name(_FIRST),
            patient_id=f"MRN{digits(7)}",
            birth=f"{rng.integers(1938, 2001)}{rng.integers(1, 13):02d}{rng.integers(1, 29):02d}",
            sex="MF"[seed % 2],
            study_date=f"{rng.integers(2016, 2024)}{rng.integers(1, 13):02d}"
            f"{rng.integers(1, 29):02d}",
            institution=_SITE[seed % len(_SITE)],
            street=_STREET[seed % len(_STREET)],
            physician=_PHYSICIAN[seed % len(_PHYSICIAN)],
            operator=_OPERATOR[seed % len(_OPERATOR)],
            station=f"MRSTAT{digits(5)}",
            serial=digits(9),
            accession=f"ACC{digits(8)}",
            phone=f"0{digits(3)}-55{digits(5)}",
        )

    @property
    def folder(self) -> str:
        """A folder name as in real exports."""
        return f"{self.last.upper()}_{self.first.upper()}_{self.birth}"

    @property
    def identifiers(self) -> list[str]:
        """Identifiers that must not occur in a release, in any case or encoding."""
        return sorted(
            {
                *(self.last, self.first, self.patient_id, self.birth, self.institution),
                *(self.street, self.physician, self.operator, self.station, self.serial),
                *(self.accession, self.phone),
            }
        )


def write_dicom(
    img: nib.Nifti1Image,
    folder: Path,
    identity: Identity,
    contrast: str = "T1w",
    *,
    vendor: str = "siemens",
    number: int = 1,
    study: int = 1,
) -> list[str]:
    """Write ``img`` as a classic MR series into ``folder``, one file for each plane of axis 3.

    Voxels must be integers from 0 to 4095 without scaling; rows of a frame run along the 2nd voxel
    axis, columns along the first (so ``axcodes`` "LPS" is axial, "PIL" sagittal). ``number`` is the
    SeriesNumber, ``study`` the number of the study of this person. Returns the identifiers.
    Raises :class:`EffaceError` for an unknown vendor or contrast, or voxels that do not fit.
    """
    if (vendor, contrast) not in _PROTOCOL:
        raise EffaceError(f"{vendor}, {contrast}: the phantom has no such protocol")
    voxels = np.asarray(img.dataobj)
    if voxels.ndim != 3 or voxels.dtype.kind not in "iu" or voxels.min() < 0 or voxels.max() > 4095:
        raise EffaceError(
            "a classic series of the phantom needs a 3D image of integers from 0 to 4095"
        )
    ds = _header(identity, vendor, number, study)
    _acquisition(ds, contrast, vendor, voxels, img.affine)
    _plant(ds, identity, vendor)
    ds.preamble = f"{identity.last} {identity.patient_id}".encode().ljust(128, b"\0")[:128]
    lps = np.diag([-1.0, -1.0, 1.0, 1.0]) @ np.asarray(img.affine, np.float64)
    steps = voxel_sizes(lps)
    normal = np.cross(lps[:3, 0] / steps[0], lps[:3, 1] / steps[1])
    folder.mkdir(parents=True, exist_ok=True)
    for k in range(voxels.shape[2]):
        position = lps[:3, 3] + k * lps[:3, 2]
        uid = _uid(identity, vendor, "instance", study, number, k)
        ds.file_meta.MediaStorageSOPInstanceUID = ds.SOPInstanceUID = uid
        ds.InstanceNumber = k + 1
        ds.ImagePositionPatient = [_ds(p) for p in position]
        ds.SliceLocation = _ds(float(position @ normal))
        frame = np.ascontiguousarray(voxels[:, :, k].T.astype("<u2"))
        ds.SmallestImagePixelValue = int(frame.min())
        ds.LargestImagePixelValue = int(frame.max())
        ds.PixelData = frame.tobytes()
        name = _DIALECT[vendor]["file"].format(number=number, i=k + 1)
        ds.save_as(folder / name, enforce_file_format=True)
    return identity.identifiers


def demo_source(
    folder: Path,
    people: int = 2,
    seed: int = 11,
    *,
    identifiers: Path | None = None,
    mm: float = 1.6,
) -> list[str]:
    """Write a small export of invented people into ``folder``, and their identifiers beside it.

    The persons are ``seed``, ``seed + 13``, and so on. Each has two series, alternating between T1w
    (sagittal 3D, Siemens) with T2w (axial, thick slices), and FLAIR (sagittal 3D, Philips) with T1w
    (axial 3D). Each export also has a note, a truncated file, an empty file, a secondary capture
    with burned-in text and a structured report. ``mm`` is the voxel size of the 3D series. Returns
    the identifiers, which are also written to the file ``identifiers``, one on each line; default:
    ``identifiers.txt`` beside ``folder``.
    """
    planted: set[str] = set()
    for n in range(people):
        person = seed + 13 * n
        who = Identity.from_seed(person)
        study = folder / who.folder / f"{who.study_date}_KOPF"
        vendor = ("siemens", "philips")[n % 2]
        cube, thick = (mm, mm, mm), (mm * 0.75, mm * 0.75, 4.0)
        plans = (
            (("T1w", "PIL", cube), ("T2w", "LPS", thick)),
            (("FLAIR", "PIL", cube), ("T1w", "LPS", cube)),
        )[n % 2]
        for number, (contrast, axes, spacing) in enumerate(plans, start=2):
            img, _ = phantom(
                person,
                contrast,
                spacing=spacing,
                axcodes=axes,
                scan=number,
                oblique=(4.0, -2.0, 1.5),
            )
            name = f"S{number:03d}_{_PROTOCOL[vendor, contrast][0]}"
            planted |= set(
                write_dicom(img, study / name, who, contrast, vendor=vendor, number=number)
            )
        _odd_files(study, who, vendor)
    path = identifiers or folder.parent / "identifiers.txt"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("\n".join(sorted(planted)) + "\n", encoding="utf-8")
    return sorted(planted)


def _odd_files(study: Path, who: Identity, vendor: str) -> None:
    note = f"Patient {who.first} {who.last}, {who.patient_id}: please call {who.phone}.\n"
    (study / "Note.txt").write_text(note, encoding="utf-8")
    (study / "EMPTY.dcm").write_bytes(b"")
    whole = min(p for p in study.glob("S002*/*")).read_bytes()
    (study / "S002_part").write_bytes(whole[: len(whole) * 3 // 5])
    write_capture(study / "S099_capture" / "SC000001.dcm", who, vendor)
    write_report(study / "S100_report" / "SR000001.dcm", who, vendor)


def write_capture(path: Path, who: Identity, vendor: str = "siemens", number: int = 99) -> None:
    """Write a secondary capture with the person's name burned into its pixels."""
    ds = _header(who, vendor, number, 1, sop_class=SecondaryCaptureImageStorage, modality="OT")
    picture = Image.new("L", (256, 128), 16)
    text = f"{who.last}^{who.first}\n{who.patient_id}  {who.birth}\n{who.institution}"
    ImageDraw.Draw(picture).multiline_text((10, 20), text, fill=230)
    ds.ImageType = ["DERIVED", "SECONDARY"]
    ds.ConversionType = "WSD"
    ds.BurnedInAnnotation = "YES"
    ds.InstanceNumber = 1
    _pixels(ds, np.asarray(picture, np.uint8))
    _save(ds, path, _uid(who, vendor, "capture", number))


def write_report(path: Path, who: Identity, vendor: str = "siemens", number: int = 100) -> None:
    """Write a basic text report that names the person in its text."""
    ds = _header(who, vendor, number, 1, sop_class=BasicTextSRStorage, modality="SR")
    ds.InstanceNumber = 1
    ds.ValueType = "CONTAINER"
    ds.ContinuityOfContent = "SEPARATE"
    ds.CompletionFlag = "COMPLETE"
    ds.VerificationFlag = "UNVERIFIED"
    ds.ConceptNameCodeSequence = Sequence([_code("18782-3", "LN", "Radiology Study observation")])
    item = Dataset()
    item.RelationshipType = "CONTAINS"
    item.ValueType = "TEXT"
    item.ConceptNameCodeSequence = Sequence([_code("121071", "DCM", "Finding")])
    item.TextValue = f"{who.first} {who.last}, born {who.birth}: no finding. Dr. {who.physician}"
    ds.ContentSequence = Sequence([item])
    _save(ds, path, _uid(who, vendor, "report", number))


def _header(
    who: Identity,
    vendor: str,
    number: int,
    study: int,
    *,
    sop_class: str = MRImageStorage,
    modality: str = "MR",
) -> FileDataset:
    """Patient, study, series and equipment of any object."""
    if vendor not in _DIALECT:
        raise EffaceError(
            f"{vendor}: unknown vendor of the phantom; choose one of {', '.join(_DIALECT)}"
        )
    dialect = _DIALECT[vendor]
    meta = FileMetaDataset()
    meta.MediaStorageSOPClassUID = pydicom.uid.UID(sop_class)
    meta.TransferSyntaxUID = ExplicitVRLittleEndian
    meta.ImplementationClassUID = pydicom.uid.UID("1.3.12.2.1107.5.2")
    meta.ImplementationVersionName = "MR_EXPORT_1"
    meta.SourceApplicationEntityTitle = who.station
    ds = FileDataset("", {}, file_meta=meta, preamble=b"\0" * 128)
    clock = f"{8 + number % 10:02d}{(number * 7) % 60:02d}{(study * 13) % 60:02d}.{number:06d}"
    ds.SpecificCharacterSet = "ISO_IR 100"
    ds.SOPClassUID = pydicom.uid.UID(sop_class)
    for name in ("Study", "Series", "Acquisition", "Content", "InstanceCreation"):
        setattr(ds, f"{name}Date", who.study_date)
        setattr(ds, f"{name}Time", clock)
    ds.AccessionNumber = who.accession
    ds.Modality = modality
    ds.Manufacturer = dialect["maker"]
    ds.InstitutionName = who.institution
    ds.InstitutionAddress = f"{who.street}, {who.institution}"
    ds.InstitutionalDepartmentName = "Neuroradiology"
    ds.ReferringPhysicianName = f"{who.physician}^Dr."
    ds.PerformingPhysicianName = f"{who.physician}^Dr."
    ds.OperatorsName = who.operator
    ds.StationName = who.station
    ds.StudyDescription = f"MR Kopf {who.physician}"
    ds.ManufacturerModelName = dialect["model"]
    ds.PatientName = f"{who.last}^{who.first}"
    ds.PatientID = who.patient_id
    ds.PatientBirthDate = who.birth
    ds.PatientSex = who.sex
    ds.PatientAge = f"{int(who.study_date[:4]) - int(who.birth[:4]):03d}Y"
    ds.PatientSize = "1.71"
    ds.PatientWeight = "68"
    ds.PatientAddress = who.street
    ds.PatientTelephoneNumbers = who.phone
    ds.OtherPatientIDs = [f"{who.patient_id}-B", who.accession]
    ds.PatientComments = f"Family of {who.last}, seen by {who.physician}"
    ds.DeviceSerialNumber = who.serial
    ds.SoftwareVersions = dialect["software"].split("\\")
    ds.StudyInstanceUID = _uid(who, vendor, "study", study)
    ds.SeriesInstanceUID = _uid(who, vendor, "series", study, number)
    ds.StudyID = f"{study}"
    ds.SeriesNumber = number
    ds.SeriesDescription = {"OT": "Patient Protocol", "SR": "Report"}.get(modality, "")
    return ds


def _acquisition(
    ds: FileDataset,
    contrast: str,
    vendor: str,
    voxels: NDArray[np.integer],
    affine: NDArray[np.floating],
) -> None:
    description, protocol, sequence, variant, name, options, tr, te, ti, flip, kind = _PROTOCOL[
        vendor, contrast
    ]
    ds.ImageType = {
        "siemens": ["ORIGINAL", "PRIMARY", "M", "ND", "NORM"],
        "philips": ["ORIGINAL", "PRIMARY", "M_FFE" if "GR" in sequence else "M_SE", "M", "FFE"],
        "ge": ["ORIGINAL", "PRIMARY", "OTHER"],
    }[vendor]
    ds.SeriesDescription, ds.ProtocolName = description, protocol
    ds.BodyPartExamined = "BRAIN"
    ds.ScanningSequence, ds.SequenceVariant, ds.ScanOptions = sequence, variant, options
    ds.MRAcquisitionType = kind
    if name:
        ds.SequenceName = name
    ds.RepetitionTime, ds.EchoTime, ds.FlipAngle = str(tr), str(te), str(flip)
    if ti is not None:
        ds.InversionTime = str(ti)
    ds.NumberOfAverages, ds.ImagingFrequency, ds.ImagedNucleus = "1", "123.25", "1H"
    ds.EchoNumbers, ds.MagneticFieldStrength, ds.EchoTrainLength = "1", "3", "1"
    ds.PercentSampling = ds.PercentPhaseFieldOfView = "100"
    ds.PixelBandwidth, ds.PatientPosition, ds.InPlanePhaseEncodingDirection = "240", "HFS", "ROW"
    ds.FrameOfReferenceUID = str(ds.StudyInstanceUID) + ".1"
    ds.PositionReferenceIndicator = ""
    ds.AcquisitionNumber = 1
    lps = np.diag([-1.0, -1.0, 1.0, 1.0]) @ np.asarray(affine, np.float64)
    steps = voxel_sizes(lps)
    ds.SliceThickness = ds.SpacingBetweenSlices = _ds(steps[2])
    ds.PixelSpacing = [_ds(steps[1]), _ds(steps[0])]
    ds.ImageOrientationPatient = [
        _ds(c) for c in (*(lps[:3, 0] / steps[0]), *(lps[:3, 1] / steps[1]))
    ]
    _pixels(ds, np.zeros((voxels.shape[1], voxels.shape[0]), np.uint16))
    ds.WindowCenter, ds.WindowWidth = str(int(voxels.max()) // 2), str(int(voxels.max()))
    ds.RescaleIntercept, ds.RescaleSlope, ds.RescaleType = "0", "1", "US"


def _plant(ds: FileDataset, who: Identity, vendor: str) -> None:
    """Identifiers in comments, nested sequences and private blocks."""
    ds.ImageComments = f"rescan for {who.operator}, {who.last}"
    ds.AdditionalPatientHistory = f"{who.first} {who.last}: headache since visit to {who.physician}"
    other = Dataset()
    other.PatientID, other.TypeOfPatientID = f"{who.patient_id}", "TEXT"
    other.IssuerOfPatientID = who.institution
    ds.OtherPatientIDsSequence = Sequence([other])
    request = Dataset()
    request.RequestedProcedureID = who.accession
    request.ScheduledProcedureStepDescription = f"MR brain {who.last}"
    inner = Dataset()
    inner.PatientName, inner.PatientBirthDate = f"{who.last}^{who.first}", who.birth
    inner.TextValue = f"ordered by {who.physician}, {who.phone}"
    request.ReferencedPatientSequence = Sequence([inner])
    ds.RequestAttributesSequence = Sequence([request])
    ds.PerformedProcedureStepStartDate = who.study_date
    ds.PerformedProcedureStepDescription = f"Brain^{who.physician}"
    block = ds.private_block(0x0029 if vendor == "siemens" else 0x2177, _creator(vendor), True)
    block.add_new(0x60, "LO", f"com {who.patient_id}")
    block.add_new(0x61, "UN", _even(f"NAME={who.last};SERIAL={who.serial};".encode()))
    nested = Dataset()
    nested.PatientName = f"{who.last}^{who.first}"
    nested.OperatorsName = who.operator
    block.add_new(0x62, "SQ", Sequence([nested]))
    archive = ds.private_block(0x0099, "ARCHIVE EXPORT 2.1", True)
    archive.add_new(0x01, "ST", f"{who.station} {who.folder} {who.street}")
    archive.add_new(0x02, "OB", f"{who.first}\0{who.accession}\0".encode().ljust(64, b"\0"))


def _even(value: bytes) -> bytes:
    return value + b" " * (len(value) % 2)


def _creator(vendor: str) -> str:
    return _DIALECT[vendor]["creator"]


def _pixels(ds: FileDataset, frame: NDArray[np.uint8] | NDArray[np.uint16]) -> None:
    ds.SamplesPerPixel = 1
    ds.PhotometricInterpretation = "MONOCHROME2"
    ds.Rows, ds.Columns = frame.shape
    ds.BitsAllocated = frame.dtype.itemsize * 8
    ds.BitsStored = 8 if ds.BitsAllocated == 8 else 12
    ds.HighBit = ds.BitsStored - 1
    ds.PixelRepresentation = 0
    # bytes need an explicit VR
    ds.add_new(0x7FE00010, "OB" if ds.BitsAllocated == 8 else "OW", frame.tobytes())


def _save(ds: FileDataset, path: Path, uid: str) -> None:
    ds.file_meta.MediaStorageSOPInstanceUID = ds.SOPInstanceUID = pydicom.uid.UID(uid)
    path.parent.mkdir(parents=True, exist_ok=True)
    ds.save_as(path, enforce_file_format=True)


def _code(value: str, scheme: str, meaning: str) -> Dataset:
    ds = Dataset()
    ds.CodeValue, ds.CodingSchemeDesignator, ds.CodeMeaning = value, scheme, meaning
    return ds


def _uid(who: Identity, vendor: str, *parts: object) -> pydicom.uid.UID:
    """A UID under the root of the manufacturer, with the serial number of the scanner."""
    root = _DIALECT[vendor]["root"].format(serial=who.serial)
    digest = hashlib.sha256(repr((who.patient_id, *parts)).encode()).digest()
    return pydicom.uid.UID(root + str(int.from_bytes(digest[:10], "big"))[:24])


def _ds(value: float) -> str:
    """A decimal string of at most 16 characters."""
    return f"{value:.9f}"[:16].rstrip("0").rstrip(".") if "." in f"{value:.9f}"[:16] else "0"
