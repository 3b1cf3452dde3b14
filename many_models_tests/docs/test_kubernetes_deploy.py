"""What deploy/kubernetes holds: manifests that validate, values that Dagster's chart documents, and the run pods that
K8sRunLauncher makes of our instance.
"""

from __future__ import annotations

import json
import re
from pathlib import Path
from types import SimpleNamespace

import dagster as dg
import kubernetes_validate
import pytest
import yaml
from dagster._config import validate_config
from dagster._core.instance.config import dagster_instance_config_schema
from dagster_k8s.job import construct_dagster_k8s_job
from kubernetes.client import ApiClient

from many_models import definitions
from many_models.definitions import build
from many_models.orchestration.automation import JOBS
from many_models.orchestration.due import ALL_STAGES, DECISIONS
from many_models.orchestration.run_launcher import PRODUCTION_STAGES, StageRunLauncher
from many_models.settings import Settings, load_settings

pytestmark = pytest.mark.slow
DEPLOY = Path(__file__).parents[2] / "deploy" / "kubernetes"
MANIFESTS = list(yaml.safe_load_all((DEPLOY / "manifests.yaml").read_text()))
INGRESS = list(yaml.safe_load_all((DEPLOY / "ingress.yaml").read_text()))
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
    (found,) = (m for m in MANIFESTS if m["kind"] == kind and m["metadata"]["name"] == (name or "many-models"))
    return found


INSTANCE = yaml.safe_load(one("ConfigMap", "many-models-instance")["data"]["dagster.yaml"])


@pytest.mark.parametrize("manifest", [*MANIFESTS, *INGRESS], ids=lambda m: f"{m['kind']}-{m['metadata']['name']}")
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
    found = validate_config(StageRunLauncher.config_type(), config)
    assert found.success, found.errors
    monkeypatch.setattr("dagster_k8s.launcher.load_kubernetes_config", lambda **_: None)
    return StageRunLauncher(**config, k8s_client_batch_api=SimpleNamespace(), k8s_client_core_api=SimpleNamespace())


def run_of(*assets: str, job: str = "__ASSET_JOB", checks: tuple[str, ...] = ()) -> dg.DagsterRun:
    return dg.DagsterRun(
        job_name=job,
        asset_selection=frozenset(map(dg.AssetKey, assets)) or None,
        asset_check_selection=frozenset(dg.AssetCheckKey(dg.AssetKey(asset), "a check") for asset in checks) or None,
    )


def manifest_of(launcher: StageRunLauncher, run: dg.DagsterRun) -> dict:
    """The Kubernetes job that the launcher makes of `run`."""
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
    return json.loads(json.dumps(ApiClient().sanitize_for_serialization(job)))


def test_the_pod_of_a_run_is_valid_and_nobody(launcher) -> None:
    manifest = manifest_of(launcher, run_of("trained_models"))
    manifest["metadata"].pop("creationTimestamp", None)
    kubernetes_validate.validate(manifest, LATEST, strict=False)
    template = manifest["spec"]["template"]
    pod = template["spec"]
    assert_nobody(pod, template["metadata"]["labels"])
    (container,) = pod["containers"]
    assert {"name": "instance", "mountPath": "/etc/many_models/instance", "readOnly": True} in container["volumeMounts"]
    variables = {variable["name"]: variable.get("value") for variable in container["env"]}
    assert variables["DAGSTER_HOME"] == "/etc/many_models/instance"
    grace = pod["terminationGracePeriodSeconds"]
    assert grace <= INSTANCE["run_monitoring"]["cancel_timeout_seconds"]
    names = [mount["mountPath"] for mount in container["volumeMounts"]]
    assert len(names) == len(set(names))


def of_production(manifest: dict) -> list[str]:
    """What of production's a job's pod holds: service account, its identity, secrets, variables, mounts."""
    pod = manifest["spec"]["template"]["spec"]
    account = one("ServiceAccount", pod["serviceAccountName"])
    identity = one("ServiceAccount", "many-models-promote")["metadata"]["annotations"]
    found = [account["metadata"]["name"]] if account["metadata"]["annotations"] == identity else []
    text = json.dumps(manifest)
    return found + re.findall(r"many-models-production|many-models-promote|MANY_MODELS_PRODUCTION_\w+", text)


def secrets_of(manifest: dict) -> set[str]:
    (container,) = manifest["spec"]["template"]["spec"]["containers"]
    return {source["secretRef"]["name"] for source in container["envFrom"] if "secretRef" in source}


@pytest.mark.parametrize("stage", ALL_STAGES)
def test_only_stages_that_need_it_hold_anything_of_productions(launcher, stage) -> None:
    runs = run_of(stage), run_of(job=JOBS[stage]), run_of(stage, job=JOBS[stage]), run_of(checks=(stage,))
    for run in runs:
        manifest = manifest_of(launcher, run)
        secrets = {"many-models-postgres", "many-models-staging"}
        if stage in PRODUCTION_STAGES:
            assert "many-models-promote" in of_production(manifest)
            assert secrets_of(manifest) == {*secrets, "many-models-production"}
        else:
            assert of_production(manifest) == []
            assert secrets_of(manifest) == secrets
            assert manifest["spec"]["template"]["spec"]["serviceAccountName"] == "many-models-train"


