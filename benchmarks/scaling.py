"""What a day costs by the number of series: days of 1,000, 3,000 and 10,000 series are measured, lines are fitted, and
100,000 and a million series follow from them. `python -m benchmarks.scaling [--small] [--json]`.

`--copied 100000 [--days 60]` measures promotion and predictions alone, with a partition for each store: a store of 100
series is trained, and its models are copied (see `_copied_models`). A million series follow from three sizes.

`--whole 100000 --days 400 [--by store] [--storage postgres] [--later 2]` measures one size and fits no lines, with a
partition for each series or each store, and Dagster's records in SQLite or PostgreSQL.

The lines are value = fixed + each × series. How far they may be trusted is measured, too: the line through the two
smaller sizes is asked for the largest one. docs/scaling.md has the figures and what would break first.
"""

from __future__ import annotations

import json
import os
import tempfile
import time
from contextlib import ExitStack
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from scipy.optimize import nnls

from benchmarks._copied_models import multiply
from benchmarks._report import Figure, flags, machine, show
from benchmarks.reference_day import END, Size, project, run_day
from many_models.orchestration.due import ALL_STAGES
from many_models_tests.stand_ins.postgres_server import running_postgres

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from benchmarks.reference_day import Stage
    from many_models.settings import Storage

ITEMS, DAYS = 100, 500
FULL, SMALL = (1_000, 3_000, 10_000), (50, 100, 200)
FAR = (100_000, 1_000_000)
FIRST, LATER = "first day", "later day"
COPIES_DUE = ("promoted_models", "predictions")
STAGE = "{day}, {stage}: {what}"


@dataclass(frozen=True)
class Line:
    """value = fixed + each × series, and by how much the line through the smaller sizes missed the largest one."""

    fixed: float
    each: float
    missed: float

    @classmethod
    def through(cls, measured: Mapping[int, float]) -> Line:
        """The line of least squares of relative error, so that the small sizes count as much as the large one."""
        sizes = sorted(measured)
        fixed, each = _fitted(sizes, measured)
        a, b = _fitted(sizes[:-1], measured)
        largest = measured[sizes[-1]]
        return cls(fixed, each, (a + b * sizes[-1]) / largest - 1 if largest else 0.0)

    def at(self, series: int) -> float:
        """What it says of so many series."""
        return self.fixed + self.each * series


def _fitted(sizes: Sequence[int], measured: Mapping[int, float]) -> tuple[float, float]:
    values = np.array([measured[size] for size in sizes])
    weights = 1 / np.maximum(values, 1e-9)
    columns = np.column_stack([np.ones(len(sizes)), np.array(sizes, float)])
    (fixed, each), _ = nnls(columns * weights[:, None], values * weights)  # neither is negative
    return float(fixed), float(each)


def size_of(folder: Path) -> float:
    """MiB in the files under `folder`."""
    return sum(file.stat().st_size for file in folder.rglob("*") if file.is_file()) / 2**20


def size_of_records(home: Path, storage: Storage) -> float:
    """MiB of Dagster's records: of its folder, or of its database."""
    if storage == "sqlite":
        return size_of(home)
    import sqlalchemy as sa

    engine = sa.create_engine(os.environ["DAGSTER_POSTGRES_URL"])
    with engine.connect() as connection:
        found = connection.execute(sa.text("SELECT pg_database_size(current_database())")).scalar_one()
    engine.dispose()
    return found / 2**20


