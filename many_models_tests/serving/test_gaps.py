"""Periods that a request leaves out mean what the settings said when its model was trained."""

from __future__ import annotations

import json
from dataclasses import replace
from datetime import datetime, timedelta
from functools import cache

import numpy as np
import pyarrow as pa
import pytest

from many_models.adapters.lake.memory import MemoryLake
from many_models.data.lake_tables import DATASETS
from many_models.data.pack_file import in_memory, joined, parted
from many_models.data.release_index import PackId
from many_models.errors import IntegrityError
from many_models.forecasting import PackModel, prepare, train
from many_models.forecasting.gaps import weekday_letters
from many_models.ports import Filter
from many_models.serving.loaded_pack import LoadedPack, Observation, Question
from many_models.serving.observations import with_observations
from many_models.settings import Settings
from many_models_tests.forecasting.histories import AS_OF, SPEC, table

TILL = replace(SPEC, missing="zero", missing_at=(("desk", "unknown"),), missing_on=((6, "closed"),))
NAMES = ("desk__tea", "till__tea")
SUNDAY = AS_OF + timedelta(days=7)  # AS_OF is one, too
END = AS_OF + timedelta(days=9)


@cache
def histories() -> pa.Table:
    """Rows only where something was sold, at half a unit a day, and none on Sundays."""
    sold = np.random.default_rng(4).poisson(0.5, (2, 400)).astype(float)
    sold[:, 0], sold[:, -1 - np.arange(0, 400, 7)] = 1.0, 0.0
    return table({name: np.where(y > 0, y, np.nan) for name, y in zip(NAMES, sold, strict=True)})


@cache
def trained() -> PackModel:
    return train(prepare(histories(), TILL, AS_OF).rows, TILL, AS_OF).model


def loaded(model: PackModel) -> LoadedPack:
    block = in_memory(joined(model.files()))
    return LoadedPack(PackId("pack/1", "0" * 64), block, parted(memoryview(block)))


def without_meaning() -> PackModel:
    model = trained()
    return PackModel({name: value for name, value in model.index.items() if name != "missing"}, model.arrays)


def answer(model: PackModel, question: Question) -> dict[str, list[float]]:
    row = NAMES.index(question.series_id)
    return json.loads(loaded(model).answer(question, row) + b"}")


def seen(*days: tuple[int, float | None], state: str = "observed") -> list[Observation]:
    return [Observation(AS_OF + timedelta(days=day), y, state) for day, y in days]


def closed_sunday() -> Observation:
    return Observation(SUNDAY, 0.0, "closed")


def test_days_left_out_of_a_request_are_the_zeros_and_closed_days_of_the_settings():
    gaps = Question("till__tea", cutoff=END, observations=seen((1, 2.0), (5, 1.0)))
    zeros = [*seen((1, 2.0), (2, 0.0), (3, 0.0), (4, 0.0), (5, 1.0), (6, 0.0), (8, 0.0), (9, 0.0)), closed_sunday()]
    found = answer(trained(), gaps)
    assert found == answer(without_meaning(), replace(gaps, observations=zeros))
    assert found["y_hat"] != answer(without_meaning(), gaps)["y_hat"]  # as which they were served once


def test_a_request_is_answered_as_the_dataset_of_the_same_rows_is():
    """The tables are the other way in which a model hears of days after its training."""
    rows = table({"till__tea": np.array([np.nan, 3.0, np.nan, np.nan, 1.0, np.nan, np.nan, 2.0])}, last=END)
    prepared = prepare(pa.concat_tables([histories(), rows]), TILL, END).rows
    expected = trained().predict(prepared, END, series=["till__tea"])
    observations = [Observation(row["ds"], row["y"]) for row in rows.to_pylist()]
    found = answer(trained(), Question("till__tea", observations=observations))
    assert found["y_hat"] == pytest.approx(expected["y_hat"].to_pylist(), rel=1e-6)
    assert found["hi95"] == pytest.approx(expected["hi95"].to_pylist(), rel=1e-6)


