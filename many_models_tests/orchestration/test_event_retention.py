"""Pruning superseded events changes nothing that is asked of the newest ones, on SQLite and on PostgreSQL."""

from __future__ import annotations

import shutil
import sqlite3
import tempfile
from contextlib import closing
from datetime import UTC, datetime, timedelta
from pathlib import Path

import dagster as dg
import pytest
from dagster._core.events import DagsterEventType
from dagster._core.storage.partition_status_cache import get_and_update_asset_status_cache_value
from dagster._core.utils import make_new_run_id
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st

from many_models.orchestration.event_log import history
from many_models.orchestration.event_log.retention import PrunedEvents, prune_events
from many_models_tests.orchestration import test_postgres_storage
from many_models_tests.support import event_runs
from many_models_tests.support.event_assets import STORE_ITEMS, UPSTREAM, VERSION
from many_models_tests.support.event_runs import STAGE, add, ask, entry, launch, plain, runs_of_a_day, states

PLANNED, MADE = DagsterEventType.ASSET_MATERIALIZATION_PLANNED, DagsterEventType.ASSET_MATERIALIZATION
pytestmark = pytest.mark.slow
KEYS = ["a", "b", "ü"]
STATUSES = [dg.DagsterRunStatus.SUCCESS, dg.DagsterRunStatus.FAILURE, dg.DagsterRunStatus.CANCELED,
            dg.DagsterRunStatus.STARTED]  # fmt: skip
RUNS = st.lists(
    st.tuples(
        st.sampled_from(STATUSES),
        st.lists(st.sampled_from(KEYS), unique=True),  # planned
        st.lists(st.tuples(st.sampled_from(KEYS), st.sampled_from(["v", "vv", "vvv"])), max_size=4),  # made, in order
        st.sampled_from(["", "", "", *KEYS]),  # a partition that is deleted and added again after it
        st.booleans(),  # whether the UI looks, which caches partition health
    ),
    min_size=1,
    max_size=5,
)


@pytest.fixture(scope="module", params=["sqlite", pytest.param("postgres", marks=pytest.mark.slow)])
def opened(request, tmp_path_factory):
    """A way to open an instance with the partitions KEYS and no event: a copy of one, which is made once."""
    home = tmp_path_factory.mktemp("empty") / "home"
    if request.param == "postgres":
        server = request.getfixturevalue("postgres")
        url = server.new_database()
        with test_postgres_storage.open_instance(home, url) as instance:
            instance.add_dynamic_partitions("store_items", KEYS)
        return lambda folder: test_postgres_storage.open_instance(folder, server.new_database(url))
    with event_runs.open_instance(home) as instance:
        instance.add_dynamic_partitions("store_items", KEYS)
        with instance.event_log_storage.run_connection("empty"):
            pass

    def copy(folder: Path):
        shutil.copytree(home, folder)
        return event_runs.open_instance(folder)

    return copy


def soon() -> datetime:
    return datetime.now(UTC) + timedelta(hours=1)


def live(instance, status, planned, made, again) -> None:
    """One run as the event log and the run storage have it."""
    run_id = make_new_run_id()
    _make_run_file(instance.event_log_storage, run_id)
    instance.add_run(dg.DagsterRun("stage_job", run_id, status=status, asset_selection=frozenset([STAGE])))
    batch = [entry(PLANNED, "stage", key, "", run_id) for key in planned]
    batch += [entry(MADE, "stage", key, version, run_id) for key, version in made]
    instance.event_log_storage.store_event_batch(batch)
    if again:
        instance.delete_dynamic_partition("store_items", again)
        instance.add_dynamic_partitions("store_items", [again])


def _make_run_file(storage, run_id) -> None:
    """A copy of an empty one: making it again takes most of the time."""
    if hasattr(storage, "path_for_shard"):
        shutil.copyfile(storage.path_for_shard("empty"), storage.path_for_shard(run_id))
        storage._initialized_dbs.add(run_id)


def health(instance):
    cached = get_and_update_asset_status_cache_value(instance, STAGE, STORE_ITEMS)
    return None if cached is None else cached._replace(earliest_in_progress_materialization_event_id=None)


def seen(instance):
    """All that is derived from events: what is due, failed and in flight, and Dagster's partition health."""
    return {
        "tags": history.latest_tags(instance, STAGE, [VERSION, UPSTREAM]),
        "failed": history.failed_partitions(instance, STAGE),
        "in flight": history.keys_in_flight(instance, STAGE),
        "newest": instance.get_latest_materialization_event(STAGE),
        "cached": health(instance),
        "materialized": instance.get_materialized_partitions(STAGE),
        "statuses": instance.get_status_by_partition(
            STAGE, instance.get_dynamic_partitions("store_items"), STORE_ITEMS
        ),
    }


def events_kept(instance) -> int:
    records = [instance.get_event_records(dg.EventRecordsFilter(kind, STAGE), limit=1000) for kind in (PLANNED, MADE)]
    return sum(map(len, records))


