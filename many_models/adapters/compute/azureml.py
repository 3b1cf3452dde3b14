"""Chunks on an Azure ML compute cluster, as one parallel job a run.

The driver leaves each chunk's message in the exchange, sends a job of one parallel step over that folder, and reads
the results from the exchange while the job runs: nothing of a series goes through Azure ML itself, and the driver
holds one chunk's result at a time.
"""

from __future__ import annotations

import contextvars
import json
import pickle
import platform
import re
import shutil
import tempfile
import threading
import time
import uuid
from collections import deque
from contextlib import suppress
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING, Any

from many_models.adapters.azure.machine_learning import azure_ml_error
from many_models.adapters.compute.azureml_worker import PACKAGE, UNLOADABLE, Message
from many_models.adapters.compute.jobs import for_chunk, not_run
from many_models.adapters.compute.results import ChunkOutcomes, done_of, unpacked
from many_models.adapters.compute.serial import require_series
from many_models.errors import (
    InputError,
    ManyModelsError,
    MissingDependencyError,
    SettingsError,
    UnavailableError,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Iterator, Mapping, Sequence

    from azure.ai.ml import MLClient
    from azure.ai.ml.entities import Job, Parallel

    from many_models.adapters.compute.exchange import Exchange
    from many_models.ports import Chunk, ChunkResult, Task

ENTRY = Path(__file__).parents[2] / "templates/azureml_entry.py"
SECTION = "azureml"
OVER = {"Completed", "Canceled", "Failed"}
TRIES = 3  # of a mini-batch whose process or node is lost
MIN_BATCHES_PER_NODE = 4  # mini-batches that each node gets at least, so that all of them end at about the same time
CORES = 8
LARGEST = 64  # chunks in a mini-batch
PATIENCE = 600.0  # seconds that the workspace may be away while a job runs
LONGEST = 259_200  # seconds that Azure ML lets a mini-batch take
LOG_LINE = re.compile(rf"{PACKAGE}: (.*)")


@dataclass(frozen=True, slots=True)
class JobSettings:
    """What the parallel job asks of Azure ML.

    `cluster` names a compute cluster ("": serverless, nodes of `instance_type`); `environment` is one of the
    workspace's (`NAME:VERSION`), or `image` a container image; `files` travel beside the entry script, where Python
    finds their modules; `client_id` is the managed identity that the nodes take.
    """

    cluster: str = ""
    instance_type: str = ""
    instances: int = 1
    environment: str = ""
    image: str = ""
    files: tuple[Path, ...] = ()
    client_id: str = ""
    experiment: str = PACKAGE
    workers: int = 0


class RemoteJob:
    """One job of one parallel `step`, shown to whoever follows it as the part of MLClient that PipesAzureMLClient uses:
    `create_or_update`, `jobs.get(…).status` and `jobs.begin_cancel`.
    """

    def __init__(
        self,
        client: MLClient,
        step: Parallel,
        make: Callable[[Parallel], Job],
        read: Callable[[Collection[str]], Mapping[str, str]],
        poll: float,
    ) -> None:
        self.step, self.poll, self.notes = step, poll, read
        self.name, self.status, self.url = "", "", ""
        self._client: Any = client
        self._make = make
        self._lock = threading.Lock()
        self._stopped = False

    @property
    def jobs(self) -> RemoteJob:
        """Itself: it knows one job."""
        return self

    def create_or_update(self, step: Parallel) -> RemoteJob:
        """Send the job. Raises AccessError, SettingsError, UnavailableError."""
        with self._lock:
            if self._stopped:
                raise UnavailableError("the run ended before its Azure ML job was sent")
            try:
                made = self._client.jobs.create_or_update(self._make(step))
            except Exception as error:
                raise azure_ml_error(error, "Azure ML does not take the job", SECTION) from error
            self.name, self.status = str(made.name), str(made.status)
            self.url = str(getattr(made, "studio_url", "") or "")
        return self

    def get(self, name: str) -> RemoteJob:
        """Ask for its status; the last one known while the workspace is away, for `PATIENCE` seconds at most."""
        away = time.monotonic() + PATIENCE
        while True:
            try:
                self.status = str(self._client.jobs.get(name).status)
            except Exception as error:
                raised = azure_ml_error(error, f"Azure ML says nothing of job {name}", SECTION)
                if not isinstance(raised, UnavailableError) or time.monotonic() > away:
                    raise raised from error
                time.sleep(self.poll)
            else:
                return self

    def begin_cancel(self, name: str) -> None:
        """Ask for its end."""
        self._client.jobs.begin_cancel(name)

    def stop(self) -> None:
        """Cancel the job if it is not over, also one that is about to be sent; best effort."""
        with self._lock:
            self._stopped = True
            if self.name and self.status not in OVER:
                with suppress(Exception):  # it is over, or the service does not answer
                    self.begin_cancel(self.name)

    def log_lines(self) -> list[str]:
        """What our entry script wrote last into the job's logs, else the last lines that name an error; best effort."""
        with tempfile.TemporaryDirectory() as folder, suppress(Exception):
            for child in [*self._client.jobs.list(parent_job_name=self.name)]:
                self._client.jobs.download(child.name, download_path=folder)
            logs = [file.read_text(errors="replace").splitlines() for file in sorted(Path(folder).rglob("*.txt"))]
            lines = [line.strip() for log in logs for line in log]
            own = [found[0] for line in lines if (found := LOG_LINE.search(line))]
            return own[-1:] or [line[:300] for line in lines if "Error" in line][-1:]
        return []


def follow(job: RemoteJob) -> None:
    """Send the job and wait until it is over."""
    job.create_or_update(job.step)
    while job.get(job.name).status not in OVER:
        time.sleep(job.poll)


class AzureMLCompute:
    """Runs tasks on the workspace that `client` gives, asked for when it is first needed; each chunk for at most
    `timeout` seconds on its node.

    `followed` sends a job and waits for its end (`follow`, or Dagster Pipes). A run that is interrupted or closed
    cancels its job. Where a job ends early after some chunks were done, those are kept, and the series of the others
    fail for this time (kind `JobCanceled`, `JobFailed`, or `WorkerLost` for a mini-batch that was lost three times).
    """

    def __init__(
        self,
        client: Callable[[], MLClient],
        exchange: Exchange,
        settings: JobSettings,
        timeout: float = 600.0,
        followed: Callable[[RemoteJob], None] = follow,
        poll: float = 10.0,
    ) -> None:
        self._connect, self._exchange, self._settings = client, exchange, settings
        self._timeout, self._followed, self._poll = timeout, followed, poll

    def run(self, task: Task, chunks: Sequence[Chunk]) -> Iterator[tuple[Chunk, ChunkResult]]:
        """See `Compute.run`.

        Raises InputError when the task cannot be sent or the job's environment does not fit, AccessError and
        SettingsError when the workspace refuses the job, UnavailableError when it ends before any chunk is done.
        """
        require_series(chunks)
        if not chunks:
            return
        running = _Run(self._connect(), self._exchange, self._settings, self._timeout, self._poll)
        try:
            running.send(task, chunks, self._followed)
            yield from running.results(chunks)
        finally:
            running.stop()

    def slots(self) -> int:
        """See `Compute.slots`. A node's cores are not asked for: they count as `CORES` where no `workers` are named."""
        return self._settings.instances * (self._settings.workers or CORES)

    def check(self) -> str:
        """See `Compute.check`."""
        wanted = self._settings
        client: Any = self._connect()
        try:
            if wanted.cluster:
                client.compute.get(wanted.cluster)
            else:
                client.workspaces.get(client.workspace_name)
        except Exception as error:
            raise azure_ml_error(error, f"Azure ML, cluster {wanted.cluster!r}", SECTION) from error
        where = f"cluster {wanted.cluster}" if wanted.cluster else f"serverless {wanted.instance_type}"
        return f"azure ml: {where}, {wanted.instances} nodes, environment {wanted.environment or wanted.image}"


class _Run:
    """One run: its folder in the exchange, its job, the thread that follows it."""

    def __init__(
        self, client: MLClient, exchange: Exchange, settings: JobSettings, timeout: float, poll: float
    ) -> None:
        self._client, self._exchange, self._settings = client, exchange, settings
        self._timeout, self._poll = timeout, poll
        self._folder = f"run-{uuid.uuid4().hex}"
        self._over = threading.Event()
        self._error: Exception | None = None
        self._job: RemoteJob | None = None
        self._thread: threading.Thread | None = None
        self._code = tempfile.TemporaryDirectory(prefix="many_models-job-")

    def send(self, task: Task, chunks: Sequence[Chunk], followed: Callable[[RemoteJob], None]) -> None:
        """Leave the messages and begin to follow the job, in a thread that sees this one's context."""
        for at, chunk in enumerate(chunks):
            content = self._message(task, at, chunk)
            self._exchange.put(f"{self._folder}/chunks/{at:06d}", content)
        step = self._step(len(chunks))
        job = self._job = RemoteJob(self._client, step, self._pipeline, self._notes, self._poll)

        def in_thread() -> None:
            try:
                followed(job)
            except Exception as error:  # noqa: BLE001 -- raised again in the thread that waits
                self._error = error
            finally:
                self._over.set()

        context = contextvars.copy_context()
        self._thread = threading.Thread(target=context.run, args=(in_thread,), name="azure-ml-job", daemon=True)
        self._thread.start()

    def results(self, chunks: Sequence[Chunk]) -> Iterator[tuple[Chunk, ChunkResult]]:
        """The chunks' results in order, while the job runs; after its end also what it left undone."""
        waiting = deque(enumerate(chunks))
        there = set[str]()
        while waiting:
            over = self._over.is_set()  # asked first: after the end nothing comes
            if self._result(waiting[0][0]) not in there:
                there = set(self._exchange.names(f"{self._folder}/results"))
            if self._result(waiting[0][0]) in there:
                at, chunk = waiting.popleft()
                yield from self._done(at, chunk)
            elif over:
                break
            else:
                self._over.wait(self._poll)
        if waiting:
            lost = self._why_not(nothing=not there)
            for at, chunk in waiting:
                yield from self._done(at, chunk) if self._result(at) in there else [(chunk, not_run(chunk, *lost))]
        self._over.wait()

    def stop(self) -> None:
        """Cancel the job if it still runs, wait for its end, and clean up."""
        if self._job is not None and not self._over.is_set():
            self._job.stop()
        if self._thread is not None:
            self._thread.join()
        self._code.cleanup()
        with suppress(ManyModelsError):  # the run's results count, not what is left of it
            self._exchange.remove(self._folder)

    def _result(self, at: int) -> str:
        return f"{self._folder}/results/{at:06d}"

    def _done(self, at: int, chunk: Chunk) -> ChunkOutcomes:
        rows = unpacked(self._exchange.get(self._result(at)))
        if rows and rows[0][1] == UNLOADABLE:
            raise InputError(
                f"a worker cannot load the task: {rows[0][2]}; install what it needs in the environment that [azureml] "
                "names, or name its files in azureml.files"
            )
        return done_of(chunk, rows)

    def _notes(self, seen: Collection[str] = ()) -> dict[str, str]:
        """What the workers have said so far, by name, but for what was `seen`."""
        names = [name for name in self._exchange.names(f"{self._folder}/notes") if name not in seen]
        return {name: json.loads(self._exchange.get(name)) for name in names}

    def _why_not(self, *, nothing: bool) -> tuple[str, str]:
        """Kind and reason of the failures of what the job left undone; raises where it did `nothing` at all."""
        job, error = self._job, self._error
        assert job is not None
        if not job.name:
            raise error if isinstance(error, ManyModelsError) else UnavailableError(f"no Azure ML job: {error}")
        said = f"Azure ML job {job.name}" + (f" ({job.url})" if job.url else "")
        if job.status == "Completed":
            problems = [text for text in self._notes().values() if "Error" in text][-1:]
            why = f": {problems[0]}" if problems else ": its process or node was lost each time (memory, pre-emption)"
            return "WorkerLost", f"its mini-batch failed {TRIES} times in {said}{why}"
        if job.status == "Canceled":
            kind, text = "JobCanceled", f"{said} was cancelled or pre-empted for good; run it again"
        else:
            lines = job.log_lines()
            last = f": {lines[0]}" if lines else "; its logs say why"
            kind, text = "JobFailed", f"{said} {'failed' if job.status == 'Failed' else 'was lost sight of'}{last}"
            if nothing and lines and PACKAGE in lines[0]:
                raise InputError(text)
        if nothing:
            raise UnavailableError(text)
        return kind, text

    def _message(self, task: Task, at: int, chunk: Chunk) -> bytes:
        try:
            packed = pickle.dumps(for_chunk(task, chunk))
        except (pickle.PicklingError, AttributeError, TypeError) as error:
            raise InputError(f"the task {task!r} cannot be sent to a worker: {error}; define it in a module") from error
        notes = f"{self._folder}/notes"
        workers = self._settings.workers
        message = Message(packed, chunk, self._exchange, self._result(at), notes, self._timeout, workers)
        return pickle.dumps(message)

    def _step(self, chunks: int) -> Parallel:
        try:
            from azure.ai.ml import Input
            from azure.ai.ml.constants import InputOutputModes
            from azure.ai.ml.entities import Environment, ManagedIdentityConfiguration
            from azure.ai.ml.parallel import RunFunction, parallel_run_function
        except ImportError as error:
            raise MissingDependencyError(
                "compute.kind = \"azureml\" needs the package azure-ai-ml: pip install 'many_models[azureml]'"
            ) from error
        wanted = self._settings
        a_batch = max(1, min(LARGEST, chunks // (wanted.instances * MIN_BATCHES_PER_NODE)))
        longest = min(LONGEST, int(600 + 4 * self._timeout * a_batch))  # a chunk with a hanging series takes three
        environment = Environment(image=wanted.image) if wanted.image else f"azureml:{wanted.environment}"
        folder = self._exchange.place(f"{self._folder}/chunks")
        return parallel_run_function(
            name="chunks",
            inputs={"chunks": Input(type="uri_folder", path=folder, mode=InputOutputModes.RO_MOUNT)},
            input_data="${{inputs.chunks}}",
            mini_batch_size=str(a_batch),
            instance_count=wanted.instances,
            instance_type=wanted.instance_type or None,
            max_concurrency_per_instance=1,  # the entry script fills the node's cores
            retry_settings={"max_retries": TRIES - 1, "timeout": longest},  # type: ignore[arg-type]
            error_threshold=-1,
            mini_batch_error_threshold=-1,
            is_deterministic=False,  # the lake has changed when the same is asked again
            identity=ManagedIdentityConfiguration(client_id=wanted.client_id) if wanted.client_id else None,
            task=RunFunction(
                code=self._code_folder(),
                entry_script="entry.py",
                program_arguments=self._arguments(),
                environment=environment,
            ),
        )

    def _arguments(self) -> str:
        """What a worker has to know before it opens anything: versions, and the identity that its node has."""
        words = ["--version", metadata.version(PACKAGE), "--python", platform.python_version()]
        if self._settings.client_id:
            words += ["--client-id", self._settings.client_id]
        return " ".join(words)

    def _code_folder(self) -> str:
        """The folder that becomes the job's code: the entry script, and the user's files beside it."""
        folder = Path(self._code.name)
        shutil.copyfile(ENTRY, folder / "entry.py")
        for file in self._settings.files:
            if not file.exists() or file.name == "entry.py":
                raise SettingsError(f"azureml.files: there is no {file}, or it has the entry script's name (entry.py)")
            copy = shutil.copytree if file.is_dir() else shutil.copyfile
            copy(file, folder / file.name)
        return str(folder)

    def _pipeline(self, step: Parallel) -> Job:
        from azure.ai.ml.entities import PipelineJob

        wanted = self._settings
        cluster = wanted.cluster or "serverless"
        name = f"{PACKAGE}-{self._folder}"
        return PipelineJob(name=name, experiment_name=wanted.experiment, jobs={"chunks": step}, compute=cluster)
