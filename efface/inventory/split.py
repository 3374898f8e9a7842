"""Series that are slices of one scan, because each slice has its own series UID."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from efface.session import Series
from efface.status import SERIES_SPLIT

SLICES = 3
"""Number of positions from which single slices count as one scan; localizers have fewer."""


def withhold_split(series: Sequence[Series]) -> list[Series]:
    """Series of a session; those that are single slices of one scan fail.

    Such series have one image each, the same description, size, echo and orientation, and
    different positions. A single slice can neither be converted to a volume nor checked for a face.
    """
    scans: dict[tuple[str, ...], list[Series]] = {}
    for s in series:
        if _is_single_slice(s):
            scans.setdefault(_scan(s.attributes), []).append(s)
    reasons = {
        s.series: f"{SERIES_SPLIT}: {len(slices)} similar slices have different series UIDs;"
        " give them one series UID"
        for slices in scans.values()
        if len({str(s.attributes["ImagePositionPatient"]) for s in slices}) >= SLICES
        for s in slices
    }
    return [
        replace(s, status="fail", reasons=(*s.reasons, reasons[s.series]))
        if s.series in reasons
        else s
        for s in series
    ]


def _is_single_slice(series: Series) -> bool:
    attributes = series.attributes
    return (
        series.kind == "image"
        and len(series.files) == 1
        and "ImagePositionPatient" in attributes
        and attributes.get("NumberOfFrames", 1) == 1
        and "MOSAIC" not in str(attributes.get("ImageType"))
    )


def _scan(attributes: Mapping[str, Any]) -> tuple[str, ...]:
    """Attributes that slices of one scan have in common."""
    orientation = [round(float(v), 2) + 0.0 for v in attributes.get("ImageOrientationPatient", [])]
    names = ("SeriesDescription", "ProtocolName", "Rows", "Columns", "EchoTime", "ImageType")
    return (str(orientation), *(str(attributes.get(n, "")) for n in names))
