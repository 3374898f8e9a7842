"""Search every byte of what may be released for what must not get out.

A :class:`Matcher` holds the needles in every spelling and encoding and finds them in bytes;
:func:`scan` opens one file by its kind (gzip, NIfTI, DICOM, PNG, JSON, text), searches all of it,
and applies rules of structure that need no needle (private elements, a header field in use, a key
that is not on the allow-list). A :class:`Finding` says what kind of thing stands where, never the
thing itself.

Voxels are numbers: by chance they spell short words. In them only needles of at least eight
characters, four of them different, are searched, and no bare digits.
"""

from __future__ import annotations

import html
import io
import json
import math
import os
import re
import struct
import warnings
import zlib
from collections.abc import Callable, Iterable, Iterator, Mapping
from collections.abc import Set as AbstractSet
from dataclasses import dataclass
from functools import cached_property, lru_cache
from pathlib import PurePosixPath
from typing import Any, Literal

import numpy as np
import pydicom
from isal import isal_zlib
from numpy.typing import NDArray
from pydicom.datadict import dictionary_VR, keyword_for_tag, tag_for_keyword
from pydicom.dataelem import DataElement, RawDataElement
from pydicom.dataset import Dataset
from pydicom.filereader import data_element_generator
from pydicom.multival import MultiValue
from pydicom.tag import BaseTag
from pydicom.values import convert_SQ

from efface.audit.days import Days
from efface.audit.needles import LEGITIMATE, Needle, folded, spellings

_LOWER = bytes(b + 32 if 65 <= b <= 90 else b for b in range(256))
_CHUNK = 1 << 18  # bytes looked at in one go: words and flags stay in the cache
_WIDE = ("utf-16-le", "utf-16-be")
_NARROW = ("utf-8", "latin-1")
# for text beyond ASCII: the other character sets of DICOM (PS3.3 C.12.1.1.2)
_OTHER = (
    *("iso8859_2", "iso8859_3", "iso8859_4", "iso8859_5", "iso8859_6", "iso8859_7", "iso8859_8"),
    *("iso8859_9", "iso8859_11", "iso8859_15", "shift_jis", "iso2022_jp", "iso2022_jp_2"),
    *("euc_kr", "iso2022_kr", "gb18030"),
    # and what sidecars and names of files of older systems are in
    *("cp1250", "cp1251", "cp1252", "mac_roman"),
)
_MULTIPLIER = 0x9E3779B97F4A7C15  # multiplicative hashing: Knuth, TAOCP 3, section 6.4


@dataclass(frozen=True, order=True)
class Finding:
    """Something that must not be in a release, and where; never the thing itself."""

    path: str
    """Relative to what was searched; empty if the name itself is the finding."""
    kind: str
    """``patient name``, ``serial number``, …, or ``structure: …``."""
    place: str
    """Attribute, key, or byte offset."""

    def __str__(self) -> str:
        where = f"{self.path}: " if self.path else ""
        return f"{where}{self.kind} in {self.place}"


@dataclass(frozen=True)
class _Pattern:
    data: bytes
    kind: str
    width: int
    """Bytes of a character: 2 for UTF-16."""
    big: bool
    before: str
    after: str
    """What must not stand next to it: "" nothing, "d" digits, "l" letters, "a" both, "t" a time."""


class Matcher:
    """Needles, ready to be found in bytes: all of them in one pass.

    A word of every pattern is hashed into a table; NumPy looks up the words of the data in it, and
    only what hits is compared. For voxels a pattern is entered once for each place that a whole
    word of 4 or 8 bytes may have in it, so that only every fourth or eighth byte of the data is
    looked at. The time hardly depends on the number of needles: a cohort's can be searched
    together.
    """

    def __init__(self, needles: Iterable[Needle]) -> None:
        patterns: dict[bytes, _Pattern] = {}
        strong: dict[bytes, _Pattern] = {}
        weak: dict[bytes, _Pattern] = {}
        self._days = Days()
        self._whole: dict[bytes, str] = {}
        # what several kinds share goes by the one that says most
        for needle in sorted(needles, key=lambda n: (n.kind == "file or folder name", n)):
            if needle.whole:
                self._whole.setdefault(needle.text.encode(), needle.kind)
                continue
            if self._days.add(needle.kind, needle.text):
                continue
            for text in sorted(spellings(needle.text)):
                for pattern in _patterns(needle.kind, text):
                    if needle.technical:
                        weak.setdefault(pattern.data, pattern)
                    elif len(pattern.data) >= 4 or (
                        len(pattern.data) == 3 and pattern.data.isalpha()
                    ):
                        patterns.setdefault(pattern.data, pattern)
                        if _is_strong(text):
                            strong.setdefault(pattern.data, pattern)
        self.clean: set[tuple[Any, ...]] = set()
        """Elements of DICOM that were searched before and held nothing."""
        self._all = _tables(patterns.values(), _TEXT)
        self._technical = _tables((p for p in weak.values() if len(p.data) >= 3), _TEXT)
        self._of_voxels = list(strong.values())

    @cached_property
    def _strong(self) -> list[_Table]:
        # made when they are first used: a cohort's page has no voxels, but many needles
        return _tables(self._of_voxels, _VOXELS)

    def search(self, data: bytes | memoryview, *, voxels: bool = False) -> list[tuple[int, str]]:
        """Offset and kind of every needle in ``data``; in ``voxels`` only of the long ones."""
        view = memoryview(data).cast("B")
        if voxels:
            return sorted(hit for table in self._strong for hit in table.search(view))
        hits = {hit for table in self._all for hit in table.search(view)}
        return sorted(hits | set(self._days.search(view)))

    def search_people(self, data: bytes) -> list[tuple[int, str]]:
        """Offset and kind of every name that is a technical word too, in text about people."""
        return sorted(hit for table in self._technical for hit in table.search(memoryview(data)))

    def whole(self, value: bytes) -> list[str]:
        """Kinds of the short numbers that are one of the values, which backslashes part."""
        parts = value.split(b"\\") if self._whole else []
        known = (self._whole.get(part.strip(b" \0")) for part in parts)
        return [kind for kind in known if kind is not None]


