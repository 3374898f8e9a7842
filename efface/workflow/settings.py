"""The settings of a run, checked against their schema (``config.schema.yaml``)."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from efface import paths
from efface.errors import EffaceError
from efface.paths import Argument
from efface.workflow.layout import WRITTEN

_SCHEMA = Path(__file__).with_name("config.schema.yaml")


def check(config: dict[str, Any]) -> None:
    """Make paths absolute; raise :class:`EffaceError` naming the first setting that is wrong."""
    import jsonschema
    import yaml

    schema = yaml.safe_load(_SCHEMA.read_text())
    for name in ("features", "participants", "retain"):
        if isinstance(config.get(name), str):
            # on the command line: --config features=eyes,nose
            config[name] = [v for v in config[name].split(",") if v]
    for name in ("source", "out", "key", "accept", "models", "heads"):
        # absolute, since jobs run in another folder than the command
        config[name] = str(paths.resolved(Path(config[name]))) if config.get(name) else ""
    compare_paths(config)
    error = jsonschema.exceptions.best_match(
        jsonschema.Draft202012Validator(schema).iter_errors(config)
    )
    if error:
        name = ".".join(str(p) for p in error.absolute_path) or "config"
        raise EffaceError(f"setting {name}: {error.message}")
    from efface.scrub import check_options

    check_options(config["retain"])
    if config["accept"]:
        from efface.release import judgements

        judgements(Path(config["accept"]))
    if config["source"] and not config["out"]:
        raise EffaceError("setting out: name a folder for the results (--config out=DIR)")


def compare_paths(config: dict[str, Any]) -> None:
    """Compare source, results, key and table of accepted scans before anything is read or written.

    The key and the table may lie in the folder of results, but not in a part of it that a run
    writes. Raises :class:`efface.errors.UsageError`.
    """
    if not config["out"]:
        return
    out = Path(config["out"])
    reads = [Argument(n, Path(config[n])) for n in ("source", "key", "accept") if config[n]]
    paths.check([r for r in reads if r.role == "source"], [Argument("out", out)])
    for name in WRITTEN:
        paths.check(reads, [Argument("out", out / name)])
