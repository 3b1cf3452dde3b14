"""The registries through real MLflow servers: the same answers, one writer at a time, and users who may not write."""

from __future__ import annotations

import importlib.util
import json
import os
import pickle
import sys
import threading
import time
import traceback
import urllib.error
import urllib.request
from base64 import b64encode
from dataclasses import replace
from datetime import timedelta
from pathlib import Path

import pytest

from many_models.adapters.registry import mlflow_lease as lease
from many_models.adapters.registry.mlflow_lease import HOLDER, leased
from many_models.adapters.registry.mlflow_production import MlflowProduction, MlflowStaging
from many_models.errors import ConflictError, InputError, IntegrityError, SettingsError
from many_models.ports import PackUpload, PromotedSeries, ReleaseDraft
from many_models_tests.contracts.production_registry import draft
from many_models_tests.contracts.registry import served, upload
from many_models_tests.stand_ins.mlflow_server import ADMIN, ADMIN_PASSWORD, mlflow_server, started
from many_models_tests.support.ports import free_port

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    """An MLflow server on loopback: its URL, and the folder that it keeps artifacts in."""
    root = tmp_path_factory.mktemp("server")
    with mlflow_server(root) as url:
        yield url, root / "files"


@pytest.mark.parametrize(
    "aliases",
    [
        pytest.param(
            True,
            id="aliases",
            marks=pytest.mark.long("adapters/test_registry_server.py::test_through_a_server_everything_is_the_same"),
        ),
        pytest.param(False, id="tags"),
    ],
)
def test_through_a_server_everything_is_the_same(server, aliases, capfd):
    uri, files = server
    prefix = f"through-{aliases}"
    staging, production = MlflowStaging(uri, "", prefix), MlflowProduction(uri, "", prefix, aliases=aliases)
    packs = [upload(p, {f"{p}1": "1", f"{p}2": "1"}, note="x") for p in "abc"]
    versions = staging.register("one", packs)
    assert staging.register("one", packs) == versions
    newer = staging.register("two", [upload("a", {"a1": "2", "a2": "2"})])[0]
    assert staging.newest(["a1", "b1"]) == {"a1": newer, "b1": versions[1]}
    assert staging.files(versions[1]) == packs[1].files
    service = MlflowProduction(uri, "", prefix, aliases=aliases, light=True)
    assert (service.live(), service.live_id(), list(service.releases())) == (None, "", [])
    first = production.publish(draft(None, packs))
    with pytest.raises(ConflictError):
        production.publish(draft(None, packs))
    proposal = production.propose(draft(first, [upload("a", {"a1": "2", "a2": "2"})]))
    assert production.live() == first
    assert production.waiting() == proposal
    second = production.approve(proposal.release_id, "Ada", "why not")
    assert replace(second, approval=None) == proposal
    assert production.live() == second
    assert served(production, second) == {"a1": "2", "a2": "2"} | dict.fromkeys(["b1", "b2", "c1", "c2"], "1")
    production.activate(first.release_id)
    assert production.live() == first
    for reader in (production, service):
        assert (reader.live(), reader.live_id()) == (first, first.release_id)
        assert list(reader.releases()) == [second, first]
        assert served(reader, second) == {"a1": "2", "a2": "2"} | dict.fromkeys(["b1", "b2", "c1", "c2"], "1")
    assert staging.prune(0) == [versions[0].ref]
    assert set(production.prune(0)) == {second.release_id, second.champions["a1"].ref}
    assert served(production, production.live()) == dict.fromkeys(first.champions, "1")
    for reader in (production, service):
        with pytest.raises(InputError, match="pruned"):
            reader.files(second.champions["a1"].ref, second.champions["a1"].sha256)
    store = production._store
    assert second.champions["a1"].ref not in [f"{v.name}/{v.version}" for v in store.registry.search_model_versions()]
    assert [m.name for m in store.registry.search_registered_models() if m.name.endswith("-lock")] == []
    run_id = store.find(first.champions["b1"].ref).run_id
    (stored,) = files.glob(f"*/{run_id}/artifacts/b-*/data/rows.json")
    stored.write_bytes(b"[]")
    for reader in (production, service):
        with pytest.raises(IntegrityError, match=first.champions["b1"].ref):
            reader.files(first.champions["b1"].ref, first.champions["b1"].sha256)
    assert capfd.readouterr() == ("", "")


