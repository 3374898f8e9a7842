"""Copy one form of a session from its audit folder into the release."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Sequence
from pathlib import Path

from efface.audit.candidate import Candidate
from efface.convert import references
from efface.errors import EffaceError
from efface.manifest import Manifest, json_text, new_folder, sha256
from efface.release.decisions import (
    Decision,
    Form,
    decide,
    released_fields,
    released_images,
    released_paths,
)
from efface.release.reviews import Judgements

MTIME = 946684800
"""2000-01-01: the time of every file in a release, because the real time is a date of the run."""


def copy(folder: Path, manifest: Manifest, reviews: Judgements, form: Form, target: Path) -> int:
    """Copy one form of a session to ``target`` (``OUT/release/{form}/{sub}/{ses}``), whole or not.

    Returns the number of files. Raises :class:`EffaceError` if a file is not the one that was
    audited.
    """
    subject, visit = manifest.session.split("_")
    base = f"{form}/{subject}/{visit}/"
    decisions = decide(manifest, reviews)
    names = released_paths(manifest, decisions, form)
    with new_folder(target) as temporary:
        for name, scan in names:
            if not name.startswith(base):
                raise EffaceError(f"{manifest.session}: {name} lies outside its session")
            path = temporary / name.removeprefix(base)
            path.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(folder / name, path)
            if sha256(path) != manifest.sha256[name]:
                raise EffaceError(
                    f"{manifest.session}: {name} is not the file that the audit searched; delete "
                    "restricted/audit of this session and run again"
                )
            sidecar = sidecar_of(folder, name, scan, decisions)
            if sidecar is not None:
                path.write_bytes(sidecar)
            os.utime(path, (MTIME, MTIME))
    return len(names)


def sidecar_of(folder: Path, name: str, scan: str, decisions: Sequence[Decision]) -> bytes | None:
    """A sidecar without references to scans that are not released; None where nothing changes.

    ``folder`` is the session's folder of the audit stage, ``name`` a path in it, ``scan`` the scan
    to which the file belongs.
    """
    if not name.endswith(".json"):
        return None
    candidate = next(Candidate.of(d.scan) for d in decisions if d.scan.scan == scan)
    paths, fields = released_images(decisions), released_fields(decisions)
    if paths.issuperset(candidate.intended_for) and fields.issuperset(candidate.field_sources):
        return None
    audited = json.loads((folder / name).read_text())
    return json_text(references.released(audited, paths, fields)).encode()
