"""Traces and metrics as a collector on this machine decodes them; without a collector nothing is imported or slowed."""

from __future__ import annotations

import asyncio
import subprocess
import sys
from datetime import UTC, datetime
from typing import TYPE_CHECKING

import dagster as dg
import pytest

from many_models.adapters.telemetry.otlp import OtlpTelemetry
from many_models.definitions import RUNS, build
from many_models.errors import InputError, UnavailableError
from many_models.operations.alerts import tell_operators
from many_models.orchestration import telemetry
from many_models.orchestration.look import STAGE_TAG
from many_models.ports import FinishedRun, Step, Telemetry
from many_models.serving.app import build_app
from many_models.settings import Settings
from many_models_tests.stand_ins.otlp_receiver import Collector, about, collector
from many_models_tests.support.serving_parts import Registry, client_of, settings_for

if TYPE_CHECKING:
    from collections.abc import Iterator

RUN = FinishedRun(
    "8f7e", "predictions", "FAILURE", 100.0, 130.5, [Step("predictions", 101.0, 130.0, failed=True)], 7, 2, "Oh: no"
)


@pytest.fixture
def receiver() -> Iterator[Collector]:
    with collector() as server:
        yield server


@pytest.fixture
def instance() -> Iterator[dg.DagsterInstance]:
    with dg.DagsterInstance.ephemeral() as opened:
        yield opened


def test_a_run_is_a_trace_with_its_steps_at_the_times_when_they_were(receiver):
    told = OtlpTelemetry(receiver.endpoint, "many_models.runs")
    assert isinstance(told, Telemetry)
    told.runs([RUN])
    (_, step), (service, run) = receiver.spans
    assert service == "many_models.runs"
    assert (run.name, step.name) == ("run predictions", "predictions")
    assert step.trace_id == run.trace_id
    assert step.parent_span_id == run.span_id
    assert (run.start_time_unix_nano, run.end_time_unix_nano) == (100 * 10**9, 130.5 * 10**9)
    assert (run.status.code, run.status.message) == (2, "Oh: no")
    assert about(run) == {
        "dagster.run_id": "8f7e", "many_models.stage": "predictions", "many_models.status": "FAILURE",
        "many_models.series.done": 7, "many_models.series.failed": 2,
    }  # fmt: skip
    metrics = {metric.name: metric for _, metric in receiver.metrics}
    (seconds,) = metrics["many_models.run.duration"].histogram.data_points
    assert (seconds.sum, about(seconds)) == (30.5, {"stage": "predictions"})
    series = {about(p)["outcome"]: p.as_int for p in metrics["many_models.series"].sum.data_points}
    assert series == {"done": 7, "failed": 2}


def test_a_run_that_is_sent_again_is_the_same_trace(receiver):
    for _ in range(2):
        OtlpTelemetry(receiver.endpoint, "many_models.runs").runs([RUN])
    assert len(receiver.spans) == 4
    assert len({span.span_id for _, span in receiver.spans}) == 2


@pytest.mark.parametrize("status", [400, 401, 404])
def test_a_collector_that_refuses_is_told(receiver, status):
    receiver.status = status
    with pytest.raises(UnavailableError, match="did not take"):
        OtlpTelemetry(receiver.endpoint, "many_models.runs").runs([RUN])


def work_of(instance: dg.DagsterInstance, error: Exception | None, stage: str = "predictions") -> str:
    @dg.asset(name=stage)
    def work(context) -> None:
        context.log_event(dg.AssetObservation(stage, metadata={"series": 3, "failed": 1}))
        if error:
            raise error

    job = dg.define_asset_job("job", [work], tags={STAGE_TAG: stage})
    made = dg.Definitions(assets=[work], jobs=[job]).resolve_job_def("job")
    return made.execute_in_process(instance=instance, raise_on_error=False).run_id


