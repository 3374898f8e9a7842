"""DICOM elements: identifiers in their values, and elements that a release may not have."""

from __future__ import annotations

from collections.abc import Hashable, Iterable, Iterator, Sequence
from functools import lru_cache
from typing import NamedTuple

from pydicom.datadict import keyword_for_tag, tag_for_keyword
from pydicom.dataelem import DataElement, RawDataElement
from pydicom.dataset import Dataset
from pydicom.multival import MultiValue
from pydicom.values import convert_SQ

from efface.audit.attributes import SCANNER_KEYWORDS
from efface.audit.encodings import folded_bytes
from efface.audit.matcher import Matcher
from efface.audit.readers.hits import Hit, search_values
from efface.dictionary import standard_vr

Element = RawDataElement | DataElement

_CODE_VALUE = 0x00080100
"""A number of a coding scheme, no number of a person."""
_IDENTITY_REMOVED = 0x00120062
_METHOD_CODES = 0x00120064
_OF_PEOPLE = frozenset(("LO", "LT", "PN", "SH", "ST", "UC", "UT"))
"""VRs of text that may be about people."""
_OF_SCANNER = frozenset(
    tag
    for keyword in (
        *(*SCANNER_KEYWORDS, "CodeMeaning", "CodeValue", "DeidentificationMethod"),
        *("PositionReferenceIndicator", "MultiCoilConfiguration", "MultiCoilElementName"),
        *("ReceiveCoilManufacturerName", "TransmitCoilManufacturerName", "ASLTechniqueDescription"),
        *("ASLCrusherDescription", "ASLBolusCutoffTechnique", "WindowCenterWidthExplanation"),
        *("RescaleType", "LUTLabel", "LUTExplanation", "DimensionDescriptionLabel"),
    )
    if (tag := tag_for_keyword(keyword)) is not None
)
"""What a release says of the scanner and of itself, in closed lists of words."""
_PICTURES = {0x00880200: "an icon", 0x7FE00008: "float pixel data", 0x7FE00009: "float pixel data"}
"""Elements that hold a picture of the head beside the pixels that were defaced."""
_NOT_OF_INSTANCES = frozenset({0x00020010, 0x00020012, 0x00020013})
# group length, version, class, instance, transfer syntax, implementation (PS3.10 Table 7.1-1)
_META = frozenset(0x00020000 | e for e in (0x00, 0x01, 0x02, 0x03, 0x10, 0x12, 0x13))
_NO_NAMES = ("", "REMOVED")
_NOT_STATED = "structure: not stated as de-identified"
_MOST_REMEMBERED = 100_000


class _Value(NamedTuple):
    """One value to search."""

    element: int
    """Index of the outermost element."""
    path: tuple[int, ...]
    """Tags down to the value."""
    vr: str
    content: bytes


def element_hits(elements: Sequence[Element], matcher: Matcher, uids: bool) -> Iterator[Hit]:
    """What must not be in the elements of a data set; each value is searched on its own.

    ``uids``: whether UIDs must be new. An object that states the option to retain UIDs (113110)
    keeps them either way, and one that states 113111 its private elements. Elements that held
    nothing are remembered in ``matcher.clean``: most are the same in all files of a series.
    """
    options = _options(elements)
    uids = uids and "113110" not in options
    private = "113111" not in options
    values: list[_Value] = []
    dirty: set[int] = set()
    keys: dict[int, Hashable] = {}
    for n, top in enumerate(elements):
        if isinstance(top, RawDataElement):
            key = (int(top.tag), top.VR, top.value, uids, private)
            if key in matcher.clean:
                continue
            if len(top.value or b"") <= 4096:
                keys[n] = key
        for path, vr, content in _flat(top, ()):
            for rule in _rules(path[-1], vr, content, uids, private):
                dirty.add(n)
                yield Hit(rule, _named(path))
            if content:
                values.append(_Value(n, path, vr, content))
                if vr in _OF_PEOPLE and not content.isascii():
                    # somebody may have written García where the header has Garcia
                    values.append(_Value(n, path, vr, folded_bytes(content)))
    if not any(int(e.tag) == _IDENTITY_REMOVED for e in elements):
        yield Hit(_NOT_STATED, _named((_IDENTITY_REMOVED,)))
    for value, kind in _identifiers(values, matcher):
        dirty.add(value.element)
        yield Hit(kind, _named(value.path))
    if len(matcher.clean) > _MOST_REMEMBERED:
        matcher.clean.clear()
    matcher.clean.update(key for n, key in keys.items() if n not in dirty)


