"""Put together what may be released of a session, and search it for identifiers."""

import json
from pathlib import Path

from efface import audit, stage
from efface.manifest import read_manifest
from efface.pseudonym import read_key

params = snakemake.params
given = {
    name: (
        Path(snakemake.input[f"{name}_folder"]),
        read_manifest(Path(snakemake.input[name])),
    )
    for name in ("convert", "distort", "qc")
}


def work(folder):
    session = json.loads(Path(params.session).read_text())
    key = read_key(Path(snakemake.input.key))
    return audit.run(
        session, **given, folder=folder, retain=params.retain, key=key, layout=params.layout
    )


judged = given["qc"][1]
stage.run(
    "audit",
    judged.session,
    judged.scans,
    Path(snakemake.output.folder),
    Path(snakemake.output.manifest),
    work,
    Path(snakemake.log[0]),
)