@settings(
    max_examples=8,
    deadline=None,
    phases=[Phase.reuse, Phase.generate],
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)
@given(before=RUNS, after=RUNS)
@pytest.mark.slow
def test_after_any_history_pruning_leaves_every_answer_as_it_was_and_as_it_would_become(opened, before, after):
    with tempfile.TemporaryDirectory() as folder, opened(Path(folder) / "home") as instance:
        for *run, looked in before:
            live(instance, *run)
            if looked:
                health(instance)
        answers, there = seen(instance), events_kept(instance)
        pruned = prune_events(instance, soon())
        assert seen(instance) == answers
        assert events_kept(instance) == there - pruned.events
        busy = [planned for status, planned, *_ in before if status is dg.DagsterRunStatus.STARTED]
        if not busy:
            assert events_kept(instance) <= 2 * len(KEYS)
        assert prune_events(instance, soon()).events == 0
        for *run, _ in after:
            live(instance, *run)
        incremental = seen(instance)
        instance.update_asset_cached_status_data(STAGE, _nothing_cached(instance))
        anew = seen(instance)
        assert incremental["materialized"] == anew["materialized"]
        prune_events(instance, soon())
        assert seen(instance) == anew


def _nothing_cached(instance):
    from dagster._core.storage.partition_status_cache import AssetStatusCacheValue

    return AssetStatusCacheValue(latest_storage_id=0, partitions_def_id="none")


def test_a_file_of_sqlite_that_goes_while_sizes_are_summed_stops_nothing(tmp_path):
    with event_runs.open_instance(tmp_path / "home") as instance:
        instance.add_dynamic_partitions("store_items", KEYS)
        runs_of_a_day(instance)
        files = Path(instance.event_log_storage.path_for_shard("index")).parent
        (files / "left.db-shm").symlink_to(files / "gone")  # listed, and not there when it is asked for its size
        assert prune_events(instance, soon()).events > 0


@pytest.mark.slow
def test_pruning_leaves_runs_and_graphql_answers_about_assets_as_they_were(opened, tmp_path):
    with opened(tmp_path / "home") as instance:
        run_ids = runs_of_a_day(instance)
        names = dict(zip(run_ids, "abcd", strict=True))
        before = plain({"answer": ask(instance)[0]}, names)
        pruned = prune_events(instance, soon())
        assert pruned.events > 0
        assert plain({"answer": ask(instance)[0]}, names) == before
        assert {run.run_id for run in instance.get_runs()} == set(run_ids)
        kinds = [entry.dagster_event_type for entry in instance.all_logs(run_ids[0])]
        assert kinds.count(DagsterEventType.RUN_FAILURE) == 1
        assert kinds.count(MADE) == 4  # of six; later runs made the other two again


def test_events_younger_than_the_limit_and_those_of_running_runs_stay(opened, tmp_path):
    with opened(tmp_path / "home") as instance:
        for status in (dg.DagsterRunStatus.STARTED, dg.DagsterRunStatus.SUCCESS, dg.DagsterRunStatus.SUCCESS):
            live(instance, status, ["a"], [("a", "v")], "")
        assert prune_events(instance, datetime(2020, 1, 1, tzinfo=UTC)) == PrunedEvents()
        assert prune_events(instance, soon()).events == 2
        assert len(history.keys_in_flight(instance, STAGE)) == 1


@pytest.mark.slow
def test_a_prune_that_was_killed_between_file_and_index_is_finished_by_the_next(opened, tmp_path, monkeypatch):
    with opened(tmp_path / "home") as instance:
        for _ in range(3):
            live(instance, dg.DagsterRunStatus.SUCCESS, KEYS, [(key, "v") for key in KEYS], "")
        before = seen(instance)
        with monkeypatch.context() as patch:
            patch.setattr(
                "many_models.orchestration.event_log.retention._delete",
                lambda *_: (_ for _ in ()).throw(OSError("killed")),
            )
            with pytest.raises(OSError, match="killed"):
                prune_events(instance, soon())
        assert seen(instance) == before
        assert prune_events(instance, soon()).events == 12
        assert seen(instance) == before


@pytest.mark.slow
def test_a_year_of_ten_thousand_series_a_day_fits_in_ten_gigabytes(tmp_path):
    """Bytes per key and day, kept for a week, and what a pruned run leaves for ever, counted up to a year."""
    series, stages, days_kept, runs_a_day = 300, 4, 7, 9
    with event_runs.open_instance(tmp_path / "home") as instance:
        keys = add(instance, series)
        for version in ("v1", "v2", "v3"):
            launch(instance, keys, keys, version=version)
        whole = _bytes(tmp_path)
        prune_events(instance, soon())
        assert len(states(instance).materialized) == series
        pruned = _bytes(tmp_path)
        per_key_day = (whole - pruned) / (2 * series)
        files = sorted((tmp_path / "home/data/history/runs").glob("*-*.db"), key=lambda file: file.stat().st_size)
        of_a_pruned_run = files[0].stat().st_size
    gigabytes = ((days_kept + 1) * stages * 10_000 * per_key_day + 365 * runs_a_day * of_a_pruned_run) / 1e9
    assert gigabytes < 10, f"{gigabytes:.1f} GB: {per_key_day:.0f} bytes a key and day, {of_a_pruned_run} a pruned run"


def _bytes(folder: Path) -> int:
    for file in folder.rglob("*.db"):
        with closing(sqlite3.connect(file)) as database:
            database.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    return sum(file.stat().st_size for file in folder.rglob("*.db*"))
