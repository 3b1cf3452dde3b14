"""Runs whose process is gone: each run names its process in a tag, and is marked failed when that has ended."""

from __future__ import annotations

import os
import platform
import re
from pathlib import Path
from typing import TYPE_CHECKING

from many_models.orchestration.event_log.history import runs_in_flight

if TYPE_CHECKING:
    import dagster as dg

PROCESS_TAG = ".dagster/many_models_process"  # a prefix that the UI does not show
HIDDEN = "hidden"  # of a process that its owner does not let us see
_EXECUTORS_IN_PROCESS = frozenset({"in_process", "execute_in_process_executor"})


def process_tag() -> dict[str, str]:
    """The run tag that names this process on this host, to be given to every run that happens inside it."""
    return {PROCESS_TAG: _this_process()}


def claim_run(context: dg.AssetExecutionContext | dg.OpExecutionContext) -> None:
    """Name this process in the tags of a run that the daemon launched, so that `dead_runs` can tell when it is gone.

    Only under the in-process executor: under another one the step's process ends before its run does.
    """
    executor = context.job_def.executor_def.name
    if executor in _EXECUTORS_IN_PROCESS and PROCESS_TAG not in context.run.tags:
        context.instance.add_run_tags(context.run.run_id, process_tag())


def dead_runs(instance: dg.DagsterInstance) -> tuple[dg.DagsterRun, ...]:
    """The unfinished runs whose process, named in their tags, is gone from this host.

    Processes of other hosts, and runs without the tag, are unknown, hence not dead.
    """
    return tuple(run for run in runs_in_flight(instance) if PROCESS_TAG in run.tags and _is_gone(run.tags[PROCESS_TAG]))


def mark_dead_runs_failed(instance: dg.DagsterInstance) -> tuple[str, ...]:
    """Mark the dead runs failed, so that their keys are no longer in flight. Returns their run ids."""
    marked: list[str] = []
    for run in dead_runs(instance):
        current = instance.get_run_by_id(run.run_id)  # it may have finished since the list was read
        if current is not None and not current.is_finished:
            process = run.tags[PROCESS_TAG]
            instance.report_run_failed(current, f"The process of this run is gone ({process}): killed.")
            marked.append(run.run_id)
    return tuple(marked)


def _this_process() -> str:
    pid = os.getpid()
    return f"{platform.node()} {_boot()} {_pid_namespace()} {pid} {_started(pid)}"


def _is_gone(process: str) -> bool:
    host, boot, namespace, pid, started = (process.split(" ") + [""] * 5)[:5]
    if host != platform.node() or not pid.isdigit():
        return False
    if boot != _boot():
        return True
    return namespace == _pid_namespace() and _started(int(pid)) not in {started, HIDDEN}


def _boot() -> str:
    boot = Path("/proc/sys/kernel/random/boot_id")
    return boot.read_text().strip()[:8] if boot.exists() else "-"


def _pid_namespace() -> str:
    namespace = Path("/proc/self/ns/pid")
    return re.sub(r"\D", "", str(namespace.readlink())) if namespace.exists() else "-"


def _started(pid: int) -> str:
    """Seconds from the machine's start to that of process `pid`, which a change of the clock does not move.

    "gone" when there is no such process, or only its zombie; HIDDEN when its owner does not let us see it.
    """
    import psutil

    try:
        process = psutil.Process(pid)
        if process.status() == psutil.STATUS_ZOMBIE:
            return "gone"
        return f"{process.create_time() - psutil.boot_time():.2f}"
    except (psutil.NoSuchProcess, ValueError):
        return "gone"
    except psutil.AccessDenied:
        return HIDDEN
