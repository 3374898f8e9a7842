"""What must not get out: every identifier that a session's sources hold.

Independent of the scrub: it reads the raw headers again and asks for nothing but the values. A
needle has a kind (``patient name``, ``serial number``, …), which is what a report prints; its text
stays in the restricted zone.

An identifier of a person, a date or a study is always a needle, whatever technical attribute holds
the same text. False alarms withhold data for nothing, so a value is no needle if it is too short
(see :data:`LEAST`) or consists of technical words only. What names a thing (a station, a folder, a
description) is no needle either where the header's maker, model, sequence, … is the same text and
all its words are of our closed lists. docs/audit.md has the rules in full.
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
from dataclasses import dataclass, field
from datetime import date
from functools import cache
from itertools import permutations
from pathlib import Path
from typing import Any

import pydicom
from pydicom.datadict import (
    dictionary_keyword,
    dictionary_VR,
    private_dictionary_description,
    tag_for_keyword,
)
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
    whole: bool = False
    """A number too short to be sought within a text: found only where it is the whole value."""


LEAST = {"name": 3, "id": 4, "joined": 5, "digits": 6, "text": 8, "path": 6, "uid": 8}
"""Characters from which on a value counts, by the kind of value; ``joined``: of several parts."""
_SMALLEST = 1000
"""The smallest number that is an identifier, if it is the whole value (``LEAST["digits"]``)."""
_LONGEST = 1024
"""Characters of an identifier at most: as many as an address (ST) has."""
_MOST_WORDS = 8
"""Words of a name that are joined in pairs: 56 pairs."""

_KINDS = {
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
_EXAMINED = ("StudyDate", "SeriesDate", "AcquisitionDate", "ContentDate", "AcquisitionDateTime")
_PRIVATE = re.compile(
    r"(?i)patient|serial|operator|physician|institut|station|hospital|address|accession"
)
# kinds that an option of the scrub lets through, by its name in config ``retain``; the dates of
# dates-shifted are new ones, so the old ones stay identifiers
_RETAINED = {
    "uids": {"uid"},
    "device": {"serial number", "station"},
    "institution": {"institution"},
    "dates-full": {"date"},
}
_THINGS = frozenset({"station", "serial number", "description", "file or folder name"})
"""Kinds that name a thing, which may be called as its maker, model or sequence is."""
_DUMMY_DATE = "19000101"
"""What the scrub writes where an object needs a date. Others that stand for none are out of range,
or may be somebody's (1970-01-01)."""
_TECHNICAL_WORDS = Path(__file__).parent / "technical.tsv"
_COUNTED = r"(?i)(im|img|image|i|ser|s|se|series|mr|st|slice|z|brain|file|instance|run)?[-_.]?"
_COUNTER = re.compile(_COUNTED + r"0*\d{1,5}")
"""Names of files that are counted."""
_FEW = re.compile(_COUNTED + r"\d{1,3}")
"""The same for ids and names: four digits and more may name somebody."""


@dataclass
class Sources:
    """Needles of several sources, collected file by file."""

    found: set[Needle] = field(default_factory=set)
    said: set[str] = field(default_factory=set)
    """What their headers say of the scanner, lower case (see :func:`of_scanner`)."""
    days: set[str] = field(default_factory=set)
    """Days of the examination in their headers, in the forms of a needle."""
    _seen: set[tuple[int, bytes]] = field(default_factory=set)

    def add(self, path: Path) -> None:
        """A file's name and, if it can be read, its header."""
        self.found |= of_path(path)
        if path.name.endswith((".nii", ".nii.gz", ".bval", ".bvec", ".tsv")):
            return
        if path.suffix == ".json":
            self._add_sidecar(path)
            return
        ds = _header(path)
        if ds is None:
            return
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # what a source has that breaks a rule of DICOM
            self.said |= of_scanner({k: ds.get(k) for k in self._new(ds, LEGITIMATE)})
            for keyword in self._new(ds, _EXAMINED):
                digits = str(ds.get(keyword) or "")[:8]
                if valid_date(digits):
                    self.days |= {n.text for n in _dates("date", digits)}
            self.found |= of_dataset(ds, self._seen)

    def _new(self, ds: Dataset, keywords: Iterable[str]) -> list[str]:
        """Which of the keywords the data set has, with a value that is not known yet."""
        return [k for k in keywords if k in ds and _raw(ds, tag_for_keyword(k)) not in self._seen]

    def _add_sidecar(self, path: Path) -> None:
        try:
            content = json.loads(path.read_text(encoding="utf-8-sig", errors="replace"))
        except (OSError, ValueError):
            return
        if isinstance(content, dict):
            model = {"ManufacturerModelName": content.get("ManufacturersModelName")}
            self.said |= of_scanner(content | model)
        self.found |= _of_sidecar(content)

    def needles(self, retain: Iterable[str] = ()) -> frozenset[Needle]:
        """What must not get out. What an option of ``retain`` lets through on purpose may."""
        dropped = set().union(*(_RETAINED.get(option, set()) for option in retain))
        # with dates-full these days are released, also if a test object was "born" on one of them
        days = self.days if "date" in dropped else ()
        return frozenset(
            n
            for n in self.found
            if n.kind not in dropped
            and n.text not in days
            and not (n.kind in _THINGS and n.text.casefold() in self.said and _closed(n.text))
        )


