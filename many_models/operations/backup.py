"""A consistent copy of a project that runs, and its restore into another folder.

What a day writes last is copied first: Dagster's records, then the lake's tables from the last stage to the first, the
registries, the warehouse. So the copy looks like a project whose run was killed: its records know of nothing that its
stores lack, and what a stage did meanwhile is done again. SQLite files are copied by SQLite's own backup, which takes
one moment's state while others write; a Delta table by the files that one version of it names.
"""

from __future__ import annotations

import json
import shutil
import sqlite3
from contextlib import closing
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING

from many_models.adapters.lake.delta_maintenance import files_of_newest
from many_models.data import lake_tables
from many_models.errors import InputError, IntegrityError, SettingsError
from many_models.keys import files_sha256

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from many_models.settings import Settings

MANIFEST = "many_models_backup.json"
LAKE = [
    lake_tables.PREDICTIONS, lake_tables.CHAMPIONS, lake_tables.RELEASE_LOG, lake_tables.DECISIONS, lake_tables.SCORES,
    lake_tables.TRAINED, lake_tables.RECIPES, lake_tables.POOLED, lake_tables.SERIES, lake_tables.DATASETS,
    lake_tables.COVARIATE_VERSIONS, lake_tables.RAW_ATTRIBUTES, lake_tables.RAW_COVARIATES, lake_tables.RAW_OPENINGS,
    lake_tables.RAW_VERSIONS, lake_tables.SERIES_KEYS, lake_tables.QUARANTINE, lake_tables.RAW_SALES,
]  # fmt: skip
PATHS = [
    ("experiments", "artifact_location"),
    ("runs", "artifact_uri"),
    ("model_versions", "source"),
    ("model_versions", "storage_location"),
    ("logged_models", "artifact_location"),
]
LEFT_OUT = {"cache", ".logs_queue", "logs"}  # made again when they are needed


def back_up(settings: Settings, home: Path, into: Path) -> list[str]:
    """Copy the project of `settings` and its Dagster instance `home` into the new folder `into`; the files copied.

    Raises SettingsError where a store is not in the project's folder: a service has its own backups.
    """
    root = settings.root
    if into.exists() and any(into.iterdir()):
        raise InputError(f"{into} is not empty: a backup needs an empty folder")
    if into.resolve().is_relative_to(root.resolve()):
        raise InputError(f"{into} is inside the project {root}: a backup needs a folder elsewhere")
    into.mkdir(parents=True, exist_ok=True)
    copied = list[str]()
    for path in places(settings, home):
        copied += _copy(root, path, into)
    copied += _copy_rest(root, into, copied)
    digests = {name: files_sha256({name: (into / name).read_bytes()}) for name in sorted(copied)}
    manifest = {
        "made_at": datetime.now(UTC).isoformat(timespec="seconds"),
        "root": str(root.resolve()),
        "home": str(home.resolve().relative_to(root.resolve())),
        "files": digests,
    }
    (into / MANIFEST).write_text(json.dumps(manifest, indent=1))
    return copied


def restore(backup: Path, into: Path) -> list[str]:
    """Put the copy `backup` into the new folder `into`: it names no file of the old one, and no run is under way in it.

    Raises IntegrityError where a file is not what was copied.
    """
    file = backup / MANIFEST
    if not file.is_file():
        raise InputError(f"{backup} has no {MANIFEST}: it is not a backup of many-models, or was cut off")
    if into.exists() and any(into.iterdir()):
        raise InputError(f"{into} is not empty: restore into an empty folder, and compare before you switch")
    manifest = json.loads(file.read_text())
    files = manifest["files"]
    for name, digest in files.items():
        source = backup / name
        if not source.is_file() or files_sha256({name: source.read_bytes()}) != digest:
            raise IntegrityError(f"{source} is not what was backed up: take another backup; nothing was restored")
    for name in files:
        target = into / name
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy2(backup / name, target)
    for name in files:
        if name.endswith(".db"):
            _move_places(into / name, manifest["root"], str(into.resolve()))
    _end_runs(into / manifest["home"])
    return sorted(files)


