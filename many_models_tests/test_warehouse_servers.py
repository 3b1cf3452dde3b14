"""The warehouses that are servers: the contract over PostgreSQL and the T-SQL stand-in, and what can happen on the way."""

from __future__ import annotations

import itertools

import pytest

from many_models.adapters.warehouse_sql import SqlWarehouse
from many_models_tests.contracts.warehouse import NOON, WarehouseContract

pytestmark = pytest.mark.slow
schemas = itertools.count()


@pytest.fixture(scope="module")
def database(postgres):
    return postgres.new_database()


def new_schema() -> str:
    return f"of test {next(schemas)}"


class TestPostgresWarehouse(WarehouseContract):
    keeps_nul = False
    longest_name = 63
    examples = 10

    @pytest.fixture
    def make(self, database):
        return lambda: SqlWarehouse(database, clock=lambda: NOON, schema=new_schema())


class TestSqlServerWarehouse(WarehouseContract):
    """On the stand-in: driver and wire, not SQL Server's semantics."""

    keeps_infinity = False
    longest_name = 128
    examples = 6

    @pytest.fixture
    def make(self, tds):
        return lambda: SqlWarehouse(tds.url(), clock=lambda: NOON, schema=new_schema())
