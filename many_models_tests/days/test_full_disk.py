"""A server whose disk is full in the middle of a load: PostgreSQL, for real."""

from __future__ import annotations

import shutil
import subprocess
import tempfile
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import psutil
import pyarrow as pa
import pytest

from many_models.adapters.warehouse import sql
from many_models.adapters.warehouse.sql import SqlWarehouse
from many_models.errors import MissingTableError, UnavailableError
from many_models_tests.contracts.warehouse import CUTOFF, contents, of_day, part, row, rows

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from many_models_tests.stand_ins.postgres_server import PostgresServer

pytestmark = pytest.mark.slow
MANY = 200_000  # rows of 130 bytes: 26 MB, and as much again for their key
LIMIT = 20 * 2**20  # more than a segment of the server's log, which is to have room


@contextmanager
def disk(server: PostgresServer) -> Iterator[tuple[str, Callable[[], None]]]:
    """A database on a disk of 20 MB, and what makes that larger; PermissionError where none may be mounted."""
    with tempfile.TemporaryDirectory(prefix="many_models_disk_") as folder, ExitStack() as later:
        mount = ["mount", "-t", "tmpfs", "-o", f"size={LIMIT}", "many_models", folder]
        done = subprocess.run(mount, capture_output=True, text=True, check=False)
        if done.returncode:
            raise PermissionError(done.stderr)
        later.callback(subprocess.run, ["umount", "--lazy", folder], check=True)  # a writer may still hold a file
        place = Path(folder) / "tables"
        place.mkdir()
        if server._owner:
            shutil.chown(folder, "postgres", "postgres")
            shutil.chown(place, "postgres", "postgres")
        url = server.new_database()
        name = url.rpartition("/")[2]
        server.execute(f"CREATE TABLESPACE small_{name} LOCATION '{place}'")
        later.callback(server.execute, f"DROP TABLESPACE small_{name}")
        later.callback(server.execute, f"DROP DATABASE {name} WITH (FORCE)")
        server.execute(f"ALTER DATABASE {name} SET TABLESPACE small_{name}")
        yield url, lambda: subprocess.run(["mount", "-o", "remount,size=300m", folder], check=True)


@contextmanager
def limit(server: PostgresServer) -> Iterator[tuple[str, Callable[[], None]]]:
    """A database whose server's sessions may write no file over 20 MB, and what lifts that."""
    url = server.new_database()
    leader = psutil.Process(server._process.pid)

    def allow(size: str) -> None:
        for process in (leader, *leader.children()):
            asked = ["prlimit", f"--pid={process.pid}", f"--fsize={size}:"]  # the soft limit, by whom the server is
            done = subprocess.run(asked, cwd="/", capture_output=True, text=True, check=False, **server._owner)
            assert done.returncode == 0 or (process is not leader and not process.is_running()), done.stderr

    allow(str(LIMIT))
    try:
        yield url, lambda: allow("unlimited")
    finally:
        allow("unlimited")


@contextmanager
def small(server: PostgresServer, kind: str) -> Iterator[tuple[str, Callable[[], None]]]:
    with ExitStack() as stack:
        try:
            found = stack.enter_context(disk(server) if kind == "disk" else limit(server))
        except (PermissionError, FileNotFoundError):  # what may mount no disk still has a kernel that limits files
            found = stack.enter_context(limit(server))
        yield found


@pytest.mark.parametrize("kind", ["disk", "limit"])
def test_a_full_disk_is_a_clear_error_that_leaves_nothing_half_loaded(postgres, monkeypatch, kind):
    monkeypatch.setattr(sql, "PAUSE_SECONDS", 0.01)
    names = pa.array([f"series {at:06d} {'x' * 60}" for at in range(MANY)])
    ones = pa.array([1] * MANY)
    many = pa.table({"series_id": names, "cutoff": pa.array([CUTOFF] * MANY, pa.timestamp("us")), "step": ones})
    parts = [part(rows(row("new")), of_day(0)), part(many, table="more")]
    with small(postgres, kind) as (url, make_room):
        warehouse = SqlWarehouse(url)
        warehouse.load("a", "f", [part(rows(row("old")))])
        with pytest.raises(UnavailableError, match=r"nothing was changed; the server has no room left"):
            warehouse.load("b", "g", parts)
        assert contents(warehouse.read("predictions")) == contents(rows(row("old")))
        assert warehouse.loads() == {"a": "f"}
        with pytest.raises(MissingTableError):
            warehouse.read("more")
        make_room()
        assert warehouse.load("b", "g", parts) == MANY + 1
        assert warehouse.loads() == {"a": "f", "b": "g"}
        assert contents(warehouse.read("predictions")) == contents(rows(row("new")))
        assert warehouse.read("more").num_rows == MANY
        warehouse._engine.dispose()
