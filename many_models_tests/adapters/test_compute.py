"""The computes: the contract over each of them, and what can happen to worker processes."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time

import psutil
import pytest

from many_models.adapters.compute.processes import ProcessCompute
from many_models.adapters.compute.serial import SerialCompute
from many_models.errors import InputError, UnavailableError
from many_models.system import THREAD_VARIABLES
from many_models_tests.contracts.compute import ComputeContract, done, failures, interrupted_when, plainly
from many_models_tests.support.adapter_faults import start
from many_models_tests.support.compute_tasks import (
    Harms,
    KilledOnce,
    Leaves,
    Unloadable,
    about_me,
    chatters,
    chunked,
    describe,
    slices,
)

pytestmark = pytest.mark.slow


class TestSerialCompute(ComputeContract):
    slots = 1
    waits = False

    @pytest.fixture
    def compute(self):
        return SerialCompute()


class TestProcessCompute(ComputeContract):
    @pytest.fixture(scope="class")
    @classmethod
    def compute(cls):
        with ProcessCompute(workers=2, timeout=30) as pool:
            yield pool


@pytest.fixture(scope="module")
def pool():
    with ProcessCompute(workers=2, timeout=30) as pool:
        yield pool


def workers() -> set[psutil.Process]:
    return set(psutil.Process().children())


def pids(results) -> set[bytes]:
    return {result.files["pid"] for _, result in results}


@pytest.mark.parametrize(("how", "reason"), [("kill", "SIGKILL"), ("leave", "exit code 7")])
def test_a_killed_worker_costs_only_its_own_series(pool, how, reason):
    results = list(pool.run(Harms(("s6",), how), chunked(4, 5, 3)))
    assert done(results) == [f"s{at}" for at in range(12) if at != 6]
    failure = failures(results)["s6"]
    assert (failure.kind, failure.permanent) == ("WorkerLost", False)
    assert reason in failure.reason


def test_a_worker_killed_by_chance_costs_no_series(pool, tmp_path):
    chunks = chunked(4, 5, 3)
    results = list(pool.run(KilledOnce(str(tmp_path / "mark")), chunks))
    assert done(results) == [name for chunk in chunks for name in chunk.series]
    assert failures(results) == {}


@pytest.mark.slow
def test_a_series_that_hangs_costs_only_itself():
    with ProcessCompute(workers=2, timeout=12) as pool:
        results = list(pool.run(Harms(("s6",), "hang"), chunked(4, 8, 3)))
    assert done(results) == [f"s{at}" for at in range(15) if at != 6]
    failure = failures(results)["s6"]
    assert (failure.kind, failure.permanent) == ("WorkerTimeout", False)
    assert "than 3 s" in failure.reason


def test_every_worker_may_be_killed_again_and_again(pool):
    results = list(pool.run(Harms(("s0", "s1", "s5", "s9"), "kill"), chunked(3, 3, 3, 3)))
    assert failures(results).keys() == {"s0", "s1", "s5", "s9"}
    assert len(done(results)) == 8


def test_workers_have_one_thread_each_and_the_parent_is_left_alone(pool):
    before = dict(os.environ)
    for _, result in pool.run(about_me, chunked(1, 1)):
        assert result.files["threads"].decode() == repr(dict.fromkeys(THREAD_VARIABLES, "1"))
    assert dict(os.environ) == before


def test_workers_stay_for_the_next_run_and_leave_at_the_end():
    before = workers()
    with ProcessCompute(workers=1) as pool:
        first = pids(pool.run(about_me, chunked(1, 1)))
        assert pids(pool.run(about_me, chunked(1, 1))) == first
        assert len(workers() - before) == 1
    assert workers() <= before


def test_workers_leave_with_a_pool_that_is_forgotten():
    before = workers()
    pool = ProcessCompute(workers=1)
    list(pool.run(describe, chunked(1)))
    assert len(workers() - before) == 1
    del pool
    assert workers() <= before


def test_there_is_a_worker_a_core_by_default():
    with ProcessCompute() as pool:
        assert f"{len(os.sched_getaffinity(0))} workers" in pool.check()


def test_no_more_workers_start_than_there_are_chunks():
    before = workers()
    with ProcessCompute(workers=8) as pool:
        list(pool.run(describe, chunked(1, 1)))
        assert len(workers() - before) <= 2


def test_closing_the_iterator_kills_workers_in_the_middle_of_a_chunk(pool, tmp_path):
    before = workers()
    running = pool.run(Leaves(str(tmp_path), seconds=100), [*chunked(1), *chunked(1, 1)])
    with pytest.raises(KeyboardInterrupt), interrupted_when(lambda: len(list(tmp_path.iterdir())) == 2, elsewhere=True):
        next(running)
    assert workers() <= before


def test_two_runs_of_one_pool_do_not_disturb_each_other(pool):
    one, two = pool.run(describe, chunked(1, 2, 3)), pool.run(describe, chunked(3, 2, 1))
    both = [pair for pairs in zip(one, two, strict=True) for pair in pairs]
    assert both[::2] == plainly(describe, chunked(1, 2, 3))
    assert both[1::2] == plainly(describe, chunked(3, 2, 1))


def test_what_a_task_prints_does_not_disturb_its_results(capfd):
    with ProcessCompute(workers=1) as pool:
        assert list(pool.run(chatters, chunked(2, 1))) == plainly(describe, chunked(2, 1))
    shown = capfd.readouterr()
    assert shown.out == ""
    assert "even past Python" in shown.err


def test_a_slice_travels_without_the_rest_of_its_table(pool):
    ((_, result),) = pool.run(slices, chunked(1))
    assert result.tables["rows"].column("n").to_pylist() == [17, 18, 19]
    assert result.tables["rows"].get_total_buffer_size() < 1000
    assert result.files["model"] == bytes(3_000_000)


def test_a_task_that_cannot_be_sent_is_refused(pool):
    with pytest.raises(InputError, match="define it in a module"):
        list(pool.run(lambda chunk: describe(chunk), chunked(1)))  # noqa: PLW0108 -- a lambda is the point


def test_a_task_that_a_worker_cannot_load_is_one_error_not_a_failure_of_each_series(pool):
    before = workers()
    with pytest.raises(InputError, match="cannot load the task: ImportError: no package of that name"):
        list(pool.run(Unloadable(), chunked(2, 2)))
    assert len(workers() - before) <= 2
    assert list(pool.run(describe, chunked(1))) == plainly(describe, chunked(1))


@pytest.mark.parametrize("python", ["/bin/false", "/no/such/python"])
def test_a_worker_that_does_not_start_is_one_error_not_a_failure_of_each_series(monkeypatch, python):
    monkeypatch.setattr(sys, "executable", python)
    with ProcessCompute(workers=2) as pool, pytest.raises(UnavailableError, match="does not start"):
        list(pool.run(describe, chunked(2, 2)))


@pytest.mark.parametrize("sent", [signal.SIGKILL, signal.SIGTERM, signal.SIGINT])
def test_no_worker_outlives_a_parent_that_is_killed(tmp_path, sent):
    with start(f"run_for_ever({str(tmp_path)!r})", stderr=subprocess.DEVNULL) as parent:
        try:
            while len(list(tmp_path.iterdir())) < 2:
                assert parent.poll() is None
                time.sleep(0.01)
            left = psutil.Process(parent.pid).children(recursive=True)
            assert len(left) == 2
            parent.send_signal(sent)
            parent.wait(timeout=120)
        finally:
            parent.kill()
    gone, alive = psutil.wait_procs(left, timeout=60)
    assert alive == []
    assert len(gone) == 2
