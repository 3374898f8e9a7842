"""Write the files of the cohort: manifest, description, audit, and the table of source files."""

from pathlib import Path

from efface import release
from efface.audit.report import About
from efface.inventory import read_entry
from efface.manifest import read_manifest
from efface.pseudonym import read_key
from efface.release.finish import finish

given, params = snakemake.input, snakemake.params
entries = [read_entry(Path(p)) for p in given.entries]
about = About(
    key=read_key(Path(given.key)).fingerprint,
    settings=params.settings,
    code=params.code,
    model=params.models,
)
finish(
    Path(given.gate).parents[1],
    [read_manifest(Path(p)) for p in sorted(given.manifests)],
    release.judgements(Path(given.accept[0]) if given.accept else None),
    about,
    entries,
    Path(snakemake.config["source"]).resolve(),
)
