"""Real-time scoring from a real MLflow server that is killed while it serves, and comes back."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

import pytest

from many_models.serving.app import build_app
from many_models.settings import RegistrySettings
from many_models.wiring import build_production
from many_models_tests.stand_ins.mlflow_server import PATIENCE, mlflow_server
from many_models_tests.support.ports import free_port
from many_models_tests.support.serving_parts import (
    client_of,
    confine_fail_soon,
    draft,
    forecasts,
    pack,
    settings_for,
    until,
)

if TYPE_CHECKING:
    from pathlib import Path

    import httpx

pytestmark = pytest.mark.slow


async def until_it_says(client: httpx.AsyncClient, *wanted: object) -> None:
    """How it stands changes with every look at the registry, which on a slow machine may come too late."""
    found = ()
    for _ in range(600):
        answer = await client.get("/health/ready")
        found = answer.status_code, answer.json()["status"], answer.json()["registry"]
        if found == wanted:
            return
        await asyncio.sleep(0.2)
    assert found == wanted


@pytest.mark.long(
    "serving/test_serving.py::test_without_a_registry_later_what_is_cached_is_served_even_after_a_restart",
)
@pytest.mark.timeout(3 * PATIENCE)
def test_a_killed_registry_costs_only_what_was_never_loaded_and_is_found_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    confine_fail_soon(monkeypatch)
    (tmp_path / "server").mkdir()
    port = free_port()
    registry = RegistrySettings(production=f"http://127.0.0.1:{port}", production_artifacts="")
    settings = settings_for(tmp_path).model_copy(update={"registry": registry})
    production = build_production(settings, fail_soon=True)

    async def ask() -> None:
        server = mlflow_server(tmp_path / "server", port=port)
        await asyncio.to_thread(server.__enter__)
        first = await asyncio.to_thread(production.publish, draft(None, [pack("a"), pack("b")]))
        async with client_of(build_app(settings, production)) as client:
            await until_it_says(client, 200, "ready", "reachable")
            expected = await forecasts(client, "a__tea")
            server.__exit__(None, None, None)  # by SIGKILL
            good, cold = await forecasts(client, "a__tea", "b__tea")
            assert [good] == expected
            assert (cold["error"]["kind"], cold["error"]["permanent"]) == ("Unavailable", False)
            await until_it_says(client, 200, "degraded", "away")
            with mlflow_server(tmp_path / "server", port=port):
                second = await asyncio.to_thread(production.publish, draft(first, [pack("b", 2.0)]))
                await until(lambda: client.service.release.release_id == second.release_id)
                await until_it_says(client, 200, "ready", "reachable")
                kept, cold = await forecasts(client, "a__tea", "b__tea")
                assert [kept] == expected
                assert cold["y_hat"] == pytest.approx([2 * y for y in good["y_hat"]], rel=1e-6)

    asyncio.run(ask())
