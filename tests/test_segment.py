"""The grid, the network and the model."""

import os
import subprocess
import sys
from itertools import permutations, product
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
import torch
import yaml
from hypothesis import given
from hypothesis import strategies as st
from nibabel.affines import apply_affine
from nibabel.orientations import axcodes2ornt, ornt_transform
from scipy import ndimage
from scipy.spatial.transform import Rotation
from small_session import head as head_of_parts

from efface import resources
from efface.errors import EffaceError
from efface.phantom import phantom
from efface.segment import (
    Plan,
    Segmenter,
    boxes,
    masks,
    orientation,
    runtime,
)
from efface.segment import grid as grids
from efface.segment.cascade import Cascade
from efface.segment.labels import LABELS
from efface.segment.network import Coarse, Refine, fold, load_weights, predictor, unfold
from efface.train import export
from efface.train.loop import Settings


def reoriented(img, codes):
    change = ornt_transform(nib.io_orientation(img.affine), axcodes2ornt(codes))
    return img.as_reoriented(change)


def blob(shape=(40, 50, 44), mm=(2.0, 1.5, 3.0)):
    at = np.stack(np.meshgrid(*map(np.arange, shape), indexing="ij"), -1) * mm
    v = np.exp(-(((at - np.array([30, 40, 60])) / 15) ** 2).sum(-1)) * 100
    return nib.Nifti1Image(v.astype(np.float32), np.diag([*mm, 1.0]))


def test_fold_and_unfold_are_inverse():
    x = torch.rand(2, 3, 4, 6, 8)
    assert torch.equal(unfold(fold(x)), x)


def test_attention_gates_change_the_output():
    torch.manual_seed(0)
    net = Coarse((8, 16, 16), 6).eval()
    x = torch.rand(1, 1, 16, 16, 16)
    before = net(x)
    with torch.no_grad():
        net.gates[-1].weight.bias.fill_(-50.0)  # closed: the gate blocks the skip connection
    assert not torch.allclose(net(x), before)
    assert net(x).shape == (1, 6, 16, 16, 16)


def randomised(net):
    """The network with random weights that float16 can store; none keeps its initial value."""
    for p in net.parameters():
        torch.nn.init.normal_(p, std=0.3)
    return net.half().float().eval()


@pytest.mark.parametrize("attention", [True, False])
def test_the_exported_graph_gives_the_output_of_the_network(attention):
    torch.manual_seed(1)
    net = randomised(Coarse((8, 16, 16), 6, attention))
    graph = runtime.on_cpu(export.graph(net, "coarse"), precision="f32")
    ours = predictor(net, "cpu")
    for shape in ((16, 24, 32), (20, 28, 36), (32, 16, 16), (16, 24, 32)):
        v = np.random.default_rng(2).random(shape, dtype=np.float32)
        assert np.abs(graph(v) - ours(v)).max() < 1e-3


def exported(folder, attention):
    """Both networks with random weights, and the folder of their exported model."""
    torch.manual_seed(1)
    coarse, refine = (
        randomised(Coarse((8, 16), 6, attention)),
        randomised(Refine((4, 8), 6, attention)),
    )
    raw = yaml.safe_load(Path("models/training.yaml").read_text())
    sizes = {"coarse_widths": (8, 16), "refine_widths": (4, 8), "mm": 8.0, "attention": attention}
    export.weights(coarse, refine, Settings.of(raw | sizes), folder, {})
    return coarse, refine


@pytest.mark.parametrize("attention", [True, False])
def test_the_exported_model_gives_the_output_of_both_networks(tmp_path, attention):
    coarse, refine = exported(tmp_path, attention)
    plan, graph = runtime.load(tmp_path, "cpu", precision="f32")
    assert plan == Plan(8.0, (8, 16), attention, (4, 8))
    alone = predictor(coarse, "cpu")
    ours = Cascade(alone, predictor(refine, "cpu"), plan.mm)
    v = np.random.default_rng(2).random((24, 32, 24), dtype=np.float32)
    assert np.abs(graph(v) - ours(v)).max() < 1e-3
    assert np.abs(alone(v) - ours(v)).max() > 0.1


