"""Model assets of an Azure ML workspace: what azure-ai-ml can do with them, many at a time.

Azure ML has no aliases, no search by tag, no rename and no deletion of a version: a version is immutable but for its
tags, and can be archived. So the registry keeps its own index beside the files, and the assets are what people, jobs
and endpoints see: each version has its metrics as tags and names the folder of its files.
"""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from typing import TYPE_CHECKING, Any

from many_models.adapters.azure.machine_learning import azure_ml_error
from many_models.system import doubling, retry

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

THREADS = 16
BUSY, BUSY_SECONDS, BUSY_PAUSE_SECONDS = {429, 500, 502, 503, 504}, 180.0, 10.0
TAG_VALUE = 256  # characters; what is longer is cut in the asset, and whole in the index


@dataclass(frozen=True, slots=True)
class ModelAsset:
    """One version about to be registered; `folder` is the path of its files in the datastore."""

    name: str
    version: str
    folder: str
    tags: Mapping[str, str]
    properties: Mapping[str, str]
    mlflow: bool
    stage: str


class ModelAssets:
    """The models of the workspace that `connect` reaches, whose files are in `datastore`."""

    def __init__(self, connect: Callable[[], Any], datastore: str) -> None:
        self._connect, self._datastore = connect, datastore
        self._client: Any = None

    def create(self, assets: Sequence[ModelAsset]) -> None:
        """Register each version. One that is there with the same files stays as it is."""
        self._each("registering models", [lambda asset=asset: self._create(asset) for asset in assets])

    def archive(self, versions: Sequence[tuple[str, str]]) -> set[tuple[str, str]]:
        """Archive each (name, version): the nearest to a deletion. Return those that Azure ML does not find: they were
        never registered, or a moment ago.
        """
        found = self._each("archiving models", [lambda one=one: self._archive(*one) for one in versions])
        return {one for one, archived in zip(versions, found, strict=True) if not archived}

    def check(self) -> str:
        """The datastore, as the workspace knows it. Raises what `azure_ml_error` makes of a refusal."""
        found = self._each("looking at the datastore", [lambda: self._reached().datastores.get(self._datastore)])[0]
        return f"datastore {found.name}"

    def _create(self, asset: ModelAsset) -> None:
        from azure.ai.ml.constants import AssetTypes
        from azure.ai.ml.entities import Model

        model = Model(
            name=asset.name,
            version=asset.version,
            type=AssetTypes.MLFLOW_MODEL if asset.mlflow else AssetTypes.CUSTOM_MODEL,
            path=f"azureml://datastores/{self._datastore}/paths/{asset.folder}",
            tags={key: value[:TAG_VALUE] for key, value in asset.tags.items()},
            properties=dict(asset.properties),
            stage=asset.stage,
        )
        self._reached().models.create_or_update(model)

    def _archive(self, name: str, version: str) -> bool:
        from azure.core.exceptions import ResourceNotFoundError

        try:
            self._reached().models.archive(name=name, version=version)
        except ResourceNotFoundError:
            return False
        return True

    def _reached(self) -> Any:
        if self._client is None:
            self._client = self._connect()
        return self._client

    def _each(self, what: str, works: Sequence[Callable[[], Any]]) -> list[Any]:
        try:
            self._reached()
            if len(works) == 1:
                return [_while_busy(works[0])]
            with ThreadPoolExecutor(THREADS, thread_name_prefix="azureml") as threads:
                return list(threads.map(_while_busy, works))
        except Exception as error:
            raise azure_ml_error(error, what, "registry") from error


def seconds_to_wait(headers: Mapping[str, str], now: datetime | None = None) -> float:
    """Seconds that a throttled caller is told to wait: `Retry-After` in seconds or as a date, or Azure's milliseconds.

    0.0 where no header can be read. `now` is the moment against which a date counts.
    """
    for name, unit in (("Retry-After", 1.0), ("retry-after-ms", 0.001), ("x-ms-retry-after-ms", 0.001)):
        told = str(headers.get(name, "")).strip()
        with suppress(ValueError):
            return max(0.0, float(told) * unit)
        with suppress(ValueError):
            return max(0.0, (parsedate_to_datetime(told) - (now or datetime.now(UTC))).total_seconds())
    return 0.0


def _while_busy(work: Callable[[], Any]) -> Any:
    """What `work` returns; it is called again for three minutes while the service throttles or fails."""
    from azure.core.exceptions import HttpResponseError

    def again(error: Exception) -> float | None:
        if not isinstance(error, HttpResponseError) or error.status_code not in BUSY:
            return None
        return seconds_to_wait(getattr(error.response, "headers", None) or {})

    return retry(work, again, doubling(0.5, BUSY_PAUSE_SECONDS, BUSY_SECONDS))
