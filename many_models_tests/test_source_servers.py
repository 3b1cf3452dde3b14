"""The sources that are servers: the contract over PostgreSQL, and what its types become."""

from __future__ import annotations

from pathlib import Path
from tempfile import TemporaryDirectory

import pyarrow as pa
import pytest
import sqlalchemy as sa
from pyarrow import parquet

from many_models.adapters.databases import Login
from many_models.adapters.source_server import ServerSource
from many_models.adapters.warehouse_dialects import Dialect, Postgres
from many_models.adapters.warehouse_tsql import SqlServer
from many_models.definitions import build_source
from many_models.errors import AccessError
from many_models.settings import load_settings
from many_models_tests.contracts.source import DAY, SALES, SourceContract, whole
from many_models_tests.tds_server import require_freetds, running_tds

NAME = "00000000-0000-0000-0000-000000000001"
pytestmark = pytest.mark.slow


def store(url: str, tables, dialect: Dialect) -> None:
    """Arrow tables as the only tables of a database."""
    engine = sa.create_engine(url, poolclass=sa.pool.NullPool)
    with engine.begin() as connection:
        for name in dialect.tables(connection, dialect.default_schema):
            sa.Table(name, sa.MetaData()).drop(connection)
        for name, rows in tables.items():
            columns = [sa.Column(field.name, dialect.column_type(field.type)) for field in rows.schema]
            table = sa.Table(name, sa.MetaData(), *columns)
            table.create(connection)
            if not isinstance(dialect, SqlServer):
                dialect.insert(connection, table, rows)
    if isinstance(dialect, SqlServer):
        for name, rows in tables.items():
            copy_into(engine, name, rows)


def copy_into(engine: sa.Engine, table: str, rows: pa.Table) -> None:
    """What Synapse's COPY INTO does; FreeTDS takes half a minute to send as many rows."""
    quoted = engine.dialect.identifier_preparer
    with TemporaryDirectory() as folder, engine.connect() as connection:
        file = Path(folder) / "rows.parquet"
        parquet.write_table(rows.rename_columns([f"c{at}" for at in range(rows.num_columns)]), file)
        columns = ", ".join(map(quoted.quote_identifier, rows.column_names))
        connection.execution_options(isolation_level="AUTOCOMMIT").exec_driver_sql(
            f"COPY INTO {quoted.quote_identifier(table)} ({columns}) FROM '{file.as_uri()}' "
            "WITH (FILE_TYPE = 'PARQUET', CREDENTIAL = (IDENTITY = 'Managed Identity'))"
        )


class TestPostgresSource(SourceContract):
    keeps_nul = False
    examples = 5

    @pytest.fixture
    def make(self, postgres):
        def made(tables) -> ServerSource:
            url = postgres.new_database()
            store(url, tables, Postgres())
            return ServerSource(url)

        return made


class TestSqlServerSource(SourceContract):
    """On the stand-in: driver and wire, not SQL Server's semantics. One database: a source ends when one is made."""

    keeps_nul = False
    examples = 3

    @pytest.fixture
    def make(self, tds_of_sources):
        url = tds_of_sources.url()
        dialect = SqlServer()
        dialect.engine(sa.make_url(url), Login()).dispose()  # which notices FreeTDS

        def made(tables) -> ServerSource:
            store(url, tables, dialect)
            return ServerSource(url)

        return made


@pytest.fixture(scope="module")
def tds_of_sources(tmp_path_factory):
    require_freetds()
    with running_tds(tmp_path_factory.mktemp("tds of sources")) as server:
        yield server


def test_zones_numbers_and_other_types_of_postgres_come_as_the_port_says(postgres):
    url = postgres.new_database()
    engine = sa.create_engine(url, poolclass=sa.pool.NullPool)
    with engine.begin() as connection:
        connection.exec_driver_sql(
            "CREATE TABLE sales (store uuid, item smallint, date timestamptz, sold numeric(10, 2), "
            "price real, event jsonb)"
        )
        connection.exec_driver_sql(
            "INSERT INTO sales VALUES ('" + NAME + "', 7, '2017-01-01 02:00+02', 1.25, 0.5, '{}'),"
            "(NULL, NULL, NULL, NULL, NULL, NULL)"
        )
    source = ServerSource(url)
    assert whole(source) == [
        {
            "store": "00000000-0000-0000-0000-000000000001",
            "item": "7",
            "date": DAY,
            "sold": 1.25,
            "price": 0.5,
            "event": "{}",
        }
    ]
    assert source.read_undated(SALES).num_rows == 1
    with engine.begin() as connection:
        connection.exec_driver_sql("CREATE SCHEMA other")
        connection.exec_driver_sql("ALTER TABLE sales SET SCHEMA other")
    assert list(source.columns("other.sales"))[:2] == ["store", "item"]


def test_the_settings_name_a_server_and_the_environment_its_password(postgres, monkeypatch, tmp_path):
    file = tmp_path / "many_models.toml"
    address = f"postgresql://many_models@127.0.0.1:{postgres.port}/postgres"
    file.write_text(f'[source]\nurl = "{address}"\ncredential = "password"\n')
    monkeypatch.setenv("MANY_MODELS_SOURCE_PASSWORD", postgres.password)
    assert "tables" in build_source(load_settings(file)).check()
    monkeypatch.setenv("MANY_MODELS_SOURCE_PASSWORD", "planted wrong")
    with pytest.raises(AccessError) as error:
        build_source(load_settings(file)).check()
    assert "planted" not in str(error.value)
