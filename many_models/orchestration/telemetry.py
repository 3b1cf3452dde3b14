"""Runs that ended, told to operators' telemetry from Dagster's records: by a sensor, and by the command."""

from __future__ import annotations

import json
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING

import dagster as dg

from many_models.errors import TransientError
from many_models.orchestration import automation
from many_models.orchestration.look import stage_of
from many_models.ports import FinishedRun, Step, Telemetry

if TYPE_CHECKING:
    from collections.abc import Sequence

    from many_models.settings import Settings

SENSOR = "telemetry"
SENSOR_SECONDS = 30
STATE = "many_models/telemetry"  # how far it has told, shared by sensor and command
FIRST = timedelta(days=1)  # so far back it tells of the first time
AT_ONCE = 200
ENDED = [dg.DagsterRunStatus.SUCCESS, dg.DagsterRunStatus.FAILURE, dg.DagsterRunStatus.CANCELED]


def report(instance: dg.DagsterInstance, telemetry: Telemetry, now: datetime) -> int:
    """Tell of the runs of stages that ended since the last time, and return how many. Raises UnavailableError, after
    which they are told the next time.
    """
    after, told = _state(instance, now)
    records = instance.get_run_records(
        dg.RunsFilter(statuses=ENDED, updated_after=after), limit=AT_ONCE, order_by="update_timestamp", ascending=True
    )
    new = [record for record in records if record.dagster_run.run_id not in told]
    found = [run for record in new if (run := _finished(instance, record)) is not None]
    telemetry.runs(found)
    if new:
        newest = max(record.update_timestamp for record in records)
        seen = [record.dagster_run.run_id for record in records]
        state = {"after": newest.replace(tzinfo=None).isoformat(), "told": [*told, *seen][-2 * AT_ONCE :]}
        instance.daemon_cursor_storage.set_cursor_values({STATE: json.dumps(state)})
    return len(found)


def _state(instance: dg.DagsterInstance, now: datetime) -> tuple[datetime, list[str]]:
    """Since when runs are to be told, and those of before that are told already."""
    held = instance.daemon_cursor_storage.get_cursor_values({STATE}).get(STATE)
    try:
        state = json.loads(held) if held else {}
        after = datetime.fromisoformat(state["after"]).replace(tzinfo=UTC)
        return after - timedelta(seconds=1), [str(run_id) for run_id in state["told"]]
    except (ValueError, KeyError, TypeError):
        return now - FIRST, []


def _finished(instance: dg.DagsterInstance, record: dg.RunRecord) -> FinishedRun | None:
    """What is told of a run; None for one that is of no stage, or never began."""
    run, started, ended = record.dagster_run, record.start_time, record.end_time
    stage = stage_of(run)
    if not stage or started is None or ended is None:
        return None
    steps = [
        Step(step.step_key, step.start_time, step.end_time or ended, str(step.status).endswith("FAILURE"))
        for step in instance.get_run_step_stats(run.run_id)
        if step.start_time is not None
    ]
    done, failed = _counts(instance, run.run_id)
    cause = automation.cause_of(instance, run.run_id) if run.status is dg.DagsterRunStatus.FAILURE else None
    error = f"{cause.kind}: {cause.message}"[:500] if cause else ""
    return FinishedRun(run.run_id, stage, run.status.value, started, ended, steps, done, failed, error)


def _counts(instance: dg.DagsterInstance, run_id: str) -> tuple[int | None, int | None]:
    records = instance.get_records_for_run(run_id, of_type=dg.DagsterEventType.ASSET_OBSERVATION).records
    for record in records:
        observed = record.event_log_entry.asset_observation
        if observed is not None and "series" in observed.metadata:
            return tuple(int(str(observed.metadata[name].value)) for name in ("series", "failed"))  # pyright: ignore[reportReturnType]
    return None, None


def sensors(settings: Settings) -> Sequence[dg.SensorDefinition]:
    """The sensor, where the settings name a collector. It needs the resource telemetry."""
    if not settings.telemetry.endpoint:
        return []

    @dg.sensor(
        name=SENSOR,
        minimum_interval_seconds=SENSOR_SECONDS,
        default_status=dg.DefaultSensorStatus.RUNNING,
        description="Tells the OpenTelemetry collector of the runs that ended.",
    )
    def tell_runs(context: dg.SensorEvaluationContext, telemetry: dg.ResourceParam[Telemetry]) -> dg.SkipReason:
        try:
            count = report(context.instance, telemetry, datetime.now(UTC))
        except TransientError as error:
            return dg.SkipReason(f"{error}; it is told the next time")
        return dg.SkipReason(f"told of {count} runs")

    return [tell_runs]