def _move_places(database: Path, before: str, after: str) -> None:
    """Have the absolute paths in an MLflow store lead into the new folder."""
    with closing(sqlite3.connect(database)) as connection, connection:
        for table, column in PATHS:
            held = {row[1] for row in connection.execute(f'PRAGMA table_info("{table}")')}
            if column in held:
                connection.execute(
                    f'UPDATE "{table}" SET "{column}" = replace("{column}", ?, ?) WHERE "{column}" LIKE ?',  # noqa: S608
                    (before, after, f"%{before}%"),
                )


def _end_runs(home: Path) -> None:
    """Mark the runs that were under way when the copy was taken as failed: their processes work on the old folder."""
    import dagster as dg

    from many_models.operations.day import open_instance

    going = [dg.DagsterRunStatus(name) for name in ("QUEUED", "NOT_STARTED", "STARTING", "STARTED", "CANCELING")]
    with open_instance(home) as instance:
        for run in instance.get_runs(dg.RunsFilter(statuses=going)):
            instance.report_run_failed(run, "the project was restored from a copy that was taken while this run went")


def places(settings: Settings, home: Path) -> list[Path]:
    """The project's stores in the order in which they are copied. Raises SettingsError."""
    root, registry = settings.root, settings.registry
    lake = settings.place(settings.lake.path)
    if "://" in lake:
        raise SettingsError(f"the lake is at {lake}: a service has its own backups, see docs/backup.md")
    tables = [Path(lake) / table.name for table in LAKE]
    others = sorted(set(Path(lake).iterdir()) - set(tables)) if Path(lake).is_dir() else []
    found = [home, *others, *tables]
    for role in ("staging", "production"):
        found.append(_database(settings, getattr(registry, role)))
        artifacts = registry.artifacts(getattr(registry, f"{role}_artifacts"), root)
        found.append(Path(artifacts.removeprefix("file://")))
    found.append(_database(settings, settings.warehouse.url))
    if outside := [path for path in found if not path.resolve().is_relative_to(root.resolve())]:
        raise SettingsError(f"{outside[0]} is not in the project's folder {root}: back it up by itself")
    return found


def _database(settings: Settings, url: str) -> Path:
    text = settings.url(url)
    if not text.startswith("sqlite:///"):
        place = text.rpartition("@")[2].partition("?")[0]
        raise SettingsError(f"{place} is a service: it has its own backups, see docs/backup.md")
    return Path(text.removeprefix("sqlite:///"))


def _copy(root: Path, path: Path, into: Path) -> list[str]:
    """Copy a database or a folder of the project; the names of the files, relative to the project's folder."""
    if not path.exists():
        return []
    if path.is_file():
        return [_copy_file(root, path, into)]
    if (path / "_delta_log").is_dir():
        return [_copy_file(root, file, into) for file in files_of_newest(path)]
    names = list[str]()
    for child in sorted(path.iterdir()):
        if child.is_dir() and child.name not in LEFT_OUT:
            names += _copy(root, child, into)
        elif child.is_file() and _wanted(child):
            names.append(_copy_file(root, child, into))
    return names


def _copy_rest(root: Path, into: Path, copied: Sequence[str]) -> list[str]:
    """Settings, the source and whatever else lies in the project's folder, but caches."""
    done = set(copied)
    return [_copy_file(root, path, into) for path in _rest(root) if str(path.relative_to(root)) not in done]


def _rest(root: Path) -> Iterator[Path]:
    for child in sorted(root.iterdir()):
        if child.is_file() and _wanted(child):
            yield child


def _wanted(path: Path) -> bool:
    """SQLite's own side files belong to the database, locks to a process."""
    return not path.name.endswith(("-journal", "-wal", "-shm", "-lock", ".lock"))


def _copy_file(root: Path, path: Path, into: Path) -> str:
    name = str(path.resolve().relative_to(root.resolve()))
    target = into / name
    target.parent.mkdir(parents=True, exist_ok=True)
    with path.open("rb") as file:
        is_sqlite = file.read(16) == b"SQLite format 3\0"
    if is_sqlite:
        with (
            closing(sqlite3.connect(f"file:{path}?mode=ro", uri=True)) as source,
            closing(sqlite3.connect(target)) as copy,
        ):
            source.backup(copy)
    else:
        shutil.copy2(path, target)
    return name