# --- one writer at a time, on whatever machine ---
@pytest.fixture
def registry(tmp_path):
    return MlflowStaging(f"sqlite:///{tmp_path}/m.db", str(tmp_path / "files"))._store.registry


def test_a_lease_is_held_by_one_and_given_back(registry):
    with leased(registry, "lock", 10, "the store") as check:
        check()
        with (
            pytest.raises(ConflictError, match="another machine"),
            leased(registry, "lock", 0.3, "the store"),
        ):
            pass
        check()
    with leased(registry, "lock", 0, "the store"):
        pass
    assert list(registry.search_registered_models()) == []


def test_a_lease_that_is_renewed_is_not_taken_away(registry):
    stale = 8.0  # far above the quarter of it after which the holder renews: the machine may be slow
    with leased(registry, "lock", 60, "the store", stale=stale) as check:
        began = time.monotonic()
        with pytest.raises(ConflictError), leased(registry, "lock", 1.5 * stale, "the store", stale=stale):
            pass
        assert time.monotonic() - began >= 1.5 * stale
        check()


def test_the_lease_of_a_killed_holder_is_taken_over_by_one(registry):
    registry.create_registered_model("lock", tags={HOLDER: "killed", "mm.beat": "0"})
    order, waiting = [], threading.Barrier(3)

    def work(name: str) -> None:
        waiting.wait()
        with leased(registry, "lock", 300, "the store", stale=8.0) as check:
            order.append((name, "in"))
            check()
            time.sleep(1.0)
            order.append((name, "out"))

    threads = [threading.Thread(target=work, args=(name,)) for name in "abc"]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(order) == 6
    assert all(order[i][0] == order[i + 1][0] for i in (0, 2, 4)), order
    assert list(registry.search_registered_models()) == []


def test_who_finds_a_lock_abandoned_a_moment_late_does_not_move_the_next_ones(registry, monkeypatch):
    registry.create_registered_model("lock", tags={HOLDER: "killed", "mm.beat": "0"})
    seen = lease._state(registry, "lock")
    with leased(registry, "lock", 60, "the store", stale=0.5) as check:  # has taken it over
        monkeypatch.setattr(lease, "_state", lambda *_: seen)  # what the late one saw before that
        lease._take_away(registry, "lock", seen)
        monkeypatch.undo()
        check()
    assert list(registry.search_registered_models()) == []


def test_a_holder_that_was_silent_for_too_long_moves_no_alias(tmp_path, monkeypatch):
    """Another machine took over while this one was asleep: what it was about to make live stays aside."""
    from many_models.adapters.registry import mlflow_store as store_module

    uri, files = f"sqlite:///{tmp_path}/m.db", str(tmp_path / "files")
    first = MlflowProduction(uri, files).publish(draft(None, [upload("a", {"s1": "1"})]))
    monkeypatch.setattr(store_module, "sqlite_path", lambda _: None)  # as on a server: with a lease

    def taken_over(step: str) -> None:
        if step == "manifest_registered":
            registry = production._store.registry
            registry.delete_registered_model("many_models-production-lock")
            registry.create_registered_model("many_models-production-lock", tags={HOLDER: "somebody else"})

    production = MlflowProduction(uri, files, failpoint=taken_over)
    with pytest.raises(ConflictError, match="taken over"):
        production.publish(draft(first, [upload("a", {"s1": "2"})]))
    assert production.live() == first


# --- users ---
PASSWORDS = {"trainer": "trainers-secret", "promoter": "promoters-secret", "scorer": "scorers-secret"}


