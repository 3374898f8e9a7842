"""Faults that a user can act upon."""


class EffaceError(Exception):
    """One sentence that names the file and says what to do; shown without a traceback."""
