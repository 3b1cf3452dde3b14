"""An MLflow database with its tables and nothing in them: making the tables takes seconds, copying them does not."""

from __future__ import annotations

import sqlite3
from contextlib import closing
from functools import cache
from pathlib import Path
from tempfile import TemporaryDirectory

from many_models.adapters.registry.mlflow_production import MlflowStaging


@cache
def blank_registry() -> bytes:
    """The file, made by MLflow itself, once a process."""
    with TemporaryDirectory() as folder:
        path = Path(folder) / "blank.db"
        MlflowStaging(f"sqlite:///{path}", f"{folder}/files").check()
        with closing(sqlite3.connect(path)) as connection, connection:
            assert connection.execute("select count(*) from model_versions").fetchone() == (0,)
            connection.execute("delete from experiments")
        return path.read_bytes()
