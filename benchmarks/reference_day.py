"""The reference architecture's day through Dagster: every store-item prepared, trained, promoted, scored and loaded.

`python -m benchmarks.reference_day [--stores 100 --items 100 --days 4000] [--more 2] [--small] [--json]` makes the
source, runs day 1 and `--more` days after it, each in a process of its own with worker processes, and times the way
the reference does it on a sample of series. `--marginal` adds a first day with a tenth and one with half of the stores.
`--only-ingest` measures the first copy of all rows into the lake, and nothing after it.
"""

from __future__ import annotations

import json
import os
import shutil
import socket
import sqlite3
import subprocess
import sys
import tempfile
import threading
import time
import urllib.error
import urllib.request
from collections import defaultdict
from contextlib import closing, contextmanager
from dataclasses import asdict, dataclass, field
from datetime import date, timedelta
from itertools import pairwise, repeat
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import psutil

from benchmarks._report import Figure, flags, machine, show

if TYPE_CHECKING:
    from collections.abc import Generator

    from numpy.typing import NDArray

END = date(2024, 6, 30)
BLOCK_DAYS = 100
SAMPLE_SECONDS = 0.2
WEBSERVER_PATIENCE = 300.0
REFERENCE_CORE_HOURS = 96.0  # 30 minutes of training on 12 machines of 16 cores
COMPUTE, DAGSTER = "compute", "dagster"
SPENT_ON = ("source", "lake", "staging", "production", "warehouse", COMPUTE, DAGSTER)
DATA = """
[data]
keys = ["store", "item"]
timestamp = "date"
target = "sales"
frequency = "D"
start = {start}
"""
SETTINGS = '[source]\nurl = "sqlite:///sales.db"\ntable = "sales"\n' + DATA
STATUS = """query($path: [String!]!) { assetNodeOrError(assetKey: {path: $path}) { ... on AssetNode {
  partitionStats { numMaterialized numPartitions numFailed numMaterializing }
  assetPartitionStatuses { ... on DefaultPartitionStatuses { materializedPartitions failedPartitions } } } } }"""


@dataclass(frozen=True)
class Size:
    """How much is made and measured; `sample` series go the reference's way, `logged` of them are registered."""

    stores: int
    items: int
    days: int
    more: int
    sample: int
    logged: int

    @property
    def series(self) -> int:
        """Store-items."""
        return self.stores * self.items


FULL, SMALL = Size(100, 100, 4000, 2, 24, 8), Size(4, 50, 400, 5, 4, 2)


@dataclass
class Stage:
    """What one stage of one day took: seconds of wall clock and CPU (deciding what is due included), and of what.

    `driver` are the CPU seconds of the run's own process, which no more workers shorten; `memory` is in GiB;
    `run` are the wall seconds of the stage's run alone, without the start of the process and the look at what is due.
    """

    name: str
    series: int
    wall: float
    cpu: float
    memory: float = 0.0
    rows: int = 0
    spent: dict[str, float] = field(default_factory=dict[str, float])
    driver: float = 0.0
    run: float = 0.0


# --- The source -----------------------------------------------------------------------------------------------------
class Sales:
    """A sales table in SQLite that grows by days: counts with a level per series, a week, a year and a trend."""

    def __init__(self, path: Path, stores: int, items: int) -> None:
        chance = np.random.default_rng(7)
        self.path = path
        self.store = [f"store-{s:03d}" for s in range(stores) for _ in range(items)]
        self.item = [f"item-{i:03d}" for _ in range(stores) for i in range(items)]
        size = stores * items
        self.level = chance.lognormal(1.5, 1.0, size)
        self.week = chance.lognormal(0.0, 0.3, (7, size))
        self.year = chance.uniform(0.0, 0.4, size), chance.uniform(0.0, 2 * np.pi, size)

    def add(self, first: date, days: int) -> int:
        """Append the days from `first` on, in the order in which they happened; returns the number of rows."""
        with closing(sqlite3.connect(self.path)) as connection, connection:
            connection.execute("PRAGMA synchronous = OFF")
            connection.execute("CREATE TABLE IF NOT EXISTS sales (store TEXT, item TEXT, date TEXT, sales INTEGER)")
            for start in range(0, days, BLOCK_DAYS):
                block = min(BLOCK_DAYS, days - start)
                for at, y in enumerate(self._counts(first + timedelta(days=start), block)):
                    day = (first + timedelta(days=start + at)).isoformat()
                    rows = zip(self.store, self.item, repeat(day), y.tolist())
                    connection.executemany("INSERT INTO sales VALUES (?, ?, ?, ?)", rows)
            connection.execute("CREATE INDEX IF NOT EXISTS by_date ON sales (date)")
        return days * len(self.store)

    def _counts(self, first: date, days: int) -> NDArray[np.int64]:
        number = first.toordinal() + np.arange(days)
        height, phase = self.year
        season = 1 + height * np.sin(2 * np.pi * number[:, None] / 365.25 + phase)
        mean = self.level * self.week[number % 7] * season
        return np.random.default_rng(first.toordinal()).poisson(mean)

    def connectorx_seconds(self) -> float:
        """What connectorx alone takes to bring all rows, batch by batch."""
        import connectorx

        began = time.perf_counter()
        query = "SELECT store, item, date, sales FROM sales"
        for _ in connectorx.read_sql(f"sqlite://{self.path}", query, return_type="arrow_stream", batch_size=100_000):
            pass
        return time.perf_counter() - began


