"""What deploy/kubernetes holds: manifests that validate, values that Dagster's chart documents, and the run pods that
K8sRunLauncher makes of our instance.
"""

from __future__ import annotations

import json
import re
from pathlib import Path
from types import SimpleNamespace

import kubernetes_validate
import pytest
import yaml
from dagster._config import validate_config
from dagster._core.instance.config import dagster_instance_config_schema
from dagster_k8s.job import construct_dagster_k8s_job
from dagster_k8s.launcher import K8sRunLauncher
from kubernetes.client import ApiClient

from many_models.definitions import build
from many_models.settings import load_settings

pytestmark = pytest.mark.slow
DEPLOY = Path(__file__).parents[2] / "deploy" / "kubernetes"
MANIFESTS = list(yaml.safe_load_all((DEPLOY / "manifests.yaml").read_text()))
VALUES = yaml.safe_load((DEPLOY / "values.yaml").read_text())
DOCKER = (DEPLOY / "Dockerfile").read_text()
CODE = VALUES["dagster-user-deployments"]["deployments"][0]
LATEST = kubernetes_validate.latest_version()

# the names that the chart's values.yaml documents, as far as ours may use them
CHART = {
    "": "global serviceAccount generatePostgresqlPasswordSecret postgresql dagsterWebserver dagster-user-deployments "
    "runLauncher dagsterDaemon telemetry",
    "global": "postgresqlSecretName dagsterHome serviceAccountName celeryConfigSecretName dagsterInstanceConfigMap "
    "postgresqlAuthWifEnabled",
    "serviceAccount": "create name annotations",
    "postgresql": "image enabled postgresqlHost postgresqlUsername postgresqlPassword postgresqlDatabase "
    "postgresqlParams postgresqlScheme service",
    "dagsterWebserver": "replicaCount image nameOverride pathPrefix service env envConfigMaps envSecrets "
    "deploymentLabels labels nodeSelector affinity tolerations podSecurityContext securityContext resources "
    "checkDbReadyInitContainer readinessProbe livenessProbe startupProbe annotations enableReadOnly volumes "
    "volumeMounts workspace dbStatementTimeout dbPoolRecycle logLevel schedulerName initContainerResources "
    "extraContainers "
    "extraPrependedInitContainers",
    "dagster-user-deployments": "enabled enableSubchart imagePullSecrets deployments",
    "dagsterDaemon": "enabled image heartbeatTolerance runCoordinator env envConfigMaps envSecrets deploymentLabels "
    "labels nodeSelector affinity tolerations podSecurityContext securityContext resources checkDbReadyInitContainer "
    "livenessProbe readinessProbe startupProbe annotations runMonitoring runRetries sensors schedules schedulerName "
    "volumeMounts volumes initContainerResources extraContainers extraPrependedInitContainers",
    "runLauncher": "type config",
    "telemetry": "enabled",
}  # fmt: skip
CHART_CODE = (
    "name image dagsterApiGrpcArgs codeServerArgs includeConfigInLaunchedRuns deploymentNamespace port env "
    "envConfigMaps envSecrets annotations nodeSelector affinity tolerations podSecurityContext securityContext "
    "resources livenessProbe readinessProbe startupProbe labels volumeMounts volumes schedulerName initContainers "
    "sidecarContainers service"
)


def one(kind: str, name: str = "") -> dict:
    (found,) = (m for m in MANIFESTS if m["kind"] == kind and name in m["metadata"]["name"])
    return found


INSTANCE = yaml.safe_load(one("ConfigMap", "instance")["data"]["dagster.yaml"])


@pytest.mark.parametrize("manifest", MANIFESTS, ids=lambda manifest: manifest["metadata"]["name"])
def test_every_manifest_is_valid_kubernetes(manifest) -> None:
    kubernetes_validate.validate(manifest, LATEST, strict=True)


def test_the_values_are_those_that_the_chart_documents() -> None:
    for section, names in CHART.items():
        given = VALUES[section] if section else VALUES
        assert set(given) <= set(names.split()), section
    assert set(CODE) <= set(CHART_CODE.split())


