"""Spark 3.5, which Synapse's pools and Databricks' runtimes up to 16.4 have: the tests of rows and of workers on it."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from many_models_tests.stand_ins.spark35 import python_of_spark35

pytestmark = pytest.mark.long(
    "adapters/test_spark_data.py::test_prepared_trained_and_scored_over_rows_of_spark_are_the_same_bytes",
    "adapters/test_spark_versions.py::test_clients_that_fit_a_runtime_are_taken",
)
ROOT = Path(__file__).parents[2]
FILES = ["many_models_tests/adapters/test_spark_data.py", "many_models_tests/days/azure_compute_day.py"]


@pytest.mark.parametrize("file", FILES)
def test_this_file_passes_on_spark_3_5(file: str) -> None:
    """Rows by Spark, and a day on Azure's compute and registries: each in one session, in an environment with 3.5."""
    python = python_of_spark35()
    version = [python, "-c", "import pyspark; print(pyspark.__version__)"]
    assert subprocess.run(version, capture_output=True, text=True, check=True).stdout.startswith("3.5.")
    apart = ("PYTEST_", "PYSPARK_", "SPARK_")
    environment = {name: value for name, value in os.environ.items() if not name.startswith(apart)}
    environment |= {"MANY_MODELS_PROGRAM": str(Path(sys.executable).with_name("many-models"))}
    command = [python, "-m", "pytest", "-q", "-p", "no:cacheprovider", "-p", "no:xdist", file]
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False, timeout=1100)
    assert done.returncode == 0, done.stdout[-3000:]
    assert re.search(r"^\d+ passed\b", done.stdout, re.MULTILINE)
    assert "skipped" not in done.stdout
