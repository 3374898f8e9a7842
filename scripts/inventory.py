"""Write the record of each session of the source, and the table of sessions."""

import sys
from pathlib import Path

from efface import inventory
from efface.manifest import write_atomic, write_json
from efface.pseudonym import read_key
from efface.session import as_dict

sys.stderr = Path(snakemake.log[0]).open("w")  # noqa: SIM115 - until the end


key = read_key(Path(snakemake.input.key))
table = Path(snakemake.output[0])
folder = table.parent / "sessions"
folder.mkdir(parents=True, exist_ok=True)
rows, people = [], set()


def entries():
    """Read one entry at a time, so that a large source does not fill the memory."""
    for path in snakemake.input.entries:
        entry = inventory.read_entry(Path(path))
        people.update(entry.people)
        yield path, entry


groups = inventory.groups(entries())
# over the whole source, since the studies of a person may lie in several entries
verdict = inventory.cross_check(people)
for names in groups:
    entries_of_group = [inventory.read_entry(Path(name)) for name in names]
    for session in inventory.merge(entries_of_group, key, verdict):
        # written only if it changed
        write_json(folder / f"{session.session}.json", as_dict(session))
        rows.append((session.session, session.subject, session.fingerprint))

known = {session for session, _, _ in rows}
for path in folder.glob("*.json"):
    if path.stem not in known:
        path.unlink()
for path in (table.parent / "entries").glob("*.json"):
    if str(path) not in snakemake.input.entries:
        path.unlink()

write_atomic(Path(snakemake.output.identity), verdict.text())
lines = ["\t".join(row) for row in (("session", "subject", "fingerprint"), *sorted(rows))]
write_atomic(table, "\n".join(lines) + "\n")
