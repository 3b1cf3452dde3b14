"""The sensor `alerts` over a real Dagster instance: what it finds, whom it tells, and what stops no stage."""

from __future__ import annotations

import json
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any

import dagster as dg
import pyarrow as pa
import pytest

from many_models.adapters.lake.memory import MemoryLake
from many_models.adapters.messenger.memory import MemoryMessenger
from many_models.adapters.registry.memory import MemoryProduction
from many_models.adapters.warehouse.memory import MemoryWarehouse
from many_models.data import lake_tables
from many_models.definitions import build
from many_models.errors import UnavailableError
from many_models.operations.alerts import send_test, tell_people
from many_models.orchestration import alerts
from many_models.orchestration.due import FailureRecord
from many_models.orchestration.look import STAGE_TAG
from many_models.orchestration.stage_run import write_status
from many_models.ports import Filter, WarehousePart
from many_models.settings import Settings
from many_models_tests.board.shop import Away

if TYPE_CHECKING:
    from collections.abc import Iterator

AS_OF = datetime(2026, 10, 31)
NOW = datetime(2026, 11, 1, 8, tzinfo=UTC)
ON: dict[str, Any] = {"alerts": {"on": True, "quarantine_rows": 2}, "drift": {"watch": True}}


@pytest.fixture
def instance() -> Iterator[dg.DagsterInstance]:
    with dg.DagsterInstance.ephemeral() as opened:
        yield opened


@pytest.fixture
def lake() -> MemoryLake:
    held = MemoryLake()
    put(held, lake_tables.RAW_VERSIONS, {"series_id": ["s"], "year": pa.array([2026], pa.int32()), "last": [AS_OF]})
    return held


def put(lake: MemoryLake, table: lake_tables.LakeTable, columns: dict[str, Any]) -> None:
    lake.replace(table.name, pa.table(columns), Filter(), table.partition_by)


def asked(instance: dg.DagsterInstance, lake: Any, **stores: Any) -> alerts.Asked:
    settings = Settings.model_validate(stores.pop("settings", ON))
    given = {"production": MemoryProduction(), "warehouse": MemoryWarehouse(), **stores}
    return alerts.Asked(settings, instance, lake, **given)


def fail_a_series(lake: MemoryLake, *names: str, aside: bool = False) -> None:
    record = FailureRecord("v", "ForecastError", "no observations", permanent=True, attempts=1, set_aside=aside)
    write_status(lake, "trained_models", dict.fromkeys(names, record))


def run_of(instance: dg.DagsterInstance, body: Any, stage: str = "predictions") -> None:
    """A run of a stage that does `body`."""

    @dg.op
    def work() -> None:
        body()

    @dg.job(tags={STAGE_TAG: stage})
    def job() -> None:
        work()

    job.execute_in_process(instance=instance, raise_on_error=False)


def raising(error: Exception) -> Any:
    def body() -> None:
        raise error

    return body


def titles(messenger: MemoryMessenger, name: str = "memory") -> list[str]:
    return [message.title.removeprefix("many_models: ") for message in messenger.sent.get(name, ())]


def test_a_failed_stage_is_told_with_its_reason_once(instance, lake):
    messenger = MemoryMessenger()
    for _ in range(3):
        run_of(instance, raising(UnavailableError("the warehouse does not answer")))
        alerts.tell(asked(instance, lake), messenger, NOW, settled=True)
    assert titles(messenger) == ["predictions failed"]
    (message,) = messenger.sent["memory"]
    assert "UnavailableError: the warehouse does not answer" in message.text
    assert message.urgent
    assert message.text.endswith("http://127.0.0.1:8090/")


def test_a_stage_whose_newest_run_went_well_or_failed_for_series_is_not_told(instance, lake):
    run_of(instance, raising(UnavailableError("away")))
    run_of(instance, lambda: None)
    run_of(instance, raising(dg.Failure("2 of 9 series failed at trained_models")), "trained_models")
    assert alerts.failed_stages(instance) == {}


