"""What is due is asked once for all sensors, and again whenever something it depends on has changed."""

from __future__ import annotations

import time
from dataclasses import replace
from datetime import date
from shutil import copytree, rmtree
from typing import TYPE_CHECKING, cast

import dagster as dg
import pandas as pd
import pyarrow as pa
import pytest
from dagster._core.definitions.data_version import CachingStaleStatusResolver
from dagster._core.loader import LoadingContextForTest

from many_models.adapters.registry.mlflow_production import MlflowProduction
from many_models.adapters.warehouse.sql import SqlWarehouse
from many_models.data import lake_tables
from many_models.definitions import build, build_assets
from many_models.errors import UnavailableError
from many_models.operations.day import QUIET, open_instance
from many_models.orchestration import automation, lake_marks, look
from many_models.orchestration.due import ALL_STAGES, StageState
from many_models.orchestration.look import Kept, Look, SharedLook
from many_models.orchestration.stage_run import UPSTREAM_TAG, write_status
from many_models.ports import Filter
from many_models.wiring import build_lake
from many_models_tests.support.project import make_project, sales

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping
    from pathlib import Path

    from many_models.ports import Lake
    from many_models_tests.support.project import Project

pytestmark = pytest.mark.slow  # a whole day to begin with
FEW = {"forecast": {"trees": False}, "compute": {"kind": "serial"}}


class Counted:
    """A lake that notes what is asked of it."""

    def __init__(self, lake: Lake) -> None:
        self._lake, self.asked = lake, list[str]()

    def __getattr__(self, name: str) -> object:
        if name in {"read", "version", "fingerprint", "tables"}:
            self.asked.append(name)
        return getattr(self._lake, name)


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Project:
    """A project whose day is done; with holidays in a file."""
    root = tmp_path_factory.mktemp("made") / "day"
    root.mkdir()
    (root / "holidays.csv").write_text("date,name\n2016-12-25,christmas\n")
    project = make_project(root, sales(stores=1, items=3, days=60), data={"holidays": "holidays.csv"}, **FEW)
    project.run()
    return project


@pytest.fixture
def done(made: Project, tmp_path: Path) -> Project:
    """A copy of it."""
    return replace(made, root=copytree(made.root, tmp_path / "day"))


@pytest.fixture
def instance(done) -> Iterator[dg.DagsterInstance]:
    with open_instance(done.home) as opened:
        yield opened


def shared_look(settings, seconds: float = 0) -> tuple[SharedLook, list[int]]:
    """A shared look, and a list that gets an entry whenever it looks at everything."""
    looks = list[int]()

    def find(seen: Look) -> look.Found:
        looks.append(1)
        return automation.next_due(automation.states(settings, seen))

    return SharedLook(settings, find, seconds), looks


def test_a_round_of_sensors_that_finds_nothing_new_lists_six_tables_and_reads_none(done, instance):
    settings = done.settings()
    repository = automation_repository(settings)
    lake = Counted(build_lake(settings))

    def round_of_ticks() -> list[str]:
        lake.asked.clear()
        for name in automation.SENSORS.values():
            context = dg.build_sensor_context(instance, resources={"lake": lake})
            said = repository.get_sensor_def(name)(context)
            assert isinstance(said, dg.SkipReason)
            assert said.skip_message == "everything is up to date"
        return lake.asked

    first = [*round_of_ticks()]
    assert first.count("read") <= len(look.TABLES) + 3  # some by columns of their own
    again = round_of_ticks()
    assert set(again) <= {"fingerprint"}
    assert len(again) <= len(look.TABLES)


def automation_repository(settings) -> dg.RepositoryDefinition:
    return build(settings).get_repository_def()


OPENINGS = {"store": ["none of ours"], "item": ["no item"], "opens": [date(2016, 1, 1)], "closes": [date(2016, 2, 1)]}


def write_again(done, table: lake_tables.LakeTable) -> None:
    lake = build_lake(done.settings())
    there = lake.version(table.name) is not None
    made_up = OPENINGS if table is lake_tables.RAW_OPENINGS else {"series_id": ["s"], "cutoff_date": ["2016-01-01"]}
    rows = lake.read(table.name) if there else pa.table(made_up)
    lake.replace(table.name, rows, Filter(), table.partition_by)


