"""Settings become adapters: the only module that knows which adapter a setting means. It loads no Dagster."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

from many_models.errors import SettingsError
from many_models.settings import Settings, secret, workspace_of

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from pyspark.sql import SparkSession

    from many_models import ports
    from many_models.adapters.azure.blob_folder import BlobFolder
    from many_models.adapters.azure.datastore import LakeDatastore
    from many_models.adapters.azure.storage import AzureStorage
    from many_models.adapters.compute.azureml import RemoteJob
    from many_models.adapters.compute.spark_data import Frames
    from many_models.adapters.registry.azureml_assets import ModelAssets
    from many_models.adapters.sql.connections import Login


def build_source(settings: Settings) -> ports.Source:
    """The source that the settings name."""
    source = settings.source
    if source.kind == "files":
        return _files(settings)
    url = settings.url(source.url)
    if url.startswith(("postgresql", "mssql", "mysql", "mariadb")):
        from many_models.adapters.source.server import ServerSource
        from many_models.adapters.sql.connections import login_of

        password = "MANY_MODELS_SOURCE_PASSWORD"  # noqa: S105  the secret's name
        login = login_of(url, source.credential, lambda: secret(password), source.client_id)
        return ServerSource(url, login=login, reader=source.reader)
    from many_models.adapters.source.sqlite import SqlSource

    return SqlSource(url)


def _files(settings: Settings) -> ports.Source:
    from many_models.adapters.source.files import FilesSource

    source, place = settings.source, settings.place(settings.source.url)
    if not place.startswith(("abfss://", "abfs://")):
        return FilesSource(place)
    from many_models.adapters.azure.storage import AzureStorage

    if source.credential == "password":
        raise SettingsError(
            "[source] credential is password; files in Azure storage take default or managed_identity, "
            "or the secrets of key and sas"
        )
    credential = "default" if source.credential == "url" else source.credential
    return FilesSource(place, AzureStorage(place, credential, secret, source.client_id, source.endpoint))


def build_ingestion(settings: Settings) -> ports.Ingestion:
    """What fills the source, where the settings name a pipeline that does."""
    from functools import partial

    from many_models.adapters.source.data_factory import DataFactory, NoIngestion, Pipeline, connect

    wanted = settings.data_factory
    if not wanted.pipeline:
        return NoIngestion()

    pipeline = Pipeline(wanted.subscription, wanted.resource_group, wanted.factory, wanted.pipeline, wanted.parameter)
    client = partial(connect, wanted.subscription, wanted.identity, wanted.client_id)
    return DataFactory(pipeline, client, wanted.poll, wanted.timeout)


def build_lake(settings: Settings) -> ports.Lake:
    """The lake that the settings name."""
    from many_models.adapters.lake.delta import DeltaLake

    place = settings.place(settings.lake.path)
    if not place.startswith(("abfss://", "abfs://")):
        return DeltaLake(place)
    from many_models.adapters.lake.delta_log import NewestInStorage

    storage = _storage(settings, place)
    return DeltaLake(place, storage, NewestInStorage(storage))


def _storage(settings: Settings, place: str) -> AzureStorage:
    """The blob storage at `place`, with the lake's login."""
    from many_models.adapters.azure.storage import AzureStorage

    lake = settings.lake
    return AzureStorage(place, lake.credential, secret, lake.client_id, lake.endpoint)


def build_compute(
    settings: Settings,
    follow: Callable[[RemoteJob], None],
    spark_session: Callable[[Mapping[str, str]], SparkSession],
) -> ports.Compute:
    """The compute that the settings name.

    `follow` sends an Azure ML job and waits for its end; `spark_session` makes a session of Spark's own settings. The
    caller decides whether Dagster's integrations do that.
    """
    if settings.compute.kind == "serial":
        from many_models.adapters.compute.serial import SerialCompute

        return SerialCompute()
    if settings.compute.kind == "spark":
        return _spark(settings, spark_session)
    if settings.compute.kind == "azureml":
        return _azureml(settings, follow)
    from many_models.adapters.compute.processes import ProcessCompute

    return ProcessCompute(settings.compute.workers, settings.compute.timeout)


