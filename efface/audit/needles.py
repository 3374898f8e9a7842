"""What must not get out: every identifier that a session's sources hold.

Independent of the scrub: it reads the raw headers again and asks for nothing but the values. A
needle has a kind (``patient name``, ``serial number``, …), which is what a report prints; its text
stays in the restricted zone.

False alarms withhold data for nothing, so a value is no needle if it is too short to mean anything
(see :data:`LEAST`), consists of technical words only, or is what a release legitimately says of the
scanner (manufacturer, model, software, coil, sequence). docs/audit.md has the rules in full.
"""

from __future__ import annotations

import ast
import getpass
import io
import json
import platform
import re
import socket
import unicodedata
import warnings
from collections.abc import Iterable, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass
from datetime import date
from functools import cache
from pathlib import Path
from typing import Any

import pydicom
from pydicom.datadict import dictionary_keyword, dictionary_VR, private_dictionary_description
from pydicom.dataelem import DataElement, RawDataElement
from pydicom.dataset import Dataset


@dataclass(frozen=True, order=True)
class Needle:
    """One spelling of one identifier."""

    kind: str
    text: str
    technical: bool = False
    """A person's name that is a technical word too (Field, Short, Gauss): sought only where text
    about people may stand, since releases hold the word of their own."""


LEAST = {"name": 3, "id": 4, "digits": 6, "text": 8, "path": 6, "uid": 8}
"""Characters from which on a value counts, by the kind of value."""

