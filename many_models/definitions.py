"""The composition root: settings become adapters, adapters become resources, assets become Dagster's definitions."""

from __future__ import annotations

import warnings
from typing import TYPE_CHECKING

import dagster as dg

from many_models.errors import SettingsError
from many_models.orchestration import automation, upkeep
from many_models.orchestration.assets import (
    pooled_models,
    power_bi,
    predictions,
    promoted_models,
    raw_sales,
    store_item_datasets,
    trained_models,
    warehouse_predictions,
)
from many_models.settings import Settings, load_settings, secret

if TYPE_CHECKING:
    from collections.abc import Mapping

    from pyspark.sql import SparkSession

    from many_models import ports
    from many_models.adapters.azure.datastore import LakeDatastore
    from many_models.adapters.sql.connections import Login
    from many_models.orchestration.due import Stage
    from many_models.settings import ComputeSettings


def build(settings: Settings, resources: Mapping[str, object] | None = None) -> dg.Definitions:
    """Everything that Dagster shows for `settings`; `resources` replace adapters by name (tests, notebooks)."""
    assets, reports = build_assets(settings), power_bi.build(settings)
    return dg.Definitions(
        assets=[*assets.values(), *reports.assets],
        jobs=[*automation.jobs(), upkeep.job(settings), *reports.jobs],
        sensors=[*automation.sensors(settings, assets), *reports.sensors],
        schedules=[
            automation.schedule(settings, assets["raw_sales"]),
            *automation.covariates_schedules(settings, assets["raw_covariates"]),
            upkeep.schedule(settings),
        ],
        resources={**adapters(settings), **power_bi_workspace(settings), **(resources or {})},
        executor=dg.in_process_executor,
    )


def build_assets(settings: Settings) -> dict[Stage, dg.AssetsDefinition]:
    """The assets by stage."""
    warnings.filterwarnings("ignore", "Parameter `backfill_policy`", category=dg.BetaWarning)
    return {
        "raw_sales": raw_sales.build_raw_sales(settings),
        "raw_covariates": raw_sales.build_raw_covariates(settings),
        "store_item_datasets": store_item_datasets.build(settings),
        "pooled_models": pooled_models.build(settings),
        "trained_models": trained_models.build(settings),
        "promoted_models": promoted_models.build(settings),
        "predictions": predictions.build(settings),
        "warehouse_predictions": warehouse_predictions.build(settings),
    }


# --- Adapters -------------------------------------------------------------------------------------------------------
def build_source(settings: Settings) -> ports.Source:
    """The source that the settings name."""
    source = settings.source
    url = settings.url(source.url)
    if url.startswith(("postgresql", "mssql")):
        from many_models.adapters.source.server import ServerSource
        from many_models.adapters.sql.connections import login_of

        password = "MANY_MODELS_SOURCE_PASSWORD"  # noqa: S105  the secret's name
        login = login_of(url, source.credential, lambda: secret(password), source.client_id)
        return ServerSource(url, login=login, reader=source.reader)
    from many_models.adapters.source.sqlite import SqlSource

    return SqlSource(url)


def build_ingestion(settings: Settings) -> ports.Ingestion:
    """What fills the source, where the settings name a pipeline that does."""
    wanted = settings.data_factory
    if not wanted.pipeline:
        from many_models.adapters.source.ingestion_none import NoIngestion

        return NoIngestion()
    from functools import partial

    from many_models.adapters.source.data_factory import DataFactory, Pipeline, connect

    pipeline = Pipeline(wanted.subscription, wanted.resource_group, wanted.factory, wanted.pipeline, wanted.parameter)
    client = partial(connect, wanted.subscription, wanted.identity, wanted.client_id)
    return DataFactory(pipeline, client, wanted.poll, wanted.timeout)


def build_lake(settings: Settings) -> ports.Lake:
    """The lake that the settings name."""
    from many_models.adapters.lake.delta import DeltaLake

    lake = settings.lake
    place = settings.place(lake.path)
    if not place.startswith(("abfss://", "abfs://")):
        return DeltaLake(place)
    from many_models.adapters.azure.storage import AzureStorage

    return DeltaLake(place, AzureStorage(place, lake.credential, secret, lake.client_id, lake.endpoint))


def build_compute(settings: Settings) -> ports.Compute:
    """The compute that the settings name."""
    if settings.compute.kind == "serial":
        from many_models.adapters.compute.serial import SerialCompute

        return SerialCompute()
    if settings.compute.kind == "spark":
        return _spark(settings.compute)
    if settings.compute.kind == "azureml":
        return _azureml(settings)
    from many_models.adapters.compute.processes import ProcessCompute

    return ProcessCompute(settings.compute.workers, settings.compute.timeout)


def _spark(compute: ComputeSettings) -> ports.Compute:
    from dagster_pyspark.resources import spark_session_from_config

    from many_models.adapters.compute.spark import SparkCompute
    from many_models.adapters.compute.spark_session import connect

    def session() -> SparkSession:
        return connect(spark_session_from_config, compute.spark_master, compute.spark_remote, compute.spark_config)

    return SparkCompute(session, compute.workers, compute.timeout)


