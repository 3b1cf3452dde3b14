"""One MLflow store as both registries use it: client, errors, lock, model folders, hard deletion.

Only explicit clients: MLflow's global tracking URI, active run and experiment are neither read nor set.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import sqlite3
import sys
import tempfile
import time
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING

from many_models.adapters.registry.mlflow_bulk import NewVersion, delete_rows, insert_versions, move_aliases
from many_models.adapters.registry.mlflow_clients import (
    CONFLICT,
    SQL,
    experiment_of,
    masked,
    new_clients,
    with_credentials,
)
from many_models.adapters.registry.mlflow_folder import (
    SERIES_FILE,
    Files,
    local_path,
    model_folder,
    read_folder,
    series_tags,
    write_folders,
)
from many_models.adapters.registry.mlflow_lease import leased
from many_models.adapters.registry.mlflow_private import error_code, hard_delete_run
from many_models.adapters.registry.mlflow_reader import StoreError, Unreadable, reader_of, sqlite_path
from many_models.adapters.registry.rules import OWN_TAGS
from many_models.errors import (
    ConflictError,
    InputError,
    IntegrityError,
    ManyModelsError,
    SettingsError,
    UnavailableError,
)
from many_models.keys import digest, files_sha256, slug
from many_models.ports import PackVersion
from many_models.system import first_line

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Generator, Iterable, Mapping, Sequence

    from mlflow.entities import Run
    from mlflow.entities.model_registry import ModelVersion
    from mlflow.tracking import MlflowClient

    from many_models.adapters.registry.mlflow_clients import Clients
    from many_models.adapters.registry.mlflow_private import ModelRegistryClient
    from many_models.adapters.registry.mlflow_reader import StoredVersion, VersionReader
    from many_models.ports import PackUpload

    Version = ModelVersion | StoredVersion


LOCK_SECONDS = 600.0
SEARCHES = 10
LOG_METRICS, LOG_PARAMS = 1000, 100  # of one call
PARAM_VALUE = 6000  # characters
_PREFIX = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,99}")
_SOON = {"MLFLOW_HTTP_REQUEST_MAX_RETRIES": "1", "MLFLOW_HTTP_REQUEST_TIMEOUT": "10"}
"""MLflow reads these at each call; where a user has set them, they stay."""
_REFUSED = {"PERMISSION_DENIED", "CUSTOMER_UNAUTHORIZED", "UNAUTHENTICATED"}
_MISSING = {"RESOURCE_DOES_NOT_EXIST", "NOT_FOUND", "ENDPOINT_NOT_FOUND"}
_OUT_OF_ORDER = {
    "INTERNAL_ERROR",
    "TEMPORARILY_UNAVAILABLE",
    "DEADLINE_EXCEEDED",
    "REQUEST_LIMIT_EXCEEDED",
    "RESOURCE_EXHAUSTED",
    "CANCELLED",
}


@dataclass(frozen=True)
class MlflowStore:
    """An MLflow store: where it is, where its files go ("" leaves that to the server), and whose names these are.

    `role` is `staging` or `production`: its own experiment, and a tag on each version, keep two registries apart even
    in one store. Picklable; clients are made where they are used. `light`: read without MLflow where that can be done.
    """

    uri: str
    artifacts: str
    prefix: str
    role: str
    light: bool = False

    def __post_init__(self) -> None:
        if not _PREFIX.fullmatch(self.prefix):
            raise SettingsError(
                f"registry prefix {self.prefix!r} cannot be used: letters, digits, '_', '.' and '-', at most 100"
            )

    # --- reaching it --------------------------------------------------------------------------------------------
    @property
    def owner(self) -> str:
        """The value of the `mm.owner` tag on every version that is this registry's own."""
        return f"{self.prefix}/{self.role}"

    @property
    def is_database(self) -> bool:
        """Whether the store is a database that is reached without a server."""
        return bool(SQL.match(self.uri))

    @property
    def _writes_rows(self) -> bool:
        """Whether rows are written past MLflow's client; never where a user has turned its workspaces on."""
        from mlflow.environment_variables import MLFLOW_ENABLE_WORKSPACES

        return self.is_database and not MLFLOW_ENABLE_WORKSPACES.get()

    @property
    def shown(self) -> str:
        """The URI without a password."""
        return masked(self.uri)

    def name(self, pack: str) -> str:
        """The registered model's name for a pack."""
        return f"{self.prefix}-{slug(pack)}"

    @property
    def client(self) -> MlflowClient:
        """MLflow's client for runs and experiments, made once a process."""
        return self._clients[0]

    @property
    def registry(self) -> ModelRegistryClient:
        """MLflow's client for registered models.

        MlflowClient wraps it, and reads every version of a model before it sets a tag or an alias of one.
        """
        return self._clients[1]

    @property
    def reader(self) -> VersionReader | None:
        """Reads the store without MLflow, made once a process; None where MLflow's client is to read."""
        if not self.light:
            return None
        key = self._reached, self.artifacts
        if key not in _READERS:
            _READERS[key] = reader_of(*key)
        return _READERS[key]

    @property
    def _reached(self) -> str:
        """The URI with this role's own credentials from the environment, where that has any. It stays in here."""
        return with_credentials(self.uri, self.role)

    @property
    def _clients(self) -> Clients:
        uri = self._reached
        if uri not in _CLIENTS:
            with self._setup():
                if uri not in _CLIENTS:
                    _CLIENTS[uri] = new_clients(uri)
        return _CLIENTS[uri]

    @contextmanager
    def _setup(self) -> Generator[None]:
        """Two processes that make the same SQLite database at once would both fail."""
        if path := sqlite_path(self.uri):
            with locked(path.with_name(f"{path.name}.setup-lock"), LOCK_SECONDS, self.shown):
                yield
        else:
            yield

    @contextmanager
    def errors(self, doing: str) -> Generator[None]:
        """Turn what MLflow, its database driver or HTTP raise into the product's errors."""
        try:
            yield
        except ManyModelsError:
            raise
        except Exception as error:
            if (translated := self._translated(error, doing)) is None:
                raise
            raise translated from (error if self._reached == self.uri else None)  # its text may have the password

    def _translated(self, error: Exception, doing: str) -> ManyModelsError | None:
        text = f"{doing} in MLflow at {self.shown}: {masked(first_line(error))}"
        if code := error.error_code if isinstance(error, StoreError) else error_code(error):
            if code in _REFUSED:
                names = f"MANY_MODELS_{self.role.upper()}_USERNAME and _PASSWORD, else MLFLOW_TRACKING_USERNAME …"
                return SettingsError(f"{text}; the credentials ({names}) may not do that")
            if code in CONFLICT:
                return ConflictError(text)
            return UnavailableError(text) if code in _OUT_OF_ORDER else InputError(text)
        if isinstance(error, sqlite3.Error | OSError) or _is_of_sqlalchemy(error, "DBAPIError", "TimeoutError"):
            return UnavailableError(text)  # an OSError: what requests raises
        if _is_of_sqlalchemy(error, "ArgumentError"):  # NoSuchModuleError is one
            return SettingsError(text)
        return None

    @contextmanager
    def writing(self, doing: str) -> Generator[Callable[[], None]]:
        """`errors` and `lock`, with the store set up before. Yields a check that the lock is still held."""
        with self.errors(doing):
            self.experiment()
            with self.lock() as check:
                yield check

    @contextmanager
    def lock(self, seconds: float = LOCK_SECONDS) -> Generator[Callable[[], None]]:
        """Held by one process (and thread) of all that write to this store; a killed one lets go of it.

        On SQLite a lock in the artifact folder: a SQLite transaction, because that works on every system. Elsewhere
        also a lease in the store itself, which other machines see. Raises ConflictError after `seconds`.
        """
        with locked(self._lock_path, seconds, self.shown):
            if sqlite_path(self.uri):
                yield _held
                return
            with leased(self.registry, f"{self.prefix}-{self.role}-lock", seconds, self.shown) as check:
                yield check

    @property
    def _lock_path(self) -> Path:
        folder = local_path(self.artifacts)
        return folder / ".lock" if folder else Path(tempfile.gettempdir()) / f"many_models-{digest(self.uri)}.lock"

    # --- runs and files -----------------------------------------------------------------------------------------
    def experiment(self) -> str:
        """The id of this registry's experiment, made when it is not there."""
        key = (self.uri, self.owner, self.artifacts)
        if key not in _EXPERIMENTS:
            _EXPERIMENTS[key] = experiment_of(self.client, self.owner, self.artifacts)
        return _EXPERIMENTS[key]

    def find_run(self, batch: str) -> Run | None:
        """The run that `start_run` made for `batch`."""
        query = f"tags.`{OWN_TAGS}batch` = '{digest(batch)}'"
        runs = self.client.search_runs([self.experiment()], query, max_results=1)
        return runs[0] if runs else None

    def start_run(self, batch: str) -> Run:
        """A new run; `batch` is its name and can be found again."""
        return self.client.create_run(self.experiment(), run_name=batch[:250], tags={f"{OWN_TAGS}batch": digest(batch)})

    def log(self, run: Run, parameters: Mapping[str, str], metrics: Mapping[str, float]) -> None:
        """Log both on `run`, in as few calls as MLflow allows."""
        from mlflow.entities import Metric, Param

        now = int(time.time() * 1000)
        params = [Param(key, text[:PARAM_VALUE]) for key, text in parameters.items()]
        measured = [Metric(key, value, now, 0) for key, value in metrics.items()]
        for at in range(0, len(params), LOG_PARAMS):
            self.client.log_batch(run.info.run_id, params=params[at : at + LOG_PARAMS])
        for at in range(0, len(measured), LOG_METRICS):
            self.client.log_batch(run.info.run_id, measured[at : at + LOG_METRICS])

    def write(self, run: Run, folders: Iterable[tuple[str, Mapping[str, bytes]]]) -> str:
        """Write folders (name, and file name → bytes) under the run's artifacts, each as it comes; return the URI that
        they are below.
        """
        root = str(run.info.artifact_uri)
        if path := local_path(root):
            write_folders(path, folders)
        else:
            with tempfile.TemporaryDirectory() as folder:
                write_folders(Path(folder), folders)
                self.client.log_artifacts(run.info.run_id, folder)
        return root.rstrip("/")

    def read(self, source: str) -> Files:
        """Every file of a model folder. Empty when the folder is not there."""
        if path := local_path(source):
            return read_folder(path)
        if self.reader:
            with suppress(Unreadable):
                return self.reader.folder(source)
        from mlflow.store.artifact.artifact_repository_registry import get_artifact_repository

        with tempfile.TemporaryDirectory() as folder:
            repository = get_artifact_repository(source, tracking_uri=self._reached)
            repository.download_artifacts("", folder)
            return read_folder(Path(folder))

    # --- pack versions ------------------------------------------------------------------------------------------
    def create_version(self, name: str, source: str, run: Run, tags: Mapping[str, str]) -> ModelVersion:
        """A new version of the registered model `name`, which is made when it is not there."""
        from mlflow.exceptions import MlflowException

        def create() -> ModelVersion:
            return self.registry.create_model_version(
                name, source, run.info.run_id, tags=dict(tags), await_creation_for=0
            )

        try:
            return create()
        except MlflowException as error:  # a server with users refuses what is not there
            if error.error_code not in _MISSING and (error.error_code not in _REFUSED or self.has_model(name)):
                raise
        try:
            self.registry.create_registered_model(name)
        except MlflowException as error:
            if error.error_code not in CONFLICT:
                raise
        return create()

    def has_model(self, name: str) -> bool:
        """Whether the registered model is there. Raises when that may not be known."""
        from mlflow.exceptions import MlflowException

        try:
            self.registry.get_registered_model(name)
        except MlflowException as error:
            if error.error_code not in _MISSING:
                raise
            return False
        return True

    def register_packs(self, run: Run, packs: Sequence[PackUpload], tags: Mapping[str, str]) -> dict[str, PackVersion]:
        """Write and register `packs` with `tags` on top of their own; pack → version."""
        sha = {upload.pack: files_sha256(upload.files) for upload in packs}
        folder = {u.pack: f"{slug(u.pack)}-{digest(sha[u.pack], u.series)}" for u in packs}
        # one folder at a time: those of a large release would not fit in memory together
        folders = ((folder[u.pack], model_folder(u, folder[u.pack], run.info.run_id)) for u in packs)
        root = self.write(run, folders)
        new: list[NewVersion] = []
        for upload in packs:
            own = {**tags, "owner": self.owner, "pack": upload.pack, "sha256": sha[upload.pack], **series_tags(upload)}
            named = {**upload.tags, **{OWN_TAGS + key: value for key, value in own.items()}}
            new.append(NewVersion(self.name(upload.pack), f"{root}/{folder[upload.pack]}", named))
        if self._writes_rows and sqlite_path(self.uri):
            made = insert_versions(self.uri, run.info.run_id, new)
        else:
            made = [int(self.create_version(v.name, v.source, run, v.tags).version) for v in new]
        return {
            u.pack: PackVersion(v.name, str(number), u.pack, tuple(u.series), sha[u.pack], dict(u.tags))
            for u, v, number in zip(packs, new, made, strict=True)
        }

    def pack_version(self, found: ModelVersion) -> PackVersion:
        """What a registered version says of itself. Raises IntegrityError when its tags contradict its files."""
        tags = dict(found.tags)
        own = {key.removeprefix(OWN_TAGS): tags.pop(key) for key in list(tags) if key.startswith(OWN_TAGS)}
        ref = f"{found.name}/{found.version}"
        try:
            text = own["series"] if "series" in own else self._series_file(found, own["series_digest"])
            return PackVersion(
                found.name, str(found.version), own["pack"], tuple(json.loads(text)), own["sha256"], tags
            )
        except KeyError as error:
            raise IntegrityError(f"pack {ref} has lost its tag {OWN_TAGS}{error.args[0]}: register it again") from error

    def _series_file(self, found: ModelVersion, expected: str) -> str:
        return _series_text(self, str(found.source), expected, f"{found.name}/{found.version}")

    def find(self, ref: str) -> Version:
        """The version that `ref` names. Raises InputError when there is none."""
        name, _, version = ref.rpartition("/")
        if (found := self._find(name, version)) is None:
            raise InputError(f"there is no pack version {ref!r} in {self.shown}: never stored, or pruned")
        return found

    def _find(self, name: str, version: str) -> Version | None:
        if self.reader:
            with suppress(Unreadable):
                return self.reader.version(name, version)
        try:
            return self.registry.get_model_version(name, version)
        except Exception as error:
            if error_code(error) in _MISSING:
                return None
            raise

    def by_alias(self, name: str, alias: str) -> Version | None:
        """The version of the registered model `name` that has `alias`."""
        if self.reader:
            with suppress(Unreadable):
                return self.reader.by_alias(name, alias)
        try:
            return self.registry.get_model_version_by_alias(name, alias)
        except Exception as error:
            code = error_code(error)
            if code in ("RESOURCE_DOES_NOT_EXIST", "NOT_FOUND", "INVALID_PARAMETER_VALUE"):
                return None
            if code == "PERMISSION_DENIED" and not self.has_model(name):
                return None  # a server with users says so of an alias of a model that is not there
            raise

    def versions(self, name: str) -> Sequence[Version]:
        """Every version of the registered model `name`, oldest first."""
        if self.reader:
            with suppress(Unreadable):
                return sorted(self.reader.versions(name), key=lambda v: int(v.version))
        return sorted(self.search(f"name = '{name}'"), key=lambda v: int(v.version))

    def set_aliases(self, alias: str, versions: Mapping[str, str]) -> None:
        """Points `alias` of each registered model at a version; in a database those that have it in one transaction."""
        if self._writes_rows:
            move_aliases(self.uri, alias, versions)
            return
        for name, version in versions.items():
            self.registry.set_registered_model_alias(name, alias, version)

    def search(self, query: str) -> list[ModelVersion]:
        """All versions that `query` (MLflow's filter language) names, oldest first.

        MLflow reads versions, then the tags of what the query names by then: a version that ceased to match in between
        comes without any, and the search is repeated.
        """
        found: list[ModelVersion] = []
        for _ in range(SEARCHES):
            found = self._search(query)
            if all(version.tags for version in found):
                break
        return by_age(found)

    def _search(self, query: str) -> list[ModelVersion]:
        found: list[ModelVersion] = []
        token = None
        while True:
            page = self.registry.search_model_versions(query, max_results=10_000, page_token=token)
            found.extend(page)
            token = page.token
            if not token:
                return found

    def mine(self) -> list[ModelVersion]:
        """All versions of this registry, oldest first."""
        return self.search(f"tags.`{OWN_TAGS}owner` = '{self.owner}'")

    # --- deletion -----------------------------------------------------------------------------------------------
    def delete(self, versions: Sequence[ModelVersion], remaining: Collection[ModelVersion]) -> None:
        """Delete `versions` for good: rows, files, and the runs that have no version among `remaining`.

        MLflow only hides a deleted version; where the store is a database its rows are deleted too. Through a server
        the tags go and a redacted row of each version stays.
        """
        if self.is_database:
            delete_rows(self.uri, [(v.name, int(v.version)) for v in versions])
        else:
            for version in versions:
                for key in version.tags:
                    self.registry.delete_model_version_tag(version.name, version.version, key)
                self.registry.delete_model_version(version.name, version.version)
        for version in versions:
            self._delete_folder(str(version.source))
        used = {version.run_id for version in remaining}
        for run_id in {version.run_id for version in versions} - used:
            self._delete_run(str(run_id))

    def _delete_folder(self, source: str) -> None:
        if path := local_path(source):
            shutil.rmtree(path, ignore_errors=True)
        else:
            from mlflow.store.artifact.artifact_repository_registry import get_artifact_repository

            get_artifact_repository(source, tracking_uri=self._reached).delete_artifacts()

    def _delete_run(self, run_id: str) -> None:
        root = local_path(str(self.client.get_run(run_id).info.artifact_uri))
        self.client.delete_run(run_id)
        if root:
            shutil.rmtree(root.parent, ignore_errors=True)
        if self.is_database:
            hard_delete_run(self.uri, run_id)


