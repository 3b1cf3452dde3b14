"""Real-time scoring: answers, loading within a budget, releases, feedback, and what can go wrong."""

from __future__ import annotations

import asyncio
import gc
import hashlib
import io
import json
import logging
import resource
import time
import zipfile
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING

import numpy as np
import pyarrow as pa
import pytest

from many_models.adapters.lake.memory import MemoryLake
from many_models.data.lake_tables import DATASETS, RAW_COVARIATES
from many_models.data.pack_file import joined
from many_models.forecasting import PackModel, train
from many_models.forecasting.spec import Custom
from many_models.ports import Filter, PackUpload
from many_models.serving.service import FETCHERS
from many_models.settings import ServeSettings
from many_models_tests.forecasting.histories import AS_OF, SPEC, rows_of, sales
from many_models_tests.support.serving_parts import ITEMS, Registry, asked, draft, forecasts, pack, trained, until

if TYPE_CHECKING:
    from pathlib import Path

    import httpx

pytestmark = pytest.mark.slow
DAY = timedelta(days=1)


def run(test):
    """Tests are coroutines; each gets its own event loop."""

    def runs(*args, **kwargs):
        asyncio.run(asyncio.wait_for(test(*args, **kwargs), 300))

    runs.__name__, runs.__doc__ = test.__name__, test.__doc__
    runs.__signature__ = __import__("inspect").signature(test)
    return runs


def oracle(name: str, rows: pa.Table | None = None, cutoff: datetime | None = None, **kwargs) -> dict[str, list]:
    """What the core says of an item of a store whose pack is the trained one."""
    found = trained().predict(rows, cutoff, series=[name], **kwargs)
    return {column: found[column].to_pylist() for column in found.column_names}


def close(forecast: dict, expected: dict[str, list]) -> bool:
    columns = [name for name in expected if name == "y_hat" or name[:2] in {"lo", "hi"}]
    assert len(columns) == 5
    assert [datetime.fromisoformat(ds) for ds in forecast["ds"]] == expected["ds"]
    assert forecast["known_repeated"] == expected["known_repeated"]
    return all(np.allclose(forecast[name], expected[name], rtol=1e-7, atol=1e-9) for name in columns)


# --- answers --------------------------------------------------------------------------------------------------------
@run
async def test_a_forecast_is_the_one_that_the_core_makes_and_says_where_it_comes_from(tmp_path: Path) -> None:
    registry = Registry(pack("a"), pack("b"))
    async with asked(registry, tmp_path) as client:
        answer = (await client.post("/v1/forecasts", json={"series": [{"series_id": "b__tea"}]})).json()
        release = registry.production.live()
        assert answer["release"] == release.release_id
        (forecast,) = answer["forecasts"]
        assert close(forecast, oracle("tea"))
        assert forecast["model"] == release.champions["b__tea"].ref
        assert (forecast["fallback"], forecast["fresh_periods"]) == ("", 0)
        assert datetime.fromisoformat(forecast["cutoff"]) == AS_OF
        assert forecast["age_days"] == (datetime.now(UTC).replace(tzinfo=None) - AS_OF).days


@run
async def test_a_horizon_and_known_covariates_are_followed_and_asking_again_changes_nothing(tmp_path: Path) -> None:
    prices = [{"ds": f"{AS_OF + DAY * i:%Y-%m-%d}", "values": {"price": 1.0 + i / 10}} for i in (1, 2, 4)]
    future = pa.table(
        {
            "series_id": ["milk"] * 3,
            "ds": pa.array([AS_OF + DAY * i for i in (1, 2, 4)], pa.timestamp("us")),
            "price": [1.1, 1.2, 1.4],
        }
    )
    expected = oracle("milk", future=future, horizon=5)
    assert expected["known_repeated"] == [False, False, True, False, True]
    async with asked(Registry(pack("a")), tmp_path) as client:
        question = {"series_id": "a__milk", "horizon": 5, "known": prices}
        first = await forecasts(client, question, "a__milk", "a__salt")
        assert close(first[0], expected)
        assert close(first[1], oracle("milk"))
        assert await forecasts(client, question, "a__milk", "a__salt") == first


