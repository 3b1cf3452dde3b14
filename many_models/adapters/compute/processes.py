"""Chunks over worker processes of this machine.

Each worker is its own Python that reads chunks from its standard input and writes results to its standard output,
as frames of a pickle and its buffers (Arrow tables travel as IPC streams, beside the pickle). When its input ends,
because the parent closed it or died in whatever way, the worker exits at once, in the middle of a chunk too. What a
task prints goes to standard error.
"""

from __future__ import annotations

import os
import pickle
import signal
import struct
import subprocess
import threading
import weakref
from collections import deque
from contextlib import suppress
from queue import PriorityQueue, SimpleQueue
from typing import IO, TYPE_CHECKING, Any, Literal, Self

import pyarrow as pa

from many_models.adapters.compute.jobs import Job, WorkerFailure, assign_result, next_of
from many_models.adapters.compute.serial import require_series
from many_models.errors import InputError, SeriesFailure, UnavailableError
from many_models.ports import Chunk, ChunkResult
from many_models.system import child_command

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from many_models.ports import Task

AHEAD = 3  # chunks in flight for each worker: running, waiting, or done before their turn
START_SECONDS = 120.0  # for a worker to start, and to import what the task needs


class ProcessCompute:
    """A pool of `workers` processes (0: one a core this process may use), each chunk stopped after `timeout` seconds.

    A part of a split chunk has the part's share of the timeout, and at least a quarter of it, so that finding the one
    series that hangs takes about three timeouts, not one for every halving. Workers start when they are needed and
    stay for the next `run` until `close`, the end of a `with` block, or the end of this process.

    The task must be importable in a worker (no lambda, nothing from `__main__`).
    """

    def __init__(self, workers: int = 0, timeout: float = 600.0) -> None:
        self._workers = workers or _cores()
        self._timeout = timeout
        self._idle: list[_Worker] = []
        self._lock = threading.Lock()
        weakref.finalize(self, _stop_all, self._idle)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Stop the workers that wait for the next run."""
        with self._lock:
            _stop_all(self._idle)

    def run(self, task: Task, chunks: Sequence[Chunk]) -> Iterator[tuple[Chunk, ChunkResult]]:
        """See `Compute.run`. Raises InputError when the task cannot be sent, UnavailableError when no worker starts."""
        require_series(chunks)
        try:
            packed = pickle.dumps(task)
        except (pickle.PicklingError, AttributeError, TypeError) as error:
            raise InputError(f"the task {task!r} cannot be sent to a worker: {error}; define it in a module") from error
        crew = _Crew(self._take, self._give, packed, min(self._workers, len(chunks)), self._timeout)
        try:
            yield from crew.run(chunks)
        finally:
            crew.stop()

    def slots(self) -> int:
        """See `Compute.slots`."""
        return self._workers

    def check(self) -> str:
        """See `Compute.check`. Starts a worker."""
        worker = self._take()
        worker.require_ready()
        self._give(worker)
        return f"processes: {self._workers} workers, at most {self._timeout:g} s a chunk"

    def _take(self) -> _Worker:
        with self._lock:
            while self._idle:
                if (worker := self._idle.pop()).alive:
                    return worker
        return _Worker()

    def _give(self, worker: _Worker) -> None:
        with self._lock:
            self._idle.append(worker)


def _cores() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


_Outcome = ChunkResult | WorkerFailure | Exception


class _Crew:
    """The threads of one run, each driving one worker; the run's own thread keeps the order."""

    def __init__(
        self, take: Callable[[], _Worker], give: Callable[[_Worker], None], packed: bytes, workers: int, timeout: float
    ) -> None:
        self._take, self._give, self._packed, self._timeout = take, give, packed, timeout
        self._todo: PriorityQueue[Job] = PriorityQueue()
        self._done: SimpleQueue[tuple[Job, _Outcome]] = SimpleQueue()
        self._lock = threading.Lock()
        self._busy: set[_Worker | None] = set()
        self._state: Literal["running", "finished", "stopped"] = "running"
        self._threads = [threading.Thread(target=self._drive, daemon=True) for _ in range(workers)]

    def run(self, chunks: Sequence[Chunk]) -> Iterator[tuple[Chunk, ChunkResult]]:
        """Each chunk's result in order, with a bounded number of chunks in flight."""
        for thread in self._threads:
            thread.start()
        waiting = deque(Job((place, 0), chunk) for place, chunk in enumerate(chunks))
        in_flight: list[Job] = []
        while waiting or in_flight:
            while waiting and len(in_flight) < AHEAD * len(self._threads):
                in_flight.append(waiting.popleft())
                self._todo.put(in_flight[-1])
            if (result := in_flight[0].result) is not None:
                yield in_flight.pop(0).chunk, result
                continue
            self._settle(in_flight, *next_of(self._done))
        self._state = "finished"

    def _settle(self, in_flight: list[Job], job: Job, outcome: _Outcome) -> None:
        if isinstance(outcome, Exception):
            raise outcome
        for part in assign_result(in_flight, job, outcome):
            self._todo.put(part)

    def stop(self) -> None:
        """End the threads; workers in the middle of something are killed, the rest wait for the next run."""
        with self._lock:
            if self._state == "running":
                self._state = "stopped"
                for worker in filter(None, self._busy):
                    worker.kill()
        for _ in self._threads:
            self._todo.put(_END)
        for thread in self._threads:
            if thread.ident is not None:
                thread.join()

    def _drive(self) -> None:
        worker: _Worker | None = None
        while (job := self._todo.get()) is not _END:
            try:
                worker = self._hired(worker)
                outcome: _Outcome = worker.do(self._packed, job.chunk, job.seconds(self._timeout))
            except Exception as error:  # noqa: BLE001 -- raised again in the thread that waits
                outcome = error
            with self._lock:
                self._busy.discard(worker)
            self._done.put((job, outcome))
        if worker is not None:
            self._give(worker) if self._state == "finished" and worker.alive else worker.close()

    def _hired(self, worker: _Worker | None) -> _Worker:
        """A live worker, `worker` if it lives, that `stop` knows of."""
        if worker is not None and not worker.alive:
            worker.close()
            worker = None
        worker = worker or self._take()
        with self._lock:
            self._busy.add(worker)
            if self._state == "stopped":
                worker.kill()
        return worker


