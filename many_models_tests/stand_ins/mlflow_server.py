"""An MLflow server on loopback for tests: on a free port, in a folder, with or without users; stopped by its pid."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
import urllib.request
from contextlib import contextmanager
from typing import TYPE_CHECKING

from many_models_tests.support.blank_registry import blank_registry
from many_models_tests.support.ports import free_port

if TYPE_CHECKING:
    from collections.abc import Generator, Mapping, Sequence
    from pathlib import Path

ADMIN, ADMIN_PASSWORD = "admin", "only-for-this-test"
PATIENCE = 500
NO_JOBS = {"MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false"}  # its runners take 30 s of CPU to start, and 2 GB


@contextmanager
def started(words: Sequence[str], root: Path, url: str, env: Mapping[str, str]) -> Generator[None]:
    """A service of Python's `words`, once `url` answers; its output is in `root`/log."""
    with (root / "log").open("w") as log:
        process = subprocess.Popen(
            [sys.executable, *words],
            cwd=root,
            env={**os.environ, "MLFLOW_DISABLE_TELEMETRY": "true", **env},
            stdout=log,
            stderr=log,
            start_new_session=True,
        )
    try:
        until = time.monotonic() + PATIENCE
        while True:
            try:
                urllib.request.urlopen(url, timeout=5).close()
                break
            except OSError:
                assert process.poll() is None, (root / "log").read_text()
                assert time.monotonic() < until, (root / "log").read_text()
                time.sleep(0.5)
        yield
    finally:
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()


@contextmanager
def mlflow_server(root: Path, *, users: bool = False, port: int = 0) -> Generator[str]:
    """The URL of an MLflow server that keeps its files in `root`/files, on `port` or a free one; killed at the end.

    With `users` it asks for a name and a password; ADMIN makes others. Whoever is known may read.
    """
    port = port or free_port()
    if not (root / "m.db").exists():
        (root / "m.db").write_bytes(blank_registry())
    words = ["-m", "mlflow", "server", "--backend-store-uri", f"sqlite:///{root}/m.db", "--workers", "1"]
    words += ["--artifacts-destination", str(root / "files"), "--host", "127.0.0.1", "--port", str(port)]
    env = dict(NO_JOBS)
    if users:
        (root / "auth.ini").write_text(
            f"[mlflow]\ndefault_permission = READ\ndatabase_uri = sqlite:///{root}/users.db\n"
            f"admin_username = {ADMIN}\nadmin_password = {ADMIN_PASSWORD}\n"
            "authorization_function = mlflow.server.auth:authenticate_request_basic_auth\n"
            "auth_cache_ttl_seconds = 600\n"  # each check costs a second otherwise
        )
        words += ["--app-name", "basic-auth"]
        env |= {"MLFLOW_AUTH_CONFIG_PATH": str(root / "auth.ini"), "MLFLOW_FLASK_SERVER_SECRET_KEY": "for this test"}
    with started(words, root, f"http://127.0.0.1:{port}/health", env):
        yield f"http://127.0.0.1:{port}"
