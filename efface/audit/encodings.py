"""Spellings of a text and the character encodings that it may be stored in."""

from __future__ import annotations

import unicodedata
from collections.abc import Iterator, Mapping
from typing import NamedTuple

_WIDE = ("utf-16-le", "utf-16-be")
_NARROW = ("utf-8", "latin-1")
# for text beyond ASCII: the other character sets of DICOM (PS3.3 C.12.1.1.2)
_OTHER = (
    *("iso8859_2", "iso8859_3", "iso8859_4", "iso8859_5", "iso8859_6", "iso8859_7", "iso8859_8"),
    *("iso8859_9", "iso8859_11", "iso8859_15", "shift_jis", "iso2022_jp", "iso2022_jp_2"),
    *("euc_kr", "iso2022_kr", "gb18030"),
    # and those of sidecars and file names of older systems
    *("cp1250", "cp1251", "cp1252", "mac_roman"),
)


class Encoded(NamedTuple):
    """A text as bytes."""

    data: bytes
    width: int
    """Bytes of a character: 2 for UTF-16, else 1."""
    big: bool
    """Whether the byte order is big-endian."""


def encoded(text: str) -> Iterator[Encoded]:
    """``text`` in every encoding that can represent it."""
    narrow = _NARROW if text.isascii() else (*_NARROW, *_OTHER)
    for encoding in (*narrow, *_WIDE):
        try:
            data = text.encode(encoding)
        except UnicodeEncodeError:
            continue
        yield Encoded(data, 2 if encoding in _WIDE else 1, encoding == "utf-16-be")


def spellings(text: str) -> set[str]:
    """``text`` in other spellings of its letters: without accents, decomposed, ä as ae.

    Letters of ASCII keep their case, which the search ignores.
    """
    forms = {text}
    if not text.isascii():
        forms |= {unicodedata.normalize(f, text) for f in ("NFC", "NFD")}
        two_letters = unicodedata.normalize("NFC", text).translate(_TWO_LETTERS)
        forms |= {folded(text), folded(two_letters), text.upper(), text.lower(), text.casefold()}
    return forms


def folded(text: str) -> str:
    """The text without accents and with plain letters.

    >>> folded("García"), folded("Łøß")
    ('Garcia', 'Loss')
    """
    plain = "".join(c for c in unicodedata.normalize("NFD", text) if not unicodedata.combining(c))
    return plain.translate(_PLAIN)


def folded_bytes(text: bytes) -> bytes:
    """:func:`folded` of UTF-8, or of Latin-1 where the bytes are no UTF-8."""
    try:
        return folded(text.decode()).encode()
    except UnicodeDecodeError:
        return folded(text.decode("latin-1")).encode()


def _both_cases(letters: Mapping[str, str]) -> dict[int, str]:
    return str.maketrans({**letters, **{k.upper(): v.capitalize() for k, v in letters.items()}})


_TWO_LETTERS = _both_cases({"ä": "ae", "ö": "oe", "ü": "ue", "å": "aa", "ø": "oe"})
# letters that Unicode does not decompose into a letter and an accent
_PLAIN = _both_cases({"ø": "o", "ł": "l", "đ": "d", "ð": "d", "ħ": "h", "æ": "ae", "œ": "oe"})
_PLAIN |= {ord("ı"): "i", ord("ß"): "ss", ord("þ"): "th", ord("Þ"): "Th"}