@pytest.mark.parametrize("table", look.TABLES, ids=lambda table: table.name)
def test_a_table_that_a_person_writes_is_looked_at(done, instance, table):
    settings = done.settings()
    write_status(build_lake(settings), "predictions", {})
    shared, looks = shared_look(settings)
    lake = build_lake(settings)
    for _ in range(2):
        assert shared.found(instance, lake) == (None, None)
    assert len(looks) == 1
    write_again(done, table)
    assert shared.found(instance, lake) == (None, None)
    assert len(looks) == 2


def test_what_dagster_records_is_looked_at_at_once(done, instance):
    settings = done.settings()
    lake = build_lake(settings)
    shared, looks = shared_look(settings, seconds=3600)
    assert shared.found(instance, lake) == (None, None)
    series = instance.get_dynamic_partitions("store_items")
    stage = dg.AssetKey("trained_models")
    instance.report_runless_asset_event(dg.AssetMaterialization(stage, partition=series[0]))
    work, current = shared.found(instance, lake)
    assert work is not None
    assert (work.stage, work.keys) == ("trained_models", (series[0],))  # it is not known what that one has consumed
    assert current is not None
    instance.wipe_assets([dg.AssetKey("store_item_datasets")])
    work, _ = shared.found(instance, lake)
    assert work is not None
    assert (work.stage, len(work.keys)) == ("store_item_datasets", 3)
    run = instance.create_run_for_job(
        automation_repository(settings).get_job("prepare_datasets"), status=dg.DagsterRunStatus.STARTED,
        run_config={"ops": {"store_item_datasets": {"config": {"keys": list(series)}}}},
    )  # fmt: skip
    work, current = shared.found(instance, lake)
    assert work is None
    assert current is not None
    assert current.stage == "store_item_datasets"
    instance.report_run_canceled(run)
    assert shared.found(instance, lake)[0] is not None
    assert len(looks) == 5


def test_changed_holidays_and_deleted_partitions_are_looked_at(done, instance):
    settings = done.settings()
    lake = build_lake(settings)
    shared, looks = shared_look(settings)
    shared.found(instance, lake)
    (done.root / "holidays.csv").write_text("date,name\n2016-12-26,boxing day\n")
    work, _ = shared.found(instance, lake)
    assert work is not None
    assert work.stage == "store_item_datasets"
    instance.delete_dynamic_partition("store_items", instance.get_dynamic_partitions("store_items")[0])
    work, _ = shared.found(instance, lake)
    assert work is not None
    assert len(work.keys) == 2
    assert len(looks) == 3


def test_a_look_that_fails_is_tried_again(done, instance):
    settings = done.settings()
    failing = [True]

    def find(seen: Look) -> look.Found:
        if failing:
            raise OSError(failing.pop())
        return automation.next_due(automation.states(settings, seen))

    shared = SharedLook(settings, find, 3600)
    with pytest.raises(OSError, match="True"):
        shared.found(instance, build_lake(settings))
    assert shared.found(instance, build_lake(settings)) == (None, None)


def test_without_the_private_api_every_look_is_whole(done, instance, monkeypatch):
    settings = done.settings()
    shared, looks = shared_look(settings, seconds=3600)
    monkeypatch.setattr(look.history, "newest_events", lambda *_: None)
    for _ in range(2):
        assert shared.found(instance, build_lake(settings)) == (None, None)
    assert len(looks) == 2


def test_dagster_calls_pooled_models_stale_when_the_way_to_learn_has_changed(done, instance):
    def causes(settings) -> list[str]:
        graph = build(settings).get_repository_def().asset_graph
        resolver = CachingStaleStatusResolver(instance, graph, LoadingContextForTest(instance))
        return [cause.reason for cause in resolver.get_stale_causes(dg.AssetKey("pooled_models"))]

    settings = done.settings()
    assert causes(settings) == []
    forecast = settings.forecast.model_copy(update={"refit_every": 7})
    assert causes(settings.model_copy(update={"forecast": forecast})) == []  # they are learned as before
    forecast = settings.forecast.model_copy(update={"horizon": 8})
    assert causes(settings.model_copy(update={"forecast": forecast})) == ["has a new code version"]


def test_a_look_leaves_nothing_on_disk_that_could_be_damaged(done, instance):
    """What a killed look, another version or a damaged file could spoil: there is no such file."""
    settings = done.settings()
    lake = build_lake(settings)

    def files() -> dict[str, bytes]:
        return {str(file): file.read_bytes() for file in done.root.rglob("*") if file.is_file()}

    shared_look(settings)[0].found(instance, lake)
    before = files()
    assert shared_look(settings)[0].found(instance, lake) == (None, None)
    assert files() == before


