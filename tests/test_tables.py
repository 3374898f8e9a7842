"""Tab-separated tables: strict if efface acts on them, lenient if they are only searched."""

import pytest

from efface import tables
from efface.errors import EffaceError


def write(tmp_path, text):
    path = tmp_path / "table.tsv"
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    return path


def test_cells_are_text_and_rows_are_indexed_by_their_line(tmp_path):
    path = write(tmp_path, "\ufeffa\tb\n 01 \tNA\n\n\t\n1e3\t\n")
    assert tables.read(path, ["a", "b"]).to_dict("index") == {
        2: {"a": "01", "b": "NA"},
        5: {"a": "1e3", "b": ""},
    }


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (b"", "needs the tab-separated columns a, b"),
        (b"\n", "needs the tab-separated columns a, b"),
        (b"a,b\n1,2\n", "needs the tab-separated columns a, b"),
        (b"a\tb\ta\n1\t2\t3\n", "column a is there twice"),
        (b"a\tb\n1\t2\t3\n", r"malformed table .* line 2"),
        (b"a\tb\n1\t2\n1\t2\t\n", r"malformed table .* line 3"),
        (b'a\tb\n1\t"x\n2\ty\n', "malformed table"),
        (b"a\tb\n1\t\xff\n", "cannot be read"),
    ],
)
def test_a_malformed_table_is_rejected(tmp_path, text, message):
    with pytest.raises(EffaceError, match=message):
        tables.read(write(tmp_path, text), ["a", "b"])


@pytest.mark.parametrize(
    ("text", "rows"),
    [
        (b"", []),
        (b"a\tb", []),
        (b"\xef\xbb\xbfa\tb\n1\tNA\n", [{"a": "1", "b": "NA"}]),
        (b"a\tb\n\n1\n", [{"a": "1", "b": ""}]),
        (b"a\tb\n1\t2\t3\n4\t5\n", [{"a": "1", "b": "2"}, {"a": "4", "b": "5"}]),
        (b'a\tb\n1\t"x y"\n', [{"a": "1", "b": "x y"}]),
        (b'a\tb\n1\t"x\n2\ty\n', [{"a": "1", "b": '"x'}, {"a": "2", "b": "y"}]),
        (b"a\tb\r\n1\t\xff\r\n", [{"a": "1", "b": "\ufffd"}]),
    ],
)
def test_no_row_of_a_source_is_lost(tmp_path, text, rows):
    assert tables.read_source(write(tmp_path, text)) == rows


def test_a_missing_table_of_a_source_has_no_rows(tmp_path):
    assert tables.read_source(tmp_path / "none.tsv") == []


def test_written_cells_are_on_one_line_and_not_quoted():
    rows = [{"b": 'say "so"\there\n', "a": 1, "c": "left out"}, {"b": "\udc80", "a": ""}]
    text = 'a\tb\n1\tsay "so" here\n\t\udc80\n'
    assert tables.text(rows, ["a", "b"]) == text
    assert tables.text([], ["a", "b"]) == "a\tb\n"
