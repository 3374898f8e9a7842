"""Parts cut by the edge of the field of view are replaced, even if they have no labels."""

import numpy as np
import pytest
from scipy.spatial.transform import Rotation
from small_session import SURE, head

from efface.distort.cut_landmarks import add_cut_landmarks
from efface.distort.region import region
from efface.qc import gate
from efface.segment import fit
from efface.segment.labels import LABELS

SLAB = {"mm": 2.0, "low": (-100, -120, -42)}
"""From the middle of the ears upwards; the mouth is not in it."""


def without(labels, *organs):
    return np.where(np.isin(labels, [LABELS[o] for o in organs]), 0, labels).astype(np.uint8)


def added(labels, affine, features="face"):
    pose = fit.estimate(labels, affine)
    mask = region(labels, affine, pose, features)
    return add_cut_landmarks(mask, labels, affine, pose, features), mask


def hulls(labels, affine):
    return region(labels, affine, fit.estimate(labels, affine))


@pytest.mark.parametrize("turn", [(0, 0, 0), (12, -5, 8)])
@pytest.mark.parametrize("size", [0.85, 1.1])
def test_ears_cut_by_a_slab_are_replaced(turn, size):
    turn = Rotation.from_euler("xyz", turn, degrees=True).as_matrix()
    labels, affine = head(**SLAB, turn=turn, size=size)
    incomplete = without(labels, "ears")
    names, mask = added(incomplete, affine)
    assert {"left ear", "right ear"} <= set(names)
    assert mask[labels == LABELS["ears"]].mean() > 0.97
    assert not mask[labels == LABELS["brain"]].any()
    verdict = gate.face(incomplete, SURE, affine, mask=mask)
    assert verdict.measures["left_ear"] == verdict.measures["right_ear"] == "covered"
    assert verdict.status == "pass"


def test_a_part_that_is_completely_in_view_is_not_added():
    labels, affine = head(mm=2.0)
    incomplete = without(labels, "ears")
    before = hulls(incomplete, affine)
    names, mask = added(incomplete, affine)
    assert names == ()
    assert (mask == before).all()
    assert gate.face(incomplete, SURE, affine, mask=mask).measures["left_ear"] == "missing"


def test_only_chosen_features_are_added():
    labels, affine = head(**SLAB)
    assert added(without(labels, "ears"), affine, "eyes,nose")[0] == ()
    assert set(added(without(labels, "ears"), affine, "ears")[0]) == {"left ear", "right ear"}


def test_ears_are_not_added_to_complete_labels_or_without_landmarks():
    labels, affine = head(**SLAB)
    brain = without(labels, "eyes", "nose", "ears", "mouth")
    for case in (labels, brain, np.zeros_like(labels)):
        names, mask = added(case, affine)
        assert "left ear" not in names
        assert (mask == hulls(case, affine)).all() or names == ("mouth",)


def test_a_cut_ear_with_a_labelled_fragment_is_replaced_and_needs_no_confidence():
    labels, affine = head(**SLAB)
    fragment = labels.copy()
    ears = np.argwhere(labels == LABELS["ears"])
    fragment[tuple(ears[ears[:, 2] > 2].T)] = 0
    share = np.count_nonzero(fragment == LABELS["ears"]) / len(ears)
    assert 0.15 < share < 0.5
    unsure = SURE | {"ears": 0.1}
    alone = hulls(fragment, affine)
    assert "low confidence: ears" in gate.face(fragment, unsure, affine, mask=alone).reasons[0]
    names, mask = added(fragment, affine)
    assert {"left ear", "right ear"} <= set(names)
    assert mask[labels == LABELS["ears"]].mean() > 0.97
    assert gate.face(fragment, unsure, affine, mask=mask).status == "pass"
    # a head that is completely in view needs confidence, whatever was replaced
    labels, affine = head(mm=4.0)
    everything = labels != LABELS["brain"]
    assert gate.face(labels, unsure, affine, mask=everything).status == "review"


@pytest.mark.parametrize(
    ("unsure", "passes"), [((), True), (("nose",), True), (("nose", "eyes", "mouth"), False)]
)
def test_cut_ears_are_covered_only_if_enough_other_parts_are_certain(unsure, passes):
    labels, affine = head(mm=2.0, low=(-100, -120, -42))
    incomplete = without(labels, "ears")
    _, mask = added(incomplete, affine)
    verdict = gate.face(incomplete, SURE | dict.fromkeys(unsure, 0.1), affine, mask=mask)
    assert (verdict.measures["left_ear"] == "covered") == passes
    assert (verdict.status == "pass") == passes
