"""What years of nights leave behind: size and time of a look, and time of a day, after 4 days and after 400.
`python -m benchmarks.retention [--series 1000] [--nights 400] [--small] [--json]`.

Four days are run for real. On a copy of that project, the nights after them are simulated, since real ones would take
days: each records the same events again for every series at every stage, commits every table of the lake again that a
night writes, adds a cutoff, and prunes as the job `upkeep` does each night: events of seven nights stay, the lake keeps
one. Then both projects get the same three real days and looks, in turn, and the least of each counts.
What a night leaves in the registries is measured by `python -m benchmarks.year`.
"""

import os
import shutil
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING

import dagster as dg

from benchmarks._report import Figure, flags, machine, show
from benchmarks.reference_day import END, Sales, Size, project, run_day
from benchmarks.scaling import size_of
from many_models.data import lake_tables
from many_models.operations.day import QUIET, open_instance
from many_models.orchestration import automation
from many_models.orchestration.event_log import history, runs
from many_models.orchestration.event_log.retention import prune_events
from many_models.orchestration.look import Look
from many_models.orchestration.stage_run import UPSTREAM_TAG, VERSION_TAG
from many_models.ports import Filter
from many_models.settings import load_settings
from many_models.wiring import build_lake

if TYPE_CHECKING:
    from many_models.ports import Lake

REAL, AFTER, KEPT, DAYS = 4, 3, 7, 60
OLD_SECONDS = 2 * 3600
FULL, SMALL = (1_000, 400), (20, 40)
STAGES = ("store_item_datasets", "trained_models", "promoted_models", "predictions")
WRITTEN = (
    lake_tables.RAW_VERSIONS, lake_tables.COVARIATE_VERSIONS, lake_tables.SERIES, lake_tables.TRAINED,
    lake_tables.CHAMPIONS, lake_tables.DECISIONS, lake_tables.PREDICTIONS,
)  # fmt: skip
QUICK = "\n[forecast]\ntrees = false\nwindows = 1\nhorizon = 7\npool_every = 100000\n"


def recorder(stage: str, tags: Mapping[str, Mapping[str, str]]) -> dg.Definitions:
    """A job that records a materialization of each series with these tags, as the stage did."""

    @dg.asset(
        name=stage,
        partitions_def=dg.DynamicPartitionsDefinition(name="store_items"),
        backfill_policy=dg.BackfillPolicy.single_run(),
        output_required=False,
    )
    def made(context: dg.AssetExecutionContext) -> Iterator[None]:
        keys = context.partition_keys
        runs.plan(context, keys)
        events = [dg.AssetMaterialization(stage, partition=key, tags=dict(tags[key])) for key in keys]
        runs.record(context, events)
        yield from ()

    job = dg.define_asset_job(f"again_{stage}", selection=[stage])
    return dg.Definitions([made], jobs=[job], executor=dg.in_process_executor)


def simulate(folder: Path, nights: int) -> None:
    """The nights that are not run."""
    settings = load_settings(folder / "many_models.toml")
    lake = build_lake(settings)
    with open_instance(folder / "dagster") as instance:
        tags = {s: history.latest_tags(instance, dg.AssetKey(s), [UPSTREAM_TAG, VERSION_TAG]) for s in STAGES}
        jobs = {s: recorder(s, tags[s]).resolve_job_def(f"again_{s}") for s in STAGES}
        keys = instance.get_dynamic_partitions("store_items")
        ranged = {runs.RANGE_START_TAG: keys[0], runs.RANGE_END_TAG: keys[-1]}
        forget_removed_files(folder / "var" / "lake")
        began = list[datetime]()
        for night in range(nights):
            began.append(datetime.now(UTC))
            for stage in STAGES:
                jobs[stage].execute_in_process(QUIET, instance, tags=ranged)
            cutoff = f"{datetime(2000, 1, 1) + timedelta(days=night):%Y-%m-%d}"
            instance.add_dynamic_partitions("cutoffs", [cutoff])
            instance.report_runless_asset_event(dg.AssetMaterialization("warehouse_predictions", partition=cutoff))
            commit_again(lake)
            if night >= KEPT:
                prune_events(instance, began[night - KEPT])
                age_log(folder / "var" / "lake", began[night - 1])
                lake.prune(datetime.now(UTC) - began[night - 1])


