"""Dagster's private API as we use it: batches leave what single events leave, a run owns exactly its keys."""

import os
import re
import shutil
import subprocess
import sys
import tempfile
import time
import warnings
from pathlib import Path

import dagster as dg
import pytest
from dagster._core.events import DagsterEventType
from dagster._core.remote_origin import InProcessCodeLocationOrigin, RemoteJobOrigin, RemoteRepositoryOrigin
from dagster._core.storage.event_log.sqlite.sqlite_event_log import SqliteEventLogStorage
from dagster._core.types.loadable_target_origin import LoadableTargetOrigin
from hypothesis import Phase, given, settings
from hypothesis import strategies as st

from many_models.errors import InputError, MissingDependencyError, SettingsError
from many_models.operations import day
from many_models.orchestration.event_log import dead_runs, history, private_api, runs, storage_sqlite
from many_models_tests.support.event_assets import STORE_ITEMS, UPSTREAM, VERSION, defs
from many_models_tests.support.event_runs import (
    ENTRIES,
    STAGE,
    add,
    ask,
    entry,
    launch,
    open_instance,
    plain,
    rows_left_behind,
    runs_of_a_day,
    states,
)

pytestmark = pytest.mark.slow
ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture
def instance(tmp_path):
    with open_instance(tmp_path / "home") as instance:
        yield instance


# --- The storage ----------------------------------------------------------------------------------------------------
@pytest.fixture(scope="module")
def empty_logs(tmp_path_factory):
    """Initialized files of an index and two runs, to be copied: making them again takes most of the time."""
    folder = tmp_path_factory.mktemp("empty") / "runs"
    log = SqliteEventLogStorage(str(folder))
    for run_id in ("run-1", "run-2"):
        with log.run_connection(run_id):
            pass
    return folder


@pytest.mark.slow
@settings(max_examples=10, deadline=None, phases=[Phase.reuse, Phase.generate])  # shrinking takes minutes
@given(batches=st.lists(ENTRIES, min_size=1, max_size=2))
def test_a_batch_of_any_events_leaves_the_rows_that_the_stock_event_log_leaves(empty_logs, batches):
    left = []
    for log in (SqliteEventLogStorage, storage_sqlite.BatchedSqliteEventLog):
        with tempfile.TemporaryDirectory() as home:
            folder = Path(home) / "data/history/runs"
            shutil.copytree(empty_logs, folder)
            storage = log(str(folder))
            for batch in batches:
                storage.store_event_batch(batch)
            left.append(rows_left_behind(Path(home), ["run-1", "run-2"]))
    stock, batched = left
    assert batched == stock
    assert sum(map(len, batches)) == sum(len(tables["event_logs"]) for name, tables in stock.items() if name != "index")


def test_a_batch_that_fails_half_way_leaves_nothing_so_that_its_events_can_be_stored_again(tmp_path, monkeypatch):
    log = storage_sqlite.BatchedSqliteEventLog(str(tmp_path / "data/history/runs"))
    batch = [entry(DagsterEventType.ASSET_MATERIALIZATION, "a", key, "v", "run-1") for key in "pqr"]
    log.store_event_batch(batch[:1])
    before = rows_left_behind(tmp_path, ["run-1"])
    with monkeypatch.context() as patch:
        patch.setattr(log, "_store_asset_event", lambda *_: (_ for _ in ()).throw(OSError("disk full")))
        with pytest.raises(OSError, match="disk full"):
            log.store_event_batch(batch[1:])
    assert rows_left_behind(tmp_path, ["run-1"]) == before
    log.store_event_batch(batch[1:])
    assert len(rows_left_behind(tmp_path, ["run-1"])["run 0"]["event_logs"]) == 3