@run
async def test_one_series_error_leaves_the_others_alone(tmp_path: Path) -> None:
    async with asked(Registry(pack("a")), tmp_path) as client:
        bad = {
            "nothing of it": {"series_id": "nobody"},
            "odd name": {"series_id": "a__tea\ud800".encode("utf-8", "replace").decode()},
            "before training": {"series_id": "a__tea", "cutoff": "2020-01-01"},
            "too far after": {"series_id": "a__tea", "cutoff": "2190-01-01"},
            "off the frequency": {"series_id": "a__tea", "known": [{"ds": "2024-01-01T07:00", "values": {}}]},
            "twice": {"series_id": "a__tea", "observations": [{"ds": "2024-01-01"}, {"ds": "2024-01-01"}]},
            "unknown covariate": {"series_id": "a__tea", "known": [{"ds": "2024-01-01", "values": {"prize": 1}}]},
            "no number": {"series_id": "a__tea", "known": [{"ds": "2024-01-01", "values": {"price": "cheap"}}]},
        }
        found = await forecasts(client, "a__milk", *bad.values(), "a__milk")
        assert found[0] == found[-1]
        assert close(found[0], oracle("milk"))
        assert [one["error"]["permanent"] for one in found[1:-1]] == [True] * len(bad)
        assert found[1]["error"]["kind"] == "UnknownSeries"
        reasons = [one["error"]["reason"] for one in found[3:-1]]
        for text, reason in zip(
            ["before its model", "retrain", "off the frequency", "duplicate periods", "prize", "cannot be used"],
            reasons,
            strict=True,
        ):
            assert text in reason


@run
async def test_requests_that_are_wrong_as_a_whole_are_refused_and_never_repeated(tmp_path: Path, caplog) -> None:
    caplog.set_level(logging.INFO, "many_models")
    secret = "unheard-of"
    async with asked(Registry(pack("a")), tmp_path, max_series=3, max_horizon=10, max_body_mb=0.002) as client:
        cases = [
            (b"{", 400),
            (b"[]", 422),
            (b'{"series": []}', 422),
            (json.dumps({"series": [{"series_id": "a__tea", secret: 1}]}).encode(), 422),
            (json.dumps({"series": [{"series_id": secret * 300}]}).encode(), 413),
            (json.dumps({"series": [{"series_id": "a__tea", "horizon": 11}]}).encode(), 422),
            (json.dumps({"series": [{"series_id": "a__tea", "horizon": 0}]}).encode(), 422),
            (b'{"series": [{"series_id": "a__tea", "observations": [{"ds": "2024-01-01", "y": NaN}]}]}', 422),
            (b'{"series": [{"series_id": "a__tea", "observations": [{"ds": "2024-01-01", "y": 1e99}]}]}', 422),
            (json.dumps({"series": [{"series_id": "a__tea"}] * 4}).encode(), 422),
            (b"\x80\x04\x95", 400),
        ]
        for body, status in cases:
            answer = await client.post("/v1/forecasts", content=body, headers={"content-type": "application/json"})
            assert answer.status_code == status, (body, answer.text)
            assert set(answer.json()["error"]) == {"kind", "reason"}
            if secret.encode() * 2 in body:
                assert secret not in answer.text
        assert (await client.get("/v1/nothing")).status_code == 404
        assert (await client.get("/v1/forecasts")).status_code == 405
    lines = [json.loads(r.getMessage()) for r in caplog.records if r.name == "many_models.serving.access"]
    assert [line["status"] for line in lines[: len(cases)]] == [status for _, status in cases]
    assert secret not in caplog.text
    assert "a__tea" not in caplog.text


