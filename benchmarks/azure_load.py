"""What a load of one day costs a dedicated pool and a Fabric warehouse, counted on the TDS stand-in: statements, bytes;
and what arrays of parameters save Microsoft's driver. `python -m benchmarks.azure_load [--small] [--json]`.
"""

from __future__ import annotations

import sys
import tempfile
import time
from contextlib import contextmanager
from datetime import datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pyarrow as pa
import sqlalchemy as sa

from benchmarks._report import Figure, flags, machine, show
from many_models.adapters.warehouse.fabric import FabricWarehouse
from many_models.adapters.warehouse.synapse import SynapseWarehouse
from many_models.ports import Filter, WarehousePart
from many_models_tests.stand_ins.tds_server import LocalStaging, TdsServer, running_tds

if TYPE_CHECKING:
    from collections.abc import Generator

DATE = "2024-06-30"
CUTOFF = datetime(2024, 6, 30)


class Counted:
    """A staging that counts the bytes which pass."""

    def __init__(self, staging: LocalStaging) -> None:
        self._staging = staging
        self.bytes = 0

    @contextmanager
    def holding(self, file: Path, name: str) -> Generator[str]:
        """See `Staging.holding`."""
        self.bytes += file.stat().st_size
        with self._staging.holding(file, name) as address:
            yield address


def predictions(series: int, horizon: int) -> pa.Table:
    """A day of `horizon` forecasts for each of `series`."""
    random, count = np.random.default_rng(1), series * horizon
    numbers = random.normal(100, 20, count)
    days = [CUTOFF + timedelta(days=at + 1) for at in range(horizon)]
    return pa.table(
        {
            "series_id": [f"s{at // horizon}" for at in range(count)],
            "cutoff_date": [DATE] * count,
            "ds": pa.array(days * series, pa.timestamp("us")),
            "y_hat": numbers,
            "lo80": numbers - 10,
            "hi80": numbers + 10,
        }
    )


def measure(server: TdsServer, series: int) -> list[Figure]:
    """Of the second load of a day, which finds its tables."""
    rows = predictions(series, 28)
    part = WarehousePart("predictions", rows, Filter(among={"cutoff_date": [DATE]}), ("series_id", "cutoff_date", "ds"))
    figures: list[Figure] = []
    for name, kind in (("synapse", SynapseWarehouse), ("fabric", FabricWarehouse)):
        staging = Counted(server.staging())
        warehouse = kind(server.url(database=name), staging, schema=name)
        warehouse.load("first", "f", [part])
        before, staging.bytes = len(server.statements()), 0
        warehouse.load("again", "f", [part])
        statements = len(server.statements()) - before
        figures.append(
            Figure(f"{name}: statements of a load of {len(rows):,} rows", statements, "statements", "report")
        )
        figures.append(Figure(f"{name}: bytes through storage", staging.bytes / 1e6, "MB", "report"))
    return figures


def insert_seconds(server: TdsServer, rows: pa.Table, *, arrays: bool) -> float:
    """Wall seconds of inserting `rows` through Microsoft's driver, as arrays of parameters or row by row."""
    lines = list(zip(*(column.to_pylist() for column in rows.columns), strict=True))
    engine = sa.create_engine(server.microsofts_url(), fast_executemany=arrays, poolclass=sa.pool.NullPool)
    table, marks = f"dbo.bulk_{int(arrays)}", ", ".join("?" * rows.num_columns)
    with engine.begin() as connection:
        connection.exec_driver_sql(
            f"CREATE TABLE {table} (series_id nvarchar(40), cutoff_date nvarchar(10), ds datetime2(6), "
            "y_hat float(53), lo80 float(53), hi80 float(53))"
        )
        began = time.perf_counter()
        connection.exec_driver_sql(f"INSERT INTO {table} VALUES ({marks})", lines)
        seconds = time.perf_counter() - began
        kept = connection.exec_driver_sql(f"SELECT COUNT(*) FROM {table}").scalar_one()
    if kept != rows.num_rows:
        raise RuntimeError(f"{kept} of {rows.num_rows} rows arrived")
    return seconds


def measure_arrays(server: TdsServer, series: int) -> list[Figure]:
    """Inserting a day's predictions by arrays against row by row; the stand-in's own work is in both.

    A tenth of the day: the stand-in needs half a millisecond and more for a row.
    """
    rows = predictions(series, 28)
    arrays, one_by_one = (insert_seconds(server, rows, arrays=arrays) for arrays in (True, False))
    return [
        Figure(f"{len(rows):,} rows in arrays of parameters, Microsoft's driver", arrays, "s", "report"),
        Figure("row by row", one_by_one, "s", "report"),
        Figure("row by row against arrays", one_by_one / arrays, "times", "report"),
    ]


def main() -> None:
    """Measures, and prints a table or JSON."""
    options = flags(__doc__ or "", "100 series instead of 10,000").parse_args()
    series = 100 if options.small else 10_000
    with tempfile.TemporaryDirectory() as folder, running_tds(Path(folder)) as server:
        figures = measure(server, series) + measure_arrays(server, series // (1 if options.small else 10))
        show(figures, machine("pyarrow", "pyodbc"), as_json=options.json)


if __name__ == "__main__":
    sys.exit(main())