@pytest.mark.slow
def test_the_same_runs_leave_the_same_rows_and_the_same_graphql_answers_in_both_storages(tmp_path):
    left, answers = [], []
    for name in ("stock", "batched"):
        home = tmp_path / name
        with open_instance(home, batched=name == "batched") as instance:
            run_ids = runs_of_a_day(instance)
            left.append(rows_left_behind(home, run_ids))
            answers.append(
                [plain({"answer": answer}, dict(zip(run_ids, "abcd", strict=True))) for answer in ask(instance)]
            )
    assert left[1].keys() == left[0].keys()
    for shard in left[0]:
        assert left[1][shard] == left[0][shard], shard
    assert answers[1] == answers[0]
    assert "s00003" in answers[0][0]


@pytest.mark.slow
def test_planned_events_of_a_range_come_in_batches_by_default(tmp_path, monkeypatch):
    monkeypatch.delenv(storage_sqlite.BATCH_SIZE_VARIABLE, raising=False)
    batches = []
    store = storage_sqlite.BatchedSqliteEventLog.store_event_batch
    monkeypatch.setattr(
        storage_sqlite.BatchedSqliteEventLog,
        "store_event_batch",
        lambda log, batch: (batches.append((batch[0].dagster_event_type, len(batch))), store(log, batch))[1],
    )
    with open_instance(tmp_path / "home") as instance:
        keys = add(instance, 2500)
        assert launch(instance, keys, keys).success
    kinds = {kind for kind, _ in batches}
    assert kinds == {DagsterEventType.ASSET_MATERIALIZATION_PLANNED, DagsterEventType.ASSET_MATERIALIZATION}
    for kind in kinds:
        assert [size for what, size in batches if what is kind] == [1000, 1000, 500]


def test_a_batch_size_that_was_set_stays(tmp_path, monkeypatch):
    monkeypatch.setenv(storage_sqlite.BATCH_SIZE_VARIABLE, "7")
    storage_sqlite.BatchedSqliteStorage(str(tmp_path))
    assert os.environ[storage_sqlite.BATCH_SIZE_VARIABLE] == "7"


def test_a_relative_folder_counts_from_dagster_home_wherever_the_process_stands(tmp_path, monkeypatch):
    home, elsewhere = tmp_path / "home", tmp_path / "elsewhere"
    home.mkdir()
    elsewhere.mkdir()
    (home / "dagster.yaml").write_text((ROOT / "dagster.yaml").read_text())
    monkeypatch.setenv("DAGSTER_HOME", str(home))
    monkeypatch.chdir(elsewhere)
    with dg.DagsterInstance.get() as instance:
        assert isinstance(instance.event_log_storage, storage_sqlite.BatchedSqliteEventLog)
        keys = add(instance, 3)
        assert launch(instance, keys, keys).success
    assert list(elsewhere.iterdir()) == []
    assert {path.name for path in home.iterdir()} == {"dagster.yaml", "var"}
    assert (home / "var/dagster/history/runs/index.db").exists()


def test_an_instance_moves_with_its_folder(tmp_path, monkeypatch):
    monkeypatch.setenv("DAGSTER_HOME", str(tmp_path / "elsewhere"))
    before, after = tmp_path / "before/dagster", tmp_path / "after/dagster"
    with day.open_instance(before) as instance:
        instance.add_dynamic_partitions("store_items", ["a"])
    before.parent.rename(after.parent)
    with day.open_instance(after) as instance:
        assert instance.get_dynamic_partitions("store_items") == ["a"]
        instance.add_dynamic_partitions("store_items", ["b"])
        assert str(after) in instance.compute_log_manager._base_dir
        with dg.DagsterInstance.from_ref(instance.get_ref()) as same:
            assert same.get_dynamic_partitions("store_items") == ["a", "b"]
    assert [folder.name for folder in tmp_path.iterdir()] == ["after"]


