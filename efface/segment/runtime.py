"""The network of :mod:`efface.segment.network` as an OpenVINO graph, from the same weights.

For inference on a CPU: it is loaded in a tenth of the time that torch takes to import, and runs
the convolutions faster. The tests hold both forms to the same probabilities in float32. Where a
CPU multiplies bfloat16 itself the network runs in that, three times as fast; it gives another label
to one voxel in two thousand there, at the rims. OpenVINO's telemetry belongs to its model
converter, which is never called here.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from itertools import pairwise
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    import openvino as ov
    from openvino import Node

Array = NDArray[np.float32]
Weights = Mapping[str, Array]

_SPATIAL = (2, 3, 4)
_SLOPE = 0.01
_EPS = 1e-5
_SHAPES = 2
"""An image, and the part of it that is looked at again."""


def compiled(
    weights: Weights,
    levels: int,
    attention: bool,
    threads: int | None = None,
    precision: Literal["auto", "f32"] = "auto",
) -> Callable[[Array], Array]:
    """A function from a volume (X, Y, Z) to class probabilities (classes, X, Y, Z).

    ``weights`` by the names of :class:`efface.segment.network.AttentionUNet`'s parameters;
    ``levels`` as many as it has widths; ``precision``: bfloat16 where the CPU has it, or never.
    """
    import openvino as ov

    graph = _Graph(weights, attention)
    core = ov.Core()
    # asked for where the CPU has it not, it would be imitated, and slow
    fast = precision == "auto" and "BF16" in core.get_property("CPU", "OPTIMIZATION_CAPABILITIES")
    settings: dict[str, Any] = {
        "INFERENCE_PRECISION_HINT": "bf16" if fast else "f32",
        "PERFORMANCE_HINT": "LATENCY",
    }
    if threads:
        settings["INFERENCE_NUM_THREADS"] = threads
    model = graph.model(levels)
    ready: dict[tuple[int, ...], Any] = {}

    def probabilities(v: Array) -> Array:
        if v.shape not in ready:
            if len(ready) >= _SHAPES:  # a compiled shape holds its buffers
                ready.pop(next(iter(ready)))
            model.reshape([1, 1, *v.shape])
            ready[v.shape] = core.compile_model(model, "CPU", settings).create_infer_request()
        request = ready[v.shape]
        out: Array = request.infer({0: v[None, None]}, share_inputs=True)[0][0]
        return out

    return probabilities


class _Graph:
    """Builds the graph; methods are the modules of the network, by the same names."""

    def __init__(self, weights: Weights, attention: bool) -> None:
        import openvino.opset13 as op

        self.op: Any = op
        self.weights = weights
        self.attention = attention

    def model(self, levels: int) -> ov.Model:
        import openvino as ov

        op = self.op
        image = op.parameter([1, 1, -1, -1, -1], np.float32, "image")
        x = op.space_to_depth(image, "depth_first", 2)
        skips = []
        for level in range(levels):
            if level:
                skips.append(x)
                x = op.max_pool(x, [2] * 3, [1] * 3, [0] * 3, [0] * 3, [2] * 3).output(0)
            x = self.block(x, f"down.{level}")
        for i, _ in enumerate(pairwise(range(levels))):
            skip = skips.pop()
            x = self.convolution(x, f"up.{i}")
            x = op.interpolate(
                x,
                np.array([2, 2, 2], np.float32),
                "linear_onnx",
                "scales",
                axes=np.array(_SPATIAL, np.int32),
            )
            skip = self.gate(skip, x, f"gates.{i}") if self.attention else skip
            x = self.block(op.concat([skip, x], 1), f"merge.{i}")
        logits = self.unfold(self.convolution(x, "head"))
        if "fine.last.weight" in self.weights:
            logits = op.add(logits, self.fine(image, x, logits))
        return ov.Model([op.softmax(logits, 1)], [image], "face")

    def unfold(self, x: Node) -> Node:
        return self.op.depth_to_space(x, "depth_first", 2)

    def convolution(self, x: Node, name: str) -> Node:
        kernel = self.weights[f"{name}.weight"]
        pad = [kernel.shape[-1] // 2] * 3
        x = self.op.convolution(x, self.op.constant(kernel), [1] * 3, pad, pad, [1] * 3)
        bias = self.weights.get(f"{name}.bias")
        return x if bias is None else self.op.add(x, self.along(bias))

    def along(self, v: Array) -> Node:
        return self.op.constant(v.reshape(1, -1, 1, 1, 1))

    def block(self, x: Node, name: str) -> Node:
        for conv, norm in ((0, 1), (3, 4)):
            x = self.convolution(x, f"{name}.{conv}")
            x = self.op.mvn(x, np.array(_SPATIAL, np.int64), True, _EPS, "inside_sqrt")
            x = self.op.multiply(x, self.along(self.weights[f"{name}.{norm}.weight"]))
            x = self.op.add(x, self.along(self.weights[f"{name}.{norm}.bias"]))
            x = self.leaky(x)
        return x

    def leaky(self, x: Node) -> Node:
        return self.op.prelu(x, np.array([_SLOPE], np.float32))

    def gate(self, skip: Node, coarse: Node, name: str) -> Node:
        of_skip = self.convolution(skip, f"{name}.of_skip")
        joint = self.op.relu(self.op.add(of_skip, self.convolution(coarse, f"{name}.of_coarse")))
        return self.op.multiply(skip, self.op.sigmoid(self.convolution(joint, f"{name}.weight")))

    def fine(self, image: Node, features: Node, logits: Node) -> Node:
        spread = self.unfold(self.convolution(features, "fine.spread"))
        x = self.op.concat([image, logits, spread], 1)
        x = self.leaky(self.convolution(x, "fine.first"))
        return self.convolution(self.leaky(self.convolution(x, "fine.second")), "fine.last")
