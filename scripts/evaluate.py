"""Evaluate the model in use on known labels: tables, calibration, renders of the worst heads."""

from pathlib import Path

from efface import tables
from efface.manifest import write_atomic, write_json
from efface.segment import Segmenter
from efface.train import calibrate, data, evaluate, figure
from efface.train import tables as evaluation

config, output, params = snakemake.config, snakemake.output, snakemake.params
heads = Path(config["heads"] or "heads")
folder = heads / "val" if (heads / "val").is_dir() else heads
models = Path(config["models"]) if config["models"] else None
segmenter = Segmenter.load(models, config["device"], snakemake.threads)
log = Path(snakemake.log[0])


def logged(rows):
    """Yield the rows, with a line in the log for each: a whole evaluation takes an hour."""
    for row in rows:
        with log.open("a") as f:
            f.write(f"{row.head} {row.group} {row.name}: {row.status} {'; '.join(row.reasons)}\n")
        yield row


plain = list(logged(evaluate.heads(folder, segmenter)))
write_atomic(Path(output.table), evaluation.cases(plain))
known = data.cached(folder, Path(params.cache), segmenter.plan.mm)
compared = evaluate.compared(known, segmenter)
write_atomic(Path(output.cascade), tables.text(compared, compared[0]))
evaluate.picture(folder, plain, segmenter, Path(output.picture))
rows = plain + list(logged(evaluate.transformed(folder, segmenter, params.transformed)))
rows += logged(evaluate.combined(folder, segmenter, params.combined))
write_atomic(Path(output.transformed), evaluation.groups(rows))
figure.draw(evaluation.groups(rows), Path(output.figure))
write_atomic(Path(output.cases), evaluation.cases(rows))
write_json(Path(output.calibration), calibrate.curves(rows))
