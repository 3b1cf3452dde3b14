"""Data Factory's management endpoint on loopback, as far as the product calls it: it proves the wire, no more."""

from __future__ import annotations

import json
import re
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import TYPE_CHECKING, Any

from azure.core.credentials import AccessToken
from azure.core.pipeline.policies import SansIOHTTPPolicy
from azure.mgmt.datafactory import DataFactoryManagementClient

from many_models_tests.support.running_server import JsonHandler, serving

if TYPE_CHECKING:
    from collections.abc import Callable, Generator

PLACE = "/subscriptions/sub/resourceGroups/rg/providers/Microsoft.DataFactory/factories/adf"


class Token:
    """A credential that the fake accepts."""

    def get_token(self, *_: str, **__: object) -> AccessToken:
        return AccessToken("token", 2**31)


class PlainBearer(SansIOHTTPPolicy):
    """The bearer token over plain HTTP, which the client's own policy refuses."""

    def on_request(self, request: Any) -> None:
        request.http_request.headers["Authorization"] = "Bearer token"


@dataclass
class Run:
    run_id: str
    parameters: dict[str, str]
    status: str = "InProgress"
    looks: int = 0
    activity: dict[str, Any] | None = None


@dataclass
class FakeDataFactory:
    """`ends` says how a run ends after `looks` looks at it; a `status` is what every request is answered with."""

    url: str = ""
    looks: int = 2
    ends: Callable[[Run], str] = field(default=lambda _run: "Succeeded")
    status: int = 0
    runs: list[Run] = field(default_factory=list)
    cancelled: list[str] = field(default_factory=list)

    def client(self) -> DataFactoryManagementClient:
        return DataFactoryManagementClient(
            Token(),
            "sub",
            base_url=self.url,
            authentication_policy=PlainBearer(),
            retry_total=1,
            retry_backoff_factor=0,
        )

    def answer(self, method: str, path: str, body: dict[str, Any]) -> tuple[int, object]:
        if self.status:
            return self.status, {"error": {"code": "Planted", "message": "planted"}}
        if not path.startswith(PLACE):
            return 404, {"error": {"code": "ResourceNotFound", "message": "no such factory"}}
        rest = path[len(PLACE) :]
        if rest == "/pipelines/ingest" and method == "GET":
            return 200, {"name": "ingest", "properties": {"activities": []}}
        if rest == "/pipelines/ingest/createRun":
            self.runs.append(Run(f"run-{len(self.runs) + 1}", body))
            return 200, {"runId": self.runs[-1].run_id}
        if rest == "/queryPipelineRuns":
            return 200, {"value": [self.shown(run) for run in self.runs if run.status == "InProgress"]}
        if found := re.fullmatch(r"/pipelineruns/([^/]+)(/cancel|/queryActivityruns)?", rest, re.IGNORECASE):
            run = next(run for run in self.runs if run.run_id == found[1])
            if found[2] == "/cancel":
                self.cancelled.append(run.run_id)
                return 200, {}
            if found[2]:
                return 200, {"value": [run.activity] if run.activity else []}
            run.looks += 1
            run.status = self.ends(run) if run.looks > self.looks else "InProgress"
            return 200, self.shown(run)
        return 404, {"error": {"code": "PipelineNotFound", "message": f"no {rest}"}}

    @staticmethod
    def shown(run: Run) -> dict[str, object]:
        return {
            "runId": run.run_id,
            "pipelineName": "ingest",
            "parameters": run.parameters,
            "status": run.status,
            "durationInMs": 1000,
            "message": "the run's own message",
            "lastUpdated": datetime.now(UTC).isoformat(),
        }


@contextmanager
def data_factory() -> Generator[FakeDataFactory]:
    """The factory `adf` with the pipeline `ingest`, until the block ends."""
    fake = FakeDataFactory()

    class Handler(JsonHandler, BaseHTTPRequestHandler):
        def _any(self) -> None:
            body = self.rfile.read(int(self.headers.get("content-length") or 0))
            assert self.headers["Authorization"] == "Bearer token"
            self.tell(*fake.answer(self.command, self.path.split("?")[0], json.loads(body or b"{}")))

        do_GET = do_POST = _any  # noqa: N815  http.server's names

    with serving(ThreadingHTTPServer(("127.0.0.1", 0), Handler)) as server:
        fake.url = f"http://127.0.0.1:{server.server_port}"
        yield fake
