"""deploy/azure/bicep: parsed, names declared, modules given what they need, roles as the README says."""

from __future__ import annotations

import re
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import yaml
from pycep import BicepParser

ROOT = Path(__file__).parents[2]
BICEP = ROOT / "deploy" / "azure" / "bicep"
FILES = sorted(BICEP.glob("*.bicep"))
ROLES = {  # Azure built-in roles: the id is the same in every tenant
    "ba92f5b4-2d11-453d-a403-e96b0029c9fe": "Storage Blob Data Contributor",
    "2a2b9908-6ea1-4ae2-8e65-a410df84e7d1": "Storage Blob Data Reader",
    "673868aa-7521-48a0-acc6-0f60742d39f5": "Data Factory Contributor",
    "4633458b-17de-408a-b874-0445c86b69e6": "Key Vault Secrets User",
    "f6c7c914-8db3-469d-8ca1-694a8f32e121": "AzureML Data Scientist",
    "7f951dda-4ed3-4680-a7ca-43fe172d538d": "AcrPull",
    "8311e382-0749-4cb8-b61a-304f252e45ec": "AcrPush",
    "4d97b98b-1d4f-4787-a291-c67834d212e7": "Network Contributor",
}
KEYWORDS = {"for", "in", "if", "true", "false", "null", "existing", "param", "var", "resource", "module", "output",
            "string", "bool", "array", "object", "int", "targetScope"}  # fmt: skip
FUNCTIONS = {"resourceGroup", "subscription", "environment", "uniqueString", "take", "guid", "subscriptionResourceId",
             "description", "allowed", "minLength", "maxLength", "union"}  # fmt: skip


@cache
def parser() -> BicepParser:
    return BicepParser()


@cache
def parsed(path: Path) -> dict[str, Any]:
    return parser().parse(text=path.read_text())


def code(path: Path) -> str:
    """The file without comments, and of its texts only what they insert."""
    text = re.sub(r"(?m)(^|\s)//.*$", "", path.read_text())
    return re.sub(r"'(?:\\.|[^'\\])*'", lambda found: " ".join(re.findall(r"\$\{([^}]*)\}", found[0])), text)


def undeclared(path: Path) -> set[str]:
    """Names that stand alone or before a dot, and that nothing in the file declares."""
    text, found = code(path), parsed(path)
    declared = {name for part in ("parameters", "variables", "resources", "modules") for name in found.get(part, {})}
    declared |= set(re.findall(r"\bfor (\w+) in", text))
    declared |= {name for pair in re.findall(r"\bfor \((\w+), (\w+)\) in", text) for name in pair}
    used = set(re.findall(r"(?<![\w.])([A-Za-z_]\w*)\b", re.sub(r"(?m)^\s*\w+:", " ", text)))
    return used - declared - KEYWORDS - FUNCTIONS - set(re.findall(r"(?m)^output (\w+)", text))


@pytest.mark.slow
@pytest.mark.parametrize("path", FILES, ids=lambda path: path.name)
def test_every_file_is_parsed_and_every_name_is_declared(path: Path) -> None:
    assert parsed(path).keys() & {"resources", "modules"}
    assert undeclared(path) == set()


def test_a_name_that_nothing_declares_is_noticed(tmp_path: Path) -> None:
    broken = tmp_path / "broken.bicep"
    text = (BICEP / "sql.bicep").read_text()
    broken.write_text(text.replace("location: location", "location: place", 1))
    assert undeclared(broken) == {"place"}
    with pytest.raises(Exception, match="Unexpected"):
        parser().parse(text=text.replace("properties: {", "properties {", 1))


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.name)
def test_modules_are_given_exactly_the_parameters_that_they_have(path: Path) -> None:
    text = path.read_text()
    blocks = re.findall(r"(?ms)^module (\w+) '([\w.]+)' = .*?^  params: \{\n(.*?)^  \}", text)
    assert {name for name, *_ in blocks} == set(parsed(path).get("modules", {}))
    for name, file, given in blocks:
        wanted = parsed(BICEP / file)["parameters"]
        assert set(re.findall(r"(?m)^    (\w+):", given)) == set(wanted), name
    outputs = re.findall(r"\b(\w+)\.outputs\.(\w+)", text)
    files = {name: file for name, file, _ in blocks}
    for name, output in outputs:
        assert output in parsed(BICEP / files[name]).get("outputs", {}), (name, output)


