"""A registry as a service reads it: without MLflow, and as MLflow would have answered."""

from __future__ import annotations

import sqlite3
from http.server import BaseHTTPRequestHandler, HTTPServer
from typing import TYPE_CHECKING

import pytest
import sqlalchemy as sa

from many_models.adapters.registry import mlflow_reader, mlflow_store
from many_models.adapters.registry.mlflow_production import MlflowProduction
from many_models.errors import InputError, ManyModelsError, SettingsError, UnavailableError
from many_models_tests.contracts.production_registry import draft
from many_models_tests.contracts.registry import served, upload
from many_models_tests.support.running_server import serving

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path


@pytest.fixture(scope="module")
def published(tmp_path_factory: pytest.TempPathFactory) -> MlflowProduction:
    """A registry in SQLite with two releases, that tests read or copy."""
    root = tmp_path_factory.mktemp("published")
    production = MlflowProduction(f"sqlite:///{root}/p.db", str(root / "files"))
    first = production.publish(draft(None, [upload("a", {"s1": "1"}), upload("b", {"s2": "2"})]))
    production.publish(draft(first, [upload("a", {"s1": "3"})]))
    return production


@pytest.fixture
def copied(published, tmp_path) -> Path:
    """A copy of that registry's database, for tests that change it."""
    copy = tmp_path / "p.db"
    with sqlite3.connect(mlflow_reader.sqlite_path(published._store.uri)) as source, sqlite3.connect(copy) as target:
        source.backup(target)
    return copy


def service(path: Path) -> MlflowProduction:
    return MlflowProduction(f"sqlite:///{path}", light=True)


def change(path: Path, *statements: str) -> None:
    with sqlite3.connect(path) as database:
        for statement in statements:
            assert database.execute(statement).rowcount != 0, statement


def test_a_registry_that_is_not_there_yet_has_no_release(tmp_path: Path) -> None:
    missing, empty = tmp_path / "no" / "p.db", tmp_path / "empty.db"
    sqlite3.connect(empty).execute("PRAGMA user_version = 1").close()
    for path in (missing, empty):
        assert (service(path).live(), service(path).live_id()) == (None, "")
    assert not missing.parent.exists()


def test_a_database_that_goes_is_no_registry_without_releases(copied: Path) -> None:
    """A share that is no longer mounted must not look like a registry that has lost its release."""
    production = service(copied)
    assert production.live_id()
    copied.rename(copied.with_suffix(".gone"))
    with pytest.raises(UnavailableError, match="is gone"):
        production.live_id()


def test_hidden_versions_and_other_workspaces_are_not_read(copied: Path, published: MlflowProduction) -> None:
    release = "FROM model_versions WHERE name = 'many_models-release'"
    columns = "name, version, source, current_stage, workspace"
    change(
        copied,
        f"INSERT INTO model_versions ({columns}) SELECT name, 9, '', 'Deleted_Internal', workspace {release} LIMIT 1",
        f"INSERT INTO model_versions ({columns}) SELECT name, version, 'elsewhere', 'None', 'other' {release}",
        "INSERT INTO registered_model_aliases (name, alias, version, workspace) "
        "VALUES ('many_models-release', 'live', 1, 'other')",
    )
    assert list(service(copied).releases()) == list(published.releases())
    assert service(copied).live() == published.live()


def test_tables_of_another_mlflow_are_left_to_mlflow(copied: Path) -> None:
    change(copied, "UPDATE alembic_version SET version_num = 'from before'")
    with sqlite3.connect(copied) as database:
        database.execute("ALTER TABLE model_versions RENAME COLUMN source TO place")
    with pytest.raises(ManyModelsError, match="mlflow db upgrade"):  # MLflow's own words
        service(copied).live()


def test_what_a_killed_writer_left_is_no_obstacle(copied: Path, published: MlflowProduction, tmp_path: Path) -> None:
    """A transaction that was half written: its journal is there, and the next reader takes it back."""
    torn = tmp_path / "torn.db"
    with sqlite3.connect(copied, isolation_level=None) as database:
        database.execute("PRAGMA cache_size = 1")
        database.execute("PRAGMA cache_spill = 1")
        database.execute("BEGIN")
        database.execute("DELETE FROM model_version_tags")
        database.execute("UPDATE model_versions SET source = hex(zeroblob(200))")
        for suffix in ("", "-journal"):
            (tmp_path / f"torn.db{suffix}").write_bytes((tmp_path / f"p.db{suffix}").read_bytes())
    assert (tmp_path / "torn.db-journal").stat().st_size > 0
    assert service(torn).live() == published.live()


