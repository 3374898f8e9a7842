"""What each step of segmentation and distortion changes, on heads with known labels."""

from pathlib import Path

from efface import resources
from efface.manifest import write_atomic
from efface.train import heuristics, tables

config, params = snakemake.config, snakemake.params
heads = Path(config["heads"] or "heads")
folder = heads / "val" if (heads / "val").is_dir() else heads
models = Path(config["models"]) if config["models"] else resources.models()
by_step = heuristics.segmenters(models, config["device"], snakemake.threads)
log = Path(snakemake.log[0])


def results():
    """Yield all results: this takes about an hour on 2 cores."""
    for name, case in heuristics.cases(folder, params.transformed, params.combined):
        yield from heuristics.measure(name, case, by_step)
    for name, first, second in heuristics.sessions(folder):
        yield from heuristics.measure_session(name, first, second, by_step)


done = []
for result in results():
    done.append(result)
    row = result.row
    with log.open("a") as f:
        f.write(f"{row.head} {row.group} {row.name}, {result.off}: {row.status} {row.reasons}\n")
write_atomic(Path(snakemake.output.table), tables.steps(done))
