"""Value representations (VR) of the standard's attributes."""

from functools import lru_cache

from pydicom.datadict import dictionary_VR


@lru_cache(maxsize=8192)
def standard_vr(tag: int) -> str:
    """VR by pydicom's dictionary (``US or SS`` where it depends), ``UN`` if it has none."""
    try:
        return dictionary_VR(tag)
    except KeyError:
        return "UN"
