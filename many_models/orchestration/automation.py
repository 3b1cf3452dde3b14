"""The schedule and the sensors: thin shells over what `due` derives from the stages' states."""

from __future__ import annotations

import builtins
from dataclasses import dataclass
from datetime import UTC
from typing import TYPE_CHECKING

import dagster as dg

from many_models import errors
from many_models.data import ingest, lake_tables
from many_models.keys import digest
from many_models.orchestration import due, partitions, stage_state
from many_models.orchestration.assets import raw_covariates
from many_models.orchestration.decision_tables import tables_of
from many_models.orchestration.due import ALL_STAGES, STAGES, Stage, StageState, Work
from many_models.orchestration.event_log import dead_runs, history, runs
from many_models.orchestration.look import STAGE_TAG, Look, SharedLook
from many_models.orchestration.stage_run import DUE_TAG
from many_models.ports import Lake, Source
from many_models.system import utc_now

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Iterator, Mapping

    from many_models.orchestration.outside import Outside
    from many_models.settings import Settings

JOBS: Mapping[Stage, str] = {
    "raw_sales": "ingest_sales",
    "raw_covariates": "ingest_covariates",
    "store_item_datasets": "prepare_datasets",
    "pooled_models": "pool_models",
    "trained_models": "train_models",
    "promoted_models": "promote_models",
    "predictions": "predict",
    "stock_recommendations": "recommend_stock",
    "coherent_predictions": "reconcile",
    "final_predictions": "apply_overrides",
    "drift": "watch_drift",
    "warehouse_predictions": "load_warehouse",
}
SENSORS: Mapping[Stage, str] = {
    "raw_covariates": "new_days_to_covariates",
    "store_item_datasets": "new_days_to_datasets",
    "pooled_models": "datasets_to_pooling",
    "trained_models": "datasets_to_training",
    "promoted_models": "trained_to_promotion",
    "predictions": "promoted_to_predictions",
    "warehouse_predictions": "predicted_to_warehouse",
}
DECISION_SENSORS: Mapping[Stage, str] = {
    "stock_recommendations": "predicted_to_stock",
    "coherent_predictions": "predicted_to_sums",
    "final_predictions": "predicted_to_final",
    "drift": "predicted_to_drift",
}
SENSOR_SECONDS = 5  # a look that finds nothing new is cheap, and a finished stage starts the next the sooner
LOOKED_BACK = 20  # failed runs for the same keys that are looked at
STORES_SECONDS = 60  # how old a look at the lake may be while Dagster has recorded nothing new


def jobs(assets: Collection[Stage]) -> list[dg.UnresolvedAssetJobDefinition]:
    """One job for each stage of `assets`."""
    return [
        dg.define_asset_job(name, selection=dg.AssetSelection.assets(stage), tags={STAGE_TAG: stage})
        for stage, name in JOBS.items()
        if stage in assets
    ]


def states(
    settings: Settings,
    look: Look,
    loads: Callable[[], Mapping[str, str] | None] | None = None,
    source: Callable[[], Source] | None = None,
) -> Iterator[StageState]:
    """The states of all stages, upstream first, read one by one as they are needed.

    raw_sales is read as what runs are busy with only: whether the source has more is the schedule's question. `source`
    is asked for the tables that people keep for decisions, and `loads` asks the warehouse what it holds, once nothing
    is due before them.
    """
    yield StageState("raw_sales", {}, {}, busy=look.busy("raw_sales"))
    yield stage_state.stage_state(settings, look, "raw_covariates")
    yield from later_states(settings, look, loads, source)


def later_states(
    settings: Settings,
    look: Look,
    loads: Callable[[], Mapping[str, str] | None] | None,
    source: Callable[[], Source] | None,
) -> Iterator[StageState]:
    """The states of the stages after raw_covariates; arguments as of `states`."""
    read = {} if source is None else tables_of(settings)
    for stage in ALL_STAGES[2:-1]:
        if source is not None and stage in read:
            yield stage_state.asked_decision_state(settings, look, stage, source())
        else:
            yield stage_state.stage_state(settings, look, stage)
    yield stage_state.warehouse_state(look, loads)


def next_due(states: Iterator[StageState]) -> tuple[Work | None, StageState | None]:
    """What `due.next_work` says, with the state it says it of; reads no further than it must."""
    for current in states:
        work = due.next_work([current])
        if work is not None or current.busy:
            return work, current
    return None, None


