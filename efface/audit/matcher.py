"""Search for all identifiers of a source in bytes, in one pass."""

from __future__ import annotations

from collections.abc import Hashable, Iterable, Iterator
from functools import cached_property
from typing import NamedTuple

from daachorse import DoubleArrayAhoCorasick

from efface.audit.days import Days
from efface.audit.encodings import spellings
from efface.audit.identifiers import Identifier
from efface.audit.patterns import CONTEXT, Pattern, is_distinctive, patterns, stands_alone

_CHUNK = 1 << 18
"""Bytes searched at a time: the lower-case copy stays in the cache."""


class Match(NamedTuple):
    """An identifier in bytes."""

    offset: int
    kind: str
    """Of the identifier: ``patient name``, ``serial number``, …; never its text."""


class Matcher:
    """All identifiers of a source, in every spelling and encoding, in any case of ASCII letters.

    The time of a search hardly depends on the number of identifiers, so those of a cohort can be
    searched together. Voxels are numbers, which spell short words by chance: in them only
    distinctive identifiers are searched (:func:`efface.audit.patterns.is_distinctive`).
    """

    def __init__(self, identifiers: Iterable[Identifier]) -> None:
        text: dict[bytes, Pattern] = {}
        voxels: dict[bytes, Pattern] = {}
        technical: dict[bytes, Pattern] = {}
        self._days = Days()
        self._short_numbers: dict[bytes, str] = {}
        # a text that several kinds share goes by the kind that says most
        for one in sorted(identifiers, key=lambda i: (i.kind == "file or folder name", i)):
            if one.whole:
                self._short_numbers.setdefault(one.text.encode(), one.kind)
                continue
            if self._days.add(one.kind, one.text):
                continue
            for spelling in sorted(spellings(one.text)):
                for pattern in patterns(one.kind, spelling):
                    length = len(pattern.data)
                    if one.technical:
                        if length >= 3:
                            technical.setdefault(pattern.data, pattern)
                    elif length >= 4 or (length == 3 and pattern.data.isalpha()):
                        text.setdefault(pattern.data, pattern)
                        if is_distinctive(spelling):
                            voxels.setdefault(pattern.data, pattern)
        self._text = _Automaton(text.values())
        self._technical = _Automaton(technical.values())
        self._voxel_patterns = list(voxels.values())
        self.clean: set[Hashable] = set()
        """DICOM elements that were searched before and held no identifier."""

    @cached_property
    def _voxels(self) -> _Automaton:
        # built when first used: the files of a cohort have no voxels, but many identifiers
        return _Automaton(self._voxel_patterns)

    def search(self, data: bytes | memoryview, *, voxels: bool = False) -> list[Match]:
        """Every identifier in ``data``, sorted; in ``voxels`` only distinctive ones."""
        view = memoryview(data).cast("B")
        if voxels:
            return sorted(self._voxels.search(view))
        days = (Match(offset, kind) for offset, kind in self._days.search(view))
        return sorted({*self._text.search(view), *days})

    def search_people(self, data: bytes) -> list[Match]:
        """Every name that is a technical word too, for text about people."""
        return sorted(self._technical.search(memoryview(data)))

    def whole_values(self, value: bytes) -> list[str]:
        """Kinds of the short numbers that are one of the values, which backslashes separate."""
        parts = value.split(b"\\") if self._short_numbers else []
        kinds = (self._short_numbers.get(part.strip(b" \0")) for part in parts)
        return [kind for kind in kinds if kind is not None]


class _Automaton:
    """Aho-Corasick automaton of patterns, whose matches must stand alone."""

    def __init__(self, patterns: Iterable[Pattern]) -> None:
        self._patterns = list(patterns)
        keys = [p.data for p in self._patterns]
        self._automaton = DoubleArrayAhoCorasick(keys) if keys else None
        self._longest = max(map(len, keys), default=0)

    def search(self, data: memoryview) -> Iterator[Match]:
        if self._automaton is None:
            return
        for first in range(0, len(data), _CHUNK):
            chunk = bytes(data[first : first + _CHUNK + self._longest - 1]).lower()
            for start, end, number in self._automaton.find_overlapping(chunk):
                if start >= _CHUNK:
                    continue  # the next chunk finds it again
                pattern, at = self._patterns[number], first + start
                before = min(at, CONTEXT)
                context = bytes(data[at - before : first + end + CONTEXT]).lower()
                if stands_alone(context, before, pattern):
                    yield Match(at, pattern.kind)
