"""De-identify files, a folder, or a session of the workflow."""

from __future__ import annotations

import shutil
import struct
import uuid
from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from efface import __version__, status
from efface.errors import EffaceError
from efface.inventory.identity import Verdict, cross_check
from efface.inventory.walk import SourceFile, walk
from efface.manifest import Scan, new_folder, write_whole
from efface.paths import Given
from efface.paths import check as check_paths
from efface.pseudonym import Key, series_label
from efface.scrub import people
from efface.scrub.codec import (
    DamagedError,
    Element,
    Syntax,
    WithheldError,
    load,
    read_file,
    write_file,
)
from efface.scrub.engine import SOP_CLASS, SOP_INSTANCE, refusal, scrub
from efface.scrub.search import groups
from efface.scrub.table import check_options, wanted_private

_IMPLEMENTATION = f"2.25.{uuid.uuid5(uuid.NAMESPACE_OID, 'efface').int}"
_VERSION_NAME = "EFFACE_" + __version__.replace(".", "_")
_STUDY, _SERIES = 0x0020000D, 0x0020000E
_UIDS = frozenset((_STUDY, _SERIES, SOP_INSTANCE))


@dataclass(frozen=True)
class Report:
    """Result of :func:`scrub_folder`. It names source files: do not release it."""

    written: int
    series: int
    withheld: tuple[tuple[str, str], ...]
    """Path relative to the source folder, and reason (:mod:`efface.status`)."""
    verdict: Verdict = field(default_factory=lambda: cross_check(()), compare=False)
    """Identities of the persons; its table holds names."""

    @property
    def in_doubt(self) -> bool:
        """Whether files were withheld because their identities contradict each other."""
        return bool(self.verdict.counts["sessions in doubt"])

    def summary(self) -> str:
        """One line with counts, without names of files."""
        counts = Counter(reason for _, reason in self.withheld).most_common()
        left = ", ".join(f"{n} {reason}" for reason, n in counts)
        tail = f"; {len(self.withheld)} left out ({left})" if counts else ""
        identities = ", ".join(f"{what}: {n}" for what, n in self.verdict.counts.items() if n)
        tail += f"; {identities}" if identities else ""
        return f"{self.written} files of {self.series} series scrubbed{tail}"


def scrub_bytes(
    data: bytes, key: Key, subject: str, session: str, retain: tuple[str, ...] = ()
) -> bytes:
    """De-identify the bytes of a DICOM file. Raises :class:`WithheldError` without a file name."""
    try:
        form, elements = read_file(data, wanted_private(retain))
        return scrub_elements(elements, form, key, subject, session, retain)
    except DamagedError as e:
        raise WithheldError("data", e.args[0]) from e


def scrub_elements(
    elements: list[Element],
    form: Syntax,
    key: Key,
    subject: str,
    session: str,
    retain: tuple[str, ...],
) -> bytes:
    """Bytes of a de-identified file. Raises :class:`DamagedError` with the reason."""
    elements = list({e.tag: e for e in elements}.values())  # readers use the last of repeated tags
    reason = refusal(elements, form)
    if reason is not None:
        raise DamagedError(reason)
    try:
        kept = scrub(elements, form, key, subject, session, retain)
        return write_file(form, _meta(kept, form.uid), kept)
    except (ValueError, LookupError, ArithmeticError, MemoryError, struct.error) as e:
        raise DamagedError(status.UNREADABLE) from e


def scrub_file(
    src: Path, dst: Path, key: Key, subject: str, session: str, retain: Iterable[str] = ()
) -> None:
    """De-identify the file ``src`` and write ``dst`` atomically.

    Raises :class:`WithheldError` (an ``EffaceError``) if the file is withheld: not DICOM,
    truncated, not an MR image, burned-in text; :class:`EffaceError` for wrong options or a full
    disk.
    """
    options = check_options(retain)
    try:
        form, elements = read_file(load(src), wanted_private(options))
        write_whole(dst, scrub_elements(elements, form, key, subject, session, options))
    except DamagedError as e:
        raise WithheldError(str(src), e.args[0]) from e


