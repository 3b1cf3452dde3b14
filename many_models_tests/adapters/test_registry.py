"""Both registries, in memory and on MLflow, against their contracts; and what only MLflow can get wrong."""

from __future__ import annotations

import json
import os
import re
import signal
import sqlite3
import subprocess
import sys
import textwrap
import threading
import time
import traceback
from collections.abc import MutableMapping
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from many_models.adapters.registry.memory import MemoryProduction, MemoryStaging
from many_models.adapters.registry.mlflow_production import MlflowProduction, MlflowStaging
from many_models.adapters.registry.mlflow_store import MlflowStore
from many_models.errors import (
    ConflictError,
    InputError,
    IntegrityError,
    ManyModelsError,
    SettingsError,
    UnavailableError,
)
from many_models.ports import PackUpload, PromotedSeries, ReleaseDraft
from many_models_tests.contracts.registry import (
    NOW,
    ProductionContract,
    StagingContract,
    check_production_history,
    check_staging_history,
    draft,
    served,
    upload,
)


def clock():
    return NOW


# --- the contracts ---
class InMemory:
    @pytest.fixture
    def again(self):
        return lambda registry: registry

    @pytest.fixture
    def stored(self):
        return lambda registry, ref: registry._versions.stored[ref][1]


class TestMemoryStaging(InMemory, StagingContract):
    @pytest.fixture
    def logged(self):
        return lambda staging, batch: (staging.titles[batch], *staging.logged[batch])

    @pytest.fixture
    def make(self):
        return MemoryStaging

    @settings(deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
    @given(data=st.data())
    def test_long_histories(self, make, again, data):
        check_staging_history(make(), again, data, steps=15)


class TestMemoryProduction(InMemory, ProductionContract):
    @pytest.fixture
    def make(self):
        return lambda: MemoryProduction(clock=clock)

    @settings(deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
    @given(data=st.data())
    def test_long_histories(self, make, again, data):
        check_production_history(make(), again, data, steps=20)


class Folder(MutableMapping):
    """The data files of a stored model folder."""

    def __init__(self, root: Path) -> None:
        self.root = root

    def __getitem__(self, name):
        return (self.root / name).read_bytes()

    def __setitem__(self, name, data):
        (self.root / name).write_bytes(data)

    def __delitem__(self, name):
        (self.root / name).unlink()

    def __iter__(self):
        return (str(path.relative_to(self.root)) for path in self.root.rglob("*") if path.is_file())

    def __len__(self):
        return len(list(iter(self)))


def folder_of(registry, ref) -> Path:
    from many_models.adapters.registry.mlflow_folder import local_path

    path = local_path(registry._store.find(ref).source)
    assert path is not None
    return path


@pytest.fixture(scope="session")
def blank(tmp_path_factory) -> bytes:
    """An MLflow database with its tables: making them takes a second or more, copying them does not."""
    root = tmp_path_factory.mktemp("blank")
    MlflowStaging(f"sqlite:///{root}/blank.db", str(root / "files")).check()
    with sqlite3.connect(root / "blank.db") as connection:
        assert connection.execute("select count(*) from model_versions").fetchone() == (0,)
        connection.execute("delete from experiments")
    return (root / "blank.db").read_bytes()


@pytest.fixture
def store(blank, tmp_path):
    """Makes a new store whenever it is called: its URI and its folder."""
    count = iter(range(10_000))

    def new() -> tuple[str, str]:
        root = tmp_path / f"store {next(count)}"
        root.mkdir()
        (root / "mlflow.db").write_bytes(blank)
        return f"sqlite:///{root}/mlflow.db", str(root / "files")

    return new


class OnMlflow:
    @pytest.fixture
    def stored(self):
        return lambda registry, ref: Folder(folder_of(registry, ref) / "data")


class TestMlflowStaging(OnMlflow, StagingContract):
    @pytest.fixture
    def logged(self):
        def found(staging, batch):
            run = staging._store.find_run(batch)
            return run.info.run_name, run.data.params, run.data.metrics

        return found

    @pytest.fixture
    def make(self, store):
        return lambda: MlflowStaging(*store(), clock=clock)

    @pytest.fixture
    def again(self):
        return lambda staging: MlflowStaging(staging._store.uri, staging._store.artifacts)


class TestMlflowProduction(OnMlflow, ProductionContract):
    @pytest.fixture
    def make(self, store):
        return lambda: MlflowProduction(*store(), clock=clock)

    @pytest.fixture
    def again(self):
        """Another process's view of it: a service, which reads without MLflow."""
        return reading_light


class TestMlflowStagingThroughItsClient(TestMlflowStaging):
    @pytest.fixture(autouse=True)
    def _through_the_client(self, monkeypatch):
        without_rows(monkeypatch)


class TestMlflowProductionWithoutAliases(OnMlflow, ProductionContract):
    @pytest.fixture
    def make(self, store):
        return lambda: MlflowProduction(*store(), clock=clock, aliases=False)

    @pytest.fixture
    def again(self):
        return lambda production: reading_light(production, aliases=False)


def reading_light(production, *, aliases=True) -> MlflowProduction:
    """A registry on the store of `production` that fails where reading would make a client of MLflow."""
    found = MlflowProduction(
        production._store.uri, production._store.artifacts, clock=clock, aliases=aliases, light=True
    )
    assert not found.needs_mlflow
    return found


# --- finding ---
def test_finding_reads_one_version_a_pack_however_many_are_kept(store):
    staging = MlflowStaging(*store())
    for batch in range(8):
        staging.register(f"b{batch}", [upload(p, {f"{p}1": str(batch), f"{p}2": str(batch)}) for p in "xyz"])
    staging.register("part", [upload("x", {"x1": "part"})])
    read = [(v.name, str(v.version)) for v in staging._search(staging._current)]
    assert len(staging._store.mine()) == 25
    assert len(read) == 4  # x twice: x2 is newest in the version before
    assert {version.version for version in staging.newest(["x1", "x2", "y1", "z2"]).values()} == {"8", "9"}


def test_a_tag_that_a_killed_run_left_on_an_old_version_does_no_harm(store):
    staging = MlflowStaging(*store())
    old = staging.register("one", [upload("a", {"s1": "1"})])[0]
    new = staging.register("two", [upload("a", {"s1": "2"})])[0]
    staging._store.client.set_model_version_tag(old.name, old.version, "mm.current", staging._store.owner)
    assert staging.newest(["s1"]) == {"s1": new}


def without_rows(monkeypatch) -> None:
    """Has SQLite be written through MLflow's client alone, as a server is."""
    monkeypatch.setenv("MLFLOW_ENABLE_WORKSPACES", "false")
    monkeypatch.setattr(MlflowStore, "_writes_rows", False)


def test_a_batch_killed_between_two_packs_is_completed_by_its_repetition(store, monkeypatch):
    without_rows(monkeypatch)
    staging = MlflowStaging(*store())
    packs = [upload(p, {p: "1"}) for p in "abc"]
    create, made = staging._store.registry.create_model_version, []

    def failing(*args, **kwargs):
        if len(made) == 2:
            raise KeyboardInterrupt
        made.append(create(*args, **kwargs))
        return made[-1]

    staging._store.registry.create_model_version = failing
    with pytest.raises(KeyboardInterrupt):
        staging.register("batch", packs)
    del staging._store.registry.create_model_version
    versions = staging.register("batch", packs)
    assert [v.version for v in versions] == ["1", "1", "1"]
    assert staging.newest(list("abc")) == dict(zip("abc", versions, strict=True))
    assert len(staging._store.client.search_runs([staging._store.experiment()])) == 1


def test_a_batch_that_breaks_off_in_its_transaction_leaves_no_version_and_can_be_repeated(store):
    uri, files = store()
    staging = MlflowStaging(uri, files)
    staging.register("before", [upload("a", {"a": "0"})])
    with sqlite3.connect(uri.removeprefix("sqlite:///")) as connection:
        connection.execute(
            "create trigger broken before insert on model_version_tags when new.name like '%-c-%' "
            "begin select raise(abort, 'disk full'); end"
        )
    packs = [upload(p, {p: "1"}) for p in "abc"]
    with pytest.raises(UnavailableError, match="disk full"):
        staging.register("batch", packs)
    assert {name: version.version for name, version in staging.newest(list("abc")).items()} == {"a": "1"}
    assert len(staging._store.mine()) == 1
    with sqlite3.connect(uri.removeprefix("sqlite:///")) as connection:
        connection.execute("drop trigger broken")
    assert [version.version for version in staging.register("batch", packs)] == ["2", "1", "1"]


def test_rows_written_at_once_are_the_ones_that_mlflow_writes(store, monkeypatch):
    """Column by column, but for names of runs and times: models, versions, tags, aliases."""

    def written(fast: bool) -> dict[str, list[tuple]]:
        with monkeypatch.context() as patch:
            if not fast:
                without_rows(patch)
            uri, files = store()
            MlflowStaging(uri, files, clock=clock).register("one", [upload("a", {"a": "1"}), upload("b", {"b": "1"})])
            production = MlflowProduction(uri, files, clock=clock)
            first = production.publish(draft(None, [upload("a", {"a": "1"})]))
            production.publish(draft(first, [upload("a", {"a": "2"}), upload("b", {"b": "1"})]))
        varies = re.compile(r"(_time|run_id|source|storage_location)$")
        changes = {"mm.release_id", "mm.manifest_sha256", "mm.previous"}
        found = {}
        with sqlite3.connect(uri.removeprefix("sqlite:///")) as connection:
            for table in ("registered_models", "model_versions", "model_version_tags", "registered_model_aliases"):
                rows = connection.execute(f"select * from {table}")
                names = [column[0] for column in rows.description]
                kept = [dict(zip(names, row, strict=True)) for row in rows]
                found[table] = sorted(
                    repr({k: (v is not None) if varies.search(k) or row.get("key") in changes else v
                          for k, v in row.items()}) for row in kept
                )  # fmt: skip
        return found

    assert written(fast=True) == written(fast=False)


@pytest.mark.skipif(not hasattr(os, "fork"), reason="forks, as below")
def test_two_processes_that_register_the_same_pack_at_once_get_two_numbers(store):
    uri, files = store()
    pids = []
    for name in ("one", "two"):
        if (pid := os.fork()) == 0:
            try:
                staging = MlflowStaging(uri, files)
                for turn in range(5):
                    staging.register(f"{name} {turn}", [upload("a", {"a": name}), upload("b", {"b": name})])
            finally:
                traceback.print_exc()
                os._exit(0 if sys.exc_info()[0] is None else 1)
        pids.append(pid)
    assert [os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) for pid in pids] == [0, 0]
    versions = MlflowStaging(uri, files)._store.mine()
    assert sorted(int(v.version) for v in versions if "-a-" in v.name) == list(range(1, 11))


def test_two_installations_share_a_store_and_do_not_see_each_other(store):
    uri, files = store()
    one, two = MlflowStaging(uri, files, "one"), MlflowStaging(uri, files, "two")
    production = MlflowProduction(uri, files, "one")
    mine = one.register("batch", [upload("a", {"s1": "1"})])[0]
    other = two.register("batch", [upload("a", {"s1": "2"})])[0]
    release = production.publish(draft(None, [upload("a", {"s1": "3"})]))
    for _ in range(2):
        assert one.newest(["s1"]) == {"s1": mine}
        assert two.newest(["s1"]) == {"s1": other}
        assert served(production, production.live()) == {"s1": "3"}
        assert (one.prune(0), two.prune(0), production.prune(0)) == ([], [], [])
    assert production.live() == release


def test_a_list_of_series_in_a_file_is_checked_when_it_is_read(store):
    staging = MlflowStaging(*store())
    names = {f"store-{'x' * 40}__{i}": "1" for i in range(2000)}
    version = staging.register("batch", [upload("a", names)])[0]
    path = folder_of(staging, version.ref) / "series.json"
    path.write_text(path.read_text().replace('__7"', '__8"'))
    from many_models.adapters.registry import mlflow_store

    mlflow_store._series_text.cache_clear()
    with pytest.raises(IntegrityError, match=version.ref):
        staging.newest(["s"])


# --- publishing ---
def test_a_release_is_the_same_with_and_without_aliases(store):
    uri, files = store()
    with_aliases, without = MlflowProduction(uri, files), MlflowProduction(uri, files, aliases=False)
    first = with_aliases.publish(draft(None, [upload("a", {"s1": "1"})]))
    assert without.live() == first
    second = with_aliases.publish(draft(first, [upload("a", {"s1": "2"})]))
    assert without.live() == second
    with_aliases.activate(first.release_id)
    assert without.live() == first
    assert list(without.releases()) == list(with_aliases.releases()) == [second, first]


def test_the_alias_champion_follows_what_is_live(store):
    production = MlflowProduction(*store())

    def champions() -> dict[str, str]:
        found = production._store.client.search_registered_models()
        return {m.name.split("-")[1]: str(m.aliases["champion"]) for m in found if "champion" in m.aliases}

    first = production.publish(draft(None, [upload("a", {"s1": "1"}), upload("b", {"s2": "1"})]))
    assert champions() == {"a": "1", "b": "1"}
    second = production.publish(draft(first, [upload("a", {"s1": "2"})], removed=["s2"]))
    assert champions() == {"a": "2"}
    production.activate(first.release_id)
    assert champions() == {"a": "1", "b": "1"}
    production.activate(second.release_id)
    assert champions() == {"a": "2"}


def test_a_damaged_manifest_is_named_and_an_older_release_can_be_activated(store):
    production = MlflowProduction(*store())
    first = production.publish(draft(None, [upload("a", {"s1": "1"})]))
    production.publish(draft(first, [upload("a", {"s1": "2"})]))
    path = folder_of(production, "many_models-release/2") / "manifest.json"
    for damage in (path.read_bytes()[:-2], path.read_bytes().replace(b'"me"', b'"you"'), None):
        path.write_bytes(damage) if damage else path.unlink()
        with pytest.raises(IntegrityError, match="many_models-release/2"):
            production.live()
    assert production.activate(first.release_id) == first
    assert served(production, production.live()) == {"s1": "1"}


def test_a_manifest_of_a_newer_version_asks_for_an_upgrade(store, monkeypatch):
    from many_models.adapters.registry import rules

    production = MlflowProduction(*store())
    monkeypatch.setattr(rules, "MANIFEST_FORMAT", 2)
    production.publish(draft(None, [upload("a", {"s1": "1"})]))
    monkeypatch.undo()
    with pytest.raises(InputError, match=r"format 2.*upgrade"):
        production.live()


def test_a_pack_that_did_not_arrive_whole_is_not_published(store, monkeypatch):
    production = MlflowProduction(*store())
    first = production.publish(draft(None, [upload("a", {"s1": "1"})]))
    write = type(production._store).write

    def cutting(self, run, folders):
        sources = write(self, run, folders)
        for path in Path(run.info.artifact_uri.removeprefix("file://").replace("%20", " ")).rglob("rows.json"):
            path.write_bytes(path.read_bytes()[:-1])
        return sources

    monkeypatch.setattr(type(production._store), "write", cutting)
    with pytest.raises(IntegrityError):
        production.publish(draft(first, [upload("a", {"s1": "2"})]))
    monkeypatch.undo()
    assert served(production, production.live()) == {"s1": "1"}


STEPS = [
    "packs_registered",
    "packs_verified",
    "manifest_written",
    "manifest_registered",
    "alias_moved",
    "live",
    "champions_set",
]


def in_a_fork(work) -> int:
    """Runs `work` in a forked process; returns how it ended (a signal as a negative number)."""
    if (pid := os.fork()) == 0:
        try:
            work()
        finally:
            os._exit(0 if sys.exc_info()[0] is None else 1)
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])


