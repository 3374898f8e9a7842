"""Measure what each step of :class:`efface.segment.options.Options` changes.

Every case is defaced and judged with all steps, and again with each step switched off.
"""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from dataclasses import dataclass, fields, replace
from pathlib import Path

import numpy as np

from efface import nifti, segment
from efface.manifest import Manifest, Scan
from efface.measures import Measures
from efface.segment import Segmentation, Segmenter, runtime, segmentation
from efface.segment.cascade import Array, Cascade, Network
from efface.segment.options import Options
from efface.status import worst
from efface.train import combine, evaluate, transform
from efface.train.evaluate import Row
from efface.train.transform import Case

ALL = "all steps"
DISTORT = ("cut_landmarks", "folded")
"""Steps that follow the segmentation."""
SESSION = "register"
"""The step that needs two scans of a session."""
SECOND = ("second scan", "second scan, head moved")
"""Groups of cases: the second scan of a session."""
KEPT = 16
"""Outputs of each network that are kept while the steps of one case are switched off."""


@dataclass(frozen=True)
class Result:
    """What became of one case with one step switched off."""

    off: str
    """The step, or :data:`ALL`."""
    row: Row


def segmenters(models: Path, device: str, threads: int | None) -> dict[str, Segmenter]:
    """Return the segmenter with all steps, then one without each step, by the step's name."""
    first = Segmenter.load(models, device, threads)
    cascade = _remembered(first.network)
    out = {}
    for step in (ALL, *(f.name for f in fields(Options))):
        options = first.options if step == ALL else replace(first.options, **{step: False})
        network = cascade
        if not options.refine:
            network = replace(cascade, refine=None)
        if not options.attention:
            network = _remembered(runtime.load(models, device, threads, gates=False)[1])
        out[step] = Segmenter(network, first.plan, first.curves, options)
    return out


def _remembered(cascade: Cascade) -> Cascade:
    """The same networks, which keep their last outputs: most steps change no input of them."""

    def keep(network: Network) -> Network:
        outputs: dict[tuple[tuple[int, ...], bytes], Array] = {}

        def run(v: Array) -> Array:
            key = v.shape, v.tobytes()
            if key not in outputs:
                if len(outputs) >= KEPT:
                    outputs.pop(next(iter(outputs)))
                outputs[key] = network(v).copy()
            return outputs[key].copy()

        return run

    refine = keep(cascade.refine) if cascade.refine else None
    return replace(cascade, coarse=keep(cascade.coarse), refine=refine)


def cases(folder: Path, transformed: int, combined: int) -> Iterator[tuple[str, Case]]:
    """Yield the name of a head and a case of it.

    All heads of the folder as they are, and ``combined`` cases of each with several things amiss at
    once; all transformations of the first ``transformed`` heads.
    """
    for i, (name, img, truth) in enumerate(evaluate.known(folder)):
        yield name, Case("as it is", "", img, truth)
        head = transform.head(img, truth)
        for case in combine.cases(head, combined, seed=i):
            yield name, case
        if i < transformed:
            for case in transform.cases(head):
                if case.group != "as it is":
                    yield name, case


def measure(name: str, case: Case, by_step: dict[str, Segmenter]) -> Iterator[Result]:
    """Yield the result of a case with all steps, and with each of them switched off.

    ``by_step``: of :func:`segmenters`. Where a step changes nothing in the segmentation, the result
    is that with all steps.
    """
    seg = by_step[ALL].segment(case.image)
    row, _ = evaluate.measure(name, case, by_step[ALL], seg)
    yield Result(ALL, row)
    for step, segmenter in by_step.items():
        if step in (ALL, SESSION):
            continue
        without = seg if step in DISTORT else segmenter.segment(case.image)
        if step not in DISTORT and _same(seg, without):
            yield Result(step, row)
        else:
            yield Result(step, evaluate.measure(name, case, segmenter, without)[0])


def _same(one: Segmentation, other: Segmentation) -> bool:
    return (
        np.array_equal(one.labels, other.labels)
        and one.confidence == other.confidence
        and (one.orientation, one.inverted, one.roll)
        == (other.orientation, other.inverted, other.roll)
    )


def sessions(folder: Path) -> Iterator[tuple[str, Case, Case]]:
    """Yield the name of a head, its image as it is, and a second scan of the same session.

    The second has few thick slices and another contrast. In one case the head lies as in the first
    scan, in the other it has moved.
    """
    for i, (name, img, truth) in enumerate(evaluate.known(folder)):
        first = Case("as it is", "", img, truth)
        head = transform.head(img, truth)
        yield name, first, combine.thick_slab(head, SECOND[0], seed=i)
        moved = replace(head, affine=combine.motion(i) @ head.affine)
        yield name, first, combine.thick_slab(moved, SECOND[1], seed=i)


def measure_session(
    name: str, first: Case, second: Case, by_step: dict[str, Segmenter]
) -> Iterator[Result]:
    """Yield the result of the second scan of a session, with and without registration."""
    for step in (ALL, SESSION):
        segmenter = by_step[step]
        with tempfile.TemporaryDirectory() as temporary:
            folder = Path(temporary)
            scans = []
            for n, case in enumerate((first, second)):
                file = f"{n}.nii.gz"
                nifti.save(case.image, folder / file)
                spacing = [float(z) for z in case.image.header.get_zooms()[:3]]
                measures: Measures = {"frame_of_reference": "1", "spacing": spacing}
                scans.append(Scan(str(n), str(n), files={"nifti": file}, measures=measures))
            manifest = Manifest("convert", "", tuple(scans))
            register = segmenter.options.register
            labelled = segment.run((folder, manifest), folder, segmenter, register)[1]
            seg = segmentation.read(folder, labelled, second.image)
        known = labelled.measures.get("propagated", {}).get("organs", ())
        row, _ = evaluate.measure(name, second, segmenter, seg, known)
        status = worst(labelled.status, row.status)
        reasons = (*labelled.reasons, *row.reasons)
        yield Result(step, replace(row, status=status, reasons=reasons))