def forget_removed_files(lake: Path) -> None:
    """Have Delta forget removed files at once: it keeps them for a week, and here all nights are of one day."""
    from deltalake import DeltaTable

    for log in lake.glob("*/_delta_log"):
        DeltaTable(log.parent).alter.set_table_properties({"delta.deletedFileRetentionDuration": "interval 1 seconds"})


def age_log(lake: Path, before: datetime) -> None:
    """Have Delta delete the log entries from before that moment: it keeps an hour at least, and nights are seconds."""
    for entry in lake.glob("*/_delta_log/*"):
        if (written := entry.stat().st_mtime) < before.timestamp():
            os.utime(entry, (written, min(written, time.time() - OLD_SECONDS)))


def commit_again(lake: "Lake") -> None:
    """Write what is in the tables of a night once more."""
    for table in WRITTEN:
        if lake.version(table.name) is not None:
            lake.replace(table.name, lake.read(table.name), Filter(), table.partition_by)


def cpu(work: Callable[[], object], repeats: int = 5) -> float:
    """The least CPU seconds of `work`."""
    found = list[float]()
    for _ in range(repeats):
        began = time.process_time()
        work()
        found.append(time.process_time() - began)
    return min(found)


def look_at(folder: Path) -> tuple[float, float]:
    """CPU seconds of a whole look that finds nothing due, and of asking whether there is anything new."""
    settings = load_settings(folder / "many_models.toml")
    lake = build_lake(settings)
    with open_instance(folder / "dagster") as instance:

        def look() -> None:
            work, current = automation.next_due(automation.states(settings, Look(instance, lake)))
            if work is not None or current is not None:
                raise RuntimeError(f"{work and work.stage} is due, so this is not a look that finds nothing")

        shared = automation.shared_look(settings)
        shared.found(instance, lake)
        return cpu(look), cpu(lambda: shared.found(instance, lake))


def measured(series: int, nights: int, folder: Path) -> list[Figure]:
    """Everything after a few days and after many: the same later days of both, in turn."""
    size = Size(max(series // 100, 1), min(series, 100), DAYS, 0, 0, 0)
    few, many = folder / "few", folder / "many"
    sales = project(few, size.stores, size)
    with (few / "many_models.toml").open("a") as settings:
        settings.write(QUICK)
    for day in range(REAL):
        if day:
            sales.add(END + timedelta(days=day), 1)
        run_day(few)
    shutil.copytree(few, many)
    both = [(few, sales), (many, Sales(many / sales.path.name, size.stores, size.items))]
    forget_removed_files(few / "var" / "lake")
    simulate(many, nights - REAL)
    days, looks = (list[float](), list[float]()), (list[tuple[float, float]](), list[tuple[float, float]]())
    for day in range(REAL, REAL + AFTER):
        for at, (home, rows) in enumerate(both):
            rows.add(END + timedelta(days=day), 1)
            days[at].append(sum(stage.cpu for stage in run_day(home)))
        for at, (home, _) in enumerate(both):
            looks[at].append(look_at(home))
    few_day, many_day = (min(found) for found in days)
    (few_look, few_news), (many_look, many_news) = ([min(kind) for kind in zip(*found, strict=True)] for found in looks)
    figures = [
        Figure(f"a whole look, {series:,} series, after {REAL} nights, CPU", few_look, "s", ""),
        Figure(f"after {nights}", many_look, "s", ""),
        Figure("their ratio", many_look / few_look, "×", "at most 1.1"),
        Figure("asking whether anything is new, ratio", many_news / few_news, "×", "at most 1.1"),
        Figure(f"a later day after {REAL} nights, CPU", few_day, "s", ""),
        Figure(f"after {nights}, their ratio", many_day / few_day, "×", "at most 1.1"),
    ]
    for name, part in (("Dagster's records", Path("dagster")), ("the lake", Path("var") / "lake")):
        size_many = size_of(many / part)
        figures.append(Figure(f"{name} after {REAL} nights", size_of(few / part), "MiB", f"{nights}: {size_many:.0f}"))
    return figures


def main() -> None:
    """Measure and print."""
    parser = flags(__doc__ or "", "20 series, 40 nights")
    parser.add_argument("--series", type=int, default=FULL[0])
    parser.add_argument("--nights", type=int, default=FULL[1])
    args = parser.parse_args()
    series, nights = SMALL if args.small else (args.series, args.nights)
    with tempfile.TemporaryDirectory() as name:
        figures = measured(series, nights, Path(name) / "day")
    show(figures, machine("dagster", "deltalake"), as_json=args.json)


if __name__ == "__main__":
    sys.exit(main())
