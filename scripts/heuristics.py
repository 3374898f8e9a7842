"""What each step of segmentation and distortion changes, on heads with known labels."""

from pathlib import Path

from efface.manifest import write_atomic
from efface.segment import Segmenter
from efface.train import heuristics

config, params = snakemake.config, snakemake.params
heads = Path(config["heads"] or "heads")
folder = heads / "val" if (heads / "val").is_dir() else heads
models = Path(config["models"]) if config["models"] else None
segmenter = Segmenter.load(models, config["device"], snakemake.threads)
log = Path(snakemake.log[0])

results = []
for name, case in heuristics.cases(folder, params.transformed, params.combined):
    for result in heuristics.measure(name, case, segmenter):
        results.append(result)
        row = result.row
        with log.open("a") as f:
            f.write(f"{name} {case.group} {case.name}, {result.off}: {row.status} {row.reasons}\n")
    write_atomic(Path(snakemake.output.table), heuristics.table(results))
