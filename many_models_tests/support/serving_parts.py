"""What the tests of the service share: a trained pack, a production registry that can fail, an app that is asked."""

from __future__ import annotations

import asyncio
import threading
import time
from collections import Counter
from contextlib import asynccontextmanager, contextmanager
from dataclasses import replace
from functools import cache
from typing import TYPE_CHECKING, Any

import httpx
import numpy as np

from many_models.adapters.registry.memory import MemoryProduction
from many_models.adapters.registry.mlflow_store import _SOON
from many_models.errors import IntegrityError, UnavailableError
from many_models.forecasting import PackModel, train
from many_models.ports import PackUpload, PromotedSeries, Release, ReleaseDraft
from many_models.serving.app import build_app
from many_models.serving.server import build_server
from many_models.settings import ServeSettings, Settings
from many_models_tests.forecasting.histories import AS_OF, SPEC, rows_of, sales
from many_models_tests.support.running_server import running

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterator, Mapping, Sequence
    from pathlib import Path

    import pytest
    from fastapi import FastAPI

KNOWN = replace(SPEC, known=("price",))
ITEMS = ("milk", "salt", "soap", "tea")
KEY = "a key of the tests, long enough"


@cache
def trained() -> PackModel:
    """Four series of a store, with a price; 200 days up to AS_OF."""
    price = 1.0 + (np.arange(200) // 20) % 3 * 0.5
    return train(rows_of({name: sales(seed=i) for i, name in enumerate(ITEMS)}, KNOWN, price=price), KNOWN, AS_OF).model


def pack(store: str, factor: float = 1.0) -> PackUpload:
    """The trained models as those of a store; `factor` makes its forecasts be known again."""
    model = trained()
    names = [f"{store}__{item}" for item in ITEMS]
    arrays = {**model.arrays, "factor": np.asarray(model.arrays["factor"], float) * factor}
    return PackUpload(store, PackModel({**model.index, "series": names}, arrays).files(), tuple(names))


def draft(base: Release | None, packs: Sequence[PackUpload], reason: str = "why") -> ReleaseDraft:
    names = [name for upload in packs for name in upload.series]
    promoted = [PromotedSeries(name, f"staging-{name[:4]}/1", "recipe", f"{AS_OF:%Y-%m-%d}") for name in names]
    return ReleaseDraft(base.release_id if base else "", "tester", reason, packs, promoted)


class Registry:
    """A production registry that can be away, slow, damaged or hang; it counts what is asked of it."""

    def __init__(self, *packs: PackUpload) -> None:
        self.production = MemoryProduction()
        self.away, self.seconds, self.damaged = False, 0.0, set[str]()
        self.calls: Counter[str] = Counter()
        self._answers = threading.Event()
        self._answers.set()
        if packs:
            self.publish(*packs)

    def publish(self, *packs: PackUpload) -> Release:
        return self.production.publish(draft(self.production.live(), packs))

    @contextmanager
    def hanging(self) -> Iterator[None]:
        """No request gets an answer until the block ends."""
        self._answers.clear()
        try:
            yield
        finally:
            self._answers.set()

    def _ask(self, what: str) -> None:
        self.calls[what] += 1
        self._answers.wait()
        time.sleep(self.seconds)
        if self.away:
            raise UnavailableError("nobody answers")

    def live(self) -> Release | None:
        self._ask("live")
        return self.production.live()

    def live_id(self) -> str:
        self._ask("live_id")
        return self.production.live_id()

    def files(self, ref: str, sha256: str) -> Mapping[str, bytes]:
        self._ask("files")
        if ref in self.damaged:
            raise IntegrityError(f"pack {ref} is not what was stored")
        return self.production.files(ref, sha256)


def settings_for(root: Path, **serve: object) -> Settings:
    """Settings of a service without keys on loopback, that looks at the registry ten times a second.

    It has a minute for an answer: that the machine is slow is no reason why one may lack.
    """
    given = {"auth": [], "poll_seconds": 0.1, "max_seconds": 60, **serve}
    return Settings(root=root, serve=ServeSettings.model_validate(given))


@asynccontextmanager
async def asked(registry: Registry, root: Path, lake: Any = None, **serve: object) -> AsyncIterator[httpx.AsyncClient]:
    """A client of the app in this process; `client.app` is the app."""
    app = build_app(settings_for(root, **serve), registry, lake, [KEY])
    async with client_of(app) as client:
        yield client


@asynccontextmanager
async def client_of(app: FastAPI) -> AsyncIterator[httpx.AsyncClient]:
    async with app.router.lifespan_context(app):
        transport = httpx.ASGITransport(app)
        async with httpx.AsyncClient(transport=transport, base_url="http://service", timeout=60) as client:
            client.service, client.service_paths = app.state.service, list(app.openapi()["paths"])  # type: ignore[attr-defined]
            yield client


async def forecasts(client: httpx.AsyncClient, *series: str | dict[str, Any], **more: object) -> list[dict[str, Any]]:
    body = {"series": [{"series_id": one} if isinstance(one, str) else one for one in series], **more}
    answer = await client.post("/v1/forecasts", json=body)
    assert answer.status_code == 200, answer.text
    return answer.json()["forecasts"]


def confine_fail_soon(monkeypatch: pytest.MonkeyPatch) -> None:
    """What `build_production(…, fail_soon=True)` sets in the process's environment ends with the test."""
    for name in _SOON:
        monkeypatch.setenv(name, "")
        monkeypatch.delenv(name)


async def until(condition, seconds: float = 120.0) -> None:
    """Waits until `condition()` is true. Fails when it is not in time."""
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "not in time"
        await asyncio.sleep(0.02)


@contextmanager
def served(registry: Registry, root: Path, **serve: object) -> Iterator[tuple[int, FastAPI]]:
    """The service on a free port of loopback, by uvicorn on a thread of this process."""
    settings = settings_for(root, port=0, **serve)
    app = build_app(settings, registry, None, [KEY])
    with running(build_server(app, settings.serve)) as port:
        yield port, app
