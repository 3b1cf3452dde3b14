"""The composition root: adapters become resources, assets become Dagster's definitions."""

from __future__ import annotations

import warnings
from typing import TYPE_CHECKING, cast

import dagster as dg

from many_models import wiring
from many_models.orchestration import alerts, automation, telemetry, upkeep
from many_models.orchestration.assets import (
    coherent_predictions,
    drift,
    final_predictions,
    pooled_models,
    power_bi,
    predictions,
    promoted_models,
    raw_covariates,
    raw_sales,
    stock_recommendations,
    store_item_datasets,
    trained_models,
    warehouse_predictions,
)
from many_models.orchestration.outside import Outside
from many_models.orchestration.stage_state import decisions_asked
from many_models.settings import Settings, load_settings

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from pyspark.sql import SparkSession

    from many_models import ports
    from many_models.adapters.compute.azureml import RemoteJob
    from many_models.orchestration.due import Stage


def build(settings: Settings, resources: Mapping[str, object] | None = None) -> dg.Definitions:
    """Everything that Dagster shows for `settings`; `resources` replace adapters by name (tests, notebooks)."""
    assets, reports = build_assets(settings), power_bi.build(settings)
    shared = automation.shared_look(settings, outside(settings, resources or {}))
    return dg.Definitions(
        assets=[*assets.values(), *reports.assets],
        jobs=[*automation.jobs(assets), upkeep.job(settings), *reports.jobs],
        sensors=[
            *automation.sensors(settings, assets, shared),
            *alerts.sensors(settings, assets, shared),
            *telemetry.sensors(settings),
            *reports.sensors,
        ],
        schedules=[
            automation.schedule(settings, assets["raw_sales"]),
            *automation.covariates_schedules(settings, assets["raw_covariates"]),
            upkeep.schedule(settings),
        ],
        resources={**adapters(settings), **power_bi_workspace(settings), **telling(settings), **(resources or {})},
        executor=dg.in_process_executor,
    )


def outside(settings: Settings, resources: Mapping[str, object]) -> Outside:
    """What the sensors ask besides Dagster's records and the lake. Production is read without MLflow where it can be:
    the code server keeps what it imports.
    """

    def given(name: str) -> object | None:
        found = resources.get(name)
        return found(dg.build_init_resource_context()) if isinstance(found, dg.ResourceDefinition) else found

    def production() -> ports.ProductionRegistry:
        own = cast("ports.ProductionRegistry | None", given("production"))
        return wiring.build_production(settings, light=True) if own is None else own

    def warehouse() -> ports.Warehouse:
        own = cast("ports.Warehouse | None", given("warehouse"))
        return wiring.build_warehouse(settings) if own is None else own

    def source() -> ports.Source:
        own = cast("ports.Source | None", given("source"))
        return wiring.build_source(settings) if own is None else own

    return Outside(production, warehouse, source)


def build_assets(settings: Settings) -> dict[Stage, dg.AssetsDefinition]:
    """The assets by stage; decisions only as the settings ask for them."""
    warnings.filterwarnings("ignore", "Parameter `backfill_policy`", category=dg.BetaWarning)
    found: dict[Stage, dg.AssetsDefinition] = {
        "raw_sales": raw_sales.build_raw_sales(settings),
        "raw_covariates": raw_covariates.build_raw_covariates(settings),
        "store_item_datasets": store_item_datasets.build(settings),
        "pooled_models": pooled_models.build(settings),
        "trained_models": trained_models.build(settings),
        "promoted_models": promoted_models.build(settings),
        "predictions": predictions.build(settings),
    }
    builders: Mapping[Stage, Callable[[Settings], dg.AssetsDefinition]] = {
        "stock_recommendations": stock_recommendations.build,
        "coherent_predictions": coherent_predictions.build,
        "final_predictions": final_predictions.build,
        "drift": drift.build,
    }
    found |= {stage: build(settings) for stage, build in builders.items() if stage in decisions_asked(settings)}
    return {**found, "warehouse_predictions": warehouse_predictions.build(settings)}


# --- Adapters -------------------------------------------------------------------------------------------------------
def build_compute(settings: Settings) -> ports.Compute:
    """The compute that the settings name, with Dagster's integrations: dagster-pyspark, and Pipes for Azure ML."""

    def follow(job: RemoteJob) -> None:
        from many_models.orchestration.azureml_pipes import follow_with_pipes

        follow_with_pipes(job)

    def spark_session(config: Mapping[str, str]) -> SparkSession:
        from dagster_pyspark.resources import spark_session_from_config

        return spark_session_from_config(config)

    return wiring.build_compute(settings, follow, spark_session)


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


def telling(settings: Settings) -> dict[str, dg.ResourceDefinition]:
    """What tells people and operators, where the settings ask for it."""
    found = dict[str, dg.ResourceDefinition]()
    if settings.alerts.on:
        found["messenger"] = dg.ResourceDefinition(lambda _: wiring.build_messenger(settings))
    if settings.telemetry.endpoint:
        found["telemetry"] = dg.ResourceDefinition(lambda _: wiring.build_telemetry(settings, RUNS))
    return found


RUNS = "many_models.runs"  # the service of the telemetry
BUILDERS = {
    "source": wiring.build_source,
    "ingestion": wiring.build_ingestion,
    "lake": wiring.build_lake,
    "compute": build_compute,
    "staging": wiring.build_staging,
    "production": wiring.build_production,
    "warehouse": wiring.build_warehouse,
}


def adapters(settings: Settings) -> dict[str, dg.ResourceDefinition]:
    """Each port's adapter as a resource, made when a run or a sensor needs it and not before."""
    return {name: dg.ResourceDefinition(lambda _, build=build: build(settings)) for name, build in BUILDERS.items()}


@dg.definitions
def defs() -> dg.Definitions:
    """What the code location loads: the settings file of the working directory, or the demo's."""
    return build(load_settings())
