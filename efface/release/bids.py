"""The files of the BIDS dataset that belong to no scan: description, README and tables."""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from importlib.metadata import PackageNotFoundError, metadata
from typing import TYPE_CHECKING, Any

from efface import __version__, tables
from efface.audit.candidate import Candidate
from efface.manifest import Manifest
from efface.release.decisions import decide, released_paths
from efface.release.reviews import Judgements

if TYPE_CHECKING:
    import pandas as pd

README = """\
# Defaced and de-identified head MRI

Made by efface {version}. The faces in these images were replaced, the headers de-identified by
the DICOM PS3.15 Basic Profile, and every file was searched for the identifiers of its sources.

- {sessions} of {subjects}, as BIDS in `bids/`{dicom}.
- `*_mod-*_defacemask.nii.gz` say which voxels were replaced. They are no anatomy: leave them out
  of analyses by intensity, and do not fill them by learning methods.
- `participant_id`, `ses-` labels and UIDs are keyed pseudonyms. Do not try to find the people.
- `manifest.tsv` beside this folder lists every file with its digest; `efface verify` checks it.
"""


def _code_url() -> dict[str, Any]:
    """CodeURL for GeneratedBy: the Source URL of the package, if it has one."""
    try:
        urls = metadata("efface").get_all("Project-URL") or []
    except PackageNotFoundError:
        return {}
    known = dict(url.split(", ", 1) for url in urls if ", " in url)
    return {"CodeURL": known["Source"]} if "Source" in known else {}


def _container() -> dict[str, Any]:
    """Container for GeneratedBy, without its path: that may hold the name of a user."""
    inside = os.environ.get("APPTAINER_CONTAINER") or os.environ.get("SINGULARITY_CONTAINER")
    return {"Container": {"Type": "apptainer", "Tag": f"efface:{__version__}"}} if inside else {}


def cohort_files(
    manifests: Sequence[Manifest], reviews: Judgements, layout: str = "raw"
) -> dict[str, bytes]:
    """Contents of the files that belong to no scan, by path below ``OUT/release``.

    ``manifests`` are the audit's. ``layout`` is the DatasetType of the BIDS dataset, ``raw`` or
    ``derivative``.
    """
    released = {
        form: [m.session for m in manifests if released_paths(m, decide(m, reviews), form)]
        for form in ("bids", "dicom")
    }
    subjects = {session.split("_")[0] for session in released["bids"]}
    described = {
        "Name": "Defaced and de-identified head MRI",
        "BIDSVersion": "1.11.1",
        "DatasetType": layout,
        "GeneratedBy": [
            {"Name": "efface", "Version": __version__, **_code_url(), **_container()},
        ],
    }
    text = README.format(
        version=__version__,
        sessions=_count(len(released["bids"]), "session"),
        subjects=_count(len(subjects), "person", "people"),
        dicom=", and as DICOM in `dicom/` beside it" if released["dicom"] else "",
    )
    return {
        "bids/dataset_description.json": _json(described),
        "bids/README.md": text.encode(),
        **cohort_tables(manifests, reviews),
    }


def cohort_tables(manifests: Sequence[Manifest], reviews: Judgements) -> dict[str, bytes]:
    """Contents of participants.tsv, the scans.tsv of every session, and their JSON files.

    Age, sex and times are there only if an option kept them (:mod:`efface.audit.kept`).
    """
    import pandas as pd

    files = pd.DataFrame(
        [
            (
                m.session,
                name,
                candidate.acq_time,
                candidate.person.get("age"),
                candidate.person.get("sex"),
            )
            for m in manifests
            for name, candidate in _released(m, reviews)
        ],
        columns=["session", "path", "acq_time", "age", "sex"],
    )
    if files.empty:
        return {}  # the BIDS validator reports an empty participants.tsv as an error
    files["participant_id"] = files["session"].str.split("_").str[0]
    out: dict[str, bytes] = {}
    is_image = files["path"].str.endswith(".nii.gz") & ~files["path"].str.endswith(
        "_defacemask.nii.gz"
    )
    for session, images in files[is_image].groupby("session", sort=False):
        base = f"bids/{str(session).replace('_', '/')}/"
        rows = images.assign(
            filename=images["path"].str.removeprefix(base),
            acq_time=images["acq_time"].replace("", "n/a"),
        )
        columns = ["filename", *(["acq_time"] if images["acq_time"].any() else [])]
        out[f"{base}{session}_scans.tsv"] = tables.text(rows, columns).encode()
    people = _people(files)
    out["bids/participants.tsv"] = tables.text(people, list(people)).encode()
    out["bids/participants.json"] = _json({c: _COLUMNS[c] for c in people})
    if files.loc[is_image, "acq_time"].any():
        out["bids/scans.json"] = _json(_SCANS)
    return out


def _released(manifest: Manifest, reviews: Judgements) -> list[tuple[str, Candidate]]:
    """Paths of a session released in BIDS, each with the candidate to which it belongs."""
    decisions = decide(manifest, reviews)
    candidates = {d.scan.scan: Candidate.of(d.scan) for d in decisions}
    return [(name, candidates[scan]) for name, scan in released_paths(manifest, decisions, "bids")]


def _people(files: pd.DataFrame) -> pd.DataFrame:
    """Age at the first scan, and sex if all scans of a person agree; without empty columns."""
    import pandas as pd

    by = files.assign(age=pd.to_numeric(files["age"])).groupby("participant_id")
    sexes = by["sex"].nunique()
    people = pd.DataFrame(
        {"age": by["age"].min().astype("Int64"), "sex": by["sex"].first().where(sexes == 1)}
    )
    known = people.dropna(axis="columns", how="all").astype(object)
    return known.where(known.notna(), "n/a").reset_index()


_COLUMNS = {
    "participant_id": {"Description": "keyed pseudonym of the person"},
    "age": {
        "Description": "age at the first scan; ages above 89 are given as 89",
        "Units": "year",
    },
    "sex": {
        "Description": "sex as the source gave it; n/a where it gave none, or where the scans of "
        "this person contradict each other (the audit gives the reason: identity in doubt)",
        "Levels": {"M": "male", "F": "female", "O": "other"},
    },
}
_SCANS = {
    "filename": {"Description": "image, relative to the folder of the session"},
    "acq_time": {
        "Description": "when the acquisition began; a year before 1925 says that the date was "
        "shifted, by a number of whole weeks that is the same for all scans of a person"
    },
}


def _json(value: object) -> bytes:
    return (json.dumps(value, indent=1) + "\n").encode()


def _count(n: int, one: str, many: str = "") -> str:
    return f"{n} {one if n == 1 else many or one + 's'}"