def kill_self(at: str):
    def failpoint(step: str) -> None:
        if step == at:
            os.kill(os.getpid(), signal.SIGKILL)

    return failpoint


def leftovers(uri: str, files: str) -> tuple[int, int, int, int]:
    """Rows of versions, of tags' versions, of runs; and folders of runs."""
    with sqlite3.connect(uri.removeprefix("sqlite:///")) as connection:
        counts = [
            connection.execute(f"select count(*) from {what}").fetchone()[0]
            for what in ("model_versions", "(select distinct name, version from model_version_tags)", "runs")
        ]
    return (*counts, len([path for path in Path(files).iterdir() if path.is_dir()]))


@pytest.mark.slow
@pytest.mark.skipif(not hasattr(os, "fork"), reason="forks, so that each kill does not pay for importing MLflow again")
@pytest.mark.parametrize("step", STEPS)
@pytest.mark.parametrize("aliases", [True, False], ids=["aliases", "tags"])
def test_a_publication_killed_at_any_step_leaves_one_whole_release(store, step, aliases):
    uri, files = store()

    def first() -> None:
        MlflowProduction(uri, files, aliases=aliases).publish(
            draft(None, [upload("a", {"s1": "1"}), upload("b", {"s2": "1"})])
        )

    assert in_a_fork(first) == 0  # this process opens the database only afterwards: connections do not survive a fork
    base_of = draft(None, [upload("a", {"s1": "2"}), upload("b", {"s2": "2"})])

    def second() -> None:
        production = MlflowProduction(uri, files, aliases=aliases, failpoint=kill_self(step))
        live = production.live()
        production.publish(draft(live, base_of.packs))

    ended = in_a_fork(second)
    if (step == "alias_moved" and not aliases) or (step == "champions_set" and not aliases):
        assert ended == 0
    else:
        assert ended == -signal.SIGKILL
    production = MlflowProduction(uri, files, aliases=aliases)
    live = production.live()
    switched = step in ("alias_moved", "live", "champions_set")
    assert served(production, live) == dict.fromkeys(["s1", "s2"], "2" if switched else "1")
    releases = list(production.releases())
    assert releases[0] == live
    assert len(releases) == (2 if switched else 1)
    if switched:
        with pytest.raises(ConflictError):
            production.publish(draft(releases[1], base_of.packs))
        third = production.activate(releases[1].release_id)
        assert served(production, third) == {"s1": "1", "s2": "1"}
        assert len(production.releases()) == 2
    else:
        again = production.publish(draft(live, base_of.packs))
        assert production.live() == again
        assert served(production, again) == {"s1": "2", "s2": "2"}
        assert len(production.releases()) == 2
    production.prune(1)
    kept = len(list(production.releases()))
    refs = {c.ref for release in production.releases() for c in release.champions.values()}
    rows, tagged, runs, folders = leftovers(uri, files)
    assert rows == tagged == len(refs) + kept
    assert runs == folders == kept


