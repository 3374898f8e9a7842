"""De-identify one data set: first by the tables, then by value representation, at every depth.

Nothing is copied unless a rule keeps it, and a kept value must have the form of its VR: a decimal
string is a number, a code string a known term, a text names nobody. Otherwise the attribute is
removed, emptied or replaced by a dummy, according to its type.
"""

from __future__ import annotations

import math
import re
import struct
from collections.abc import Callable
from dataclasses import dataclass
from datetime import date, timedelta
from functools import lru_cache

from pydicom._uid_dict import UID_dictionary
from pydicom.charset import convert_encodings, decode_bytes
from pydicom.datadict import dictionary_VM

from efface import __version__, status
from efface.dictionary import standard_vr
from efface.pseudonym import Key
from efface.scrub import codes, csa, diffusion
from efface.scrub import streams as compressed
from efface.scrub.bits import Cells, cells, cleared
from efface.scrub.codec import DamagedError, Element, Syntax
from efface.scrub.table import IODS, OPTIONS, Policy, Safe, is_term, other_term, safe_private
from efface.scrub.text import IdentityWords, identity_words, vocabulary
from efface.technical import is_technical

_SIZES = {"US": 2, "SS": 2, "OW": 2, "UL": 4, "SL": 4, "FL": 4, "AT": 4, "OF": 4, "OL": 4}
_SIZES |= {"FD": 8, "OD": 8, "OV": 8, "SV": 8, "UV": 8}
_TEXT = frozenset(["LO", "LT", "SH", "ST", "UC", "UT"])
_DATES = frozenset(["DA", "DT", "TM"])
_SHAPES = {
    "AS": re.compile(rb"\d{3}[DWMY]"),
    "CS": re.compile(rb"[A-Z0-9 _/+.-]{0,16}"),
    "DA": re.compile(rb"\d{8}"),
    "DS": re.compile(rb"[+-]?(\d+\.?\d*|\.\d+)([eE][+-]?\d{1,3})?|"),
    "DT": re.compile(rb"\d{8}(\d{0,6}(\.\d{1,6})?)?([+-]\d{4})?"),
    "IS": re.compile(rb"[+-]?\d{1,12}|"),
    "TM": re.compile(rb"\d{2}(\d{2}(\d{2}(\.\d{1,6})?)?)?"),
    "UI": re.compile(rb"[0-9.]{1,64}"),
}
_DUMMIES = {
    "AS": b"000D",
    "CS": b"REMOVED",
    "DA": b"19000101",
    "DT": b"19000101000000",
    "TM": b"000000",
    "DS": b"0",
    "IS": b"0",
}
_MOST_RETAINED = 1024
_MOST_VALUE = 1 << 16  # bytes; a longer text is not kept
_MOST_KNOWN = 1 << 15
_REGISTERED = frozenset(uid.encode() for uid in UID_dictionary)

SOP_CLASS, SOP_INSTANCE = 0x00080016, 0x00080018
_CHARSET, _MODALITY, _CONVERSION, _IMAGE_TYPE = 0x00080005, 0x00080060, 0x00080064, 0x00080008
_NAME, _ID, _STUDY_ID = 0x00100010, 0x00100020, 0x00200010
_SEQUENCE_NAME = 0x00180024
_AGE = 0x00101010
_SAMPLES, _PHOTOMETRIC, _FRAMES = 0x00280002, 0x00280004, 0x00280008
_ROWS, _COLUMNS = 0x00280010, 0x00280011
_ALLOCATED, _STORED, _HIGH_BIT, _SIGNED = 0x00280100, 0x00280101, 0x00280102, 0x00280103
_PADDINGS = frozenset((0x00280120, 0x00280121))
_BURNED_IN, _TEMPORAL = 0x00280301, 0x00280303
_REMOVED, _METHOD, _METHOD_CODES = 0x00120062, 0x00120063, 0x00120064
_TEMPORALS = (b"UNMODIFIED", b"MODIFIED", b"REMOVED")
_MOVED = "113107"  # dates were shifted
_METHODS = frozenset(f"1131{n:02}" for n in range(13))  # of CID 7050
_PIXELS = 0x7FE00010
_CONTEXT, _CONCEPT = 0x00400555, 0x0040A043
_NEEDED = frozenset((SOP_CLASS, SOP_INSTANCE, _ROWS, _COLUMNS, _ALLOCATED))
_OFFSETS = frozenset((0x7FE00001, 0x7FE00002, 0x7FE00003))