def test_each_run_that_ended_is_told_once_whoever_asks(instance, receiver):
    settings = Settings.model_validate({"telemetry": {"endpoint": receiver.endpoint}})
    first = work_of(instance, None)
    assert tell_operators(settings, instance) == []
    second = work_of(instance, InputError("there is no column `sales`"))
    sensor = build(settings).get_repository_def().get_sensor_def(telemetry.SENSOR)
    stores = {"telemetry": OtlpTelemetry(receiver.endpoint, RUNS)}
    assert sensor(dg.build_sensor_context(instance, resources=stores)).skip_message == "told of 1 runs"
    assert sensor(dg.build_sensor_context(instance, resources=stores)).skip_message == "told of 0 runs"
    runs = [span for _, span in receiver.spans if span.name == "run predictions"]
    assert [about(run)["dagster.run_id"] for run in runs] == [first, second]
    assert about(runs[0])["many_models.series.done"] == 3
    assert "no column `sales`" in runs[1].status.message


def test_what_a_collector_that_was_away_missed_is_sent_when_it_is_back(instance, receiver):
    run_id = work_of(instance, None)
    away = OtlpTelemetry("http://127.0.0.1:9", "many_models.runs")
    with pytest.raises(UnavailableError):
        telemetry.report(instance, away, datetime.now(UTC))
    settings = Settings.model_validate({"telemetry": {"endpoint": "http://127.0.0.1:9"}})
    (line,) = tell_operators(settings, instance)  # and the run that asked for it is what its stages did
    assert line.startswith("runs were not told: UnavailableError")
    there = OtlpTelemetry(receiver.endpoint, "many_models.runs")
    assert telemetry.report(instance, there, datetime.now(UTC)) == 1
    assert {about(span).get("dagster.run_id", run_id) for _, span in receiver.spans} == {run_id}


@pytest.mark.slow
def test_a_request_is_a_span_in_its_callers_trace_and_shows_no_series(receiver, tmp_path):
    told = OtlpTelemetry(receiver.endpoint, "many_models.serve")
    parent = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"

    async def ask() -> None:
        app = build_app(settings_for(tmp_path), Registry(), None, [], told)
        async with client_of(app) as client:
            await client.get("/v1/models/secret-series", headers={"traceparent": parent})
            await client.get("/health/live", headers={"traceparent": "nonsense"})

    asyncio.run(ask())
    receiver.wait_for("spans")
    receiver.wait_for("metrics")
    names, (service, _) = {span.name: span for _, span in receiver.spans}, receiver.spans[0]
    asked, alive = names["GET /v1/models/{series_id}"], names["GET /health/live"]
    assert service == "many_models.serve"
    assert asked.trace_id.hex() == "4bf92f3577b34da6a3ce929d0e0e4736"
    assert asked.parent_span_id.hex() == "00f067aa0ba902b7"
    assert (asked.status.code, about(asked)["http.response.status_code"]) == (2, 503)  # there is no release
    assert alive.parent_span_id == b""
    assert "secret-series" not in str(receiver.spans) + str(receiver.metrics)
    points = [
        p for _, m in receiver.metrics if m.name == "http.server.request.duration" for p in m.histogram.data_points
    ]
    assert {about(point)["http.route"] for point in points} == {"/v1/models/{series_id}", "/health/live"}


def test_an_endpoint_whose_collector_is_away_answers_as_without_one(tmp_path):
    told = OtlpTelemetry("http://127.0.0.1:9", "many_models.serve")

    async def ask() -> int:
        async with client_of(build_app(settings_for(tmp_path), Registry(), None, [], told)) as client:
            return (await client.get("/health/live")).status_code

    assert asyncio.run(ask()) == 200


@pytest.mark.slow
def test_without_a_collector_nothing_of_it_is_imported():
    script = (
        "import sys; from many_models.definitions import build; from many_models.settings import Settings\n"
        "from many_models.wiring import build_telemetry\n"
        "import many_models.serving.app, many_models.operations.alerts\n"
        "made = build(Settings()); assert build_telemetry(Settings(), 'x') is None\n"
        "off = ('opentelemetry.sdk', 'opentelemetry.exporter', 'many_models.adapters.telemetry')\n"
        "sys.exit(', '.join(name for name in sys.modules if name.startswith(off)) or 0)"
    )
    ran = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=300, check=False)
    assert ran.returncode == 0, ran.stderr


@pytest.mark.parametrize("url", ["collector:4318", "http://user:pw@host", "ftp://host", "http://host?key=1"])
def test_an_address_that_is_none_is_refused(url):
    with pytest.raises(ValueError, match="not the address of a collector"):
        Settings.model_validate({"telemetry": {"endpoint": url}})
