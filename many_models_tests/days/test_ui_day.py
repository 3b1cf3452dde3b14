"""A day in the UI: real webserver and daemon, a backfill of scattered series, and the sensors that carry it on."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections import Counter
from contextlib import contextmanager
from pathlib import Path

import pytest

from many_models.operations.day import open_instance
from many_models.orchestration.event_log.dead_runs import PROCESS_TAG
from many_models.orchestration.look import STAGE_TAG
from many_models_tests.support.ports import free_port

ROOT = Path(__file__).resolve().parents[2]
SERIES, CHOSEN, PATIENCE = 110, 50, 900
STAGES = ("store_item_datasets", "trained_models", "promoted_models", "predictions")
UNFINISHED = {"NOT_STARTED", "QUEUED", "STARTING", "STARTED", "CANCELING"}

LAUNCH = """mutation($params: LaunchBackfillParams!) { launchPartitionBackfill(backfillParams: $params) {
  __typename ... on LaunchBackfillSuccess { backfillId } ... on PythonError { message } } }"""
BACKFILL = """query($id: String!) { partitionBackfillOrError(backfillId: $id) { __typename
  ... on PartitionBackfill { status numPartitions } ... on PythonError { message } } }"""
RUNS = """query($filter: RunsFilter, $limit: Int!) { runsOrError(filter: $filter, limit: $limit) { ... on Runs {
  results { id status creationTime tags { key value } assetSelection { path } } } } }"""
ASSET = """query($path: [String!]!) { assetNodeOrError(assetKey: {path: $path}) { ... on AssetNode {
  partitionStats { numMaterialized numPartitions numFailed numMaterializing }
  assetPartitionStatuses { ... on DefaultPartitionStatuses { materializedPartitions failedPartitions } }
  latestMaterializationByPartition { runId partition } } } }"""
LOADED = """{ assetNodeOrError(assetKey: {path: ["warehouse_predictions"]}) { ... on AssetNode {
  assetMaterializations(limit: 1) { runId timestamp } } } }"""
READY = """{ workspaceOrError { ... on Workspace { locationEntries { locationOrLoadError {
  __typename ... on PythonError { message } } } } }
  instance { daemonHealth { allDaemonStatuses { daemonType required healthy } } } }"""


class Day:
    """A folder with the demo's data and a Dagster instance, its processes, and its GraphQL answers."""

    def __init__(self, home: Path) -> None:
        self.home = home
        self.port = free_port()
        config = home / "demo/many_models.toml"
        # how good the forecasts are is not looked at
        quick = {"MANY_MODELS__FORECAST__TREES": "false", "MANY_MODELS__FORECAST__WINDOWS": "1"}
        self.environment = os.environ | {"DAGSTER_HOME": str(home), "MANY_MODELS_CONFIG": str(config)} | quick

    def command(self, *words) -> str:
        """What `many-models WORDS` prints."""
        done = subprocess.run(
            [sys.executable, "-c", "from many_models.cli.main import main; main()", *map(str, words)],
            cwd=ROOT,
            env=self.environment,
            capture_output=True,
            text=True,
            timeout=PATIENCE,
            check=False,
        )
        assert done.returncode == 0, done.stderr
        return done.stdout

    @contextmanager
    def services(self):
        """The webserver and the daemon; when done, their sessions are ended by the ids we started them with."""
        workspace = str(ROOT / "workspace.yaml")
        web = ["dagster_webserver", "-h", "127.0.0.1", "-p", str(self.port), "-w", workspace]
        started = []
        try:
            for words in (web, ["many_models_tests.support.quick_daemon", "run", "-w", workspace]):
                log = (self.home / f"{words[0]}.log").open("w")
                process = subprocess.Popen(
                    [sys.executable, "-m", *words],
                    cwd=ROOT,
                    env=self.environment,
                    stdout=log,
                    stderr=log,
                    start_new_session=True,
                )
                started.append(process)
            yield
        finally:
            for process in started:
                end_session(process)

    def ask(self, query, **variables):
        """The data of a GraphQL answer."""
        body = json.dumps({"query": query, "variables": variables}).encode()
        request = urllib.request.Request(
            f"http://127.0.0.1:{self.port}/graphql", body, {"Content-Type": "application/json"}
        )
        with urllib.request.urlopen(request, timeout=120) as answer:
            found = json.load(answer)
        assert "errors" not in found, found["errors"]
        return found["data"]

    def ready(self) -> bool:
        """Whether the code location is loaded and the daemon's heart beats."""
        try:
            found = self.ask(READY)
        except (urllib.error.URLError, ConnectionError):
            return False
        (entry,) = found["workspaceOrError"]["locationEntries"]
        loaded = entry["locationOrLoadError"] or {"__typename": "loading"}
        assert loaded["__typename"] != "PythonError", loaded
        daemons = [d for d in found["instance"]["daemonHealth"]["allDaemonStatuses"] if d["required"]]
        return loaded["__typename"] == "RepositoryLocation" and all(daemon["healthy"] for daemon in daemons)

    def runs(self, **tags):
        """The runs with these tags, oldest first."""
        wanted = {"tags": [{"key": f"dagster/{key}", "value": value} for key, value in tags.items()]}
        found = self.ask(RUNS, filter=wanted, limit=1000)["runsOrError"]["results"]
        return sorted(found, key=lambda run: run["creationTime"])

    def asset(self, stage):
        """Partition states and newest materializations of a stage."""
        return self.ask(ASSET, path=[stage])["assetNodeOrError"]


def processes(day: Day) -> set[str]:
    """The runs that had their own process."""
    with open_instance(day.home) as instance:
        return {run.run_id for run in instance.get_runs() if PROCESS_TAG in run.tags}