@run
async def test_a_model_and_the_release_say_what_they_are(tmp_path: Path) -> None:
    registry = Registry(pack("a%"), pack("b"))
    async with asked(registry, tmp_path) as client:
        live = (await client.get("/v1/releases/live")).json()
        release = registry.production.live()
        assert live["release"] == release.release_id
        assert (live["actor"], live["reason"], live["series"], live["packs"]) == ("tester", "why", 8, 2)
        model = (await client.get("/v1/models/a%25__salt")).json()
        champion = release.champions["a%__salt"]
        assert {k: model[k] for k in ("series_id", "model", "row", "sha256", "staging", "recipe", "cutoff")} == {
            "series_id": "a%__salt", "model": champion.ref, "row": 1, "sha256": champion.sha256,
            "staging": champion.staging, "recipe": "recipe", "cutoff": champion.cutoff,
        }  # fmt: skip
        assert (await client.get("/v1/models/none")).status_code == 404


# --- feedback -------------------------------------------------------------------------------------------------------
def fresh_rows(name: str, days: int, gaps: tuple[int, ...] = ()) -> pa.Table:
    there = [i for i in range(1, days + 1) if i not in gaps]
    return pa.table(
        {
            "series_id": [name] * len(there),
            "ds": pa.array([AS_OF + DAY * i for i in there], pa.timestamp("us")),
            "y": [30.0 + i for i in there],
            "price": [2.0] * len(there),
            "state": ["observed"] * len(there),
        }
    )


@run
async def test_observations_move_the_forecast_without_a_refit_as_the_core_would(tmp_path: Path) -> None:
    rows = fresh_rows("tea", 9, gaps=(4,))
    expected = oracle("tea", rows, AS_OF + 9 * DAY)
    observations = [
        {"ds": row["ds"].isoformat() + "Z", "y": row["y"], "values": {"price": row["price"]}}
        for row in rows.to_pylist()
    ]
    async with asked(Registry(pack("a")), tmp_path) as client:
        question = {"series_id": "a__tea", "observations": observations[::-1]}
        found, plain = await forecasts(client, question, "a__tea")
        assert close(found, expected)
        assert found["fresh_periods"] == 9
        assert not np.allclose(found["y_hat"], plain["y_hat"])
        assert close(plain, oracle("tea"))
        later = {**question, "cutoff": f"{AS_OF + 12 * DAY:%Y-%m-%d}"}
        assert close((await forecasts(client, later))[0], oracle("tea", rows, AS_OF + 12 * DAY))


@run
async def test_observations_are_read_from_the_lake_and_the_request_wins(tmp_path: Path) -> None:
    lake = MemoryLake()
    rows = pa.concat_tables([fresh_rows("a__tea", 5), fresh_rows("a__milk", 3)])
    lake.replace(DATASETS.name, rows.append_column("pack", pa.array(["a"] * 8)), Filter(), ["pack"])
    future = {"store": ["a"], "ds": pa.array([AS_OF + 6 * DAY], pa.timestamp("us")), "price": [3.0]}
    lake.replace(RAW_COVARIATES.name, pa.table(future), Filter())
    known = pa.table({"series_id": ["tea"], "ds": future["ds"], "price": [3.0]})
    async with asked(Registry(pack("a")), tmp_path, lake) as client:
        found = await forecasts(client, "a__tea", "a__milk", "a__salt", observations_from="lake")
        assert [one["fresh_periods"] for one in found] == [5, 3, 0]
        assert close(found[0], oracle("tea", fresh_rows("tea", 5), AS_OF + 5 * DAY, future=known))
        own = {"series_id": "a__tea", "observations": [{"ds": f"{AS_OF + 5 * DAY:%Y-%m-%d}", "y": 500.0}]}
        (won,) = await forecasts(client, own, observations_from="lake")
        assert won["fresh_periods"] == 5
        assert won["y_hat"][0] > 1.2 * found[0]["y_hat"][0]
    async with asked(Registry(pack("a")), tmp_path / "2") as client:
        (none,) = await forecasts(client, "a__tea", observations_from="lake")
        assert "reads no lake" in none["error"]["reason"]


