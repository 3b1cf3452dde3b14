"""What `many-models serve` costs before it is asked: seconds and CPU until it is ready, memory while it waits, and
after one forecast. Each start is measured beside one that reads the registry by MLflow's own client, in turns.
`python -m benchmarks.serve_idle [--small] [--json]`.
"""

from __future__ import annotations

import statistics
import sys
import tempfile
import time
import urllib.request
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import psutil

from benchmarks._report import Figure, flags, machine, show
from benchmarks.serving import body_of, publish, running, trained
from many_models.adapters.registry.mlflow_production import MlflowProduction
from many_models_tests.stand_ins.mlflow_server import mlflow_server

OURS = "from many_models.cli.main import main; main(prog_name='many-models')"
MLFLOWS = f"import many_models.adapters.registry.mlflow_store as store; store.reader_of = lambda *_: None; {OURS}"
WAITS = 2.0  # seconds of idleness before memory is read


@dataclass(frozen=True)
class Start:
    """One start: seconds and CPU seconds until it was ready, MB resident while it waited and after a forecast."""

    seconds: float
    cpu: float
    idle: float
    asked: float


def started(code: str, root: Path, registry: str, artifacts: str) -> Start:
    """Start the service, let it wait, ask it once, stop it."""
    env = {
        "MANY_MODELS__REGISTRY__PRODUCTION": registry,
        "MANY_MODELS__REGISTRY__PRODUCTION_ARTIFACTS": artifacts,
        "PYTHONPATH": str(Path(__file__).parents[1]),
    }
    command = [sys.executable, "-c", code, "serve", "--no-auth", "--port", "{port}"]
    begun = time.perf_counter()
    with tempfile.TemporaryDirectory(dir=root) as folder, running(command, Path(folder), env, "/health/ready") as found:
        seconds = time.perf_counter() - begun
        process = psutil.Process(found[0])
        spent = process.cpu_times()
        time.sleep(WAITS)
        idle = process.memory_info().rss / 1e6
        path, body = body_of("kept", 0, 1, np.random.default_rng(1))
        request = urllib.request.Request(
            f"http://127.0.0.1:{found[1]}{path}", body, {"content-type": "application/json"}
        )
        with urllib.request.urlopen(request, timeout=60) as answer:
            assert answer.status == 200
        return Start(seconds, spent.user + spent.system, idle, process.memory_info().rss / 1e6)


def measured(name: str, root: Path, registry: str, artifacts: str, times: int) -> list[Figure]:
    """The medians of `times` starts with our reader and with MLflow's client, in turns."""
    ours, theirs = list[Start](), list[Start]()
    for _ in range(times):
        ours.append(started(OURS, root, registry, artifacts))
        theirs.append(started(MLFLOWS, root, registry, artifacts))

    def of(starts: list[Start], what: str) -> float:
        return statistics.median(getattr(start, what) for start in starts)

    whats = (
        ("seconds", "s", "until ready", "; at most 3"),
        ("cpu", "s", "CPU until ready", ""),
        ("idle", "MB", "resident, idle", "; at most 250"),
        ("asked", "MB", "resident after one forecast", ""),
    )
    return [
        Figure(f"{name}: {text}", of(ours, what), unit, f"{of(theirs, what):.3g} through MLflow's client{goal}")
        for what, unit, text, goal in whats
    ]


def main() -> None:
    """Measure a registry in SQLite and one behind an MLflow server."""
    given = flags(__doc__ or "", "one start each, and no server").parse_args()
    figures = list[Figure]()
    with tempfile.TemporaryDirectory() as folder, ExitStack() as stack:
        root, model = Path(folder), trained()
        uri, artifacts = f"sqlite:///{root}/production.db", str(root / "production")
        publish(MlflowProduction(uri, artifacts), model, [0], 1.0)
        figures += measured("SQLite", root, uri, artifacts, 1 if given.small else 5)
        if not given.small:
            (root / "server").mkdir()
            url = stack.enter_context(mlflow_server(root / "server"))
            publish(MlflowProduction(url, ""), model, [0], 1.0)
            figures += measured("MLflow server", root, url, "", 5)
    show(figures, machine("mlflow", "pandas", "pyarrow"), as_json=given.json)


if __name__ == "__main__":
    main()
