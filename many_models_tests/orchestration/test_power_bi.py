"""Power BI downstream of the warehouse: in the lineage by settings, refreshed after each load; HTTP is mocked."""

from __future__ import annotations

from dataclasses import dataclass, field

import dagster as dg
import pytest

from many_models.definitions import build
from many_models.orchestration.assets import power_bi
from many_models.settings import PowerBiSettings, Settings

pytestmark = pytest.mark.slow
MODEL = dg.AssetKey(["semantic_model", "forecasts"])
ON = Settings(power_bi=PowerBiSettings(workspace="w-1", semantic_model="m-1", reports=["Store accuracy=r-1"]))


@dataclass
class Api:
    """What Power BI is asked, and how it answers: `ends` is the status of the refresh."""

    ends: str = "Completed"
    asked: list[tuple[str, str, str]] = field(default_factory=list)

    def request(self, method: str, url: str, headers: dict[str, str], **_: object) -> Api:
        self.asked.append((method, url, headers["Authorization"]))
        return self

    status_code = 202

    def raise_for_status(self) -> None:
        pass

    def json(self) -> dict[str, object]:
        return {"value": [{"status": self.ends, "serviceExceptionJson": "model is broken"}]}


@pytest.fixture
def api(monkeypatch: pytest.MonkeyPatch) -> Api:
    found = Api()
    monkeypatch.setattr("dagster_powerbi.resource.requests.request", found.request)
    monkeypatch.setattr("dagster_powerbi.resource.time.sleep", lambda _: None)
    monkeypatch.setattr("many_models.adapters.azure.identity.token", lambda scope, *_: f"token for {scope}")
    return found


def loaded(instance: dg.DagsterInstance) -> None:
    instance.report_runless_asset_event(dg.AssetMaterialization("warehouse_predictions", partition="2024-06-30"))


def refresh(instance: dg.DagsterInstance) -> dg.ExecuteInProcessResult:
    asked = power_bi.request(instance, MODEL)
    assert isinstance(asked, dg.RunRequest)
    job = build(ON).resolve_job_def(power_bi.JOB)
    return job.execute_in_process(instance=instance, tags=asked.tags, raise_on_error=False)


def test_without_a_workspace_there_is_no_power_bi():
    graph = build(Settings()).get_repository_def().asset_graph
    assert not [key for key in graph.get_all_asset_keys() if "semantic_model" in key.path]
    assert power_bi.build(Settings()) == power_bi.PowerBi()


def test_model_and_reports_are_downstream_and_loading_calls_no_service(api):
    repository = build(ON).get_repository_def()
    graph = repository.asset_graph
    assert graph.get(MODEL).parent_keys == {dg.AssetKey("warehouse_predictions")}
    assert graph.get(dg.AssetKey(["report", "Store_accuracy"])).parent_keys == {MODEL}
    assert graph.get(MODEL).group_name == "serving"
    assert repository.has_sensor_def(power_bi.SENSOR)
    assert api.asked == []


def test_a_load_is_followed_by_one_refresh(api):
    with dg.DagsterInstance.ephemeral() as instance:
        assert isinstance(power_bi.request(instance, MODEL), dg.SkipReason)
        loaded(instance)
        assert refresh(instance).success
        url = "https://api.powerbi.com/v1.0/myorg/groups/w-1/datasets/m-1/refreshes"
        bearer = "Bearer token for https://analysis.windows.net/powerbi/api/.default"
        assert api.asked == [("POST", url, bearer), ("GET", url, bearer)]
        assert "as new as the warehouse" in str(power_bi.request(instance, MODEL))
        loaded(instance)
        assert refresh(instance).success


def test_a_refresh_that_fails_is_tried_three_times_and_then_left_to_people(api):
    api.ends = "Failed"
    with dg.DagsterInstance.ephemeral() as instance:
        loaded(instance)
        for _ in range(3):
            assert not refresh(instance).success
        assert "3 refreshes after this load have failed" in str(power_bi.request(instance, MODEL))
        loaded(instance)
        api.ends = "Completed"
        assert refresh(instance).success


def test_names_without_ids_are_refused():
    with pytest.raises(ValueError, match="needs semantic_model"):
        PowerBiSettings(workspace="w-1")
    with pytest.raises(ValueError, match="written NAME=ID: accuracy"):
        PowerBiSettings(workspace="w-1", semantic_model="m-1", reports=["accuracy"])