@pytest.fixture(scope="module")
def guarded(tmp_path_factory):
    """A production server with three users, of whom the trainer is denied everything in it: its URL."""
    if importlib.util.find_spec("flask_wtf") is None and not os.environ.get("CI"):
        pytest.skip("flask-wtf is not installed, which MLflow's users need: make install")
    root = tmp_path_factory.mktemp("guarded")
    with mlflow_server(root, users=True) as url, pytest.MonkeyPatch.context() as patch:
        patch.setenv("MLFLOW_TRACKING_USERNAME", ADMIN)
        patch.setenv("MLFLOW_TRACKING_PASSWORD", ADMIN_PASSWORD)
        from mlflow.server.auth.client import AuthServiceClient

        admin = AuthServiceClient(url)
        for user, password in PASSWORDS.items():
            admin.create_user(user, password)
        role = admin.create_role("default", "kept-out")
        for kind in ("experiment", "registered_model", "prompt"):
            admin.add_role_permission(role.id, kind, "*", "DENY")
        admin.assign_role("trainer", role.id)
        patch.undo()
        yield url


def become(monkeypatch, user: str) -> None:
    monkeypatch.setenv("MANY_MODELS_PRODUCTION_USERNAME", user)
    monkeypatch.setenv("MANY_MODELS_PRODUCTION_PASSWORD", PASSWORDS[user])


def status_of(url: str, method: str, path: str, body: dict[str, object], user: str = "") -> int:
    """The HTTP status of a call that goes past this package."""
    request = urllib.request.Request(f"{url}/api/2.0/{path}", json.dumps(body).encode(), method=method)
    request.add_header("Content-Type", "application/json")
    if user:
        request.add_header("Authorization", "Basic " + b64encode(f"{user}:{PASSWORDS[user]}".encode()).decode())
    try:
        with urllib.request.urlopen(request, timeout=60) as response:
            return response.status
    except urllib.error.HTTPError as error:
        return error.code


@pytest.mark.long("docs/test_mlflow_deploy.py::test_production_takes_promotions_releases_and_refuses_training")
def test_training_is_refused_every_write_to_production(guarded, tmp_path, monkeypatch):
    staging = MlflowStaging(f"sqlite:///{tmp_path}/staging.db", str(tmp_path / "staging"))
    trained = staging.register("one", [upload("a", {"s1": "1"})])[0]  # training's own store asks nobody

    become(monkeypatch, "promoter")
    promoter = MlflowProduction(guarded)
    first = promoter.publish(draft(None, [PackUpload("a", staging.files(trained), trained.series)]))
    second = promoter.publish(draft(first, [upload("a", {"s1": "2"})]))

    become(monkeypatch, "scorer")
    scorer = MlflowProduction(guarded)
    for reader in (scorer, MlflowProduction(guarded, light=True)):
        assert reader.live() == second
        assert served(reader, second) == {"s1": "2"}
    assert MlflowProduction(guarded, prefix="nothing-yet", light=True).live() is None
    for write in (
        lambda: scorer.publish(draft(second, [upload("a", {"s1": "3"})])),
        lambda: scorer.activate(first.release_id),
        lambda: scorer.prune(0),
    ):
        with pytest.raises(SettingsError, match="MANY_MODELS_PRODUCTION_USERNAME"):
            write()

    become(monkeypatch, "trainer")
    trainer = MlflowProduction(guarded)
    for act in (
        trainer.live,
        MlflowProduction(guarded, light=True).live,
        lambda: trainer.publish(draft(second, [upload("a", {"s1": "3"})])),
        lambda: trainer.propose(draft(second, [upload("a", {"s1": "3"})])),
        lambda: trainer.approve(first.release_id, "me", ""),
        lambda: trainer.activate(first.release_id),
        lambda: trainer.prune(0),
    ):
        with pytest.raises(SettingsError) as raised:
            act()
        told = "".join(traceback.format_exception(raised.value))
        assert not any(password in told for password in PASSWORDS.values())
    assert not any(password.encode() in pickle.dumps(trainer) for password in PASSWORDS.values())

    become(monkeypatch, "promoter")
    found = promoter._store.find(second.champions["s1"].ref)
    experiment = promoter._store.experiment()
    version = {"name": found.name, "version": str(found.version)}
    for method, path, body in (
        ("POST", "mlflow/registered-models/create", {"name": "evil"}),
        ("POST", "mlflow/registered-models/rename", {"name": found.name, "new_name": "evil"}),
        ("PATCH", "mlflow/registered-models/update", {"name": found.name, "description": "evil"}),
        ("DELETE", "mlflow/registered-models/delete", {"name": found.name}),
        ("POST", "mlflow/registered-models/set-tag", {"name": found.name, "key": "k", "value": "v"}),
        ("POST", "mlflow/registered-models/alias", {**version, "alias": "champion"}),
        ("POST", "mlflow/registered-models/alias", {"name": "many_models-release", "alias": "live", "version": "1"}),
        ("DELETE", "mlflow/registered-models/alias", {"name": "many_models-release", "alias": "live"}),
        ("POST", "mlflow/model-versions/create", {"name": found.name, "source": str(found.source)}),
        ("POST", "mlflow/model-versions/set-tag", {**version, "key": "mm.sha256", "value": "0"}),
        ("DELETE", "mlflow/model-versions/delete-tag", {**version, "key": "mm.sha256"}),
        ("DELETE", "mlflow/model-versions/delete", version),
        ("POST", "mlflow/experiments/create", {"name": "evil"}),
        ("POST", "mlflow/experiments/delete", {"experiment_id": experiment}),
        ("POST", "mlflow/runs/create", {"experiment_id": experiment}),
        ("POST", "mlflow/runs/delete", {"run_id": found.run_id}),
        ("POST", "mlflow/runs/set-tag", {"run_id": found.run_id, "key": "k", "value": "v"}),
        ("PUT", f"mlflow-artifacts/artifacts/{experiment}/{found.run_id}/artifacts/evil", {}),
        ("DELETE", f"mlflow-artifacts/artifacts/{experiment}/{found.run_id}/artifacts", {}),
    ):
        assert (path, status_of(guarded, method, path, body, "trainer")) == (path, 403)
        assert (path, status_of(guarded, method, path, body)) == (path, 401)
    assert promoter.live() == second
    assert served(promoter, second) == {"s1": "2"}


