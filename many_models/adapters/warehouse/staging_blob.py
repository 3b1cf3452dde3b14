"""Files staged in Azure storage on their way into Synapse."""

from __future__ import annotations

from contextlib import contextmanager
from typing import TYPE_CHECKING

from many_models.adapters.azure.storage import BLOB_PATIENCE, ONELAKE, blob_errors, delete, while_busy

if TYPE_CHECKING:
    from collections.abc import Generator
    from pathlib import Path

    from many_models.adapters.azure.storage import AzureStorage


def staging_beside(lake: str) -> str:
    """Where files are staged when nothing says so: in the lake, but in OneLake under Files, where no tables are."""
    place = lake.rstrip("/")
    item, tables, _ = place.partition("/Tables")
    return f"{item}/Files/many_models_staging" if tables and ONELAKE in place else f"{place}/staging"


class BlobStaging:
    """The folder that `storage` names, shown to COPY INTO by its Data Lake address.

    From a blob address COPY takes no Parquet with a managed identity; the upload itself goes to the blob service.
    """

    def __init__(self, storage: AzureStorage) -> None:
        self._storage = storage

    @contextmanager
    def holding(self, file: Path, name: str) -> Generator[str]:
        """The address of a copy of `file`, which is deleted afterwards. Raises AccessError, UnavailableError."""
        storage = self._storage
        path = storage.path(name)
        where = f"{storage.blob_address}/{storage.container}/{path}"
        with blob_errors(f"staging {where}"):
            from azure.storage.blob import BlobClient

            blob = BlobClient(
                storage.blob_address, storage.container, path, credential=storage.blob_credential(), **BLOB_PATIENCE
            )

            def upload() -> None:
                with file.open("rb") as data:
                    blob.upload_blob(data, overwrite=True, max_concurrency=2)

            with blob:
                while_busy(upload)
                try:
                    yield f"{storage.dfs_address}/{storage.container}/{path}"
                finally:
                    delete(blob.delete_blob)
