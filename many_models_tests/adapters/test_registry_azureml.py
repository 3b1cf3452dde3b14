"""The registries on Azure ML: the contracts, with files in Azurite and assets in a workspace that refuses."""

from __future__ import annotations

import itertools
import json
from collections.abc import MutableMapping
from datetime import UTC, datetime
from functools import partial

import pytest

from many_models.adapters.azure.blob_folder import BlobFolder
from many_models.adapters.azure.storage import AzureStorage
from many_models.adapters.registry.azureml import INDEX, AzureMLProduction, AzureMLStaging
from many_models.adapters.registry.azureml_assets import ModelAssets, seconds_to_wait
from many_models.errors import AccessError, ConflictError, SettingsError, UnavailableError
from many_models.keys import digest
from many_models.settings import load_settings
from many_models.wiring import build_production, build_staging
from many_models_tests.contracts.production_registry import ProductionContract, draft
from many_models_tests.contracts.registry import NOW, StagingContract, served, upload
from many_models_tests.stand_ins.azureml_models import LAG_CALLS, Workspace

pytestmark = pytest.mark.slow
NUMBERS = itertools.count()


def clock():
    return NOW


class Blobs(MutableMapping):
    """The data files of a stored pack version."""

    def __init__(self, folder: BlobFolder, ref: str) -> None:
        self.folder, self.place = folder, f"packs/{ref}/data"

    def __getitem__(self, name):
        return self.folder.get(self.place)[name]

    def __setitem__(self, name, data):
        self.folder.put({f"{self.place}/{name}": data})

    def __delitem__(self, name):
        self.folder._container.delete_blob(self.folder.storage.path(f"{self.place}/{name}"))

    def __iter__(self):
        return iter(self.folder.get(self.place))

    def __len__(self):
        return len(self.folder.get(self.place))


@pytest.fixture
def parts(azurite):
    """Makes a new folder and workspace whenever it is called."""

    def new(**options) -> tuple[BlobFolder, Workspace, ModelAssets]:
        url = f"{azurite.container('azureml-registry')}/r{next(NUMBERS)}"
        folder = BlobFolder(AzureStorage(url, "key", lambda _: azurite.key, endpoint=azurite.endpoint))
        workspace = Workspace(folder, **options)
        return folder, workspace, ModelAssets(lambda: workspace, "registry")

    return new


class OnAzureML:
    @pytest.fixture
    def stored(self):
        return lambda registry, ref: Blobs(registry._packs.folder, ref)


class TestAzureMLStaging(OnAzureML, StagingContract):
    @pytest.fixture
    def logged(self):
        def found(staging, batch):
            told = json.loads(staging._packs.folder.get(f"batches/{digest(batch)}")["batch.json"])
            return told["title"], told["parameters"], told["metrics"]

        return found

    @pytest.fixture
    def make(self, parts):
        def made():
            folder, _, assets = parts(busy_every=7)
            return AzureMLStaging(folder, assets, clock=clock)

        return made

    @pytest.fixture
    def again(self):
        return lambda staging: AzureMLStaging(staging._packs.folder, staging._packs.assets, clock=clock)


class TestAzureMLProduction(OnAzureML, ProductionContract):
    @pytest.fixture
    def make(self, parts):
        def made():
            folder, _, assets = parts(busy_every=7)
            return AzureMLProduction(folder, assets, clock=clock)

        return made

    @pytest.fixture
    def again(self):
        return lambda production: AzureMLProduction(production._packs.folder, production._packs.assets, clock=clock)


# --- what people see in the workspace ---
def test_an_asset_has_its_metrics_as_tags_and_names_the_folder_of_its_files(parts):
    folder, workspace, assets = parts()
    long = "x" * 1000
    (version,) = AzureMLStaging(folder, assets).register(
        "night", [upload("store 1", {"s1": "x"}, wape="0.3", note=long)]
    )
    asset = workspace.kept[version.name, version.version]
    assert (asset.tags["wape"], asset.tags["pack"], asset.tags["batch"]) == ("0.3", "store 1", "night")
    assert asset.tags["note"] == long[:256]
    assert version.tags["note"] == long
    assert asset.properties == {"sha256": version.sha256}
    assert asset.stage == "Development"
    assert asset.path.endswith(f"/packs/{version.ref}")


