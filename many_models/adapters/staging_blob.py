"""Files staged in Azure storage on their way into Synapse."""

from __future__ import annotations

import time
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from many_models.adapters.azure_identity import credential
from many_models.adapters.azure_storage import KEY, SAS
from many_models.errors import AccessError, MissingDependencyError, UnavailableError

if TYPE_CHECKING:
    from collections.abc import Generator
    from pathlib import Path

    from azure.storage.blob import BlobClient

    from many_models.adapters.azure_storage import AzureStorage

PATIENCE: dict[str, Any] = {"retry_total": 6, "initial_backoff": 1, "increment_base": 2}  # two minutes
THROTTLED, THROTTLED_SECONDS = 429, 120.0


class BlobStaging:
    """The folder that `storage` names, shown to COPY INTO by its https address."""

    def __init__(self, storage: AzureStorage) -> None:
        self._storage = storage
        parts = urlsplit(storage.url)
        self._container, self._folder = str(parts.username), parts.path.strip("/")
        self._account_url = storage.endpoint or f"https://{storage.account}.blob.core.windows.net"

    @contextmanager
    def holding(self, file: Path, name: str) -> Generator[str]:
        """The address of a copy of `file`, which is deleted afterwards. Raises AccessError, UnavailableError."""
        try:
            from azure.core.exceptions import AzureError, ClientAuthenticationError, HttpResponseError
            from azure.storage.blob import BlobClient
        except ImportError as error:
            raise MissingDependencyError("staging in Azure storage needs: pip install 'many_models[azure]'") from error
        path = f"{self._folder}/{name}" if self._folder else name
        where = f"{self._account_url}/{self._container}/{path}"
        blob = BlobClient(
            self._account_url, self._container, path, credential=sdk_credential(self._storage), **PATIENCE
        )
        try:
            with blob:
                _upload(blob, file)
                try:
                    yield where
                finally:
                    blob.delete_blob()
        except (ClientAuthenticationError, HttpResponseError) as error:
            refused = isinstance(error, ClientAuthenticationError) or error.status_code in {401, 403, 404}
            said = f"staging {where}: {getattr(error, 'error_code', None) or error.status_code}"
            advice = "; its identity needs Storage Blob Data Contributor, and the container has to be there"
            raise (AccessError(said + advice) if refused else UnavailableError(said)) from error
        except AzureError as error:
            raise UnavailableError(f"staging {where}: {type(error).__name__}") from error


def _upload(blob: BlobClient, file: Path) -> None:
    """Upload in the place of what is there; asked again while the store throttles, which its client does not do."""
    from azure.core.exceptions import HttpResponseError

    until = time.monotonic() + THROTTLED_SECONDS
    while True:
        try:
            with file.open("rb") as data:
                blob.upload_blob(data, overwrite=True, max_concurrency=2)
        except HttpResponseError as error:
            if error.status_code != THROTTLED or time.monotonic() > until:
                raise
            time.sleep(1)
        else:
            return


def sdk_credential(storage: AzureStorage) -> Any:
    """What azure-storage-blob takes as `credential`. Raises SettingsError when a secret is missing."""
    if storage.credential == "key":
        return {"account_name": storage.account, "account_key": storage.secret(KEY)}
    if storage.credential == "sas":
        return storage.secret(SAS).removeprefix("?")
    return credential(storage.credential, storage.client_id)
