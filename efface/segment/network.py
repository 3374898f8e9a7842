"""The attention-gated 3D U-Nets: one that finds the organs of a head, one that cuts them out.

After Oktay et al. 2018 (Attention U-Net): each skip connection is weighted voxel by voxel by a
gate that sees the coarser level. The first network sees the whole head, with 2x2x2 voxels folded
into channels before the first convolution and unfolded after the last one; the second sees the
full grid, in boxes about what the first one found (:mod:`efface.segment.boxes`). Normalisation is
per image (instance), so that a batch of one trains as well as a batch of many.
"""

from __future__ import annotations

from itertools import pairwise

import torch
from torch import Tensor, nn
from torch.nn import functional

from efface.segment.cascade import LEAST, TRUST


def fold(x: Tensor) -> Tensor:
    """(N, C, X, Y, Z) to (N, 8 C, X/2, Y/2, Z/2)."""
    n, c, i, j, k = x.shape
    x = x.reshape(n, c, i // 2, 2, j // 2, 2, k // 2, 2)
    return x.permute(0, 1, 3, 5, 7, 2, 4, 6).reshape(n, 8 * c, i // 2, j // 2, k // 2)


def unfold(x: Tensor) -> Tensor:
    """The inverse of :func:`fold`."""
    n, c8, i, j, k = x.shape
    x = x.reshape(n, c8 // 8, 2, 2, 2, i, j, k).permute(0, 1, 5, 2, 6, 3, 7, 4)
    return x.reshape(n, c8 // 8, 2 * i, 2 * j, 2 * k)


class Block(nn.Sequential):
    """Two 3x3x3 convolutions, each normalised per image."""

    def __init__(self, inside: int, outside: int) -> None:
        super().__init__(
            nn.Conv3d(inside, outside, 3, padding=1, bias=False),
            nn.InstanceNorm3d(outside, affine=True),
            nn.LeakyReLU(0.01, inplace=True),
            nn.Conv3d(outside, outside, 3, padding=1, bias=False),
            nn.InstanceNorm3d(outside, affine=True),
            nn.LeakyReLU(0.01, inplace=True),
        )


class Gate(nn.Module):
    """Additive attention: what the coarser level finds irrelevant is damped in the skip."""

    def __init__(self, skip: int, coarse: int) -> None:
        super().__init__()
        inner = max(skip // 2, 4)
        self.of_skip = nn.Conv3d(skip, inner, 1)
        self.of_coarse = nn.Conv3d(coarse, inner, 1, bias=False)
        self.weight = nn.Conv3d(inner, 1, 1)

    def forward(self, skip: Tensor, coarse: Tensor) -> Tensor:
        """Both on the same grid."""
        joint = functional.relu(self.of_skip(skip) + self.of_coarse(coarse))
        return skip * torch.sigmoid(self.weight(joint))


class UNet(nn.Module):
    """Encoder and decoder with attention gates in the skips; no first or last layer.

    An axis of any length will do: halves are rounded up on the way down, and cut on the way up.
    """

    def __init__(self, inside: int, widths: tuple[int, ...], attention: bool) -> None:
        super().__init__()
        self.down = nn.ModuleList(
            Block(a, b) for a, b in zip((inside, *widths[:-1]), widths, strict=True)
        )
        pairs = list(pairwise(widths))[::-1]
        self.up = nn.ModuleList(nn.Conv3d(b, a, 1) for a, b in pairs)
        self.gates = nn.ModuleList(Gate(a, a) if attention else nn.Identity() for a, _ in pairs)
        self.merge = nn.ModuleList(Block(2 * a, a) for a, _ in pairs)
        self.attention = attention

    def features(self, x: Tensor) -> Tensor:
        """(N, inside, X, Y, Z) to (N, widths[0], X, Y, Z)."""
        skips: list[Tensor] = []
        for level, block in enumerate(self.down):
            if level:
                skips.append(x)
                x = functional.max_pool3d(x, 2, ceil_mode=True)
            x = block(x)
        for up, gate, merge in zip(self.up, self.gates, self.merge, strict=True):
            skip = skips.pop()
            x = functional.interpolate(up(x), scale_factor=2, mode="trilinear")
            x = x[:, :, : skip.shape[2], : skip.shape[3], : skip.shape[4]]
            skip = gate(skip, x) if self.attention else skip
            x = merge(torch.cat((skip, x), 1))
        return x


class AttentionUNet(UNet):
    """Finds: one channel of intensities to logits of ``classes``, on the same grid.

    Every axis of the input must be even.
    """

    def __init__(self, widths: tuple[int, ...], classes: int, attention: bool = True) -> None:
        super().__init__(8, widths, attention)
        self.head = nn.Conv3d(widths[0], 8 * classes, 1)

    def forward(self, x: Tensor) -> Tensor:
        """(N, 1, X, Y, Z) to logits (N, classes, X, Y, Z)."""
        return unfold(self.head(self.features(fold(x))))


class Cut(UNet):
    """Cuts: in a box about an organ, corrects the probabilities that the first network gave.

    Nothing is folded here: what a box holds is small enough for convolutions on the full grid.
    """

    def __init__(self, widths: tuple[int, ...], classes: int, attention: bool = True) -> None:
        super().__init__(1 + classes, widths, attention)
        self.head = nn.Conv3d(widths[0], classes, 1)
        nn.init.zeros_(self.head.weight)
        nn.init.zeros_(self.head.bias)  # type: ignore[arg-type]

    def forward(self, x: Tensor) -> Tensor:
        """Intensity and probabilities (N, 1 + classes, X, Y, Z) to logits (N, classes, X, Y, Z)."""
        correction: Tensor = self.head(self.features(x))
        return TRUST * x[:, 1:].clamp(min=LEAST).log() + correction