def workload(values: dict, probes: tuple[str, ...]) -> dict:
    """A Deployment as the chart renders one of `values`: what is passed through as it is."""
    container = {
        "name": "dagster",
        "image": f"{values['image']['repository']}:{values['image']['tag']}",
        "imagePullPolicy": values["image"]["pullPolicy"],
        "env": values["env"],
        "envFrom": [{"secretRef": secret} for secret in values["envSecrets"]],
        "securityContext": values["securityContext"],
        "resources": values["resources"],
        "volumeMounts": values["volumeMounts"],
    }
    health = {"exec": {"command": ["dagster", "api", "grpc-health-check", "-p", "3030"]}}
    for probe in probes:
        given = {name: value for name, value in values[probe].items() if name != "enabled"}
        container[probe] = given if {"exec", "httpGet"} & given.keys() else {**health, **given}
    pod = {"securityContext": values["podSecurityContext"], "containers": [container], "volumes": values["volumes"]}
    return {
        "apiVersion": "apps/v1",
        "kind": "Deployment",
        "metadata": {"name": "x"},
        "spec": {
            "selector": {"matchLabels": {"app": "many-models"}},
            "template": {"metadata": {"labels": values["labels"]}, "spec": pod},
        },
    }


PROCESSES = {
    "webserver": (VALUES["dagsterWebserver"], ("readinessProbe", "livenessProbe", "startupProbe")),
    "daemon": (VALUES["dagsterDaemon"], ("livenessProbe",)),
    "code": (CODE, ("readinessProbe", "livenessProbe")),
}


def assert_nobody(pod: dict, labels: dict) -> None:
    """Not root, nothing writable but its volumes, numba's cache among them, and the workload identity."""
    (container,) = pod["containers"]
    assert pod["securityContext"]["runAsNonRoot"]
    assert f"USER {pod['securityContext']['runAsUser']}\n" in DOCKER
    assert container["securityContext"]["readOnlyRootFilesystem"]
    assert not container["securityContext"]["allowPrivilegeEscalation"]
    assert container["securityContext"]["capabilities"] == {"drop": ["ALL"]}
    assert labels["azure.workload.identity/use"] == "true"
    assert container["resources"]["requests"].keys() == {"cpu", "memory"}
    empty = {volume["name"] for volume in pod["volumes"] if "emptyDir" in volume}
    writable = {mount["mountPath"] for mount in container["volumeMounts"] if mount["name"] in empty}
    for variable in ("NUMBA_CACHE_DIR", "MPLCONFIGDIR", "HOME"):
        place = re.findall(rf"\s{variable}=(\S+)", DOCKER)[-1]
        assert any(place == path or place.startswith(f"{path}/") for path in writable), variable
    assert "/tmp" in writable
    assert {mount["name"] for mount in container["volumeMounts"]} <= {volume["name"] for volume in pod["volumes"]}


@pytest.mark.parametrize("process", PROCESSES)
def test_every_process_is_valid_probed_and_nobody(process) -> None:
    values, probes = PROCESSES[process]
    deployment = workload(values, probes)
    kubernetes_validate.validate(deployment, LATEST, strict=True)
    assert_nobody(deployment["spec"]["template"]["spec"], values["labels"])


def test_the_validation_finds_a_mistake() -> None:
    values = {**VALUES["dagsterDaemon"], "volumes": [{"name": "tmp", "emptyDir": {"sizelimit": "1Gi"}}]}
    with pytest.raises(kubernetes_validate.ValidationError):
        kubernetes_validate.validate(workload(values, ()), LATEST, strict=True)


def test_dagster_takes_the_instance() -> None:
    schema = {name: field for name, field in dagster_instance_config_schema().items() if name in INSTANCE}
    assert INSTANCE.keys() == schema.keys()
    found = validate_config(schema, INSTANCE)
    assert found.success, found.errors
    assert INSTANCE["storage"]["custom"]["class"] == "BatchedPostgresStorage"


@pytest.fixture
def launcher(monkeypatch):
    config = INSTANCE["run_launcher"]["config"]
    found = validate_config(K8sRunLauncher.config_type(), config)
    assert found.success, found.errors
    monkeypatch.setattr("dagster_k8s.launcher.load_kubernetes_config", lambda **_: None)
    return K8sRunLauncher(**config, k8s_client_batch_api=SimpleNamespace(), k8s_client_core_api=SimpleNamespace())


