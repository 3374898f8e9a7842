"""Weights as safetensors, and the card that says what they are."""

from __future__ import annotations

import csv
from pathlib import Path
from typing import Any

from efface.manifest import sha256, write_atomic, write_json
from efface.segment import PLAN, WEIGHTS
from efface.segment.network import AttentionUNet, Cut
from efface.segment.runtime import CUT
from efface.train.loop import Settings


def weights(
    find: AttentionUNet, cut: Cut | None, settings: Settings, folder: Path, about: dict[str, Any]
) -> None:
    """Write ``face.safetensors`` (float16: half the size, the same labels) and ``face.json``."""
    import torch
    from safetensors.torch import save

    stored = dict(find.state_dict())
    if cut is not None:
        stored |= {CUT + k: v for k, v in cut.state_dict().items()}
    tensors = {k: v.detach().to("cpu", torch.float16).contiguous() for k, v in stored.items()}
    path = folder / WEIGHTS
    write_atomic(path, save(tensors))
    plan = {
        "mm": settings.mm,
        "widths": list(settings.widths),
        "attention": settings.attention,
        "cut": list(settings.cut),
    }
    write_json(
        folder / PLAN,
        {
            "plan": plan,
            "settings": vars(settings),
            "parameters": sum(t.numel() for t in tensors.values()),
            "sha256": sha256(path),
            **about,
        },
    )


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
