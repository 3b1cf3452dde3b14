"""The state of every stage, read from the instance, the lake and the source; deciding is `due`'s."""

from __future__ import annotations

import math
from collections import defaultdict
from datetime import datetime, timedelta
from typing import TYPE_CHECKING

import dagster as dg

from many_models.data import lake_tables
from many_models.data.aggregation import is_coarse, whole_periods_until
from many_models.data.periods import (
    COMPLETE_OVER,
    end_offset,
    last_complete_day,
    period_key,
    period_of_key,
    period_start,
    period_starts,
)
from many_models.errors import InputError
from many_models.keys import digest
from many_models.orchestration import partitions
from many_models.orchestration.due import StageState
from many_models.orchestration.event_log import history
from many_models.orchestration.forecast_spec import spec_of
from many_models.orchestration.ingestion import awaited
from many_models.orchestration.stage_run import (
    DUE_TAG,
    UPSTREAM_TAG,
    VERSION_TAG,
    begin,
    set_aside,
    stage_of,
    status_rows,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from many_models.forecasting import Spec
    from many_models.orchestration.due import Stage
    from many_models.orchestration.stage_run import KeySet
    from many_models.ports import DayCount, Lake, SalesTable, Source
    from many_models.settings import Settings

DATASET_FORMAT = "2"
RECENT_DAYS = (60, 400)  # of the source, in which as_of is looked for: first in few, then in more, at last in all
NOT_COPIED = digest("not copied")  # the version of a period that is wanted whatever the source holds of it
OVER_SERIES: frozenset[Stage] = frozenset({"store_item_datasets", "trained_models", "promoted_models", "predictions"})
INACTIVE = "inactive"  # the version of a series that has ended: recorded once, with no model and no forecast
ALL = ""  # the one key of a stage without partitions
STAGE_TAG = "many_models/stage"  # on every job of ours, whose runs do not name their assets


def now(settings: Settings) -> datetime:
    """The wall clock in the settings' time zone, without the zone, as the data's stamps are."""
    from zoneinfo import ZoneInfo

    return datetime.now(ZoneInfo(settings.dagster.timezone)).replace(tzinfo=None)


# --- Raw data -------------------------------------------------------------------------------------------------------
def source_versions(settings: Settings, source: Source, sales: SalesTable, since: datetime | None) -> dict[str, str]:
    """Partition key → fingerprint of what the source holds of that period, up to the last complete one.

    Days are judged by their rows: as_of is the last one that most series have reported for, not after the wall clock
    and not after `data.until`. Periods without rows are there too, so that a closed day makes no gap.
    """
    opening = _opening(settings, since)
    days = source.days(sales, _judged_from(settings, opening))
    as_of = last_complete_day(days, settings.data.complete_share, _latest(settings))
    return _period_versions(settings, _from(days, opening), as_of, opening)


def _judged_from(settings: Settings, opening: datetime) -> datetime:
    """From when on days are counted to tell which one is the last complete one. Where a period holds several days, its
    version depends on that day, which then has to be the same whatever the first day that is looked at.
    """
    if settings.partitions.grain in {"hour", "day"}:
        return opening
    judged = max(RECENT_DAYS[0], 2 * COMPLETE_OVER * math.ceil(step_days(settings)))
    return max(opening - timedelta(days=judged), datetime.combine(settings.data.start, datetime.min.time()))


def _from(days: Sequence[DayCount], opening: datetime) -> list[DayCount]:
    first = datetime.combine(opening, datetime.min.time())
    return [day for day in days if day.day >= first]


def versions_of_copy(
    settings: Settings, source: Source, sales: SalesTable, starts: Sequence[datetime]
) -> Callable[[Sequence[DayCount] | None], Mapping[str, str]]:
    """To be called before the periods that start at `starts` are copied: what then makes their `source_versions` of the
    days that were copied (None: not known).

    So a change of the source while it is copied is never taken for copied. Where many days are copied, only the newest
    are counted in the source for it.
    """
    opening = _opening(settings, min(starts))
    whole_days = settings.partitions.grain in {"hour", "day"}
    least = max(starts) if whole_days else None  # what is copied is versioned, whether or not its day is complete
    by_rows = settings.partitions.grain != "hour" and not sales.changed  # an hour has its day's version
    if by_rows and max(starts) - opening > timedelta(days=RECENT_DAYS[0]):
        as_of = _as_of_near(settings, source, sales, opening, max(starts))
        if as_of is not None:
            return lambda copied: (
                _counted_versions(settings, source, sales, opening, least)
                if copied is None
                else _period_versions(settings, _from(_once(copied), opening), as_of, opening, least)
            )
    counted = _counted_versions(settings, source, sales, opening, least)
    return lambda _: counted


def copied_until(settings: Settings, source: Source, sales: SalesTable, starts: Sequence[datetime]) -> datetime | None:
    """The moment before which rows are copied; None where periods are copied as they are.

    Rows of several days that become one wait until their period is over, and so do the days of a running week or month
    that are not complete.
    """
    grain, frequency = settings.partitions.grain, settings.data.frequency
    gathers = bool(sales.aggregate) and is_coarse(frequency)
    if not gathers and grain in {"hour", "day"}:
        return None
    opening = _opening(settings, min(starts))
    days = source.days(sales, max(opening, max(starts) - timedelta(days=RECENT_DAYS[1])))
    as_of = last_complete_day(days, settings.data.complete_share, _latest(settings))
    if as_of is None:
        return None
    return whole_periods_until(as_of, frequency) if gathers else as_of + timedelta(days=1)


def _counted_versions(
    settings: Settings, source: Source, sales: SalesTable, opening: datetime, least: datetime | None
) -> dict[str, str]:
    days = source.days(sales, _judged_from(settings, opening))
    as_of = last_complete_day(days, settings.data.complete_share, _latest(settings))
    return _period_versions(settings, _from(days, opening), as_of, opening, least)


def _once(days: Sequence[DayCount]) -> list[DayCount]:
    """The days in order, each once: those at the end of a year are read with both years where weeks are whole."""
    return [day for _, day in sorted({day.day: day for day in days}.items())]


def _as_of_near(
    settings: Settings, source: Source, sales: SalesTable, opening: datetime, last: datetime
) -> datetime | None:
    """The last complete day of the source from `opening` on, looked for in the days around `last` before in all."""
    windows = [last - timedelta(days=days) for days in RECENT_DAYS if last - timedelta(days=days) > opening]
    for since in (*windows, opening):
        days = source.days(sales, since)
        as_of = last_complete_day(days, settings.data.complete_share, _latest(settings))
        if since == opening or (as_of is not None and sum(day.day < as_of for day in days) >= COMPLETE_OVER):
            return as_of
    return None


def _opening(settings: Settings, since: datetime | None) -> datetime:
    opening = datetime.combine(settings.data.start, datetime.min.time())
    return max(since, opening) if since else opening


def _latest(settings: Settings) -> datetime:
    """The latest that a day may be: the wall clock, `data.until`."""
    clock, grain = now(settings), settings.partitions.grain
    if end_offset(grain) == 0:
        clock = period_start(grain, clock) - timedelta(microseconds=1)
    return clock if settings.data.until is None else min(clock, settings.data.until)


def _period_versions(
    settings: Settings,
    days: Sequence[DayCount],
    as_of: datetime | None,
    opening: datetime,
    least: datetime | None = None,
) -> dict[str, str]:
    """The version of each period up to the last complete day `as_of`, or at least up to the one that is at `least`."""
    grain = settings.partitions.grain
    if as_of is not None and settings.data.aggregates and is_coarse(settings.data.frequency):
        as_of = whole_periods_until(as_of, settings.data.frequency) - timedelta(days=1)
    as_of = max((moment for moment in (as_of, least) if moment is not None), default=None)
    if as_of is None:
        return {}
    of_period = defaultdict[datetime, list[str]](list)
    for day in days:
        if day.day <= as_of:
            of_period[period_start("day" if grain == "hour" else grain, day.day)].append(day.fingerprint)
    end_of_day = as_of + timedelta(hours=23) if grain == "hour" else as_of
    result = dict[str, str]()
    for start in period_starts(grain, opening, end_of_day):
        held = of_period.get(period_start("day", start) if grain == "hour" else start, [])
        result[period_key(grain, start)] = digest(*held)
    return result


def raw_state(settings: Settings, instance: dg.DagsterInstance, source: Source, sales: SalesTable) -> StageState:
    """raw_sales: what the source holds against what was copied, from `look_back` periods before the newest copy, or
    from the beginning where a column tells what has changed.

    Raises InputError when nothing was copied yet and the source has no row to begin with.
    """
    grain = settings.partitions.grain
    done = _consumed(instance, "raw_sales")
    since = None
    if done and not sales.changed:
        newest = max(period_of_key(grain, key) for key in done)
        since = looked_at_from(settings, newest)
    wanted = source_versions(settings, source, sales, since) if done else _first_periods(settings, source, sales)
    wanted |= awaited(settings, wanted, now(settings))
    return StageState("raw_sales", wanted, done, busy=_busy(instance, "raw_sales"))


def looked_at_from(settings: Settings, newest: datetime) -> datetime:
    """The start of the oldest period that is looked at again when `newest` is the newest one that was copied.

    It is a period's start: a part of a period would look like a change of it.
    """
    grain = settings.partitions.grain
    days = {"hour": 1, "day": 1, "week": 7, "month": 31}[grain]
    return period_start(grain, newest - timedelta(days=settings.data.look_back * days))


def _first_periods(settings: Settings, source: Source, sales: SalesTable) -> dict[str, str]:
    """Every period from the source's first row to its last complete one, which all are to be copied: what they hold is
    counted when they are, since a look at every row takes as long as copying it.
    """
    opening = _opening(settings, None)
    span = source.span(sales, opening, _latest(settings))
    as_of = None if span is None else _as_of_near(settings, source, sales, span[0], span[1])
    if span is None or as_of is None:
        start, table = settings.data.start, settings.source.table
        raise InputError(f"table {table!r} has no row dated from {start} (data.start) until now: nothing to forecast")
    return dict.fromkeys(_period_versions(settings, (), as_of, span[0]), NOT_COPIED)


def lake_as_of(lake: Lake) -> datetime | None:
    """The newest ds of raw_sales in the lake, or None before the first run."""
    import pyarrow.compute as pc

    versions = lake_tables.read_if_there(lake, lake_tables.RAW_VERSIONS, columns=["last"])
    return None if versions is None or not versions.num_rows else pc.max(versions["last"]).as_py()


def covariate_versions(lake: Lake) -> Mapping[str, str]:
    """What `covariates.versions` said of what was last copied; empty texts before the first time."""
    return next(iter(lake_tables.records(lake, lake_tables.COVARIATE_VERSIONS)), {"past": "", "ahead": ""})


def covariates_version(settings: Settings, lake: Lake, content: Mapping[str, str]) -> str:
    """What raw_covariates should have consumed: these tables at this as_of, with this `content`."""
    source = settings.source
    return digest("covariates", source.covariates_table, source.attributes_table, settings.data.attributes,
                  str(lake_as_of(lake)), content["past"], content["ahead"])  # fmt: skip


def covariates_state(
    settings: Settings, instance: dg.DagsterInstance, lake: Lake, content: Mapping[str, str] | None = None
) -> StageState:
    """raw_covariates, which has one key; `content` is what the source has now, where it was asked."""
    content = covariate_versions(lake) if content is None else content
    wanted = {ALL: covariates_version(settings, lake, content)} if lake_as_of(lake) else {}
    done = {ALL: tag_of(instance, "raw_covariates", UPSTREAM_TAG)}
    return StageState("raw_covariates", wanted, done, busy=_busy(instance, "raw_covariates"))


def pooled_state(settings: Settings, instance: dg.DagsterInstance, lake: Lake) -> StageState:
    """pooled_models, which has one key: due when there are datasets, and once in every `forecast.pool_every` days."""
    wanted = {ALL: pooled_upstream(settings, lake)} if active_series(lake) else {}
    done = {ALL: tag_of(instance, "pooled_models", UPSTREAM_TAG)}
    return StageState("pooled_models", wanted, done, busy=_busy(instance, "pooled_models"))


def pooled_upstream(settings: Settings, lake: Lake) -> str:
    """What pooled models should have consumed: how they are learned, and in which span of `pool_every` days."""
    forecast, as_of = settings.forecast, lake_as_of(lake)
    span = as_of.toordinal() // forecast.pool_every if as_of else -1
    return digest("pool", spec_of(settings).recipe, forecast.trees, forecast.pool_series, span)


def tag_of(instance: dg.DagsterInstance, stage: Stage, tag: str) -> str:
    """A tag of the newest materialization of a stage without partitions; "" before the first."""
    event = instance.get_latest_materialization_event(dg.AssetKey(stage))
    made = event.asset_materialization if event else None
    return (made.tags or {}).get(tag, "") if made else ""


# --- Series ---------------------------------------------------------------------------------------------------------
def dataset_versions(settings: Settings, lake: Lake) -> dict[str, str]:
    """Series → the version its dataset should have: its own raw rows, and while it has not ended as_of and what the
    covariates and attributes say up to it.
    """
    from many_models.data.content_versions import series_versions

    years = lake_tables.read_if_there(lake, lake_tables.RAW_VERSIONS)
    as_of = lake_as_of(lake)
    if years is None or as_of is None:
        return {}
    spec = spec_of(settings)
    options = digest(DATASET_FORMAT, spec.frequency, spec.known, spec.country, spec.season, spec.ended_after,
                     spec.holidays, spec.attributes, spec.missing, spec.missing_on)  # fmt: skip
    now_known = f"{as_of} {covariate_versions(lake)['past']}"
    versions = series_versions(years)
    return {
        series: digest(options, content, rows, now_known if goes_on else "")
        for (series, (content, rows, _, _)), goes_on in zip(
            versions.items(), alive_series(spec, versions, as_of), strict=True
        )
    }


def alive_series(
    spec: Spec, versions: Mapping[str, tuple[int, int, datetime, datetime]], as_of: datetime
) -> Sequence[bool]:
    """Whether each series of `versions` (see `series_versions`) has not ended at `as_of`."""
    import numpy as np

    from many_models.forecasting.gaps import alive

    rows = np.array([rows for _, rows, _, _ in versions.values()], np.int64)
    first, last = (np.array([row[at] for row in versions.values()], "datetime64[us]") for at in (2, 3))
    return alive(spec, rows, first, last, np.datetime64(as_of, "us")).tolist()


def active_series(lake: Lake) -> frozenset[str]:
    """The series that are to be forecast: begun, not ended, not set aside."""
    return _series_that_are(lake, active=True)


def ended_series(lake: Lake) -> frozenset[str]:
    """The series that are not to be forecast any more, and are not set aside."""
    return _series_that_are(lake, active=False)


def _series_that_are(lake: Lake, *, active: bool) -> frozenset[str]:
    rows = lake_tables.records(lake, lake_tables.SERIES, columns=["series_id", "active"])
    return frozenset(row["series_id"] for row in rows if row["active"] == active) - set_aside(lake)


def series_state(settings: Settings, instance: dg.DagsterInstance, lake: Lake, stage: Stage) -> StageState:
    """A stage over series: its upstream's versions against those it has consumed."""
    wanted = _wanted(settings, instance, lake, stage)
    held, busy = partitions.partitions_of(settings, sorted(wanted)), _busy(instance, stage)
    order = [key for key in instance.get_dynamic_partitions("store_items") if key in held]
    ordered = {key: wanted[key] for partition in order for key in held[partition]}
    running = [key for partition in busy for key in held.get(partition, [partition])]
    return StageState(stage, ordered, _consumed(instance, stage), status_rows(lake, stage), running)


def begin_series(context: dg.AssetExecutionContext, config: KeySet, settings: Settings, lake: Lake) -> tuple[str, ...]:
    """The series that this run does: those of the partitions that `begin` finds.

    Where a partition holds several, those of them that are due; when somebody asks for the partition, all that have
    come as far as this stage, and those that are set aside.
    """
    series = partitions.series_of(settings, lake, begin(context, config))
    if not settings.partitions.by:
        return series
    stage = stage_of(context)
    wanted = _wanted(settings, context.instance, lake, stage)
    if DUE_TAG in context.run.tags:
        chosen = {*StageState(stage, wanted, _consumed(context.instance, stage), status_rows(lake, stage)).due()}
    else:
        chosen = {*wanted, *set_aside(lake)}
    return tuple(name for name in series if name in chosen) or series


def _wanted(settings: Settings, instance: dg.DagsterInstance, lake: Lake, stage: Stage) -> Mapping[str, str]:
    if stage == "store_item_datasets":
        aside = set_aside(lake)
        return {key: version for key, version in dataset_versions(settings, lake).items() if key not in aside}
    active, ended = active_series(lake), ended_series(lake)
    if stage == "promoted_models":
        made = made_versions(instance, "trained_models")
        decidable = {key for key, version in made.items() if key in active or (key in ended and version == INACTIVE)}
        return {key: promoted_upstream(settings, made[key]) for key in decidable}
    datasets = made_versions(instance, "store_item_datasets")
    wanted = {key: INACTIVE for key in ended if key in datasets}
    if stage == "trained_models":
        pooled, ahead = tag_of(instance, "pooled_models", VERSION_TAG), known_to_training(settings, lake)
        return wanted | {key: trained_upstream(settings, datasets[key], pooled, ahead) for key in active & {*datasets}}
    champions, ahead = champion_versions(lake), covariate_versions(lake)["ahead"]
    return wanted | {
        key: prediction_upstream(champions.get(key, ""), datasets[key], ahead) for key in active if key in datasets
    }


def known_to_training(settings: Settings, lake: Lake) -> str:
    """The version of what is known of the future, where training looks at it: only forecasters of the user's own do."""
    spec = spec_of(settings)
    return covariate_versions(lake)["ahead"] if spec.known and spec.competing else ""


def trained_upstream(settings: Settings, dataset: str, pooled: str, ahead: str) -> str:
    """What training consumes: a dataset, what series learned together, what is known ahead, and how it is to be
    trained.
    """
    return digest("train", dataset, pooled, ahead, spec_of(settings).recipe, settings.packs.by, settings.packs.buckets)


def promoted_upstream(settings: Settings, trained: str) -> str:
    """What promotion consumes: a trained model, and the rules."""
    return digest("promote", trained, sorted(settings.promotion.rules().items()))


def prediction_upstream(champion: str, dataset: str, ahead: str) -> str:
    """What a prediction consumes: a champion ("" for none), the history it forecasts from, what is known ahead."""
    return digest("predict", champion, dataset, ahead)


def champion_versions(lake: Lake) -> dict[str, str]:
    """Series → the version that is its champion, as promotion published it to the lake."""
    rows = lake_tables.records(lake, lake_tables.CHAMPIONS, columns=["series_id", "staging", "cutoff"])
    return {row["series_id"]: version_of(row["staging"], row["cutoff"]) for row in rows}


def version_of(staging: str, cutoff: str) -> str:
    """The version of a champion."""
    return digest(staging, cutoff)


# --- Warehouse ------------------------------------------------------------------------------------------------------
def warehouse_state(instance: dg.DagsterInstance, lake: Lake) -> StageState:
    """warehouse_predictions: the newest cutoff against its load."""
    made = made_versions(instance, "predictions")
    series = active_series(lake)
    as_of = lake_as_of(lake)
    wanted = dict[str, str]()
    if made and as_of is not None:
        wanted[f"{as_of:%Y-%m-%d}"] = digest(sorted((k, v) for k, v in made.items() if k in series))
    done = _consumed(instance, "warehouse_predictions")
    return StageState("warehouse_predictions", wanted, done, busy=_busy(instance, "warehouse_predictions"))


# --- All ------------------------------------------------------------------------------------------------------------
def stage_state(settings: Settings, instance: dg.DagsterInstance, lake: Lake, stage: Stage) -> StageState:
    """The state of any stage after raw_sales, from instance and lake alone."""
    lake = lake_tables.read_once(lake)
    if stage == "raw_covariates":
        return covariates_state(settings, instance, lake)
    if stage == "pooled_models":
        return pooled_state(settings, instance, lake)
    if stage == "warehouse_predictions":
        return warehouse_state(instance, lake)
    return series_state(settings, instance, lake, stage)


def step_days(settings: Settings) -> float:
    """The length of one period of the data, in days, roughly."""
    import pandas as pd

    stamps = pd.date_range("2024-01-01", periods=3, freq=settings.data.frequency)
    return (stamps[2] - stamps[1]).total_seconds() / 86400


def _consumed(instance: dg.DagsterInstance, stage: Stage) -> dict[str, str]:
    return _tags(instance, stage, UPSTREAM_TAG)


def made_versions(instance: dg.DagsterInstance, stage: Stage) -> dict[str, str]:
    """Key → the version that the stage has made of it."""
    return _tags(instance, stage, VERSION_TAG)


def _tags(instance: dg.DagsterInstance, stage: Stage, tag: str) -> dict[str, str]:
    latest = history.latest_tags(instance, dg.AssetKey(stage), [tag])
    return {key: tags[tag] for key, tags in latest.items() if tag in tags}


def _busy(instance: dg.DagsterInstance, stage: Stage) -> frozenset[str]:
    if stage in {"raw_covariates", "pooled_models"}:
        running = any(_is_of(stage, run) for run in history.runs_in_flight(instance))
        return frozenset({ALL}) if running else frozenset()
    return history.keys_in_flight(instance, dg.AssetKey(stage))


def _is_of(stage: Stage, run: dg.DagsterRun) -> bool:
    return run.tags.get(STAGE_TAG) == stage or dg.AssetKey(stage) in (run.asset_selection or ())
