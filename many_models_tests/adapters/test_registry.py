"""Both registries, in memory and on MLflow, against their contracts; finding and batches on MLflow."""

from __future__ import annotations

import os
import re
import sqlite3
import sys
import traceback

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from many_models.adapters.registry.memory import MemoryProduction, MemoryStaging
from many_models.adapters.registry.mlflow_production import MlflowProduction, MlflowStaging
from many_models.errors import (
    IntegrityError,
    UnavailableError,
)
from many_models_tests.contracts.production_registry import ProductionContract, check_production_history, draft
from many_models_tests.contracts.registry import StagingContract, check_staging_history, served, upload
from many_models_tests.support.registry_store import (
    Folder,
    clock,
    folder_of,
    reading_light,
    without_rows,
)


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


class OnMlflow:
    @pytest.fixture
    def stored(self):
        return lambda registry, ref: Folder(folder_of(registry, ref) / "data")


@pytest.mark.slow
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


@pytest.mark.slow
class TestMlflowProduction(OnMlflow, ProductionContract):
    @pytest.fixture
    def make(self, store):
        return lambda: MlflowProduction(*store(), clock=clock)

    @pytest.fixture
    def again(self):
        """Another process's view of it: a service, which reads without MLflow."""
        return reading_light


@pytest.mark.slow
class TestMlflowStagingThroughItsClient(TestMlflowStaging):
    @pytest.fixture(autouse=True)
    def _through_the_client(self, monkeypatch):
        without_rows(monkeypatch)


@pytest.mark.slow
class TestMlflowProductionWithoutAliases(OnMlflow, ProductionContract):
    @pytest.fixture
    def make(self, store):
        return lambda: MlflowProduction(*store(), clock=clock, aliases=False)

    @pytest.fixture
    def again(self):
        return lambda production: reading_light(production, aliases=False)


# --- finding ---
@pytest.mark.slow
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


@pytest.mark.slow
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


@pytest.mark.slow
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


@pytest.mark.slow
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
