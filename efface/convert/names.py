"""BIDS names from facts about an image, by a table of rules.

The rules read descriptions to recognise an image, but never copy them: every part of a name is a
pseudonym, a number, or a word of the rules.
"""

from __future__ import annotations

import csv
import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cache
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import yaml
from numpy.typing import NDArray

from efface.convert.sidecar import finite
from efface.errors import EffaceError
from efface.pseudonym import Key


@dataclass(frozen=True, kw_only=True)
class Facts:
    """Facts about an image, as in docs/names.md; empty or None if unknown."""

    description: str = ""
    sequence_name: str = ""
    image_type: str = ""
    sequence: str = ""
    variant: str = ""
    dimension: str = ""
    manufacturer: str = ""
    te: float | None = None
    """Echo time in ms."""
    tr: float | None = None
    """Repetition time in ms."""
    ti: float | None = None
    """Inversion time in ms."""
    flip: float | None = None
    """Flip angle in degrees."""
    volumes: float | None = None
    slices: float | None = None
    echo: float | None = None
    """Number of this echo."""
    echoes: float | None = None
    """Number of echoes of the series."""
    part: str = ""
    partner: str = ""
    diffusion: str = ""
    field_map: str = ""
    phase_difference: str = ""
    direction: str = ""
    contrast_agent: str = ""


ORDER = (
    *("sub", "ses", "task", "acq", "ce", "rec", "dir", "run", "mod", "echo", "flip", "inv", "mt"),
    *("part", "chunk"),
)
"""Entities of raw MR images in the order of BIDS names."""


def _places() -> dict[tuple[str, str], tuple[frozenset[str], frozenset[str]]]:
    lines = (Path(__file__).parent / "places.tsv").read_text().splitlines()[1:]
    rows = csv.DictReader(lines, delimiter="\t")
    return {
        (row["datatype"], suffix): (
            frozenset(f"{row['optional']} {row['required']}".split()),
            frozenset(row["required"].split()),
        )
        for row in rows
        for suffix in row["suffixes"].split()
    }


ENTITIES = {place: entities for place, (entities, _) in _places().items()}
"""Entities that a name may have besides sub and ses, by datatype and suffix."""

REQUIRED = {place: required for place, (_, required) in _places().items()}
"""Entities that a name must have besides sub and ses, by datatype and suffix."""

_NEEDED: dict[tuple[str, str], tuple[str, ...]] = {
    ("func", "bold"): ("RepetitionTime", "TaskName"),
    ("func", "cbv"): ("RepetitionTime", "TaskName"),
    ("func", "sbref"): ("TaskName",),
    ("perf", "asl"): (
        *("ArterialSpinLabelingType", "PostLabelingDelay", "BackgroundSuppression", "M0Type"),
        *("RepetitionTimePreparation",),
    ),
    ("perf", "m0scan"): ("RepetitionTimePreparation", "IntendedFor"),
    ("func", "phase"): ("Units", "TaskName"),
    ("fmap", "TB1EPI"): ("EchoTime", "FlipAngle", "TotalReadoutTime", "MixingTime"),
    ("fmap", "TB1AFI"): ("RepetitionTimeExcitation",),
    ("fmap", "TB1SRGE"): (
        *("FlipAngle", "InversionTime", "RepetitionTimeExcitation", "RepetitionTimePreparation"),
        "NumberShots",
    ),
    ("fmap", "phasediff"): ("EchoTime1", "EchoTime2"),
    ("fmap", "phase1"): ("EchoTime",),
    ("fmap", "phase2"): ("EchoTime",),
    ("fmap", "fieldmap"): ("Units",),
    ("fmap", "epi"): ("PhaseEncodingDirection", "TotalReadoutTime"),
    ("anat", "MESE"): ("EchoTime",),
    ("anat", "MEGRE"): ("EchoTime",),
    ("anat", "VFA"): ("FlipAngle", "PulseSequenceType", "RepetitionTimeExcitation"),
    ("anat", "MPM"): ("FlipAngle", "MTState", "RepetitionTimeExcitation"),
    ("anat", "MTS"): ("FlipAngle", "MTState", "RepetitionTimeExcitation"),
    ("anat", "MTR"): ("MTState",),
    ("anat", "IRT1"): ("InversionTime",),
    ("anat", "MP2RAGE"): (
        *("InversionTime", "FlipAngle", "RepetitionTimeExcitation", "RepetitionTimePreparation"),
        *("NumberShots", "MagneticFieldStrength"),
    ),
}
"""Metadata without which the BIDS validator (3.0, BIDS 1.11) reports an error."""

