"""Azure ML's view of the lake: the container as a datastore, each table as a data asset that notebooks find."""

from __future__ import annotations

from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any
from urllib.parse import quote, urlsplit

from many_models.adapters.azure.machine_learning import azure_ml_error
from many_models.errors import SettingsError
from many_models.keys import escape_part

if TYPE_CHECKING:
    from collections.abc import Callable, Generator, Iterable

    from azure.ai.ml import MLClient

VERSION = "1"  # a data asset names a folder, whose Delta log has the versions


@dataclass(frozen=True, slots=True)
class LakeDatastore:
    """The lake at `url` (`abfss://…`) as the datastore `name`; its readers ask with identities of their own."""

    url: str
    name: str
    client: Callable[[], MLClient]

    def register(self, tables: Iterable[str]) -> list[str]:
        """Make or bring up to date the datastore and a data asset for each table; returns the assets' names.

        The same again changes nothing. Raises SettingsError when the lake is not on Azure.
        """
        from azure.ai.ml.entities import AzureDataLakeGen2Datastore, Data

        account, container, folder = self._location()
        registered = list[str]()
        with self._errors():
            client: Any = self.client()
            store = AzureDataLakeGen2Datastore(
                name=self.name, account_name=account, filesystem=container, protocol="abfss",
                description="The lake of many_models: Delta tables.",
            )  # fmt: skip
            client.datastores.create_or_update(store)
            for table in sorted(tables):
                name = f"{self.name}_{table}"
                path = "/".join(filter(None, (folder, quote(escape_part(table).replace("%", "+")))))
                asset = Data(
                    name=name,
                    version=VERSION,
                    type="uri_folder",
                    path=f"azureml://datastores/{self.name}/paths/{path}/",
                    description=f"Delta table {table} of many_models: read it with deltalake or Spark.",
                )
                client.data.create_or_update(asset)
                registered.append(name)
        return registered

    def _location(self) -> tuple[str, str, str]:
        parts = urlsplit(self.url)
        if parts.scheme not in {"abfss", "abfs"} or not parts.username or not parts.hostname:
            raise SettingsError(f"[datastore] takes a lake on Azure (abfss://…), but [lake] path is {self.url}")
        return parts.hostname.partition(".")[0], parts.username, parts.path.strip("/")

    @contextmanager
    def _errors(self) -> Generator[None]:
        from azure.core.exceptions import AzureError

        try:
            yield
        except AzureError as error:
            raise azure_ml_error(error, f"Azure ML, datastore {self.name!r}", "datastore") from error
