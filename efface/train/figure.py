"""The table of an evaluation as a picture; the lower a figure, the redder its cell."""

from __future__ import annotations

import io
from pathlib import Path

import pandas as pd
from PIL import Image, ImageDraw

_CELL = (58, 18)
_LEFT, _TOP = 330, 60
_POOR = {"dice": 0.5, "covered": 0.8}
"""Values drawn in full red; 1 is white."""


def draw(groups: str, path: Path) -> None:
    """Draw the TSV of :func:`efface.train.tables.groups` with Pillow."""
    table = pd.read_csv(io.StringIO(groups), sep="\t", dtype=str, keep_default_na=False)
    lines = table.to_dict("records")
    names = [n for n in table.columns if n.startswith(("dice_", "covered_"))]
    statuses = ("pass", "review", "fail")
    wide = _LEFT + _CELL[0] * (len(names) + len(statuses)) + 10
    img = Image.new("RGB", (wide, _TOP + _CELL[1] * len(lines) + 10), "white")
    pen = ImageDraw.Draw(img)
    for i, name in enumerate((*names, *statuses)):
        at = _LEFT + i * _CELL[0]
        for j, word in enumerate(name.split("_")):
            pen.text((at + 4, 20 + 16 * j), word, fill="black")
    for row, line in enumerate(lines):
        y = _TOP + row * _CELL[1]
        pen.text((6, y + 3), f"{line['case']} ({line['n']})", fill="black")
        for i, name in enumerate(names):
            if not line[name]:
                continue
            value, poor = float(line[name]), _POOR[name.split("_")[0]]
            pale = round(255 * min(max((value - poor) / (1 - poor), 0), 1))
            x = _LEFT + i * _CELL[0]
            pen.rectangle((x, y, x + _CELL[0] - 2, y + _CELL[1] - 2), fill=(255, pale, pale))
            pen.text((x + 12, y + 3), f"{value:.3f}", fill="black")
        for i, status in enumerate(statuses):
            x = _LEFT + (len(names) + i) * _CELL[0]
            pen.text((x + 20, y + 3), line[status], fill="black")
    path.parent.mkdir(parents=True, exist_ok=True)
    img.save(path)
