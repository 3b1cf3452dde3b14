"""The report views of a Synapse serverless pool, which read the lake by OPENROWSET: their text, and their numbers."""

from __future__ import annotations

import itertools
import re

import pyarrow as pa
import pytest
import sqlalchemy as sa
from click.testing import CliRunner

from many_models.adapters.azure.storage import KEY, AzureStorage
from many_models.adapters.lake.delta import DeltaLake
from many_models.adapters.lake.memory import MemoryLake
from many_models.adapters.warehouse.memory import MemoryWarehouse
from many_models.adapters.warehouse.sql import SqlWarehouse
from many_models.cli.main import main
from many_models.errors import InputError, SettingsError
from many_models.ports import Filter, Warehouse
from many_models.reporting.serverless_views import serverless_views
from many_models.reporting.views import WEEK
from many_models.settings import load_settings
from many_models.wiring import build_warehouse
from many_models_tests.contracts.warehouse import REPORT_KEYS, assert_same, part, report_tables, reported, row, rows
from many_models_tests.stand_ins.tds_server import PASSWORD, require_freetds, running_tds, unparsed

PLACE = "abfss://tables@account.dfs.core.windows.net/many models/lake"
VIEWS = [
    "latest_forecasts",
    "forecasts_and_actuals",
    "accuracy_by_store",
    'accuracy_by_it"em',
    "accuracy_by_week",
    "accuracy_by_series_week",
    "promotion_history",
]
containers = itertools.count()


def fill(lake) -> None:
    """The report's tables as the lake has them: without key parts, which stand in series_keys."""
    tables = {name: full.drop_columns(list(REPORT_KEYS)) for name, full in report_tables().items()}
    dated = {name: with_date(plain) for name, plain in tables.items() if name != "actuals"}
    lake.replace("predictions", dated["predictions"], Filter(), ["cutoff_date"])
    lake.replace("decisions", dated["decisions"], Filter(), ["cutoff_date"])
    lake.replace("raw_sales", tables["actuals"].drop_columns([WEEK]), Filter())
    keys = report_tables()["actuals"].select(["series_id", *REPORT_KEYS])
    lake.replace("series_keys", keys.group_by(keys.column_names).aggregate([]), Filter())


def with_date(plain: pa.Table) -> pa.Table:
    return plain.append_column("cutoff_date", pa.array(["2017-01-01"] * len(plain)))


def statements(place: str = PLACE) -> list[str]:
    lake = MemoryLake()
    fill(lake)
    return serverless_views(place, REPORT_KEYS, lake)


def test_every_statement_is_t_sql_and_reads_the_lake_where_it_is():
    made = statements()
    assert len(made) == 3 + len(VIEWS)
    assert sum("BULK 'https://account.dfs.core.windows.net/tables/many%20models/lake/" in one for one in made) == 3
    assert {statement: wrong for statement in made if (wrong := unparsed(statement))} == {}


@pytest.mark.parametrize(
    ("good", "bad"),
    [("FORMAT = 'DELTA') WITH", "FORMAT = ) WITH"), ("INNER JOIN", "INNER JOIN JOIN"), (" FROM ", " FRM FROM FROM ")],
)
def test_what_is_no_t_sql_would_be_noticed(good, bad):
    statement = statements()[0]
    assert good in statement
    assert unparsed(statement.replace(good, bad, 1))


def test_a_lake_that_a_pool_cannot_read_or_that_is_empty_is_an_error():
    with pytest.raises(SettingsError, match="abfss://"):
        statements("var/lake")
    with pytest.raises(InputError, match="many-models run"):
        serverless_views(PLACE, REPORT_KEYS, MemoryLake())


@pytest.mark.slow
@pytest.mark.parametrize("how", ["printed", "by setting"])
def test_their_numbers_over_a_lake_on_azure_storage_are_those_of_a_loaded_warehouse(
    azurite, tmp_path, monkeypatch, how
):
    require_freetds()
    monkeypatch.setenv(KEY, azurite.key)
    place = f"{azurite.container(f'serverless-{next(containers)}')}/many models"
    fill(DeltaLake(place, AzureStorage(place, "key", {KEY: azurite.key}.__getitem__, endpoint=azurite.endpoint)))
    file = tmp_path / "many_models.toml"
    file.write_text(
        f"[data]\nkeys = ['store', 'it\"em']\n"
        f'[lake]\npath = "{place}"\ncredential = "key"\nendpoint = "{azurite.endpoint}"\n'
    )
    loaded, _ = reported(MemoryWarehouse)
    with running_tds(tmp_path / "tds", storage=azurite.connection_string) as pool:
        if how == "printed":
            found = SqlWarehouse(pool.url(database="serverless"))
            printed = CliRunner().invoke(main, ["views", "--config", str(file)], catch_exceptions=False).output
            engine = sa.create_engine(
                pool.url(database="serverless"), poolclass=sa.pool.NullPool, isolation_level="AUTOCOMMIT"
            )
            with engine.connect() as connection:
                for batch in printed.split(";\nGO\n")[:-1]:
                    connection.exec_driver_sql(batch)
        else:
            address = pool.url(password="", database="serverless")
            text = f'[warehouse]\nkind = "serverless"\nurl = "{address}"\ncredential = "password"\n'
            file.write_text(file.read_text() + text)
            monkeypatch.setenv("MANY_MODELS_WAREHOUSE_PASSWORD", PASSWORD)
            found = build_warehouse(load_settings(file))
            assert isinstance(found, Warehouse)
            assert "serverless" in found.check()
            for _ in range(2):  # a load of every day
                assert found.load("a", "f", [part(rows(row()))]) == 0
                found.create_views([])
            assert found.loads() is None
            writing = re.compile(r"\s*(INSERT|MERGE|COPY|DELETE|UPDATE|(CREATE|ALTER|DROP) TABLE)\b", re.IGNORECASE)
            assert not [one for one in pool.statements() if writing.match(one)]
        for view in VIEWS:
            told = found.read(view)
            kept = [name for name in told.column_names if name != "cutoff_date"]
            assert told.num_rows
            assert_same(told.select(kept), loaded.read(view).to_pandas())