def measured_of(
    series: int, days: int, measured: Sequence[str], folder: Path, by: str = "", storage: Storage = "sqlite"
) -> dict[str, float]:
    """The `measured` days of so many series: what each stage took, and what is on disk afterwards.

    `by` is the key that makes a partition (none: a series is one); `storage` is where Dagster keeps its records.
    """
    from many_models.operations.day import open_instance

    size = Size(max(series // ITEMS, 1), min(ITEMS, series), days, 1, 0, 0)
    sales = project(folder, size.stores, size)
    if by:
        with (folder / "many_models.toml").open("a") as settings:
            settings.write(f'\n[partitions]\nby = ["{by}"]\n')
    with open_instance(folder / "dagster", storage):
        pass  # its dagster.yaml is there from now on
    found = dict[str, float]()
    before = 0.0
    for number, day in enumerate(measured):
        if number:
            sales.add(END + timedelta(days=number), 1)
        stages = run_day(folder)
        for stage in stages:
            for what, value in {**values_of(stage), "memory GiB": stage.memory}.items():
                found[STAGE.format(day=day, stage=stage.name, what=what)] = value
        found |= {f"{day}, all: {what}": value for what, value in whole(stages).items()}
        events = size_of_records(folder / "dagster", storage)
        found[f"{day}, all: Dagster's storage grows by, MiB"] = events - before
        before = events
    found["lake afterwards, MiB"] = size_of(folder / "var/lake")
    found["registries afterwards, MiB"] = size_of(folder / "var/registry")
    return found


def values_of(stage: Stage) -> dict[str, float]:
    """The numbers of a stage that lines are fitted to."""
    return {"wall s": stage.wall, "CPU s": stage.cpu, "driver CPU s": stage.driver}


def whole(stages: list[Stage]) -> dict[str, float]:
    """The same of all stages, with the most memory that any of them held."""
    total = {what: sum(values_of(stage)[what] for stage in stages) for what in values_of(stages[0])}
    return total | {"memory GiB": max(stage.memory for stage in stages)}


def one_size(series: int, days: int, later: int, by: str, storage: Storage) -> list[Figure]:
    """A first day and `later` ones of one size, against what the largest size has to keep."""
    names = [FIRST, *(f"{LATER} {number}" for number in range(1, later + 1))]
    with ExitStack() as stack:
        if storage == "postgres":
            server = stack.enter_context(running_postgres())
            os.environ["DAGSTER_POSTGRES_URL"] = server.url()
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        began = time.monotonic()
        found = measured_of(series, days, names, folder / "day", by, storage)
        took = time.monotonic() - began
    figures = list[Figure]()
    for name in names:
        wall = "at most 900" if name == FIRST else "at most 600"
        goals = {"wall s": wall, "memory GiB": "at most 4"}
        for what in ("wall s", "CPU s", "driver CPU s", "memory GiB", "Dagster's storage grows by, MiB"):
            figures.append(Figure(f"{name}, {what}", found[f"{name}, all: {what}"], "", goals.get(what, "")))
        for stage in ALL_STAGES:
            if (took_stage := found.get(STAGE.format(day=name, stage=stage, what="wall s"))) is not None:
                cpu = found[STAGE.format(day=name, stage=stage, what="CPU s")]
                memory = found[STAGE.format(day=name, stage=stage, what="memory GiB")]
                figures.append(Figure(f"  {stage}, wall", took_stage, "s", f"{cpu:.0f} s of CPU, {memory:.2f} GiB"))
    figures += [Figure(name, found[name], "", "") for name in ("lake afterwards, MiB", "registries afterwards, MiB")]
    figures.append(Figure("all of it, with the making of the sales", took / 60, "minutes", ""))
    return figures


def copied(series: int, days: int) -> list[Figure]:
    """Promotion and predictions of three sizes, the largest of `series`, and of a million by their lines."""
    measured = dict[int, dict[str, float]]()
    for size in (series // 4, series // 2, series):
        stores = max(size // ITEMS, 2)
        with tempfile.TemporaryDirectory() as temporary:
            folder = Path(temporary) / "day"
            project(folder, 1, Size(1, ITEMS, days, 0, 0, 0))
            with (folder / "many_models.toml").open("a") as settings:
                settings.write('\n[partitions]\nby = ["store"]\n')
            run_day(folder, "trained_models")
            multiply(folder, stores)
            stages = run_day(folder, "predictions")
        if [stage.name for stage in stages] != list(COPIES_DUE) or any(s.series < stores * ITEMS for s in stages):
            raise RuntimeError(f"these stages ran, and no others were to: {stages}")
        measured[stores * ITEMS] = {
            f"{stage.name}, {what}": value
            for stage in stages
            for what, value in {**values_of(stage), "memory GiB": stage.memory}.items()
        }
    figures = list[Figure]()
    for name in measured[max(measured)]:
        line = Line.through({size: found[name] for size, found in measured.items()})
        figures += [Figure(f"{name}, {size:,} series", found[name], "", "") for size, found in measured.items()]
        figures.append(Figure(f"{name}, each 10,000 more", 10_000 * line.each, "", f"fixed: {line.fixed:.3g}"))
        figures.append(Figure(f"{name}, a million (line)", line.at(FAR[-1]), "", f"missed: {line.missed:+.0%}"))
    return figures


def figures_of(measured: Mapping[int, Mapping[str, float]]) -> list[Figure]:
    """Measured, fitted and extrapolated values of all that counts."""
    figures = list[Figure]()
    largest = max(measured)
    for name in measured[largest]:
        values = {series: found.get(name, 0.0) for series, found in measured.items()}
        line = Line.through(values)
        if not name.startswith((f"{FIRST}, all", f"{LATER}, all", "lake", "registries")) and line.at(largest) < 1:
            continue
        unit = name.rpartition(" ")[2]
        figures += [Figure(f"{name}, {series:,} series", value, unit, "") for series, value in values.items()]
        figures.append(Figure(f"{name}, each 1,000 series", 1000 * line.each, unit, f"fixed: {line.fixed:.3g}"))
        figures.append(Figure(f"{name}, line of the smaller sizes at {largest:,}", 100 * line.missed, "% off", ""))
        figures += [Figure(f"{name}, {series:,} series (line)", line.at(series), unit, "") for series in FAR]
    return figures


def table_of(measured: Mapping[int, Mapping[str, float]]) -> str:
    """The same as a table in Markdown, for docs/scaling.md."""
    sizes = sorted(measured)
    rows = ["| | " + " | ".join([*(f"{n:,}" for n in sizes), "missed", *(f"{n:,}" for n in FAR)]) + " |"]
    rows.append("|---" * (len(sizes) + len(FAR) + 2) + "|")
    for name in measured[sizes[-1]]:
        values = {series: found.get(name, 0.0) for series, found in measured.items()}
        line = Line.through(values)
        if ", all" not in name and not name.startswith(("lake", "registries")) and line.at(sizes[-1]) < 1:
            continue
        cells = [*(f"{values[n]:,.3g}" for n in sizes), f"{100 * line.missed:+.0f} %"]
        rows.append(f"| {name} | " + " | ".join([*cells, *(f"{line.at(n):,.3g}" for n in FAR)]) + " |")
    return "\n".join(rows)


def main() -> None:
    """Measures, and prints a table or JSON."""
    parser = flags(__doc__ or "", "the first day of 50, 100 and 200 series of 100 days")
    parser.add_argument("--markdown", action="store_true", help="the table of docs/scaling.md")
    parser.add_argument("--measured", type=Path, help="a file that keeps each size; sizes in it are not measured again")
    parser.add_argument("--whole", type=int, help="measure so many series, and fit no lines")
    parser.add_argument("--copied", type=int, help="measure promotion and predictions of so many series")
    parser.add_argument("--days", type=int, help="of history: 400 with --whole, 60 with --copied")
    parser.add_argument("--later", type=int, default=2, help="later days, with --whole")
    parser.add_argument("--by", default="", choices=("", "store", "item"), help="the key that makes a partition")
    parser.add_argument("--storage", default="sqlite", choices=("sqlite", "postgres"), help="of Dagster's records")
    options = parser.parse_args()
    if options.whole:
        figures = one_size(options.whole, options.days or 400, options.later, options.by, options.storage)
        show(figures, machine("dagster", "mlflow", "deltalake"), as_json=options.json)
        return
    if options.copied:
        figures = copied(options.copied, options.days or 60)
        show(figures, machine("dagster", "mlflow", "deltalake"), as_json=options.json)
        return
    kept: Path | None = options.measured
    measured = dict[int, dict[str, float]]()
    if kept and kept.exists():
        measured = {int(series): found for series, found in json.loads(kept.read_text()).items()}
    for series in SMALL if options.small else FULL:
        if series in measured:
            continue
        with tempfile.TemporaryDirectory() as temporary:
            what = (100, (FIRST,)) if options.small else (DAYS, (FIRST, LATER))
            measured[series] = measured_of(series, *what, Path(temporary) / "day")
        if kept:
            kept.write_text(json.dumps(measured))
    if options.markdown:
        print(f"{machine('dagster', 'mlflow', 'deltalake')}, {os.cpu_count()} cores\n\n{table_of(measured)}")
        return
    show(figures_of(measured), machine("dagster", "mlflow", "deltalake"), as_json=options.json)


if __name__ == "__main__":
    main()
