"""De-identify files, and a session of the workflow."""

from __future__ import annotations

import shutil
import struct
import uuid
from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path

from efface import __version__, status
from efface.manifest import Scan, write_whole
from efface.pseudonym import Key
from efface.scrub.codec import (
    DamagedError,
    Element,
    Syntax,
    WithheldError,
    load,
    read_file,
    write_file,
)
from efface.scrub.engine import SOP_CLASS, SOP_INSTANCE, refusal, scrub
from efface.scrub.table import check_options, wanted_private
from efface.session import Session

_IMPLEMENTATION = f"2.25.{uuid.uuid5(uuid.NAMESPACE_OID, 'efface').int}"
_VERSION_NAME = "EFFACE_" + __version__.replace(".", "_")
_STUDY, _SERIES = 0x0020000D, 0x0020000E
_UIDS = frozenset((_STUDY, _SERIES, SOP_INSTANCE))


def scrub_bytes(
    data: bytes, key: Key, subject: str, session: str, retain: tuple[str, ...] = ()
) -> bytes:
    """De-identify the bytes of a DICOM file. Raises :class:`WithheldError` without a file name."""
    try:
        form, elements = read_file(data, wanted_private(retain))
        return scrub_elements(elements, form, key, subject, session, retain)
    except DamagedError as e:
        raise WithheldError("data", e.args[0]) from e


def scrub_elements(
    elements: list[Element],
    form: Syntax,
    key: Key,
    subject: str,
    session: str,
    retain: tuple[str, ...],
) -> bytes:
    """Bytes of a de-identified file. Raises :class:`DamagedError` with the reason."""
    elements = list({e.tag: e for e in elements}.values())  # readers use the last of repeated tags
    reason = refusal(elements, form)
    if reason is not None:
        raise DamagedError(reason)
    try:
        kept = scrub(elements, form, key, subject, session, retain)
        return write_file(form, _meta(kept, form.uid), kept)
    except (ValueError, LookupError, ArithmeticError, MemoryError, struct.error) as e:
        raise DamagedError(status.UNREADABLE) from e


def scrub_file(
    src: Path, dst: Path, key: Key, subject: str, session: str, retain: Iterable[str] = ()
) -> None:
    """De-identify the file ``src`` and write ``dst`` atomically.

    Raises :class:`WithheldError` (an ``EffaceError``) if the file is withheld: not DICOM,
    truncated, not an MR image, burned-in text; :class:`EffaceError` for wrong options or a full
    disk.
    """
    options = check_options(retain)
    try:
        form, elements = read_file(load(src), wanted_private(options))
        write_whole(dst, scrub_elements(elements, form, key, subject, session, options))
    except DamagedError as e:
        raise WithheldError(str(src), e.args[0]) from e


def run(session: Session, folder: Path, key: Key, retain: Iterable[str] = ()) -> tuple[Scan, ...]:
    """De-identify the image series of a session into ``folder/{series}/000001.dcm``.

    Files are in the order of the inventory. If one file of a series is withheld, the whole series
    fails. A session of a BIDS source has no DICOM headers and gives no scans.
    """
    options = check_options(retain)
    label = session.session.split("_", 1)[1]
    sources = {series.series: series.files for series in session.series}
    return tuple(
        _run_series(scan, sources[scan.series], folder, (key, session.subject, label), options)
        for scan in to_scrub(session)
    )


def to_scrub(session: Session) -> tuple[Scan, ...]:
    """Input scans of :func:`run`: the image series of a DICOM session that are not withheld."""
    if session.source != "dicom":
        return ()
    return tuple(
        Scan(s.series, s.series, s.modality, s.status, s.reasons)
        for s in session.series
        if s.kind == "image" and s.status != "fail"
    )


def _run_series(
    scan: Scan,
    files: Iterable[str],
    folder: Path,
    whose: tuple[Key, str, str],
    options: tuple[str, ...],
) -> Scan:
    sources = []
    for number, source in enumerate(files, 1):
        out = f"{scan.series}/{number:06d}.dcm"
        try:
            scrub_file(Path(source), folder / out, *whose, options)
        except WithheldError as e:
            shutil.rmtree(folder / scan.series, ignore_errors=True)
            return scan.mark("fail", e.reason)
        sources.append([source, out])
    if not sources:
        return scan.mark("fail", status.NO_IMAGE)
    return replace(scan, files={"dicom": scan.series}, measures={"sources": sources})


def _meta(elements: list[Element], transfer_syntax: str) -> list[Element]:
    """File meta group, made from the de-identified data set only."""
    elements_by_tag = {e.tag: e for e in elements if e.tag in (SOP_CLASS, SOP_INSTANCE)}
    if not elements_by_tag[SOP_INSTANCE].value:
        raise DamagedError(status.UNREADABLE)
    return [
        Element(0x00020001, "OB", b"\0\1"),
        Element(0x00020002, "UI", elements_by_tag[SOP_CLASS].value),
        Element(0x00020003, "UI", elements_by_tag[SOP_INSTANCE].value),
        Element(0x00020010, "UI", transfer_syntax.encode()),
        Element(0x00020012, "UI", _IMPLEMENTATION.encode()),
        Element(0x00020013, "SH", _VERSION_NAME.encode()),
    ]
