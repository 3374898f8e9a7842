"""Which sessions are released, in which form."""

from pathlib import Path

from efface import release
from efface.manifest import read_manifest, write_atomic

accept = snakemake.input.accept
reviews = release.judgements(Path(accept[0]) if accept else None)
rows = [
    release.gate_row(read_manifest(Path(p)), reviews) for p in sorted(snakemake.input.manifests)
]
out = Path(snakemake.output[0])
for row in rows:
    # written only if it changed: a session is released again when its table changes
    write_atomic(out.with_suffix("") / f"{row.session}.tsv", release.gate_table([row]))
for path in out.with_suffix("").glob("*.tsv"):
    if path.stem not in {row.session for row in rows}:
        path.unlink()
write_atomic(out, release.gate_table(rows))
