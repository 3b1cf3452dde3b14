"""New series: their level from their relatives, their season from all series, intervals as wide as errors are."""

from __future__ import annotations

from dataclasses import replace
from datetime import datetime
from functools import cache

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pytest
from hypothesis import given
from hypothesis import strategies as st

from many_models.forecasting import PooledModels, Prior, Spec, pool, train
from many_models.forecasting.new_items import SEEN, bounds_of, level_of, priors_of_new, priors_of_rows, recent_values
from many_models.forecasting.pack import mm_pack_v1 as loader
from many_models.forecasting.priors import priors_from
from many_models.keys import SeriesKey
from many_models_tests.forecasting.histories import AS_OF, SPEC, rows_of, table

KEYS = ("store", "item")
STORES, ITEMS, DAYS = 8, 10, 112
WEEK = np.array([0.6, 0.7, 0.8, 0.9, 1.2, 1.6, 1.2])


@cache
def truth() -> dict[str, float]:
    """Store times item: the level of each series."""
    rng = np.random.default_rng(3)
    store, item = np.exp(rng.normal(0, 0.8, STORES)), np.exp(rng.normal(2.5, 0.8, ITEMS))
    return {SeriesKey((f"s{a}", f"i{b}")).series_id: float(store[a] * item[b] * np.exp(rng.normal(0, 0.15)))
            for a in range(STORES) for b in range(ITEMS)}  # fmt: skip


@cache
def histories() -> dict[str, np.ndarray]:
    """Sales of every series, with a weekly pattern."""
    rng = np.random.default_rng(4)
    return {name: rng.poisson(level * WEEK[np.arange(DAYS) % 7]).astype(float) for name, level in truth().items()}


@cache
def learned() -> tuple[pa.Table, list[str], PooledModels]:
    """Rows in which every ninth series began yesterday, the names of these, and what is learned together."""
    new = sorted(truth())[::9]
    known = {name: y[-1:] if name in new else y for name, y in histories().items()}
    rows = rows_of(known)
    return rows, new, pool(rows, SPEC, AS_OF)


@pytest.mark.slow
def test_a_new_item_sells_what_its_store_and_item_say_not_what_the_item_sells_elsewhere():
    rows, new, _ = learned()
    values = recent_values(rows, SPEC)
    parts = {name: SeriesKey.parse(name, 2).parts for name in values}
    made = priors_of_new(values, parts, KEYS, SPEC)
    plain = priors_from({name: float(y.mean()) for name, y in values.items()}, parts, KEYS)
    miss, before = (
        np.mean([abs(np.log(priors[name].level / truth()[name])) for name in new]) for priors in (made, plain)
    )
    assert miss < 0.5 * before
    assert {made[name].origin for name in new} == {"item"}


def test_a_new_item_has_the_week_of_all_from_its_first_day():
    rows, new, pooled = learned()
    model = train(rows, SPEC, AS_OF, pooled=pooled, priors=priors_of_rows(rows, KEYS, SPEC)).model
    forecast = model.predict(None, series=new).to_pandas()
    assert set(forecast["fallback"]) == {"prior:item"}
    wanted = np.array([truth()[name] * WEEK[(DAYS + np.arange(7)) % 7] for name in new]).ravel()
    flat = np.array([np.full(7, truth()[name]) for name in new]).ravel()
    wape = np.abs(forecast["y_hat"] - wanted).sum() / wanted.sum()
    assert wape < 0.25
    assert wape < 0.8 * np.abs(flat - wanted).sum() / wanted.sum(), "better than a flat forecast of the true level"


@pytest.mark.slow
def test_a_new_item_gets_the_same_alone_and_among_others():
    rows, new, pooled = learned()
    priors = priors_of_rows(rows, KEYS, SPEC)
    whole = train(rows, SPEC, AS_OF, pooled=pooled, priors=priors).model
    for name in new[:3]:
        alone = train(rows.filter(pc.equal(rows["series_id"], name)), SPEC, AS_OF, pooled=pooled, priors=priors)
        assert alone.model.files() == whole.select([name]).files(), name


def test_intervals_of_new_items_cover_what_they_say():
    """Poisson sales around levels that relatives say within 15 %: measured on all series, each taken for new."""
    rows, _, _ = learned()
    priors = priors_of_rows(rows_of(histories()), KEYS, SPEC)
    inside = {80: list[bool](), 95: list[bool]()}
    values = recent_values(rows, SPEC)
    for name, prior in priors.items():
        for k, level in enumerate(inside):
            low, high = (1.0 + np.array(prior.misses[0][2 * k : 2 * k + 2])) * prior.level
            inside[level] += ((values[name] >= low) & (values[name] <= high)).tolist()
    assert 0.76 <= np.mean(inside[80]) <= 0.87
    assert 0.93 <= np.mean(inside[95]) <= 0.98


def test_the_more_a_new_item_has_sold_the_narrower_its_interval():
    prior = next(iter(priors_of_rows(rows_of(histories()), KEYS, SPEC).values()))
    width = [bounds[1] - bounds[0] for bounds in prior.misses]
    assert len(width) == len(SEEN)
    assert width[-1] < width[0]