@dataclass
class Context:
    """What the rules need to know about the data set: person, policy, identity words, encoding."""

    key: Key
    subject: str
    policy: Policy
    who: IdentityWords
    form: Syntax
    signed: bool
    charset: list[str]
    known: dict[tuple[int, int, str, bytes], Element | None]
    """Results for values that occurred in data sets of the same person and place."""
    beyond_ascii: bool = False


Keep = Callable[[Context, Element], Element | None]


@dataclass(frozen=True)
class _Rule:
    keep: Keep | None
    otherwise: str
    vr: str
    depends_on_charset: bool = False


def refusal(elements: list[Element], form: Syntax) -> str | None:
    """Reason against releasing a data set, whatever its header has, or None.

    The reason is a phrase of :mod:`efface.status`. Only MR images are allowed.
    """
    texts = {e.tag: e.value.decode("latin-1").strip("\0 ") for e in elements if e.tag <= 0x0008FFFF}
    texts |= {
        e.tag: e.value.decode("latin-1").strip("\0 ") for e in elements if e.tag == _BURNED_IN
    }
    sop = texts.get(SOP_CLASS, "")
    if sop.startswith("1.2.840.10008.5.1.4.1.1.7"):
        return status.SECONDARY_CAPTURE
    if sop.startswith("1.2.840.10008.5.1.4.1.1.88."):
        return status.STRUCTURED_REPORT
    if sop not in IODS:
        named = UID_dictionary.get(sop, ("",))[0]
        return status.NOT_MR if "Image Storage" in named else status.OBJECT_TYPE_NOT_ALLOWED
    if texts.get(_MODALITY, "MR") != "MR":
        return status.NOT_MR
    if texts.get(_CONVERSION):
        return status.SECONDARY_CAPTURE
    if texts.get(_BURNED_IN) == "YES" or "SCREEN SAVE" in texts.get(_IMAGE_TYPE, ""):
        return status.TEXT_BURNED_IN
    if form.encapsulated and any(_hides_overlay(e, form) for e in elements):
        return status.TEXT_BURNED_IN  # it cannot be cleared in compressed pixels
    there = {e.tag for e in elements}
    if not {_PIXELS, _ROWS, _COLUMNS} <= there:
        return status.NO_IMAGE
    if next((_number(e, form.little) for e in elements if e.tag == _SAMPLES), 1) != 1:
        return f"{status.OBJECT_TYPE_NOT_ALLOWED}: colour"
    if any(e.tag == _PHOTOMETRIC and e.value.startswith(b"PALETTE") for e in elements):
        return f"{status.OBJECT_TYPE_NOT_ALLOWED}: colour"
    return None


def scrub(
    elements: list[Element],
    form: Syntax,
    key: Key,
    subject: str,
    session: str,
    retain: tuple[str, ...],
) -> list[Element]:
    """De-identified elements; ``elements`` must have passed :func:`refusal`.

    Raises :class:`DamagedError` if the pixel data are truncated or contain a name of the header.
    """
    sop = next(e.value for e in elements if e.tag == SOP_CLASS).decode("latin-1").strip("\0 ")
    policy = Policy(IODS[sop], retain)
    charset = encodings(elements, [])
    who = identity_words(elements, charset)
    signed = any(e.tag == _SIGNED and _number(e, form.little) for e in elements)
    known = _known(key, subject, policy, who.words, form, signed)
    context = Context(key, subject, policy, who, form, signed, charset, known)
    kept = {e.tag: e for e in _scrub(context, elements, 0)}
    for e in diffusion.standard(elements, form.little):
        kept[e.tag] = e
    if "graphics" in retain:
        kept |= {e.tag: e for e in _cleared_overlays(elements, form)}
    kept[_PIXELS], layout = _pixels(context, elements, form)
    if layout is not None:  # the padding is a pixel value like the others
        for e in [kept[tag] for tag in _PADDINGS & kept.keys()]:
            if len(e.value) * 8 == layout.allocated:
                kept[e.tag] = Element(e.tag, e.vr, layout.clear(e.value, form.little))
    for tag in _OFFSETS:  # offsets into the stream of the source
        kept.pop(tag, None)
    if _NEEDED - kept.keys():
        raise DamagedError(status.UNREADABLE)  # present, but with a value that does not fit
    for e in _record(context, elements, session):
        kept[e.tag] = e
    if context.beyond_ascii:
        kept[_CHARSET] = Element(_CHARSET, "CS", b"ISO_IR 192")
    return list(kept.values())


