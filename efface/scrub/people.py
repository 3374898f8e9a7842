"""Statements about persons in DICOM files, read from elements as in the inventory."""

from __future__ import annotations

import warnings
from collections.abc import Iterable
from dataclasses import dataclass, replace

from pydicom.charset import convert_encodings
from pydicom.values import convert_text

from efface.inventory.identity import Statement, Verdict, cross_check, state
from efface.inventory.walk import SourceFile
from efface.pseudonym import Key
from efface.scrub.codec import DamagedError, Element, load, read_file
from efface.scrub.engine import encodings
from efface.scrub.table import wanted_private

_STUDY, _SERIES = 0x0020000D, 0x0020000E
_OTHER_IDS, _OTHER_IDS_SEQUENCE = 0x00101000, 0x00101002
_QUALIFIERS, _AUTHORITY = 0x00100024, 0x00400032
_PATIENT, _ISSUER = 0x00100020, 0x00100021
_NAME, _BIRTH, _SEX = 0x00100010, 0x00100030, 0x00100040
_WHOSE = (_STUDY, _PATIENT)


def statement(elements: Iterable[Element], key: Key) -> Statement | None:
    """Statement of a file about its person; ``None`` without study or series."""
    by_tag = {e.tag: e for e in elements}
    charset = encodings(list(by_tag.values()), [])

    def text(tag: int, inside: dict[int, Element] = by_tag) -> str:
        texts = _texts(inside.get(tag), charset)
        return texts[0] if texts else ""

    def of_items(sequence: int, tag: int) -> list[str]:
        items = (by_tag[sequence].items if sequence in by_tag else None) or []
        return [t for item in items if (t := text(tag, {e.tag: e for e in item}))]

    if not (text(_STUDY) and text(_SERIES)):
        return None
    others = [*_texts(by_tag.get(_OTHER_IDS), charset), *of_items(_OTHER_IDS_SEQUENCE, _PATIENT)]
    return state(
        key,
        text(_STUDY),
        text(_PATIENT),
        text(_ISSUER),
        authority=next(iter(of_items(_QUALIFIERS, _AUTHORITY)), ""),
        name=text(_NAME),
        birth=text(_BIRTH),
        sex=text(_SEX),
        others=others,
    )


@dataclass(frozen=True)
class FileIdentity:
    """Study and patient id of a file, as needed to group the files of a folder."""

    file: SourceFile
    """With a reason if it cannot be read."""
    study: str = ""
    """Study Instance UID and Patient ID, the bytes decoded as Latin-1."""
    patient: str = ""


def survey(paths: Iterable[SourceFile], key: Key) -> tuple[list[FileIdentity], Verdict]:
    """Read the header of every file of a folder, and cross-check what they state.

    Files are read as in the scrub, with its limits. A file beyond them (deep nesting, an inflated
    header) gives no statement and is not read for identifiers either.
    """
    read: list[FileIdentity] = []
    statements = set()
    for file in paths:
        if file.reason:
            read.append(FileIdentity(file))
            continue
        try:
            elements = read_file(load(file.path), wanted_private(()))[1]
        except DamagedError as e:
            read.append(FileIdentity(replace(file, reason=e.args[0])))
            continue
        one = statement(elements, key)
        if one is not None:
            statements.add(one)
        plain = {e.tag: e.value.decode("latin-1").strip("\0 ") for e in elements if e.tag in _WHOSE}
        read.append(FileIdentity(file, plain.get(_STUDY, ""), plain.get(_PATIENT, "")))
    return read, cross_check(statements)


def _texts(element: Element | None, charset: list[str]) -> list[str]:
    """The values of an element, as pydicom decodes them."""
    if element is None or not element.value:
        return []
    value = element.value
    if value.isascii() and b"\x1b" not in value:
        return [v.strip(" \0") for v in value.decode().split("\\")]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        text = convert_text(value, convert_encodings(charset or None), "LO")
    return [v.strip(" \0") for v in ([text] if isinstance(text, str) else text)]
