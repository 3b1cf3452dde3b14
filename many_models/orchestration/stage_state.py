"""The state of every stage, read from the instance, the lake and the source; deciding is `due`'s."""

from __future__ import annotations

from typing import TYPE_CHECKING

import dagster as dg

from many_models.data import lake_tables
from many_models.data.clock import now
from many_models.data.lake_tables import lake_as_of
from many_models.data.periods import (
    period_of_key,
)
from many_models.keys import digest
from many_models.orchestration import copied_settings, decision_tables, lake_marks, partitions
from many_models.orchestration.copied_settings import LOOK_TAG, tried_with
from many_models.orchestration.due import DECISIONS, StageState
from many_models.orchestration.event_log import history
from many_models.orchestration.forecast_spec import spec_of
from many_models.orchestration.ingestion import awaited
from many_models.orchestration.look import ALL, Look
from many_models.orchestration.refits import answer_versions, refit_spans
from many_models.orchestration.source_state import first_period, first_periods, looked_at_from, source_versions
from many_models.orchestration.stage_run import (
    DUE_TAG,
    UPSTREAM_TAG,
    VERSION_TAG,
    begin,
    series_set_aside,
    stage_of,
    status_rows,
)
from many_models.orchestration.upstream import Upstream, predicted, version_of
from many_models.ports import Filter

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence
    from datetime import datetime

    from many_models.forecasting import Spec
    from many_models.forecasting.openings import Spans
    from many_models.orchestration.due import Stage
    from many_models.orchestration.stage_run import KeySet
    from many_models.ports import Lake, SalesTable, Source
    from many_models.settings import Settings

DATASET_FORMAT = "3"
OVER_SERIES: frozenset[Stage] = frozenset({"store_item_datasets", "trained_models", "promoted_models", "predictions"})
INACTIVE = "inactive"  # the version of a series that has ended: recorded once, with no model and no forecast


# --- Raw data -------------------------------------------------------------------------------------------------------


def raw_state(settings: Settings, instance: dg.DagsterInstance, source: Source, sales: SalesTable) -> StageState:
    """raw_sales: what the source holds against what was copied, from `look_back` periods before the newest copy, or
    from the beginning where a column tells what has changed.

    Raises InputError when nothing was copied yet and the source has no row to begin with.
    """
    grain = settings.partitions.grain
    now_with = copied_settings.copied_with(settings, sales.known)
    tags = history.latest_tags(instance, dg.AssetKey("raw_sales"), [UPSTREAM_TAG, copied_settings.COPIED_TAG, LOOK_TAG])
    done = {key: of[UPSTREAM_TAG] for key, of in tags.items() if UPSTREAM_TAG in of}
    for with_before in {of.get(copied_settings.COPIED_TAG, "") for of in tags.values()}:
        copied_settings.refuse_other_names(with_before, settings, now_with)
    otherwise = {key for key in copied_settings.not_copied_so(tags, now_with) if key >= first_period(settings)}
    again = {key for key, of in tags.items() if of.get(LOOK_TAG)}
    since = None
    if done and not sales.changed and not otherwise and not again:
        newest = max(period_of_key(grain, key) for key in done)
        since = looked_at_from(settings, newest)
    wanted = source_versions(settings, source, sales, since) if done else first_periods(settings, source, sales)
    wanted |= {key: digest(wanted[key], "again") for key in again | otherwise if key in wanted}
    wanted |= awaited(settings, wanted, now(settings))
    return StageState("raw_sales", wanted, done, busy=history.keys_in_flight(instance, dg.AssetKey("raw_sales")))


def covariate_versions(lake: Lake) -> Mapping[str, str]:
    """What `covariates.versions` said of what was last copied; empty texts before the first time."""
    return next(iter(lake_tables.records(lake, lake_tables.COVARIATE_VERSIONS)), {"past": "", "ahead": ""})


def covariates_state(settings: Settings, look: Look, content: Mapping[str, str] | None = None) -> StageState:
    """raw_covariates, which has one key; `content` is what the source has now, where it was asked."""
    content = covariate_versions(look.lake) if content is None else content
    as_of = lake_as_of(look.lake)
    wanted = {ALL: Upstream(settings).covariates(as_of, content)} if as_of else {}
    done = {ALL: look.tag("raw_covariates", UPSTREAM_TAG)}
    return StageState("raw_covariates", wanted, done, busy=look.busy("raw_covariates"))


