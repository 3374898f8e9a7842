"""Deface one volume from Python or the command line: segment, distort, judge."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from efface.status import Status

if TYPE_CHECKING:
    import nibabel as nib

    from efface.segment import Segmenter


@dataclass(frozen=True)
class Report:
    """What was found and measured."""

    status: Status
    reasons: tuple[str, ...] = ()
    measures: dict[str, Any] = field(default_factory=dict)
    removed: tuple[str, ...] = ()
    """Names of the header fields that were cleared, and the number of extensions."""


@dataclass(frozen=True)
class Result:
    """A defaced image; not to be let out unless ``report.status`` is ``pass``."""

    image: nib.Nifti1Image
    labels: NDArray[np.uint8]
    """1 brain, 2 eyes, 3 nose, 4 ears, 5 mouth and chin, on the image's grid (X, Y, Z).

    If the head moved between the volumes of a 4D image: of the first of its positions."""
    mask: NDArray[np.bool_]
    """The voxels that were replaced in all volumes, or in some if the head moved (X, Y, Z)."""
    report: Report


_loaded: dict[tuple[Path | None, str], Segmenter] = {}


def deface(
    img: nib.Nifti1Image,
    features: str | Collection[str] = "face",
    method: str = "noise",
    seed: int = 0,
    models: Path | None = None,
    device: str = "auto",
    keep_header: bool = False,
) -> Result:
    """Distort the face in a 3D or 4D image; the brain and every voxel elsewhere stay as they are.

    The image may have further dimensions of one, and keeps them. Its header keeps geometry, voxel
    type and scaling; texts (``descrip``, ``aux_file``, ``db_name``, …), intent and extensions are
    removed as in a run (:mod:`efface.convert.header`), unless ``keep_header`` is true.

    The fill is a function of the region, of the voxels outside it and of ``seed`` alone, so the
    seed need not be secret. The model is loaded once for many calls.

    Raises :class:`efface.errors.EffaceError` for an image that is no volume, or for a feature,
    method or device that is not there.
    """
    from efface import nifti
    from efface.convert import header
    from efface.distort import deface_image
    from efface.distort.methods import method as known
    from efface.distort.region import parse_features
    from efface.qc import judge
    from efface.segment import Segmenter

    nifti.check(img)
    known(method)
    parse_features(features)
    segmenter = _loaded.get((models, device))
    if segmenter is None:
        segmenter = _loaded[models, device] = Segmenter.load(models, device)
    original = nifti.single(img)
    removed = () if keep_header else header.removed(original)
    if not keep_header:
        original = header.clean(original)
    before = nifti.without_singletons(original)
    given = segmenter.segment(before)
    after, masks = deface_image(before, given, features, method, seed)
    status, reasons, measures = judge(before, after, given, masks, features, method, segmenter)
    if after.shape != original.shape:
        after = nifti.with_stored(original, nifti.stored(after).reshape(original.shape))
    report = Report(status, tuple(reasons), measures, removed)
    return Result(after, given.labels, np.logical_or.reduce(masks), report)
