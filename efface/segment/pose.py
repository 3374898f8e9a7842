"""How the head lies in a scan, by its label map, and which parts of a face were found where."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from nibabel.affines import apply_affine
from numpy.typing import NDArray
from scipy import ndimage

from efface.segment import anatomy as anatomies
from efface.segment.anatomy import PARTS, Anatomy, Pose, View
from efface.segment.labels import FEATURES, LABELS
from efface.segment.masks import BRAIN_MARGIN, Box, box_of, indices, thinned, wider, within
from efface.segment.organs import voxel_sizes

Labels = NDArray[np.uint8]
Bool = NDArray[np.bool_]
Floats = NDArray[np.float64]

SHARE_FOUND = 0.15
"""A part of the face counts as found from this share of its mean volume on."""
LEAST_MM3 = 100.0
"""Connected voxels of a label below this are noise."""
CUT = 0.9
"""Below this share of it in view, as far as that is known, a part is cut."""
KNOWN = 2
"""Of so many parts at least the place must be known, for them to tell where the others are."""
EDGE_MM, FEW = 4.0, 50
"""Of the mean brain's points those that lie so far inside the view are counted, if so many do."""
MISFIT = 1.5
"""Above this, what was found does not fit a head, and geometry proves nothing."""


@dataclass(frozen=True)
class Scene:
    """A label map, seen on every second voxel or so, and what of it is brain."""

    small: Labels
    """On the voxels that :func:`efface.segment.masks.thinned` chooses."""
    grid: Floats
    """The affine of these voxels (4, 4)."""
    voxel: float
    """Volume of one of them, mm³."""
    view: View
    brain: NDArray[np.intp]
    """Indices (n, 3) of the largest connected part of the brain."""

    @property
    def brain_ml(self) -> float:
        """Volume of the brain."""
        return len(self.brain) * self.voxel / 1000

    def points(self) -> Floats:
        """World points (n, 3) in the brain: what it says of the pose needs no more than 4000."""
        rng = np.random.default_rng(0)
        index = self.brain
        if len(index) > 4000:
            index = index[rng.choice(len(index), 4000, replace=False)]
        return np.asarray(apply_affine(self.grid, index), np.float64)


@dataclass(frozen=True)
class Laid:
    """The pose of the head, and the parts of the face that were found."""

    pose: Pose
    centres: dict[str, Floats]
    """World mm (3,), by the names of :data:`efface.segment.anatomy.PARTS`."""
    volumes: dict[str, float]
    """mm³."""

    def least(self, anatomy: Anatomy, view: View, name: str) -> float:
        """Volume in mm³ from which on a part counts as found, less where the view cuts it."""
        share = max(anatomies.inside(anatomy, self.pose, view, name), 0.1)
        whole = anatomy.parts[name].volume * self.pose.size**3
        return float(max(LEAST_MM3, SHARE_FOUND * whole * share))

    def found(self, anatomy: Anatomy, view: View, name: str) -> bool:
        """Whether a part was found."""
        return self.volumes.get(name, 0.0) >= self.least(anatomy, view, name)


@dataclass(frozen=True)
class Head:
    """What a label map shows of a head: found once, for what is replaced and for the gate."""

    scene: Scene
    laid: Laid | None
    """None where there is too little brain to lay a head by."""


def head(labels: Labels, affine: NDArray[np.floating], anatomy: Anatomy | None = None) -> Head:
    """The head in a label map (X, Y, Z); ``affine`` (4, 4): voxel to world, mm, any turn undone."""
    seen = scene(labels, affine)
    if len(seen.brain) < 8:
        return Head(seen, None)
    return Head(seen, lay(seen, anatomies.load() if anatomy is None else anatomy))


def scene(labels: Labels, affine: NDArray[np.floating]) -> Scene:
    """What of a label map (X, Y, Z) a pose is made from; ``affine`` (4, 4): voxel to world, mm."""
    whole: Floats = np.asarray(affine, np.float64)
    thin, grid = thinned(whole)
    # one voxel after the other in memory: all that follows walks over them many times
    small = labels[thin].copy(order="K")
    voxel = float(abs(np.linalg.det(grid[:3, :3])))
    view = View(whole, (labels.shape[0], labels.shape[1], labels.shape[2]))
    brain = connected(small == LABELS["brain"], voxel, largest=True)
    return Scene(small, grid, voxel, view, indices(brain))