# --- Days -----------------------------------------------------------------------------------------------------------
class Memory(threading.Thread):
    """Watches the resident memory of a process and all its children: (moment, bytes)."""

    def __init__(self, pid: int) -> None:
        super().__init__(daemon=True)
        self.seen: list[tuple[float, int]] = []
        self._process = psutil.Process(pid)

    def run(self) -> None:
        """Watch until the process has ended."""
        while self._process.is_running() and self._process.status() != psutil.STATUS_ZOMBIE:
            total = 0
            try:
                for process in (self._process, *self._process.children(recursive=True)):
                    total += process.memory_info().rss
            except psutil.NoSuchProcess:
                pass
            self.seen.append((time.time(), total))
            time.sleep(SAMPLE_SECONDS)


def run_day(folder: Path, through: str = "") -> list[Stage]:
    """Everything that is due (`through` a stage), in a process of its own."""
    shutil.rmtree(folder / "ports", ignore_errors=True)
    command = [sys.executable, "-c", "from benchmarks._measured_day import main; main()", str(folder), through]
    began = time.time()
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        memory = Memory(process.pid)
        memory.start()
        said, _ = process.communicate()
    if process.returncode:
        raise RuntimeError(f"the day in {folder} failed: exit code {process.returncode}")
    found = json.loads(said)
    calls = calls_of(folder / "ports", found["driver"])
    stages: list[Stage] = []
    before = {"at": began, "cpu": 0.0, "driver_cpu": 0.0}
    for mark in found["marks"]:
        stage = Stage(mark["stage"], mark["series"], mark["at"] - before["at"], mark["cpu"] - before["cpu"])
        within = before["at"], mark["at"]
        stage.memory = max((size for at, size in memory.seen if within[0] < at <= within[1]), default=0) / 2**30
        stage.driver, stage.run = mark["driver_cpu"] - before["driver_cpu"], mark["seconds"]
        stage.spent = spent(stage, stage.driver, calls, within)
        stages.append(stage)
        before = mark
    rows_into(folder, stages)
    return stages


def calls_of(folder: Path, driver: int) -> list[tuple[float, str, float, bool]]:
    """Calls of ports: (moment of their end, port, CPU seconds, whether in the driver)."""
    calls: list[tuple[float, str, float, bool]] = []
    for file in folder.iterdir():
        for line in file.read_text().splitlines():
            at, port, _, cpu = line.split()
            calls.append((float(at), port, float(cpu), file.name == str(driver)))
    return calls


def spent(
    stage: Stage, driver: float, calls: list[tuple[float, str, float, bool]], within: tuple[float, float]
) -> dict[str, float]:
    """CPU seconds by what they went to: ports by their calls, workers' rest is compute, the driver's rest Dagster."""
    found = defaultdict[str, float](float)
    in_driver = in_workers = 0.0
    for at, port, cpu, by_driver in calls:
        if within[0] < at <= within[1]:
            found[port] += cpu
            in_driver, in_workers = (in_driver + cpu, in_workers) if by_driver else (in_driver, in_workers + cpu)
    found[COMPUTE] += max(stage.cpu - driver - in_workers, 0.0)
    found[COMPUTE if stage.name == "pooled_models" else DAGSTER] += max(driver - in_driver, 0.0)  # it learns in the run
    return {name: found[name] for name in SPENT_ON}


