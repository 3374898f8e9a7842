"""Codes of reasons: one for each phrase, documented, and found in a written reason."""

import re
from pathlib import Path

import pytest

from efface import status
from efface.audit import redact
from efface.audit.identifiers import from_json, of_name, to_json
from efface.audit.matcher import Matcher

DOCS = Path(__file__).parents[1] / "docs" / "audit.md"


def test_the_documentation_lists_every_code_with_its_phrase():
    rows = re.findall(r"^\| `([A-Z_]+)` \| (.+?) \| .+ \|$", DOCS.read_text(), re.MULTILINE)
    assert rows == list(status.ALL.items())


@pytest.mark.parametrize(("code", "phrase"), status.ALL.items())
def test_the_code_of_a_written_reason(code, phrase):
    assert status.code_of(phrase) == code
    assert status.code_of(f"{phrase}: a detail: of it") == code
    assert status.code_of(f"{phrase}: a detail (volume 2)") == code
    assert status.code_of(f"{phrase} (volume 2)") == code


def test_an_unknown_reason_has_the_code_other():
    assert status.code_of("something else: not MR") == status.OTHER
    assert status.OTHER not in status.ALL


def test_no_word_of_a_code_is_an_identifier_in_the_report():
    words = {word for code in (*status.ALL, status.OTHER) for word in code.split("_")}
    codes = "\n".join((*status.ALL, status.OTHER)).encode()
    people = {i for word in sorted(words) for i in of_name("patient name", f"{word}^Odalys")}
    people = from_json(to_json(people))
    assert Matcher(people).search(codes)
    assert redact.search({"audit/scans.tsv": codes}, people) == []
