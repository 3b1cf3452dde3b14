"""The whole day from files: Parquet in Azurite, the lake in Azurite, a pool with all of its rules on, the report views,
and what the Power BI project asks for. With a dedicated pool of Synapse, and the same with a Fabric warehouse.
"""

from __future__ import annotations

import io
import re
from pathlib import Path
from typing import TYPE_CHECKING

import pandas as pd
import pytest
import sqlalchemy as sa
from azure.storage.blob import ContainerClient

from many_models.adapters.azure.storage import KEY
from many_models.operations.setup import power_bi_files
from many_models.orchestration.due import STAGES
from many_models.reporting.power_bi_project import project, schemas
from many_models.wiring import build_warehouse
from many_models_tests.stand_ins.tds_server import IDENTITY, PASSWORD, TOKEN, USER, require_freetds, running_tds
from many_models_tests.support.project import END, Project, make_project, sales, stages_of

if TYPE_CHECKING:
    from many_models_tests.stand_ins.azurite import Azurite

pytestmark = pytest.mark.slow
QUICK = {"horizon": 7, "windows": 1, "trees": False}
SHIPPED = Path(__file__).parents[2] / "deploy" / "powerbi"
KEYS = ["store", "item"]


@pytest.fixture(scope="module")
def rows() -> pd.DataFrame:
    return sales(stores=2, items=2, days=100)


@pytest.fixture(scope="module")
def on_disk(rows: pd.DataFrame, tmp_path_factory: pytest.TempPathFactory) -> Project:
    """The same day from SQLite on embedded parts."""
    made = make_project(tmp_path_factory.mktemp("disk") / "p", rows, forecast=QUICK)
    made.run(END)
    return made


def land(azurite: Azurite, container: str, rows: pd.DataFrame) -> str:
    """A Parquet file a day under `sales/`, as a copy pipeline lands them, and what it leaves beside them."""
    place = azurite.container(container)
    dated = rows.assign(date=pd.to_datetime(rows["date"]))
    with ContainerClient.from_connection_string(azurite.connection_string, container) as client:
        for day, part in dated.groupby("date"):
            data = io.BytesIO()
            part.to_parquet(data, index=False)
            client.upload_blob(f"landing/sales/{day:%Y/%m/%d}/part-0.parquet", data.getvalue())
        client.upload_blob("landing/sales/_SUCCESS", b"")
        client.upload_blob("landing/sales/_temporary/half.parquet", b"PAR1")
    return f"{place}/landing"


def asked_by_power_bi(files: dict[str, str]) -> list[str]:
    """The query that each imported table of the model sends: all of its columns of the view that it names."""
    queries = []
    for path, text in files.items():
        if view := re.search(r'Item = "(\w+)"', text):
            assert path.endswith(f"/{view[1]}.tmdl")
            columns = ", ".join(f"[$Table].[{name}]" for name in re.findall(r"sourceColumn: (\w+)", text))
            queries.append(f"select {columns} from [dbo].[{view[1]}] as [$Table]")
    return queries


@pytest.mark.long(
    "days/test_azure_day.py::test_a_day_from_postgres_through_azure_storage_into_synapse_ends_as_a_day_on_embedded_parts_does",
    "adapters/test_source_files.py::test_files_of_each_format_and_depth_are_one_table",
    "reporting/test_power_bi_project.py::test_every_table_is_a_view_of_the_warehouse_with_its_columns",
)
@pytest.mark.parametrize("kind", ["synapse", "fabric"])
def test_a_day_from_files_reaches_power_bi_through_a_pool_with_its_rules_on(
    kind: str,
    azurite: Azurite,
    rows: pd.DataFrame,
    on_disk: Project,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    require_freetds()
    monkeypatch.setenv(KEY, azurite.key)
    monkeypatch.setenv("MANY_MODELS_WAREHOUSE_PASSWORD", TOKEN if kind == "fabric" else PASSWORD)
    container = f"files-{kind}"
    storage = {"credential": "key", "endpoint": azurite.endpoint}
    source = {"kind": "files", "url": land(azurite, container, rows), "table": "sales", **storage}
    lake = {"path": f"{azurite.container(container)}/lake", **storage}
    with running_tds(tmp_path / "tds", storage=azurite.connection_string) as pool:
        user = IDENTITY if kind == "fabric" else USER
        url = pool.url(database="dw", password="").replace("loader@127.0.0.1/dw", f"{user}@127.0.0.1/{kind}")
        warehouse = {"kind": kind, "url": url, "credential": "password"}
        made = make_project(tmp_path / "p", rows, source=source, lake=lake, warehouse=warehouse, forecast=QUICK)
        (made.root / "sales.db").unlink()
        assert set(stages_of(made.run(END))) == set(STAGES)
        assert made.run(END) == []
        found, expected = made.contents(), on_disk.contents()
        for contents in (found, expected):
            contents.pop("lake source_columns")  # SQLite has dates as texts
        assert found.keys() == expected.keys()
        for name, table in expected.items():
            pd.testing.assert_frame_equal(found[name], table, obj=name)
        settings = made.settings()
        files = project(KEYS, schemas(build_warehouse(settings), KEYS))
        if kind == "fabric":
            model = "".join(power_bi_files(settings, direct_lake=True).values())
            for table in re.findall(r"entityName: (\w+)", model):
                assert any(re.match(rf"CREATE TABLE dbo\.{table}\b", one) for one in pool.statements()), table
        engine = sa.create_engine(pool.url(database=kind), poolclass=sa.pool.NullPool)
        queries = asked_by_power_bi(files)
        assert len(queries) == 4
        with engine.connect() as connection:
            counts = {query: len(connection.exec_driver_sql(query).fetchall()) for query in queries}
        assert [count for query, count in counts.items() if "latest_forecasts" in query] == [2 * 2 * 7]
        assert len([one for one in pool.statements() if one.startswith("COPY INTO")]) >= 3
    shipped = {str(path.relative_to(SHIPPED)): path.read_text() for path in SHIPPED.rglob("*") if path.is_file()}
    assert {path: text for path, text in shipped.items() if not path.endswith("README.md")} == files
