"""Dependencies of a rule: the code that its script runs and the model files that it reads."""

import ast
import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from efface import resources
from efface.distort.methods import METHODS
from efface.workflow import dependencies, settings

ROOT = Path(__file__).resolve().parents[1]
PARTS = ("Snakefile", "efface", "scripts", "models")


@pytest.fixture
def copy(tmp_path, monkeypatch):
    """A copy of the checkout, which the functions of the module read."""
    for name in PARTS:
        if (ROOT / name).is_dir():
            ignored = shutil.ignore_patterns("__pycache__", "*.png", "*.csv")
            shutil.copytree(ROOT / name, tmp_path / name, ignore=ignored)
        else:
            shutil.copy(ROOT / name, tmp_path / name)
    monkeypatch.setattr(resources, "PACKAGE", tmp_path / "efface")
    # parse a file again only if its content changed
    read, parsed = dependencies._read.__wrapped__, {}

    def read_once(path):
        key = (path, path.read_bytes())
        return parsed.get(key) or parsed.setdefault(key, read(path))

    monkeypatch.setattr(dependencies, "_read", read_once)
    clear_caches()
    yield tmp_path
    clear_caches()


def clear_caches():
    for value in vars(dependencies).values():
        if hasattr(value, "cache_clear"):
            value.cache_clear()


def hashes():
    clear_caches()
    return {
        s: (dependencies.code_hash(s), dependencies.model_hash("", s))
        for s in dependencies.PIPELINE
    }


def changed(path, old, new):
    """Scripts whose hashes differ after an edit, which is undone."""
    before, text = hashes(), path.read_text()
    assert old in text
    path.write_text(text.replace(old, new, 1))
    after = hashes()
    path.write_text(text)
    return {s for s in before if before[s] != after[s]}


def add_code(path):
    return changed(path, "from __future__ import annotations\n", "import os as _other\n")


def test_an_edit_reaches_the_stages_that_run_the_module(copy):
    package = copy / "efface"
    assert add_code(package / "verify.py") == set()
    assert add_code(package / "lookup.py") == set()
    assert add_code(package / "scrub" / "folder.py") == set()
    assert add_code(package / "workflow" / "run.py") == set()
    assert add_code(package / "train" / "data.py") == set()
    assert add_code(package / "qc" / "gate.py") == {"qc"}
    assert add_code(package / "distort" / "region.py") == {"distort", "qc"}
    assert add_code(package / "segment" / "pose.py") == {"segment", "distort", "qc"}
    scrub = add_code(package / "scrub" / "engine.py")
    assert scrub >= {"scrub", "distort"}
    assert not scrub & {"inventory_entry", "inventory", "convert", "segment"}
    convert = add_code(package / "convert" / "names.py")
    assert convert >= {"convert", "distort"}
    assert not convert & {"inventory_entry", "inventory", "scrub", "segment"}
    audit = add_code(package / "audit" / "leaks.py")
    assert {"audit", "report"} <= audit <= {"audit", "gate", "release", "report"}
    assert add_code(package / "manifest.py") == set(dependencies.PIPELINE)
    # and a script itself
    assert changed(copy / "scripts" / "qc.py", "job = ", "other = job = ") == {"qc"}


def test_an_edit_of_data_reaches_the_stages_that_read_it(copy):
    package = copy / "efface"
    scrub = changed(package / "scrub" / "profile.tsv", "0010", "0011")
    assert scrub >= {"scrub"}
    assert not scrub & {"inventory_entry", "convert", "segment"}
    audit = changed(package / "audit" / "templates" / "index.html", "<", " <")
    assert {"audit", "report"} <= audit <= {"audit", "gate", "release", "report"}
    assert changed(package / "workflow" / "config.schema.yaml", "auto", "none") == set()
    readers = {"segment", "distort", "qc"}
    for name in dependencies.model_names("segment"):
        path = copy / "models" / name
        content, before = path.read_bytes(), hashes()
        path.write_bytes(content + b" ")
        after = hashes()
        path.write_bytes(content)
        assert {s for s in before if before[s] != after[s]} == readers, name
    assert {"anatomy.json", "calibration.json", "face.json"} <= dependencies.model_names("segment")
    # the other files about the model are documentation
    others = {p.name for p in (ROOT / "models").iterdir()} - dependencies.model_names("segment")
    assert not {n for n in others if n.startswith("face") or n.endswith(".json")}


def test_comments_docstrings_and_layout_do_not_change_the_hash(copy):
    path = copy / "efface" / "scrub" / "engine.py"
    assert changed(path, "\n\n\n", "\n\n\n# a comment\n\n") == set()
    assert changed(path, '"""', '"""Another word. ') == set()
    (copy / "efface" / "verify.py").unlink()
    assert "scrub" in hashes()


def test_another_model_changes_the_hash(tmp_path):
    shipped = dependencies.model_hash("", "segment")
    (tmp_path / "face.json").write_text("{}")
    other = dependencies.model_hash(str(tmp_path), "segment")
    assert other != shipped
    (tmp_path / "face.json").write_text("[]")
    assert dependencies.model_hash(str(tmp_path), "segment") != other
    assert dependencies.model_hash(str(tmp_path), "scrub") == dependencies.model_hash("", "scrub")


@pytest.mark.parametrize("script", ["scrub", "segment", "qc", "report"])
def test_python_loads_no_module_that_the_hash_leaves_out(script):
    """The imports of a script, executed. Imports inside functions: tests/test_reruns.py."""
    tree = ast.parse((ROOT / "scripts" / f"{script}.py").read_text())
    imports = [n for n in tree.body if isinstance(n, ast.Import | ast.ImportFrom)]
    code = ast.unparse(ast.Module(imports, []))
    code += "\nimport json, sys; print(json.dumps(sorted(sys.modules)))"
    process = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True
    )
    loaded = {m for m in json.loads(process.stdout) if m.split(".")[0] == "efface"}
    assert loaded
    assert loaded <= dependencies.code_modules(script)


def test_all_forms_of_imports_are_followed(copy):
    package = copy / "efface"
    new = {
        "one": "def f():\n    import efface.new.two\n",
        "two": "from . import three\nfrom .four import name\n",
        "three": "from typing import TYPE_CHECKING\nif TYPE_CHECKING:\n    import efface.verify\n",
        "four": "name = 1\ntry:\n    from efface.new import five\nexcept ImportError:\n    pass\n",
        "five": "import efface.errors as e, os\n",
        "six": "",
    }
    (package / "new").mkdir()
    (package / "new" / "__init__.py").touch()
    for name, text in new.items():
        (package / "new" / f"{name}.py").write_text(text)
    (copy / "scripts" / "x.py").write_text("from efface.new import one\n")
    modules = {m.removeprefix("efface.new.") for m in dependencies.code_modules("x")}
    assert modules == {"efface", "efface.new", "efface.errors", *new} - {"six"}


def test_no_stage_imports_a_module_by_a_computed_name():
    for script in dependencies.PIPELINE:
        for module in dependencies.code_modules(script) - {"efface"}:
            text = dependencies._file(module).read_text()
            for word in ("import_module", "__import__", "__doc__", "getsource"):
                assert word not in text, (module, word)


def test_the_schema_names_the_methods():
    import yaml

    schema = yaml.safe_load(settings._SCHEMA.read_text())
    assert schema["properties"]["method"]["enum"] == list(METHODS)
