"""Private names of Dagster and MLflow are imported in one place each, and the installed versions still have them."""

from __future__ import annotations

import importlib.util
import pkgutil
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

from many_models.adapters.registry import mlflow_private

ROOT = Path(__file__).parents[1]
DAGSTER = "from dagster._core.events import DagsterEvent\n\nprint(DagsterEvent)\n"
MLFLOW = "from mlflow.tracking._model_registry.client import ModelRegistryClient\n\nprint(ModelRegistryClient)\n"
PARTS = ["dagster", *(f"mlflow.{part}" for part in ("tracking", "store", "entities", "utils"))]


def private_imports(file: str, text: str) -> str:
    """What ruff says of private imports in `text`, if it stood in `file`."""
    words = ["check", "--quiet", "--select", "TID251", "--output-format", "concise", "--stdin-filename", file, "-"]
    ruff = [sys.executable, "-m", "ruff", *words]
    return subprocess.run(ruff, input=text, cwd=ROOT, capture_output=True, text=True, timeout=60, check=False).stdout


@pytest.mark.parametrize(
    ("file", "text"),
    [
        ("many_models/orchestration/automation.py", DAGSTER),
        ("many_models/operations/day.py", DAGSTER),
        ("many_models/adapters/registry/mlflow_store.py", MLFLOW),
    ],
)
def test_a_planted_private_import_is_found(file: str, text: str) -> None:
    assert "TID251" in private_imports(file, text)


@pytest.mark.parametrize(
    ("file", "text"),
    [
        ("many_models/orchestration/event_log/history.py", DAGSTER),
        ("many_models/adapters/registry/mlflow_private.py", MLFLOW),
    ],
)
def test_the_one_place_of_each_may_import_it(file: str, text: str) -> None:
    assert private_imports(file, text) == ""


@pytest.mark.parametrize("package", PARTS)
def test_every_private_module_is_on_the_list(package: str) -> None:
    ruff = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["ruff"]["lint"]
    banned = set(ruff["flake8-tidy-imports"]["banned-api"])
    assert {name for name in private_modules(package) if not any(name.startswith(known) for known in banned)} == set()


def private_modules(package: str) -> list[str]:
    """The private modules of a package, and of its public packages, found without importing them."""
    spec = importlib.util.find_spec(package)
    assert spec is not None
    found, folders = [], [(package, str(place)) for place in spec.submodule_search_locations or ()]
    while folders:
        name, folder = folders.pop()
        for module in pkgutil.iter_modules([folder]):
            if module.name.startswith("__"):
                continue
            if module.name.startswith("_"):
                found.append(f"{name}.{module.name}")
            elif module.ispkg:
                folders.append((f"{name}.{module.name}", f"{folder}/{module.name}"))
    return found


def test_this_mlflow_has_the_private_api_that_we_use() -> None:
    assert mlflow_private.mlflow_problems() == ()


def test_a_private_mlflow_name_that_changed_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delattr("mlflow.tracking._tracking_service.utils._get_store")
    assert mlflow_private.mlflow_problems() == ("mlflow.tracking._tracking_service.utils:_get_store is gone",)
