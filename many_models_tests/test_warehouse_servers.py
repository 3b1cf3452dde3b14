"""The warehouses that are servers: the contract over PostgreSQL and the T-SQL stand-in, and what can happen to them."""

from __future__ import annotations

import itertools
import traceback

import pytest

from many_models.adapters.warehouse_sql import SqlWarehouse
from many_models.definitions import build_warehouse
from many_models.errors import AccessError, SettingsError
from many_models.settings import load_settings
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


def test_a_password_in_the_settings_file_is_refused_without_showing_it(tmp_path):
    file = tmp_path / "many_models.toml"
    file.write_text('[warehouse]\nurl = "postgresql://me:planted@host/db"\n')
    with pytest.raises(SettingsError, match=r"line 2.*MANY_MODELS_WAREHOUSE_PASSWORD") as error:
        load_settings(file)
    assert "planted" not in str(error.value)


@pytest.mark.parametrize("where", ["environment", "file"])
def test_a_password_comes_from_the_environment_or_a_file_and_is_shown_nowhere(
    postgres, monkeypatch, tmp_path, where, caplog
):
    file = tmp_path / "many_models.toml"
    address = f"postgresql://many_models@127.0.0.1:{postgres.port}/postgres"
    file.write_text(f'[warehouse]\nurl = "{address}"\ncredential = "password"\ntables_in = "{new_schema()}"\n')
    name = "MANY_MODELS_WAREHOUSE_PASSWORD"

    def give(password: str) -> None:
        (tmp_path / "password").write_text(f"{password}\n")
        monkeypatch.setenv(*((name, password) if where == "environment" else (f"{name}_FILE", f"{tmp_path}/password")))

    give(postgres.password)
    warehouse = build_warehouse(load_settings(file))
    assert "0 loads" in warehouse.check()
    give("planted wrong")
    with pytest.raises(AccessError, match="password authentication failed") as error:
        build_warehouse(load_settings(file)).check()
    shown = [repr(load_settings(file)), warehouse.check(), caplog.text, repr(vars(warehouse))]
    shown += ["".join(traceback.format_exception(error.value))]
    for text in shown:
        assert "planted wrong" not in text
        assert postgres.password not in text


def test_a_password_in_the_url_is_struck_out_of_every_error(tds):
    url = tds.url(password="planted/s%3Cret:x")
    with pytest.raises(AccessError, match="Login failed for user 'loader'") as error:
        SqlWarehouse(url).check()
    assert "planted" not in "".join(traceback.format_exception(error.value))
