"""What deploy/serving holds: manifests that validate, an endpoint that azure-ai-ml takes, a script that answers."""

from __future__ import annotations

import importlib.util
import json
import os
import re
import subprocess
import sys
import urllib.request
from functools import partial
from pathlib import Path

import kubernetes_validate
import pytest
import yaml

from many_models.settings import Settings, load_settings
from many_models_tests.forecasting.histories import AS_OF
from many_models_tests.support.compute_tasks import wait_for
from many_models_tests.support.ports import free_port
from many_models_tests.support.serving_parts import confine_fail_soon, draft, pack

pytestmark = pytest.mark.slow
DEPLOY = Path(__file__).parents[2] / "deploy" / "serving"
MANIFESTS = list(yaml.safe_load_all((DEPLOY / "kubernetes.yaml").read_text()))
ONE = {manifest["kind"]: manifest for manifest in MANIFESTS}
POD = ONE["Deployment"]["spec"]["template"]["spec"]
CONTAINER = POD["containers"][0]


@pytest.mark.parametrize("manifest", MANIFESTS, ids=lambda manifest: manifest["kind"])
def test_every_manifest_is_valid_kubernetes(manifest) -> None:
    kubernetes_validate.validate(manifest, kubernetes_validate.latest_version(), strict=True)


def test_the_validation_finds_a_mistake() -> None:
    wrong = {**ONE["Deployment"], "spec": {**ONE["Deployment"]["spec"], "replicas": "two"}}
    with pytest.raises(kubernetes_validate.ValidationError):
        kubernetes_validate.validate(wrong, kubernetes_validate.latest_version(), strict=True)


def test_the_manifests_name_each_other() -> None:
    name = ONE["Deployment"]["metadata"]["name"]
    assert ONE["HorizontalPodAutoscaler"]["spec"]["scaleTargetRef"]["name"] == name
    labels = ONE["Deployment"]["spec"]["template"]["metadata"]["labels"]
    for kind in ("Service", "PodDisruptionBudget", "NetworkPolicy", "Deployment"):
        spec = ONE[kind]["spec"]
        selector = spec.get("selector", spec.get("podSelector"))
        assert selector.get("matchLabels", selector) == labels
    volumes = {volume["name"] for volume in POD["volumes"]}
    assert {mount["name"] for mount in CONTAINER["volumeMounts"]} == volumes


def test_the_container_is_nobody_and_is_probed_where_the_service_answers() -> None:
    assert POD["securityContext"]["runAsNonRoot"]
    assert CONTAINER["securityContext"]["readOnlyRootFilesystem"]
    assert {CONTAINER[probe]["httpGet"]["path"] for probe in ("startupProbe", "livenessProbe")} == {"/health/live"}
    assert CONTAINER["readinessProbe"]["httpGet"]["path"] == "/health/ready"
    docker = (DEPLOY / "Dockerfile").read_text()
    assert f"USER {POD['securityContext']['runAsUser']}\n" in docker
    assert docker.index("USER ") < docker.index("ENTRYPOINT")


def test_the_settings_of_the_manifests_are_settings(tmp_path: Path) -> None:
    (tmp_path / "many_models.toml").write_text(ONE["ConfigMap"]["data"]["many_models.toml"])
    serve = load_settings(tmp_path / "many_models.toml").serve
    assert POD["terminationGracePeriodSeconds"] > serve.drain_seconds + serve.max_seconds
    mounts = {mount["mountPath"] for mount in CONTAINER["volumeMounts"]}
    assert str(Path(serve.api_keys_file).parent) in mounts
    memory = CONTAINER["resources"]["limits"]["memory"]
    assert memory.endswith("Mi")
    assert serve.memory_mb + 512 <= int(memory[:-2]) * 1.05
    docker = dict(re.findall(r"(MANY_MODELS__\w+)=(\S+)", (DEPLOY / "Dockerfile").read_text()))
    variables = yaml.safe_load((DEPLOY / "azureml/deployment.yml").read_text())["environment_variables"]
    for name in [*docker, *(name for name in variables if name.startswith("MANY_MODELS__"))]:
        section, _, field = name.removeprefix("MANY_MODELS__").lower().partition("__")
        assert field in type(getattr(Settings(), section)).model_fields, name


@pytest.mark.slow
def test_azure_takes_the_endpoint_and_the_deployment() -> None:
    from azure.ai.ml import load_online_deployment, load_online_endpoint

    endpoint = load_online_endpoint(DEPLOY / "azureml/endpoint.yml")
    deployment = load_online_deployment(DEPLOY / "azureml/deployment.yml")
    assert deployment.endpoint_name == endpoint.name
    docker = (DEPLOY / "azureml/Dockerfile").read_text()
    routes = deployment.environment.inference_config
    assert {route["port"] for route in routes.values()} == {int(re.findall(r"^EXPOSE (\d+)$", docker, re.MULTILINE)[0])}
    assert {name: route["path"] for name, route in routes.items()} == {
        "livenessRoute": "/", "readinessRoute": "/", "scoringRoute": "/score",
    }  # fmt: skip
    assert endpoint.identity.type == "user_assigned"
    assert deployment.request_settings.request_timeout_ms > 1000 * Settings().serve.max_seconds


