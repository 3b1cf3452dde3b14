"""What sums in the source's own SQL would save against sums while copying, and whether they are the same.

`python -m benchmarks.source_sums [--series 1000 --days 60 --receipts 5] [--url URL] [--small] [--json]`. Receipts of
whole units and of prices lie in a new SQLite file, or in a new table of the database at `--url`. Both ways are timed in
one run: all rows read, checked and summed as `raw_sales` does it, and `GROUP BY` with only the sums read. The look that
tells which days have changed reads the rows in any case.
"""

from __future__ import annotations

import sys
import tempfile
import time
from datetime import datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

import numpy as np
import pyarrow as pa
import sqlalchemy as sa

from benchmarks._report import Figure, flags, machine, show
from many_models.data.row_checks import CheckedRows, check_columns, check_rows
from many_models.ports import SalesTable
from many_models.settings import Settings, SourceSettings
from many_models.wiring import build_source

if TYPE_CHECKING:
    from collections.abc import Callable

    from many_models.ports import Source

T = TypeVar("T")
START, NAME = datetime(2024, 1, 1), "receipts_of_the_benchmark"


def fill(engine: sa.Engine, series: int, days: int, receipts: int) -> int:
    """Make the table; returns its rows."""
    rng = np.random.default_rng(8)
    columns = (("store", sa.String(20)), ("day", sa.Date()), ("units", sa.Integer()), ("paid", sa.Double()))
    table = sa.Table(NAME, sa.MetaData(), *(sa.Column(name, kind) for name, kind in columns))
    with engine.begin() as connection:
        table.drop(connection, checkfirst=True)
        table.create(connection)
        for day in range(days):
            units = rng.integers(1, 9, series * receipts)
            paid = np.round(rng.uniform(0.5, 90, len(units)), 2)
            stamp = (START + timedelta(days=day)).date()
            lines = zip(units.tolist(), paid.tolist(), strict=True)
            connection.execute(table.insert(), [
                {"store": f"s{at % series}", "day": stamp, "units": some, "paid": price}
                for at, (some, price) in enumerate(lines)
            ])  # fmt: skip
    return series * days * receipts


def timed(work: Callable[[], T]) -> tuple[float, T]:
    """Seconds of wall clock, and what `work` returns."""
    began = time.perf_counter()
    found = work()
    return time.perf_counter() - began, found


def copied(source: Source, target: str, end: datetime) -> CheckedRows:
    """The sums as `raw_sales` makes them, of all rows from START to before `end`."""
    sales = SalesTable(NAME, ("store",), "day", target, aggregate=((target, "sum"),))
    kinds = check_columns(source.columns(NAME), sales)
    raw = pa.concat_tables(list(source.read(sales, START, end)))
    return check_rows(raw, sales, now=end, negatives="quarantine", frequency="D", kinds=kinds)


def grouped(engine: sa.Engine, target: str) -> dict[tuple[str, str], float]:
    """The sums that the database makes."""
    query = f"SELECT store, day, SUM({target}) FROM {NAME} GROUP BY store, day"
    with engine.connect() as connection:
        found = connection.execute(sa.text(query)).fetchall()
    return {(store, str(day)[:10]): float(value) for store, day, value in found}


def differing(rows: pa.Table, sums: dict[tuple[str, str], float]) -> float:
    """The share of sums that are not the same double in both."""
    names, stamps, values = (rows[name].to_pylist() for name in ("series_id", "ds", "y"))
    pairs = zip(names, stamps, values, strict=True)
    return float(np.mean([sums[name, f"{ds:%Y-%m-%d}"] != value for name, ds, value in pairs]))


def measure(url: str, series: int, days: int, receipts: int) -> list[Figure]:
    """All figures of one database."""
    engine, end = sa.create_engine(url), START + timedelta(days=days)
    rows = fill(engine, series, days, receipts)
    source = build_source(Settings(source=SourceSettings(url=url, table=NAME)))
    sales = SalesTable(NAME, ("store",), "day", "units", aggregate=(("units", "sum"),))
    look, _ = timed(lambda: source.days(sales))
    copy, found = timed(lambda: copied(source, "units", end))
    there, sums = timed(lambda: grouped(engine, "units"))
    prices, paid = copied(source, "paid", end), grouped(engine, "paid")
    with engine.begin() as connection:
        connection.execute(sa.text(f"DROP TABLE {NAME}"))
    return [
        Figure("rows moved while copying", rows, "rows", f"{len(sums):,} sums"),
        Figure("the look at what has changed, which reads every row", look, "s", ""),
        Figure("read, checked and summed while copying", copy, "s", f"{rows / copy:,.0f} rows a second"),
        Figure("GROUP BY in the source, sums read", there, "s", f"{there / copy:.2f} of it"),
        Figure("sums of whole numbers that differ", differing(found.rows, sums), "share", "0 needed"),
        Figure("sums of prices that differ in the last digits", differing(prices.rows, paid), "share", "0 needed"),
    ]


def main() -> None:
    """Measure and print."""
    parser = flags(__doc__ or "", "100 series, 20 days")
    for name, usual in (("series", 1_000), ("days", 60), ("receipts", 5)):
        parser.add_argument(f"--{name}", type=int, default=usual)
    parser.add_argument("--url", default="", help="a database of SQLAlchemy's; default: a new SQLite file")
    given = parser.parse_args()
    series, days = (100, 20) if given.small else (given.series, given.days)
    with tempfile.TemporaryDirectory() as folder:
        url = given.url or f"sqlite:///{Path(folder) / 'receipts.db'}"
        figures = measure(url, series, days, given.receipts)
    show(figures, machine("pyarrow", "sqlalchemy"), as_json=given.json)


if __name__ == "__main__":
    sys.exit(main())
