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
import re
import struct
import warnings
import zlib
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import PurePosixPath
from typing import Any

import numpy as np
import pydicom
from isal import isal_zlib
from numpy.typing import NDArray
from pydicom.datadict import dictionary_VR, keyword_for_tag
from pydicom.dataelem import RawDataElement
from pydicom.dataset import Dataset

from efface.audit.needles import Needle, spellings

_LOWER = bytes(b + 32 if 65 <= b <= 90 else b for b in range(256))
_CHUNK = 1 << 20
_WIDE = ("utf-16-le", "utf-16-be")
_NARROW = ("utf-8", "latin-1")
# for text beyond ASCII: the other character sets of DICOM (PS3.3 C.12.1.1.2)
_OTHER = (
    *("iso8859_2", "iso8859_5", "iso8859_6", "iso8859_7", "iso8859_8", "iso8859_9"),
    *("shift_jis", "iso2022_jp", "euc_kr", "gb18030"),
)
_MULTIPLIER = np.uint32(2654435761)


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

    The first four bytes of every pattern are hashed into a table; NumPy looks up every position
    of the data in it, and only the few that hit are compared. The time hardly depends on the
    number of needles, so a cohort's can be searched together.
    """

    def __init__(self, needles: Iterable[Needle]) -> None:
        patterns: dict[bytes, _Pattern] = {}
        strong: dict[bytes, _Pattern] = {}
        self._short: dict[bytes, str] = {}
        # what several kinds share goes by the one that says most
        for needle in sorted(needles, key=lambda n: (n.kind == "file or folder name", n)):
            for text in sorted(spellings(needle.text)):
                for pattern in _patterns(needle.kind, text):
                    if len(pattern.data) == 3 and pattern.data.isalpha():
                        self._short.setdefault(pattern.data, needle.kind)
                    elif len(pattern.data) >= 4:
                        patterns.setdefault(pattern.data, pattern)
                        if _is_strong(text):
                            strong.setdefault(pattern.data, pattern)
        self._all, self._strong = _Table(patterns.values()), _Table(strong.values())

    def search(self, data: bytes, *, voxels: bool = False) -> list[tuple[int, str]]:
        """Offset and kind of every needle in ``data``; in ``voxels`` only of the long ones."""
        folded = data.translate(_LOWER)
        found = (self._strong if voxels else self._all).search(folded)
        if self._short and not voxels:
            for word in re.finditer(rb"(?<![a-z\x80-\xff])[a-z]{3}(?![a-z\x80-\xff])", folded):
                kind = self._short.get(word.group())
                if kind:
                    found.append((word.start(), kind))
        return sorted(found)


class _Table:
    def __init__(self, patterns: Iterable[_Pattern]) -> None:
        self.by_key: dict[int, list[_Pattern]] = {}
        for p in patterns:
            self.by_key.setdefault(int.from_bytes(p.data[:4], "little"), []).append(p)
        keys = np.array(sorted(self.by_key), np.uint32)
        bits = max(16, min(26, int(np.ceil(np.log2(len(keys) + 1))) + 9))
        self.shift = np.uint32(32 - bits)
        self.flags = np.zeros(1 << bits, bool)
        self.flags[self._hash(keys)] = True
        self.keys = keys

    def _hash(self, words: NDArray[np.uint32]) -> NDArray[np.uint32]:
        return np.asarray((words * _MULTIPLIER) >> self.shift)

    def search(self, folded: bytes) -> list[tuple[int, str]]:
        if not self.by_key or len(folded) < 4:
            return []
        found = []
        for start in range(0, len(folded) - 3, _CHUNK):
            end = min(start + _CHUNK, len(folded) - 3)
            for k in range(4):
                count = (end - start - k + 3) // 4
                if count <= 0:
                    continue
                words = np.frombuffer(folded, "<u4", count, start + k)
                at = np.flatnonzero(self.flags[self._hash(words)])
                if not at.size:
                    continue
                # of what hashes alike, what is alike: the keys are sorted
                near = np.searchsorted(self.keys, words[at]).clip(max=len(self.keys) - 1)
                at = at[self.keys[near] == words[at]]
                for i in at.tolist():
                    position = start + k + 4 * i
                    for p in self.by_key[int(words[i])]:
                        if folded.startswith(p.data, position) and _alone(folded, position, p):
                            found.append((position, p.kind))
        return found


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
    (113110) keeps them either way.
    """
    named = {kind for _, kind in matcher.search(path.encode())}
    shown = "a file with such a name" if named else path
    found = {Finding("", kind, "the name of a file or folder") for kind in named}
    return sorted(found | {Finding(shown, *f) for f in _content(path, data, matcher, uids)})


