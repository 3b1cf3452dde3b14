"""The model assets of an Azure ML workspace, as far as a registry uses them, with the refusals that the service has.

Rules (Azure Machine Learning: "Work with registered models", "Manage models registry", and azure-ai-ml's
ModelOperations): a version is immutable but for description, tags and stage; nothing is renamed or deleted, only
archived; there is no search by tag; what came a moment ago is neither listed nor found; the datastore and the path have
to be there; an MLflow model has an MLmodel file at its top; calls are throttled with 429 and with the time to wait, as
Retry-After or as x-ms-retry-after-ms.
"""

from __future__ import annotations

import re
import threading
import time
from dataclasses import dataclass, field
from types import SimpleNamespace
from typing import TYPE_CHECKING, NoReturn

from azure.core.exceptions import HttpResponseError, ResourceNotFoundError
from azure.core.utils import CaseInsensitiveDict

if TYPE_CHECKING:
    from collections.abc import Iterator

    from azure.ai.ml.entities import Model

    from many_models.adapters.azure.blob_folder import BlobFolder

NAME = re.compile(r"[a-zA-Z0-9][a-zA-Z0-9\-_.]{0,254}")
PATH = re.compile(r"azureml://datastores/([\w-]+)/paths/(.+)")
LAG_CALLS = 3  # what came in the last few calls is neither listed nor found
TAG_VALUE = 256


def refuse(status: int, code: str, text: str, headers: dict[str, str] | None = None) -> NoReturn:
    """Raise the service's answer."""
    raise refusal(status, code, text, headers)


def refusal(status: int, code: str, text: str, headers: dict[str, str] | None = None) -> HttpResponseError:
    """The service's answer as azure-ai-ml raises it."""
    kind = ResourceNotFoundError if status == 404 else HttpResponseError
    told = CaseInsensitiveDict(headers or {})
    answer = SimpleNamespace(status_code=status, reason=code, headers=told, text=lambda *_: text)
    error = kind(message=f"({code}) {text}", response=answer)
    error.status_code = status
    return error


@dataclass
class Workspace:
    """A workspace with one datastore, `name`, whose container is `files`.

    `busy_every`: every so many calls are throttled; who asks again within `busy_seconds` is refused again, and counted
    in `impatient`. `wait`: the header that says how long, `busy_seconds` unless it is given. `seconds`: what a call
    takes. `role`: "" for a reader. `most`: the quota of assets.
    """

    files: BlobFolder
    name: str = "registry"
    busy_every: int = 0
    busy_seconds: float = 0.0
    wait: dict[str, str] = field(default_factory=dict)
    impatient: int = 0
    seconds: float = 0.0
    role: str = "AzureML Data Scientist"
    most: int = 10_000_000
    calls: int = 0
    kept: dict[tuple[str, str], Model] = field(default_factory=dict)
    seen_at: dict[tuple[str, str], int] = field(default_factory=dict)
    archived: set[tuple[str, str]] = field(default_factory=set)
    lock: threading.Lock = field(default_factory=threading.Lock)
    told: dict[int, float] = field(default_factory=dict)

    @property
    def models(self) -> Models:
        return Models(self)

    @property
    def datastores(self) -> SimpleNamespace:
        return SimpleNamespace(get=self._datastore)

    def _datastore(self, name: str) -> SimpleNamespace:
        self.called()
        if name != self.name:
            refuse(404, "UserError", f"Could not find datastore: {name}")
        return SimpleNamespace(name=name, container_name=self.files.storage.container)

    def called(self, *, writes: bool = False) -> None:
        """Count a call; throttle it or refuse it where it is due."""
        time.sleep(self.seconds)
        with self.lock:
            self.calls += 1
            now, who = time.monotonic(), threading.get_ident()
            impatient = now < self.told.get(who, now)
            self.impatient += impatient
            throttled = impatient or (self.busy_every and self.calls % self.busy_every == 0)
            if throttled:
                self.told[who] = now + self.busy_seconds
        if throttled:
            wait = self.wait or {"Retry-After": f"{self.busy_seconds:.0f}"}
            refuse(429, "TooManyRequests", "Received too many requests in a short amount of time.", wait)
        if writes and not self.role:
            refuse(403, "AuthorizationFailed", "The client does not have authorization to perform action.")


@dataclass
class Models:
    """`MLClient.models`. What the service does not have is not here: delete, rename, search."""

    workspace: Workspace

    def create_or_update(self, model: Model) -> Model:
        workspace = self.workspace
        workspace.called(writes=True)
        for what in (model.name, model.version):
            if not what or not NAME.fullmatch(str(what)):
                refuse(400, "UserError", f"The name or version {what!r} does not match {NAME.pattern}")
        if any(len(str(value)) > TAG_VALUE for value in (model.tags or {}).values()):
            refuse(400, "UserError", f"A tag's value has more than {TAG_VALUE} characters")
        self._require_files(model)
        key = (str(model.name), str(model.version))
        with workspace.lock:
            there = workspace.kept.get(key)
            if there is not None and (there.path, there.type, there.properties) != (
                model.path,
                model.type,
                model.properties,
            ):
                refuse(409, "UserError", f"A model {key[0]}:{key[1]} exists with other content: versions are immutable")
            if there is None and len(workspace.kept) >= workspace.most:
                refuse(400, "UserError", f"The workspace's asset quota of {workspace.most} models is reached")
            workspace.kept[key] = model
            workspace.seen_at.setdefault(key, workspace.calls)
        return model

    def _require_files(self, model: Model) -> None:
        found = PATH.fullmatch(str(model.path))
        if found is None:
            refuse(400, "UserError", f"The path {model.path} is not a path of a datastore")
        if found[1] != self.workspace.name:
            refuse(404, "UserError", f"Could not find datastore: {found[1]}")
        start = self.workspace.files.storage.path("")
        files = self.workspace.files.get(found[2].removeprefix(start))
        if not files:
            refuse(400, "UserError", f"The path {found[2]} does not exist in the datastore")
        if model.type == "mlflow_model" and "MLmodel" not in files:
            refuse(400, "UserError", "MLmodel file is missing: an MLflow model needs one at the top of its folder")

    def get(self, name: str, version: str) -> Model:
        self.workspace.called()
        self._require(name, version)
        return self.workspace.kept[name, version]

    def _require(self, name: str, version: str) -> None:
        if (name, version) not in self.workspace.kept or self._late((name, version)):
            refuse(404, "UserError", f"Model {name}:{version} was not found")

    def _late(self, key: tuple[str, str]) -> bool:
        return self.workspace.calls - self.workspace.seen_at[key] <= LAG_CALLS

    def list(self, name: str | None = None) -> Iterator[Model]:
        """Without those of the last calls, without archived ones, and without tags: models.list() gives none."""
        from azure.ai.ml.entities import Model

        self.workspace.called()
        for key, model in list(self.workspace.kept.items()):
            if not self._late(key) and key not in self.workspace.archived and name in {None, key[0]}:
                yield Model(name=key[0], version=key[1], path=model.path, type=model.type)

    def archive(self, name: str, version: str) -> None:
        self.workspace.called(writes=True)
        self._require(name, version)
        self.workspace.archived.add((name, version))
