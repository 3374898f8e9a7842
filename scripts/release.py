"""Copy one form of a session into the release."""

from pathlib import Path

from efface import release
from efface.manifest import read_manifest

accept = snakemake.config["accept"]
release.copy(
    Path(snakemake.input.folder),
    read_manifest(Path(snakemake.input.manifest)),
    release.judgements(Path(accept) if accept else None),
    snakemake.rule.removeprefix("release_"),
    Path(snakemake.output[0]),
)
