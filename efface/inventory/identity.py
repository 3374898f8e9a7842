"""Identity of persons: the statements of all files, compared over the whole source.

Every file states whose it is (:class:`Statement`). :func:`cross_check` compares all statements of a
source and returns a :class:`Verdict`:

- A study belongs to one person. If some files of a study lack the issuer or the patient id, the
  value of the other files is used, if they agree.
- A placeholder (ANONYMOUS, ``***``, 000000) is not a patient id. As with an empty patient id, each
  study is a separate person, so that two people are never merged.
- A contradiction (one study with two patient ids, one patient id with two birth dates) sends the
  sessions to review. The reason names the kinds of values, never the values.
- Pseudonyms that may be of the same person (ids that differ in case, hyphens or spaces) are listed
  as possible duplicates. They are not merged.

A missing value contradicts nothing. The table of the verdict holds names: restricted zone only.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import date
from functools import cache, lru_cache
from itertools import combinations, islice
from pathlib import Path
from typing import Any

from efface.pseudonym import Key, session_label, subject_label
from efface.status import IDENTITY_IN_DOUBT

SEXES = {"m": "M", "male": "M", "f": "F", "female": "F", "o": "O", "other": "O"}
"""Spellings of the sex, in lower case, to the values of Patient's Sex (PS3.3 C.7.1.1)."""

COLUMNS = (
    *("session", "study", "patient_id", "issuer", "name", "birth_date", "sex", "other_ids"),
    *("person_by", "in_doubt", "possible_duplicates"),
)
"""Columns of the table: statements and results. ``person_by`` tells whether the pseudonym is made
from the patient id or from the study."""

_OF_PERSON = ("names", "birth dates", "sexes")
_WHAT = ("patient ids", "issuers", *_OF_PERSON)
_MOST_LISTED = 5
# values have at most 64 characters (PS3.5 6.2); longer ones are damaged or an attack
_LONGEST, _MOST_OTHERS = 1024, 64
_MOST_NAMES = 16  # of one person; any two are compared
_PLACEHOLDERS = Path(__file__).with_name("placeholders.tsv")
# scripts in which names are written with or without spaces
_UNSPACED = frozenset(("CJK", "HANGUL", "HIRAGANA", "KATAKANA"))
_LETTERS = str.maketrans({"ø": "o", "æ": "a", "œ": "o", "ł": "l", "đ": "d", "ı": "i"})
# scanners replace a missing birth date by 19000101 or an earlier day
_FIRST_BIRTH = date(1901, 1, 1)


Known = dict[tuple[str, str], set[Any]]
"""Known values of a person, by kind of value and by script of a name."""


@dataclass(frozen=True, order=True)
class Statement:
    """Statement of a file about its person. Texts are decoded, without padding; empty if absent."""

    session: str
    """Pseudonym of the session (``sub-…_ses-…``) from this statement alone."""
    study: str
    """Study Instance UID."""
    patient: str = ""
    issuer: str = ""
    """Issuer of Patient ID."""
    authority: str = ""
    """Universal Entity ID in the Issuer of Patient ID Qualifiers Sequence."""
    name: str = ""
    birth: str = ""
    sex: str = ""
    others: tuple[str, ...] = ()
    """Other Patient IDs, including those of the sequence."""


@dataclass(frozen=True)
class Owner:
    """The person to whom a session belongs, after the comparison."""

    subject: str
    patient: str = ""
    """Patient id; empty if the pseudonym is made from the study."""
    issuer: str = ""


@dataclass(frozen=True)
class Verdict:
    """Result of :func:`cross_check`."""

    owners: Mapping[str, Owner]
    """By the session of a :class:`Statement`."""
    doubts: Mapping[str, tuple[str, ...]]
    """Reasons for review, by the session of a :class:`Statement`, for sessions that have any."""
    table: Any
    """Data frame with :data:`COLUMNS`, a row for each distinct statement. Holds identifiers."""
    counts: Mapping[str, int]
    """Sessions in doubt, people with possible duplicates, studies without a usable patient id."""

    def text(self) -> str:
        """The table as tab-separated text; tabs and line breaks in values become spaces."""
        flat = self.table.map(lambda value: " ".join(str(value).split()))
        text = str(flat.to_csv(sep="\t", index=False, lineterminator="\n"))
        return text.encode(errors="backslashreplace").decode()

    def place(self, session: str) -> str:
        """Final pseudonym of a session; a session without statements keeps its own."""
        owner = self.owners.get(session)
        return f"{owner.subject}_{session.partition('_')[2]}" if owner else session