def _record(context: Context, elements: list[Element], session: str) -> list[Element]:
    """Pseudonyms and the record of all de-identifications so far (PS3.15 E.1.1, CID 7050)."""
    retain, subject = context.policy.retain, context.subject.encode()
    last = {e.tag: e for e in elements}
    kept_dates = {"dates-full": b"UNMODIFIED", "dates-shifted": b"MODIFIED"}
    temporal = next((kept_dates[o] for o in retain if o in kept_dates), b"REMOVED")
    if _TEMPORAL in last:  # dates that were shifted or removed before cannot be unmodified
        before = last[_TEMPORAL].value.strip(b"\0 ").upper() or b"UNMODIFIED"
        before = before if before in _TEMPORALS else b"MODIFIED"  # YES, and any other value
        temporal = max(before, temporal, key=_TEMPORALS.index)
    methods = {"113100": "Basic Application Confidentiality Profile"}
    methods |= dict(OPTIONS[o] for o in retain)
    for item in last[_METHOD_CODES].items or [] if _METHOD_CODES in last else []:
        value, scheme, meaning = (e.value.decode() for e in codes.known(item))
        if scheme == "DCM" and value in _METHODS:
            methods.setdefault(value, meaning)
    if _MOVED in methods and temporal == b"UNMODIFIED":
        temporal = b"MODIFIED"
    return [
        Element(_NAME, "PN", subject),
        Element(_ID, "LO", subject),
        Element(_STUDY_ID, "SH", session.encode()),
        Element(_REMOVED, "CS", b"YES"),
        Element(_METHOD, "LO", "\\".join(_methods(context, last.get(_METHOD))).encode()),
        Element(_METHOD_CODES, "SQ", items=[_code(*c) for c in sorted(methods.items())]),
        Element(_TEMPORAL, "CS", temporal),
    ]


def _methods(context: Context, former: Element | None) -> list[str]:
    """Names of de-identification methods: earlier ones in a known form, then those of efface."""
    ours = [f"efface {__version__}", "PS3.15 Basic Profile 2026c"]
    former_names = (
        [] if former is None else former.value[:_MOST_RETAINED].decode("latin-1").split("\\")
    )
    before = [v for v in (part.strip("\0 ") for part in former_names) if v and v not in ours]
    known = [v for v in before if is_technical(_METHOD, [v]) and not context.who.in_technical(v)]
    return [*dict.fromkeys(known), *ours]


def _code(value: str, meaning: str) -> list[Element]:
    return [
        Element(codes.VALUE, "SH", value.encode()),
        Element(codes.SCHEME, "SH", b"DCM"),
        Element(codes.MEANING, "LO", meaning.encode()),
    ]


def _scrub(context: Context, elements: list[Element], parent: int) -> list[Element]:
    out: dict[int, Element] = {}
    if "safe-private" in context.policy.retain:
        out = {e.tag: e for e in _private(context, elements)}
    for e in elements:
        if e.tag & 0x10000:
            continue
        # most values of a series are the same in all files
        same = None if e.items is not None or len(e.value) > 64 else (parent, e.tag, e.vr, e.value)
        if same in context.known:
            kept = context.known[same]
        else:
            rule = _rule(context.policy, parent, e.tag, e.vr)
            kept = _apply(rule, context, e)
            if same and not rule.depends_on_charset:
                if len(context.known) > _MOST_KNOWN:
                    context.known.clear()
                context.known[same] = kept
        if kept is not None:
            out[e.tag] = kept
    return list(out.values())


def _apply(rule: _Rule, context: Context, e: Element) -> Element | None:
    kept = rule.keep(context, e) if rule.keep else None
    if kept is None:
        if rule.otherwise == "X" or (rule.otherwise == "D" and rule.vr == "SQ"):
            return None  # there is no dummy for a sequence
        kept = Element(e.tag, rule.vr, items=[] if rule.vr == "SQ" else None)
        if rule.otherwise == "D" and rule.vr == "UI":
            kept.value = context.key.uid(e.value.decode("latin-1")).encode()
        elif rule.otherwise == "D":
            kept.value = _dummy(rule.vr)
    return kept


