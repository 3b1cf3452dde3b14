"""The real-time service against `mlflow models serve` of one of our packs: throughput, latency, cold loads, memory
under uniform access, a release switch under load. Load comes from a second process, in a closed loop.
`python -m benchmarks.serving [--small] [--json]`. With `--hostile` what others feel of one client without a key; with
`--against BIN/many-models` what this version costs warm beside another one that is installed there, in turns.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
import urllib.error
import urllib.request
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import psutil
import uvloop

from benchmarks._hostile import KINDS, Watched, attacked
from benchmarks._report import Figure, flags, machine, show
from benchmarks._served_model import EACH, HORIZON, trained
from benchmarks._two_versions import in_turns, ratio_and_spread
from many_models.adapters.registry.mlflow_production import MlflowProduction
from many_models.forecasting import PackModel
from many_models.ports import PackUpload, PromotedSeries, ReleaseDraft

if TYPE_CHECKING:
    from collections.abc import Callable, Generator, Mapping, Sequence

    from many_models.ports import Release

BUDGET = 64.0  # MB
KEY = "the benchmark's own key"
LIMIT = 1536 * 1.048576  # MB: the manifest's, deploy/serving/kubernetes.yaml


@dataclass(frozen=True)
class Size:
    """How much is measured: series, seconds of uniform access, seconds of each other load, cold requests."""

    series: int
    uniform: float
    seconds: float
    cold: int


FULL, SMALL = Size(100_000, 300.0, 10.0, 300), Size(5_000, 10.0, 2.0, 40)


# --- what is served ---------------------------------------------------------------------------------------------------
def upload(model: PackModel, store: int, factor: float) -> PackUpload:
    """The trained models as those of a store, its forecasts times `factor`."""
    names = [f"s{store:04d}__{name}" for name in model.series]
    arrays = {**model.arrays, "factor": np.asarray(model.arrays["factor"], float) * factor}
    return PackUpload(f"s{store:04d}", PackModel({**model.index, "series": names}, arrays).files(), tuple(names))


def publish(production: MlflowProduction, model: PackModel, stores: Sequence[int], factor: float) -> Release:
    """A release in which these stores' forecasts are `factor` times the trained ones."""
    packs = [upload(model, store, factor) for store in stores]
    rows = [PromotedSeries(name, "staging/1", "recipe", "2023-12-31") for pack in packs for name in pack.series]
    return production.publish(ReleaseDraft(production.live_id(), "benchmark", "", packs, rows))


