"""Dagster's storage on a real PostgreSQL server: batches leave what single events leave, and a day runs on it."""

from __future__ import annotations

import re
import time
from typing import TYPE_CHECKING

import dagster as dg
import pytest
import sqlalchemy
from dagster._core.events import DagsterEventType
from dagster._core.instance.ref import InstanceRef
from dagster_postgres.event_log import PostgresEventLogStorage
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st

from many_models.errors import SettingsError, UnavailableError
from many_models.operations.day import POSTGRES_URL
from many_models.orchestration.event_log.storage_postgres import BatchedPostgresEventLog, BatchedPostgresStorage
from many_models_tests.support.event_runs import ENTRIES, add, ask, entry, launch, plain, runs_of_a_day, states
from many_models_tests.support.project import END, make_project, sales, stages_of

if TYPE_CHECKING:
    from pathlib import Path

    from many_models_tests.stand_ins.postgres_server import PostgresServer

BATCHED = {"module": "many_models.orchestration.event_log.storage_postgres", "class": "BatchedPostgresStorage"}


def open_instance(home: Path, url: str, *, batched: bool = True) -> dg.DagsterInstance:
    home.mkdir(exist_ok=True)
    config = {"postgres_url": url}
    storage = {"custom": {**BATCHED, "config": config}} if batched else {"postgres": config}
    overrides = {
        "telemetry": {"enabled": False},
        "python_logs": {"python_log_level": "CRITICAL"},
        "storage": storage,
    }
    return dg.DagsterInstance.from_ref(InstanceRef.from_dir(str(home), overrides=overrides))


def rows_left_behind(url: str, run_ids: list[str]) -> dict[str, list[str]]:
    """Every row of every table of the event log, in order, without times and ids of runs."""
    names = {run_id: f"run {at}" for at, run_id in enumerate(run_ids)}
    engine = sqlalchemy.create_engine(url, poolclass=sqlalchemy.NullPool)
    left = {}
    with engine.connect() as connection:
        for table in ("event_logs", "asset_event_tags", "asset_keys", "asset_check_executions", "dynamic_partitions"):
            rows = connection.execute(sqlalchemy.text(f"SELECT * FROM {table} ORDER BY id")).mappings()
            # a conflict on insert, which every second event of an asset is, burns one of the ids of asset_keys
            found = [{k: str(v) for k, v in row.items() if (table, k) != ("asset_keys", "id")} for row in rows]
            texts = [plain(row, names) for row in found]
            left[table] = sorted(texts) if table == "asset_keys" else texts
    return left


@pytest.mark.slow
@settings(
    max_examples=15,
    deadline=None,
    phases=[Phase.reuse, Phase.generate],
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)
@given(batches=st.lists(ENTRIES, min_size=1, max_size=2))
def test_a_batch_of_any_events_leaves_the_rows_that_single_events_leave(postgres: PostgresServer, batches) -> None:
    url = _logs(postgres)
    left = []
    for log in (PostgresEventLogStorage, BatchedPostgresEventLog):
        _empty(url)
        storage = log(url, should_autocreate_tables=False)
        for batch in batches:
            if log is BatchedPostgresEventLog:
                storage.store_event_batch(batch)
            else:
                for event in batch:
                    storage.store_event(event)
        left.append(rows_left_behind(url, ["run-1", "run-2"]))
    assert left[1] == left[0]
    assert sum(map(len, batches)) == len(left[0]["event_logs"])


_LOGS: dict[int, str] = {}


def _logs(postgres: PostgresServer) -> str:
    if postgres.port not in _LOGS:
        _LOGS[postgres.port] = postgres.new_database()
        PostgresEventLogStorage(_LOGS[postgres.port])
    return _LOGS[postgres.port]


def _empty(url: str) -> None:
    with sqlalchemy.create_engine(url, poolclass=sqlalchemy.NullPool).begin() as connection:
        connection.execute(sqlalchemy.text("TRUNCATE event_logs, asset_event_tags, asset_keys RESTART IDENTITY"))


