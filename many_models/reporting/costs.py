"""What a night cost, and what it was worth: per stage, per model, and per improvement that was promoted. Pure."""

from __future__ import annotations

from collections import defaultdict
from typing import TYPE_CHECKING

import pyarrow as pa
import pyarrow.compute as pc

from many_models import table_columns
from many_models.table_columns import schema_of

if TYPE_CHECKING:
    from collections.abc import Iterable

ALL = "all"  # the row of all stages together
SCHEMA = schema_of(table_columns.COSTS_OF_NIGHT)


def night_costs(
    spent: Iterable[tuple[str, float]], cores: int, price: float, models: int, decisions: pa.Table | None
) -> pa.Table:
    """A row for each stage and one for all: what its runs cost that a night `spent` (stage, seconds).

    A run holds `cores` cores, at `price` a core and hour. `models` are those that forecast this night. An improvement
    is a promotion of `decisions` (action, challenger_score, champion_score: WAPEs at the same cutoffs) whose model beat
    the champion; the row of all has their number, what each cost, and the mean scores before and after. The number of
    stages' rows depends on what ran; a share of nothing is null.
    """
    runs, seconds = defaultdict[str, int](int), defaultdict[str, float](float)
    for stage, took in spent:
        for name in (stage, ALL):
            runs[name] += 1
            seconds[name] += took
    better = _improvements(decisions)
    found = list[dict[str, object]]()
    for name, took in seconds.items():
        cost = took * cores / 3600 * price
        row: dict[str, object] = {
            "stage": name,
            "runs": runs[name],
            "seconds": took,
            "core_seconds": took * cores,
            "cost": cost,
            "models": models,
            "cost_per_model": cost / models if models else None,
        }
        if name == ALL:
            row |= {
                "improvements": better.num_rows,
                "cost_per_improvement": cost / better.num_rows if better.num_rows else None,
                "wape_before": pc.mean(better["champion_score"]).as_py(),
                "wape_after": pc.mean(better["challenger_score"]).as_py(),
            }
        found.append(row)
    return pa.Table.from_pylist(found, SCHEMA)


def _improvements(decisions: pa.Table | None) -> pa.Table:
    """The promotions of models that beat a champion, both scores being known."""
    names = ["action", "challenger_score", "champion_score"]
    if decisions is None:
        return pa.table({name: pa.array([], pa.float64()) for name in names})
    rows = decisions.select(names)
    beaten = pc.less(rows["challenger_score"], rows["champion_score"])  # neither of NaN, nor of null
    return rows.filter(pc.and_(pc.equal(rows["action"], "promote"), pc.fill_null(beaten, fill_value=False)))
