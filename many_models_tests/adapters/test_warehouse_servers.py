"""The warehouses that are servers: the contract over PostgreSQL and the T-SQL stand-in, and what can happen to them."""

from __future__ import annotations

import itertools
import re
import time
import traceback
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import TYPE_CHECKING

import pyarrow as pa
import pyodbc
import pytest
import sqlalchemy as sa

from many_models.adapters.azure import identity
from many_models.adapters.sql import connections, dialects
from many_models.adapters.warehouse import sql
from many_models.adapters.warehouse.fabric import FabricWarehouse
from many_models.adapters.warehouse.sql import SqlWarehouse
from many_models.adapters.warehouse.synapse import SynapseWarehouse
from many_models.errors import AccessError, InputError, SettingsError, UnavailableError
from many_models.ports import Filter, WarehouseView
from many_models.settings import load_settings
from many_models.wiring import build_warehouse
from many_models_tests.contracts.warehouse import (
    NOON,
    WarehouseContract,
    contents,
    of_day,
    part,
    reported,
    row,
    rows,
)
from many_models_tests.stand_ins.tds_server import (
    IDENTITY,
    PASSWORD,
    READER,
    TOKEN,
    require_freetds,
    require_microsofts_driver,
    running_tds,
    unparsed,
)
from many_models_tests.support.running_server import JsonHandler, serving

if TYPE_CHECKING:
    from collections.abc import Iterator

pytestmark = pytest.mark.slow
schemas = itertools.count()


@pytest.fixture(scope="module")
def database(postgres):
    return postgres.new_database()


def new_schema() -> str:
    return f"of test {next(schemas)}"


@pytest.fixture(autouse=True)
def schemas_are_dropped(request):
    """Each look into the stand-in's catalog takes longer the more is in it."""
    yield
    if "tds" in request.fixturenames:
        request.getfixturevalue("tds").forget("of test ")


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


class TestSqlServerWarehouseByMicrosoftsDriver(WarehouseContract):
    """On the stand-in, through ODBC Driver 18: arrays of parameters, Unicode, datetime2."""

    keeps_infinity = False
    longest_name = 128
    examples = 6

    @pytest.fixture
    def make(self, tds):
        return lambda: SqlWarehouse(tds.microsofts_url(), clock=lambda: NOON, schema=new_schema())


class TestSynapseWarehouse(WarehouseContract):
    """On the stand-in with a dedicated pool's rules, rows through a folder."""

    keeps_infinity = False
    longest_name = 128
    examples = 6

    @pytest.fixture
    def make(self, tds):
        return lambda: SynapseWarehouse(
            tds.url(database="synapse"), tds.staging(), clock=lambda: NOON, schema=new_schema()
        )


class TestFabricWarehouse(WarehouseContract):
    """On the stand-in with the rules of a Fabric warehouse, rows through a folder."""

    keeps_infinity = False
    longest_name = 128
    examples = 6

    @pytest.fixture
    def make(self, tds):
        url = tds.url(database="fabric")
        return lambda: FabricWarehouse(url, tds.staging(), clock=lambda: NOON, schema=new_schema())


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
    assert "loads: 0" in warehouse.check()
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


def test_synapse_reads_what_was_staged_in_azure_storage_and_leaves_none_of_it(azurite, tmp_path, monkeypatch):
    require_freetds()
    root = azurite.container("lake")
    monkeypatch.setenv("AZURE_STORAGE_KEY", azurite.key)
    with running_tds(tmp_path, storage=azurite.connection_string) as server:
        file = tmp_path / "many_models.toml"
        address = server.url(password="", database="synapse")
        file.write_text(
            f'[lake]\npath = "{root}/lake"\ncredential = "key"\nendpoint = "{azurite.endpoint}"\n'
            f'[warehouse]\nkind = "synapse"\nurl = "{address}"\ncredential = "password"\n'
        )
        monkeypatch.setenv("MANY_MODELS_WAREHOUSE_PASSWORD", PASSWORD)
        warehouse = build_warehouse(load_settings(file))
        for _ in range(2):
            assert warehouse.load("a", "f", [part(rows(row("a"), row("ü", step=None)))]) == 2
        assert contents(warehouse.read("predictions")) == contents(rows(row("a"), row("ü", step=None)))
        copies = [statement for statement in server.statements() if statement.startswith("COPY INTO")]
    assert len(copies) == 2
    assert f"FROM 'https://{azurite.account}.dfs.core.windows.net/lake/lake/staging/" in copies[0]
    assert azurite.blobs("lake") == []


STEPS = ["COPY INTO", "CREATE TABLE .*predictions", "^DELETE", "^INSERT INTO .*predictions", "^MERGE", "^COMMIT"]


