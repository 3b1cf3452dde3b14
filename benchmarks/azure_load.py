"""What a load of one day costs a dedicated pool and a Fabric warehouse, counted on the TDS stand-in: statements, bytes.
`python -m benchmarks.azure_load [--small] [--json]`.
"""

from __future__ import annotations

import sys
import tempfile
from contextlib import contextmanager
from datetime import datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pyarrow as pa

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


def main() -> None:
    """Measures, and prints a table or JSON."""
    options = flags(__doc__ or "", "100 series instead of 10,000").parse_args()
    with tempfile.TemporaryDirectory() as folder, running_tds(Path(folder)) as server:
        show(measure(server, 100 if options.small else 10_000), machine("pyarrow"), as_json=options.json)


if __name__ == "__main__":
    sys.exit(main())