_END = Job((-1, 0), Chunk(-1, "", ()))


class _Worker:
    """A worker process, driven by one thread at a time."""

    def __init__(self) -> None:
        command = child_command(__name__, "work")
        try:
            self._process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE)  # noqa: S603 -- ours
        except OSError as error:
            raise UnavailableError(f"a worker process does not start: {error}") from error
        self._packed = b""
        self._ready = False

    @property
    def alive(self) -> bool:
        return self._process.poll() is None

    def kill(self) -> None:
        """End it now; what it does is lost."""
        self._process.kill()
        self._process.wait()

    def close(self) -> None:
        """End it and close its pipes."""
        self.kill()
        for pipe in (self._process.stdin, self._process.stdout):
            with suppress(OSError):
                pipe.close() if pipe else None

    def require_ready(self) -> None:
        """Wait until it has started. Raises UnavailableError when it does not."""
        if not self._ready and self._answer(None, START_SECONDS) is None:
            self.kill()
            raise UnavailableError(
                f"a worker process does not start ({self._end()}); what it wrote to standard error says why"
            )
        self._ready = True

    def do(self, packed: bytes, chunk: Chunk, seconds: float) -> _Outcome:
        """The result of the `packed` task over `chunk`, or why there is none.

        Raises InputError when the worker cannot load the task, UnavailableError when it does not start.
        """
        self.require_ready()
        if self._packed != packed:
            self._load(packed)
        answer = self._answer(("chunk", chunk), seconds)
        if answer is None:
            self.kill()
            return self._lost(seconds)
        what, value = answer
        return WorkerFailure(*value) if what == "trouble" else _unpacked(*value)

    def _load(self, packed: bytes) -> None:
        answer = self._answer(("task", packed), START_SECONDS)
        if answer is None:
            self.kill()
            raise UnavailableError(f"a worker process died while it loaded the task ({self._end()})")
        if answer[0] == "trouble":
            raise InputError(f"a worker cannot load the task: {answer[1][0]}: {answer[1][1]}; define it in a module")
        self._packed = packed

    def _answer(self, message: tuple[str, object] | None, seconds: float) -> tuple[str, Any] | None:
        """What it says to `message` (None: when it has started); None when it died or was killed after `seconds`."""
        self._late = False
        timer = threading.Timer(seconds, self._expire)
        timer.daemon = True
        timer.start()
        try:
            if message is not None:
                _send(self._process.stdin, message)
            return _receive(self._process.stdout)
        except OSError:
            return None
        finally:
            timer.cancel()
            timer.join()

    def _expire(self) -> None:
        self._late = True
        self._process.kill()

    def _lost(self, seconds: float) -> WorkerFailure:
        if self._late:
            return WorkerFailure("WorkerTimeout", f"took longer than {seconds:g} s, and was stopped", permanent=False)
        return WorkerFailure("WorkerLost", f"the worker process died ({self._end()})", permanent=False)

    def _end(self) -> str:
        code = self._process.wait()
        if code == -signal.SIGKILL and not self._late:
            return "killed by SIGKILL, perhaps for want of memory"
        return f"killed by {signal.Signals(-code).name}" if code < 0 else f"exit code {code}"