@pytest.mark.slow
def test_postgresql_is_read_as_mlflow_reads_it(postgres, tmp_path: Path) -> None:
    url = postgres.new_database()
    early = MlflowProduction(url, light=True)
    assert early.live() is None
    production = MlflowProduction(url, str(tmp_path / "files"))
    release = production.publish(draft(None, [upload("a", {"s1": "1"}), upload("b", {"s2": "2"})]))
    for reader in (early, MlflowProduction(url, aliases=False, light=True)):
        assert reader.live() == release
        assert served(reader, release) == {"s1": "1", "s2": "2"}
    sa.create_engine(url).dispose()


@pytest.mark.parametrize(
    ("uri", "artifacts", "env"),
    [
        ("databricks", "", {}),
        ("http://h", "s3://bucket/files", {}),
        ("sqlite:///p.db", "abfss://c@a.dfs.core.windows.net/x", {}),
        ("http://h", "", {"MLFLOW_TRACKING_AWS_SIGV4": "true"}),
        ("sqlite:///p.db", "", {"MLFLOW_ENABLE_WORKSPACES": "true"}),
    ],
)
def test_what_only_mlflow_can_reach_is_left_to_it(monkeypatch, uri: str, artifacts: str, env: dict[str, str]) -> None:
    for name, value in env.items():
        monkeypatch.setenv(name, value)
    assert mlflow_reader.reader_of(uri, artifacts) is None


# --- servers that answer oddly ---
@pytest.fixture
def answers() -> Iterator[tuple[str, list[tuple[int, bytes]], list[str]]]:
    """A server on loopback that gives the last of its answers (status, body) to all; and the logins that it got."""
    said, logins = [(200, b"{}")], list[str]()

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            logins.append(self.headers.get("Authorization", ""))
            status, body = said[-1]
            self.send_response(status)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_: object) -> None:
            pass

    with serving(HTTPServer(("127.0.0.1", 0), Handler)) as server:
        yield f"127.0.0.1:{server.server_port}", said, logins


@pytest.mark.parametrize(
    ("status", "body", "error"),
    [
        (404, b"<html>no such page</html>", InputError),
        (404, b'{"error_code": "SOMETHING_NEW", "message": "?"}', InputError),
        (200, b"<html>sign in first</html>", UnavailableError),
        (401, b"You are not authenticated", SettingsError),
        (403, b'{"error_code": "UNAUTHENTICATED"}', SettingsError),
        (500, b'{"error_code": "INTERNAL_ERROR", "message": "full"}', UnavailableError),
        (503, b"", UnavailableError),
    ],
)
def test_an_odd_answer_is_never_a_registry_without_releases(monkeypatch, answers, status, body, error) -> None:
    """A proxy that does not find its way answers 404, too: only MLflow's own words say that there is no release."""
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    place, said, _ = answers
    said.append((status, body))
    with pytest.raises(error):
        MlflowProduction(f"http://{place}", light=True).live()


def test_a_login_comes_from_the_role_then_from_mlflows_environment(monkeypatch, answers) -> None:
    place, said, logins = answers
    said.append((404, b'{"error_code": "RESOURCE_DOES_NOT_EXIST", "message": "none"}'))

    def login_of(production: MlflowProduction) -> str:
        mlflow_store._READERS.clear()
        reader = production._store.reader
        assert reader is not None
        assert reader.version("m", "1") is None
        return logins[-1]

    production = MlflowProduction(f"http://{place}", light=True)
    assert login_of(production) == ""
    monkeypatch.setenv("MLFLOW_TRACKING_TOKEN", "t")
    assert login_of(production) == "Bearer t"
    monkeypatch.setenv("MLFLOW_TRACKING_USERNAME", "u")
    monkeypatch.setenv("MLFLOW_TRACKING_PASSWORD", "p")
    assert login_of(production) == "Basic dTpw"
    monkeypatch.setenv("MANY_MODELS_PRODUCTION_USERNAME", "v")
    monkeypatch.setenv("MANY_MODELS_PRODUCTION_PASSWORD", "q")
    assert login_of(production) == "Basic djpx"
