"""Augmentation: orientation, shape, contrast, resolution, field of view, artefacts.

Contrasts that no training head has are made as in SynthSeg (Billot 2023) and SynthStrip (Hoopes
2022): every label and every cluster of intensities gets a random mean and spread. All random
numbers come from one generator seeded by the step, so that a continued training gets the same
heads.
"""

from __future__ import annotations

import math

import numpy as np
import torch
from torch import Generator, Tensor
from torch.nn import functional

from efface.train.data import SCALE, Head

Shape = tuple[int, int, int]

DEFACED = 0.25
"""Share of the unchanged heads that are defaced: the gate segments defaced images again."""
CUT = 0.6
"""Share of the unchanged heads whose field of view may be cut: so half an ear is learned from real
ears."""
SLAB = 0.25
"""Share of the fields of view that are cut to a transverse slab."""


def example(
    head: Head,
    shape: Shape,
    seed: int,
    device: str = "cpu",
    mm: float = 2.0,
    unchanged: float = 0.4,
    removals: bool = True,
) -> tuple[Tensor, Tensor]:
    """An augmented head on a grid of ``shape``.

    ``mm``: the grid's voxel size; ``unchanged``: share of the heads that keep orientation, contrast
    and resolution, so that borders are learned without interpolation; ``removals``: whether the
    face, the skull or the whole head is removed from some of the others. Returns the image
    (1, 1, X, Y, Z) float32, normalised as at inference, and labels (1, X, Y, Z) int64.
    """
    g = Generator().manual_seed(seed)
    image = torch.from_numpy(head.image).to(device, torch.float32)[None, None] / SCALE
    labels = torch.from_numpy(head.labels).to(device, torch.float32)[None, None]
    plain = _chance(g, unchanged)
    sampling = _shifted if plain else _deformed
    grid = sampling(image.shape[2:], shape, g).to(device)
    image = functional.grid_sample(image, grid, align_corners=False)
    labels = functional.grid_sample(labels, grid, mode="nearest", align_corners=False)
    inside = (grid.abs() < 1).all(-1)[None]
    labels = labels[0].round().long()
    if plain:
        image = _gamma(image, 0.2, g)
        if _chance(g, DEFACED):
            image, labels = _defaced(image, labels, mm, g)
        if _chance(g, CUT):
            image, inside = _crop(image, inside, labels, g)
    else:
        image = _contrast(image, labels, g)
        image = _lesion(image, labels, g)
        if removals:
            image, labels = _removed(image, labels, mm, g)
        image, inside = _resolution(image, inside, g)
        image, inside = _crop(image, inside, labels, g)
    image = _bias(image, g)
    image = _noise(image, g)
    labels = labels * inside[0].long()
    return _normalise(image, inside), labels


def _u(g: Generator, low: float, high: float) -> float:
    return low + (high - low) * float(torch.rand((), generator=g))


def _chance(g: Generator, p: float) -> bool:
    return float(torch.rand((), generator=g)) < p


def _pick(g: Generator, n: int) -> int:
    return int(torch.randint(n, (), generator=g))


def _rotation(g: Generator) -> Tensor:
    if _chance(g, 0.08):  # in another orientation than the header's
        return _orientation(g) @ _tilted(g, 15)
    if _chance(g, 0.05):  # any rotation
        q = torch.randn(4, generator=g)
        w, x, y, z = (q / q.norm()).tolist()
        return torch.tensor(
            [
                [1 - 2 * (y * y + z * z), 2 * (x * y - z * w), 2 * (x * z + y * w)],
                [2 * (x * y + z * w), 1 - 2 * (x * x + z * z), 2 * (y * z - x * w)],
                [2 * (x * z - y * w), 2 * (y * z + x * w), 1 - 2 * (x * x + y * y)],
            ]
        )
    return _tilted(g, 40 if _chance(g, 0.25) else 18)


def _orientation(g: Generator) -> Tensor:
    """One of the 24 rotations of a cube (3, 3)."""
    m = torch.eye(3)[torch.randperm(3, generator=g)]
    m = m * torch.tensor([1.0 if _chance(g, 0.5) else -1.0 for _ in "xyz"])[:, None]
    return m if torch.det(m) > 0 else -m


def _tilted(g: Generator, most: float) -> Tensor:
    """A rotation by at most ``most`` degrees about each axis (3, 3)."""
    r = torch.eye(3)
    for axis in range(3):
        a = math.radians(_u(g, -most, most))
        i, j = (axis + 1) % 3, (axis + 2) % 3
        one = torch.eye(3)
        one[i, i] = one[j, j] = math.cos(a)
        one[i, j], one[j, i] = -math.sin(a), math.sin(a)
        r = r @ one
    return r