def _spark(settings: Settings, build: Callable[[Mapping[str, str]], SparkSession]) -> ports.Compute:
    from functools import partial

    from many_models.adapters.compute.spark import SparkCompute
    from many_models.adapters.compute.spark_databricks import Databricks
    from many_models.adapters.compute.spark_session import connect

    compute = settings.compute

    def session() -> SparkSession:
        if compute.databricks_host:
            asked = partial(secret, "MANY_MODELS_DATABRICKS_CLIENT_SECRET")
            return Databricks(
                compute.databricks_host, compute.databricks_cluster, compute.databricks_client_id, asked
            ).connect()
        return connect(build, compute.spark_master, compute.spark_remote, compute.spark_config)

    return SparkCompute(session, compute.workers, compute.timeout, _frames(settings))


def _frames(settings: Settings) -> Frames | None:
    """Where Spark finds the lake's rows; None where the workers read them."""
    from many_models.adapters.compute.spark_data import FilesOfSnapshots, TablesOfCatalog
    from many_models.adapters.lake.delta import DeltaLake

    place = settings.compute.spark_lake
    if settings.compute.spark_data == "workers":
        return None
    if place and "/" not in place:
        return TablesOfCatalog(place)
    lake = build_lake(settings)
    assert isinstance(lake, DeltaLake)
    return FilesOfSnapshots(lake.snapshot, place)


def _azureml(settings: Settings, follow: Callable[[RemoteJob], None]) -> ports.Compute:
    from functools import partial

    from many_models.adapters.azure.machine_learning import connect
    from many_models.adapters.compute.azureml import AzureMLCompute, JobSettings
    from many_models.adapters.compute.exchange import BlobExchange

    wanted = settings.azureml
    place = wanted.exchange or f"{settings.place(settings.lake.path).rstrip('/')}/jobs"
    job = JobSettings(
        wanted.cluster,
        wanted.instance_type,
        wanted.instances,
        wanted.environment,
        wanted.image,
        tuple(settings.path(file) for file in wanted.files),
        wanted.node_client_id,
        wanted.experiment,
        settings.compute.workers,
    )
    client = partial(
        connect, wanted.subscription, wanted.resource_group, wanted.workspace, wanted.identity, wanted.client_id
    )
    exchange = BlobExchange(_storage(settings, place))
    return AzureMLCompute(client, exchange, job, settings.compute.timeout, follow, wanted.poll)


def build_staging(settings: Settings) -> ports.StagingRegistry:
    """The registry that training writes."""
    if settings.registry.kind == "azureml":
        from many_models.adapters.registry.azureml import AzureMLStaging

        folder, assets = _azureml_parts(settings, "staging")
        return AzureMLStaging(folder, assets, settings.registry.prefix)
    from many_models.adapters.registry.mlflow_production import MlflowStaging
    from many_models.adapters.sql.drivers import with_driver

    registry = settings.registry
    artifacts = registry.artifacts(registry.staging_artifacts, settings.root)
    return MlflowStaging(with_driver(settings.url(registry.staging)), artifacts, registry.prefix)


def build_production(settings: Settings, *, fail_soon: bool = False, light: bool = False) -> ports.ProductionRegistry:
    """The registry that serves. `light` reads it without MLflow where that can be done; a database file that is gone is
    an empty registry then, as it is with MLflow. `fail_soon` is for services: they read as with `light`, give up on the
    registry within seconds, not minutes, and where MLflow is needed it is one that loads no pyspark. For them a file
    that is gone is an error.
    """
    if settings.registry.kind == "azureml":
        from many_models.adapters.registry.azureml import AzureMLProduction

        folder, assets = _azureml_parts(settings, "production")
        return AzureMLProduction(folder, assets, settings.registry.prefix)
    from many_models.adapters.registry.mlflow_private import import_mlflow_without_pyspark
    from many_models.adapters.registry.mlflow_production import MlflowProduction
    from many_models.adapters.registry.mlflow_reader import sqlite_path
    from many_models.adapters.registry.mlflow_store import fail_soon as give_up_soon
    from many_models.adapters.sql.drivers import with_driver

    registry = settings.registry
    artifacts = registry.artifacts(registry.production_artifacts, settings.root)
    url = with_driver(settings.url(registry.production))
    file = sqlite_path(url)
    light = fail_soon or (light and (file is None or file.exists()))
    production = MlflowProduction(url, artifacts, registry.prefix, aliases=registry.aliases, light=light)
    if fail_soon:
        give_up_soon()
        if production.needs_mlflow:
            import_mlflow_without_pyspark()
    return production


