"""Many rows of MLflow's model registry in one transaction, where it is a database that is reached without a server.

MLflow's own way is a transaction of 10 to 30 ms for each. Tables and columns are those of MLflow 3.15 to 3.17.
"""

from __future__ import annotations

import time
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Generator, Mapping, Sequence

    from sqlalchemy import Connection

WORKSPACE = "default"
BUSY_MILLISECONDS = 60_000


@dataclass(frozen=True, slots=True)
class NewVersion:
    """A version about to be made of the registered model `name`: where its files are, and its tags."""

    name: str
    source: str
    tags: Mapping[str, str]


@contextmanager
def _transaction(uri: str) -> Generator[Connection]:
    import sqlalchemy as sa

    engine = sa.create_engine(uri)
    try:
        with engine.begin() as connection:
            yield connection
    finally:
        engine.dispose()


def insert_versions(uri: str, run_id: str, versions: Sequence[NewVersion]) -> list[int]:
    """Make all `versions` of a run, and the registered models that are not there yet, or none of them; their numbers.

    For SQLite: the transaction locks out every other writer from its start on, so that no number is given twice.
    """
    import sqlalchemy as sa
    from mlflow.store.model_registry.dbmodels.models import SqlModelVersion, SqlModelVersionTag, SqlRegisteredModel

    if not versions:
        return []
    models, rows, tags = (table.__table__ for table in (SqlRegisteredModel, SqlModelVersion, SqlModelVersionTag))
    now = int(time.time() * 1000)
    numbers: dict[str, int] = {}
    with _transaction(uri) as connection:
        connection.exec_driver_sql(f"PRAGMA busy_timeout = {BUSY_MILLISECONDS}")
        connection.exec_driver_sql("BEGIN IMMEDIATE")
        for name in sorted({version.name for version in versions}):
            last = sa.select(sa.func.max(rows.c.version)).where(rows.c.name == name, rows.c.workspace == WORKSPACE)
            numbers[name] = connection.execute(last).scalar() or 0
            touched = sa.update(models).where(models.c.name == name, models.c.workspace == WORKSPACE)
            if not connection.execute(touched.values(last_updated_time=now)).rowcount:
                connection.execute(sa.insert(models).values(name=name, creation_time=now, last_updated_time=now))
        made: list[int] = []
        for version in versions:
            numbers[version.name] += 1
            made.append(numbers[version.name])
        common = {"run_id": run_id, "creation_time": now, "last_updated_time": now}
        numbered = list(zip(versions, made, strict=True))
        connection.execute(
            sa.insert(rows),
            [
                {"name": v.name, "version": n, "source": v.source, "storage_location": v.source, **common}
                for v, n in numbered
            ],
        )
        every = [
            {"name": v.name, "version": n, "key": key, "value": value}
            for v, n in numbered
            for key, value in v.tags.items()
        ]
        if every:
            connection.execute(sa.insert(tags), every)
    return made


def move_aliases(uri: str, alias: str, versions: Mapping[str, str]) -> None:
    """Points `alias` of each registered model at a version."""
    import sqlalchemy as sa
    from mlflow.store.model_registry.dbmodels.models import SqlRegisteredModelAlias

    table = SqlRegisteredModelAlias.__table__
    mine = sa.and_(table.c.alias == alias, table.c.workspace == WORKSPACE)
    with _transaction(uri) as connection:
        has = set(connection.execute(sa.select(table.c.name).where(mine)).scalars())
        moved = [{"n": name, "v": int(version)} for name, version in versions.items() if name in has]
        made = [
            {"name": name, "alias": alias, "version": int(version)}
            for name, version in versions.items()
            if name not in has
        ]
        if moved:
            move = sa.update(table).where(mine, table.c.name == sa.bindparam("n"))
            connection.execute(move.values(version=sa.bindparam("v")), moved)
        if made:
            connection.execute(sa.insert(table), made)


def delete_rows(uri: str, versions: Sequence[tuple[str, int]]) -> None:
    """Delete model versions, their tags and aliases; MLflow itself would only hide them."""
    import sqlalchemy as sa

    if not versions:
        return
    with _transaction(uri) as connection:
        for table in ("model_version_tags", "registered_model_aliases", "model_versions"):
            columns = sa.table(table, sa.column("name"), sa.column("version"))
            statement = sa.delete(columns).where(
                columns.c.name == sa.bindparam("n"), columns.c.version == sa.bindparam("v")
            )
            connection.execute(statement, [{"n": name, "v": version} for name, version in versions])
