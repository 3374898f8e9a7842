"""The coarse and the refining network of the face model, as torch modules.

Both are 3D U-Nets with attention gates (Oktay et al. 2018, Attention U-Net): each skip connection
is multiplied, voxel by voxel, with a weight between 0 and 1 that is computed from the skip and the
coarser level. The coarse network takes the whole head; 2x2x2 voxels are folded into channels before
the first convolution and unfolded after the last one. The refining network takes boxes of the full
grid (:mod:`efface.segment.boxes`). Normalisation is per image (instance), so that training works
with a batch of one.

Used for training, for export and for inference on a GPU. Inference on a CPU reads the exported
graph (:mod:`efface.segment.runtime`) and needs no torch.
"""

from __future__ import annotations

from collections.abc import Mapping
from itertools import pairwise

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from efface.segment.cascade import PRIOR_MIN, PRIOR_WEIGHT, Array, Network


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
    """Two 3x3x3 convolutions, each followed by instance normalisation and a leaky ReLU."""

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
    """Additive attention: the skip connection, weighted by itself and the coarser level."""

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


class AttentionUNet(nn.Module):
    """Encoder and decoder with gated skip connections; without a first or last layer.

    An axis may have any length: halves are rounded up in the encoder and cropped in the decoder.
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
            x = functional.interpolate(up(x), scale_factor=2.0, mode="trilinear")
            x = x[:, :, : skip.shape[2], : skip.shape[3], : skip.shape[4]]
            skip = gate(skip, x) if self.attention else skip
            x = merge(torch.cat((skip, x), 1))
        return x


class Coarse(AttentionUNet):
    """Coarse network: intensities of the whole head to logits of ``classes``, on the same grid.

    Every axis of the input must be even.
    """

    def __init__(self, widths: tuple[int, ...], classes: int, attention: bool = True) -> None:
        super().__init__(8, widths, attention)
        self.head = nn.Conv3d(widths[0], 8 * classes, 1)

    def forward(self, x: Tensor) -> Tensor:
        """(N, 1, X, Y, Z) to logits (N, classes, X, Y, Z)."""
        return unfold(self.head(self.features(fold(x))))


class Refine(AttentionUNet):
    """Refining network: corrects the probabilities of the coarse network in a box.

    It has no folding: a box is small enough for convolutions on the full grid.
    """

    def __init__(self, widths: tuple[int, ...], classes: int, attention: bool = True) -> None:
        super().__init__(1 + classes, widths, attention)
        self.head = nn.Conv3d(widths[0], classes, 1)
        nn.init.zeros_(self.head.weight)
        nn.init.zeros_(self.head.bias)  # type: ignore[arg-type]

    def forward(self, x: Tensor) -> Tensor:
        """Intensity and probabilities (N, 1 + classes, X, Y, Z) to logits (N, classes, X, Y, Z)."""
        correction: Tensor = self.head(self.features(x))
        return PRIOR_WEIGHT * x[:, 1:].clamp(min=PRIOR_MIN).log() + correction


def predictor(network: nn.Module, device: str) -> Network:
    """A torch network as a function from an array to class probabilities (classes, X, Y, Z).

    The function takes a volume (X, Y, Z), or channels (C, X, Y, Z) for the refining network.
    """
    network = network.to(device).eval()

    def probabilities(v: Array) -> Array:
        with torch.inference_mode():
            x = torch.from_numpy(v if v.ndim == 4 else v[None])[None].to(device)
            p: Array = network(x)[0].float().softmax(0).cpu().numpy()
        return p

    return probabilities


def load_weights(network: AttentionUNet, weights: Mapping[str, Array]) -> None:
    """Load stored weights, by parameter name; those of gates are ignored without attention.

    Raises :class:`KeyError` if a weight is missing.
    """
    state = {k: torch.from_numpy(np.array(weights[k], np.float32)) for k in network.state_dict()}
    network.load_state_dict(state)
