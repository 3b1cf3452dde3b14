"""The tables that people keep for decisions: which there are, what stands for their content, and what was used last."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING

from many_models.data import lake_tables
from many_models.errors import PermanentError, TransientError
from many_models.keys import digest, row_hashes
from many_models.ports import Filter

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from many_models.orchestration.due import Stage
    from many_models.ports import Lake, Source
    from many_models.settings import Settings

_LOG = logging.getLogger(__name__)


def tables_of(settings: Settings) -> dict[Stage, Sequence[str]]:
    """Stage → the tables of the source that it reads, as far as the settings name any."""
    beyond_keys = {name for level in settings.hierarchy.levels for name in level} - {*settings.data.keys}
    attributes = settings.source.attributes_table if beyond_keys else ""
    overrides = settings.overrides.table
    found: dict[Stage, Sequence[str]] = {
        "stock_recommendations": (settings.stock.table,),
        "coherent_predictions": (attributes,),
        "final_predictions": (overrides, attributes) if overrides else (),
    }
    named: dict[Stage, Sequence[str]] = {stage: [table for table in tables if table] for stage, tables in found.items()}
    return {stage: tables for stage, tables in named.items() if tables}


def content_of(source: Source, tables: Sequence[str]) -> str:
    """What stands for the rows of `tables`, in any order. A table that is not there, or cannot be read for a reason
    that stays, has a content, too: that reason. Raises TransientError.
    """
    parts = list[object]()
    for name in tables:
        try:
            rows = source.read_table(name)
        except PermanentError as error:
            parts.append((name, f"{type(error).__name__}: {error}"))
            continue
        columns = sorted(rows.column_names)
        parts.append((name, columns, rows.num_rows, int(row_hashes(rows.select(columns)).sum())))
    return digest(parts)


def contents(settings: Settings, source: Source, stage: Stage) -> str | None:
    """What stands for what the source holds for `stage` now; None where it has no tables, or does not answer."""
    tables = tables_of(settings).get(stage)
    if tables is None:
        return None
    try:
        return content_of(source, tables)
    except TransientError as error:  # what is due because of it comes when the source is back
        _LOG.warning("the source was not asked whether the tables for %s have changed: %s", stage, error)
        return None


def used(lake: Lake) -> Mapping[str, str]:
    """Stage → what stands for the tables that it has read last."""
    return {row["stage"]: row["content"] for row in lake_tables.records(lake, lake_tables.DECISION_INPUTS)}


def note(lake: Lake, stage: Stage, content: str) -> None:
    """Write down what `stage` reads."""
    import pyarrow as pa

    if used(lake).get(stage) == content:
        return
    of = lake_tables.DECISION_INPUTS
    rows = pa.table({"stage": pa.array([stage], pa.string()), "content": pa.array([content], pa.string())})
    lake.replace(of.name, rows, Filter(among={"stage": [stage]}), of.partition_by)
