"""The sessions of a source, from the tables that the inventory writes."""

from __future__ import annotations

from functools import cache
from pathlib import Path

from efface.errors import EffaceError


def fingerprints(path: str | Path) -> dict[str, str]:
    """Fingerprint of every session, from ``restricted/inventory/sessions.tsv``."""
    return _fingerprints(Path(path), Path(path).stat().st_mtime_ns)


@cache
def _fingerprints(path: Path, _time: int) -> dict[str, str]:
    import pandas as pd

    table = pd.read_csv(path, sep="\t", dtype=str, keep_default_na=False)
    return dict(zip(table["session"], table["fingerprint"], strict=True))


def fingerprint(path: str | Path, session: str) -> str:
    """Fingerprint of one session; empty if the source no longer holds it."""
    return fingerprints(path).get(session, "")


def sessions(path: str | Path, participants: list[str]) -> list[str]:
    """All sessions of the inventory's table, or those of the given participants.

    A participant is given by the pseudonym or by the label of the source (the subject label of a
    BIDS dataset, a PatientID), with or without ``sub-``. Raises :class:`EffaceError` for a label
    that the source does not hold.
    """
    if not participants:
        return list(fingerprints(path))
    import pandas as pd

    people = Path(path).parents[1] / "identity.tsv"
    known = pd.read_csv(people, sep="\t", dtype=str, keep_default_na=False)
    subjects: dict[str, set[str]] = {}
    for session, patient in zip(known["session"], known["patient_id"], strict=True):
        subject = session.partition("_")[0]
        for label in (subject, patient):
            subjects.setdefault(_bare(label), set()).add(subject)
    unknown = [p for p in participants if not subjects.get(_bare(p))]
    if unknown:
        raise EffaceError(
            f"participant {', '.join(unknown)}: nobody in the source has this label; {people} lists"
            " the labels and pseudonyms"
        )
    chosen = set().union(*(subjects[_bare(p)] for p in participants))
    return [s for s in fingerprints(path) if s.split("_")[0] in chosen]


def _bare(label: str) -> str:
    # as the table writes labels
    return " ".join(label.split()).removeprefix("sub-")
