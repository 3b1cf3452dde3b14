"""Each rule of docs/azure-rules.md is enforced by the TDS stand-in, and the adapters keep to it."""

from __future__ import annotations

import itertools
import re
from pathlib import Path

import pyarrow as pa
import pytest
import sqlalchemy as sa
from deltalake import write_deltalake

from many_models.adapters.azure.storage import AzureStorage
from many_models.adapters.lake.delta import DeltaLake
from many_models.adapters.warehouse import sql
from many_models.adapters.warehouse.fabric import FabricWarehouse
from many_models.adapters.warehouse.staging_blob import BlobStaging, staging_beside
from many_models.adapters.warehouse.synapse import SynapseWarehouse
from many_models.errors import AccessError, InputError, SettingsError, UnavailableError
from many_models.ports import Filter
from many_models_tests.contracts.warehouse import contents, of_day, part, row, rows
from many_models_tests.stand_ins.tds_server import NEWCOMER
from many_models_tests.stand_ins.tds_server.rules import RULES, ServerError, refuse, refuse_delta

pytestmark = pytest.mark.slow
DOCS = Path(__file__).parents[2] / "docs" / "azure-rules.md"
COPY = "COPY INTO t (a) FROM 'https://lake.{}.core.windows.net/c/f' WITH (FILE_TYPE = 'PARQUET'{})"
MANAGED = ", CREDENTIAL = (IDENTITY = 'Managed Identity')"
BAD_AND_GOOD = [
    # rule, product, refused, taken
    ("ddl in a transaction", "synapse", "CREATE TABLE t (a INT)", "DELETE FROM t"),
    ("copy in a transaction", "fabric", COPY.format("dfs", ""), "CREATE TABLE t (a INT)"),
    ("bulk right", "synapse", COPY.format("dfs", MANAGED), "SELECT 1"),
    ("bulk right", "fabric", COPY.format("dfs", ""), "SELECT 1"),
    ("bulk right", "serverless", "SELECT * FROM OPENROWSET(BULK 'https://x/', FORMAT = 'DELTA') AS r", "SELECT 1"),
    ("parquet by identity over dfs", "synapse", COPY.format("blob", MANAGED), COPY.format("dfs", MANAGED)),
    ("copy from storage", "fabric", COPY.format("dfs", "").replace("https", "abfss"), COPY.format("dfs", "")),
    ("identity of copy", "fabric", COPY.format("dfs", MANAGED), COPY.format("dfs", "")),
    ("double precision", "synapse", "CREATE TABLE t (a DOUBLE PRECISION)", "CREATE TABLE t (a FLOAT(53))"),
    ("merge", "synapse", "MERGE INTO t USING s ON t.a = s.a", "UPDATE t SET a = 1"),
    ("openjson", "synapse", "SELECT * FROM OPENJSON('[]')", "SELECT * FROM STRING_SPLIT('a', ',')"),
    ("application locks", "synapse", "EXEC sp_getapplock @Resource = 'a'", "SELECT 1"),
    ("create or alter view", "synapse", "CREATE OR ALTER VIEW v AS SELECT 1 AS a", "ALTER VIEW v AS SELECT 1 AS a"),
    ("rows in one insert", "synapse", "INSERT INTO t (a) VALUES (1), (2)", "INSERT INTO t (a) VALUES (1)"),
    ("enforced key", "synapse", "CREATE TABLE t (a INT, PRIMARY KEY NONCLUSTERED (a))",
     "CREATE TABLE t (a INT, PRIMARY KEY NONCLUSTERED (a) NOT ENFORCED)"),
    ("default expression", "synapse", "CREATE TABLE t (a DATE DEFAULT GETDATE())", "CREATE TABLE t (a INT DEFAULT 1)"),
    ("tables", "serverless", "CREATE TABLE t (a INT)", "CREATE OR ALTER VIEW v AS SELECT 1 AS a"),
    ("distribution and index", "fabric", "CREATE TABLE t (a INT) WITH (HEAP)", "CREATE TABLE t (a INT)"),
    ("key in create table", "fabric", "CREATE TABLE t (a INT PRIMARY KEY)", "CREATE TABLE t (a INT NOT NULL)"),
    ("enforced key", "fabric", "ALTER TABLE t ADD CONSTRAINT k PRIMARY KEY NONCLUSTERED (a)",
     "ALTER TABLE t ADD CONSTRAINT k PRIMARY KEY NONCLUSTERED (a) NOT ENFORCED"),
    ("default", "fabric", "CREATE TABLE t (a INT DEFAULT 1)", "CREATE TABLE [default] (a INT)"),
    ("types", "fabric", "CREATE TABLE t (a NVARCHAR(10))", "CREATE TABLE t (a VARCHAR(10))"),
    ("datetime2 of 7 digits", "fabric", "CREATE TABLE t (a DATETIME2)", "CREATE TABLE t (a DATETIME2(6))"),
    ("alter column", "fabric", "ALTER TABLE t ALTER COLUMN a INT", "ALTER TABLE t ADD a INT NULL"),
    ("new columns are nullable", "fabric", "ALTER TABLE t ADD a INT NOT NULL", "ALTER TABLE t ADD a INT NULL"),
    ("rowgroups and statistics by hand", "fabric", "ALTER INDEX ALL ON t REORGANIZE", "UPDATE STATISTICS t"),
]  # fmt: skip
schemas = itertools.count()


