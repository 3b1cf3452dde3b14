"""Chunks over a Spark cluster, or over Spark on this machine.

Chunks go out in waves, each wave one Spark job of `mapInArrow` with a partition a slot: at first of one chunk a slot,
then of as many as take seconds, since a job costs Spark as much as fitting dozens of series. A few waves are in
flight, so that slots which are done early do not wait for the slowest. (A grouped map would shuffle what is grouped
already, and its hashing would put two chunks on one slot while another idles.) Series are read by the executors; what
comes back are Arrow streams and files, a wave at a time. Given `frames`, the rows come from Spark instead, grouped by
chunk (see `spark_data`), and the executors need no right on the storage.

Spark 3.5 has no applyInArrow. There the groups come by mapInArrow over sorted partitions, not by applyInPandas: pandas
does not tell a missing number from one that is not a number, and the models' bytes would differ.
"""

from __future__ import annotations

import faulthandler
import pickle
import platform
import signal
import threading
import time
import uuid
from collections import deque
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from importlib import metadata
from queue import Empty, SimpleQueue
from typing import TYPE_CHECKING, Any

import pyarrow as pa

from many_models.adapters.compute.jobs import Job, WorkerFailure, assign_result, for_chunk, next_of, not_run
from many_models.adapters.compute.results import ChunkOutcomes, Row, done_of, rows_of
from many_models.adapters.compute.serial import SerialCompute, require_series
from many_models.adapters.compute.spark_data import (
    AT,
    Frames,
    grouped,
    has_arrow,
    local,
    over_rows,
    spread,
    tables_of,
    with_small_tables,
)
from many_models.adapters.compute.spark_versions import cluster_trouble
from many_models.errors import InputError, ManyModelsError, UnavailableError
from many_models.ports import ReadingTask
from many_models.system import first_line

if TYPE_CHECKING:
    from collections.abc import Callable, Generator, Iterator, Mapping, Sequence

    from pyspark.sql import DataFrame, SparkSession

    from many_models.ports import Chunk, ChunkResult, Task

WAVES = 3  # in flight
WAVE_SECONDS = 5.0  # a wave that is quicker, from its start to its answers, is followed by larger ones
MOST_IN_WAVE = 16  # chunks whose results come together and that are lost together, where a wave is more than one a slot
SENT = pa.schema([("at", pa.int64()), ("message", pa.binary())])
NAMES = ["at", "part", "what", "name", "content"]
KINDS = [pa.int64(), pa.int32(), pa.string(), pa.string(), pa.binary()]
ANSWERS = "at long, part int, what string, name string, content binary"
SEEN = "python string, package string"
GRACE = 10.0  # seconds between the polite end of a chunk that takes too long and that of its process
LATE = "WorkerTimeout"
GONE = (
    "UNAVAILABLE",
    "RETRIES_EXCEEDED",
    "failed to connect",
    "RPC deadline exceeded",
    "NO_ACTIVE_SESSION",
    "SESSION_CLOSED",
    "SparkContext was shut down",
)
PACKAGE = "many_models"

Outcome = ChunkOutcomes | WorkerFailure


