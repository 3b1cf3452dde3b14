"""MLflow's clients of one store: how the store is reached, with which credentials, and its experiment."""

from __future__ import annotations

import logging
import os
import re
import sqlite3
from pathlib import Path
from typing import TYPE_CHECKING

from many_models.adapters.registry.mlflow_folder import local_path
from many_models.adapters.registry.mlflow_private import keep_mlflow_quiet
from many_models.adapters.registry.mlflow_reader import sqlite_path
from many_models.errors import UnavailableError
from many_models.system import write_atomically

if TYPE_CHECKING:
    from mlflow.tracking import MlflowClient

    from many_models.adapters.registry.mlflow_private import ModelRegistryClient

    Clients = tuple[MlflowClient, ModelRegistryClient]

SQL = re.compile(r"(sqlite|postgresql|mysql|mssql)(\+\w+)?://")
CONFLICT = {"RESOURCE_CONFLICT", "RESOURCE_ALREADY_EXISTS", "ALREADY_EXISTS", "ABORTED"}
_BLANK: dict[Path, bytes] = {}
"""Working directory, which MLflow's first experiment names → a SQLite store as MLflow makes it there.

MLflow makes its tables by all of its migrations, which takes seconds. This process copies the first store that it had
made to make the others.
"""


def new_clients(uri: str) -> Clients:
    """MLflow's clients for runs and for models. Raises UnavailableError where the store does not answer.

    Call it within a lock on the store: it makes the tables of a new one.
    """
    keep_mlflow_quiet()
    _reach(uri)
    path, here = sqlite_path(uri), Path.cwd()
    is_new = path is not None and path.exists() and not path.stat().st_size
    if path is not None and is_new and here in _BLANK:
        write_atomically(path, _BLANK[here])
    from mlflow.tracking import MlflowClient

    from many_models.adapters.registry.mlflow_private import registry_client

    talk = logging.getLogger("mlflow.store.db.utils")  # announces its tables on stderr, in the midst of a progress bar
    level = talk.level
    talk.setLevel(logging.WARNING)
    try:
        clients = MlflowClient(tracking_uri=uri, registry_uri=uri), registry_client(uri)
    finally:
        talk.setLevel(level)
    if path is not None and is_new:
        _BLANK.setdefault(here, path.read_bytes())
    return clients


def with_credentials(uri: str, role: str) -> str:
    """`uri` with the name and password that the environment has for this role, unless it has its own.

    MLflow itself knows one pair of credentials a process; promotion reads staging and writes production.
    """
    from urllib.parse import quote

    scheme, separator, rest = uri.partition("://")
    user = os.environ.get(f"MANY_MODELS_{role.upper()}_USERNAME", "")
    if not user or scheme not in {"http", "https"} or "@" in rest.partition("/")[0]:
        return uri
    password = os.environ.get(f"MANY_MODELS_{role.upper()}_PASSWORD", "")
    return f"{scheme}{separator}{quote(user, safe='')}:{quote(password, safe='')}@{rest}"


def masked(uri: str) -> str:
    """`uri` with its password hidden."""
    return re.sub(r"//([^:/@\s]*):[^@\s]*@", r"//\1:***@", uri)


def _reach(uri: str) -> None:
    """Fails at once where MLflow would try again for minutes. Raises UnavailableError."""
    if path := sqlite_path(uri):
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            with sqlite3.connect(path) as connection:
                connection.execute("PRAGMA schema_version")
            connection.close()
        except (OSError, sqlite3.Error) as error:
            raise UnavailableError(f"{path} cannot be opened as a SQLite database: {error}") from error
    elif uri.startswith(("http://", "https://")):
        import requests

        try:
            requests.get(f"{uri.rstrip('/')}/health", timeout=10)
        except requests.RequestException as error:
            raise UnavailableError(f"no MLflow server answers at {masked(uri)}: {error}") from error
    elif SQL.match(uri):
        from sqlalchemy import create_engine
        from sqlalchemy.exc import SQLAlchemyError

        try:
            engine = create_engine(uri)
            engine.connect().close()
            engine.dispose()
        except SQLAlchemyError as error:
            raise UnavailableError(f"the database {masked(uri)} cannot be reached: {error}") from error


def experiment_of(client: MlflowClient, name: str, artifacts: str) -> str:
    """The id of the experiment `name`, made with its files in `artifacts` when it is not there."""
    from mlflow.exceptions import MlflowException

    if found := client.get_experiment_by_name(name):
        return str(found.experiment_id)
    folder = local_path(artifacts)
    location = folder.absolute().as_uri() if folder else artifacts or None
    try:
        return str(client.create_experiment(name, artifact_location=location))
    except MlflowException as error:
        if error.error_code not in CONFLICT or not (found := client.get_experiment_by_name(name)):
            raise
        return str(found.experiment_id)
