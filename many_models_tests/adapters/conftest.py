"""An MLflow store for every test that asks: made once, copied for each."""

from __future__ import annotations

import sqlite3

import pytest

from many_models.adapters.registry.mlflow_production import MlflowStaging


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
