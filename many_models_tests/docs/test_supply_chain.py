"""What is installed is what was locked: versions with hashes, and never the product by its name from an index."""

import re
import tomllib
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from packaging.version import Version

ROOT = Path(__file__).resolve().parents[2]
LOCKS = ["requirements.lock", "deploy/kubernetes/requirements.lock", "deploy/serving/requirements.lock"]
OTHERS = ["deploy/compute/azureml/runner.lock", "deploy/serving/azureml/requirements.lock"]  # with their own tests
INSTALLING = ["Makefile", ".ci/run", "deploy/azure-pipelines.yml", "deploy/kubernetes/Dockerfile",
              "deploy/serving/Dockerfile", "deploy/compute/azureml/Dockerfile",
              "deploy/serving/azureml/Dockerfile"]  # fmt: skip
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())


def entries(lock: str) -> dict[str, tuple[Requirement, frozenset[str]]]:
    """`name==version ; marker` → the requirement and its hashes."""
    text = (ROOT / lock).read_text().replace("\\\n", " ")
    found = {}
    for line in text.splitlines():
        if line.startswith("#"):
            continue
        wanted, *hashes = re.split(r"\s+--hash=", line.strip())
        found[wanted] = (Requirement(wanted), frozenset(hashes))
    return found


@pytest.mark.parametrize("lock", [*LOCKS, *OTHERS])
def test_a_lock_file_holds_versions_and_hashes_and_no_addresses(lock: str) -> None:
    assert "://" not in (ROOT / lock).read_text()
    for wanted, (requirement, hashes) in entries(lock).items():
        assert re.fullmatch(r"==[^*,]+", str(requirement.specifier)), wanted
        assert hashes, wanted
        assert all(re.fullmatch(r"sha256:[0-9a-f]{64}", each) for each in hashes), wanted
    assert "make lock" in (ROOT / lock).read_text().splitlines()[1]


@pytest.mark.parametrize("lock", LOCKS[1:])
def test_an_image_has_the_versions_that_are_tested(lock: str) -> None:
    tested = {wanted.partition(" ")[0]: hashes for wanted, (_, hashes) in entries(LOCKS[0]).items()}
    for wanted, (_, hashes) in entries(lock).items():
        assert tested.get(wanted.partition(" ")[0]) == hashes, wanted


def extra(*names: str) -> list[str]:
    """The product's requirements with some extras."""
    wanted = PROJECT["project"]
    return [*wanted["dependencies"], *(line for name in names for line in wanted["optional-dependencies"][name])]


@pytest.mark.parametrize(("lock", "wanted"), [
    (LOCKS[0], [*extra(*PROJECT["project"]["optional-dependencies"]), *PROJECT["dependency-groups"]["dev"],
                *PROJECT["build-system"]["requires"]]),
    (LOCKS[1], extra("alerts", "azure", "azureml", "k8s", "mlflow-server", "postgres", "powerbi", "serve", "spark",
                     "telemetry")),
    (LOCKS[2], extra("azure", "serve", "telemetry")),
])  # fmt: skip
def test_a_lock_file_is_up_to_date_with_the_project(lock: str, wanted: list[str]) -> None:
    locked = {canonicalize_name(held.name): str(held.specifier)[2:] for held, _ in entries(lock).values()}
    for line in wanted:
        requirement = Requirement(line)
        name = canonicalize_name(requirement.name)
        assert name in locked, f"{line} is not in {lock}: make lock"
        assert requirement.specifier.contains(Version(locked[name]), prereleases=True), f"{line}: make lock"


@pytest.mark.parametrize("name", INSTALLING)
def test_every_install_is_by_hash_or_of_the_wheel_that_was_built(name: str) -> None:
    text = re.sub(r"\\\n\s*", " ", (ROOT / name).read_text())
    installs = re.findall(r"(?m)^(?!\s*#).*?\b(pip (?:install|sync)\b.*?)(?:&&|$)", text)
    assert installs or name == ".ci/run"  # which runs make
    for line in installs:
        of_ours = "--no-deps" in line and ("--no-index" in line or "--no-build-isolation" in line)
        assert "--require-hashes" in line or of_ours, line


