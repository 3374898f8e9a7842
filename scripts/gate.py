"""Which sessions go out, in which form."""

from pathlib import Path

from efface import release
from efface.manifest import read_manifest, write_atomic

accept = snakemake.input.accept
said = release.judgements(Path(accept[0]) if accept else None)
rows = [release.gate_row(read_manifest(Path(p)), said) for p in sorted(snakemake.input.manifests)]
write_atomic(Path(snakemake.output[0]), release.gate_table(rows))
