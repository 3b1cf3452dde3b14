"""What holds for all tests: no settings of the person who runs them, no deadline on a busy machine."""

from __future__ import annotations

import gc
import os
import re
import sys
from collections import Counter
from typing import TYPE_CHECKING

import hypothesis
import pytest

from many_models_tests.stand_ins.azurite import azurite
from many_models_tests.stand_ins.postgres_server import postgres
from many_models_tests.stand_ins.tds_server import tds
from many_models_tests.support import public_tables

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from alembic.config import Config
    from xdist.workermanage import WorkerController

# many containers set it; each of the hundreds of processes of the tests would compile what it imports for itself
os.environ.pop("PYTHONDONTWRITEBYTECODE", None)
sys.dont_write_bytecode = False
# a JVM of the tests lives for seconds: what its second compiler does to make it quick costs more than it saves
os.environ.setdefault("JAVA_TOOL_OPTIONS", "-XX:TieredStopAtLevel=1 -XX:+UseSerialGC")

hypothesis.settings.register_profile("many_models", deadline=None, print_blob=True)
hypothesis.settings.load_profile("many_models")

__all__ = ["azurite", "postgres", "tds"]  # fixtures for all

THEIR_OWN = ("MANY_MODELS__", "MANY_MODELS_CONFIG", "DAGSTER_HOME", "DAGSTER_EVENT_BATCH_SIZE", "MLFLOW_")


@pytest.fixture(scope="session", autouse=True)
def no_settings_of_the_person_who_runs_the_tests() -> None:
    """Settings, instances and stores of the shell would change what is tested."""
    for name in [name for name in os.environ if name.startswith(THEIR_OWN)]:
        del os.environ[name]


@pytest.fixture(scope="session", autouse=True)
def migrations_are_read_once() -> Iterator[None]:
    """Alembic reads all migrations of Dagster or MLflow from their files whenever a database of theirs is opened: most
    of what opening one takes. They do not change while tests run.
    """
    from alembic.script import ScriptDirectory

    kept, read = dict[str | None, ScriptDirectory](), ScriptDirectory.from_config

    def from_config(config: Config) -> ScriptDirectory:
        place = config.get_main_option("script_location")
        if place not in kept:
            kept[place] = read(config)
        return kept[place]

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(ScriptDirectory, "from_config", staticmethod(from_config))
        yield


LONGEST_FIRST = (  # by the time that they took on two quiet cores
    "test_killed_daemon.py",
    "test_accuracy.py",
    "test_real_input.py",
    "test_readme.py",
    "test_compute_spark.py",
    "test_killed_runs.py",
    "test_faulty_day.py",
    "test_day.py",
    "test_ui_day.py",
    "test_azure_lake.py",
    "test_longer_histories.py",
    "test_azure_files_day.py",
    "test_compute_azureml.py",
    "test_registry_server.py",
    "test_stores_disagree.py",
    "test_changed_rows.py",
    "test_backup.py",
    "test_changed_settings.py",
    "test_grain.py",
    "test_damaged_lake.py",
    "test_compute_spark_connect.py",
    "test_warehouse_servers.py",
    "test_registry_publishing.py",
    "test_registry.py",
    "test_upkeep.py",
    "test_approval.py",
    "test_azure_day.py",
    "test_event_retention.py",
    "test_events.py",
)


LEFT_OUT = pytest.StashKey[int]()


@pytest.hookimpl(wrapper=True)
def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> Iterator[None]:
    """Leave out tests on public tables that are not here, and begin with the files that take minutes: one of them that
    began last would run alone, with the other core idle. Count the `long` tests that `-m` leaves out.
    """
    if not os.environ.get(public_tables.VARIABLE):
        absent = [item for item in items if item.get_closest_marker("public_tables")]
        items[:] = [item for item in items if not item.get_closest_marker("public_tables")]
        config.hook.pytest_deselected(items=absent)
    items.sort(key=lambda item: LONGEST_FIRST.index(item.path.name) if item.path.name in LONGEST_FIRST else 99)
    found = _long_tests(items)
    yield
    left_out = found - _long_tests(items) if config.getoption("markexpr") else 0
    config.stash[LEFT_OUT] = left_out
    if hasattr(config, "workeroutput"):  # a process of pytest-xdist: the one that reports is told at its end
        config.workeroutput["left_out"] = left_out


def _long_tests(items: list[pytest.Item]) -> int:
    return sum(item.get_closest_marker("long") is not None for item in items)


@pytest.hookimpl(optionalhook=True)
def pytest_testnodedown(node: WorkerController) -> None:
    """Take the count of `long` tests from a process of pytest-xdist: each of them has collected all tests."""
    node.config.stash[LEFT_OUT] = getattr(node, "workeroutput", {}).get("left_out", 0)


@pytest.hookimpl(wrapper=True)
def pytest_collection() -> Iterator[None]:
    """Collect no garbage while tests are imported, rarely later, and never look through what importing them left."""
    gc.disable()
    result = yield
    gc.collect()
    gc.freeze()
    gc.set_threshold(10_000, 20, 50)
    gc.enable()
    return result


FAST = "not slow and not long"  # what `make check` gives to `-m`
NONE_FAST = re.compile(r"^pytestmark = \[?\s*pytest\.mark\.(slow|long)\b", re.MULTILINE)


def pytest_ignore_collect(collection_path: Path, config: pytest.Config) -> bool | None:
    """Leave out of `make check` a file whose mark says that no test of it is fast, before what it imports is loaded."""
    if config.getoption("markexpr") != FAST or not collection_path.match("test_*.py"):
        return None
    return True if NONE_FAST.search(collection_path.read_text(encoding="utf-8")) else None


# --- what was not run -------------------------------------------------------------------------------------------------
def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """One line for each reason why tests were skipped or left out, with what brings them back."""
    reasons = Counter(_reason(report) for report in terminalreporter.stats.get("skipped", []))
    lines = [f"{number} skipped: {reason}" for reason, number in reasons.most_common()]
    if not os.environ.get(public_tables.VARIABLE):
        lines.append(f"tests on public tables left out: set {public_tables.VARIABLE} to a folder that has them")
    if terminalreporter.config.getoption("markexpr") == FAST:
        lines.append("slow and long tests left out: `make test` runs the slow ones, `make test-all` both")
    elif left_out := terminalreporter.config.stash.get(LEFT_OUT, 0):
        lines.append(f"{left_out} long tests left out: `make test-all` runs them")
    if lines:
        terminalreporter.section("not run")
        for line in lines:
            terminalreporter.write_line(line)
    if reasons:
        terminalreporter.write_line("`make test-tools` installs what most of them need (Debian).")


def pytest_sessionfinish(session: pytest.Session) -> None:
    """Fail a run in CI in which a test was skipped: a machine that lacks a tool would prove less than it says."""
    reporter = session.config.pluginmanager.get_plugin("terminalreporter")
    if os.environ.get("CI") and reporter is not None and reporter.stats.get("skipped") and not session.exitstatus:
        session.exitstatus = pytest.ExitCode.TESTS_FAILED


def _reason(report: pytest.TestReport) -> str:
    """Why a test was skipped: pytest gives file, line and `Skipped: reason`."""
    told = report.longrepr
    return (told[2] if isinstance(told, tuple) else str(told)).removeprefix("Skipped: ")
