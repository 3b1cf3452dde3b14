"""What came of the series in a run: done, served by a fallback, failed, set aside or silent; and whether any was."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from many_models.data import lake_tables
from many_models.ports import Filter

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from many_models.operations.day import StageReport
    from many_models.ports import Lake

SILENT = "silent since"  # how the table of series begins to tell why an active series is stale
SERIES_STAGES = ("store_item_datasets", "trained_models", "promoted_models", "predictions")


def outcome_of(lake: Lake) -> dict[str, int]:
    """The number of series that have a model's forecast at the newest cutoff (`done`), that have a `fallback`'s, that
    `failed` at a stage or are `set_aside`, of the active ones those that are `stale`: silent for long, and those whose
    known covariates are not known as far as the horizon and were `assumed`.
    """
    as_of = lake_tables.lake_as_of(lake)
    where = Filter(among={"cutoff_date": [f"{as_of:%Y-%m-%d}" if as_of else ""]})
    predictions = lake_tables.records(lake, lake_tables.PREDICTIONS, where, ["series_id", "fallback", "known_repeated"])
    status = lake_tables.records(lake, lake_tables.SERIES_STATUS)
    series = lake_tables.records(lake, lake_tables.SERIES, columns=["series_id", "active", "why"])
    return counted(predictions, status, series)


def counted(
    predictions: Sequence[Mapping[str, Any]], status: Sequence[Mapping[str, Any]], series: Sequence[Mapping[str, Any]]
) -> dict[str, int]:
    """See `outcome_of`; the rows are those of the lake's tables."""
    fallback_of = {row["series_id"]: row["fallback"] for row in predictions}
    aside = {row["series_id"] for row in status if row["set_aside"]}
    fallbacks = {name for name, fallback in fallback_of.items() if fallback}
    return {
        "done": len(fallback_of) - len(fallbacks),
        "fallback": len(fallbacks),
        "failed": len({row["series_id"] for row in status} - aside),
        "set_aside": len(aside),
        "stale": sum(bool(row["active"]) and str(row["why"] or "").startswith(SILENT) for row in series),
        "assumed": len({row["series_id"] for row in predictions if row["known_repeated"]}),
    }


def line_of_outcome(outcome: Mapping[str, int]) -> str:
    """The outcome for people: what there is none of is left out, but for what was done."""
    words = {
        "done": "forecast by a model",
        "fallback": "by a fallback",
        "failed": "failed",
        "set_aside": "set aside",
        "stale": "silent for long, forecast all the same",
        "assumed": "with known covariates taken as usual where the future says nothing of them",
    }
    parts = [f"{outcome[name]} {word}" for name, word in words.items() if outcome.get(name) or name == "done"]
    return f"series: {', '.join(parts)}"


def nothing_forecast(reports: Sequence[StageReport], prediction_rows: int) -> str:
    """Why a run has come to nothing, "" where it has not: no series has a forecast, or a stage failed for all, each
    time that it was tried.
    """
    did_some = {report.stage for report in reports if report.done}
    for report in reports:
        if report.stage in SERIES_STAGES and report.failed and report.stage not in did_some:
            return f"nothing was forecast: {report.stage} failed for all of its {report.failed} series. {report.error}"
    return "" if prediction_rows else "nothing was forecast: no series has a forecast at the newest cutoff"
