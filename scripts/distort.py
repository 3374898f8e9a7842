"""Every scan of a session without its face, as NIfTI and as DICOM."""

import json
from pathlib import Path

from efface import distort, stage
from efface.manifest import read_manifest
from efface.pseudonym import read_key

STAGES = ("convert", "segment", "scrub")
params, log = snakemake.params, Path(snakemake.log[0])
given = {name: read_manifest(Path(snakemake.input[name])) for name in STAGES}
before = {
    name: (Path(snakemake.input[f"{name}_folder"]), manifest) for name, manifest in given.items()
}


def work(folder):
    name = f"{snakemake.wildcards.session}.json"
    session = json.loads((Path(snakemake.input.sessions).parent / "sessions" / name).read_text())
    key = read_key(Path(snakemake.input.key))
    return distort.run(
        session,
        **before,
        folder=folder,
        key=key,
        features=params.features,
        method=params.method,
        log=log,
    )


stage.run(
    "distort",
    given["convert"].session,
    given["convert"].scans + given["scrub"].scans,
    Path(snakemake.output.folder),
    Path(snakemake.output.manifest),
    work,
    log,
)