def rows_into(folder: Path, stages: list[Stage]) -> None:
    """How many rows each stage's run says it has made."""
    import dagster as dg

    from many_models.operations.day import open_instance

    with open_instance(folder / "dagster") as instance:
        for stage in stages:
            newest = instance.fetch_observations(dg.AssetKey(stage.name), limit=1).records
            metadata = newest[0].asset_observation.metadata if newest and newest[0].asset_observation else {}
            stage.rows = int(str(metadata["dagster/row_count"].value)) if "dagster/row_count" in metadata else 0


# --- GraphQL --------------------------------------------------------------------------------------------------------
def status_seconds(folder: Path, asset: str) -> tuple[float, float]:
    """What GraphQL takes to tell the state of all partitions of `asset`: at first, and the median of nine more."""
    with webserver(folder) as port:
        taken = [asked(port, asset) for _ in range(10)]
    return taken[0], sorted(taken[1:])[4]


@contextmanager
def webserver(folder: Path) -> Generator[int]:
    """Dagster's webserver on the code location and the instance of `folder`, once it has loaded; its port."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    environment = os.environ | {
        "DAGSTER_HOME": str(folder / "dagster"),
        "MANY_MODELS_CONFIG": str(folder / "many_models.toml"),
    }
    words = ["-m", "dagster_webserver", "-h", "127.0.0.1", "-p", str(port), "-m", "many_models.definitions"]
    with (folder / "webserver.log").open("w") as log:
        process = subprocess.Popen([sys.executable, *words], env=environment, stdout=log, stderr=log, cwd=folder)
    try:
        until = time.monotonic() + WEBSERVER_PATIENCE
        while not answers(port):
            if process.poll() is not None or time.monotonic() > until:
                raise RuntimeError(f"no webserver: {(folder / 'webserver.log').read_text()[-2000:]}")
            time.sleep(0.5)
        yield port
    finally:
        process.terminate()
        process.wait(60)


def answers(port: int) -> bool:
    """Whether the webserver has loaded the code location."""
    query = "{ workspaceOrError { ... on Workspace { locationEntries { locationOrLoadError { __typename } } } } }"
    try:
        entries = post(port, query, {})["workspaceOrError"]["locationEntries"]
    except (urllib.error.URLError, ConnectionError):
        return False
    return bool(entries) and all(entry["locationOrLoadError"] for entry in entries)


def asked(port: int, asset: str) -> float:
    """Seconds of one question for the partitions of `asset`."""
    began = time.perf_counter()
    found = post(port, STATUS, {"path": [asset]})["assetNodeOrError"]["partitionStats"]
    if not found["numMaterialized"]:
        raise RuntimeError(f"GraphQL shows no partition of {asset}: {found}")
    return time.perf_counter() - began


def post(port: int, query: str, variables: dict[str, object]) -> dict[str, Any]:
    """The data of a GraphQL answer."""
    body = json.dumps({"query": query, "variables": variables}).encode()
    request = urllib.request.Request(f"http://127.0.0.1:{port}/graphql", body, {"Content-Type": "application/json"})
    with urllib.request.urlopen(request, timeout=120) as answer:
        return json.load(answer)["data"]


# --- The reference's way --------------------------------------------------------------------------------------------
def reference_seconds(sales: Path, size: Size, folder: Path) -> tuple[float, float]:
    """Seconds a model, trained and registered, on a sample: as people write it, and with pinned requirements."""
    import pandas as pd

    from benchmarks import _reference_way

    names = [(f"store-{n % size.stores:03d}", f"item-{n % size.items:03d}") for n in range(size.sample)]
    query = f"SELECT * FROM sales WHERE (store, item) IN (VALUES {', '.join(map(repr, sorted(set(names))))})"
    with closing(sqlite3.connect(sales)) as connection:
        rows = pd.read_sql(query, connection)
    trained, models = _reference_way.train(rows)
    each = trained / len(models)
    usual = _reference_way.log(models[: size.logged], folder, pinned=False) / size.logged
    pinned = _reference_way.log(models, folder, pinned=True) / len(models)
    return each + usual, each + pinned


# --- Figures --------------------------------------------------------------------------------------------------------
def after_rows(stages: list[Stage]) -> list[Stage]:
    """The stages after the rows are in the lake."""
    return [stage for stage in stages if stage.name != "raw_sales"]


def overhead(stages: list[Stage]) -> float:
    """CPU seconds of orchestration, registries and lake after the rows are in the lake."""
    kinds = ("lake", "staging", "production", DAGSTER)
    return sum(stage.spent[kind] for stage in after_rows(stages) for kind in kinds)


def project(root: Path, stores: int, size: Size) -> Sales:
    """A project folder with its settings and the sales of the first day's history."""
    root.mkdir(parents=True)
    first = END - timedelta(days=size.days - 1)
    (root / "many_models.toml").write_text(SETTINGS.format(start=first))
    sales = Sales(root / "sales.db", stores, size.items)
    sales.add(first, size.days)
    return sales