@pytest.mark.slow
@pytest.mark.skipif(not hasattr(os, "fork"), reason="see above")
@pytest.mark.parametrize("step", ["approval_written", "alias_moved", "live", "champions_set"])
def test_an_approval_killed_at_any_step_still_waits_or_is_live_whole_and_can_be_given_again(store, step):
    uri, files = store()

    def propose() -> None:
        production = MlflowProduction(uri, files)
        first = production.publish(draft(None, [upload("a", {"s1": "1"}), upload("b", {"s2": "1"})]))
        production.propose(draft(first, [upload("a", {"s1": "2"}), upload("b", {"s2": "2"})]))

    def approve() -> None:
        production = MlflowProduction(uri, files, failpoint=kill_self(step))
        production.approve(production.waiting().release_id, "killed", "")

    assert in_a_fork(propose) == 0
    assert in_a_fork(approve) == -signal.SIGKILL
    production = MlflowProduction(uri, files)
    live, waiting = production.live(), production.waiting()
    switched = step != "approval_written"
    assert served(production, live) == dict.fromkeys(["s1", "s2"], "2" if switched else "1")
    assert (waiting is None) == switched
    assert waiting is None or waiting.approval is None
    asked = (waiting or live).release_id
    again = production.approve(asked, "Ada", "again")
    assert again == production.live()
    assert again.approval.actor == ("killed" if switched else "Ada")
    assert len(production.releases()) == 2


