"""The face model, loaded once, and its use on images."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from efface import nifti, resources
from efface.segment import (
    calibration,
    components,
    fit,
    masks,
    options,
    orientation,
    positions,
    runtime,
    volumes,
    wrap,
)
from efface.segment import grid as grids
from efface.segment.cascade import Array, Cascade, Network
from efface.segment.geometry import voxel_sizes
from efface.segment.labels import LABELS
from efface.segment.options import Options
from efface.segment.runtime import Plan
from efface.segment.segmentation import Segmentation

if TYPE_CHECKING:
    import nibabel as nib

AROUND_MM = 16.0
""":meth:`Segmenter.resegment` uses the box of the organs and so much about it."""
POSSIBLE = 0.1
"""From this probability on an unlabelled voxel may be brain."""


class Segmenter:
    """The face model, loaded once for many images."""

    def __init__(
        self,
        network: Cascade,
        plan: Plan,
        curves: dict[str, calibration.Curve] | None = None,
        options: Options = options.ALL,
    ) -> None:
        self.network = network
        self.plan = plan
        self.curves = curves or {}
        self.options = options

    @staticmethod
    def load(
        models: Path | None = None, device: str = "auto", threads: int | None = None
    ) -> Segmenter:
        """Load the face model from a folder (default: the shipped model).

        Parameters and errors: :func:`efface.segment.runtime.load`.
        """
        folder = models or resources.models()
        plan, network = runtime.load(folder, device, threads)
        return Segmenter(network, plan, calibration.load(folder))

    def segment(self, img: nib.Nifti1Image) -> Segmentation:
        """Label a 3D image, or the mean over time of a 4D one.

        If the head moved between volumes, each group of volumes in which it lies in one place is
        labelled alone (:mod:`efface.segment.positions`).
        """
        if img.ndim == 3:
            return self._label_image(img)
        groups = volumes.group_by_position(nifti.stored(img), img.affine)
        if len(groups) == 1:
            return self._label_image(img)
        return positions.segment_groups(img, groups, self._label_image)

    def _label_image(self, img: nib.Nifti1Image) -> Segmentation:
        """Label a 3D image, or the mean over time of a 4D one, as it is and in other forms.

        Other forms: inverted intensities, if the edges of the image are brighter than the rest;
        other orientations of the head, if the labels suggest one or are not settled; rolled, if the
        image is phase-wrapped. A form is kept if its labels have more evidence of a head. A rolled
        image is kept as well if it shows a head with no fewer organs: of a head in two pieces all
        organs may be labelled, but not all of the brain.
        """
        voxels = grids.volume(nifti.stored(img), *nifti.scaling(img))
        best = self._label_contrasts(voxels, img.affine)
        if not self.options.unroll:
            return best
        roll = wrap.find_roll(-voxels if best.inverted else voxels, voxel_sizes(img.affine))
        if roll == wrap.NO_ROLL:
            return best
        other = self._label_contrasts(
            wrap.rolled(voxels, roll), wrap.rolled_affine(img.affine, roll)
        )
        if other.evidence < best.evidence and not positions.shows_no_less(other, best):
            return best
        return replace(other, labels=wrap.rolled(other.labels, wrap.inverse(roll)), roll=roll)

    def _label_contrasts(self, voxels: Array, affine: NDArray[np.float64]) -> Segmentation:
        """Label voxels (X, Y, Z), with inverted intensities if the air is bright."""
        first = self._label(voxels, affine, orientation.STANDARD)
        if self.options.inverted and grids.has_bright_background(voxels):
            other = self._label(-voxels, affine, orientation.STANDARD)
            if other.evidence > first.evidence:
                return replace(self._label_orientations(-voxels, affine, other), inverted=True)
        return self._label_orientations(voxels, affine, first)

    def _label_orientations(
        self, voxels: Array, affine: NDArray[np.float64], first: Segmentation
    ) -> Segmentation:
        """Label voxels in other orientations, until the labels are settled; return the best.

        ``first``: the labels in the header's orientation. Another orientation counts only if its
        labels suggest it too.
        """
        likely = orientation.estimate(first.labels, affine)
        if not self.options.orientation or (likely == orientation.STANDARD and first.settled):
            return first
        best = first
        for name in dict.fromkeys((likely, *orientation.LYING)):
            if name == orientation.STANDARD:
                continue
            other = self._label(voxels, affine, name)
            agrees = orientation.estimate(other.labels, affine) == name
            if agrees and other.evidence > best.evidence:
                best = other
                if best.settled:
                    break
        return best

    def _label(self, voxels: Array, header: NDArray[np.float64], name: str) -> Segmentation:
        """Label voxels (X, Y, Z) in one orientation; ``header`` (4, 4): voxel to world, mm."""
        affine = orientation.undo(header, name)
        p, kept, grid = self._on_grid(voxels, affine, self.network)
        shape = (voxels.shape[0], voxels.shape[1], voxels.shape[2])
        labels = grids.resample_labels(p, kept, grid, shape, affine)
        masks.clear_of_organs(labels, voxel_sizes(affine))
        thin, coarse = masks.thinned(affine)
        few = labels[thin].shape
        brain = grids.resample_values(p[LABELS["brain"]], grid, (few[0], few[1], few[2]), coarse)
        certainty = {
            n: round(float(p[k][kept[k]].mean()), 4) if kept[k].any() else 0.0
            for n, k in LABELS.items()
        }
        curves = self.curves if self.options.calibration else {}
        return Segmentation(
            labels,
            calibration.confidence(certainty, curves),
            fit.estimate(labels, header, name),
            certainty=certainty,
            components={n: components.count(kept[k]) for n, k in LABELS.items()},
            possible_brain=brain >= POSSIBLE,
        )

    def resegment(self, img: nib.Nifti1Image, before: Segmentation) -> NDArray[np.uint8]:
        """Label a defaced image again, within the box of the organs before defacing.

        ``before``: the segmentation of the image before, on the same grid; its orientation and
        inversion are used again. Returns labels on the voxels that
        :func:`efface.segment.masks.thinned` chooses, 0 for the brain and outside the box of the
        organs and ``AROUND_MM`` about it. If ``before`` has no organ, the whole image is labelled.
        Only the coarse network is used: whether there is an organ counts, not where it ends.
        """
        thin, coarse = masks.thinned(img.affine)
        box = masks.box_of(before.labels >= LABELS["eyes"])
        if box is None:
            return self.segment(img).labels[thin]
        part = masks.wider(box, AROUND_MM, voxel_sizes(img.affine))
        voxels = grids.volume(nifti.stored(img)[part], *nifti.scaling(img))
        voxels = -voxels if before.inverted else voxels
        affine = orientation.undo(_of_part(img.affine, part), before.orientation)
        p, kept, grid = self._on_grid(voxels, affine, self.network.coarse)
        kept[LABELS["brain"]] = False  # not asked for, and the slowest to resample
        shape = before.labels[thin].shape
        onto = orientation.undo(coarse, before.orientation)
        return grids.resample_labels(p, kept, grid, (shape[0], shape[1], shape[2]), onto)

    def _on_grid(
        self,
        voxels: Array,
        affine: NDArray[np.float64],
        network: Network,
    ) -> tuple[NDArray[np.float32], NDArray[np.bool_], grids.Grid]:
        """Class probabilities on the network's grid, the largest components, and the grid."""
        grid = grids.covering(voxels.shape, affine, self.plan.mm, grids.BLOCK)
        on_grid, inside = grids.resample(voxels, affine, grid)
        on_grid = grids.normalise(on_grid, inside)
        box = grids.box_without_air(on_grid, grid)
        grid, inside = grids.subgrid(grid, box), inside[box]
        if self.options.padding:
            room, own = grids.padded(on_grid[box], self.plan.mm)
            p = np.ascontiguousarray(network(room)[(slice(None), *own)])
        else:
            p = network(np.ascontiguousarray(on_grid[box]))
        hard = components.hardest(p)
        hard[~inside] = 0
        return p, components.largest(hard, self.plan.mm), grid


def _of_part(affine: NDArray[np.float64], box: masks.Box) -> NDArray[np.float64]:
    """The affine of a box of an image."""
    out = affine.copy()
    out[:3, 3] += affine[:3, :3] @ [s.start for s in box]
    return out