def scrub_folder(
    src: Path,
    dst: Path,
    key: Key,
    retain: Iterable[str] = (),
    progress: Callable[[int, int], None] | None = None,
) -> Report:
    """De-identify every MR image below ``src`` into ``dst/sub-…/ses-…/series-…/000001.dcm``.

    Nothing in ``dst`` is named after a file or folder of the source. A file is left out and
    reported if it is not an MR image, damaged or a duplicate, or if an identifier of its study or
    person occurs in its output (:mod:`efface.scrub.search`). The identities in the whole folder are
    compared first; files of a study or person with contradictions are left out.
    ``progress(done, all)`` is called for each file.
    Raises :class:`EffaceError` if ``src`` is missing, or ``dst`` is not empty or within ``src``.
    """
    options = check_options(retain)
    if not src.is_dir():
        raise EffaceError(f"{src}: no such folder")
    check_paths([Given("source", src)], [Given("results", dst)])
    if dst.exists() and (not dst.is_dir() or any(dst.iterdir())):
        raise EffaceError(f"{dst}: the folder exists and is not empty; choose a new folder")
    root = src.absolute()
    paths = list(walk(root, ""))
    withheld: list[tuple[str, str]] = []
    counts: dict[Path, int] = {}
    instances: set[bytes] = set()
    read, verdict = people.survey(paths, key)
    # a link to an empty folder stays a link
    with new_folder(dst.resolve()) as folder:
        done = 0
        for group in groups(read, options):
            for file in group.files:
                try:
                    series, data, uid = _scrub_source_file(file, key, options, verdict)
                    if uid in instances:
                        raise DamagedError(status.DUPLICATE)
                    instances.add(uid)
                    path = series / f"{counts.get(series, 0) + 1:06d}.dcm"
                    group.check(path, data)
                    counts[series] = counts.get(series, 0) + 1
                    write_whole(folder / path, data)
                except DamagedError as e:
                    withheld.append((str(Path(file.path).relative_to(root)), e.args[0]))
                done += 1
                if progress:
                    progress(done, len(paths))
    withheld.sort()
    return Report(sum(counts.values()), len(counts), tuple(withheld), verdict)


def run(
    session: dict[str, Any], folder: Path, key: Key, retain: Iterable[str] = ()
) -> tuple[Scan, ...]:
    """De-identify the image series of a session into ``folder/{series}/000001.dcm``.

    Files are in the order of the inventory. If one file of a series is withheld, the whole series
    fails. A session of a BIDS source has no DICOM headers and gives no scans.
    """
    options = check_options(retain)
    label = str(session["session"]).split("_", 1)[1]
    sources = {str(series["series"]): series["files"] for series in session["series"]}
    return tuple(
        _run_series(
            scan, sources[scan.series], folder, (key, str(session["subject"]), label), options
        )
        for scan in given(session)
    )


def given(session: dict[str, Any]) -> tuple[Scan, ...]:
    """Input scans of :func:`run`: the image series of a DICOM session that are not withheld."""
    if session.get("source") != "dicom":
        return ()
    return tuple(
        Scan(s["series"], s["series"], s["modality"], s["status"], tuple(s["reasons"]))
        for s in session["series"]
        if s["kind"] == "image" and s["status"] != "fail"
    )


def _run_series(
    scan: Scan,
    files: list[str],
    folder: Path,
    whose: tuple[Key, str, str],
    options: tuple[str, ...],
) -> Scan:
    sources = []
    for number, source in enumerate(files, 1):
        out = f"{scan.series}/{number:06d}.dcm"
        try:
            scrub_file(Path(source), folder / out, *whose, options)
        except WithheldError as e:
            shutil.rmtree(folder / scan.series, ignore_errors=True)
            return scan.mark("fail", e.reason)
        sources.append([source, out])
    if not sources:
        return scan.mark("fail", status.NO_IMAGE)
    return replace(scan, files={"dicom": scan.series}, measures={"sources": sources})


def _scrub_source_file(
    file: SourceFile, key: Key, options: tuple[str, ...], verdict: Verdict
) -> tuple[Path, bytes, bytes]:
    """Series folder of a file, its de-identified bytes, and its SOP instance UID."""
    if file.reason:
        raise DamagedError(file.reason)
    form, elements = read_file(load(file.path), wanted_private(options))
    uids = {e.tag: e.value.decode("latin-1").strip("\0 ") for e in elements if e.tag in _UIDS}
    study, series = uids.get(_STUDY, ""), uids.get(_SERIES, "")
    uid = uids.get(SOP_INSTANCE, "")
    reason = refusal(elements, form)
    if reason is not None:
        raise DamagedError(reason)
    if not (study and series and uid):
        raise DamagedError(status.UNREADABLE)
    stated = people.statement(elements, key)
    if stated is None or stated.session not in verdict.owners:
        raise DamagedError(f"{status.UNREADABLE}: the file changed while it was read")
    if stated.session in verdict.doubts:
        raise DamagedError("; ".join(verdict.doubts[stated.session]))
    subject, session = verdict.place(stated.session).split("_")
    out = scrub_elements(elements, form, key, subject, session, options)
    return Path(subject, session, series_label(key, series)), out, uid.encode()


def _meta(elements: list[Element], transfer_syntax: str) -> list[Element]:
    """File meta group, made from the de-identified data set only."""
    elements_by_tag = {e.tag: e for e in elements if e.tag in (SOP_CLASS, SOP_INSTANCE)}
    if not elements_by_tag[SOP_INSTANCE].value:
        raise DamagedError(status.UNREADABLE)
    return [
        Element(0x00020001, "OB", b"\0\1"),
        Element(0x00020002, "UI", elements_by_tag[SOP_CLASS].value),
        Element(0x00020003, "UI", elements_by_tag[SOP_INSTANCE].value),
        Element(0x00020010, "UI", transfer_syntax.encode()),
        Element(0x00020012, "UI", _IMPLEMENTATION.encode()),
        Element(0x00020013, "SH", _VERSION_NAME.encode()),
    ]