def test_own_days_count_more_than_relatives_that_often_are_wrong():
    """Stores and items say little here: one series in three sells a hundredth of what they say."""
    rng = np.random.default_rng(8)
    wrong = {name: rng.random() < 1 / 3 for name in truth()}
    y = {name: one / 100.0 if wrong[name] else one for name, one in histories().items()}
    new = next(name for name in sorted(y) if wrong[name] and truth()[name] > 30.0)
    prior = priors_of_rows(rows_of({**y, new: y[new][-3:]}), KEYS, SPEC)[new]
    own, needed = y[new][-3:], 14
    assert prior.level > 10.0 * own.mean()
    assert level_of(prior, own, needed) < 2.0 * own.mean()
    assert level_of(prior, own[:0], needed) == pytest.approx(prior.level), "without days of its own it has only these"


def test_days_without_a_sale_do_not_contradict_relatives_that_are_right():
    """Items that sell one day of three: two days without a sale are chance."""
    rng = np.random.default_rng(9)
    y = {name: rng.poisson(0.4 * (1 + at % 7) / 4.0, DAYS).astype(float) for at, name in enumerate(sorted(truth()))}
    prior = priors_of_rows(rows_of(y), KEYS, SPEC)[sorted(y)[6]]
    assert prior.doubt == 0.0
    assert level_of(prior, np.zeros(2), 14) > 0.3 * prior.level


def test_chance_does_not_contradict_a_slow_seller_among_fast_ones_that_are_wrong():
    """One fast series in three sells a hundredth of what relatives say; slow ones sell on four days of ten."""
    rng = np.random.default_rng(10)
    y = {}
    for at, name in enumerate(sorted(truth())):
        slow = at % 2 == 0
        y[name] = rng.poisson(0.4, DAYS) if slow else rng.poisson(60.0, DAYS) / (100.0 if rng.random() < 1 / 3 else 1.0)
    prior = priors_of_rows(rows_of({name: one.astype(float) for name, one in y.items()}), KEYS, SPEC)
    slow = next(one for one in prior.values() if one.chance == max(p.chance for p in prior.values()))
    doubted = replace(slow, level=0.4, doubt=2.0)
    assert level_of(doubted, np.zeros(1), 14) > 0.1
    low, high = (bounds_of(doubted, 1, level_of(doubted, own, 14)) for own in (np.zeros(1), np.ones(1)))
    assert all(np.isfinite(one[1]).all() and one[1].max() < 50.0 for one in (low, high))


@given(
    level=st.floats(-1e6, 1e9), own=st.lists(st.floats(-1e6, 1e9), max_size=13), worth=st.sampled_from([0.5, 4.0]),
    doubt=st.sampled_from([0.0, 1.0, 2.0]), chance=st.floats(0.0, 100.0),
)  # fmt: skip
def test_a_level_lies_between_the_prior_and_the_own_mean(level, own, worth, doubt, chance):
    found = level_of(Prior(level, "item", worth, (), doubt, chance), np.array(own), 14)
    mean = float(np.mean(own)) if own else level
    slack = 1e-9 * max(abs(level), abs(mean))
    assert min(level, mean) - slack <= found <= max(level, mean) + slack


@pytest.mark.parametrize(("level", "own"), [(5.0, [-3.0]), (-22.1, [-21.0, -19.0]), (5.0, [-8.0] * 5)])
def test_values_below_zero_contradict_nothing(level, own):
    """Returns say nothing of what will be sold, and where all is below zero the prior is, too."""
    plain, doubted = (Prior(level, "item", 4.0, (), doubt, 0.3) for doubt in (0.0, 2.0))
    assert level_of(doubted, np.array(own), 14) == level_of(plain, np.array(own), 14)


@pytest.mark.parametrize("level", [40.0, 4.0, 0.04, 1e-9])
def test_bounds_are_as_wide_as_they_were_measured_however_low_the_level(level):
    prior = Prior(40.0, "item", 2.0, ((-0.5, 2.0, -1.0, 3.0),) * len(SEEN))
    found = bounds_of(prior, 3, level)
    assert found is not None
    low, high = loader.interval(np.array([level]), *found, False, 7)[0, 0]
    scale = max(level, 4.0)  # a tenth of the prior at least
    assert (low, high) == (pytest.approx(level - 0.5 * scale), pytest.approx(level + 2.0 * scale))


def test_one_item_sold_in_millions_changes_no_other_new_item_much():
    values = recent_values(rows_of(histories()), SPEC)
    parts = {name: SeriesKey.parse(name, 2).parts for name in values}
    before = priors_of_new(values, parts, KEYS, SPEC)
    odd = sorted(values)[5]
    after = priors_of_new({**values, odd: values[odd] * 1e6}, parts, KEYS, SPEC)
    moved = [abs(np.log(after[name].level / before[name].level)) for name in values if name != odd]
    assert np.median(moved) < 0.2
    assert max(moved) < 1.0, "not even the others of its item and store"


