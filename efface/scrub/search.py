"""The leak scan of a folder's scrubbed files, with the identifiers of the people in that folder.

The same search as the workflow's audit (:mod:`efface.audit.leaks`), and as independent of the rules
of the scrub: the headers of the source are read again. The identifiers of one group of files at a
time are held: all studies of a person, and whoever shares a study with that person.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from functools import cached_property
from pathlib import Path

from efface import status
from efface.audit import leaks
from efface.audit.matcher import Matcher
from efface.audit.sources import Sources
from efface.inventory.walk import Found
from efface.scrub.codec import DamagedError
from efface.scrub.people import Read


class Group:
    """Files of a source that belong to the same people or studies."""

    def __init__(self, files: Sequence[Found], retain: Iterable[str], *, named: bool) -> None:
        self.files = files
        self._retain = tuple(retain)
        self._named = named

    @cached_property
    def _matcher(self) -> Matcher:
        # made when it is first used: where all files are withheld nothing is searched
        sources = Sources()
        for found in self.files:
            if not found.reason:
                sources.add(Path(found.path))
        return Matcher(sources.searched(self._retain))

    def check(self, path: Path, data: bytes) -> None:
        """Search a scrubbed file; ``path`` is its place in the output folder.

        Raises :class:`DamagedError` with the first finding (kind of identifier and attribute, never
        the value), or if whose file it is could not be read.
        """
        if not self._named:
            raise DamagedError(f"{status.UNREADABLE}: its identifiers")
        uids = "uids" not in self._retain
        told = leaks.scan(f"dicom/{path.as_posix()}", data, self._matcher, uids=uids)
        if told:
            raise DamagedError(f"{status.LEAK}: {told[0].kind} in {told[0].place}")


def groups(files: Iterable[Read], retain: Iterable[str]) -> list[Group]:
    """All files in groups that share neither a study nor a patient id, in the files' order.

    Files whose header names neither are a group of their own.
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
        keys.append((one.found, study or person))
    members: dict[str, list[Found]] = {}
    for found, key in keys:
        members.setdefault(root(key), []).append(found)
    return [Group(some, retain, named=bool(key)) for key, some in members.items()]
