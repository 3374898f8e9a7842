"""Collect every identifier of a session's sources: headers, sidecars, tables, names of files.

Independent of the scrub: the raw headers are read again, and only their values count. An identifier
of a person, a date or a study is always searched, whatever technical attribute holds the same text.
What names a thing (a station, a folder, a description) is not searched where the header's maker,
model, sequence, … is the same text and all its words are of closed lists.
"""

from __future__ import annotations

import getpass
import json
import platform
import re
import socket
import warnings
from collections.abc import Iterable
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

import pydicom
from pydicom.datadict import tag_for_keyword
from pydicom.dataelem import RawDataElement
from pydicom.dataset import Dataset

from efface.audit.attributes import SCANNER_KEYWORDS, of_dataset, of_scanner, of_sidecar
from efface.audit.identifiers import (
    COUNTED,
    LEAST,
    Identifier,
    is_date,
    of_date,
    of_name,
    of_value,
)
from efface.audit.words import closed_words, is_closed, is_technical, own_words
from efface.session import Session

_EXAMINED = ("StudyDate", "SeriesDate", "AcquisitionDate", "ContentDate", "AcquisitionDateTime")
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
_COUNTER = re.compile(COUNTED + r"0*\d{1,5}")
"""Names of files that are counted."""


@dataclass
class Sources:
    """Identifiers of several sources, collected file by file."""

    identifiers: set[Identifier] = field(default_factory=set)
    scanner: set[str] = field(default_factory=set)
    """Values that describe the scanner, lower case (:func:`efface.audit.attributes.of_scanner`)."""
    days: set[str] = field(default_factory=set)
    """Days of the examination in their headers, in the forms of an identifier."""
    _known: set[tuple[int, bytes]] = field(default_factory=set)

    def add(self, path: Path) -> None:
        """A file's name and, if it can be read, its header."""
        self.identifiers |= of_path(path)
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
            self.scanner |= of_scanner({k: ds.get(k) for k in self._new(ds, SCANNER_KEYWORDS)})
            for keyword in self._new(ds, _EXAMINED):
                digits = str(ds.get(keyword) or "")[:8]
                if is_date(digits):
                    self.days |= {n.text for n in of_date("date", digits)}
            self.identifiers |= of_dataset(ds, self._known)

    def _new(self, ds: Dataset, keywords: Iterable[str]) -> list[str]:
        """Which of the keywords the data set has, with a value that is not known yet."""
        return [k for k in keywords if k in ds and _raw(ds, tag_for_keyword(k)) not in self._known]

    def _add_sidecar(self, path: Path) -> None:
        try:
            content = json.loads(path.read_text(encoding="utf-8-sig", errors="replace"))
        except (OSError, ValueError):
            return
        if isinstance(content, dict):
            model = {"ManufacturerModelName": content.get("ManufacturersModelName")}
            self.scanner |= of_scanner(content | model)
        self.identifiers |= of_sidecar(content)

    def searched(self, retain: Iterable[str] = ()) -> frozenset[Identifier]:
        """The identifiers that must not be released.

        Without those that an option of ``retain`` lets through, and without names of things that
        are words of the scanner.
        """
        dropped = set().union(*(_RETAINED.get(option, set()) for option in retain))
        # with dates-full these days are released, also if a test object was "born" on one of them
        days = self.days if "date" in dropped else ()
        return frozenset(
            n
            for n in self.identifiers
            if n.kind not in dropped
            and n.text not in days
            and not (n.kind in _THINGS and n.text.casefold() in self.scanner and is_closed(n.text))
        )


