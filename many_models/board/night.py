"""What the page Tonight says: how many items are in which state, what forecasts were worth, what costs most. Pure."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from many_models.board import charts
from many_models.board.items import STATES

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from datetime import datetime

    from numpy.typing import NDArray

    from many_models.board.items import Items

COSTLY = 10
LEVEL = 0.8


@dataclass(frozen=True, slots=True)
class StageRun:
    """One run of a stage as Dagster has recorded it; times are UTC without a zone."""

    run_id: str
    stage: str
    status: str
    started: datetime | None
    seconds: float
    done: int | None
    failed: int | None


@dataclass(frozen=True, slots=True)
class Realised:
    """WAPE, bias and coverage: of the last weeks beside what the backtest promised. None where nothing is known."""

    name: str
    title: str
    now: float | None
    promised: float | None
    chart: charts.Chart


def counted_states(items: Items, rows: NDArray[np.int64]) -> dict[str, int]:
    """State → the number of items in it, in the order of STATES."""
    values, counts = np.unique(items.frame["state"].to_numpy(str)[rows], return_counts=True)
    found = dict(zip(values.tolist(), counts.tolist(), strict=True))
    return {state: found.get(state, 0) for state in STATES if found.get(state)}


def costliest(items: Items, rows: NDArray[np.int64], most: int = COSTLY) -> list[int]:
    """The rows of the items whose errors cost most."""
    cost = items.frame["cost"].to_numpy(float)[rows]
    order = np.argsort(-np.where(np.isnan(cost), -np.inf, cost), kind="stable")[:most]
    return [int(rows[at]) for at in order if cost[at] > 0]


def realised(items: Items, rows: NDArray[np.int64]) -> list[Realised]:
    """The three measures by the week in which forecasts were made, over all `rows`."""
    weekly = items.weekly[items.weekly["series_id"].isin(items.frame["series_id"].to_numpy()[rows])]
    sums = weekly.groupby("week")[["periods", "actual", "abs_error", "error", "covered"]].sum().sort_index()
    weeks = [f"{week:%Y-%m-%d}" for week in sums.index]
    promised = _promised(items, rows)
    found = list[Realised]()
    for name, title, over, under in (
        ("wape", "WAPE", "abs_error", "actual"),
        ("bias", "Bias", "error", "actual"),
        ("cover80", "Coverage of the 80 % interval", "covered", "periods"),
    ):
        values = [_share(a, b) for a, b in zip(sums[over].tolist(), sums[under].tolist(), strict=True)]
        now = _share(float(sums[over].sum()), float(sums[under].sum()))
        against = LEVEL if name == "cover80" else promised.get(name)
        found.append(Realised(name, title, now, promised.get(name), charts.weeks_chart(weeks, values, against)))
    return found


def _promised(items: Items, rows: NDArray[np.int64]) -> dict[str, float | None]:
    """What the backtest says of `rows` together, weighted by volume (coverage: each item the same)."""
    frame = items.frame.iloc[rows]
    volume = frame["volume"].to_numpy(float)
    found = dict[str, float | None]()
    for name in ("wape", "bias", "cover80"):
        values = frame[name].to_numpy(float)
        weight = np.where(np.isfinite(values), 1.0 if name == "cover80" else volume, 0.0)
        found[name] = _share(float((np.nan_to_num(values) * weight).sum()), float(weight.sum()))
    return found


def _share(over: float, under: float) -> float | None:
    return over / under if under > 0 and np.isfinite(over) else None


def newest_of_each(runs: Sequence[StageRun]) -> list[StageRun]:
    """The newest run of each stage, and every one that failed."""
    last = {run.stage: run.run_id for run in runs}
    return [run for run in runs if run.status != "SUCCESS" or last[run.stage] == run.run_id]


def cost_of(runs: Sequence[StageRun], cores: int, price: float) -> tuple[float, float]:
    """Seconds and cost of a night's runs, on `cores` cores at a `price` an hour each."""
    seconds = sum(run.seconds for run in runs)
    return seconds, seconds / 3600 * cores * price


def scores_of(decisions: Sequence[Mapping[str, Any]]) -> dict[str, float | None]:
    """The mean scores of challengers and champions over the series that have both."""
    both = [
        (row["challenger_score"], row["champion_score"])
        for row in decisions
        if all(np.isfinite(row.get(name) or np.nan) for name in ("challenger_score", "champion_score"))
    ]
    if not both:
        return {"challenger": None, "champion": None}
    challenger, champion = np.mean(np.array(both, float), axis=0)
    return {"challenger": float(challenger), "champion": float(champion)}
