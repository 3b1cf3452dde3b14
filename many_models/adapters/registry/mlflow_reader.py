"""Reads an MLflow registry without importing MLflow, which costs a service 100 MB and some seconds of CPU.

SQLite and PostgreSQL are read by SQL (SQLite without SQLAlchemy), a server by MLflow's public REST API. `reader_of`
gives None for a store that only MLflow's own client can reach; `Unreadable` says the same of one call. Then MLflow's
client reads.
"""

from __future__ import annotations

import base64
import os
import re
import sqlite3
from contextlib import closing
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol
from urllib.parse import quote, urlsplit

from many_models.errors import UnavailableError

if TYPE_CHECKING:
    from collections.abc import Mapping

    import requests
    from sqlalchemy import Engine

Row = tuple[Any, ...]

WORKSPACE = "default"  # what MLflow calls its only one where workspaces are off
DELETED = "Deleted_Internal"  # the stage of a version that MLflow only hides
PAGE = 10_000
BUSY_SECONDS = 20.0
CLIENT_ONLY = (
    "MLFLOW_TRACKING_AWS_SIGV4",
    "MLFLOW_TRACKING_AUTH",
    "MLFLOW_ENABLE_WORKSPACES",
    "MLFLOW_WORKSPACE",
)
"""Variables of MLflow's environment that mean what this module does not do."""
_USED = {
    "model_versions": {"name", "version", "source", "current_stage", "workspace"},
    "model_version_tags": {"name", "version", "key", "value", "workspace"},
    "registered_model_aliases": {"name", "alias", "version", "workspace"},
}
_VERSIONS = """
SELECT v.name, v.version, v.source, t."key", t.value FROM model_versions v
LEFT JOIN model_version_tags t ON t.workspace = v.workspace AND t.name = v.name AND t.version = v.version
WHERE v.workspace = :workspace AND v.current_stage <> :deleted AND v.name = :name"""
_WITH_ALIAS = """
AND v.version = (SELECT a.version FROM registered_model_aliases a
WHERE a.workspace = :workspace AND a.name = :name AND a.alias = :alias)"""
_CODES = {401: "UNAUTHENTICATED", 403: "PERMISSION_DENIED", 404: "ENDPOINT_NOT_FOUND", 429: "REQUEST_LIMIT_EXCEEDED"}
_NOT_THERE = {"RESOURCE_DOES_NOT_EXIST", "NOT_FOUND", "INVALID_PARAMETER_VALUE"}
_ARTIFACTS = "/api/2.0/mlflow-artifacts/artifacts"


@dataclass(frozen=True)
class StoredVersion:
    """A version of a registered model: the fields of MLflow's own ModelVersion that the registries use."""

    name: str
    version: str
    source: str
    tags: Mapping[str, str]


class StoreError(Exception):
    """A server refused. `error_code` is one of MLflow's."""

    def __init__(self, error_code: str, message: str) -> None:
        super().__init__(f"{error_code}: {message}")
        self.error_code = error_code


class Unreadable(Exception):  # noqa: N818  no error: the call is MLflow's
    """Only MLflow's own client can answer this call, or say what is wrong with the store."""


class VersionReader(Protocol):
    """What a service reads of a registry. Raises StoreError, Unreadable, and what HTTP or the database raise."""

    def by_alias(self, name: str, alias: str) -> StoredVersion | None:
        """The version of model `name` that has `alias`; None when there is none."""
        ...

    def version(self, name: str, number: str) -> StoredVersion | None:
        """Version `number` of model `name`; None when there is none."""
        ...

    def versions(self, name: str) -> list[StoredVersion]:
        """Every version of model `name`; none when there is no such model."""
        ...

    def folder(self, source: str) -> dict[str, bytes]:
        """Every file of an artifact folder that is not a local one, by its path from there; none when it is empty."""
        ...


def reader_of(uri: str, artifacts: str = "") -> VersionReader | None:
    """A reader of the store at `uri`, whose `artifacts` ("": its server's) are kept there; None: take MLflow's."""
    scheme = urlsplit(artifacts).scheme
    if any(os.environ.get(name) for name in CLIENT_ONLY):
        return None
    if len(scheme) > 1 and scheme not in ("file", "mlflow-artifacts"):  # one letter is a drive
        return None
    if uri.startswith(("http://", "https://")):
        known = Path("~/.mlflow/credentials").expanduser()
        return None if known.exists() or _has_header_plugins() else ServerReader(uri)
    if re.match(r"(sqlite|postgresql)(\+\w+)?://", uri):  # what the tests read; others may quote `key` otherwise
        return DatabaseReader(uri)
    return None


def _has_header_plugins() -> bool:
    from importlib.metadata import entry_points

    return bool(entry_points(group="mlflow.request_header_provider"))


