"""What a worker of an Azure ML parallel job does: `init` once a process, `run` for each mini-batch of chunks.

Each file of a mini-batch is a chunk's message. Chunks run in processes of the node (`compute_processes`), so that a
series that kills or hangs its process costs only itself; each result is written as soon as it is there, and a chunk
that has one is not done again: a mini-batch that another node takes up after a pre-emption goes on where it ended.
"""

from __future__ import annotations

import argparse
import json
import os
import pickle
import platform
import socket
import sys
import time
from collections import Counter
from dataclasses import dataclass
from functools import partial
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING

from many_models.adapters.azure.identity import NODE_CLIENT_ID
from many_models.adapters.compute.processes import ProcessCompute
from many_models.adapters.compute.results import Row, packed, rows_of
from many_models.errors import InputError

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from many_models.adapters.compute.exchange import Exchange
    from many_models.ports import Chunk, ChunkResult, Task

PACKAGE = "many_models"
UNLOADABLE = "unloadable"


@dataclass(frozen=True, slots=True)
class Message:
    """A chunk on its way to a worker: its pickled `task`, and where the worker leaves `result` and `notes`."""

    task: bytes
    chunk: Chunk
    exchange: Exchange
    result: str
    notes: str
    seconds: float
    workers: int


def require_same(version: str, python: str) -> None:
    """Raise InputError when this environment has another version of the package or of Python than the driver."""
    here, mine = metadata.version(PACKAGE), platform.python_version()
    if here != version:
        raise InputError(
            f"the job's environment has {PACKAGE} {here}, needed {version} as where it was sent from: "
            f"install {PACKAGE}=={version} in the environment or image that [azureml] names"
        )
    if mine.split(".")[:2] != python.split(".")[:2]:
        raise InputError(
            f"the job's environment runs Python {mine}, needed {python} as where it was sent from: "
            "take another image in [azureml], or run the code location with that Python"
        )


class Worker:
    """One process of the parallel job."""

    def __init__(self, arguments: Sequence[str]) -> None:
        parser = argparse.ArgumentParser()
        parser.add_argument("--version", required=True)
        parser.add_argument("--python", required=True)
        parser.add_argument("--client-id", default="")
        known, _ = parser.parse_known_args(list(arguments))  # Azure ML adds its own flags
        require_same(known.version, known.python)
        if known.client_id:  # in the environment, so that the processes of this node have it, too
            os.environ[NODE_CLIENT_ID] = known.client_id
        self._pool: ProcessCompute | None = None
        self._notes = 0

    def run(self, files: Sequence[str]) -> list[str]:
        """Do the chunks of these files; one element for each file, as Azure ML counts what was processed.

        Raises what keeps the chunks from being done at all: results that cannot be written, workers that do not start.
        """
        messages = [_message(file) for file in files]
        left = _without_result(messages)
        if left:
            began, where = time.monotonic(), f"{socket.gethostname()}, process {os.getpid()}"
            try:
                self._do(left)
            except Exception as error:
                self._note(left[0], f"{where}: {type(error).__name__}: {error}")
                raise
            series = sum(len(message.chunk.series) for message in left)
            self._note(left[0], f"{where}: {len(left)} chunks, {series} series, {time.monotonic() - began:.1f} s")
        return [Path(file).name for file in files]

    def _do(self, messages: Sequence[Message]) -> None:
        """Write the result of every message's chunk as soon as all its parts are there."""
        tasks, by_number = dict[int, "Task"](), dict[int, Message]()
        for message in messages:
            try:
                tasks[message.chunk.number] = pickle.loads(message.task)  # noqa: S301 -- from our own driver
                by_number[message.chunk.number] = message
            except Exception as error:  # noqa: BLE001 -- loading runs what the task's author wrote
                row = (0, UNLOADABLE, f"{type(error).__name__}: {error}", b"")
                message.exchange.put(message.result, packed([row]))
        if not tasks:
            return
        self._pool = self._pool or ProcessCompute(messages[0].workers, messages[0].seconds)
        rows, series = dict[int, list[Row]](), Counter[int]()
        parts = self._pool.run(_EachItsOwn(tasks), [message.chunk for message in by_number.values()])
        for at, (part, result) in enumerate(parts):
            message = by_number[part.number]
            rows.setdefault(part.number, []).extend(rows_of(at, part, result))
            series[part.number] += len(part.series)
            if series[part.number] == len(message.chunk.series):  # the last part of its chunk
                message.exchange.put(message.result, packed(rows.pop(part.number)))

    def _note(self, message: Message, text: str) -> None:
        self._notes += 1
        name = f"{message.notes}/{socket.gethostname()}-{os.getpid()}-{self._notes:06d}.json"
        message.exchange.put(name, json.dumps(text).encode())


@dataclass(frozen=True, slots=True)
class _EachItsOwn:
    """A task that does each chunk as its own narrowed task does."""

    tasks: Mapping[int, Task]

    def __call__(self, chunk: Chunk) -> ChunkResult:
        return self.tasks[chunk.number](chunk)


def _message(file: str) -> Message:
    return pickle.loads(Path(file).read_bytes())  # noqa: S301 -- from our own driver


def _without_result(messages: Sequence[Message]) -> list[Message]:
    """The messages whose chunks no worker has done: a mini-batch comes again when its node was lost."""
    if not messages:
        return []
    there = set(messages[0].exchange.names(messages[0].result.rpartition("/")[0]))
    return [message for message in messages if message.result not in there]


def main() -> None:
    """Work for an entry script in another environment: each line of its input is a mini-batch, as a JSON list of
    paths; each gets a line of its output. The first line says that the versions fit, or why not.
    """
    with os.fdopen(os.dup(1), "w") as answers:
        os.dup2(2, 1)  # what tasks print goes to the log

        def answer(work: Callable[[], list[str]]) -> None:
            try:
                said: dict[str, object] = {"done": work()}
            except Exception as error:  # noqa: BLE001 -- the entry script raises it for Azure ML
                said = {"error": str(error)}
            answers.write(json.dumps(said) + "\n")
            answers.flush()

        workers = list[Worker]()

        def begin() -> list[str]:
            workers.append(Worker(sys.argv[1:]))
            return []

        answer(begin)
        for line in sys.stdin if workers else ():
            answer(partial(workers[0].run, json.loads(line)))