def lay(seen: Scene, anatomy: Anatomy) -> Laid:
    """The pose of the head, and centre and volume of each part of the face found.

    First by the brain alone, then with nose and mouth, then ears, then eyes: each step tells left
    from right better for the next, so that a turned head is not taken for one with two left eyes.
    """
    brain, ml, voxel = seen.points(), seen.brain_ml, seen.voxel
    organs = {
        label: apply_affine(seen.grid, indices(connected(seen.small == LABELS[label], voxel)))
        for label in FEATURES
    }
    centres: dict[str, Floats] = {}
    volumes: dict[str, float] = {}
    pose = anatomies.fit(anatomy, seen.view, brain, ml, {})
    for labels in (("nose", "mouth"), ("ears",), ("eyes",)):
        for label in labels:
            points = organs[label]
            names = [n for n, where in PARTS.items() if where == label]
            side = pose.to_head(points)[:, 0] if len(points) else np.zeros(0)
            for name in names:
                own = points
                if name.startswith("left"):
                    own = points[side < 0]
                elif name.startswith("right"):
                    own = points[side >= 0]
                if len(own) * voxel >= LEAST_MM3:
                    centres[name] = own.mean(axis=0)
                    volumes[name] = len(own) * voxel
        # a part cut by the edge has its centre elsewhere: it would bend the pose
        whole = {
            n: c
            for n, c in centres.items()
            if volumes[n] >= 0.4 * anatomy.parts[n].volume * pose.size**3
        }
        pose = anatomies.fit(anatomy, seen.view, brain, ml, whole)
    return Laid(pose, centres, volumes)


def likeness(seen: Scene, pose: Pose, anatomy: Anatomy) -> float | None:
    """How much the brain that was found is shaped as one: Dice with the mean brain, as it lies.

    From 0 to 1, of what is in view; None where too little of it is to say so. The pose is laid by
    centre, extent and size alone, which a thing that is no brain may have too.
    """
    world = pose.to_world(anatomy.brain)
    world = world[(seen.view.distances(world) > EDGE_MM).all(axis=1)]
    if len(world) < FEW or not len(seen.brain):
        return None
    index = np.rint(apply_affine(np.linalg.inv(seen.grid), world)).astype(np.intp)
    index = np.clip(index, 0, np.array(seen.small.shape) - 1)
    filled = float((seen.small[tuple(index.T)] == LABELS["brain"]).mean())
    agreed = float(anatomies.in_mean_brain(anatomy, pose, seen.points()).mean())
    return 2 * filled * agreed / max(filled + agreed, 1e-6)


def connected(mask: Bool, voxel: float, *, largest: bool = False) -> Bool:
    """Connected parts of at least ``LEAST_MM3``, or only the largest of them; ``voxel``: mm³."""
    if mask.flags.f_contiguous:
        # scipy numbers row by row
        return _connected(mask.T, voxel, largest).T
    return _connected(mask, voxel, largest)


def _connected(mask: Bool, voxel: float, largest: bool) -> Bool:
    out = np.zeros(mask.shape, bool)
    box = box_of(mask)
    if box is None:
        return out
    groups, _ = ndimage.label(mask[box], np.ones((3, 3, 3)))
    sizes = np.bincount(groups.ravel())
    sizes[0] = 0
    keep = sizes * voxel >= LEAST_MM3
    if largest:
        keep &= np.arange(len(sizes)) == sizes.argmax()
    out[box] = keep[groups]
    return out


def room(
    labels: Labels, affine: Floats, anatomy: Anatomy, pose: Pose, name: str
) -> tuple[Box, Bool]:
    """Where a part may lie: a box of a label map, and the voxels in it that the part may take up.

    Neither the brain nor what lies within 2 mm of it, where bone is. ``affine`` (4, 4): voxel to
    world in mm.
    """
    low, high = anatomies.reach(anatomy, pose, name)
    corners = np.array(np.meshgrid(*zip(low, high, strict=True))).reshape(3, -1).T
    index = apply_affine(np.linalg.inv(affine), corners)
    first = np.clip(np.floor(index.min(axis=0)).astype(int), 0, labels.shape)
    last = np.clip(np.ceil(index.max(axis=0)).astype(int) + 1, 0, labels.shape)
    x, y, z = (slice(a, b) for a, b in zip(first.tolist(), last.tolist(), strict=True))
    spacing = voxel_sizes(affine)
    box = wider((x, y, z), BRAIN_MARGIN, spacing)
    brain = labels[box] == LABELS["brain"]
    at = np.indices(brain.shape).reshape(3, -1).T + [s.start for s in box]
    points = apply_affine(affine, at)
    may = anatomies.may_hold(anatomy, pose, name, points).reshape(brain.shape)
    return box, may & ~within(may, brain, BRAIN_MARGIN, spacing)
