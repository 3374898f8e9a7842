"""Measure what each step of :class:`efface.segment.options.Options` changes.

Every case is defaced and judged with all steps, and again with each step switched off. Cases: all
heads as they are, with several things amiss at once, and one variant of each transformation.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, fields, replace
from pathlib import Path

import numpy as np
import pandas as pd

from efface.segment import Segmentation, Segmenter
from efface.segment.options import Options
from efface.train import combine, evaluate, transform
from efface.train.evaluate import Row
from efface.train.transform import Case

ALL = "all steps"
DISTORT = ("cut_landmarks", "folded")
"""Steps that follow the segmentation."""


@dataclass(frozen=True)
class Result:
    """What became of one case with one step switched off."""

    off: str
    """The step, or :data:`ALL`."""
    row: Row


def cases(folder: Path, transformed: int, combined: int) -> Iterator[tuple[str, Case]]:
    """Yield the name of a head and a case of it.

    ``transformed``: heads of which one variant of each transformation is taken; ``combined``: cases
    of several things amiss at once, of each head.
    """
    for i, (name, img, truth) in enumerate(evaluate.known(folder)):
        yield name, Case("as it is", "", img, truth)
        head = transform.head(img, truth)
        for case in combine.cases(head, combined, seed=i):
            yield name, case
        if i < transformed:
            groups: set[str] = set()
            for case in transform.cases(head):
                if case.group not in groups:
                    groups.add(case.group)
                    yield name, case


def measure(name: str, case: Case, segmenter: Segmenter) -> Iterator[Result]:
    """Yield the result of a case with all steps, and with each of them switched off.

    Where a step changes nothing in the segmentation, the result is that with all steps.
    """
    given = segmenter.segment(case.image)
    row, _ = evaluate.measure(name, case, segmenter, given)
    yield Result(ALL, row)
    for step in fields(Options):
        options = replace(segmenter.options, **{step.name: False})
        network = segmenter.network
        if not options.refine:
            network = replace(network, refine=None)
        other = Segmenter(network, segmenter.plan, segmenter.curves, options)
        without = given if step.name in DISTORT else other.segment(case.image)
        if step.name not in DISTORT and _same(given, without):
            yield Result(step.name, row)
        else:
            yield Result(step.name, evaluate.measure(name, case, other, without)[0])


def _same(one: Segmentation, other: Segmentation) -> bool:
    return (
        np.array_equal(one.labels, other.labels)
        and one.confidence == other.confidence
        and (one.orientation, one.inverted, one.roll)
        == (other.orientation, other.inverted, other.roll)
    )


def table(results: Sequence[Result]) -> str:
    """Return one line for each step switched off, as TSV.

    Counts of pass, review and fail; ``bad_passed``: cases that pass though a part of the face would
    stay; ``changed``: cases with another status than with all steps; ``brain_changed``: voxels of
    the true brain replaced; ``covered``: mean share of the true organs that is replaced.
    """
    lines = pd.DataFrame(
        {
            "off": r.off,
            "case": f"{r.row.head} {r.row.group} {r.row.name}",
            "status": r.row.status,
            "bad_passed": r.row.status == "pass" and r.row.bad,
            "brain_changed": r.row.brain_changed,
            "covered": pd.Series(r.row.coverage).mean(),
        }
        for r in results
    )
    whole = lines[lines["off"] == ALL].set_index("case")["status"]
    lines["changed"] = lines["status"] != lines["case"].map(whole)
    counts = lines.assign(**{s: lines["status"] == s for s in ("pass", "review", "fail")})
    sums = ["pass", "review", "fail", "bad_passed", "changed", "brain_changed"]
    by = counts.groupby("off", sort=False)
    out = by[sums].sum()
    out.insert(0, "n", by.size())
    out["covered"] = by["covered"].mean().round(4)
    return str(out.to_csv(sep="\t", lineterminator="\n"))
