"""What it costs to convert a released series again and compare it with its NIfTI.

As ratio to converting the source series once, with the same program on the same machine.

python benchmarks/readback.py [DICOM_FOLDER]      (default: a phantom, 176 files of 256×256, 1 mm)
"""

import sys
import tempfile
from pathlib import Path

from timing import seconds

from efface import nifti
from efface.convert import dcm2niix, numbers
from efface.distort import readback


def main():
    scratch = Path(tempfile.mkdtemp())
    folder = Path(sys.argv[1]) if len(sys.argv) > 1 else series(scratch / "source")
    files = sorted(p for p in folder.rglob("*") if p.is_file())

    def convert():
        return dcm2niix.convert([str(f) for f in files], Path(tempfile.mkdtemp(dir=scratch)), 600)

    released = [image(one) for one in convert().images]
    places = {f.name: () for f in files}
    what = readback.check(files[0].parent, places, released)
    once = seconds(convert)
    checked = seconds(lambda: readback.check(files[0].parent, places, released))
    compared = seconds(lambda: readback.differences(released, released))
    size = sum(f.stat().st_size for f in files) / 1e6
    print(f"{len(files)} files, {size:.0f} MB, {len(released)} images: {what or 'the same'}")
    print(f"converting the source once       {once:7.3f} s    1.0 x")
    print(f"reading the DICOM form again     {checked:7.3f} s    {checked / once:.1f} x")
    print(f"  of it comparing                {compared:7.3f} s    {compared / once:.1f} x")


def image(one):
    bval = numbers(one.bval)
    return readback.image(nifti.load(one.nifti), bval[0] if bval else (), numbers(one.bvec))


def series(folder):
    from efface.phantom import Identity, phantom, write_dicom

    write_dicom(phantom(1, shape=(256, 256, 176), spacing=(1, 1, 1))[0], folder,
                Identity.from_seed(1))  # fmt: skip
    return folder


if __name__ == "__main__":
    main()
