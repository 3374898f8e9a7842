"""efface: takes the name and the face out of head MRI, and proves it."""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from efface.volume import Report, Result, deface

__version__ = "0.1.0"
__all__ = ["Report", "Result", "__version__", "deface"]


def __getattr__(name: str) -> Any:  # noqa: ANN401
    # late, so that `import efface` costs nothing
    if name in __all__:
        from importlib import import_module

        value = globals()[name] = getattr(import_module("efface.volume"), name)
        return value
    raise AttributeError(f"module 'efface' has no attribute {name!r}")
