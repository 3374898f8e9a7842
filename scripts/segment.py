"""Label brain and face in every scan of a session."""

from pathlib import Path

from efface import segment, stage

config = snakemake.config
job = stage.job(snakemake)


def work(folder):
    models = Path(config["models"]) if config["models"] else None
    segmenter = segment.Segmenter.load(models, config["device"], snakemake.threads)
    return segment.run(job.earlier["convert"], folder, segmenter)


stage.run(job, job.scans("convert"), work)
