"""Replace the face in every scan of a session, as NIfTI and as DICOM."""

from efface import distort, stage

params = snakemake.params
job = stage.job(snakemake)


def work(folder):
    return distort.run(
        job.record(),
        **job.earlier,
        folder=folder,
        key=job.key(),
        features=params.features,
        method=params.method,
        log=job.log,
    )


stage.run(job, job.scans("convert") + job.scans("scrub"), work)
