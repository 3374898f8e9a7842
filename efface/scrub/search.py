"""Leak scan of the de-identified files of a folder, with the identifiers of the people in it.

The search is that of the audit (:mod:`efface.audit.leaks`) and independent of the rules of the
scrub: the headers of the source are read again. Only the identifiers of one group of files are in
memory at a time: all studies of a person, and of everyone who shares a study with that person.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from functools import cached_property
from pathlib import Path

from efface import status
from efface.audit import leaks
from efface.audit.matcher import Matcher
from efface.audit.sources import Sources
from efface.inventory.walk import SourceFile
from efface.scrub.codec import DamagedError
from efface.scrub.people import FileIdentity


class Group:
    """Files of the same people or studies."""

    def __init__(self, files: Sequence[SourceFile], retain: Iterable[str], *, named: bool) -> None:
        self.files = files
        self._retain = tuple(retain)
        self._named = named

    @cached_property
    def _matcher(self) -> Matcher:
        # made on first use: if all files are withheld, nothing is searched
        sources = Sources()
        for file in self.files:
            if not file.reason:
                sources.add(Path(file.path))
        return Matcher(sources.searched(self._retain))

    def check(self, path: Path, data: bytes) -> None:
        """Search a de-identified file; ``path`` is its path in the output folder.

        Raises :class:`DamagedError` with the first finding (kind of identifier and attribute, never
        the value), or if the study and patient id of the file are unknown.
        """
        if not self._named:
            raise DamagedError(f"{status.UNREADABLE}: its identifiers")
        uids = "uids" not in self._retain
        findings = leaks.scan(f"dicom/{path.as_posix()}", data, self._matcher, uids=uids)
        if findings:
            raise DamagedError(
                f"{status.IDENTIFIER_FOUND}: {findings[0].kind} in {findings[0].place}"
            )


def groups(files: Iterable[FileIdentity], retain: Iterable[str]) -> list[Group]:
    """Group files so that different groups share neither a study nor a patient id.

    The order of files is kept. Files with neither in their header form one group.
    """
    retain = tuple(retain)
    parent: dict[str, str] = {}

    def root(key: str) -> str:
        while parent.setdefault(key, key) != key:
            parent[key] = key = parent[parent[key]]
        return key

    keys = []
    for one in files:
        study, person = one.study and f"study {one.study}", one.patient and f"person {one.patient}"
        if study and person:
            parent[root(study)] = root(person)
        keys.append((one.file, study or person))
    members: dict[str, list[SourceFile]] = {}
    for file, key in keys:
        members.setdefault(root(key), []).append(file)
    return [Group(some, retain, named=bool(key)) for key, some in members.items()]