def _stop_all(workers: list[_Worker]) -> None:
    while workers:
        workers.pop().close()


# --- Frames ---------------------------------------------------------------------------------------------------------
def _send(pipe: IO[bytes] | None, message: object) -> None:
    """Write one frame: the number of its parts, their sizes, the pickle, its buffers."""
    assert pipe is not None
    buffers: list[pickle.PickleBuffer] = []
    head = pickle.dumps(message, protocol=5, buffer_callback=buffers.append)
    parts = [memoryview(head), *(buffer.raw() for buffer in buffers)]
    pipe.write(struct.pack(f"<{len(parts) + 1}Q", len(parts), *(part.nbytes for part in parts)))
    for part in parts:
        pipe.write(part)
    pipe.flush()


def _receive(pipe: IO[bytes] | None) -> Any:
    """Read one frame; None when the other end is gone."""
    assert pipe is not None
    count = pipe.read(8)
    if len(count) < 8:
        return None
    (number,) = struct.unpack("<Q", count)
    sizes = pipe.read(8 * number)
    if len(sizes) < 8 * number:
        return None
    parts = []
    for size in struct.unpack(f"<{number}Q", sizes):
        parts.append(pipe.read(size))
        if len(parts[-1]) < size:
            return None
    return pickle.loads(parts[0], buffers=parts[1:])  # noqa: S301 -- from our own child or parent


def _packed(result: ChunkResult) -> tuple[dict[str, object], dict[str, object], tuple[SeriesFailure, ...]]:
    tables: dict[str, object] = {}
    for name, table in result.tables.items():
        sink = pa.BufferOutputStream()
        with pa.ipc.new_stream(sink, table.schema) as stream:
            stream.write_table(table)
        tables[name] = pickle.PickleBuffer(sink.getvalue())
    return (
        tables,
        {name: pickle.PickleBuffer(content) for name, content in result.files.items()},
        tuple(result.failures),
    )


def _unpacked(tables: dict[str, bytes], files: dict[str, bytes], failures: tuple[SeriesFailure, ...]) -> ChunkResult:
    read = {name: pa.ipc.open_stream(pa.py_buffer(content)).read_all() for name, content in tables.items()}
    return ChunkResult(read, files, failures)


# --- In the worker --------------------------------------------------------------------------------------------------
def work() -> None:
    """Work as a worker process until the input ends."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the parent is interrupted too, and stops its workers
    incoming, outgoing = os.fdopen(os.dup(0), "rb"), os.fdopen(os.dup(1), "wb")
    os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
    os.dup2(2, 1)
    inbox: SimpleQueue[tuple[str, Any]] = SimpleQueue()
    threading.Thread(target=_listen, args=(incoming, inbox), daemon=True).start()
    _send(outgoing, ("ready", None))
    task: Task | None = None
    while True:
        what, value = inbox.get()
        try:
            if what == "task":
                task = pickle.loads(value)  # noqa: S301 -- from our own parent
                answer: tuple[str, object] = ("loaded", None)
            else:
                assert task is not None
                answer = ("result", _packed(task(value)))
        except (Exception, SystemExit) as error:  # noqa: BLE001 -- whatever a task raises is its series' failure
            failure = SeriesFailure.of("", error)
            answer = ("trouble", (failure.kind, failure.reason, failure.permanent))
        _send(outgoing, answer)


def _listen(incoming: IO[bytes], inbox: SimpleQueue[tuple[str, Any]]) -> None:
    while (message := _receive(incoming)) is not None:
        inbox.put(message)
    os._exit(0)
