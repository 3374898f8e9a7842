"""Collect what may be released of a session, and search it for the identifiers of its sources."""

from efface import audit, stage

params = snakemake.params
job = stage.job(snakemake)


def work(folder):
    return audit.run(
        job.record(),
        **job.earlier,
        folder=folder,
        retain=params.retain,
        key=job.key(),
        layout=params.layout,
    )


stage.run(job, job.scans("qc"), work)
