"""The leak scan: search every byte of what may be released for what must not be in a release.

:func:`scan` reads one file by its kind (:mod:`efface.audit.readers`), searches all of it for the
identifiers of a :class:`efface.audit.matcher.Matcher`, and checks its structure. A
:class:`Finding` says what kind of identifier is where, never the identifier itself.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import PurePosixPath

from efface.audit.matcher import Matcher
from efface.audit.readers import compressed, dicom, nifti, png, text
from efface.audit.readers.hits import Hit, search


@dataclass(frozen=True, order=True)
class Finding:
    """Something that must not be in a release, and where; never the thing itself."""

    path: str
    """Relative to what was searched; empty if the name itself is the finding."""
    kind: str
    """``patient name``, ``serial number``, …, or ``structure: …``."""
    place: str
    """Attribute, key, or byte offset."""

    def __str__(self) -> str:
        where = f"{self.path}: " if self.path else ""
        return f"{where}{self.kind} in {self.place}"


_LABEL = "[a-z2-7]{10}"
_PATH = re.compile(
    r"bids/(dataset_description\.json|README\.md|participants\.(tsv|json)|scans\.json)"
    rf"|bids/(?P<sub>sub-{_LABEL})/(?P<ses>ses-{_LABEL})/((?P=sub)_(?P=ses)_scans\.tsv"
    r"|[a-z]+/(?P=sub)_(?P=ses)(_[a-z]+-[A-Za-z0-9+]+)*_([A-Za-z0-9]+\.(nii\.gz|json|bval|bvec)|(events|aslcontext)\.tsv))"
    rf"|dicom/sub-{_LABEL}/ses-{_LABEL}/series-{_LABEL}/\d+\.dcm"
)
"""Every path in a release: pseudonyms, and words of BIDS or of the rules for names."""


def scan(path: str, data: bytes, matcher: Matcher, *, uids: bool = True) -> list[Finding]:
    """All findings in one file of a release, sorted.

    ``path`` is relative to the release (POSIX); its kind decides how the bytes are read. ``uids``
    says whether a DICOM file's UIDs must be new; an object that states the option to retain UIDs
    (113110) keeps them either way, and one that states 113111 its private elements. A file that
    cannot be read is a finding.
    """
    kinds = {kind for _, kind in matcher.search(os.fsencode(path))}
    if path.startswith(("bids/", "dicom/")) and not _PATH.fullmatch(path):
        kinds.add("structure: a name that no release holds")
    shown = "a file with such a name" if kinds else path
    findings = {Finding("", kind, "the name of a file or folder") for kind in kinds}
    return sorted(findings | {Finding(shown, *hit) for hit in _hits(path, data, matcher, uids)})


def _hits(path: str, data: bytes, matcher: Matcher, uids: bool) -> Iterator[Hit]:
    """What must not be in a file; compressed files are inflated first."""
    name = PurePosixPath(path).name
    content = data
    try:
        if name.endswith(".gz"):
            name = name.removesuffix(".gz")
            content, faults = compressed.inflate(data, name)
            yield from compressed.hits(data, faults, matcher)
        yield from _content_hits(name, content, matcher, uids)
    except Exception as e:
        yield Hit(f"structure: cannot be read ({type(e).__name__})", "the file")
        yield from search(matcher, data, "byte")
        if content is not data:
            yield from search(matcher, content, "inflated byte")


def _content_hits(name: str, data: bytes, matcher: Matcher, uids: bool) -> Iterator[Hit]:
    """What must not be in a file's content, read by the kind that its name tells."""
    if name.endswith(".nii"):
        yield from nifti.hits(data, matcher)
    elif name.endswith(".dcm"):
        yield from dicom.hits(data, matcher, uids=uids)
    elif name.endswith(".png"):
        yield from png.hits(data, matcher)
    elif name.endswith(".json"):
        yield from text.json_hits(data, matcher, sidecar=name.startswith("sub-"))
    elif name.endswith((".bval", ".bvec")):
        yield from text.gradient_hits(data, matcher)
    elif name.endswith(".html"):
        yield from text.page_hits(data, matcher)
    elif name.endswith(("_events.tsv", "_aslcontext.tsv")):
        suffix = name.rpartition("_")[2].removesuffix(".tsv")
        yield from text.companion_hits(data, matcher, suffix)
    elif name.endswith((".tsv", ".md", ".txt")) or name in ("README", "CHANGES", ".bidsignore"):
        yield from search(matcher, data, "byte")
    else:
        yield Hit("structure: a kind of file that no release holds", "the file")
        yield from search(matcher, data, "byte")