def test_the_workspace_refuses_what_azure_ml_refuses(parts):
    """Negative controls of the stand-in: without them the contract would prove nothing."""
    from azure.ai.ml.entities import Model
    from azure.core.exceptions import HttpResponseError

    folder, workspace, _ = parts()
    folder.put({"packs/a/1/data/x": b"1"})
    path = f"azureml://datastores/registry/paths/{folder.storage.path('packs/a/1')}"
    model = partial(Model, name="a", version="1", type="custom_model", path=path)
    workspace.models.create_or_update(model())
    assert list(workspace.models.list()) == []  # a listing lags behind
    refused = [
        model(name="a/b"),
        model(type="mlflow_model", version="2"),
        model(path=f"{path}-none", version="3"),
        model(path="azureml://datastores/other/paths/x", version="4"),
        model(tags={"k": "x" * 257}, version="5"),
        model(properties={"sha256": "other"}),
    ]
    for wrong in refused:
        with pytest.raises(HttpResponseError):
            workspace.models.create_or_update(wrong)
    assert not hasattr(workspace.models, "delete")
    with pytest.raises(HttpResponseError, match="not found"):
        workspace.models.get("a", "9")


# --- faults ---
def test_a_switch_that_lost_its_lease_changes_nothing(parts):
    """Another writer that was faster is found by the ETag, whatever the lease says."""
    folder, _, assets = parts()
    production = AzureMLProduction(folder, assets, clock=clock)
    first = production.publish(draft(None, [upload("a", {"s1": "1"})]))

    def somebody_else(step: str) -> None:
        if step == "manifest_written":
            state, etag = folder.read_state(INDEX)
            folder.write_state(INDEX, {**state, "seen": True}, etag)

    slow = AzureMLProduction(folder, assets, clock=clock, failpoint=somebody_else)
    with pytest.raises(ConflictError, match="another writer was faster"):
        slow.publish(draft(first, [upload("a", {"s1": "2"})]))
    assert production.live() == first


@pytest.mark.parametrize("step", ["packs_registered", "packs_verified", "manifest_written"])
def test_a_publisher_that_dies_leaves_the_old_release_and_pruning_cleans_up(parts, step):
    folder, workspace, assets = parts()
    production = AzureMLProduction(folder, assets, clock=clock)
    first = production.publish(draft(None, [upload("a", {"s1": "1"})]))

    def dies(reached: str) -> None:
        if reached == step:
            raise OSError("killed")

    with pytest.raises(OSError, match="killed"):
        AzureMLProduction(folder, assets, clock=clock, failpoint=dies).publish(draft(first, [upload("a", {"s1": "2"})]))
    assert production.live() == first
    assert served(production, first) == {"s1": "1"}
    for archived in (0, 1, 1):  # a moment ago it is not found yet
        production.prune(1)
        assert len(workspace.archived) == archived
        for _ in range(LAG_CALLS):
            assets.check()
    assert folder.read_state(INDEX)[0]["unarchived"] == []
    second = production.publish(draft(first, [upload("a", {"s1": "3"})]))
    assert served(production, second) == {"s1": "3"}
    assert {ref.rpartition("/")[2] for ref in {c.ref for c in second.champions.values()}} == {"3"}


def test_a_writer_waits_for_another_one_and_then_says_so(parts, monkeypatch):
    folder, _, assets = parts()
    monkeypatch.setattr("many_models.adapters.registry.azureml.LOCK_SECONDS", 0.2)
    with (
        folder.lease("lock", 1, "testing"),
        pytest.raises(
            ConflictError, match=r"another machine has been publishing a release all the time.* one that died"
        ),
    ):
        AzureMLProduction(folder, assets).publish(draft(None, [upload("a", {"s1": "1"})]))


@pytest.mark.parametrize(
    ("refused", "error", "remedy"),
    [
        ({"role": ""}, AccessError, "needs the role AzureML Data Scientist"),
        ({"most": 1}, UnavailableError, "a quota is used up: .*ask for more"),
    ],
)
def test_a_publisher_that_is_refused_promotes_nothing(parts, refused, error, remedy):
    """The live release and its packs stay, no proposal waits, and the next publisher goes on."""
    folder, workspace, assets = parts()
    production = AzureMLProduction(folder, assets, clock=clock)
    first = production.publish(draft(None, [upload("a", {"s1": "1"})]))
    before = {name: getattr(workspace, name) for name in refused}
    vars(workspace).update(refused)
    for write in (production.publish, production.propose):
        with pytest.raises(error, match=remedy):
            write(draft(first, [upload("a", {"s1": "2"})]))
    assert (production.live(), production.waiting(), len(workspace.kept)) == (first, None, 1)
    assert served(production, first) == {"s1": "1"}
    vars(workspace).update(before)
    assert served(production, production.publish(draft(first, [upload("a", {"s1": "3"})]))) == {"s1": "3"}


def test_the_lease_of_a_writer_that_died_ends_and_the_next_one_goes_on(parts):
    """It waits for the end of a lease that is not renewed; here that takes one second instead of sixty."""
    folder, _, assets = parts()
    production = AzureMLProduction(folder, assets, clock=clock)
    first = production.publish(draft(None, [upload("a", {"s1": "1"})]))
    dead = folder._acquire("lock", 0.0, "dying")
    dead.break_lease(lease_break_period=1)
    second = production.publish(draft(first, [upload("a", {"s1": "2"})]))
    assert served(production, second) == {"s1": "2"}


