"""Publishing on MLflow: aliases, damaged manifests, and processes that die or race at any step."""

from __future__ import annotations

import os
import signal
import sqlite3
import sys
import threading
import time
from pathlib import Path

import pytest

from many_models.adapters.registry.mlflow_production import MlflowProduction, MlflowStaging
from many_models.errors import (
    ConflictError,
    InputError,
    IntegrityError,
)
from many_models_tests.contracts.production_registry import draft
from many_models_tests.contracts.registry import served, upload
from many_models_tests.support.registry_store import (
    folder_of,
    in_a_fork,
    kill_self,
)

pytestmark = pytest.mark.slow


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


def leftovers(uri: str, files: str) -> tuple[int, int, int, int]:
    """Rows of versions, of tags' versions, of runs; and folders of runs."""
    with sqlite3.connect(uri.removeprefix("sqlite:///")) as connection:
        counts = [
            connection.execute(f"select count(*) from {what}").fetchone()[0]
            for what in ("model_versions", "(select distinct name, version from model_version_tags)", "runs")
        ]
    return (*counts, len([path for path in Path(files).iterdir() if path.is_dir()]))


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