def test_a_run_whose_process_was_killed_is_told(instance):
    run = instance.create_run_for_job(_job(), status=dg.DagsterRunStatus.STARTED, tags={STAGE_TAG: "predictions"})
    assert alerts.failed_stages(instance) == {}
    instance.report_run_failed(run)
    assert "killed" in alerts.failed_stages(instance)["predictions"]


def _job() -> dg.JobDefinition:
    @dg.op
    def work() -> None: ...

    @dg.job
    def job() -> None:
        work()

    return job


def test_everything_that_is_off_is_told_each_by_itself(instance, lake):
    fail_a_series(lake, "Berlin__milk")
    put(lake, lake_tables.QUARANTINE, {"origin": ["sales"] * 2, "reason": ["no key"] * 2})
    put(lake, lake_tables.DRIFT, {
        "series_id": ["Berlin__milk", "Rome__milk"], "drifted": [True, False], "cutoff_date": ["2026-10-31"] * 2,
    })  # fmt: skip
    warehouse = MemoryWarehouse()
    rows = pa.table({
        "series_id": ["a", "b"], "cutoff": [AS_OF - timedelta(days=3)] * 2, "periods": [7, 7], "actual": [100.0, 300.0],
        "bias": [0.5, 0.3], "cover80": [0.5, 0.5],
    })  # fmt: skip
    warehouse.load("accuracy", "1", [WarehousePart("accuracy", rows, Filter(), ("series_id", "cutoff"))])
    instance.report_runless_asset_event(dg.AssetMaterialization("warehouse_predictions", partition="2026-10-31"))
    messenger = MemoryMessenger()
    alerts.tell(asked(instance, lake, warehouse=warehouse), messenger, NOW, settled=True)
    assert titles(messenger) == [
        "50% of actuals lie in the 80 % interval", "1 series drifted", "2 rows in quarantine", "series: 1 failed",
    ]  # fmt: skip
    (accuracy, *_) = messenger.sent["memory"]
    assert "35% above" in accuracy.text  # (100 × .5 + 300 × .3) / 400


def test_an_address_that_is_down_is_told_later_and_the_others_once(instance, lake):
    fail_a_series(lake, "Berlin__milk")
    messenger = MemoryMessenger(("mail", "teams"), away={"teams"})
    lines = alerts.tell(asked(instance, lake), messenger, NOW, settled=True)
    assert lines == ["told mail: series: 1 failed", "teams was not told series: 1 failed: is away"]
    messenger.away.clear()
    for _ in range(2):
        alerts.tell(asked(instance, lake), messenger, NOW, settled=True)
    assert titles(messenger, "mail") == titles(messenger, "teams") == ["series: 1 failed"]


@pytest.mark.parametrize("store", ["lake", "production", "warehouse"])
def test_a_store_that_is_away_is_named_and_the_rest_is_told(instance, lake, store):
    run_of(instance, raising(UnavailableError("the source does not answer")), "raw_sales")
    instance.report_runless_asset_event(dg.AssetMaterialization("warehouse_predictions", partition="2026-10-31"))
    messenger = MemoryMessenger()
    stores = {"lake": lake, store: Away()}
    lines = alerts.tell(asked(instance, stores.pop("lake"), **stores), messenger, NOW, settled=True)
    assert titles(messenger) == ["raw_sales failed"]
    assert any("cannot be asked: nobody answers" in line for line in lines)


def test_a_record_of_what_was_told_that_is_damaged_is_made_again(instance, lake):
    fail_a_series(lake, "Berlin__milk")
    instance.daemon_cursor_storage.set_cursor_values({alerts.STATE: "{half"})
    messenger = MemoryMessenger()
    for _ in range(2):
        alerts.tell(asked(instance, lake), messenger, NOW, settled=True)
    assert titles(messenger) == ["series: 1 failed"]


