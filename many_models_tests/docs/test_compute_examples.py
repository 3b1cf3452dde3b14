"""The example settings of deploy/compute make the computes that they say."""

from __future__ import annotations

import tomllib
from pathlib import Path

import pytest

import many_models
from many_models.adapters.compute.azureml import AzureMLCompute
from many_models.adapters.compute.processes import ProcessCompute
from many_models.adapters.compute.spark import SparkCompute
from many_models.definitions import build_compute
from many_models.errors import SettingsError
from many_models.settings import load_settings

FOLDER = Path(many_models.__file__).parents[1] / "deploy/compute"
EXAMPLES = {
    "azureml": AzureMLCompute,
    "databricks": SparkCompute,
    "local": ProcessCompute,
    "spark_connect": SparkCompute,
    "spark_local": SparkCompute,
    "synapse_spark": SparkCompute,
}


def test_the_overrides_beside_databricks_connect_keep_our_numpy_and_leave_pyspark_out():
    lines = (FOLDER / "databricks_overrides.txt").read_text().splitlines()
    ours = tomllib.loads((FOLDER.parents[1] / "pyproject.toml").read_text())["project"]["dependencies"]
    numpy, pyspark = (line for line in lines if not line.startswith("#"))
    assert numpy in ours
    assert pyspark == 'pyspark; python_version < "3"'  # on no Python of ours


def test_every_example_is_tested():
    assert sorted(path.stem for path in FOLDER.glob("*.toml")) == sorted(EXAMPLES)


@pytest.mark.parametrize("name", EXAMPLES)
def test_an_example_makes_the_compute_that_it_says(name):
    settings = load_settings(FOLDER / f"{name}.toml")
    assert isinstance(build_compute(settings), EXAMPLES[name])
    assert all(settings.model_dump()[section] for section in tomllib.loads((FOLDER / f"{name}.toml").read_text()))


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        ('workspace = "WORKSPACE"', "subscription, resource_group and workspace"),
        ('cluster = "CLUSTER"', "cluster or instance_type"),
        ('environment = "many-models:1"', "environment .NAME:VERSION. or image"),
        ('path = "abfss://CONTAINER@ACCOUNT.dfs.core.windows.net/many_models"', "do not see this machine's folders"),
    ],
)
def test_azure_ml_settings_that_cannot_work_are_said(tmp_path, wrong, said):
    text = (FOLDER / "azureml.toml").read_text()
    assert wrong in text
    (tmp_path / "many_models.toml").write_text(text.replace(wrong, ""))
    with pytest.raises(SettingsError, match=said):
        load_settings(tmp_path / "many_models.toml")
