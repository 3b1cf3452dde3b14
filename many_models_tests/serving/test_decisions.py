"""Stock and coherent sums on the endpoint: of the newest cutoff, and why there are none."""

from __future__ import annotations

import asyncio
from datetime import datetime, timedelta
from typing import TYPE_CHECKING

import pyarrow as pa

from many_models.adapters.lake.memory import MemoryLake
from many_models.data import lake_tables
from many_models.errors import UnavailableError
from many_models.ports import Filter
from many_models_tests.support.serving_parts import Registry, asked, pack

if TYPE_CHECKING:
    from pathlib import Path

    import httpx

AS_OF = datetime(2024, 6, 30)


def decided() -> MemoryLake:
    """Two cutoffs of a series' stock and of a store's sum, the newest first."""
    lake, cutoffs = MemoryLake(), [AS_OF, AS_OF - timedelta(days=1)]
    dates = [f"{cutoff:%Y-%m-%d}" for cutoff in cutoffs]
    versions = pa.table({"series_id": ["a__tea"], "year": pa.array([2024], pa.int32()), "last": [AS_OF]})
    lake.replace(lake_tables.RAW_VERSIONS.name, versions, Filter(), ())
    stock = {
        "series_id": ["a__tea 100%"] * 2, "cutoff": cutoffs, "order_now": [24.0, 12.0], "cutoff_date": dates,
        "newsvendor_ratio": [float("nan"), 0.9],
    }  # fmt: skip
    lake.replace(lake_tables.STOCK.name, pa.table(stock), Filter(), ("cutoff_date",))
    sums = {
        "node": ["store|Rome"] * 3, "level": ["store"] * 3, "cutoff": [AS_OF, *cutoffs],
        "ds": [AS_OF + timedelta(days=n) for n in (2, 1, 1)], "y_hat": [7.0, 6.0, 5.0], "base": [None, 6.5, 5.0],
        "lo80": [4.0, 3.0, 2.0], "hi80": [9.0, 8.0, 7.0], "cutoff_date": [dates[0], *dates],
    }  # fmt: skip
    lake.replace(lake_tables.COHERENT.name, pa.table(sums), Filter(), ("cutoff_date",))
    return lake


def test_stock_and_sums_are_those_of_the_newest_cutoff(tmp_path: Path) -> None:
    paths = "/v1/stock/a__tea%20100%25", "/v1/sums/store%7CRome", "/v1/stock/a__milk", "/v1/sums/store%7CBerlin"

    async def ask() -> list[httpx.Response]:
        async with asked(Registry(pack("a")), tmp_path, decided()) as client:
            return [await client.get(path) for path in paths]

    first, second, *none = asyncio.run(ask())
    stock, found = first.json(), second.json()
    assert stock == {"series_id": "a__tea 100%", "cutoff": "2024-06-30T00:00:00", "order_now": 24.0,
                     "newsvendor_ratio": None}  # fmt: skip
    assert (found["node"], found["level"], found["cutoff"]) == ("store|Rome", "store", "2024-06-30T00:00:00")
    assert [(s["ds"][:10], s["y_hat"], s["base"], s["lo80"], s["hi80"]) for s in found["steps"]] == [
        ("2024-07-01", 6.0, 6.5, 3.0, 8.0), ("2024-07-02", 7.0, None, 4.0, 9.0)
    ]  # fmt: skip
    assert [answer.status_code for answer in none] == [404, 404]
    assert "hierarchy.levels" in none[1].json()["error"]["reason"]


def test_without_a_lake_or_with_one_that_is_away_there_is_a_reason(tmp_path: Path) -> None:
    class Away(MemoryLake):
        def version(self, table: str) -> int | None:
            raise UnavailableError("nobody answers")

    async def ask() -> None:
        async with asked(Registry(pack("a")), tmp_path / "none") as client:
            answer = await client.get("/v1/stock/a__tea")
            assert (answer.status_code, "serve.lake" in answer.text) == (404, True)
        async with asked(Registry(pack("a")), tmp_path / "away", Away()) as client:
            for path in ("/v1/stock/a__tea", "/v1/sums/total"):
                answer = await client.get(path)
                assert (answer.status_code, "the lake does not answer" in answer.text) == (503, True)
            assert (await client.get("/health/ready")).status_code == 200

    asyncio.run(ask())
