"""Identifiers in the attributes of a DICOM header or a BIDS sidecar."""

from __future__ import annotations

import re
import warnings
from collections.abc import Iterable, Iterator, Mapping

from pydicom.datadict import dictionary_keyword, private_dictionary_description
from pydicom.dataelem import DataElement, RawDataElement
from pydicom.dataset import Dataset
from pydicom.valuerep import PersonName

from efface.audit.identifiers import (
    LEAST,
    LONGEST,
    Identifier,
    is_date,
    of_date,
    of_description,
    of_name,
    of_value,
)
from efface.dictionary import standard_vr

KINDS = {
    "PatientID": "patient id",
    "OtherPatientIDs": "patient id",
    "MedicalRecordLocator": "patient id",
    "InsurancePlanIdentification": "patient id",
    "IssuerOfPatientID": "institution",
    "ResponsibleOrganization": "institution",
    "AccessionNumber": "accession number",
    "StudyID": "study id",
    "AdmissionID": "study id",
    "ServiceEpisodeID": "study id",
    "RequestedProcedureID": "study id",
    "ScheduledProcedureStepID": "study id",
    "PerformedProcedureStepID": "study id",
    "PlacerOrderNumberImagingServiceRequest": "study id",
    "FillerOrderNumberImagingServiceRequest": "study id",
    "ClinicalTrialSubjectID": "patient id",
    "ClinicalTrialSubjectReadingID": "patient id",
    "ClinicalTrialSiteID": "institution",
    "ClinicalTrialSiteName": "institution",
    "ClinicalTrialProtocolID": "study id",
    "PatientAddress": "address",
    "PatientTelephoneNumbers": "telephone number",
    "PatientTelecomInformation": "telephone number",
    "PersonAddress": "address",
    "PersonTelephoneNumbers": "telephone number",
    "InstitutionName": "institution",
    "InstitutionAddress": "institution",
    "InstitutionalDepartmentName": "institution",
    "DeviceSerialNumber": "serial number",
    "PlateID": "serial number",
    "CassetteID": "serial number",
    "GantryID": "serial number",
    "DetectorID": "serial number",
    "DeviceID": "serial number",
    "StationName": "station",
    "PerformedStationName": "station",
    "ScheduledStationName": "station",
    "ScheduledProcedureStepLocation": "station",
    "PerformedLocation": "station",
    "CurrentPatientLocation": "address",
    "PatientInstitutionResidence": "address",
    "RequestingService": "institution",
}
_TEXTS = frozenset(
    # free text that people write about people; series and protocol names are none: the release may
    # keep them, and what they hold of a person matches the person's other identifiers
    [
        "StudyDescription",
        "RequestedProcedureDescription",
        "PerformedProcedureStepDescription",
        "ScheduledProcedureStepDescription",
        "PatientComments",
        "StudyComments",
        "ImageComments",
        "VisitComments",
        "AdditionalPatientHistory",
        "MedicalAlerts",
        "Allergies",
        "AdmittingDiagnosesDescription",
        "Occupation",
        "ReasonForStudy",
        "ReasonForTheRequestedProcedure",
        "InterpretationText",
    ]
)
SCANNER_KEYWORDS = [
    "Manufacturer",
    "ManufacturerModelName",
    "SoftwareVersions",
    "ReceiveCoilName",
    "TransmitCoilName",
    "SequenceName",
    "PulseSequenceName",
    "ScanningSequence",
    "SequenceVariant",
    "ScanOptions",
    "ImageType",
    "Modality",
    "BodyPartExamined",
    "SeriesDescription",
    "ProtocolName",
    "ImagedNucleus",
]
_PRIVATE = re.compile(
    r"(?i)patient|serial|operator|physician|institut|station|hospital|address|accession"
)


def of_dataset(ds: Dataset, known: set[tuple[int, bytes]] | None = None) -> set[Identifier]:
    """Identifiers of one data set: file meta, every sequence, private elements.

    ``known`` holds tag and raw value of the elements of earlier files, which are skipped; those of
    ``ds`` are added.
    """
    known = set() if known is None else known
    out: set[Identifier] = set()
    meta = getattr(ds, "file_meta", None)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for part in (meta, ds):
            if part is not None:
                _walk(part, known, out)
    return out


def _walk(ds: Dataset, known: set[tuple[int, bytes]], out: set[Identifier]) -> None:
    for tag in ds.keys():  # noqa: SIM118 - iterating the data set itself decodes every element
        try:
            item = ds.get_item(tag)
            if isinstance(item, RawDataElement):
                raw = (int(tag), item.value or b"")
                if raw in known or not raw[1]:
                    continue
                if len(raw[1]) <= 4096:
                    known.add(raw)
                vr = item.VR or standard_vr(int(tag))
                if vr not in _WORTH and not (vr == "UN" and len(raw[1]) <= 256):
                    continue
                if vr == "SQ" and _items(raw[1]) > _MOST_ITEMS:
                    continue
                if vr == "UN":
                    element: DataElement = DataElement(tag, "LO", _text(raw[1]))
                else:
                    element = ds[tag]
            elif item is None:
                continue
            else:
                element = item
            _element(ds, element, known, out)
        except Exception:  # one bad element must not hide the others
            continue