def _content(path: str, data: bytes, matcher: Matcher, uids: bool) -> Iterator[tuple[str, str]]:
    name = PurePosixPath(path).name
    try:
        if name.endswith(".gz"):
            plain, faults = _gunzip(data)
            yield from faults
            # the compressed bytes too: names can stand in the gzip header
            yield from _hits(matcher, data, "compressed byte", voxels=True)
            yield from _hits(matcher, data[:64], "gzip header at byte")
            yield from _plain(name[:-3], plain, matcher, uids)
        else:
            yield from _plain(name, data, matcher, uids)
    except Exception as e:
        yield f"structure: cannot be read ({type(e).__name__})", "the file"
        yield from _hits(matcher, data, "byte")


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
    elif name.endswith((".tsv", ".md", ".txt")) or name in ("README", "CHANGES", ".bidsignore"):
        yield from _hits(matcher, data, "byte")
    else:
        yield "structure: a kind of file that no release holds", "the file"
        yield from _hits(matcher, data, "byte")


def _hits(
    matcher: Matcher, data: bytes, place: str, *, voxels: bool = False, offset: int = 0
) -> Iterator[tuple[str, str]]:
    for at, kind in matcher.search(data, voxels=voxels):
        yield kind, f"{place} {at + offset}"


def _gunzip(data: bytes) -> tuple[bytes, list[tuple[str, str]]]:
    """All members decompressed; faults are names, times and comments in headers, trailing bytes."""
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
        out.append(inflate.decompress(data))
        data = inflate.unused_data
        if data:
            faults.append(("structure: more than one member", "gzip"))
    return b"".join(out), faults


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
    (size,) = struct.unpack_from("<i", data)
    order = "<" if size in (348, 540) else ">"
    (size,) = struct.unpack_from(order + "i", data)
    version = {348: 1, 540: 2}[size]
    for field, (at, length) in _NIFTI_TEXT[version].items():
        if data[at : at + length].strip(b"\0 "):
            yield "structure: text in the NIfTI header", field
    if version == 1:
        offset = int(struct.unpack_from(order + "f", data, 108)[0])
        dim = struct.unpack_from(order + "8h", data, 40)
        bits = struct.unpack_from(order + "h", data, 72)[0]
    else:
        offset = struct.unpack_from(order + "q", data, 168)[0]
        dim = struct.unpack_from(order + "8q", data, 16)
        bits = struct.unpack_from(order + "h", data, 14)[0]
    offset = max(offset, size)
    if any(data[size:offset]):
        yield "structure: a NIfTI extension", "header"
    voxels = bits // 8
    for n in dim[1 : dim[0] + 1]:
        voxels *= n
    yield from _hits(matcher, data[:offset], "NIfTI header at byte")
    yield from _hits(matcher, data[offset : offset + voxels], "voxels at byte", voxels=True)
    rest = data[offset + voxels :]
    if rest:
        yield "structure: bytes after the voxels", "the file"
        yield from _hits(matcher, rest, "byte", offset=offset + voxels)


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
    for where, kind in _in_values(matcher, [t.encode() for _, t in strings]):
        # a key is named only if it is one of ours: it might be the finding
        place = strings[where][0]
        yield kind, f"key {place}" if place in known else "a value"


def _in_values(matcher: Matcher, values: list[bytes]) -> Iterator[tuple[int, str]]:
    """Index of the value and kind of every needle; the values are searched each on its own."""
    starts = np.cumsum([0] + [len(v) + 1 for v in values])
    for at, kind in matcher.search(b"\0".join(values)):
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
    while at + 12 <= len(data):
        (length,) = struct.unpack_from(">I", data, at)
        kind = data[at + 4 : at + 8]
        chunk = data[at + 8 : at + 8 + length]
        if kind not in (b"IHDR", b"PLTE", b"IDAT", b"IEND"):
            yield "structure: a chunk beside the picture", "PNG"
        yield from _hits(matcher, chunk, "PNG at byte", voxels=kind == b"IDAT", offset=at + 8)
        at += 12 + length
        if kind == b"IEND":
            break
    if at != len(data):
        yield "structure: bytes after the picture", "PNG"
        yield from _hits(matcher, data[at:], "byte", offset=at)


# Elements that hold a picture of the head beside the pixels that were defaced
_PICTURES = {0x00880200: "an icon", 0x7FE00008: "float pixel data", 0x7FE00009: "float pixel data"}
_NO_INSTANCE = frozenset({0x00020010, 0x00020012, 0x00020013})
_PN_FREE = ("", "REMOVED", "sub-")