# --- loading --------------------------------------------------------------------------------------------------------
@run
async def test_a_thousand_requests_for_a_cold_pack_load_it_once(tmp_path: Path) -> None:
    registry = Registry(pack("a"), pack("b"))
    async with asked(registry, tmp_path) as client:
        before = registry.calls["files"]
        registry.seconds = 0.3
        answers = await asyncio.gather(*(forecasts(client, "b__tea") for _ in range(1000)))
        assert registry.calls["files"] - before == 1
        assert client.service.cache.counts.loads == 2  # the first pack, when it started
        assert all(answer == answers[0] for answer in answers)
        assert close(answers[0][0], oracle("tea"))


@run
async def test_the_cache_stays_within_its_bytes_whatever_is_asked(tmp_path: Path) -> None:
    registry = Registry(*(pack(f"s{i}") for i in range(12)))
    one = len(joined(pack("s0").files)) + 200_000
    async with asked(registry, tmp_path, memory_mb=4 * one / 1e6) as client:
        cache = client.service.cache
        rng = np.random.default_rng(1)
        for _ in range(40):
            names = [f"s{i}__{item}" for i in rng.integers(0, 12, 2) for item in ITEMS]
            assert all("error" not in answer for answer in await forecasts(client, *names))
            # a thread may hold what has just left for a moment longer
            await until(lambda: cache.bytes <= cache.budget)
        assert cache.counts.evictions > 5
        assert registry.calls["files"] == 12  # the disk has what memory has not
        gc.collect()
        await until(lambda: cache.bytes == sum(loaded.cost for loaded in cache))


@run
async def test_what_is_used_again_and_again_stays(tmp_path: Path) -> None:
    registry = Registry(*(pack(f"s{i}") for i in range(12)))
    one = len(joined(pack("s0").files)) + 200_000
    async with asked(registry, tmp_path, memory_mb=4 * one / 1e6) as client:
        hot = registry.production.live().champions["s0__tea"].sha256
        for i in range(1, 12):
            await forecasts(client, "s0__tea")
            await forecasts(client, f"s{i}__tea")
            assert hot in {loaded.id.sha256 for loaded in client.service.cache}


@run
async def test_a_pack_larger_than_the_budget_is_an_error_that_says_what_to_do(tmp_path: Path) -> None:
    async with asked(Registry(pack("a")), tmp_path, memory_mb=0.01) as client:
        (found,) = await forecasts(client, "a__tea")
        assert "raise serve.memory_mb" in found["error"]["reason"]
        assert client.service.cache.bytes == 0


@run
async def test_the_disk_stays_within_its_bytes(tmp_path: Path) -> None:
    registry = Registry(*(pack(f"s{i}") for i in range(8)))
    one = len(joined(pack("s0").files)) / 1e6
    async with asked(registry, tmp_path, disk_mb=3.5 * one, memory_mb=2.5 * one + 0.4) as client:
        for i in [*range(8), *range(8)]:
            assert "error" not in (await forecasts(client, f"s{i}__tea"))[0]
            stored = list((tmp_path / "var/cache/serving/packs").glob("*.pack"))
            assert sum(path.stat().st_size for path in stored) <= 3.5e6 * one


