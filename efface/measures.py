"""The measures of a scan: what the stages record for later stages and for the audit."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TypedDict, cast

Figure = float | str | bool | list[int] | None
"""A figure of the audit; None if it could not be measured."""

# "from" is a keyword of Python, therefore this form
Propagated = TypedDict(
    "Propagated",
    {
        "from": str,
        "compared": str,
        "overlap": float,
        "moved_mm": float,
        "organs": "Sequence[OrganMeasures]",
        "own_confidence": dict[str, float],
    },
    total=False,
)
"""How the labels of a scan compare with those of another (:mod:`efface.segment.propagate`)."""


class OrganMeasures(TypedDict):
    """:class:`efface.segment.organs_in_view.Organ` in a manifest."""

    label: str
    centre: Sequence[float]
    mm3: float
    in_view_mm3: float
    outside_mm: float
    cut: bool


class LandmarkMeasures(TypedDict):
    """A landmark of :class:`PoseMeasures`: centre (3,) in mm, and volume in mm³."""

    centre: list[float]
    volume: float


class PoseMeasures(TypedDict):
    """:class:`efface.segment.pose.Pose` in a manifest."""

    rotation: list[list[float]]
    size: float
    origin: list[float]
    cov: list[list[float]]
    misfit: float
    landmarks: dict[str, LandmarkMeasures]
    orientation: str


class Measures(TypedDict, total=False):
    """What the stages record of a scan. Figures of the audit are added under other names."""

    # convert
    datatype: str
    """Folder in BIDS (``anat``); empty without a place there."""
    source_series: str
    frame_of_reference: str
    shape: list[int]
    spacing: list[float]
    """Voxel sizes, mm."""
    gradients: tuple[list[list[float]], list[list[float]]]
    """Rows of numbers in the b-value and the b-vector file."""
    references_dropped: int
    tables_dropped: list[str]

    # scrub
    sources: list[list[str]]
    """Path of each source file and name of its scrubbed file."""

    # segment: a Segmentation without its voxels
    confidence: dict[str, float]
    volume_ml: dict[str, float]
    components: dict[str, int]
    pose: PoseMeasures | None
    inverted: bool
    roll: Sequence[int]
    volumes: Sequence[int]
    moved: list[Measures]
    """Further positions of the head."""
    propagated: Propagated

    # distort
    method: str
    features: list[str]
    depends_on_face: bool
    region_voxels: int
    region_fraction: float
    brain_voxels_changed: int
    outside_changed: int
    coverage: dict[str, float]
    """Share of each organ that the region covers, the lowest of all positions of the head."""
    files: int
    """Number of files of the series in DICOM."""

    # qc and audit: what decides on the release (efface.audit.candidate)
    form: str
    own_status: str
    intended_for: list[str]
    fields: list[str]
    field_sources: list[str]
    person: dict[str, str]
    acq_time: str
    text_in_picture: str
    searched_bytes: int


def with_figures(measures: Measures, figures: Mapping[str, object]) -> Measures:
    """Return the measures and the figures in one dictionary."""
    return cast(Measures, {**measures, **figures})
