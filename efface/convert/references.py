"""Keys of a BIDS sidecar that refer to other images: IntendedFor, B0FieldIdentifier, B0FieldSource.

The convert stage writes the new names. Which images are released is known only at the end:
:func:`released` removes references to all others.
"""

from __future__ import annotations

import posixpath
from collections.abc import Callable, Iterable, Mapping
from typing import Any

INTENDED, IDENTIFIER, SOURCE = "IntendedFor", "B0FieldIdentifier", "B0FieldSource"
KEYS = frozenset((INTENDED, IDENTIFIER, SOURCE))
_URI = "bids::"


def renamed(
    raw: Mapping[str, Any], subject: str, targets: Mapping[str, str], fields: Mapping[str, str]
) -> tuple[dict[str, Any], int]:
    """References of a sidecar with new names, and the number of those without a target.

    ``subject`` is the subject folder of the source (``sub-01``). ``targets`` maps paths of the
    source, relative to its root, to new paths. ``fields`` maps field identifiers. Paths may be BIDS
    URIs, relative to the subject folder (both in BIDS 1.11), or, as in many datasets, relative to
    the root. The result has only keys with a target.
    """
    out: dict[str, Any] = {}
    wanted = _texts(raw.get(INTENDED))
    known = [targets[p] for w in wanted if (p := _path(w, subject)) in targets]
    dropped = len(wanted) - len(known)
    if known:
        out[INTENDED] = [_URI + path for path in known]
    for key in (IDENTIFIER, SOURCE):
        labels = [fields[t] for t in _texts(raw.get(key)) if t in fields]
        dropped += len(_texts(raw.get(key))) - len(labels)
        if labels:
            out[key] = labels if len(labels) > 1 else labels[0]
    return out, dropped


def fields(sidecars: Iterable[Mapping[str, Any]]) -> dict[str, str]:
    """New labels for the B0 field identifiers of a session: ``fieldmap1``, ``fieldmap2``, …"""
    known = sorted({t for raw in sidecars for t in _texts(raw.get(IDENTIFIER))})
    return {label: f"fieldmap{n}" for n, label in enumerate(known, 1)}


def intended(sidecar: Mapping[str, Any]) -> list[str]:
    """Paths of IntendedFor, relative to the root of the dataset."""
    return [t.removeprefix(_URI) for t in _texts(sidecar.get(INTENDED))]


def labels(sidecar: Mapping[str, Any], key: str) -> list[str]:
    """Field labels that an image measures (B0FieldIdentifier) or uses (B0FieldSource)."""
    return _texts(sidecar.get(key))


def with_names(sidecar: Mapping[str, Any], name: Callable[[str], str]) -> dict[str, Any]:
    """Apply ``name`` to the file names (without extension) of IntendedFor."""
    out = dict(sidecar)
    if INTENDED in out:
        paths = [t.removesuffix(".nii.gz").rpartition("/") for t in _texts(out[INTENDED])]
        out[INTENDED] = [f"{folder}/{name(stem)}.nii.gz" for folder, _, stem in paths]
    return out


def released(
    sidecar: Mapping[str, Any], paths: Iterable[str], fields: Iterable[str]
) -> dict[str, Any]:
    """Remove references to images or fields that are not released.

    ``paths`` are the released images, relative to the root of the dataset; ``fields`` are the
    labels that released images measure.
    """
    out = dict(sidecar)
    paths, fields = set(paths), set(fields)
    kept: dict[str, list[str]] = {
        INTENDED: [_URI + p for p in intended(sidecar) if p in paths],
        SOURCE: [t for t in _texts(sidecar.get(SOURCE)) if t in fields],
    }
    for key, values in kept.items():
        if key in out and values != _texts(out[key]):
            out[key] = values if len(values) > 1 or key == INTENDED else "".join(values)
            if not values:
                del out[key]
    return out


def _texts(value: object) -> list[str]:
    values = value if isinstance(value, list) else [value]
    return [v.strip() for v in values if isinstance(v, str) and v.strip()]


def _path(reference: str, subject: str) -> str:
    path = posixpath.normpath(reference.removeprefix(_URI).lstrip("/"))
    of_root = reference.startswith(_URI) or path.startswith(f"{subject}/")
    return path if of_root else f"{subject}/{path}"
