"""The DICOM data dictionary (PS3.6), as pydicom has it, for the scrub and for the leak scan."""

from __future__ import annotations

from functools import lru_cache

from pydicom.datadict import dictionary_VR


@lru_cache(maxsize=8192)
def standard_vr(tag: int) -> str:
    """VR of an attribute; several joined by ``or`` if it depends, ``UN`` for an unknown tag.

    >>> standard_vr(0x00100010), standard_vr(0x00280106), standard_vr(0x00091001)
    ('PN', 'US or SS', 'UN')
    """
    try:
        return dictionary_VR(tag)
    except KeyError:
        return "UN"