def test_the_endpoints_variables_are_settings_of_a_registry_by_identity(monkeypatch: pytest.MonkeyPatch) -> None:
    """No secret: the identity that the endpoint names reads the registry's storage."""
    variables = yaml.safe_load((DEPLOY / "azureml/deployment.yml").read_text())["environment_variables"]
    assert not [name for name in variables if re.search(r"PASSWORD|SECRET|TOKEN|KEY|SAS", name)]
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    settings = load_settings()
    assert (settings.registry.kind, settings.registry.identity) == ("azureml", "managed_identity")
    assert settings.registry.client_id == settings.lake.client_id != ""
    assert settings.lake.credential == "managed_identity"


@pytest.mark.slow
def test_the_scoring_script_answers_from_a_registry(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from many_models.wiring import build_production

    confine_fail_soon(monkeypatch)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("MANY_MODELS__SERVE__LAKE", "false")
    assert not [name for name in os.environ if name.startswith("MANY_MODELS_CONFIG")]
    release = build_production(load_settings()).publish(draft(None, [pack("a")]))
    spec = importlib.util.spec_from_file_location("score", DEPLOY / "azureml/score.py")
    assert spec is not None
    assert spec.loader is not None
    score = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(score)
    score.init()
    found = score.run(json.dumps({"series": [{"series_id": "a__tea"}, {"series_id": "nobody"}]}))
    assert found["release"] == release.release_id
    assert found["forecasts"][0]["cutoff"] == AS_OF.isoformat()
    assert found["forecasts"][1]["error"]["kind"] == "UnknownSeries"
    assert score.run("{")["error"]["kind"] == "NoJSON"
    assert score.run(json.dumps({"series": [{"series_id": "x"}] * 2001}))["error"]["kind"] == "Limit"
    score._loop.call_soon_threadsafe(score._loop.stop)


if sys.version_info[:2] == (3, 11):  # the Python of the image

    @pytest.mark.long("docs/test_serving_deploy.py::test_the_scoring_script_answers_from_a_registry")
    def test_the_endpoints_container_answers_a_forecast(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        """An empty environment in the place of the base image; then what the Dockerfile does, and its entry point."""
        from many_models.wiring import build_production

        monkeypatch.chdir(tmp_path)
        release = build_production(load_settings()).publish(draft(None, [pack("a")]))
        docker = re.sub(r"\\\n\s*", " ", (DEPLOY / "azureml/Dockerfile").read_text())
        programs = built_environment(tmp_path / "venv", "azureml/requirements.lock")
        (name, *words) = json.loads(re.findall(r"^ENTRYPOINT (.+)$", docker, re.MULTILINE)[0])
        port = free_port()
        swapped = {"/app/score.py": str(DEPLOY / "azureml/score.py"), "5001": str(port)}
        variables = dict(word.split("=", 1) for word in re.findall(r"^ENV (.+)$", docker, re.MULTILINE)[0].split())
        assert variables.pop("PATH") == "/app/venv/bin:$PATH"
        variables |= {"MANY_MODELS__SERVE__LAKE": "false", "NUMBA_CACHE_DIR": os.environ.get("NUMBA_CACHE_DIR", "")}
        variables |= {"MANY_MODELS__SERVE__CACHE": str(tmp_path / "cache")}
        environment = {"PATH": f"{programs}:/usr/bin:/bin", "HOME": str(tmp_path), **variables}
        command = [programs / name, *(swapped.get(word, word) for word in words)]
        with (tmp_path / "log").open("wb") as log:
            server = subprocess.Popen(command, cwd=tmp_path, env=environment, stdout=log, stderr=log)
        try:
            url = f"http://127.0.0.1:{port}"
            wait_for(lambda: answers(server, f"{url}/", tmp_path / "log"), "the endpoint's server", 300.0)
            asked = urllib.request.Request(f"{url}/score", json.dumps({"series": [{"series_id": "a__tea"}]}).encode())
            asked.add_header("Content-Type", "application/json")
            with urllib.request.urlopen(asked, timeout=120) as response:
                found = json.load(response)
        finally:
            server.terminate()
            server.wait(60)
        assert found["release"] == release.release_id
        assert found["forecasts"][0]["cutoff"] == AS_OF.isoformat()


def answers(server: subprocess.Popen[bytes], url: str, log: Path) -> bool:
    assert server.poll() is None, log.read_text()[-3000:]
    try:
        urllib.request.urlopen(url, timeout=5).close()
    except OSError:
        return False
    return True


def built_environment(home: Path, lock: str) -> Path:
    """An empty environment with what `lock` names and the wheel of this repository, as in an image: its programs."""
    uv, root = Path(sys.executable).with_name("uv"), DEPLOY.parents[1]
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", home], check=True)
    python = ["--python", home / "bin/python"]
    run = partial(subprocess.run, check=True, timeout=900)
    run([uv, "pip", "sync", "--quiet", *python, "--require-hashes", DEPLOY / lock])
    run([uv, "build", "--quiet", "--wheel", "--no-build-isolation", "--python", sys.executable, "--out-dir",
         home / "dist", root])  # fmt: skip
    (wheel,) = (home / "dist").glob("many_models-*.whl")
    run([uv, "pip", "install", "--quiet", *python, "--no-index", "--no-deps", wheel])
    run([uv, "pip", "check", "--quiet", *python])
    return home / "bin"
