"""What `init` writes and prints of a database's URL: never its password, and with the driver that is installed."""

from __future__ import annotations

import sqlite3
from contextlib import closing
from typing import TYPE_CHECKING

import pytest
import sqlalchemy as sa
from click.testing import CliRunner

from many_models.adapters.sql.connections import masked, parse, split_password
from many_models.adapters.sql.drivers import with_driver
from many_models.cli.main import main
from many_models.errors import InputError
from many_models.onboarding import readers
from many_models.settings import load_settings
from many_models_tests.support.project import sales

if TYPE_CHECKING:
    from pathlib import Path

SECRET = "s3cret/word"
QUOTED = "s3cret%2Fword"


@pytest.fixture
def database(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder in which every database URL leads to one SQLite file with sales."""
    with closing(sqlite3.connect(tmp_path / "sales.db")) as connection, connection:
        sales(items=2).to_sql("sales", connection, index=False)
    monkeypatch.setattr(readers, "sql_engine", lambda _: sa.create_engine(f"sqlite:///{tmp_path / 'sales.db'}"))
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.mark.slow
@pytest.mark.parametrize("scheme", ["postgresql", "postgres", "mssql+pyodbc"])
def test_init_writes_no_password_and_names_the_variable(database: Path, scheme: str) -> None:
    done = CliRunner().invoke(main, ["init", f"{scheme}://ada:{QUOTED}@db.example/shop::sales"])
    assert done.exit_code == 0, done.output
    written = (database / "many_models.toml").read_text()
    for secret in (SECRET, QUOTED, "s3cret"):
        assert secret not in written + done.output + done.stderr
    assert "MANY_MODELS_SOURCE_PASSWORD" in written
    assert "MANY_MODELS_SOURCE_PASSWORD" in done.stderr
    source = load_settings(database / "many_models.toml").source
    assert (source.credential, source.url.partition("@")[2]) == ("password", "db.example/shop")
    assert source.url.partition("://")[2].startswith("ada@")


@pytest.mark.parametrize("url", [
    f"nosuch://ada:{QUOTED}@db.example/shop",
    f"postgresql+nosuch://ada:{QUOTED}@db.example/shop",
    f"postgresql://ada:{QUOTED}@db.example:port/shop",
    f"postgresql://db.example/shop?user=ada&password={QUOTED}",
    f"mssql+pyodbc:///?odbc_connect=PWD={QUOTED}",
])  # fmt: skip
def test_init_prints_no_password_of_a_url_that_it_cannot_use(tmp_path: Path, url: str) -> None:
    done = CliRunner().invoke(main, ["init", url, "--into", str(tmp_path)])
    assert done.exit_code == 1
    assert "s3cret" not in done.output + done.stderr
    assert not (tmp_path / "many_models.toml").exists()
    (said,) = done.stderr.strip().splitlines()
    assert said.startswith("error: ")


def test_a_url_without_a_password_stays_as_it_is() -> None:
    assert split_password("sqlite:////tmp/sales.db") == ("sqlite:////tmp/sales.db", "")
    assert split_password("postgresql://ada@h/d") == ("postgresql://ada@h/d", "")
    assert split_password("postgresql+psycopg2://ada:pw@h/d") == ("postgresql+psycopg2://ada@h/d", "pw")
    with pytest.raises(InputError, match="query"):
        split_password("postgresql://h/d?password=pw")
    assert masked("postgresql://ada:p@ss@h/d?password=pw") == "postgresql://ada:***@h/d"


@pytest.mark.parametrize("scheme", ["postgresql", "postgres"])
def test_a_url_of_postgresql_means_the_driver_that_is_installed(scheme: str) -> None:
    """SQLAlchemy 2.1 means psycopg 3 by `postgresql://`, and knows no `postgres://`."""
    assert with_driver(f"{scheme}://h/d") == "postgresql+psycopg2://h/d"
    assert parse(f"{scheme}://h/d", "source").drivername == "postgresql+psycopg2"
    engine = readers.sql_engine(f"{scheme}://h/d")
    assert engine.dialect.driver == "psycopg2"
    assert with_driver("postgresql+psycopg://h/d") == "postgresql+psycopg://h/d"  # said, it stays


def test_registries_on_postgresql_use_the_driver_that_is_installed(tmp_path: Path) -> None:
    from many_models.wiring import build_production, build_staging

    (tmp_path / "many_models.toml").write_text(
        '[registry]\nstaging = "postgresql://h/staging"\nproduction = "postgres://h/production"\n'
    )
    settings = load_settings(tmp_path / "many_models.toml")
    staging, production = build_staging(settings), build_production(settings)
    assert vars(staging)["_store"].uri == "postgresql+psycopg2://h/staging"
    assert vars(production)["_store"].uri == "postgresql+psycopg2://h/production"
