"""What holds for all tests: no settings of the person who runs them, no deadline on a busy machine."""

from __future__ import annotations

import os

import hypothesis
import pytest

from many_models_tests.stand_ins.azurite import azurite
from many_models_tests.stand_ins.postgres_server import postgres
from many_models_tests.stand_ins.tds_server import tds

hypothesis.settings.register_profile("many_models", deadline=None, print_blob=True)
hypothesis.settings.load_profile("many_models")

__all__ = ["azurite", "postgres", "tds"]  # fixtures for all

THEIR_OWN = ("MANY_MODELS__", "MANY_MODELS_CONFIG", "DAGSTER_HOME", "DAGSTER_EVENT_BATCH_SIZE", "MLFLOW_")


@pytest.fixture(scope="session", autouse=True)
def no_settings_of_the_person_who_runs_the_tests() -> None:
    """Settings, instances and stores of the shell would change what is tested."""
    for name in [name for name in os.environ if name.startswith(THEIR_OWN)]:
        del os.environ[name]


LONGEST_FIRST = (
    "test_ui_day.py",
    "test_readme.py",
    "test_day.py",
    "test_killed_runs.py",
    "test_real_input.py",
    "test_warehouse_servers.py",
    "test_compute_spark.py",
    "test_compute_spark_connect.py",
    "test_upkeep.py",
    "test_grain.py",
    "test_azure_day.py",
    "test_approval.py",
    "test_event_retention.py",
    "test_events.py",
)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Files that take minutes come first: one that began last would run alone, with the other core idle."""
    items.sort(key=lambda item: LONGEST_FIRST.index(item.path.name) if item.path.name in LONGEST_FIRST else 99)