def new_schema() -> str:
    return f"rules {next(schemas)}"


@pytest.fixture(autouse=True)
def schemas_are_dropped(request):
    """Each look into the stand-in's catalog takes longer the more is in it."""
    yield
    if "tds" in request.fixturenames:
        request.getfixturevalue("tds").forget("rules ")


@pytest.fixture(params=["synapse", "fabric"])
def make(request, tds):
    """Makes a warehouse of the kind in a schema (default: a new one), for a login."""

    def made(schema: str = "", user: str = "loader") -> SynapseWarehouse:
        kind = {"synapse": SynapseWarehouse, "fabric": FabricWarehouse}[request.param]
        return kind(tds.url(user, database=request.param), tds.staging(), schema=schema or new_schema())

    return made


def state(name: str) -> dict[str, bool]:
    return {"in_transaction": "transaction" in name, "bulk": "right" not in name}


@pytest.mark.parametrize(("name", "product", "bad", "good"), BAD_AND_GOOD)
def test_a_rule_refuses_what_it_names_and_nothing_beside_it(name, product, bad, good):
    rule = next(rule for rule in RULES if rule.name == name and product in rule.products)
    with pytest.raises(ServerError) as error:
        refuse(product, bad, **state(name))
    assert error.value.number == rule.number
    refuse(product, good, **state(name))
    refuse("", bad, in_transaction=True, bulk=False)  # SQL Server


def test_every_rule_is_tested_and_documented():
    assert {name for name, *_ in BAD_AND_GOOD} == {rule.name for rule in RULES}
    text = DOCS.read_text()
    for rule in RULES:
        assert re.search(rf"^\| {re.escape(rule.name)} \|.*\b{rule.number}\b", text, re.MULTILINE), rule.name
    tests = set(re.findall(r"`(test_\w+)`", text))
    here = {path.stem: path.read_text() for path in Path(__file__).parents[1].rglob("test_*.py")}
    assert {name for name in tests if name not in here and f"def {name}(" not in "".join(here.values())} == set()


@pytest.mark.parametrize(("name", "product", "bad", "good"), BAD_AND_GOOD)
def test_the_server_itself_refuses_each_planted_violation(tds, name, product, bad, good):
    """On the wire, through the driver; each is a statement that the rule forbids."""
    rule = next(rule for rule in RULES if rule.name == name and product in rule.products)
    url = tds.url(NEWCOMER if "right" in name else "loader", database=product)
    engine = sa.create_engine(url, poolclass=sa.pool.NullPool)
    if "transaction" not in name:
        engine = engine.execution_options(isolation_level="AUTOCOMMIT")
    with engine.connect() as connection:
        if "transaction" in name:
            connection.exec_driver_sql("SELECT 1").fetchall()
        with pytest.raises(sa.exc.DBAPIError, match=str(rule.number)):
            connection.exec_driver_sql(bad)


def test_a_grouping_by_an_unenforced_key_is_taken_for_unique(tds):
    """Which is why no check for duplicates may group: the adapters' own does not, see below."""
    schema = new_schema()
    for database in ("synapse", "fabric"):
        warehouse = (SynapseWarehouse if database == "synapse" else FabricWarehouse)(
            tds.url(database=database), tds.staging(), schema=f"{schema} {database}"
        )
        warehouse.load("a", "f", [part(rows(row("a")))])
        with warehouse._engine.connect() as connection:
            name = f"[{schema} {database}].predictions"
            connection.exec_driver_sql(f"INSERT INTO {name} SELECT * FROM {name}")
            grouped = f"SELECT series_id, cutoff FROM {name} GROUP BY series_id, cutoff HAVING COUNT(*) > 1"
            assert connection.exec_driver_sql(grouped).fetchall() == []
            assert connection.exec_driver_sql(f"SELECT COUNT(*) FROM {name}").scalar_one() == 2


def test_a_key_of_rows_that_stay_is_found_and_nothing_changes(make):
    warehouse = make()
    warehouse.load("a", "f", [part(rows(row("a"), row("b", 1)))])
    with pytest.raises(InputError, match=r"rows outside what is replaced.*1 of them"):
        warehouse.load("b", "f", [part(rows(row("b", 1, step=2)), Filter(among={"step": [2]}))])
    assert contents(warehouse.read("predictions")) == contents(rows(row("a"), row("b", 1)))
    assert warehouse.loads() == {"a": "f"}