def test_a_relative_folder_without_dagster_home_needs_the_folder_of_dagster_yaml(tmp_path, monkeypatch):
    monkeypatch.delenv("DAGSTER_HOME", raising=False)
    monkeypatch.chdir(tmp_path)
    with pytest.raises(SettingsError, match="DAGSTER_HOME"):
        storage_sqlite.BatchedSqliteStorage.from_config_value(None, {"base_dir": "var/dagster"})
    (tmp_path / "dagster.yaml").touch()
    storage = storage_sqlite.BatchedSqliteStorage.from_config_value(None, {"base_dir": "var/dagster"})
    assert Path(storage.base_dir) == tmp_path / "var/dagster"


# --- A run owns exactly its keys ------------------------------------------------------------------------------------
@pytest.mark.parametrize(
    ("which", "bad"),
    [([3, 4, 5, 6], [4, 6]), ([5], [5]), ([5], []), ([1, 4, 8], [1]), ([1, 4, 8], [4, 8]), ([8, 0], [0, 8])],
    ids=["range", "one, bad", "one, good", "scattered, anchor bad", "scattered, others bad", "scattered, all bad"],
)
def test_the_good_series_are_materialized_and_exactly_the_bad_ones_failed(instance, which, bad):
    keys = add(instance, 10)
    asked, failing = {keys[at] for at in which}, {keys[at] for at in bad}
    result = launch(instance, sorted(asked), keys, fail=sorted(failing))
    assert result.success is not bool(bad)
    seen = states(instance)
    assert (seen.materialized, seen.failed, seen.in_progress) == (asked - failing, failing, set())
    assert history.failed_partitions(instance, STAGE) == dict.fromkeys(failing, result.run_id)
    assert set(history.latest_tags(instance, STAGE, [VERSION])) == asked - failing


def test_a_scattered_run_that_fails_leaves_every_other_key_as_it_was(instance):
    keys = add(instance, 12)
    launch(instance, keys[:6], keys, fail=keys[2:3])
    before, tags = states(instance), history.latest_tags(instance, STAGE, [VERSION, UPSTREAM])
    scattered = [keys[1], keys[4], keys[9]]
    launch(instance, scattered, keys, fail=scattered, version="v2")
    after = states(instance)
    assert after.failed == before.failed | set(scattered)
    assert after.materialized == before.materialized
    assert history.latest_tags(instance, STAGE, [VERSION, UPSTREAM]) == tags


def test_a_failed_series_that_succeeds_is_failed_no_more(instance):
    keys = add(instance, 6)
    launch(instance, keys, keys, fail=[keys[1], keys[3]])
    assert states(instance).failed == {keys[1], keys[3]}
    launch(instance, [keys[1]], keys, version="v2")
    assert states(instance).failed == {keys[3]}
    assert set(history.failed_partitions(instance, STAGE)) == {keys[3]}


PAGE = """query($before: String) { assetOrError(assetKey: {path: ["stage"]}) { ... on Asset {
  assetMaterializations(limit: 7, beforeTimestampMillis: $before) { partition timestamp } } } }"""


@pytest.mark.slow
def test_the_ui_that_pages_through_an_assets_events_sees_every_one(instance):
    keys = add(instance, 40)
    launch(instance, keys, keys)
    seen, before = [], None
    while page := ask(instance, PAGE, before=before)[0]["assetOrError"]["assetMaterializations"]:
        seen += [event["partition"] for event in page]
        before = page[-1]["timestamp"]
    assert sorted(seen) == keys


def test_planning_twice_plans_nothing_more(instance):
    planned = []

    @dg.asset(partitions_def=STORE_ITEMS, output_required=False)
    def twice(context: dg.AssetExecutionContext):
        planned.extend(runs.plan(context, keys[2:6]) for _ in range(2))
        yield from ()

    keys = add(instance, 8)
    dg.materialize([twice], instance=instance, partition_key=keys[2], raise_on_error=True)
    assert planned == [3, 0]


