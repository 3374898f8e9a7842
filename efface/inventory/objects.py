"""DICOM object types: the allow-list of MR images, and the reasons against all other types."""

from __future__ import annotations

from pydicom.uid import UID

from efface.status import (
    NO_IMAGE,
    NOT_MR,
    OBJECT_TYPE_NOT_ALLOWED,
    SECONDARY_CAPTURE,
    STRUCTURED_REPORT,
)

_STORAGE = "1.2.840.10008.5.1.4.1.1."

MR_IMAGE = _STORAGE + "4"
ENHANCED_MR = _STORAGE + "4.1"
LEGACY_CONVERTED_ENHANCED_MR = _STORAGE + "4.4"

ALLOWED = frozenset({MR_IMAGE, ENHANCED_MR, LEGACY_CONVERTED_ENHANCED_MR})
"""SOP classes (PS3.4 B.5) that the next stages process."""

_OTHER_MODALITIES = tuple(
    _STORAGE + number
    # PS3.4 table B.5-1: CR and DX, CT, ultrasound, XA and RF, NM, photographs, PET, RT
    for number in ("1", "2", "3", "6", "12", "13", "20", "77", "128", "130", "481")
)


def reason(sop_class: str) -> str:
    """Reason against objects of this SOP class; empty for MR images.

    >>> reason("1.2.840.10008.5.1.4.1.1.2")
    'not MR: CT Image Storage'
    >>> reason(ENHANCED_MR)
    ''
    """
    if sop_class in ALLOWED:
        return ""
    if sop_class == "1.2.840.10008.1.3.10":
        return f"{NO_IMAGE}: DICOMDIR"
    if not sop_class:
        return f"{NO_IMAGE}: no SOP class"
    tail = sop_class.removeprefix(_STORAGE)
    if tail == "7" or tail.startswith("7."):
        return SECONDARY_CAPTURE
    # 88.x are the reports; pydicom also knows four retired trial classes under 88
    if tail.startswith("88."):
        return STRUCTURED_REPORT
    if any(sop_class == p or sop_class.startswith(p + ".") for p in _OTHER_MODALITIES):
        return _named(NOT_MR, sop_class)
    return _named(OBJECT_TYPE_NOT_ALLOWED, sop_class)


def _named(phrase: str, sop_class: str) -> str:
    # only names from the standard: a private UID or a text of the file could identify the site
    name = UID(sop_class).name
    return phrase if name == sop_class else f"{phrase}: {name}"
