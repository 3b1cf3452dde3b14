"""Whether the stores agree: Dagster's records, the lake, both registries, the warehouse and what the endpoint serves.

Each check compares two stores and says what one knows and the other lacks. `mend` brings back what can be brought back:
from the lake first, then by having it made again (its records are taken back, so that it is due).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

import dagster as dg

from many_models.data import lake_tables
from many_models.errors import DamagedTableError, ManyModelsError
from many_models.orchestration import lake_marks, stage_state
from many_models.orchestration.live_release import follow_release, gone_back
from many_models.orchestration.stage_run import status_rows, write_status

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from many_models.ports import Lake, ProductionRegistry, Release, StagingRegistry, Warehouse
    from many_models.settings import Settings

Store = Literal["records", "lake", "staging", "production", "warehouse", "serving"]
SHOWN = 5


@dataclass(frozen=True, slots=True)
class Finding:
    """One disagreement: the `store` that lacks something, what it lacks, what mends it, and the store that it is
    compared `against` ("": it does not answer, or is damaged, whatever the others hold).
    """

    store: Store
    says: str
    remedy: str
    against: Store | Literal[""] = ""

    @property
    def where(self) -> str:
        """Both stores in words."""
        return f"{self.store}, against {self.against}" if self.against else self.store


@dataclass(frozen=True, slots=True)
class Stores:
    """All that is compared."""

    instance: dg.DagsterInstance
    lake: Lake
    staging: StagingRegistry
    production: ProductionRegistry
    warehouse: Warehouse


def examine_project(settings: Settings, *, and_mend: bool) -> tuple[list[Finding], list[str]]:
    """Every disagreement of a project's stores, and with `and_mend` what `mend` did."""
    from many_models.operations.day import open_instance
    from many_models.settings import dagster_home
    from many_models.wiring import build_lake, build_production, build_staging, build_warehouse

    ports = build_lake(settings), build_staging(settings), build_production(settings), build_warehouse(settings)
    with open_instance(dagster_home(settings), settings.dagster.storage) as instance:
        stores = Stores(instance, *ports)
        found = examine(stores)
        return found, mend(stores) if and_mend and found else []


def examine(stores: Stores) -> list[Finding]:
    """Every disagreement. A store that does not answer is one, and the others are compared all the same."""
    checks: dict[Store, Callable[[Stores], Iterator[Finding]]] = {
        "lake": _lake,
        "records": _records,
        "staging": _staging,
        "production": _production,
        "serving": _serving,
        "warehouse": _warehouse,
    }
    found = list[Finding]()
    for store, check in checks.items():
        try:
            found += check(stores)
        except ManyModelsError as error:
            found.append(Finding(store, str(error), "see `many-models status --check`"))
    return found


def mend(stores: Stores) -> list[str]:
    """Have what is missing made again, and say what was done; a run then does what is due."""
    told = put_aside(stores)
    if tables := lake_marks.lost(stores.instance, stores.lake):
        stages = lake_marks.forget(stores.instance, stores.lake, tables)
        told.append(
            f"{', '.join(stages)}: everything is due again, since the lake has lost {', '.join(sorted(tables))}"
        )
    if lacking := lost_packs(stores):
        lake_marks.take_back(stores.instance, ["trained_models", "promoted_models"])
        told.append(f"trained_models: everything is due again, since staging lacks {_some(lacking)}")
    try:
        told += _mend_production(stores)
    except ManyModelsError as error:  # the other stores are mended all the same
        told.append(f"production: not mended: {error}")
    if dates := _lost_loads(stores):
        told.append(f"warehouse: the next run loads {len(dates)} cutoffs again, from {dates[0]} on")
    return told


def _mend_production(stores: Stores) -> list[str]:
    told = follow_release(stores.instance, stores.lake, stores.production)
    if unreadable := broken_packs(stores.production.live(), stores.production):
        lake_marks.take_back(stores.instance, ["trained_models", "promoted_models"])
        told.append(f"trained_models and promoted_models: everything is due again, since {_some(list(unreadable))}")
    return told


def put_aside(stores: Stores) -> list[str]:
    """Leave the damaged files out of the lake's tables, and have made again what they held."""
    found = stores.lake.damaged()
    for table in found:
        stores.lake.put_aside(table)
    _try_again(stores)
    remade = [table for table in found if table in lake_marks.MADE_BY]
    stages = lake_marks.forget(stores.instance, stores.lake, remade)
    told = [f"table {table}: {_some(list(files))} put aside, in a folder _damaged" for table, files in found.items()]
    return told + [f"{stage}: everything is due again" for stage in stages]


def _try_again(stores: Stores) -> None:
    """Forget the failures that were the damaged files' and not the series' own."""
    kind = DamagedTableError.__name__
    for stage in stage_state.OVER_SERIES:
        failed = status_rows(stores.lake, stage)
        if any(record.kind == kind for record in failed.values()):
            write_status(stores.lake, stage, {key: one for key, one in failed.items() if one.kind != kind})


