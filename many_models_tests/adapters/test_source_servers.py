"""The sources that are servers: the contract over PostgreSQL, and what its types become."""

from __future__ import annotations

import subprocess
import sys
import traceback
from dataclasses import replace
from datetime import datetime, timedelta
from pathlib import Path
from types import SimpleNamespace

import pyarrow as pa
import pytest
import sqlalchemy as sa
from pyarrow import parquet

from many_models.adapters.source import connectorx
from many_models.adapters.source.server import Reader, ServerSource
from many_models.adapters.sql import connections
from many_models.adapters.sql.connections import Login
from many_models.adapters.sql.dialects import Dialect, Postgres
from many_models.adapters.sql.tsql import SqlServer
from many_models.errors import AccessError, UnavailableError
from many_models.ports import SalesTable
from many_models.settings import load_settings
from many_models.wiring import build_source
from many_models_tests.contracts.source import DAY, SALES, SourceContract, whole
from many_models_tests.stand_ins.tds_server import require_freetds, running_tds

NAME = "00000000-0000-0000-0000-000000000001"
pytestmark = pytest.mark.slow


def store(url: str, tables, dialect: Dialect, folder: Path = Path()) -> None:
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
            copy_into(engine, name, rows, folder)


def copy_into(engine: sa.Engine, table: str, rows: pa.Table, folder: Path) -> None:
    """What Synapse's COPY INTO does; FreeTDS takes half a minute to send as many rows."""
    quoted = engine.dialect.identifier_preparer
    with engine.connect() as connection:
        folder.mkdir(exist_ok=True)
        file = folder / "rows.parquet"
        parquet.write_table(rows.rename_columns([f"c{at}" for at in range(rows.num_columns)]), file)
        columns = ", ".join(map(quoted.quote_identifier, rows.column_names))
        connection.execution_options(isolation_level="AUTOCOMMIT").exec_driver_sql(
            f"COPY INTO {quoted.quote_identifier(table)} ({columns}) "
            f"FROM 'https://account.dfs.core.windows.net/staging/{file.name}' "
            "WITH (FILE_TYPE = 'PARQUET', CREDENTIAL = (IDENTITY = 'Managed Identity'))"
        )


@pytest.fixture(scope="module")
def database(postgres) -> str:
    return postgres.new_database()


class TestPostgresSource(SourceContract):
    """Through connectorx. One database: a source ends when one is made."""

    keeps_nul = False
    examples = 5
    reader: Reader = "auto"

    @pytest.fixture
    def make(self, database):
        made: list[ServerSource] = []

        def make(tables) -> ServerSource:
            store(database, tables, Postgres())
            made.append(ServerSource(database, reader=self.reader))
            return made[-1]

        yield make
        assert {source._reader for source in made} <= {self.reader}  # connectorx has read all of it, or none
        for source in made:
            source._engine.dispose()


class TestPostgresSourceStreamed(TestPostgresSource):
    """As the driver hands out rows."""

    examples = 2
    reader: Reader = "stream"


class TestSqlServerSource(SourceContract):
    """On the stand-in: driver and wire, not SQL Server's semantics. One database: a source ends when one is made."""

    keeps_nul = False
    examples = 3
    microsofts = False

    @pytest.fixture
    def make(self, tds_of_sources):
        url = tds_of_sources.microsofts_url() if self.microsofts else tds_of_sources.url()
        dialect = SqlServer()
        dialect.engine(sa.make_url(url), Login()).dispose()  # which notices FreeTDS

        def made(tables) -> ServerSource:
            store(url, tables, dialect, tds_of_sources.folder / "storage")
            return ServerSource(url)

        return made


class TestSqlServerSourceByMicrosoftsDriver(TestSqlServerSource):
    """Through ODBC Driver 18."""

    examples = 2
    microsofts = True


@pytest.fixture(scope="module")
def tds_of_sources(tmp_path_factory):
    require_freetds()
    with running_tds(tmp_path_factory.mktemp("tds of sources")) as server:
        yield server


@pytest.mark.parametrize("reader", ["auto", "stream"])
def test_zones_numbers_and_other_types_of_postgres_come_as_the_port_says(postgres, reader):
    url = postgres.new_database()
    engine = sa.create_engine(url, poolclass=sa.pool.NullPool)
    with engine.begin() as connection:
        connection.exec_driver_sql(
            "CREATE TABLE sales (store uuid, item smallint, date timestamptz, sold numeric(10, 2), "
            "price real, event jsonb)"
        )
        connection.exec_driver_sql("CREATE TYPE kind AS ENUM ('fresh', 'dry')")
        connection.exec_driver_sql(
            "CREATE TABLE items (a kind, b varchar(5), c char(3), d date, e bytea, f boolean, g time, h text[], "
            "i money, j integer, k timestamp)"
        )
        connection.exec_driver_sql(
            "INSERT INTO items VALUES ('dry', 'x', 'y', '2017-01-01', 'z', true, '10:00', '{a}', 1.5, 7, '2017-01-01'),"
            "(NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, 'infinity'),"
            "(NULL, NULL, NULL, 'infinity', NULL, NULL, NULL, NULL, NULL, NULL, '0044-03-15 BC')"
        )
        connection.exec_driver_sql(
            "INSERT INTO sales VALUES ('" + NAME + "', 7, '2017-01-01 02:00+02', 1.25, 0.5, '{}'),"
            "(NULL, NULL, NULL, NULL, NULL, NULL)"
        )
    source = ServerSource(url, reader=reader)
    first, *others = source.read_table("items").to_pylist()
    assert first == {
        "a": "dry", "b": "x", "c": "y  ", "d": DAY.date(), "e": b"z", "f": True, "g": "10:00:00", "h": "{a}",
        "i": "$1.50", "j": 7, "k": DAY,
    }  # fmt: skip
    assert others == [dict.fromkeys(first), dict.fromkeys(first)]
    assert source._reader == reader
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