def test_keys_of_a_run_come_once_each_in_its_order_and_must_hold_its_partition(instance):
    keys = add(instance, 5)
    got = []

    @dg.asset(partitions_def=STORE_ITEMS, output_required=False)
    def asked(context: dg.AssetExecutionContext):
        got.append(runs.keys_of_run(context, [keys[3], keys[1], keys[3]]))
        got.append(runs.keys_of_run(context))
        with pytest.raises(InputError, match=keys[1]):
            runs.keys_of_run(context, [keys[0], keys[2]])
        yield from ()

    dg.materialize([asked], instance=instance, partition_key=keys[1])
    assert got == [(keys[3], keys[1]), (keys[1],)]


@pytest.mark.slow
def test_2421_scattered_keys_of_10000_are_one_run_of_seconds(instance):
    keys = add(instance, 10_000)
    due = [key for at, key in enumerate(keys) if (at * 7919) % 10_000 < 2421]
    bad = due[::100]
    started = time.process_time()
    launch(instance, due, keys, fail=bad)
    took = time.process_time() - started
    seen = states(instance)
    assert len(due) == 2421
    assert (seen.materialized, seen.failed) == (set(due) - set(bad), set(bad))
    assert took < 20, f"{took:.1f} s"  # of this process: about 2 s; stock storage needs 50


# --- Runs of one backfill -------------------------------------------------------------------------------------------
def enqueue(instance, start, end, backfill="b1", selection=(STAGE,), **config):
    """A run as the backfill daemon leaves it in the queue."""
    origin = RemoteJobOrigin(
        RemoteRepositoryOrigin(InProcessCodeLocationOrigin(LoadableTargetOrigin(module_name="m")), "__repository__"),
        "j",
    )
    tags = {runs.RANGE_START_TAG: start, runs.RANGE_END_TAG: end, runs.BACKFILL_TAG: backfill}
    return instance.create_run_for_job(
        defs.resolve_job_def("stage_job"),
        status=dg.DagsterRunStatus.QUEUED,
        tags=tags,
        asset_selection=set(selection),
        run_config={"ops": {"stage": {"config": config}}} if config else {},
        remote_job_origin=origin,
    ).run_id


def run_of_backfill(instance, key, backfill="b1", **config):
    return defs.resolve_job_def("stage_job").execute_in_process(
        instance=instance,
        run_config={"ops": {"stage": {"config": config}}} if config else {},
        tags={runs.RANGE_START_TAG: key, runs.RANGE_END_TAG: key, runs.BACKFILL_TAG: backfill},
        asset_selection=[STAGE],
        raise_on_error=False,
    )


def statuses(instance, run_ids):
    return [instance.get_run_by_id(run_id).status.value for run_id in run_ids]


def test_the_first_run_of_a_backfill_does_what_waits_in_the_queue_and_ends_it_as_its_keys_ended(instance):
    keys = add(instance, 12)
    config = {"fail": [keys[0], keys[5]]}
    waiting = [
        enqueue(instance, keys[2], keys[3], **config),
        enqueue(instance, keys[5], keys[6], **config),
        enqueue(instance, keys[8], keys[8], **config),
    ]
    others = [
        enqueue(instance, keys[9], keys[9], backfill="b2", **config),
        enqueue(instance, keys[10], keys[10], fail=[]),
    ]
    first = run_of_backfill(instance, keys[0], **config)
    assert statuses(instance, [first.run_id, *waiting]) == ["FAILURE", "SUCCESS", "FAILURE", "SUCCESS"]
    assert statuses(instance, others) == ["QUEUED", "QUEUED"]
    seen = states(instance)
    assert seen.failed == {keys[0], keys[5]}
    assert seen.materialized == {keys[2], keys[3], keys[6], keys[8]}
    assert seen.in_progress == {keys[9], keys[10]}
    (ended,) = instance.all_logs(waiting[0], of_type=DagsterEventType.RUN_SUCCESS)
    assert first.run_id in ended.dagster_event.message
    assert instance.get_run_stats(waiting[0]).end_time is not None


