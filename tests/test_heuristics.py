"""The steps of segmentation and distortion, switched off one at a time."""

import io
from dataclasses import fields, replace

import numpy as np
import pandas as pd
import pytest

from efface import resources
from efface.phantom import phantom
from efface.segment.labels import FEATURES, LABELS
from efface.segment.options import Options
from efface.train import heuristics, tables, transform
from efface.train.evaluate import GEOMETRY, Row

STEPS = [f.name for f in fields(Options)]


def row(name, status, group="as it is", covered=1.0, reasons=()):
    organs = dict.fromkeys(FEATURES, covered)
    dice = dict.fromkeys(LABELS, 0.9)
    geometry = dict.fromkeys(GEOMETRY, 0.0)
    return Row(
        *("P1", group, name, True, dice, organs, organs, 3, 0, geometry, ()),
        *({}, status, reasons),
    )


def read(text):
    return pd.read_csv(io.StringIO(text), sep="\t", keep_default_na=False)


def test_table_of_steps_counts_changes_against_all_steps():
    results = [
        heuristics.Result(heuristics.ALL, row("a", "pass")),
        heuristics.Result(heuristics.ALL, row("b", "review")),
        heuristics.Result("refine", row("a", "review")),
        heuristics.Result("refine", row("b", "pass", covered=0.5)),
        heuristics.Result("padding", row("a", "pass")),
        heuristics.Result("padding", row("b", "fail")),
    ]
    table = read(tables.steps(results)).set_index("off")
    assert list(table.index) == [heuristics.ALL, "refine", "padding"]
    assert list(table["changed"]) == [0, 2, 1]
    assert list(table["pass"]) == [1, 1, 1]
    assert list(table["bad_passed"]) == [0, 1, 0]
    assert list(table["brain_changed"]) == [6, 6, 6]
    assert list(table["covered"]) == [1.0, 0.75, 1.0]


def test_table_of_groups_has_no_figures_for_images_that_are_no_head():
    rows = [
        row("", "pass", reasons=()),
        row("x", "review", reasons=("second", "first")),
        row("y", "review", covered=0.9, reasons=("first",)),
        replace(row("knees", "fail", "no head"), is_head=False),
    ]
    table = read(tables.groups(rows)).set_index("case")
    assert list(table.index) == ["as it is", "no head: knees"]
    assert list(table["n"]) == [3, 1]
    assert float(table.loc["as it is", "covered_eyes"]) == 0.9
    assert table.loc["as it is", "most_frequent_reason"] == "first"
    assert table.loc["no head: knees", "dice_brain"] == ""


@pytest.mark.slow
def test_each_step_is_switched_off_in_turn():
    img, labels = phantom(3, spacing=(3, 3, 3))
    head = transform.head(img, np.asarray(labels.dataobj))
    wrapped = next(c for c in transform.cases(head) if c.group == "phase-wrapped")
    by_step = heuristics.segmenters(resources.models(), "cpu", None)
    results = {r.off: r.row for r in heuristics.measure("P3", wrapped, by_step)}
    assert list(results) == [heuristics.ALL, *(s for s in STEPS if s != heuristics.SESSION)]
    dice = {off: np.nanmean([*r.dice.values()]) for off, r in results.items()}
    # labels of a head in two pieces are worse, as are those of the coarse network alone
    assert dice["unroll"] < dice[heuristics.ALL]
    assert dice["refine"] < dice[heuristics.ALL]
    # the header states the orientation: no other is tried
    assert dice["orientation"] == dice[heuristics.ALL]


@pytest.mark.slow
def test_second_scan_of_a_session_is_judged_with_and_without_registration(tmp_path):
    from efface.train import data

    data.save_head(tmp_path, "P3_T1w", *phantom(3, spacing=(2, 2, 2)))
    pairs = list(heuristics.sessions(tmp_path))
    assert [second.group for _, _, second in pairs] == list(heuristics.SECOND)
    same, moved = (second.image.affine for _, _, second in pairs)
    assert np.linalg.norm((np.linalg.inv(same) @ moved)[:3, 3]) > 5
    by_step = heuristics.segmenters(resources.models(), "cpu", None)
    for name, first, second in pairs:
        results = {r.off: r.row for r in heuristics.measure_session(name, first, second, by_step)}
        assert list(results) == [heuristics.ALL, heuristics.SESSION]
        # the phantom has all organs in both scans: the labels of the first add nothing wrong
        assert not any(r.bad for r in results.values())