def state(
    key: Key,
    study: str,
    patient: str = "",
    issuer: str = "",
    authority: str = "",
    name: str = "",
    birth: str = "",
    sex: str = "",
    others: Iterable[str] = (),
) -> Statement:
    """Make the statement of one file, with the pseudonym from this file alone."""
    usable = "" if is_placeholder(patient[:_LONGEST]) else patient
    # a single letter can be an issuer
    issuer = "" if len(issuer) > 1 and is_placeholder(issuer[:_LONGEST]) else issuer
    subject = subject_label(key, usable, issuer or authority, study)
    few = {o[:_LONGEST] for o in islice(others, _MOST_OTHERS)}
    known = tuple(sorted(o for o in few if not is_placeholder(o)))
    session = f"{subject}_{session_label(key, study)}"
    patient, issuer, authority = (t[:_LONGEST] for t in (patient, issuer, authority))
    name, birth, sex = (t[:_LONGEST] for t in (name, birth, sex))
    return Statement(session, study, patient, issuer, authority, name, birth, sex, known)


def cross_check(statements: Iterable[Statement]) -> Verdict:
    """Compare all statements of a source.

    The result depends on the set of statements only, not on their order or repetition. New people
    in a source do not change pseudonym and verdict of a person without contradictions.
    """
    import pandas as pd

    distinct = sorted(set(statements))
    owners = _owners(distinct)
    facts = pd.DataFrame(
        [(s.session, s.study, owners[s.session].subject, *f) for s in distinct for f in _facts(s)],
        columns=["session", "study", "subject", "what", "script", "value"],
        dtype=object,
    )
    owners = _with_issuer(owners, facts)
    facts["subject"] = [owners[s].subject for s in facts["session"]]
    doubts = _doubts(distinct, owners, facts)
    alike = _possible_duplicates(distinct, owners, facts)
    table = pd.DataFrame(
        [_row(s, owners[s.session], doubts, alike) for s in distinct], columns=COLUMNS, dtype=object
    )
    counts = {
        "sessions in doubt": _sessions(table[table["in_doubt"] != ""]),
        "people with possible duplicates": len(alike),
        "studies without a usable patient id": _sessions(table[table["person_by"] == "study"]),
    }
    return Verdict(owners, doubts, table, counts)


@lru_cache(maxsize=4096)
def is_placeholder(text: str) -> bool:
    """Whether a text is a placeholder instead of a patient id or name.

    A placeholder has only punctuation, one repeated character (zeros or x; three times another
    letter; five times another digit), or only words of ``placeholders.tsv``.

    >>> [is_placeholder(t) for t in ("", "***", "000", "Anonymous", "N/A", "no name", "99999")]
    [True, True, True, True, True, True, True]
    >>> [is_placeholder(t) for t in ("HX-77431", "anon17", "11", "2222", "Xu")]
    [False, False, False, False, False]
    """
    words = re.findall(r"[^\W_]+", _folded(text))
    joined = "".join(words)
    if len(set(joined)) <= 1:
        least = {"": 0, "0": 0, "x": 0}.get(joined[:1], 5 if joined.isdigit() else 3)
        if len(joined) >= least:
            return True
    return joined in _placeholders() or all(w in _placeholders() or not w.strip("0") for w in words)


def name_words(name: str) -> dict[str, tuple[str, ...]]:
    """The words of a person's name by script, sorted: family, given and middle name.

    Case, accents, order, separators, component groups (PS3.5 6.2.1), prefix and suffix are ignored.
    Names in scripts without spaces give single characters. Empty for a placeholder.

    >>> name_words("Müller^Anne-Marie^^Dr") == name_words("anne marie MUELLER")
    True
    >>> sorted(name_words("Yamada^Tarou=山田^太郎"))
    ['CJK', 'LATIN']
    """
    by_script: dict[str, set[str]] = {}
    if is_placeholder(name):
        return {}
    for group in name.split("="):
        text = _folded(" ".join(group.split("^")[:3])).translate(_LETTERS)
        for word in re.findall(r"[^\W_]+", re.sub(r"['’`]", "", text)):
            first = next((c for c in word if c.isalpha()), word[0])
            script = unicodedata.name(first, "OTHER").split()[0]
            plain = re.sub("([aou])e", r"\1", word) if script == "LATIN" else word
            by_script.setdefault(script, set()).update(plain if script in _UNSPACED else [plain])
    return {script: tuple(sorted(words)) for script, words in sorted(by_script.items())}


def birth_date(text: str) -> str:
    """Birth date as ``YYYYMMDD``; empty if it is invalid or a filler of the scanner."""
    digits = re.sub(r"[.\-/ ]", "", text)
    try:
        day = date(int(digits[:4]), int(digits[4:6]), int(digits[6:]))
    except ValueError:
        return ""
    return day.strftime("%Y%m%d") if len(digits) == 8 and day >= _FIRST_BIRTH else ""