def _deformed(source: torch.Size, shape: Shape, g: Generator) -> Tensor:
    """Sampling grid (1, X, Y, Z, 3) of an affine and an elastic deformation, in the units of
    ``grid_sample``.
    """
    scale = torch.tensor([_u(g, 0.85, 1.3)] * 3) * torch.tensor([_u(g, 0.93, 1.07) for _ in "xyz"])
    shear = torch.eye(3) + 0.06 * torch.randn(3, 3, generator=g).fill_diagonal_(0)
    m = _rotation(g) @ shear @ torch.diag(scale)
    if _chance(g, 0.5):
        m = m @ torch.diag(torch.tensor([-1.0, 1.0, 1.0]))
    shift = torch.tensor([_u(g, -14, 14) for _ in "xyz"])
    axes = [torch.arange(n) - (n - 1) / 2 for n in shape]
    at = torch.stack(torch.meshgrid(*axes, indexing="ij"), -1)
    at = at @ m.T + shift
    if _chance(g, 0.7):
        coarse = torch.randn(1, 3, *[_pick(g, 5) + 4 for _ in "xyz"], generator=g)
        field = functional.interpolate(
            coarse * _u(g, 0.5, 3.0), size=shape, mode="trilinear", align_corners=True
        )
        at = at + field[0].permute(1, 2, 3, 0)
    half = torch.tensor([n / 2 for n in source])
    return (at / half)[None].flip(-1)


def _shifted(source: torch.Size, shape: Shape, g: Generator) -> Tensor:
    """As :func:`_deformed`, by whole voxels, so that neither image nor labels are interpolated."""
    axes = []
    for n, m in zip(source, shape, strict=True):
        first = _pick(g, abs(n - m) + 1) * (1 if n > m else -1)
        axes.append(torch.arange(m) + first - (n - 1) / 2)
    if _chance(g, 0.5):
        axes[0] = -axes[0]
    at = torch.stack(torch.meshgrid(*axes, indexing="ij"), -1)
    half = torch.tensor([n / 2 for n in source])
    return (at / half)[None].flip(-1)


def _gamma(image: Tensor, most: float, g: Generator) -> Tensor:
    return image.clamp(0, 2) ** math.exp(_u(g, -most, most))


def _contrast(image: Tensor, labels: Tensor, g: Generator) -> Tensor:
    kind = _u(g, 0, 1)
    if kind < 0.45:
        image = _gamma(image, 0.5, g)
    else:
        made = _curve if kind < 0.70 else _clusters
        other = made(image, g)
        if _chance(g, 0.5):
            # dark in T1w: fluid within the brain, bone or air elsewhere
            other = torch.where((labels == 1)[None], made(image, g, air=False), other)
        if _chance(g, 0.3):  # the vitreous is bright or dark against its surroundings
            eyes = (labels == 2)[None] & (image > 0.06)
            other = torch.where(eyes, other * 0.3 + _u(g, 0, 0.8), other)
        if _chance(g, 0.4):
            other = functional.avg_pool3d(other, 3, 1, 1)
        image = other
    if _chance(g, 0.08):
        image = image.max() - image
    return image


def _curve(image: Tensor, g: Generator, *, air: bool = True) -> Tensor:
    """A random curve over the intensities; ``air``: the dark end stays dark most of the time."""
    knots = torch.rand(6, generator=g)
    if air and _chance(g, 0.85):
        knots[0] = 0.1 * float(knots[0])
    curve = functional.interpolate(knots[None, None], size=256, mode="linear")[0, 0]
    return curve.to(image.device)[(image.clamp(0, 1.4) * 180).long()]


def _clusters(image: Tensor, g: Generator, *, air: bool = True) -> Tensor:
    """Clusters of intensity, each with a random mean and spread, mixed with some of the image.

    ``air``: the darkest cluster stays dark most of the time.
    """
    edges = torch.sort(torch.rand(_pick(g, 6) + 4, generator=g))[0] * 1.1 + 0.06
    part = torch.bucketize(image, edges.to(image.device))
    n = len(edges) + 1
    means, spread = torch.rand(n, generator=g), 0.1 * torch.rand(n, generator=g)
    if air and _chance(g, 0.9):
        means[0], spread[0] = 0.05 * float(means[0]), 0.01
    noise = torch.randn(image.shape, generator=g).to(image.device)
    made = means.to(image.device)[part] + spread.to(image.device)[part] * noise
    weight = _u(g, 0, 0.4)
    return made * (1 - weight) + weight * image


