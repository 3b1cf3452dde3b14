"""What else MLflow might do: other clients, global state, stores that break, and travelling to other processes."""

from __future__ import annotations

import json
import os
import sqlite3
import subprocess
import sys
import textwrap
import time
from contextlib import closing
from typing import TYPE_CHECKING

import pytest

from many_models.adapters.registry import mlflow_clients
from many_models.adapters.registry.mlflow_production import MlflowProduction, MlflowStaging
from many_models.errors import (
    ManyModelsError,
    SettingsError,
    UnavailableError,
)
from many_models.ports import PackUpload, PromotedSeries, ReleaseDraft
from many_models_tests.contracts.production_registry import draft
from many_models_tests.contracts.registry import upload

if TYPE_CHECKING:
    from pathlib import Path

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


@pytest.mark.long(
    "adapters/test_registry_mlflow.py::test_any_mlflow_client_loads_a_champion_without_this_package",
    "forecasting/test_fitted_regressors.py::test_a_client_with_scikit_learn_and_skops_loads_it_without_our_package",
)
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
def test_registries_import_no_mlflow_and_call_no_service():
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


@pytest.mark.slow
def test_a_process_has_mlflow_make_one_store_and_copies_it_for_the_others(tmp_path, monkeypatch):
    from mlflow.store.db import utils

    monkeypatch.setattr(mlflow_clients, "_BLANK", {})
    migrated, upgrade = [], utils._upgrade_db
    monkeypatch.setattr(utils, "_upgrade_db", lambda engine: (migrated.append(engine.url.database), upgrade(engine)))
    files = [tmp_path / f"{name}.db" for name in ("one", "two")]
    for file in files:
        MlflowStaging(f"sqlite:///{file}", str(tmp_path / file.stem)).register("b", [upload("a", {"s1": "1"})])
    assert migrated == [str(files[0])]
    made = []
    for file in files:
        with closing(sqlite3.connect(file)) as connection:
            made.append(connection.execute("SELECT type, name, sql FROM sqlite_master ORDER BY name").fetchall())
            names = connection.execute("SELECT name FROM experiments ORDER BY experiment_id").fetchall()
            assert names == [("Default",), ("many_models/staging",)]
            assert connection.execute("SELECT count(*) FROM model_versions").fetchall() == [(1,)]
    assert made[0] == made[1]


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
