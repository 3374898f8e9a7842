"""Makes docs/demo.png: a phantom before and after, as the README shows it.

python docs/demo_picture.py
"""

from pathlib import Path

import numpy as np

import efface
from efface.phantom import phantom
from efface.qc import render


def main() -> None:
    img, _ = phantom(3, spacing=(1.5, 1.5, 1.5))
    result = efface.deface(img)
    before = img.get_fdata(dtype=np.float32)
    after = result.image.get_fdata(dtype=np.float32)
    threshold = render.skin_threshold(before, img.affine)
    rows = [
        np.concatenate(
            [np.pad(v, 3) for v in render.views(x, img.affine, threshold=threshold).values()], 1
        )
        for x in (before, after)
    ]
    render.save_png(np.concatenate(rows, 1), Path(__file__).with_name("demo.png"))


if __name__ == "__main__":
    main()
