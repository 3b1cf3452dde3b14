"""Chunks on a Spark Connect server, which is what Databricks speaks: the contract; a cluster without the package."""

from __future__ import annotations

import subprocess
import sys
import sysconfig
from contextlib import suppress
from pathlib import Path

import psutil
import pytest
from dagster_pyspark.resources import spark_session_from_config
from pyspark.sql.connect.client.retries import DefaultPolicy

import many_models
from many_models.adapters.compute.spark import SparkCompute
from many_models.adapters.compute.spark_session import connect
from many_models.errors import InputError, UnavailableError
from many_models_tests.contracts.compute import ComputeContract, plainly
from many_models_tests.stand_ins.spark_connect import PORT_SETTING, connect_server
from many_models_tests.support.compute_tasks import chunked, describe, wait_for

pytestmark = pytest.mark.slow
ROOT = Path(many_models.__file__).parents[1]


@pytest.fixture(scope="module")
def bare(tmp_path_factory):
    """An environment with everything that this one has but the package itself."""
    folder = tmp_path_factory.mktemp("cluster")
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", folder / "venv"], check=True)
    (where,) = (folder / "venv/lib").glob("python*/site-packages")
    # a .pth file in a folder that another one names is not read: an editable installation stays behind
    (where / "others.pth").write_text(sysconfig.get_path("purelib") + "\n")
    return where


@pytest.fixture(scope="module")
def server(bare, tmp_path_factory):
    with pytest.MonkeyPatch.context() as patch:
        patch.delenv("PYTHONPATH", raising=False)
        with connect_server(tmp_path_factory.mktemp("server"), str(bare.parents[2] / "bin/python")) as url:
            yield url


def restart_workers(bare: Path) -> None:
    for process in psutil.process_iter(["cmdline"]):
        if "pyspark.daemon" in (process.info["cmdline"] or ()) and str(bare.parents[2]) in process.info["cmdline"][0]:
            process.kill()
            process.wait()


@pytest.fixture(scope="module")
def installed(bare, server):
    """A session on the cluster: first without the package, then with another version, both of which is said, then
    with the right one.
    """
    session = connect(spark_session_from_config, "", server, {})
    with pytest.raises(InputError, match="have no many_models: install many_models=="):
        SparkCompute(lambda: session).check()
    (bare / "many_models.pth").write_text(f"{ROOT}\n")
    other = bare / "many_models-99.1.dist-info/METADATA"
    other.parent.mkdir()
    other.write_text("Metadata-Version: 2.1\nName: many_models\nVersion: 99.1\n")
    restart_workers(bare)
    with pytest.raises(InputError, match=r"have many_models 99\.1, needed \S+ as here: install the same"):
        wait_for(lambda: answers(session), "the server to notice that its workers are gone")
    other.unlink()
    other.parent.rmdir()
    restart_workers(bare)
    wait_for(lambda: answers(session), "the server to notice that its workers are gone")
    yield session
    session.stop()


def answers(session) -> bool:
    with suppress(UnavailableError):
        return bool(SparkCompute(lambda: session).check())
    return False


class TestSparkConnect(ComputeContract):
    farewell = 3.0
    examples = 6

    @pytest.fixture(scope="class")
    @classmethod
    def compute(cls, installed):
        return SparkCompute(lambda: installed, slots=2)


def test_at_the_end_a_server_that_went_away_is_said_to_be_away(installed, server):
    compute = SparkCompute(lambda: installed)
    assert list(compute.run(describe, chunked(1))) == plainly(describe, chunked(1))
    kill_server(server)
    installed.client.set_retry_policies([DefaultPolicy(max_retries=2)])  # not for ten minutes
    with pytest.raises(UnavailableError, match="went away in the middle of a run"):
        list(compute.run(describe, chunked(1)))


def kill_server(url: str) -> None:
    """Kill the JVM that listens at `url`: its command line names the port."""
    port = f"{PORT_SETTING}={url.rpartition(':')[2]}"
    (java,) = [process for process in psutil.process_iter(["cmdline"]) if port in (process.info["cmdline"] or ())]
    java.kill()