def test_a_day_given_without_a_value_stays_unknown():
    question = Question("till__tea", cutoff=END, observations=seen((1, 2.0), (3, None)))
    zeros = [*seen((1, 2.0), (2, 0.0), (3, None), *((day, 0.0) for day in (4, 5, 6, 8, 9))), closed_sunday()]
    assert answer(trained(), question) == answer(without_meaning(), replace(question, observations=zeros))


def test_days_stay_unknown_where_the_settings_say_so_or_nothing_was_sent():
    at_the_desk = Question("desk__tea", cutoff=END, observations=[*seen((1, 2.0), (9, 1.0)), closed_sunday()])
    assert answer(trained(), at_the_desk) == answer(without_meaning(), at_the_desk)
    for name in NAMES:
        nothing = Question(name, cutoff=END)
        assert answer(trained(), nothing) == answer(without_meaning(), nothing)


def test_days_that_the_lake_is_yet_to_get_stay_unknown():
    lake, model = MemoryLake(), loaded(trained())
    days = [AS_OF + timedelta(days=1), AS_OF + timedelta(days=2)]
    held = {"series_id": ["till__tea"] * 2, "ds": pa.array(days, pa.timestamp("us")), "y": [2.0, 0.0]}
    lake.replace(DATASETS.name, pa.table({**held, "state": ["observed"] * 2, "pack": ["till"] * 2}), Filter(), ["pack"])
    (question,) = with_observations(lake, Settings(), model, [Question("till__tea", cutoff=END)], [1])
    assert json.loads(model.answer(question, 1) + b"}") == answer(without_meaning(), question)
    assert len(question.observations) == 2


@pytest.mark.parametrize(
    ("series", "letters"), [("till__tea", "zzzzzzc"), ("desk__tea", "uuuuuuc"), ("other__x", "zzzzzzc")]
)
def test_a_pack_says_what_a_missing_row_means_by_series_and_weekday(series: str, letters: str):
    assert weekday_letters(series, TILL) == letters


def test_packs_with_and_without_a_meaning_go_together_and_apart():
    """A release holds series that were trained before the setting and after it."""
    old, new = without_meaning().select(["desk__tea"]), trained().select(["till__tea"])
    both = PackModel.merge([new, old])
    assert both.gaps == ["zzzzzzc", "uuuuuuu"]
    assert both.select(["desk__tea", "till__tea"]).gaps == ["uuuuuuu", "zzzzzzc"]
    assert "missing" not in PackModel.merge([old]).index
    question = Question("till__tea", observations=seen((4, 2.0)))
    merged = json.loads(loaded(both).answer(question, 0) + b"}")
    assert merged == answer(trained(), question)


def test_other_settings_leave_packs_as_they_were():
    plain = replace(TILL, missing="unknown", missing_at=(), missing_on=())
    model = train(prepare(histories(), plain, AS_OF).rows, plain, AS_OF).model
    assert "missing" not in model.index


@pytest.mark.parametrize("odd", [7, ["zzzzzzz"], ["zzzzzzz", "zz"], ["zzzzzzz", 7], ["zzzzzzz", "zzzzzzx"]])
def test_a_pack_whose_meanings_are_odd_is_not_served(odd: object):
    with pytest.raises(IntegrityError, match="missing is not seven letters"):
        loaded(PackModel({**trained().index, "missing": odd}, trained().arrays))


def test_hours_left_out_of_a_request_are_zeros():
    spec = replace(SPEC, frequency="h", missing="zero")
    end = datetime(2023, 12, 31, 23)
    sold = np.random.default_rng(6).poisson(0.6, 24 * 40).astype(float)
    sold[[0, -1]] = 1.0
    rows = table({"till__tea": np.where(sold > 0, sold, np.nan)}, "h", end)
    model = train(prepare(rows, spec, end).rows, spec, end).model
    hours = [Observation(end + timedelta(hours=hour), 1.0) for hour in (2, 6)]
    zeros = [Observation(end + timedelta(hours=hour), 0.0) for hour in (1, 3, 4, 5)]
    gaps, whole = (
        json.loads(loaded(model).answer(Question("till__tea", observations=given), 0) + b"}")
        for given in (hours, [*hours, *zeros])
    )
    assert gaps == whole
