"""Train the face model from a folder of heads; stopped, it goes on from its last checkpoint."""

from dataclasses import replace
from pathlib import Path

import torch
import yaml

from efface.segment import Plan, Segmenter, of_torch
from efface.segment.labels import LABELS
from efface.train import agree, data, evaluate, export, loop

params = snakemake.params
heads = Path(snakemake.config["heads"] or "heads")
settings = loop.Settings.of(yaml.safe_load(Path(params.settings).read_text()))
torch.set_num_threads(snakemake.threads)
device = snakemake.config["device"]
if device == "auto":
    device = "cuda" if torch.cuda.is_available() else "cpu"

training, validation = data.sets(heads, Path(params.cache), settings.mm)
log = Path(snakemake.log[0])


def report(line):
    print(line, flush=True)
    with log.open("a") as f:
        f.write(line + "\n")


def validate(net):
    plan = Plan(settings.mm, settings.widths, settings.attention, settings.fine)
    segmenter = Segmenter(of_torch(net, device), plan)
    figures = evaluate.dice_of(validation, segmenter)
    net.train()
    return figures


if snakemake.config["models"]:
    # a model that is there already has its say about labels that err in lumps
    voter = Segmenter.load(Path(snakemake.config["models"]), device, snakemake.threads)
    multiple = 2 ** len(voter.plan.widths)
    for i, head in enumerate(training):
        seen = agree.predictions(head, [voter.probabilities], multiple)
        labels, wrong = agree.corrected(head.labels, seen)
        training[i] = replace(head, labels=labels)
        if wrong.any():
            counts = ", ".join(f"{n} {wrong[k]}" for n, k in LABELS.items() if wrong[k])
            report(f"{head.name}: voxels of labels put right: {counts}")
training += data.phantoms(settings.phantoms, settings.mm)
report(f"{len(training)} heads to train on, {len(validation)} to validate")
curve = Path(params.curve)
net = loop.train(training, settings, Path(params.checkpoint), curve, device, validate, report)
export.weights(
    net,
    settings,
    Path(snakemake.output.weights).parent,
    {
        "heads": {"training": len(training), "validation": len(validation)},
        "dice": validate(net),
    },
)
export.curve_picture(curve, Path(snakemake.output.picture))
