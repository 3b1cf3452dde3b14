"""Dagster's automation conditions against our sensors, by what a tick costs: four stages over dynamic partitions.
`python -m benchmarks.automation [--small] [--json]`.

The same instance is asked both ways: `eager()` conditions through Dagster's own evaluation, and what our look reads
(the newest tags of each stage, compared). Each is measured when all partitions are up to date and after the first
stage was made again.
"""

import os
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

import dagster as dg
import psutil

from benchmarks._report import Figure, flags, machine, show
from many_models.operations.day import open_instance
from many_models.orchestration.event_log import history, runs

FULL, SMALL = 10_000, 200
PARTITIONS = dg.DynamicPartitionsDefinition(name="store_items")
STAGES = ("datasets", "models", "promoted", "predictions")
VERSION, UPSTREAM = "version", "upstream"


class Made(dg.Config):
    """The version that a run makes."""

    version: str


def stage(name: str, upstream: str | None) -> dg.AssetsDefinition:
    """An asset that records each of its run's partitions, as ours do."""

    @dg.asset(
        name=name,
        deps=[upstream] if upstream else [],
        partitions_def=PARTITIONS,
        backfill_policy=dg.BackfillPolicy.single_run(),
        output_required=False,
        automation_condition=dg.AutomationCondition.eager(),
    )
    def made(context: dg.AssetExecutionContext, config: Made) -> Iterator[None]:
        tags = {VERSION: config.version, UPSTREAM: config.version}
        runs.record(
            context,
            [dg.AssetMaterialization(context.asset_key, partition=key, tags=tags) for key in context.partition_keys],
        )
        yield from ()

    return made


@dataclass(frozen=True)
class Tick:
    """Seconds of CPU and how many partitions were asked for."""

    cpu: float
    asked: int


class Project:
    """Four stages on an instance."""

    def __init__(self, instance: dg.DagsterInstance, series: int) -> None:
        assets = [stage(name, STAGES[at - 1] if at else None) for at, name in enumerate(STAGES)]
        jobs = [dg.define_asset_job(f"make_{name}", selection=[name]) for name in STAGES]
        self.definitions = dg.Definitions(assets, jobs=jobs, executor=dg.in_process_executor)
        self.instance = instance
        self.keys = [f"s{at:06d}" for at in range(series)]
        instance.add_dynamic_partitions("store_items", self.keys)
        self.cursor: Any = None

    def make(self, name: str, version: str) -> None:
        """Materialize all partitions of a stage."""
        tags = {runs.RANGE_START_TAG: self.keys[0], runs.RANGE_END_TAG: self.keys[-1]}
        job = self.definitions.resolve_job_def(f"make_{name}")
        job.execute_in_process({"ops": {name: {"config": {"version": version}}}}, self.instance, tags=tags)

    def conditions(self) -> Tick:
        """One evaluation of all automation conditions."""
        cpu = time.process_time()
        found = dg.evaluate_automation_conditions(self.definitions, self.instance, cursor=self.cursor)
        self.cursor = found.cursor
        return Tick(time.process_time() - cpu, found.total_requested)

    def tags(self) -> Tick:
        """What our whole look does of it: the newest tags of each stage, compared."""
        cpu = time.process_time()
        newest = [history.latest_tags(self.instance, dg.AssetKey(name), [VERSION, UPSTREAM]) for name in STAGES]
        due = 0
        for above, below in pairwise(newest):
            due = sum(below.get(key, {}).get(UPSTREAM) != tags[VERSION] for key, tags in above.items())
            if due:
                break  # a later stage waits
        return Tick(time.process_time() - cpu, due)

    def mark(self) -> Tick:
        """What our look asks while nothing is new."""
        cpu = time.process_time()
        history.newest_events(self.instance, [dg.AssetKey(name) for name in STAGES])
        history.runs_in_flight(self.instance)
        return Tick(time.process_time() - cpu, 0)


def memory() -> float:
    """MiB that this process holds."""
    return psutil.Process(os.getpid()).memory_info().rss / 2**20


def measured(work: Callable[[], Tick]) -> tuple[Tick, float]:
    """What `work` says, and by how many MiB the process grew."""
    before = memory()
    return work(), memory() - before


def figures_of(project: Project) -> list[Figure]:
    """All ticks of both ways."""
    for name in STAGES:
        project.make(name, "v1")
    idle_tags, _ = measured(project.tags)
    mark = project.mark()
    first, grown = measured(project.conditions)
    idle, _ = measured(project.conditions)
    project.make(STAGES[0], "v2")
    new_tags, ours_grown = measured(project.tags)
    new, more = measured(project.conditions)
    return [
        Figure("automation conditions, first tick, CPU", first.cpu, "s", f"asks for {first.asked} partitions"),
        Figure("automation conditions, a tick without news, CPU", idle.cpu, "s", f"asks for {idle.asked} partitions"),
        Figure("our look without news, CPU", mark.cpu, "s", f"{idle.cpu / max(mark.cpu, 1e-6):.0f} times cheaper"),
        Figure("automation conditions, a stage was made again, CPU", new.cpu, "s", f"asks for {new.asked} partitions"),
        Figure("our look, a stage was made again, CPU", new_tags.cpu, "s", f"finds {new_tags.asked} partitions"),
        Figure("our whole look, nothing is due, CPU", idle_tags.cpu, "s", f"finds {idle_tags.asked} partitions"),
        Figure("memory that automation conditions add", grown + more, "MiB", ""),
        Figure("memory that our look adds", ours_grown, "MiB", ""),
    ]


def main() -> None:
    """Measure and print."""
    args = flags(__doc__ or "", "200 partitions instead of 10,000").parse_args()
    with tempfile.TemporaryDirectory() as name, open_instance(Path(name) / "dagster") as instance:
        figures = figures_of(Project(instance, SMALL if args.small else FULL))
    show(figures, machine("dagster"), as_json=args.json)


if __name__ == "__main__":
    sys.exit(main())
