"""The lists of words that name no person are data, and hold no word that is not needed."""

from pathlib import Path

import pytest

from efface.audit import make_words, words
from efface.audit.identifiers import Identifier, of_name
from efface.audit.matcher import Matcher


def test_the_table_holds_what_efface_writes_and_nothing_else():
    assert make_words.TABLE.read_text() == make_words.table(), (
        "the table is out of date: run python -m efface.audit.make_words and review what changed"
    )


def test_a_string_in_the_source_changes_no_list(monkeypatch):
    """The lists are read from tables and from no module."""
    read = []
    original = Path.read_text

    def recorded(path, *a, **k):
        read.append(path.suffix)
        return original(path, *a, **k)

    monkeypatch.setattr(Path, "read_text", recorded)
    for words_of in (words.own_words, words.closed_words, words.technical_words):
        words_of.cache_clear()
        assert words_of()
    assert set(read) == {".tsv"}


def test_every_own_word_is_needed():
    """Each word alone would be a finding in a file that efface writes."""
    written = "\n".join(text for _, text in make_words.written()).encode()
    table = sorted(words.own_words())
    matcher = Matcher(Identifier(word, word) for word in table)
    assert {match.kind for match in matcher.search(written)} == set(table)


def test_few_words_and_no_common_names_are_exempt():
    assert len(words.own_words()) < 400
    for person in ("quillfeather", "smith", "garcia", "anna", "maria", "kim"):
        assert person not in words.own_words() | words.closed_words() | words.technical_words()


@pytest.mark.parametrize("word", ["Short", "Long", "May", "Own"])
def test_words_in_comments_of_tables_are_not_exempt(word):
    assert word.casefold() not in words.closed_words()
    sought = of_name("patient name", f"{word}^Sally")
    assert Matcher(sought).search(f"seen with {word} today".encode())
