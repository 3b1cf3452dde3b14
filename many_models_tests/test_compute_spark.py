"""Chunks on Spark: the contract on this machine and over Spark Connect, and what can happen to workers and clusters."""

from __future__ import annotations

import pytest
from dagster_pyspark.resources import spark_session_from_config

from many_models.adapters.compute_spark import SparkCompute
from many_models.adapters.spark_session import connect
from many_models_tests.compute_tasks import Harms, KilledOnce, chunked
from many_models_tests.contracts.compute import ComputeContract, done, failures

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def compute_():
    session = connect(spark_session_from_config, "local[2]", "", {})
    yield SparkCompute(lambda: session, timeout=20)
    session.stop()


class TestSparkCompute(ComputeContract):
    @pytest.fixture
    def compute(self, compute_):
        return compute_