def _dicom(data: bytes, matcher: Matcher, uids: bool) -> Iterator[tuple[str, str]]:
    if data[128:132] != b"DICM":
        yield "structure: no DICOM preamble", "the file"
    elif any(data[:128]):
        yield "structure: something in the preamble", "byte 0"
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        stream = io.BytesIO(data)
        ds = pydicom.dcmread(stream, stop_before_pixels=True, force=True)
        offset = stream.tell()
        syntax = str(getattr(ds.file_meta, "TransferSyntaxUID", ""))
        if syntax == "1.2.840.10008.1.2.1.99":
            yield "structure: a deflated data set", "the file"
            (length,) = struct.unpack_from("<I", data, 140)
            yield from _hits(matcher, zlib.decompress(data[144 + length :], -15), "inflated byte")
            offset = len(data)
        seen: set[str] = set()
        retained = _retains_uids(ds)
        for place, kind in _attributes(ds, matcher, uids and not retained):
            seen.add(kind)
            yield kind, place
        tail, pixels = _after(data[offset:], syntax)
        for at, kind in matcher.search(data[:offset]):
            if kind not in seen:
                yield kind, f"byte {at}"
        yield from _hits(
            matcher, data[offset : offset + pixels], "pixels at byte", voxels=True, offset=offset
        )
        if tail:
            yield "structure: something after the pixels", f"byte {len(data) - len(tail)}"
            yield from _hits(matcher, tail, "byte", offset=len(data) - len(tail))


def _attributes(ds: Dataset, matcher: Matcher, uids: bool) -> Iterator[tuple[str, str]]:
    """Place and kind of findings in the elements of a data set, each value on its own."""
    values: list[bytes] = []
    places: list[str] = []
    rules: list[tuple[str, str]] = []
    stack: list[tuple[str, Dataset]] = [("", ds), ("", ds.file_meta)]
    while stack:
        inside, items = stack.pop()
        for tag in items.keys():  # noqa: SIM118 - iterating the data set decodes every element
            raw = items.get_item(tag)
            number = int(tag)
            place = inside + _named(number)
            if tag.is_private:
                rules.append((place, "structure: a private element"))
            if number in _PICTURES:
                rules.append((place, f"structure: {_PICTURES[number]}"))
            if 0x6000 <= tag.group <= 0x60FF or 0x5000 <= tag.group <= 0x50FF:
                rules.append((place, "structure: an overlay or a curve"))
            vr = raw.VR or _vr(number)
            if vr == "SQ":
                for item in items[tag].value or ():
                    stack.append((f"{place} ", item))
                continue
            content = raw.value if isinstance(raw, RawDataElement) else _encoded(raw.value)
            if not content:
                continue
            values.append(content)
            places.append(place)
            text = content.decode("latin-1").strip("\0 ") if vr in ("PN", "UI") else ""
            if vr == "PN" and not (text in _PN_FREE or text.startswith("sub-")):
                rules.append((place, "structure: a person's name that is no pseudonym"))
            if vr == "UI" and uids and number not in _NO_INSTANCE:
                for uid in text.split("\\"):
                    if uid.strip("\0") and not uid.startswith(("2.25.", "1.2.840.10008.")):
                        rules.append((place, "structure: a UID that is not new"))
            if number == 0x00120062 and content.strip(b"\0 ") != b"YES":
                rules.append((place, "structure: not stated as de-identified"))
    if (0x0012, 0x0062) not in ds:
        rules.append((_named(0x00120062), "structure: not stated as de-identified"))
    yield from rules
    for where, kind in _in_values(matcher, values):
        yield places[where], kind


def _retains_uids(ds: Dataset) -> bool:
    codes = ds.get("DeidentificationMethodCodeSequence") or ()
    return any(str(item.get("CodeValue", "")) == "113110" for item in codes)


def _after(rest: bytes, syntax: str) -> tuple[bytes, int]:
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
        if tag == b"\xfe\xff\xdd\xe0":
            break
        at += length
    return rest[at:], at


def _named(tag: int) -> str:
    """(gggg,eeee) and the standard's keyword."""
    number = f"({tag >> 16:04x},{tag & 0xFFFF:04x})"
    word = keyword_for_tag(tag) if not (tag >> 16) % 2 else ""
    return f"{number} {word}".strip()


def _vr(tag: int) -> str:
    try:
        return dictionary_VR(tag)
    except KeyError:
        return "UN"


def _encoded(value: object) -> bytes:
    if isinstance(value, bytes):
        return value
    many = value if isinstance(value, (list, tuple)) else [value]
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
