"""Seasons by grain, zeros that no column announces, and packs from before either."""

from __future__ import annotations

import hashlib
import io
import json
from datetime import datetime

import numpy as np
import pytest

from many_models.errors import IntegrityError
from many_models.forecasting import PackModel, Spec, train
from many_models.forecasting.pack import mm_pack_v1 as loader
from many_models_tests.forecasting.histories import AS_OF, rows_of, sales

HOURLY = Spec("h", 168, windows=2)
NIGHT = datetime(2023, 12, 31, 23)


def counters(weeks: int) -> np.ndarray:
    """Bicycles an hour: commuters on weekdays, walks on weekends, and nearly nothing at night."""
    hour, day = np.arange(24 * 7 * weeks) % 24, np.arange(24 * 7 * weeks) // 24 % 7
    commute = 60 * np.exp(-((hour - 8) ** 2) / 2) + 50 * np.exp(-((hour - 18) ** 2) / 3)
    walk = 45 * np.exp(-((hour - 15) ** 2) / 8)
    return np.random.default_rng(0).poisson(np.where(day < 5, commute, walk) + 1.0).astype(float)


def test_hourly_data_repeat_the_week_and_not_the_day():
    """On a Saturday the same hour of Friday says nothing: the season is day by week."""
    y = counters(10)
    model = train(rows_of({"a": y[:-168]}, HOURLY, NIGHT), HOURLY, NIGHT).model
    said = dict(zip(model.index["candidates"], model.candidates()[0], strict=True))  # type: ignore[arg-type]
    wape = {name: np.abs(f - y[-168:]).sum() / y[-168:].sum() for name, f in said.items()}
    assert HOURLY.steps_per_season == 168
    for name in ("seasonal_mean", "smoothing_medium", "ridge_raw"):
        assert wape[name] < 0.3, (name, wape)


def test_closed_days_that_no_column_announces_do_not_ruin_the_log_scale():
    """Moving holidays: sales of thousands, one open day in forty without any."""
    chance = np.random.default_rng(1)
    days = 500
    y = np.round(
        5000 * np.array([1.1, 1.0, 0.9, 1.0, 1.1, 0.8, 0.6])[np.arange(days) % 7] * chance.lognormal(0, 0.1, days)
    )
    y[:-28][chance.random(days - 28) < 0.025] = 0
    model = train(rows_of({"a": y[:-28]}, Spec("D", 28, windows=2)), Spec("D", 28, windows=2), AS_OF).model
    said = dict(zip(model.index["candidates"], model.candidates()[0], strict=True))  # type: ignore[arg-type]
    wape = {name: np.abs(f - y[-28:]).sum() / y[-28:].sum() for name, f in said.items()}
    assert wape["ridge_log"] < 1.5 * wape["ridge_raw"], wape


def test_zeros_of_a_series_that_sells_seldom_stay_on_the_log_scale():
    state, own = np.zeros(loader.state_size(7, 1, 0)), np.ones(loader.OWN_SIZE)
    conf = np.zeros(loader.CONF_SIZE)
    conf[loader.SEASON], own[loader.ADDITIVE], state[-1] = 7, 0.0, 100.0
    state[2 * 11], state[2 * 11 + 1 + 2] = 0.9, 50.0
    assert loader.is_structural(state, 2, conf, own)
    assert not loader.is_structural(state, 3, conf, own)  # a phase that hardly sells has zeros of its own
    state[2 * 11] = 0.3
    assert not loader.is_structural(state, 2, conf, own)


def older(model: PackModel, size: int) -> dict[str, bytes]:
    """The pack's files as they were before series said how zeros are taken, or that seasons are tested."""
    files = dict(model.files())
    own = np.load(io.BytesIO(files["own.npy"]))[:, :size]
    buffer = io.BytesIO()
    np.save(buffer, own)
    files["own.npy"] = buffer.getvalue()
    index = json.loads(files["index.json"])
    index["own_size"] = size
    if size == loader.LEAST_OWN_SIZE:
        del index["own_size"]
    index["sha256"]["own.npy"] = hashlib.sha256(files["own.npy"]).hexdigest()
    files["index.json"] = json.dumps(index).encode()
    return files


@pytest.mark.parametrize("size", range(loader.LEAST_OWN_SIZE, loader.OWN_SIZE))
def test_a_pack_from_before_reads_forecasts_and_merges_with_a_new_one(size):
    new = train(rows_of({"a": sales(300), "b": sales(300, 40.0, seed=1)}), Spec("D", 7, windows=2), AS_OF).model
    new.arrays["own"][new.series.index("a"), loader.TESTED] = 0.0  # as an older pack says, whose season is not tested
    old = PackModel.from_files(older(new.select(["a"]), size))
    assert new.arrays["own"][new.series.index("b"), loader.TESTED] == 1.0
    assert (old.arrays["own"][:, size:] == 0).all()
    assert old.predict(None)["y_hat"].to_pylist() == new.select(["a"]).predict(None)["y_hat"].to_pylist()
    both = PackModel.merge([old, new.select(["b"])])
    assert both.predict(None)["y_hat"].to_pylist() == pytest.approx(new.predict(None)["y_hat"].to_pylist())
    rolled = [pack.predict(rows_of({"a": np.r_[sales(300), sales(7, seed=9)]}, last=datetime(2024, 1, 7)),
                           datetime(2024, 1, 7), series=["a"]) for pack in (old, both)]  # fmt: skip
    assert rolled[0]["y_hat"].to_pylist() == rolled[1]["y_hat"].to_pylist()


@pytest.mark.parametrize("size", [6.0, True, "6", [6], 10**9, None])
def test_a_pack_that_says_nonsense_of_its_own_numbers_is_refused(size):
    new = train(rows_of({"a": sales(300)}), Spec("D", 7, windows=2), AS_OF).model
    files = older(new, loader.LEAST_OWN_SIZE)
    files["index.json"] = json.dumps({**json.loads(files["index.json"]), "own_size": size}).encode()
    with pytest.raises(IntegrityError, match=r"own\.npy has the shape"):
        PackModel.from_files(files)


def test_an_hourly_pack_from_before_keeps_its_calendar_without_hours():
    """One whose season was set to the week had no columns for the hours of the day."""
    days = np.array(["2024-01-01T05"], "datetime64[us]")
    about = ("h", 168, np.zeros(0, np.int64), np.zeros(0, np.int64), 0)
    with_hours, without = (loader.calendar(days, *about, hours)[0].shape[1] for hours in (True, False))
    assert with_hours == without + 23
    conf = np.zeros(loader.CONF_SIZE)
    conf[loader.SEASON] = 168
    arrays = {"conf": conf, "holiday_days": about[2], "holiday_slots": about[3]}
    for columns in (with_hours, without):
        conf[loader.CALENDAR] = columns
        assert loader.has_hours("h", arrays) == (columns == with_hours)
