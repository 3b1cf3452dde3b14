"""Debian's MariaDB server for the tests: on loopback, on a free port, in its own folder, stopped by its pid."""

from __future__ import annotations

import os
import secrets
import shutil
import subprocess
import tempfile
import time
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import pymysql
import pytest

from many_models_tests.support.ports import free_port

if TYPE_CHECKING:
    from collections.abc import Iterator

PROGRAM = Path("/usr/sbin/mariadbd")
USER = "many_models"
PATIENCE = 300


class MariaDbServer:
    """A running server: its port and the password of its only user, a new one for each server."""

    def __init__(self, folder: Path) -> None:
        self.password, self.port, self._log = secrets.token_hex(16), free_port(), folder / "log"
        owner = {"user": "mysql", "group": "mysql", "extra_groups": []} if os.geteuid() == 0 else {}
        if owner:  # the server refuses to run as root
            shutil.chown(folder, "mysql", "mysql")
        first = folder / "first.sql"
        first.write_text(f"CREATE USER {USER}@'127.0.0.1' IDENTIFIED BY '{self.password}';\n"
                         f"GRANT ALL ON *.* TO {USER}@'127.0.0.1';\n")  # fmt: skip
        data = f"--datadir={folder / 'data'}"
        done = subprocess.run(
            ["mariadb-install-db", "--no-defaults", data, "--auth-root-authentication-method=normal", "--skip-test-db"],
            cwd=folder, capture_output=True, text=True, timeout=PATIENCE, check=False, **owner,
        )  # fmt: skip
        assert done.returncode == 0, done.stderr + done.stdout
        options = {"socket": folder / "socket", "pid-file": folder / "pid", "init-file": first, "port": self.port,
                   "bind-address": "127.0.0.1", "innodb-flush-log-at-trx-commit": 0}  # fmt: skip
        words = [f"--{name}={value}" for name, value in options.items()]
        with self._log.open("ab") as log:
            self._process = subprocess.Popen(
                [PROGRAM, "--no-defaults", data, *words], cwd=folder, stdout=log, stderr=log, start_new_session=True,
                **owner,
            )  # fmt: skip

    def wait(self) -> None:
        """Until it lets its user in."""
        until = time.monotonic() + PATIENCE
        while True:
            try:
                pymysql.connect(host="127.0.0.1", port=self.port, user=USER, password=self.password).close()
            except pymysql.OperationalError:
                assert self._process.poll() is None, self._log.read_text()
                assert time.monotonic() < until, f"no answer within {PATIENCE} s: {self._log.read_text()}"
                time.sleep(0.05)
            else:
                return

    def url(self, database: str = "") -> str:
        """SQLAlchemy's URL, with the password."""
        return f"mariadb+pymysql://{USER}:{self.password}@127.0.0.1:{self.port}/{database}"

    def execute(self, *statements: str) -> None:
        """Run statements one after the other."""
        with pymysql.connect(host="127.0.0.1", port=self.port, user=USER, password=self.password) as connection:
            for statement in statements:
                with connection.cursor() as cursor:
                    cursor.execute(statement)
            connection.commit()

    def stop(self) -> None:
        """End it, by its pid."""
        self._process.terminate()
        self._process.wait(PATIENCE)


@contextmanager
def running_mariadb() -> Iterator[MariaDbServer]:
    """A server for as long as the block takes."""
    if not PROGRAM.exists():
        assert os.environ.get("CI") != "true", "no MariaDB server: .ci/tools installs Debian's package mariadb-server"
        pytest.skip("no MariaDB server is installed (Debian: apt-get install mariadb-server)")
    with tempfile.TemporaryDirectory(prefix="many_models_mariadb_") as folder:
        server = MariaDbServer(Path(folder))
        try:
            server.wait()
            yield server
        finally:
            server.stop()
