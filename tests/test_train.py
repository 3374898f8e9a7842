"""Training: data checks, augmentation, stopping and continuing, export."""

from dataclasses import replace
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
import torch
from nibabel.affines import apply_affine

from efface.errors import EffaceError
from efface.phantom import phantom
from efface.segment import Plan, Segmenter, calibration
from efface.segment.cascade import Cascade
from efface.segment.network import predictor
from efface.train import (
    agree,
    calibrate,
    combine,
    data,
    evaluate,
    export,
    label,
    loop,
    refine,
    tables,
    transform,
)
from efface.train.augment import example

TINY = loop.Settings(
    mm=6.0,
    shape=(32, 32, 32),
    coarse_widths=(4, 8),
    attention=True,
    steps=5,
    learning_rate=0.01,
    warmup=2,
    decay=0.0,
    average=0.9,
    organ_weight=2.0,
    unchanged=0.4,
    refine_widths=(4, 6),
    refine_steps=3,
    refine_learning_rate=0.01,
    refine_unchanged=0.7,
    phantoms=0,
    seed=3,
    checkpoint_every=2,
    validate_every=5,
)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    heads = tmp_path_factory.mktemp("heads")
    for seed in (1, 2):
        data.save_head(heads, f"P{seed}_T1w", *phantom(seed, spacing=(5, 5, 5)))
    return heads


def test_heads_and_labels_are_resampled_and_cached(folder, tmp_path):
    heads = data.cached(folder, tmp_path, 6.0)
    assert [h.name for h in heads] == ["P1_T1w", "P2_T1w"]
    assert all(set(np.unique(h.labels)) == set(range(6)) for h in heads)
    again = data.cached(folder, tmp_path, 6.0)
    assert all(np.array_equal(a.image, b.image) for a, b in zip(heads, again, strict=True))


def test_invalid_training_data_are_rejected(folder, tmp_path):
    with pytest.raises(EffaceError, match="no heads"):
        data.find(tmp_path)
    img, labels = phantom(1, spacing=(8, 8, 8))
    nib.save(img, tmp_path / "X_T1w.nii.gz")
    with pytest.raises(EffaceError, match="no label map"):
        data.find(tmp_path)
    wrong = nib.Nifti1Image(np.full(labels.shape, 9, np.uint8), labels.affine)
    nib.save(wrong, tmp_path / "X_labels.nii.gz")
    with pytest.raises(EffaceError, match="labels must be"):
        data.cached(tmp_path, tmp_path / "cache", 6.0)


def test_split_keeps_a_person_together():
    blank = np.zeros((2, 2, 2), np.uint8)
    heads = [data.Head(f"P{p}_ses-{s}_T1w", blank, blank) for p in range(60) for s in (1, 2)]
    training, validation = data.split(heads)
    people = [{h.name.split("_")[0] for h in part} for part in (training, validation)]
    assert all(people)
    assert not people[0] & people[1]


def test_augmentation_is_reproducible_by_seed_and_varies(folder, tmp_path):
    head = data.cached(folder, tmp_path, 6.0)[0]
    first, again, other = (example(head, (32, 32, 32), s) for s in (5, 5, 6))
    # not to the last bit: the order of sums depends on the threads
    torch.testing.assert_close(first[0], again[0], atol=1e-4, rtol=0)
    assert torch.equal(first[1], again[1])
    assert not torch.equal(first[0], other[0])


def test_every_augmentation_is_a_finite_labelled_image(folder, tmp_path):
    head = data.cached(folder, tmp_path, 6.0)[1]
    for seed in range(60):
        x, y = example(head, (32, 32, 32), seed)
        assert x.shape == (1, 1, 32, 32, 32)
        assert y.shape == (1, 32, 32, 32)
        assert torch.isfinite(x).all()
        assert 0 <= int(y.min()) <= int(y.max()) <= 5


def test_a_stopped_training_continues_with_the_same_result(folder, tmp_path):
    heads = data.cached(folder, tmp_path, 6.0)
    whole = loop.train(heads, TINY, tmp_path / "a.pt", tmp_path / "a.csv", report=lambda _: None)
    parts = None
    calls = 0
    while parts is None:
        parts = loop.train(
            heads, TINY, tmp_path / "b.pt", tmp_path / "b.csv", report=lambda _: None, seconds=0
        )
        calls += 1
    assert calls == TINY.steps
    assert whole is not None
    for a, b in zip(whole.state_dict().values(), parts.state_dict().values(), strict=True):
        assert torch.equal(a, b)


class OffByOne(torch.nn.Module):
    """A coarse network for :func:`label_images` that shifts every label by a voxel."""

    def forward(self, x):
        values = torch.arange(6).view(1, 6, 1, 1, 1) / 5
        return torch.roll(-300 * (x - values) ** 2, 1, 3)