@pytest.mark.slow
@pytest.mark.skipif(not hasattr(os, "fork"), reason="see above")
def test_a_publication_killed_at_any_moment_leaves_one_whole_release(store):
    uri, files = store()

    def publish() -> None:
        production = MlflowProduction(uri, files)
        live = production.live()
        value = "1" if live is None else str(int(live.champions["s1"].staging.split("/")[1]) + 1)
        production.publish(draft(live, [upload(p, {f"s{i}": value}) for i, p in enumerate("abcdef")]))

    assert in_a_fork(publish) == 0
    began = time.monotonic()
    assert in_a_fork(publish) == 0
    whole, killed = time.monotonic() - began, 0
    for attempt in range(60):
        pid = os.fork()
        if pid == 0:
            publish()
            os._exit(0)
        time.sleep(whole * (1 + attempt % 8) / 9)
        os.kill(pid, signal.SIGKILL)
        killed += os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == -signal.SIGKILL
        assert in_a_fork(lambda: check_whole(uri, files)) == 0
        if attempt >= 7 and killed >= 3:
            break
    assert killed >= 3
    assert in_a_fork(publish) == 0
    check_whole(uri, files)


def check_whole(uri: str, files: str) -> None:
    production = MlflowProduction(uri, files)
    values = served(production, production.live())
    assert len(values) == 6
    assert len(set(values.values())) == 1


