"""Predictions of 10,000 series for 28 days loaded into the warehouse: PostgreSQL against COPY alone, SQLite, memory.
`python -m benchmarks.warehouse [--small] [--json]`; PostgreSQL's own server has to be installed.
"""

from __future__ import annotations

import subprocess
import sys
import tempfile
import time
from datetime import datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pyarrow as pa
import sqlalchemy as sa
from pyarrow import csv

from benchmarks._report import Figure, flags, machine, show
from many_models.adapters.warehouse.sql import SqlWarehouse
from many_models.ports import Filter, WarehousePart
from many_models_tests.stand_ins.postgres_server import running_postgres

if TYPE_CHECKING:
    from collections.abc import Callable

SERIES, DAYS = 10_000, 28
KEY = ("series_id", "cutoff", "ds")
ROUNDS = 3
CUTOFF = datetime(2024, 6, 30)
GROWTH = 4  # times the rows, for what memory they need


def predictions(series: int, cutoff: datetime = CUTOFF) -> pa.Table:
    """`series` × `DAYS` rows as a load brings them: 16 columns."""
    number = np.arange(series)
    stores, items = [f"store_{at % 100:03d}" for at in number], [f"item_{at:05d}" for at in number]
    ids = pa.array([f"{store}__{item}" for store, item in zip(stores, items, strict=True)])
    of_row = pa.array(np.repeat(number, DAYS))
    steps = np.tile(np.arange(1, DAYS + 1), series)
    forecast = np.random.default_rng(1).gamma(2.0, 5.0, series * DAYS)
    day = np.datetime64(cutoff, "us") + steps * np.timedelta64(1, "D")
    count = series * DAYS
    intervals = {"lo80": 0.7, "hi80": 1.3, "lo95": 0.5, "hi95": 1.5}
    return pa.table(
        {
            "series_id": ids.take(of_row),
            "store": pa.array(stores).take(of_row),
            "item": pa.array(items).take(of_row),
            "ds": pa.array(day, pa.timestamp("us")),
            "cutoff": pa.array([cutoff] * count, pa.timestamp("us")),
            "step": pa.array(steps, pa.int32()),
            "y_hat": pa.array(forecast),
            **{name: pa.array(forecast * factor) for name, factor in intervals.items()},
            "fallback": pa.array([""] * count),
            "known_repeated": pa.array([False] * count),
            "model": pa.array([f"store-{at % 100:03d}/1" for at in number]).take(of_row),
            "cutoff_date": pa.array([f"{cutoff:%Y-%m-%d}"] * count),
        }
    )


def part(rows: pa.Table, cutoff: datetime) -> WarehousePart:
    """The part of a load that replaces `cutoff`."""
    return WarehousePart("predictions", rows, Filter(among={"cutoff_date": [f"{cutoff:%Y-%m-%d}"]}), KEY)


def seconds(work: Callable[[], object]) -> float:
    """How long `work` takes."""
    began = time.perf_counter()
    work()
    return time.perf_counter() - began


def copied(engine: sa.Engine, file: Path, columns: list[str]) -> None:
    """COPY alone: `file` into an empty table like the warehouse's, in one transaction."""
    with engine.begin() as connection:
        connection.exec_driver_sql("CREATE TABLE IF NOT EXISTS alone (LIKE predictions INCLUDING ALL)")
        connection.exec_driver_sql("TRUNCATE alone")
    with engine.begin() as connection, file.open("rb") as lines:
        driver = connection.connection.driver_connection
        assert driver is not None
        with driver.cursor() as cursor:
            cursor.copy_expert(f"COPY alone ({', '.join(columns)}) FROM STDIN (FORMAT csv)", lines)


