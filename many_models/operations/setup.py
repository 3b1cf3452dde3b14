"""Setting a project up and keeping it tidy: settings from a table, data assets of Azure ML, maintenance."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, TypedDict

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from pathlib import Path

    from many_models.onboarding.guess import InferredSettings
    from many_models.onboarding.load import Loaded
    from many_models.orchestration.upkeep import Upkeep
    from many_models.settings import Settings


class InitOptions(TypedDict, total=False):
    """What the user says instead of letting it be guessed."""

    keys: Sequence[str]
    timestamp: str
    target: str
    known: Sequence[str]
    frequency: str


@dataclass(frozen=True, slots=True)
class Initialised:
    """The settings file that was written, what it was inferred from, and the file that was loaded; None for SQL."""

    file: Path
    inferred: InferredSettings
    loaded: Loaded | None


def initialise(
    location: str, table: str, given: InitOptions, into: Path, progress: Callable[[int, int], None], *, force: bool
) -> Initialised:
    """Infer the settings of the table at `location` and write many_models.toml into the folder `into`.

    A file is also loaded into the SQLite source `sales.db` there; `progress` gets the done and the total amount.
    Raises SettingsError when there is a many_models.toml already.
    """
    from many_models.errors import SettingsError
    from many_models.onboarding.guess import infer_settings
    from many_models.onboarding.load import load_file
    from many_models.settings import FILE_NAME, load_settings

    file = into / FILE_NAME
    if file.exists() and not force:
        raise SettingsError(f"{file} is there already: --force replaces it, --into FOLDER writes elsewhere")
    found = infer_settings(location, table=table, **given)
    into.mkdir(parents=True, exist_ok=True)
    url, name, loaded = found.url, found.table.value, None
    if found.kind != "sql":
        loaded = load_file(location, into / "sales.db", found, progress)
        url, name = "sqlite:///sales.db", loaded.table
    file.write_text(found.to_toml(url, name))
    load_settings(file)
    return Initialised(file, found, loaded)


def register_lake(settings: Settings) -> list[str]:
    """Register the lake's tables with Azure ML; returns the data assets' names."""
    from many_models.wiring import build_datastore, build_lake

    return build_datastore(settings).register(build_lake(settings).tables())


def run_maintenance(settings: Settings) -> Upkeep:
    """Delete what is superseded; returns what went, and the errors by part."""
    from many_models.operations.day import open_instance
    from many_models.orchestration import upkeep
    from many_models.settings import dagster_home
    from many_models.wiring import build_lake, build_production, build_staging

    registries = build_staging(settings), build_production(settings)
    with open_instance(dagster_home(settings), settings.dagster.storage) as instance:
        return upkeep.run_maintenance(settings, instance, build_lake(settings), *registries)