def test_torch_loads_the_weights_of_the_exported_model(tmp_path):
    nets = exported(tmp_path, True)
    graphs = runtime._graphs(tmp_path, ("coarse", "refine"))
    fresh = Coarse((8, 16), 6), Refine((4, 8), 6)
    for name, net, other in zip(("coarse", "refine"), nets, fresh, strict=True):
        load_weights(other, runtime.weights(graphs[name], name))
        for a, b in zip(net.state_dict().values(), other.state_dict().values(), strict=True):
            assert torch.equal(a, b)


def test_without_gates_the_exported_model_equals_a_network_without_attention(tmp_path):
    coarse, _ = exported(tmp_path, True)
    plain = Coarse((8, 16), 6, attention=False)
    load_weights(plain, {k: v.numpy() for k, v in coarse.state_dict().items()})
    _, graph = runtime.load(tmp_path, "cpu", precision="f32", gates=False)
    v = np.random.default_rng(2).random((24, 32, 24), dtype=np.float32)
    assert np.abs(graph.coarse(v) - predictor(plain, "cpu")(v)).max() < 1e-3
    assert np.abs(graph.coarse(v) - predictor(coarse, "cpu")(v)).max() > 0.01


def test_a_truncated_model_is_rejected(tmp_path):
    exported(tmp_path, True)
    whole = (tmp_path / runtime.WEIGHTS).read_bytes()
    (tmp_path / runtime.WEIGHTS).write_bytes(whole[: len(whole) // 2])
    with pytest.raises(EffaceError, match="no face model"):
        runtime.load(tmp_path, "cpu")


def test_an_untrained_refining_network_keeps_the_coarse_labels():
    torch.manual_seed(1)
    p = torch.rand(1, 6, 8, 8, 8).softmax(1)
    out = Refine((4, 8), 6)(torch.cat((torch.rand(1, 1, 8, 8, 8), p), 1)).softmax(1)
    assert torch.equal(out.argmax(1), p.argmax(1))


@given(st.tuples(*[st.integers(-40, 70)] * 3), st.tuples(*[st.integers(1, 40)] * 3), st.booleans())
def test_paste_is_the_inverse_of_crop(start, shape, mirrored):
    box = boxes.Box((4,), start, shape, mirrored)
    v = np.random.default_rng(0).random((2, 30, 31, 32)).astype(np.float32)
    part = boxes.crop(v, box, np.array([7.0, 8.0], np.float32))
    assert part.shape == (2, *shape)
    within = np.prod(
        [
            max(0, min(s + n, k) - max(s, 0))
            for s, n, k in zip(start, shape, v.shape[1:], strict=True)
        ]
    )
    assert (part[0] == 7.0).sum() == np.prod(shape) - within
    out = v.copy()
    boxes.paste(out, part + 1, box)
    assert (out != v).sum() == 2 * within
    boxes.paste(out, part, box)
    assert np.array_equal(out, v)


def test_boxes_hold_the_organs_and_right_ears_are_mirrored():
    _, truth = phantom(3, spacing=(2, 2, 2))
    labels = np.asanyarray(nib.as_closest_canonical(truth).dataobj)
    masks_of_labels = np.stack([labels == k for k in range(6)])
    result = boxes.boxes(masks_of_labels, 2.0)
    assert [b.labels for b in result] == [(4,), (4,), (2, 3, 5)]
    assert {b.mirrored: b.start[0] > labels.shape[0] / 3 for b in result[:2]} == {
        True: True,
        False: False,
    }
    for organ, name in zip(((4,), (2, 3, 5)), ("ears", "face"), strict=True):
        within = np.zeros(labels.shape, bool)
        for box in result:
            if box.labels == organ:
                spot = tuple(
                    slice(max(s, 0), s + n) for s, n in zip(box.start, box.shape, strict=True)
                )
                within[spot] = True
        assert not (np.isin(labels, organ) & ~within).any(), name
    masks_of_labels[1:] = False
    assert boxes.boxes(masks_of_labels, 2.0) == []


@given(st.tuples(*[st.integers(0, 60)] * 3), st.tuples(*[st.integers(4, 40)] * 3))
def test_the_box_without_air_contains_all_signal(start, size):
    v = np.zeros((64, 80, 96), np.float32)
    v[tuple(slice(a, a + n) for a, n in zip(start, size, strict=True))] = 0.9
    grid = grids.Grid(v.shape, np.diag([2.0, 2.0, 2.0, 1.0]))
    box = grids.box_without_air(v, grid)
    inside = grids.subgrid(grid, box)
    assert all(n % grids.BLOCK == 0 and n >= grids.MIN_VOXELS for n in inside.shape)
    assert v[box].shape == inside.shape
    # a block with little signal may count as air, but it is within the margin
    assert np.count_nonzero(v[box]) == np.count_nonzero(v)
    corner = apply_affine(inside.affine, [0, 0, 0])
    assert np.allclose(corner, [2.0 * s.start for s in box])


@given(st.integers(0, 2**32 - 1), st.tuples(*[st.floats(0.7, 5.0)] * 3))
def test_brain_labels_near_an_organ_are_removed(seed, spacing):
    rng = np.random.default_rng(seed)
    coarse = rng.choice([0, 1, 1, 2, 5], size=(4, 4, 4)).astype(np.uint8)
    labels = np.asfortranarray(np.kron(coarse, np.ones((4, 4, 4), np.uint8)))
    before = labels.copy()
    masks.clear_of_organs(labels, np.array(spacing))
    to_organ = ndimage.distance_transform_edt(before <= 1, sampling=spacing)
    too_near = (before == 1) & (to_organ <= masks.BRAIN_MARGIN + 1e-6)
    assert (labels == np.where(too_near, 0, before)).all()


@given(st.permutations("RAS"), st.tuples(*[st.booleans()] * 3))
def test_the_input_of_the_network_is_the_same_in_any_orientation(order, flips):
    opposite = {"R": "L", "A": "P", "S": "I"}
    codes = [opposite[c] if f else c for c, f in zip(order, flips, strict=True)]
    img = blob()
    other = reoriented(img, codes)
    inputs = []
    for i in (img, other):
        g = grids.covering(i.shape, i.affine, 3.0, 4)
        inputs.append((g.affine, grids.resample(i.get_fdata(dtype=np.float32), i.affine, g)[0]))
    assert np.allclose(inputs[0][0], inputs[1][0])
    assert np.allclose(inputs[0][1], inputs[1][1], atol=1e-3)


@given(st.permutations("RAS"), st.sampled_from("xyz"), st.floats(-30, 30))
def test_the_grid_follows_a_small_tilt_and_is_upright_for_a_large_one(order, axis, degrees):
    tilt = np.eye(4)
    tilt[:3, :3] = Rotation.from_euler(axis, degrees, degrees=True).as_matrix()
    img = reoriented(blob(), order)
    affine = tilt @ img.affine
    g = grids.covering(img.shape, affine, 3.0, 4)
    assert np.allclose(g.affine[:3, :3].T @ g.affine[:3, :3], 9 * np.eye(3))
    assert np.linalg.det(g.affine) > 0
    upright = np.allclose(g.affine[:3, :3], 3 * np.eye(3))
    own = np.allclose(g.affine[:3, :3], 3 * tilt[:3, :3])
    # at the limit rounding decides, and both are right
    at_limit = abs(abs(degrees) - grids.MAX_TILT) < 1e-6
    assert own or upright if at_limit else own if abs(degrees) < grids.MAX_TILT else upright
    # in both cases the grid contains the field of view
    corners = np.array(np.meshgrid(*[(-0.5, n - 0.5) for n in img.shape])).reshape(3, -1).T
    at = apply_affine(np.linalg.inv(g.affine) @ affine, corners)
    assert (at > -0.51).all()
    assert (at < np.array(g.shape) - 0.49).all()


@given(st.floats(0.1, 50), st.floats(-100, 100))
def test_normalised_values_do_not_depend_on_the_scale(slope, inter):
    v = blob().get_fdata(dtype=np.float32)
    inside = np.ones(v.shape, bool)
    assert np.allclose(
        grids.normalise(v, inside), grids.normalise(v * slope + inter, inside), atol=2e-2
    )


def test_labels_resampled_to_the_image_keep_place_and_volume():
    img = reoriented(blob(), "PIR")
    g = grids.covering(img.shape, img.affine, 2.0, 8)
    at = np.stack(np.meshgrid(*map(np.arange, g.shape), indexing="ij"), -1)
    world = apply_affine(g.affine, at)
    p = np.zeros((6, *g.shape), np.float32)
    p[1] = np.linalg.norm(world - [30, 40, 60], axis=-1) < 12
    p[0] = 1 - p[1]
    labels = grids.resample_labels(p, p > 0.5, g, img.shape, img.affine)
    centre = apply_affine(img.affine, np.argwhere(labels == 1)).mean(0)
    volume = (labels == 1).sum() * abs(np.linalg.det(img.affine[:3, :3]))
    assert np.allclose(centre, [30, 40, 60], atol=1)
    assert volume == pytest.approx(4 / 3 * np.pi * 12**3, rel=0.12)


def test_a_4d_image_with_nan_gives_a_scaled_finite_volume():
    v = np.ones((4, 4, 4, 3), np.float32)
    v[0, 0, 0, 1] = np.nan
    out = grids.volume(v, 2.0, 1.0)
    assert out.shape == (4, 4, 4)
    assert out[1, 1, 1] == 3.0
    assert np.isfinite(out).all()


def test_values_of_a_grid_at_the_voxels_of_an_image():
    """A plane on the grid is the same plane at every voxel that lies within, in world mm."""
    slope = np.array([0.2, -0.1, 0.05])
    grid = grids.Grid((30, 20, 25), nib.affines.from_matvec(2 * np.eye(3), [-20, 5, -30]))
    at = np.stack(np.indices(grid.shape), -1)
    plane = (nib.affines.apply_affine(grid.affine, at) @ slope).astype(np.float32)
    turn = Rotation.from_euler("xyz", [10, -20, 70], degrees=True).as_matrix()
    affine = nib.affines.from_matvec(1.5 * turn, [-10, 20, 10])
    got = grids.resample_values(plane, grid, (12, 9, 7), affine)
    world = nib.affines.apply_affine(affine, np.stack(np.indices(got.shape), -1))
    index = nib.affines.apply_affine(np.linalg.inv(grid.affine), world)
    within = ((index >= 0) & (index <= np.array(grid.shape) - 1)).all(-1)
    assert 0 < within.sum() < within.size
    assert np.allclose(got[within], (world @ slope)[within], atol=1e-3)
    assert (got[((index < -1) | (index > np.array(grid.shape))).any(-1)] == 0).all()


@pytest.mark.parametrize("edge", ["nearest", "constant"])
@pytest.mark.parametrize("order", list(permutations(range(3))))
def test_interpolation_axis_by_axis_equals_that_of_scipy(order, edge):
    random = np.random.default_rng(sum(order) + order[0])
    for flips in product((1, -1), repeat=3):
        v = random.random((21, 30, 17)).astype(np.float32)
        matrix = np.zeros((3, 3))
        matrix[range(3), order] = np.array(flips) * random.uniform(0.4, 2.2, 3)
        offset = np.where(np.array(flips) > 0, 0, np.array(v.shape) - 1) + random.uniform(-2, 2, 3)
        ours = grids._interpolate(v, matrix, offset, (25, 19, 33), edge)
        theirs = ndimage.affine_transform(
            v, matrix, offset, output_shape=(25, 19, 33), order=1, mode=edge
        )
        np.testing.assert_allclose(ours, theirs, atol=2e-6)


def test_the_default_precision_on_a_cpu_gives_almost_the_same_labels():
    img, _ = phantom(4, spacing=(2, 2, 2))
    model = Segmenter.load(None, "cpu", 2)
    _, exact = runtime.load(resources.models(), "cpu", 2, "f32")
    a = model.segment(img).labels
    b = Segmenter(exact, model.plan).segment(img).labels
    assert (a != b).sum() < 0.002 * (b > 0).sum()


@pytest.mark.parametrize("name", ["RAS", "LPS", "ALS", "PRS"])
@pytest.mark.parametrize("without", [(), ("mouth",), ("mouth", "left ear", "right ear")])
def test_the_orientation_of_a_head_is_estimated_without_its_mouth_too(name, without):
    labels, affine = head_of_parts(without=without)
    header = orientation.undo(affine, orientation.inverse(name))
    assert orientation.estimate(labels, header) == name


@pytest.mark.parametrize("name", ["RAS", "LPS", "PRS"])
@pytest.mark.parametrize("thick", [1, 3])
def test_the_orientation_of_a_slab_is_found_by_segmenting_it_in_other_orientations(name, thick):
    img, truth = phantom(5, spacing=(2, 2, 2))
    eyes = np.argwhere(np.asarray(truth.dataobj) == 2)[:, 2]
    slab = img.slicer[:, :, int(eyes.min()) - 10 :: thick]
    reoriented_slab = nib.Nifti1Image(
        np.asanyarray(slab.dataobj), orientation.undo(slab.affine, orientation.inverse(name))
    )
    result = Segmenter.load(None, "cpu", 2).segment(reoriented_slab)
    assert result.orientation == name
    assert result.settled


@pytest.mark.parametrize("seed", [3, 5, 8])
def test_labels_of_a_slab_agree_with_those_of_the_whole_head(seed):
    """The mouth, outside the field of view, is not labelled."""
    img, _ = phantom(seed, spacing=(2, 2, 2))
    model = Segmenter.load(None, "cpu", 2)
    whole = model.segment(img).labels
    eyes, brain = (np.argwhere(whole == LABELS[o])[:, 2] for o in ("eyes", "brain"))
    first, last = int(np.median(eyes)), int(brain.max())
    slab = model.segment(img.slicer[:, :, first:last])
    assert slab.components["mouth"] == 0
    a, b = slab.labels == LABELS["brain"], whole[:, :, first:last] == LABELS["brain"]
    assert 2 * (a & b).sum() / (a.sum() + b.sum()) > 0.95


@given(st.tuples(*[st.integers(1, 40)] * 3), st.sampled_from([2.0, 4.0]))
def test_padding_reaches_the_smallest_extent_and_keeps_all_values(blocks, mm):
    v = np.random.default_rng(0).random([grids.BLOCK * n for n in blocks], np.float32)
    out, own = grids.padded(v, mm)
    assert np.array_equal(out[own], v)
    assert np.count_nonzero(out) == np.count_nonzero(v)
    assert all(n % grids.BLOCK == 0 for n in out.shape)
    assert all(n * mm >= room for n, room in zip(out.shape, grids.MIN_EXTENT_MM, strict=True))


def test_the_runtime_sends_no_telemetry(tmp_path):
    code = """
import os, sys
os.fork = None  # telemetry would be sent by a fork from a thread
from efface.segment import Segmenter
Segmenter.load(device="cpu")
assert sys.modules["openvino"]
assert sys.modules["openvino_telemetry"] is None
"""
    home = {**os.environ, "HOME": str(tmp_path)}
    done = subprocess.run(
        [sys.executable, "-c", code], env=home, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    # telemetry would store its client number here
    assert not (tmp_path / "intel").exists()