BY_NAME = re.compile(r"(^\s*|- |pip install [^#]*?)['\"]?many[-_]models(\[[\w,]+\])?\s*['\"]?(==|>=|~=|$)")


def test_no_file_asks_an_index_for_the_product() -> None:
    """By its bare name pip asks a public index, where anybody may register it: a path or an address says which file."""
    kinds = {".yml", ".yaml", ".in", ".lock", ".toml", ".bicep", ".md", ""}
    files = [path for path in (ROOT / "deploy").rglob("*") if path.is_file() and path.suffix in kinds]
    files += [ROOT / name for name in (*INSTALLING, *LOCKS, *OTHERS)]
    asked = [(path.name, line) for path in files for line in path.read_text().splitlines() if BY_NAME.search(line)]
    assert not asked


@pytest.mark.parametrize("line", [
    "      - many_models[serve]==0.1.0",
    "    && pip install --quiet many_models",
    "RUN pip install --extra-index-url https://feed 'many-models[azure]==0.1.0'",
    "many-models>=0.1",
])  # fmt: skip
def test_a_planted_request_by_name_is_found(line: str) -> None:
    assert BY_NAME.search(line)


# --- base images ---
NO_DIGEST = "no registry of images is reached where this is written; whoever builds gives the digest of that day"
UNPINNED = {
    "deploy/kubernetes/Dockerfile": ("python:3.12-slim", NO_DIGEST),
    "deploy/serving/Dockerfile": ("python:3.12-slim", NO_DIGEST),
    "deploy/serving/azureml/Dockerfile": ("python:3.11-slim", NO_DIGEST),
    "deploy/compute/azureml/Dockerfile": ("mcr.microsoft.com/azureml/openmpi4.1.0-ubuntu22.04:latest", NO_DIGEST),
}
"""Dockerfile → the one base image that it may name without a digest, and why."""


def unpinned(text: str) -> set[str]:
    """The images that a Dockerfile builds on and does not name by digest; stages of its own are none."""
    arguments = dict(re.findall(r"(?m)^ARG\s+(\w+)=(\S+)", text))
    stages = set(re.findall(r"(?mi)^FROM\s.*\sAS\s+(\S+)", text))
    found = set[str]()
    for image in re.findall(r"(?mi)^FROM\s+(?:--\S+\s+)*(\S+)", text):
        named = re.sub(r"\$\{?(\w+)\}?", lambda name: arguments.get(name[1], name[0]), image)
        if named not in {*stages, "scratch"} and not re.search(r"@sha256:[0-9a-f]{64}$", named):
            found.add(named)
    return found


def test_a_base_image_has_a_digest_or_a_reason() -> None:
    folders = [folder for folder in ROOT.iterdir() if folder.is_dir() and folder.name != ".venv"]
    files = [path for folder in folders for path in folder.rglob("*Dockerfile*") if path.is_file()]
    assert {str(path.relative_to(ROOT)) for path in files} >= set(UNPINNED)
    for path in files:
        allowed = UNPINNED.get(str(path.relative_to(ROOT)))
        text = path.read_text()
        assert unpinned(text) == ({allowed[0]} if allowed else set()), path
        assert not allowed or "imagetools inspect" in text, f"{path} does not say how to pin it"


@pytest.mark.parametrize(("text", "found"), [
    ("FROM python:3.12", {"python:3.12"}),
    ("ARG A=python:3.12\nFROM ${A} AS build\nFROM build", {"python:3.12"}),
    ("ARG A=python:3.12\nFROM --platform=linux/amd64 $A", {"python:3.12"}),
    ("FROM $GIVEN", {"$GIVEN"}),
    ("FROM python@sha256:" + 64 * "a", set()),
    ("FROM python@sha256:" + 63 * "a", {"python@sha256:" + 63 * "a"}),
    ("FROM scratch", set()),
])  # fmt: skip
def test_a_planted_base_image_without_a_digest_is_found(text: str, found: set[str]) -> None:
    assert unpinned(text) == found
