"""How far each table of the lake had come when a run ended, kept with Dagster's records: a lake that has gone back is
found before anything is derived from it.

A table's version grows with each commit and starts again where the table is made again. So a version below the mark
says that rows which the records count as done are gone: the table was deleted, emptied by hand, or restored from an
older copy.
"""

from __future__ import annotations

import logging
import re
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING

import dagster as dg

from many_models.data import lake_tables
from many_models.errors import IntegrityError

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable, Mapping, Sequence

    from many_models.orchestration.due import Stage
    from many_models.ports import Lake

_LOG = logging.getLogger(__name__)
_MARK = re.compile(r"-?\d{1,18}")
PREFIX = "many_models/lake/"
MADE_BY: Mapping[str, Stage] = {
    lake_tables.RAW_SALES.name: "raw_sales",
    lake_tables.RAW_VERSIONS.name: "raw_sales",
    lake_tables.SERIES_KEYS.name: "raw_sales",
    lake_tables.QUARANTINE.name: "raw_sales",
    lake_tables.RAW_COVARIATES.name: "raw_covariates",
    lake_tables.RAW_ATTRIBUTES.name: "raw_covariates",
    lake_tables.RAW_OPENINGS.name: "raw_covariates",
    lake_tables.COVARIATE_VERSIONS.name: "raw_covariates",
    lake_tables.DATASETS.name: "store_item_datasets",
    lake_tables.SERIES.name: "store_item_datasets",
    lake_tables.POOLED.name: "pooled_models",
    lake_tables.TRAINED.name: "trained_models",
    lake_tables.SCORES.name: "trained_models",
    lake_tables.RECIPES.name: "trained_models",
    lake_tables.CHAMPIONS.name: "promoted_models",
    lake_tables.DECISIONS.name: "promoted_models",
    lake_tables.PREDICTIONS.name: "predictions",
}
FROM_THE_LAKE: frozenset[Stage] = frozenset({"store_item_datasets", "pooled_models", "trained_models"})
REMEDY = "`many-models doctor` says what is missing, `many-models doctor --mend` brings back what can be brought back"


def record_marks(instance: dg.DagsterInstance, lake: Lake) -> None:
    """Raise each table's mark to its version now."""
    marks, versions = _marks(instance, MADE_BY), _versions(lake, MADE_BY)
    higher = {
        PREFIX + name: str(version)
        for name, version in versions.items()
        if version is not None and version > marks.get(name, -1)
    }
    if higher:
        instance.daemon_cursor_storage.set_cursor_values(higher)


def lost(instance: dg.DagsterInstance, lake: Lake) -> dict[str, str]:
    """Table → what is wrong with it, for the tables that are older than the records say, or gone."""
    marks = _marks(instance, MADE_BY)
    versions = _versions(lake, marks)
    found = dict[str, str]()
    for name, mark in marks.items():
        version = versions[name]
        if version is None:
            found[name] = f"it is gone; a run has left it at version {mark}"
        elif version < mark:
            found[name] = f"it is at version {version}; a run has left it at version {mark}"
    return found


def require(instance: dg.DagsterInstance, lake: Lake) -> None:
    """Raise IntegrityError, naming the tables, where the lake has lost what the lake alone cannot make again."""
    if problem := problem_of({name: why for name, why in lost(instance, lake).items() if not can_be_remade(name)}):
        raise IntegrityError(problem)


def problem_of(tables: Mapping[str, str]) -> str:
    """One sentence with the tables and the remedy; "" where there are none."""
    if not tables:
        return ""
    said = "; ".join(f"{name}: {why}" for name, why in sorted(tables.items()))
    return f"the lake has lost rows that Dagster's records count as done. {said}. Nothing was changed: {REMEDY}"


def can_be_remade(table: str) -> bool:
    """Whether the lake's other tables hold all that it is made from."""
    return MADE_BY[table] in FROM_THE_LAKE


def forget(instance: dg.DagsterInstance, lake: Lake, tables: Iterable[str]) -> list[Stage]:
    """Take the records of the stages that make `tables` back, so that all of their keys are due again, and put the
    tables' marks at what they are now. Returns the stages.
    """
    names = list(tables)
    stages = list["Stage"](dict.fromkeys(MADE_BY[name] for name in names))
    if "store_item_datasets" in stages:
        lake_tables.forget_histories(lake)
    take_back(instance, stages)
    versions = _versions(lake, names)
    marks = {PREFIX + name: str(-1 if (held := versions[name]) is None else held) for name in names}
    if marks:
        instance.daemon_cursor_storage.set_cursor_values(marks)
    return stages


def take_back(instance: dg.DagsterInstance, stages: Sequence[Stage]) -> None:
    """Delete the records of what `stages` have made."""
    for stage in stages:
        instance.wipe_assets([dg.AssetKey(stage)])


def _marks(instance: dg.DagsterInstance, names: Collection[str]) -> dict[str, int]:
    held = instance.daemon_cursor_storage.get_cursor_values({PREFIX + name for name in names})
    found = dict[str, int]()
    for name, value in held.items():
        table = name.removeprefix(PREFIX)
        if not _MARK.fullmatch(value):
            _LOG.warning(
                f"the mark of the lake's table {table} cannot be read ({value[:40]!r}): it is taken from the table "
                "when the next run ends; until then a loss of this table's rows is not noticed"
            )
        elif int(value) >= 0:
            found[table] = int(value)
    return found


def _versions(lake: Lake, names: Collection[str]) -> dict[str, int | None]:
    with ThreadPoolExecutor(8) as pool:
        return dict(zip(names, pool.map(lake.version, names), strict=True))
