"""Generate places.tsv from the BIDS schema: ``python -m efface.convert.make_places schema.json``.

``schema.json`` is published with each version of the specification.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

DATATYPES = ("anat", "dwi", "fmap", "func", "perf")
OUT = Path(__file__).parent / "places.tsv"


def rows(schema: dict[str, Any]) -> list[tuple[str, str, str, str]]:
    """Datatype, suffixes, optional and required entities of every rule for raw MR images."""
    names = {key: entity["name"] for key, entity in schema["objects"]["entities"].items()}
    out = []
    for datatype in DATATYPES:
        for rule in schema["rules"]["files"]["raw"][datatype].values():
            # a mask is not an image of a source
            if ".nii.gz" not in rule["extensions"] or rule["suffixes"] == ["defacemask"]:
                continue
            levels: dict[str, list[str]] = {"optional": [], "required": []}
            for key, requirement in rule["entities"].items():
                level = requirement if isinstance(requirement, str) else requirement["level"]
                if names[key] not in ("sub", "ses"):
                    levels[level].append(names[key])
            optional, required = (" ".join(sorted(v)) for v in levels.values())
            out.append((datatype, " ".join(rule["suffixes"]), optional, required))
    return out


def main(path: str) -> None:
    """Write the table."""
    schema = json.loads(Path(path).read_text())
    lines = [
        f"# Raw MR images of BIDS {schema['bids_version']} (schema {schema['schema_version']}):"
        " the entities of each suffix beside sub and ses. Made by make_places.py.",
        "\t".join(("datatype", "suffixes", "optional", "required")),
        *("\t".join(row) for row in rows(schema)),
    ]
    OUT.write_text("\n".join(lines) + "\n")


if __name__ == "__main__":
    main(sys.argv[1])