def end_session(process: subprocess.Popen) -> None:
    for how, patience in ((signal.SIGTERM, 15), (signal.SIGKILL, 15)):
        try:
            os.killpg(process.pid, how)
            process.wait(patience)
        except ProcessLookupError:
            return
        except subprocess.TimeoutExpired:
            continue
    try:
        os.killpg(process.pid, signal.SIGKILL)  # what the process itself left behind
    except ProcessLookupError:
        return


def wait_for(what, condition, patience=PATIENCE, pause=2.0):
    until = time.monotonic() + patience
    while not (found := condition()):
        assert time.monotonic() < until, f"{what}: not within {patience} s"
        time.sleep(pause)
    return found


def newest(asset):
    return {m["partition"]: m["runId"] for m in asset["latestMaterializationByPartition"] if m}


def statuses(runs):
    return Counter(run["status"] for run in runs)


def due_of(day):
    return {row["stage"]: row["due"] for row in json.loads(day.command("status", "--json"))["stages"]}


@pytest.fixture
def day(tmp_path):
    home = tmp_path / "home"
    home.mkdir()
    shutil.copy(ROOT / "dagster.yaml", home)
    day = Day(home)
    day.command("demo", "--series", SERIES, "--days", 200, "--end", "2026-10-31", "--into", home / "demo")
    return day


@pytest.mark.long(
    "orchestration/test_events.py::test_the_first_run_of_a_backfill_does_what_waits_in_the_queue_and_ends_it_as_its_keys_ended",
    "days/test_day.py::test_the_same_days_run_again_from_the_ui_change_no_table",
)
@pytest.mark.timeout(3 * PATIENCE)
def test_a_backfill_of_50_scattered_series_from_the_ui_is_carried_on_to_the_warehouse_by_the_sensors(day):
    with day.services():
        wait_for("webserver, code location and daemon", day.ready)
        before = {stage: newest(day.asset(stage)) for stage in STAGES}
        loaded_before = day.ask(LOADED)["assetNodeOrError"]["assetMaterializations"][0]["runId"]
        keys = sorted(day.asset("trained_models")["assetPartitionStatuses"]["materializedPartitions"])
        assert len(keys) == SERIES
        order = list(before["store_item_datasets"])
        chosen = set(order[:: SERIES // CHOSEN][:CHOSEN])

        backfill = launch(day, chosen, STAGES[:2])
        ended = wait_for("the backfill", lambda: ended_backfill(day, backfill))
        assert ended == {"__typename": "PartitionBackfill", "status": "COMPLETED_SUCCESS", "numPartitions": CHOSEN}
        runs = day.runs(backfill=backfill)
        assert statuses(runs) == {"SUCCESS": len(runs)}
        for stage in STAGES[:2]:
            ids = {run["id"] for run in runs if run["assetSelection"] == [{"path": [stage]}]}
            assert_redone(day.asset(stage), before[stage], chosen, ids)
            assert len(ids & processes(day)) < CHOSEN / 5, "each series took a process of its own"

        # sensors may have looked between two runs of the backfill: then there is a first load that lacks some series
        loaded = wait_for("the load of all into the warehouse", lambda: all_done(day, loaded_before))
        assert loaded in {run["id"] for run in day.runs(sensor_name="predicted_to_warehouse")}
        shown = {tag["key"] for run in day.runs() for tag in run["tags"] if "many_models" in tag["key"]}
        assert shown == {STAGE_TAG}, "tags that mean nothing to people"
        carried_on = {"promoted_models": "trained_to_promotion", "predictions": "promoted_to_predictions"}
        for stage, sensor in carried_on.items():
            ids = {run["id"] for run in day.runs(sensor_name=sensor)}
            asset = day.asset(stage)
            redone = {key for key, run_id in newest(asset).items() if run_id in ids}
            assert redone
            assert redone <= chosen
            assert_redone(asset, before[stage], redone, ids)


def launch(day, chosen, stages) -> str:
    params = {
        "assetSelection": [{"path": [stage]} for stage in stages],
        "partitionNames": sorted(chosen),
        "tags": [],
        "title": "fifty scattered series",
    }
    launched = day.ask(LAUNCH, params=params)["launchPartitionBackfill"]
    assert launched["__typename"] == "LaunchBackfillSuccess", launched
    return launched["backfillId"]


def ended_backfill(day, backfill):
    found = day.ask(BACKFILL, id=backfill)["partitionBackfillOrError"]
    assert found["__typename"] == "PartitionBackfill", found
    return None if found["status"] == "REQUESTED" else found


def idle_and_loaded(day, before):
    """The run of the newest load, once it is another one than `before` and nothing runs."""
    newest_load = day.ask(LOADED)["assetNodeOrError"]["assetMaterializations"][0]["runId"]
    running = day.ask(RUNS, filter={"statuses": sorted(UNFINISHED)}, limit=10)["runsOrError"]["results"]
    return newest_load if newest_load != before and not running else None


def all_done(day, before):
    """The run of the newest load, as soon as nothing is due any more."""
    found = idle_and_loaded(day, before)
    return found if found and set(due_of(day).values()) == {0} else None


def assert_redone(asset, before, redone, run_ids):
    """Every series is materialized and none failed; those of `redone` by `run_ids`, the others as they were."""
    states = asset["assetPartitionStatuses"]
    assert (set(states["materializedPartitions"]), states["failedPartitions"]) == (set(before), [])
    stats = asset["partitionStats"]
    assert (stats["numMaterialized"], stats["numFailed"], stats["numMaterializing"]) == (len(before), 0, 0)
    now = newest(asset)
    assert {key for key in now if now[key] != before[key]} == redone
    assert {now[key] for key in redone} <= run_ids
