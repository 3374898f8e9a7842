"""Cost of converting a released series again and comparing it with its NIfTI.

Given as a ratio to converting the source series once with the same program on the same machine.

python benchmarks/readback.py [DICOM_FOLDER]      (default: a phantom, 176 files of 256×256, 1 mm)
"""

import sys
import tempfile
from pathlib import Path

from timing import seconds

from efface.convert import dcm2niix
from efface.distort import readback


def main():
    scratch = Path(tempfile.mkdtemp())
    folder = Path(sys.argv[1]) if len(sys.argv) > 1 else series(scratch / "source")
    files = sorted(p for p in folder.rglob("*") if p.is_file())

    def convert():
        return dcm2niix.convert([str(f) for f in files], Path(tempfile.mkdtemp(dir=scratch)), 600)

    released = [readback.from_conversion(one) for one in convert().images]
    frames = {f.name: () for f in files}
    difference = readback.check(files[0].parent, frames, released)
    once = seconds(convert)
    checked = seconds(lambda: readback.check(files[0].parent, frames, released))
    compared = seconds(lambda: readback.first_difference(released, released))
    size = sum(f.stat().st_size for f in files) / 1e6
    print(f"{len(files)} files, {size:.0f} MB, {len(released)} images: {difference or 'equal'}")
    print(f"converting the source once       {once:7.3f} s    1.0 x")
    print(f"converting and comparing again   {checked:7.3f} s    {checked / once:.1f} x")
    print(f"  comparison alone               {compared:7.3f} s    {compared / once:.1f} x")


def series(folder):
    from efface.phantom import Identity, phantom, write_dicom

    write_dicom(phantom(1, shape=(256, 256, 176), spacing=(1, 1, 1))[0], folder,
                Identity.from_seed(1))  # fmt: skip
    return folder


if __name__ == "__main__":
    main()
