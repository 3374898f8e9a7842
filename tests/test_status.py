"""Codes of reasons: one for each phrase, documented, and found in a written reason."""

import ast
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


def reasons_in(tree):
    """Expressions that become a reason: of calls of mark and _once, and appended to reasons."""
    for call in (n for n in ast.walk(tree) if isinstance(n, ast.Call)):
        function = call.func
        name = function.attr if isinstance(function, ast.Attribute) else getattr(function, "id", "")
        if name in ("mark", "_once") and len(call.args) >= 2:
            yield call.args[-1]
        elif name == "append" and "reasons" in ast.unparse(function):
            yield call.args[0]


def has_code(expression):
    """Whether an expression is no text of its own, or starts with a constant of the statuses."""
    if isinstance(expression, ast.JoinedStr):
        first = expression.values[0]
        if not isinstance(first, ast.FormattedValue):
            return False
        expression = first.value
    if isinstance(expression, ast.Constant):
        return False
    name = ast.unparse(expression).rpartition(".")[2]
    return not name.isupper() or name in status.ALL


def test_every_reason_in_the_code_starts_with_a_phrase_that_has_a_code():
    package = Path(status.__file__).parent
    expressions = [
        (path.name, e)
        for path in package.rglob("*.py")
        for e in reasons_in(ast.parse(path.read_text()))
    ]
    assert len(expressions) > 40
    assert [(name, ast.unparse(e)) for name, e in expressions if not has_code(e)] == []
    wrong = ast.parse(
        "scan.mark('fail', 'odd'); scan.mark('fail', f'odd {x}'); reasons.append(ODD)"
    )
    assert [has_code(e) for e in reasons_in(wrong)] == [False, False, False]