def measure(size: Size, folder: Path, *, marginal: bool, reference: bool) -> tuple[list[Figure], list[list[Stage]]]:
    """All figures of one run, and the stages of each day."""
    from many_models.settings import load_settings

    root = folder / "day"
    sales = project(root, size.stores, size)
    connectorx = sales.connectorx_seconds()
    days = [run_day(root)]
    for number in range(1, size.more + 1):
        sales.add(END + timedelta(days=number), 1)
        days.append(run_day(root))
    say(days)
    cold, warm = status_seconds(root, "trained_models")
    figures = day_figures(size, days, connectorx, load_settings(root / "many_models.toml").compute.core_hour_price)
    figures.append(Figure(f"GraphQL: the state of {size.series:,} partitions, first", cold, "s", ""))
    figures.append(Figure("the same, warm (median of 9)", warm, "s", "at most 0.3"))
    if marginal:
        figures.append(marginal_figure(size, folder, days[0]))
    if reference:
        figures += reference_figures(size, days[0], *reference_seconds(sales.path, size, folder))
    return figures, days


def measure_ingest(size: Size, folder: Path) -> tuple[list[Figure], list[list[Stage]]]:
    """The figures of the first copy of all rows; connectorx alone is timed before and after it."""
    root = folder / "day"
    sales = project(root, size.stores, size)
    before = sales.connectorx_seconds()
    stages = run_day(root, "raw_sales")
    say([stages])
    memory = Figure("peak memory", max(stage.memory for stage in stages), "GiB, resident", "at most 5.6")
    connectorx = (before + sales.connectorx_seconds()) / 2
    return [*ingest_figures(stages[0], size.series * size.days, connectorx), memory], [stages]


def ingest_figures(ingest: Stage, rows: int, connectorx: float) -> list[Figure]:
    """What the first copy of `rows` took."""
    return [
        Figure(f"ingest of {rows:,} rows, checked", ingest.wall, "s", ""),
        Figure("connectorx alone for the same rows", connectorx, "s", ""),
        Figure("ingest against connectorx", ingest.wall / connectorx, "times", "at most 4"),
    ]


def day_figures(size: Size, days: list[list[Stage]], connectorx: float, price: float) -> list[Figure]:
    """What the days took."""
    ingest = next(stage for stage in days[0] if stage.name == "raw_sales")
    training = next(stage for stage in days[0] if stage.name == "trained_models")
    wall, cpu = sum(s.wall for s in after_rows(days[0])), sum(s.cpu for s in days[0])
    rows = size.series * size.days
    figures = [
        Figure(f"day 1 of {size.series:,} series, {rows:,} rows in the lake", wall, "s", "at most 300 at full size"),
        Figure("orchestration, registries and lake", 1000 * overhead(days[0]) / size.series, "CPU ms a series", "12"),
        Figure("peak memory", max(s.memory for day in days for s in day), "GiB, resident", "at most 5.6"),
        *ingest_figures(ingest, rows, connectorx),
        Figure("models trained and registered", size.series / training.wall, "a second", ""),
        Figure("core-hours of day 1", cpu / 3600, "core-hours", ""),
        Figure("core-hours of training", training.cpu / 3600, "core-hours", f"reference: {REFERENCE_CORE_HOURS:g}"),
        Figure(
            f"cost of training 1,000 models at {price:g} a core-hour",
            price * training.cpu / 3600 / size.series * 1000,
            "",
            f"reference: {price * REFERENCE_CORE_HOURS / 10:g}",
        ),
    ]
    later = [sum(stage.cpu for stage in day) for day in days[1:]]
    figures += [Figure(f"CPU of day {number}", value, "s", "") for number, value in enumerate(later, 2)]
    if len(later) > 2:
        slope = float(np.polyfit(np.arange(len(later)), later, 1)[0])
        grown = 100 * slope / float(np.mean(later))
        figures.append(Figure(f"growth of CPU over days 2 to {len(days)}", grown, "% a day", "at most 3"))
    return figures