@pytest.mark.parametrize("kind", ["date", "timestamp", "timestamptz", "text"])
def test_a_day_is_a_day_whatever_the_server_declares_it(postgres, kind):
    url = postgres.new_database()
    engine = sa.create_engine(url, poolclass=sa.pool.NullPool)
    with engine.begin() as connection:
        connection.exec_driver_sql(f"CREATE TABLE sales (k text, date {kind}, y float, at integer)")
        connection.exec_driver_sql("INSERT INTO sales VALUES ('a', '2017-01-01', 1, 1), ('a', '2017-01-03', 2, 2)")
    days = [DAY, DAY + timedelta(days=2)]
    for sales in (MANY, replace(MANY, changed="at")):
        source = ServerSource(url)
        assert [count.day for count in source.days(sales)] == days
        assert [count.day for count in source.days(sales, days[1])] == days[1:]
        assert source.span(sales, days[0], days[1]) == (days[0], days[1])
        assert source.span(sales, days[1] + timedelta(days=1), days[1] + timedelta(days=9)) is None
        (rows,) = source.read(sales, days[1], days[1] + timedelta(days=1))
        assert rows.to_pylist() == [{"k": "a", "date": days[1], "y": 2.0}]


MANY = SalesTable("sales", ("k",), "date", "y")
READ = """
import resource, sys
from datetime import datetime
from many_models.adapters.source.server import Reader, ServerSource
from many_models.ports import SalesTable
source = ServerSource(sys.argv[1], reader=sys.argv[2])
sales = SalesTable("sales", ("k",), "date", "y")
for days in (1, 30):
    rows = sum(len(rows) for rows in source.read(sales, datetime(2017, 1, 1), datetime(2017, 1, 1 + days)))
    assert rows == days * 50_000, rows
    print(source._reader, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024)
"""


@pytest.fixture(scope="module")
def many(postgres) -> str:
    """A database with 50,000 rows a day for 30 days: 60 MB in Arrow."""
    url = postgres.new_database()
    engine = sa.create_engine(url, poolclass=sa.pool.NullPool)
    with engine.begin() as connection:
        connection.exec_driver_sql(
            "CREATE TABLE sales AS SELECT 'item ' || g / 300 AS k, timestamp '2017-01-01' "
            "+ g * interval '1 day' / 50000 AS date, g::float8 AS y FROM generate_series(0, 1499999) AS g"
        )
    return url


@pytest.mark.parametrize(("reader", "most"), [("auto", 40), ("stream", 150)])
def test_memory_does_not_grow_with_the_rows_that_are_read(many, reader, most):
    done = subprocess.run(
        [sys.executable, "-c", READ, many, reader], capture_output=True, text=True, timeout=300, check=False
    )
    assert done.returncode == 0, done.stderr
    (one, before), (two, after) = (line.split() for line in done.stdout.splitlines())
    assert one == two == reader
    assert int(after) - int(before) < most, f"{before} MiB for 50,000 rows, {after} for 1,500,000"


def test_a_connection_that_is_lost_while_connectorx_reads_is_an_error_without_the_password(many, postgres):
    source = ServerSource(many)
    reading = source.read(MANY, datetime(2017, 1, 1), datetime(2018, 1, 1))
    next(reading)
    postgres.drop_connections()
    with pytest.raises(UnavailableError, match="table 'sales'") as error:
        list(reading)
    assert postgres.password not in "".join(traceback.format_exception(error.value))
    assert sum(len(rows) for rows in source.read(MANY, datetime(2017, 1, 1), datetime(2018, 1, 1))) == 1_500_000


def test_what_connectorx_does_not_know_is_left_to_the_driver(many, monkeypatch):
    named = ServerSource(many + "?application_name=ours")
    monkeypatch.setattr(connectorx, "compile_sql", lambda _: "SELECT no_such_column")
    broken = ServerSource(many)
    for source in (named, broken):
        rows = pa.concat_tables(source.read(MANY, datetime(2017, 1, 1), datetime(2017, 1, 2)))
        assert sorted(rows["y"].to_pylist()) == list(range(50_000))
    assert (named._reader, broken._reader) == ("auto", "stream")


@pytest.mark.parametrize(
    ("query", "encrypted", "address"),
    [
        ("", False, "postgresql://me:pl%40nted@host/db"),
        ("", True, "postgresql://me:pl%40nted@host/db?sslmode=require"),
        ("?sslmode=require", True, "postgresql://me:pl%40nted@host/db?sslmode=require"),
        ("?sslmode=disable", False, "postgresql://me:pl%40nted@host/db?sslmode=disable"),
        ("?sslmode=verify-full", True, None),
        ("?sslmode=require&sslrootcert=ca.pem", True, None),
        ("?host=/var/run/postgresql", False, None),
    ],
)
def test_connectorx_connects_as_safely_as_the_driver_or_not_at_all(query, encrypted, address):
    driver = SimpleNamespace(info=SimpleNamespace(ssl_in_use=encrypted))
    connection = SimpleNamespace(connection=SimpleNamespace(driver_connection=driver))
    url = connections.parse(f"postgresql://me@host/db{query}", "source")
    for login in (Login(password="pl@nted"), Login(token=lambda: "pl@nted")):
        assert connectorx.address_of(url, login, connection) == address
    assert connectorx.address_of(sa.make_url("mssql+pyodbc://me@host/db"), Login(), connection) is None
