"""A Spark session: on this machine, or of a cluster that speaks Spark Connect."""

from __future__ import annotations

import os
import re
import shutil
import socket
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

from many_models.adapters.compute.spark_versions import cluster_trouble, require_spark
from many_models.errors import InputError, UnavailableError
from many_models.system import THREAD_VARIABLES, first_line

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from pyspark.sql import SparkSession

JAVA = 17  # the oldest that does
CONNECT_PORT = 15002
CONNECT_MODE = "SPARK_CONNECT_MODE_ENABLED"  # pyspark sets it before it asks a server, and leaves it where none answers
REACH_SECONDS = 10.0
QUIET = {"spark.ui.showConsoleProgress": "false", "spark.log.level": "ERROR", "spark.sql.session.timeZone": "UTC"}
ONE_MACHINE = {
    "spark.ui.enabled": "false",
    "spark.driver.host": "127.0.0.1",
    "spark.driver.bindAddress": "127.0.0.1",
}
TASK_CPUS = "spark.task.cpus"


def connect(
    build: Callable[[Mapping[str, str]], SparkSession], master: str, remote: str, config: Mapping[str, str]
) -> SparkSession:
    """The session that `build` makes of Spark's own settings: over Spark Connect where `remote` is a URL (sc://…).

    Workers on this machine run this Python. Raises UnavailableError when Java or the server is missing, too old, or
    away or starting, InputError when pyspark lacks a part, and when Spark is too old or older than a client that asks
    over Spark Connect.
    """
    if remote:
        _require_reachable(remote)
        settings = {"spark.remote": remote, **config}
    else:
        os.environ.pop(CONNECT_MODE, None)
        os.environ.setdefault("PYSPARK_PYTHON", sys.executable)  # pyspark asks nothing else
        here = ONE_MACHINE if master.startswith("local") else {}
        settings = {"spark.master": master, **QUIET, **here, **_threads(config), **config}
    try:
        import pyspark

        session = build(settings)
        session.range(1).count()
    except ImportError as error:
        raise InputError(f"Spark needs more packages ({error.name}): install many_models[spark]") from error
    except Exception as error:
        raise cluster_trouble(str(error)) or UnavailableError(_why(error, remote, master)) from error
    client = pyspark.__version__ if remote else session.version  # without Connect the two come from one folder
    require_spark(client, session.version, _place(remote) if remote else master)
    return session


def _threads(config: Mapping[str, str]) -> dict[str, str]:
    """As many threads in a worker as its chunk has cores: one, unless `spark.task.cpus` says more (a forecaster of the
    user's with threads of its own). One Python a core fills the cores; more threads inside make every fit slower.
    """
    return {f"spark.executorEnv.{name}": config.get(TASK_CPUS, "1") for name in THREAD_VARIABLES}


def _require_reachable(remote: str) -> None:
    """Spark's own client would try for ten minutes before it says that no server is there."""
    place = urlsplit(remote)
    try:
        socket.create_connection((place.hostname or "", place.port or CONNECT_PORT), REACH_SECONDS).close()
    except OSError as error:
        raise UnavailableError(_why(error, remote, "")) from error


def _place(remote: str) -> str:
    return re.sub(r";.*", "", remote)  # what follows holds tokens


def _why(error: Exception, remote: str, master: str) -> str:
    if remote:
        return (
            f"no Spark Connect server answers at {_place(remote)} ({type(error).__name__}): is it up, and is this its "
            "address?"
        )
    if problem := _java_problem():
        return f"Spark does not start: {problem}"
    return f"Spark does not start at {master}: {type(error).__name__}: {first_line(error, 200)}"


def _java_problem() -> str:
    """What is wrong with this machine's Java; "" where nothing is."""
    home = os.environ.get("JAVA_HOME")
    java = str(Path(home) / "bin/java") if home else shutil.which("java")
    advice = f"it needs Java {JAVA} or newer (Debian: openjdk-{JAVA}-jre-headless; JAVA_HOME says which one it takes)"
    if not java:
        return f"there is no Java; {advice}"
    try:
        said = subprocess.run([java, "-version"], capture_output=True, text=True, timeout=30, check=False).stderr  # noqa: S603 -- Java
    except (OSError, subprocess.TimeoutExpired) as error:
        return f"{java} does not run ({error}); {advice}"
    found = re.search(r'version "(?:1\.)?(\d+)', said)
    if not found or int(found[1]) < JAVA:
        return f"{java} is Java {found[1] if found else 'of an unknown version'}; {advice}"
    return ""
