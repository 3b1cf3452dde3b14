"""Power BI downstream of the warehouse: its semantic model and reports in the lineage, refreshed after each load."""

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import dagster as dg

from many_models.errors import MissingDependencyError
from many_models.keys import digest
from many_models.orchestration import due
from many_models.orchestration.event_log import history
from many_models.orchestration.stage_run import DUE_TAG
from many_models.settings import PowerBiSettings, Settings

if TYPE_CHECKING:
    from dagster_powerbi.translator import PowerBIWorkspaceData

JOB = "refresh_power_bi"
SENSOR = "warehouse_to_power_bi"
RESOURCE = "power_bi"
LOADED = dg.AssetKey("warehouse_predictions")
SENSOR_SECONDS = 30


@dataclass(frozen=True, slots=True)
class PowerBi:
    """What Power BI adds to the definitions; nothing without `power_bi.workspace`."""

    model: dg.AssetKey | None = None
    assets: "tuple[dg.AssetsDefinition | dg.AssetSpec, ...]" = ()
    jobs: "tuple[dg.UnresolvedAssetJobDefinition, ...]" = ()
    sensors: tuple[dg.SensorDefinition, ...] = ()


def build(settings: Settings) -> PowerBi:
    """The semantic model as an asset that refreshes it, and its reports. Asks Power BI nothing: a code location that
    loads must not depend on it. Raises MissingDependencyError without the extra `powerbi`.
    """
    wanted = settings.power_bi
    if not wanted.workspace:
        return PowerBi()
    try:
        from dagster_powerbi import DagsterPowerBITranslator
        from dagster_powerbi.assets import build_semantic_model_refresh_asset_definition
        from dagster_powerbi.translator import PowerBITranslatorData, PowerBIWorkspaceData
    except ImportError as error:
        raise MissingDependencyError("[power_bi] needs a package: pip install 'many_models[powerbi]'") from error
    workspace, translator = _workspace(wanted), DagsterPowerBITranslator()

    def spec(content: Any) -> dg.AssetSpec:
        assert isinstance(workspace, PowerBIWorkspaceData)  # whose name the line below looks up in this frame
        found = translator.get_asset_spec(PowerBITranslatorData(content_data=content, workspace_data=workspace))
        return found.replace_attributes(group_name="serving", owners=[settings.dagster.owner])

    (model,) = (spec(content) for content in workspace.semantic_models_by_id.values())
    model = model.replace_attributes(deps=[LOADED])
    refresh = build_semantic_model_refresh_asset_definition(RESOURCE, model)
    job = dg.define_asset_job(JOB, selection=dg.AssetSelection.assets(model.key))
    reports = [spec(content) for content in workspace.reports_by_id.values()]
    return PowerBi(model.key, (refresh, *reports), (job,), (_sensor(model.key),))


def _workspace(wanted: PowerBiSettings) -> "PowerBIWorkspaceData":
    """The workspace's content as the settings name it, in the form in which the API would."""
    from dagster_powerbi.translator import PowerBIContentData, PowerBIContentType, PowerBIWorkspaceData

    model = {"id": wanted.semantic_model, "name": wanted.semantic_model_name}
    contents = [PowerBIContentData(content_type=PowerBIContentType.SEMANTIC_MODEL, properties=model)]
    for report in wanted.reports:
        name, _, identifier = report.rpartition("=")
        properties = {"id": identifier, "name": name, "datasetId": wanted.semantic_model}
        contents.append(PowerBIContentData(content_type=PowerBIContentType.REPORT, properties=properties))
    return PowerBIWorkspaceData.from_content_data(wanted.workspace, contents)


def request(instance: dg.DagsterInstance, model: dg.AssetKey) -> dg.RunRequest | dg.SkipReason:
    """The refresh that is due: of a load that is newer than the newest refresh, three times at most."""
    loaded = instance.get_latest_materialization_event(LOADED)
    if loaded is None:
        return dg.SkipReason("nothing has been loaded yet")
    done = instance.get_latest_materialization_event(model)
    if done is not None and done.timestamp >= loaded.timestamp:
        return dg.SkipReason("the semantic model is as new as the warehouse")
    mark = digest(JOB, loaded.timestamp)
    same = instance.get_runs(dg.RunsFilter(tags={DUE_TAG: mark}))
    if any(not run.is_finished for run in same):
        return dg.SkipReason("a refresh is running")
    if len(same) >= due.MAX_ATTEMPTS:
        return dg.SkipReason(f"{len(same)} refreshes after this load have failed: see them, then start one by hand")
    return dg.RunRequest(job_name=JOB, tags={DUE_TAG: mark})


def _sensor(model: dg.AssetKey) -> dg.SensorDefinition:
    @dg.sensor(
        name=SENSOR,
        job_name=JOB,
        minimum_interval_seconds=SENSOR_SECONDS,
        default_status=dg.DefaultSensorStatus.RUNNING,
        description="Refreshes Power BI's semantic model after a load of the warehouse.",
    )
    def refresh_after_load(context: dg.SensorEvaluationContext) -> dg.RunRequest | dg.SkipReason:
        if any(history.keys_in_flight(context.instance, LOADED)):
            return dg.SkipReason("the warehouse is being loaded")
        return request(context.instance, model)

    return refresh_after_load
