"""Audit: put together what may be released, search it for identifiers, report on it.

:func:`run` makes the candidate of a session (the files just as they would be released, in the
restricted zone) and searches every byte of it for the identifiers of that session's sources. The
release copies from the candidate and from nowhere else, so it holds what was searched.

- :mod:`~efface.audit.session`, :mod:`~efface.audit.staging`: the candidate and its search
- :mod:`~efface.audit.candidate`: what the release reads of a scan
- :mod:`~efface.audit.kept`: what options keep of the person and the day
- :mod:`~efface.audit.sources`: the identifiers of the sources
- :mod:`~efface.audit.leaks`, :mod:`~efface.audit.matcher`, :mod:`~efface.audit.days`: the leak scan
- :mod:`~efface.audit.report`: the report on a cohort
- :mod:`~efface.audit.redact`: the report without identifiers
"""

from efface.audit.session import IDENTIFIERS, run
from efface.audit.staging import Stage, image_name, mask_name, paths

__all__ = ["IDENTIFIERS", "Stage", "image_name", "mask_name", "paths", "run"]
