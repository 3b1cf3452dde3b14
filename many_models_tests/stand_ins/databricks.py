"""Databricks as far as a client sees it: a workspace's OAuth and cluster endpoints on loopback, and a session's module.

Real: Databricks' SDK, which asks for tokens and about the cluster. The module `databricks.connect` is played, since
the package replaces pyspark and its licence is for use with Databricks alone. Rules (pages "Authorize
service principal access with OAuth", "Compute configuration for Databricks Connect", "Databricks Connect usage
requirements"): a token comes for client id and secret by HTTP Basic, with the scope all-apis; a cluster tells its
runtime to who may attach to it; a session needs a cluster's id and an accepted login. databricks-connect only warns of
a client that is newer than the runtime.
"""

from __future__ import annotations

import base64
import sys
import urllib.parse
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from importlib import metadata
from types import ModuleType, SimpleNamespace
from typing import TYPE_CHECKING

from many_models_tests.support.running_server import JsonHandler, serving

if TYPE_CHECKING:
    from collections.abc import Generator

    import pytest

CLIENT, SECRET, CLUSTER, TOKEN = "5a1e-principal", "dose-secret", "1129-094512-abc", "oauth-token"


@dataclass
class Workspace:
    """A workspace with one cluster; `trouble` is what the cluster answers instead of a session, `may_attach` whether it
    is our service principal's, and `beside` whether pyspark lies beside databricks-connect.
    """

    host: str = ""
    runtime: str = "15.4.x-scala2.12"
    client: str = "15.4.26"
    trouble: str = ""
    may_attach: bool = True
    beside: bool = False
    tokens: int = 0
    sessions: int = 0
    settings: dict[str, str] = field(default_factory=dict[str, str])

    def session(self, config) -> SimpleNamespace:
        """What DatabricksSession's builder gives for the SDK's `config`. The cluster is asked at the first request."""
        if not config.cluster_id:
            raise ValueError("Cluster id or serverless are required but were not specified.")
        self.sessions += 1
        return SimpleNamespace(conf=SimpleNamespace(set=lambda name, value: self._set(config, name, value)))

    def _set(self, config, name: str, value: str) -> None:
        if config.authenticate() != {"Authorization": f"Bearer {TOKEN}"}:
            raise RuntimeError("UNAUTHENTICATED: Invalid access token")
        if self.trouble:
            raise RuntimeError(self.trouble)
        self.settings[name] = value

    def cluster(self, asked: str, login: str) -> tuple[int, dict[str, str]]:
        """The answer of /api/2.1/clusters/get."""
        if login != f"Bearer {TOKEN}":
            return 401, {"error_code": "UNAUTHENTICATED", "message": "Invalid access token"}
        if asked != CLUSTER:
            return 400, {"error_code": "INVALID_PARAMETER_VALUE", "message": f"Cluster {asked} does not exist"}
        if not self.may_attach:
            told = f"{CLIENT} does not have Attach permissions on {asked}"
            return 403, {"error_code": "PERMISSION_DENIED", "message": told}
        return 200, {"cluster_id": asked, "spark_version": self.runtime, "state": "RUNNING"}


@contextmanager
def endpoints() -> Generator[Workspace]:
    """A workspace that answers while the block runs."""
    place = Workspace()
    with serving(ThreadingHTTPServer(("127.0.0.1", 0), _handler(place))) as server:
        place.host = f"http://127.0.0.1:{server.server_port}"
        yield place


@contextmanager
def workspace(patch: pytest.MonkeyPatch) -> Generator[Workspace]:
    """A workspace whose session `databricks.connect` makes while the block runs."""
    module, version, distribution = ModuleType("databricks.connect"), metadata.version, metadata.distribution

    def config_of(config) -> SimpleNamespace:
        return SimpleNamespace(getOrCreate=lambda: place.session(config))

    def found(name: str) -> metadata.Distribution:
        if name == "pyspark" and not place.beside:
            raise metadata.PackageNotFoundError(name)
        return distribution(name)

    module.DatabricksSession = SimpleNamespace(builder=SimpleNamespace(sdkConfig=config_of))  # type: ignore[attr-defined]
    with endpoints() as place:
        patch.setitem(sys.modules, "databricks.connect", module)
        patch.setattr(metadata, "version", lambda name: place.client if name == "databricks-connect" else version(name))
        patch.setattr(metadata, "distribution", found)
        yield place


def _handler(place: Workspace) -> type[JsonHandler]:
    class Handler(JsonHandler, BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            asked = urllib.parse.urlsplit(self.path)
            if asked.path == "/.well-known/databricks-config":  # which newer versions of the SDK ask first
                return self.tell(200, {"oidc_endpoint": f"{place.host}/oidc"})
            if asked.path == "/oidc/.well-known/oauth-authorization-server":
                ends = ("authorization", "token")
                return self.tell(200, {f"{name}_endpoint": f"{place.host}/oidc/v1/{name}" for name in ends})
            if asked.path == "/api/2.1/clusters/get":
                (cluster,) = urllib.parse.parse_qs(asked.query)["cluster_id"]
                return self.tell(*place.cluster(cluster, self.headers.get("Authorization", "")))
            return self.tell(404, {})

        def do_POST(self) -> None:
            asked = urllib.parse.parse_qs(self.rfile.read(int(self.headers["Content-Length"])).decode())
            login = "Basic " + base64.b64encode(f"{CLIENT}:{SECRET}".encode()).decode()
            if self.path != "/oidc/v1/token":
                return self.tell(404, {})
            if asked.get("grant_type") != ["client_credentials"] or self.headers.get("Authorization") != login:
                return self.tell(401, {"error": "invalid_client", "error_description": "Client authentication failed"})
            if asked.get("scope") != ["all-apis"]:
                return self.tell(400, {"error": "invalid_scope", "error_description": "Unknown scope"})
            place.tokens += 1
            return self.tell(200, {"access_token": TOKEN, "token_type": "Bearer", "expires_in": 3600})

    return Handler