def test_no_new_data_is_told_by_the_hour_of_the_settings_zone(instance, lake):
    settings = {"alerts": {"on": True, "no_data_by": "09:00"}, "dagster": {"timezone": "Europe/Berlin"}}
    state = {"as_of": AS_OF.isoformat(), "moved": "2026-11-01T05:00:00+00:00"}
    instance.daemon_cursor_storage.set_cursor_values({alerts.STATE: json.dumps(state)})
    messenger = MemoryMessenger()

    def tick(now: datetime) -> list[str]:
        alerts.tell(asked(instance, lake, settings=settings), messenger, now, settled=True)
        return titles(messenger)

    assert tick(datetime(2026, 11, 2, 7, 59, tzinfo=UTC)) == []
    assert tick(datetime(2026, 11, 2, 8, 0, tzinfo=UTC)) == ["no new data since 2026-10-31"]
    assert tick(datetime(2026, 11, 3, 9, 0, tzinfo=UTC)) == ["no new data since 2026-10-31"]
    put(lake, lake_tables.RAW_VERSIONS, {
        "series_id": ["s"], "year": pa.array([2026], pa.int32()), "last": [AS_OF + timedelta(days=1)],
    })  # fmt: skip
    assert tick(datetime(2026, 11, 3, 9, 30, tzinfo=UTC)) == ["no new data since 2026-10-31"]
    held = json.loads(instance.daemon_cursor_storage.get_cursor_values({alerts.STATE})[alerts.STATE])
    assert held["as_of"] == "2026-11-01T00:00:00"


def test_the_sensor_is_there_where_the_settings_ask_for_it_and_runs_from_the_start(instance, lake):
    assert alerts.SENSOR not in {one.name for one in build(Settings()).get_repository_def().sensor_defs}
    settings = Settings.model_validate(ON)
    messenger = MemoryMessenger()
    stores = {"lake": lake, "production": MemoryProduction(), "warehouse": MemoryWarehouse(), "messenger": messenger}
    sensor = build(settings, stores).get_repository_def().get_sensor_def(alerts.SENSOR)
    assert sensor.default_status is dg.DefaultSensorStatus.RUNNING
    run_of(instance, raising(UnavailableError("away")), "raw_sales")
    said = sensor(dg.build_sensor_context(instance, resources=stores))
    assert isinstance(said, dg.SkipReason)
    assert said.skip_message == "told memory: raw_sales failed"
    said = sensor(dg.build_sensor_context(instance, resources=stores))
    assert said.skip_message == "nothing new to tell"


def test_an_idle_tick_reads_no_table(instance, lake, monkeypatch):
    fail_a_series(lake, "Berlin__milk")
    messenger = MemoryMessenger()
    one = asked(instance, lake)
    alerts.tell(one, messenger, NOW, settled=True)
    monkeypatch.setattr(lake, "read", raising(AssertionError("a table was read")))
    alerts.tell(one, messenger, NOW, settled=True)
    assert one.away == {}


def test_a_run_without_a_daemon_tells_too_and_never_fails_for_it(instance, lake):
    fail_a_series(lake, "Berlin__milk")
    messenger = MemoryMessenger()
    stores = {"lake": lake, "production": MemoryProduction(), "warehouse": MemoryWarehouse(), "messenger": messenger}
    assert tell_people(Settings(), instance, stores) == []
    settings = Settings.model_validate(ON)
    assert tell_people(settings, instance, stores) == ["told memory: series: 1 failed"]
    assert "UnavailableError: nobody answers" in tell_people(settings, instance, {**stores, "messenger": Away()})[0]


def test_missing_addresses_are_told_by_the_name_of_the_secret(instance, lake, monkeypatch):
    monkeypatch.delenv("MANY_MODELS_ALERT_ADDRESSES", raising=False)
    stores = {"lake": lake, "production": MemoryProduction(), "warehouse": MemoryWarehouse()}
    (line,) = tell_people(Settings.model_validate(ON), instance, stores)
    assert "the secret MANY_MODELS_ALERT_ADDRESSES is missing" in line


def test_a_test_message_says_who_took_it():
    messenger = MemoryMessenger(("mail", "teams"), away={"teams"})
    assert send_test(Settings.model_validate(ON), messenger) == {"mail": "", "teams": "is away"}
