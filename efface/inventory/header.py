"""Header of one file of the source: is it a complete MR image, and of which series?"""

from __future__ import annotations

import io
import os
import re
import struct
import warnings
import zlib
from dataclasses import dataclass, field
from decimal import Decimal
from pathlib import Path
from typing import Any, BinaryIO

import pydicom
from pydicom.datadict import tag_for_keyword
from pydicom.dataset import Dataset
from pydicom.multival import MultiValue

from efface.inventory import fragments, objects, packed
from efface.inventory.walk import SourceFile
from efface.status import (
    EMPTY_FILE,
    NO_PERMISSION,
    NOT_DICOM,
    NOT_MR,
    TEXT_BURNED_IN,
    TRUNCATED,
    UNREADABLE,
)

ATTRIBUTES = (
    *("SeriesDescription", "ProtocolName", "SequenceName", "PulseSequenceName", "ImageType"),
    *("ScanningSequence", "SequenceVariant", "ScanOptions", "MRAcquisitionType", "EchoTime"),
    *("EchoNumbers", "RepetitionTime", "InversionTime", "FlipAngle", "EchoTrainLength"),
    *("NumberOfAverages", "MagneticFieldStrength", "Manufacturer", "ManufacturerModelName"),
    *("BodyPartExamined", "PatientPosition", "ContrastBolusAgent", "NumberOfFrames", "Rows"),
    *("Columns", "SamplesPerPixel", "BitsAllocated", "PixelRepresentation", "SliceThickness"),
    *("SpacingBetweenSlices", "PixelSpacing", "SeriesDate", "SeriesTime", "AcquisitionDate"),
    *("AcquisitionTime", "AcquisitionDateTime", "ContentTime", "SeriesNumber"),
    *("EchoPulseSequence", "EchoPlanarPulseSequence", "AcquisitionContrast"),
    *("ComplexImageComponent", "InversionRecovery"),
    *("ImageOrientationPatient", "ImagePositionPatient"),
)
"""Attributes of the first image of a series, used to name it and to detect split series.

Restricted zone only, because descriptions are free text.
"""

_IDENTITY = (
    *("SOPClassUID", "SOPInstanceUID", "StudyInstanceUID", "SeriesInstanceUID"),
    *("FrameOfReferenceUID", "PatientID", "IssuerOfPatientID", "Modality", "InstanceNumber"),
    *("BurnedInAnnotation", "ConversionType", "PhotometricInterpretation"),
    *("PatientName", "PatientBirthDate", "PatientSex", "OtherPatientIDs"),
    *("OtherPatientIDsSequence", "IssuerOfPatientIDQualifiersSequence"),
)

_TAGS = [tag for k in (*ATTRIBUTES, *_IDENTITY) if (tag := tag_for_keyword(k)) is not None]
_SCREEN = re.compile(r"SCREEN ?(SAVE|SHOT|CAPTURE)", re.IGNORECASE)
_PIXELS = {0x7FE00008, 0x7FE00009, 0x7FE00010}
_UNDEFINED = 0xFFFFFFFF
_DEFLATED = "1.2.840.10008.1.2.1.99"
_LONGEST = 0xFFFF
# far more than an image has; a decompression bomb inflates a thousandfold
_MOST_INFLATED = 256 << 20
_BIG_ENDIAN = "1.2.840.10008.1.2.2"
_IMPLICIT, _EXPLICIT = "1.2.840.10008.1.2", "1.2.840.10008.1.2.1"


@dataclass(frozen=True)
class Header:
    """Result of reading one file. A file without ``study`` belongs to no session."""

    reason: str = ""
    image: bool = False
    """Whether it is an MR image, possibly truncated."""
    patient: str = ""
    issuer: str = ""
    person: dict[str, Any] = field(default_factory=dict)
    """Further arguments of :func:`efface.inventory.identity.state`."""
    study: str = ""
    series: str = ""
    instance: str = ""
    sop_class: str = ""
    modality: str = ""
    frame_of_reference: str = ""
    number: int | None = None
    """Instance number."""
    attributes: dict[str, Any] = field(default_factory=dict)


