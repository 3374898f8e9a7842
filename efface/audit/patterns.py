"""Byte patterns of an identifier, and what may stand beside a match for it to count."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

from efface.audit.encodings import encoded

Border = Literal["", "digits", "letters", "both", "time"]
"""Characters that must not follow or precede a match; ``time``: digits other than hhmm."""

CONTEXT = 8
"""Bytes on either side of a match that :func:`stands_alone` needs."""


@dataclass(frozen=True)
class Pattern:
    """One spelling of an identifier in one encoding, in lower case."""

    data: bytes
    kind: str
    """Of the identifier: ``patient name``, ``serial number``, …"""
    width: int
    """Bytes of a character: 2 for UTF-16."""
    big: bool
    """Whether the byte order is big-endian."""
    before: Border
    after: Border


def patterns(kind: str, text: str) -> Iterator[Pattern]:
    """The patterns of one spelling, one for each encoding."""
    before, after = borders(text)
    for form in encoded(text):
        yield Pattern(form.data.lower(), kind, form.width, form.big, before, after)


def borders(text: str) -> tuple[Border, Border]:
    """What must not stand before and after a match.

    >>> borders("Anna"), borders("Quillfeather"), borders("7741902"), borders("19710423")
    (('letters', 'letters'), ('', ''), ('digits', 'digits'), ('digits', 'time'))
    """
    if re.fullmatch(r"(1[89]|20)\d\d[01]\d[0-3]\d", text):
        return "digits", "time"  # a date may be followed by a time
    if re.search(r"\d", text) and len(text) < 8 and re.search(r"[A-Za-z]", text):
        return "both", "both"
    if text.isalpha() and text.isascii():
        return ("letters", "letters") if len(text) < 6 else ("", "")
    return _border(text[0], len(text)), _border(text[-1], len(text))


def _border(character: str, length: int) -> Border:
    if character.isdigit():
        return "digits"
    return "letters" if character.isalpha() and length < 8 else ""


def is_distinctive(text: str) -> bool:
    """Whether a text is searched in voxels, which spell shorter texts by chance."""
    return (
        len(text) >= 8
        and len(set(text.lower())) >= 4
        and (len(text) >= 16 or sum(c.isalpha() for c in text) >= 6)
        and not text.isdigit()
    )


def stands_alone(data: bytes, at: int, pattern: Pattern) -> bool:
    """Whether a match is no part of a longer word or number.

    ``data`` is lower case and holds the match at offset ``at``, with :data:`CONTEXT` bytes on
    either side where there are so many.
    """
    end = at + len(pattern.data)

    def char(position: int) -> int:
        """The character at a byte position as a number; 0 outside the data."""
        piece = data[max(position, 0) : max(position + pattern.width, 0)]
        # half a character at an end: text of the other byte order, one byte off
        return int.from_bytes(piece, "big" if pattern.big else "little") if piece else 0

    if len(pattern.data) == 3:
        # a name of three letters counts only between ASCII characters that are no letters
        return not any(_is_letter(c) or c >= 128 for c in (char(at - 1), char(end)))
    one, two = char(at - pattern.width), char(at - 2 * pattern.width)
    if pattern.before in ("letters", "both") and _is_letter(one):
        return False
    if pattern.before in ("digits", "both") and _continues_number(one, two):
        return False
    one, two = char(end), char(end + pattern.width)
    if pattern.after in ("letters", "both") and _is_letter(one):
        return False
    if pattern.after in ("digits", "both") and _continues_number(one, two):
        return False
    if pattern.after == "time" and _is_digit(one):
        clock = "".join(chr(char(end + k * pattern.width) % 128) for k in range(4))
        return bool(re.fullmatch(r"([01]\d|2[0-3])[0-5]\d", clock))
    return True


def _continues_number(next_to: int, beyond: int) -> bool:
    """Whether a digit, or a decimal point and a digit, stands next to a match."""
    return _is_digit(next_to) or (next_to == 46 and _is_digit(beyond))


def _is_letter(c: int) -> bool:
    return 97 <= c <= 122


def _is_digit(c: int) -> bool:
    return 48 <= c <= 57
