"""The report on a cohort: a page, a table and a JSON file that say the same.

All three are made of pseudonyms, statuses, reasons and numbers. Only pictures of released scans are
shown: a scan that waits for review, or failed, may still show a face. The same input gives the same
bytes; no time is in them.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import TYPE_CHECKING, Any

from efface import __version__, tables
from efface.manifest import Scan
from efface.status import code_of, phrase_of

if TYPE_CHECKING:
    import pandas as pd

MEASURES = [
    "series",
    "form",
    "released",
    "note",
    "datatype",
    "method",
    "region_ml",
    "brain_ml",
    "brain_cut",
    "brain_voxels_changed",
    "voxels_changed_outside_region",
    "organ_voxels_changed",
    "resemblance",
    "pose_misfit",
    "left_eye",
    "right_eye",
    "nose",
    "left_ear",
    "right_ear",
    "mouth",
    "coverage_eyes",
    "coverage_nose",
    "coverage_ears",
    "coverage_mouth",
    "found_again_eyes",
    "found_again_nose",
    "found_again_ears",
    "found_again_mouth",
    "confidence_brain",
    "confidence_eyes",
    "confidence_nose",
    "confidence_ears",
    "confidence_mouth",
    "searched_bytes",
    "text_in_picture",
]
"""Columns of scans.tsv after session, scan, modality, status, reasons and codes."""

_PACKAGES = ("numpy", "scipy", "nibabel", "pydicom", "openvino", "dcm2niix", "snakemake")


@dataclass(frozen=True)
class Row:
    """A scan of a session and the release's decision on it."""

    session: str
    scan: Scan
    released: bool
    note: str = ""
    withheld: str = ""
    """Reason of the release itself for withholding the scan."""

    @property
    def reasons(self) -> tuple[str, ...]:
        """The reasons of the scan, then that of the release."""
        return (*self.scan.reasons, *([self.withheld] if self.withheld else []))


@dataclass(frozen=True)
class About:
    """How a run was made: settings, versions, and counts of files and identities."""

    key: str
    """Fingerprint of the project key."""
    settings: Mapping[str, Any]
    code: str = ""
    """Hash of efface's sources."""
    model: str = ""
    """Digest of the face model."""
    files: Mapping[str, int] = field(default_factory=dict)
    """Number of source files by disposition and reason."""
    identity: Mapping[str, int] = field(default_factory=dict)
    """Counts of the identity cross-check (:mod:`efface.inventory.identity`)."""


@dataclass(frozen=True, order=True)
class LeftOut:
    """A text that is left out of the report because it contained an identifier."""

    session: str
    scan: str
    field: str
    """``name``, ``reasons``, ``note``, a measure, ``settings`` or ``files``."""
    kind: str
    """Of the identifier."""


def report(rows: Sequence[Row], about: About, left_out: Iterable[LeftOut] = ()) -> dict[str, bytes]:
    """Contents of index.html, scans.tsv and audit.json, by name."""
    content = data(rows, about, left_out)
    return {
        "index.html": page(content).encode(),
        "scans.tsv": scans_table(content["scans"]).encode(),
        "audit.json": (json.dumps(content, indent=1, sort_keys=True) + "\n").encode(),
    }


def data(rows: Sequence[Row], about: About, left_out: Iterable[LeftOut] = ()) -> dict[str, Any]:
    """Content of audit.json."""
    import pandas as pd

    forms = {"nifti": 0, "dicom": 1}
    ordered = sorted(
        rows,
        key=lambda r: (r.session, forms.get(r.scan.measures.get("form", ""), 2), r.scan.scan),
    )
    withheld = [r for r in ordered if not r.released]
    return {
        "efface": __version__,
        "code": about.code,
        "model": about.model,
        "key": about.key,
        "packages": {name: _version(name) for name in _PACKAGES},
        "settings": dict(about.settings),
        "files": dict(sorted(about.files.items())),
        "identity": dict(about.identity),
        "summary": _summary(
            pd.DataFrame(
                [(r.session, r.scan.status, r.released) for r in ordered],
                columns=["session", "status", "released"],
            ).astype({"released": bool})
        ),
        "left_out": [asdict(item) for item in sorted(set(left_out))],
        # a scan with several reasons of one kind counts once
        "reasons": _counts({phrase_of(reason) for reason in r.reasons} for r in withheld),
        "codes": _counts({code_of(reason) for reason in r.reasons} for r in withheld),
        "scans": [_entry(r) for r in ordered],
    }