@pytest.mark.parametrize("kind", ["sql", "synapse"])
@pytest.mark.parametrize("step", STEPS)
def test_a_connection_cut_in_the_middle_of_a_load_is_tried_again_and_loads_once(tds, monkeypatch, kind, step):
    monkeypatch.setattr(sql, "PAUSE_SECONDS", 0.01)
    schema = new_schema()
    warehouse = (
        SynapseWarehouse(tds.url(database="synapse"), tds.staging(), schema=schema)
        if kind == "synapse"
        else SqlWarehouse(tds.url(), schema=schema)
    )
    tds.cut_at(step)
    warehouse.load("a", "f", [part(rows(row("a"), row("b")), of_day(0))])
    (tds.folder / "cut").unlink(missing_ok=True)
    assert contents(warehouse.read("predictions")) == contents(rows(row("a"), row("b")))
    assert warehouse.loads() == {"a": "f"}
    left = [name for name in warehouse._dialect.tables(warehouse._engine.connect(), schema) if "staging" in name]
    warehouse.load("b", "f", [part(rows(row("c")), of_day(0))])
    assert contents(warehouse.read("predictions")) == contents(rows(row("c")))
    assert len(left) <= 1


def test_a_copy_that_postgres_loses_in_the_middle_is_done_again_from_its_beginning(postgres, monkeypatch):
    url = postgres.new_database()
    warehouse = SqlWarehouse(url)
    warehouse.load("a", "f", [part(rows(row("old")))])
    monkeypatch.setattr(sql, "PAUSE_SECONDS", 0.01)
    monkeypatch.setattr(dialects, "BATCH_ROWS", 100)
    made, breaks = dialects.batches, [150, 250]

    def breaking(table: pa.Table) -> Iterator[pa.Table]:
        for number, batch in enumerate(made(table)):
            yield batch
            if breaks and number == breaks[0] // 100:
                breaks.pop(0)
                postgres.drop_connections()

    monkeypatch.setattr(dialects, "batches", breaking)
    new = rows(*(row(f"s{at}") for at in range(1_000)))
    assert warehouse.load("b", "f", [part(new)]) == 1_000
    assert breaks == []
    assert contents(warehouse.read("predictions")) == contents(new)
    assert warehouse.loads() == {"a": "f", "b": "f"}


