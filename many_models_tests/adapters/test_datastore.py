"""The lake as an Azure ML datastore: what is sent for it, with azure-ai-ml's own entities and a client that records."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace

import pytest
import yaml
from azure.core.exceptions import ClientAuthenticationError, HttpResponseError, ServiceRequestError

from many_models.adapters.azure.datastore import LakeDatastore
from many_models.errors import AccessError, SettingsError, UnavailableError
from many_models.settings import DatastoreSettings, LakeSettings, Settings
from many_models.wiring import build_datastore

pytestmark = pytest.mark.slow
URL = "abfss://lake@account.dfs.core.windows.net/many models"


class Operations:
    """Keeps what it is given by name, as the service does, and of an MLTable the file that is uploaded."""

    def __init__(self, error: Exception | None = None) -> None:
        self.there, self.files = {}, {}
        self._error = error

    def create_or_update(self, entity):
        if self._error:
            raise self._error
        self.there[entity.name] = entity._to_rest_object().properties
        if getattr(entity, "type", "") == "mltable":
            self.files[entity.name, entity.version] = yaml.safe_load((Path(entity.path) / "MLTable").read_text())
        return entity


def client(error: Exception | None = None) -> SimpleNamespace:
    return SimpleNamespace(datastores=Operations(error), data=Operations())


@pytest.mark.slow
def test_the_lake_is_a_datastore_without_credentials_and_each_table_a_data_asset():
    made = client()
    store = LakeDatastore(URL, "sales_lake", lambda: made)
    for _ in range(2):
        assert store.register({"predictions": 3, "decisions": 0}) == [
            "sales_lake_decisions",
            "sales_lake_decisions_mltable",
            "sales_lake_predictions",
            "sales_lake_predictions_mltable",
        ]
    (datastore,) = made.datastores.there.values()
    assert (datastore["accountName"], datastore["filesystem"]) == ("account", "lake")
    assert datastore["credentials"] == {"credentialsType": "None"}
    paths = {name: asset.data_uri for name, asset in made.data.there.items()}
    place = "azureml://datastores/sales_lake/paths/many models/predictions/"
    assert paths["sales_lake_predictions"] == place
    assert {name: asset.data_type for name, asset in made.data.there.items()} == {
        name: "mltable" if name.endswith("_mltable") else "uri_folder" for name in made.data.there
    }
    assert set(made.data.files) == {("sales_lake_predictions_mltable", "3"), ("sales_lake_decisions_mltable", "0")}
    table = made.data.files["sales_lake_predictions_mltable", "3"]
    assert table["paths"] == [{"folder": place}]
    assert table["transformations"] == [{"read_delta_lake": {"version_as_of": 3}}]


@pytest.mark.parametrize(
    ("raised", "error"),
    [
        (ClientAuthenticationError("no login"), AccessError),
        (HttpResponseError("busy"), UnavailableError),
        (ServiceRequestError("away"), UnavailableError),
    ],
)
def test_what_the_workspace_answers_becomes_an_error_of_ours(raised, error):
    with pytest.raises(error, match="datastore 'many_models'"):
        LakeDatastore(URL, "many_models", lambda: client(raised)).register({"t": 0})


def test_a_lake_on_disk_cannot_be_registered():
    with pytest.raises(SettingsError, match="takes a lake on Azure"):
        LakeDatastore("/var/lake", "many_models", client).register({"t": 0})


def test_the_settings_name_the_workspace():
    with pytest.raises(SettingsError, match="needs subscription"):
        build_datastore(Settings())
    where = DatastoreSettings(subscription="s", resource_group="g", workspace="w", name="lake_of_ours")
    store = build_datastore(Settings(lake=LakeSettings(path=URL), datastore=where))
    assert (store.url, store.name) == (URL, "lake_of_ours")
    assert store.client().workspace_name == "w"
