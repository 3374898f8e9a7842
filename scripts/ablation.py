"""The same short training of small networks, each without one part: what the part is worth."""

import csv
from dataclasses import replace
from pathlib import Path

import torch
import yaml

from efface.segment import Plan, Segmenter, of_torch
from efface.segment.cascade import Cascade
from efface.train import cut, data, evaluate, loop

params = snakemake.params
full = loop.Settings.of({**yaml.safe_load(Path(params.settings).read_text()), **params.small})
torch.set_num_threads(snakemake.threads)
heads = Path(snakemake.config["heads"] or "heads")
training, validation = data.sets(heads, Path(params.cache), full.mm)
# as many voxels seen: a step of the network that cuts is one box of three
longer = replace(full, steps=full.steps + full.cut_steps // cut.IN_TURN, cut=())
variants = {
    "as shipped": full,
    "without attention gates": replace(full, attention=False),
    "without the network that cuts, trained as long": longer,
}
rows = []
for i, (name, settings) in enumerate(variants.items()):
    folder = Path(params.checkpoints)

    def report(line, name=name):
        with Path(snakemake.log[0]).open("a") as f:
            f.write(f"{name}: {line}\n")

    curve = folder / f"{i}.csv"
    find = loop.train(training, settings, folder / f"{i}.pt", curve, report=report)
    networks, steps = [find], settings.steps
    if settings.cut:
        second = cut.train(find, training, settings, folder / f"{i}_cut.pt", curve, report=report)
        networks.append(second)
        steps += settings.cut_steps
    plan = Plan(settings.mm, settings.widths, settings.attention, settings.cut)
    find, *cuts = (of_torch(n, "cpu") for n in networks)
    network = Cascade(find, cuts[0] if cuts else None, settings.mm)
    dice = evaluate.dice_of(validation, Segmenter(network, plan))
    weights = sum(p.numel() for n in networks for p in n.parameters())
    rows.append({"network": name, "weights": weights, "steps": steps, **dice})
with Path(snakemake.output[0]).open("w", newline="") as f:
    writer = csv.DictWriter(f, list(rows[0]), delimiter="\t", lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
