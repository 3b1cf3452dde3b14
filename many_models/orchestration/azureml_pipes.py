"""Azure ML jobs followed by Dagster Pipes: their states and what their workers say come into the run's log."""

from __future__ import annotations

import threading
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING, Any

import dagster as dg
from dagster_azure.pipes import PipesAzureMLClient

from many_models.adapters.compute.azureml import follow
from many_models.errors import ManyModelsError

if TYPE_CHECKING:
    from collections.abc import Generator

    from dagster_pipes import PipesParams

    from many_models.adapters.compute.azureml import RemoteJob

PROTOCOL = "0.1"


def follow_with_pipes(job: RemoteJob) -> None:
    """Send the job and wait for its end with PipesAzureMLClient, in the context of the asset that runs.

    Raises DagsterPipesExecutionError when it fails or is cancelled. The client itself returns as if a job were
    completed when its wait is interrupted; but here it waits in a thread, where nothing interrupts it: the run's own
    thread is interrupted, ends `AzureMLCompute.run`, which cancels the job, and the interruption goes on.
    """
    try:
        context = _RecordsItself(dg.AssetExecutionContext.get().op_execution_context)
    except dg.DagsterInvariantViolationError:
        follow(job)  # a notebook or a benchmark: there is no run to tell
        return
    client: Any = job
    command: Any = job.step
    pipes = PipesAzureMLClient(client, dg.PipesEnvContextInjector(), NotesReader(job), job.poll)
    pipes.run(context=context, command=command)


class _RecordsItself(dg.AssetExecutionContext):
    """The context of an asset whose body records its materializations, as our stages do: Pipes need not report any."""

    def set_requires_typed_event_stream(self, *, error_message: str | None = None) -> None:
        """Require nothing."""


class NotesReader(dg.PipesMessageReader):
    """Turns what a job's workers leave in the exchange into messages of the Pipes protocol: many workers write."""

    def __init__(self, job: RemoteJob) -> None:
        self._job = job

    @contextmanager
    def read_messages(self, handler: dg.PipesMessageHandler) -> Generator[PipesParams]:
        """See `PipesMessageReader.read_messages`."""
        over = threading.Event()
        seen = set[str]()

        def tell(method: str, **params: str) -> None:
            handler.handle_message({"__dagster_pipes_version": PROTOCOL, "method": method, "params": params})  # type: ignore[typeddict-item]

        def tell_new() -> None:
            for name, note in self._job.notes(seen).items():
                if not seen:
                    tell("opened")
                seen.add(name)
                tell("log", message=f"[azure ml] {note}", level="info")

        def read() -> None:
            while not over.wait(self._job.poll):
                try:
                    tell_new()
                except ManyModelsError as error:  # the next look may find it there again
                    tell("log", message=f"[azure ml] its notes cannot be read now: {error}", level="debug")

        thread = threading.Thread(target=read, name="azure-ml-notes", daemon=True)
        thread.start()
        try:
            yield {}
        finally:
            over.set()
            thread.join()
            with suppress(ManyModelsError):
                tell_new()
            if seen:
                tell("closed")

    def no_messages_debug_text(self) -> str:
        """See `PipesMessageReader.no_messages_debug_text`."""
        return "Workers of the Azure ML job leave notes in the exchange when a mini-batch is done; there were none."