@lru_cache(maxsize=4)
def _known(
    key: Key,
    subject: str,
    policy: Policy,
    words: tuple[frozenset[str], ...],
    form: Syntax,
    signed: bool,
) -> dict[tuple[int, int, str, bytes], Element | None]:
    """Cache that data sets share to which exactly the same rules apply."""
    return {}


@lru_cache(maxsize=65536)
def _rule(policy: Policy, parent: int, tag: int, vr: str) -> _Rule:
    """Rule for an attribute inside sequence ``parent``, computed once."""
    choices = standard_vr(tag).split(" or ")
    decision = policy.decide(parent, tag, bool(_DATES & set(choices)))
    otherwise = decision.otherwise
    own = vr.split(" or ", 1)[0]
    alike = (_TEXT | {"CS"}, frozenset(("IS", "DS")))
    if own not in choices:
        same = any(own in family and choices[0] in family for family in alike)
        own = choices[0]
        if not same:  # a value with the VR of another attribute is not kept
            return _Rule(None, otherwise, own)
    if decision.action in ("X", "Z", "D") or tag == _PIXELS:
        # a sequence that needs an item keeps its de-identified items
        keep = _sequence if own == "SQ" and decision.action == "D" else None
        return _Rule(keep, otherwise, own)
    most = _most(tag)
    keeper = _keeper(decision.action, own, tag, policy)
    if keeper is None:
        return _Rule(None, otherwise, own)

    def keep_counted(context: Context, e: Element) -> Element | None:
        kept = keeper(context, e) if len(e.value) <= _MOST_VALUE else None
        if kept is None or kept.items is not None or not most:
            return kept
        size = _SIZES.get(own)
        count = len(e.value) // size if size else e.value.count(b"\\") + 1
        return kept if count <= most else None

    return _Rule(keep_counted, otherwise, own, keeper is _retained)


def _keeper(action: str, vr: str, tag: int, policy: Policy) -> Keep | None:
    """The function that keeps values of this VR under this action, or None."""
    if vr == "SQ":
        return _sequence
    if vr == "UI":
        return _same_uids if action == "K" or "uids" in policy.retain else _new_uids
    if action == "U":
        return None
    if action == "text":
        return _technical
    if vr in ("IS", "DS"):
        return _numbers
    if vr == "CS":
        return _code_string
    if vr in _SIZES and not vr.startswith("O"):
        return _binary(vr)
    if action == "C":
        if vr in _TEXT:
            return _words
        return _shifted if vr in ("DA", "DT") else _shaped if vr == "TM" else None
    if action == "K":
        return _shaped if vr in _DATES or vr == "AS" else _retained if vr in _TEXT else None
    return None  # text, names, dates and addresses that are in no table


def _sequence(context: Context, e: Element) -> Element | None:
    items = []
    for item in e.items or []:
        if e.tag == _CONTEXT and not _is_known_concept(item):
            continue
        outer, context.charset = context.charset, encodings(item, context.charset)
        if codes.is_code(item):
            entry = codes.known(item)
            rest = [x for x in item if x.tag not in codes.MACRO]
            items.append([*entry, *_scrub(context, rest, e.tag)])
        else:
            items.append(_scrub(context, item, e.tag))
        context.charset = outer
    if e.items and not any(items):
        return None
    return Element(e.tag, "SQ", items=items)


def _is_known_concept(item: list[Element]) -> bool:
    """Whether the concept name of a content item (PS3.3 10.2) is a standard code.

    Without its name a value has no meaning, and it can be an identifier.
    """
    name = next((x.items for x in item if x.tag == _CONCEPT and x.items), None)
    return name is not None and codes.is_known(name[0])


def _new_uids(context: Context, e: Element) -> Element | None:
    """Keep registered UIDs, which name object types; replace all others using the key."""
    values = [
        v if v in _REGISTERED else context.key.uid(v.decode("latin-1")).encode() if v else b""
        for v in (part.strip(b"\0 ") for part in e.value.split(b"\\"))
    ]
    return Element(e.tag, "UI", b"\\".join(values))


def _same_uids(context: Context, e: Element) -> Element | None:
    shaped = _shaped(context, e)
    return shaped if shaped is not None else _new_uids(context, e)


