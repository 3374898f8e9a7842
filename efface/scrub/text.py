"""Identity words of a header, and the words of a description that can be kept."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import cache

from pydicom.charset import convert_encodings, decode_bytes

from efface import status
from efface.scrub.codec import DamagedError, Element
from efface.scrub.table import words
from efface.technical import words as technical_words

_PERSON_IDS = frozenset((0x00100020, 0x00101000, 0x00100030, 0x00101090, 0x00080050, 0x00101040))
_PERSON_IDS |= {0x00102154, 0x00380010, 0x00401001, 0x00400253, 0x00321032}
# of the study and of trials: they may be words of scanners (DWI), which code strings keep
_STUDY_IDS = frozenset((0x00200010, 0x00400009, 0x00402016, 0x00402017, 0x00380060, 0x00120020))
_STUDY_IDS |= {0x00120040, 0x00120042}
_PLACES = frozenset((0x00080080, 0x00080081, 0x00081010, 0x00081040, 0x00181000, 0x00081070))
_WORD = re.compile(r"[^\W_]+")
_LETTERS = re.compile(r"[^\W\d_]+")
_MOST_WORDS = 4096
_IDEOGRAPHS = "\u2e80"
"""First character of the scripts without spaces between words (Chinese, Japanese, Korean)."""


@dataclass
class IdentityWords:
    """Words by which the header of a file names the person and the place, case folded.

    They are a second protection besides the tables: a technical text with one of them is removed.
    """

    person: set[str] = field(default_factory=set)
    place: set[str] = field(default_factory=set)
    short: set[str] = field(default_factory=set)
    """Family and given names of two letters (Li, Ng): compared with whole words of free text only,
    because code strings consist of such words (SE, PA)."""
    study: set[str] = field(default_factory=set)
    """Whole ids without separators: compared with whole technical texts."""
    phrases: set[str] = field(default_factory=set)
    """Whole names and numbers of a place, without spaces: matched inside longer words too."""

    @property
    def words(self) -> tuple[frozenset[str], ...]:
        """All words, as a key of a cache."""
        every = (self.person, self.short, self.study, self.place, self.phrases)
        return tuple(frozenset(names) for names in every)

    def in_text(self, text: str, *, places: bool = True) -> bool:
        """Whether the text has one of the words; long names also inside a longer word."""
        words_of_text = [w.casefold() for w in _WORD.findall(text)]
        joined = "".join(words_of_text)
        # "Nova32ch", "Hans1": a digit ends a name, as in the leak scan
        words_of_text += [w.casefold() for w in _LETTERS.findall(text)]
        if any(
            n in joined if len(n) > 4 or n > _IDEOGRAPHS else n in words_of_text
            for n in self.person
        ):
            return True
        if not places:
            return False
        return any(n in words_of_text for n in self.place) or any(n in joined for n in self.phrases)

    def in_technical(self, text: str) -> bool:
        """Whether a technical text has one of the words, or a short name as a separate word.

        Names of manufacturers are ignored, even if a person has the same name.
        """
        whole = "".join(_WORD.findall(text)).casefold()
        if whole in self.study or whole in self.person:
            return True
        makers = {w.casefold() for w in technical_words("maker")}
        rest = [w for w in _WORD.findall(text) if w.casefold() not in makers]
        return self.in_text(" ".join(rest)) or any(w.casefold() in self.short for w in rest)

    def in_bytes(self, value: bytes) -> bool:
        """Whether binary values contain one of the words of five or more letters."""
        low = value.lower()
        return any(
            n.encode() in low or n.encode("utf-16-le") in low
            for names in (self.person, self.place, self.phrases)
            for n in names
            if len(n) > 4
        )


def identity_words(elements: Iterable[Element], charset: Sequence[str] = ()) -> IdentityWords:
    """Collect the identity words of a data set, at every depth; ``charset``: (0008,0005)."""
    words_of_header = IdentityWords()
    for e in _walk(elements):
        person = e.vr == "PN" or e.tag in _PERSON_IDS
        if not person and e.tag not in _PLACES | _STUDY_IDS:
            continue
        if (
            len(e.value) > 0xFFFF
            or len(words_of_header.person) + len(words_of_header.place) > _MOST_WORDS
        ):
            raise DamagedError(f"{status.UNREADABLE}: more names than an image has")
        for part in _decode(e.value, charset).split("\\"):
            tokens = [w.casefold() for w in _WORD.findall(part)]
            whole = "".join(tokens)
            if person:
                words_of_header.person.update(_distinctive([*tokens, whole], 3))
                if e.vr == "PN":
                    words_of_header.short.update(_short_names(part))
            elif e.tag in _STUDY_IDS:
                words_of_header.study.update(_distinctive([whole], 3))
            else:
                # stations are often named after their scanner
                rest = [t for t in tokens if t not in _scanners()]
                words_of_header.place.update(_distinctive(rest, 5))
                words_of_header.phrases.update(_distinctive([whole] if rest else [], 5))
    return words_of_header


def _distinctive(names: Iterable[str], shortest: int) -> Iterator[str]:
    for n in names:
        least = max(4, shortest) if n.isdigit() else shortest
        if n > _IDEOGRAPHS:
            least = 2  # a whole name
        if len(n) >= least and n not in words("common"):
            yield n


def _short_names(name: str) -> Iterator[str]:
    """Words of two letters in the family and given names of a PN."""
    parts = "^".join(name.split("^")[:2])
    for word in (w.casefold() for w in _WORD.findall(parts)):
        if len(word) == 2 and word.isalpha() and word not in ("mr", "ms", "dr"):
            yield word


@cache
def _scanners() -> frozenset[str]:
    """Words of models of scanners, case folded."""
    every = (w for kind in ("brand", "model", "option") for w in technical_words(kind))
    return frozenset(part.casefold() for w in every for part in _WORD.findall(w))


def vocabulary(text: str, who: IdentityWords) -> str:
    """Words of a description that are in the list of protocol words and name nobody."""
    kept = [w for w in re.findall(r"[a-z0-9]+", text.casefold()) if w in words("protocol")]
    kept = [w for w in kept if not who.in_text(w) and w not in who.short]
    return " ".join(kept)[:64].strip()


def _walk(elements: Iterable[Element]) -> Iterator[Element]:
    for e in elements:
        if e.items is not None:
            for item in e.items:
                yield from _walk(item)
        else:
            yield e


def _decode(value: bytes, charset: Sequence[str] = ()) -> str:
    """The text in the declared character set, and as UTF-8 or Latin-1, for wrong declarations."""
    if charset and (not value.isascii() or b"\x1b" in value):
        try:
            declared = decode_bytes(
                value, convert_encodings(list(charset)), {ord(c) for c in "\\^="}
            )
        except (LookupError, UnicodeError, ValueError):
            declared = ""
        return f"{declared}\\{_decode(value)}"
    try:
        return value.decode().strip("\0 ")
    except UnicodeDecodeError:
        return value.decode("latin-1").strip("\0 ")
