"""Deface one image from Python or the command line: segment, distort, check."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from efface.measures import Figure
from efface.status import Status

if TYPE_CHECKING:
    import nibabel as nib

    from efface.segment import Segmenter


@dataclass(frozen=True)
class Report:
    """Status, reasons and measures of a defaced image."""

    status: Status
    reasons: tuple[str, ...] = ()
    measures: dict[str, Figure] = field(default_factory=dict)
    removed: tuple[str, ...] = ()
    """Names of the header fields that were cleared, and the number of extensions."""


@dataclass(frozen=True)
class Result:
    """A defaced image. Do not release it unless ``report.status`` is ``pass``."""

    image: nib.Nifti1Image
    labels: NDArray[np.uint8]
    """1 brain, 2 eyes, 3 nose, 4 ears, 5 mouth and chin, on the grid of the image (X, Y, Z).

    If the head moved between the volumes of a 4D image, the labels of its first position."""
    mask: NDArray[np.bool_]
    """Voxels that were replaced (X, Y, Z), in at least one volume if the head moved."""
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
    """Distort the face in a 3D or 4D image; the brain and all voxels outside the region stay.

    Further dimensions must have size one and are kept. The header keeps geometry, data type and
    scaling. Texts (``descrip``, ``aux_file``, ``db_name``, …), intent and extensions are removed as
    in ``efface run`` (:mod:`efface.convert.header`), unless ``keep_header`` is true.

    The new voxels depend only on the region, on the voxels outside it and on ``seed``, so the seed
    need not be secret. The model is loaded once and reused by later calls.

    Raises :class:`efface.errors.EffaceError` if the image is not a 3D or 4D volume, or for an
    unknown feature, method or device.
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
    seg = segmenter.segment(before)
    after, masks = deface_image(before, seg, features, method, seed)
    status, reasons, measures = judge(before, after, seg, masks, features, method, segmenter)
    if after.shape != original.shape:
        after = nifti.with_stored(original, nifti.stored(after).reshape(original.shape))
    report = Report(status, tuple(reasons), measures, removed)
    return Result(after, seg.labels, np.logical_or.reduce(masks), report)