def test_an_attribute_says_what_a_new_series_of_one_key_sells():
    levels = {f"part{i:03d}": 5.0 if i % 2 else 80.0 for i in range(60)}
    rng = np.random.default_rng(0)
    values = {name: rng.poisson(level, 56).astype(float) for name, level in levels.items()}
    parts = {name: (name,) for name in levels}
    kind = {"kind": {name: "slow" if level < 10 else "fast" for name, level in levels.items()}}
    new = {"newcomer": ("newcomer",)}
    told = {"kind": {**kind["kind"], "newcomer": "fast"}}
    prior = priors_of_new(values, {**parts, **new}, ["part"], SPEC, told)["newcomer"]
    assert prior.origin == "attributes"
    assert prior.level == pytest.approx(80.0, rel=0.1)
    price = {"price": {name: 1.0 + i + (50 if levels[name] < 10 else 0) for i, name in enumerate(levels)}}
    price["price"]["newcomer"] = 5.0
    cheap = priors_of_new(values, {**parts, **new}, ["part"], SPEC, price)["newcomer"]
    assert cheap.level > 25.0


def test_rows_only_when_sold_are_zeros_in_the_level():
    y = np.where(np.arange(56) % 4 == 0, 8.0, np.nan)
    raw = table({"a": y, "b": np.full(56, 1.0)}, last=AS_OF)
    sparse = recent_values(raw, Spec("D", 7, missing="zero"))["a"]
    assert len(sparse) == 56
    assert (sparse > 0).sum() == 14
    assert len(recent_values(raw, SPEC)["a"]) == 14


def test_without_enough_relatives_the_level_is_that_of_the_item_as_before():
    few = dict(list(histories().items())[:12])
    parts = {name: SeriesKey.parse(name, 2).parts for name in few}
    plain = priors_from({name: float(y.mean()) for name, y in few.items()}, parts, KEYS)
    made = priors_of_new(few, parts, KEYS, SPEC)
    assert {name: Prior(prior.level, prior.origin, prior.worth) for name, prior in made.items()} == plain
    assert all(prior.misses for prior in made.values()), "intervals are measured all the same"


def test_pooled_models_without_a_profile_still_serve_new_items():
    """Files from before there were profiles: a new item gets its level, flat, as then."""
    rows, new, pooled = learned()
    files = pooled.files()
    old = PooledModels.from_files({name: data for name, data in files.items() if "profile" not in name}
                                  | {"pooled.json": _without_profiles(files["pooled.json"])})  # fmt: skip
    assert not len(old.late.profile)
    model = train(rows, SPEC, AS_OF, pooled=old, priors=priors_of_rows(rows, KEYS, SPEC)).model
    forecast = model.predict(None, series=new[:1])["y_hat"].to_numpy()
    assert np.ptp(forecast) == 0.0
    assert forecast[0] > 0


def _without_profiles(about: bytes) -> bytes:
    import json

    told = json.loads(about)
    told["sha256"] = {name: value for name, value in told["sha256"].items() if "profile" not in name}
    return json.dumps(told).encode()


def test_a_monthly_new_item_follows_the_year_of_all():
    spec, last = Spec("MS", 6, windows=1), datetime(2023, 12, 1)
    rng, year = np.random.default_rng(1), 1.0 + 0.5 * np.sin(2 * np.pi * np.arange(48) / 12)
    level = {SeriesKey((f"s{a}", f"i{b}")).series_id: 30.0 * (1 + a) * (1 + b) for a in range(6) for b in range(6)}
    y = {name: rng.poisson(one * year).astype(float) for name, one in level.items()}
    new = sorted(level)[7]
    rows = rows_of({**y, new: y[new][-1:]}, spec, last)
    pooled = pool(rows, spec, last)
    model = train(rows, spec, last, pooled=pooled, priors=priors_of_rows(rows, KEYS, spec)).model
    forecast = model.predict(None, series=[new])["y_hat"].to_numpy()
    wanted = level[new] * (1.0 + 0.5 * np.sin(2 * np.pi * (48 + np.arange(6)) / 12))
    assert np.abs(forecast - wanted).sum() / wanted.sum() < 0.3


def test_three_equal_days_of_a_new_item_among_few_others_make_no_narrow_interval():
    """Twelve relatives are too few for effects, and yet say how far sales are from a level."""
    rng = np.random.default_rng(6)
    known = {
        SeriesKey((f"s{a}", f"i{b}")).series_id: rng.poisson(20.0 * WEEK[np.arange(DAYS) % 7]).astype(float)
        for a in range(3)
        for b in range(4)
    }
    name = SeriesKey(("s1", "i2")).series_id
    rows = rows_of({**known, name: np.full(3, 20.0)})
    priors = priors_of_rows(rows, KEYS, SPEC)
    model = train(rows, SPEC, AS_OF, priors=priors, pooled=pool(rows, SPEC, AS_OF, trees=False)).model
    said = model.predict(None).filter(pc.equal(model.predict(None)["series_id"], name)).to_pandas()
    width = ((said["hi80"] - said["lo80"]) / said["y_hat"]).mean()
    assert 0.3 < width < 2.0, "Poisson sales of 20: 0.57"