_KINDS = {
    "PatientID": "patient id",
    "OtherPatientIDs": "patient id",
    "MedicalRecordLocator": "patient id",
    "InsurancePlanIdentification": "patient id",
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
    "InstitutionAddress": "address",
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
    "CurrentPatientLocation": "institution",
    "PatientInstitutionResidence": "institution",
    "RequestingService": "institution",
}
_TEXTS = frozenset(
    # free text that people write about people; series and protocol names are none: the release may
    # keep them, and what they hold of a person is found by the person's other needles
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
LEGITIMATE = [
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
# kinds that an option of the scrub lets through, by its name in config ``retain``
_RETAINED = {
    "uids": {"uid"},
    "device": {"serial number", "station", "device"},
    "institution": {"institution", "address"},
    "dates-full": {"date"},
}
_PLACEHOLDERS = frozenset({"00010101", "19000101", "18000101", "19700101", "99991231", "00000000"})
_TECHNICAL_WORDS = Path(__file__).parent / "technical.tsv"
_COUNTER = re.compile(
    r"(?i)(im|img|image|i|ser|s|se|series|mr|st|slice|z|brain|file|instance|run)?[-_.]?0*\d{1,5}"
)
_MONTHS = "January February March April May June July August September October November December"


def of_session(session: Mapping[str, Any], retain: Iterable[str] = ()) -> frozenset[Needle]:
    """The needles of a session from its inventory entry: headers, file and folder names.

    Every file's header is read, not only the first's: ids may change within a series. A file that
    cannot be read gives its name alone. ``retain`` are the scrub's options: what an option lets
    through on purpose is no needle.
    """
    found: set[Needle] = set()
    legitimate: set[str] = set()
    seen: set[tuple[int, bytes]] = set()
    for series in session["series"]:
        for name in series["files"]:
            path = Path(name)
            found |= of_path(path)
            if path.name.endswith((".nii", ".nii.gz", ".bval", ".bvec", ".tsv")):
                continue
            if path.suffix == ".json":
                found |= _of_sidecar(path)
                continue
            ds = _header(path)
            if ds is not None:
                legitimate |= _legitimate(ds)
                found |= of_dataset(ds, seen)
    if session.get("source") == "bids":
        found |= _of_tables(session)
    for patient in session.get("patient") or ():
        found |= spelled("patient id", str(patient))
    dropped = set().union(*(_RETAINED.get(option, set()) for option in retain))
    return frozenset(
        n
        for n in found
        if n.kind not in dropped
        and n.text.casefold() not in legitimate
        # a folder may be called "pictures": that is not where the report has the word from
        and not (n.kind == "file or folder name" and n.text.casefold() in own_words())
    )


def of_dataset(ds: Dataset, seen: set[tuple[int, bytes]] | None = None) -> set[Needle]:
    """Needles of one data set: file meta, every sequence, private elements.

    ``seen`` remembers raw values over many files, so that what repeats is looked at once.
    """
    seen = set() if seen is None else seen
    found: set[Needle] = set()
    meta = getattr(ds, "file_meta", None)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for part in (meta, ds):
            if part is not None:
                _walk(part, seen, found)
    return found


def of_path(path: Path) -> set[Needle]:
    """Needles of the names of a file and of its folders, down from the root."""
    found: set[Needle] = set()
    for part in path.parts[1:] if path.is_absolute() else path.parts:
        stem = re.sub(r"(?i)(\.(dcm|ima|dicom|img|nii|gz|json|bval|bvec|zip|tsv))+$", "", part)
        person = re.match(r"sub-[A-Za-z0-9+]+", stem)
        if person:
            found.add(Needle("patient id", person[0]))
            # labels of a BIDS name other than the person's and the visit's stay in the release
            stem = re.sub(r"_(?!sub-|ses-)[a-z]+-[A-Za-z0-9+]+", "", stem)
            stem = re.sub(r"_[A-Za-z0-9]+$", "", stem) if "_" in stem else stem
        for word in {stem, *re.split(r"[\s_^,;()\[\]=+]+", stem), *re.split(r"[\W_]+", stem)}:
            least = LEAST["path"]
            if len(word) < least or _technical(word) or _COUNTER.fullmatch(word):
                continue
            if word.isdigit():
                if valid_date(word):
                    found |= _dates("date", word)
                elif len(word) >= LEAST["digits"] and int(word) >= 10**6:
                    found.add(Needle("file or folder name", word))
            else:
                found.add(Needle("file or folder name", word))
    return found


def given(line: str, number: int) -> set[Needle]:
    """Needles of one line of a list of identifiers: the value itself, as a name, or as a date."""
    kind, text = f"identifier on line {number}", line.strip()
    if not text:
        return set()
    compact = re.sub(r"[-./]", "", text)
    if len(text) in (8, 10) and valid_date(compact):
        return _dates(kind, compact) | {Needle(kind, text)}
    return {Needle(kind, t) for t in {text, *_joined(re.split(r"[\s^,_]+", text))}}


def spelled(kind: str, value: str) -> set[Needle]:
    """The needles of an id, a place or another value that is used whole."""
    text = value.replace("\0", "").strip()
    found: set[Needle] = set()
    # "PRISMA" is the scanner's, "PRISMA_C" a place's own name for it
    if not text or _technical(text, letters=False) or _COUNTER.fullmatch(text):
        return found
    least = LEAST["digits"] if text.isdigit() else LEAST["id"]
    if len(text) >= least:
        found.add(Needle(kind, text))
        if re.search(r"[\s^_]", text) and not text.isdigit():
            found |= {Needle(kind, j) for j in _joined(re.split(r"[\s^_]+", text)) if len(j) >= 8}
    for run in re.findall(r"\d+", text):
        if len(run) >= LEAST["digits"] and int(run) > 0:
            found.add(Needle(kind, run))
    return found


def named(kind: str, value: str) -> set[Needle]:
    """The needles of a person's name: each component, and both orders joined."""
    found: set[Needle] = set()
    for group in re.split(r"[=\\]", value.replace("\0", "")):
        words = [w for w in re.split(r"[\s^,]+", group.strip()) if w]
        if not words or group.strip().startswith("sub-"):
            continue
        if all(w.casefold() in _NOBODY or _COUNTER.fullmatch(w) for w in words) or (
            _technical(group) and _NOBODY & {w.casefold() for w in words}
        ):
            continue  # "Brain^Phantom"
        for word in words:
            least = LEAST["name"] if kind == "patient name" else LEAST["name"] + 1
            if not word.isascii():
                least = 2
            least = LEAST["digits"] if word.isdigit() else least
            if len(word.strip(".")) >= least and not _COUNTER.fullmatch(word):
                common = _technical(word) or word.casefold() in vocabulary()
                found.add(Needle(kind, word.strip("."), common))
            for part in re.split(r"[-._]", word):
                # "tech.lindqvist", "Smith-Jones"
                if len(part) > 4 and not part.isdigit() and not _technical(part):
                    found.add(Needle(kind, part, part.casefold() in vocabulary()))
        # "De Clercq^Nele": the family name as it is written, then with the given names
        families = [f.strip() for f in group.split("^") if f.strip()]
        for several in ([*families[:1]], families[:2], families[1::-1], words[:2], words[1::-1]):
            flat = [w for f in several for w in f.split()]
            if len(flat) > 1:
                found |= {
                    Needle(kind, j)
                    for j in _joined(flat)
                    if len(j) >= 5 and j.casefold() not in vocabulary()
                }
    return found


def valid_date(digits: str) -> bool:
    """Whether eight digits are a day that a source may mean (1880 to 2099)."""
    if not re.fullmatch(r"\d{8}", digits) or digits in _PLACEHOLDERS:
        return False
    try:
        return 1880 <= date(int(digits[:4]), int(digits[4:6]), int(digits[6:])).year < 2100
    except ValueError:
        return False


def save(needles: Iterable[Needle]) -> str:
    """As JSON, for the restricted zone; without UIDs and without names that are technical words.

    They are for the search of a cohort's files. Those may hold no UID but new ones, which is a rule
    of structure, and no text about people.
    """
    rows = sorted([n.kind, n.text] for n in needles if n.kind != "uid" and not n.technical)
    return json.dumps(rows, indent=1) + "\n"


def restore(text: str) -> frozenset[Needle]:
    """What :func:`save` wrote."""
    return frozenset(Needle(kind, value) for kind, value in json.loads(text))


def of_machine() -> frozenset[Needle]:
    """The names of this computer and of whoever works on it: they get into files by themselves."""
    names = {"host name": {socket.gethostname(), socket.getfqdn(), platform.node()}}
    with suppress(OSError, KeyError, RuntimeError):  # a process without a name has none to give
        names["user name"] = {getpass.getuser(), Path.home().name}
    return frozenset(
        Needle(kind, text)
        for kind, texts in names.items()
        for name in texts
        for text in {name, name.partition(".")[0]}
        if len(text) >= LEAST["path"]
        and not _technical(text)
        and not text.isdigit()
        and text.casefold() not in own_words() | vocabulary() | {"localhost", "runner"}
    )


def spellings(text: str) -> set[str]:
    """A text in other spellings of its letters: without accents, decomposed, ä as ae."""
    forms = {text}
    if not text.isascii():
        forms |= {unicodedata.normalize(f, text) for f in ("NFC", "NFD")}
        plain = "".join(
            c for c in unicodedata.normalize("NFD", text) if not unicodedata.combining(c)
        )
        german = text
        for letter, two in {
            "ä": "ae",
            "ö": "oe",
            "ü": "ue",
            "Ä": "Ae",
            "Ö": "Oe",
            "Ü": "Ue",
        }.items():
            german = german.replace(letter, two)
        forms |= {plain, german.replace("ß", "ss"), text.upper(), text.lower(), text.casefold()}
    return forms


@cache
def own_words() -> frozenset[str]:
    """Words of string constants in efface's own sources and of its templates, lower case."""
    package = Path(__file__).resolve().parents[1]
    texts = [p.read_text() for p in sorted((package / "audit" / "templates").iterdir())]
    for path in sorted(package.rglob("*.py")):
        if path.relative_to(package).parts[0] in ("phantom", "train"):
            continue  # invented people, and nothing that a report says
        tree = ast.parse(path.read_text())
        documents = {
            node.value
            for node in ast.walk(tree)
            if isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant)
        }
        texts += [
            node.value
            for node in ast.walk(tree)
            if isinstance(node, ast.Constant)
            and node not in documents
            and isinstance(node.value, str)
        ]
    return frozenset(w for t in texts for w in re.findall(r"[^\W_]+", t.casefold()))


def _header(path: Path) -> Dataset | None:
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return pydicom.dcmread(path, stop_before_pixels=True, force=True)
    except Exception:  # a broken file in a source is no fault of the audit
        return None


def _walk(ds: Dataset, seen: set[tuple[int, bytes]], found: set[Needle]) -> None:
    for tag in ds.keys():  # noqa: SIM118 - iterating the data set itself decodes every element
        try:
            item = ds.get_item(tag)
            if isinstance(item, RawDataElement):
                raw = (int(tag), item.value or b"")
                if raw in seen or not raw[1]:
                    continue
                if len(raw[1]) <= 4096:
                    seen.add(raw)
                vr = item.VR or _vr(int(tag))
                if vr not in _WORTH and not (vr == "UN" and len(raw[1]) <= 256):
                    continue
                if vr == "UN":
                    element: DataElement = DataElement(tag, "LO", _text(raw[1]))
                else:
                    element = ds[tag]
            elif item is None:
                continue
            else:
                element = item
            _element(ds, element, seen, found)
        except Exception:  # one bad element must not hide the others
            continue


_WORTH = frozenset(("AE", "DA", "DT", "LO", "LT", "PN", "SH", "SQ", "ST", "UC", "UI", "UR", "UT"))


def _element(
    ds: Dataset, element: DataElement, seen: set[tuple[int, bytes]], found: set[Needle]
) -> None:
    if element.VR == "SQ":
        for item in element.value or ():
            _walk(item, seen, found)
        return
    value = element.value
    values = value if isinstance(value, (list, tuple)) or _many(value) else [value]
    keyword = _keyword(ds, element)
    for one in values:
        text = str(one or "").strip()
        if not text:
            continue
        if element.VR == "PN":
            patient = element.tag.group == 0x0010
            found |= named("patient name" if patient else "person name", text)
        elif element.VR == "UI":
            # registered ones tell nothing, nor does the software that wrote the file
            own = text.startswith("1.2.840.10008.") or element.tag == 0x00020012
            if len(text) >= LEAST["uid"] and not own:
                found.add(Needle("uid", text))
        elif element.VR in ("DA", "DT"):
            digits = re.sub(r"[.\-]", "", text[:10])[:8]
            if valid_date(digits):
                found |= _dates("birth date" if "Birth" in keyword else "date", digits)
        elif keyword in _KINDS:
            found |= spelled(_KINDS[keyword], text)
        elif element.VR == "AE":
            found |= spelled("station", text)
        elif keyword in _TEXTS:
            for part in {text, *text.split("^")}:
                plain = part.strip()
                # a single word of a description is no identifier by itself
                several = len(re.split(r"[\s_^]+", plain)) > 1
                if several and LEAST["text"] <= len(plain) <= 1024 and not _technical(plain):
                    found.add(Needle("description", plain))
        elif element.tag.is_private and _PRIVATE.search(keyword):
            found |= (
                named("private element", text)
                if "ame" in keyword
                else spelled("private element", text)
            )


def _of_sidecar(path: Path) -> set[Needle]:
    """A BIDS source's sidecar: the keys that have the name of a DICOM attribute."""
    try:
        content = json.loads(path.read_text())
    except (OSError, ValueError):
        return set()
    found: set[Needle] = set()
    for key, value in content.items() if isinstance(content, dict) else ():
        if not isinstance(value, str):
            continue
        if key in _KINDS:
            found |= spelled(_KINDS[key], value)
        elif (
            key.endswith(("Name", "Physician", "Physicians", "Operators")) and key not in LEGITIMATE
        ):
            if any(w in key for w in ("Patient", "Physician", "Operator", "Person")):
                found |= named("patient name" if "Patient" in key else "person name", value)
        elif key.endswith(("UID", "UIDs")) and not value.startswith("1.2.840.10008."):
            found.add(Needle("uid", value))
        elif "Date" in key and valid_date(re.sub(r"\D", "", value[:10])):
            found |= _dates("date", re.sub(r"\D", "", value[:10]))
    return {
        n
        for n in found
        if n.text.casefold() not in {str(content.get(k, "")).casefold() for k in LEGITIMATE}
    }


def _of_tables(session: Mapping[str, Any]) -> set[Needle]:
    """What a BIDS source's participants.tsv and scans.tsv say of the person."""
    from efface.audit.kept import participant, visit

    found: set[Needle] = set()
    rows = [participant(session), *visit(session)]
    for column, value in (cell for row in rows for cell in row.items()):
        digits = re.sub(r"\D", "", value[:10])
        if len(digits) == 8 and valid_date(digits):
            found |= _dates("birth date" if re.search(r"(?i)birth|dob", column) else "date", digits)
        elif re.search(r"(?i)name", column) and column != "filename":
            found |= named("patient name", value)
        elif re.search(r"(?i)id$|mrn|number|address|phone|mail|hospital|site", column):
            found |= spelled("patient id", value)
    return found


def _legitimate(ds: Dataset) -> set[str]:
    """What a release may say of the scanner, lower case: whole; maker and model also by word."""
    out: set[str] = set()
    for keyword in LEGITIMATE:
        value = ds.get(keyword)
        for one in value if _many(value) else [value]:
            text = str(one or "").strip().casefold()
            if text:
                out.add(text)
                if keyword in ("Manufacturer", "ManufacturerModelName"):
                    out |= set(re.split(r"[\s_]+", text))
    return out


def _dates(kind: str, digits: str) -> set[Needle]:
    y, m, d = digits[:4], digits[4:6], digits[6:]
    month = _MONTHS.split()[int(m) - 1]
    day = str(int(d))
    forms = {digits, d + m + y, m + d + y}
    for s in "-/._":
        forms |= {s.join((y, m, d)), s.join((d, m, y)), s.join((m, d, y))}
    forms |= {f"{int(d)}.{int(m)}.{y}", f"{int(m)}/{int(d)}/{y}", f"{int(d)}/{int(m)}/{y}"}
    for name in (month, month[:3]):
        forms |= {f"{day} {name} {y}", f"{d}-{name}-{y}", f"{name} {day}, {y}", f"{d} {name} {y}"}
    return {Needle(kind, f) for f in forms}


def _joined(words: list[str]) -> set[str]:
    words = [w for w in words if w]
    if len(words) < 2:
        return set()
    return {s.join(words) for s in ("", " ", "_", "-", ".", "^", ", ", ",")}


@cache
def technical_words() -> frozenset[str]:
    """Words of scanners, sequences and folders, which name no person."""
    return frozenset(_TECHNICAL_WORDS.read_text().split("\n", 1)[1].split())


@cache
def vocabulary() -> frozenset[str]:
    """Words that a release may hold because they stand in one of our closed lists, lower case."""
    package = Path(__file__).resolve().parents[1]
    lists = ("convert/sidecar.tsv", "convert/words.tsv", "scrub/words.tsv", "scrub/terms.tsv")
    texts = [(package / name).read_text() for name in lists]
    return frozenset(w for t in texts for w in re.findall(r"[^\W\d_]+", t.casefold()))


_NOBODY = frozenset(
    ("anon", "anonym", "anonymized", "anonymous", "case", "patient", "phantom", "test", "trial")
) | {"unknown", "unnamed", "user", "volunteer"}
"""Words by which a name says that it is none."""


def _technical(text: str, *, letters: bool = True) -> bool:
    """Whether all words are of scanners, folders or counting; ``letters``: or single letters."""
    words = [w for w in re.split(r"[\W_\d]+", text.casefold()) if w]
    # "C-5512-11", "MRC25326": four digits and more may name somebody, whatever stands beside them
    few = sum(c.isdigit() for c in text) < 4
    known = technical_words()
    return few and bool(words) and all(w in known or (letters and len(w) == 1) for w in words)


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


def _vr(tag: int) -> str:
    try:
        return dictionary_VR(tag)
    except KeyError:
        return "UN"


def _text(raw: bytes) -> str:
    text = raw.rstrip(b"\0 ").decode("latin-1")
    return text if text.isprintable() else ""


def _many(value: object) -> bool:
    return (
        isinstance(value, Iterable) and not isinstance(value, (str, bytes)) and not _is_name(value)
    )


def _is_name(value: object) -> bool:
    return type(value).__name__ == "PersonName"


def lines(text: str) -> Iterator[Needle]:
    """The needles of a file of identifiers, one on a line."""
    for number, line in enumerate(io.StringIO(text), start=1):
        yield from given(line, number)
