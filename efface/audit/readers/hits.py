"""What the readers yield."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Callable, Iterator, Sequence
from itertools import accumulate
from typing import NamedTuple

from efface.audit.matcher import Match, Matcher


class Hit(NamedTuple):
    """Something that must not be in a file of a release."""

    kind: str
    """Of the identifier (``patient name``, ``serial number``, …), or ``structure: …``."""
    place: str
    """Attribute, key, or byte offset; never the value."""


def search(
    matcher: Matcher,
    data: bytes | memoryview,
    place: str,
    *,
    voxels: bool = False,
    offset: int = 0,
) -> Iterator[Hit]:
    """Every identifier in ``data``, which starts at byte ``offset`` of the file."""
    for at, kind in matcher.search(data, voxels=voxels):
        yield Hit(kind, f"{place} {at + offset}")


def search_values(
    search: Callable[[bytes], list[Match]], values: Sequence[bytes]
) -> Iterator[tuple[int, str]]:
    """Index of the value and kind of every identifier; each value is searched on its own."""
    starts = [0, *accumulate(len(v) + 1 for v in values)]
    for at, kind in search(b"\0".join(values)):
        yield bisect_right(starts, at) - 1, kind
