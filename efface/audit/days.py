"""Find given dates in bytes, in any spelling."""

from __future__ import annotations

import re
from collections.abc import Iterator

# The first letters of the months in English, and in German, Dutch, French, Spanish, Portuguese
# and Italian where these differ; without accents.
_MONTHS = (
    *("jan ene gen", "feb fev", "mar mrt mrz mae maa", "apr abr avr", "may mai mei mag"),
    *("jun juin giu", "jul juil lug", "aug ago aou", "sep set", "oct okt out ott", "nov"),
    "dec dez dic des",
)
_NUMBERS = {name.encode(): n for n, names in enumerate(_MONTHS, 1) for name in names.split()}
_MONTH = b"(" + b"|".join(sorted(_NUMBERS, reverse=True)) + b")[a-z]{0,7}"
_BETWEEN = rb"(?:[-/._, ]{0,2}| de )"
_YEAR = rb"([0-9]{4}|[0-9]{2})(?![0-9])"
_TH = rb"(?:st|nd|rd|th)?"
# The first digit of a number. Every expression starts with a digit, so that the search runs from
# digit to digit: five times as fast on headers as with the look behind in front.
_FIRST = rb"[0-9](?<![0-9][0-9])"

# 1963-04-17, 17.4.63, 4/17/1963, 17 04 1963; not within a version or a UID. All but the first digit
# is looked for ahead, because the first number of "12-17-04-1963" belongs to no date.
_OF_NUMBERS = re.compile(
    _FIRST + rb"(?<![0-9]\.[0-9])(?=([0-9]{0,3})([-/._] ?| )([0-9]{1,2})\2([0-9]{1,4})"
    rb"(?![0-9]|\.[0-9]))"
)
# 17APR1963, 17. April 1963, 17th-Apr-63
_DAY_FIRST = re.compile(_FIRST + rb"[0-9]?" + _TH + _BETWEEN + _MONTH + _BETWEEN + _YEAR)
# 1963-Apr-17, 1963APR17
_YEAR_FIRST = re.compile(
    _FIRST + rb"[0-9]{3}" + _BETWEEN + _MONTH + _BETWEEN + rb"([0-9]{1,2})(?![0-9])"
)
# April 17, 1963; Apr-17-63: the month is searched for before each match
_MONTH_FIRST = re.compile(_FIRST + rb"[0-9]?" + _TH + rb"(?:, ?|[-/._ ])" + _YEAR)
_MONTH_BEFORE = re.compile(_MONTH + _BETWEEN + rb"\Z")
_LONGEST_MONTH = 14
# In every form with a month by name a digit follows the month
_MONTH_AND_DIGIT = re.compile(_MONTH + _BETWEEN + rb"[0-9]")
# A digit and four more characters of UTF-16, of either byte order: no date is shorter
_WIDE = re.compile(rb"[0-9]\0(?:[^\0]\0){4}")
_ISO = re.compile(r"(\d{4})-(\d\d)-(\d\d)")


class Days:
    """Dates to search for, in any order of day, month and year, the year with two or four digits.

    Dates are added first (:meth:`add`), then searched for (:meth:`search`).
    """

    def __init__(self) -> None:
        self._kinds: dict[tuple[int, int, int], str] = {}
        self._years: dict[tuple[int, int, int], list[int]] = {}

    def add(self, kind: str, text: str) -> bool:
        """Add an ISO date, unless it is known; whether the text is an ISO date."""
        iso = _ISO.fullmatch(text)
        if not iso:
            return False
        year, month, day = map(int, iso.groups())
        if (year, month, day) not in self._kinds:
            self._kinds[year, month, day] = kind
            self._years.setdefault((year % 100, month, day), []).append(year)
        return True

    def search(self, data: bytes | memoryview) -> Iterator[tuple[int, str]]:
        """Offset and kind of every date in ``data``, in UTF-16 or any extension of ASCII."""
        if not self._kinds:
            return
        low = bytes(data).lower()
        for start, _, kind in self._spelled(low):
            yield start, kind
        if not _WIDE.search(low):
            return
        for first in (0, 1):
            half, other = low[first::2], low[1 - first :: 2]
            for start, end, kind in self._spelled(half):
                # a zero byte follows or precedes each character; at an end it may be missing
                between = other[start + first : end - 1 + first]
                if not any(between):
                    yield first + 2 * start, kind

    def _spelled(self, data: bytes) -> Iterator[tuple[int, int, str]]:
        for m in _OF_NUMBERS.finditer(data):
            a, separator, b, c = m[0] + m[1], m[2], m[3], m[4]
            # "17 04 1963" is a date, "0 5 1000" is a list of numbers
            if separator == b" " and not (len(b) == 2 and {len(a), len(c)} == {2, 4}):
                continue
            for year, month, day in ((a, b, c), (c, b, a), (c, a, b)):
                yield from self._known(m.start(), m.end(4), year, int(month), day)
        if not _MONTH_AND_DIGIT.search(data):
            return
        for m in _DAY_FIRST.finditer(data):
            yield from self._known(m.start(), m.end(), m[2], _NUMBERS[m[1]], _number(m[0]))
        for m in _YEAR_FIRST.finditer(data):
            yield from self._known(m.start(), m.end(), m[0][:4], _NUMBERS[m[1]], m[2])
        for m in _MONTH_FIRST.finditer(data):
            at = max(0, m.start() - _LONGEST_MONTH)
            before = _MONTH_BEFORE.search(data, at, m.start())
            if before:
                month, day = _NUMBERS[before[1]], _number(m[0])
                yield from self._known(before.start(), m.end(), m[1], month, day)

    def _known(
        self, start: int, end: int, year: bytes, month: int, day: bytes
    ) -> Iterator[tuple[int, int, str]]:
        if len(year) not in (2, 4) or len(day) > 2:
            return
        for known in self._years.get((int(year) % 100, month, int(day)), ()):
            if len(year) == 2 or int(year) == known:
                yield start, end, self._kinds[known, month, int(day)]


def _number(text: bytes) -> bytes:
    """The one or two digits at the start of a match."""
    return text[: 2 if text[1:2].isdigit() else 1]
