"""Items of encapsulated pixel data (PS3.5 A.4): where each fragment lies, and where they end."""

from __future__ import annotations

import struct
from collections.abc import Callable
from dataclasses import dataclass

ITEM = 0xFFFEE000
SEQUENCE_END = 0xFFFEE0DD
MOST_ITEMS = 1 << 20
"""More items than an image has."""

_HEAD = struct.Struct("<HHI")


class BrokenItemsError(ValueError):
    """The bytes are no sequence of items; the message says what is wrong with them."""


class TruncatedItemsError(BrokenItemsError):
    """An item is longer than the data."""


@dataclass(frozen=True)
class Items:
    """The items of one pixel data element."""

    places: tuple[tuple[int, int], ...]
    """Offset and length of each item's value: the basic offset table, then the fragments."""
    end: int
    """Offset of what follows the sequence delimiter, or of what follows the last item."""
    delimited: bool
    """Whether the sequence delimiter is there."""


def walk_items(read: Callable[[int, int], bytes], start: int, size: int) -> Items:
    """Walk the items from offset ``start`` on, of data of ``size`` bytes.

    ``read`` returns the bytes from an offset on, of a length; only the heads of items are read.
    Raises :class:`BrokenItemsError` for a tag that is no item, and for more than
    :data:`MOST_ITEMS`; :class:`TruncatedItemsError` for an item beyond the end of the data.
    """
    places: list[tuple[int, int]] = []
    position = start
    while position + _HEAD.size <= size:
        group, number, length = _HEAD.unpack(read(position, _HEAD.size))
        position += _HEAD.size
        if group << 16 | number == SEQUENCE_END:
            return Items(tuple(places), position, delimited=True)
        if group << 16 | number != ITEM:
            raise BrokenItemsError("broken pixel fragments")
        if position + length > size:
            raise TruncatedItemsError("truncated pixel fragments")
        places.append((position, length))
        if len(places) > MOST_ITEMS:
            raise BrokenItemsError("more pixel fragments than an image has")
        position += length
    return Items(tuple(places), position, delimited=False)
