"""The endpoint explains its forecasts and compares two futures."""

from __future__ import annotations

import asyncio
from datetime import timedelta

import numpy as np
import pytest

from many_models_tests.forecasting.histories import AS_OF
from many_models_tests.support.serving_parts import Registry, asked, pack

pytestmark = pytest.mark.slow
KNOWN = [{"ds": f"{AS_OF + timedelta(days=i):%Y-%m-%d}", "values": {"price": 1.2}} for i in range(1, 8)]
CHEAPER = [{"ds": f"{AS_OF + timedelta(days=i):%Y-%m-%d}", "values": {"price": 0.9}} for i in (2, 3)]


async def _ask(folder, route, *series, **serve):
    async with asked(Registry(pack("a")), folder, **serve) as client:
        answer = await client.post(route, json={"series": list(series)})
        assert answer.status_code == 200, answer.text
        return answer.json()["forecasts"]


def test_an_explanation_is_the_forecast_in_parts_that_add_up(tmp_path):
    question = {"series_id": "a__milk", "known": KNOWN}
    bad = {"series_id": "a__milk", "known": [{"ds": "2024-01-02", "values": {"prise": 1}}]}
    explained, refused = asyncio.run(_ask(tmp_path / "1", "/v1/explanations", question, bad))
    (plain,) = asyncio.run(_ask(tmp_path / "2", "/v1/forecasts", question))
    assert refused["error"]["kind"] == "Series"
    parts, words = explained.pop("parts"), explained.pop("words")
    assert explained == plain
    total = np.sum([part["values"] for part in parts], axis=0)
    assert total == pytest.approx(plain["y_hat"], rel=1e-6)
    assert {"level", "price"} <= {part["driver"] for part in parts}
    assert words[0].startswith("The forecast is ")


def test_sentences_are_in_the_language_of_the_settings(tmp_path):
    (one,) = asyncio.run(_ask(tmp_path, "/v1/explanations", {"series_id": "a__milk", "known": KNOWN}, language="de"))
    assert one["words"][0].startswith("Die Prognose ist ")
    assert {"level", "price"} <= {part["driver"] for part in one["parts"]}


@pytest.mark.parametrize("route", ["/v1/forecasts", "/v1/explanations"])
def test_two_futures_are_compared_by_step_and_driver(tmp_path, route):
    """What `against` does not say stays as in `known`; the change is that of two questions asked one by one."""
    changed = [*(step for step in KNOWN if step["ds"] not in {one["ds"] for one in CHEAPER}), *CHEAPER]
    first, second, same = asyncio.run(_ask(
        tmp_path, route,
        {"series_id": "a__milk", "known": KNOWN, "against": CHEAPER},
        {"series_id": "a__milk", "known": changed},
        {"series_id": "a__milk", "known": KNOWN, "against": []},
    ))  # fmt: skip
    difference = first["difference"]
    expected = np.array(second["y_hat"]) - np.array(first["y_hat"])
    assert difference["change"] == pytest.approx(expected, rel=1e-5, abs=1e-6)
    assert difference["change"][1] != 0
    assert difference["change"][0] == 0
    total = np.sum([part["values"] for part in difference["parts"]], axis=0)
    assert total == pytest.approx(difference["change"], rel=1e-6, abs=1e-9)
    for level in (80, 95):
        low, high = np.array(difference[f"lo{level}"]), np.array(difference[f"hi{level}"])
        assert (low <= difference["change"]).all()
        assert (high >= difference["change"]).all()
        assert (high - low)[0] == 0
        assert (high - low)[1] > 0
    assert not any(same["difference"]["change"])
