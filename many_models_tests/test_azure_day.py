"""The whole day with the lake on Azure storage: the settings file alone differs, what comes out does not."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pandas as pd
import pytest
from azure.storage.blob import ContainerClient

from many_models.adapters.azure_storage import KEY
from many_models.due import STAGES
from many_models_tests.project import END, make_project, sales, stages_of

if TYPE_CHECKING:
    from pathlib import Path

    from many_models_tests.azurite import Azurite

pytestmark = pytest.mark.slow

QUICK = {"horizon": 7, "windows": 1, "trees": False}


def test_a_lake_on_azure_ends_with_what_a_lake_on_disk_ends_with(
    azurite: Azurite, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(KEY, azurite.key)
    place = f"{azurite.container('day')}/many_models"
    rows = sales(stores=2, items=2, days=100)
    lake = {"path": place, "credential": "key", "endpoint": azurite.endpoint}
    workers = {"kind": "processes", "workers": 1}
    remote = make_project(tmp_path / "azure", rows, lake=lake, compute=workers, forecast=QUICK)
    local = make_project(tmp_path / "disk", rows, forecast=QUICK)

    assert set(stages_of(remote.run(END))) == set(STAGES)
    assert remote.run(END) == []
    assert not (remote.root / "var" / "lake").exists()
    local.run(END)
    on_disk, on_azure = local.contents(), remote.contents()
    assert on_azure.keys() == on_disk.keys()
    for name, expected in on_disk.items():
        pd.testing.assert_frame_equal(on_azure[name], expected, obj=name)
    assert files_with(azurite.key.encode(), tmp_path) == []
    assert blobs_with(azurite.key.encode(), azurite, "day") == []


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