# --- MLflow's own scoring server ---
def test_mlflow_serves_a_pack_as_it_is_without_this_package(tmp_path):
    """`mlflow models serve`, in a process where importing many_models fails."""
    from many_models.forecasting import PackModel, train
    from many_models_tests.forecasting.histories import AS_OF, SPEC, rows_of, sales

    model = train(rows_of({f"s{i}": sales(400, 5.0 + 10 * i, seed=i) for i in range(3)}), SPEC, AS_OF).model
    production = MlflowProduction(f"sqlite:///{tmp_path}/m.db", str(tmp_path / "files"))
    rows = [PromotedSeries(name, "s/1", SPEC.recipe, str(AS_OF)) for name in model.series]
    release = production.publish(ReleaseDraft("", "me", "", [PackUpload("a", model.files(), model.series)], rows))
    champion = release.champions["s1"]
    ours = PackModel.from_files(production.files(champion.ref, champion.sha256)).predict(None, series=["s1", "s2"])
    absent = tmp_path / "shim" / "many_models"
    absent.mkdir(parents=True)
    (absent / "__init__.py").write_text("raise ImportError('this machine has no many_models')")
    port = free_port()
    words = ["-m", "mlflow", "models", "serve", "--env-manager", "local", "--host", "127.0.0.1", "--port", str(port)]
    words += ["--model-uri", f"models:/{champion.ref.rpartition('/')[0]}@champion", "--workers", "1"]
    env = {"MLFLOW_TRACKING_URI": production._store.uri, "PYTHONPATH": str(absent.parent)}
    env["PATH"] = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
    with started(words, tmp_path, f"http://127.0.0.1:{port}/ping", env):
        data = [[name, str(AS_OF + timedelta(days=1 + day))] for name in ("s1", "s2") for day in range(SPEC.horizon)]
        body = {"dataframe_split": {"columns": ["series_id", "ds"], "data": data}}
        request = urllib.request.Request(f"http://127.0.0.1:{port}/invocations", json.dumps(body).encode())
        request.add_header("Content-Type", "application/json")
        with urllib.request.urlopen(request, timeout=60) as response:
            theirs = json.load(response)["predictions"]
    for column in ("y_hat", "lo80", "hi80"):
        assert [row[column] for row in theirs] == pytest.approx(ours[column].to_pylist(), rel=1e-9), column