def _numbers(context: Context, e: Element) -> Element | None:
    vr = standard_vr(e.tag)
    value = _as_numbers(context, e.value, vr)
    return None if value is None else Element(e.tag, vr, value)


def _as_numbers(context: Context, value: bytes, vr: str) -> bytes | None:
    """Integer or decimal strings, stripped, if they are numbers but not identifiers."""
    parts, shape = [p.strip(b"\0 ") for p in value.split(b"\\")], _SHAPES[vr]
    for p in parts:
        if (
            len(p) > 32 or shape.fullmatch(p) is None
        ):  # in this order: matching a long value can take hours
            return None
        if len(p) > 5 and p.isdigit() and p.decode() in context.who.person:
            return None
    return b"\\".join(parts)


def _binary(vr: str) -> Keep:
    def keep(context: Context, e: Element) -> Element | None:
        if len(e.value) % _SIZES[vr] or (len(e.value) > 4 and context.who.in_bytes(e.value)):
            return None
        # eight letters, read as a double, are a huge number
        last = 7 if context.form.little else 0
        if vr == "FD" and any(t & 0x7F > 0x44 for t in e.value[last::8]):
            return None
        # with VR "US or SS", Pixel Representation determines the sign
        own = "SS" if context.signed and e.vr == "US or SS" else vr
        return Element(e.tag, own, e.value)

    return keep


def _private(context: Context, elements: list[Element]) -> list[Element]:
    """Private elements of a data set that are listed in ``safe_private.tsv``, with creators."""
    odd = {e.tag: e for e in elements if e.tag & 0x10000}
    creators = {t: e for t, e in odd.items() if 0x10 <= t & 0xFFFF <= 0xFF and e.items is None}
    kept: dict[int, Element] = {}
    for tag, e in odd.items():
        by = creators.get(tag & 0xFFFF0000 | tag >> 8 & 0xFF)
        if tag & 0xFFFF < 0x1000 or by is None:
            continue
        creator = by.value.strip(b"\0 ").decode("latin-1")
        safe = safe_private().get((creator.casefold(), tag >> 8 & 0xFFFF00 | tag & 0xFF))
        safe_one = _safe(context, e, safe) if safe else None
        if safe_one is not None:
            kept[tag] = safe_one
            kept[by.tag] = Element(
                by.tag, "LO", creator.encode()
            )  # equal to a creator of the table
    return list(kept.values())


def _safe(context: Context, e: Element, safe: Safe) -> Element | None:
    """The private element if its value has the form of the table, or None.

    With VR UN, from systems that did not know the element, its value is little endian.
    """
    if safe.vr == "SQ":
        items = [_private(context, item) for item in e.items or []]
        return Element(e.tag, "SQ", items=items) if any(items) else None
    if (
        e.items is not None
        or e.vr not in (safe.vr, "UN")
        or not (context.form.little or e.vr != "UN")
    ):
        return None
    value: bytes | None = e.value
    if safe.vr in ("IS", "DS"):
        value = _as_numbers(context, e.value, safe.vr)
    elif safe.vr == "CS":
        words = {p.strip("\0 ") for p in e.value.decode("latin-1").split("\\")}
        value = e.value.strip(b"\0 ") if words <= safe.values else None
    elif safe.vr == "LO":
        kept = _technical(context, Element(_SEQUENCE_NAME, "SH", e.value))
        value = kept.value if kept else None
    elif safe.vr == "OB":
        value = csa.clean(e.value)
        return Element(e.tag, "OB", value) if value and not context.who.in_bytes(value) else None
    elif not _are_plausible(e.value, safe.vr, context.form.little) or context.who.in_bytes(e.value):
        value = None
    if not value:
        return None
    size = _SIZES.get(safe.vr)
    count = len(value) // size if size else value.count(b"\\") + 1
    return Element(e.tag, safe.vr, value) if count <= safe.most else None


def _are_plausible(value: bytes, vr: str, little: bool) -> bool:
    """Whether binary values are integers of the right size, or reals of a plausible magnitude."""
    size = _SIZES[vr]
    if len(value) % size:
        return False
    if vr not in ("FL", "FD"):
        return True
    kind = "f" if vr == "FL" else "d"
    reals = struct.unpack(f"{'<' if little else '>'}{len(value) // size}{kind}", value)
    return all(x == 0 or (math.isfinite(x) and 1e-20 < abs(x) < 1e9) for x in reals)


