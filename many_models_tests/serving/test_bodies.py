"""Bodies of requests: what is large or odd is refused at its first fault, and nothing of it is repeated."""

from __future__ import annotations

import asyncio
import json
import threading
import tracemalloc
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from many_models.serving import bodies
from many_models.serving.bodies import Bodies, BodyError, parse
from many_models.serving.schemas import MOST_VALUES, STEPS, ForecastRequest
from many_models.settings import ServeSettings
from many_models_tests.support.serving_parts import Registry, asked, forecasts, pack

if TYPE_CHECKING:
    from pathlib import Path

SERVE = ServeSettings()
LARGE = 8_000_000
SECRET = "unheard-of"


def many(part: str, times: int = 0) -> str:
    return ",".join([part] * (times or (LARGE - 100) // (len(part) + 1)))


def names_of(value: str) -> str:
    return ",".join(f'"{SECRET}{i}":{value}' for i in range(300_000))


def of_series(parts: str) -> str:
    return '{"series":[' + parts + "]}"


def of_one(more: str) -> str:
    return of_series('{"series_id":"a",' + more + "}")


HOSTILE = {
    "empty objects": of_series(many("{}")),
    "empty lists": of_series(many("[]")),
    "numbers": of_series(many("1")),
    "nested lists": '{"series":' + "[" * 4_000_000,
    "series": of_series(many('{"series_id":"a__tea"}')),
    "odd series": of_series(many('{"series_idx":"a__tea"}')),
    "names of a series": of_one(names_of("1")),
    "names of the body": "{" + names_of("1") + "}",
    "values of a step": of_one('"known":[{"ds":"2024-01-01","values":{' + names_of("[1]") + "}}]"),
    "steps": of_one('"known":[' + many('{"ds":"2024-01-01","values":{}}', 100_000) + "]"),
    "odd steps": of_one('"observations":[' + many('{"when":"2024-01-01"}', 4_000) + "]"),
    "a text": of_series('{"series_id":"' + SECRET * 700_000 + '"}'),
}


@pytest.mark.slow
@pytest.mark.parametrize("what", HOSTILE)
def test_a_large_odd_body_costs_a_few_times_its_size_and_says_nothing_of_itself(what: str) -> None:
    body = HOSTILE[what].encode()
    tracemalloc.start()
    with pytest.raises(BodyError) as refused:
        parse(body, SERVE)
    _, most = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert refused.value.status in {400, 422}
    assert SECRET not in str(refused.value)
    assert len(str(refused.value)) < 200
    assert most < 30 * LARGE  # 3.8 GB before


def test_the_first_fault_ends_it() -> None:
    with pytest.raises(ValidationError) as refused:
        ForecastRequest.model_validate({"series": [{}] * 100_000})
    assert refused.value.error_count() == 1


@pytest.mark.parametrize(
    ("series", "status", "reason"),
    [
        ([{"series_id": "a"}] * 2001, 422, "2000 series"),
        ([{"series_id": "a", "horizon": 367}], 422, "366"),
        ([{"series_id": "a", "known": [{"ds": "2024-01-01", "values": {}}] * (STEPS + 1)}], 422, str(STEPS)),
        ([{"series_id": "a", "known": [{"ds": "2024-01-01", "values": dict.fromkeys(map(str, range(201)), 1)}]}], 422,
         str(MOST_VALUES)),
    ],
)  # fmt: skip
@pytest.mark.parametrize("inline", [0, 10**9])
def test_limits_are_those_of_the_settings_for_small_and_large_bodies(
    monkeypatch, series: list[object], status: int, reason: str, inline: int
) -> None:
    monkeypatch.setattr(bodies, "INLINE_BYTES", inline)
    with pytest.raises(BodyError, match=reason) as refused:
        parse(json.dumps({"series": series}), SERVE)
    assert refused.value.status == status


@pytest.mark.parametrize(
    ("body", "where"),
    [
        ({"series": [{"series_id": "a"}], SECRET: 1}, "…: "),
        ({"series": [{"series_id": "a", SECRET: 1}]}, "series.0.…: "),
        ({"series": [{"series_id": "a", "known": [{"ds": "2024-01-01", "values": {SECRET: [1]}}]}]},
         "series.0.known.0.values.…"),
        ({"series": [{"series_id": "a", "observations": [{"ds": SECRET}]}]}, "series.0.observations.0.ds: "),
        ({"series": [{"series_id": "a"}], "observations_from": SECRET}, "observations_from: "),
        ({"series": {SECRET: 1}}, "series: "),
        (SECRET, "body: "),
    ],
)  # fmt: skip
@pytest.mark.parametrize("inline", [0, 10**9])
def test_a_refusal_names_our_fields_and_none_of_the_clients(monkeypatch, body: object, where: str, inline: int) -> None:
    monkeypatch.setattr(bodies, "INLINE_BYTES", inline)
    with pytest.raises(BodyError) as refused:
        parse(json.dumps(body), SERVE)
    assert str(refused.value).startswith(where)
    assert SECRET not in str(refused.value)


leaves = st.none() | st.booleans() | st.floats() | st.integers() | st.text(max_size=8) | st.datetimes().map(str)
names = st.sampled_from(sorted(bodies.NAMES)) | st.text(max_size=5)
documents = st.recursive(leaves, lambda inner: st.lists(inner, max_size=4) | st.dictionaries(names, inner, max_size=6))


@pytest.mark.slow
@given(document=documents | st.fixed_dictionaries({"series": st.lists(documents, max_size=3)}))
def test_any_document_is_a_request_or_refused_the_same_way_small_and_large(document: object) -> None:
    body, found = json.dumps(document).encode(), list[object]()
    for inline in (0, 10**9):
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(bodies, "INLINE_BYTES", inline)
            patch.setattr(bodies, "DENSEST", 0)
            try:
                found.append(parse(body, SERVE).model_dump())
            except BodyError as error:
                found.append((error.status, error.kind) if "Infinity" not in body.decode() else "refused")
    assert found[0] == found[1]


def test_a_large_body_is_read_beside_the_loop_and_one_at_a_time() -> None:
    """While a large body is being read, small ones are answered."""
    began, ends = threading.Event(), threading.Event()
    reading: list[int] = []

    def slowly(body: bytes, serve: ServeSettings) -> ForecastRequest:
        if len(body) > bodies.INLINE_BYTES:
            reading.append(len(reading))
            began.set()
            ends.wait(60)
        return parse(body, serve)

    async def read() -> None:
        small = json.dumps({"series": [{"series_id": "a"}]}).encode()
        with ThreadPoolExecutor(4) as threads:
            reader = Bodies(SERVE, threads)
            large = [asyncio.create_task(reader.read(small + b" " * bodies.INLINE_BYTES)) for _ in range(3)]
            await asyncio.to_thread(began.wait, 60)
            try:
                assert len((await reader.read(small)).series) == 1
                assert not any(task.done() for task in large)
                assert len(reading) == 1
            finally:
                ends.set()
            assert [len(one.series) for one in await asyncio.gather(*large)] == [1] * 3

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(bodies, "parse", slowly)
        asyncio.run(read())


@pytest.mark.slow
def test_the_service_answers_around_a_large_body(tmp_path: Path) -> None:
    async def ask() -> None:
        async with asked(Registry(pack("a")), tmp_path) as client:
            headers = {"content-type": "application/json"}
            for what in ("empty objects", "series"):
                answer = await client.post("/v1/forecasts", content=HOSTILE[what], headers=headers)
                assert answer.status_code == 422
            assert "y_hat" in (await forecasts(client, "a__tea"))[0]
            for kind in ({}, {"content-type": "text/plain"}, {"content-type": "application/jsonx"}):
                answer = await client.post("/v1/forecasts", content=b'{"series":[]}', headers=kind)
                assert answer.status_code == 415
            answer = await client.post("/v1/forecasts/?hush=1", headers={"host": "elsewhere.example"})
            assert answer.status_code == 404
            assert "elsewhere" not in str(answer.headers)

    asyncio.run(ask())


def test_all_bodies_together_have_a_bound(tmp_path: Path) -> None:
    """Each is within the limit, all of them at once are not: the last ones are told to come again."""

    async def ask() -> None:
        registry = Registry(pack("a"), pack("b"))
        async with asked(registry, tmp_path, max_body_mb=0.1) as client:
            body = json.dumps({"series": [{"series_id": "b__tea"}]}).encode() + b" " * 90_000
            headers = {"content-type": "application/json"}
            with registry.hanging():
                waiting = [asyncio.create_task(client.post("/v1/forecasts", content=body, headers=headers))
                           for _ in range(12)]  # fmt: skip
                done, pending = await asyncio.wait(waiting, return_when=asyncio.FIRST_COMPLETED)
                while len(done) < 4:
                    more, pending = await asyncio.wait(pending, return_when=asyncio.FIRST_COMPLETED)
                    done |= more
                assert {task.result().status_code for task in done} == {503}
                assert len(pending) == 8
            assert {(await task).status_code for task in pending} == {200}
            assert (await client.post("/v1/forecasts", content=body, headers=headers)).status_code == 200

    asyncio.run(ask())
