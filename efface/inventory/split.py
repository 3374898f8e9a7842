"""Series that are slices of one scan, because each slice has a series UID of its own."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from efface.status import SPLIT

SLICES = 3
"""Positions from which single slices count as one scan; no direction needs more in a localizer."""


def withhold_split(series: Iterable[dict[str, Any]]) -> None:
    """Withhold, in place, the series of a session that are single slices of one scan.

    These have one image each, the same description, size, echo and orientation, and different
    positions. Alone they can be neither converted to a volume nor searched for a face.
    """
    scans: dict[tuple[str, ...], list[dict[str, Any]]] = {}
    for s in series:
        said = s["attributes"]
        single = s["kind"] == "image" and len(s["files"]) == 1 and "ImagePositionPatient" in said
        if (
            single
            and said.get("NumberOfFrames", 1) == 1
            and "MOSAIC" not in str(said.get("ImageType"))
        ):
            scans.setdefault(_scan(said), []).append(s)
    for slices in scans.values():
        if len({str(s["attributes"]["ImagePositionPatient"]) for s in slices}) < SLICES:
            continue
        for s in slices:
            s["status"] = "fail"
            s["reasons"] = [
                *s["reasons"],
                f"{SPLIT}: {len(slices)} slices alike have a series UID each; give them the same",
            ]


def _scan(attributes: dict[str, Any]) -> tuple[str, ...]:
    """What slices of one scan have in common."""
    turned = [round(float(v), 2) + 0.0 for v in attributes.get("ImageOrientationPatient", [])]
    names = ("SeriesDescription", "ProtocolName", "Rows", "Columns", "EchoTime", "ImageType")
    return (str(turned), *(str(attributes.get(n, "")) for n in names))
