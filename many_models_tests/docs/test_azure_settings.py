"""The Azure example settings, and what `status --check` says of ports that do not answer."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pandas as pd
import pytest
from click.testing import CliRunner

from many_models.adapters.azure.storage import KEY, SAS
from many_models.cli.main import main
from many_models.definitions import BUILDERS
from many_models.settings import load_settings
from many_models.wiring import build_datastore, build_ingestion, build_lake
from many_models_tests.support.project import make_project

pytestmark = pytest.mark.slow
ROOT = Path(__file__).parents[2]
EXAMPLE = ROOT / "deploy" / "azure" / "many_models.toml"


def test_the_example_for_azure_loads_and_names_every_service():
    settings = load_settings(EXAMPLE)
    assert settings.lake.path.startswith("abfss://")
    assert settings.warehouse.kind == "synapse"
    assert settings.power_bi.workspace
    for make in (build_lake, build_ingestion, build_datastore):
        assert make(settings) is not None
    assert not re.search(r"(?i)(pwd|password|accountkey|sig|secret)\s*=", EXAMPLE.read_text())


def test_the_map_names_files_that_are_there():
    text = (ROOT / "docs" / "architecture-map.md").read_text()
    named = set(re.findall(r"`((?:many_models|benchmarks|deploy)[\w/]*(?:/[\w.]+)?)`", text))
    tests = set(re.findall(r"`(test_\w+\.py)`", text))
    assert len(named | tests) > 15
    assert [name for name in sorted(named) if not (ROOT / name).exists()] == []
    assert tests - {file.name for file in (ROOT / "many_models_tests").rglob("test_*.py")} == set()


@pytest.mark.parametrize(("permission", "ok"), [("racwdl", True), ("rl", False)])
@pytest.mark.slow
def test_check_asks_every_port_and_says_what_is_wrong(azurite, tmp_path, monkeypatch, permission, ok):
    name = f"check-{permission}"
    path = f"{azurite.container(name)}/many_models"
    rows = pd.DataFrame({"store": ["a"], "item": ["b"], "date": ["2024-06-30"], "sales": [1.0]})
    lake = {"path": path, "credential": "sas", "endpoint": azurite.endpoint}
    project = make_project(tmp_path / "p", rows, lake=lake)
    monkeypatch.setenv(SAS, azurite.sas(name, permission=permission))
    done = CliRunner().invoke(main, ["status", "--check", "--json", "--config", str(project.root / "many_models.toml")])
    ports = {row["port"]: row for row in json.loads(done.stdout)["ports"]}
    assert set(ports) >= {"source", "ingestion", "lake", "compute", "staging", "production", "warehouse"}
    assert [name for name, row in ports.items() if not row["ok"]] == ([] if ok else ["lake"])
    assert done.exit_code == (0 if ok else 1)
    assert ok or "Storage Blob Data Contributor" in ports["lake"]["says"]


@pytest.mark.slow
def test_check_goes_on_after_a_port_that_breaks_in_its_own_way(tmp_path, monkeypatch):
    def broken(_settings: object) -> None:
        raise ZeroDivisionError("something nobody foresaw")

    rows = pd.DataFrame({"store": ["a"], "item": ["b"], "date": ["2024-06-30"], "sales": [1.0]})
    project = make_project(
        tmp_path / "p", rows, lake={"path": "abfss://c@a.dfs.core.windows.net/x", "credential": "key"}
    )
    monkeypatch.delenv(KEY, raising=False)
    monkeypatch.setitem(BUILDERS, "compute", broken)
    done = CliRunner().invoke(main, ["status", "--check", "--json", "--config", str(project.root / "many_models.toml")])
    ports = {row["port"]: row["says"] for row in json.loads(done.stdout)["ports"] if not row["ok"]}
    assert ports.keys() == {"compute", "lake"}
    assert ports["compute"] == "ZeroDivisionError: something nobody foresaw"
    assert "the secret AZURE_STORAGE_KEY is missing" in ports["lake"]