def test_what_a_killed_run_did_not_settle_stays_in_the_queue(instance, monkeypatch):
    keys = add(instance, 6)
    waiting = [enqueue(instance, keys[2], keys[2]), enqueue(instance, keys[4], keys[4])]
    with monkeypatch.context() as patch:
        patch.setattr(
            "many_models_tests.support.event_assets.settle_siblings",
            lambda *_: (_ for _ in ()).throw(OSError("killed")),
        )
        assert not run_of_backfill(instance, keys[0]).success
    assert statuses(instance, waiting) == ["QUEUED", "QUEUED"]
    assert run_of_backfill(instance, keys[1]).success
    assert statuses(instance, waiting) == ["SUCCESS", "SUCCESS"]
    assert states(instance).materialized == {keys[at] for at in (0, 1, 2, 4)}


def test_a_run_outside_a_backfill_leaves_the_queue_alone(instance):
    keys = add(instance, 4)
    waiting = enqueue(instance, keys[2], keys[2])
    assert launch(instance, keys[:1], keys).success
    assert statuses(instance, [waiting]) == ["QUEUED"]
    assert states(instance).materialized == {keys[0]}


def test_a_pool_gets_a_limit_once_and_keeps_the_one_that_was_set(instance):
    instance.event_log_storage.set_concurrency_slots("mine", 5)
    for _ in range(2):
        history.ensure_pools(instance, ["mine", "stage"])
    limits = {pool.name: pool.limit for pool in instance.event_log_storage.get_pool_limits()}
    assert limits == {"mine": 5, "stage": 1}


# --- Asking for a run -----------------------------------------------------------------------------------------------
@given(
    order=st.permutations([f"k{at}" for at in range(9)]),
    asked=st.lists(st.sampled_from([f"k{at}" for at in range(9)]), min_size=1, max_size=12),
)
def test_a_request_names_exactly_the_keys_asked_for(order, asked):
    request = runs.stage_request(
        job_name="j", asset_key=STAGE, keys=asked, all_keys=order, op_name="stage", run_key="r", tags={"a": "b"}
    )
    start, end = request.tags.get(runs.RANGE_START_TAG), request.tags.get(runs.RANGE_END_TAG)
    configured = request.run_config.get("ops", {}).get("stage", {}).get("config", {}).get("keys")
    if start is not None:
        assert runs.PARTITION_TAG not in request.tags
        assert configured is None
        carried = order[order.index(start) : order.index(end) + 1]
    else:
        carried = configured or [request.tags[runs.PARTITION_TAG]]
        assert carried[0] == request.tags[runs.PARTITION_TAG]
    assert carried == sorted(set(asked), key=order.index)
    assert (request.job_name, request.run_key, request.asset_selection, request.tags["a"]) == ("j", "r", [STAGE], "b")


@pytest.mark.parametrize(("keys", "says"), [([], "at least one"), (["x"], "not partitions")])
def test_a_request_for_nothing_or_for_strangers_is_an_error(keys, says):
    with pytest.raises(InputError, match=says):
        runs.stage_request(
            job_name="j", asset_key=STAGE, keys=keys, all_keys=["a"], op_name="stage", run_key=None, tags={}
        )


@pytest.mark.parametrize("which", [[2], [2, 3, 4], [0, 2, 5]], ids=["one", "range", "scattered"])
def test_a_sensor_resolves_the_request_against_the_job(instance, which):
    keys = add(instance, 6)
    wanted = [keys[at] for at in which]

    @dg.sensor(job=defs.resolve_job_def("stage_job"), name="due")
    def due():
        yield runs.stage_request(
            job_name="stage_job", asset_key=STAGE, keys=wanted, all_keys=keys, op_name="stage", run_key=None, tags={}
        )

    context = dg.build_sensor_context(instance=instance, definitions=defs)
    (request,) = due.evaluate_tick(context).run_requests
    assert (request.tags.get(runs.PARTITION_TAG), request.tags.get(runs.RANGE_END_TAG)).count(None) == 1
    assert launch(instance, wanted, keys).success
    assert states(instance).materialized == set(wanted)


