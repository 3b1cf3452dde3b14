"""What assets of decisions share: a partition a cutoff, rows into the lake, and what could not be used beside them."""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import dagster as dg

from many_models.data import lake_tables
from many_models.errors import PermanentError
from many_models.keys import digest, row_hashes
from many_models.orchestration import decision_tables, lake_marks, stage_state
from many_models.orchestration.due import Stage
from many_models.orchestration.event_log import dead_runs, runs
from many_models.orchestration.look import Look
from many_models.orchestration.stage_asset import stage_asset
from many_models.orchestration.stage_run import (
    CUTOFFS,
    Metadata,
    SeriesResult,
    board_link,
    materialization,
    refuse_shared_run,
    table,
)
from many_models.ports import Filter, Lake, Source
from many_models.settings import Settings

if TYPE_CHECKING:
    import pyarrow as pa

    from many_models.data.lake_tables import LakeTable

SHOWN = 50  # problems in the UI; the lake has all
PAGES: Mapping[Stage, str] = {  # of the board, about what a stage decides
    "final_predictions": "/items",
    "stock_recommendations": "/items",
    "drift": "/items?sort=drift",
    "coherent_predictions": "/groups",
}


@dataclass(frozen=True, slots=True)
class Made:
    """What a stage made of a cutoff: rows for `tables`, `problems` (columns origin, series_id, row, reason), and what
    the UI shows.
    """

    tables: "Mapping[LakeTable, pa.Table]"
    problems: "pa.Table"
    metadata: Metadata = field(default_factory=dict)

    def version(self) -> str:
        """A digest of all rows: the warehouse is loaded again where someone has it made again and it differs."""
        parts = {of.name: rows for of, rows in self.tables.items()} | {"problems": self.problems}
        return digest(sorted((name, rows.num_rows, int(row_hashes(rows).sum())) for name, rows in parts.items()))


def build_cutoff_asset(
    settings: Settings, stage: Stage, description: str, make: Callable[[Source, Lake, str], Made]
) -> dg.AssetsDefinition:
    """The asset `stage`: for each cutoff what `make` makes of it, and the check `problems`.

    An error that stays is a problem, too: the day goes on without this decision, and rows that were made of the cutoff
    before stay.
    """

    @stage_asset(
        settings,
        name=stage,
        partitions=CUTOFFS,
        deps=[dg.AssetDep("predictions", partition_mapping=dg.AllPartitionMapping())],
        group="decisions",
        kinds={"deltalake", "table"},
        checks={"problems": "Nothing of what people wrote for it had to be left out."},
        description=description,
    )
    def decide(
        context: dg.AssetExecutionContext, source: dg.ResourceParam[Source], lake: dg.ResourceParam[Lake]
    ) -> Iterator[dg.AssetCheckResult]:
        refuse_shared_run(context)
        dead_runs.claim_run(context)
        lake_marks.require(context.instance, lake)
        content = decision_tables.contents(settings, source, stage)
        if content is not None:
            decision_tables.note(lake, stage, content)  # before it is read: who changes it in between has it done again
        wanted = stage_state.decision_state(settings, Look(context.instance, lake), stage, content).wanted
        problems = list[dict[str, str]]()
        for date in context.partition_keys:
            try:
                made = make(source, lake, date)
            except PermanentError as error:
                made = nothing(stage, f"nothing was made of cutoff {date}: {error}")
            problems = write(lake, stage, date, made)
            context.log.info(f"cutoff {date}: {_said(made)}, {len(problems)} problems")
            version = wanted.get(date, "earlier")
            shown: Metadata = {"problems": len(problems), **made.metadata, **board_link(settings, PAGES[stage])}
            done = SeriesResult(version, made.version(), shown)
            runs.record(context, [materialization(context.asset_key, date, done)])
        shown: Metadata = {"problems": len(problems)}
        if problems:
            shown["first"] = table([{**problem} for problem in problems[:SHOWN]])
        yield dg.AssetCheckResult(
            passed=not problems, check_name="problems", severity=dg.AssetCheckSeverity.WARN, metadata=shown
        )

    return decide


def _said(made: Made) -> str:
    return ", ".join(f"{rows.num_rows:,} {of.name}" for of, rows in made.tables.items()) or "nothing made"


def nothing(stage: Stage, reason: str) -> Made:
    """No rows, and why."""
    from many_models.decisions.problems import problem_table

    return Made({}, problem_table([{"origin": stage, "series_id": "", "row": "", "reason": reason}]))


def write(lake: Lake, stage: Stage, date: str, made: Made) -> list[dict[str, str]]:
    """Put what was made in place of what the lake has of this cutoff and stage, and return the problems."""
    import pyarrow as pa

    for of, rows in made.tables.items():
        dated = rows.append_column("cutoff_date", pa.array([date] * rows.num_rows, pa.string()))
        lake.replace(of.name, dated, Filter(among={"cutoff_date": [date]}), of.partition_by)
    problems = made.problems.set_column(0, "origin", pa.array([stage] * made.problems.num_rows, pa.string()))
    where = Filter(among={"cutoff_date": [date], "origin": [stage]})
    dated = problems.append_column("cutoff_date", pa.array([date] * problems.num_rows, pa.string()))
    of = lake_tables.DECISION_PROBLEMS
    if problems.num_rows or lake.version(of.name) is not None:
        lake.replace(of.name, dated, where, of.partition_by)
    return problems.to_pylist()
