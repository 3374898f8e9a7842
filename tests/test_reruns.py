"""Rules that Snakemake runs again after an edit, in a copy of the checkout after a real run."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from efface.workflow import dependencies, layout

ROOT = Path(__file__).resolve().parents[1]
PARTS = ("Snakefile", "config.yaml", "rules", "scripts", "profiles", "models", "efface")
STAGES = ("scrub", "convert", "segment", "distort", "qc", "audit")

# Run by every Python process of the workflow: a script of Snakemake records the modules that it
# imported and the files that it opened.
RECORDER = """
import atexit, json, os, sys
opened = set()
def hook(event, arguments):
    if event == "open" and isinstance(arguments[0], (str, os.PathLike)):
        opened.add(os.path.abspath(os.fspath(arguments[0])))
def write():
    name = sys.argv[0]
    if "/.snakemake/scripts/" in name:
        path = os.path.join(os.environ["RECORD"], os.path.basename(name) + ".json")
        with open(path, "w") as f:
            json.dump({"modules": list(sys.modules), "opened": sorted(opened)}, f)
sys.addaudithook(hook)
atexit.register(write)
"""

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """Folder with a copy of the checkout, its results for one person, and the records."""
    from efface.phantom import demo_source

    folder = tmp_path_factory.mktemp("reruns")
    checkout, records = folder / "checkout", folder / "records"
    checkout.mkdir()
    records.mkdir()
    for name in PARTS:
        if (ROOT / name).is_dir():
            ignored = shutil.ignore_patterns("__pycache__")
            shutil.copytree(ROOT / name, checkout / name, ignore=ignored)
        else:
            shutil.copy2(ROOT / name, checkout / name)
    (folder / "site").mkdir()
    (folder / "site" / "sitecustomize.py").write_text(RECORDER)
    demo_source(folder / "source", people=1, seed=5, mm=3.0)
    done = snakemake(folder)
    assert done.returncode == 0, done.stdout + done.stderr
    return folder


def snakemake(folder, *more):
    return subprocess.run(
        [
            *[sys.executable, "-m", "snakemake", "--cores", "2", *more],
            *["--config", f"source={folder / 'source'}", f"out={folder / 'out'}"],
        ],
        cwd=folder / "checkout",
        env=os.environ
        | {
            "PYTHONPATH": f"{folder / 'checkout'}{os.pathsep}{folder / 'site'}",
            "RECORD": str(folder / "records"),
            "PYTHONDONTWRITEBYTECODE": "1",
        },
        capture_output=True,
        text=True,
        check=False,
    )


def planned(folder):
    """Names of the rules that a dry run lists."""
    done = snakemake(folder, "--dry-run")
    text = done.stdout + done.stderr
    assert done.returncode == 0, text
    return {
        line.split()[1].rstrip(":")
        for line in text.splitlines()
        if line.startswith(("rule ", "localrule ", "checkpoint ", "localcheckpoint "))
    } - {"all"}


def after_edit(folder, name, old, new):
    """Rules planned after an edit of one file of the copy. The edit is undone."""
    path = folder / "checkout" / name
    content = path.read_bytes()
    assert old in content
    path.write_bytes(content.replace(old, new, 1))
    try:
        return planned(folder)
    finally:
        path.write_bytes(content)


CODE = (b"from __future__ import annotations\n", b"import os as _other\n")


def test_nothing_is_run_again_without_an_edit(run):
    assert planned(run) == set()


@pytest.mark.parametrize(
    ("name", "edit", "first", "untouched"),
    [
        ("efface/verify.py", CODE, None, ()),
        ("efface/scrub/engine.py", (b"\n\n\n", b"\n\n\n# a comment\n\n"), None, ()),
        ("efface/scrub/engine.py", CODE, "scrub", ("convert", "segment")),
        ("efface/scrub/profile.tsv", (b"0010", b"0011"), "scrub", ("convert", "segment")),
        ("efface/qc/gate.py", CODE, "qc", ("scrub", "convert", "segment", "distort")),
        ("scripts/qc.py", (b"job = ", b"_ = job = "), "qc", ("segment", "distort")),
        ("efface/audit/leaks.py", CODE, "audit", STAGES[:5]),
        ("models/anatomy.json", (b"\n", b" \n"), "segment", ("scrub", "convert")),
        ("models/calibration.json", (b"\n", b" \n"), "segment", ("scrub", "convert")),
    ],
)
def test_an_edit_runs_the_stages_that_depend_on_it(run, name, edit, first, untouched):
    rules = after_edit(run, name, *edit)
    if first is None:
        assert rules == set()
        return
    # the stage and those that read its results
    expected = {
        "scrub": {"scrub", "distort", "qc", "audit", "gate"},
        "segment": {"segment", "distort", "qc", "audit", "gate"},
        "qc": {"qc", "audit", "gate"},
        "audit": {"audit", "gate"},
    }[first]
    assert rules >= expected
    assert not rules & {*untouched, "inventory_entry", "inventory"}


def test_scripts_use_only_files_that_their_rules_depend_on(run):
    """The modules that each script imported, and the files that it opened, are dependencies."""
    checkout = run / "checkout"
    scripts = set()
    for path in (run / "records").glob("*.json"):
        script = path.name.removesuffix(".py.json").partition(".")[2]
        scripts.add(script)
        record = json.loads(path.read_text())
        modules = {m for m in record["modules"] if m.split(".")[0] == "efface"}
        assert modules <= dependencies.code_modules(script), script
        for name in record["opened"]:
            file = Path(name)
            if not file.is_relative_to(checkout) or file.suffix in (".py", ".pyc"):
                continue
            relative = file.relative_to(checkout)
            if relative.parts[0] == "models":
                assert relative.name in dependencies.model_names(script), (script, relative)
            elif relative.parts[0] == "efface":
                data = {
                    p.relative_to(ROOT)
                    for m in dependencies.code_modules(script)
                    for p in dependencies._data(dependencies._file(m).parent)
                }
                assert relative in data, (script, relative)
    assert scripts == set(dependencies.PIPELINE)


def test_a_stage_with_unchanged_results_does_not_run_the_release_again(run):
    """After an edit without effect the gate runs again, and the release does not."""
    release = {p: p.stat().st_mtime_ns for p in (run / "out" / "release").rglob("*.dcm")}
    assert release
    path = run / "checkout" / "scripts" / "gate.py"
    content = path.read_bytes()
    path.write_bytes(content.replace(b"reviews = ", b"_ = reviews = ", 1))
    done = snakemake(run)
    path.write_bytes(content)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "checkpoint gate" in done.stdout + done.stderr
    assert release == {p: p.stat().st_mtime_ns for p in (run / "out" / "release").rglob("*.dcm")}


def test_the_layout_lists_everything_that_a_run_writes(run):
    out = run / "out"
    paths = [*out.iterdir(), *(out / "restricted").iterdir()]
    names = {p.relative_to(out).as_posix() for p in paths}
    assert names - set(layout.WRITTEN) == {"restricted", "restricted/key"}