@pytest.mark.skipif(not hasattr(os, "fork"), reason="see above")
def test_of_two_processes_that_publish_at_once_one_loses_cleanly(store):
    uri, files = store()
    pids = []
    for value in "12":
        if (pid := os.fork()) == 0:
            try:
                MlflowProduction(uri, files).publish(draft(None, [upload("a", {"s1": value})]))
            except ConflictError:
                os._exit(7)
            finally:
                os._exit(0 if sys.exc_info()[0] is None else 1)
        pids.append(pid)
    assert sorted(os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) for pid in pids) == [0, 7]
    assert len(MlflowProduction(uri, files).releases()) == 1


def test_a_lock_that_is_held_too_long_is_a_conflict(store):
    production = MlflowProduction(*store())
    production.check()
    held = threading.Event()
    done = threading.Event()

    def hold() -> None:
        with production._store.lock():
            held.set()
            done.wait(300)

    thread = threading.Thread(target=hold)
    thread.start()
    assert held.wait(300)
    with pytest.raises(ConflictError, match="another process"), production._store.lock(seconds=0.2):
        pass
    done.set()
    thread.join()


def test_pruning_deletes_rows_files_and_runs_for_good(store):
    uri, files = store()
    staging = MlflowStaging(uri, files)
    for batch in range(5):
        staging.register(str(batch), [upload(p, {p: str(batch)}) for p in "abc"])
    assert leftovers(uri, files) == (15, 15, 5, 5)
    assert len(staging.prune(2)) == 9
    assert leftovers(uri, files) == (6, 6, 2, 2)