def pooled_state(settings: Settings, look: Look) -> StageState:
    """pooled_models, which has one key: due when there are datasets, and once in every `forecast.pool_every` days."""
    wanted = (
        {ALL: Upstream(settings).pooled(lake_as_of(look.lake))}
        if active_series(look.lake, tried_with(settings))
        else {}
    )
    done = {ALL: look.tag("pooled_models", UPSTREAM_TAG)}
    return StageState("pooled_models", wanted, done, busy=look.busy("pooled_models"))


# --- Series ---------------------------------------------------------------------------------------------------------
def dataset_versions(settings: Settings, lake: Lake) -> dict[str, str]:
    """Series → the version its dataset should have: its own raw rows, and while it has not ended as_of and what the
    covariates and attributes say up to it, and when it is open.
    """
    from many_models.data import openings
    from many_models.data.content_versions import series_versions

    years = lake_tables.read_if_there(lake, lake_tables.RAW_VERSIONS)
    as_of = lake_as_of(lake)
    if years is None or as_of is None:
        return {}
    spec = spec_of(settings)
    options = digest(DATASET_FORMAT, spec.frequency, spec.known, spec.country, spec.season, spec.ended_after,
                     spec.holidays, spec.attributes, spec.missing, spec.missing_on,
                     *((spec.missing_at,) if spec.missing_at else ()),
                     *((spec.available, spec.sold_out, spec.open_hours) if settings.data.stock else ()))  # fmt: skip
    now_known = f"{as_of} {covariate_versions(lake)['past']}"
    versions = series_versions(years)
    listed = openings.read(lake, settings.data.keys, spec.frequency).of_series(versions)
    return {
        series: digest(options, content, rows, now_known if goes_on else "", *filter(None, [listed.get(series)]))
        for (series, (content, rows, _, _)), goes_on in zip(
            versions.items(), alive_series(spec, versions, as_of, listed), strict=True
        )
    }


def alive_series(
    spec: Spec,
    versions: Mapping[str, tuple[int, int, datetime, datetime]],
    as_of: datetime,
    listed: Mapping[str, Spans] | None = None,
) -> Sequence[bool]:
    """Whether each series of `versions` (see `series_versions`) has not ended at `as_of`; `listed` are open spans."""
    import numpy as np

    from many_models.forecasting.gaps import alive

    rows = np.array([rows for _, rows, _, _ in versions.values()], np.int64)
    first, last = (np.array([row[at] for row in versions.values()], "datetime64[us]") for at in (2, 3))
    return alive(spec, list(versions), rows, first, last, np.datetime64(as_of, "us"), listed).tolist()


def active_series(lake: Lake, settings_digest: str | None = None) -> frozenset[str]:
    """The series that are to be forecast: begun, not ended, not set aside (see `series_set_aside`)."""
    return _series_that_are(lake, settings_digest, active=True)


def ended_series(lake: Lake, settings_digest: str | None = None) -> frozenset[str]:
    """The series that are not to be forecast any more, and are not set aside."""
    return _series_that_are(lake, settings_digest, active=False)


def _series_that_are(lake: Lake, settings_digest: str | None, *, active: bool) -> frozenset[str]:
    rows = lake_tables.records(lake, lake_tables.SERIES, columns=["series_id", "active"])
    aside = series_set_aside(lake, settings_digest)
    return frozenset(row["series_id"] for row in rows if row["active"] == active) - aside


def series_state(settings: Settings, look: Look, stage: Stage) -> StageState:
    """A stage over series: its upstream's versions against those it has consumed."""
    spec = spec_of(settings)  # with the holidays, which are read from their file
    return look.state(stage, lambda: _series_state(settings, look, stage), (spec, spec.recipe))


def _series_state(settings: Settings, look: Look, stage: Stage) -> StageState:
    wanted = _wanted(settings, look, stage)
    held = partitions.partitions_of(settings, sorted(wanted))
    order = [key for key in look.series if key in held]
    ordered = {key: wanted[key] for partition in order for key in held[partition]}
    running = [key for partition in look.busy(stage) for key in held.get(partition, [partition])]
    return StageState(
        stage, ordered, look.consumed(stage), status_rows(look.lake, stage), running, tried_with(settings)
    )