def sex(text: str) -> str:
    """M, F or O; any other value in lower case; empty if the value means unknown."""
    folded = text.strip().lower()
    return SEXES.get(folded, "" if folded == "u" or is_placeholder(folded) else folded)


def folded_id(text: str) -> str:
    """Patient id in lower case without punctuation, spaces and leading zeros.

    >>> {folded_id(t) for t in ("hx-77431", "HX 77431", "HX77431")}
    {'hx77431'}
    """
    return "".join(re.findall(r"[^\W_]+", _folded(text))).lstrip("0")


def _folded(text: str) -> str:
    """The text in lower case, without accents and width variants."""
    decomposed = unicodedata.normalize("NFKD", text.casefold())
    return "".join(c for c in decomposed if not unicodedata.combining(c))


@cache
def _placeholders() -> frozenset[str]:
    lines = _PLACEHOLDERS.read_text("utf-8").splitlines()[1:]
    return frozenset(_folded(line.partition("\t")[0]).replace(" ", "") for line in lines)


def _sessions(table: Any) -> int:  # noqa: ANN401 - a data frame
    return int(table.loc[table["study"] != "", "session"].nunique())


def _owners(distinct: Iterable[Statement]) -> dict[str, Owner]:
    """Person of each session, from the statements of its study."""
    studies: dict[str, dict[str, list[Statement]]] = {}
    for one in distinct:
        # a row of participants.tsv names a person but no study
        ids = studies.setdefault(one.study or one.session, {})
        ids.setdefault("" if is_placeholder(one.patient) else one.patient, []).append(one)
    return {
        one.session: _owner(one, own, ids)
        for ids in studies.values()
        for own, stated in ids.items()
        for one in stated
    }


def _owner(one: Statement, own: str, ids: Mapping[str, Sequence[Statement]]) -> Owner:
    """Person of one statement; missing values come from the other statements of the study.

    ``own`` is the patient id of the statement, empty for a placeholder. ``ids`` maps the patient
    ids of the study to their statements.
    """
    known = ids.keys() - {""}
    patient = own or (next(iter(known)) if len(known) == 1 else "")
    same = ids[patient] if patient else []
    for field in ("issuer", "authority"):
        stated = [s for s in same if getattr(s, field)]
        if own and getattr(one, field):
            return _as_stated(one)
        if len({getattr(s, field) for s in stated}) == 1:
            return _as_stated(stated[0])
        if stated:
            # two issuers contradict each other; statements without issuer get neither
            break
    bare = [s for s in same if not (s.issuer or s.authority)]
    if bare or own:
        return _as_stated(bare[0] if bare else one)
    return Owner(one.session.partition("_")[0])


def _as_stated(one: Statement) -> Owner:
    return Owner(one.session.partition("_")[0], one.patient, one.issuer or one.authority)


def _facts(one: Statement) -> Iterator[tuple[str, str, object]]:
    """Comparable values of a statement: kind of value, script of a name, value."""
    if not is_placeholder(one.patient):
        yield "patient ids", "", one.patient
    if one.issuer:
        yield "issuers", "", one.issuer
    if one.authority:
        yield "issuers", "authority", one.authority
    for script, words in name_words(one.name).items():
        yield "names", script, words
    for what, value in (("birth dates", birth_date(one.birth)), ("sexes", sex(one.sex))):
        if value:
            yield what, "", value


def _known(facts: Any) -> dict[str, Known]:  # noqa: ANN401 - a data frame
    """Known values of each subject."""
    out: dict[str, Known] = {}
    columns = facts.loc[facts["what"].isin(_OF_PERSON), ["subject", "what", "script", "value"]]
    for subject, what, script, value in columns.itertuples(index=False):
        out.setdefault(subject, {}).setdefault((what, script), set()).add(value)
    return out


def _with_issuer(owners: Mapping[str, Owner], facts: Any) -> dict[str, Owner]:  # noqa: ANN401
    """Give a person without issuer the only issuer of the same patient id elsewhere.

    This requires that name and birth date are known and equal.
    """
    people = _known(facts)
    issued: dict[str, set[Owner]] = {}
    for owner in owners.values():
        if owner.issuer:
            issued.setdefault(owner.patient, set()).add(owner)
    out = {}
    for session, owner in owners.items():
        mine = people.get(owner.subject, {})
        candidates = [
            other
            for other in (issued.get(owner.patient, ()) if not owner.issuer else ())
            if _same_person(mine, people.get(other.subject, {}))
        ]
        out[session] = candidates[0] if len(candidates) == 1 else owner
    return out


def _same_person(a: Known, b: Known) -> bool:
    shared = a.keys() & b.keys()
    agree = all(len(a[what] | b[what]) == 1 for what in shared)
    return agree and {"names", "birth dates"} <= {what for what, _ in shared}