def test_the_key_is_what_was_recorded_when_the_catalogue_calls_it_no_primary_key(make):
    schema = new_schema()
    warehouse = make(schema)
    warehouse.load("a", "f", [part(rows(row("a")), of_day(0))])
    again = make(schema)
    again.load("b", "f", [part(rows(row("b")), of_day(0))])
    with pytest.raises(InputError, match=r"has the key \(series_id, cutoff\), the new rows \(series_id\)"):
        again.load("c", "f", [part(rows(row("c")), of_day(0), key=("series_id",))])
    assert again.read("table_keys").num_rows == 2
    with pytest.raises(InputError, match="'table_keys' is where"):
        again.load("c", "f", [part(rows(row("c")), table="table_keys")])


def test_a_table_of_before_whose_key_was_not_recorded_is_loaded_and_recorded(make):
    schema = new_schema()
    warehouse = make(schema)
    warehouse.load("a", "f", [part(rows(row("a")), of_day(0))])
    with warehouse._autocommit("forgetting") as connection:
        connection.exec_driver_sql(f"DELETE FROM [{schema}].table_keys")
    make(schema).load("b", "f", [part(rows(row("b")), of_day(0))])
    assert {line["table_name"] for line in warehouse.read("table_keys").to_pylist()} == {"predictions"}


def test_check_names_the_grant_that_is_missing(make):
    schema = new_schema()
    assert "loads: 0" in make(schema).check()
    with pytest.raises(AccessError, match="GRANT ADMINISTER DATABASE BULK OPERATIONS TO"):
        make(schema, NEWCOMER).check()


def test_a_load_without_the_right_to_bulk_names_the_grant_and_changes_nothing(make):
    schema = new_schema()
    make(schema).load("a", "f", [part(rows(row("a")))])
    with pytest.raises(AccessError, match="GRANT ADMINISTER DATABASE BULK OPERATIONS TO"):
        make(schema, NEWCOMER).load("b", "f", [part(rows(row("b")))])
    assert contents(make(schema).read("predictions")) == contents(rows(row("a")))


@pytest.mark.parametrize("step", ["^INSERT INTO .*predictions", "^DELETE", "COPY INTO"])
def test_a_full_log_is_waited_for_and_the_load_is_there_once(make, tds, monkeypatch, step):
    monkeypatch.setattr(sql, "PAUSE_SECONDS", 0.001)
    warehouse = make()
    tds.fail_at(step, 9002, "The transaction log for database 'dw' is full due to 'ACTIVE_TRANSACTION'.", times=4)
    assert warehouse.load("a", "f", [part(rows(row("a"), row("b")), of_day(0))]) == 2
    assert contents(warehouse.read("predictions")) == contents(rows(row("a"), row("b")))
    assert not (tds.folder / "fail").exists()


@pytest.mark.parametrize(
    ("number", "text", "remedy"),
    [
        (
            42108,
            "Cannot connect to the SQL pool since it is paused. Please resume the SQL pool and try again.",
            "resume",
        ),
        (24801, "Your organization's Fabric compute capacity has exceeded its limits. Try again later.", "scale it up"),
        (50000, "HTTP 430: TooManyRequestsForCapacity, all of the capacity is in use.", "scale it up"),
    ],
)
def test_a_paused_pool_and_a_throttled_capacity_are_waited_for_and_named(make, tds, monkeypatch, number, text, remedy):
    monkeypatch.setattr(sql, "PAUSE_SECONDS", 0.001)
    warehouse = make()
    tds.fail_at("fn_my_permissions|sys.objects|sys.schemas", number, text, times=100)
    try:
        with pytest.raises(UnavailableError, match=remedy):
            warehouse.load("a", "f", [part(rows(row("a")))])
    finally:
        (tds.folder / "fail").unlink()
    assert warehouse.load("a", "f", [part(rows(row("a")))]) == 1


def test_statistics_and_row_groups_are_looked_after_where_the_product_does_not(tds):
    before = len(tds.statements())
    for database, kind in (("synapse", SynapseWarehouse), ("fabric", FabricWarehouse)):
        kind(tds.url(database=database), tds.staging(), schema=new_schema()).load("a", "f", [part(rows(row("a")))])
    done = [one for one in tds.statements()[before:] if re.match(r"UPDATE STATISTICS|ALTER INDEX", one)]
    assert len(done) == 2
    assert done[1].endswith("REORGANIZE WITH (COMPRESS_ALL_ROW_GROUPS = ON)")


