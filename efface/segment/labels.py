"""The organs of a head, and the numbers that stand for them in every label map of efface."""

from typing import Final

LABELS: Final[dict[str, int]] = {"brain": 1, "eyes": 2, "nose": 3, "ears": 4, "mouth": 5}
"""Name to value in a uint8 label map; 0 is everything else. Mouth includes the chin."""

FEATURES: Final[tuple[str, ...]] = ("eyes", "nose", "ears", "mouth")
"""The organs by which a person is recognised: what can be asked for one by one."""
