"""The files of the face model, and inference with them on a CPU or a GPU.

``face.xml`` and ``face.bin`` are an OpenVINO model with both networks, written by
:mod:`efface.train.export` with ``openvino.convert_model``; ``face.json`` is its plan. On a CPU
OpenVINO runs the graph: it loads in a tenth of the time that torch takes to import, and runs the
convolutions faster. A CPU with bfloat16 arithmetic uses it; the labels of about one voxel in two
thousand, at borders, then differ from those in float32. On a GPU torch runs the modules of
:mod:`efface.segment.network` with the weights of the same file.

Importing OpenVINO would send an event to its makers, by a fork from a thread that sometimes never
returns. efface sends nothing anywhere, so OpenVINO is imported without its telemetry.
"""

from __future__ import annotations

import importlib.util
import json
import shutil
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from efface.errors import EffaceError
from efface.segment.cascade import Array, Cascade, Network
from efface.segment.labels import LABELS

if TYPE_CHECKING:
    import openvino as ov

# OpenVINO runs without it where it cannot be imported; must come before the first import of it
sys.modules.setdefault("openvino_telemetry", None)  # type: ignore[arg-type]

PLAN, GRAPH, WEIGHTS = "face.json", "face.xml", "face.bin"
COARSE, REFINE = "coarse", "refine"
"""Names of the networks in the model: of their outputs, and the start of their weights' names."""

_SHAPES = 2
"""Compiled shapes kept for each network: those of an image and of the box looked at again in the
gate; those of the face's box and of the ears'."""

Precision = Literal["auto", "f32"]
"""bfloat16 if the CPU has it, or always float32."""


@dataclass(frozen=True)
class Plan:
    """Architecture of the networks and voxel size of their grid."""

    mm: float
    coarse_widths: tuple[int, ...]
    attention: bool
    refine_widths: tuple[int, ...] = ()
    """Empty for a model without a refining network."""


def load(
    folder: Path,
    device: str = "auto",
    threads: int | None = None,
    precision: Precision = "auto",
    gates: bool = True,
) -> tuple[Plan, Cascade]:
    """Load the model in a folder.

    ``device`` is ``cpu``, ``cuda`` or ``auto``: the GPU if there is one and torch is installed.
    ``threads`` is for the CPU; OpenVINO chooses the number if it is None. Without ``gates`` the
    attention gates are replaced by ones, to measure what they contribute.

    Raises :class:`EffaceError` if the model is missing or damaged, or there is no such device.
    """
    try:
        raw = json.loads((folder / PLAN).read_text())["plan"]
        plan = Plan(
            float(raw["mm"]),
            tuple(raw["coarse_widths"]),
            bool(raw["attention"]),
            tuple(raw["refine_widths"]),
        )
        names = (COARSE, REFINE) if plan.refine_widths else (COARSE,)
        graphs = _graphs(folder, names)
    except (OSError, ValueError, KeyError, TypeError, RuntimeError) as e:
        raise EffaceError(f"{folder}: no face model ({PLAN}, {GRAPH} and {WEIGHTS}): {e}") from e
    if device == "cuda" or (device == "auto" and _gpu_likely()):
        cascade = _on_gpu(graphs, plan, gates)
        if cascade is not None:
            return plan, cascade
        if device == "cuda":
            raise EffaceError("device cuda was asked for, but torch sees no GPU: use device cpu")
    networks = [on_cpu(graphs[name], threads, precision, gates) for name in names]
    return plan, Cascade(networks[0], networks[1] if plan.refine_widths else None, plan.mm)


def _graphs(folder: Path, names: tuple[str, ...]) -> dict[str, ov.Model]:
    """The networks of the model file, each as a graph of its own."""
    import openvino as ov

    model = ov.Core().read_model(folder / GRAPH, folder / WEIGHTS)
    return {
        name: ov.Model(
            [model.output(name).get_node()], [model.input(f"{name}_input").get_node()], name
        )
        for name in names
    }


def weights(graph: ov.Model, name: str) -> dict[str, Array]:
    """Weights of a network, by the names of its torch parameters."""
    constants = (op for op in graph.get_ops() if op.get_type_name() == "Constant")
    named = {op.get_friendly_name(): op.data for op in constants}
    return {k.removeprefix(f"{name}."): v for k, v in named.items() if k.startswith(f"{name}.")}


def on_cpu(
    graph: ov.Model,
    threads: int | None = None,
    precision: Precision = "auto",
    gates: bool = True,
) -> Network:
    """A graph as a function from a volume of any shape to class probabilities."""
    import openvino as ov

    if not gates:
        _open_gates(graph)
    core = ov.Core()
    # on a CPU without bfloat16 it would be emulated, and slow
    fast = precision == "auto" and "BF16" in core.get_property("CPU", "OPTIMIZATION_CAPABILITIES")
    settings: dict[str, Any] = {
        "INFERENCE_PRECISION_HINT": "bf16" if fast else "f32",
        "PERFORMANCE_HINT": "LATENCY",
    }
    if threads:
        settings["INFERENCE_NUM_THREADS"] = threads
    compiled: dict[tuple[int, ...], Any] = {}

    def probabilities(v: Array) -> Array:
        v = v if v.ndim == 4 else v[None]
        if v.shape not in compiled:
            if len(compiled) >= _SHAPES:  # each holds its buffers
                compiled.pop(next(iter(compiled)))
            graph.reshape([1, *v.shape])
            compiled[v.shape] = core.compile_model(graph, "CPU", settings).create_infer_request()
        out: Array = compiled[v.shape].infer({0: v[None]}, share_inputs=True)[0][0]
        return out

    return probabilities


def _open_gates(graph: ov.Model) -> None:
    """Replace the weights that the attention gates compute by 1, in place."""
    import openvino.opset13 as ops

    for op in graph.get_ops():
        if op.get_type_name() == "Sigmoid":
            op.output(0).replace(ops.constant(np.float32(1)).output(0))


def _gpu_likely() -> bool:
    """Whether importing torch, which takes seconds, may give a GPU."""
    return bool(shutil.which("nvidia-smi")) and importlib.util.find_spec("torch") is not None


def _on_gpu(graphs: dict[str, ov.Model], plan: Plan, gates: bool) -> Cascade | None:
    """The networks on the GPU; None if torch is not installed or has no GPU."""
    try:
        import torch
    except ImportError:
        return None
    if not torch.cuda.is_available():
        return None
    from efface.segment.network import Coarse, Refine, load_weights, predictor

    classes, attention = len(LABELS) + 1, plan.attention and gates
    coarse = Coarse(plan.coarse_widths, classes, attention)
    load_weights(coarse, weights(graphs[COARSE], COARSE))
    if not plan.refine_widths:
        return Cascade(predictor(coarse, "cuda"), None, plan.mm)
    refine = Refine(plan.refine_widths, classes, attention)
    load_weights(refine, weights(graphs[REFINE], REFINE))
    return Cascade(predictor(coarse, "cuda"), predictor(refine, "cuda"), plan.mm)