def test_upkeep_that_fails_does_not_fail_the_load(tds):
    warehouse = SynapseWarehouse(tds.url(database="synapse"), tds.staging(), schema=new_schema())
    tds.fail_at("UPDATE STATISTICS", 1205, "deadlock")
    assert warehouse.load("a", "f", [part(rows(row("a")))]) == 1


def test_fabric_refuses_a_row_of_more_than_8060_bytes_and_names_it(tds):
    warehouse = FabricWarehouse(tds.url(database="fabric"), tds.staging(), schema=new_schema())
    wide = rows(row("a"), row("b")).append_column("note", pa.array(["short", "ü" * 2030]))
    wide = wide.append_column("more", pa.array(["x" * 4000, "x" * 4000]))
    with pytest.raises(InputError, match=r"'series_id': 'b'.*Fabric keeps at most 8060"):
        warehouse.load("a", "f", [part(wide)])


@pytest.mark.parametrize(
    ("url", "address"),
    [
        ("abfss://c@acc.dfs.core.windows.net/f", "https://acc.dfs.core.windows.net"),
        ("abfss://ws@onelake.dfs.fabric.microsoft.com/l.Lakehouse/Files/f", "https://onelake.dfs.fabric.microsoft.com"),
    ],
)
def test_copy_gets_the_data_lake_address_and_the_upload_the_blob_address(url, address):
    storage = AzureStorage(url, "default", str)
    assert storage.dfs_address == address
    assert storage.blob_address == address.replace(".dfs.", ".blob.")
    assert BlobStaging(storage)


def test_a_serverless_pool_reads_no_delta_table_above_reader_1(tmp_path):
    zoneless = pa.table({"ds": pa.array([0], pa.timestamp("us"))})
    write_deltalake(str(tmp_path), zoneless)
    with pytest.raises(ServerError, match="'timestampNtz' is not supported for table 't'") as error:
        refuse_delta(["timestampNtz"], 3, "t")
    assert error.value.number == 19726
    refuse_delta([], 1, "t")


def test_fabric_lets_in_who_shows_a_token_and_no_other(tds):
    url = tds.url(database="dw").replace("/dw?", "/fabric?")
    with pytest.raises(AccessError, match="Only Microsoft Entra ID is supported"):
        FabricWarehouse(url, tds.staging(), schema=new_schema()).check()


@pytest.mark.parametrize(
    ("url", "credential", "said"),
    [
        ("abfss://ws@onelake.dfs.fabric.microsoft.com/l.Lakehouse/Tables", "key", "Entra ID only"),
        ("abfss://ws@onelake.dfs.fabric.microsoft.com/l.Lakehouse", "default", "NAME.Lakehouse/Tables"),
        ("abfss://ws@onelake.dfs.fabric.microsoft.com/lake", "default", "NAME.Lakehouse/Tables"),
    ],
)
def test_a_path_or_credential_that_onelake_does_not_have_is_refused(url, credential, said):
    with pytest.raises(SettingsError, match=said):
        AzureStorage(url, credential, str)


@pytest.mark.parametrize(
    ("path", "schemas_on", "said"),
    [
        ("Tables", True, "has the option Lakehouse schemas: write …/Tables/dbo"),
        ("Tables/dbo", True, ""),
        ("Tables/dbo", False, "has not the option Lakehouse schemas: write …/Tables"),
        ("Tables", False, ""),
        ("Tables/dbo/deep", True, "and no deeper"),
    ],
)
def test_a_path_that_the_lakehouse_would_not_see_as_tables_is_refused(tmp_path, path, schemas_on, said):
    """On folders as OneLake has them, through delta-rs' own file system."""
    root = tmp_path / "l.Lakehouse" / "Tables"
    (root / "dbo" if schemas_on else root).mkdir(parents=True)
    if schemas_on:
        (tmp_path / "l.Lakehouse" / path).mkdir(parents=True, exist_ok=True)
    lake = DeltaLake(f"file://{tmp_path}/l.Lakehouse/{path}")
    if said:
        with pytest.raises(SettingsError, match=said):
            lake.check()
    else:
        assert "0 tables" in lake.check()


def test_onelake_is_opened_as_onelake_and_staged_outside_its_tables(monkeypatch):
    monkeypatch.setattr("many_models.adapters.azure.storage.token", lambda *_: "planted")
    lake = "abfss://ws@onelake.dfs.fabric.microsoft.com/l.Lakehouse/Tables/dbo"
    options = AzureStorage(lake, "default", str)()
    assert options["azure_use_fabric_endpoint"] == "true"
    assert options["azure_storage_account_name"] == "onelake"
    assert staging_beside(lake) == "abfss://ws@onelake.dfs.fabric.microsoft.com/l.Lakehouse/Files/many_models_staging"
    assert staging_beside("abfss://c@a.dfs.core.windows.net/Tables/x/") == (
        "abfss://c@a.dfs.core.windows.net/Tables/x/staging"
    )
