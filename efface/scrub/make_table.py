"""Generate ``profile.tsv`` and ``iod.tsv``, the two tables from the standard.

``python -m efface.scrub.make_table FOLDER`` where FOLDER holds

- ``basic_profile_2026c.tsv``: tag, name, Basic Profile action (PS3.15 Table E.1-1, 2026c);
- ``confidentiality_profile_attributes.json``: the same table in edition 2025b with its option
  columns (from DIAGNijmegen/rse-grand-challenge-dicom-de-id-procedure at 9b4bc19).

The actions come from the newer edition, the options from the older one. The nine attributes that
were added in between have empty options, so that no option keeps them. Attribute types (PS3.3) come
from highdicom, which only this script needs. The facts are NEMA's; names and layout are our own.
"""

from __future__ import annotations

import csv
import json
import pkgutil
import sys
from collections import defaultdict
from importlib.metadata import version
from pathlib import Path
from typing import Any

from pydicom.datadict import tag_for_keyword

COLUMNS = {
    "safe-private": "rtnSafePrivOpt",
    "uids": "rtnUIDsOpt",
    "device": "rtnDevIdOpt",
    "institution": "rtnInstIdOpt",
    "patient-characteristics": "rtnPatCharsOpt",
    "dates-full": "rtnLongFullDatesOpt",
    "dates-shifted": "rtnLongModifDatesOpt",
    "descriptors": "cleanDescOpt",
    "structured-content": "cleanStructContOpt",
    "graphics": "cleanGraphOpt",
}
IODS = {
    "mr": "mr-image",
    "enhanced-mr": "enhanced-mr-image",
    "legacy-mr": "legacy-converted-enhanced-mr-image",
}
_PATTERNS = {"50xxxxxx": "50xx,eeee", "60xx3000": "60xx,3000", "60xx4000": "60xx,4000"}


def profile_table(folder: Path) -> str:
    """Text of ``profile.tsv``: Basic Profile action and ten option columns of each attribute."""
    options = {}
    for entry in json.loads((folder / "confidentiality_profile_attributes.json").read_text()):
        name = _PATTERNS.get(entry["id"], entry["id"])
        options["odd,eeee" if "odd" in name else _comma(name)] = entry
    actions: dict[str, tuple[str, str]] = {}
    with (folder / "basic_profile_2026c.tsv").open() as f:
        for row in csv.DictReader(f, delimiter="\t"):
            action = row["action"].replace("U/STAR", "U*")
            actions[_comma(row["tag"])] = (row["name"], action)
    for tag, entry in options.items():
        actions.setdefault(tag, (entry["name"], entry["basicProfile"]))
    lines = [
        "# PS3.15 Table E.1-1, NEMA. Basic Profile: edition 2026c. Options: edition 2025b.",
        "# Made by make_table.py. K keep, C clean, X remove, Z empty, D dummy, U new UID.",
        "\t".join(["tag", "name", "basic", *COLUMNS]),
    ]
    for tag, (name, action) in sorted(actions.items()):
        cells = [options.get(tag, {}).get(column, "") for column in COLUMNS.values()]
        lines.append("\t".join([tag, name, action, *cells]))
    return "\n".join(lines) + "\n"


def iod_table() -> str:
    """Text of ``iod.tsv``: attributes of the MR objects, with their sequence and type.

    If several modules give different types, the strictest is used (1, 1C, 2, 2C, 3).
    """
    iods, modules = _highdicom("iod_module_map"), _highdicom("module_attribute_map")
    rows: dict[tuple[str, str], dict[str, str]] = defaultdict(dict)
    for column, iod in IODS.items():
        for module in iods[iod]:
            for attribute in modules[module["key"]]:
                parent = attribute["path"][-1] if attribute["path"] else ""
                types = rows[parent, attribute["keyword"]]
                types[column] = min(types.get(column, "3"), attribute["type"])
    lines = [
        f"# PS3.3 attribute types of the MR objects, NEMA, by highdicom {version('highdicom')}.",
        "# Made by make_table.py. parent: the sequence it stands in, empty at the top.",
        "\t".join(["parent", "tag", "keyword", *IODS]),
    ]
    for (parent, keyword), types in sorted(rows.items()):
        tag, outer = tag_for_keyword(keyword), tag_for_keyword(parent) if parent else 0
        if tag is None or outer is None:  # overlays and curves: never kept
            continue
        where = _comma(f"{outer:08X}") if parent else ""
        cells = [types.get(column, "") for column in IODS]
        lines.append("\t".join([where, _comma(f"{tag:08X}"), keyword, *cells]))
    return "\n".join(lines) + "\n"


def _comma(tag: str) -> str:
    return tag if "," in tag else f"{tag[:4]},{tag[4:]}".upper()


def _highdicom(name: str) -> dict[str, list[dict[str, Any]]]:
    data = pkgutil.get_data("highdicom", f"_standard/{name}.json")
    if data is None:
        raise FileNotFoundError(f"highdicom has no {name}")
    table: dict[str, list[dict[str, Any]]] = json.loads(data)
    return table


if __name__ == "__main__":
    here = Path(__file__).parent
    (here / "profile.tsv").write_text(profile_table(Path(sys.argv[1])))
    (here / "iod.tsv").write_text(iod_table())
