"""NIfTI images with sidecars of a session, from its raw series."""

import json
import logging
from pathlib import Path

from efface import convert, stage
from efface.manifest import Scan
from efface.pseudonym import read_key

log = Path(snakemake.log[0])
logging.basicConfig(filename=log, filemode="w", level=logging.INFO)

name = f"{snakemake.wildcards.session}.json"
session = json.loads((Path(snakemake.input.sessions).parent / "sessions" / name).read_text())
key = read_key(Path(snakemake.input.key))

given = tuple(
    Scan(s["series"], s["series"], s["modality"], s["status"], tuple(s["reasons"]))
    for s in session["series"]
    if s["kind"] == "image" and s["status"] != "fail"
)
stage.run(
    "convert",
    session["session"],
    given,
    Path(snakemake.output.folder),
    Path(snakemake.output.manifest),
    lambda folder: convert.run(session, folder, key, snakemake.params.names),
    log,
)