# --- servers ----------------------------------------------------------------------------------------------------------
@contextmanager
def running(command: Sequence[str], folder: Path, env: Mapping[str, str], health: str) -> Generator[tuple[int, int]]:
    """A server of its own on a free port, which `command` takes as {port}: its process id and port."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    words = [word.replace("{port}", str(port)) for word in command]
    log = (folder / f"server-{port}.log").open("w")
    process = subprocess.Popen(
        words, cwd=folder, env={**os.environ, **env}, stdout=log, stderr=log, start_new_session=True
    )
    try:
        wait_for(f"http://127.0.0.1:{port}{health}", process, Path(log.name))
        yield process.pid, port
    finally:
        with suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGTERM)
        try:
            process.wait(60)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)


def wait_for(url: str, process: subprocess.Popen[bytes], log: Path) -> None:
    """Until `url` answers 200. Raises RuntimeError with the log when the server ends or takes five minutes."""
    until = time.monotonic() + 300
    while time.monotonic() < until and process.poll() is None:
        try:
            with urllib.request.urlopen(url, timeout=5):
                return
        except (urllib.error.URLError, OSError):
            time.sleep(0.3)
    raise RuntimeError(f"no answer from {url}: {log.read_text()[-3000:]}")


@contextmanager
def serving(
    folder: Path, memory_mb: float, program: str = "", more: Mapping[str, str] | None = None
) -> Generator[tuple[int, int]]:
    """Our service on the registry in `folder`, or that of `program`: its process id and port."""
    command = [sys.executable, "-c", "from many_models.cli.main import main; main(prog_name='many-models')"]
    command = [program] if program else command
    env = {
        "MANY_MODELS__REGISTRY__PRODUCTION": f"sqlite:///{folder}/production.db",
        "MANY_MODELS__REGISTRY__PRODUCTION_ARTIFACTS": f"{folder}/production",
        "MANY_MODELS__SERVE__MEMORY_MB": str(memory_mb),
        "MANY_MODELS__SERVE__LAKE": "false",
        "MALLOC_ARENA_MAX": "2",
        **({} if program else {"PYTHONPATH": str(Path(__file__).parents[1])}),
        **(more or {}),
    }
    keyless = [] if more else ["--no-auth"]
    with running([*command, "serve", *keyless, "--port", "{port}"], folder, env, "/health/ready") as server:
        yield server


# --- load: the second process -----------------------------------------------------------------------------------------
@dataclass(frozen=True)
class Load:
    """A closed loop of `clients` for `seconds` (or `requests`): `kind` says what is asked, of `stores` stores."""

    kind: str
    port: int
    clients: int
    seconds: float
    stores: int
    requests: int = 10**9


def put_load(load: Load) -> dict[str, Any]:
    """What the second process measured: requests, seconds, latencies, errors, releases seen, mixed answers."""
    done = subprocess.run(
        [sys.executable, "-m", "benchmarks.serving", "--load", json.dumps(asdict(load))],
        cwd=Path(__file__).parents[1], capture_output=True, text=True, check=False,
    )  # fmt: skip
    if done.returncode:
        raise RuntimeError(done.stderr[-3000:])
    return json.loads(done.stdout)


def body_of(kind: str, number: int, stores: int, chance: np.random.Generator) -> tuple[str, bytes]:
    """Path and body of the `number`th request."""
    future = np.datetime64("2023-12-31") + np.arange(1, HORIZON + 1)
    store, item = int(chance.integers(stores)), int(chance.integers(EACH))
    if kind == "mlflow":
        columns = ["series_id", "ds", "price"]
        rows = [[f"s0000__i{item:03d}", f"{day}T00:00:00", 1.0 + number % 5 / 10] for day in future]
        return "/invocations", json.dumps({"dataframe_split": {"columns": columns, "data": rows}}).encode()
    if kind == "computed":
        known = [{"ds": str(day), "values": {"price": 1.0 + number % 5 / 10}} for day in future]
        series = [{"series_id": f"s0000__i{item:03d}", "known": known}]
    elif kind == "kept":
        series = [{"series_id": f"s0000__i{number % EACH:03d}"}]
    elif kind == "thousand":
        series = [{"series_id": f"s{i // EACH:04d}__i{i % EACH:03d}"} for i in range(1000)]
    elif kind == "cold":  # each store in turn: it has left memory long before its turn comes again
        series = [{"series_id": f"s{number % stores:04d}__i{item:03d}"}]
    elif kind == "switch":
        series = [{"series_id": f"s{i:04d}__i{i:03d}"} for i in range(min(stores, 10))]
    else:
        series = [{"series_id": f"s{store:04d}__i{item:03d}"}]
    return "/v1/forecasts", json.dumps({"series": series}).encode()


async def loaded(load: Load) -> dict[str, Any]:
    """Runs a load in this process."""
    taken: list[float] = []
    seen: dict[str, set[float]] = {}
    state: dict[str, Any] = {"number": 0, "errors": 0, "mixed": 0, "base": None}
    begun = time.perf_counter()

    async def client(own: int) -> None:
        chance = np.random.default_rng(own)
        reader, writer = await asyncio.open_connection("127.0.0.1", load.port, limit=2**26)
        first = True  # on a busy machine the time may be over before the first answer
        while first or (time.perf_counter() - begun < load.seconds and state["number"] < load.requests):
            first = False
            state["number"] += 1
            path, body = body_of(load.kind, state["number"], load.stores, chance)
            head = f"POST {path} HTTP/1.1\r\nHost: s\r\nX-API-Key: {KEY}\r\nContent-Type: application/json\r\n"
            head += f"Content-Length: {len(body)}\r\n\r\n"
            start = time.perf_counter()
            writer.write(head.encode() + body)
            answer = await reader.readuntil(b"\r\n\r\n")
            size = int(answer.lower().split(b"content-length:")[1].split(b"\r\n")[0])
            content = await reader.readexactly(size)
            taken.append(time.perf_counter() - start)
            if b" 200 " not in answer[:20] or b'"error":' in content:
                state["errors"] += 1
            elif load.kind == "switch":
                check_unmixed(json.loads(content), state, seen)
        writer.close()

    await asyncio.gather(*(client(own) for own in range(load.clients)))
    seconds = time.perf_counter() - begun
    quantiles = np.quantile(taken, [0.5, 0.99]).tolist()
    return {
        "requests": len(taken), "seconds": seconds, "p50": quantiles[0], "p99": quantiles[1],
        "errors": state["errors"], "releases": len(seen),
        "mixed": state["mixed"] + sum(len(factors) > 1 for factors in seen.values()),
    }  # fmt: skip


def check_unmixed(answer: dict[str, Any], state: dict[str, Any], seen: dict[str, set[float]]) -> None:
    """All series of an answer have moved by one factor since the first answer, and by the one of their release."""
    first = np.array([forecast["y_hat"][0] for forecast in answer["forecasts"]])
    if state["base"] is None:
        state["base"] = first
    factors = set(np.round(first / state["base"], 5).tolist())
    state["mixed"] += len(factors) > 1
    seen.setdefault(answer["release"], set()).update(factors)


# --- measuring --------------------------------------------------------------------------------------------------------
def against_mlflow(folder: Path, model: PackModel, size: Size) -> list[Figure]:
    """Throughput and latency of both, warm; cold against pyfunc.load_model."""
    served = next((folder / "production").rglob("s0000-*/MLmodel")).parent
    mlflow_command = [
        str(Path(sys.executable).with_name("mlflow")), "models", "serve", "-m", str(served), "--env-manager", "local",
        "--host", "127.0.0.1", "--port", "{port}",
    ]  # fmt: skip
    stores = size.series // EACH
    found: dict[str, dict[str, Any]] = {}
    path = f"{Path(sys.executable).parent}:{os.environ['PATH']}"  # mlflow starts uvicorn by its name
    with running(mlflow_command, folder, {"MLFLOW_DISABLE_TELEMETRY": "true", "PATH": path}, "/ping") as (_, port):
        put_load(Load("mlflow", port, 1, 1.0, 1))
        found["mlflow 8"] = put_load(Load("mlflow", port, 8, size.seconds, 1))
        found["mlflow 1"] = put_load(Load("mlflow", port, 1, size.seconds, 1))
    with serving(folder, 512) as (_, port):
        put_load(Load("computed", port, 1, 1.0, 1))
        found["ours 8"] = put_load(Load("computed", port, 8, size.seconds, 1))
        found["ours 1"] = put_load(Load("computed", port, 1, size.seconds, 1))
        found["first thousand"] = put_load(Load("thousand", port, 1, 60.0, 10, requests=1))
        found["kept"] = put_load(Load("kept", port, 1, size.seconds, 1))
        found["thousand"] = put_load(Load("thousand", port, 1, size.seconds, 10))
    with serving(folder, 3) as (_, port):
        put_load(Load("cold", port, 1, 60.0, min(stores, 30), requests=30))
        found["cold"] = put_load(Load("cold", port, 1, 60.0, min(stores, 30), requests=size.cold))
    cold = pyfunc_seconds(served, model)
    rate = {name: found[name]["requests"] / found[name]["seconds"] for name in ("ours 8", "mlflow 8")}
    return [
        Figure("mlflow models serve, 8 at once", rate["mlflow 8"], "requests a second", ""),
        Figure("ours, 8 at once, computed", rate["ours 8"], "requests a second", ""),
        Figure("throughput against MLflow's", rate["ours 8"] / rate["mlflow 8"], "times", "at least 4"),
        Figure("mlflow models serve, one at a time, p99", 1000 * found["mlflow 1"]["p99"], "ms", ""),
        Figure("ours, one at a time, computed, p50", 1000 * found["ours 1"]["p50"], "ms", ""),
        Figure("ours, one at a time, computed, p99", 1000 * found["ours 1"]["p99"], "ms", ""),
        Figure("p99 against MLflow's", found["ours 1"]["p99"] / found["mlflow 1"]["p99"], "times", "at most 0.25"),
        Figure("pyfunc.load_model and predict, p50", 1000 * cold, "ms", ""),
        Figure("ours, pack on disk, p50", 1000 * found["cold"]["p50"], "ms", ""),
        Figure("cold p50 against load_model and predict", found["cold"]["p50"] / cold, "times", "at most 0.2"),
        Figure("one series, asked before, p50", 1000 * found["kept"]["p50"], "ms", ""),
        Figure("1,000 series, asked before, p50", 1000 * found["thousand"]["p50"], "ms", ""),
        Figure("1,000 series against one", found["thousand"]["p50"] / found["kept"]["p50"], "times", "at most 20"),
        Figure("1,000 series of 10 packs, the first time", 1000 * found["first thousand"]["p50"], "ms", ""),
        Figure("errors", float(sum(one["errors"] for one in found.values())), "", "0"),
    ]


def pyfunc_seconds(served: Path, model: PackModel) -> float:
    """The median time of MLflow's load_model and a forecast of one series."""
    import pandas as pd
    from mlflow.pyfunc import load_model

    days = pd.date_range("2024-01-01", periods=HORIZON)
    times: list[float] = []
    for number in range(9):
        name = f"s0000__{model.series[number]}"
        start = time.perf_counter()
        load_model(str(served)).predict(pd.DataFrame({"series_id": name, "ds": days, "price": 1.0}))
        times.append(time.perf_counter() - start)
    return float(np.median(times))