def _code_string(context: Context, e: Element) -> Element | None:
    """Replace unknown terms by OTHER if that is a term, or by an empty value.

    The positions of the other values do not change.
    """
    kept = []
    for part in e.value.split(b"\\"):
        value = part.strip(b"\0 ")
        good = _SHAPES["CS"].fullmatch(value) and is_term(e.tag, value.decode())
        good = good and not context.who.in_text(value.decode())
        kept.append(value if good else other_term(e.tag).encode())
    if e.value.strip(b"\0 ") and not any(kept):
        return None
    return Element(e.tag, "CS", b"\\".join(kept))


def _technical(context: Context, e: Element) -> Element | None:
    """A technical text if all of it has a form of ``technical.tsv`` and names nobody."""
    values = [p.strip("\0 ") for p in e.value.decode("latin-1").split("\\")]
    if not is_technical(e.tag, values) or any(context.who.in_technical(v) for v in values):
        return None
    return Element(e.tag, standard_vr(e.tag), "\\".join(values).encode())


def _words(context: Context, e: Element) -> Element | None:
    kept = vocabulary(e.value.decode("latin-1"), context.who)
    vr = standard_vr(e.tag)
    return Element(e.tag, vr, (kept[:16] if vr == "SH" else kept).encode()) if kept else None


def _retained(context: Context, e: Element) -> Element | None:
    """Text kept by an option, in UTF-8, unless it names the person."""
    if len(e.value) > _MOST_RETAINED:
        return None
    try:
        text = decode_bytes(
            e.value, convert_encodings(context.charset or ["ISO_IR 6"]), {ord("\\")}
        )
    except (LookupError, UnicodeError, ValueError):
        return None
    text = text.strip("\0 ")
    if context.who.in_text(text, places=False) or not re.sub(r"[\r\n\f\t]", "", text).isprintable():
        return None
    context.beyond_ascii = context.beyond_ascii or not text.isascii()
    return Element(e.tag, standard_vr(e.tag), text.encode())


def _shaped(context: Context, e: Element) -> Element | None:
    """Dates, times, ages and UIDs kept by an option, if they are well formed."""
    vr = standard_vr(e.tag)
    parts = [p.strip(b"\0 ") for p in e.value.split(b"\\")]
    if not all(_SHAPES[vr].fullmatch(p) or not p for p in parts):
        return None
    if e.tag == _AGE:  # ages above 89 are pooled, as privacy rules require
        parts = [b"090Y" if p[3:] == b"Y" and int(p[:3]) > 89 else p for p in parts]
    return Element(e.tag, vr, b"\\".join(parts))


def _shifted(context: Context, e: Element) -> Element | None:
    """Dates shifted into the past by the subject's number of weeks; times stay.

    The offset from UTC (PS3.5 6.2, DT) is removed, like (0008,0201): it reveals the place.
    """
    kept = _shaped(context, e)
    if kept is None:
        return None
    back = timedelta(weeks=context.key.weeks(context.subject))
    parts = []
    for p in kept.value.split(b"\\"):
        try:
            day = date(int(p[:4]), int(p[4:6]), int(p[6:8])) - back if p else None
        except (ValueError, OverflowError):
            return None
        parts.append(
            f"{day:%Y%m%d}".zfill(8).encode() + re.split(b"[+-]", p[8:])[0] if day else b""
        )
    kept.value = b"\\".join(parts)
    return kept