# --- lake and records -----------------------------------------------------------------------------------------------
def _damaged(stores: Stores) -> Iterator[Finding]:
    for table, files in stores.lake.damaged().items():
        first, why = next(iter(files.items()))
        more = f" and {len(files) - 1} more" if len(files) > 1 else ""
        made = lake_marks.MADE_BY.get(table)
        again = f", and has {made} made again" if made else "; the rows that it held are gone"
        yield Finding("lake", f"table {table}: {first}{more} cannot be read: {why}", f"--mend puts it aside{again}")


def _lake(stores: Stores) -> Iterator[Finding]:
    yield from _damaged(stores)
    for table, why in lake_marks.lost(stores.instance, stores.lake).items():
        stage = lake_marks.MADE_BY[table]
        if lake_marks.can_be_remade(table):
            remedy = f"the next run makes {stage} again from the lake's other tables"
        elif stage == "predictions":
            remedy = "--mend makes the newest cutoff again; older ones are in the warehouse alone"
        elif stage == "raw_sales":
            remedy = "--mend copies every period again from the source"
        else:
            remedy = f"--mend makes {stage} again"
        yield Finding("lake", f"table {table}: {why}", remedy, "records")


def _records(stores: Stores) -> Iterator[Finding]:
    copied = stores.instance.get_materialized_partitions(dg.AssetKey("raw_sales"))
    if stage_state.lake_as_of(stores.lake) is not None and not copied:
        yield Finding(
            "records",
            "Dagster's records know of no period of raw_sales, and the lake holds some",
            "the next run does every stage again: the same rows take the place of those that are there",
            "lake",
        )


# --- registries -----------------------------------------------------------------------------------------------------
def lost_packs(stores: Stores) -> list[str]:
    """The staging versions that the lake says models are in, and staging does not have."""
    rows = lake_tables.records(stores.lake, lake_tables.TRAINED, columns=["series_id", "staging"])
    active = stage_state.active_series(stores.lake)
    wanted = {row["series_id"]: row["staging"] for row in rows if row["series_id"] in active}
    held = stores.staging.newest(sorted(wanted))
    return sorted({ref for name, ref in wanted.items() if name not in held or _older(held[name].ref, ref)})


def _older(held: str, wanted: str) -> bool:
    """Whether `held` is an older version of a model than `wanted`, or of another model."""
    name, _, version = held.rpartition("/")
    wanted_name, _, wanted_version = wanted.rpartition("/")
    if name != wanted_name or not (version.isdigit() and wanted_version.isdigit()):
        return held != wanted
    return int(version) < int(wanted_version)


def _staging(stores: Stores) -> Iterator[Finding]:
    if lacking := lost_packs(stores):
        yield Finding(
            "staging",
            f"the lake's trained_models name {_some(lacking)}, which staging lacks",
            "--mend has the series trained again",
            "lake",
        )


def _production(stores: Stores) -> Iterator[Finding]:
    if found := gone_back(stores.lake, stores.production):
        remedy = "the next run, or --mend, has the lake follow what is live"
        again = ", and promotion decide again where the newer release is unknown"
        yield Finding("production", str(found), f"{remedy}{again if found.forgotten else ''}", "lake")


def broken_packs(live: Release | None, production: ProductionRegistry) -> dict[str, str]:
    """Pack of the live release that cannot be read whole → why."""
    if live is None:
        return {}
    found = dict[str, str]()
    for ref, sha256 in sorted({(one.ref, one.sha256) for one in live.champions.values()}):
        try:
            production.files(ref, sha256)
        except ManyModelsError as error:
            found[ref] = str(error)
    return found


def _serving(stores: Stores) -> Iterator[Finding]:
    for ref, why in broken_packs(stores.production.live(), stores.production).items():
        yield Finding(
            "serving",
            f"pack {ref} of the live release cannot be read: {why}",
            "--mend has its series trained and promoted again",
            "production",
        )


# --- warehouse ------------------------------------------------------------------------------------------------------
def _lost_loads(stores: Stores) -> list[str]:
    done = stage_state.made_versions(stores.instance, "warehouse_predictions")
    return stage_state.missing_loads(stores.lake, done, stores.warehouse.loads())


def _warehouse(stores: Stores) -> Iterator[Finding]:
    if dates := _lost_loads(stores):
        yield Finding(
            "warehouse",
            f"it lacks {len(dates)} loads that the records count as done: {_some(dates)}",
            "the next run loads them again from the lake",
            "records",
        )
    known = max(stage_state.made_versions(stores.instance, "warehouse_predictions"), default="")
    dates = (stage_state.date_of(name) for name in stores.warehouse.loads() or ())
    held = max((date for date in dates if date[:1].isdigit()), default="")  # a load of another name has no date
    if held > known:
        yield Finding(
            "records",
            f"the warehouse holds the load of {held}; the newest that Dagster's records know is {known or 'none'}",
            "the next run does again what the records do not know: the same rows take "
            "the place of those that are there",
            "warehouse",
        )


def _some(names: Sequence[str]) -> str:
    more = f" and {len(names) - SHOWN} more" if len(names) > SHOWN else ""
    return ", ".join(names[:SHOWN]) + more