def begin_series(context: dg.AssetExecutionContext, config: KeySet, settings: Settings, lake: Lake) -> tuple[str, ...]:
    """The series that this run does: those of the partitions that `begin` finds.

    Where a partition holds several, those of them that are due; when someone asks for the partition, all that have
    come as far as this stage, and those that are set aside.
    """
    lake_marks.require(context.instance, lake)
    series = partitions.series_of(settings, lake, begin(context, config))
    if not settings.partitions.by:
        return series
    stage = stage_of(context)
    look = Look(context.instance, lake)
    wanted = _wanted(settings, look, stage)
    if DUE_TAG in context.run.tags:
        failed, now_with = status_rows(lake, stage), tried_with(settings)
        chosen = {*StageState(stage, wanted, look.consumed(stage), failed, tried_with=now_with).due()}
    else:
        chosen = {*wanted, *series_set_aside(lake)}
    return tuple(name for name in series if name in chosen) or series


def _wanted(settings: Settings, look: Look, stage: Stage) -> Mapping[str, str]:
    lake, now_with = look.lake, tried_with(settings)
    if stage == "store_item_datasets":
        aside = series_set_aside(lake, now_with)
        return {key: version for key, version in dataset_versions(settings, lake).items() if key not in aside}
    active, ended = active_series(lake, now_with), ended_series(lake, now_with)
    if stage == "promoted_models":
        made = look.made("trained_models")
        decidable = {key for key, version in made.items() if key in active or (key in ended and version == INACTIVE)}
        of = Upstream(settings)
        return {key: of.promoted(made[key]) for key in decidable}
    datasets = look.made("store_item_datasets")
    wanted = {key: INACTIVE for key in ended if key in datasets}
    if stage == "trained_models":
        of = Upstream(settings)
        pooled, ahead = look.tag("pooled_models", VERSION_TAG), known_to_training(of.spec, lake)
        spans = refit_spans(settings, lake, active & {*datasets})
        return wanted | {key: of.trained(spans.get(key, datasets[key]), pooled, ahead) for key in active & {*datasets}}
    of_series = prediction_versions(settings, lake, datasets)
    return wanted | {key: of_series(key) for key in active if key in datasets}


def prediction_versions(settings: Settings, lake: Lake, datasets: Mapping[str, str]) -> Callable[[str], str]:
    """What the prediction of a series should have consumed; `datasets` are the versions of the series' datasets."""
    champions, ahead = champion_versions(lake), covariate_versions(lake)["ahead"]
    answers = answer_versions(settings, lake)
    return lambda key: predicted(champions.get(key, ""), datasets.get(key, ""), ahead, answers.get(key, ""))


def known_to_training(spec: Spec, lake: Lake) -> str:
    """The version of what is known of the future, where training looks at it: only the user's forecasters do."""
    return covariate_versions(lake)["ahead"] if spec.known and spec.competing else ""


def champion_versions(lake: Lake) -> dict[str, str]:
    """Series → the version that is its champion, as promotion published it to the lake."""
    rows = lake_tables.records(lake, lake_tables.CHAMPIONS, columns=["series_id", "staging", "cutoff"])
    return {row["series_id"]: version_of(row["staging"], row["cutoff"]) for row in rows}


# --- Warehouse ------------------------------------------------------------------------------------------------------
def load_name(date: str) -> str:
    """The warehouse's name for the load of the cutoff `date`."""
    return f"cutoff {date}"


def date_of(load: str) -> str:
    """The inverse of `load_name`."""
    return load.removeprefix("cutoff ")


def decision_state(settings: Settings, look: Look, stage: Stage, content: str | None = None) -> StageState:
    """A stage of decisions, whose one key is the newest cutoff; nothing where the settings do not ask for it.

    It consumes the newest predictions, its own section of the settings, and what people wrote for it: `content`, where
    the source was asked (see `decision_tables.contents`), else what the stage has read last.
    """
    asked = decisions_asked(settings)
    if stage not in asked:
        return StageState(stage, {}, {})
    written = decision_tables.used(look.lake).get(stage, "") if content is None else content
    consumed = [asked[stage], *([written] if written else [])]
    wanted = {date: digest(stage, version, *consumed) for date, version in _newest_predictions(look).items()}
    return StageState(stage, wanted, look.consumed(stage), busy=look.busy(stage))