@run
async def test_a_damaged_pack_on_the_disk_is_fetched_again(tmp_path: Path) -> None:
    registry = Registry(pack("a"), pack("b"))
    async with asked(registry, tmp_path) as client:
        await forecasts(client, "b__tea")
    for damage in ("changed", "cut off", "emptied"):
        for path in (tmp_path / "var/cache/serving/packs").glob("*.pack"):
            content = bytearray(path.read_bytes())
            content[len(content) // 2] ^= 1
            path.write_bytes({"changed": content, "cut off": content[:5000], "emptied": b""}[damage])
        before = registry.calls["files"]
        async with asked(registry, tmp_path) as client:
            assert close((await forecasts(client, "b__tea"))[0], oracle("tea"))
        assert registry.calls["files"] == before + 2


@run
async def test_a_pack_that_is_damaged_in_the_registry_fails_alone(tmp_path: Path) -> None:
    registry = Registry(pack("a"), pack("b"))
    registry.damaged.add(registry.production.live().champions["b__tea"].ref)
    async with asked(registry, tmp_path) as client:
        for _ in range(3):
            good, bad = await forecasts(client, "a__tea", "b__tea")
            assert close(good, oracle("tea"))
            assert (bad["error"]["kind"], bad["error"]["permanent"]) == ("Integrity", True)
        assert registry.calls["files"] == 2  # a failure is remembered for a while


@pytest.mark.parametrize("kind", ["a pickle", "no index", "another format", "an array less", "objects"])
def test_what_is_no_pack_is_refused_and_never_unpickled(tmp_path: Path, kind: str) -> None:
    import io
    import os
    import pickle

    class Spy:
        def __reduce__(self):
            return (os.mkdir, (str(tmp_path / "mark"),))

    files = dict(pack("a").files)
    index = json.loads(files["index.json"])
    planted = io.BytesIO()
    np.save(planted, np.array([Spy()], object), allow_pickle=True)
    changes = {
        "a pickle": {"state.npy": pickle.dumps(Spy())},
        "objects": {"state.npy": planted.getvalue()},
        "no index": {"index.json": b"[]"},
        "another format": {"index.json": json.dumps({**index, "format": 99}).encode()},
        "an array less": {"state.npy": files["cutoff.npy"]},
    }
    files |= changes[kind]
    if kind == "an array less":
        del files["state.npy"]

    async def ask() -> None:
        async with asked(Registry(PackUpload("a", files, pack("a").series)), tmp_path) as client:
            (found,) = await forecasts(client, "a__tea")
            assert found["error"]["kind"] == "Integrity", found

    asyncio.run(ask())
    assert not (tmp_path / "mark").exists()


def with_a_regressor() -> tuple[PackModel, PackUpload]:
    """A store whose one series is forecast by a scikit-learn regressor of a user's."""
    custom = Custom("ridge", "sklearn.linear_model:Ridge", '{"alpha": 3.0}', 120.0)
    spec = replace(SPEC, candidates=("ridge",), custom=(custom,))
    model = train(rows_of({"a__tea": sales(200, 20.0)}, spec), spec, AS_OF).model
    assert model.fitted
    return model, PackUpload("a", model.files(), model.series)


@run
async def test_a_users_regressor_is_served_from_fresh_observations_as_the_core_would(tmp_path: Path) -> None:
    model, upload = with_a_regressor()
    days = [AS_OF + timedelta(days=1 + day) for day in range(3)]
    rows = rows_of({"a__tea": np.r_[sales(200, 20.0), [90.0, 80.0, 70.0]]}, last=days[-1])
    observations = [{"ds": f"{ds:%Y-%m-%d}", "y": y} for ds, y in zip(days, (90.0, 80.0, 70.0), strict=True)]
    async with asked(Registry(upload), tmp_path) as client:
        (plain,) = await forecasts(client, "a__tea")
        (fresh,) = await forecasts(client, {"series_id": "a__tea", "observations": observations})
    assert plain["y_hat"] == pytest.approx(model.predict(None)["y_hat"].to_pylist())
    assert fresh["y_hat"] == pytest.approx(model.predict(rows, days[-1])["y_hat"].to_pylist())
    assert plain["y_hat"] != fresh["y_hat"]


@run
async def test_a_regressor_of_a_type_that_is_not_trusted_is_not_served(tmp_path: Path) -> None:
    model, upload = with_a_regressor()
    file = model.fitted["a__tea"]["ridge"][0]
    buffer = io.BytesIO()
    with zipfile.ZipFile(io.BytesIO(model.blobs[file])) as archive, zipfile.ZipFile(buffer, "w") as out:
        for name in archive.namelist():
            out.writestr(name, archive.read(name).replace(b'"sklearn.linear_model._ridge"', b'"many_models.planted"'))
    index = json.loads(upload.files["index.json"])
    index["sha256"][file] = hashlib.sha256(buffer.getvalue()).hexdigest()
    files = {**upload.files, file: buffer.getvalue(), "index.json": json.dumps(index).encode()}
    async with asked(Registry(replace(upload, files=files)), tmp_path) as client:
        (found,) = await forecasts(client, "a__tea")
    assert found["error"]["kind"] == "Integrity"


@run
async def test_with_a_full_disk_packs_are_served_from_memory(tmp_path: Path) -> None:
    registry = Registry(pack("a"), pack("b"))
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, hard))
    try:
        async with asked(registry, tmp_path) as client:
            assert close((await forecasts(client, "b__tea"))[0], oracle("tea"))
            health = (await client.get("/health/ready")).json()
            assert (health["status"], health["disk"]) == ("degraded", "full")
            assert registry.calls["files"] == 2
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert list((tmp_path / "var/cache/serving/packs").iterdir()) == []


