"""Tables of an evaluation, as TSV."""

from __future__ import annotations

from collections.abc import Sequence

import pandas as pd

from efface import tables
from efface.segment.labels import FEATURES, LABELS
from efface.train import combine, heuristics
from efface.train.evaluate import GEOMETRY, Row
from efface.train.heuristics import ALL, Result

FIGURES = (*(f"dice_{o}" for o in LABELS), *(f"covered_{o}" for o in FEATURES))
POSSIBLE = tuple(f"possible_{o}" for o in FEATURES)
UNGROUPED = ("as it is", combine.GROUP, *heuristics.SECOND)
"""Groups of cases that have lines of their own in :func:`steps`."""
STATUSES = ("pass", "review", "fail")


def frame(rows: Sequence[Row]) -> pd.DataFrame:
    """Return one line a case; figures are NaN where they are not defined."""
    return pd.DataFrame(
        {
            "head": r.head,
            "case": r.group,
            "variant": r.name,
            "is_head": r.is_head,
            **{f"dice_{o}": v for o, v in r.dice.items()},
            **{f"covered_{o}": v for o, v in r.coverage.items()},
            **{f"possible_{o}": v for o, v in r.possible.items()},
            "brain_changed": r.brain_changed,
            **r.geometry,
            "missed": ",".join(r.missed),
            "organs_missed": len(r.missed),
            "status": r.status,
            "reasons": "; ".join(r.reasons),
            "first_reasons": list(r.reasons),
            "bad_passed": r.status == "pass" and r.bad,
        }
        for r in rows
    )


def cases(rows: Sequence[Row]) -> str:
    """Return one line a case, then mean, median and worst."""
    lines = frame(rows)
    figures = [*FIGURES, *POSSIBLE]
    passed = int((lines["status"] == "pass").sum())
    summary = lines[figures].agg(["mean", "median", "min"]).rename({"min": "worst"})
    summary = summary.rename_axis("head").reset_index()
    total = {
        "brain_changed": int(lines["brain_changed"].sum()),
        "missed": str(lines["organs_missed"].sum()),
        "status": f"{passed} of {len(lines)} pass",
    }
    lines[figures] = _text(lines[figures], 4)
    lines[list(GEOMETRY)] = _text(lines[list(GEOMETRY)], 3)
    summary[figures] = _text(summary[figures], 4)
    out = pd.concat([lines.astype(object), summary.astype(object)], ignore_index=True)
    mean = len(lines)
    for name, value in total.items():
        out.loc[mean, name] = value
    columns = ("head", "case", "variant", *figures, "brain_changed", *GEOMETRY, "missed")
    return tables.text(out.fillna(""), (*columns, "status", "reasons"))


def groups(rows: Sequence[Row]) -> str:
    """Return one line a transformation: mean Dice, least coverage, counts of each status."""
    lines = frame(rows)
    kind = lines["case"].where(lines["is_head"], lines["case"] + ": " + lines["variant"])
    by = lines.groupby(kind, sort=False)
    # images that are no head have labels of nothing
    heads = by["is_head"].first()
    out = pd.DataFrame({"n": by.size()})
    for name in FIGURES:
        value = by[name].mean() if name.startswith("dice_") else by[name].min()
        out[name] = _text(value.where(heads).to_frame(), 4)[name]
    for name, value in (
        ("most_brain_changed", by["brain_changed"].max()),
        ("missed", by["organs_missed"].sum()),
    ):
        out[name] = value.astype(object).where(heads, "")
    for status in STATUSES:
        out[status] = lines["status"].eq(status).groupby(kind, sort=False).sum()
    out["bad_passed"] = by["bad_passed"].sum()
    reasons = lines["first_reasons"].explode().dropna()
    counted = reasons.groupby(kind.loc[reasons.index], sort=False)
    frequent = counted.agg(lambda r: r.value_counts(sort=False).idxmax())
    out["most_frequent_reason"] = frequent.reindex(out.index).fillna("")
    return tables.text(out.rename_axis("case").reset_index(), ("case", *out.columns))


def steps(results: Sequence[Result]) -> str:
    """Return one line for each group of cases and each step switched off.

    Counts of pass, review and fail; ``bad_passed``: cases that pass though a part of the face would
    stay; ``changed``: cases with another status than with all steps; ``brain_changed``: voxels of
    the true brain replaced; ``covered``: mean share of the true organs that is replaced.
    """
    lines = frame([r.row for r in results])
    lines["off"] = [r.off for r in results]
    kind = lines["case"].where(lines["case"].isin(UNGROUPED), "transformed")
    covered = [n for n in FIGURES if n.startswith("covered_")]
    lines["covered"] = lines[covered].mean(axis="columns")
    case = lines[["head", "case", "variant"]].agg(" ".join, axis="columns")
    with_all = lines["off"] == ALL
    before = lines["status"][with_all].set_axis(case[with_all])
    lines["changed"] = lines["status"] != case.map(before)
    for status in STATUSES:
        lines[status] = lines["status"] == status
    by = lines.groupby([kind.rename("cases"), "off"], sort=False)
    counts = by[[*STATUSES, "bad_passed", "changed", "brain_changed"]].sum()
    counts.insert(0, "n", by.size())
    counts["covered"] = _text(by[["covered"]].mean(), 4)["covered"]
    counts = counts.loc[list(kind.drop_duplicates())].reset_index()
    return tables.text(counts, list(counts.columns))


def _text(figures: pd.DataFrame, digits: int) -> pd.DataFrame:
    """Figures as text with a fixed number of digits, empty for NaN."""
    return figures.map(lambda v: "" if pd.isna(v) else f"{v:.{digits}f}")
