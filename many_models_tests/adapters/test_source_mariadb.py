"""MariaDB as a source: the contract, and what its types become."""

from __future__ import annotations

from dataclasses import replace
from datetime import date, datetime, timedelta

import pytest
import sqlalchemy as sa

from many_models.adapters.source.server import ServerSource
from many_models.adapters.sql.dialects import MySql
from many_models.errors import AccessError, InputError, SettingsError
from many_models.settings import load_settings
from many_models.wiring import build_source
from many_models_tests.contracts.source import DAY, SALES, SourceContract, whole
from many_models_tests.stand_ins.mariadb_server import USER, MariaDbServer, running_mariadb

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def mariadb():
    with running_mariadb() as server:
        server.execute(*(f"CREATE DATABASE {name} CHARACTER SET utf8mb4" for name in ("contract", "types")))
        yield server


class TestMariaDbSource(SourceContract):
    """One database: a source ends when one is made."""

    keeps_nul = False
    keeps_infinity = False
    keeps_emoji_names = False
    examples = 3

    @pytest.fixture
    def make(self, mariadb: MariaDbServer):
        url = mariadb.url("contract")

        def made(tables) -> ServerSource:
            engine = sa.create_engine(url, poolclass=sa.pool.NullPool, connect_args={"charset": "utf8mb4"})
            dialect = MySql()
            with engine.begin() as connection:
                for name in dialect.tables(connection, None):
                    sa.Table(name, sa.MetaData()).drop(connection)
                for name, rows in tables.items():
                    columns = [sa.Column(field.name, dialect.column_type(field.type)) for field in rows.schema]
                    table = sa.Table(name, sa.MetaData(), *columns)
                    table.create(connection)
                    dialect.insert(connection, table, rows)
            return ServerSource(url)

        return made


def test_types_of_mariadb_come_as_the_port_says(mariadb: MariaDbServer):
    mariadb.execute(
        "SET sql_mode = ''",
        "CREATE OR REPLACE TABLE types.sales (store ENUM('a', 'b'), item SMALLINT UNSIGNED, date DATETIME(6), "
        "sold DECIMAL(10, 2), price FLOAT, event JSON) CHARACTER SET utf8mb4",
        "CREATE OR REPLACE TABLE types.items (a TINYINT(1), d DATE, e BLOB, g TIME, j BIGINT, k DOUBLE, z DATE)",
        "INSERT INTO types.items VALUES (1, '2017-01-01', 'z', '10:00', 7, 1.5, '0000-00-00')",
        "INSERT INTO types.sales VALUES ('a', 7, '2017-01-01 02:00:00.000001', 1.25, 0.5, '{}'),"
        " ('b', 8, '0000-00-00', 2, NULL, NULL)",
    )
    source = ServerSource(mariadb.url("types"))
    assert source.read_table("items").to_pylist() == [
        {"a": 1, "d": date(2017, 1, 1), "e": b"z", "g": "10:00:00", "j": 7, "k": 1.5, "z": None}
    ]
    assert whole(source) == [
        {"store": "a", "item": "7", "date": datetime(2017, 1, 1, 2, 0, 0, 1), "sold": 1.25, "price": 0.5, "event": "{}"}
    ]
    assert source.read_undated(SALES).num_rows == 1
    assert [count.rows for count in source.days(SALES)] == [1]


def test_a_timestamp_is_read_in_utc_and_no_wrong_local_time_is_made_of_it(mariadb: MariaDbServer):
    mariadb.execute(
        "CREATE OR REPLACE TABLE types.moments (store TEXT, item TEXT, date TIMESTAMP, sold DOUBLE, price DOUBLE, "
        "event TEXT)",
        "SET time_zone = '+05:00'",
        "INSERT INTO types.moments VALUES ('a', 'b', '2017-01-01 05:00', 1, NULL, NULL)",
    )
    sales = replace(SALES, table="moments")
    source = ServerSource(mariadb.url("types"))
    assert [line["date"] for line in whole(source, sales)] == [DAY]
    assert source.span(sales, DAY, DAY + timedelta(1)) == (DAY, DAY)
    with pytest.raises(InputError, match=r"'date' is a TIMESTAMP.*name a DATETIME column"):
        whole(source, replace(sales, timezone="Europe/Paris"))


def test_the_settings_name_mariadb_and_what_it_refuses_is_named(mariadb, monkeypatch, tmp_path):
    def source(database: str = "types"):
        file = tmp_path / "many_models.toml"
        address = f"mariadb://{USER}@127.0.0.1:{mariadb.port}/{database}"
        file.write_text(f'[source]\nurl = "{address}"\ncredential = "password"\n')
        return build_source(load_settings(file))

    monkeypatch.setenv("MANY_MODELS_SOURCE_PASSWORD", mariadb.password)
    assert "tables" in source().check()
    with pytest.raises(SettingsError, match="names a database that is not there"):
        source("nowhere").check()
    monkeypatch.setenv("MANY_MODELS_SOURCE_PASSWORD", "planted wrong")
    with pytest.raises(AccessError) as error:
        source().check()
    assert "planted" not in str(error.value)
