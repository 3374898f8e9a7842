"""The command line: ``efface run``, ``deface``, ``scrub``, ``verify`` and ``key``.

Exit codes: 0 done, 1 failed, 2 wrong usage (also paths that overwrite each other), 3 needs review
(``deface``), nothing was released (``run``) or files were left out in doubt (``scrub``).
"""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from efface import __version__, paths
from efface.errors import EffaceError, UsageError
from efface.paths import Given

OK, FAILED, USAGE, REVIEW = 0, 1, 2, 3
_RETAIN = (
    "options of PS3.15 that keep more of the headers: uids, device, institution,"
    " patient-characteristics, dates-full or dates-shifted, safe-private, descriptors,"
    " structured-content, graphics (docs/headers.md)"
)


def main(argv: list[str] | None = None) -> int:
    """Run a command; returns its exit code. Faults become one sentence on standard error."""
    arguments = _parser().parse_args(argv)
    command: Callable[[argparse.Namespace], int] = arguments.command
    try:
        return command(arguments)
    except UsageError as e:
        _say(str(e))
        return USAGE
    except EffaceError as e:
        return _say(str(e))
    except KeyboardInterrupt:
        _say("stopped; the same command goes on where it was")
        return 130
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return FAILED
    except MemoryError:
        return _say("not enough memory for this image")
    except OSError as e:
        return _say(f"{e.filename or 'input or output'}: {e.strerror or e}")
    except Exception as e:
        if os.environ.get("EFFACE_DEBUG"):
            raise
        what = f"{type(e).__name__}: {e}".splitlines()[0]
        return _say(f"internal error ({what}); set EFFACE_DEBUG=1 for a traceback")


def _say(sentence: str) -> int:
    print(f"efface: {sentence}", file=sys.stderr)
    return FAILED


class _Names(argparse.Action):
    """Names with spaces or commas between them, in one place or in several."""

    def __call__(
        self,
        parser: argparse.ArgumentParser,
        namespace: argparse.Namespace,
        values: Any,  # noqa: ANN401
        option_string: str | None = None,
    ) -> None:
        names = [name for value in values for name in value.split(",") if name]
        setattr(namespace, self.dest, [*getattr(namespace, self.dest), *names])


_MANY: dict[str, Any] = {"nargs": "+", "default": [], "action": _Names}


def _run(a: argparse.Namespace) -> int:
    from efface.workflow import run

    level = a.level or ("participant" if a.participant_label else "group")
    if level == "group" and a.participant_label:
        raise EffaceError(
            "--participant-label goes with the level participant; group takes in everybody"
        )
    settings = {
        "features": a.features.split(","),
        "method": a.method,
        "retain": a.retain,
        "device": a.device,
        "participants": a.participant_label,
        "layout": a.layout,
        "ocr": a.ocr,
    }
    if a.key:
        settings["key"] = str(paths.resolved(a.key))
    if a.accept:
        settings["accept"] = str(paths.resolved(a.accept))
    return run(a.source, a.out, level, settings, a.cores, a.profile, a.verbose)


def _deface(a: argparse.Namespace) -> int:
    writes = [
        Given(role, path)
        for role, path in (("OUT", a.out), ("--labels", a.labels), ("--mask", a.mask))
        if path
    ]
    reads = [Given("IN", a.image), *([Given("--models", a.models)] if a.models else [])]
    paths.check(reads, writes)
    for write in writes:
        paths.check_file(write)
        if not write.path.name.endswith((".nii", ".nii.gz")):
            raise UsageError(f"{write.role} {write.path}: name it .nii or .nii.gz")
        _writable(write.path)

    from efface import nifti

    img = nifti.load(a.image)

    from efface.volume import deface

    result = deface(img, a.features, a.method, a.seed, a.models, a.device, a.keep_header)
    report = result.report
    written = report.status == "pass" or (report.status == "review" and a.allow_review)
    for reason in report.reasons:
        print(f"{report.status}: {reason}", file=sys.stderr)
    if not written:
        print(f"efface: {a.image}: {_REFUSED[report.status]}", file=sys.stderr)
        return REVIEW if report.status == "review" else FAILED
    if a.labels:
        nifti.save(nifti.like(result.image, result.labels), a.labels)
    if a.mask:
        nifti.save(nifti.like(result.image, result.mask), a.mask)
    # last, so that where the image is, all of it is
    nifti.save(result.image, a.out)
    if report.removed:
        print(f"header: removed {', '.join(report.removed)} (keep with --keep-header)")
    print(f"{a.out}: {report.status}")
    return REVIEW if report.status == "review" else OK


_REFUSED = {
    "review": "needs review, nothing written (--allow-review writes it all the same)",
    "fail": "not safe, nothing written",
}


