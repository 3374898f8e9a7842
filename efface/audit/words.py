"""Words that name no person, by the list that they stand in. All of them are lower case."""

from __future__ import annotations

import re
from functools import cache
from pathlib import Path

_AUDIT = Path(__file__).parent
_CLOSED_LISTS = (
    *("convert/sidecar.tsv", "convert/words.tsv", "scrub/words.tsv", "scrub/terms.tsv"),
)


@cache
def technical_words() -> frozenset[str]:
    """Words of scanners, sequences and folders (``technical.tsv``)."""
    return frozenset((_AUDIT / "technical.tsv").read_text().split("\n", 1)[1].split())


@cache
def closed_words() -> frozenset[str]:
    """Words that a release may hold because they stand in a closed list of scrub or convert.

    Comment lines of the tables do not count.
    """
    lines = [
        line
        for name in _CLOSED_LISTS
        for line in (_AUDIT.parent / name).read_text().splitlines()
        if not line.startswith("#")
    ]
    return frozenset(w for line in lines for w in re.findall(r"[^\W\d_]+", line.casefold()))


@cache
def own_words() -> frozenset[str]:
    """Words that efface itself writes into the files of a cohort (``own_words.tsv``).

    :mod:`efface.audit.make_words` makes the table.
    """
    rows = (_AUDIT / "own_words.tsv").read_text().splitlines()
    rows = [row for row in rows if not row.startswith("#")]
    return frozenset(row.split("\t")[0] for row in rows[1:])


def is_technical(text: str, *, letters: bool = True) -> bool:
    """Whether all words are of scanners, folders or counting; ``letters``: or single letters."""
    return _all_in(text, technical_words(), letters=letters)


def is_closed(text: str) -> bool:
    """Whether all words are technical, of a closed list or single letters."""
    return _all_in(text, technical_words() | closed_words(), letters=True)


def _all_in(text: str, known: frozenset[str], *, letters: bool) -> bool:
    words = [w for w in re.split(r"[\W_\d]+", text.casefold()) if w]
    # "C-5512-11", "MRC25326": four digits and more may name somebody, whatever stands beside them
    few = sum(c.isdigit() for c in text) < 4
    return few and bool(words) and all(w in known or (letters and len(w) == 1) for w in words)
