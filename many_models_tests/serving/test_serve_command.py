"""What the process of `many-models serve` loads."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from typing import TYPE_CHECKING

import pytest

from many_models.adapters.registry.mlflow_production import MlflowProduction
from many_models_tests.support.serving_parts import draft, pack

if TYPE_CHECKING:
    from pathlib import Path

# `serve` as the command runs it, but for the socket: the app starts, finds that there is no release, and stops
SERVE = """
import asyncio, json, sys
from many_models.cli.main import main
from many_models.serving import server

async def start(app):
    async with app.router.lifespan_context(app):
        pass

def run(app, serve):
    asyncio.run(start(app))
    print(json.dumps(sorted({name.split(".")[0] for name in sys.modules})))

server.run = run
main(["serve", "--no-auth"], standalone_mode=False)
"""


NEVER = ("dagster", "pyspark", "py4j", "mlflow", "pandas", "sklearn", "sqlalchemy", "lightgbm", "matplotlib", "rich")


def loaded_by_serve(root: Path) -> set[str]:
    """The packages that the service has loaded when it is ready."""
    done = subprocess.run(
        [sys.executable, "-c", SERVE],
        cwd=root, capture_output=True, text=True, timeout=300, check=False,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    loaded = set(json.loads(done.stdout.splitlines()[-1]))
    assert {"fastapi", "many_models", "numba"} <= loaded
    return loaded


@pytest.mark.slow
def test_serve_without_a_release_loads_nothing_that_it_does_not_use(tmp_path: Path) -> None:
    assert sorted(loaded_by_serve(tmp_path).intersection(NEVER)) == []


@pytest.mark.slow
def test_serve_that_has_answered_loads_neither_mlflow_nor_pandas(tmp_path: Path) -> None:
    """It warms up by a forecast of its own: all that an answer needs is loaded then."""
    registry = f"sqlite:///{tmp_path}/p.db", str(tmp_path / "files")
    MlflowProduction(*registry).publish(draft(None, [pack("a")]))
    (tmp_path / "many_models.toml").write_text(
        f'[registry]\nproduction = "{registry[0]}"\nproduction_artifacts = "{registry[1]}"\n'
    )
    loaded = loaded_by_serve(tmp_path)
    assert sorted(loaded.intersection(NEVER)) == []
    assert (tmp_path / "var").exists()
