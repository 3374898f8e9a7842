"""List the series and files of one top-level entry of the source."""

import sys
from pathlib import Path

from efface import inventory
from efface.errors import EffaceError
from efface.manifest import write_json
from efface.pseudonym import read_key
from efface.session import as_dict

# a traceback may name a file of the source, so it belongs in the restricted log
sys.stderr = Path(snakemake.log[0]).open("w")  # noqa: SIM115 - until the end

source = Path(snakemake.config["source"]).resolve()
key = read_key(Path(snakemake.input.key))
name = inventory.entries(source, key).get(snakemake.wildcards.entry)
if name is None:
    raise EffaceError("an entry of the source was removed while the run started; run again")
entry = inventory.run_entry(source, name, key, snakemake.params.ocr)
write_json(Path(snakemake.output[0]), as_dict(entry))
