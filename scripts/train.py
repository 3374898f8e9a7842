"""Train the face model from a folder of heads; stopped, it goes on from its last checkpoint."""

from dataclasses import replace
from pathlib import Path

import torch
import yaml

from efface.segment import Plan, Segmenter, of_torch
from efface.segment.cascade import Cascade
from efface.segment.labels import LABELS
from efface.train import agree, cut, data, evaluate, export, loop

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


def figures(find, second=None):
    networks = [n and of_torch(n, device) for n in (find, second)]
    plan = Plan(settings.mm, settings.widths, settings.attention, settings.cut)
    return evaluate.dice_of(validation, Segmenter(Cascade(*networks, settings.mm), plan))


if snakemake.config["models"]:
    # a model that is there already has its say about labels that err in lumps
    voter = Segmenter.load(Path(snakemake.config["models"]), device, snakemake.threads)
    for i, head in enumerate(training):
        seen = agree.predictions(head, [voter.network])
        labels, wrong = agree.corrected(head.labels, seen)
        training[i] = replace(head, labels=labels)
        if wrong.any():
            counts = ", ".join(f"{n} {wrong[k]}" for n, k in LABELS.items() if wrong[k])
            report(f"{head.name}: voxels of labels put right: {counts}")
training += data.phantoms(settings.phantoms, settings.mm)
report(f"{len(training)} heads to train on, {len(validation)} to validate")
curve, checkpoint = Path(params.curve), Path(params.checkpoint)
find = loop.train(training, settings, checkpoint, curve, device, figures, report)
second = None
if settings.cut:
    report("the network that finds is trained; now the one that cuts")
    second = cut.train(
        find,
        training,
        settings,
        checkpoint.with_name("cut.pt"),
        curve,
        device,
        lambda net: figures(find, net),
        report,
    )
export.weights(
    find,
    second,
    settings,
    Path(snakemake.output.weights).parent,
    {
        "heads": {"training": len(training), "validation": len(validation)},
        "dice": figures(find, second),
    },
)
export.curve_picture(curve, Path(snakemake.output.picture))