def _tables(patterns: Iterable[_Pattern], forms: Iterable[tuple[int, int]]) -> list[_Table]:
    """Each pattern in the first table whose words it is long enough for."""
    by_form: dict[tuple[int, int], list[_Pattern]] = {}
    for p in patterns:
        form = next(f for f in forms if len(p.data) >= f[0] + f[1] - 1)
        by_form.setdefault(form, []).append(p)
    return [_Table(members, *form) for form, members in sorted(by_form.items())]


# bytes of a word, and bytes from one word that is looked at to the next
_TEXT = ((4, 1), (3, 1))
_VOXELS = ((8, 8), (4, 4))


class _Table:
    """Patterns by the words of ``size`` bytes at ``step`` consecutive offsets in each."""

    def __init__(self, patterns: Iterable[_Pattern], size: int, step: int) -> None:
        self.size, self.step = size, step
        self.type = np.dtype("<u8" if size == 8 else "<u4")
        # any letter with this bit is lower case; what else it changes the comparison finds out
        self.fold = self.type.type(0x2020202020202020 & ((1 << 8 * size) - 1))
        self.patterns = {p.data: p for p in patterns}
        # the places of a word: its offset in a pattern, and the pattern's length
        self.places: dict[int, tuple[tuple[int, int], ...]] = {}
        fold = int(self.fold)
        for data in self.patterns:
            length = len(data)
            # the end: many dates begin with the same year, and many UIDs with the same root
            for offset in range(length - size - step + 1, length - size + 1):
                word = int.from_bytes(data[offset : offset + size], "little") | fold
                place, known = (offset, length), self.places.get(word, ())
                if place not in known:
                    self.places[word] = (*known, place)
        self.keys = np.fromiter(sorted(self.places), self.type, len(self.places))
        bits = max(16, min(24, int(np.ceil(np.log2(len(self.keys) + 1))) + 5))
        wide = 8 * self.type.itemsize
        self.shift = self.type.type(wide - bits)
        self.multiplier = self.type.type(_MULTIPLIER >> (64 - wide) | 1)
        self.flags = np.zeros(1 << bits, bool)
        self.flags[self._hash(self.keys.copy())] = True

    def _hash(self, words: NDArray[Any]) -> NDArray[Any]:
        """The words' places in the flags; overwrites them."""
        np.multiply(words, self.multiplier, out=words)
        np.right_shift(words, self.shift, out=words)
        return words

    def search(self, data: memoryview) -> list[tuple[int, str]]:
        if self.size == 3:
            # words of four bytes are read, of which three count: the last needs one more
            data = memoryview(bytes(data) + b"\0")
        item = self.type.itemsize
        count = max(0, (len(data) - item) // self.step + 1)
        found: list[tuple[int, str]] = []
        per_chunk = _CHUNK // self.step
        for start in range(0, count, per_chunk):
            n = min(per_chunk, count - start)
            words: NDArray[Any] = np.ndarray((n,), self.type, data, start * self.step, (self.step,))
            folded = np.bitwise_or(words, self.fold)
            if self.size == 3:
                folded &= np.uint32(0xFFFFFF)
            hits = self.flags.take(self._hash(folded))
            if not hits.any():
                continue
            at = np.flatnonzero(hits)
            exact = words[at] | self.fold
            if self.size == 3:
                exact &= np.uint32(0xFFFFFF)
            # of what hashes alike, what is alike: the keys are sorted
            near = np.minimum(np.searchsorted(self.keys, exact), len(self.keys) - 1)
            same = self.keys[near] == exact
            for i, word in zip(at[same].tolist(), exact[same].tolist(), strict=True):
                self._compare(data, (start + i) * self.step, word, found)
        return found

    def _compare(
        self, data: memoryview, position: int, word: int, found: list[tuple[int, str]]
    ) -> None:
        """Add the patterns that hold ``word`` and stand where it was found."""
        for offset, length in self.places[word]:
            start = position - offset
            if start < 0:
                continue
            p = self.patterns.get(bytes(data[start : start + length]).translate(_LOWER))
            if p is None:
                continue
            before = min(start, 4)
            near = bytes(data[start - before : start + length + 8]).translate(_LOWER)
            if _alone(near, before, p):
                found.append((start, p.kind))


def scan(
    path: str,
    data: bytes,
    matcher: Matcher,
    *,
    uids: bool = True,
) -> list[Finding]:
    """All findings in one file of a release.

    ``path`` is relative to the release (POSIX); its kind decides how the bytes are read. ``uids``
    says whether a DICOM file's UIDs must be new; an object that states the option to retain UIDs
    (113110) keeps them either way, and one that states 113111 its private elements.
    """
    named = {kind for _, kind in matcher.search(os.fsencode(path))}
    if path.startswith(("bids/", "dicom/")) and not _PLACE.fullmatch(path):
        named.add("structure: a name that no release holds")
    shown = "a file with such a name" if named else path
    found = {Finding("", kind, "the name of a file or folder") for kind in named}
    return sorted(found | {Finding(shown, *f) for f in _content(path, data, matcher, uids)})


_LABEL = "[a-z2-7]{10}"
_PLACE = re.compile(
    r"bids/(dataset_description\.json|README\.md|participants\.(tsv|json)|scans\.json)"
    rf"|bids/(?P<sub>sub-{_LABEL})/(?P<ses>ses-{_LABEL})/((?P=sub)_(?P=ses)_scans\.tsv"
    r"|[a-z]+/(?P=sub)_(?P=ses)(_[a-z]+-[A-Za-z0-9+]+)*_([A-Za-z0-9]+\.(nii\.gz|json|bval|bvec)|(events|aslcontext)\.tsv))"
    rf"|dicom/sub-{_LABEL}/ses-{_LABEL}/series-{_LABEL}/\d+\.dcm"
)
"""Every name in a release: pseudonyms, and words of BIDS or of the rules for names."""


def _content(path: str, data: bytes, matcher: Matcher, uids: bool) -> Iterator[tuple[str, str]]:
    name = PurePosixPath(path).name
    plain = data
    try:
        if name.endswith(".gz"):
            name = name.removesuffix(".gz")
            plain, faults = _gunzip(data, name)
            yield from faults
            if faults:
                # a name or a comment in the header, what follows the stream. Without any, the file
                # is ten fixed bytes and the stream, whose every byte comes out when inflated
                yield from _hits(matcher, data[:4096], "gzip header at byte")
                yield from _hits(matcher, data, "compressed byte", voxels=True)
        yield from _plain(name, plain, matcher, uids)
    except Exception as e:
        yield f"structure: cannot be read ({type(e).__name__})", "the file"
        yield from _hits(matcher, data, "byte")
        if plain is not data:
            yield from _hits(matcher, plain, "inflated byte")


def _plain(name: str, data: bytes, matcher: Matcher, uids: bool) -> Iterator[tuple[str, str]]:
    if name.endswith(".nii"):
        yield from _nifti(data, matcher)
    elif name.endswith(".dcm"):
        yield from _dicom(data, matcher, uids)
    elif name.endswith(".png"):
        yield from _png(data, matcher)
    elif name.endswith(".json"):
        yield from _json(data, matcher, sidecar=name.startswith("sub-"))
    elif name.endswith((".bval", ".bvec")):
        yield from _hits(matcher, data, "byte")
        if not re.fullmatch(rb"[\s0-9eE.+\-]*(nan)?[\s0-9eE.+\-]*", data):
            yield "structure: more than numbers", "the file"
    elif name.endswith(".html"):
        yield from _hits(matcher, data, "byte")
        yield from _hits(matcher, html.unescape(data.decode()).encode(), "byte of the text")
    elif name.endswith(("_events.tsv", "_aslcontext.tsv")):
        from efface.convert.companions import cleaned

        yield from _hits(matcher, data, "byte")
        text = data.decode()
        if cleaned(name.rpartition("_")[2].removesuffix(".tsv"), text) != text:
            yield "structure: a value that is not on the allow-list", "the table"
    elif name.endswith((".tsv", ".md", ".txt")) or name in ("README", "CHANGES", ".bidsignore"):
        yield from _hits(matcher, data, "byte")
    else:
        yield "structure: a kind of file that no release holds", "the file"
        yield from _hits(matcher, data, "byte")


def _hits(
    matcher: Matcher, data: bytes | memoryview, place: str, *, voxels: bool = False, offset: int = 0
) -> Iterator[tuple[str, str]]:
    for at, kind in matcher.search(data, voxels=voxels):
        yield kind, f"{place} {at + offset}"


def _gunzip(data: bytes, name: str) -> tuple[bytes, list[tuple[str, str]]]:
    """All members decompressed; faults are names, times and comments in headers, trailing bytes.

    ``name`` without ``.gz``: an image is not inflated further than its header says, so that a small
    file cannot fill the memory. Raises :class:`ValueError` where more would come.
    """
    out, faults = [], []
    while data:
        if data[:2] != b"\x1f\x8b" or len(data) < 18:
            faults.append(("structure: bytes after the compressed data", "gzip"))
            out.append(data)
            break
        if data[3]:
            faults.append(("structure: a name or comment", "gzip header"))
        if data[4:8] != b"\0\0\0\0":
            faults.append(("structure: a time", "gzip header"))
        inflate = isal_zlib.decompressobj(wbits=31)
        start = inflate.decompress(data, 1024)
        most = sum(_extent(start)[:2]) if name.endswith(".nii") and not out else 0
        plain = start + inflate.decompress(inflate.unconsumed_tail, max(most, 0) + _SLACK)
        out.append(plain)
        if not inflate.eof:
            raise ValueError("cut off, or larger than its header says")
        data = inflate.unused_data
        if data:
            faults.append(("structure: more than one member", "gzip"))
    return b"".join(out), faults


_SLACK = 1 << 26


_NIFTI_TEXT = {
    1: {
        "data_type": (4, 10),
        "db_name": (14, 18),
        "intent_name": (328, 16),
        "descrip": (148, 80),
        "aux_file": (228, 24),
    },
    2: {"intent_name": (508, 16), "descrip": (240, 80), "aux_file": (320, 24), "unused": (525, 15)},
}


def _nifti(data: bytes, matcher: Matcher) -> Iterator[tuple[str, str]]:
    offset, voxels, version = _extent(data)
    for field, (at, length) in _NIFTI_TEXT[version].items():
        if data[at : at + length].strip(b"\0 "):
            yield "structure: text in the NIfTI header", field
    if any(data[348 if version == 1 else 540 : offset]):
        yield "structure: a NIfTI extension", "header"
    view = memoryview(data)
    yield from _hits(matcher, view[:offset], "NIfTI header at byte")
    yield from _hits(
        matcher, view[offset : offset + voxels], "voxels at byte", voxels=True, offset=offset
    )
    rest = view[offset + voxels :]
    if rest:
        yield "structure: bytes after the voxels", "the file"
        yield from _hits(matcher, rest, "byte", offset=offset + voxels)


def _extent(data: bytes) -> tuple[int, int, int]:
    """Where the voxels of a NIfTI file begin, how many bytes they are, and its version.

    Raises :class:`ValueError` or :class:`struct.error` if it is none.
    """
    sizes = {348: 1, 540: 2}
    order = next((o for o in "<>" if struct.unpack_from(o + "i", data)[0] in sizes), "")
    if not order:
        raise ValueError("not a NIfTI header")
    (size,) = struct.unpack_from(order + "i", data)
    if size == 348:
        offset = int(struct.unpack_from(order + "f", data, 108)[0])
        dim = struct.unpack_from(order + "8h", data, 40)
        bits = struct.unpack_from(order + "h", data, 72)[0]
    else:
        offset = struct.unpack_from(order + "q", data, 168)[0]
        dim = struct.unpack_from(order + "8q", data, 16)
        bits = struct.unpack_from(order + "h", data, 14)[0]
    if not 1 <= dim[0] <= 7 or min(dim[1 : dim[0] + 1]) < 0 or bits < 0 or offset < 0:
        raise ValueError("not a NIfTI header")
    return max(offset, size), bits // 8 * math.prod(dim[1 : dim[0] + 1]), sizes[size]


def _json(data: bytes, matcher: Matcher, *, sidecar: bool) -> Iterator[tuple[str, str]]:
    content = json.loads(data)
    known: set[str] = set()
    if sidecar:
        from efface.convert.sidecar import allowed, table

        # what the allow-list lets through must be the sidecar itself, key by key and value by value
        known = {*table(), *_OWN_KEYS}
        plain = {k: v for k, v in content.items() if k not in _OWN_KEYS}
        if allowed(plain) != plain:
            for key, value in plain.items():
                if key not in known:
                    yield "structure: a key that is not on the allow-list", "a sidecar"
                elif allowed({key: value}) != {key: value}:
                    yield "structure: a value that is not on the allow-list", f"key {key}"
        # a key of the list is a word of ours, also where somebody is called "Slice Timing"
        for key in known & content.keys():
            data = data.replace(f'"{key}"'.encode(), b'"' + b" " * len(key.encode()) + b'"')
    yield from _hits(matcher, data, "byte")
    strings = [(p, t) for p, t in _strings(content, "") if not (t in known and t == p)]
    strings += [(p, folded(t)) for p, t in strings if not t.isascii()]
    for where, kind in _in_values(matcher.search, [t.encode() for _, t in strings]):
        yield kind, _key(strings[where][0], known)
    for place, text in strings:
        for kind in matcher.whole(text.encode()):
            yield kind, _key(place, known)


def _key(place: str, known: AbstractSet[str]) -> str:
    """A key is named only if it is one of ours: it might be the finding."""
    return f"key {place}" if place in known else "a value"


def _in_values(
    search: Callable[[bytes], list[tuple[int, str]]], values: list[bytes]
) -> Iterator[tuple[int, str]]:
    """Index of the value and kind of every needle; the values are searched each on its own."""
    starts = np.cumsum([0] + [len(v) + 1 for v in values])
    for at, kind in search(b"\0".join(values)):
        yield int(np.searchsorted(starts, at, side="right")) - 1, kind


_OWN_KEYS = frozenset({"DeidentificationMethod", "DeidentificationMethodCodeSequence"})


def _strings(value: Any, place: str) -> Iterator[tuple[str, str]]:  # noqa: ANN401
    if isinstance(value, str):
        yield place, value
    elif isinstance(value, Mapping):
        for key, inner in value.items():
            yield place or str(key), str(key)
            yield from _strings(inner, place or str(key))
    elif isinstance(value, list):
        for inner in value:
            yield from _strings(inner, place)


def _png(data: bytes, matcher: Matcher) -> Iterator[tuple[str, str]]:
    if data[:8] != b"\x89PNG\r\n\x1a\n":
        raise ValueError("not a PNG file")
    at = 8
    pixels = []
    while at + 12 <= len(data):
        (length,) = struct.unpack_from(">I", data, at)
        kind = data[at + 4 : at + 8]
        chunk = data[at + 8 : at + 8 + length]
        if kind not in (b"IHDR", b"PLTE", b"IDAT", b"IEND"):
            yield "structure: a chunk beside the picture", "PNG"
        if kind in (b"zTXt", b"iTXt", b"iCCP"):
            yield from _hits(matcher, _deflated_text(chunk), "compressed text in PNG, byte")
        if kind == b"IDAT":
            pixels.append(chunk)
        else:
            yield from _hits(matcher, chunk, "PNG at byte", offset=at + 8)
        at += 12 + length
        if kind == b"IEND":
            break
    inflate = zlib.decompressobj()
    picture = inflate.decompress(b"".join(pixels), _SLACK)
    yield from _hits(matcher, picture, "inflated pixels at byte", voxels=True)
    if inflate.unused_data or inflate.unconsumed_tail:
        yield "structure: bytes after the pixels", "PNG"
        yield from _hits(matcher, inflate.unused_data, "byte after the pixels")
    if at != len(data):
        yield "structure: bytes after the picture", "PNG"
        yield from _hits(matcher, data[at:], "byte", offset=at)


def _deflated_text(chunk: bytes) -> bytes:
    """What is compressed in a PNG chunk of text or colours; empty if nothing can be inflated."""
    for at in (i for i, c in enumerate(chunk[:512]) if c == 0x78):  # how zlib streams begin
        try:
            return zlib.decompressobj().decompress(chunk[at:], _SLACK)
        except zlib.error:
            continue
    return b""


# Elements that hold a picture of the head beside the pixels that were defaced
_PICTURES = {0x00880200: "an icon", 0x7FE00008: "float pixel data", 0x7FE00009: "float pixel data"}
_NO_INSTANCE = frozenset({0x00020010, 0x00020012, 0x00020013})
# group length, version, class, instance, transfer syntax, implementation (PS3.10 Table 7.1-1)
_META = frozenset(0x00020000 | e for e in (0x00, 0x01, 0x02, 0x03, 0x10, 0x12, 0x13))
_PN_FREE = ("", "REMOVED", "sub-")


def _dicom(data: bytes, matcher: Matcher, uids: bool) -> Iterator[tuple[str, str]]:
    if data[128:132] != b"DICM":
        yield "structure: no DICOM preamble", "the file"
    elif any(data[:128]):
        yield "structure: something in the preamble", "byte 0"
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        elements, syntax, offset = _elements(data)
        if syntax == _DEFLATED:
            data, after = _inflated(data)
            if after.strip(b"\0"):
                yield "structure: bytes after the compressed data", "the file"
                yield from _hits(matcher, after, "byte after the compressed data")
            elements, syntax, offset = _elements(data)
        seen: set[str] = set()
        for place, kind in _attributes(elements, matcher, uids):
            seen.add(kind)
            yield kind, place
    rest = memoryview(data)[offset:]
    tail, pixels = _after(rest, syntax)
    if _expected(elements, syntax) < pixels:
        yield "structure: more bytes than the image has pixels", "(7fe0,0010) PixelData"
    for at, kind in matcher.search(memoryview(data)[:offset]):
        if kind not in seen:
            yield kind, f"byte {at}"
    yield from _hits(matcher, rest[:pixels], "pixels at byte", voxels=True, offset=offset)
    if tail:
        yield "structure: something after the pixels", f"byte {len(data) - len(tail)}"
        yield from _hits(matcher, tail, "byte", offset=len(data) - len(tail))


_DEFLATED = "1.2.840.10008.1.2.1.99"
_MOST_INFLATED = 1 << 30


def _inflated(data: bytes) -> tuple[bytes, bytes]:
    """A deflated file (PS3.5 A.5) as one that is not, and what follows its stream.

    Raises :class:`ValueError` if it is cut off or inflates to more than 1 GiB.
    """
    (length,) = struct.unpack_from("<I", data, 140)
    meta, inflate = data[: 144 + length], zlib.decompressobj(-15)
    plain = inflate.decompress(data[len(meta) :], _MOST_INFLATED)
    if not inflate.eof:
        raise ValueError("cut off, or larger than an image")
    plainly = _PLAIN_SYNTAX.encode().ljust(len(_DEFLATED), b"\0")
    return meta.replace(_DEFLATED.encode(), plainly) + plain, inflate.unused_data


_PLAIN_SYNTAX = "1.2.840.10008.1.2.1"


def _elements(data: bytes) -> tuple[list[_Element], str, int]:
    """All elements up to the pixels, undecoded; the transfer syntax; where the pixels begin.

    Raises :class:`ValueError` if something other than pixels follows the last element.
    """
    stream = io.BytesIO(data)
    plain = data[128:132] == b"DICM"
    stream.seek(132)
    meta = list(data_element_generator(stream, False, True, _past_meta)) if plain else []
    texts = [_bytes_of(e) for e in meta if int(e.tag) == 0x00020010]
    syntax = texts[0].decode("latin-1").strip("\0 ") if texts else ""
    if syntax not in _SYNTAXES and not syntax.startswith("1.2.840.10008.1.2.4."):
        # no preamble, no meta, or deflated: pydicom finds its way
        ds = pydicom.dcmread(io.BytesIO(data), force=True)
        items = [ds.get_item(t) for t in ds.keys()]  # noqa: SIM118 - else it decodes every element
        return [*meta, *(i for i in items if i is not None)], syntax, len(data)
    implicit, little = _SYNTAXES.get(syntax, (False, True))
    elements = list(data_element_generator(stream, implicit, little, _at_pixels))
    offset = stream.tell()
    for e in elements:
        if isinstance(e, RawDataElement) and len(e.value or b"") != e.length:
            raise ValueError("truncated")
    start = b"\xe0\x7f\x10\x00" if little else b"\x7f\xe0\x00\x10"
    if data[offset : offset + 4] != start:
        raise ValueError("no pixels where the elements end")
    return [*meta, *elements], syntax, offset


_Element = RawDataElement | DataElement
_SYNTAXES = {
    "1.2.840.10008.1.2": (True, True),
    "1.2.840.10008.1.2.1": (False, True),
    "1.2.840.10008.1.2.2": (False, False),
    "1.2.840.10008.1.2.5": (False, True),
}
"""Transfer syntaxes as implicit VR, little endian (PS3.5 Annex A); all of 1.2.4 are explicit."""


def _past_meta(tag: BaseTag, _vr: str | None, _length: int) -> bool:
    return int(tag) >> 16 != 2


def _at_pixels(tag: BaseTag, _vr: str | None, _length: int) -> bool:
    return int(tag) == 0x7FE00010  # pydicom's own comparison is slow


def _attributes(
    elements: Iterable[_Element], matcher: Matcher, uids: bool
) -> Iterator[tuple[str, str]]:
    """Place and kind of findings in the elements of a data set, each value on its own.

    Elements that held nothing are remembered: most are the same in all files of a series.
    """
    elements = list(elements)
    stated = _stated(elements)
    uids = uids and "113110" not in stated
    private = "113111" not in stated
    values: list[bytes] = []
    places: list[tuple[int, tuple[int, ...]]] = []
    forms: list[str] = []

    def add(n: int, place: tuple[int, ...], vr: str, content: bytes) -> None:
        values.append(content)
        places.append((n, place))
        forms.append(vr)

    rules: list[tuple[int, tuple[int, ...], str]] = []
    keys: dict[int, tuple[Any, ...]] = {}
    for n, top in enumerate(elements):
        if isinstance(top, RawDataElement):
            key = (int(top.tag), top.VR, top.value, uids, private)
            if key in matcher.clean:
                continue
            keys[n] = key
        for place, vr, content in _flat(top, ()):
            rules += [(n, place, rule) for rule in _rules(place[-1], vr, content, uids, private)]
            if content:
                add(n, place, vr, content)
                if vr in _OF_PEOPLE and not content.isascii():
                    add(n, place, vr, _without_accents(content))
    if not any(int(e.tag) == 0x00120062 for e in elements):
        rules.append((-1, (0x00120062,), _NOT_STATED))
    dirty = {n for n, _, _ in rules}
    for _, place, rule in rules:
        yield _named(place), rule
    for where, kind in _in_values(matcher.search, values):
        n, place = places[where]
        dirty.add(n)
        yield _named(place), kind
    for (n, place), vr, content in zip(places, forms, values, strict=True):
        for kind in matcher.whole(content) if vr in _OF_PEOPLE and place[-1] != _CODE else ():
            dirty.add(n)
            yield _named(place), kind
    about = [i for i, vr in enumerate(forms) if vr in _OF_PEOPLE and places[i][1][-1] not in _OURS]
    for where, kind in _in_values(matcher.search_people, [values[i] for i in about]):
        n, place = places[about[where]]
        dirty.add(n)
        yield _named(place), kind
    if len(matcher.clean) > _REMEMBERED:
        matcher.clean.clear()
    matcher.clean.update(k for n, k in keys.items() if n not in dirty and len(k[2] or b"") <= 4096)


def _without_accents(text: bytes) -> bytes:
    """A text in plain letters: somebody may have written García where the header has Garcia."""
    try:
        return folded(text.decode()).encode()
    except UnicodeDecodeError:
        return folded(text.decode("latin-1")).encode()


_CODE = 0x00080100  # Code Value: a number of a coding scheme
_OF_PEOPLE = frozenset(("LO", "LT", "PN", "SH", "ST", "UC", "UT"))
_OURS = frozenset(
    tag
    for keyword in (
        *(*LEGITIMATE, "CodeMeaning", "CodeValue", "DeidentificationMethod"),
        *("PositionReferenceIndicator", "MultiCoilConfiguration", "MultiCoilElementName"),
        *("ReceiveCoilManufacturerName", "TransmitCoilManufacturerName", "ASLTechniqueDescription"),
        *("ASLCrusherDescription", "ASLBolusCutoffTechnique", "WindowCenterWidthExplanation"),
        *("RescaleType", "LUTLabel", "LUTExplanation", "DimensionDescriptionLabel"),
    )
    if (tag := tag_for_keyword(keyword)) is not None
)
"""What a release says of the scanner and of itself, in closed lists of words."""
_REMEMBERED = 100_000
_NOT_STATED = "structure: not stated as de-identified"


def _flat(e: _Element, inside: tuple[int, ...]) -> Iterator[tuple[tuple[int, ...], str, bytes]]:
    """Tags down to every value of an element, its VR and bytes; sequences themselves too."""
    place = (*inside, int(e.tag))
    vr = e.VR or _vr(int(e.tag))
    if vr != "SQ":
        yield place, vr, _bytes_of(e)
        return
    yield place, vr, b""
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
                yield from _flat(inner, place)


def _rules(tag: int, vr: str, content: bytes, uids: bool, private: bool) -> Iterator[str]:
    """What is wrong with an element whatever the needles are."""
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
        if not (text in _PN_FREE or text.startswith("sub-")):
            yield "structure: a person's name that is no pseudonym"
    elif vr == "UI" and uids and tag not in _NO_INSTANCE:
        for uid in content.decode("latin-1").split("\\"):
            if uid.strip("\0 ") and not uid.startswith(("2.25.", "1.2.840.10008.")):
                yield "structure: a UID that is not new"
    elif tag == 0x00120062 and content.strip(b"\0 ") != b"YES":
        yield _NOT_STATED


def _stated(elements: Iterable[_Element]) -> frozenset[str]:
    """Codes of the options (CID 7050) by which the object says that it was de-identified."""
    return frozenset(
        content.strip(b"\0 ").decode("latin-1")
        for e in elements
        if int(e.tag) == 0x00120064
        for place, _, content in _flat(e, ())
        if place == (0x00120064, 0x00080100)
    )


def _expected(elements: Iterable[_Element], syntax: str) -> int:
    """The most bytes that native pixel data may take, its own header included."""
    if syntax not in _SYNTAXES:
        return 1 << 62  # compressed
    order: Literal["little", "big"] = "little" if _SYNTAXES[syntax][1] else "big"
    facts = {int(e.tag): _bytes_of(e) for e in elements if int(e.tag) in _SIZE}
    bits = 1
    for tag, default in _SIZE.items():
        value = facts.get(tag, b"")
        if tag == 0x00280008:
            digits = value.strip(b"\0 ")
            bits *= int(digits) if digits.isdigit() else default
        else:
            bits *= int.from_bytes(value[:2], order) if value else default
    return 12 + (bits + 7) // 8 + 1  # padded to even length


# rows, columns, bits allocated, samples, frames; and what counts if one is missing
_SIZE = {0x00280010: 0, 0x00280011: 0, 0x00280100: 16, 0x00280002: 1, 0x00280008: 1}


def _after(rest: memoryview, syntax: str) -> tuple[memoryview, int]:
    """What stands after the pixel data, and the bytes of the pixel data with its header."""
    if len(rest) < 8:
        return rest, 0
    order = ">" if syntax == "1.2.840.10008.1.2.2" else "<"
    if syntax == "1.2.840.10008.1.2":
        head, (length,) = 8, struct.unpack_from("<I", rest, 4)
    else:
        head, (length,) = 12, struct.unpack_from(order + "I", rest, 8)
    if length != 0xFFFFFFFF:
        return rest[head + length :], head + length
    # encapsulated: item by item to the sequence delimiter
    at = head
    while at + 8 <= len(rest):
        tag, (length,) = rest[at : at + 4], struct.unpack_from(order + "I", rest, at + 4)
        at += 8
        if bytes(tag) == b"\xfe\xff\xdd\xe0":
            break
        at += length
    return rest[at:], at


@lru_cache(maxsize=4096)
def _named(place: tuple[int, ...]) -> str:
    """(gggg,eeee) and the standard's keyword of every tag down to an element."""
    names = []
    for tag in place:
        word = keyword_for_tag(tag) if not (tag >> 16) % 2 else ""
        names.append(f"({tag >> 16:04x},{tag & 0xFFFF:04x}) {word}".strip())
    return " ".join(names)


@lru_cache(maxsize=4096)
def _vr(tag: int) -> str:
    try:
        return dictionary_VR(tag)
    except KeyError:
        return "UN"


def _bytes_of(e: _Element) -> bytes:
    """An element's value as it stands in the file, or as text where pydicom decoded it."""
    value = e.value
    if isinstance(value, bytes):
        return value
    many = value if isinstance(value, (list, tuple, MultiValue)) else [value]
    return "\\".join("" if v is None else str(v) for v in many).encode()


def _patterns(kind: str, text: str) -> Iterator[_Pattern]:
    before, after = _edges(text)
    narrow = _NARROW if text.isascii() else (*_NARROW, *_OTHER)
    for encoding in (*narrow, *_WIDE):
        try:
            data = text.encode(encoding).translate(_LOWER)
        except UnicodeEncodeError:
            continue
        width = 2 if encoding in _WIDE else 1
        yield _Pattern(data, kind, width, encoding == "utf-16-be", before, after)


def _edges(text: str) -> tuple[str, str]:
    """What must not stand before and after a needle for it to be one.

    >>> _edges("Anna"), _edges("Quillfeather"), _edges("7741902"), _edges("19710423")
    (('l', 'l'), ('', ''), ('d', 'd'), ('d', 't'))
    """
    if re.fullmatch(r"(1[89]|20)\d\d[01]\d[0-3]\d", text):
        return "d", "t"  # a date may be followed by a time
    if re.search(r"\d", text) and len(text) < 8 and re.search(r"[A-Za-z]", text):
        return "a", "a"
    if text.isalpha() and text.isascii():
        return ("l", "l") if len(text) < 6 else ("", "")
    start = "d" if text[0].isdigit() else "l" if text[0].isalpha() and len(text) < 8 else ""
    end = "d" if text[-1].isdigit() else "l" if text[-1].isalpha() and len(text) < 8 else ""
    return start, end


def _is_strong(text: str) -> bool:
    return (
        len(text) >= 8
        and len(set(text.lower())) >= 4
        and (len(text) >= 16 or sum(c.isalpha() for c in text) >= 6)
        and not text.isdigit()
    )


def _alone(data: bytes, at: int, p: _Pattern) -> bool:
    """Whether a pattern found at ``at`` is no part of a longer word or number."""
    end = at + len(p.data)

    def char(position: int) -> int:
        """The character at a byte position as a number; 0 if there is none."""
        piece = data[max(position, 0) : max(position + p.width, 0)]
        # half a character at an end: text of the other byte order, one byte off
        return int.from_bytes(piece, "big" if p.big else "little") if piece else 0

    if len(p.data) == 3:
        # so short a name is one only between ASCII that is no letter
        return not any(_letter(c) or c >= 128 for c in (char(at - 1), char(end)))
    if p.before:
        one, two = char(at - p.width), char(at - 2 * p.width)
        if p.before in "al" and _letter(one):
            return False
        if p.before in "ad" and (_digit(one) or (one == 46 and _digit(two))):
            return False
    if p.after:
        if p.after in "al" and _letter(char(end)):
            return False
        if p.after in "ad" and (
            _digit(char(end)) or (char(end) == 46 and _digit(char(end + p.width)))
        ):
            return False
        if p.after == "t" and _digit(char(end)):
            # the date is one if hours and minutes follow
            clock = "".join(chr(char(end + k * p.width) % 128) for k in range(4))
            return bool(re.fullmatch(r"([01]\d|2[0-3])[0-5]\d", clock))
    return True


def _letter(c: int) -> bool:
    return 97 <= c <= 122


def _digit(c: int) -> bool:
    return 48 <= c <= 57
