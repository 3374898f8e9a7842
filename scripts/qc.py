"""Measure, render and judge every scan of a session."""

from pathlib import Path

from efface import qc, stage
from efface.segment import Segmenter

config, params = snakemake.config, snakemake.params
job = stage.job(snakemake)


def work(folder):
    models = Path(config["models"]) if config["models"] else None
    return qc.run(
        job.record(),
        **job.earlier,
        folder=folder,
        segmenter=Segmenter.load(models, config["device"], snakemake.threads),
        features=params.features,
        method=params.method,
    )


stage.run(job, job.scans("distort"), work)