def of_session(session: Session, retain: Iterable[str] = ()) -> frozenset[Identifier]:
    """Identifiers of a session from the inventory's record: headers, file and folder names.

    Every file's header is read, not only the first's: ids may change within a series. A file that
    cannot be read gives its name alone. ``retain`` are the scrub's options.
    """
    sources = Sources()
    for series in session.series:
        for name in series.files:
            sources.add(Path(name))
    if session.source == "bids":
        sources.identifiers |= _of_tables(session)
    for patient in session.patient:
        sources.identifiers |= of_value("patient id", patient)
    return frozenset(
        n
        for n in sources.searched(retain)
        # a folder may be called "pictures": that is not where the release has the word from
        if not (n.kind == "file or folder name" and n.text.casefold() in own_words())
    )


def of_path(path: Path) -> set[Identifier]:
    """Identifiers of the names of a file and of its folders, down from the root."""
    out: set[Identifier] = set()
    for part in path.parts[1:] if path.is_absolute() else path.parts:
        stem = re.sub(r"(?i)(\.(dcm|ima|dicom|img|nii|gz|json|bval|bvec|zip|tsv))+$", "", part)
        person = re.match(r"sub-[A-Za-z0-9+]+", stem)
        if person:
            out.add(Identifier("patient id", person[0]))
            # labels of a BIDS name other than the person's and the visit's stay in the release
            stem = re.sub(r"_(?!sub-|ses-)[a-z]+-[A-Za-z0-9+]+", "", stem)
            stem = re.sub(r"_[A-Za-z0-9]+$", "", stem) if "_" in stem else stem
        for word in {stem, *re.split(r"[\s_^,;()\[\]=+]+", stem), *re.split(r"[\W_]+", stem)}:
            least = LEAST["path"]
            if len(word) < least or is_technical(word) or _COUNTER.fullmatch(word):
                continue
            if re.fullmatch(r"\d{8}|\d{4}-\d\d-\d\d", word) and is_date(word.replace("-", "")):
                out |= of_date("date", word.replace("-", ""))
            elif word.isdigit():
                if len(word) >= LEAST["digits"] and int(word) >= 10**6:
                    out.add(Identifier("file or folder name", word))
            else:
                out.add(Identifier("file or folder name", word))
    return out


def of_machine() -> frozenset[Identifier]:
    """The names of this computer and of whoever works on it: they get into files by themselves."""
    names = {"host name": {socket.gethostname(), socket.getfqdn(), platform.node()}}
    with suppress(OSError, KeyError, RuntimeError):  # a process without a name has none to give
        names["user name"] = {getpass.getuser(), Path.home().name}
    return frozenset(
        Identifier(kind, text)
        for kind, texts in names.items()
        for name in texts
        for text in {name, name.partition(".")[0]}
        if len(text) >= LEAST["path"]
        and not is_technical(text)
        and not text.isdigit()
        and text.casefold() not in own_words() | closed_words() | {"localhost", "runner"}
    )


def _header(path: Path) -> Dataset | None:
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return pydicom.dcmread(path, stop_before_pixels=True, force=True)
    except Exception:  # a broken file in a source is no fault of the audit
        return None


def _raw(ds: Dataset, tag: int | None) -> tuple[int, bytes]:
    """Tag and undecoded value of an element, as :func:`_walk` remembers them."""
    item = ds.get_item(tag) if tag is not None else None
    raw = item.value if isinstance(item, RawDataElement) else None
    return int(tag or 0), raw or b""


def _of_tables(session: Session) -> set[Identifier]:
    """What a BIDS source's participants.tsv and scans.tsv say of the person."""
    from efface.audit.kept import participants, visit

    out: set[Identifier] = set()
    rows = [*participants(session), *visit(session)]
    for column, value in (cell for row in rows for cell in row.items()):
        digits = re.sub(r"\D", "", value[:10])
        if len(digits) == 8 and is_date(digits):
            out |= of_date("birth date" if re.search(r"(?i)birth|dob", column) else "date", digits)
        elif re.search(r"(?i)name", column) and column != "filename":
            out |= of_name("patient name", value)
        elif re.search(r"(?i)id$|mrn|number|address|phone|mail|hospital|site", column):
            out |= of_value("patient id", value)
    return out
