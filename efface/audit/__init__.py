"""Audit: put together what may be released, search it for identifiers, report on it.

:func:`run` makes the candidate of a session (the files just as they would be released, in the
restricted zone) and searches every byte of it for the identifiers of that session's sources. The
release copies from the candidate and from nowhere else, so it holds what was searched.

- :mod:`~efface.audit.session`, :mod:`~efface.audit.staging`: the candidate and its search
- :mod:`~efface.audit.candidate`: what the release reads of a scan
- :mod:`~efface.audit.kept`: what options keep of the person and the day
- :mod:`~efface.audit.sources`, :mod:`~efface.audit.attributes`, :mod:`~efface.audit.identifiers`:
  the identifiers of a source; :mod:`~efface.audit.words`: words that are none
- :mod:`~efface.audit.encodings`, :mod:`~efface.audit.patterns`, :mod:`~efface.audit.matcher`,
  :mod:`~efface.audit.days`: the search for identifiers in bytes
- :mod:`~efface.audit.readers`: the kinds of files; :mod:`~efface.audit.leaks`: the leak scan of one
- :mod:`~efface.audit.report`: the report on a cohort
- :mod:`~efface.audit.redact`: the report without identifiers
"""

from efface.audit.session import IDENTIFIERS, run
from efface.audit.staging import image_name, mask_name, paths

__all__ = ["IDENTIFIERS", "image_name", "mask_name", "paths", "run"]
