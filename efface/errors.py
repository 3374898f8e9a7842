"""Faults that a user can act upon."""

import errno

_MACHINE = {errno.ENOSPC, errno.EDQUOT, errno.EROFS}


class EffaceError(Exception):
    """One sentence that names the file and says what to do; shown without a traceback."""


class UsageError(EffaceError):
    """The command was given arguments that do not go together; exit code 2."""


def of_machine(fault: BaseException | None) -> bool:
    """Whether the machine is at fault and not the input: the disk is full or cannot be written.

    Such a fault must end the job, which the next run then makes again. Recorded as the scan's, it
    would withhold the scan for good.
    """
    while fault is not None:
        if isinstance(fault, OSError) and fault.errno in _MACHINE:
            return True
        fault = fault.__cause__ or fault.__context__
    return False
