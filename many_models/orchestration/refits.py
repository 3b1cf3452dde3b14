"""When champions are fitted again, every night or in spans of days, and what else follows where a series drifted."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from many_models.data import lake_tables
from many_models.data.packs import packs_of
from many_models.keys import digest

if TYPE_CHECKING:
    from collections.abc import Collection

    import pyarrow as pa

    from many_models.decisions.drift_answers import Drifted
    from many_models.ports import Lake
    from many_models.settings import Settings


def refit_spans(settings: Settings, lake: Lake, series: Collection[str]) -> dict[str, str]:
    """Series → what stands for its dataset in the version that training consumes; none where every new row refits.

    A span is `forecast.refit_every` days of the data, and each pack begins its own on another day, so that a night
    refits about an equal share of packs. With `drift.retrain` an alarm of a series ends its span, and so does what the
    list of openings newly says of it. Where a user's forecaster competes, every new row refits: most of them said all
    that they say when they were fitted.
    """
    from many_models.data import openings

    every, as_of = settings.forecast.refit_every, lake_tables.lake_as_of(lake)
    if every == 1 or as_of is None or _users_compete(settings):
        return {}
    alarms = drift_alarms(settings, lake)
    listed = openings.read(lake, settings.data.keys, settings.data.frequency).of_series(series)
    found = dict[str, str]()
    for pack, names in packs_of(settings, sorted(series)).items():
        span = (as_of.toordinal() + int(digest("refit", pack)[:8], 16) % every) // every
        for name in names:
            found[name] = digest("span", every, span, alarms.get(name, ""), *filter(None, [listed.get(name)]))
    return found


def _users_compete(settings: Settings) -> bool:
    forecast = settings.forecast
    names = {*forecast.custom, *forecast.pooled_custom}
    return bool(names & {*forecast.candidates} if forecast.candidates else names)


def drift_alarms(settings: Settings, lake: Lake) -> dict[str, str]:
    """Series → when its last alarm was, as the newest cutoff of the table `drift` has it; none without `drift.retrain`.

    Only alarms that still mean drift are in it, so a series is fitted again when one comes, and again when it is over:
    by then its backtest has seen the change. What alarmed up to the first cutoff that was watched, the models of that
    night have seen.
    """
    if not (settings.drift.watch and settings.drift.retrain):
        return {}
    rows = lake_tables.read_if_there(lake, lake_tables.DRIFT)
    if rows is None or not rows.num_rows:
        return {}
    first = min(rows["cutoff_date"].unique().to_pylist())
    return {
        row["series_id"]: str(row["alarmed_at"]) for row in _newest(rows) if f"{row['alarmed_at']:%Y-%m-%d}" > first
    }


def drift_answers(settings: Settings, lake: Lake) -> dict[str, Drifted]:
    """Series → its drift, as the newest cutoff of the table `drift` has it; none where `drift.answer` is to ask."""
    if not settings.drift.watch or settings.drift.answer == "ask":
        return {}
    from many_models.decisions.drift_answers import Drifted

    return {row["series_id"]: Drifted.of(row) for row in _drifted(lake)}


def answer_versions(settings: Settings, lake: Lake) -> dict[str, str]:
    """Series → what its predictions consume of its drift: the same from its alarm on until the drift is over."""
    answer = settings.drift.answer
    return {
        name: digest(answer, of.kind, of.direction, of.alarmed_at) for name, of in drift_answers(settings, lake).items()
    }


def _drifted(lake: Lake) -> list[dict[str, Any]]:
    """The rows of series that drifted at the newest cutoff of the table `drift`."""
    rows = lake_tables.read_if_there(lake, lake_tables.DRIFT)
    return _newest(rows) if rows is not None and rows.num_rows else []


def _newest(rows: pa.Table) -> list[dict[str, Any]]:
    import pyarrow.compute as pc

    newest = pc.equal(rows["cutoff_date"], pc.max(rows["cutoff_date"]))
    return rows.filter(pc.and_(newest, rows["drifted"])).to_pylist()
