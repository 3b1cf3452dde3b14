"""A Dagster whose private API does not fit: days run on its public API alone, and end as they would."""

from __future__ import annotations

import warnings
from datetime import UTC, datetime, timedelta

import dagster as dg
import pandas as pd
import pytest
from dagster._core.storage.event_log.sqlite.sqlite_event_log import SqliteEventLogStorage

from many_models.errors import MissingDependencyError
from many_models.operations.day import open_instance
from many_models.orchestration.automation import raw_state
from many_models.orchestration.event_log import history, private_api, public_api, retention, runs
from many_models.orchestration.event_log.retention import prune_events
from many_models.orchestration.stage_run import UPSTREAM_TAG, VERSION_TAG
from many_models.wiring import build_source
from many_models_tests.support import event_runs
from many_models_tests.support.event_assets import UPSTREAM, VERSION
from many_models_tests.support.event_runs import STAGE, add, launch
from many_models_tests.support.project import END, Project, make_project, sales

pytestmark = pytest.mark.slow
QUICK: dict[str, object] = {"horizon": 7, "windows": 1, "trees": False}
TAGS = [UPSTREAM_TAG, VERSION_TAG]
STAGES = ("raw_sales", "store_item_datasets", "trained_models", "promoted_models", "predictions")


@pytest.fixture
def another_dagster(monkeypatch):
    """Dagster after it has given a private method another parameter; whatever of ours still asks its SQL fails."""
    stock = SqliteEventLogStorage._store_asset_event

    def renamed(self, conn, event, event_row_id):
        return stock(self, conn, event, event_row_id)

    def not_ours(_instance):
        raise AssertionError("private API is used though it does not fit")

    monkeypatch.setattr(SqliteEventLogStorage, "_store_asset_event", renamed)
    for module in (history, runs, retention):
        monkeypatch.setattr(module, "sql_event_log", not_ours)
    private_api.private_api_problems.cache_clear()
    private_api._warn_once.cache_clear()
    yield
    private_api.private_api_problems.cache_clear()
    private_api._warn_once.cache_clear()


def known(project: Project) -> dict[str, object]:
    """What is derived from the events of every stage."""
    with open_instance(project.home) as instance:
        keys = {stage: dg.AssetKey(stage) for stage in STAGES}
        return {
            "tags": {
                stage: {name: sorted(tags) for name, tags in history.latest_tags(instance, key, TAGS).items()}
                for stage, key in keys.items()
            },
            "failed": {stage: sorted(history.failed_partitions(instance, key)) for stage, key in keys.items()},
            "in flight": {stage: history.keys_in_flight(instance, key) for stage, key in keys.items()},
        }


@pytest.mark.long(
    "orchestration/test_public_events.py::test_the_public_api_tells_of_runs_what_the_private_one_tells",
    "orchestration/test_events.py::test_without_the_private_api_good_series_are_still_recorded_with_one_warning",
)
def test_days_run_on_the_public_api_alone_with_one_warning_and_end_as_they_would(tmp_path, another_dagster):
    rows = sales(stores=1, items=2, days=25)
    yesterday = END - timedelta(days=1)
    odd = make_project(tmp_path / "odd", rows, forecast=QUICK)
    with warnings.catch_warnings(record=True) as warned:
        warnings.simplefilter("always")
        first, second = odd.run(yesterday), odd.run(END)
        assert odd.run(END) == []
        found = known(odd)
    ours = [str(warning.message) for warning in warned if "public API" in str(warning.message)]
    assert len(ours) == 1
    assert "_store_asset_event takes (self, conn, event, event_row_id)" in ours[0]
    assert dg.__version__ in ours[0]
    assert_as_on_clean_days(tmp_path, rows, [first, second], odd, found)


def assert_as_on_clean_days(tmp_path, rows, reports, odd, found) -> None:
    """The same days on the private API: the same work, the same tables, the same answers."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(private_api, "private_api_problems", lambda: ())
        for module in (history, runs, retention):
            patch.setattr(module, "sql_event_log", lambda instance: instance.event_log_storage)
        clean = make_project(tmp_path / "clean", rows, forecast=QUICK)
        for until, seen in zip((END - timedelta(days=1), END), reports, strict=True):
            said = [(report.stage, report.keys, report.done, report.failed) for report in clean.run(until)]
            assert said == [(report.stage, report.keys, report.done, report.failed) for report in seen]
        assert known(clean) == found
    expected, left = clean.contents(), odd.contents()
    assert set(left) == set(expected)
    for name, frame in expected.items():
        pd.testing.assert_frame_equal(left[name], frame, obj=name)


def test_pruning_is_refused_and_nothing_is_deleted(tmp_path, another_dagster):
    project = make_project(tmp_path / "p", sales(stores=1, items=1, days=5))
    with warnings.catch_warnings(), open_instance(project.home) as instance:
        warnings.simplefilter("ignore")
        with pytest.raises(MissingDependencyError, match="_store_asset_event"):
            prune_events(instance, datetime.now(UTC))
        assert not raw_state(project.settings(END), instance, build_source(project.settings(END))).done


def test_the_public_api_tells_of_runs_what_the_private_one_tells(tmp_path):
    with event_runs.open_instance(tmp_path / "home") as instance:
        keys = add(instance, 6)
        launch(instance, keys, keys, version="v1", fail=[keys[1], keys[4]])
        launch(instance, [keys[0], keys[2], keys[4]], keys, version="v2", fail=[keys[2]])
        failed = history.failed_partitions(instance, STAGE)
        assert set(failed) == {keys[1], keys[2]}
        assert public_api.failed(instance, STAGE) == failed
        tags = history.latest_tags(instance, STAGE, [UPSTREAM, VERSION])
        made = public_api.newest_materializations(instance, STAGE)
        assert list(made) == list(tags)
        told = {key: entry.asset_materialization.tags for key, entry in made.items()}
        assert {key: {tag: found[tag] for tag in (UPSTREAM, VERSION)} for key, found in told.items()} == tags
        run_ids = [run.run_id for run in instance.get_runs()]
        planned = public_api.planned(instance, STAGE, run_ids)
        assert {run: sorted(keys) for run, keys in planned.items()} == {
            run: sorted(keys)
            for run, keys in history.planned_by_run(instance.event_log_storage, STAGE, run_ids).items()
        }