# --- a database -------------------------------------------------------------------------------------------------------
@dataclass
class DatabaseReader:
    """Reads the tables that MLflow's SQL store keeps. A database without them holds no release yet."""

    uri: str
    _seen: bool = False
    _engine: Engine | None = field(default=None, repr=False)

    def by_alias(self, name: str, alias: str) -> StoredVersion | None:
        """See VersionReader."""
        return next(iter(self._versions(_VERSIONS + _WITH_ALIAS, name=name, alias=alias)), None)

    def version(self, name: str, number: str) -> StoredVersion | None:
        """See VersionReader."""
        if not number.isdecimal():
            return None
        return next(iter(self._versions(f"{_VERSIONS} AND v.version = :number", name=name, number=int(number))), None)

    def versions(self, name: str) -> list[StoredVersion]:
        """See VersionReader."""
        return self._versions(_VERSIONS, name=name)

    def folder(self, source: str) -> dict[str, bytes]:
        """See VersionReader. A database keeps no files."""
        raise Unreadable(source)

    def _versions(self, statement: str, **values: object) -> list[StoredVersion]:
        """One statement, so that a version and its tags are of one moment."""
        rows = self._rows(statement, {"workspace": WORKSPACE, "deleted": DELETED, **values})
        found: dict[tuple[str, str], StoredVersion] = {}
        for name, number, source, key, value in rows:
            one = found.setdefault((name, str(number)), StoredVersion(name, str(number), str(source), dict[str, str]()))
            if key is not None:
                one.tags[key] = value  # pyright: ignore[reportIndexIssue]  a dict, made above
        return list(found.values())

    def _rows(self, statement: str, values: Mapping[str, object]) -> list[Row]:
        path = sqlite_path(self.uri)
        if path is not None and not path.exists():  # SQLite would make an empty database of it
            if self._seen:
                raise UnavailableError(f"the registry's database {path} is gone")
            return []
        try:
            rows = self._of_sqlite(path, statement, values) if path else self._of_server(statement, values)
        except Exception as error:
            there = self._columns(path)
            if there is None:
                raise  # the database does not answer at all
            if not there and not self._seen:
                return []
            if any(not wanted <= there.get(table, set()) for table, wanted in _USED.items()):
                raise Unreadable(self.uri) from error  # another version's tables: MLflow says what to do about them
            raise
        self._seen = True
        return rows

    def _of_sqlite(self, path: Path, statement: str, values: Mapping[str, object]) -> list[Row]:
        # rw and not ro: what a killed writer left half-way is taken back by whoever reads next
        with closing(sqlite3.connect(f"file:{quote(str(path))}?mode=rw", uri=True, timeout=BUSY_SECONDS)) as database:
            return database.execute(statement, dict(values)).fetchall()

    def _of_server(self, statement: str, values: Mapping[str, object]) -> list[Row]:
        import sqlalchemy as sa

        if self._engine is None:
            self._engine = sa.create_engine(self.uri, pool_pre_ping=True)
        with self._engine.connect() as connection:
            return [tuple(row) for row in connection.execute(sa.text(statement), dict(values))]

    def _columns(self, path: Path | None) -> dict[str, set[str]] | None:
        """Table → columns, of the tables used that are there; None when that cannot be asked."""
        if path is None:
            return self._columns_of_server()
        try:
            with closing(sqlite3.connect(f"file:{quote(str(path))}?mode=rw", uri=True)) as database:
                found = {table: {row[1] for row in database.execute(f"PRAGMA table_info({table})")} for table in _USED}
        except sqlite3.Error:
            return None
        return {table: columns for table, columns in found.items() if columns}

    def _columns_of_server(self) -> dict[str, set[str]] | None:
        import sqlalchemy as sa
        from sqlalchemy.exc import SQLAlchemyError

        try:
            inspector = sa.inspect(self._engine)
            if inspector is None:
                return None
            there = set(inspector.get_table_names())
            return {t: {str(c["name"]) for c in inspector.get_columns(t)} for t in _USED if t in there}
        except SQLAlchemyError:
            return None


def sqlite_path(uri: str) -> Path | None:
    """The file of a SQLite store; None for another one."""
    head, found, path = uri.partition(":///")
    return Path(path) if found and head.startswith("sqlite") else None