def test_the_example_gives_every_parameter_without_a_default() -> None:
    text = (BICEP / "main.bicepparam").read_text()
    given = set(re.findall(r"(?m)^param (\w+) =", text))
    main = (BICEP / "main.bicep").read_text()
    required = set(re.findall(r"(?m)^param (\w+) \w+$", main))
    assert required <= given <= set(parsed(BICEP / "main.bicep")["parameters"])


def test_the_roles_are_those_that_the_readme_names() -> None:
    """Each role that is granted is in the README's table, and each of the table that storage can have is granted."""
    table = (ROOT / "README.md").read_text().partition("## On Azure")[2].partition("\n## ")[0]
    granted = {role for path in FILES for role in re.findall(r"'([0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12})'",
                                                             path.read_text())}  # fmt: skip
    assert granted == set(ROLES)
    assert {name for name in ROLES.values() if name not in table} == set()
    for path in FILES:
        for role, said in re.findall(r"'([0-9a-f-]{36})' // (.+)", path.read_text()):
            assert ROLES[role] == said, path.name


CLOSED = {  # what holds data, models or images, and the parts of it by which it is reached
    "Microsoft.Storage/storageAccounts": {"dfs", "blob"},
    "Microsoft.KeyVault/vaults": {"vault"},
    "Microsoft.Sql/servers": {"sqlServer"},
    "Microsoft.Synapse/workspaces": {"Sql", "SqlOnDemand"},
    "Microsoft.ContainerRegistry/registries": {"registry"},
    "Microsoft.MachineLearningServices/workspaces": {"amlworkspace"},
}
WORKSPACES_FILES = {"blob", "file"}  # a workspace's own account has no folders
SWITCH = "publicNetworkAccess: privateEndpoints ? 'Disabled' : 'Enabled'"
DENY = "defaultAction: privateEndpoints ? 'Deny' : 'Allow'"


def open_doors(text: str) -> list[str]:
    """What of a file's services stays open to the internet, or has no endpoint, when `privateEndpoints` is true."""
    services = re.findall(r"(?ms)^resource (\w+) '([\w./]+)@[\w-]+' = \{\n(.*?)^\}", text)
    endpoints = re.findall(r"(?ms)^module \w+ 'endpoint.bicep' = if \(privateEndpoints\) \{\n(.*?)^\}", text)
    found: list[str] = []
    for name, kind, body in services:
        if kind not in CLOSED:
            continue
        parts = WORKSPACES_FILES if "Storage" in kind and "isHnsEnabled" not in body else CLOSED[kind]
        has = {re.findall(r"part: '(\w+)'", one)[0] for one in endpoints if f"serviceId: {name}.id" in one}
        found += [f"{name} has no endpoint {part}" for part in sorted(parts - has)]
        found += [f"{name} is open"] if SWITCH not in body else []
        found += [f"{name} has no rule"] if kind.endswith(("storageAccounts", "vaults")) and DENY not in body else []
    return found


def test_every_service_is_closed_and_has_its_endpoints_by_the_switch() -> None:
    kinds = {kind for path in FILES for kind in re.findall(r"'(Microsoft\.\w+/\w+)@[\w-]+' = \{", path.read_text())}
    assert kinds >= CLOSED.keys()
    assert {path.name: doors for path in FILES if (doors := open_doors(path.read_text()))} == {}
    assert SWITCH in (BICEP / "factory.bicep").read_text()  # its endpoints are managed ones, made and approved by hand


def test_an_open_door_is_noticed() -> None:
    text = (BICEP / "workspace.bicep").read_text()
    assert open_doors(text.replace(SWITCH, "")) == ["files is open", "vault is open", "workspace is open"]
    assert open_doors(text.replace(DENY, "")) == ["files has no rule", "vault has no rule"]
    assert open_doors(text.replace("part: 'amlworkspace'", "part: 'x'")) == ["workspace has no endpoint amlworkspace"]


