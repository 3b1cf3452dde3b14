"""The whole day on Azure's stand-ins: a PostgreSQL source, the lake on Azurite, the warehouse by COPY INTO on the TDS
stand-in. The settings file alone differs from a day on embedded parts, and what comes out does not.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import pandas as pd
import pytest
import sqlalchemy as sa
from azure.storage.blob import ContainerClient

from many_models.adapters.azure.storage import KEY
from many_models.orchestration.due import STAGES
from many_models.wiring import build_warehouse
from many_models_tests.stand_ins.tds_server import PASSWORD, require_freetds, running_tds
from many_models_tests.support.project import END, make_project, sales, stages_of

if TYPE_CHECKING:
    from pathlib import Path

    from many_models_tests.stand_ins.azurite import Azurite
    from many_models_tests.stand_ins.postgres_server import PostgresServer

pytestmark = pytest.mark.slow

QUICK = {"horizon": 7, "windows": 1, "trees": False}


def test_a_day_from_postgres_through_azure_storage_into_synapse_ends_as_a_day_on_embedded_parts_does(
    azurite: Azurite,
    postgres: PostgresServer,
    tmp_path: Path,
    tmp_path_factory: pytest.TempPathFactory,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    require_freetds()
    secrets = {
        KEY: azurite.key,
        "MANY_MODELS_SOURCE_PASSWORD": postgres.password,
        "MANY_MODELS_WAREHOUSE_PASSWORD": PASSWORD,
    }
    for name, secret in secrets.items():
        monkeypatch.setenv(name, secret)
    rows = sales(stores=2, items=2, days=100)
    source = served_by_postgres(postgres, rows)
    lake = {"path": f"{azurite.container('day')}/many_models", "credential": "key", "endpoint": azurite.endpoint}
    workers = {"kind": "processes", "workers": 1}
    local = make_project(tmp_path / "disk", rows, forecast=QUICK)
    with running_tds(tmp_path_factory.mktemp("synapse"), storage=azurite.connection_string) as synapse:
        warehouse = {"kind": "synapse", "url": synapse.url(password="", database="synapse"), "credential": "password"}
        remote = make_project(
            tmp_path / "azure", rows, source=source, lake=lake, warehouse=warehouse, compute=workers, forecast=QUICK
        )
        (remote.root / "sales.db").unlink()

        assert set(stages_of(remote.run(END))) == set(STAGES)
        assert remote.run(END) == []
        assert not (remote.root / "var" / "lake").exists()
        assert not (remote.root / "var" / "warehouse.db").exists()
        local.run(END)
        on_disk, on_azure = local.contents(), remote.contents()
        types = [one.pop("lake source_columns") for one in (on_disk, on_azure)]  # SQLite has dates as texts
        assert list(types[0]["column"]) == list(types[1]["column"])
        assert on_azure.keys() == on_disk.keys()
        for name, expected in on_disk.items():
            pd.testing.assert_frame_equal(on_azure[name], expected, obj=name)
        report, expected = (build_warehouse(one.settings()).read("latest_forecasts") for one in (remote, local))
        assert report.num_rows == 2 * 2 * 7
        assert report.column_names == expected.column_names
        copies = [statement for statement in synapse.statements() if statement.startswith("COPY INTO")]
        assert len(copies) >= 3
        address = f"https://{azurite.account}.dfs.core.windows.net/day/many_models/staging/"
        assert all(f"FROM '{address}" in statement for statement in copies)
        assert not [name for name in azurite.blobs("day") if "/staging/" in name]
        assert not [
            statement for statement in synapse.statements() if any(map(statement.__contains__, secrets.values()))
        ]
    for secret in secrets.values():
        assert files_with(secret.encode(), tmp_path) == []
        assert blobs_with(secret.encode(), azurite, "day") == []


def served_by_postgres(postgres: PostgresServer, rows: pd.DataFrame) -> dict[str, object]:
    """The source's settings, once the rows are in their own table of a database, dates as dates."""
    url = postgres.new_database()
    engine = sa.create_engine(url, poolclass=sa.pool.NullPool)
    rows.assign(date=pd.to_datetime(rows["date"])).to_sql("sales", engine, index=False, dtype={"date": sa.Date()})
    address = url.replace(f":{postgres.password}@", "@").replace("postgresql+psycopg2", "postgresql")
    return {"url": address, "table": "sales", "credential": "password"}


def files_with(planted: bytes, folder: Path) -> list[str]:
    """The files that hold `planted`: settings, Dagster's events and logs, registry, warehouse."""
    files = [path for path in folder.rglob("*") if path.is_file()]
    assert len(files) > 20
    return [str(path) for path in files if planted in path.read_bytes()]


def blobs_with(planted: bytes, azurite: Azurite, container: str) -> list[str]:
    """The blobs that hold `planted`."""
    names = azurite.blobs(container)
    assert len(names) > 20
    with ContainerClient.from_connection_string(azurite.connection_string, container) as client:
        return [name for name in names if planted in client.download_blob(name).readall()]