def request_of(
    settings: Settings,
    instance: dg.DagsterInstance,
    asset: dg.AssetsDefinition,
    work: Work,
    current: StageState,
    tags: Mapping[str, str],
) -> dg.RunRequest:
    """The run that does `work`. Its tag DUE_TAG stands for the keys and the versions they are due at."""
    versions = digest(work.stage, [(key, current.wanted.get(key)) for key in work.keys])
    tags = {**tags, DUE_TAG: versions}
    if asset.partitions_def is None:
        return dg.RunRequest(job_name=JOBS[work.stage], tags=tags)
    all_keys = asset.partitions_def.get_partition_keys(dynamic_partitions_store=instance)
    return runs.stage_request(
        job_name=JOBS[work.stage],
        asset_key=asset.key,
        keys=list(partitions.partitions_of(settings, work.keys))
        if work.stage in stage_state.OVER_SERIES
        else work.keys,
        all_keys=all_keys,
        op_name=asset.op.name,
        run_key=None,
        tags=tags,
    )


def failed_runs(instance: dg.DagsterInstance, request: dg.RunRequest) -> list[due.FailedRun]:
    """The runs for the same keys at the same versions that have failed already, the newest first."""
    same = dg.RunsFilter(tags={DUE_TAG: request.tags[DUE_TAG]}, statuses=[dg.DagsterRunStatus.FAILURE])
    found = list[due.FailedRun]()
    for record in instance.get_run_records(same, limit=LOOKED_BACK):
        began = record.start_time is not None
        cause = cause_of(instance, record.dagster_run.run_id) if began else None
        found.append(due.FailedRun(began, cause is None or cause.transient, record.update_timestamp))
    return found


@dataclass(frozen=True, slots=True)
class Cause:
    """Why a run failed as a whole: what was raised says whether another try can help."""

    kind: str
    message: str

    @property
    def transient(self) -> bool:
        """Whether it is worth another try: only what is known to pass by itself is."""
        found = getattr(errors, self.kind, None) or getattr(builtins, self.kind, None)
        return isinstance(found, type) and issubclass(found, (errors.TransientError, OSError, MemoryError))


def cause_of(instance: dg.DagsterInstance, run_id: str) -> Cause | None:
    """What a failed run raised; None when it was killed, or failed for single series only."""
    for record in instance.get_records_for_run(run_id, of_type=dg.DagsterEventType.STEP_FAILURE).records:
        event = record.event_log_entry.dagster_event
        data = event.step_failure_data if event else None
        if data is None or data.user_failure_data is not None or data.error is None:
            continue
        error = data.error.cause or data.error
        kind = (error.cls_name or "").rpartition(".")[2]
        return Cause(kind, error.message.strip().removeprefix(f"many_models.errors.{kind}: "))
    return None


def shared_look(settings: Settings, outside: Outside | None = None) -> SharedLook:
    """The look at what is due that all sensors of a process share."""
    loads, source = (None, None) if outside is None else (outside.loads, outside.source)
    return SharedLook(settings, lambda look: next_due(states(settings, look, loads, source)), STORES_SECONDS, outside)


def sensors(
    settings: Settings, assets: Mapping[Stage, dg.AssetsDefinition], shared: SharedLook
) -> list[dg.SensorDefinition]:
    """One sensor for each stage after raw_sales."""
    return [
        _sensor(settings, shared, stage, name, assets[stage])
        for stage, name in (*SENSORS.items(), *DECISION_SENSORS.items())
        if stage in assets
    ]


def _sensor(
    settings: Settings, shared: SharedLook, stage: Stage, name: str, asset: dg.AssetsDefinition
) -> dg.SensorDefinition:
    @dg.sensor(
        name=name,
        job_name=JOBS[stage],
        minimum_interval_seconds=SENSOR_SECONDS,
        default_status=dg.DefaultSensorStatus.RUNNING,
        description=f"Starts {stage} for the keys whose upstream version differs from the one they consumed.",
    )
    def carry_on(context: dg.SensorEvaluationContext, lake: dg.ResourceParam[Lake]) -> dg.RunRequest | dg.SkipReason:
        _tidy(context.instance)
        work, current = shared.found(context.instance, lake)
        if current is not None and ALL_STAGES.index(current.stage) > ALL_STAGES.index(stage):
            work = current = None
        return decide(settings, context.instance, stage, asset, work, current)

    return carry_on


