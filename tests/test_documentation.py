"""Every command, option, setting and file named in the documentation exists.

The commands are parsed by the parsers of the programs, but not run.
"""

import argparse
import contextlib
import importlib.util
import io
import re
import shlex
import subprocess
import sys
import textwrap
from functools import cache
from pathlib import Path
from typing import NamedTuple

import nibabel
import pytest
import yaml

from efface.cli import _parser
from efface.errors import EffaceError
from efface.phantom import phantom
from efface.workflow import settings as checks

ROOT = Path(__file__).resolve().parents[1]
PAGES = sorted([ROOT / "README.md", ROOT / "models" / "README.md", *(ROOT / "docs").rglob("*.md")])
PROGRAM = re.compile(r"(?:\.venv/bin/)?(efface|snakemake|make|python[0-9.]*|pytest)(?=\s|$)")
TRACKED = ("benchmarks", "docs", "efface", "models", "profiles", "rules", "scripts", "tests")
ASSIGNMENT = re.compile(r"\w+=\S*")


class Code(NamedTuple):
    """A line of a code block, or a piece of inline code."""

    page: Path
    line: int
    text: str
    inline: bool


FENCED = re.compile(r"^```.*?\n(.*?)^```", re.MULTILINE | re.DOTALL)
INDENTED = re.compile(r"(?<=\n\n)((?: {4}.*\n)+)")
YAML = re.compile(r"^```yaml\n(.*?)^```", re.MULTILINE | re.DOTALL)
INLINE = re.compile(r"(?<!`)`([^`]+)`(?!`)")


def code(page, text):
    """Yield all code of a Markdown page; join lines that end with a backslash with the next one."""
    for block in (FENCED, INDENTED):
        for match in block.finditer(text):
            first = text.count("\n", 0, match.start(1)) + 1
            lines = re.sub(r" *\\\n *", "\0", match[1]).splitlines()
            for line in lines:
                yield Code(page, first, line.replace("\0", " ").strip(), inline=False)
                first += 1 + line.count("\0")
        # keep the line breaks, which later line numbers count
        text = block.sub(lambda match: "\n" * match[0].count("\n"), text)
    for match in INLINE.finditer(text):
        line = text.count("\n", 0, match.start()) + 1
        yield Code(page, line, " ".join(match[1].split()), inline=True)


def words(text):
    """Words of a command, without the marks [ ] and …, and with the first choice of a|b."""
    text = re.sub(r"\[([^][]*)\]", r"\1", re.sub(r"\[([^][]*)\]", r"\1", text))
    text = re.sub(r"(\w+)(?:\|[\w-]+)+", r"\1", text)
    parts = shlex.split(text, comments=True)
    end = next((n for n, word in enumerate(parts) if word.startswith(("<", ">"))), None)
    return [word for word in parts[:end] if word not in ("…", "...", "&")]


def problem(text, inline=False):
    """Why a line is not a valid command; empty if it is valid or has no command of this project.

    Inline code may be the start of a command, as in ``efface run``.
    """
    checks = {"efface": of_efface, "snakemake": of_snakemake, "make": of_make, "pytest": of_pytest}
    for line in re.split(r"\s+(?:&&|\|\|?)\s+|;\s+", re.sub(r"^\$ |\s# .*", "", text)):
        command = re.sub(r"^(?:\w+=\S* +)+", "", line)  # variables of the environment
        if program := PROGRAM.match(command):
            check = checks.get(program[1], of_python)
            if why := check(words(command)[1:], inline):
                return why
    return ""


def parse(parser, arguments):
    """Parsed arguments, or the message of the parser."""
    output = io.StringIO()
    with contextlib.redirect_stderr(output), contextlib.redirect_stdout(io.StringIO()):
        try:
            return parser.parse_args(arguments)
        except SystemExit as e:
            return output.getvalue().strip().splitlines()[-1] if e.code else argparse.Namespace()


def commands(parser, name=()):
    """Parser of each command, by its words: ``("key", "new")``."""
    inner = [a for a in parser._actions if isinstance(a, argparse._SubParsersAction)]
    if not inner:
        return {name: parser}
    return {k: v for n, p in inner[0].choices.items() for k, v in commands(p, (*name, n)).items()}


def of_efface(arguments, inline):
    parser = _parser()
    parsed = parse(parser, arguments)
    if isinstance(parsed, str) and inline and "arguments are required" in parsed:
        # argparse reports missing arguments first, so check the other arguments here
        known = commands(parser)
        matching = [c for c in known if c == tuple(arguments[: len(c)])]
        prefixes = {c[:n] for c in known for n in range(len(c))}
        if not matching:
            return "" if tuple(arguments) in prefixes else f"no such command: efface {arguments}"
        return next(
            (
                f"no such option of efface {' '.join(c)}: {w}"
                for c in matching
                for w in arguments
                if w.startswith("-") and w not in known[c]._option_string_actions
            ),
            "",
        )
    if isinstance(parsed, str):
        return parsed
    values = {k: v for k, v in vars(parsed).items() if k in ("method", "retain", "features")}
    values = {k: v.split(",") if k == "features" else v for k, v in values.items()}
    profile = getattr(parsed, "profile", None)
    if profile and not profile.isupper() and not (ROOT / "profiles" / profile).is_dir():
        return f"no such profile: {profile}"
    return wrong_setting(values)


