"""Setting a project up and keeping it tidy: settings from a table, data assets of Azure ML, maintenance."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, TypedDict

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from datetime import date
    from pathlib import Path

    from many_models.onboarding.inferred import InferredSettings
    from many_models.onboarding.load import Loaded
    from many_models.orchestration.upkeep import Upkeep
    from many_models.settings import Settings


class InitOptions(TypedDict, total=False):
    """What the user says instead of letting it be guessed."""

    table: str
    keys: Sequence[str]
    timestamp: str
    target: str
    known: Sequence[str]
    exposure: str
    frequency: str
    missing: str
    aggregate: str
    sheet: str
    first: date


@dataclass(frozen=True, slots=True)
class Initialised:
    """The settings file and the report page, what they were made from, and the file that was loaded; None for SQL."""

    file: Path
    inferred: InferredSettings
    loaded: Loaded | None
    page: Path


def refuse_existing(location: str, into: Path, *, force: bool) -> None:
    """Raise SettingsError where the folder `into` has a many_models.toml, unless `force`."""
    from many_models.errors import SettingsError
    from many_models.settings import FILE_NAME

    file = into / FILE_NAME
    if file.exists() and not force:
        raise SettingsError(
            f"{file} is there already: `many-models load {location}` adds a file to its source, --force replaces it, "
            "--into FOLDER writes elsewhere"
        )


def infer(location: str, given: InitOptions) -> InferredSettings:
    """The settings of the table at `location`; what is `given` is taken as it is."""
    from many_models.onboarding.guess import infer_settings

    return infer_settings(location, **given)


def initialise(found: InferredSettings, into: Path, progress: Callable[[int, int], None]) -> Initialised:
    """Write many_models.toml with what was inferred, and the report page, into the folder `into`.

    A file is also loaded into the SQLite source `sales.db` there; `progress` gets the done and the total amount.
    """
    from many_models.onboarding.load import load_file
    from many_models.onboarding.report_page import PAGE, report_page
    from many_models.settings import FILE_NAME, load_settings

    into.mkdir(parents=True, exist_ok=True)
    file = into / FILE_NAME
    url, name, loaded = found.url, found.table.value, None
    if found.kind != "sql":
        loaded = load_file(found.location, into / "sales.db", found, progress)
        url, name = "sqlite:///sales.db", loaded.table
    file.write_text(found.to_toml(url, name), encoding="utf-8")
    load_settings(file)
    page = into / PAGE
    page.write_text(report_page(found), encoding="utf-8")
    return Initialised(file, found, loaded, page)


def register_lake(settings: Settings) -> list[str]:
    """Register the lake's tables with Azure ML; returns the data assets' names."""
    from many_models.wiring import build_datastore, build_lake

    datastore, lake = build_datastore(settings), build_lake(settings)
    versions = {table: lake.version(table) for table in lake.tables()}
    return datastore.register({table: version for table, version in versions.items() if version is not None})


def run_maintenance(settings: Settings) -> Upkeep:
    """Delete what is superseded; returns what went, and the errors by part."""
    from many_models.operations.day import open_instance
    from many_models.orchestration import upkeep
    from many_models.settings import dagster_home
    from many_models.wiring import build_lake, build_production, build_staging

    registries = build_staging(settings), build_production(settings)
    with open_instance(dagster_home(settings), settings.dagster.storage) as instance:
        return upkeep.run_maintenance(settings, instance, build_lake(settings), *registries)


def power_bi_files(settings: Settings, *, direct_lake: bool) -> dict[str, str]:
    """The files of a Power BI project over the warehouse: path → text.

    Raises SettingsError when Direct Lake is asked of another warehouse than Fabric's, MissingTableError before the
    first load.
    """
    from many_models.errors import SettingsError
    from many_models.reporting import power_bi_direct_lake, power_bi_project
    from many_models.wiring import build_warehouse

    keys, kind = settings.data.keys, settings.warehouse.kind
    if not direct_lake:
        return power_bi_project.project(keys, power_bi_project.schemas(build_warehouse(settings), keys))
    if kind != "fabric":
        raise SettingsError(
            f'Direct Lake reads the tables of a Fabric Warehouse, and [warehouse] kind is "{kind}": '
            "leave --direct-lake out for a model that imports the report views"
        )
    tables = power_bi_direct_lake.schemas(build_warehouse(settings))
    return power_bi_direct_lake.project(keys, tables, settings.warehouse.tables_in or "dbo")