def _azureml_parts(settings: Settings, role: Literal["staging", "production"]) -> tuple[BlobFolder, ModelAssets]:
    """The folder and the model assets of one of the two workspaces."""
    from functools import partial

    from many_models.adapters.azure.blob_folder import BlobFolder
    from many_models.adapters.azure.machine_learning import connect
    from many_models.adapters.registry.azureml_assets import ModelAssets

    registry = settings.registry
    workspace = workspace_of(registry.staging if role == "staging" else registry.production, f"registry.{role}")
    place = registry.staging_artifacts if role == "staging" else registry.production_artifacts
    client = partial(connect, *workspace, registry.identity, registry.client_id)
    return BlobFolder(_storage(settings, place)), ModelAssets(client, registry.datastore)


def build_warehouse(settings: Settings) -> ports.Warehouse:
    """The warehouse that the settings name."""
    from many_models.adapters.sql.connections import login_of
    from many_models.adapters.warehouse.sql import SqlWarehouse

    warehouse = settings.warehouse
    url = settings.url(warehouse.url)
    login = login_of(url, warehouse.credential, lambda: secret("MANY_MODELS_WAREHOUSE_PASSWORD"), warehouse.client_id)
    if warehouse.kind == "sql":
        return SqlWarehouse(url, schema=warehouse.tables_in, login=login)
    if warehouse.kind == "serverless":
        return _serverless(settings, url, login)
    from many_models.adapters.warehouse.staging_blob import BlobStaging, staging_beside

    staging = BlobStaging(_storage(settings, warehouse.staging or staging_beside(settings.lake.path)))
    if warehouse.kind == "fabric":
        from many_models.adapters.warehouse.fabric import FabricWarehouse

        return FabricWarehouse(url, staging, schema=warehouse.tables_in, login=login)
    from many_models.adapters.warehouse.synapse import SynapseDialect, SynapseWarehouse

    dialect = SynapseDialect(warehouse.distribution, warehouse.index)
    return SynapseWarehouse(url, staging, schema=warehouse.tables_in, login=login, dialect=dialect)


def _serverless(settings: Settings, url: str, login: Login) -> ports.Warehouse:
    from many_models.adapters.warehouse.serverless import ServerlessWarehouse
    from many_models.reporting.serverless_views import serverless_views

    lake, place = build_lake(settings), settings.place(settings.lake.path)
    return ServerlessWarehouse(url, lambda: serverless_views(place, settings.data.keys, lake), login=login)


def build_messenger(_: Settings) -> ports.Messenger:
    """What tells people. Raises SettingsError where the secret with their addresses is missing or one is wrong."""
    from many_models.adapters.messenger.apprise import AppriseMessenger

    return AppriseMessenger(secret("MANY_MODELS_ALERT_ADDRESSES"))


def build_telemetry(settings: Settings, service: str) -> ports.Telemetry | None:
    """What operators watch, where the settings name a collector; `service` is what tells."""
    if not settings.telemetry.endpoint:
        return None
    from many_models.adapters.telemetry.otlp import OtlpTelemetry

    return OtlpTelemetry(settings.telemetry.endpoint, service)


def build_datastore(settings: Settings) -> LakeDatastore:
    """The lake as Azure ML sees it. Raises SettingsError when the settings name no workspace."""
    from functools import partial

    from many_models.adapters.azure.datastore import LakeDatastore
    from many_models.adapters.azure.machine_learning import connect

    wanted = settings.datastore
    place = (wanted.subscription, wanted.resource_group, wanted.workspace)
    if not all(place):
        raise SettingsError("[datastore] needs subscription, resource_group and workspace")
    client = partial(connect, *place, wanted.identity, wanted.client_id)
    return LakeDatastore(settings.place(settings.lake.path), wanted.name, client)
