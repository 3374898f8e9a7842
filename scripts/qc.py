"""Measures, pictures and status of every scan of a session."""

import json
from pathlib import Path

from efface import qc, stage
from efface.manifest import read_manifest
from efface.segment import Segmenter

config, params = snakemake.config, snakemake.params
given = {
    name: (
        Path(snakemake.input[f"{name}_folder"]),
        read_manifest(Path(snakemake.input[name])),
    )
    for name in ("convert", "segment", "distort")
}


def work(folder):
    session = json.loads(Path(params.session).read_text())
    models = Path(config["models"]) if config["models"] else None
    segmenter = Segmenter.load(models, config["device"], snakemake.threads)
    return qc.run(
        session,
        **given,
        folder=folder,
        segmenter=segmenter,
        features=params.features,
        method=params.method,
    )


distorted = given["distort"][1]
stage.run(
    "qc",
    distorted.session,
    distorted.scans,
    Path(snakemake.output.folder),
    Path(snakemake.output.manifest),
    work,
    Path(snakemake.log[0]),
)