# --- the registry and its releases ------------------------------------------------------------------------------------
@run
async def test_without_a_registry_at_the_start_it_waits_and_says_so(tmp_path: Path) -> None:
    registry = Registry(pack("a"))
    registry.away = True
    async with asked(registry, tmp_path) as client:
        assert (await client.get("/health/live")).status_code == 200
        health = await client.get("/health/ready")
        assert (health.status_code, health.json()["status"], health.json()["registry"]) == (503, "not_ready", "away")
        answer = await client.post("/v1/forecasts", json={"series": [{"series_id": "a__tea"}]})
        assert (answer.status_code, answer.json()["error"]["kind"]) == (503, "NotReady")
        registry.away = False
        await until(lambda: client.service.follower.current)
        assert close((await forecasts(client, "a__tea"))[0], oracle("tea"))
        assert (await client.get("/health/ready")).json()["status"] == "ready"


@run
async def test_without_a_registry_later_what_is_cached_is_served_even_after_a_restart(tmp_path: Path) -> None:
    registry = Registry(pack("a"), pack("b"))
    async with asked(registry, tmp_path) as client:
        expected = await forecasts(client, "a__tea")
        registry.away = True
        await until(lambda: not client.service.follower.contact.reachable)
        good, cold = await forecasts(client, "a__tea", "b__tea")
        assert [good] == expected
        assert (cold["error"]["kind"], cold["error"]["permanent"]) == ("Unavailable", False)
        health = await client.get("/health/ready")
        assert (health.status_code, health.json()["status"], health.json()["registry"]) == (200, "degraded", "away")
    async with asked(registry, tmp_path) as client:
        assert await forecasts(client, "a__tea") == expected
        assert (await client.get("/health/ready")).json()["status"] == "degraded"
        registry.away = False
        await until(lambda: client.service.follower.contact.reachable)
        await asyncio.sleep(1.1)  # a failure is remembered for a second
        assert "error" not in (await forecasts(client, "b__tea"))[0]


async def answered(client: httpx.AsyncClient, name: str) -> dict:
    """The forecast of a series, asked for until it is there: on a slow machine the first ones may come too late."""
    for _ in range(100):
        (found,) = await forecasts(client, name)
        if "error" not in found:
            return found
        assert found["error"]["kind"] == "TimeLimit"
    raise AssertionError("never in time")


@run
async def test_a_registry_that_hangs_costs_a_request_its_time_limit_and_no_more(tmp_path: Path) -> None:
    registry = Registry(pack("a"), pack("b"))
    async with asked(registry, tmp_path, max_seconds=1.0) as client:
        await answered(client, "a__tea")
        with registry.hanging():
            begun = time.monotonic()
            good, late = await forecasts(client, "a__tea", "b__tea")
            took = time.monotonic() - begun
        assert close(good, oracle("tea"))
        assert (late["error"]["kind"], late["error"]["permanent"]) == ("TimeLimit", False)
        assert 1.0 <= took + 0.01 < ServeSettings().max_seconds