def test_the_pod_of_a_run_is_valid_and_nobody(launcher) -> None:
    run = SimpleNamespace(job_code_origin=None, tags={})
    context = launcher.get_container_context_for_run(run)
    image = "REGISTRY.azurecr.io/many-models:0.1.0"
    job = construct_dagster_k8s_job(
        context.get_k8s_job_config(job_image=image, run_launcher=launcher),
        ["dagster", "api", "execute_run", "{}"],
        "dagster-run-1",
        user_defined_k8s_config=context.run_k8s_config,
        pod_name="dagster-run-1",
        labels={"dagster/run-id": "1"},
    )
    manifest = json.loads(json.dumps(ApiClient().sanitize_for_serialization(job)))
    manifest["metadata"].pop("creationTimestamp", None)
    kubernetes_validate.validate(manifest, LATEST, strict=False)
    template = manifest["spec"]["template"]
    pod = template["spec"]
    assert_nobody(pod, template["metadata"]["labels"])
    (container,) = pod["containers"]
    assert pod["serviceAccountName"] == one("ServiceAccount")["metadata"]["name"]
    assert {"name": "instance", "mountPath": "/etc/many_models/instance", "readOnly": True} in container["volumeMounts"]
    assert {"secretRef": {"name": "many-models-postgres"}} in container["envFrom"]
    variables = {variable["name"]: variable.get("value") for variable in container["env"]}
    assert variables["DAGSTER_HOME"] == "/etc/many_models/instance"
    grace = pod["terminationGracePeriodSeconds"]
    assert grace <= INSTANCE["run_monitoring"]["cancel_timeout_seconds"]
    names = [mount["mountPath"] for mount in container["volumeMounts"]]
    assert len(names) == len(set(names))


def test_values_image_and_manifests_name_each_other() -> None:
    account = one("ServiceAccount")
    assert VALUES["global"]["serviceAccountName"] == account["metadata"]["name"]
    assert account["metadata"]["annotations"].keys() == {"azure.workload.identity/client-id"}
    maps = {m["metadata"]["name"] for m in MANIFESTS if m["kind"] == "ConfigMap"}
    used = {v["configMap"]["name"] for v in [*CODE["volumes"], *INSTANCE["run_launcher"]["config"]["volumes"]]
            if "configMap" in v}  # fmt: skip
    assert used == maps
    assert INSTANCE["run_launcher"]["config"]["instance_config_map"] in maps
    paths = {mount["name"]: mount["mountPath"] for mount in CODE["volumeMounts"]}
    docker = dict(re.findall(r"(DAGSTER_HOME|MANY_MODELS_CONFIG)=(\S+)", DOCKER))
    assert docker == {
        "DAGSTER_HOME": paths["instance"], "MANY_MODELS_CONFIG": f"{paths['settings']}/many_models.toml",
    }  # fmt: skip
    assert {"name": "DAGSTER_HOME", "value": paths["instance"]} in CODE["env"]
    assert f"EXPOSE {CODE['port']}\n" in DOCKER
    policy = one("NetworkPolicy")["spec"]
    assert policy["ingress"][0]["ports"][0]["port"] == CODE["port"]
    assert policy["podSelector"]["matchLabels"]["app"] == CODE["labels"]["app"]
    assert (
        VALUES["dagsterWebserver"]["readinessProbe"]["httpGet"]["port"] == VALUES["dagsterWebserver"]["service"]["port"]
    )
    version = re.findall(r"--version (\S+)", (DEPLOY / "values.yaml").read_text())
    lock = (DEPLOY.parents[1] / "requirements.lock").read_text()
    assert version == re.findall(r"^dagster==([^\s;\\]+)", lock, re.MULTILINE)
    assert re.search(r"^dagster-k8s==", lock, re.MULTILINE)


def test_the_settings_of_the_manifests_make_definitions(tmp_path) -> None:
    (tmp_path / "many_models.toml").write_text(one("ConfigMap", "settings")["data"]["many_models.toml"])
    settings = load_settings(tmp_path / "many_models.toml")
    assert settings.dagster.storage == "postgres"
    cores = INSTANCE["run_launcher"]["config"]["resources"]["requests"]["cpu"]
    assert settings.compute.workers == int(cores)
    assert build(settings).resolve_job_def("upkeep")
