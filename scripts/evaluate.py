"""The model in use against known labels: a table, and renders of the worst heads."""

from pathlib import Path

from efface.manifest import write_atomic
from efface.segment import Segmenter
from efface.train import evaluate

config = snakemake.config
heads = Path(config["heads"] or "heads")
folder = heads / "val" if (heads / "val").is_dir() else heads
models = Path(config["models"]) if config["models"] else None
segmenter = Segmenter.load(models, config["device"], snakemake.threads)
rows = list(evaluate.heads(folder, segmenter))
write_atomic(Path(snakemake.output.table), evaluate.table(rows))
evaluate.picture(folder, rows, segmenter, Path(snakemake.output.picture))
