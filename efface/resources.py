"""Where the files lie that ship with efface beside its modules: workflow, settings and models.

In a checkout they lie beside the package. In an installed efface they lie in ``efface/shipped``,
where ``setup.py`` puts them.
"""

from __future__ import annotations

from pathlib import Path

from efface.errors import EffaceError

PACKAGE = Path(__file__).resolve().parent


def root() -> Path:
    """Folder that holds ``Snakefile``, ``config.yaml``, rules, scripts, profiles and models.

    Raises :class:`EffaceError` if the installation lacks them.
    """
    for folder in (PACKAGE / "shipped", PACKAGE.parent):
        if (folder / "Snakefile").is_file():
            return folder
    raise EffaceError(
        f"{PACKAGE}: the installation lacks the workflow and the models; install efface again with"
        " pip install"
    )


def models() -> Path:
    """Folder of the face model, its calibration and the anatomy that ship with efface."""
    return root() / "models"