@pytest.fixture
def token_endpoint(monkeypatch):
    """A managed identity's endpoint on loopback: it hands out `given[0]`, good for some seconds, or refuses."""
    given: list[tuple[str, int]] = []

    class Endpoint(JsonHandler, BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            known = any(service in self.path for service in ("ossrdbms-aad", "database.windows.net"))
            asked = bool(given) and self.headers["X-IDENTITY-HEADER"] == "ours" and known
            word, seconds = given[0] if asked else ("", 0)
            body = {"access_token": word, "expires_on": str(int(time.time()) + seconds), "token_type": "Bearer"}
            self.tell(*((200, body) if asked else (400, {"statusCode": 400, "message": "no identity"})))

    with serving(ThreadingHTTPServer(("127.0.0.1", 0), Endpoint)) as server:
        monkeypatch.setenv("IDENTITY_ENDPOINT", f"http://127.0.0.1:{server.server_port}/token")
        monkeypatch.setenv("IDENTITY_HEADER", "ours")
        identity.credential.cache_clear()
        yield given
        identity.credential.cache_clear()


def test_an_expired_token_is_renewed_and_a_refused_one_is_a_clear_error(
    postgres, token_endpoint, tmp_path, monkeypatch
):
    monkeypatch.setattr(sql, "PAUSE_SECONDS", 0.01)
    database = postgres.new_database()
    postgres.execute("DROP ROLE IF EXISTS identity")
    postgres.execute("CREATE ROLE identity LOGIN SUPERUSER PASSWORD 'planted token 1'")
    file = tmp_path / "many_models.toml"
    address = f"postgresql://identity@127.0.0.1:{postgres.port}/{database.rpartition('/')[2]}"
    file.write_text(f'[warehouse]\nurl = "{address}"\ncredential = "managed_identity"\n')
    warehouse = build_warehouse(load_settings(file))
    token_endpoint[:] = [("planted token 1", 1)]
    assert warehouse.load("a", "f", [part(rows(row("a")))]) == 1

    postgres.execute("ALTER ROLE identity PASSWORD 'planted token 2'")
    token_endpoint[:] = [("planted token 2", 1)]
    postgres.drop_connections()
    time.sleep(1.1)
    assert warehouse.load("b", "f", [part(rows(row("b")), of_day(0))]) == 1

    postgres.execute("ALTER ROLE identity PASSWORD 'another'")
    postgres.drop_connections()
    time.sleep(1.1)
    with pytest.raises(AccessError, match="password authentication failed") as wrong:
        warehouse.load("c", "f", [part(rows(row("c")))])
    token_endpoint[:] = []
    with pytest.raises(AccessError, match=r"no token for .*ossrdbms-aad.*managed identity") as none:
        warehouse.load("c", "f", [part(rows(row("c")))])
    for error in (wrong, none):
        assert "planted" not in "".join(traceback.format_exception(error.value))
    assert SqlWarehouse(database).loads() == {"a": "f", "b": "f"}


def test_a_token_that_sql_server_calls_expired_is_renewed_once(tds, token_endpoint, tmp_path, monkeypatch):
    """FreeTDS has no SQL_COPT_SS_ACCESS_TOKEN: what we hand to the driver for it goes over the wire as a password."""
    import pyodbc

    connect, shown = pyodbc.connect, list[str]()

    def with_freetds(text: str, *, attrs_before: dict[int, bytes], **named: object) -> pyodbc.Connection:
        shown.append(attrs_before[connections.ACCESS_TOKEN][4:].decode("utf-16-le"))
        assert "Trusted_Connection" not in text
        return connect(f"{text};UID={IDENTITY};PWD={shown[-1]}", **named)

    monkeypatch.setattr(pyodbc, "connect", with_freetds)
    monkeypatch.setattr(sql, "PAUSE_SECONDS", 100)
    file = tmp_path / "many_models.toml"
    address = tds.url(user="", password="")
    schema = new_schema()
    file.write_text(f'[warehouse]\nurl = "{address}"\ncredential = "managed_identity"\ntables_in = "{schema}"\n')
    try:
        tds.accept_tokens("planted token 1")
        token_endpoint[:] = [("planted token 1", 86_000)]
        assert build_warehouse(load_settings(file)).load("a", "f", [part(rows(row("a")))]) == 1
        tds.accept_tokens("planted token 2")
        token_endpoint[:] = [("planted token 2", 86_000)]
        assert build_warehouse(load_settings(file)).load("b", "f", [part(rows(row("b")), of_day(0))]) == 1
        assert shown == ["planted token 1", "planted token 1", "planted token 2"]
        tds.accept_tokens()
        with pytest.raises(AccessError, match="token is expired") as error:
            build_warehouse(load_settings(file)).load("c", "f", [part(rows(row("c")))])
    finally:
        tds.accept_tokens(TOKEN)
        monkeypatch.undo()
    assert len(shown) == 5  # once more, and no third time
    assert "planted" not in "".join(traceback.format_exception(error.value))
    assert SqlWarehouse(tds.url(), schema=schema).loads() == {"a": "f", "b": "f"}


def test_connections_that_the_server_ends_are_opened_again(postgres):
    warehouse = SqlWarehouse(postgres.new_database())
    warehouse.load("a", "f", [part(rows(row("a")))])
    postgres.drop_connections()
    assert warehouse.load("b", "f", [part(rows(row("b")))]) == 1
    assert warehouse.loads() == {"a": "f", "b": "f"}


def test_a_login_that_may_not_write_is_told_so_at_once_and_nothing_changes(tds, monkeypatch):
    monkeypatch.setattr(sql, "PAUSE_SECONDS", 100)
    schema = new_schema()
    SqlWarehouse(tds.url(), schema=schema).load("a", "f", [part(rows(row("a")))])
    with pytest.raises(AccessError, match=r"permission was denied.*granted"):
        SqlWarehouse(tds.url(READER), schema=schema).load("b", "f", [part(rows(row("b")))])
    assert SqlWarehouse(tds.url(READER), schema=schema).loads() == {"a": "f"}


def test_postgres_tells_of_a_missing_grant(postgres):
    url = postgres.new_database()
    SqlWarehouse(url).load("a", "f", [part(rows(row("a")))])
    postgres.execute("DROP ROLE IF EXISTS reader")
    postgres.execute("CREATE ROLE reader LOGIN PASSWORD 'reader'")
    reader = url.replace(f"many_models:{postgres.password}", "reader:reader")
    with pytest.raises(AccessError, match="permission denied"):
        SqlWarehouse(reader).load("b", "f", [part(rows(row("b")))])
    assert SqlWarehouse(url).loads() == {"a": "f"}


def test_a_table_changed_underneath_is_an_error_that_says_what_differs(postgres):
    url = postgres.new_database()
    warehouse = SqlWarehouse(url)
    warehouse.load("a", "f", [part(rows(row("a")))])
    engine = sa.create_engine(url)
    with engine.begin() as connection:
        connection.execute(sa.text("ALTER TABLE predictions ALTER COLUMN y_hat TYPE text"))
    engine.dispose()
    with pytest.raises(InputError, match="'y_hat' is string there, the new rows have double"):
        warehouse.load("b", "f", [part(rows(row("b")))])
    assert warehouse.loads() == {"a": "f"}


def test_every_statement_that_the_adapters_send_is_t_sql(tds):
    before = len(tds.statements())
    for warehouse in (
        SqlWarehouse(tds.url(), schema=new_schema()),
        SynapseWarehouse(tds.url(database="synapse"), tds.staging(), schema=new_schema()),
        FabricWarehouse(tds.url(database="fabric"), tds.staging(), schema=new_schema()),
    ):
        warehouse.load("a", "f", [part(rows(row("a"), row("b")), Filter(among={"series_id": ["a", "b"]}), "t")])
        wider = rows(row("c")).append_column("new column", pa.array([1.5]))
        warehouse.load("b", "f", [part(wider, of_day(0), "t")])
        for _ in range(2):
            warehouse.create_views([WarehouseView("v", 'SELECT "series_id" FROM {t}', ("t",))])
        warehouse.check()
        reported(lambda warehouse=warehouse: warehouse)
    sent = sorted(set(tds.statements()[before:]))
    assert any(statement.startswith("COPY INTO") for statement in sent)
    assert any(statement.startswith("MERGE") for statement in sent)
    assert any("DISTRIBUTION = HASH" in statement for statement in sent)
    kinds = {re.sub(r"of test \d+|staging_\w+|file:\S+|\d+", "x", statement): statement for statement in sent}
    assert sum("NULLIF(SUM(ABS(" in statement for statement in sent) >= 8
    bad = {statement: wrong for statement in kinds.values() if (wrong := unparsed(statement))}
    assert bad == {}


@pytest.mark.parametrize(
    "wrong",
    [
        "SELEC x FROM t",
        "MERGE INTO t USING s ON WHEN MATCHED THEN",
        "COPY INTO t (a FROM 'x' WITH (FILE_TYPE = 'PARQUET'",
        "CREATE TABLE t (a INT",
        "SELECT * FROM t WHERE a = = 1",
        "DELETE FROM WHERE 1 = 1",
    ],
)
def test_what_is_no_t_sql_is_noticed(wrong):
    assert unparsed(wrong)


# --- Microsoft's own driver -----------------------------------------------------------------------------------------
def test_arrays_of_parameters_keep_texts_that_grow_and_look_like_numbers(tds):
    """The first row of an array decides how the driver binds: a longer or another text after it must not be cut."""
    warehouse = SqlWarehouse(tds.microsofts_url(), schema=new_schema())
    texts = ["0.087", "x" * 3_000, "ü😀", "", None, "1e5"]
    new = rows(*(row(f"s{at}", y_hat=at / 7) for at in range(6))).append_column("note", pa.array(texts))
    before = len(tds.statements())
    warehouse.load("a", "f", [part(new)])
    found = warehouse.read("predictions")
    assert contents(found) == contents(new)
    assert len([one for one in tds.statements()[before:] if "INSERT INTO" in one and "staging" in one]) == 1


def test_microsofts_driver_shows_a_token_by_its_attribute(tds):
    url = tds.microsofts_url(user="", database="fabric")
    login = connections.Login(token=lambda: TOKEN)
    warehouse = FabricWarehouse(url, tds.staging(), schema=new_schema(), login=login)
    assert warehouse.load("a", "f", [part(rows(row("a")))]) == 1
    with pytest.raises(AccessError, match="token is expired"):
        FabricWarehouse(url, tds.staging(), login=connections.Login(token=lambda: "another")).check()


def test_microsofts_driver_refuses_a_server_without_encryption(tds, monkeypatch):
    monkeypatch.setattr(sql, "PAUSE_SECONDS", 0.001)
    with pytest.raises(UnavailableError, match="Encryption not supported"):
        SqlWarehouse(tds.microsofts_url(encrypt="yes")).check()


def test_a_driver_that_is_not_installed_is_taken_from_the_wheel(tds):
    path = require_microsofts_driver()
    url = sa.make_url("mssql+pyodbc://me@host/db?driver=ODBC+Driver+18+for+SQL+Server")
    if "ODBC Driver 18 for SQL Server" not in pyodbc.drivers():
        assert connections._with_driver(url).query["driver"] == path
    for other in ("mssql+pyodbc://me@host/db?driver=FreeTDS", "mssql+pyodbc:///?odbc_connect=x"):
        assert connections._with_driver(sa.make_url(other)) == sa.make_url(other)
