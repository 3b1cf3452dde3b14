"""Chunks on Spark: the contract on this machine, and what can happen to its workers."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import threading
from contextlib import closing
from pathlib import Path
from types import SimpleNamespace

import pandas as pd
import pytest
from dagster_pyspark.resources import spark_session_from_config
from hypothesis import given
from hypothesis import strategies as st

from many_models.adapters.compute import spark as spark_adapter
from many_models.adapters.compute import spark_session
from many_models.adapters.compute.spark import MOST_IN_WAVE, WAVE_SECONDS, Pace, SparkCompute
from many_models.adapters.compute.spark_session import connect
from many_models.errors import InputError, UnavailableError
from many_models_tests.contracts.compute import ComputeContract, done, failures
from many_models_tests.support.compute_tasks import Harms, KilledOnce, Leaves, SlowFrom, Unloadable, chunked, wait_for
from many_models_tests.support.project import make_project, sales

pytestmark = pytest.mark.slow
MASTER = "local[2]"


@pytest.fixture(scope="module")
def session():
    session = connect(spark_session_from_config, MASTER, "", {})
    yield session
    session.stop()


@pytest.fixture(scope="module")
def spark(session):
    return SparkCompute(lambda: session, timeout=60)


class TestSparkCompute(ComputeContract):
    farewell = 3.0
    examples = 6

    @pytest.fixture
    def compute(self, spark):
        return spark


def test_a_slot_a_core_is_found(spark):
    assert "2 slots" in spark.check()


def waves(chunks: int, slots: int, seconds_a_chunk: float) -> list[int]:
    """The sizes of waves that each take as long as the chunks of one slot."""
    pace, sizes = Pace(slots), list[int]()
    while chunks:
        sizes.append(size := pace.chunks(chunks))
        pace.learn(size, seconds_a_chunk * -(-size // slots))
        chunks -= size
    return sizes


def test_waves_of_quick_chunks_grow_and_the_last_ones_are_small():
    sizes = waves(200, slots=2, seconds_a_chunk=0.1)
    assert sum(sizes) == 200
    assert sizes[:4] == [2, 4, 8, 16]
    assert max(sizes) <= MOST_IN_WAVE
    assert sizes[-1] <= 2


def test_waves_of_slow_chunks_and_of_many_slots_are_one_chunk_a_slot():
    assert waves(10, slots=2, seconds_a_chunk=WAVE_SECONDS) == [2] * 5
    assert waves(300, slots=100, seconds_a_chunk=0.1) == [100] * 3


@given(chunks=st.integers(1, 500), slots=st.integers(1, 90), seconds=st.floats(0.01, 20))
def test_waves_hold_every_chunk_and_none_is_empty(chunks: int, slots: int, seconds: float):
    sizes = waves(chunks, slots, seconds)
    assert sum(sizes) == chunks
    assert min(sizes) > 0


@pytest.mark.parametrize("how", ["kill", "leave"])
def test_a_killed_worker_costs_only_its_own_series(spark, how):
    results = list(spark.run(Harms(("s6",), how), chunked(4, 5, 3)))
    assert done(results) == [f"s{at}" for at in range(12) if at != 6]
    failure = failures(results)["s6"]
    assert (failure.kind, failure.permanent) == ("WorkerLost", False)
    assert "Python worker exited unexpectedly" in failure.reason


def test_a_worker_killed_by_chance_costs_no_series(spark, tmp_path):
    chunks = chunked(4, 5, 3)
    results = list(spark.run(KilledOnce(str(tmp_path / "mark")), chunks))
    assert done(results) == [name for chunk in chunks for name in chunk.series]
    assert failures(results) == {}


@pytest.mark.parametrize(
    ("how", "kind"),
    [
        ("hang", "WorkerTimeout"),
        pytest.param(
            "deaf",
            "WorkerLost",
            marks=pytest.mark.long("adapters/test_compute_spark.py::test_a_series_that_hangs_costs_only_itself"),
        ),
    ],
)
def test_a_series_that_hangs_costs_only_itself(session, how, kind):
    results = list(SparkCompute(lambda: session, timeout=6).run(Harms(("s2",), how), chunked(2, 2, 1)))
    assert done(results) == ["s0", "s1", "s3", "s4"]
    assert (failures(results)["s2"].kind, failures(results)["s2"].permanent) == (kind, False)


def cancelled_when_begun(session, folder: Path) -> threading.Thread:
    """Cancels all jobs as soon as a chunk has left its mark: what Spark does not know of yet it does not cancel."""

    def cancel() -> None:
        wait_for(lambda: list(folder.iterdir()), "a chunk that has begun")
        session.interruptAll()

    canceller = threading.Thread(target=cancel, daemon=True)
    canceller.start()
    return canceller


def test_a_run_whose_job_is_cancelled_says_so(session, tmp_path):
    canceller = cancelled_when_begun(session, tmp_path)
    with pytest.raises(UnavailableError, match="cancelled"):
        list(SparkCompute(lambda: session, timeout=600).run(Leaves(str(tmp_path), 600), chunked(1, 1, 1)))
    canceller.join()


def test_a_run_whose_job_is_cancelled_later_keeps_what_is_finished_and_fails_the_rest_for_this_time(session, tmp_path):
    chunks = chunked(*[1] * 12)
    canceller = cancelled_when_begun(session, tmp_path)
    # s6 is sent when s0 and s1 were given, and Spark may be at s2 to s5 before, after or beside it
    results = list(SparkCompute(lambda: session, slots=2, timeout=600).run(SlowFrom("s6", 600, str(tmp_path)), chunks))
    canceller.join()
    assert [chunk.series for chunk, _ in results] == [chunk.series for chunk in chunks]
    lost = failures(results)
    assert done(results)[:2] == ["s0", "s1"]
    assert sorted([*done(results), *lost]) == sorted(f"s{at}" for at in range(12))
    assert lost.keys() >= {f"s{at}" for at in range(6, 12)}
    assert {(failure.kind, failure.permanent) for failure in lost.values()} == {("JobLost", False)}
    assert all("cancelled" in failure.reason for failure in lost.values())


class JavaError(Exception):
    """As py4j's: its own text, and a chain of Java causes that end as `ending` does."""

    def __init__(self, *chain):
        super().__init__("An error occurred while calling o71.getResult.")
        self.java_exception = self.link(*chain)

    @staticmethod
    def link(text, *rest):
        cause = JavaError.link(*rest) if rest else None
        return SimpleNamespace(toString=lambda: text, getCause=lambda: cause)


