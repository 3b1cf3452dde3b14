"""What the process of `many-models serve` loads."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from typing import TYPE_CHECKING

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


def test_serve_loads_neither_dagster_nor_pyspark(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-c", SERVE],
        cwd=tmp_path, capture_output=True, text=True, timeout=300, check=False,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    loaded = set(json.loads(done.stdout.splitlines()[-1]))
    assert {"fastapi", "many_models", "mlflow"} <= loaded
    assert [name for name in loaded if name.startswith(("dagster", "pyspark", "py4j"))] == []
