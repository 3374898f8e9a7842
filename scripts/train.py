"""Train the face model from a folder of heads, from the last checkpoint if there is one."""

from dataclasses import replace
from pathlib import Path

import torch
import yaml

from efface.segment import Plan, Segmenter
from efface.segment.cascade import Cascade
from efface.segment.labels import LABELS
from efface.segment.network import predictor
from efface.train import agree, data, evaluate, export, loop, refine

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


def figures(coarse, refining=None):
    networks = [n and predictor(n, device) for n in (coarse, refining)]
    plan = Plan(settings.mm, settings.coarse_widths, settings.attention, settings.refine_widths)
    return evaluate.dice_of(validation, Segmenter(Cascade(*networks, settings.mm), plan))


if snakemake.config["models"]:
    # correct gross errors of the label maps with a model that was trained before
    voter = Segmenter.load(Path(snakemake.config["models"]), device, snakemake.threads)
    for i, head in enumerate(training):
        predictions = agree.predictions(head, [voter.network])
        labels, wrong = agree.corrected(head.labels, predictions)
        training[i] = replace(head, labels=labels)
        if wrong.any():
            counts = ", ".join(f"{n} {wrong[k]}" for n, k in LABELS.items() if wrong[k])
            report(f"{head.name}: label voxels corrected: {counts}")
training += data.phantoms(settings.phantoms, settings.mm)
report(f"{len(training)} training heads, {len(validation)} validation heads")
curve, checkpoint = Path(params.curve), Path(params.checkpoint)
coarse = loop.train(training, settings, checkpoint, curve, device, figures, report)
refining = None
if settings.refine_widths:
    report("coarse network trained; training the refining network")
    refining = refine.train(
        coarse,
        training,
        settings,
        checkpoint.with_name("refine.pt"),
        curve,
        device,
        lambda net: figures(coarse, net),
        report,
    )
export.weights(
    coarse,
    refining,
    settings,
    Path(snakemake.output.weights).parent,
    {
        "heads": {"training": len(training), "validation": len(validation)},
        "dice": figures(coarse, refining),
    },
)
export.curve_picture(curve, Path(snakemake.output.picture))
