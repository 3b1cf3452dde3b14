"""Databricks as far as a client sees it: the workspace's OAuth endpoints on loopback, and databricks-connect's session.

Real: Databricks' SDK, which asks for the tokens. The module `databricks.connect` is played, since the package replaces
pyspark. Rules (pages "Authorize service principal access with OAuth", "Compute configuration for Databricks Connect",
"Databricks Connect usage requirements"): a token comes for client id and secret by HTTP Basic; a session needs a
cluster's id and a login that is accepted; a client that is newer than the runtime is refused.
"""

from __future__ import annotations

import base64
import json
import sys
import threading
import urllib.parse
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from importlib import metadata
from types import ModuleType, SimpleNamespace
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator

    import pytest

CLIENT, SECRET, CLUSTER, TOKEN = "5a1e-principal", "dose-secret", "1129-094512-abc", "oauth-token"


@dataclass
class Workspace:
    """A workspace with one cluster; `trouble` is what the cluster answers instead of a session."""

    host: str = ""
    runtime: str = "15.4.x-scala2.12"
    client: str = "15.4.26"
    trouble: str = ""
    tokens: int = 0
    settings: dict[str, str] = field(default_factory=dict[str, str])

    def session(self, config) -> SimpleNamespace:
        """What DatabricksSession's builder gives for the SDK's `config`."""
        if not config.cluster_id:
            raise ValueError("Cluster id or serverless are required but were not specified.")
        if config.cluster_id != CLUSTER:
            raise RuntimeError(f"NOT_FOUND: Cluster {config.cluster_id} does not exist")
        if config.authenticate() != {"Authorization": f"Bearer {TOKEN}"}:
            raise RuntimeError("UNAUTHENTICATED: Invalid access token")
        if self.trouble:
            raise RuntimeError(self.trouble)
        numbers = [tuple(map(int, version.split(".")[:2])) for version in (self.client, self.runtime)]
        if numbers[0] > numbers[1]:
            short = ".".join(self.runtime.split(".")[:2])
            raise RuntimeError(
                "Unsupported combination of Databricks Runtime & Databricks Connect versions: "
                f"{short} (Databricks Runtime) < {self.client} (Databricks Connect)."
            )
        values = {"spark.databricks.clusterUsageTags.sparkVersion": self.runtime}
        return SimpleNamespace(conf=SimpleNamespace(get=values.__getitem__, set=self.settings.__setitem__))


@contextmanager
def workspace(patch: pytest.MonkeyPatch) -> Iterator[Workspace]:
    """A workspace whose session `databricks.connect` makes while the block runs."""
    place = Workspace()
    server = ThreadingHTTPServer(("127.0.0.1", 0), _handler(place))
    place.host = f"http://127.0.0.1:{server.server_address[1]}"
    threading.Thread(target=server.serve_forever, daemon=True).start()
    module, real = ModuleType("databricks.connect"), metadata.version

    def config_of(config) -> SimpleNamespace:
        return SimpleNamespace(getOrCreate=lambda: place.session(config))

    module.DatabricksSession = SimpleNamespace(builder=SimpleNamespace(sdkConfig=config_of))  # type: ignore[attr-defined]
    patch.setitem(sys.modules, "databricks.connect", module)
    patch.setattr(metadata, "version", lambda name: place.client if name == "databricks-connect" else real(name))
    try:
        yield place
    finally:
        server.shutdown()
        server.server_close()


def _handler(place: Workspace) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        def log_message(self, *_: object) -> None:
            pass

        def answer(self, status: int, body: dict[str, object]) -> None:
            content = json.dumps(body).encode()
            self.send_response(status)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(content)))
            self.end_headers()
            self.wfile.write(content)

        def do_GET(self) -> None:
            if self.path == "/.well-known/databricks-config":  # which newer versions of the SDK ask first
                return self.answer(200, {"oidc_endpoint": f"{place.host}/oidc"})
            if self.path == "/oidc/.well-known/oauth-authorization-server":
                ends = {f"{name}_endpoint": f"{place.host}/oidc/v1/{name}" for name in ("authorization", "token")}
                return self.answer(200, dict(ends))
            return self.answer(404, {})

        def do_POST(self) -> None:
            asked = urllib.parse.parse_qs(self.rfile.read(int(self.headers["Content-Length"])).decode())
            login = "Basic " + base64.b64encode(f"{CLIENT}:{SECRET}".encode()).decode()
            if asked.get("grant_type") != ["client_credentials"] or self.headers.get("Authorization") != login:
                told = {"error": "invalid_client", "error_description": "Client authentication failed"}
                return self.answer(401, dict(told))
            place.tokens += 1
            return self.answer(200, {"access_token": TOKEN, "token_type": "Bearer", "expires_in": 3600})

    return Handler
