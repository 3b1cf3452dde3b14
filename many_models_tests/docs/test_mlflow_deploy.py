"""deploy/kubernetes/mlflow.yaml: two MLflow servers that share nothing, started as their pods start them."""

from __future__ import annotations

import base64
import json
import os
import re
import urllib.error
import urllib.request
from pathlib import Path
from typing import TYPE_CHECKING, Any

import kubernetes_validate
import psutil
import pytest
import yaml

from many_models.adapters.registry.mlflow_production import MlflowProduction, MlflowStaging
from many_models.errors import ManyModelsError
from many_models.ports import PackUpload
from many_models.settings import load_settings
from many_models_tests.contracts.registry import upload
from many_models_tests.stand_ins.mlflow_server import started
from many_models_tests.stand_ins.postgres_server import running_postgres
from many_models_tests.support.ports import free_port
from many_models_tests.support.serving_parts import draft

if TYPE_CHECKING:
    from collections.abc import Iterator

pytestmark = pytest.mark.slow
DEPLOY = Path(__file__).parents[2] / "deploy" / "kubernetes"
TEXT = (DEPLOY / "mlflow.yaml").read_text()
MANIFESTS = list(yaml.safe_load_all(TEXT))
ROLES = ("staging", "production")
PASSWORDS = {"train": "trains-secret", "promote": "promotes-secret", "serve": "serves-secret", "admin": "admins-secret"}


def of_server(role: str) -> dict[str, dict[str, Any]]:
    """The manifests of one server by their kind."""
    return {one["kind"]: one for one in MANIFESTS if one["metadata"]["name"] == f"mlflow-{role}"}


def container_of(role: str) -> dict[str, Any]:
    (container,) = of_server(role)["Deployment"]["spec"]["template"]["spec"]["containers"]
    return container


@pytest.mark.parametrize("manifest", MANIFESTS, ids=lambda one: f"{one['kind']}-{one['metadata']['name']}")
def test_every_manifest_of_a_server_is_valid_kubernetes(manifest) -> None:
    kubernetes_validate.validate(manifest, kubernetes_validate.latest_version(), strict=True)


def test_the_two_servers_share_no_account_secret_database_or_container() -> None:
    """All that differs by name differs by its role: no line of one server names the other."""
    assert {one["metadata"]["name"] for one in MANIFESTS} == {f"mlflow-{role}" for role in ROLES}
    staging, production = (json.dumps(of_server(role)) for role in ROLES)
    assert "production" not in staging
    assert "staging" not in production
    clients = {of_server(role)["ServiceAccount"]["metadata"]["annotations"].popitem()[1] for role in ROLES}
    others = yaml.safe_load_all((DEPLOY / "manifests.yaml").read_text())
    taken = {str(value) for one in others for value in (one["metadata"].get("annotations") or {}).values()}
    assert len(clients) == 2
    assert not clients & taken


@pytest.mark.parametrize("role", ROLES)
def test_a_server_is_nobody_and_reached_by_tls_alone(role: str) -> None:
    parts = of_server(role)
    pod = parts["Deployment"]["spec"]["template"]["spec"]
    assert pod["serviceAccountName"] == f"mlflow-{role}"
    assert pod["securityContext"]["runAsNonRoot"]
    assert pod["automountServiceAccountToken"] is False
    assert container_of(role)["securityContext"]["readOnlyRootFilesystem"]
    mounts = {mount["name"] for mount in container_of(role)["volumeMounts"]}
    assert mounts == {volume["name"] for volume in pod["volumes"]}
    (tls,), (rule,) = parts["Ingress"]["spec"]["tls"], parts["Ingress"]["spec"]["rules"]
    assert tls["hosts"] == [rule["host"]]
    (source,) = parts["NetworkPolicy"]["spec"]["ingress"][0]["from"]
    assert source["namespaceSelector"]["matchLabels"] == {"kubernetes.io/metadata.name": "app-routing-system"}
    hosts = {one["name"]: one.get("value") for one in container_of(role)["env"]}["MLFLOW_SERVER_ALLOWED_HOSTS"]
    assert rule["host"] in hosts.split(",")
    probes = [container_of(role)[probe]["httpGet"] for probe in ("startupProbe", "readinessProbe", "livenessProbe")]
    assert all(probe["httpHeaders"][0]["value"] in hosts.split(",") for probe in probes)


def test_the_servers_are_those_that_the_settings_name(tmp_path: Path) -> None:
    (settings,) = [
        one["data"]["many_models.toml"]
        for one in yaml.safe_load_all((DEPLOY / "manifests.yaml").read_text())
        if one["metadata"]["name"] == "many-models-settings"
    ]
    (tmp_path / "many_models.toml").write_text(settings)
    registry = load_settings(tmp_path / "many_models.toml").registry
    for role, url in (("staging", registry.staging), ("production", registry.production)):
        assert url == f"https://{of_server(role)['Ingress']['spec']['rules'][0]['host']}"


def test_the_image_has_what_a_server_with_users_imports() -> None:
    lock = (DEPLOY / "requirements.lock").read_text()
    for package in ("mlflow", "flask-wtf", "psycopg2-binary", "azure-storage-blob", "azure-identity"):
        assert re.search(rf"^{package}==", lock, re.MULTILINE), package
    assert {container_of(role)["image"] for role in ROLES} == {"REGISTRY.azurecr.io/many-models:0.1.0"}