@cache
def defaults():
    return yaml.safe_load((ROOT / "config.yaml").read_text())


def wrong_setting(values):
    if unknown := values.keys() - defaults().keys():
        return f"no such setting: {', '.join(unknown)}"
    values = {k: v for k, v in values.items() if not (isinstance(v, str) and v.isupper()) and v}
    try:
        checks.check(defaults() | values)
    except EffaceError as e:
        return str(e)
    return ""


@cache
def rules():
    """Names of the workflow's rules."""
    text = "\n".join(p.read_text() for p in (ROOT / "Snakefile", *(ROOT / "rules").glob("*.smk")))
    return set(re.findall(r"^ *(?:rule|checkpoint) (\w+):", text, re.MULTILINE))


@cache
def snakemake_parser():
    from snakemake.cli import get_argument_parser

    return get_argument_parser()


def of_snakemake(arguments, inline):
    parsed = parse(snakemake_parser(), ["2" if a == "N" else a for a in arguments])
    if isinstance(parsed, str):
        return parsed
    for target in getattr(parsed, "targets", []):
        if target not in rules():
            return f"no such rule: {target}"
    config = dict(c.partition("=")[::2] for c in getattr(parsed, "config", None) or [])
    profile = getattr(parsed, "workflow_profile", None)
    if profile and not (ROOT / profile).is_dir():
        return f"no such profile: {profile}"
    return wrong_setting(config)