def test_a_cancelled_job_is_known_by_its_deepest_cause():
    """toArrow may raise what names the cancellation in a Java cause only."""
    lost = JavaError("Exception thrown in awaitResult:", "[SPARK_JOB_CANCELLED] Job 7 cancelled as part of tag t.")
    with pytest.raises(UnavailableError, match="cancelled in the middle of a run"):
        spark_adapter._trouble(lost)
    assert spark_adapter._trouble(JavaError("Exception thrown in awaitResult:")).kind == "WorkerLost"


@pytest.mark.parametrize("words", spark_adapter.GONE)
def test_a_server_that_went_away_is_not_taken_for_a_lost_worker(words):
    """Taken for a lost worker, its chunk would be halved and sent again, down to single series."""
    with pytest.raises(UnavailableError, match="Spark went away"):
        spark_adapter._trouble(RuntimeError(f"[{words}] after 15 attempts"))


def test_a_spark_call_beyond_its_deadline_means_that_spark_went_away():
    """The text of pyspark 4.3's client for a call that the server never answers."""
    with pytest.raises(UnavailableError, match="RPC deadline exceeded"):
        spark_adapter._trouble(RuntimeError("RPC deadline exceeded"))


ELSEWHERE = """
import sys
from dagster_pyspark.resources import spark_session_from_config
from many_models.adapters.compute.spark import SparkCompute
from many_models.adapters.compute.spark_session import connect
from many_models_tests.support.compute_tasks import KillsItsExecutor, about_me, chunked
from many_models_tests.contracts.compute import done, failures

session = connect(spark_session_from_config, "local-cluster[2,1,1024]", "", {})
compute = SparkCompute(lambda: session, slots=2, timeout=120)
results = list(compute.run(KillsItsExecutor(sys.argv[1], "s5"), chunked(2, 2, 2, 2)))
print(*done(results), dict(failures(results)))
session.stop()

session = connect(spark_session_from_config, "local[4]", "", {"spark.task.cpus": "2"})
compute = SparkCompute(lambda: session)
((_, result),) = compute.run(about_me, chunked(1))
threads = eval(result.files["threads"])
print(compute.slots(), threads["OMP_NUM_THREADS"], threads["NUMBA_NUM_THREADS"])
"""


@pytest.fixture(scope="module")
def elsewhere(tmp_path_factory) -> tuple[str, str]:
    """What one process prints that has two sessions after one another: with executors of their own, and with two
    cores a task.
    """
    folder = tmp_path_factory.mktemp("elsewhere")
    words = [sys.executable, "-W", "ignore", "-c", ELSEWHERE, str(folder / "mark")]
    said = subprocess.run(words, stdout=subprocess.PIPE, text=True, check=True, timeout=800, cwd=folder).stdout
    assert (folder / "mark").exists()
    lost_executor, two_cores = said.splitlines()[-2:]
    return lost_executor, two_cores