class SparkCompute:
    """Runs tasks on the session that `connect` gives, asked for when it is first needed.

    `slots` is how many chunks run at a time (0: as many as the cluster has cores by Spark's default parallelism, for
    `spark.task.cpus` of them a chunk), each for at most `timeout` seconds. A chunk whose task raises is split where it
    runs. What kills a worker is retried by Spark as often as `spark.task.maxFailures` says (on one machine: not at
    all), then each chunk of the wave alone, then split.
    """

    def __init__(
        self,
        connect: Callable[[], SparkSession],
        slots: int = 0,
        timeout: float = 600.0,
        frames: Frames | None = None,
    ) -> None:
        self._connect, self._slots, self._timeout, self._frames = connect, slots, timeout, frames
        self._cluster: _Cluster | None = None
        self._lock = threading.Lock()

    def run(self, task: Task, chunks: Sequence[Chunk]) -> Iterator[tuple[Chunk, ChunkResult]]:
        """See `Compute.run`.

        Raises InputError when the task cannot be sent or the workers have no matching Python or package, and
        UnavailableError when Spark is away. Where it goes away, or its job is cancelled, after some chunks were done,
        those are kept, and the series of the others fail for this time (kind `JobLost`).
        """
        require_series(chunks)
        if not chunks:
            return
        waves = _Waves(self._reached(), task, self._timeout, self._frames)
        given = False
        try:
            for pair in waves.run(chunks):
                yield pair
                given = True
        except UnavailableError as error:
            if not given:
                raise
            yield from waves.left(str(error))
        finally:
            waves.stop()

    def slots(self) -> int:
        """See `Compute.slots`."""
        return self._reached().slots

    def check(self) -> str:
        """See `Compute.check`. Starts a job."""
        cluster = self._reached()
        return f"spark {cluster.session.version}: {cluster.slots} slots, at most {self._timeout:g} s a chunk"

    def _reached(self) -> _Cluster:
        with self._lock:
            if self._cluster is None:
                session = self._connect()
                found = _look(session)
                self._cluster = _Cluster(session, self._slots or max(1, found // _task_cpus(session)))
            return self._cluster


class _Cluster:
    """A session whose workers were seen to fit."""

    def __init__(self, session: SparkSession, slots: int) -> None:
        self.session, self.slots = session, slots
        self._numbers: list[int] = []

    def numbers(self, chunks: int) -> list[int]:
        """Numbers for `chunks` chunks that Spark's hashing lays evenly over the slots."""
        if len(self._numbers) < chunks:
            self._numbers = spread(self.session, self.slots, max(chunks, MOST_IN_WAVE, self.slots))
        return self._numbers[:chunks]

    def tag(self, tag: str) -> None:
        """Have the jobs that this thread starts carry `tag`."""
        self.session.addTag(tag) if self._far else self.session.sparkContext.addJobTag(tag)

    def cancel(self, tag: str) -> None:
        """Cancel the jobs with `tag`; a session's own interruptTag finds them over Connect only."""
        self.session.interruptTag(tag) if self._far else self.session.sparkContext.cancelJobsWithTag(tag)

    @property
    def _far(self) -> bool:
        from pyspark.sql import SparkSession

        return not isinstance(self.session, SparkSession)  # pyright: ignore[reportUnnecessaryIsInstance]


@dataclass
class Pace:
    """How many chunks go into a wave: `each` a slot, fewer towards the end, so that no slot is left with the rest."""

    slots: int
    each: int = 1

    def chunks(self, waiting: int) -> int:
        """The size of the next wave of `waiting` chunks."""
        return min(waiting, self.slots * min(self.each, max(1, waiting // (2 * self.slots))))

    def learn(self, chunks: int, seconds: float) -> None:
        """Record how many chunks a wave had and how long it took."""
        full = chunks == self.slots * self.each
        if full and seconds < WAVE_SECONDS and 2 * chunks <= MOST_IN_WAVE:
            self.each *= 2


class _Waves:
    """The waves of one run: threads that each wait for a Spark job; the run's own thread keeps the order."""

    def __init__(self, cluster: _Cluster, task: Task, timeout: float, frames: Frames | None) -> None:
        self._cluster, self._task, self._timeout, self._frames = cluster, task, timeout, frames
        self._tag = f"{PACKAGE}-{uuid.uuid4().hex}"
        self._threads = ThreadPoolExecutor(WAVES, thread_name_prefix="spark-wave")
        self._ended: SimpleQueue[tuple[list[Job], list[Outcome] | Exception, float]] = SimpleQueue()
        self._pace = Pace(cluster.slots)
        self._waiting, self._in_flight = deque[Job](), list[Job]()
        self._flying = 0
        self._stopped = False

    def run(self, chunks: Sequence[Chunk]) -> Iterator[tuple[Chunk, ChunkResult]]:
        """Each chunk's result in order, with at most `WAVES` waves begun and not yet taken."""
        waiting, in_flight, pace = self._waiting, self._in_flight, self._pace
        waiting += (Job((place, 0), chunk) for place, chunk in enumerate(chunks))
        while waiting or in_flight:
            while waiting and self._flying < WAVES and len(in_flight) <= (WAVES - 1) * pace.slots * pace.each:
                wave = [waiting.popleft() for _ in range(pace.chunks(len(waiting)))]
                in_flight += wave
                self._send(wave)
            if (result := in_flight[0].result) is not None:
                yield in_flight.pop(0).chunk, result
                continue
            self._settle(in_flight, *next_of(self._ended))

    def left(self, reason: str) -> Iterator[tuple[Chunk, ChunkResult]]:
        """What `run` has not given: what is done all the same, and the series that no worker will do."""
        for job in (*self._in_flight, *self._waiting):
            yield job.chunk, job.result or not_run(job.chunk, "JobLost", reason)

    def stop(self) -> None:
        """Cancel what still runs, again and again: a job may be on its way to Spark when it is cancelled."""
        self._stopped = True
        while self._flying:
            with suppress(Exception):  # what is away runs nothing
                self._cluster.cancel(self._tag)
            with suppress(Empty):
                self._ended.get(timeout=0.5)
                self._flying -= 1
        self._threads.shutdown(wait=True)

    def _send(self, wave: list[Job]) -> None:
        self._flying += 1
        self._threads.submit(self._do, wave)

    def _settle(
        self, in_flight: list[Job], wave: list[Job], outcomes: list[Outcome] | Exception, seconds: float
    ) -> None:
        self._flying -= 1
        if isinstance(outcomes, Exception):
            raise outcomes
        self._pace.learn(len(wave), seconds)
        for job, outcome in zip(wave, outcomes, strict=True):
            if isinstance(outcome, WorkerFailure):
                alone = [job] if len(wave) > 1 and outcome.kind != LATE else assign_result(in_flight, job, outcome)
                for part in alone:
                    self._send([part])
            else:
                at = in_flight.index(job)
                in_flight[at : at + 1] = _parts(job, outcome)

    def _do(self, wave: list[Job]) -> None:
        began = time.monotonic()
        outcomes: list[Outcome] | Exception = []
        try:
            outcomes = [] if self._stopped else self._outcomes(wave)
        except Exception as error:  # noqa: BLE001 -- raised again in the thread that waits
            outcomes = error
        self._ended.put((wave, outcomes, time.monotonic() - began))

    def _outcomes(self, wave: list[Job]) -> list[Outcome]:
        from py4j.protocol import Py4JJavaError
        from pyspark.errors import PySparkException

        self._cluster.tag(self._tag)
        numbers = list(range(len(wave)))
        try:
            if self._frames is not None and isinstance(self._task, ReadingTask):
                numbers = self._cluster.numbers(len(wave))
                frame = self._over_rows(self._frames, self._task, dict(zip(numbers, wave, strict=True)))
            else:
                frame = self._over_messages(wave)
            answers = _collected(frame)
        except (PySparkException, Py4JJavaError) as error:
            return [_trouble(error)] * len(wave)
        except ManyModelsError:
            raise
        except Exception as error:
            raise UnavailableError(
                f"Spark went away in the middle of a run: {type(error).__name__}: {first_line(error)}"
            ) from error
        by_job: dict[int, list[dict[str, Any]]] = {number: [] for number in numbers}
        for row in answers:
            by_job[row["at"]].append(row)
        return [_outcome(job, by_job[number]) for job, number in zip(wave, numbers, strict=True)]

    def _over_messages(self, wave: list[Job]) -> DataFrame:
        """The answers to tasks that read the lake themselves."""
        messages = [_message(for_chunk(self._task, job.chunk), job.chunk, job.seconds(self._timeout)) for job in wave]
        return local(self._cluster.session, SENT, [range(len(wave)), messages]).mapInArrow(_work, ANSWERS)

    def _over_rows(self, frames: Frames, task: ReadingTask, wave: dict[int, Job]) -> DataFrame:
        """The answers to a task whose rows Spark brings."""
        messages = dict[int, bytes]()
        for at, job in wave.items():
            own = for_chunk(task, job.chunk)
            assert isinstance(own, ReadingTask)
            messages[at] = _message(with_small_tables(own, job.chunk), job.chunk, job.seconds(self._timeout))
        chunks = {at: job.chunk for at, job in wave.items()}
        rows = grouped(self._cluster.session, frames, task, chunks, self._cluster.slots)

        def whole(table):  # noqa: ANN001, ANN202 -- Spark reads the hints of what it is given
            return _answers_over(messages, table)

        def parts(batches):  # noqa: ANN001, ANN202
            for _, table in tables_of(batches):
                yield from _answers_over(messages, table).to_batches()

        if has_arrow():
            return rows.groupBy(AT).applyInArrow(whole, ANSWERS)
        return rows.sortWithinPartitions(AT).mapInArrow(parts, ANSWERS)


def _parts(job: Job, done: ChunkOutcomes) -> list[Job]:
    parts, after = list[Job](), 0
    for chunk, result in done:
        part = job.part(chunk, after)
        part.result = result
        parts.append(part)
        after += len(chunk.series)
    return parts


def _collected(frame: DataFrame) -> list[dict[str, Any]]:
    """All rows. Spark 3.5 has no toArrow."""
    if has_arrow():
        return frame.toArrow().to_pylist()
    return [row.asDict() for row in frame.collect()]


def _message(task: Task, chunk: Chunk, seconds: float) -> bytes:
    try:
        return pickle.dumps((task, chunk, seconds))
    except (pickle.PicklingError, AttributeError, TypeError) as error:
        raise InputError(f"the task {task!r} cannot be sent to a worker: {error}; define it in a module") from error


def _trouble(error: Exception) -> WorkerFailure:
    """Why a wave has no answers. Raises what no other try would change."""
    text = _with_causes(error)
    if (told := cluster_trouble(text)) is not None:
        raise told from error
    if f"No module named '{PACKAGE}" in text:
        raise InputError(f"Spark's workers have no {PACKAGE}: install the same version there as here") from error
    if "cancelled" in text or "OPERATION_CANCELED" in text:
        raise UnavailableError("Spark's job was cancelled in the middle of a run; run it again") from error
    if any(words in text for words in GONE):
        raise UnavailableError(f"Spark went away in the middle of a run: {_cause(text)}; run it again") from error
    return WorkerFailure("WorkerLost", f"Spark gave up its task: {_cause(text)}", permanent=False)


def _with_causes(error: Exception) -> str:
    """The text of `error` and of its Java causes: the text alone may not name the last one."""
    texts = [str(error)]
    with suppress(Exception):  # the JVM may be gone
        cause = getattr(error, "java_exception", None)
        while cause is not None:
            texts.append(cause.toString())
            cause = cause.getCause()
    return "\n".join(texts)


def _cause(text: str) -> str:
    """The line of a long Spark message that says what happened."""
    lines = [line.strip() for line in text.splitlines() if line.strip() and not line.strip().startswith("at ")]
    for telling in ("exited unexpectedly", "ExecutorLost", "Error:", "Lost task"):
        if found := [line for line in lines if telling in line]:
            return found[-1][:300]
    return (lines or ["no reason given"])[0][:300]


def _outcome(job: Job, rows: list[dict[str, Any]]) -> Outcome:
    """What the rows of one job say: its parts in order, each with tables, files and failures."""
    if any(row["what"] == "late" for row in rows):
        return WorkerFailure(LATE, rows[-1]["name"], permanent=False)
    if any(row["what"] == "unloadable" for row in rows):
        raise InputError(f"a worker cannot load the task: {rows[-1]['name']}; install what it needs where workers run")
    if not rows:
        return WorkerFailure("WorkerLost", "Spark returned nothing for its chunk", permanent=False)
    return done_of(job.chunk, [(row["part"], row["what"], row["name"], bytes(row["content"])) for row in rows])


def _task_cpus(session: SparkSession) -> int:
    return int(session.conf.get("spark.task.cpus", "1") or 1)


# --- What the workers have ------------------------------------------------------------------------------------------
def _look(session: SparkSession) -> int:
    """How many partitions Spark makes by default.

    Raises InputError when a worker's Python or package differs from this process's, UnavailableError when the session
    answers nothing.
    """
    from pyspark.errors import PySparkException

    def look(batches: Iterator[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:  # travels by value: needs no package
        import importlib.metadata
        import importlib.util
        import platform
        from collections import deque

        import pyarrow as pa

        deque(batches, maxlen=0)
        there = importlib.util.find_spec("many_models") is not None
        version = importlib.metadata.version("many_models") if there else ""
        yield pa.RecordBatch.from_pydict({"python": [platform.python_version()], "package": [version]})

    try:
        seen = _collected(session.range(10_000).mapInArrow(look, SEEN))
    except PySparkException as error:
        text = str(error)
        if "PYTHON_VERSION_MISMATCH" in text:
            raise InputError(
                f"Spark's workers run another Python than {platform.python_version()} here: {_cause(text)}; "
                "set PYSPARK_PYTHON for the workers, or run this with theirs"
            ) from error
        raise cluster_trouble(text) or UnavailableError(f"Spark does not answer: {_cause(text)}") from error
    own = metadata.version(PACKAGE)
    if any(not row["package"] for row in seen):
        raise InputError(
            f"Spark's workers have no {PACKAGE}: install {PACKAGE}=={own} in the cluster's environment "
            "(on Databricks: a wheel as a cluster library)"
        )
    if others := sorted({row["package"] for row in seen} - {own}):
        raise InputError(f"Spark's workers have {PACKAGE} {', '.join(others)}, needed {own} as here: install the same")
    return len(seen)


# --- In the worker --------------------------------------------------------------------------------------------------
class _LateError(BaseException):
    """The chunk's time is over: no task may take it for its own error."""


def _work(batches: Iterator[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
    """What a worker does with its partition: each row is a message, each answer several rows."""
    for batch in batches:
        for at, message in zip(batch["at"].to_pylist(), batch["message"].to_pylist(), strict=True):
            for part, what, name, content in _answers(message):
                values = ([at], [part], [what], [name], [content])
                yield pa.record_batch([pa.array(v, kind) for v, kind in zip(values, KINDS, strict=True)], NAMES)


def _answers_over(messages: Mapping[int, bytes], rows: pa.Table) -> pa.Table:
    """What a worker answers for one chunk whose rows Spark has brought."""
    at = rows[AT][0].as_py()
    answers = _answers(messages[at], rows)
    columns = list(zip(*((at, *row) for row in answers), strict=True))
    return pa.table([pa.array(column, kind) for column, kind in zip(columns, KINDS, strict=True)], NAMES)


def _answers(message: bytes, given: pa.Table | None = None) -> list[Row]:
    try:
        task, chunk, seconds = pickle.loads(message)  # noqa: S301 -- from our own driver
        if given is not None:
            task = over_rows(task, given)
    except Exception as error:  # noqa: BLE001 -- loading runs what the task's author wrote
        return [(0, "unloadable", f"{type(error).__name__}: {error}", b"")]
    rows = list[Row]()
    try:
        with _at_most(seconds):
            for number, (part, result) in enumerate(SerialCompute().run(task, [chunk])):
                rows += rows_of(number, part, result)
    except _LateError:
        return [(0, "late", f"took longer than {seconds:g} s, and was stopped", b"")]
    return rows


@contextmanager
def _at_most(seconds: float) -> Generator[None]:
    """Raise `_LateError` in the block after so long; end the process where that is not heard (in compiled code)."""

    def late(*_: object) -> None:
        raise _LateError

    before = signal.signal(signal.SIGALRM, late)
    signal.setitimer(signal.ITIMER_REAL, seconds)
    faulthandler.dump_traceback_later(seconds + min(seconds, GRACE), exit=True)
    try:
        yield
    finally:
        faulthandler.cancel_dump_traceback_later()
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)
