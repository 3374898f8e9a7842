"""Re-identification by the holder of the key: the person, study, series or object of a pseudonym.

The answer comes from the tables of the restricted zone and from the sources. Every lookup is logged
before it is answered (:data:`LOG`).
"""

from __future__ import annotations

import getpass
import json
import os
import re
from collections.abc import Iterator
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path

from efface.errors import EffaceError
from efface.pseudonym import Key, kept_keys, series_label, session_label, subject_label
from efface.session import Series, Session, read_session

LOG = "lookups.tsv"
"""In ``OUT/restricted``, mode 0600: time (UTC), user, pseudonym, key, outcome."""

_LABEL = r"(sub|ses|series)-[a-z0-9]+"
_PSEUDONYM = re.compile(
    rf"{_LABEL}|sub-[a-z0-9]+_ses-[a-z0-9]+(_[A-Za-z0-9+-]+)*|2\.25\.\d{{1,39}}"
)


@dataclass(frozen=True)
class Match:
    """One session to which a pseudonym belongs."""

    session: str
    patient: str
    """Patient id, or the label in a BIDS source."""
    issuer: str
    study: str
    """Study Instance UID, or the folders of a BIDS session."""
    weeks: int
    """Number of weeks by which dates were shifted into the past."""
    original: str = ""
    """The series, frame of reference or object that the pseudonym replaced, if it is no session."""
    folders: tuple[str, ...] = ()
    """Folders of its files in the source."""

    def lines(self) -> Iterator[str]:
        """For the terminal."""
        yield f"session     {self.session}"
        yield f"patient     {self.patient}" + (f" (issuer {self.issuer})" if self.issuer else "")
        yield f"study       {self.study}"
        if self.original:
            yield f"is          {self.original}"
        yield f"dates       {self.weeks} weeks before, where they were kept as shifted"
        for folder in self.folders:
            yield f"source      {folder}"


def lookup(pseudonym: str, out: Path, key: Path | None = None) -> list[Match]:
    """The sessions of ``out`` that a pseudonym stands for; empty if none.

    ``pseudonym`` is a person (``sub-…``), a session, a series, a scan's name or a UID (2.25.…).
    ``key`` is the project key's file (default ``OUT/restricted/key``); keys that were rotated out
    are beside it. Raises :class:`EffaceError` if there is no such folder, the key is not the one
    that made the pseudonyms, or the lookup cannot be logged.
    """
    restricted = out / "restricted"
    if not _PSEUDONYM.fullmatch(pseudonym):
        raise EffaceError(
            "not a pseudonym of efface; give a sub-…, ses-…, series-…, a scan or a UID 2.25.…"
        )
    entries = sorted((restricted / "inventory" / "sessions").glob("*.json"))
    if not entries:
        raise EffaceError(f"{out}: no results of efface run; give its folder OUT")
    keys = {k.fingerprint: k for k in kept_keys(key or restricted / "key")}
    sessions = [read_session(path) for path in entries]
    used = {s.key for s in sessions}
    if not used & keys.keys():
        raise EffaceError(
            f"{out}: made with the key {', '.join(sorted(used))}, which is not available"
            f" (available: {', '.join(sorted(keys))}); give it with --key"
        )
    matches = [
        match
        for session in sessions
        if session.key in keys
        for one in keys.values()
        for match in _matches(pseudonym, session, one, restricted)
    ]
    _log(restricted / LOG, pseudonym, "+".join(sorted(keys)), len(matches))
    return matches


def _matches(pseudonym: str, session: Session, key: Key, restricted: Path) -> Iterator[Match]:
    """The match of one session, under the key that made it or one that was rotated out."""
    patient, issuer = session.patient
    subject = subject_label(key, patient, issuer, session.study)
    label = f"{subject}_{session_label(key, session.study)}"
    original, series = "", list(session.series)
    if pseudonym in (subject, label, label.split("_")[1]):
        pass
    elif pseudonym.startswith("2.25."):
        original, series = _uid(pseudonym, session, key)
        if not original:
            return
    else:
        name = pseudonym
        if pseudonym.startswith(f"{label}_"):
            scan = session.session + pseudonym.removeprefix(label)
            name = _series_of(scan, session.session, restricted)
        series = [s for s in series if name in (s.series, series_label(key, s.uid))]
        if not series:
            return
        original = f"series {series[0].uid}"
    folders = sorted({str(Path(f).parent) for s in series for f in s.files})
    yield Match(
        label,
        patient or "(none in the source)",
        issuer,
        session.study,
        key.weeks(subject),
        original,
        tuple(folders),
    )


def _series_of(scan: str, session: str, restricted: Path) -> str:
    """The series of a scan by the manifest of the audit or the conversion; empty if unknown."""
    for stage in ("audit", "convert"):
        try:
            scans = json.loads((restricted / stage / f"{session}.json").read_text())["scans"]
            named = [str(s["series"]) for s in scans if s["scan"] == scan]
        except (OSError, ValueError, KeyError, TypeError):
            continue
        if named:
            return named[0]
    return ""


def _uid(uid: str, session: Session, key: Key) -> tuple[str, list[Series]]:
    """The original of a UID in the release, and the series that it belongs to."""
    from efface.audit.sources import of_session

    if key.uid(session.study) == uid:
        return f"study {session.study}", list(session.series)
    for series in session.series:
        if key.uid(series.uid) == uid:
            return f"series {series.uid}", [series]
        if series.frame_of_reference == uid:
            return "the frame of reference of a series", [series]
    if session.source == "bids":
        return "", []
    for series in session.series:
        # objects are in no table: their headers are read again
        for one in of_session(replace(session, series=(series,))):
            if one.kind == "uid" and key.uid(one.text) == uid:
                return f"UID {one.text}", [series]
    return "", []


def _log(path: Path, pseudonym: str, key: str, matches: int) -> None:
    try:
        who = getpass.getuser()
    except (OSError, KeyError):  # no name, no entry for the user's number
        who = str(os.getuid())
    now = f"{datetime.now(UTC):%Y-%m-%dT%H:%M:%SZ}"
    line = "\t".join((now, who, pseudonym, key, "found" if matches else "not found")) + "\n"
    try:
        fd = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)
        with os.fdopen(fd, "a") as f:
            os.fchmod(fd, 0o600)
            if not os.fstat(fd).st_size:
                line = "time\tuser\tpseudonym\tkey\toutcome\n" + line
            f.write(line)
            f.flush()
            os.fsync(fd)
    except OSError as e:
        raise EffaceError(
            f"{path}: cannot be written ({e.strerror}); a lookup must be logged"
        ) from e
