"""The attention-gated 3D U-Net.

After Oktay et al. 2018 (Attention U-Net): each skip connection is weighted voxel by voxel by a
gate that sees the coarser level. Two things make it cheap enough for a CPU: the 2x2x2 voxels of
the input grid are folded into channels before the first convolution and unfolded after the last
one, so that nothing runs on the full grid, and normalisation is per image (instance), so that a
batch of one trains as well as a batch of many.
"""

from __future__ import annotations

from itertools import pairwise

import torch
from torch import Tensor, nn
from torch.nn import functional


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


class Fine(nn.Module):
    """A correction of the logits on the full grid, from the image and the folded features.

    Local (no normalisation, 5 voxels wide), so that it may run on a box alone.
    """

    def __init__(self, features: int, classes: int, width: int) -> None:
        super().__init__()
        self.spread = nn.Conv3d(features, 8 * width, 1)
        self.first = nn.Conv3d(1 + classes + width, width, 3, padding=1)
        self.second = nn.Conv3d(width, width, 3, padding=1)
        self.last = nn.Conv3d(width, classes, 1)
        nn.init.zeros_(self.last.weight)

    def forward(self, image: Tensor, features: Tensor, logits: Tensor) -> Tensor:
        """Image (N, 1, X, Y, Z), features on the half grid, logits on the full one."""
        x = torch.cat((image, logits, unfold(self.spread(features))), 1)
        x = functional.leaky_relu(self.first(x), 0.01)
        correction: Tensor = self.last(functional.leaky_relu(self.second(x), 0.01))
        return correction


class AttentionUNet(nn.Module):
    """One channel of intensities to logits of ``classes``, on the same grid.

    Every axis of the input must be a multiple of ``2 ** len(widths)``.
    """

    def __init__(
        self, widths: tuple[int, ...], classes: int, attention: bool = True, fine: int = 0
    ) -> None:
        super().__init__()
        self.down = nn.ModuleList(
            Block(a, b) for a, b in zip((8, *widths[:-1]), widths, strict=True)
        )
        pairs = list(pairwise(widths))[::-1]
        self.up = nn.ModuleList(nn.Conv3d(b, a, 1) for a, b in pairs)
        self.gates = nn.ModuleList(Gate(a, a) if attention else nn.Identity() for a, _ in pairs)
        self.merge = nn.ModuleList(Block(2 * a, a) for a, _ in pairs)
        self.head = nn.Conv3d(widths[0], 8 * classes, 1)
        self.attention = attention
        self.fine = Fine(widths[0], classes, fine) if fine else None

    def forward(self, x: Tensor) -> Tensor:
        """(N, 1, X, Y, Z) to logits (N, classes, X, Y, Z)."""
        whole = x
        x = fold(x)
        skips: list[Tensor] = []
        for level, block in enumerate(self.down):
            if level:
                skips.append(x)
                x = functional.max_pool3d(x, 2)
            x = block(x)
        for up, gate, merge in zip(self.up, self.gates, self.merge, strict=True):
            skip = skips.pop()
            x = functional.interpolate(up(x), size=skip.shape[2:], mode="trilinear")
            skip = gate(skip, x) if self.attention else skip
            x = merge(torch.cat((skip, x), 1))
        logits = unfold(self.head(x))
        return logits if self.fine is None else logits + self.fine(whole, x, logits)