# --- A server, started as the pod starts it -----------------------------------------------------------------------
@pytest.fixture(scope="module")
def production(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """Production's server by its manifest, on PostgreSQL: its URL. Its users are made as mlflow.yaml says."""
    root, port = tmp_path_factory.mktemp("mlflow"), free_port()
    name, *words = container_of("production")["args"]
    assert name == "mlflow"
    swapped = {"--host=0.0.0.0": "--host=127.0.0.1", "--port=5000": f"--port={port}"}
    with running_postgres() as postgres:
        ini = re.search(r"\[mlflow\]\n(?:#  +\S.*\n)+", TEXT)
        assert ini is not None
        users = re.sub(r"(?m)^#\s+", "", ini[0])
        users = re.sub(r"database_uri = .*", f"database_uri = {postgres.new_database()}", users)
        (root / "basic_auth.ini").write_text(users)
        values = {
            "MLFLOW_ARTIFACTS_DESTINATION": str(root / "files"),
            "MLFLOW_AUTH_CONFIG_PATH": str(root / "basic_auth.ini"),
            "MLFLOW_BACKEND_STORE_URI": postgres.new_database(),
            "MLFLOW_FLASK_SERVER_SECRET_KEY": "for this test",
            "MLFLOW_AUTH_ADMIN_PASSWORD": PASSWORDS["admin"],
            "MLFLOW_SERVER_ALLOWED_HOSTS": f"127.0.0.1:{port}",
        }
        fixed = {one["name"]: one["value"] for one in container_of("production")["env"] if "value" in one}
        values = fixed | values
        assert values.keys() == {one["name"] for one in container_of("production")["env"]}
        url = f"http://127.0.0.1:{port}"
        command = ["-m", "mlflow", *(swapped.get(word, word) for word in words)]
        with started(command, root, f"{url}/health", values):
            for user in ("promote", "serve"):
                body = {"username": user, "password": PASSWORDS[user]}
                assert status_of(url, "users/create", body, "admin") == 200
            yield url


def resident(port: int) -> float:
    """MiB of memory of the server that listens at `port`, and of all its processes."""
    (server,) = (
        psutil.Process(one.pid)
        for one in psutil.net_connections("tcp")
        if getattr(one.laddr, "port", 0) == port and one.status == psutil.CONN_LISTEN and one.pid
    )
    first = next(one for one in [server, *server.parents()][::-1] if one.pid == os.getsid(server.pid))
    return sum(one.memory_info().rss for one in [first, *first.children(recursive=True)]) / 2**20


def status_of(url: str, path: str, body: dict[str, Any], user: str = "", host: str = "") -> int:
    """The HTTP status of a call, as curl makes it."""
    request = urllib.request.Request(f"{url}/api/2.0/mlflow/{path}", json.dumps(body).encode())
    request.add_header("Content-Type", "application/json")
    if host:
        request.add_header("Host", host)
    if user:
        login = base64.b64encode(f"{user}:{PASSWORDS[user]}".encode()).decode()
        request.add_header("Authorization", f"Basic {login}")
    try:
        with urllib.request.urlopen(request, timeout=120) as response:
            return response.status
    except urllib.error.HTTPError as error:
        return error.code


def become(monkeypatch: pytest.MonkeyPatch, user: str) -> None:
    monkeypatch.setenv("MANY_MODELS_PRODUCTION_USERNAME", user)
    monkeypatch.setenv("MANY_MODELS_PRODUCTION_PASSWORD", PASSWORDS[user])


def test_production_takes_promotions_releases_and_refuses_training(
    production: str, tmp_path: Path, monkeypatch
) -> None:
    """Training has an account on staging's server alone; the service reads what promotion published."""
    staging = MlflowStaging(f"sqlite:///{tmp_path}/staging.db", str(tmp_path / "staging"))
    trained = staging.register("one", [upload("a", {"s1": "1"})])[0]
    pack = PackUpload("a", staging.files(trained), trained.series)
    become(monkeypatch, "train")
    with pytest.raises(ManyModelsError):
        MlflowProduction(production).publish(draft(None, [pack]))
    become(monkeypatch, "promote")
    release = MlflowProduction(production).publish(draft(None, [pack]))
    become(monkeypatch, "serve")
    live = MlflowProduction(production).live()
    assert live is not None
    assert live.release_id == release.release_id
    with pytest.raises(ManyModelsError):
        MlflowProduction(production).publish(draft(live, [pack]))


def test_a_server_stays_below_its_memory_limit(production: str) -> None:
    """The limit is 2 GiB. MLflow's runners of jobs, which no promotion needs, would take as much again."""
    limit = container_of("production")["resources"]["limits"]["memory"]
    assert limit == "2Gi"
    assert resident(int(production.rpartition(":")[2])) < 0.7 * 2048


def test_who_is_unknown_or_asks_by_another_host_is_refused(production: str) -> None:
    assert status_of(production, "registered-models/create", {"name": "mine"}) == 401
    assert status_of(production, "registered-models/create", {"name": "mine"}, "train") == 401
    assert status_of(production, "users/create", {"username": "x", "password": "y" * 12}, "serve") == 403
    assert status_of(production, "registered-models/create", {"name": "mine"}, "promote", "evil.example.com") == 403
