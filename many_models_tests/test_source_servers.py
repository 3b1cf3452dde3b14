"""The sources that are servers: the contract over PostgreSQL, and what its types become."""

from __future__ import annotations

import pytest
import sqlalchemy as sa

from many_models.adapters.source_server import ServerSource
from many_models.adapters.warehouse_dialects import Postgres
from many_models.definitions import build_source
from many_models.errors import AccessError
from many_models.settings import load_settings
from many_models_tests.contracts.source import DAY, SALES, SourceContract, whole

NAME = "00000000-0000-0000-0000-000000000001"
pytestmark = pytest.mark.slow


def store(url: str, tables) -> None:
    """Arrow tables as tables of PostgreSQL."""
    engine, dialect = sa.create_engine(url, poolclass=sa.pool.NullPool), Postgres()
    with engine.begin() as connection:
        for name, rows in tables.items():
            columns = [sa.Column(field.name, dialect.column_type(field.type)) for field in rows.schema]
            table = sa.Table(name, sa.MetaData(), *columns)
            table.create(connection)
            dialect.insert(connection, table, rows)


class TestPostgresSource(SourceContract):
    keeps_nul = False
    examples = 5

    @pytest.fixture
    def make(self, postgres):
        def made(tables) -> ServerSource:
            url = postgres.new_database()
            store(url, tables)
            return ServerSource(url)

        return made


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