def test_every_endpoints_names_are_in_a_zone_of_the_network() -> None:
    """And AKS' nodes are in the network, so that they find the endpoints; a workspace's compute has its own ones."""
    wanted = {zone for path in FILES for zones in re.findall(r"zones: \[(.*)\]", path.read_text())
              for zone in re.findall(r"'[^']*'", zones)}  # fmt: skip
    network = (BICEP / "network.bicep").read_text()
    assert wanted == set(re.findall(r"(?m)^  ('privatelink.*')$", network))
    cluster = (BICEP / "kubernetes.bicep").read_text()
    (subnet,) = re.findall(r"networkName\}/(\w+)'", cluster)
    assert f"name: '{subnet}'" in network
    assert len(re.findall(r"union\(subnet, \{", cluster)) == len(re.findall(r"vmSize:", cluster))
    reached = set(re.findall(r"subresourceTarget: '(\w+)'", (BICEP / "workspace.bicep").read_text()))
    assert reached == {"dfs", "blob", "registry"}
    assert "Premium" in blocks("images", "Microsoft.ContainerRegistry/registries")["registry"]


def test_no_file_holds_a_secret_and_storage_takes_no_account_keys() -> None:
    for path in FILES:
        assert not re.search(r"(?i)(password|accountKey|secret|Pwd)\s*[:=]\s*'", path.read_text()), path.name
    assert "allowSharedKeyAccess: false" in (BICEP / "storage.bicep").read_text()


def blocks(name: str, kind: str) -> dict[str, str]:
    """The text of each resource of `kind`, by its name in the file."""
    text = (BICEP / f"{name}.bicep").read_text()
    return dict(re.findall(rf"(?ms)^resource (\w+) '{kind}@.*?' = (.*?)^\}}", text))


def test_training_has_no_role_on_production_and_serving_only_reads_it() -> None:
    roles = blocks("registries", "Microsoft.Authorization/roleAssignments")
    on_production = {name: text for name, text in roles.items() if "scope: production" in text}
    assert len(on_production) == 2
    assert not any("trainId" in text for text in on_production.values())
    (serving,) = [text for text in roles.values() if "serveId" in text]
    assert "dataReader" in serving
    assert "dataContributor" not in serving
    main = (BICEP / "main.bicep").read_text()
    writers = dict(re.findall(r"role: '(\w+)'.*?writerIds: \[(.*?)\]", main, re.DOTALL))
    assert writers.keys() == {"staging", "production"}
    assert "trainId" not in writers["production"]


def test_federated_identities_are_those_of_the_manifests_and_the_pipeline() -> None:
    """A service account of deploy/kubernetes for each, and a service connection of azure-pipelines.yml."""
    kubernetes = (BICEP / "kubernetes.bicep").read_text()
    subjects = set(re.findall(r"subject: 'system:serviceaccount:forecasting:([\w-]+)'", kubernetes))
    manifests = yaml.safe_load_all((ROOT / "deploy/kubernetes/manifests.yaml").read_text())
    assert subjects == {one["metadata"]["name"] for one in manifests if one["kind"] == "ServiceAccount"}
    for need in ("oidcIssuerProfile", "workloadIdentity", "webAppRouting", "azureKeyvaultSecretsProvider"):
        assert re.search(rf"{need}: \{{\n\s+enabled: true", kubernetes), need
    pipeline = (ROOT / "deploy/azure-pipelines.yml").read_text()
    named = set(re.findall(r"service connection (many-models-\w+)", (BICEP / "identities.bicep").read_text()))
    assert named == set(re.findall(r"azureSubscription: (\S+)", pipeline))
    credentials = blocks("identities", "Microsoft.ManagedIdentity/userAssignedIdentities/federatedIdentityCredentials")
    assert all("api://AzureADTokenExchange" in text for text in credentials.values())
    assert {re.findall(r"parent: (\w+)", text)[0] for text in credentials.values()} == {"promote", "images"}


def test_the_container_registry_has_no_password_and_a_workspace_its_own_storage() -> None:
    assert "adminUserEnabled: false" in (BICEP / "images.bicep").read_text()
    workspace = (BICEP / "workspace.bicep").read_text()
    assert "isHnsEnabled" not in workspace  # a workspace takes no account with folders as its own
    from many_models.settings import RegistrySettings

    assert f"name: '{RegistrySettings().datastore}'" in workspace