# --- Reading --------------------------------------------------------------------------------------------------------
def test_the_newest_tags_count_also_after_a_partition_was_wiped_or_an_event_has_none(instance):
    keys = add(instance, 4)
    assert history.latest_tags(instance, STAGE, [VERSION]) == {}
    launch(instance, keys[:3], keys)
    launch(instance, keys[1:2], keys, version="v2")
    instance.report_runless_asset_event(dg.AssetMaterialization(STAGE, partition=keys[2]))
    assert history.latest_tags(instance, STAGE, [VERSION, "no such tag"]) == {
        keys[0]: {VERSION: "v1"},
        keys[1]: {VERSION: "v2"},
        keys[2]: {},
    }
    instance.wipe_assets([STAGE])
    assert history.latest_tags(instance, STAGE, [VERSION]) == {}


def test_keys_of_queued_and_running_runs_are_in_flight_whether_planned_or_in_the_config(instance):
    keys = add(instance, 10)

    def create(status, tags, **config):
        job = defs.resolve_job_def("stage_job")
        return instance.create_run_for_job(
            job, status=status, tags=tags, run_config={"ops": {"stage": {"config": config}}} if config else {}
        )

    assert history.keys_in_flight(instance, STAGE) == frozenset()
    not_begun = create(dg.DagsterRunStatus.NOT_STARTED, {"dagster/partition": keys[0]}, keys=[keys[0], keys[7]])
    running = create(dg.DagsterRunStatus.STARTED, {runs.RANGE_START_TAG: keys[3], runs.RANGE_END_TAG: keys[5]})
    create(dg.DagsterRunStatus.FAILURE, {"dagster/partition": keys[9]})
    assert history.keys_in_flight(instance, STAGE) == {keys[0], keys[7], *keys[3:6]}
    assert {run.run_id for run in history.runs_in_flight(instance, ["stage_job"])} == {not_begun.run_id, running.run_id}
    assert history.runs_in_flight(instance, ["another"]) == ()
    assert history.keys_in_flight(instance, dg.AssetKey("another")) == frozenset()


def test_an_event_log_that_is_no_sql_is_an_error_and_not_empty(instance, monkeypatch):
    monkeypatch.setattr(dg.DagsterInstance, "event_log_storage", object())
    with pytest.raises(MissingDependencyError, match="cannot be read"):
        history.latest_tags(instance, STAGE, [VERSION])


# --- Runs whose process is gone -------------------------------------------------------------------------------------
DYING = """
import sys
from pathlib import Path
from many_models_tests.support.event_runs import launch, open_instance
with open_instance(Path(sys.argv[1])) as instance:
    keys = instance.get_dynamic_partitions("store_items")
    launch(instance, keys, keys, die=True)
"""


@pytest.mark.slow
def test_a_run_whose_process_was_killed_is_marked_failed_and_its_keys_are_due_again(tmp_path):
    with open_instance(tmp_path / "home") as instance:
        keys = add(instance, 5)
        done = subprocess.run([sys.executable, "-c", DYING, tmp_path / "home"], cwd=ROOT, check=False)
        assert done.returncode == -9
        (run,) = history.runs_in_flight(instance)
        assert run.status is dg.DagsterRunStatus.STARTED
        assert history.keys_in_flight(instance, STAGE) == set(keys)
        assert dead_runs.mark_dead_runs_failed(instance) == (run.run_id,)
        assert dead_runs.mark_dead_runs_failed(instance) == ()
        assert history.keys_in_flight(instance, STAGE) == frozenset()
        seen = states(instance)
        assert (seen.materialized, seen.failed) == ({keys[0]}, set(keys[1:]))


