"""The same short training of small networks, each without one part: what the part is worth."""

import csv
from dataclasses import replace
from pathlib import Path

import torch
import yaml

from efface.segment import Plan, Segmenter, of_torch
from efface.train import data, evaluate, loop

params = snakemake.params
full = loop.Settings.of({**yaml.safe_load(Path(params.settings).read_text()), **params.small})
torch.set_num_threads(snakemake.threads)
heads = Path(snakemake.config["heads"] or "heads")
training, validation = data.sets(heads, Path(params.cache), full.mm)
variants = {
    "as shipped": full,
    "without attention gates": replace(full, attention=False),
    "without the correction on the full grid": replace(full, fine=0),
}
rows = []
for i, (name, settings) in enumerate(variants.items()):
    folder = Path(params.checkpoints)

    def report(line, name=name):
        with Path(snakemake.log[0]).open("a") as f:
            f.write(f"{name}: {line}\n")

    net = loop.train(training, settings, folder / f"{i}.pt", folder / f"{i}.csv", report=report)
    plan = Plan(settings.mm, settings.widths, settings.attention, settings.fine)
    dice = evaluate.dice_of(validation, Segmenter(of_torch(net, "cpu"), plan))
    weights = sum(p.numel() for p in net.parameters())
    rows.append({"network": name, "weights": weights, "steps": settings.steps, **dice})
with Path(snakemake.output[0]).open("w", newline="") as f:
    writer = csv.DictWriter(f, list(rows[0]), delimiter="\t", lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
