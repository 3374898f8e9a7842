"""Write a DICOM export of generated heads, and the list of identifiers planted in it."""

import logging
from pathlib import Path

from efface.phantom import demo_source

logging.basicConfig(filename=snakemake.log[0], filemode="w", level=logging.INFO)

params = snakemake.params
identifiers = demo_source(
    Path(snakemake.output.source),
    params.people,
    params.seed,
    identifiers=Path(snakemake.output.identifiers),
    mm=params.mm,
)
logging.info("%d identifiers planted", len(identifiers))
