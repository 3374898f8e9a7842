"""Files a second of the header scrub and of the tools built on pydicom, on the same files.

python benchmarks/scrub.py [DICOM_FOLDER] [--peer-python PATH] [--rounds N]

The default is one classic MR series of a phantom (256×256 voxels a file). The peers
(dicom-anonymizer, dicognito, dcm-anonymizer) are taken from this Python or from the one that
--peer-python names, and none of them is a dependency of efface. Every tool reads each file from
disk and writes its result to disk, in a process of its own on one core; imports and a first
handful of files do not count. "efface" is the scrub of single files; "efface, whole folder" is what
`efface scrub` does: it also reads all headers for identifiers and searches each result for them.
Rounds go in turn, so that a busy machine is busy for all of them.
"""

import argparse
import contextlib
import importlib
import io
import json
import logging
import os
import shutil
import subprocess
import sys
import tempfile
import time
import warnings
from importlib.metadata import version
from pathlib import Path

WARM = 5
TOOLS = {
    "efface": "efface",
    "efface, whole folder": "efface",
    "dicom-anonymizer": "dicomanonymizer",
    "dicognito": "dicognito",
    "dcm-anonymizer": "dcm_anon",
}
"""Name of each tool, and the module that is there where the tool is."""


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder", nargs="?", type=Path, help="DICOM files; default: a phantom")
    parser.add_argument("--peer-python", default=sys.executable, help="Python that has the peers")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--worker", help=argparse.SUPPRESS)
    a = parser.parse_args()
    if a.worker:
        print(json.dumps(worker(a.worker, json.load(sys.stdin))))
        return
    with tempfile.TemporaryDirectory() as scratch:
        compare(a.folder or series(Path(scratch) / "source"), a, Path(scratch))


def series(folder):
    """A T1w phantom as a scanner exports it: 176 files."""
    from efface.phantom import Identity, phantom, write_dicom

    write_dicom(phantom(1, shape=(256, 256, 176), spacing=(1, 1, 1))[0], folder,
                Identity.from_seed(1))  # fmt: skip
    return folder


def compare(folder, a, scratch):
    files = [str(p) for p in sorted(folder.rglob("*")) if p.is_file()]
    size = sum(os.path.getsize(f) for f in files) / 1e6  # noqa: PTH202
    print(f"{len(files)} files, {size:.0f} MB, best of {a.rounds} rounds, one core")
    runs = {tool: [] for tool in TOOLS}
    for _ in range(a.rounds):
        for tool, done in runs.items():
            # a new folder each time: to replace a file costs more than to make one
            out = Path(tempfile.mkdtemp(dir=scratch))
            task = {"folder": str(folder.resolve()), "files": files, "out": str(out)}
            done.append(in_its_own_process(tool, a.peer_python, task))
            shutil.rmtree(out)
    best = {
        tool: max(done, key=lambda r: r["rate"])
        for tool, done in runs.items()
        if not any("absent" in r for r in done)
    }
    peers = [r["rate"] for tool, r in best.items() if not tool.startswith("efface")]
    print(f"{'':24}{'version':>10}{'files/s':>9}{'MB/s':>8}{'written':>9}{'efface is':>11}")
    for tool, r in best.items():
        ratio = "" if tool.startswith("efface") else f"{best['efface']['rate'] / r['rate']:.1f} x"
        speed = size * r["rate"] / len(files)
        print(
            f"{tool:24}{r['version']:>10}{r['rate']:9.0f}{speed:8.0f}{r['written']:9d}{ratio:>11}"
        )
    for tool in TOOLS.keys() - best.keys():
        print(f"{tool}: absent ({runs[tool][0]['absent']})")
    if peers:
        print(f"against the fastest peer: {best['efface']['rate'] / max(peers):.1f} times")
    else:
        print("no peer is there to compare with; see --peer-python")


def in_its_own_process(tool, peer_python, task):
    """What :func:`worker` returns, or why there is nothing."""
    python = sys.executable if tool.startswith("efface") else peer_python
    done = subprocess.run(
        [python, __file__, "--worker", tool],
        input=json.dumps(task),
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode:
        return {"absent": (done.stderr.strip().splitlines() or ["it failed"])[-1]}
    return json.loads(done.stdout)


def worker(tool, task):
    """Scrub the files with one tool; files a second of processor time, and how many it wrote."""
    importlib.import_module(TOOLS[tool])
    os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})
    warnings.simplefilter("ignore")
    logging.disable()
    out = Path(task["out"])
    with contextlib.redirect_stdout(io.StringIO()):
        if tool == "efface, whole folder":
            took, written = whole_folder(Path(task["folder"]), out / "folder")
        else:
            took, written = one_by_one(ONE_FILE[tool](), task["files"], out)
    name = "efface" if tool.startswith("efface") else tool
    return {"rate": len(task["files"]) / took, "written": written, "version": version(name)}


def one_by_one(scrub, files, out):
    written = 0
    for number, file in enumerate([*files[:WARM], *files]):
        if number == WARM:
            start, written = time.process_time(), 0
        try:
            scrub(file, str(out / f"{number:06d}.dcm"))
            written += 1
        except Exception:  # a refused file is counted as not written
            continue
    return time.process_time() - start, written


def whole_folder(source, out):
    """The function behind the command `efface scrub`: also pseudonyms, duplicates, leak scan."""
    from efface.pseudonym import Key
    from efface.scrub.folder import scrub_folder

    start = time.process_time()
    written = scrub_folder(source, out, Key(b"k" * 32)).written
    return time.process_time() - start, written


def _efface():
    from efface.pseudonym import Key
    from efface.scrub import scrub_file

    key = Key(b"k" * 32)
    return lambda src, dst: scrub_file(Path(src), Path(dst), key, "sub-a", "ses-b")


def _dicom_anonymizer():
    from dicomanonymizer import simpledicomanonymizer

    return simpledicomanonymizer.anonymize_dicom_file


def _dicognito():
    import pydicom
    from dicognito.anonymizer import Anonymizer

    anonymizer = Anonymizer()

    def scrub(src, dst):
        ds = pydicom.dcmread(src)
        anonymizer.anonymize(ds)
        ds.save_as(dst)

    return scrub


def _dcm_anonymizer():
    from dcm_anon import UIDMapper, anonymize_file

    mapper = UIDMapper(salt="k")
    return lambda src, dst: anonymize_file(Path(src), Path(dst), mapper)


ONE_FILE = {
    "efface": _efface,
    "dicom-anonymizer": _dicom_anonymizer,
    "dicognito": _dicognito,
    "dcm-anonymizer": _dcm_anonymizer,
}

if __name__ == "__main__":
    main()