_NEEDED_BY_ENTITY = {
    "echo": "EchoTime",
    "flip": "FlipAngle",
    "inv": "InversionTime",
    "mt": "MTState",
}

_NEEDED_BY_VALUE = {
    ("ArterialSpinLabelingType", "PCASL"): "LabelingDuration",
    ("ArterialSpinLabelingType", "CASL"): "LabelingDuration",
    ("ArterialSpinLabelingType", "PASL"): "BolusCutOffFlag",
    ("M0Type", "Estimate"): "M0Estimate",
}
"""Keys that ASL requires for certain values of other keys (BIDS 1.11)."""

_FOUR_DIMENSIONS = {("func", "bold"), ("func", "cbv"), ("dwi", "dwi")}


@dataclass(frozen=True)
class Rule:
    """One line of names.yaml."""

    match: Mapping[str, Any]
    datatype: str = ""
    suffix: str = ""
    entities: Mapping[str, str] = field(default_factory=dict)
    out: str = ""
    """Reason why matching images have no place in BIDS."""


@dataclass(frozen=True)
class Name:
    """BIDS name of an image; ``datatype`` is empty if BIDS has no place for it."""

    datatype: str
    suffix: str
    entities: Mapping[str, str] = field(default_factory=dict)
    """Without sub and ses."""
    why: str = ""
    """Reason why BIDS has no place for it."""

    def stem(self, session: str) -> str:
        """``sub-…_ses-…_run-1_T1w``."""
        parts = [f"{e}-{self.entities[e]}" for e in ORDER if e in self.entities]
        return "_".join([session, *parts, self.suffix])


def read_rules(raw: Iterable[Mapping[str, Any]] | None = None) -> tuple[Rule, ...]:
    """Rules of the setting ``names``, followed by those of efface.

    Raises :class:`EffaceError` for a rule that does not follow docs/names.md.
    """
    own = [_rule(r, f"setting names, rule {i}") for i, r in enumerate(raw or (), 1)]
    return (*own, *_shipped())


@cache
def _shipped() -> tuple[Rule, ...]:
    text = (Path(__file__).parent / "names.yaml").read_text()
    return tuple(_rule(r, f"names.yaml, rule {i}") for i, r in enumerate(yaml.safe_load(text), 1))


def _rule(raw: Mapping[str, Any], where: str) -> Rule:
    try:
        entities = {e: str(label) for e, label in raw.get("entities", {}).items()}
        rule = Rule(**{**raw, "entities": entities})
    except (TypeError, AttributeError) as e:
        raise EffaceError(f"{where}: a rule has match, datatype, suffix, entities or out") from e
    place = (rule.datatype, rule.suffix)
    if not isinstance(rule.match, Mapping) or not (rule.out or place in ENTITIES):
        raise EffaceError(f"{where}: BIDS has no MR images {rule.datatype}/{rule.suffix}")
    if not re.fullmatch(r"[A-Za-z0-9]{0,20}", rule.suffix):
        raise EffaceError(f"{where}: the suffix must be one word")
    for entity, label in entities.items():
        if entity not in ENTITIES.get(place, ()) or not re.fullmatch(r"[A-Za-z0-9]{1,20}", label):
            raise EffaceError(f"{where}: {entity}-{label} cannot be in the name of {rule.suffix}")
    for fact, condition in rule.match.items():
        try:
            if isinstance(condition, str):
                re.compile(condition)
            elif condition is not False:
                _low, _high = condition
        except (re.error, TypeError, ValueError) as e:
            raise EffaceError(f"{where}: {fact} needs a pattern, [low, high] or false") from e
    return rule


def _holds(condition: object, value: str | float | None) -> bool:
    known = value is not None and value != ""
    if condition is False:
        return not known
    if value is None or not known:
        return False
    if isinstance(condition, str):
        return re.search(condition, str(value), re.IGNORECASE) is not None
    assert isinstance(condition, Sequence)
    low, high = condition
    try:
        number = float(value)
    except ValueError:
        return False
    return (low is None or low <= number) and (high is None or number <= high)