def asked_decision_state(settings: Settings, look: Look, stage: Stage, source: Source) -> StageState:
    """The state of a stage of decisions; the source is asked where nothing is due without."""
    found = decision_state(settings, look, stage)
    if found.due() or found.busy or not found.wanted:
        return found
    content = decision_tables.contents(settings, source, stage)
    return found if content is None else decision_state(settings, look, stage, content)


def decisions_asked(settings: Settings) -> dict[Stage, str]:
    """The stages of decisions that the settings ask for → what they say of it."""
    found: dict[Stage, str] = {}
    if settings.stock.asked:
        found["stock_recommendations"] = digest(settings.stock.model_dump_json())
    if settings.hierarchy.asked:
        found["coherent_predictions"] = digest(settings.hierarchy.model_dump_json(), settings.source.attributes_table)
    if settings.overrides.table:
        found["final_predictions"] = digest(settings.overrides.model_dump_json())
    if settings.drift.watch:
        found["drift"] = digest(settings.drift.model_dump_json())
    return found


def _newest_predictions(look: Look) -> dict[str, str]:
    """The newest cutoff → the version of all its predictions; nothing before there are any."""
    made, as_of = look.made("predictions"), lake_as_of(look.lake)
    if not made or as_of is None:
        return {}
    series = active_series(look.lake)
    return {f"{as_of:%Y-%m-%d}": digest(sorted((k, v) for k, v in made.items() if k in series))}


def warehouse_state(look: Look, loads: Callable[[], Mapping[str, str] | None] | None = None) -> StageState:
    """warehouse_predictions: the newest cutoff against its load.

    With `loads`, which asks the warehouse what it holds, a load that only the records know is due again, too: one at a
    time, the oldest first, so that each brings its own actuals.
    """
    lake, wanted = look.lake, _newest_predictions(look)
    for date, version in wanted.items():
        decided = {stage: look.made(stage).get(date) for stage in DECISIONS}
        if any(decided.values()):
            wanted[date] = digest(version, sorted(decided.items()))
    done = look.consumed("warehouse_predictions")
    if done and loads is not None and (missing := missing_loads(lake, done, loads())):  # asked after the records
        wanted = {missing[0]: done[missing[0]]}
        done = {date: version for date, version in done.items() if date not in missing}
    return StageState("warehouse_predictions", wanted, done, busy=look.busy("warehouse_predictions"))


def missing_loads(lake: Lake, done: Mapping[str, str], loads: Mapping[str, str] | None) -> list[str]:
    """The cutoffs, the oldest first, that the records call loaded, the lake has predictions of, and the warehouse lacks
    or has otherwise; none where `loads` is None: the warehouse does not answer, or records none.
    """
    if loads is None:
        return []
    lacking = sorted(date for date, version in done.items() if loads.get(load_name(date)) != version)
    if not lacking:
        return []
    where = Filter(among={"cutoff_date": lacking})
    rows = lake_tables.read_if_there(lake, lake_tables.PREDICTIONS, where, ["cutoff_date"])
    held = set(rows["cutoff_date"].unique().to_pylist()) if rows is not None else set[str]()
    return [date for date in lacking if date in held]


# --- All ------------------------------------------------------------------------------------------------------------
def stage_state(settings: Settings, look: Look, stage: Stage) -> StageState:
    """The state of any stage after raw_sales, from instance and lake alone."""
    if stage == "raw_covariates":
        return covariates_state(settings, look)
    if stage == "pooled_models":
        return pooled_state(settings, look)
    if stage == "warehouse_predictions":
        return warehouse_state(look)
    if stage in DECISIONS:
        return decision_state(settings, look, stage)
    return series_state(settings, look, stage)


def made_versions(instance: dg.DagsterInstance, stage: Stage) -> dict[str, str]:
    """Key → the version that the stage has made of it."""
    latest = history.latest_tags(instance, dg.AssetKey(stage), [VERSION_TAG])
    return {key: tags[VERSION_TAG] for key, tags in latest.items() if VERSION_TAG in tags}