def _identifiers(values: list[_Value], matcher: Matcher) -> Iterator[tuple[_Value, str]]:
    """Values that hold an identifier, and its kind."""
    for index, kind in search_values(matcher.search, [v.content for v in values]):
        yield values[index], kind
    texts = [v for v in values if v.vr in _OF_PEOPLE]
    for value in texts:
        if value.path[-1] != _CODE_VALUE:
            for kind in matcher.whole_values(value.content):
                yield value, kind
    about_people = [v for v in texts if v.path[-1] not in _OF_SCANNER]
    for index, kind in search_values(matcher.search_people, [v.content for v in about_people]):
        yield about_people[index], kind


def _flat(e: Element, parents: tuple[int, ...]) -> Iterator[tuple[tuple[int, ...], str, bytes]]:
    """Tags down to every value of an element, its VR and bytes; sequences themselves too."""
    path = (*parents, int(e.tag))
    vr = e.VR or standard_vr(int(e.tag))
    if vr != "SQ":
        yield path, vr, value_bytes(e)
        return
    yield path, vr, b""
    items: Iterable[Dataset]
    if isinstance(e, RawDataElement):
        raw = e.value or b""
        items = convert_SQ(raw, e.is_implicit_VR, e.is_little_endian) if raw else ()
    else:
        items = e.value or ()
    for item in items:
        for tag in item.keys():  # noqa: SIM118 - iterating the data set decodes every element
            inner = item.get_item(tag)
            if inner is not None:
                yield from _flat(inner, path)


def _rules(tag: int, vr: str, content: bytes, uids: bool, private: bool) -> Iterator[str]:
    """What is wrong with an element, whatever the identifiers are."""
    group = tag >> 16
    if group % 2 and private:
        yield "structure: a private element"
    if group == 2 and tag not in _META:
        yield "structure: more in the file meta than an object needs"
    if tag in _PICTURES:
        yield f"structure: {_PICTURES[tag]}"
    if 0x6000 <= group <= 0x60FF or 0x5000 <= group <= 0x50FF:
        yield "structure: an overlay or a curve"
    if not content:
        return
    if vr == "PN":
        text = content.decode("latin-1").strip("\0 ")
        if not (text in _NO_NAMES or text.startswith("sub-")):
            yield "structure: a person's name that is no pseudonym"
    elif vr == "UI" and uids and tag not in _NOT_OF_INSTANCES:
        for uid in content.decode("latin-1").split("\\"):
            if uid.strip("\0 ") and not uid.startswith(("2.25.", "1.2.840.10008.")):
                yield "structure: a UID that is not new"
    elif tag == _IDENTITY_REMOVED and content.strip(b"\0 ") != b"YES":
        yield _NOT_STATED


def _options(elements: Iterable[Element]) -> frozenset[str]:
    """Codes of the options (CID 7050) by which the object says that it was de-identified."""
    codes: set[str] = set()
    for e in elements:
        if int(e.tag) == _METHOD_CODES:
            # without the offset in the file the element is the same in all files of a series
            if isinstance(e, RawDataElement):
                codes |= _codes_of_raw(e._replace(value_tell=0))
            else:
                codes |= _codes(e)
    return frozenset(codes)


def _codes(e: Element) -> frozenset[str]:
    return frozenset(
        content.strip(b"\0 ").decode("latin-1")
        for path, _, content in _flat(e, ())
        if path == (_METHOD_CODES, _CODE_VALUE)
    )


_codes_of_raw = lru_cache(maxsize=256)(_codes)


@lru_cache(maxsize=4096)
def _named(path: tuple[int, ...]) -> str:
    """(gggg,eeee) and the standard's keyword of every tag down to an element."""
    names = []
    for tag in path:
        word = keyword_for_tag(tag) if not (tag >> 16) % 2 else ""
        names.append(f"({tag >> 16:04x},{tag & 0xFFFF:04x}) {word}".strip())
    return " ".join(names)


def value_bytes(e: Element) -> bytes:
    """An element's value as it is in the file, or as text where pydicom decoded it."""
    value = e.value
    if isinstance(value, bytes):
        return value
    many = value if isinstance(value, (list, tuple, MultiValue)) else [value]
    return "\\".join("" if v is None else str(v) for v in many).encode()
