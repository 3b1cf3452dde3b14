"""The lake as an Azure ML datastore: what is sent for it, with azure-ai-ml's own entities and a client that records."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
from azure.core.exceptions import ClientAuthenticationError, HttpResponseError, ServiceRequestError

from many_models.adapters.azure.datastore import LakeDatastore
from many_models.errors import AccessError, SettingsError, UnavailableError
from many_models.settings import DatastoreSettings, LakeSettings, Settings
from many_models.wiring import build_datastore

pytestmark = pytest.mark.slow
URL = "abfss://lake@account.dfs.core.windows.net/many models"


class Operations:
    """Keeps what it is given by name, as the service does."""

    def __init__(self, error: Exception | None = None) -> None:
        self.there = {}
        self._error = error

    def create_or_update(self, entity):
        if self._error:
            raise self._error
        self.there[entity.name] = entity._to_rest_object().properties
        return entity


def client(error: Exception | None = None) -> SimpleNamespace:
    return SimpleNamespace(datastores=Operations(error), data=Operations())


@pytest.mark.slow
def test_the_lake_is_a_datastore_without_credentials_and_each_table_a_data_asset():
    made = client()
    store = LakeDatastore(URL, "sales_lake", lambda: made)
    for _ in range(2):
        assert store.register(["predictions", "decisions"]) == ["sales_lake_decisions", "sales_lake_predictions"]
    (datastore,) = made.datastores.there.values()
    assert (datastore["accountName"], datastore["filesystem"]) == ("account", "lake")
    assert datastore["credentials"] == {"credentialsType": "None"}
    paths = {name: asset.data_uri for name, asset in made.data.there.items()}
    assert paths["sales_lake_predictions"] == "azureml://datastores/sales_lake/paths/many models/predictions/"


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
        LakeDatastore(URL, "many_models", lambda: client(raised)).register(["t"])


def test_a_lake_on_disk_cannot_be_registered():
    with pytest.raises(SettingsError, match="takes a lake on Azure"):
        LakeDatastore("/var/lake", "many_models", client).register(["t"])


def test_the_settings_name_the_workspace():
    with pytest.raises(SettingsError, match="needs subscription"):
        build_datastore(Settings())
    where = DatastoreSettings(subscription="s", resource_group="g", workspace="w", name="lake_of_ours")
    store = build_datastore(Settings(lake=LakeSettings(path=URL), datastore=where))
    assert (store.url, store.name) == (URL, "lake_of_ours")
    assert store.client().workspace_name == "w"
