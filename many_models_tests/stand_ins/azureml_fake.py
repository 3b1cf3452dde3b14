"""A workspace of Azure ML on this machine: takes parallel jobs as azure-ai-ml builds them, and runs their real entry
script over their real mini-batches in its own process, with the retries and states that Azure ML documents.
"""

from __future__ import annotations

import json
import os
import shlex
import shutil
import signal
import subprocess
import sys
import threading
from dataclasses import dataclass, field
from pathlib import Path
from types import SimpleNamespace
from typing import TYPE_CHECKING

from azure.core.exceptions import HttpResponseError, ResourceNotFoundError

if TYPE_CHECKING:
    from azure.ai.ml.entities import PipelineJob

ROOT = Path(__file__).parents[2]
NODE = """
import importlib.util, json, os, sys
out = os.fdopen(os.dup(1), "w")
os.dup2(2, 1)
sys.path.insert(0, os.path.dirname(sys.argv[0]))
spec = importlib.util.spec_from_file_location("entry", sys.argv[0])
entry = importlib.util.module_from_spec(spec)
spec.loader.exec_module(entry)
entry.init()
print("ready", file=out, flush=True)
for line in sys.stdin:
    files = json.loads(line)
    done = entry.run(files)
    assert len(done) == len(files)
    print("done", file=out, flush=True)
"""


@dataclass
class Made:
    """A job that was sent."""

    entity: PipelineJob
    folder: Path
    status: str = "NotStarted"
    tries: dict[str, int] = field(default_factory=dict)
    node: subprocess.Popen[str] | None = None
    thread: threading.Thread | None = None
    studio_url: str = "https://ml.azure.com/runs/1"

    @property
    def name(self) -> str:
        return self.entity.name


class Workspace:
    """`client()` is its MLClient. `python` and `path` make the nodes' environment; `preempted` after so many
    mini-batches the job ends Canceled. The cluster named `gone` does not exist.
    """

    def __init__(self, folder: Path, python: str = sys.executable, path: str | None = None) -> None:
        self.folder, self.python, self.path = folder, python, path
        self.made: dict[str, Made] = {}
        self.cancelled: list[str] = []
        self.preempt_after: int | None = None
        self.away = 0
        self.lock = threading.Lock()

    def client(self):
        jobs = SimpleNamespace(
            create_or_update=self.create, get=self.get, begin_cancel=self.cancel, list=self.children,
            download=self.download,
        )  # fmt: skip
        return SimpleNamespace(jobs=jobs, compute=SimpleNamespace(get=self.cluster), workspace_name="w")

    def cluster(self, name: str):
        if name == "gone":
            raise ResourceNotFoundError("no compute named gone", response=SimpleNamespace(status_code=404, reason=""))
        return SimpleNamespace(name=name)

    def create(self, job: PipelineJob) -> Made:
        self.cluster(job.compute)
        assert job._validate().passed, job._validate().error_messages
        job._to_rest_object()
        folder = self.folder / job.name
        step = job.jobs["chunks"]
        shutil.copytree(step.task.code, folder / "code")  # Azure ML takes a snapshot of the code when it is sent
        (folder / "logs").mkdir()
        made = self.made[job.name] = Made(job, folder)
        made.thread = threading.Thread(target=self._run, args=(made,), daemon=True)
        made.thread.start()
        return made

    def get(self, name: str) -> Made:
        with self.lock:
            if self.away:
                self.away -= 1
                raise HttpResponseError("busy")
        return self.made[name]

    def cancel(self, name: str) -> None:
        made = self.made[name]
        self.cancelled.append(name)
        if made.status in {"Completed", "Failed", "Canceled"}:
            return
        made.status = "CancelRequested"
        if made.node is not None:
            made.node.kill()

    def children(self, parent_job_name: str):
        return [SimpleNamespace(name=f"{parent_job_name}/chunks")]

    def download(self, name: str, download_path: str) -> None:
        shutil.copytree(self.made[name.partition("/")[0]].folder / "logs", Path(download_path) / "artifacts/logs")

    def _run(self, made: Made) -> None:
        try:
            if made.status == "NotStarted":  # it may have been cancelled by now
                made.status = "Running"
            status = self._mini_batches(made)
        except Exception as error:  # noqa: BLE001
            (made.folder / "logs/fake.txt").write_text(f"Error: {error!r}\n")
            status = "Failed"
        if made.node is not None:
            made.node.kill()
            made.node.wait()
            made.node.stdin.close()
            made.node.stdout.close()
        made.status = "Canceled" if made.status == "CancelRequested" else status

    def _mini_batches(self, made: Made) -> str:
        step = made.entity.jobs["chunks"]
        size, tries = int(step.mini_batch_size), step.retry_settings.max_retries + 1
        files = sorted(str(file) for file in Path(step.inputs["chunks"].path.removeprefix("azureml:")).iterdir())
        for done, at in enumerate(range(0, len(files), size)):
            if done == self.preempt_after:
                return "Canceled"
            for _ in range(tries):
                if made.status == "CancelRequested":
                    return "Canceled"
                if not self._ready(made, step):
                    return "Failed"
                made.tries[files[at]] = made.tries.get(files[at], 0) + 1
                if self._said(made, files[at : at + size]) == "done":
                    break
        return "Completed"

    def _ready(self, made: Made, step) -> bool:
        if made.node is not None and made.node.poll() is None:
            return True
        environment = {**os.environ, **step.environment_variables}
        environment["PYTHONPATH"] = str(ROOT) if self.path is None else self.path
        words = [self.python, "-c", NODE]
        if made.node is not None:
            made.node.stdin.close()
            made.node.stdout.close()
        with (made.folder / "logs/node.txt").open("a") as log:
            made.node = subprocess.Popen(
                [*words[:2], NODE.replace("sys.argv[0]", repr(str(made.folder / "code" / step.task.entry_script))),
                 *shlex.split(step.task.program_arguments)],
                stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=log, env=environment, text=True,
                cwd=made.folder,
            )  # fmt: skip
        return made.node.stdout.readline() == "ready\n"

    def _said(self, made: Made, files: list[str]) -> str:
        try:
            made.node.stdin.write(json.dumps(files) + "\n")
            made.node.stdin.flush()
        except BrokenPipeError:
            return ""
        said = made.node.stdout.readline().strip()
        if not said:
            made.node.wait()
        return said

    def kill_node(self, name: str) -> None:
        """A node is taken away in the middle of what it does."""
        os.kill(self.made[name].node.pid, signal.SIGKILL)