# --- what else MLflow might do ---
LOADER = b"""
import json, pathlib

class Model:
    def __init__(self, folder):
        self.rows = json.loads((folder / "rows.json").read_text())

    def predict(self, frame, params=None):
        return frame.assign(y_hat=[float(self.rows[key]) for key in frame["series_id"]])

def _load_pyfunc(path):
    return Model(pathlib.Path(path))
"""


def plain_client(code: str, tmp_path: Path, uri: str) -> dict:
    """Runs `code` with MLflow alone: a process that cannot import many_models. `show(x)` gives x back as JSON."""
    script = tmp_path / "client.py"
    head = f"""
        import sys, json
        sys.modules["many_models"] = None
        import pandas as pd, mlflow
        mlflow.set_tracking_uri({uri!r})
        def show(x): print("RESULT" + json.dumps(x))
    """
    script.write_text(textwrap.dedent(head) + textwrap.dedent(code))
    environment = {"PATH": os.environ["PATH"], "MLFLOW_DISABLE_TELEMETRY": "true", "HOME": str(tmp_path)}
    done = subprocess.run(
        [sys.executable, "-P", script],
        cwd=tmp_path,
        env=environment,
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    (line,) = [line for line in done.stdout.splitlines() if line.startswith("RESULT")]
    return json.loads(line.removeprefix("RESULT"))


@pytest.mark.slow
def test_any_mlflow_client_loads_a_champion_without_this_package(store, tmp_path):
    production = MlflowProduction(*store())
    index = json.dumps({"known": ["price", "event"]}).encode()
    packs = [
        PackUpload(
            p,
            {"mm_pack_v1.py": LOADER, "rows.json": json.dumps({f"{p}1": v}).encode(), "index.json": index},
            (f"{p}1",),
            {"k": "v"},
        )
        for p, v in (("a", 1.5), ("b", 2.5))
    ]
    rows = [PromotedSeries(f"{p}1", "s/1", "r", "2017-01-01") for p in "ab"]
    release = production.publish(ReleaseDraft("", "me", "", packs, rows))
    names = {p: release.champions[f"{p}1"].ref.rpartition("/")[0] for p in "ab"}
    found = plain_client(
        f"""
        out = {{}}
        for p, name in {names!r}.items():
            model = mlflow.pyfunc.load_model(f"models:/{{name}}@champion")
            frame = pd.DataFrame({{"series_id": [p + "1"], "ds": pd.Timestamp("2017-01-02"), "price": [3], "x": 1}})
            out[p] = model.predict(frame).drop(columns="ds").to_dict("records")
            info = mlflow.models.get_model_info(f"models:/{{name}}@champion")
            out[p + " inputs"] = info.signature.inputs.input_names()
            out[p + " needs"] = mlflow.pyfunc.get_model_dependencies(f"models:/{{name}}@champion")
            out[p + " needs"] = open(out[p + " needs"]).read().split()
        show(out)
        """,
        tmp_path,
        production._store.uri,
    )
    assert found["a"] == [{"series_id": "a1", "price": 3, "y_hat": 1.5}]
    assert found["b"] == [{"series_id": "b1", "price": 3, "y_hat": 2.5}]
    assert found["a inputs"] == ["series_id", "ds", "price", "event"]
    assert [line.partition("==")[0] for line in found["a needs"]] == ["mlflow", "numpy", "pandas"]
    assert all("==" in line for line in found["a needs"])


@pytest.mark.slow
def test_any_mlflow_client_loads_a_users_regressor_without_this_package_or_a_pickle(store, tmp_path):
    from datetime import timedelta

    from many_models.forecasting import Spec, train
    from many_models.forecasting.spec import Custom
    from many_models_tests.forecasting.histories import AS_OF, rows_of, sales

    custom = Custom("gradient", "sklearn.ensemble:HistGradientBoostingRegressor", '{"max_iter": 20}', 120.0)
    spec = Spec("D", 7, windows=2, candidates=("gradient",), custom=(custom,))
    model = train(rows_of({"a1": sales(200, 20.0), "a2": sales(200, 60.0, seed=1)}, spec), spec, AS_OF).model
    assert set(model.fitted) == {"a1", "a2"}
    production = MlflowProduction(*store())
    rows = [PromotedSeries(name, "s/1", spec.recipe, str(AS_OF)) for name in model.series]
    packs = [PackUpload("a", model.files(), model.series)]
    release = production.publish(ReleaseDraft("", "me", "", packs, rows))
    found = plain_client(
        f"""
        import pickle
        def refuse(*a, **k): raise AssertionError("a pickle")
        model_uri = "models:/{release.champions["a1"].ref.rpartition("/")[0]}@champion"
        needs = open(mlflow.pyfunc.get_model_dependencies(model_uri)).read().split()
        pickle.load = pickle.loads = pickle.Unpickler = refuse
        model = mlflow.pyfunc.load_model(model_uri)
        ds = pd.date_range({str(AS_OF + timedelta(days=1))!r}, periods=7)
        frames = [pd.DataFrame({{"series_id": name, "ds": ds}}) for name in ("a1", "a2")]
        show([needs, *(model.predict(frame)["y_hat"].tolist() for frame in frames)])
        """,
        tmp_path,
        production._store.uri,
    )
    assert [line.partition("==")[0] for line in found[0]] == ["mlflow", "numpy", "pandas", "scikit-learn", "skops"]
    assert [*found[1], *found[2]] == pytest.approx(model.predict(None)["y_hat"].to_pylist())


def test_mlflow_global_state_and_the_working_folder_stay_untouched(store, tmp_path, monkeypatch):
    import mlflow

    folder = tmp_path / "elsewhere"
    folder.mkdir()
    monkeypatch.chdir(folder)
    before = mlflow.get_tracking_uri(), mlflow.get_registry_uri(), mlflow.active_run()
    staging, production = MlflowStaging(*store()), MlflowProduction(*store())
    staging.register("batch", [upload("a", {"s1": "1"})])
    production.publish(draft(None, [upload("a", {"s1": "1"})]))
    production.prune(0)
    assert (mlflow.get_tracking_uri(), mlflow.get_registry_uri(), mlflow.active_run()) == before
    assert list(folder.iterdir()) == []


@pytest.mark.slow
def test_importing_the_registries_does_not_import_mlflow_and_using_them_calls_nobody():
    code = """
        import sys, os, tempfile, threading
        from many_models.adapters.registry.mlflow_production import MlflowProduction, MlflowStaging
        from many_models.adapters.registry.memory import MemoryStaging
        assert "mlflow" not in sys.modules and "sqlalchemy" not in sys.modules
        MlflowStaging("sqlite:///nowhere/x.db", "nowhere")
        assert "mlflow" not in sys.modules and not os.path.exists("nowhere")
        import socket
        def refuse(*a, **k): raise AssertionError("network")
        socket.socket.connect = refuse
        with tempfile.TemporaryDirectory() as folder:
            registry = MlflowProduction(f"sqlite:///{folder}/x.db", folder + "/files")
            assert registry.live() is None
            from mlflow.telemetry.client import get_telemetry_client
            assert get_telemetry_client() is None
            assert [t.name for t in threading.enumerate()] == ["MainThread"]
        print("good")
    """
    environment = {k: v for k, v in os.environ.items() if k != "MLFLOW_DISABLE_TELEMETRY"}
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(code)],
        capture_output=True,
        text=True,
        env=environment,
        timeout=300,
        check=False,
    )
    assert done.stdout == "good\n", done.stderr
    assert done.stderr == ""


