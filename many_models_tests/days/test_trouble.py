"""A full disk, a folder that may not be written, a damaged database: one sentence with file and remedy."""

from __future__ import annotations

import errno
import sqlite3
from contextlib import closing
from typing import TYPE_CHECKING

import pytest
import sqlalchemy as sa
from click.testing import CliRunner

from many_models.cli import main as command
from many_models.operations.trouble import in_words
from many_models_tests.support.project import make_project, sales

if TYPE_CHECKING:
    from pathlib import Path


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EDQUOT, errno.EACCES, errno.EROFS])
def test_an_error_of_the_disk_names_the_file(number: int) -> None:
    error = RuntimeError("somewhere deep")
    error.__cause__ = OSError(number, "said by the kernel", "/srv/lake/file")
    said = in_words(error, [])
    assert "/srv/lake/file" in said
    assert ("make room" in said) == (number in {errno.ENOSPC, errno.EDQUOT})
    assert "\n" not in said


def test_a_bug_stays_a_bug() -> None:
    assert in_words(ValueError("wrong"), []) == ""
    assert in_words(FileNotFoundError(errno.ENOENT, "no", "/x"), []) == ""
    assert in_words(sqlite3.OperationalError("no such column: x"), []) == ""


DATABASES = {
    "history/runs.db": "every stage again", "var/warehouse.db": "from the lake",
    "var/registry/staging.db": "doctor --mend", "var/registry/production.db": "promotion decide again",
}  # fmt: skip


@pytest.mark.parametrize("name", DATABASES)
@pytest.mark.parametrize("how", ["overwritten", "cut"])
def test_a_damaged_database_is_named_with_its_remedy(tmp_path: Path, name: str, how: str) -> None:
    path = database(tmp_path / name)
    database(tmp_path / "sound.db")
    damage(path, how)
    engine = sa.create_engine(f"sqlite:///{path}")
    with pytest.raises(sa.exc.DatabaseError) as caught, engine.connect() as connection:
        connection.execute(sa.text("SELECT count(*), sum(length(word)) FROM t")).all()
    said = in_words(caught.value, [tmp_path])
    assert f"{path} is damaged" in said
    assert DATABASES[name] in said
    assert "sound.db" not in said


def database(path: Path) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    with closing(sqlite3.connect(path)) as connection, connection:
        connection.execute("CREATE TABLE t (word TEXT)")
        connection.executemany("INSERT INTO t VALUES (?)", [("x" * 1000,)] * 200)
    return path


def damage(path: Path, how: str) -> None:
    content = path.read_bytes()
    if how == "cut":
        path.write_bytes(content[: len(content) // 2])
    else:
        path.write_bytes(b"not a database".ljust(4096, b"."))


@pytest.mark.slow
@pytest.mark.parametrize("name", ["history/runs.db", "history/runs/index.db", "schedules/schedules.db"])
def test_the_command_says_it_in_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    from many_models.operations.day import open_instance

    project = make_project(tmp_path / "p", sales(items=1, days=30))
    monkeypatch.setenv("DAGSTER_HOME", str(project.home))
    with open_instance(project.home):
        pass
    files = [path for path in project.home.rglob("*.db") if str(path).endswith(name)]
    for path in files:
        damage(path, "overwritten")
    assert files
    done = CliRunner().invoke(command.main, ["status", "--config", str(project.root / "many_models.toml")])
    assert done.exit_code == 1
    assert done.stderr.startswith("error: ")
    assert str(files[0]) in done.stderr
    assert len(done.stderr.splitlines()) == 1