def marginal_figure(size: Size, folder: Path, whole: list[Stage]) -> Figure:
    """What a series costs between half the stores and all, against between a tenth and half."""
    cost = {size.stores: sum(stage.cpu for stage in after_rows(whole))}
    for stores in (size.stores // 10, size.stores // 2):
        root = folder / f"of-{stores}"
        project(root, stores, size)
        cost[stores] = sum(stage.cpu for stage in after_rows(run_day(root)))
        shutil.rmtree(root)
    tenth, half, full = sorted(cost)
    slopes = [(cost[b] - cost[a]) / (b - a) for a, b in pairwise((tenth, half, full))]
    name = f"a series between {half * size.items:,} and {full * size.items:,} against {tenth * size.items:,} to there"
    return Figure(name, slopes[1] / slopes[0], "times the CPU", "at most 1.1")


def reference_figures(size: Size, stages: list[Stage], usual: float, pinned: float) -> list[Figure]:
    """How many times faster models are trained and registered than the reference's way does."""
    own = next(stage for stage in stages if stage.name == "trained_models").wall / size.series
    return [
        Figure(f"the reference's way, {size.sample} series", usual, "s a model", ""),
        Figure("the same with pinned requirements", pinned, "s a model", ""),
        Figure("training and registering against the reference's way", usual / own, "times", "at least 100"),
        Figure("the same against pinned requirements", pinned / own, "times", "at least 30"),
    ]


def say(days: list[list[Stage]]) -> None:
    """A table for each day, on standard error."""
    for number, stages in enumerate(days, 1):
        head = "".join(f"{name:>11}" for name in SPENT_ON)
        print(
            f"day {number}\n{'stage':24}{'series':>8}{'rows':>12}{'wall s':>9}{'CPU s':>9}{'GiB':>6}{head}",
            file=sys.stderr,
        )
        for stage in stages:
            shares = "".join(f"{stage.spent[name]:>11.1f}" for name in SPENT_ON)
            line = f"{stage.name:24}{stage.series:>8,}{stage.rows:>12,}{stage.wall:>9.1f}{stage.cpu:>9.1f}"
            print(f"{line}{stage.memory:>6.2f}{shares}", file=sys.stderr)


def main() -> None:
    """Measures, and prints a table or JSON."""
    parser = flags(__doc__ or "", f"{SMALL.series} series of {SMALL.days} days")
    for name in ("stores", "items", "days", "more", "sample", "logged"):
        parser.add_argument(f"--{name}", type=int, default=None)
    parser.add_argument("--marginal", action="store_true", help="a tenth and half of the stores, too")
    parser.add_argument("--only-ingest", action="store_true", help="the first copy of all rows, and no more")
    parser.add_argument("--no-reference", action="store_true", help="without Spark and log_model")
    parser.add_argument("--folder", type=Path, help="where to work; kept")
    options = parser.parse_args()
    given = {
        name: value for name, value in vars(options).items() if name in FULL.__dataclass_fields__ and value is not None
    }
    size = Size(**{**asdict(SMALL if options.small else FULL), **given})
    with tempfile.TemporaryDirectory() as temporary:
        folder = (options.folder or Path(temporary)).absolute()
        if options.only_ingest:
            figures, days = measure_ingest(size, folder)
        else:
            figures, days = measure(size, folder, marginal=options.marginal, reference=not options.no_reference)
    stages = [[asdict(stage) for stage in day] for day in days]
    show(figures, machine("dagster", "mlflow", "deltalake", "pyspark"), as_json=options.json, days=stages)


if __name__ == "__main__":
    main()
