"""Labels of the organs of a head: names and values."""

from typing import Final

LABELS: Final[dict[str, int]] = {"brain": 1, "eyes": 2, "nose": 3, "ears": 4, "mouth": 5}
"""Name to value in uint8 label images; 0 is everything else. Mouth includes the chin."""

FEATURES: Final[tuple[str, ...]] = ("eyes", "nose", "ears", "mouth")
"""Organs of the face, by which a person can be recognised; each can be selected."""
