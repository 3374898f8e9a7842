"""Series that are slices of one scan, because each slice has its own series UID."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from efface.status import SERIES_SPLIT

SLICES = 3
"""Number of positions from which single slices count as one scan; localizers have fewer."""


def withhold_split(series: Iterable[dict[str, Any]]) -> None:
    """Withhold, in place, the series of a session that are single slices of one scan.

    Such series have one image each, the same description, size, echo and orientation, and
    different positions. A single slice can neither be converted to a volume nor checked for a face.
    """
    scans: dict[tuple[str, ...], list[dict[str, Any]]] = {}
    for s in series:
        attributes = s["attributes"]
        single = (
            s["kind"] == "image" and len(s["files"]) == 1 and "ImagePositionPatient" in attributes
        )
        if (
            single
            and attributes.get("NumberOfFrames", 1) == 1
            and "MOSAIC" not in str(attributes.get("ImageType"))
        ):
            scans.setdefault(_scan(attributes), []).append(s)
    for slices in scans.values():
        if len({str(s["attributes"]["ImagePositionPatient"]) for s in slices}) < SLICES:
            continue
        for s in slices:
            s["status"] = "fail"
            s["reasons"] = [
                *s["reasons"],
                f"{SERIES_SPLIT}: {len(slices)} similar slices have different series UIDs;"
                " give them one series UID",
            ]


def _scan(attributes: dict[str, Any]) -> tuple[str, ...]:
    """Attributes that slices of one scan have in common."""
    orientation = [round(float(v), 2) + 0.0 for v in attributes.get("ImageOrientationPatient", [])]
    names = ("SeriesDescription", "ProtocolName", "Rows", "Columns", "EchoTime", "ImageType")
    return (str(orientation), *(str(attributes.get(n, "")) for n in names))
