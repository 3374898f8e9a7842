"""Short trainings of small networks, each without one part, to measure the part's contribution."""

import csv
from dataclasses import replace
from pathlib import Path

import torch
import yaml

from efface.segment import Plan, Segmenter
from efface.segment.cascade import Cascade
from efface.segment.network import predictor
from efface.train import data, evaluate, loop, refine

params = snakemake.params
full = loop.Settings.of({**yaml.safe_load(Path(params.settings).read_text()), **params.small})
torch.set_num_threads(snakemake.threads)
heads = Path(snakemake.config["heads"] or "heads")
training, validation = data.sets(heads, Path(params.cache), full.mm)
# as many voxels in all: a step of the refining network is one box of three
longer = replace(
    full, steps=full.steps + full.refine_steps // refine.BOXES_PER_HEAD, refine_widths=()
)
variants = {
    "as shipped": full,
    "without attention gates": replace(full, attention=False),
    "without refining network, trained as long": longer,
}
rows = []
for i, (name, settings) in enumerate(variants.items()):
    folder = Path(params.checkpoints)

    def report(line, name=name):
        with Path(snakemake.log[0]).open("a") as f:
            f.write(f"{name}: {line}\n")

    curve = folder / f"{i}.csv"
    coarse = loop.train(training, settings, folder / f"{i}.pt", curve, report=report)
    networks, steps = [coarse], settings.steps
    if settings.refine_widths:
        paths = folder / f"{i}_refine.pt", curve
        networks.append(refine.train(coarse, training, settings, *paths, report=report))
        steps += settings.refine_steps
    plan = Plan(settings.mm, settings.coarse_widths, settings.attention, settings.refine_widths)
    first, *second = (predictor(n, "cpu") for n in networks)
    network = Cascade(first, second[0] if second else None, settings.mm)
    dice = evaluate.dice_of(validation, Segmenter(network, plan))
    weights = sum(p.numel() for n in networks for p in n.parameters())
    rows.append({"network": name, "weights": weights, "steps": steps, **dice})
with Path(snakemake.output[0]).open("w", newline="") as f:
    writer = csv.DictWriter(f, list(rows[0]), delimiter="\t", lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
