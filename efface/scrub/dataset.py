"""De-identify pydicom data sets."""

from __future__ import annotations

import io
from collections.abc import Iterable

import pydicom
from pydicom.dataset import Dataset, FileDataset
from pydicom.filebase import DicomBytesIO
from pydicom.filewriter import write_dataset
from pydicom.sequence import Sequence

from efface import status
from efface.pseudonym import Key
from efface.scrub.codec import DamagedError, WithheldError, parse, syntax
from efface.scrub.files import scrub_elements
from efface.scrub.table import check_options, wanted_private

_EXPLICIT, _IMPLICIT, _BIG = "1.2.840.10008.1.2.1", "1.2.840.10008.1.2", "1.2.840.10008.1.2.2"


def scrub_dataset(
    ds: Dataset, key: Key, subject: str, session: str, retain: Iterable[str] = ()
) -> FileDataset:
    """De-identified copy of ``ds``, which is not modified.

    ``subject`` and ``session`` are pseudonyms (``sub-…``, ``ses-…``). They become the patient's
    name and id and the study id. File meta and preamble are rewritten. Raises
    :class:`WithheldError` if the object is not an MR image or cannot be read, and
    :class:`EffaceError` for wrong options.
    """
    options = check_options(retain)
    try:
        form = syntax(_syntax_of(ds))
        raw = DicomBytesIO()
        raw.is_little_endian, raw.is_implicit_VR = form.little, not form.explicit
        write_dataset(raw, ds)
        elements = parse(raw.getvalue(), form, private=wanted_private(options))
        data = scrub_elements(elements, form, key, subject, session, options)
        return pydicom.dcmread(io.BytesIO(data))
    except DamagedError as e:
        raise WithheldError("data set", e.args[0]) from e
    except (ValueError, TypeError, AttributeError, NotImplementedError, KeyError, OSError) as e:
        raise WithheldError("data set", status.UNREADABLE) from e


def state_face_removed(ds: Dataset, no_text: bool = False) -> None:
    """State in the header, in place, that the face was removed: (0028,0302) and code 113102.

    The code is of CID 7050. ``no_text`` means that the pixels were searched and have no text: then
    (0028,0301) becomes NO. Otherwise it stays as in the source, or empty (unknown).
    """
    if no_text:
        ds.BurnedInAnnotation = "NO"
    elif "BurnedInAnnotation" not in ds:
        ds.BurnedInAnnotation = ""
    ds.RecognizableVisualFeatures = "NO"
    methods = list(ds.get("DeidentificationMethodCodeSequence", []))
    if all(item.get("CodeValue") != "113102" for item in methods):
        face = Dataset()
        face.CodeValue = "113102"
        face.CodingSchemeDesignator = "DCM"
        face.CodeMeaning = "Clean Recognizable Visual Features Option"
        methods.append(face)
    ds.DeidentificationMethodCodeSequence = Sequence(methods)


def _syntax_of(ds: Dataset) -> str:
    meta = getattr(ds, "file_meta", None)
    uid = meta.get("TransferSyntaxUID") if meta is not None else None
    if uid:
        return str(uid)
    implicit, little = ds.original_encoding
    if implicit:
        return _IMPLICIT
    return _BIG if little is False else _EXPLICIT
