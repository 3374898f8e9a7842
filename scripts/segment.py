"""Labels of every scan of a session."""

from pathlib import Path

from efface import segment, stage
from efface.manifest import read_manifest

config = snakemake.config
given = read_manifest(Path(snakemake.input.manifest))


def work(folder):
    models = Path(config["models"]) if config["models"] else None
    segmenter = segment.Segmenter.load(models, config["device"], snakemake.threads)
    return segment.run((Path(snakemake.input.folder), given), folder, segmenter)


stage.run(
    "segment",
    given.session,
    given.scans,
    Path(snakemake.output.folder),
    Path(snakemake.output.manifest),
    work,
    Path(snakemake.log[0]),
)