@run
async def test_a_registry_that_hangs_does_not_hold_up_packs_that_are_on_the_disk(tmp_path: Path) -> None:
    stores = [f"s{i}" for i in range(20)]  # more than there are fetchers
    registry = Registry(pack("a"), pack("z"), *map(pack, stores))
    async with asked(registry, tmp_path) as client:
        await forecasts(client, "a__tea", "z__tea")
    async with asked(registry, tmp_path, max_seconds=3.0) as client:
        assert not client.service.cache.holds(client.service.release.pack(*client.service.release.find(["z__tea"])))
        fetched = registry.calls["files"]
        with registry.hanging():
            hanging = asyncio.create_task(forecasts(client, *(f"{store}__tea" for store in stores)))
            await until(lambda: registry.calls["files"] == fetched + FETCHERS)
            assert close(await answered(client, "z__tea"), oracle("tea"))
            assert {found["error"]["kind"] for found in await hanging} == {"TimeLimit"}
            assert registry.calls["files"] == fetched + FETCHERS


@run
async def test_a_switch_is_seen_at_the_next_look_and_no_answer_is_mixed(tmp_path: Path) -> None:
    stores = ("a", "b", "c")
    registry = Registry(*(pack(store) for store in stores))
    names = [f"{store}__{item}" for store in stores for item in ITEMS]
    seen: dict[str, set[float]] = {}
    async with asked(registry, tmp_path) as client:
        plain = {name: oracle(name.split("__")[1])["y_hat"][0] for name in names}

        async def ask(stop: asyncio.Event) -> None:
            while not stop.is_set():
                body = {"series": [{"series_id": name} for name in names]}
                answer = (await client.post("/v1/forecasts", json=body)).json()
                factors = {
                    round(f["y_hat"][0] / plain[f["series_id"]], 3) for f in answer["forecasts"]
                }  # a failed series raises KeyError
                seen.setdefault(answer["release"], set()).update(factors)
                await asyncio.sleep(0)

        stop = asyncio.Event()
        asking = [asyncio.create_task(ask(stop)) for _ in range(4)]
        releases = {registry.production.live().release_id: {1.0}}
        await until(lambda: seen)
        for factor in (1.5, 0.5, 1.25):
            published = registry.publish(*(pack(store, factor) for store in stores))
            releases[published.release_id] = {factor}
            looks = client.service.follower.contact.asked
            await until(lambda published=published: client.service.follower.current.release_id == published.release_id)
            # the look that was on its way may have come too early, the next one finds it
            assert client.service.follower.contact.asked <= looks + 2
            await until(lambda: set(seen) == set(releases))
        stop.set()
        await asyncio.gather(*asking)
    assert seen == releases


@run
async def test_a_release_with_a_damaged_pack_is_refused_until_another_comes(tmp_path: Path) -> None:
    registry = Registry(pack("a"), pack("b"))
    async with asked(registry, tmp_path) as client:
        await forecasts(client, "a__tea", "b__tea")
        first = client.service.follower.current.release_id
        second = registry.production.publish(draft(registry.production.live(), [pack("a", 2.0), pack("b", 2.0)]))
        registry.damaged.add(second.champions["b__tea"].ref)
        await until(lambda: client.service.follower.contact.refused == second.release_id)
        for found in await forecasts(client, "a__tea", "b__tea"):
            assert close(found, oracle("tea"))
        health = (await client.get("/health/ready")).json()
        assert (health["status"], health["release"], health["refused_release"]) == (
            "degraded",
            first,
            second.release_id,
        )
        third = registry.publish(pack("a", 3.0), pack("b", 3.0))
        await until(lambda: client.service.follower.current.release_id == third.release_id)
        assert (await client.get("/health/ready")).json()["status"] == "ready"


@run
async def test_a_registry_that_has_lost_its_release_does_not_take_ours(tmp_path: Path) -> None:
    registry = Registry(pack("a"))
    async with asked(registry, tmp_path) as client:
        registry.production = Registry().production
        await until(lambda: not client.service.follower.contact.reachable)
        assert close((await forecasts(client, "a__tea"))[0], oracle("tea"))


def test_the_pack_of_the_tests_can_be_told_by_its_factor() -> None:
    twice = PackModel.from_files(pack("a", 2.0).files)
    assert np.allclose(twice.predict(None, series=["a__tea"])["y_hat"].to_numpy(), 2 * np.array(oracle("tea")["y_hat"]))
