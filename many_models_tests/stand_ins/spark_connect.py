"""A Spark Connect server on loopback, from the pyspark wheel: started on a free port, stopped by its process group."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import time
from contextlib import closing, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from many_models_tests.support.ports import free_port

if TYPE_CHECKING:
    from collections.abc import Iterator

START_SECONDS = 400
PORT_SETTING = "spark.connect.grpc.binding.port"
SERVER = "org.apache.spark.sql.connect.service.SparkConnectServer"


@contextmanager
def connect_server(folder: Path, python: str = sys.executable, slots: int = 2) -> Iterator[str]:
    """The URL of a server whose workers run `python`; its log is `folder`/connect.log."""
    import pyspark

    home = Path(pyspark.__file__).parent
    port = free_port()
    settings = {
        "spark.connect.grpc.binding.address": "127.0.0.1",
        PORT_SETTING: str(port),
        "spark.driver.host": "127.0.0.1",
        "spark.driver.bindAddress": "127.0.0.1",
        "spark.ui.enabled": "false",
        "spark.log.level": "ERROR",
        "spark.executorEnv.OMP_NUM_THREADS": "1",
    }
    command = [str(home / "bin/spark-submit"), "--class", SERVER, "--master", f"local[{slots}]"]
    for name, value in settings.items():
        command += ["--conf", f"{name}={value}"]
    environment = {**os.environ, "SPARK_HOME": str(home), "PYSPARK_PYTHON": python, "SPARK_CONNECT_MODE": "0"}
    with (folder / "connect.log").open("wb") as log:
        server = subprocess.Popen(
            [*command, "spark-internal"], cwd=folder, env=environment, stdout=log, stderr=log, start_new_session=True
        )
        try:
            wait_for(server, port, folder / "connect.log")
            yield f"sc://127.0.0.1:{port}"
        finally:
            os.killpg(server.pid, signal.SIGKILL)
            server.wait()


def wait_for(server: subprocess.Popen[bytes], port: int, log: Path) -> None:
    end = time.monotonic() + START_SECONDS
    while time.monotonic() < end:
        if server.poll() is not None:
            break
        with closing(socket.socket()) as probe:
            if probe.connect_ex(("127.0.0.1", port)) == 0:
                return
        time.sleep(0.3)
    raise RuntimeError(f"the Spark Connect server does not start: {log.read_text()[-2000:]}")