def of_make(arguments, inline):
    targets = re.findall(r"^([\w./-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE)
    missing = [a for a in arguments if a not in targets and not ASSIGNMENT.fullmatch(a)]
    return f"no such target: {', '.join(missing)}" if missing else ""


def of_pytest(arguments, inline):
    paths = [a.partition("::")[0] for a in arguments if a.startswith("tests")]
    missing = [p for p in paths if not (ROOT / p).exists()]
    return f"no such file: {', '.join(missing)}" if missing else ""


@cache
def help_of(path):
    process = subprocess.run(
        [sys.executable, path, "--help"], capture_output=True, text=True, check=False, cwd=ROOT
    )
    return process.stdout


def of_python(arguments, inline):
    if not arguments or arguments[0] in ("-c", "-"):
        return ""
    if arguments[:2] in (["-m", "venv"], ["-m", "pip"]):
        return ""
    if arguments[:2] == ["-m", "pytest"]:
        return of_pytest(arguments[2:], inline)
    if arguments[0] == "-m":
        try:
            spec = importlib.util.find_spec(arguments[1])
        except ModuleNotFoundError:
            spec = None
        path = Path(spec.origin) if spec and spec.origin else None
        rest = arguments[2:]
    else:
        path, rest = ROOT / arguments[0], arguments[1:]
    if not path or not path.is_file():
        return f"no such program: {' '.join(arguments[:2])}"
    text = path.read_text()
    if 'if __name__ == "__main__":' not in text:
        return f"{path.name} is no program"
    if "argparse" in text:
        options = set(re.findall(r"--[a-z][\w-]*", help_of(path)))
        unknown = [a for a in rest if a.startswith("-") and a not in options]
        return f"no such option of {path.name}: {unknown[0]}" if unknown else ""
    most = max((int(n) for n in re.findall(r"sys\.argv\[(\d+)\]", text)), default=0)
    if len(rest) > most:
        return f"{path.name} takes {most} arguments"
    return ""


@cache
def options():
    """Every option of efface, of snakemake and of the benchmarks."""
    names = {o for p in commands(_parser()).values() for o in p._option_string_actions}
    names |= set(_parser()._option_string_actions)
    names |= set(snakemake_parser()._option_string_actions)
    for path in (ROOT / "benchmarks").glob("*.py"):
        names |= set(re.findall(r"\"(--[a-z][\w-]*)\"", path.read_text()))
    return names


def missing(piece):
    """Why a piece of code is wrong; empty if everything that it names exists."""
    if why := problem(piece.text, piece.inline):
        return why
    if not piece.inline:
        return ""
    if piece.text.startswith("--"):
        arguments = words(piece.text)
        unknown = [a for a in arguments if a.startswith("--") and a not in options()]
        return f"no such option: {', '.join(unknown)}" if unknown else ""
    if re.fullmatch(rf"(?:{'|'.join(TRACKED)})/[\w./-]+", piece.text):
        return "" if (ROOT / piece.text).exists() else "no such file"
    return ""


PIECES = [piece for page in PAGES for piece in code(page, page.read_text())]


@pytest.mark.parametrize("page", PAGES, ids=lambda p: str(p.relative_to(ROOT)))
def test_everything_that_a_page_names_exists(page):
    pieces = [piece for piece in PIECES if piece.page == page]
    wrong = [(p.line, p.text, why) for p in pieces if (why := missing(p))]
    assert not wrong, "\n".join(f"{page.name}:{line}: `{text}`: {why}" for line, text, why in wrong)


@pytest.mark.parametrize("page", PAGES, ids=lambda p: str(p.relative_to(ROOT)))
def test_links_of_a_page_lead_to_files(page):
    links = re.findall(r"\]\(([^)#\s]+)", page.read_text())
    assert not [x for x in links if "://" not in x and not (page.parent / x).exists()]


def test_settings_and_variables_named_in_prose_exist():
    text = "\n".join(page.read_text() for page in PAGES)
    for name in re.findall(r"settings? `(\w+)`", text):
        assert name in defaults(), name
    files = [p for d in ("efface", "tests") for p in (ROOT / d).rglob("*.py")]
    source = "\n".join(p.read_text() for p in files if p.name != Path(__file__).name)
    for name in set(re.findall(r"\bEFFACE_[A-Z]+\b", text)):
        assert name in source, name


def test_settings_in_blocks_are_valid():
    blocks = [m[1] for page in PAGES for m in YAML.finditer(page.read_text())]
    assert blocks
    assert not [why for block in blocks if (why := wrong_setting(yaml.safe_load(block)))]


def test_the_python_example_runs(tmp_path, monkeypatch):
    text = (ROOT / "README.md").read_text()
    (example,) = (m[1] for m in INDENTED.finditer(text) if "import efface" in m[1])
    nibabel.save(phantom(3, spacing=(3, 3, 3))[0], tmp_path / "head.nii.gz")
    monkeypatch.chdir(tmp_path)
    names = {}
    exec(textwrap.dedent(example), names)
    assert names["result"].report.status == "pass"


def test_every_command_is_documented():
    examples = {
        tuple(w) for p in PIECES if p.text.startswith("efface ") for w in [words(p.text)[1:]]
    }
    for command in commands(_parser()):
        assert any(w[: len(command)] == command for w in examples), command


def test_every_setting_has_a_comment():
    for line in (ROOT / "config.yaml").read_text().splitlines():
        assert re.fullmatch(r"(\w+:.+# \S.*|#.*|\s*)", line), line


PAGE = """
Start with `efface run` or `efface
run SOURCE OUT --ocr never`, see `efface/cli.py`:

    $ efface verify RELEASE [--identifiers FILE]   # a comment
    efface deface a.nii b.nii \\
      --mask m.nii
    EFFACE_DEBUG=1 efface run A B participant|group > log; make test | tee log
    snakemake --cores 8 evaluate --config heads=DIR

```
make test
```
"""


def test_commands_are_found_in_blocks_and_in_text():
    pieces = [(p.text, p.line, p.inline) for p in code(Path("a.md"), PAGE)]
    assert pieces == [
        ("make test", 12, False),
        ("$ efface verify RELEASE [--identifiers FILE]   # a comment", 5, False),
        ("efface deface a.nii b.nii --mask m.nii", 6, False),
        ("EFFACE_DEBUG=1 efface run A B participant|group > log; make test | tee log", 8, False),
        ("snakemake --cores 8 evaluate --config heads=DIR", 9, False),
        ("efface run", 2, True),
        ("efface run SOURCE OUT --ocr never", 2, True),
        ("efface/cli.py", 3, True),
    ]
    assert not [p for p in code(Path("a.md"), PAGE) if missing(p)]


@pytest.mark.parametrize(
    "text",
    [
        "efface undo OUT",
        "efface undo",
        "efface key lose",
        "efface run --undo",
        "efface run A B --undo",
        "EFFACE_DEBUG=1 efface run A B --undo",
        "make test && efface undo A",
        "efface run A B --ocr sometimes",
        "efface run A B --retain names",
        "efface run A B --profile pbs",
        "efface deface a.nii.gz",
        "efface deface a.nii.gz b.nii.gz --method magic",
        "efface verify RELEASE [--undo FILE]",
        "snakemake undo",
        "snakemake --cores 2 --config undo=1",
        "snakemake --cores 2 --config ocr=sometimes",
        "snakemake --undo",
        "make undo",
        "python benchmarks/undo.py",
        "python benchmarks/scrub.py --undo 3",
        "python benchmarks/leaks.py A B C",
        "python docs/demo_picture.py OUT",
        "python -m efface.undo",
        "python -m efface.nifti",
        ".venv/bin/pytest tests/test_undo.py",
    ],
)
def test_a_wrong_command_in_a_block_is_reported(text):
    assert missing(Code(Path("a.md"), 1, text, inline=False))


@pytest.mark.parametrize(
    "text",
    [
        "efface undo OUT",
        "efface undo",
        "efface run --undo",
        "efface key lose",
        "efface key lose FILE",
        "--undo",
        "--undo FILE",
        "efface/undo.py",
        "make undo",
        "snakemake undo",
    ],
)
def test_wrong_inline_code_is_reported(text):
    assert missing(Code(Path("a.md"), 1, text, inline=True))