def _writable(path: Path) -> None:
    """Find out before the work, not after it."""
    folder = path.parent
    if not folder.is_dir():
        raise EffaceError(f"{folder}: no such folder for {path.name}; make it first")
    probe = folder / f".{path.name}.{os.getpid()}.probe"
    try:
        probe.touch()
        probe.unlink()
    except OSError as e:
        raise EffaceError(f"{folder}: cannot be written ({e.strerror})") from e


def _scrub(a: argparse.Namespace) -> int:
    from efface.pseudonym import read_key
    from efface.scrub import scrub_folder

    paths.check([Given("DICOM_DIR", a.dicom), Given("--key", a.key)], [Given("OUT_DIR", a.out)])
    if not a.dicom.is_dir():
        raise EffaceError(f"{a.dicom}: no such folder of DICOM files")
    if not a.key.exists():
        raise EffaceError(f"{a.key}: no such key; make one with: efface key new {a.key}")
    if a.identity:
        if any(a.identity.resolve().is_relative_to(p.resolve()) for p in (a.out, a.dicom)):
            raise EffaceError(f"{a.identity}: holds names; write it outside source and results")
        if a.identity.exists():
            raise EffaceError(f"{a.identity}: is there already; name a new file")
        _writable(a.identity)
    report = scrub_folder(a.dicom, a.out, read_key(a.key), a.retain, _progress("files"))
    print(report.summary())
    if a.identity:
        with os.fdopen(os.open(a.identity, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w") as f:
            f.write(report.verdict.text())
    if not report.written:
        print(
            f"efface: {a.dicom}: nothing was written, for the reasons above"
            if report.withheld
            else f"efface: {a.dicom}: holds no files",
            file=sys.stderr,
        )
        return REVIEW
    if not report.in_doubt:
        return OK
    print(
        "efface: files with contradictory identities were left out; correct the source"
        f"{'' if a.identity else ' (--identity FILE writes a table of who contradicts whom)'}",
        file=sys.stderr,
    )
    return REVIEW


def _verify(a: argparse.Namespace) -> int:
    from efface.verify import verify

    identifiers = []
    if a.identifiers:
        try:
            lines = a.identifiers.read_text().splitlines()
            identifiers = [line for line in lines if line.strip()]
        except (OSError, UnicodeDecodeError) as e:
            raise EffaceError(f"{a.identifiers}: cannot be read as text ({e})") from e
    if not a.release.is_dir():
        raise EffaceError(f"{a.release}: no such release folder")
    report = verify(a.release, identifiers)
    for problem in report.problems:
        print(problem)
    print(report.summary())
    return OK if not report.problems else FAILED


def _key_new(a: argparse.Namespace) -> int:
    from efface.pseudonym import new_key

    key = new_key(a.file)
    print(f"{a.file}: new key {key.fingerprint}; keep it safe, it links pseudonyms to people")
    return OK


def _key_show(a: argparse.Namespace) -> int:
    from efface.pseudonym import created, read_key

    print(f"{a.file}: key {read_key(a.file).fingerprint}, created {created(a.file)}")
    return OK


def _key_rotate(a: argparse.Namespace) -> int:
    from efface.pseudonym import rotate_key

    new, old, kept = rotate_key(a.file)
    print(
        f"{a.file}: new key {new.fingerprint}; the old one, {old.fingerprint}, is now {kept}\n"
        "From now on every person, session, series and UID gets another pseudonym and every date"
        " another shift. A release made before stays as it is; the next run makes all of it anew,"
        " and nobody without both keys can tell that the two are of the same people.\n"
        "efface key lookup still knows the old pseudonyms while the old key lies there."
    )
    return OK


def _key_lookup(a: argparse.Namespace) -> int:
    from efface.lookup import LOG, lookup

    found = lookup(a.pseudonym, a.out, a.key)
    if not found:
        raise EffaceError(f"{a.pseudonym}: nobody of that name in {a.out} under these keys")
    print("\n\n".join("\n".join(match.lines()) for match in found))
    print(f"efface: noted in {a.out / 'restricted' / LOG}", file=sys.stderr)
    return OK


def _progress(what: str) -> Callable[[int, int], None]:
    """A line that counts on a terminal; nothing where the output goes to a file."""

    def show(done: int, total: int) -> None:
        if sys.stderr.isatty():
            end = "\n" if done == total else ""
            print(f"\r{done}/{total} {what}", end=end, file=sys.stderr, flush=True)

    return show


def _parser() -> argparse.ArgumentParser:
    p = argparse.ArgumentParser(
        prog="efface", description="Takes the name and the face out of head MRI, and proves it."
    )
    p.add_argument("--version", action="version", version=f"efface {__version__}")
    commands = p.add_subparsers(required=True, metavar="COMMAND", title="commands")

    def command(
        name: str, function: Callable[[argparse.Namespace], int], text: str
    ) -> argparse.ArgumentParser:
        sub = commands.add_parser(name, help=text, description=text)
        sub.set_defaults(command=function)
        return sub

    run = command("run", _run, "a folder of DICOM or a BIDS dataset, to a release and an audit")
    run.add_argument("source", type=Path, metavar="SOURCE", help="DICOM tree or BIDS dataset")
    run.add_argument("out", type=Path, metavar="OUT", help="folder for release/ and audit/")
    run.add_argument(
        "level",
        nargs="?",
        choices=("participant", "group"),
        help="participant: up to the leak scan of each session; group: all of it, to release and"
        " audit (default, unless people are named)",
    )
    run.add_argument(
        "--participant-label",
        **_MANY,
        metavar="SUB",
        help="only these people, by their label in"
        " the source or by pseudonym, with or without sub-",
    )
    run.add_argument("--cores", type=int, default=os.cpu_count() or 1, metavar="N")
    run.add_argument("--profile", metavar="NAME", help="how to run: slurm, or a profile's folder")
    run.add_argument("--key", type=Path, metavar="FILE", help="default: OUT/restricted/key")
    run.add_argument("--retain", **_MANY, metavar="OPTION", help=_RETAIN)
    run.add_argument(
        "--layout",
        default="raw",
        choices=("raw", "derivative"),
        help="of the BIDS release: raw (default), or derivative, with desc-defaced in the names",
    )
    run.add_argument(
        "--ocr",
        default="auto",
        choices=("auto", "always", "never"),
        help="search pictures for text: auto (default), always (with tesseract too), never",
    )
    run.add_argument("--accept", type=Path, metavar="FILE", help="scans accepted in review")
    run.add_argument("--verbose", action="store_true", help="all that snakemake says")
    _how(run)

    one = command("deface", _deface, "one NIfTI volume, 3D or 4D")
    one.add_argument("image", type=Path, metavar="IN.nii.gz")
    one.add_argument("out", type=Path, metavar="OUT.nii.gz")
    one.add_argument("--labels", type=Path, metavar="L.nii.gz", help="write what was found")
    one.add_argument("--mask", type=Path, metavar="M.nii.gz", help="write what was replaced")
    one.add_argument("--seed", type=int, default=0, metavar="N", help="of the noise (default 0)")
    one.add_argument("--models", type=Path, metavar="DIR", help="another face model")
    one.add_argument(
        "--keep-header",
        action="store_true",
        help="keep the header's texts and extensions, which may name the person",
    )
    one.add_argument(
        "--allow-review", action="store_true", help="write also what a person must look at first"
    )
    _how(one)

    scrub = command("scrub", _scrub, "DICOM headers only; the face stays in")
    scrub.add_argument("dicom", type=Path, metavar="DICOM_DIR")
    scrub.add_argument("out", type=Path, metavar="OUT_DIR")
    scrub.add_argument("--key", type=Path, required=True, metavar="FILE", help="project key")
    scrub.add_argument(
        "--identity",
        type=Path,
        metavar="FILE",
        help="write the table of identities and their contradictions (holds names; mode 0600)",
    )
    scrub.add_argument("--retain", **_MANY, metavar="OPTION", help=_RETAIN)

    verify = command("verify", _verify, "check a release: manifest, structure, identifiers")
    verify.add_argument("release", type=Path, metavar="RELEASE")
    verify.add_argument(
        *("--identifiers", "--needles"),
        type=Path,
        metavar="FILE",
        help="identifiers to search for, one a line",
    )

    key = commands.add_parser("key", help="the project key: new, show, rotate, lookup")
    keys = key.add_subparsers(required=True, metavar="COMMAND", title="commands")
    for name, function, text in (
        ("new", _key_new, "make a key file (mode 0600); never over another"),
        ("show", _key_show, "the key's fingerprint and the day it was made, never the key"),
        ("rotate", _key_rotate, "a new key in its place; the old one is kept beside it"),
    ):
        sub = keys.add_parser(name, help=text, description=text)
        sub.add_argument("file", type=Path, metavar="FILE")
        sub.set_defaults(command=function)
    text = "whom a pseudonym stands for; every question is logged in OUT/restricted"
    sub = keys.add_parser("lookup", help=text, description=text)
    sub.add_argument(
        "pseudonym", metavar="PSEUDONYM", help="sub-…, ses-…, series-…, a scan's name or a UID"
    )
    sub.add_argument("out", type=Path, metavar="OUT", help="the folder of efface run")
    sub.add_argument("--key", type=Path, metavar="FILE", help="default: OUT/restricted/key")
    sub.set_defaults(command=_key_lookup)
    return p


def _how(p: argparse.ArgumentParser) -> None:
    p.add_argument(
        "--features", default="face", metavar="LIST", help="face (default) or eyes,nose,ears,mouth"
    )
    p.add_argument("--method", default="noise", metavar="NAME", help="noise, remove or blur")
    p.add_argument("--device", default="auto", choices=("auto", "cpu", "cuda"))


if __name__ == "__main__":
    sys.exit(main())
