"""Export of trained networks: the OpenVINO model with its weights, and the card beside it."""

from __future__ import annotations

import copy
import csv
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from efface.manifest import sha256, write_atomic, write_json
from efface.segment import runtime
from efface.segment.network import AttentionUNet, Coarse, Refine
from efface.train.loop import Settings

if TYPE_CHECKING:
    import openvino as ov


def weights(
    coarse: Coarse, refine: Refine | None, settings: Settings, folder: Path, about: dict[str, Any]
) -> None:
    """Write ``face.xml``, ``face.bin`` and ``face.json`` to a folder.

    Weights are float16: half the size of float32 with the same labels. ``about``: further entries
    of ``face.json``.
    """
    import openvino as ov

    networks = {runtime.COARSE: coarse, runtime.REFINE: refine}
    graphs = [graph(net, name) for name, net in networks.items() if net is not None]
    model = ov.Model(
        [result for g in graphs for result in g.get_results()],
        [parameter for g in graphs for parameter in g.get_parameters()],
        "face",
    )
    with tempfile.TemporaryDirectory() as made:
        # weights are float16 already; the few other constants stay float32
        ov.save_model(model, Path(made) / runtime.GRAPH, compress_to_fp16=False)
        for name in (runtime.WEIGHTS, runtime.GRAPH):
            write_atomic(folder / name, (Path(made) / name).read_bytes())
    write_json(
        folder / runtime.PLAN,
        {
            "plan": {
                "mm": settings.mm,
                "coarse_widths": list(settings.coarse_widths),
                "attention": settings.attention,
                "refine_widths": list(settings.refine_widths),
            },
            "settings": vars(settings),
            "parameters": sum(
                p.numel() for net in networks.values() if net is not None for p in net.parameters()
            ),
            "sha256": {name: sha256(folder / name) for name in (runtime.GRAPH, runtime.WEIGHTS)},
            **about,
        },
    )


def graph(network: AttentionUNet, name: str) -> ov.Model:
    """An ``openvino.Model`` of a network, from an image of any shape to class probabilities.

    Each weight is a float16 constant named ``{name}.{parameter}``, so that torch can load the same
    file on a GPU. For that the network is converted with its weights as inputs: the converter gives
    constants names of its own.
    """
    import openvino as ov
    import openvino.opset13 as ops

    network = network.to("cpu").eval()
    state = network.state_dict()
    channels = state["down.0.0.weight"].shape[1] if isinstance(network, Refine) else 1
    image = torch.zeros(1, channels, 32, 32, 32)
    model = ov.convert_model(
        _Functional(network, list(state)),
        example_input=(image, *state.values()),
        input=[
            ov.PartialShape([1, channels, -1, -1, -1]),
            *(ov.PartialShape(list(v.shape)) for v in state.values()),
        ],
    )
    inputs = model.get_parameters()
    for parameter, (key, value) in zip(inputs[1:], state.items(), strict=True):
        constant = ops.constant(value.to(torch.float16).numpy())
        constant.set_friendly_name(f"{name}.{key}")
        parameter.output(0).replace(ops.convert(constant, "f32").output(0))
        model.remove_parameter(parameter)
    model.input(0).get_tensor().set_names({f"{name}_input"})
    model.output(0).get_tensor().set_names({name})
    return model


class _Functional(nn.Module):
    """A network whose weights are inputs: ``forward(image, *weights)`` in the order of ``keys``.

    As ``torch.func.functional_call``, which cannot be traced.
    """

    def __init__(self, network: AttentionUNet, keys: list[str]) -> None:
        super().__init__()
        self.network = copy.deepcopy(network)
        paths = [key.rpartition(".") for key in keys]
        self.places = [(self.network.get_submodule(path), name) for path, _, name in paths]
        for module, name in self.places:
            del module._parameters[name]

    def forward(self, image: Tensor, *weights: Tensor) -> Tensor:
        """Class probabilities."""
        for (module, name), value in zip(self.places, weights, strict=True):
            setattr(module, name, value)
        logits: Tensor = self.network(image)
        return logits.softmax(1)


def curve_picture(curve: Path, picture: Path) -> None:
    """The loss over the steps as a PNG, drawn with Pillow: training needs no plotting library."""
    from PIL import Image, ImageDraw

    with curve.open(newline="") as f:
        points = [(int(r["step"]), float(r["loss"])) for r in csv.DictReader(f)]
    if not points:
        return
    wide, high, edge = 800, 400, 50
    last, top = max(s for s, _ in points), max(v for _, v in points)
    img = Image.new("RGB", (wide, high), "white")
    draw = ImageDraw.Draw(img)
    draw.line([(edge, 10), (edge, high - edge), (wide - 10, high - edge)], fill="black")
    draw.text((edge, high - edge + 10), f"steps, to {last}", fill="black")
    draw.text((5, 5), f"loss {top:.2f}", fill="black")
    at = [
        (edge + (wide - edge - 10) * s / last, high - edge - (high - edge - 10) * v / top)
        for s, v in points
    ]
    draw.line(at, fill="navy", width=2)
    picture.parent.mkdir(parents=True, exist_ok=True)
    img.save(picture)
