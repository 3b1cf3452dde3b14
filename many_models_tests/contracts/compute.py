"""What every compute does."""

from __future__ import annotations

import signal
import threading
import time
from contextlib import contextmanager
from typing import TYPE_CHECKING

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from many_models.errors import InputError, SeriesFailure
from many_models.ports import Compute
from many_models_tests.contracts import Contract
from many_models_tests.support.compute_tasks import Leaves, Raises, chunked, describe, own_failures, wait_for

if TYPE_CHECKING:
    from collections.abc import Callable, Generator

PATIENCE = 20.0  # seconds in which a thread that waits has to hear of a signal that another one took


def plainly(task, chunks):
    """The slow obvious meaning of `run` when nothing fails."""
    return [(chunk, task(chunk)) for chunk in chunks]


def failures(results) -> dict[str, SeriesFailure]:
    return {failure.series_id: failure for _, result in results for failure in result.failures}


def done(results) -> list[str]:
    return [name for _, result in results for name in result.files.get("names", b"").decode().split()]


@contextmanager
def interrupted_when(there: Callable[[], object], *, elsewhere: bool) -> Generator[None]:
    """What an interruption does to a run that waits: an exception in this thread, as soon as it is `there`.

    Where the signal goes `elsewhere`, another thread takes it, as the system may choose. A run that goes on waiting
    then is woken, and fails.
    """
    heard, waits = threading.Event(), threading.main_thread().ident or 0

    def stop(*_: object) -> None:
        if heard.is_set():
            pytest.fail("the thread that waits was not interrupted by a signal that another thread took")
        heard.set()
        raise KeyboardInterrupt

    def send() -> None:
        wait_for(there, "what is to be interrupted")
        signal.pthread_kill(threading.get_ident() if elsewhere else waits, signal.SIGALRM)
        if not heard.wait(PATIENCE):
            heard.set()
            signal.pthread_kill(waits, signal.SIGALRM)

    old = signal.signal(signal.SIGALRM, stop)
    sender = threading.Thread(target=send, daemon=True)
    sender.start()
    try:
        yield
    finally:
        sender.join()
        signal.signal(signal.SIGALRM, old)


class ComputeContract(Contract):
    """`compute` is one compute, perhaps the same for several tests, stopped after them.

    `farewell`: seconds in which workers that have not heard that a run was closed begin something. `each`: seconds
    that a chunk takes where chunks do not wait for whoever takes their results. `ahead`: chunks that may be begun
    before anybody takes their results, `examples` how many runs a property is tried on, `slots` what it says itself.
    `waits`: whether the thread of the run waits while others work.
    """

    farewell = 0.1
    waits = True
    each = 0.0
    ahead = 14
    examples = 15
    slots = 2

    @pytest.fixture
    def compute(self):
        raise NotImplementedError

    def test_it_is_a_compute(self, compute):
        assert isinstance(compute, Compute)

    def test_it_says_how_many_chunks_it_does_at_a_time(self, compute):
        assert compute.slots() == self.slots

    def test_it_says_what_it_is(self, compute):
        assert len(compute.check().splitlines()) == 1

    def test_results_are_those_of_a_plain_loop_in_order(self, compute):
        chunks = chunked(3, 1, 4, 1, 5, 9, 2, 6)
        assert list(compute.run(describe, chunks)) == plainly(describe, chunks)

    def test_no_chunks_are_no_results(self, compute):
        assert list(compute.run(describe, [])) == []

    def test_one_compute_runs_again_and_another_task(self, compute):
        assert list(compute.run(describe, chunked(2))) == plainly(describe, chunked(2))
        assert failures(compute.run(own_failures, chunked(2))).keys() == {"s0", "s1"}
        assert list(compute.run(describe, chunked(1, 1))) == plainly(describe, chunked(1, 1))

    def test_a_chunk_without_series_is_refused(self, compute):
        with pytest.raises(InputError, match="without series: 1"):
            list(compute.run(describe, chunked(1, 0)))

    def test_failures_that_a_task_returns_come_through(self, compute):
        ((_, result),) = compute.run(own_failures, chunked(2))
        assert list(result.failures) == [
            SeriesFailure(name, "Odd", "by itself", permanent=True) for name in ("s0", "s1")
        ]

    @pytest.mark.parametrize(
        ("how", "expected"),
        [
            ("value", ("ValueError", "no good", True)),
            ("series", ("SeriesError", "too short", True)),
            ("transient", ("UnavailableError", "the lake is away", False)),
            ("memory", ("MemoryError", "MemoryError", False)),
            ("unlikely", ("UnlikelyError", "no pickle", True)),
            ("file", ("FileNotFoundError", "gone", False)),
            ("exit", ("SystemExit", "3", True)),
        ],
    )
    def test_a_series_that_raises_fails_alone(self, compute, how, expected):
        results = list(compute.run(Raises(("s5",), how), chunked(3, 4, 2)))
        assert failures(results) == {"s5": SeriesFailure("s5", *expected)}
        assert done(results) == [f"s{at}" for at in range(9) if at != 5]

    def test_the_parts_of_a_split_chunk_keep_its_number_its_pack_and_the_order(self, compute):
        results = list(compute.run(Raises(("s0", "s7", "s8")), chunked(3, 5, 2)))
        assert [name for chunk, _ in results for name in chunk.series] == [f"s{at}" for at in range(10)]
        assert [chunk.number for chunk, _ in results] == sorted(chunk.number for chunk, _ in results)
        assert all(chunk.pack == f"pack{chunk.number}" for chunk, _ in results)
        assert failures(results).keys() == {"s0", "s7", "s8"}

    def test_any_series_may_raise_and_each_is_done_or_failed_once(self, compute):
        @settings(max_examples=self.examples, deadline=None)
        @given(st.lists(st.integers(1, 6), max_size=5), st.sets(st.integers(0, 29)))
        def run(sizes: list[int], bad: set[int]) -> None:
            chunks = chunked(*sizes)
            names = {name for chunk in chunks for name in chunk.series}
            wrong = {f"s{at}" for at in bad} & names
            results = list(compute.run(Raises(tuple(wrong)), chunks))
            assert failures(results).keys() == wrong
            assert sorted(done(results)) == sorted(names - wrong)

        run()

    def test_closing_the_iterator_begins_nothing_more(self, compute, tmp_path):
        running = compute.run(Leaves(str(tmp_path), self.each), chunked(*[1] * 200))
        next(running)
        running.close()
        begun = -1
        while begun < (begun := len(list(tmp_path.iterdir()))):  # what was on its way to a far worker may still begin
            time.sleep(self.farewell)
        assert begun < 100

    def test_an_interruption_stops_workers_in_the_middle_of_their_chunks_and_is_raised(self, compute, tmp_path):
        with pytest.raises(KeyboardInterrupt), interrupted_when(lambda: list(tmp_path.iterdir()), elsewhere=self.waits):
            list(compute.run(Leaves(str(tmp_path), 3600), chunked(*[1] * 10)))
        assert list(compute.run(describe, chunked(1, 1))) == plainly(describe, chunked(1, 1))

    def test_a_slow_consumer_finds_a_bounded_number_of_chunks_begun(self, compute, tmp_path):
        running = compute.run(Leaves(str(tmp_path)), chunked(*[1] * 100))
        next(running)
        time.sleep(0.3)
        assert len(list(tmp_path.iterdir())) <= self.ahead
        assert len(list(running)) == 99
        assert len(list(tmp_path.iterdir())) == 100