def test_a_look_does_not_ask_the_wall_clock(done, instance, monkeypatch):
    """A clock that jumps by years neither hides a change nor makes anything due."""
    settings = done.settings()
    lake = build_lake(settings)
    shared, looks = shared_look(settings, seconds=0)
    for jump in (0, -10 * 365 * 86400, 10 * 365 * 86400):
        monkeypatch.setattr("time.time", lambda jump=jump, real=time.time: real() + jump)
        assert shared.found(instance, lake) == (None, None)
        monkeypatch.undo()
    assert len(looks) == 1
    series = instance.get_dynamic_partitions("store_items")
    monkeypatch.setattr("time.time", lambda real=time.time: real() - 10 * 365 * 86400)
    instance.report_runless_asset_event(dg.AssetMaterialization("trained_models", partition=series[0]))
    work, _ = shared.found(instance, lake)
    assert work is not None
    assert (work.stage, work.keys) == ("trained_models", (series[0],))  # its event is older by ten years, and the last


def test_two_daemons_by_mistake_do_the_same_work_twice_and_nothing_else(done, instance):
    settings = done.settings()
    lake = build_lake(settings)
    before = done.contents()
    instance.wipe_assets([dg.AssetKey("predictions")])
    definitions = build(settings)
    requests = list[dg.RunRequest]()
    for _ in range(2):  # each daemon has its own look, and both look before either run begins
        work, current = shared_look(settings)[0].found(instance, lake)
        assert work is not None
        assert current is not None
        asset = build_assets(settings)["predictions"]
        requests.append(automation.request_of(settings, instance, asset, work, current, {}))
    for request in requests:
        job = definitions.resolve_job_def(automation.JOBS["predictions"])
        assert job.execute_in_process(
            {**request.run_config, **QUIET},
            instance,
            tags=dict(request.tags),
            asset_selection=[dg.AssetKey("predictions")],
        ).success
    assert done.run() == []
    for name, frame in done.contents().items():
        pd.testing.assert_frame_equal(frame, before[name], obj=name)


@pytest.mark.parametrize("value", ["", "v2:17", "\x00\x01", "1" * 400])
def test_a_damaged_mark_of_a_table_is_said_and_taken_again(done, instance, caplog, value):
    lake = build_lake(done.settings())
    name = lake_marks.PREFIX + "predictions"
    right = instance.daemon_cursor_storage.get_cursor_values({name})[name]
    instance.daemon_cursor_storage.set_cursor_values({name: value})
    assert lake_marks.lost(instance, lake) == {}
    assert "the mark of the lake's table predictions cannot be read" in caplog.text
    lake_marks.record_marks(instance, lake)
    assert instance.daemon_cursor_storage.get_cursor_values({name}) == {name: right}


def test_the_stages_of_one_look_read_each_stage_of_the_records_once(done, instance, monkeypatch):
    asked = list[str]()
    latest = look.history.latest_tags
    monkeypatch.setattr(
        look.history, "latest_tags", lambda of, key, tags: asked.append(key.to_user_string()) or latest(of, key, tags)
    )
    settings = done.settings()
    assert len(list(automation.states(settings, Look(instance, build_lake(settings))))) == len(ALL_STAGES)
    assert len(asked) == len(set(asked)) > 0


# --- production and the warehouse -----------------------------------------------------------------------------------
def tick(repository: dg.RepositoryDefinition, stage: str, instance, lake) -> dg.RunRequest | dg.SkipReason:
    sensor = repository.get_sensor_def(automation.SENSORS[stage])
    return sensor(dg.build_sensor_context(instance, resources={"lake": lake}))


def lose_production(project: Project) -> None:
    rmtree(project.root / "var" / "registry" / "production")
    (project.root / "var" / "registry" / "production.db").unlink()


LOST = {
    "warehouse_predictions": lambda project: (project.root / "var" / "warehouse.db").unlink(),
    "promoted_models": lose_production,
}


@pytest.mark.parametrize("stage", LOST)
def test_the_sensors_find_a_store_that_was_lost_while_nothing_was_due(done, instance, monkeypatch, stage):
    repository, lake = automation_repository(done.settings()), build_lake(done.settings())
    assert isinstance(tick(repository, stage, instance, lake), dg.SkipReason)
    LOST[stage](done)
    assert isinstance(tick(repository, stage, instance, lake), dg.SkipReason)  # it is asked once an hour
    monkeypatch.setattr(look, "OUTSIDE_SECONDS", 1e-9)
    asked = tick(repository, stage, instance, lake)
    assert isinstance(asked, dg.RunRequest)
    assert asked.job_name == automation.JOBS[stage]