# --- a server ---------------------------------------------------------------------------------------------------------
@dataclass
class ServerReader:
    """Asks an MLflow server by its REST API, as https://mlflow.org/docs/latest/rest-api.html has it.

    Name and password are those of the URI, else MLFLOW_TRACKING_USERNAME and _PASSWORD, else MLFLOW_TRACKING_TOKEN.
    """

    uri: str
    _session: requests.Session | None = field(default=None, repr=False)

    def by_alias(self, name: str, alias: str) -> StoredVersion | None:
        """See VersionReader."""
        try:
            return _stored(self._ask("registered-models/alias", name=name, alias=alias)["model_version"])
        except StoreError as error:
            if error.error_code in _NOT_THERE:
                return None
            if error.error_code == "PERMISSION_DENIED" and not self._has_model(name):
                return None  # a server with users says so of an alias of a model that is not there
            raise

    def _has_model(self, name: str) -> bool:
        try:
            self._ask("registered-models/get", name=name)
        except StoreError as error:
            if error.error_code not in _NOT_THERE:
                raise
            return False
        return True

    def version(self, name: str, number: str) -> StoredVersion | None:
        """See VersionReader."""
        try:
            return _stored(self._ask("model-versions/get", name=name, version=number)["model_version"])
        except StoreError as error:
            if error.error_code in _NOT_THERE:
                return None
            raise

    def versions(self, name: str) -> list[StoredVersion]:
        """See VersionReader."""
        found, token = list[StoredVersion](), ""
        while True:
            more = {"page_token": token} if token else {}
            page = self._ask("model-versions/search", filter=f"name = '{name}'", max_results=PAGE, **more)
            found.extend(map(_stored, page.get("model_versions", [])))
            token = page.get("next_page_token", "")
            if not token:
                return found

    def folder(self, source: str) -> dict[str, bytes]:
        """See VersionReader. Reads through the server what it keeps itself; other artifacts are MLflow's to read."""
        place = urlsplit(source)
        if place.scheme != "mlflow-artifacts" or place.netloc:
            raise Unreadable(source)
        found: dict[str, bytes] = {}
        folders = [""]
        while folders:
            inside = folders.pop()
            path = "/".join(part for part in (place.path.strip("/"), inside) if part)
            for one in self._get(_ARTIFACTS, path=path).json().get("files", []):
                name = f"{inside}/{one['path']}".lstrip("/")
                if one["is_dir"]:
                    folders.append(name)
                else:
                    found[name] = self._get(_ARTIFACTS + quote(f"{place.path.rstrip('/')}/{name}")).content
        return found

    def _ask(self, what: str, **parameters: object) -> dict[str, Any]:
        answer = self._get(f"/api/2.0/mlflow/{what}", **parameters)
        try:
            return answer.json()
        except ValueError as error:
            raise StoreError("INTERNAL_ERROR", "the server answered 200 with what is not JSON") from error

    def _get(self, endpoint: str, /, **parameters: object) -> requests.Response:
        """Raise StoreError where the answer is not 200."""
        if self._session is None:
            self._session = _session()
        seconds = float(os.environ.get("MLFLOW_HTTP_REQUEST_TIMEOUT", "120"))
        answer = self._session.get(f"{self.uri.rstrip('/')}{endpoint}", params=parameters, timeout=seconds)  # pyright: ignore[reportArgumentType]  texts and a number
        if answer.status_code == 200:
            return answer
        code = _CODES.get(answer.status_code, "TEMPORARILY_UNAVAILABLE" if answer.status_code >= 500 else "BAD_REQUEST")
        try:
            said = answer.json()
            code, text = str(said["error_code"]), str(said.get("message", ""))
        except (ValueError, KeyError, TypeError):
            text = f"HTTP {answer.status_code} {answer.reason}"
        raise StoreError(code, text)


def _session() -> requests.Session:
    """A session with the login, certificates and retries that MLflow's environment variables name."""
    import requests
    from requests.adapters import HTTPAdapter
    from urllib3 import Retry

    env, session = os.environ, requests.Session()
    name, password = env.get("MLFLOW_TRACKING_USERNAME"), env.get("MLFLOW_TRACKING_PASSWORD")
    if name and password:
        known = base64.b64encode(f"{name}:{password}".encode()).decode()
        session.headers["Authorization"] = f"Basic {known}"  # and not session.auth: a login in the URI comes first
    elif token := env.get("MLFLOW_TRACKING_TOKEN"):
        session.headers["Authorization"] = f"Bearer {token}"
    insecure = env.get("MLFLOW_TRACKING_INSECURE_TLS", "").lower() in ("true", "1")
    session.verify = env.get("MLFLOW_TRACKING_SERVER_CERT_PATH") or not insecure
    session.cert = env.get("MLFLOW_TRACKING_CLIENT_CERT_PATH")
    retries = int(env.get("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "7"))
    again = Retry(retries, backoff_factor=1, status_forcelist=(408, 429, 500, 502, 503, 504), raise_on_status=False)
    for scheme in ("http://", "https://"):
        session.mount(scheme, HTTPAdapter(max_retries=again))
    return session


def _stored(found: Mapping[str, Any]) -> StoredVersion:
    tags = {one["key"]: one.get("value", "") for one in found.get("tags", [])}
    return StoredVersion(found["name"], str(found["version"]), found.get("source", ""), tags)
