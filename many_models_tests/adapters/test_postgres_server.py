"""The tests' own PostgreSQL server: databases apart, and there again after it was stopped."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
import sqlalchemy
from sqlalchemy.exc import OperationalError

from many_models_tests.stand_ins.postgres_server import running_postgres

if TYPE_CHECKING:
    from many_models_tests.stand_ins.postgres_server import PostgresServer


def tables(url: str) -> list[str]:
    engine = sqlalchemy.create_engine(url, poolclass=sqlalchemy.NullPool)
    return sqlalchemy.inspect(engine).get_table_names()


def test_each_test_has_its_own_database(postgres: PostgresServer) -> None:
    first, second = postgres.new_database(), postgres.new_database()
    with sqlalchemy.create_engine(first, poolclass=sqlalchemy.NullPool).begin() as connection:
        connection.execute(sqlalchemy.text("CREATE TABLE mine (at integer)"))
    assert tables(first) == ["mine"]
    assert tables(second) == []


@pytest.mark.slow
def test_a_stopped_server_is_gone_and_has_its_data_when_it_is_started_again() -> None:
    with running_postgres() as server:
        url = server.new_database()
        server.stop()
        with pytest.raises(OperationalError):
            tables(url)
        server.start()
        assert tables(url) == []
