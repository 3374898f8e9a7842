"""Errors that a user can act on."""

import errno

_MACHINE = {errno.ENOSPC, errno.EDQUOT, errno.EROFS}


class EffaceError(Exception):
    """An error shown without a traceback: one sentence that names the file and the next step."""


class UsageError(EffaceError):
    """Wrong arguments, or arguments that exclude each other; exit code 2."""


def of_machine(fault: BaseException | None) -> bool:
    """Whether an error comes from the machine, not from the input: the disk is full or read-only.

    Such an error must stop the job, so that the next run repeats it. If it were recorded as a
    failure of the scan, the scan would stay withheld.
    """
    while fault is not None:
        if isinstance(fault, OSError) and fault.errno in _MACHINE:
            return True
        fault = fault.__cause__ or fault.__context__
    return False