def test_an_asset_that_was_never_registered_is_asked_for_twice_and_forgotten(parts):
    folder, workspace, assets = parts()
    staging = AzureMLStaging(folder, assets, clock=clock)
    staging.register("night", [upload("a", {"s1": "1"})])
    state, etag = folder.read_state(INDEX)
    folder.write_state(INDEX, {**state, "pending": ["many_models-a/7"]}, etag)
    before = workspace.calls
    for calls in (1, 2, 2):
        staging.prune(1)
        assert workspace.calls - before == calls


@pytest.mark.parametrize("headers", [{"x-ms-retry-after-ms": "900"}, {"Retry-After": "0.9"}])
def test_a_throttled_caller_waits_as_long_as_it_is_told(parts, headers):
    """Who asks again sooner is refused again by the service, and prolongs it for everybody."""
    folder, workspace, assets = parts(busy_every=2, busy_seconds=0.9, wait=headers)
    AzureMLStaging(folder, assets).register("night", [upload(name, {name: "x"}) for name in "abc"])
    assert (len(workspace.kept), workspace.impatient) == (3, 0)


@pytest.mark.parametrize(
    ("headers", "seconds"),
    [
        ({"Retry-After": "7"}, 7.0),
        ({"Retry-After": "Sun, 29 Nov 2026 12:00:30 GMT"}, 30.0),
        ({"Retry-After": "Sun, 29 Nov 2026 11:00:00 GMT"}, 0.0),
        ({"x-ms-retry-after-ms": "1500"}, 1.5),
        ({"Retry-After": "soon", "retry-after-ms": "20"}, 0.02),
        ({}, 0.0),
    ],
)
def test_the_time_to_wait_is_read_in_every_form(headers, seconds):
    assert seconds_to_wait(headers, datetime(2026, 11, 29, 12, tzinfo=UTC)) == pytest.approx(seconds)


def test_a_login_without_the_role_is_told_which_one(parts):
    folder, _, assets = parts(role="")
    with pytest.raises(AccessError, match="needs the role AzureML Data Scientist"):
        AzureMLStaging(folder, assets).register("night", [upload("a", {"s1": "x"})])


def test_a_datastore_that_is_not_there_is_named(parts):
    folder, workspace, _ = parts()
    with pytest.raises(SettingsError, match="Could not find datastore: other"):
        AzureMLStaging(folder, ModelAssets(lambda: workspace, "other")).check()


# --- settings ---
ID = "/subscriptions/s/resourceGroups/g/providers/Microsoft.MachineLearningServices/workspaces/{}"
SETTINGS = f"""
[registry]
kind = "azureml"
staging = "{ID.format("one")}"
staging_artifacts = "abfss://staging@account.dfs.core.windows.net/registry"
production = "{ID.format("two")}"
production_artifacts = "abfss://production@account.dfs.core.windows.net/registry"
"""


def test_the_settings_make_both_registries(tmp_path):
    (tmp_path / "many_models.toml").write_text(SETTINGS)
    settings = load_settings(tmp_path / "many_models.toml")
    staging, production = build_staging(settings), build_production(settings)
    assert isinstance(staging, AzureMLStaging)
    assert isinstance(production, AzureMLProduction)
    assert staging._packs.folder.storage.container == "staging"
    assert production._packs.folder.storage.container == "production"


@pytest.mark.parametrize(
    ("right", "wrong", "told"),
    [
        (ID.format("one"), "azureml://westeurope.api.azureml.ms/mlflow", "registry.staging is 'azureml.*resource id"),
        ("abfss://production", "/var/production", "registry.production_artifacts is .*a folder in Azure storage"),
    ],
)
def test_a_registry_that_is_half_of_azure_is_refused(tmp_path, right, wrong, told):
    (tmp_path / "many_models.toml").write_text(SETTINGS.replace(right, wrong))
    with pytest.raises(SettingsError, match=told):
        load_settings(tmp_path / "many_models.toml")


@pytest.mark.parametrize("name", ["staging", "production"])
@pytest.mark.parametrize("address", [f"azureml://westeurope.api.azureml.ms/mlflow/v1.0{ID.format('one')}",
                                     f"https://westeurope.api.azureml.ms/mlflow/v1.0{ID.format('one')}"])  # fmt: skip
def test_azure_mls_mlflow_is_no_registry(tmp_path, name, address):
    """Refused when the settings are read: it has neither aliases nor search by tag, and it renames nothing."""
    (tmp_path / "many_models.toml").write_text(f'[registry]\n{name} = "{address}"\n')
    with pytest.raises(SettingsError, match=f'registry.{name} is .*no aliases.*registry.kind = "azureml"'):
        load_settings(tmp_path / "many_models.toml")