def test_the_stages_with_production_are_those_that_take_its_registry(monkeypatch) -> None:
    """A stage that begins to read production fails here, not at night without a credential."""
    monkeypatch.setattr(definitions, "decisions_asked", lambda _: DECISIONS)
    assets = definitions.build_assets(Settings())
    assert assets.keys() == set(ALL_STAGES)
    using = {stage for stage, asset in assets.items() if "production" in asset.required_resource_keys}
    assert using == PRODUCTION_STAGES


def test_a_run_over_more_than_those_stages_holds_nothing_of_productions(launcher) -> None:
    assert of_production(manifest_of(launcher, run_of("trained_models", "promoted_models"))) == []
    assert of_production(manifest_of(launcher, run_of("trained_models", checks=("promoted_models",)))) == []
    assert of_production(manifest_of(launcher, run_of("trained_models", job=JOBS["promoted_models"]))) == []
    assert of_production(manifest_of(launcher, run_of(job="__ASSET_JOB"))) == []
    assert "many-models-promote" in of_production(manifest_of(launcher, run_of(job="upkeep")))


@pytest.mark.parametrize(
    "wanted",
    [
        {"pod_spec_config": {"service_account_name": "many-models-promote"}},
        {"container_config": {"env_from": [{"secret_ref": {"name": "many-models-production"}}]}},
        {"container_config": {"env": [{"name": "MANY_MODELS_PRODUCTION_USERNAME", "value": "x"}]}},
        {"pod_spec_config": {"volumes": [{"name": "x", "secret": {"secret_name": "many-models-production"}}]}},
    ],
    ids=["account", "secret", "variable", "volume"],
)
def test_a_runs_tags_cannot_ask_for_productions_rights(launcher, wanted) -> None:
    run = run_of("trained_models").with_tags({"dagster-k8s/config": json.dumps(wanted)})
    with pytest.raises(Exception, match="violated the allowed list"):
        manifest_of(launcher, run)
    calm = run.with_tags(
        {"dagster-k8s/config": json.dumps({"container_config": {"resources": {"limits": {"cpu": "1"}}}})}
    )
    assert of_production(manifest_of(launcher, calm)) == []


def test_run_pods_get_no_token_of_the_cluster_and_identities_differ() -> None:
    accounts = [manifest for manifest in MANIFESTS if manifest["kind"] == "ServiceAccount"]
    identities = [account["metadata"]["annotations"]["azure.workload.identity/client-id"] for account in accounts]
    assert len(set(identities)) == len(accounts) == 3
    silent = {
        account["metadata"]["name"] for account in accounts if account.get("automountServiceAccountToken") is False
    }
    assert silent == {"many-models-train", "many-models-promote"}
    assert VALUES["global"]["serviceAccountName"] not in silent


def test_the_image_has_the_odbc_driver_and_what_it_loads() -> None:
    lock = (DEPLOY / "requirements.lock").read_text()
    assert re.search(r"^mssql-python-odbc==", lock, re.MULTILINE)
    installed = re.search(r"apt-get install --yes --no-install-recommends ([^&]+)&&", DOCKER)
    assert installed is not None
    assert {"unixodbc", "libkrb5-3", "libgssapi-krb5-2"} <= set(installed[1].split())


def test_who_comes_from_outside_comes_by_tls_and_past_the_sign_in() -> None:
    kinds = {(m["kind"], m["metadata"]["name"]): m for m in INGRESS}
    services = {name for kind, name in kinds if kind == "Service"} | {"many-models-serving"}
    for (kind, name), ingress in kinds.items():
        if kind == "Ingress":
            (tls,), (rule,) = ingress["spec"]["tls"], ingress["spec"]["rules"]
            assert tls["hosts"] == [rule["host"]], name
            assert tls["secretName"]
            assert {path["backend"]["service"]["name"] for path in rule["http"]["paths"]} <= services
    proxy = kinds["Deployment", "dagster-sign-in"]["spec"]["template"]
    arguments = dict(word.removeprefix("--").split("=", 1) for word in proxy["spec"]["containers"][0]["args"])
    port = VALUES["dagsterWebserver"]["service"]["port"]
    assert arguments["upstream"] == f"http://dagster-dagster-webserver:{port}/"
    assert "allowed-group" in arguments
    assert arguments["cookie-secure"] == "true"
    assert arguments["redirect-url"].startswith("https://" + kinds["Ingress", "dagster"]["spec"]["rules"][0]["host"])
    policy = kinds["NetworkPolicy", "dagster-webserver"]["spec"]
    (source,) = policy["ingress"][0]["from"]
    assert source["podSelector"]["matchLabels"] == proxy["metadata"]["labels"]
    assert policy["ingress"][0]["ports"] == [{"port": port, "protocol": "TCP"}]


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
    policy = one("NetworkPolicy", "many-models-code")["spec"]
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
    (tmp_path / "many_models.toml").write_text(one("ConfigMap", "many-models-settings")["data"]["many_models.toml"])
    settings = load_settings(tmp_path / "many_models.toml")
    assert settings.dagster.storage == "postgres"
    cores = INSTANCE["run_launcher"]["config"]["resources"]["requests"]["cpu"]
    assert settings.compute.workers == int(cores)
    assert build(settings).resolve_job_def("upkeep")
