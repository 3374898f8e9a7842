"""What the leak scan of a release costs, beside plainer searches of the same bytes, in one run.

python benchmarks/leaks.py [RELEASE [IDENTIFIERS]]    (default: a phantom, as NIfTI and as DICOM,
with the identifiers of 250 people)

The floor inflates what is compressed (isal) and looks for one word with bytes.find. The peer is
GNU grep with all identifiers as fixed strings, in one encoding, on files inflated beforehand. Both
know no kinds of files, no rules of structure and no borders of words. The matcher alone searches
all inflated bytes as voxels.
"""

import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from isal import isal_zlib

from efface import nifti
from efface.audit.identifiers import of_line
from efface.audit.leaks import scan
from efface.audit.matcher import Matcher
from efface.phantom import Identity, phantom, write_dicom
from efface.pseudonym import new_key
from efface.scrub.folder import scrub_folder


def seconds(function, clock=time.process_time, repeat=3):
    """The best of a few: what the work costs, not what else the machine did."""
    took = []
    for _ in range(repeat):
        start = clock()
        function()
        took.append(clock() - start)
    return min(took)


def example(folder):
    """A release's files of a head of 256x256x176 voxels, and the identifiers of a cohort."""
    image = phantom(1, spacing=(1, 1, 1), shape=(176, 256, 256))[0]
    write_dicom(image, folder / "source", Identity.from_seed(5))
    scrub_folder(folder / "source", folder / "release" / "dicom", new_key(folder / "key"), ())
    nifti.save(image, folder / "release" / "sub-a_T1w.nii.gz")
    people = (Identity.from_seed(seed) for seed in range(5, 255))
    return folder / "release", sorted({line for person in people for line in person.identifiers})


def main():
    folder = Path(tempfile.mkdtemp())
    if len(sys.argv) > 1:
        release, lines = Path(sys.argv[1]), ["Quillfeather"]
        if len(sys.argv) > 2:
            lines = Path(sys.argv[2]).read_text().splitlines()
    else:
        release, lines = example(folder)
    lines = [line for line in lines if line.strip()]
    files = {
        p.relative_to(release).as_posix(): p.read_bytes()
        for p in sorted(release.rglob("*"))
        if p.is_file()
    }

    def inflated(name):
        return isal_zlib.decompress(files[name], 31) if name.endswith(".gz") else files[name]

    stored = sum(map(len, files.values()))
    plain = 0
    for number, name in enumerate(files):
        data = inflated(name)
        plain += len(data)
        (folder / f"{number:06}.plain").write_bytes(data)
    (folder / "identifiers").write_text("".join(f"{line}\n" for line in lines))
    forms = [form for i, line in enumerate(lines, start=1) for form in of_line(line, i)]
    matcher = Matcher(forms)
    findings = []

    def floor():
        for name in files:
            inflated(name).find(lines[0].encode())

    def grep():
        command = ["grep", "-aiFc", "-f", folder / "identifiers", *sorted(folder.glob("*.plain"))]
        subprocess.run(command, check=False, capture_output=True)

    def matches():
        for name in files:
            matcher.search(inflated(name), voxels=True)

    def efface():
        findings[:] = [f for name, data in files.items() for f in scan(name, data, matcher)]

    rows = [("isal inflates, one bytes.find", seconds(floor))]
    if shutil.which("grep"):
        rows.append(("grep -aiF -f, inflated before", seconds(grep, time.perf_counter)))
    rows.append(("isal inflates, matcher as voxels", seconds(matches)))
    rows.append(("efface's leak scan", seconds(efface)))
    print(f"{len(files)} files, {stored / 1e6:.1f} MB, inflated {plain / 1e6:.1f} MB; ", end="")
    print(f"{len(lines)} identifiers in {len(forms)} forms; {len(findings)} findings")
    print(f"{'':32} {'s':>6} {'MB/s':>6} {'inflated MB/s':>14} {'ratio':>6}")
    for name, took in rows:
        ratio = took / rows[0][1]
        print(
            f"{name:32} {took:6.2f} {stored / took / 1e6:6.0f} {plain / took / 1e6:14.0f}"
            f" {ratio:6.1f}"
        )


if __name__ == "__main__":
    main()