def _summary(scans: pd.DataFrame) -> dict[str, int]:
    """Numbers of sessions and scans; ``scans`` has ``session``, ``status`` and ``released``."""
    released, review = scans["released"], scans["status"] == "review"
    numbers = {
        "sessions": scans["session"].nunique(),
        "scans": len(scans),
        "released": released.sum(),
        "accepted": (released & review).sum(),
        "waiting": (~released & review).sum(),
        "withheld": (~released & ~review).sum(),
        **{status: (scans["status"] == status).sum() for status in ("pass", "review", "fail")},
    }
    return {name: int(number) for name, number in numbers.items()}


def _counts(texts: Iterable[Iterable[str]]) -> dict[str, int]:
    """How often each text occurs, most frequent first, then by name."""
    import pandas as pd

    counts = pd.Series([t for several in texts for t in several], dtype=object).value_counts()
    ordered = counts.sort_index().sort_values(ascending=False, kind="stable")
    return {str(name): int(number) for name, number in ordered.items()}


def _entry(row: Row) -> dict[str, Any]:
    """A scan in audit.json."""
    scan = row.scan
    out = {
        "session": row.session,
        "scan": scan.scan,
        "modality": scan.modality,
        "status": scan.status,
        "reasons": list(scan.reasons),
        "codes": [code_of(reason) for reason in row.reasons],
        "series": scan.series,
        "form": scan.measures.get("form", "source"),
        "released": "yes" if row.released else "no",
        "note": row.note,
        "pictures": sorted(pictures([row])),
    }
    measures: Mapping[str, Any] = scan.measures
    measured = {k: measures[k] for k in MEASURES if k in measures}
    return {**measured, **out}


def pictures(rows: Iterable[Row]) -> dict[str, tuple[str, str]]:
    """Pictures of released scans: path below ``audit/``, to session and path below its folder."""
    out = {}
    for row in rows:
        if not row.released:
            continue
        for name in row.scan.files.values():
            if name.startswith("pictures/"):
                inner = name.removeprefix("pictures/")
                out[f"pictures/{row.session}/{inner}"] = (row.session, name)
    return out


def scans_table(scans: Iterable[Mapping[str, Any]]) -> str:
    """Text of scans.tsv: session, scan, modality, status, reasons, codes, :data:`MEASURES`."""
    columns = ("session", "scan", "modality", "status", "reasons", "codes", *MEASURES)
    return tables.text(({c: _cell(s.get(c)) for c in columns} for s in scans), columns)


def _cell(value: object) -> str:
    if value is None or value == "":
        return "n/a"
    if isinstance(value, bool):
        return "yes" if value else "no"
    return "; ".join(map(str, value)) if isinstance(value, list) else str(value)


def page(content: Mapping[str, Any]) -> str:
    """index.html: needs no network, only the pictures beside it."""
    import jinja2

    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(Path(__file__).parent / "templates"),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    sessions: dict[str, list[Mapping[str, Any]]] = {}
    for scan in content["scans"]:
        sessions.setdefault(scan["session"], []).append(scan)
    environment.globals["code_of"] = code_of
    shown = [m for m in MEASURES if m not in ("series", "form", "released", "note", "datatype")]
    return environment.get_template("index.html").render(
        **content, sessions=sessions, measures=shown
    )


def _version(name: str) -> str:
    try:
        return version(name)
    except PackageNotFoundError:
        return "not installed"