def _pixels(
    context: Context, elements: list[Element], form: Syntax
) -> tuple[Element, Cells | None]:
    """Pixel data with the same pixels, without unused bits, comments and bytes after the end.

    Also returns the layout of the pixels if unused bits were cleared.
    """
    last = {e.tag: e for e in elements}
    pixels = last[_PIXELS]

    def number(tag: int, default: int) -> int:
        return _number(last[tag], form.little) if tag in last else default

    frames = 1
    if _FRAMES in last:
        text = last[_FRAMES].value.strip(b"\0 ")
        if text and not text.isdigit():
            raise DamagedError(f"{status.UNREADABLE}: the number of frames is not a number")
        frames = int(text or 1)
    allocated, signed = number(_ALLOCATED, 16), bool(number(_SIGNED, 0))
    layout = cells(allocated, number(_STORED, 0), number(_HIGH_BIT, 0), signed)
    rows, columns = number(_ROWS, 0), number(_COLUMNS, 0)
    in_frame = rows * columns * number(_SAMPLES, 1)
    needed = (in_frame * frames * allocated + 7) // 8
    if not needed:
        raise DamagedError(status.NO_IMAGE)
    if form.encapsulated:
        if not pixels.fragments or not any(pixels.fragments[1:]):
            raise DamagedError(status.TRUNCATED)
        streams = compressed.clean(pixels.fragments, form, frames, in_frame, allocated)
        clear = cleared(streams, form, layout, (rows, columns))
        if any(context.who.in_bytes(stream) for stream in clear):
            raise DamagedError(status.IDENTIFIER_FOUND)  # in the rebuilt compressed stream
        changed = layout if clear is not streams else None
        return Element(_PIXELS, "OB", fragments=compressed.encapsulated(clear)), changed
    if pixels.fragments is not None:
        raise DamagedError(status.UNREADABLE)
    if len(pixels.value) < needed:
        raise DamagedError(status.TRUNCATED)
    value = pixels.value[:needed]
    clean = layout.clear(value, form.little)
    vr = "OW" if allocated > 8 or not form.explicit else pixels.vr
    vr = vr if vr in ("OB", "OW") else "OW"
    return Element(_PIXELS, vr, clean), layout if clean is not value else None


def _cleared_overlays(elements: list[Element], form: Syntax) -> list[Element]:
    """Overlay planes (PS3.3 C.9.2) with their size and position, and all bits cleared.

    An overlay can contain text, and no rule distinguishes text from a region. Therefore cleaning
    (PS3.15 E.3.3) clears every bit. An incomplete plane is removed.
    """
    last = {e.tag: e for e in elements if e.tag & 0xFF010000 == 0x60000000}
    kept = []
    for group in sorted({tag >> 16 for tag in last}):

        def of(element: int, group: int = group) -> Element:
            return last.get(group << 16 | element, Element(0, "UN"))

        rows, columns = _number(of(0x10), form.little), _number(of(0x11), form.little)
        frames = of(0x15).value.strip(b"\0 ")
        bits = rows * columns * (int(frames) if frames.isdigit() else 1)
        origin, bit = of(0x50).value, of(0x102).value
        if not 0 < (bits + 7) // 8 <= len(of(0x3000).value) or len(origin) != 4 or any(bit):
            continue
        one = (1).to_bytes(2, "little" if form.little else "big")
        plane = [
            (0x10, "US", of(0x10).value),
            (0x11, "US", of(0x11).value),
            (0x40, "CS", b"R" if of(0x40).value.strip() == b"R" else b"G"),
            (0x50, "SS", origin),
            (0x100, "US", one),
            (0x102, "US", b"\0\0"),
            (0x3000, "OW", bytes((bits + 15) // 16 * 2)),
        ]
        plane += [(0x15, "IS", frames)] if frames.isdigit() else []
        kept += [Element(group << 16 | tag, vr, value) for tag, vr, value in plane]
    return kept


def _hides_overlay(e: Element, form: Syntax) -> bool:
    """Whether the bit position of an overlay (60xx,0102) places it in the pixels."""
    return e.tag & 0xFF01FFFF == 0x60000102 and _number(e, form.little) > 0


def encodings(elements: list[Element], outer: list[str]) -> list[str]:
    """Specific Character Set of a data set, or that of the enclosing data set."""
    for e in elements:
        if e.tag == _CHARSET:
            return [p.strip("\0 ") for p in e.value.decode("latin-1").split("\\")]
    return outer


def _number(e: Element, little: bool) -> int:
    return int.from_bytes(e.value[:2], "little" if little else "big")


def _dummy(vr: str) -> bytes:
    if vr in _SIZES:
        return bytes(_SIZES[vr])
    return _DUMMIES.get(vr, b"\0\0" if vr.startswith("O") else b"REMOVED")


@lru_cache(maxsize=8192)
def _most(tag: int) -> int:
    """Largest number of values of an attribute; 0 for no limit."""
    try:
        last = dictionary_VM(tag).split("-")[-1]
    except KeyError:
        return 0
    return int(last) if last.isdigit() else 0
