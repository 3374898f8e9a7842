"""Sidecars, tables, gradients, pages and other text."""

from __future__ import annotations

import html
import json
import re
from collections.abc import Iterator, Mapping
from collections.abc import Set as AbstractSet

from efface.audit.encodings import folded
from efface.audit.matcher import Matcher
from efface.audit.readers.hits import Hit, search, search_values

_OWN_KEYS = frozenset({"DeidentificationMethod", "DeidentificationMethodCodeSequence"})
"""Keys that efface adds to every sidecar."""


def json_hits(data: bytes, matcher: Matcher, *, sidecar: bool) -> Iterator[Hit]:
    """What must not be in a JSON file; a ``sidecar`` holds nothing but what its allow-list does."""
    content = json.loads(data)
    known: AbstractSet[str] = frozenset()
    if sidecar:
        from efface.convert.sidecar import allowed, table

        # what the allow-list lets through must be the sidecar itself, key by key and value by value
        known = {*table(), *_OWN_KEYS}
        plain = {k: v for k, v in content.items() if k not in _OWN_KEYS}
        if allowed(plain) != plain:
            for key, value in plain.items():
                if key not in known:
                    yield Hit("structure: a key that is not on the allow-list", "a sidecar")
                elif allowed({key: value}) != {key: value}:
                    yield Hit("structure: a value that is not on the allow-list", f"key {key}")
        # a key of the allow-list is no identifier, also where somebody is called "Slice Timing"
        for key in known & content.keys():
            data = data.replace(f'"{key}"'.encode(), b'"' + b" " * len(key.encode()) + b'"')
    yield from search(matcher, data, "byte")
    strings = [(p, t) for p, t in _strings(content, "") if not (t in known and t == p)]
    strings += [(p, folded(t)) for p, t in strings if not t.isascii()]
    for index, kind in search_values(matcher.search, [t.encode() for _, t in strings]):
        yield Hit(kind, _place(strings[index][0], known))
    for key, text in strings:
        for kind in matcher.whole_values(text.encode()):
            yield Hit(kind, _place(key, known))


def gradient_hits(data: bytes, matcher: Matcher) -> Iterator[Hit]:
    """What must not be in b-values or b-vectors: anything but numbers."""
    yield from search(matcher, data, "byte")
    if not re.fullmatch(rb"[\s0-9eE.+\-]*(nan)?[\s0-9eE.+\-]*", data):
        yield Hit("structure: more than numbers", "the file")


def page_hits(data: bytes, matcher: Matcher) -> Iterator[Hit]:
    """What must not be in an HTML page, as bytes and as the text that a browser shows."""
    yield from search(matcher, data, "byte")
    yield from search(matcher, html.unescape(data.decode()).encode(), "byte of the text")


def companion_hits(data: bytes, matcher: Matcher, suffix: str) -> Iterator[Hit]:
    """What must not be in a table beside an image, ``events`` or ``aslcontext`` by its suffix."""
    from efface.convert.companions import cleaned

    yield from search(matcher, data, "byte")
    text = data.decode()
    if cleaned(suffix, text) != text:
        yield Hit("structure: a value that is not on the allow-list", "the table")


def _place(key: str, known: AbstractSet[str]) -> str:
    """A key is printed only if it is on the allow-list: else it may be the identifier."""
    return f"key {key}" if key in known else "a value"


def _strings(value: object, key: str) -> Iterator[tuple[str, str]]:
    """Every string in a JSON value, keys included, with the outermost key that it stands under."""
    if isinstance(value, str):
        yield key, value
    elif isinstance(value, Mapping):
        for inner_key, inner in value.items():
            yield key or str(inner_key), str(inner_key)
            yield from _strings(inner, key or str(inner_key))
    elif isinstance(value, list):
        for inner in value:
            yield from _strings(inner, key)
