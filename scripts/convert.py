"""Convert the raw series of a session to NIfTI images with sidecars."""

import logging

from efface import convert, stage
from efface.manifest import Scan

job = stage.job(snakemake)
logging.basicConfig(filename=job.log, filemode="w", level=logging.INFO)
record, key = job.record(), job.key()


def work(folder):
    return convert.run(record, folder, key, snakemake.params.names)


inputs = tuple(
    Scan(s.series, s.series, s.modality, s.status, s.reasons)
    for s in record.series
    if s.kind == "image" and s.status != "fail"
)
stage.run(job, inputs, work)