@pytest.mark.long("adapters/test_compute_spark.py::test_a_worker_killed_by_chance_costs_no_series")
def test_a_lost_executor_costs_a_retry_of_its_chunks_and_no_series(elsewhere):
    assert elsewhere[0] == "s0 s1 s2 s3 s4 s5 s6 s7 {}"


def test_a_slot_has_the_cores_that_spark_task_cpus_says_and_as_many_threads(elsewhere):
    assert elsewhere[1] == "2 2 2"


def test_workers_of_another_python_are_named_with_what_to_set(session, monkeypatch):
    monkeypatch.setattr(session.sparkContext, "pythonVer", "3.9")  # as a driver of that Python says of itself
    with pytest.raises(InputError, match=r"Spark's workers run another Python than .*set PYSPARK_PYTHON"):
        SparkCompute(lambda: session).check()


def test_a_task_that_workers_cannot_load_is_said_at_once(spark):
    with pytest.raises(InputError, match="cannot load the task: ImportError: no package of that name"):
        list(spark.run(Unloadable(), chunked(1)))


@pytest.mark.long(
    "contracts/compute.py::test_results_are_those_of_a_plain_loop_in_order",
    "days/test_day.py::test_the_first_day_carries_every_series_from_the_source_to_the_warehouse",
)
def test_a_whole_day_on_spark_ends_in_the_tables_of_a_serial_one(session, tmp_path):
    """Workers read the lake. Spark reads it in `days/azure_compute_day.py`."""
    rows, windows = sales(stores=2, items=2, days=80), {"windows": 1}
    serial = make_project(tmp_path / "serial", rows, forecast=windows)
    compute = {"kind": "spark", "spark_master": MASTER, "chunk": 2}
    spark = make_project(tmp_path / "spark", rows, forecast=windows, compute=compute)
    expected, found = serial.run() and serial.contents(), spark.run() and spark.contents()
    assert expected.keys() == found.keys()
    for name in expected:
        pd.testing.assert_frame_equal(expected[name], found[name], obj=name)


def test_spark_that_is_too_old_is_named():
    def build(_: object):
        return SimpleNamespace(version="3.4.4", range=lambda _: SimpleNamespace(count=lambda: 1))

    with pytest.raises(InputError, match=r"Spark 3\.4\.4 at local\[2\] is too old: it needs Spark 3\.5"):
        connect(build, MASTER, "", {})


WITHOUT_JAVA = """
from dagster_pyspark.resources import spark_session_from_config
from many_models.adapters.compute.spark_session import connect

try:
    connect(spark_session_from_config, "local[2]", "", {})
except Exception as error:
    print(f"{type(error).__name__}: {error}")
"""
OLD_JAVA = """#!/bin/sh
[ "$1" = -version ] && echo 'openjdk version "1.8.0_402"' >&2 && exit
echo 'java.lang.UnsupportedClassVersionError: org/apache/spark/launcher/Main was compiled by a newer version' >&2
exit 1
"""


@pytest.mark.parametrize(("java", "said"), [("", "there is no Java"), (OLD_JAVA, "bin/java is Java 8")])
def test_java_that_is_missing_or_too_old_is_named(tmp_path, java, said):
    (tmp_path / "bin").mkdir()
    for folder in ("/usr/bin", "/bin"):
        for program in Path(folder).iterdir():
            if program.name != "java" and not (tmp_path / "bin" / program.name).exists():
                (tmp_path / "bin" / program.name).symlink_to(program)
    environment = {**os.environ, "PATH": str(tmp_path / "bin")}
    environment.pop("JAVA_HOME", None)
    if java:
        (tmp_path / "jdk/bin").mkdir(parents=True)
        (tmp_path / "jdk/bin/java").write_text(java)
        (tmp_path / "jdk/bin/java").chmod(0o755)
        environment["JAVA_HOME"] = str(tmp_path / "jdk")
    words = [sys.executable, "-W", "ignore", "-c", WITHOUT_JAVA]
    printed = subprocess.run(words, env=environment, capture_output=True, text=True, check=True, timeout=300).stdout
    assert printed.startswith("UnavailableError: Spark does not start: ")
    assert said in printed
    assert f"it needs Java {spark_session.JAVA} or newer (Debian: openjdk-17-jre-headless" in printed


def test_a_cluster_that_does_not_answer_is_named_without_its_token():
    def build(_: object):
        raise AssertionError("asked for nothing")

    with closing(socket.socket()) as taken:
        taken.bind(("127.0.0.1", 0))  # and nobody listens
        url = f"sc://127.0.0.1:{taken.getsockname()[1]}/;token=geheim"
        with pytest.raises(UnavailableError, match=r"no Spark Connect server answers at sc://127\.0\.0\.1:") as caught:
            connect(build, MASTER, url, {})
    assert "geheim" not in str(caught.value)