def on_postgres(rows: pa.Table, folder: Path) -> tuple[float, float, float]:
    """Best of some rounds: COPY alone, the load of a new cutoff, the load of one that is there."""
    file = folder / "rows.csv"
    csv.write_csv(rows, file, csv.WriteOptions(include_header=False, quoting_style="needed"))
    with running_postgres() as server:
        engine = sa.create_engine(server.new_database())
        url = engine.url.render_as_string(hide_password=False)
        warehouse = SqlWarehouse(url)
        earlier = CUTOFF - timedelta(days=1)
        warehouse.load("first", "f", [part(rows.slice(0, 0), earlier)])
        alone, new, again = list[float](), list[float](), list[float]()
        for _ in range(ROUNDS):
            alone.append(seconds(lambda: copied(engine, file, rows.column_names)))
            with engine.begin() as connection:
                connection.exec_driver_sql("TRUNCATE predictions")
            new.append(seconds(lambda: warehouse.load("day", "f", [part(rows, CUTOFF)])))
            again.append(seconds(lambda: warehouse.load("day", "f", [part(rows, CUTOFF)])))
        engine.dispose()
    return min(alone), min(new), min(again)


def extra_memory(series: int) -> float:
    """MB that a load into SQLite adds to a process that holds the rows, in a process of its own."""
    done = subprocess.run(
        [sys.executable, "-m", "benchmarks.warehouse", "--memory-of", str(series)],
        capture_output=True,
        text=True,
        check=True,
    )
    return float(done.stdout)


def print_extra_memory(series: int) -> None:
    """Print the growth of this process' peak while it loads, after a small load has imported what is needed."""
    with tempfile.TemporaryDirectory() as folder:
        warehouse = SqlWarehouse(f"sqlite:///{folder}/warehouse.db")
        warehouse.load("small", "f", [part(predictions(10), CUTOFF)])
        rows = predictions(series)
        before = resident()
        reset_peak()
        warehouse.load("day", "f", [part(rows, CUTOFF)])
        print(peak_resident() - before)


def resident() -> float:
    """MB that this process has now."""
    return _status("VmRSS")


def peak_resident() -> float:
    """MB that this process has had at most since `reset_peak`."""
    return _status("VmHWM")


def reset_peak() -> None:
    """Forget the peak so far."""
    Path("/proc/self/clear_refs").write_text("5")


def _status(name: str) -> float:
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) / 1024 for line in lines if line.startswith(f"{name}:"))


def measure(series: int, folder: Path) -> list[Figure]:
    """All figures for `series` series."""
    rows = predictions(series)
    alone, new, again = on_postgres(rows, folder)
    sqlite = SqlWarehouse(f"sqlite:///{folder}/warehouse.db")
    first = seconds(lambda: sqlite.load("day", "f", [part(rows, CUTOFF)]))
    second = seconds(lambda: sqlite.load("day", "f", [part(rows, CUTOFF)]))
    small, large = extra_memory(series), extra_memory(GROWTH * series)
    count = f"{rows.num_rows:,} rows"
    return [
        Figure(f"PostgreSQL: COPY alone, {count}", alone, "s", ""),
        Figure(f"PostgreSQL: load of a new cutoff, {count}", new, "s", ""),
        Figure("PostgreSQL: load of a new cutoff", new / alone, "× COPY alone", "at most 2"),
        Figure("PostgreSQL: load of a cutoff that is there", again / alone, "× COPY alone", ""),
        Figure(f"SQLite: load of a new cutoff, {count}", first, "s", "under 5"),
        Figure("SQLite: load of a cutoff that is there", second, "s", "under 5"),
        Figure(f"memory that a load adds to its rows, {count}", small, "MB", ""),
        Figure(f"memory that a load adds to its rows, {GROWTH} × the rows", large, "MB", "flat in rows"),
    ]


def main() -> None:
    """Measures, and prints a table or JSON."""
    parser = flags(__doc__ or "", "500 series instead of 10,000")
    parser.add_argument("--memory-of", type=int, default=0, help="what the benchmark asks itself")
    options = parser.parse_args()
    if options.memory_of:
        print_extra_memory(options.memory_of)
        return
    with tempfile.TemporaryDirectory() as folder:
        figures = measure(500 if options.small else SERIES, Path(folder))
    show(figures, machine("sqlalchemy", "psycopg2-binary", "pyarrow"), as_json=options.json)


if __name__ == "__main__":
    sys.exit(main())
