"""Sales from files against the same sales from SQLite: the first copy, checked, and a later day.

`python -m benchmarks.files [--series 10000 --days 400 --files 100] [--small] [--json]`. Each step runs in a process of
its own, as a scheduler starts it. The first copy (the run of raw_sales) is set against connectorx's own time for the
rows out of SQLite.
"""

from __future__ import annotations

import sqlite3
import sys
import tempfile
from contextlib import closing
from dataclasses import dataclass
from datetime import date, timedelta
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from benchmarks._report import Figure, flags, machine, show
from benchmarks.reference_day import DATA, END, Sales, run_day

SETTINGS = '[source]\nkind = "{kind}"\nurl = "{url}"\ntable = "sales"\n' + DATA


@dataclass(frozen=True)
class Size:
    """How much is copied, and in how many files it lies."""

    series: int
    days: int
    files: int


def project(root: Path, kind: str, url: str, start: date) -> Path:
    """A project folder of `kind`."""
    root.mkdir()
    (root / "many_models.toml").write_text(SETTINGS.format(kind=kind, url=url, start=start))
    return root


def land(database: Path, folder: Path, first: date, last: date, name: str) -> None:
    """The rows of those days as one Parquet file."""
    folder.mkdir(parents=True, exist_ok=True)
    query = "SELECT store, item, date, sales FROM sales WHERE date BETWEEN ? AND ?"
    with closing(sqlite3.connect(database)) as connection:
        lines = connection.execute(query, (first.isoformat(), last.isoformat())).fetchall()
    store, item, days, sold = zip(*lines, strict=True)
    table = pa.table({"store": store, "item": item, "date": pa.array(days).cast(pa.date32()), "sales": sold})
    pq.write_table(table, folder / f"{name}.parquet")


def landed(database: Path, folder: Path, first: date, size: Size) -> None:
    """All rows in as many files, each of some days."""
    each = -(-size.days // size.files)
    for start in range(0, size.days, each):
        day = first + timedelta(days=start)
        land(database, folder, day, first + timedelta(days=min(start + each, size.days) - 1), f"{day:%Y%m%d}")


def measure(size: Size, folder: Path) -> list[Figure]:
    """The figures of one run; each kind's copy of the same rows."""
    first = END - timedelta(days=size.days - 1)
    stores = max(size.series // 100, 1)
    sales = Sales(folder / "sales.db", stores, size.series // stores)
    rows = sales.add(first, size.days)
    landed(sales.path, folder / "landing" / "sales", first, size)
    roots = {
        "sql": project(folder / "sql", "sql", f"sqlite:///{sales.path}", first),
        "files": project(folder / "files", "files", str(folder / "landing"), first),
    }
    before = sales.connectorx_seconds()
    copies = {kind: run_day(root, "raw_sales")[0] for kind, root in roots.items()}
    connectorx = (before + sales.connectorx_seconds()) / 2
    days: dict[str, list[float]] = {kind: [] for kind in roots}
    for number in range(1, 4):
        day = END + timedelta(days=number)
        sales.add(day, 1)
        land(sales.path, folder / "landing" / "sales", day, day, f"{day:%Y%m%d}")
        for kind, root in roots.items():
            days[kind].append(run_day(root, "raw_sales")[0].wall)
    later = {kind: sorted(seconds)[len(seconds) // 2] for kind, seconds in days.items()}
    return [
        Figure(f"first copy of {rows:,} rows from {size.files} files", copies["files"].run, "s", ""),
        Figure("with the start of a process and of a new project", copies["files"].wall, "s", ""),
        Figure("the copy from SQLite", copies["sql"].run, "s", ""),
        Figure("connectorx alone out of SQLite", connectorx, "s", ""),
        Figure("from files against connectorx alone", copies["files"].run / connectorx, "times", "at most 4"),
        Figure(f"a later day of {size.series:,} series from files, median of 3", later["files"], "s", ""),
        Figure("the same from SQLite", later["sql"], "s", ""),
        Figure("a later day from files against SQLite", later["files"] / later["sql"], "times", "at most 1"),
    ]


def main() -> None:
    """Measures, and prints a table or JSON."""
    parser = flags(__doc__ or "", "40 series of 100 days instead of 10,000 of 400")
    parser.add_argument("--series", type=int, default=10_000)
    parser.add_argument("--days", type=int, default=400)
    parser.add_argument("--files", type=int, default=100)
    options = parser.parse_args()
    size = Size(40, 100, 10) if options.small else Size(options.series, options.days, options.files)
    with tempfile.TemporaryDirectory() as folder:
        figures = measure(size, Path(folder))
    show(figures, machine("connectorx", "pyarrow", "deltalake"), as_json=options.json)


if __name__ == "__main__":
    sys.exit(main())
