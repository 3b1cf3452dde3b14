"""The scoring script of an Azure ML managed online endpoint: `init` once a process, `run` for each request.

The endpoint checks who asks; models come from the production registry on demand, as with `many-models serve`.
"""

from __future__ import annotations

import asyncio
import json
import threading

from many_models.serving.service import Service, answer_json
from many_models.settings import load_settings
from many_models.wiring import build_lake, build_production

_loop = asyncio.new_event_loop()
_service: Service | None = None


def init() -> None:
    """Finds the live release and follows it, on its own thread."""
    global _service  # noqa: PLW0603  Azure ML calls the two functions, and keeps nothing between them
    settings = load_settings()
    lake = build_lake(settings) if settings.serve.lake else None
    _service = Service(settings, build_production(settings, fail_soon=True), lake)
    threading.Thread(target=_loop.run_forever, daemon=True).start()
    asyncio.run_coroutine_threadsafe(_service.start(), _loop).result()


def run(data: str) -> dict[str, object]:
    """The answer that POST /v1/forecasts gives to the JSON text `data`."""
    assert _service is not None, "init() comes first"
    body = asyncio.run_coroutine_threadsafe(answer_json(_service, data), _loop).result()
    return json.loads(body)
