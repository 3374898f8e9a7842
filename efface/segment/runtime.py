"""The networks of :mod:`efface.segment.network` as OpenVINO graphs, from the same weights.

For inference on a CPU: it is loaded in a tenth of the time that torch takes to import, and runs
the convolutions faster. The tests hold both forms to the same probabilities in float32. Where a
CPU multiplies bfloat16 itself the network runs in that, three times as fast; it gives another label
to one voxel in two thousand there, at the rims.

Importing OpenVINO would send an event to its makers, by a fork from a thread that now and then
never returns. Nothing here may leave the machine: it is imported without its telemetry.
"""

from __future__ import annotations

import sys
from collections.abc import Mapping
from itertools import pairwise
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from efface.segment.cascade import LEAST, TRUST, Array, Cascade, Network

if TYPE_CHECKING:
    import openvino as ov
    from openvino import Node

    from efface.segment import Plan

# OpenVINO does without where this cannot be imported; must come before any import of it
sys.modules.setdefault("openvino_telemetry", None)  # type: ignore[arg-type]

Weights = Mapping[str, Array]

CUT = "cut."
"""What the names of the second network's weights begin with, in a model's file."""

_SPATIAL = (2, 3, 4)
_SLOPE = 0.01
_EPS = 1e-5
_SHAPES = 2
"""An image, and the part of it that is looked at again; or an ear, and the face."""


def compiled(
    weights: Weights,
    plan: Plan,
    threads: int | None = None,
    precision: Literal["auto", "f32"] = "auto",
) -> Cascade:
    """The networks, ready for volumes of any shape.

    ``weights``: those of :class:`efface.segment.network.AttentionUNet` by its parameters' names,
    and of :class:`efface.segment.network.Cut` by its own after ``cut.``; ``precision``: bfloat16
    where the CPU has it, or never.
    """
    first, second = both(weights)
    find = _ready(_Graph(first, plan.attention).find(len(plan.widths)), threads, precision)
    if not plan.cut:
        return Cascade(find, None, plan.mm)
    cut = _ready(_Graph(second, plan.attention).cut(len(plan.cut)), threads, precision)
    return Cascade(find, cut, plan.mm)


def both(weights: Weights) -> tuple[dict[str, Array], dict[str, Array]]:
    """Weights of the network that finds, and of the one that cuts."""
    second = {k.removeprefix(CUT): v for k, v in weights.items() if k.startswith(CUT)}
    return {k: v for k, v in weights.items() if not k.startswith(CUT)}, second


def _ready(model: ov.Model, threads: int | None, precision: str) -> Network:
    import openvino as ov

    core = ov.Core()
    # asked for where the CPU has it not, it would be imitated, and slow
    fast = precision == "auto" and "BF16" in core.get_property("CPU", "OPTIMIZATION_CAPABILITIES")
    settings: dict[str, Any] = {
        "INFERENCE_PRECISION_HINT": "bf16" if fast else "f32",
        "PERFORMANCE_HINT": "LATENCY",
    }
    if threads:
        settings["INFERENCE_NUM_THREADS"] = threads
    ready: dict[tuple[int, ...], Any] = {}

    def probabilities(v: Array) -> Array:
        v = v if v.ndim == 4 else v[None]
        if v.shape not in ready:
            if len(ready) >= _SHAPES:  # a compiled shape holds its buffers
                ready.pop(next(iter(ready)))
            model.reshape([1, *v.shape])
            ready[v.shape] = core.compile_model(model, "CPU", settings).create_infer_request()
        request = ready[v.shape]
        out: Array = request.infer({0: v[None]}, share_inputs=True)[0][0]
        return out

    return probabilities


class _Graph:
    """Builds the graph; methods are the modules of the network, by the same names."""

    def __init__(self, weights: Weights, attention: bool) -> None:
        import openvino.opset13 as op

        self.op: Any = op
        self.weights = weights
        self.attention = attention

    def find(self, levels: int) -> ov.Model:
        import openvino as ov

        op = self.op
        image = op.parameter([1, 1, -1, -1, -1], np.float32, "image")
        x = self.features(op.space_to_depth(image, "depth_first", 2), levels)
        logits = op.depth_to_space(self.convolution(x, "head"), "depth_first", 2)
        return ov.Model([op.softmax(logits, 1)], [image], "find")

    def cut(self, levels: int) -> ov.Model:
        import openvino as ov

        op = self.op
        inside = self.weights["down.0.0.weight"].shape[1]
        seen = op.parameter([1, inside, -1, -1, -1], np.float32, "seen")
        _, found = op.variadic_split(seen, 1, [1, inside - 1]).outputs()
        known = op.log(op.maximum(found, op.constant(np.float32(LEAST))))
        known = op.multiply(known, op.constant(np.float32(TRUST)))
        correction = self.convolution(self.features(seen, levels), "head")
        return ov.Model([op.softmax(op.add(known, correction), 1)], [seen], "cut")

    def features(self, x: Node, levels: int) -> Node:
        op = self.op
        skips = []
        for level in range(levels):
            if level:
                skips.append(x)
                x = op.max_pool(x, [2] * 3, [1] * 3, [0] * 3, [0] * 3, [2] * 3, "ceil").output(0)
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
            x = self.cut_to(x, skip)
            skip = self.gate(skip, x, f"gates.{i}") if self.attention else skip
            x = self.block(op.concat([skip, x], 1), f"merge.{i}")
        return x

    def convolution(self, x: Node, name: str) -> Node:
        kernel = self.weights[f"{name}.weight"]
        pad = [kernel.shape[-1] // 2] * 3
        x = self.op.convolution(x, self.op.constant(kernel), [1] * 3, pad, pad, [1] * 3)
        bias = self.weights.get(f"{name}.bias")
        return x if bias is None else self.op.add(x, self.along(bias))

    def cut_to(self, x: Node, like: Node) -> Node:
        """The first voxels along each axis, as many as there are in another."""
        op, axes = self.op, np.array(_SPATIAL, np.int64)
        size = op.gather(op.shape_of(like), axes, np.array(0, np.int64))
        none, one = np.zeros(3, np.int64), np.ones(3, np.int64)
        return op.slice(x, none, size, one, axes)

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
