"""What can be said of a scan: its status, and the reasons a data manager reads.

A reason is one of the phrases below, or such a phrase, a colon and a detail. Details never hold
an identifier or a source path: reasons are printed in the audit.
"""

from typing import Literal

Status = Literal["pass", "review", "fail"]

NOT_DICOM = "not DICOM"
EMPTY = "empty file"
TRUNCATED = "truncated"
UNREADABLE = "unreadable"
NO_PERMISSION = "no permission"
LINK = "link not followed"
NO_FILES = "no files"
DUPLICATE = "duplicate"
NO_IMAGE = "no image"
SECONDARY_CAPTURE = "secondary capture"
STRUCTURED_REPORT = "structured report"
NOT_MR = "not MR"
NOT_ALLOWED = "object type not allowed"
NOT_BIDS = "not a BIDS image"
SPLIT = "one scan in many series"
BURNED_IN = "text may be burned in"
NOT_CONVERTED = "not converted"
NOT_A_HEAD = "not a head"
CT = "CT instead of MR?"
NO_FACE = "no face found"
REVIEW = "review needed"
LEAK = "identifier found"
FACE_REMAINS = "face may remain"
BRAIN_TOUCHED = "brain would be touched"
DICOM_UNMAPPED = "DICOM could not be matched to the NIfTI"
DICOM_DIFFERS = "DICOM does not convert to the NIfTI"
STAGE_FAILED = "stage failed"
IDENTITY = "identity in doubt"

_ORDER: dict[str, int] = {"pass": 0, "review": 1, "fail": 2}


def worst(*statuses: Status) -> Status:
    """The most cautious of the statuses; ``pass`` for none.

    >>> worst("pass", "review")
    'review'
    """
    return max(statuses, key=_ORDER.__getitem__, default="pass")