def _lesion(image: Tensor, labels: Tensor, g: Generator) -> Tensor:
    """A blob of another intensity in the brain, as a tumour, a bleeding or a resection."""
    if not _chance(g, 0.12):
        return image
    brain = torch.nonzero(labels[0] == 1)
    if not len(brain):
        return image
    n = labels.shape[1:]
    at = brain[_pick(g, len(brain))].tolist()
    axes = [((torch.arange(k) - c) / _u(g, 4, 15)) ** 2 for k, c in zip(n, at, strict=True)]
    far = axes[0][:, None, None] + axes[1][:, None] + axes[2]
    rough = torch.rand(1, 1, *[max(2, k // 8) for k in n], generator=g)
    rough = functional.interpolate(rough, size=n, mode="trilinear")[0, 0]
    inside = (far < 0.4 + 1.2 * rough).to(image.device)[None, None]
    value = _u(g, 0, 1.2) + _u(g, 0, 0.2) * torch.randn(image.shape, generator=g).to(image.device)
    return torch.where(inside, value, image)


def _dilate(mask: Tensor, radius: int) -> Tensor:
    out = mask.float()
    for _ in range(radius):
        out = functional.max_pool3d(out, 3, 1, 1)
    return out > 0.5


def _removed(image: Tensor, labels: Tensor, mm: float, g: Generator) -> tuple[Tensor, Tensor]:
    """Heads without a face or a skull, and images that are no head."""
    kind = _u(g, 0, 1)
    if kind < 0.12:
        image, labels = _defaced(image, labels, mm, g)
    elif kind < 0.18:  # defaced by other software, in part or whole
        chosen = [o for o in (2, 3, 4, 5) if _chance(g, 0.7)] or [3]
        organs = torch.isin(labels, torch.tensor(chosen, device=labels.device))
        region = _dilate(organs[None], 3 + _pick(g, 4)) & ~_dilate((labels == 1)[None], 1)
        fill: Tensor | float
        how = _pick(g, 4)
        if how == 0:
            fill = 0.0
        elif how == 1:
            fill = _u(g, 0, 1)
        elif how == 2:
            fill = _u(g, 0.1, 0.8) + _u(g, 0, 0.5) * torch.randn(image.shape, generator=g).to(
                image.device
            )
        else:
            coarse = torch.rand(
                1, 1, *[n // (2 + 2 * _pick(g, 4)) for n in image.shape[2:]], generator=g
            )
            fill = functional.interpolate(coarse, size=image.shape[2:], mode="trilinear").to(
                image.device
            )
        image = torch.where(region, torch.as_tensor(fill, device=image.device), image)
        labels = torch.where(region[0] & (labels > 1), 0, labels)
    elif kind < 0.21:  # skull-stripped
        brain = labels == 1
        image, labels = image * brain[None], brain.long()
    elif kind < 0.23:  # no head: smooth blobs or noise
        coarse = torch.randn(1, 1, *[3 + _pick(g, 12) for _ in "xyz"], generator=g)
        image = (
            functional.interpolate(coarse, size=image.shape[2:], mode="trilinear")
            .to(image.device)
            .clamp(0, 2)
        )
        labels = torch.zeros_like(labels)
    return image, labels


def _defaced(image: Tensor, labels: Tensor, mm: float, g: Generator) -> tuple[Tensor, Tensor]:
    """Deface as efface does: the rest must not be labelled as a face."""
    from efface.distort.region import region
    from efface.segment import fit
    from efface.segment.labels import FEATURES

    some = tuple(f for f in FEATURES if _chance(g, 0.5))
    features = some if some and _chance(g, 0.3) else ("face",)
    known = labels[0].to("cpu", torch.uint8).numpy()
    affine = np.diag([mm, mm, mm, 1.0])
    where = region(known, affine, fit.estimate(known, affine), features)
    mask = torch.from_numpy(np.ascontiguousarray(where)).to(image.device)[None]
    brain = image[(labels == 1)[None]]
    mean, spread = (brain.mean(), brain.std()) if brain.numel() > 1 else (image.mean(), image.std())
    fill = torch.randn(
        1, 1, *[max(2, round(n / _u(g, 1, 2.5))) for n in image.shape[2:]], generator=g
    )
    fill = functional.interpolate(fill, size=image.shape[2:], mode="trilinear").to(image.device)
    keep = 0.0 if _chance(g, 0.15) else 1.0  # sometimes the region is emptied
    filled = torch.where(mask[None], ((mean + spread * fill) * keep).clamp(min=0), image)
    gone = mask & (labels > 1)
    return filled, torch.where(gone, 0, labels)


def _bias(image: Tensor, g: Generator) -> Tensor:
    if not _chance(g, 0.6):
        return image
    coarse = _u(g, 0.05, 0.45) * torch.randn(1, 1, 3, 3, 3, generator=g)
    field = functional.interpolate(
        coarse, size=image.shape[2:], mode="trilinear", align_corners=True
    )
    return image * field.exp().to(image.device)


def _resolution(image: Tensor, inside: Tensor, g: Generator) -> tuple[Tensor, Tensor]:
    """Thick slices in one plane, or coarse voxels in all."""
    kind = _u(g, 0, 1)
    if kind < 0.55:
        return image, inside
    size = list(image.shape[2:])
    if kind < 0.9:
        axis = _pick(g, 3)
        size[axis] = max(8, round(size[axis] / _u(g, 1.2, 3.6)))
    else:
        size = [max(8, round(n / _u(g, 1.1, 2.0))) for n in size]
    low = functional.interpolate(image, size=size, mode="area")
    return functional.interpolate(low, size=image.shape[2:], mode="trilinear"), inside


def _crop(image: Tensor, inside: Tensor, labels: Tensor, g: Generator) -> tuple[Tensor, Tensor]:
    """A smaller field of view: up to two sides are cut, often through an organ."""
    keep = torch.ones(image.shape[2:], dtype=torch.bool)
    if _chance(g, 0.5):
        for _ in range(1 + _pick(g, 2)):
            n = image.shape[2:]
            axis = 2 if _chance(g, 0.25) else _pick(g, 3)  # slabs often end at the orbits
            cut = round(_u(g, 0.1, 0.45) * n[axis])
            if _chance(g, 0.6):
                where = torch.nonzero(labels[0] == 2 + _pick(g, 4))
                if len(where):
                    at = int(where[_pick(g, len(where)), axis])
                    cut = min(at, n[axis] - at, n[axis] // 2)
                    low_side = at < n[axis] / 2
                else:
                    low_side = _chance(g, 0.5)
            else:
                low_side = _chance(g, 0.5)
            if cut:
                side = [slice(None)] * 3
                side[axis] = slice(0, cut) if low_side else slice(n[axis] - cut, None)
                keep[tuple(side)] = False
    if _chance(g, SLAB):
        keep &= _slab(labels[0].cpu(), g)
    return image, inside & keep.to(image.device)[None, None]


def _slab(labels: Tensor, g: Generator) -> Tensor:
    """Mask (X, Y, Z) of a slab from the mouth or the eyes up to the crown, close about the head.

    ``labels`` (X, Y, Z). In such a slab, with neither the mouth nor air above in view, a network
    trained on whole heads only labels the crown as mouth.
    """
    keep = torch.ones(labels.shape, dtype=torch.bool)
    face, head = torch.nonzero(labels > 1), torch.nonzero(labels)
    if not len(face):
        return keep
    eyes = face[labels[tuple(face.T)] == 2]
    first, last = int(face[:, 2].min()), int((eyes if len(eyes) else face)[:, 2].max()) + 6
    keep[:, :, : int(_u(g, first, last + 1))] = False
    for axis in range(3):
        for end in (0, 1):
            if (axis, end) == (2, 0) or not _chance(g, 0.7 if axis == 2 else 0.3):
                continue
            at = head[:, axis]
            room = int(_u(g, -6, 10))  # voxels beyond the labels: skin, and some air
            side = [slice(None)] * 3
            if end:
                side[axis] = slice(max(0, int(at.max()) + room), None)
            else:
                side[axis] = slice(0, max(0, int(at.min()) - room))
            keep[tuple(side)] = False
    return keep


def _noise(image: Tensor, g: Generator) -> Tensor:
    if _chance(g, 0.15):  # ghosts along one axis
        axis = 2 + _pick(g, 3)
        image = image + _u(g, 0.03, 0.2) * image.roll(
            round(_u(g, 0.15, 0.5) * image.shape[axis]), axis
        )
    if _chance(g, 0.08):  # slices that dropped out
        axis, step = _pick(g, 3), 2 + _pick(g, 6)
        side: list[slice] = [slice(None)] * 5
        side[2 + axis] = slice(_pick(g, step), None, step)
        image = image.clone()
        image[tuple(side)] *= _u(g, 0.1, 0.7)
    if _chance(g, 0.8):
        s = _u(g, 0, 0.09) * (2.0 if _chance(g, 0.1) else 1.0)
        n = torch.randn((2, *image.shape), generator=g).to(image.device) * s
        # Rician: the magnitude of a complex signal
        image = ((image + n[0]) ** 2 + n[1] ** 2).sqrt() if _chance(g, 0.7) else image + n[0]
    return image


def _normalise(image: Tensor, inside: Tensor) -> Tensor:
    """As :func:`efface.segment.grid.normalise`."""
    seen = image[inside][::7]
    if seen.numel() < 2:
        return torch.zeros_like(image)
    low = torch.kthvalue(seen, max(1, int(0.02 * seen.numel())))[0]
    high = torch.kthvalue(seen, max(1, int(0.995 * seen.numel())))[0]
    out = ((image - low) / (high - low).clamp(min=1e-6)).clamp(-0.2, 2.0)
    return out * inside