def _tidy(instance: dg.DagsterInstance) -> None:
    dead_runs.mark_dead_runs_failed(instance)
    history.ensure_pools(instance, STAGES)


def decide(
    settings: Settings,
    instance: dg.DagsterInstance,
    stage: Stage,
    asset: dg.AssetsDefinition,
    work: Work | None,
    current: StageState | None,
) -> dg.RunRequest | dg.SkipReason:
    """The run of `stage` that is to start now, or why there is none."""
    if current is None:
        return dg.SkipReason("everything is up to date")
    if work is None:
        return dg.SkipReason(f"{current.stage} is running ({len(current.busy)} keys)")
    if work.stage != stage:
        return dg.SkipReason(f"waiting for {work.stage} ({len(work.keys)} keys are due)")
    request = request_of(settings, instance, asset, work, current, {})
    failed = failed_runs(instance, request)
    if (attempts := due.attempts(failed)) >= due.MAX_ATTEMPTS:
        return dg.SkipReason(
            f"{attempts} runs for these {len(work.keys)} keys have failed: see them, then start one by hand"
        )
    if (at := due.next_launch(failed)) is not None and at > utc_now().replace(tzinfo=UTC):
        return dg.SkipReason(
            f"the last run for these {len(work.keys)} keys was not launched: next try at {at:%H:%M:%S} UTC"
        )
    return request


def _daily(
    settings: Settings, name: str, stage: Stage, description: str
) -> Callable[[Callable[..., dg.RunRequest | dg.SkipReason]], dg.ScheduleDefinition]:
    return dg.schedule(
        name=name,
        cron_schedule=settings.dagster.cron,
        job_name=JOBS[stage],
        execution_timezone=settings.dagster.timezone,
        default_status=dg.DefaultScheduleStatus.RUNNING,
        description=description,
    )


def schedule(settings: Settings, asset: dg.AssetsDefinition) -> dg.ScheduleDefinition:
    """The daily start of everything: raw_sales for the periods in which the source has what the lake has not."""

    @_daily(settings, "daily", "raw_sales", "Copies what is new in the source; the sensors carry it on.")
    def daily(context: dg.ScheduleEvaluationContext, source: dg.ResourceParam[Source]) -> dg.RunRequest | dg.SkipReason:
        _tidy(context.instance)
        found = next_due(iter([raw_state(settings, context.instance, source)]))
        return decide(settings, context.instance, "raw_sales", asset, *found)

    return daily


def covariates_schedules(settings: Settings, asset: dg.AssetsDefinition) -> list[dg.ScheduleDefinition]:
    """The daily look at the tables beside the sales, where there are any: the sensor starts raw_covariates for every
    new day, the schedule when a table has changed since.
    """
    if not has_known_tables(settings):
        return []

    @_daily(
        settings,
        "daily_covariates",
        "raw_covariates",
        "Copies covariates and attributes when they have changed; the sensors carry it on.",
    )
    def daily_covariates(
        context: dg.ScheduleEvaluationContext, source: dg.ResourceParam[Source], lake: dg.ResourceParam[Lake]
    ) -> dg.RunRequest | dg.SkipReason:
        found = next_due(iter([covariates_state(settings, context.instance, source, lake)]))
        return decide(settings, context.instance, "raw_covariates", asset, *found)

    return [daily_covariates]


def has_known_tables(settings: Settings) -> bool:
    """Whether the source has a table of covariates, attributes or openings."""
    source = settings.source
    return bool(source.covariates_table or source.attributes_table or source.openings_table)


def covariates_state(settings: Settings, instance: dg.DagsterInstance, source: Source, lake: Lake) -> StageState:
    """The state of raw_covariates, for which the source is asked."""
    look = Look(instance, lake)
    if lake_tables.lake_as_of(look.lake) is None or not has_known_tables(settings):
        return stage_state.covariates_state(settings, look)
    content = raw_covariates.read_known(settings, source, lake).versions
    return stage_state.covariates_state(settings, look, content)


def raw_state(settings: Settings, instance: dg.DagsterInstance, source: Source) -> StageState:
    """The state of raw_sales, for which the source is asked."""
    sales = ingest.sales_of(settings, source)
    return stage_state.raw_state(settings, instance, source, sales)
