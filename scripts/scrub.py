"""Scrub the DICOM headers of a session."""

from efface import scrub, stage

job = stage.job(snakemake)
job.log.write_text("")
record, key = job.record(), job.key()


def work(folder):
    return scrub.run(record, folder, key, snakemake.params.retain)


stage.run(job, scrub.to_scrub(record), work)
