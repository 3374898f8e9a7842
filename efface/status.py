"""Status of a scan, and the kinds of reasons for it, each with a stable code.

A reason is the phrase of one of the kinds below, or that phrase, a colon and a detail
(``"low confidence: nose"``). Details never hold an identifier or a source path: reasons are
printed in the audit. The name of a constant is the code of its kind. Users filter by code: a code
is never renamed or used again for something else; a phrase may change.
"""

from typing import Literal

Status = Literal["pass", "review", "fail"]

# files and series of the source
NOT_DICOM = "not DICOM"
EMPTY_FILE = "empty file"
TRUNCATED = "truncated"
UNREADABLE = "unreadable"
NO_PERMISSION = "no permission"
LINK_NOT_FOLLOWED = "link not followed"
NO_FILES = "no files"
DUPLICATE = "duplicate"
NO_IMAGE = "no image"
SECONDARY_CAPTURE = "secondary capture"
STRUCTURED_REPORT = "structured report"
NOT_MR = "not MR"
OBJECT_TYPE_NOT_ALLOWED = "object type not allowed"
NOT_BIDS = "not a BIDS image"
SERIES_SPLIT = "one scan in many series"
TEXT_BURNED_IN = "text may be burned in"
IDENTITY_IN_DOUBT = "identity in doubt"
# conversion
NOT_CONVERTED = "not converted"
CONVERTER_ERROR = "dcm2niix reported an error"
SLICES_UNEVEN = "slices are not evenly spaced"
VOXELS_LOST = "number of voxels changed in the conversion"
NO_BIDS_NAME = "no BIDS name"
# the head and the parts of its face
NOT_A_HEAD = "not a head"
HEAD_NOT_FOUND = "head not found in some volumes"
MAYBE_CT = "CT instead of MR?"
LANDMARKS_INCONSISTENT = "landmarks are inconsistent with a head"
BRAIN_SHAPE_UNLIKELY = "unlikely shape of the brain"
FACE_NOT_FOUND = "no face found"
SKULL_STRIPPED = "skull-stripped?"
ALREADY_DEFACED = "already defaced?"
PART_NOT_FOUND = "part of the face not found"
POSITION_UNLIKELY = "unlikely position"
LOW_CONFIDENCE = "low confidence"
# labels of another scan of the same session
HEAD_MOVED = "head may have moved between scans"
OTHER_SCAN_INCOMPLETE = "labels come from a scan that shows only a part of the face"
OTHER_SCAN_NOT_PASSED = "labels come from a scan that did not pass"
# the distorted image
GEOMETRY_CHANGED = "header geometry changed"
GRID_CHANGED = "grid or voxel type changed"
BRAIN_TOUCHED = "brain would be touched"
MAYBE_BRAIN_REPLACED = "possible brain replaced"
VOXELS_CHANGED_OUTSIDE = "voxels changed outside the region"
METHOD_KEEPS_FACE = "method keeps part of the face"
FACE_REMAINS = "face may remain"
DICOM_UNMAPPED = "DICOM could not be matched to the NIfTI"
DICOM_DIFFERS = "DICOM does not convert to the NIfTI"
# audit and release
IDENTIFIER_FOUND = "identifier found"
NO_PLACE_IN_BIDS = "has no place in BIDS"
NO_ASL_SERIES = "no released ASL series"
REJECTED = "rejected"
IMAGE_CHANGED = "the image has changed since it was accepted"
# the workflow
SCAN_LOST = "lost between two stages"
STAGE_FAILED = "stage failed"

ALL: dict[str, str] = {name: text for name, text in tuple(vars().items()) if name.isupper()}
"""Phrase of every kind of reason, by its code."""

OTHER = "OTHER"
"""Code of a text that is a reason of no known kind."""

_CODES = {text: code for code, text in ALL.items()}
_ORDER: dict[str, int] = {"pass": 0, "review": 1, "fail": 2}


def code_of(reason: str) -> str:
    """Code of a reason; :data:`OTHER` for a text that starts with no known phrase.

    >>> code_of("low confidence: nose"), code_of("low confidence: nose (volumes 3, 4)")
    ('LOW_CONFIDENCE', 'LOW_CONFIDENCE')
    >>> code_of("not MR"), code_of("not MR (volume 2)"), code_of("not MRI")
    ('NOT_MR', 'NOT_MR', 'OTHER')
    """
    phrase = reason.split(": ", maxsplit=1)[0]
    # a reason for some volumes of a scan names them in parentheses at its end
    return _CODES.get(phrase) or _CODES.get(phrase.split(" (", maxsplit=1)[0], OTHER)


def phrase_of(reason: str) -> str:
    """Phrase of a reason without its detail.

    >>> phrase_of("low confidence: nose (volumes 3, 4)"), phrase_of("not MR (volume 2)")
    ('low confidence', 'not MR')
    """
    return ALL.get(code_of(reason)) or reason.split(": ", maxsplit=1)[0]


def worst(*statuses: Status) -> Status:
    """The most cautious of the statuses; ``pass`` for none.

    >>> worst("pass", "review")
    'review'
    """
    return max(statuses, key=_ORDER.__getitem__, default="pass")
