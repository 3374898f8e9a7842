"""The command line: ``efface run``, ``deface``, ``scrub``, ``verify`` and ``key``.

Exit codes: 0 done; 1 failed; 2 wrong usage, also paths that overwrite each other; 3 needs review
(``deface``), nothing was released (``run``), or nothing was written or files of contradictory
identity were left out (``scrub``).
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
from efface.paths import Argument

OK, FAILED, USAGE, REVIEW = 0, 1, 2, 3
_RETAIN = (
    "options of DICOM PS3.15 that keep more of the headers (default: none): uids, device,"
    " institution, patient-characteristics, dates-full or dates-shifted, safe-private,"
    " descriptors, structured-content, graphics; see docs/headers.md"
)


def main(argv: list[str] | None = None) -> int:
    """Run a command and return its exit code.

    An error becomes one sentence on standard error. With the environment variable
    ``EFFACE_DEBUG=1`` an internal error shows its traceback.
    """
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
        _say("interrupted; run the same command again to continue")
        return 130
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return FAILED
    except MemoryError:
        return _say("not enough memory")
    except OSError as e:
        return _say(f"{e.filename or 'input or output'}: {e.strerror or e}")
    except Exception as e:
        if os.environ.get("EFFACE_DEBUG"):
            raise
        what = f"{type(e).__name__}: {e}".splitlines()[0]
        return _say(f"internal error ({what}); set EFFACE_DEBUG=1 for a traceback")


def _say(sentence: str) -> int:
    """Print a sentence on standard error; return the exit code of a failure."""
    print(f"efface: {sentence}", file=sys.stderr)
    return FAILED


class _Names(argparse.Action):
    """Names separated by spaces or commas. The option may be given several times."""

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
    from efface.workflow.run import run

    level = a.level or ("participant" if a.participant_label else "group")
    if level == "group" and a.participant_label:
        raise EffaceError(
            "--participant-label needs the level participant, since the level group processes every"
            " participant"
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
        Argument(role, path)
        for role, path in (("OUT", a.out), ("--labels", a.labels), ("--mask", a.mask))
        if path
    ]
    reads = [Argument("IN", a.image), *([Argument("--models", a.models)] if a.models else [])]
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
        print(f"efface: {a.image}: {_NOT_WRITTEN[report.status]}", file=sys.stderr)
        return REVIEW if report.status == "review" else FAILED
    if a.labels:
        nifti.save(nifti.like(result.image, result.labels), a.labels)
    if a.mask:
        nifti.save(nifti.like(result.image, result.mask), a.mask)
    # last: an image at OUT means that the other files are there too
    nifti.save(result.image, a.out)
    if report.removed:
        print(f"header: removed {', '.join(report.removed)} (keep with --keep-header)")
    print(f"{a.out}: {report.status}")
    return REVIEW if report.status == "review" else OK


_NOT_WRITTEN = {
    "review": "needs review, nothing was written (write it with --allow-review)",
    "fail": "failed, nothing was written",
}


def _writable(path: Path) -> None:
    """Raise :class:`EffaceError` if the file cannot be written, before the work starts."""
    folder = path.parent
    if not folder.is_dir():
        raise EffaceError(f"{folder}: no such folder; create it to write {path.name}")
    probe = folder / f".{path.name}.{os.getpid()}.probe"
    try:
        probe.touch()
        probe.unlink()
    except OSError as e:
        raise EffaceError(f"{folder}: cannot be written ({e.strerror})") from e


def _scrub(a: argparse.Namespace) -> int:
    from efface.pseudonym import read_key
    from efface.scrub.folder import scrub_folder

    reads = [Argument("DICOM_DIR", a.dicom), Argument("--key", a.key)]
    paths.check(reads, [Argument("OUT_DIR", a.out)])
    if not a.dicom.is_dir():
        raise EffaceError(f"{a.dicom}: no such folder of DICOM files")
    if not a.key.exists():
        raise EffaceError(f"{a.key}: no such key; create one with: efface key new {a.key}")
    if a.identity:
        if any(a.identity.resolve().is_relative_to(p.resolve()) for p in (a.out, a.dicom)):
            raise EffaceError(
                f"{a.identity}: the table holds names; write it outside DICOM_DIR and OUT_DIR"
            )
        if a.identity.exists():
            raise EffaceError(f"{a.identity}: exists already; name a new file")
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
        "efface: files of contradictory identity were left out; correct the source"
        f"{'' if a.identity else ' (--identity FILE writes a table of the contradictions)'}",
        file=sys.stderr,
    )
    return REVIEW


def _verify(a: argparse.Namespace) -> int:
    from efface.verify import verify

    identifiers: list[str] = []
    if a.identifiers:
        try:
            identifiers = [n for n in a.identifiers.read_text().splitlines() if n.strip()]
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
    print(f"{a.file}: new key {key.fingerprint}; keep it safe, it links pseudonyms to participants")
    return OK


def _key_show(a: argparse.Namespace) -> int:
    from efface.pseudonym import created, read_key

    print(f"{a.file}: key {read_key(a.file).fingerprint}, created {created(a.file)}")
    return OK


def _key_rotate(a: argparse.Namespace) -> int:
    from efface.pseudonym import rotate_key

    new, old, kept = rotate_key(a.file)
    print(
        f"{a.file}: new key {new.fingerprint}; the old key {old.fingerprint} is now in {kept}\n"
        "From now on every participant, session, series and UID gets a new pseudonym, and dates"
        " get a new shift. An existing copy of a release does not change. The next run makes the"
        " whole release again, and only both keys together link the two releases.\n"
        "efface key lookup finds old pseudonyms as long as the old key stays there."
    )
    return OK


def _key_lookup(a: argparse.Namespace) -> int:
    from efface.lookup import LOG, lookup

    found = lookup(a.pseudonym, a.out, a.key)
    if not found:
        raise EffaceError(f"{a.pseudonym}: pseudonym not found in {a.out} with the available keys")
    print("\n\n".join("\n".join(match.lines()) for match in found))
    print(f"efface: this lookup was recorded in {a.out / 'restricted' / LOG}", file=sys.stderr)
    return OK


def _progress(what: str) -> Callable[[int, int], None]:
    """Return a function that shows a counter on a terminal, and nothing in a file."""

    def show(done: int, total: int) -> None:
        if sys.stderr.isatty():
            end = "\n" if done == total else ""
            print(f"\r{done}/{total} {what}", end=end, file=sys.stderr, flush=True)

    return show


def _parser() -> argparse.ArgumentParser:
    p = argparse.ArgumentParser(
        prog="efface",
        description="Remove identity and face from head MRI, and prove it.",
        epilog="EFFACE_DEBUG=1 in the environment shows the traceback of an internal error.",
    )
    p.add_argument("--version", action="version", version=f"efface {__version__}")
    commands = p.add_subparsers(required=True, metavar="COMMAND", title="commands")

    def command(
        name: str, function: Callable[[argparse.Namespace], int], text: str
    ) -> argparse.ArgumentParser:
        sub = commands.add_parser(name, help=text, description=text)
        sub.set_defaults(command=function)
        return sub

    run = command("run", _run, "make a release and an audit from a DICOM tree or a BIDS dataset")
    run.add_argument("source", type=Path, metavar="SOURCE", help="DICOM tree or BIDS dataset")
    run.add_argument(
        "out", type=Path, metavar="OUT", help="folder for restricted/, release/ and audit/"
    )
    run.add_argument(
        "level",
        nargs="?",
        choices=("participant", "group"),
        help="participant: the stages of each session, without release and audit report; group:"
        " the whole workflow (default: group, or participant with --participant-label)",
    )
    run.add_argument(
        "--participant-label",
        **_MANY,
        metavar="SUB",
        help="process only these participants, by label in the source or pseudonym, with or"
        " without sub- (default: all)",
    )
    run.add_argument(
        "--cores",
        type=int,
        default=os.cpu_count() or 1,
        metavar="N",
        help="number of CPU cores to use (default: all)",
    )
    run.add_argument(
        "--profile",
        metavar="NAME",
        help="Snakemake profile: default, slurm, or the folder of another (default: default)",
    )
    run.add_argument(
        "--key", type=Path, metavar="FILE", help="project key (default: OUT/restricted/key)"
    )
    run.add_argument("--retain", **_MANY, metavar="OPTION", help=_RETAIN)
    run.add_argument(
        "--layout",
        default="raw",
        choices=("raw", "derivative"),
        help="form of the BIDS release: raw, or derivative with desc-defaced in the names"
        " (default: raw)",
    )
    run.add_argument(
        "--ocr",
        default="auto",
        choices=("auto", "always", "never"),
        help="search images for text: always with tesseract, auto with tesseract only where letters"
        " were found or the image is not an original, or never (default: auto)",
    )
    run.add_argument(
        "--accept",
        type=Path,
        metavar="FILE",
        help="table of scans that a reviewer accepted or rejected; see docs/audit.md"
        " (default: none)",
    )
    run.add_argument(
        "--verbose",
        action="store_true",
        help="show the whole output of Snakemake (default: one line for each finished job)",
    )
    _add_face_options(run)

    deface = command("deface", _deface, "distort the face in one NIfTI image, 3D or 4D")
    deface.add_argument("image", type=Path, metavar="IN.nii.gz", help="image to deface")
    deface.add_argument("out", type=Path, metavar="OUT.nii.gz", help="file for the defaced image")
    deface.add_argument(
        "--labels",
        type=Path,
        metavar="L.nii.gz",
        help="write the labels of brain and face to this file (default: not written)",
    )
    deface.add_argument(
        "--mask",
        type=Path,
        metavar="M.nii.gz",
        help="write the mask of replaced voxels to this file (default: not written)",
    )
    deface.add_argument(
        "--seed", type=int, default=0, metavar="N", help="seed of the noise (default: 0)"
    )
    deface.add_argument(
        "--models",
        type=Path,
        metavar="DIR",
        help="folder of the face model (default: the one that ships with efface)",
    )
    deface.add_argument(
        "--keep-header",
        action="store_true",
        help="keep texts and extensions of the header, which may hold names (default: remove them)",
    )
    deface.add_argument(
        "--allow-review",
        action="store_true",
        help="write an image that needs review too (default: write only what passed)",
    )
    _add_face_options(deface)

    scrub = command("scrub", _scrub, "de-identify DICOM headers; faces stay in the images")
    scrub.add_argument(
        "dicom", type=Path, metavar="DICOM_DIR", help="folder of DICOM files, with subfolders"
    )
    scrub.add_argument(
        "out", type=Path, metavar="OUT_DIR", help="folder for the results, new or empty"
    )
    scrub.add_argument(
        "--key",
        type=Path,
        required=True,
        metavar="FILE",
        help="project key, from efface key new (required)",
    )
    scrub.add_argument(
        "--identity",
        type=Path,
        metavar="FILE",
        help="write the table of identities and their contradictions, which holds names, to this"
        " new file of mode 0600 (default: not written)",
    )
    scrub.add_argument("--retain", **_MANY, metavar="OPTION", help=_RETAIN)

    verify = command("verify", _verify, "check a release: manifest, structure, identifiers")
    verify.add_argument(
        "release", type=Path, metavar="RELEASE", help="folder release/ of a run, or a copy of it"
    )
    verify.add_argument(
        *("--identifiers", "--needles"),
        dest="identifiers",
        type=Path,
        metavar="FILE",
        help="search the release for these identifiers, one a line; --needles is the older name"
        " (default: none)",
    )

    text = "create, show or replace a project key, or look up a pseudonym"
    key = commands.add_parser("key", help=text, description=text)
    keys = key.add_subparsers(required=True, metavar="COMMAND", title="commands")
    for name, function, text in (
        ("new", _key_new, "create a key file (mode 0600); never overwrites a file"),
        ("show", _key_show, "show fingerprint and date of the key, never the key itself"),
        ("rotate", _key_rotate, "replace the key by a new one; the old key stays beside it"),
    ):
        sub = keys.add_parser(name, help=text, description=text)
        sub.add_argument("file", type=Path, metavar="FILE", help="the key file")
        sub.set_defaults(command=function)
    text = "show who a pseudonym stands for; every lookup is recorded in OUT/restricted"
    sub = keys.add_parser("lookup", help=text, description=text)
    sub.add_argument(
        "pseudonym", metavar="PSEUDONYM", help="sub-…, ses-…, series-…, the name of a scan or a UID"
    )
    sub.add_argument("out", type=Path, metavar="OUT", help="folder of results of efface run")
    sub.add_argument(
        "--key", type=Path, metavar="FILE", help="project key (default: OUT/restricted/key)"
    )
    sub.set_defaults(command=_key_lookup)
    return p


def _add_face_options(p: argparse.ArgumentParser) -> None:
    p.add_argument(
        "--features",
        default="face",
        metavar="LIST",
        help="what to distort: face for all of it, or some of eyes,nose,ears,mouth (default: face)",
    )
    p.add_argument(
        "--method",
        default="noise",
        metavar="NAME",
        help="what replaces the face: noise, remove or blur (default: noise)",
    )
    p.add_argument(
        "--device",
        default="auto",
        choices=("auto", "cpu", "cuda"),
        help="where the network runs; auto: on a GPU if there is one (default: auto)",
    )


if __name__ == "__main__":
    sys.exit(main())
