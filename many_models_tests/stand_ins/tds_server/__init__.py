"""A stand-in for SQL Server and Synapse that speaks TDS, over DuckDB, in its own process.

It proves that driver and wire work (pyodbc, FreeTDS, logins, tokens, parameters, transactions, COPY INTO from storage)
and that our statements do what they should where DuckDB means the same by them. It proves nothing about Synapse's or
SQL Server's semantics, limits, locking or speed.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
import time
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import quote_plus

import pytest

if TYPE_CHECKING:
    from collections.abc import Generator

USER, READER, NEWCOMER, PASSWORD = "loader", "reader", "newcomer", "pass:word/ü"
TOKEN = "header.payload.signature"
IDENTITY = "identity"  # who shows a token as a password: FreeTDS knows no other way
START_SECONDS = 300


@dataclass(frozen=True)
class LocalStaging:
    """A folder that the stand-in knows by an address of storage."""

    folder: Path

    @contextmanager
    def holding(self, file: Path, name: str) -> Generator[str]:
        """See `Staging.holding`."""
        self.folder.mkdir(exist_ok=True)
        shutil.copy(file, self.folder / name)
        try:
            yield f"https://local.dfs.core.windows.net/staging/{name}"
        finally:
            (self.folder / name).unlink()


@dataclass(frozen=True)
class TdsServer:
    """The running stand-in: its port, and the folder through which tests talk to it."""

    port: int
    folder: Path

    def url(self, user: str = USER, password: str = PASSWORD, database: str = "dw") -> str:
        """SQLAlchemy's URL, through FreeTDS; `database` also says what the server plays, see `rules`.

        A Fabric warehouse takes tokens only: there `user` is shown as a token.
        """
        if database == "fabric":
            user, password = IDENTITY, TOKEN if user == USER else f"{TOKEN}:{user}"
        who = f"{quote_plus(user)}:{quote_plus(password)}@" if password else (f"{user}@" if user else "")
        driver = f"driver=FreeTDS&port={self.port}&TDS_Version=7.4&ClientCharset=UTF-8"
        return f"mssql+pyodbc://{who}127.0.0.1/{database}?{driver}"

    def microsofts_url(self, user: str = USER, database: str = "dw", encrypt: str = "no") -> str:
        """SQLAlchemy's URL, through Microsoft's ODBC driver, as the wheel mssql-python-odbc has it."""
        who = f"{quote_plus(user)}:{quote_plus(PASSWORD)}@" if user else ""
        options = f"driver={quote_plus(require_microsofts_driver())}&Encrypt={encrypt}&TrustServerCertificate=yes"
        return f"mssql+pyodbc://{who}127.0.0.1:{self.port}/{database}?{options}"

    def staging(self) -> LocalStaging:
        """Where files lie for COPY INTO when no test needs Azure storage's emulator."""
        return LocalStaging(self.folder / "storage")

    def statements(self) -> list[str]:
        """Every statement that came, in order."""
        log = self.folder / "statements.jsonl"
        return [json.loads(line) for line in log.read_text().splitlines()] if log.exists() else []

    def cut_at(self, pattern: str) -> None:
        """Close the connection at the next statement that `pattern` is found in, once."""
        (self.folder / "cut.new").write_text(pattern)
        (self.folder / "cut.new").rename(self.folder / "cut")

    def fail_at(self, pattern: str, number: int, text: str, times: int = 1) -> None:
        """Answer the next `times` statements that `pattern` is found in with this error."""
        (self.folder / "fail.new").write_text(json.dumps([pattern, number, text, times]))
        (self.folder / "fail.new").rename(self.folder / "fail")

    def forget(self, prefix: str) -> None:
        """Drop the schemas whose names begin with `prefix`, before the next statement."""
        (self.folder / "forget.new").write_text(prefix)
        (self.folder / "forget.new").rename(self.folder / "forget")

    def accept_tokens(self, *tokens: str) -> None:
        """From now on these, and no others."""
        (self.folder / "tokens.json").write_text(json.dumps(tokens))


@contextmanager
def running_tds(folder: Path, storage: str = "") -> Generator[TdsServer]:
    """A stand-in for as long as the block takes; COPY INTO reads what the connection string `storage` names."""
    folder.mkdir(parents=True, exist_ok=True)
    logins = dict.fromkeys((USER, READER, NEWCOMER), PASSWORD)
    settings = {"logins": logins, "reader": READER, "newcomer": NEWCOMER, "storage": storage}
    (folder / "settings.json").write_text(json.dumps(settings))
    (folder / "tokens.json").write_text(json.dumps([TOKEN]))
    root = Path(__file__).parents[3]
    with (folder / "log").open("wb") as log:
        process = subprocess.Popen(
            [sys.executable, "-m", __name__, str(folder)], cwd=root, stdout=log, stderr=log, start_new_session=True
        )
    try:
        until = time.monotonic() + START_SECONDS
        while not (folder / "port").exists():
            assert process.poll() is None, (folder / "log").read_text()
            assert time.monotonic() < until, "the TDS stand-in did not start"
            time.sleep(0.02)
        yield TdsServer(int((folder / "port").read_text()), folder)
    finally:
        process.kill()
        process.wait()


def require_freetds() -> None:
    """An error in CI, a skip with the reason elsewhere, when the driver is not installed."""
    try:
        import pyodbc
    except ImportError:
        there = False
    else:
        there = "FreeTDS" in pyodbc.drivers()
    if not there:
        assert os.environ.get("CI") != "true", "no FreeTDS: .ci/run installs Debian's tdsodbc and unixodbc"
        pytest.skip("no ODBC driver FreeTDS (Debian: apt-get install tdsodbc unixodbc)")


def require_microsofts_driver() -> str:
    """The path of Microsoft's driver; an error in CI, a skip with the reason elsewhere, when it is not installed."""
    from many_models.adapters.sql.odbc_driver import bundled_driver

    path = bundled_driver()
    if path is None:
        assert os.environ.get("CI") != "true", "no Microsoft ODBC driver: pip install mssql-python-odbc"
        pytest.skip("no Microsoft ODBC driver (pip install mssql-python-odbc)")
    return path


@pytest.fixture(scope="session")
def tds(tmp_path_factory: pytest.TempPathFactory) -> Generator[TdsServer]:
    """One stand-in for all tests of this process: take a schema of your own, and leave it running."""
    require_freetds()
    with running_tds(tmp_path_factory.mktemp("tds")) as server:
        yield server


def unparsed(statement: str) -> list[str]:
    """What neither sqlfluff nor sqlglot reads as T-SQL in a statement: empty when one of them reads all of it.

    Synapse's NOT ENFORCED after a key is taken out first: neither knows it.
    """
    import sqlfluff
    import sqlglot
    from sqlglot import exp

    statement = statement.replace(") NOT ENFORCED", ")")  # Synapse's own, which neither of them knows
    try:
        parsed = sqlglot.parse(re.sub(r"\?", "@p", statement), read="tsql")
    except sqlglot.errors.ParseError as error:
        complaint = str(error)
    else:
        if not any(one is None or one.find(exp.Command) for one in parsed):
            return []
        complaint = "sqlglot does not look into it"
    found = sqlfluff.lint(re.sub(r"\?", "@p", statement) + "\n", dialect="tsql", rules=["LT12"])
    wrong = [one["description"] for one in found if one["code"] in {"PRS", "LXR", "TMP"}]
    return [complaint, *wrong] if wrong else []