def test_a_batch_whose_connection_breaks_leaves_nothing_and_can_be_stored_again(postgres, monkeypatch) -> None:
    url = postgres.new_database()
    log = BatchedPostgresEventLog(url)
    batch = [entry(DagsterEventType.ASSET_MATERIALIZATION, "a", key, "v", "run-1") for key in "pqr"]
    stored = log._store_asset_event

    def broken(*arguments):
        postgres.drop_connections()
        return stored(*arguments)

    with monkeypatch.context() as patch:
        patch.setattr(log, "_store_asset_event", broken)
        with pytest.raises(sqlalchemy.exc.OperationalError):
            log.store_event_batch(batch)
    assert rows_left_behind(url, [])["event_logs"] == []
    log.store_event_batch(batch)
    left = rows_left_behind(url, [])
    assert (len(left["event_logs"]), len(left["asset_event_tags"]), len(left["asset_keys"])) == (
        3,
        3,
        1,
    )  # Dagster indexes the data version only


@pytest.mark.slow
def test_the_same_runs_leave_the_same_rows_and_the_same_graphql_answers_in_both_storages(postgres, tmp_path) -> None:
    left, answers = [], []
    for name in ("stock", "batched"):
        url = postgres.new_database()
        with open_instance(tmp_path / name, url, batched=name == "batched") as instance:
            run_ids = runs_of_a_day(instance)
            left.append(rows_left_behind(url, run_ids))
            names = dict(zip(run_ids, "abcd", strict=True))
            answers.append([plain({"answer": answer}, names) for answer in ask(instance)])
    for table, rows in left[0].items():
        assert left[1][table] == rows, table
    assert answers[1] == answers[0]
    assert "s00003" in answers[0][0]


@pytest.mark.slow
def test_four_thousand_series_planned_by_dagster_and_recorded_take_seconds(postgres, tmp_path) -> None:
    with open_instance(tmp_path / "home", postgres.new_database()) as instance:
        keys = add(instance, 4_000)
        began = time.process_time()
        launch(instance, keys, keys, fail=keys[5:8])
        took = time.process_time() - began
        seen = states(instance)
    assert (len(seen.materialized), seen.failed) == (3_997, set(keys[5:8]))
    assert took < 15, f"{took:.1f} s"  # about 2 s of this process; stock storage needs 40


@pytest.mark.slow
def test_a_url_without_a_driver_means_the_one_that_dagster_is_written_for(postgres, tmp_path) -> None:
    url = postgres.new_database().replace("+psycopg2", "")
    with open_instance(tmp_path / "home", url) as instance:
        assert instance.all_asset_keys() == []
    parts = sqlalchemy.make_url(url)
    config = {"username": parts.username, "password": parts.password, "hostname": parts.host,
              "port": parts.port, "db_name": parts.database}  # fmt: skip
    storage = BatchedPostgresStorage.from_config_value(None, {"postgres_db": config})
    assert isinstance(storage.event_log_storage, BatchedPostgresEventLog)


def test_a_server_that_does_not_answer_is_named_without_the_password(monkeypatch, caplog) -> None:
    monkeypatch.setattr("dagster_postgres.utils.time.sleep", lambda _: None)
    with pytest.raises(UnavailableError, match=r"127\.0\.0\.1:1/nothing") as raised:
        BatchedPostgresStorage("postgresql://somebody:very-secret@127.0.0.1:1/nothing")
    assert "very-secret" not in str(raised.value) + caplog.text


def test_without_the_url_in_the_environment_the_error_says_what_to_export(tmp_path) -> None:
    project = make_project(tmp_path / "p", sales(1, 1, 40), dagster={"storage": "postgres"})
    with pytest.raises(SettingsError, match=f"export {POSTGRES_URL}="):
        project.run()


@pytest.mark.long(
    "orchestration/test_postgres_storage.py::test_the_same_runs_leave_the_same_rows_and_the_same_graphql_answers_in_both_storages",
    "days/test_day.py::test_the_first_day_carries_every_series_from_the_source_to_the_warehouse",
)
def test_a_day_runs_on_postgres_once(postgres, tmp_path, monkeypatch) -> None:
    monkeypatch.setenv(POSTGRES_URL, postgres.new_database().replace("+psycopg2", ""))
    project = make_project(tmp_path / "p", sales(stores=1, items=3, days=60), dagster={"storage": "postgres"})
    assert stages_of(project.run())["predictions"] == 3
    assert project.run(END) == []
    assert project.partitions("predictions") == {f"s0__i{item}" for item in range(3)}
    written = (project.home / "dagster.yaml").read_text()
    assert re.search(r"env: DAGSTER_POSTGRES_URL", written)
    assert not list(project.home.rglob("*.db"))