@pytest.mark.parametrize(
    ("process", "dead"),
    [
        ("this", False),
        ("elsewhere {boot} {space} {pid} {start}", False),
        ("{host} {boot} {space} {pid} 1", True),
        ("{host} {boot} {space} 4194305 1", True),
        ("{host} otherone {space} {pid} {start}", True),
        ("{host} {boot} 99 {pid} 1", False),
        ("nonsense", False),
        ("", False),
    ],
    ids=["itself", "other host", "pid used again", "no such pid", "rebooted", "other container", "nonsense", "empty"],
)
def test_only_a_process_known_to_be_gone_is_dead(process, dead):
    this = dead_runs.process_tag()[dead_runs.PROCESS_TAG]
    host, boot, space, pid, start = this.split(" ")
    text = this if process == "this" else process.format(host=host, boot=boot, space=space, pid=pid, start=start)
    assert dead_runs._is_gone(text) is dead


def test_a_finished_process_that_was_not_waited_for_is_dead():
    child = subprocess.Popen([sys.executable, "-c", "pass"])
    while Path(f"/proc/{child.pid}/stat").exists() and dead_runs._started(child.pid) != "gone":
        time.sleep(0.01)
    assert dead_runs._started(child.pid) == "gone"
    child.wait()


# --- When Dagster changes -------------------------------------------------------------------------------------------
def test_this_dagster_has_the_private_api_that_we_use():
    private_api.private_api_problems.cache_clear()
    problems = private_api.private_api_problems()
    assert not problems, (
        f"Dagster {dg.__version__} no longer fits many_models.orchestration.event_log:\n  "
        + "\n  ".join(problems)
        + "\nRead its _core/events and _core/storage/event_log, then adapt PRIVATE_API and what uses it."
    )


def test_an_api_that_changed_is_noticed_by_name_and_by_parameter(monkeypatch):
    def renamed(self, conn, event, identity): ...

    with monkeypatch.context() as patch:
        patch.setattr(SqliteEventLogStorage, "_store_asset_event", renamed)
        patch.delattr("dagster._core.events.ASSET_EVENTS")
        private_api.private_api_problems.cache_clear()
        problems = " ".join(private_api.private_api_problems())
    private_api.private_api_problems.cache_clear()
    assert "ASSET_EVENTS is gone" in problems
    assert "_store_asset_event takes (self, conn, event, identity)" in problems


@pytest.mark.slow
def test_without_the_private_api_good_series_are_still_recorded_with_one_warning(tmp_path, monkeypatch):
    def only_recorded(home):
        (run_shard,) = [tables for name, tables in rows_left_behind(home, [result.run_id]).items() if name != "index"]
        return [row for row in run_shard["event_logs"] if '"dagster_event_type": "ASSET_MATERIALIZATION"' in row]

    left = []
    for name in ("batched", "public"):
        if name == "public":
            monkeypatch.setattr(private_api, "private_api_problems", lambda: ("x is gone",))
            monkeypatch.setattr(storage_sqlite, "private_api_problems", lambda: ("x is gone",))
            private_api._warn_once.cache_clear()
        with open_instance(tmp_path / name) as instance, warnings.catch_warnings(record=True) as warned:
            warnings.simplefilter("always")
            keys = add(instance, 6)
            result = launch(instance, [keys[0], keys[2], keys[5]], keys, fail=[keys[5]])
            assert states(instance).materialized == {keys[0], keys[2]}
            ours = [str(w.message) for w in warned if "many_models" in str(w.message)]
        left.append([re.sub(r'"id": \d+, ', "", row) for row in only_recorded(tmp_path / name)])
        assert len(ours) == (1 if name == "public" else 0)
        assert all(dg.__version__ in message and "x is gone" in message for message in ours)
    assert left[0] == left[1]
    assert len(left[0]) == 2