@pytest.mark.slow
def test_two_processes_that_find_no_database_make_it_once(tmp_path):
    code = f"""
        from many_models.adapters.registry.mlflow_production import MlflowStaging
        print(MlflowStaging("sqlite:///{tmp_path}/deep/er/x.db", "{tmp_path}/files").newest(["s"]))
    """
    running = [
        subprocess.Popen(
            [sys.executable, "-c", textwrap.dedent(code)], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
        )
        for _ in range(2)
    ]
    for process in running:
        out, err = process.communicate(timeout=300)
        assert out == "{}\n", err


@pytest.mark.parametrize("kind", ["no server", "no database", "a folder", "no right to write"])
def test_a_store_that_cannot_be_reached_says_so_at_once(kind, tmp_path):
    (tmp_path / "not.db").write_bytes(b"this is no database, " * 100)
    (tmp_path / "file").write_bytes(b"")
    uri = {
        "no server": "http://someone:secret@127.0.0.1:9",
        "no database": f"sqlite:///{tmp_path}/not.db",
        "a folder": f"sqlite:///{tmp_path}",
        "no right to write": f"sqlite:///{tmp_path}/file/x.db",
    }[kind]
    started = time.monotonic()
    for call in (
        lambda: MlflowStaging(uri, str(tmp_path / "a")).newest(["s1"]),
        lambda: MlflowProduction(uri, str(tmp_path / "a")).live(),
        lambda: MlflowProduction(uri, str(tmp_path / "a")).check(),
        lambda: MlflowStaging(uri, str(tmp_path / "a")).register("b", [upload("a", {"s1": "1"})]),
    ):
        with pytest.raises(UnavailableError) as raised:
            call()
        assert "secret" not in str(raised.value)
    assert time.monotonic() - started < 90  # MLflow alone tries for minutes, at each of the calls


def test_a_store_that_breaks_later_says_so_and_does_not_look_empty(store):
    uri, files = store()
    production = MlflowProduction(uri, files)
    production.publish(draft(None, [upload("a", {"s1": "1"})]))
    with sqlite3.connect(uri.removeprefix("sqlite:///")) as connection:
        connection.execute("alter table registered_model_aliases rename to gone")
    with pytest.raises(ManyModelsError):
        production.live()
    with sqlite3.connect(uri.removeprefix("sqlite:///")) as connection:
        connection.execute("alter table gone rename to registered_model_aliases")
        connection.execute("alter table model_version_tags rename to gone")
    with pytest.raises(ManyModelsError):
        production.live()


def test_a_prefix_that_mlflow_would_refuse_is_refused_first():
    for prefix in ("", "a/b", "a:b", "a'b", "-a", "x" * 101):
        with pytest.raises(SettingsError, match="prefix"):
            MlflowStaging("sqlite:///x.db", "x", prefix)


def test_registries_travel_to_other_processes():
    import pickle

    for registry in (MlflowStaging("sqlite:///x.db", "x"), MlflowProduction("sqlite:///x.db", "x")):
        assert pickle.loads(pickle.dumps(registry))._store == registry._store