def name(facts: Facts, rules: Sequence[Rule]) -> Name:
    """Name from the first matching rule, with the entities that its suffix can have."""
    known = vars(facts)
    for rule in rules:
        if all(_holds(condition, known.get(f)) for f, condition in rule.match.items()):
            break
    else:
        return Name("", "unnamed", why="unknown contrast")
    if rule.out:
        return Name("", rule.suffix or "unnamed", why=rule.out)
    allowed = ENTITIES[rule.datatype, rule.suffix]
    entities: dict[str, str] = {}
    if facts.contrast_agent:
        entities["ce"] = "contrast"
    if facts.direction and (rule.datatype, rule.suffix) != ("func", "bold"):
        entities["dir"] = facts.direction
    if (facts.echoes or 1) > 1 and facts.echo:
        entities["echo"] = str(int(facts.echo))
    if facts.part in ("phase", "real", "imag"):
        entities["part"] = facts.part
    entities |= rule.entities
    return Name(rule.datatype, rule.suffix, {e: v for e, v in entities.items() if e in allowed})


def own_name(
    datatype: str, suffix: str, entities: Mapping[str, str], key: Key, subject: str
) -> Name:
    """Name of an image of a BIDS source.

    Standard entities stay. A label that can identify the person (it contains the subject label of
    the source, or five digits in a row, such as a date) is replaced by a pseudonym.
    """
    allowed = ENTITIES.get((datatype, suffix))
    if allowed is None:
        return Name("", "unnamed", why="unknown suffix")
    kept = {}
    for entity, label in entities.items():
        if entity not in allowed:
            continue
        telling = len(subject) > 2 and subject.lower() in label.lower()
        telling = telling or re.search(r"\d{5}", label) is not None
        plain = re.fullmatch(r"[A-Za-z0-9]{1,30}", label) is not None
        kept[entity] = label if plain and not telling else key.label("entity", entity, label)
    return Name(datatype, suffix, kept)


def numbered(names: Sequence[Name]) -> list[Name]:
    """Add run-1, run-2, … to names that occur more than once, in the given order."""
    # by stem alone, because images without a place are in the same folder of the stage
    stems = [n.stem("") for n in names]
    total = Counter(stems)
    count: Counter[str] = Counter()
    out = []
    for n, same in zip(names, stems, strict=True):
        count[same] += 1
        if total[same] > 1:
            run = str(count[same])
            # runs that were numbered in the source and still collide get a second number
            label = n.entities["run"] + "0" + run if "run" in n.entities else run
            out.append(replace(n, entities={**n.entities, "run": label}))
        else:
            out.append(n)
    return out


def incomplete(
    place: Name,
    sidecar: Mapping[str, Any],
    shape: Sequence[int],
    gradients: Sequence[int],
    context: int = 0,
) -> str:
    """What this image lacks for a valid BIDS file of this name; empty if nothing.

    ``gradients`` are the numbers of b-values and of b-vectors; ``context`` is the number of volumes
    in the context table of an ASL series.
    """
    where = (place.datatype, place.suffix)
    needed = (
        *_NEEDED.get(where, ()),
        *(key for entity, key in _NEEDED_BY_ENTITY.items() if entity in place.entities),
        *(["Units"] if place.entities.get("part") == "phase" else []),
        *(key for (k, v), key in _NEEDED_BY_VALUE.items() if sidecar.get(k) == v),
    )
    absent = sorted(REQUIRED.get(where, frozenset()) - place.entities.keys())
    if absent:
        return f"{place.suffix} without {' and '.join(absent)} in its name"
    missing = [key for key in dict.fromkeys(needed) if key not in sidecar]
    if missing:
        return f"{place.suffix} without {' and '.join(missing)}"
    if where in _FOUR_DIMENSIONS and len(shape) < 4:
        return f"{place.suffix} of a single volume"
    if place.datatype == "anat" and len(shape) > 3:
        return f"{place.suffix} of several volumes"
    if where == ("dwi", "dwi") and list(gradients) != [shape[3]] * 2:
        return "dwi without a gradient for each volume"
    if where == ("fmap", "epi") and "dir" not in place.entities:
        return "epi without a direction"
    if where == ("perf", "asl") and not context:
        return "ASL without its context"
    if where == ("perf", "asl") and context != (shape[3] if len(shape) > 3 else 1):
        return "ASL with a context for a different number of volumes"
    return ""


