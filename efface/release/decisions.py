"""Which scans of a session are released, in which form, and with which files."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace
from typing import Literal

from efface.audit.candidate import Candidate
from efface.manifest import Manifest, Scan
from efface.release.reviews import Judgement, Judgements
from efface.status import IMAGE_CHANGED, NO_ASL_SERIES, NO_FILES, NO_PLACE_IN_BIDS, REJECTED

Form = Literal["bids", "dicom"]
FORMS: tuple[Form, ...] = ("bids", "dicom")


@dataclass(frozen=True)
class Decision:
    """Whether a scan is released, and why."""

    scan: Scan
    released: bool
    judgement: Judgement | None = None
    """The reviewer's, if the decision follows it."""
    withheld: str = ""
    """Reason for which the release itself withholds the scan, one of :mod:`efface.status`."""
    removed: tuple[str, ...] = ()
    """What is left out of the scan's files: references and tables."""

    @property
    def note(self) -> str:
        """One line for the audit."""
        judgement = str(self.judgement) if self.judgement else ""
        withheld = "" if self.withheld == REJECTED else self.withheld
        return "; ".join(filter(None, (judgement, withheld, *self.removed)))


def decide(manifest: Manifest, reviews: Judgements) -> tuple[Decision, ...]:
    """Decide for every scan of a session, in the manifest's order; ``manifest`` is the audit's.

    A scan is released if it passed, or is in review and a reviewer accepted it; never if it failed
    or a reviewer rejected it. A DICOM series is released with its images: if it is in review for
    their reasons alone, all of them must be accepted.
    """
    images = [s for s in manifest.scans if Candidate.of(s).form == "nifti"]
    decided = {
        d.scan.scan: d for d in _with_references([_image(manifest, s, reviews) for s in images])
    }
    return tuple(
        decided[scan.scan]
        if Candidate.of(scan).form == "nifti"
        else _series(
            scan,
            reviews.get((manifest.session, scan.scan)),
            [d for d in decided.values() if d.scan.series == scan.series],
        )
        for scan in manifest.scans
    )


def _image(manifest: Manifest, scan: Scan, reviews: Judgements) -> Decision:
    """Decide for a NIfTI scan by itself."""
    judgement = reviews.get((manifest.session, scan.scan))
    if scan.status == "fail":
        return Decision(scan, released=False)
    if judgement and not judgement.accept:
        return Decision(scan, False, judgement, REJECTED)
    if scan.status == "pass":
        judgement = None
    elif judgement is None:
        return Decision(scan, released=False)
    elif judgement.sha256 and judgement.sha256 != manifest.sha256.get(scan.files.get("nifti", "")):
        return Decision(scan, False, withheld=IMAGE_CHANGED)
    if not scan.files.get("nifti", "").startswith("bids/"):
        return Decision(scan, False, judgement, NO_PLACE_IN_BIDS)
    return Decision(scan, True, judgement)


def _series(scan: Scan, judgement: Judgement | None, images: list[Decision]) -> Decision:
    """Decide for a DICOM series; ``images`` are the decisions on the images made from it."""
    rejected = [d.judgement for d in images if d.withheld == REJECTED]
    if judgement and not judgement.accept:
        return Decision(scan, False, judgement, REJECTED)
    if rejected:
        return Decision(scan, False, rejected[0], REJECTED)
    if scan.status == "pass":
        decision = Decision(scan, released=True)
    elif scan.status == "review" and judgement:
        decision = Decision(scan, True, judgement)
    elif scan.status == "review" and Candidate.of(scan).own_status == "pass":
        released = bool(images) and all(map(_is_shown, images))
        accepted = next((d.judgement for d in images if d.judgement), None)
        decision = Decision(scan, released, accepted if released else None)
    else:
        decision = Decision(scan, released=False)
    if decision.released and not scan.files.get("dicom"):
        return Decision(scan, released=False, withheld=NO_FILES)
    return decision


def _is_shown(image: Decision) -> bool:
    """Whether an image may be released, or is withheld only because BIDS has no name for it."""
    return image.released or image.withheld == NO_PLACE_IN_BIDS


def _with_references(images: list[Decision]) -> list[Decision]:
    """Withhold M0 scans without a released ASL series; list references to scans not released."""
    paths = released_images(images)
    images = [
        replace(d, released=False, withheld=NO_ASL_SERIES)
        if d.released
        and d.scan.modality == "m0scan"
        and not paths.intersection(Candidate.of(d.scan).intended_for)
        else d
        for d in images
    ]
    paths, fields = released_images(images), released_fields(images)
    return [
        replace(d, removed=_removed(Candidate.of(d.scan), paths, fields)) if d.released else d
        for d in images
    ]


def _removed(candidate: Candidate, paths: set[str], fields: set[str]) -> tuple[str, ...]:
    n = len([path for path in candidate.intended_for if path not in paths])
    n += len([label for label in candidate.field_sources if label not in fields])
    n += candidate.references_dropped
    references = f"{n} reference{'' if n == 1 else 's'} to what is not released removed"
    missing = "BIDS's columns, separated by tabs, are not there"
    return (
        *([references] if n else []),
        *(f"its _{suffix}.tsv left out: {missing}" for suffix in candidate.tables_dropped),
    )


def released_fields(decisions: Iterable[Decision]) -> set[str]:
    """Labels of the fields that released images measure."""
    return {f for d in decisions if d.released for f in Candidate.of(d.scan).fields}


def released_images(decisions: Iterable[Decision]) -> set[str]:
    """Released NIfTI images, relative to the root of the BIDS dataset."""
    return {
        d.scan.files["nifti"].removeprefix("bids/")
        for d in decisions
        if d.released and d.scan.files.get("nifti", "").startswith("bids/")
    }


def released_paths(
    manifest: Manifest, decisions: Iterable[Decision], form: Form
) -> list[tuple[str, str]]:
    """Paths below the session's audit folder that are released in one form, each with its scan."""
    out = []
    for decision in decisions:
        is_bids = Candidate.of(decision.scan).form == "nifti"
        if not decision.released or is_bids != (form == "bids"):
            continue
        roots = [n for n in decision.scan.files.values() if n.startswith(f"{form}/")]
        for root in roots:
            inner = [n for n in manifest.sha256 if n == root or n.startswith(f"{root}/")]
            out += [(n, decision.scan.scan) for n in inner]
    return sorted(out)
