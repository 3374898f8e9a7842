"""DICOM headers of a session without the person."""

import json
from pathlib import Path

from efface import scrub, stage
from efface.pseudonym import read_key

log = Path(snakemake.log[0])
log.write_text("")
name = f"{snakemake.wildcards.session}.json"
session = json.loads((Path(snakemake.input.sessions).parent / "sessions" / name).read_text())
key = read_key(Path(snakemake.input.key))

stage.run(
    "scrub",
    session["session"],
    scrub.given(session),
    Path(snakemake.output.folder),
    Path(snakemake.output.manifest),
    lambda folder: scrub.run(session, folder, key, snakemake.params.retain),
    log,
)