def least_dimensions(place: Name) -> int:
    """Smallest number of dimensions of an image with this name."""
    return 4 if (place.datatype, place.suffix) in _FOUR_DIMENSIONS else 3


def direction(axis: str, affine: NDArray[np.float64]) -> str:
    """Label of a phase encoding direction relative to the patient.

    ``axis`` is i, j or k, with a minus sign if reversed; ``affine`` (4, 4) maps voxels to RAS.

    >>> direction("j-", np.eye(4))
    'AP'
    """
    if not re.fullmatch(r"[ijk]-?", axis):
        return ""
    code = nib.aff2axcodes(affine)["ijk".index(axis[0])]
    other = {"R": "L", "L": "R", "A": "P", "P": "A", "S": "I", "I": "S"}.get(code or "", "")
    if not other:
        return ""
    return code + other if axis.endswith("-") else other + str(code)


_FIELD_MAP = re.compile(r"field.?map|fieldmapping|field_mapping|\bb0[ _-]?(map|ns)|gre_field|fm2d")


def facts(
    attributes: Mapping[str, Any],
    sidecar: Mapping[str, Any],
    shape: Sequence[int],
    affine: NDArray[np.float64],
    b_values: Sequence[float],
) -> Facts:
    """Facts about a converted image, from the attributes of the inventory and the sidecar."""

    def text(*keys: str) -> str:
        values = [_joined(s[k]) for k in keys for s in (sidecar, attributes) if s.get(k)]
        return "\\".join(dict.fromkeys(values))

    def number(key: str, factor: float = 1.0) -> float | None:
        value = _number(sidecar.get(key))
        return _number(attributes.get(key)) if value is None else value * factor

    description = text("SeriesDescription", "ProtocolName").lower()
    sequence = text("ScanningSequence", "EchoPulseSequence")
    sequence_name = text("SequenceName", "PulseSequenceName").lower()
    if (
        str(sidecar.get("PulseSequenceType", "")).endswith("EPI")
        or attributes.get("EchoPlanarPulseSequence") == "YES"
    ):
        sequence += "\\EP"
    # a spin-echo EPI can be called a field map too, but is another kind
    is_field_map = "EP" not in sequence and _FIELD_MAP.search(f"{description} {sequence_name}")
    agent = _joined(attributes.get("ContrastBolusAgent", "")).strip().lower()
    return Facts(
        description=description,
        sequence_name=sequence_name,
        image_type=text("ImageType").upper(),
        sequence=sequence,
        variant=text("SequenceVariant"),
        dimension=text("MRAcquisitionType"),
        manufacturer=text("Manufacturer"),
        # seconds in the sidecar, milliseconds in DICOM
        te=number("EchoTime", 1000),
        tr=number("RepetitionTime", 1000),
        ti=number("InversionTime", 1000),
        flip=number("FlipAngle"),
        volumes=float(shape[3] if len(shape) > 3 else 1),
        slices=float(shape[2]),
        echo=number("EchoNumber"),
        part=_part(sidecar, attributes),
        diffusion="yes" if any(b > 0 for b in b_values) else "no",
        field_map="yes" if is_field_map else "no",
        phase_difference="yes" if {"EchoTime1", "EchoTime2"} <= sidecar.keys() else "no",
        direction=direction(str(sidecar.get("PhaseEncodingDirection", "")), affine),
        contrast_agent="" if agent in ("", "no", "none", "n", "0", "without") else "yes",
    )


def _part(sidecar: Mapping[str, Any], attributes: Mapping[str, Any]) -> str:
    own = sidecar.get("ImageType") or attributes.get("ImageType") or []
    kinds = {str(v).upper() for v in (own if isinstance(own, (list, tuple)) else [own])}
    if "FIELDMAPHZ" in kinds:
        return "fieldmap"
    # dcm2niix appends the kind of each image from a mixed series
    for part, long, short in (
        ("phase", "PHASE", "P"),
        ("real", "REAL", "R"),
        ("imag", "IMAGINARY", "I"),
    ):
        if long in kinds or (short in kinds and "MAGNITUDE" not in kinds):
            return part
    return "mag"


def _joined(value: object) -> str:
    if isinstance(value, (list, tuple)):
        return "\\".join(str(v) for v in value)
    return str(value)


def _number(value: object) -> float | None:
    if isinstance(value, list):
        value = value[0] if value else None
    return float(value) if finite(value) else None  # type: ignore[arg-type]
