"""What the audit tells the release about a scan: a typed view of the scan's measures."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from typing import Any, Literal

from efface.manifest import Scan
from efface.status import Status


@dataclass(frozen=True)
class Candidate:
    """What decides on the release of a scan, beside its status and files."""

    form: Literal["nifti", "dicom", "source"]
    """``source``: a series of which no stage made anything."""
    own_status: Status = "fail"
    """Of a DICOM series: its status without the reasons of its images."""
    intended_for: tuple[str, ...] = ()
    """Images that the sidecar refers to, relative to the root of the BIDS dataset."""
    fields: tuple[str, ...] = ()
    """Labels of the fields that the image measures (B0FieldIdentifier)."""
    field_sources: tuple[str, ...] = ()
    """Labels of the fields that the sidecar refers to (B0FieldSource)."""
    references_dropped: int = 0
    """References that convert removed."""
    tables_dropped: tuple[str, ...] = ()
    """BIDS suffixes of tables that convert left out."""
    person: Mapping[str, str] = field(default_factory=dict)
    """``age`` and ``sex``, if an option keeps them (:mod:`efface.audit.kept`)."""
    acq_time: str = ""
    """Time of acquisition, if an option keeps it."""

    @classmethod
    def of(cls, scan: Scan) -> Candidate:
        """Read the measures of a scan of the audit's manifest."""
        measures: Mapping[str, Any] = scan.measures
        known = {f.name: measures[f.name] for f in fields(cls) if f.name in measures}
        known.setdefault("form", "dicom" if scan.scan == scan.series else "nifti")
        # JSON has no tuples
        values: dict[str, Any] = {
            k: tuple(v) if isinstance(v, list) else v for k, v in known.items()
        }
        return cls(**values)