def under_uniform_access(folder: Path, size: Size, switch: Callable[[], object]) -> list[Figure]:
    """Resident memory over idle with BUDGET, then a release switch under load, on one server."""
    stores = size.series // EACH
    with serving(folder, BUDGET) as (pid, port):
        put_load(Load("kept", port, 4, 2.0, 1))
        time.sleep(2.0)
        process, grown = psutil.Process(pid), list[float]()
        idle, stop = process.memory_info().rss, threading.Event()

        def watch() -> None:
            while not stop.wait(0.5):
                grown.append((process.memory_info().rss - idle) / 1e6)

        watcher = threading.Thread(target=watch)
        watcher.start()
        uniform = put_load(Load("uniform", port, 4, size.uniform, stores))
        stop.set()
        watcher.join()
        switched: dict[str, Any] = {}
        loading = threading.Thread(target=lambda: switched.update(put_load(Load("switch", port, 4, 20.0, stores))))
        loading.start()
        time.sleep(3.0)
        begun = time.perf_counter()
        release = switch()
        published = time.perf_counter() - begun
        noticed = seconds_until(port, str(release))
        loading.join()
    fifth = max(len(grown) // 5, 1)
    return [
        Figure("resident memory when idle", idle / 1e6, "MB", ""),
        Figure(
            f"most over idle, {size.series:,} series, {size.uniform:g} s",
            max(grown),
            "MB",
            f"at most {BUDGET * 1.15:g}",
        ),
        Figure(
            "last fifth against the second",
            float(np.mean(grown[-fifth:]) - np.mean(grown[fifth : 2 * fifth])),
            "MB",
            "flat",
        ),
        Figure("uniform requests", uniform["requests"] / uniform["seconds"], "requests a second", ""),
        Figure("uniform errors", float(uniform["errors"]), "", "0"),
        Figure("publishing a release under load", published, "s", ""),
        Figure("seen after publishing", noticed, "s", "seconds"),
        Figure("requests under the switch", float(switched["requests"]), "", ""),
        Figure("releases that answered", float(switched["releases"]), "", "2"),
        Figure("failed requests under the switch", float(switched["errors"]), "", "0"),
        Figure("mixed answers under the switch", float(switched["mixed"]), "", "0"),
    ]


def seconds_until(port: int, release: str) -> float:
    """How long until the service answers from `release`; 60 when it does not."""
    begun = time.perf_counter()
    while time.perf_counter() - begun < 60:
        with urllib.request.urlopen(f"http://127.0.0.1:{port}/health/ready", timeout=10) as answer:
            if json.load(answer)["release"] == release:
                break
        time.sleep(0.05)
    return time.perf_counter() - begun


def beside_a_hostile_client(folder: Path, size: Size) -> list[Figure]:
    """For each kind of client without a key: others' p99 against theirs before and after, health, memory."""
    figures: list[Figure] = []
    more = {"MANY_MODELS_SERVE_API_KEYS": KEY, "MANY_MODELS__SERVE__MAX_CONNECTIONS": "500"}
    load = size.seconds / 2
    with serving(folder, BUDGET, more=more) as (pid, port):
        put_load(Load("computed", port, 2, load, 1))
        quiet = [put_load(Load("computed", port, 2, load, 1))]
        for kind in KINDS:
            with attacked(kind, port), Watched(pid, port) as watched:
                loud = put_load(Load("computed", port, 2, load, 1))
            quiet.append(put_load(Load("computed", port, 2, load, 1)))
            figures += [
                Figure(f"{kind}: others' p99", loud["p99"] / max(quiet[-2]["p99"], quiet[-1]["p99"]), "times",
                       "at most 2"),
                Figure(f"{kind}: others' errors", float(loud["errors"]), "", "0"),
                Figure(f"{kind}: slowest health", watched.slowest, "s", "at most 1"),
                Figure(f"{kind}: most memory", watched.memory, "MB", f"at most {LIMIT:.0f}"),
            ]  # fmt: skip
    return figures


def cpu_seconds(pid: int) -> float:
    """The CPU that a process has used so far."""
    used = psutil.Process(pid).cpu_times()
    return used.user + used.system


def trained_by(program: str, folder: Path) -> dict[str, bytes]:
    """The files of the same pack, trained by the version that `program` belongs to."""
    files = folder / "files"
    files.mkdir()
    script = Path(__file__).with_name("_served_model.py")
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    python = str(Path(program).with_name("python"))
    done = subprocess.run([python, str(script), str(files)], cwd=folder, env=environment, check=False)
    if done.returncode:
        raise RuntimeError(f"{python} {script} ended with {done.returncode}")
    return {file.name: file.read_bytes() for file in files.iterdir()}


def publish_files(folder: Path, files: Mapping[str, bytes], stores: Sequence[int]) -> None:
    """A release of these files, under other names of series for each store."""
    packs: list[PackUpload] = []
    for store in stores:
        index = json.loads(files["index.json"])
        index["series"] = [f"s{store:04d}__{name}" for name in index["series"]]
        own = {**files, "index.json": json.dumps(index, sort_keys=True, separators=(",", ":")).encode()}
        packs.append(PackUpload(f"s{store:04d}", own, tuple(index["series"])))
    rows = [PromotedSeries(name, "staging/1", "recipe", "2023-12-31") for pack in packs for name in pack.series]
    production = MlflowProduction(f"sqlite:///{folder}/production.db", str(folder / "production"))
    production.publish(ReleaseDraft(production.live_id(), "benchmark", "", packs, rows))


def against_another(folder: Path, size: Size, program: str) -> list[Figure]:
    """Warm latencies of this version against those of `program`, both running, in turns, on packs that `program`
    trained: an older version reads no newer packs.
    """
    words = {"kept": "one series, asked before", "computed": "one series, computed", "thousand": "1,000 series"}
    figures: list[Figure] = []
    publish_files(folder, trained_by(program, folder), range(10))
    with serving(folder, 512) as (own, ours), serving(folder, 512, program) as (other, theirs):
        for kind, weight in (("kept", 300), ("computed", 100), ("thousand", 10)):
            chance = np.random.default_rng(1)
            before = [cpu_seconds(pid) for pid in (own, other)]
            found = in_turns(ours, theirs, KEY, lambda n, k=kind, c=chance: body_of(k, n, 10, c),
                             int(weight * size.seconds * 2))  # fmt: skip
            ratio, note = ratio_and_spread(found)
            figures.append(Figure(f"{words[kind]}, p50 against the other version's", ratio, "times", note))
            used = [cpu_seconds(pid) - begun for pid, begun in zip((own, other), before, strict=True)]
            figures.append(Figure(f"{words[kind]}, CPU against the other version's", used[0] / used[1], "times",
                                  "at most 1.03, on a busy machine, too"))  # fmt: skip
    return figures


def measure(size: Size, folder: Path, *, hostile: bool = False, program: str = "") -> list[Figure]:
    """All figures of a kind, in one run."""
    if program:
        return against_another(folder, size, program)
    model = trained()
    production = MlflowProduction(f"sqlite:///{folder}/production.db", str(folder / "production"))
    publish(production, model, range(size.series // EACH), 1.0)
    if hostile:
        return beside_a_hostile_client(folder, size)
    figures = against_mlflow(folder, model, size)
    return figures + under_uniform_access(folder, size, lambda: publish(production, model, range(10), 2.0).release_id)


def main() -> None:
    """Measures, and prints a table or JSON."""
    parser = flags(__doc__ or "", "5,000 series and 10 s instead of 100,000 and 5 minutes")
    parser.add_argument("--load", help=argparse.SUPPRESS)
    parser.add_argument("--hostile", action="store_true", help="one client without a key: what others feel of it")
    parser.add_argument("--against", default="", metavar="BIN", help="many-models of another version: what ours costs")
    options = parser.parse_args()
    if options.load:
        print(json.dumps(uvloop.run(loaded(Load(**json.loads(options.load))))))
        return
    with tempfile.TemporaryDirectory() as folder:
        figures = measure(
            SMALL if options.small else FULL, Path(folder), hostile=options.hostile, program=options.against
        )
    show(figures, machine("mlflow", "fastapi"), as_json=options.json)


if __name__ == "__main__":
    sys.exit(main())