def of_session(session: Mapping[str, Any], retain: Iterable[str] = ()) -> frozenset[Needle]:
    """The needles of a session from its inventory entry: headers, file and folder names.

    Every file's header is read, not only the first's: ids may change within a series. A file that
    cannot be read gives its name alone. ``retain`` are the scrub's options.
    """
    sources = Sources()
    for series in session["series"]:
        for name in series["files"]:
            sources.add(Path(name))
    if session.get("source") == "bids":
        sources.found |= _of_tables(session)
    for patient in session.get("patient") or ():
        sources.found |= spelled("patient id", str(patient))
    return frozenset(
        n
        for n in sources.needles(retain)
        # a folder may be called "pictures": that is not where the release has the word from
        if not (n.kind == "file or folder name" and n.text.casefold() in own_words())
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
            if re.fullmatch(r"\d{8}|\d{4}-\d\d-\d\d", word) and valid_date(word.replace("-", "")):
                found |= _dates("date", word.replace("-", ""))
            elif word.isdigit():
                if len(word) >= LEAST["digits"] and int(word) >= 10**6:
                    found.add(Needle("file or folder name", word))
            else:
                found.add(Needle("file or folder name", word))
    return found


def given(line: str, number: int) -> set[Needle]:
    """Needles of one line of a list of identifiers: the value itself, as a name, or as a date."""
    kind, text = f"identifier on line {number}", line.strip()
    if not text:
        return set()
    found = {Needle(kind, t) for t in {text, *_joined(re.split(r"[\s^,_]+", text))}}
    digits = re.sub(r"[-./]", "", text)
    if re.fullmatch(r"\d{8}", digits) and len(text) in (8, 10):
        # year, month, day in any of their orders
        for day in (digits, digits[4:] + digits[2:4] + digits[:2], digits[4:] + digits[:4]):
            if valid_date(day):
                found |= _dates(kind, day)
    return found | spelled(kind, text)


def spelled(kind: str, value: str) -> set[Needle]:
    """The needles of an id, a place or another value that is used whole.

    Its parts are also sought with other separators between them, and the lines of an address
    each by itself.
    """
    text = value.replace("\0", "").strip()
    found: set[Needle] = set()
    # "PRISMA" is the scanner's, "PRISMA_C" a place's own name for it
    if not text or _technical(text, letters=False) or _FEW.fullmatch(text):
        return found
    if text.isdigit():
        # "000000" and "0001" are dummies and counters
        if int(text) >= _SMALLEST:
            found.add(Needle(kind, text, whole=len(text) < LEAST["digits"]))
    elif len(text) >= LEAST["id"]:
        found.add(Needle(kind, text))
    parts = [p for p in re.split(r"[\W_]+", text) if p]
    if len(parts) > 1:
        # "55-20931" is no number, but "55.20931" is one, and "55 20931" may be two in a row
        numbers = all(p.isdigit() for p in parts) and sum(map(len, parts)) < LEAST["text"]
        for form in _joined(parts) | {"/".join(parts)}:
            if numbers and re.search(r"[. ,]|^\d+$", form):
                continue
            if len(form) >= LEAST["joined"]:
                found.add(Needle(kind, form))
    for line in re.split(r"[,;^\r\n]+", text):
        if len(line.strip()) >= LEAST["text"] and " " in line.strip() and not _technical(line):
            found.add(Needle(kind, line.strip()))
    for run in {*re.findall(r"\d+", text), "".join(re.findall(r"\d+", text))}:
        if len(run) >= LEAST["digits"] and int(run) >= _SMALLEST:
            found.add(Needle(kind, run))
    return found


def named(kind: str, value: str) -> set[Needle]:
    """The needles of a person's name: each component, and any two of them joined in any order."""
    found: set[Needle] = set()
    for group in re.split(r"[=\\]", value.replace("\0", "")):
        words = [w for w in re.split(r"[\s^,]+", group.strip()) if w]
        if not words or group.strip().startswith("sub-"):
            continue
        if all(w.casefold() in _NOBODY or _FEW.fullmatch(w) for w in words) or (
            _technical(group) and _NOBODY & {w.casefold() for w in words}
        ):
            continue  # "Brain^Phantom"
        for word in words:
            least = LEAST["name"] if kind == "patient name" else LEAST["name"] + 1
            if not word.isascii():
                least = 2
            least = LEAST["digits"] if word.isdigit() else least
            if len(word.strip(".")) >= least and not _FEW.fullmatch(word):
                found.add(Needle(kind, word.strip("."), technical=_closed(word)))
            for part in {*re.split(r"[-._]", word), re.sub("['`\u2019]", "", word)}:
                # "tech.lindqvist", "Smith-Jones", "O'Brien"
                if len(part) > 4 and not part.isdigit() and not _technical(part):
                    found.add(Needle(kind, part, technical=_closed(part)))
        # "De Clercq^Nele": the family name as it is written, then with the given names
        families = [f.strip() for f in group.split("^") if f.strip()]
        several = [families[:1], families[:2], families[1::-1]]
        orders = {tuple(w for f in each for w in f.split()) for each in several}
        # "double-coil" is a word of ours, "Smith-Jones" two of somebody's
        pieces = [
            p for w in words for p in ([w] if _closed(w) else re.split(r"[-._]", w)) if p.strip(".")
        ]
        orders |= set(permutations(pieces[:_MOST_WORDS], 2))
        for order in orders:
            if "".join(order).casefold() not in vocabulary():
                found |= {Needle(kind, j) for j in _joined([*order]) if len(j) >= LEAST["joined"]}
    return found


def described(value: str) -> set[Needle]:
    """The needles of a free text: all of it, and the parts between carets."""
    found: set[Needle] = set()
    for part in {value, *value.split("^")}:
        plain = part.strip()
        # a single word of a description is no identifier by itself
        several = len(re.split(r"[\s_^]+", plain)) > 1
        if several and LEAST["text"] <= len(plain) <= _LONGEST and not _technical(plain):
            found.add(Needle("description", plain))
    return found


def valid_date(digits: str) -> bool:
    """Whether eight digits are a day that a source may mean (1880 to 2099)."""
    if not re.fullmatch(r"\d{8}", digits) or digits == _DUMMY_DATE:
        return False
    try:
        return 1880 <= date(int(digits[:4]), int(digits[4:6]), int(digits[6:])).year < 2100
    except ValueError:
        return False


def save(needles: Iterable[Needle]) -> str:
    """As JSON, for the restricted zone; without UIDs, technical words and short numbers.

    They are for the search of a cohort's files. Those may hold no UID but new ones, which is a rule
    of structure, and no text about people.
    """
    rows = sorted(
        [n.kind, n.text] for n in needles if n.kind != "uid" and not (n.technical or n.whole)
    )
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
        two = unicodedata.normalize("NFC", text).translate(_TWO_LETTERS)
        forms |= {folded(text), folded(two), text.upper(), text.lower(), text.casefold()}
    return forms


def folded(text: str) -> str:
    """The text without accents and with plain letters: ``García`` is Garcia, ``Łøß`` is Loss."""
    plain = "".join(c for c in unicodedata.normalize("NFD", text) if not unicodedata.combining(c))
    return plain.translate(_PLAIN)


def _both_cases(letters: Mapping[str, str]) -> dict[int, str]:
    return str.maketrans({**letters, **{k.upper(): v.capitalize() for k, v in letters.items()}})


_TWO_LETTERS = _both_cases({"ä": "ae", "ö": "oe", "ü": "ue", "å": "aa", "ø": "oe"})
# letters that are no letter with an accent to Unicode
_PLAIN = _both_cases({"ø": "o", "ł": "l", "đ": "d", "ð": "d", "ħ": "h", "æ": "ae", "œ": "oe"})
_PLAIN |= {ord("ı"): "i", ord("ß"): "ss", ord("þ"): "th", ord("Þ"): "Th"}


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
            _element(ds, element, seen, found)
        except Exception:  # one bad element must not hide the others
            continue


_WORTH = frozenset(("AE", "DA", "DT", "LO", "LT", "PN", "SH", "SQ", "ST", "UC", "UI", "UR", "UT"))


_MOST_ITEMS = 1 << 20
"""More items than a sequence has. The scrub refuses such a file, so nothing of it is released."""


def _items(sequence: bytes) -> int:
    """How many items an encoded sequence may hold, in either byte order (PS3.5, 7.5)."""
    return max(sequence.count(b"\xfe\xff\x00\xe0"), sequence.count(b"\xff\xfe\xe0\x00"))


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
        if not text or len(text) > _LONGEST:
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
            found |= described(text)
        elif element.tag.is_private and _PRIVATE.search(keyword):
            found |= (
                named("private element", text)
                if "ame" in keyword
                else spelled("private element", text)
            )


def _raw(ds: Dataset, tag: int | None) -> tuple[int, bytes]:
    """Tag and undecoded value of an element, as :func:`_walk` remembers them."""
    item = ds.get_item(tag) if tag is not None else None
    raw = item.value if isinstance(item, RawDataElement) else None
    return int(tag or 0), raw or b""


def _of_sidecar(content: object) -> set[Needle]:
    """A BIDS source's sidecar: the keys that have the name of a DICOM attribute, at any depth."""
    found: set[Needle] = set()
    for key, value in _pairs(content):
        if key in _KINDS:
            found |= spelled(_KINDS[key], value)
        elif key in _TEXTS:
            found |= described(value)
        elif (
            key.endswith(("Name", "Physician", "Physicians", "Operators")) and key not in LEGITIMATE
        ):
            if any(w in key for w in ("Patient", "Physician", "Operator", "Person")):
                found |= named("patient name" if "Patient" in key else "person name", value)
        elif key.endswith(("UID", "UIDs")) and not value.startswith("1.2.840.10008."):
            found.add(Needle("uid", value))
        elif "Date" in key and valid_date(re.sub(r"\D", "", value[:10])):
            kind = "birth date" if "Birth" in key else "date"
            found |= _dates(kind, re.sub(r"\D", "", value[:10]))
    return found


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


def of_scanner(header: Mapping[str, object]) -> set[str]:
    """What a header says of the scanner, lower case: whole values; maker and model also by word."""
    out: set[str] = set()
    for keyword in LEGITIMATE:
        value = header.get(keyword)
        for one in value if isinstance(value, Iterable) and _many(value) else [value]:
            text = str(one or "").strip().casefold()
            if text:
                out.add(text)
                if keyword in ("Manufacturer", "ManufacturerModelName"):
                    out |= set(re.split(r"[\s_]+", text))
    return out


def _dates(kind: str, digits: str) -> set[Needle]:
    """A day of eight digits, as digits in three orders and as ISO date.

    The search finds all other spellings of an ISO date (:class:`efface.audit.leaks.Matcher`).
    """
    y, m, d = digits[:4], digits[4:6], digits[6:]
    return {Needle(kind, form) for form in (digits, d + m + y, m + d + y, f"{y}-{m}-{d}")}


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
) | {"removed", "unknown", "unnamed", "user", "volunteer"}
"""Words by which a name says that it is none."""


def _technical(text: str, *, letters: bool = True) -> bool:
    """Whether all words are of scanners, folders or counting; ``letters``: or single letters."""
    return _all_in(text, technical_words(), letters=letters)


def _closed(text: str) -> bool:
    """Whether all words are of our closed lists."""
    return _all_in(text, technical_words() | vocabulary(), letters=True)


def _all_in(text: str, known: frozenset[str], *, letters: bool) -> bool:
    words = [w for w in re.split(r"[\W_\d]+", text.casefold()) if w]
    # "C-5512-11", "MRC25326": four digits and more may name somebody, whatever stands beside them
    few = sum(c.isdigit() for c in text) < 4
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