_WORTH = frozenset(("AE", "DA", "DT", "LO", "LT", "PN", "SH", "SQ", "ST", "UC", "UI", "UR", "UT"))


_MOST_ITEMS = 1 << 20
"""More items than a sequence has. The scrub refuses such a file, so nothing of it is released."""


def _items(sequence: bytes) -> int:
    """How many items an encoded sequence may hold, in either byte order (PS3.5, 7.5)."""
    return max(sequence.count(b"\xfe\xff\x00\xe0"), sequence.count(b"\xff\xfe\xe0\x00"))


def _element(
    ds: Dataset, element: DataElement, known: set[tuple[int, bytes]], out: set[Identifier]
) -> None:
    if element.VR == "SQ":
        for item in element.value or ():
            _walk(item, known, out)
        return
    value = element.value
    values = value if _is_list(value) else [value]
    keyword = _keyword(ds, element)
    for one in values:
        text = str(one or "").strip()
        if not text or len(text) > LONGEST:
            continue
        if element.VR == "PN":
            patient = element.tag.group == 0x0010
            out |= of_name("patient name" if patient else "person name", text)
        elif element.VR == "UI":
            # registered ones tell nothing, nor does the software that wrote the file
            own = text.startswith("1.2.840.10008.") or element.tag == 0x00020012
            if len(text) >= LEAST["uid"] and not own:
                out.add(Identifier("uid", text))
        elif element.VR in ("DA", "DT"):
            digits = re.sub(r"[.\-]", "", text[:10])[:8]
            if is_date(digits):
                out |= of_date("birth date" if "Birth" in keyword else "date", digits)
        elif keyword in KINDS:
            out |= of_value(KINDS[keyword], text)
        elif element.VR == "AE":
            out |= of_value("station", text)
        elif keyword in _TEXTS:
            out |= of_description(text)
        elif element.tag.is_private and _PRIVATE.search(keyword):
            out |= (
                of_name("private element", text)
                if "ame" in keyword
                else of_value("private element", text)
            )


def of_sidecar(content: object) -> set[Identifier]:
    """A BIDS source's sidecar: the keys that have the name of a DICOM attribute, at any depth."""
    out: set[Identifier] = set()
    for key, value in _pairs(content):
        if key in KINDS:
            out |= of_value(KINDS[key], value)
        elif key in _TEXTS:
            out |= of_description(value)
        elif (
            key.endswith(("Name", "Physician", "Physicians", "Operators"))
            and key not in SCANNER_KEYWORDS
        ):
            if any(w in key for w in ("Patient", "Physician", "Operator", "Person")):
                out |= of_name("patient name" if "Patient" in key else "person name", value)
        elif key.endswith(("UID", "UIDs")) and not value.startswith("1.2.840.10008."):
            out.add(Identifier("uid", value))
        elif "Date" in key and is_date(re.sub(r"\D", "", value[:10])):
            kind = "birth date" if "Birth" in key else "date"
            out |= of_date(kind, re.sub(r"\D", "", value[:10]))
    return out


def _pairs(value: object, key: str = "") -> Iterator[tuple[str, str]]:
    """Every text and integer in a sidecar, with the key that it stands under."""
    if isinstance(value, Mapping):
        for inner, one in value.items():
            yield from _pairs(one, str(inner))
    elif isinstance(value, list):
        for one in value:
            yield from _pairs(one, key)
    elif isinstance(value, (str, int)) and not isinstance(value, bool):
        yield key, str(value)


def of_scanner(header: Mapping[str, object]) -> set[str]:
    """What a header says of the scanner, lower case: whole values; maker and model also by word."""
    out: set[str] = set()
    for keyword in SCANNER_KEYWORDS:
        value = header.get(keyword)
        for one in value if isinstance(value, Iterable) and _is_list(value) else [value]:
            text = str(one or "").strip().casefold()
            if text:
                out.add(text)
                if keyword in ("Manufacturer", "ManufacturerModelName"):
                    out |= set(re.split(r"[\s_]+", text))
    return out


def _keyword(ds: Dataset, element: DataElement) -> str:
    if not element.tag.is_private:
        try:
            return str(dictionary_keyword(element.tag))
        except KeyError:
            return ""
    try:
        block = element.tag.elem >> 8
        creator = ds.get((element.tag.group, block))
        return str(private_dictionary_description(element.tag, str(creator.value)))
    except (KeyError, AttributeError):
        return ""


def _text(raw: bytes) -> str:
    text = raw.rstrip(b"\0 ").decode("latin-1")
    return text if text.isprintable() else ""


def _is_list(value: object) -> bool:
    return isinstance(value, Iterable) and not isinstance(value, (str, bytes, PersonName))
