"""Draft label maps for the heads of a folder that have none, with a picture of each."""

from pathlib import Path

import numpy as np

from efface import nifti
from efface.manifest import write_atomic
from efface.qc import render
from efface.segment import Segmenter
from efface.train import label
from efface.train.data import labels_of

config = snakemake.config
folder = Path(config["heads"] or "heads")
models = Path(config["models"]) if config["models"] else None
segmenter = Segmenter.load(models, config["device"], snakemake.threads)
rows = []
for draft in label.drafts(folder, segmenter):
    rows.append(draft)
    print(f"{draft.head}: {draft.note or 'all views agree'}", flush=True)
    path = folder / f"{draft.head}.nii.gz"
    if labels_of(path).exists():
        img = nifti.load(path)
        labels = np.asarray(nifti.stored(nifti.load(labels_of(path))), np.uint8)
        sheet = render.slices(img.get_fdata(dtype=np.float32), img.affine, labels > 1, labels)
        render.save_png(sheet, Path(snakemake.params.pictures) / f"{draft.head}.png")
write_atomic(Path(snakemake.output[0]), label.table(rows))