def by_age(versions: Iterable[ModelVersion]) -> list[ModelVersion]:
    """`versions`, oldest first."""
    return sorted(versions, key=lambda v: (v.creation_timestamp, int(v.version), v.name))


@lru_cache(maxsize=1024)
def _series_text(store: MlflowStore, source: str, expected: str, ref: str) -> str:
    found = store.read(source).get(SERIES_FILE)
    if found is None or files_sha256({SERIES_FILE: found}) != expected:
        raise IntegrityError(f"pack {ref}: its list of series is not what was stored: register it again")
    return found.decode()


# --- the process's clients ---
_CLIENTS: dict[str, Clients] = {}
_READERS: dict[tuple[str, str], VersionReader | None] = {}
_EXPERIMENTS: dict[tuple[str, str, str], str] = {}


@contextmanager
def locked(path: Path, seconds: float, what: str) -> Generator[None]:
    """Hold the file lock `path`, which ends with this process. Raises ConflictError after `seconds`."""
    from filelock import FileLock, Timeout

    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        lock = FileLock(path, timeout=seconds)
        lock.acquire()
    except Timeout as error:
        raise ConflictError(f"another process has been writing to {what} for {seconds:.0f} s") from error
    except (OSError, NotImplementedError) as error:  # NotImplementedError: a file system without locks
        raise UnavailableError(f"the lock file {path} cannot be used: {error}") from error
    try:
        yield
    finally:
        lock.release()


def fail_soon() -> None:
    """In this process, which serves: a server that does not answer is away after seconds.

    MLflow asks again for four minutes; what waits for it would hold up what needs no registry.
    """
    for name, value in _SOON.items():
        os.environ.setdefault(name, value)


def _is_of_sqlalchemy(error: Exception, *kinds: str) -> bool:
    """Whether it is one of SQLAlchemy's errors of these names; SQLAlchemy is not imported only to ask."""
    raised = sys.modules.get("sqlalchemy.exc")
    return raised is not None and isinstance(error, tuple(getattr(raised, kind) for kind in kinds))


def _held() -> None:
    """Do nothing: this lock cannot be lost."""