def read(file: SourceFile) -> Header:
    """Classify a file. The content of the file never causes an exception."""
    if file.reason:
        return Header(file.reason)
    if file.bytes == 0:
        return Header(EMPTY_FILE)
    try:
        with Path(file.path).open("rb") as f:
            return _read(f, file.bytes)
    except PermissionError:
        return Header(NO_PERMISSION)
    except Exception:  # any error of the parser excludes the file
        return Header(UNREADABLE)


def _read(f: BinaryIO, size: int) -> Header:
    start = f.read(132)
    f.seek(0)
    bare = start[128:132] != b"DICM"
    if bare and start[:2] not in (b"\x02\0", b"\x08\0"):
        f.seek(0)
        return Header(packed.reason(f.read(packed.START)))
    if not bare and _DEFLATED.encode() in f.read(2048):
        f = _inflated(f, size)
        size = f.seek(0, os.SEEK_END)
    f.seek(0)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        ds = pydicom.dcmread(
            f, stop_before_pixels=True, specific_tags=_TAGS, force=bare, defer_size=_LONGEST
        )
        if any(_LONGEST < getattr(e, "length", 0) < _UNDEFINED for e in ds.values()):
            return Header(f"{UNREADABLE}: a value is longer than DICOM allows")
        syntax = str(getattr(ds, "file_meta", {}).get("TransferSyntaxUID", "") or "")
        sop_class = _text(ds, "SOPClassUID")
        if not sop_class:
            stored = getattr(ds, "file_meta", {}).get("MediaStorageSOPClassUID", "")
            sop_class = str(stored or "")
        if bare and not sop_class:
            return Header(NOT_DICOM)
        reason = objects.reason(sop_class)
        head = Header(
            reason=reason,
            patient=_text(ds, "PatientID"),
            issuer=_text(ds, "IssuerOfPatientID"),
            person=_person(ds),
            study=_text(ds, "StudyInstanceUID"),
            series=_text(ds, "SeriesInstanceUID"),
            instance=_text(ds, "SOPInstanceUID"),
            sop_class=sop_class,
            modality=_modality(ds),
            frame_of_reference=_text(ds, "FrameOfReferenceUID"),
            number=_integer(ds, "InstanceNumber"),
            attributes={k: v for k in ATTRIBUTES if (v := _plain(ds.get(k))) not in (None, "", [])},
        )
        if reason:
            return head
        if not (head.study and head.series and head.instance):
            return _replace(head, f"{UNREADABLE}: no study, series or instance UID", image=False)
        if head.modality != "MR":
            return _replace(head, NOT_MR, image=False)
        burned = _burned_in(ds)
        if burned:
            return _replace(head, f"{TEXT_BURNED_IN}: {burned}", image=False)
        return _replace(head, _pixels(f, ds, syntax, size), image=True)


def _inflated(f: BinaryIO, size: int) -> BinaryIO:
    """Inflate a deflated DICOM file, up to the size limit of an image.

    Raises ValueError or zlib.error if the file is not deflated DICOM.
    """
    f.seek(132)
    first = f.read(12)
    if size > _MOST_INFLATED or len(first) < 12 or first[:6] != b"\2\0\0\0UL":
        raise ValueError("not deflated DICOM")
    f.seek(int.from_bytes(first[8:], "little"), os.SEEK_CUR)
    stream = zlib.decompressobj(wbits=-zlib.MAX_WBITS)
    body = stream.decompress(f.read(), _MOST_INFLATED)
    if not stream.eof:
        raise ValueError("truncated, or a decompression bomb")
    syntax = b"\2\0\x10\0UI\x14\0" + _EXPLICIT.encode() + b"\0"
    return io.BytesIO(bytes(128) + b"DICM" + syntax + body)


def _replace(head: Header, reason: str, image: bool) -> Header:
    return Header(**{**head.__dict__, "reason": reason, "image": image})


def _burned_in(ds: Dataset) -> str:
    if _text(ds, "BurnedInAnnotation").upper() not in ("", "NO"):
        return "declared in the header"
    if _text(ds, "ConversionType"):
        return "converted from another form"
    if any(_SCREEN.search(str(v)) for v in _listed(ds.get("ImageType"))):
        return "screen capture"
    grey = _text(ds, "PhotometricInterpretation") in ("", "MONOCHROME1", "MONOCHROME2")
    if not grey or (_integer(ds, "SamplesPerPixel") or 1) != 1:
        return "colour image"
    return ""


