"""Cost of defacing, as a ratio to reading and writing the same file with nibabel.

The warm process measures each further volume, the cold start a single command.

python benchmarks/deface.py [IMAGE.nii.gz]      (default: a phantom of 256×256×176 voxels, 1 mm)
"""

import resource
import subprocess
import sys
import tempfile
from pathlib import Path

import nibabel as nib
import numpy as np
from timing import seconds

import efface
from efface import nifti
from efface.phantom import phantom


def main():
    folder = Path(tempfile.mkdtemp())
    out = folder / "out.nii.gz"
    if len(sys.argv) > 1:
        image = Path(sys.argv[1])
    else:
        image = folder / "head.nii.gz"
        nifti.save(phantom(1, spacing=(1, 1, 1), shape=(176, 256, 256))[0], image)

    def read_and_write():
        img = nib.load(image)
        nib.save(nib.Nifti1Image(np.asanyarray(img.dataobj), img.affine, img.header), out)

    def warm():
        nifti.save(efface.deface(nifti.load(image)).image, out)

    def cold():
        command = [sys.executable, "-m", "efface.cli", "deface", image, out, "--allow-review"]
        subprocess.run(command, check=False, capture_output=True)

    floor = seconds(read_and_write)
    warm()
    print(f"{'nibabel reads and writes':32} {floor:6.2f} s   1.0")
    for name, function in (("efface, warm process", warm), ("efface deface, cold start", cold)):
        took = seconds(function)
        print(f"{name:32} {took:6.2f} s {took / floor:5.1f}")
    kilobytes = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss
    print(f"{'peak memory of the cold start':32} {kilobytes / 1e6:6.2f} GB")


if __name__ == "__main__":
    main()
