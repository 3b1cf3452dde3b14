"""Debian's PostgreSQL server for the tests: on loopback, on a free port, in its own folder, stopped by its pid."""

from __future__ import annotations

import os
import secrets
import shutil
import signal
import subprocess
import tempfile
import time
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import psycopg2
import pytest

from many_models_tests.support.ports import free_port

if TYPE_CHECKING:
    from collections.abc import Iterator

USER = "many_models"
PATIENCE = 300


class PostgresServer:
    """A server that is running between `start` and `stop` (again and again if need be), with its databases.

    URLs are SQLAlchemy's (`postgresql+psycopg2://`), with a password that is a new one for each server.
    """

    def __init__(self, programs: Path, folder: Path) -> None:
        self.programs, self.data, self.log = programs, folder / "data", folder / "log"
        self.password = secrets.token_hex(16)
        self._owner = {"user": "postgres", "group": "postgres", "extra_groups": []} if os.geteuid() == 0 else {}
        if self._owner:  # the server refuses to run as root
            shutil.chown(folder, "postgres", "postgres")
        secret = folder / "password"
        secret.write_text(self.password)
        init = [programs / "initdb", "-D", self.data, "-U", USER, "--auth=scram-sha-256", f"--pwfile={secret}"]
        options = ["--encoding=UTF8", "--no-locale", "--no-sync"]
        done = subprocess.run(
            [*init, *options], cwd=folder, capture_output=True, text=True, timeout=PATIENCE, check=False, **self._owner
        )
        assert done.returncode == 0, done.stderr
        self.port = free_port()
        self._process: subprocess.Popen[bytes] | None = None
        self._databases = 0

    def url(self, database: str = "postgres") -> str:
        return f"postgresql+psycopg2://{USER}:{self.password}@127.0.0.1:{self.port}/{database}"

    def new_database(self, like: str = "") -> str:
        """The URL of a database that is nobody else's: empty, or a copy of the one at the URL `like`."""
        self._databases += 1
        name = f"test_{self._databases}"
        template = f" TEMPLATE {like.rpartition('/')[2]}" if like else ""
        self.execute(f"CREATE DATABASE {name}{template}")
        return self.url(name)

    def execute(self, statement: str) -> None:
        """Run a statement as the server's owner, outside any transaction."""
        connection = self.connect()
        try:
            connection.autocommit = True
            with connection.cursor() as cursor:
                cursor.execute(statement)
        finally:
            connection.close()

    def connect(self, database: str = "postgres") -> psycopg2.extensions.connection:
        return psycopg2.connect(
            host="127.0.0.1", port=self.port, user=USER, password=self.password, dbname=database, connect_timeout=5
        )

    def drop_connections(self) -> None:
        """End every other session, as a server that is restarted or a network that breaks does."""
        self.execute("SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE pid <> pg_backend_pid()")

    def start(self) -> None:
        settings = {
            "listen_addresses": "127.0.0.1",
            "port": self.port,
            "unix_socket_directories": "",
            "fsync": "off",
            "max_connections": 200,
        }
        options = [word for name, value in settings.items() for word in ("-c", f"{name}={value}")]
        with self.log.open("ab") as log:
            self._process = subprocess.Popen(
                [self.programs / "postgres", "-D", self.data, *options],
                cwd=self.data.parent,
                stdout=log,
                stderr=log,
                start_new_session=True,  # Ctrl-C is for the tests, which stop it themselves
                **self._owner,
            )
        until = time.monotonic() + PATIENCE
        while True:
            try:
                self.connect().close()
            except psycopg2.OperationalError:
                assert self._process.poll() is None, self.log.read_text()
                assert time.monotonic() < until, f"no answer within {PATIENCE} s: {self.log.read_text()}"
                time.sleep(0.05)
            else:
                return

    def stop(self) -> None:
        if self._process is not None:
            self._process.send_signal(signal.SIGINT)  # a fast shutdown: sessions are ended, data is kept
            self._process.wait(PATIENCE)
            self._process = None


def programs() -> Path | None:
    """The folder of the newest installed server's programs; Debian keeps them out of PATH."""
    installed = sorted(Path("/usr/lib/postgresql").glob("*/bin/postgres"), key=lambda path: int(path.parts[-3]))
    found = str(installed[-1]) if installed else shutil.which("postgres")
    return Path(found).resolve().parent if found else None


@contextmanager
def running_postgres() -> Iterator[PostgresServer]:
    """A server for as long as the block takes."""
    found = programs()
    if found is None:
        assert os.environ.get("CI") != "true", "no PostgreSQL server: .ci/run installs Debian's package postgresql"
        pytest.skip("no PostgreSQL server is installed (Debian: apt-get install postgresql)")
    with tempfile.TemporaryDirectory(prefix="many_models_postgres_") as folder:
        server = PostgresServer(found, Path(folder))
        server.start()
        try:
            yield server
        finally:
            server.stop()


@pytest.fixture(scope="session")
def postgres() -> Iterator[PostgresServer]:
    """One server for all tests of this process: take `postgres.new_database()`, and leave it running."""
    with running_postgres() as server:
        yield server
