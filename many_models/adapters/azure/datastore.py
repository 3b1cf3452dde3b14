"""Azure ML's view of the lake: a datastore, and each table as a folder and as a tabular dataset (MLTable)."""

from __future__ import annotations

import json
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any
from urllib.parse import quote, urlsplit

from many_models.adapters.azure.machine_learning import azure_ml_error
from many_models.errors import SettingsError
from many_models.keys import escape_part

if TYPE_CHECKING:
    from collections.abc import Callable, Generator, Mapping

    from azure.ai.ml import MLClient

VERSION = "1"  # a data asset names a folder, whose Delta log has the versions


@dataclass(frozen=True, slots=True)
class LakeDatastore:
    """The lake at `url` (`abfss://…`) as the datastore `name`; its readers ask with their own identities."""

    url: str
    name: str
    client: Callable[[], MLClient]

    def register(self, tables: Mapping[str, int]) -> list[str]:
        """Make or bring up to date the datastore and two data assets for each table; returns the assets' names.

        `tables`: name → version of the lake. NAME_TABLE is the table's folder; NAME_TABLE_mltable is an MLTable, whose
        versions are the lake's: each reads the rows of its own as long as the lake keeps them
        (`retention.lake_hours`). The same again changes nothing. Raises SettingsError when the lake is not on Azure.
        """
        from azure.ai.ml.entities import AzureDataLakeGen2Datastore, Data

        account, container, folder = self._location()
        registered = list[str]()
        with self._errors():
            client: Any = self.client()
            store = AzureDataLakeGen2Datastore(
                name=self.name,
                account_name=account,
                filesystem=container,
                protocol="abfss",
                description="The lake of many_models: Delta tables.",
            )
            client.datastores.create_or_update(store)
            for table, version in sorted(tables.items()):
                name = f"{self.name}_{table}"
                path = "/".join(filter(None, (folder, quote(escape_part(table).replace("%", "+")))))
                place = f"azureml://datastores/{self.name}/paths/{path}/"
                asset = Data(
                    name=name,
                    version=VERSION,
                    type="uri_folder",
                    path=place,
                    description=f"Delta table {table} of many_models: read it with deltalake or Spark.",
                )
                client.data.create_or_update(asset)
                with TemporaryDirectory() as files:
                    (Path(files) / "MLTable").write_text(mltable(place, version))
                    tabular = Data(
                        name=f"{name}_mltable",
                        version=str(version),
                        type="mltable",
                        path=files,
                        description=f"Rows of {table} of many_models at version {version} of its Delta table.",
                    )
                    client.data.create_or_update(tabular)
                registered += [name, f"{name}_mltable"]
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


def mltable(place: str, version: int) -> str:
    """The MLTable file of a Delta table at `place`: JSON, which is YAML, too."""
    content = {
        "$schema": "https://azuremlschemas.azureedge.net/latest/MLTable.schema.json",
        "type": "mltable",
        "paths": [{"folder": place}],
        "transformations": [{"read_delta_lake": {"version_as_of": version}}],
    }
    return json.dumps(content, indent=2) + "\n"