def _azureml(settings: Settings) -> ports.Compute:
    from functools import partial

    from many_models.adapters.azure.machine_learning import connect
    from many_models.adapters.azure.storage import AzureStorage
    from many_models.adapters.compute.azureml import AzureMLCompute, JobSettings
    from many_models.adapters.compute.exchange import BlobExchange
    from many_models.orchestration.azureml_pipes import follow_with_pipes

    wanted, lake = settings.azureml, settings.lake
    place = wanted.exchange or f"{settings.place(lake.path).rstrip('/')}/jobs"
    if not all((wanted.subscription, wanted.resource_group, wanted.workspace)):
        raise SettingsError("[azureml] needs subscription, resource_group and workspace")
    if not (wanted.cluster or wanted.instance_type) or bool(wanted.environment) == bool(wanted.image):
        raise SettingsError("[azureml] needs cluster or instance_type, and environment (NAME:VERSION) or image")
    if not lake.path.startswith(("abfss://", "abfs://")):
        raise SettingsError(
            f"Azure ML's nodes do not see this machine's folders: lake.path is {lake.path}, not abfss://"
        )
    job = JobSettings(
        wanted.cluster, wanted.instance_type, wanted.instances, wanted.environment, wanted.image,
        tuple(settings.path(file) for file in wanted.files), wanted.node_client_id, wanted.experiment,
        settings.compute.workers,
    )  # fmt: skip
    client = partial(
        connect, wanted.subscription, wanted.resource_group, wanted.workspace, wanted.identity, wanted.client_id
    )
    exchange = BlobExchange(AzureStorage(place, lake.credential, secret, lake.client_id, lake.endpoint))
    return AzureMLCompute(client, exchange, job, settings.compute.timeout, follow_with_pipes, wanted.poll)


def build_staging(settings: Settings) -> ports.StagingRegistry:
    """The registry that training writes."""
    from many_models.adapters.registry.mlflow_production import MlflowStaging

    registry = settings.registry
    artifacts = registry.artifacts(registry.staging_artifacts, settings.root)
    return MlflowStaging(settings.url(registry.staging), artifacts, registry.prefix)


def build_production(settings: Settings, *, fail_soon: bool = False) -> ports.ProductionRegistry:
    """The registry that serves; with `fail_soon` this process gives up on it within seconds, not minutes."""
    from many_models.adapters.registry.mlflow_production import MlflowProduction
    from many_models.adapters.registry.mlflow_store import fail_soon as give_up_soon

    if fail_soon:
        give_up_soon()
    registry = settings.registry
    artifacts = registry.artifacts(registry.production_artifacts, settings.root)
    return MlflowProduction(settings.url(registry.production), artifacts, registry.prefix, aliases=registry.aliases)


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
    from many_models.adapters.azure.storage import AzureStorage
    from many_models.adapters.warehouse.staging_blob import BlobStaging
    from many_models.adapters.warehouse.synapse import SynapseDialect, SynapseWarehouse

    lake = settings.lake
    place = warehouse.staging or f"{lake.path.rstrip('/')}/staging"
    staging = BlobStaging(AzureStorage(place, lake.credential, secret, lake.client_id, lake.endpoint))
    dialect = SynapseDialect(warehouse.distribution, warehouse.index)
    return SynapseWarehouse(url, staging, schema=warehouse.tables_in, login=login, dialect=dialect)


def _serverless(settings: Settings, url: str, login: Login) -> ports.Warehouse:
    from many_models.adapters.warehouse.serverless import ServerlessWarehouse
    from many_models.reporting.serverless_views import serverless_views

    lake, place = build_lake(settings), settings.place(settings.lake.path)
    return ServerlessWarehouse(url, lambda: serverless_views(place, settings.data.keys, lake), login=login)


def power_bi_workspace(settings: Settings) -> dict[str, dg.ResourceDefinition]:
    """dagster-powerbi's workspace with Entra ID's tokens, where the settings name one."""
    wanted = settings.power_bi
    if not wanted.workspace:
        return {}

    def connect(_: dg.InitResourceContext) -> object:
        from dagster_powerbi import PowerBIToken, PowerBIWorkspace

        from many_models.adapters.azure.identity import token

        scope = "https://analysis.windows.net/powerbi/api/.default"
        login = PowerBIToken(api_token=token(scope, wanted.identity, wanted.client_id))
        return PowerBIWorkspace(credentials=login, workspace_id=wanted.workspace, refresh_timeout=wanted.timeout)

    return {power_bi.RESOURCE: dg.ResourceDefinition(connect)}


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


BUILDERS = {
    "source": build_source,
    "ingestion": build_ingestion,
    "lake": build_lake,
    "compute": build_compute,
    "staging": build_staging,
    "production": build_production,
    "warehouse": build_warehouse,
}


def adapters(settings: Settings) -> dict[str, dg.ResourceDefinition]:
    """Each port's adapter as a resource, made when a run or a sensor needs it and not before."""
    return {name: dg.ResourceDefinition(lambda _, build=build: build(settings)) for name, build in BUILDERS.items()}


@dg.definitions
def defs() -> dg.Definitions:
    """What the code location loads: the settings file of the working directory, or the demo's."""
    return build(load_settings())