def test_nothing_follows_production_while_a_run_is_in_flight(done, instance, monkeypatch):
    monkeypatch.setattr(look, "OUTSIDE_SECONDS", 1e-9)
    repository, lake = automation_repository(done.settings()), build_lake(done.settings())
    run = instance.create_run_for_job(repository.get_job("load_warehouse"), status=dg.DagsterRunStatus.STARTED)
    lose_production(done)
    held = lake.version("champions")
    tick(repository, "promoted_models", instance, lake)
    assert lake.version("champions") == held
    instance.report_run_canceled(run)
    assert isinstance(tick(repository, "promoted_models", instance, lake), dg.RunRequest)


def test_stores_that_do_not_answer_make_nothing_due(done, instance, monkeypatch, caplog):
    def away(*_: object) -> dict[str, str]:
        raise UnavailableError("it does not answer")

    for method in ("live_id", "loads"):
        monkeypatch.setattr(MlflowProduction if method == "live_id" else SqlWarehouse, method, away)
    repository, lake = automation_repository(done.settings()), build_lake(done.settings())
    said = tick(repository, "warehouse_predictions", instance, lake)
    assert isinstance(said, dg.SkipReason)
    assert said.skip_message == "everything is up to date"
    assert caplog.text.count("it does not answer") == 2


# --- tags that are kept ---------------------------------------------------------------------------------------------
def test_a_stage_is_read_again_when_it_was_made_again_or_a_run_was_deleted(done, instance, monkeypatch):
    asked = list[str]()
    latest = look.history.latest_tags
    monkeypatch.setattr(
        look.history, "latest_tags", lambda of, key, tags: asked.append(key.to_user_string()) or latest(of, key, tags)
    )
    kept = Kept()

    def read() -> dict[str, Mapping[str, str]]:
        asked.clear()
        seen = Look(instance, build_lake(done.settings()), kept)
        return {stage: seen.consumed(stage) for stage in ("trained_models", "predictions")}

    before = read()
    assert asked == ["trained_models", "predictions"]
    assert read() == before
    assert asked == []
    series = instance.get_dynamic_partitions("store_items")
    event = dg.AssetMaterialization("trained_models", partition=series[0], tags={UPSTREAM_TAG: "other"})
    instance.report_runless_asset_event(event)
    assert read() == {**before, "trained_models": {**before["trained_models"], series[0]: "other"}}
    assert asked == ["trained_models"]
    (run,) = instance.get_runs(dg.RunsFilter(job_name=automation.JOBS["predictions"]))
    shared, looks = shared_look(done.settings())
    lake = build_lake(done.settings())
    for _ in range(2):
        shared.found(instance, lake)
    instance.delete_run(run.run_id)
    assert read()["predictions"] == {}
    shared.found(instance, lake)
    assert len(looks) == 2


CHANGES = {
    lake_tables.SERIES: lambda rows: rows.set_column(
        rows.column_names.index("active"), "active", pa.array([False] + [True] * (rows.num_rows - 1))
    ),
    lake_tables.CHAMPIONS: lambda rows: rows.slice(0, 0),
    lake_tables.RAW_VERSIONS: lambda rows: rows.slice(1),
}


def test_looks_of_one_run_derive_again_only_what_has_changed(done, instance, monkeypatch):
    """A run of another stage, which only makes the number of runs another one, has nothing read again."""
    asked = list[str]()
    latest = look.history.latest_tags
    monkeypatch.setattr(
        look.history, "latest_tags", lambda of, key, tags: asked.append(key.to_user_string()) or latest(of, key, tags)
    )
    settings, kept = done.settings(), Kept()
    lake = build_lake(settings)
    counted = Counted(lake)

    def found(kept: Kept) -> list[StageState]:
        return list(automation.states(settings, Look(instance, cast("Lake", counted), kept)))

    before = found(kept)
    job = automation_repository(settings).get_job("pool_models")
    instance.create_run_for_job(job, status=dg.DagsterRunStatus.SUCCESS)
    asked.clear()
    counted.asked.clear()
    assert found(kept) == before
    assert asked == []
    assert counted.asked.count("read") <= 5  # of the stages that are not over series
    for table, changed in CHANGES.items():
        lake.replace(table.name, changed(lake.read(table.name)), Filter(), table.partition_by)
        now = found(kept)
        assert now == found(Kept())
        assert now != before
        before = now
