"""What the result of a script depends on: code and model files, as hashes.

Snakemake re-runs a rule when one of its parameters changes, but not when a module that its script
imports does. A rule therefore has these hashes among its parameters.

The modules are found in the source text, nothing is imported: those of efface that the script
imports, those that they import, and so on; imports inside functions count. A submodule brings its
packages with it, since Python runs their ``__init__``. Imports for type checking do not count.
Tables, templates and schemas beside an imported module count as code. A model file counts for a
script if one of its modules names it in a string. Comments, docstrings and layout do not count.
"""

from __future__ import annotations

import ast
import hashlib
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from efface import resources
from efface.manifest import sha256

PIPELINE = (
    *("inventory_entry", "inventory", "scrub", "convert", "segment", "distort", "qc", "audit"),
    *("gate", "release", "report"),
)
"""Scripts that make the results of a run."""

_Definition = ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef


@dataclass(frozen=True)
class _Source:
    """What the text of one Python file says."""

    digest: bytes
    imports: frozenset[str]
    """Names below ``efface`` that are imported: modules, or names in modules."""
    strings: frozenset[str]


def code_hash(*scripts: str) -> str:
    """Hash of the code that the scripts run, 16 hex digits. ``scripts``: names without ``.py``."""
    digest = hashlib.sha256()
    for path in sorted({_script(s) for s in scripts}):
        digest.update(path.name.encode() + b"\0" + _read(path).digest)
    modules = sorted(set().union(*(code_modules(s) for s in scripts)))
    for name in modules:
        digest.update(name.encode() + b"\0" + _read(_file(name)).digest)
    for path in sorted({p for name in modules for p in _data(_file(name).parent)}):
        digest.update(path.name.encode() + b"\0" + _content(path))
    return digest.hexdigest()[:16]


def model_hash(folder: str, *scripts: str) -> str:
    """Hash of the model files that the scripts read, 16 hex digits.

    ``folder``: the setting ``models``, a folder of another face model; empty for the shipped one.
    Both folders count where it is set, since it does not replace the anatomy.
    """
    digest = hashlib.sha256()
    names = set().union(*(model_names(s) for s in scripts))
    for place in [resources.models(), *([Path(folder)] if folder else [])]:
        for name in sorted(names):
            if (place / name).is_file():
                digest.update(name.encode() + b"\0" + sha256(place / name).encode())
    return digest.hexdigest()[:16]


@cache
def code_modules(script: str) -> frozenset[str]:
    """Names of efface's modules that a script imports, directly or through others."""
    waiting, names = list(_read(_script(script)).imports), set[str]()
    while waiting:
        parts = waiting.pop().split(".")
        for n in range(1, len(parts) + 1):
            name = ".".join(parts[:n])
            # the last part may be a function or class
            if name not in names and _file(name).is_file():
                names.add(name)
                waiting += _read(_file(name)).imports
    return frozenset(names)


@cache
def model_names(script: str) -> frozenset[str]:
    """Names of the shipped model files that a script reads."""
    sources = [_read(_script(script)), *(_read(_file(m)) for m in code_modules(script))]
    strings = frozenset[str]().union(*(s.strings for s in sources))
    files = (p for p in resources.models().iterdir() if p.suffix != ".md")
    return frozenset(p.name for p in files if p.name in strings)


def _script(name: str) -> Path:
    return resources.root() / "scripts" / f"{name}.py"


@cache
def _file(module: str) -> Path:
    """The file of a module or package; it need not exist."""
    place = resources.PACKAGE.parent.joinpath(*module.split("."))
    package = place / "__init__.py"
    return package if package.is_file() else place.with_suffix(".py")


@cache
def _read(path: Path) -> _Source:
    tree = ast.parse(path.read_bytes(), str(path))
    imports, strings = set[str](), set[str]()
    for node in _nodes(tree):
        if isinstance(node, ast.Import):
            imports |= {a.name for a in node.names if a.name.split(".")[0] == "efface"}
        elif isinstance(node, ast.ImportFrom):
            origin = _origin(node, path)
            if origin.split(".")[0] == "efface":
                imports |= {f"{origin}.{a.name}" for a in node.names}
        elif isinstance(node, ast.Constant) and isinstance(node.value, str):
            strings.add(node.value)
    digest = hashlib.sha256(ast.dump(tree).encode("utf-8", "surrogatepass")).digest()
    return _Source(digest, frozenset(imports), frozenset(strings))


def _origin(node: ast.ImportFrom, path: Path) -> str:
    """The package or module of ``from … import``, by its full name."""
    if not node.level:
        return node.module or ""
    package = path.relative_to(resources.PACKAGE.parent).parts[: -node.level]
    return ".".join([*package, *([node.module] if node.module else [])])


def _nodes(tree: ast.Module) -> Iterator[ast.AST]:
    """All nodes that are executed. Docstrings are taken out of the tree on the way."""
    waiting: list[ast.AST] = [tree]
    while waiting:
        node = waiting.pop()
        if isinstance(node, _Definition):
            # a text that stands alone, also below an attribute, does nothing
            node.body = [s for s in node.body if not _is_text(s)]
        yield node
        if isinstance(node, ast.If) and _is_type_checking(node.test):
            waiting += node.orelse
        else:
            waiting += ast.iter_child_nodes(node)


def _is_text(node: ast.stmt) -> bool:
    return (
        isinstance(node, ast.Expr)
        and isinstance(node.value, ast.Constant)
        and isinstance(node.value.value, str)
    )


def _is_type_checking(test: ast.expr) -> bool:
    return (isinstance(test, ast.Name) and test.id == "TYPE_CHECKING") or (
        isinstance(test, ast.Attribute) and test.attr == "TYPE_CHECKING"
    )


@cache
def _data(folder: Path) -> tuple[Path, ...]:
    """Tables, templates and schemas of a package: all files below it that are not Python."""
    files: list[Path] = []
    for path in sorted(folder.iterdir()):
        if path.name.startswith((".", "__pycache__")) or path.suffix == ".py":
            continue
        if path.is_file():
            files.append(path)
        elif folder != resources.PACKAGE and not (path / "__init__.py").exists():
            files += _data(path)
    return tuple(files)


@cache
def _content(path: Path) -> bytes:
    return hashlib.sha256(path.read_bytes()).digest()