def _doubts(
    distinct: Iterable[Statement],
    owners: Mapping[str, Owner],
    facts: Any,  # noqa: ANN401
) -> dict[str, tuple[str, ...]]:
    """Reasons for review of each session with contradictions in its study or its person."""
    studies = _contradictions(facts[facts["study"] != ""], "study")
    people = _contradictions(facts[facts["what"].isin(_OF_PERSON)], "subject")
    out = {}
    for session, study in {one.session: one.study for one in distinct}.items():
        owner = owners[session]
        within = studies.get(study, [])
        beyond = [w for w in people.get(owner.subject, ()) if w not in within]
        kinds = [("one study", within), ("one patient id", beyond if owner.patient else [])]
        reasons = [
            f"{IDENTITY_IN_DOUBT}: {one} with " + ", ".join(f"two {what}" for what in whats)
            for one, whats in kinds
            if whats
        ]
        if reasons:
            out[session] = tuple(reasons)
    return out


def _contradictions(facts: Any, by: str) -> dict[str, list[str]]:  # noqa: ANN401 - a data frame
    """Kinds of values that differ within each study or subject."""
    distinct = facts.drop_duplicates([by, "what", "script", "value"])
    groups = distinct.groupby([by, "what", "script"], sort=False)["value"]
    numbers = groups.size()
    out: dict[str, list[str]] = {}
    for one, what, script in numbers[numbers > 1].index:
        if what == "names" and _one_name(script, list(groups.get_group((one, what, script)))):
            continue
        if what not in out.setdefault(one, []):
            out[one].append(what)
    return {one: sorted(whats, key=_WHAT.index) for one, whats in out.items()}


def _one_name(script: str, names: Sequence[tuple[str, ...]]) -> bool:
    """Whether all names can be of one person: of any two, one has all words of the other.

    A single letter matches a word that begins with it: ``Garcia^J``, ``Garcia^Jose^Maria``. In
    scripts without spaces all names must be equal.
    """
    if script in _UNSPACED or len(names) > _MOST_NAMES:
        return False
    return all(_is_part(a, b) or _is_part(b, a) for a, b in combinations(names, 2))


def _is_part(shorter: Sequence[str], longer: Sequence[str]) -> bool:
    left = [word for word in longer if word not in shorter]
    for word in (w for w in shorter if w not in longer):
        whole = next((w for w in left if 1 in (len(w), len(word)) and w[0] == word[0]), None)
        if whole is None:
            return False
        left.remove(whole)
    return True


def _possible_duplicates(
    distinct: Iterable[Statement],
    owners: Mapping[str, Owner],
    facts: Any,  # noqa: ANN401
) -> dict[str, list[str]]:
    """Other subjects that may be the same person as each subject.

    Their patient ids differ only in case, punctuation, leading zeros and issuer; or the id of one
    is among the Other Patient IDs of the other; or name and birth date are equal. Subjects whose
    sexes, birth dates or all words of their names differ are excluded.
    """
    people = _known(facts)
    marks: dict[object, set[str]] = {}
    for one in distinct:
        owner = owners[one.session]
        ids = (owner.patient, *one.others) if owner.patient else one.others
        for text in filter(None, map(folded_id, ids)):
            marks.setdefault(text, set()).add(owner.subject)
    for subject, known in people.items():
        for (what, script), names in known.items():
            if what == "names":
                for birth in known.get(("birth dates", ""), ()):
                    for name in names:
                        marks.setdefault((script, name, birth), set()).add(subject)
    alike: dict[str, set[str]] = {}
    for subjects in marks.values():
        ordered = sorted(subjects) if len(subjects) > 1 else []
        for a in ordered:
            mine = people.get(a, {})
            others = (b for b in ordered if b != a and not _differ(mine, people.get(b, {})))
            # all people of a cohort may have the same name and birth date
            alike.setdefault(a, set()).update(islice(others, _MOST_LISTED))
    return {subject: sorted(others) for subject, others in sorted(alike.items()) if others}


def _differ(a: Known, b: Known) -> bool:
    """Whether two people share no value of a kind that is known for both."""
    for what in a.keys() & b.keys():
        mine, other = a[what], b[what]
        if what[0] == "names":
            mine, other = ({word for name in names for word in name} for names in (mine, other))
        if not mine & other:
            return True
    return False


def _row(
    one: Statement,
    owner: Owner,
    doubts: Mapping[str, tuple[str, ...]],
    alike: Mapping[str, list[str]],
) -> tuple[str, ...]:
    return (
        f"{owner.subject}_{one.session.partition('_')[2]}",
        *(one.study, one.patient, one.issuer or one.authority, one.name, one.birth, one.sex),
        " ".join(one.others),
        "patient id" if owner.patient else "study",
        "; ".join(doubts.get(one.session, ())),
        " ".join(alike.get(owner.subject, ())),
    )