def label_images(folder, tmp_path):
    heads = data.cached(folder, tmp_path, 6.0)
    return [replace(h, image=h.labels * np.uint8(data.SCALE // 5)) for h in heads]


@pytest.mark.slow
def test_the_refining_network_learns_the_errors_of_the_coarse_one(folder, tmp_path):
    heads = label_images(folder, tmp_path)
    settings = replace(TINY, refine_widths=(8, 16), refine_steps=150, refine_unchanged=1.0)
    paths = tmp_path / "refine.pt", tmp_path / "refine.csv"
    second = refine.train(OffByOne(), heads, settings, *paths, report=lambda _: None)
    coarse = predictor(OffByOne(), "cpu")
    before, after = (
        evaluate.dice_of(heads, Segmenter(Cascade(coarse, c, 6.0), Plan(6.0, (4, 8), True)))
        for c in (None, predictor(second, "cpu"))
    )
    assert after["ears"] > before["ears"] + 0.05
    assert after["eyes"] > before["eyes"] + 0.05


def test_a_stopped_training_of_the_refining_network_continues_too(folder, tmp_path):
    heads = label_images(folder, tmp_path)
    settings = replace(TINY, refine_unchanged=0.5)
    quiet = {"report": lambda _: None}
    whole = refine.train(
        OffByOne(), heads, settings, tmp_path / "a.pt", tmp_path / "a.csv", **quiet
    )
    path = tmp_path / "b.pt", tmp_path / "b.csv"
    stopped = (
        refine.train(OffByOne(), heads, settings, *path, **quiet, seconds=0) for _ in range(9)
    )
    parts = next(net for net in stopped if net is not None)
    for a, b in zip(whole.state_dict().values(), parts.state_dict().values(), strict=True):
        assert torch.equal(a, b)


@pytest.mark.slow
def test_the_exported_model_is_loaded_and_evaluated(folder, tmp_path):
    heads = data.cached(folder, tmp_path, 6.0)
    curve = tmp_path / "c.csv"
    coarse = loop.train(heads, TINY, tmp_path / "c.pt", curve, report=lambda _: None)
    second = refine.train(coarse, heads, TINY, tmp_path / "d.pt", curve, report=lambda _: None)
    steps = [line.split(",")[0] for line in curve.read_text().splitlines()[1:]]
    assert steps == ["2", "4", "5", "7", "8"]  # one curve of both
    export.weights(coarse, second, TINY, tmp_path, {})
    export.curve_picture(curve, tmp_path / "curve.png")
    segmenter = Segmenter.load(tmp_path, "cpu")
    assert segmenter.plan == Plan(6.0, (4, 8), True, (4, 6))
    assert (tmp_path / "curve.png").stat().st_size > 500
    rows = list(evaluate.heads(folder, segmenter))
    lines = tables.cases(rows).splitlines()
    assert [line.split("\t")[0] for line in lines] == [
        "head",
        "P1_T1w",
        "P2_T1w",
        "mean",
        "median",
        "worst",
    ]


def test_a_missing_model_is_rejected(tmp_path):
    with pytest.raises(EffaceError, match="no face model"):
        Segmenter.load(Path(tmp_path))


def test_drafts_keep_existing_labels_and_list_unreadable_images(tmp_path):
    img, known = phantom(5, spacing=(3, 3, 3))
    data.save_head(tmp_path, "done_T1w", img, known)
    before = (tmp_path / "done_labels.nii.gz").read_bytes()
    nib.save(img, tmp_path / "new_T1w.nii.gz")
    (tmp_path / "torn_T1w.nii.gz").write_bytes(b"\x1f\x8b torn")
    rows = list(label.drafts(tmp_path, Segmenter.load(device="cpu")))
    assert [r.head for r in rows] == ["new_T1w", "torn_T1w"]
    assert "truncated or damaged" in rows[1].note
    assert (tmp_path / "done_labels.nii.gz").read_bytes() == before
    draft = np.asanyarray(nib.load(tmp_path / "new_labels.nii.gz").dataobj)
    truth = np.asanyarray(known.dataobj)
    for k in range(1, 6):
        both = ((draft == k) & (truth == k)).sum()
        assert 2 * both / ((draft == k).sum() + (truth == k).sum()) > 0.6
    assert label.table(rows).splitlines()[1].startswith("torn_T1w")


def test_models_that_agree_correct_isolated_labels_and_keep_borders():
    labels = np.zeros((20, 20, 20), np.uint8)
    labels[2:10, 2:18, 2:18] = 1
    labels[16:19, 8:12, 8:12] = 1  # a lump far from the brain
    predicted = np.zeros_like(labels)
    predicted[2:9, 2:18, 2:18] = 1  # one voxel less at the border
    out, wrong = agree.corrected(labels, [predicted, predicted])
    assert wrong.tolist() == [0, 48, 0, 0, 0, 0]
    assert (out[2:10] == labels[2:10]).all()
    assert not out[16:].any()
    other = predicted.copy()
    other[17, 9, 9] = 1  # the models do not agree about this place
    assert agree.corrected(labels, [predicted, other])[1].sum() < 48


def test_certainty_is_calibrated_to_the_share_of_correct_labels():
    rng = np.random.default_rng(0)
    certainty = rng.uniform(0.55, 0.99, 4000)
    correct = rng.random(4000) < certainty**4  # overconfident
    offset, slope = calibrate.fit(certainty, correct)
    for s in (0.7, 0.8, 0.9):
        assert abs(calibration.Curve(offset, slope).confidence(s) - s**4) < 0.06
    assert calibrate.fit(np.array([]), np.array([], bool)) == (0.0, 1.0)


@pytest.mark.slow
def test_combined_transformations_keep_labels_on_the_organs():
    img, labels = phantom(1, spacing=(4, 4, 4))
    head = transform.head(img, np.asarray(labels.dataobj))
    cases = list(combine.cases(head, 40))
    again = list(combine.cases(head, 40))
    for case, same in zip(cases, again, strict=True):
        assert case.image.shape == case.truth.shape
        assert np.array_equal(case.image.dataobj, same.image.dataobj)
        assert {1, 2} <= set(np.unique(case.truth)), case.name
        # the true eyes are in front of the true brain, unless the header has a wrong orientation
        at = {k: apply_affine(case.image.affine, np.argwhere(case.truth == k)) for k in (1, 2)}
        if "unknown to the header" not in case.name:
            assert at[2].mean(0)[1] > at[1].mean(0)[1] + 20, case.name
    words = " ".join(case.name for case in cases)
    assert all(w in words for w in ("T2w-like", "enhanced", "tumour", "x0.78", "tilted", "slice"))
