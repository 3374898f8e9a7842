"""De-identify a folder: the command ``efface scrub``.

Every scrubbed file is searched for the identifiers of its sources before it is written
(:mod:`efface.scrub.search`), as the audit does in the workflow. The workflow does not import this
module, so that a change of the audit does not scrub anew.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from pathlib import Path

from efface import status
from efface.errors import EffaceError
from efface.inventory.identity import Verdict, cross_check
from efface.inventory.walk import SourceFile, walk
from efface.manifest import new_folder, write_whole
from efface.paths import Argument
from efface.paths import check as check_paths
from efface.pseudonym import Key, series_label
from efface.scrub import people
from efface.scrub.codec import DamagedError, load, read_file
from efface.scrub.engine import SOP_INSTANCE, refusal
from efface.scrub.files import scrub_elements
from efface.scrub.search import groups
from efface.scrub.table import check_options, wanted_private

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
    check_paths([Argument("source", src)], [Argument("results", dst)])
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