def _pixels(f: BinaryIO, ds: Dataset, syntax: str, size: int) -> str:
    """Reason against the pixel data, or empty if complete. ``f`` is at the pixel element."""
    rows, columns = _integer(ds, "Rows"), _integer(ds, "Columns")
    bits = _integer(ds, "BitsAllocated")
    frames = 1 if ds.get("NumberOfFrames") is None else _integer(ds, "NumberOfFrames")
    if not frames or frames < 1:
        return f"{UNREADABLE}: the number of frames is not usable"
    order = ">" if syntax == _BIG_ENDIAN else "<"
    position = f.tell()
    element = f.read(12)
    if len(element) < 12:
        return f"{TRUNCATED}: no pixel data"
    group, number = struct.unpack(order + "HH", element[:4])
    if group << 16 | number not in _PIXELS:
        return f"{UNREADABLE}: the pixel data are missing"
    if not (rows and columns and bits) or number != 0x0010:
        return f"{UNREADABLE}: the shape or type of the pixels is not usable"
    implicit = syntax == _IMPLICIT or not element[4:6].isalpha()
    if implicit:
        (length,) = struct.unpack(order + "I", element[4:8])
        position += 8
    else:
        (length,) = struct.unpack(order + "I", element[8:12])
        position += 12
    if length == _UNDEFINED:
        return _fragments(f, position, size, frames)
    if position + length > size:
        return TRUNCATED
    return _short(length, rows * columns * frames * bits)


def _short(length: int, bits: int) -> str:
    return TRUNCATED if length * 8 < bits else ""


def _fragments(f: BinaryIO, position: int, size: int, frames: int) -> str:
    """Empty when encapsulated pixel data are whole; else the reason."""

    def read(offset: int, length: int) -> bytes:
        f.seek(offset, os.SEEK_SET)
        return f.read(length)

    try:
        places = fragments.walk_items(read, position, size).places
    except fragments.TruncatedItemsError:
        return TRUNCATED
    except fragments.BrokenItemsError as e:
        return f"{UNREADABLE}: {e}"
    # the first item is the offset table
    return TRUNCATED if len(places) - 1 < frames else ""


def _plain(value: object) -> object:
    """The JSON value of an element, or ``None`` if it is neither text nor number."""
    if isinstance(value, (MultiValue, list, tuple)):
        return [p for v in value if (p := _plain(v)) is not None]
    if isinstance(value, bool) or value is None:
        return None
    if isinstance(value, int):
        return int(value)
    if isinstance(value, (float, Decimal)):
        return float(value)
    if isinstance(value, str):
        return str(value).strip(" \0")
    return None


def _listed(value: object) -> list[Any]:
    if value is None:
        return []
    return list(value) if isinstance(value, (MultiValue, list, tuple)) else [value]


def _text(ds: Dataset, keyword: str) -> str:
    values = _listed(ds.get(keyword))
    return str(values[0]).strip(" \0") if values and values[0] is not None else ""


def _modality(ds: Dataset) -> str:
    text = _text(ds, "Modality")
    return text if re.fullmatch(r"[A-Z]{2,6}", text) else ""


def _person(ds: Dataset) -> dict[str, Any]:
    others = [str(v).strip(" \0") for v in _listed(ds.get("OtherPatientIDs"))]
    return {
        "name": _text(ds, "PatientName"),
        "birth": _text(ds, "PatientBirthDate"),
        "sex": _text(ds, "PatientSex"),
        "authority": next(
            iter(_of_items(ds, "IssuerOfPatientIDQualifiersSequence", "UniversalEntityID")), ""
        ),
        "others": tuple(others + _of_items(ds, "OtherPatientIDsSequence", "PatientID")),
    }


def _of_items(ds: Dataset, sequence: str, keyword: str) -> list[str]:
    """Values of an attribute in the items of a sequence; empty if it cannot be read."""
    try:
        return [text for item in ds.get(sequence) or () if (text := _text(item, keyword))]
    except Exception:  # a damaged sequence does not withhold the image
        return []


def _integer(ds: Dataset, keyword: str) -> int | None:
    value = ds.get(keyword)
    if value is None or isinstance(value, (MultiValue, list)):
        return None
    try:
        return int(value)
    except (TypeError, ValueError):
        return None
