"""docs/azure-start.md: every command's syntax, options, files and names."""

from __future__ import annotations

import re
import shlex
import subprocess
from pathlib import Path

import pytest

from many_models.cli.main import main

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs/azure-start.md").read_text()
BLOCKS = re.findall(r"^```sh\n(.*?)^```$", PAGE, re.MULTILINE | re.DOTALL)
COMMANDS = [line for block in BLOCKS for line in block.splitlines()]
OPTIONS = {  # of each program's reference, as far as the page may use them
    "az login": "",
    "az group create": "--name --location",
    "az bicep build": "--file",
    "az deployment group create": "--resource-group --template-file --parameters --name",
    "az deployment group show": "--resource-group --name --query",
    "az acr login": "--name",
    "az aks get-credentials": "--resource-group --name",
    "az ml online-endpoint create": "--resource-group --workspace-name --file --name",
    "az ml online-deployment create": "--resource-group --workspace-name --file --all-traffic --name",
    "az ml online-endpoint invoke": "--resource-group --workspace-name --name --request-file",
    "az pipelines create": "--name --yml-path --repository --branch",
    "docker build": "--file --tag",
    "docker push": "",
    "kubectl create namespace": "",
    "kubectl apply": "--namespace --filename",
    "kubectl exec": "--namespace",
    "helm repo add": "",
    "helm upgrade": "--install --version --namespace --values",
    "curl": "--fail --header --data",
    "make wheel": "",
    "many-models": "--check",
}
MADE = {"request.json"}  # by the reader


def mistakes(command: str) -> list[str]:
    """What is wrong with a line of the page."""
    if subprocess.run(["bash", "-n", "-c", command], capture_output=True, check=False).returncode:
        return ["bash cannot parse it"]
    words = shlex.split(command)
    name = next((known for known in OPTIONS if words[: len(known.split())] == known.split()), "")
    if not name:
        return [f"unknown command {words[:3]}"]
    outside, _, inside = command.partition(" -- ")
    found = [f"no option {word}" for word in shlex.split(outside) if word.startswith("--")
             and word not in OPTIONS[name].split()]  # fmt: skip
    ours = (inside or command).split("many-models ")[1:] if "many-models " in (inside or command) else []
    if name in {"many-models", "kubectl exec"}:
        found += [f"no command {text.split()[0]}" for text in ours if text.split()[0] not in main.commands]
    files = [
        word for word in words if re.fullmatch(r"[\w./-]+\.(bicep|bicepparam|ya?ml|json)|deploy/\S+Dockerfile", word)
    ]
    return found + [f"no file {file}" for file in files if file not in MADE and not (ROOT / file).is_file()]


@pytest.mark.parametrize("command", COMMANDS)
def test_a_command_of_the_page_is_right(command: str) -> None:
    assert mistakes(command) == []


@pytest.mark.parametrize(
    ("command", "said"),
    [
        ("az group create --nam GROUP", "no option --nam"),
        ("az groups create", "unknown command"),
        ("az bicep build --file deploy/azure/bicep/mein.bicep", "no file deploy/azure/bicep/mein.bicep"),
        ("many-models statuus --check", "no command statuus"),
        ("kubectl exec --namespace x deploy/y -- many-models ran", "no command ran"),
        ("curl --fail 'https://x", "bash cannot parse it"),
    ],
)
def test_a_planted_mistake_is_found(command: str, said: str) -> None:
    assert any(said in one for one in mistakes(command))


def test_the_page_links_files_that_are_there_and_the_charts_version() -> None:
    links = re.findall(r"\]\(\.\./([^)#]+)\)", PAGE)
    assert links
    assert [link for link in links if not (ROOT / link).exists()] == []
    version = re.findall(r"--version (\S+)", PAGE)
    assert version == re.findall(r"--version (\S+)", (ROOT / "deploy/kubernetes/values.yaml").read_text())
