"""A release goes live while a person looks: every answer is wholly of one release, and says of which."""

from __future__ import annotations

import asyncio
import threading
from datetime import timedelta
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
import pytest

from many_models.adapters.lake.memory import MemoryLake
from many_models.board.what_if import Control, Plan, compare, explained
from many_models.data.lake_tables import DATASETS
from many_models.ports import Filter
from many_models_tests.forecasting.histories import AS_OF
from many_models_tests.support.serving_parts import Registry, asked, pack, until

if TYPE_CHECKING:
    from pathlib import Path

pytestmark = pytest.mark.slow
DAYS = [AS_OF + timedelta(days=step) for step in range(1, 8)]
CHEAPER = {"from": f"{DAYS[2]}", "to": f"{DAYS[4]}", "values": {"price": -0.4}}


def plan(cutoff_days: int = 0, *, fresh: bool = False) -> Plan:
    cutoff = AS_OF + timedelta(days=cutoff_days)
    known = [(cutoff + timedelta(days=step), {"price": 1.5}) for step in range(1, 8)]
    return Plan("a__milk", cutoff, 7, known, (Control("price", is_flag=False),), fresh)


class SlowLake(MemoryLake):
    """A lake with three days after training, whose reader waits while a test holds it."""

    def __init__(self) -> None:
        super().__init__()
        days = [AS_OF + timedelta(days=step) for step in (1, 2, 3)]
        columns = {
            "series_id": ["a__milk"] * 3, "ds": pa.array(days, pa.timestamp("us")), "y": [30.0, 31.0, 29.0],
            "state": ["observed"] * 3, "price": [1.5] * 3, "pack": ["a"] * 3,
        }  # fmt: skip
        self.replace(DATASETS.name, pa.table(columns), Filter(), DATASETS.partition_by)
        self.reading, self.go_on = threading.Event(), threading.Event()
        self.go_on.set()

    def read(self, *args: Any, **kwargs: Any) -> pa.Table:
        self.reading.set()
        self.go_on.wait(60)
        return super().read(*args, **kwargs)


async def switched(client: Any, registry: Registry, factor: float) -> str:
    """Another release is live, and the service has seen it."""
    release = registry.publish(pack("a", factor))
    await until(lambda: client.service.follower.current.release_id == release.release_id)
    return release.release_id


def test_a_release_that_goes_live_between_two_futures_is_in_neither(tmp_path: Path) -> None:
    """The lake holds the question between the choice of the release and the two forecasts."""

    async def ask() -> None:
        lake, registry = SlowLake(), Registry(pack("a"))
        async with asked(registry, tmp_path, lake) as client:
            before = await compare(client.service, plan(fresh=True), CHEAPER)
            lake.go_on.clear()
            lake.reading.clear()
            held = asyncio.create_task(compare(client.service, plan(fresh=True), CHEAPER))
            await until(lake.reading.is_set)
            second = await switched(client, registry, 2.0)
            lake.go_on.set()
            assert await held == before
            assert before["release"] != second
            after = await compare(client.service, plan(fresh=True), CHEAPER)
            assert after["release"] == second
            assert after["planned"] == pytest.approx(2.0 * np.array(before["planned"]), rel=1e-6)
            assert after["difference"] == pytest.approx(2.0 * np.array(before["difference"]), rel=1e-5)
            assert after["total"] != 0

    asyncio.run(ask())


def test_what_ifs_and_explanations_under_many_switches_are_each_of_one_release(tmp_path: Path) -> None:
    async def ask() -> None:
        registry = Registry(pack("a"))
        async with asked(registry, tmp_path) as client:
            first = await compare(client.service, plan(), CHEAPER)
            factors, seen, stop = {first["release"]: 1.0}, set[str](), asyncio.Event()

            async def keep_asking() -> None:
                while not stop.is_set():
                    told = await compare(client.service, plan(), CHEAPER)
                    factor = factors[told["release"]]
                    assert told["planned"] == pytest.approx(factor * np.array(first["planned"]), rel=1e-6)
                    assert told["difference"] == pytest.approx(factor * np.array(first["difference"]), rel=1e-5)
                    why = await explained(client.service, plan())
                    line = why["chart"]["data"][-1]["y"]
                    assert line == pytest.approx(factors[why["release"]] * np.array(first["planned"]), rel=1e-3)
                    seen.add(told["release"])
                    await asyncio.sleep(0)

            asking = [asyncio.create_task(keep_asking()) for _ in range(3)]
            for factor in (1.5, 0.5, 1.25):
                published = registry.publish(pack("a", factor))
                factors[published.release_id] = factor  # before the loop can run what sees the release
                await until(lambda published=published: published.release_id in seen or any(t.done() for t in asking))
            stop.set()
            await asyncio.gather(*asking)
            assert seen == set(factors)

    asyncio.run(ask())


def test_a_release_that_was_restored_is_asked_with_what_has_come_since(tmp_path: Path) -> None:
    """The page's plan is that of a model trained three days later; the live one must not pass over these days."""

    async def ask() -> None:
        async with asked(Registry(pack("a")), tmp_path, SlowLake()) as client:
            service = client.service
            stale = await compare(service, plan(3), CHEAPER | {"to": f"{DAYS[-1]}"})
            whole = await compare(service, plan(3, fresh=True), CHEAPER | {"to": f"{DAYS[-1]}"})
            assert stale == whole
            assert stale["ds"][0] == f"{AS_OF + timedelta(days=4):%Y-%m-%dT00:00}"
            later = await explained(service, plan(-5))  # the live model was trained after the page was made
            assert later["chart"]["data"][0]["x"][0].startswith(f"{AS_OF + timedelta(days=4):%Y-%m-%d}")

    asyncio.run(ask())
