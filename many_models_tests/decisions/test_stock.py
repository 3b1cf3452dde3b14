"""Stock against a slow simulation of the policy on the true process, and the stock table's bad rows."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pyarrow as pa
import pytest

from many_models.decisions.demand_paths import (
    Backtest,
    Histories,
    PathModel,
    fit_paths,
    sum_quantiles,
)
from many_models.decisions.rare_sales import USUAL, levels_of
from many_models.decisions.stock import NUMBERS, Terms, order_quantity, read_terms, recommend
from many_models.errors import InputError, SettingsError

HORIZON = 14
DEFAULTS = {"lead_time": None, "lead_time_sd": 0.0, "review": 1.0, "service_level": 0.95, "on_order": 0.0,
            "least_order": 0.0, "pack": 0.0}  # fmt: skip


def demand(rng: np.random.Generator, shape: tuple[int, ...], mean: float) -> np.ndarray:
    """Negative binomial demand: a gamma mixture of Poisson, variance mean + mean² / 5."""
    return rng.poisson(mean * rng.gamma(5.0, size=shape) / 5.0).astype(float)


def model_of(mean: float, series: int = 60, windows: int = 30, seed: int = 3) -> PathModel:
    """A path model of series whose forecasts are the true mean."""
    rng = np.random.default_rng(seed)
    names = [f"s{i}" for i in range(series)]
    y = demand(rng, (series, windows, HORIZON), mean)
    past = demand(rng, (series * 200,), mean)
    y_hat = np.full((series, HORIZON), mean)
    return fit_paths(
        names, y_hat, Backtest(names, y, np.full_like(y, mean)), Histories(past, np.arange(0, series * 200 + 1, 200))
    )


def terms_of(series: int, **values: float | bool) -> Terms:
    base = dict.fromkeys(NUMBERS, 0.0) | {
        "lead_time": 4.0, "review": 3.0, "service_level": 0.9, "holding_cost": np.nan, "missing_cost": np.nan,
    }  # fmt: skip
    fill = bool(values.pop("fill", False))
    return Terms(fill=np.full(series, fill), **{k: np.full(series, float(v)) for k, v in (base | values).items()})


def simulated(point: float, terms: Terms, mean: float, cycles: int = 6000) -> tuple[float, float]:
    """Share of cycles without a miss, and of demand met at once, of the policy run period by period."""
    rng = np.random.default_rng(11)
    lead, review, pack, least = (
        int(terms.lead_time[0]), int(terms.review[0]), max(float(terms.pack[0]), 1.0), float(terms.least_order[0])
    )  # fmt: skip
    days = demand(rng, (cycles * review + lead + review,), mean)
    net = position = point
    coming = dict[int, float]()
    missed = np.zeros(len(days))
    for day, wanted in enumerate(days):
        net += coming.pop(day, 0.0)
        if day % review == 0 and position < point:
            quantity = np.ceil(max(point - position, least) / pack) * pack
            position += quantity
            if lead:
                coming[day + lead] = quantity
            else:
                net += quantity
        missed[day] = max(wanted - max(net, 0.0), 0.0)
        net -= wanted
        position -= wanted
    skip = lead + 10 * review
    rest = missed[skip : skip + (len(days) - skip) // review * review].reshape(-1, review)
    # a cycle is from an arrival to the next: arrivals come `lead` after a review
    starts = np.arange(skip + (-skip + lead) % review, len(days) - review, review)
    good = [missed[start : start + review].sum() == 0 for start in starts]
    return float(np.mean(good)), 1.0 - float(rest.sum()) / float(days[skip : skip + rest.size].sum())


@pytest.mark.slow
@pytest.mark.parametrize("pack", [1.0, 24.0])
@pytest.mark.parametrize("level", [0.8, 0.95])
def test_the_fill_rate_asked_for_is_met_within_two_points(pack: float, level: float) -> None:
    model, mean = model_of(6.0), 6.0
    terms = terms_of(60, fill=True, pack=pack, service_level=level)
    found = recommend(model, terms, whole=np.ones(60, bool), horizon=HORIZON, paths=1000).to_pandas()
    points = found["reorder_point"].value_counts(normalize=True)  # whole units: of neighbouring ones, one meets more
    reached = sum(share * simulated(float(point), terms, mean)[1] for point, share in points.items())
    assert reached == pytest.approx(level, abs=0.02)
    assert found["expected_fill_rate"].median() == pytest.approx(reached, abs=0.02)


@pytest.mark.parametrize("pack", [1.0, 24.0])
def test_the_cycle_service_asked_for_is_met_within_two_points(pack: float) -> None:
    model, mean = model_of(20.0), 20.0
    terms = terms_of(60, pack=pack, service_level=0.9)
    found = recommend(model, terms, whole=np.ones(60, bool), horizon=HORIZON, paths=1000).to_pandas()
    point = float(found["reorder_point"].median())
    covered = found["expected_cycle_service"].median()
    assert covered == pytest.approx(0.9, abs=0.02)
    rng = np.random.default_rng(5)
    sums = demand(rng, (20_000, 7), mean).sum(1)
    places = rng.integers(0, int(pack), 20_000)
    assert float((sums <= point + places).mean()) == pytest.approx(0.9, abs=0.02)
    assert simulated(point, terms, mean)[0] == pytest.approx(0.9, abs=0.03)


def test_rare_sales_get_their_own_distribution_and_not_a_normal() -> None:
    """Against the true process: a sale every 5 days or so, of 1 to 20 units."""
    rng = np.random.default_rng(1)
    sizes = rng.integers(1, 21, (200, 400)).astype(float)
    past = np.where(rng.random((200, 400)) < 0.2, sizes, 0.0)
    names = [f"s{i}" for i in range(200)]
    y = past[:, -42:].reshape(200, 3, 14)
    mean = np.full((200, HORIZON), 2.1)
    model = fit_paths(names, mean, Backtest(names, y, np.full_like(y, 2.1)),
                      Histories(past.ravel(), np.arange(0, 200 * 400 + 1, 400)))  # fmt: skip
    assert model.renewal.all()
    found = recommend(model, terms_of(200), whole=np.ones(200, bool), horizon=HORIZON).to_pandas()
    true = np.where(rng.random((50_000, 7)) < 0.2, rng.integers(1, 21, (50_000, 7)), 0).sum(1)
    for level in (50, 80, 95, 99):
        at = found[f"demand_q{level}"].to_numpy()
        cover = float(np.mean([(true <= q).mean() for q in at]))
        assert cover == pytest.approx(level / 100, abs=0.03), level


def test_quantiles_of_sums_are_those_of_a_slow_loop_and_those_that_stock_uses() -> None:
    model = model_of(8.0, series=12)
    lengths = np.arange(1, 13, dtype=np.int64)
    found = sum_quantiles(model, lengths, (0.5, 0.95), paths=200, seed=4)
    for rows, drawn in model.blocks(200, 4):
        for at, i in enumerate(rows.tolist()):
            sums = [float(path[: lengths[i]].sum()) for path in drawn[at]]
            assert found[i] == pytest.approx(np.quantile(sums, (0.5, 0.95), method="hazen"), rel=1e-5)
    seven = sum_quantiles(model, np.full(12, 7), (0.95,), paths=200, seed=4)[:, 0]
    whole = np.ones(12, bool)
    stocked = recommend(model, terms_of(12), whole=whole, horizon=HORIZON, paths=200, seed=4)  # 4 of lead, 3 of review
    assert stocked["demand_q95"].to_numpy() == pytest.approx(seven)


def test_the_newsvendor_stocks_the_critical_ratio() -> None:
    terms = terms_of(60, holding_cost=1.0, missing_cost=9.0)
    found = recommend(model_of(20.0), terms, whole=np.ones(60, bool), horizon=HORIZON).to_pandas()
    assert (found["newsvendor_ratio"] == 0.9).all()
    sums = demand(np.random.default_rng(5), (50_000, 7), 20.0).sum(1)
    assert float(np.mean([(sums <= q).mean() for q in found["newsvendor_stock"]])) == pytest.approx(0.9, abs=0.02)


def test_orders_are_whole_packs_and_at_least_the_least_order() -> None:
    position = np.array([3.0, 10.0, 12.0, np.nan, 9.5])
    ordered = order_quantity(position, np.full(5, 10.0), np.array([6.0, 6, 6, 6, 0]), np.array([13.0, 0, 0, 0, 2]),
                             np.array([True, True, True, True, False]))  # fmt: skip
    assert ordered[:3].tolist() == [18.0, 0.0, 0.0]
    assert np.isnan(ordered[3])
    assert ordered[4] == 2.0


def test_a_lead_time_that_varies_needs_more_safety_stock() -> None:
    steady, varying = terms_of(60), terms_of(60, lead_time_sd=1.5)
    one, other = (recommend(model_of(20.0), t, whole=np.ones(60, bool), horizon=HORIZON) for t in (steady, varying))
    assert np.mean(other["safety_stock"].to_numpy()) > 1.3 * np.mean(one["safety_stock"].to_numpy())


def test_recommendations_of_a_series_do_not_depend_on_the_others() -> None:
    model, terms = model_of(20.0), terms_of(60)
    every = recommend(model, terms, whole=np.ones(60, bool), horizon=HORIZON)
    spoilt = replace(terms, lead_time=np.where(np.arange(60) == 7, 9.0, terms.lead_time))
    again = recommend(model, spoilt, whole=np.ones(60, bool), horizon=HORIZON)
    others = np.arange(60) != 7
    assert every.filter(pa.array(others)).equals(again.filter(pa.array(others)))


def test_a_faulty_backtest_window_leaves_the_other_series_exactly_as_they_were() -> None:
    rng = np.random.default_rng(0)
    names = [f"s{i}" for i in range(40)]
    y = demand(rng, (40, 3, HORIZON), 20.0)
    histories = Histories(demand(rng, (40 * 50,), 20.0), np.arange(0, 2001, 50))
    for poison in (np.nan, np.inf, 1e300):
        bad = np.concatenate([y, np.full((1, 3, HORIZON), poison)])
        more = Histories(np.concatenate([histories.y, np.full(50, 20.0)]), np.arange(0, 2051, 50))
        whole = fit_paths(names, np.full((40, HORIZON), 20.0), Backtest(names, y, np.full_like(y, 20.0)), histories)
        beside = fit_paths([*names, "zz"], np.full((41, HORIZON), 20.0),
                           Backtest([*names, "zz"], bad, np.full_like(bad, 20.0)), more)  # fmt: skip
        one = recommend(whole, terms_of(40), whole=np.ones(40, bool), horizon=HORIZON)
        other = recommend(beside, terms_of(41), whole=np.ones(41, bool), horizon=HORIZON)
        assert one.equals(other.slice(0, 40)), poison


def test_bad_rows_of_the_stock_table_are_listed_and_the_rest_goes_on() -> None:
    rows = pa.table({
        "store": ["a", "a", "a", "a", "a", "b", "a", "a"],
        "item": ["1", "2", "3", "4", "5", "", "1", "6"],
        "lead_time": ["2", "-1", "two", "2", "20", "3", "9", "2"],
        "pack": ["6", "6", "6", "0", "6", None, "6", "6"],
        "service": ["fill", "fill", "fill", "fill", "fill", None, "fill", "often"],
    })  # fmt: skip
    series = {f"a__{i}": ("a", str(i)) for i in range(1, 8)} | {"b__1": ("b", "1")}
    read = read_terms(rows, ["store", "item"], series, defaults=DEFAULTS, service="cycle", horizon=14)
    assert read.series == ["a__1", "b__1"]
    assert read.terms.lead_time.tolist() == [2.0, 3.0]
    assert read.terms.fill.tolist() == [True, False]
    said = " | ".join(f"{p['row']}{p['series_id']}: {p['reason']}" for p in read.problems.to_pylist())
    for words in ("lead_time is -1", "lead_time is 'two'", "pack is 0", "set forecast.horizon to 21",
                  "another row has the same keys", "service is 'often'", "a__7: no usable row"):  # fmt: skip
        assert words in said, words


def test_a_row_that_fits_no_series_is_listed_and_one_about_an_ended_series_is_not() -> None:
    rows = pa.table({
        "store": ["a", "A ", None, "b", "b", "", "a"],
        "item": ["1", None, "9", "1", None, "", "7"],
        "lead_time": [str(lead) for lead in range(1, 8)],
    })  # fmt: skip
    series = {"a__1": ("a", "1"), "a__2": ("a", "2")}
    read = read_terms(
        rows, ["store", "item"], series, defaults=DEFAULTS, service="cycle", horizon=14, others=[("b", "1")]
    )
    assert (read.series, read.terms.lead_time.tolist()) == (["a__1", "a__2"], [1.0, 6.0])
    assert [(one["row"], one["reason"]) for one in read.problems.to_pylist()] == [
        ("row 2: store A ", "there are no sales of it (did you mean a?): write names as the sales do"),
        ("row 3: item 9", "there are no sales of it: write names as the sales do"),
        ("row 7: store a, item 7", "there are no sales of it: write names as the sales do"),
    ]


def test_a_column_under_nearly_its_name_is_told_and_not_taken_for_an_empty_one() -> None:
    rows = pa.table({"Store": ["a", None], "item": ["1", "2"], "lead_time": ["2", "3"], "note": ["old", "new"]})
    series = {"a__1": ("a", "1"), "b__2": ("b", "2")}
    read = read_terms(rows, ["store", "item"], series, defaults=DEFAULTS, service="cycle", horizon=14)
    assert read.series == ["b__2"]
    assert [(one["row"], one["reason"]) for one in read.problems.to_pylist() if one["row"]] == [
        ("row 1: item 1", "nothing reads its column Store: name it store, or leave the column out")
    ]


def test_the_poison_of_bad_stock_rows_changes_no_other_series() -> None:
    good = pa.table({"item": [f"{i}" for i in range(20)], "lead_time": ["3"] * 20, "on_hand": ["5"] * 20})
    bad = pa.table(
        {"item": ["x", "y", "z", "3"], "lead_time": ["nan?", "-4", "99", "1"], "on_hand": ["a", "", "1", "2"]}
    )
    series = {f"{i}": (f"{i}",) for i in range(20)}
    plain, poisoned = (
        read_terms(rows, ["item"], series, defaults=DEFAULTS, service="cycle", horizon=14)
        for rows in (good, pa.concat_tables([good, bad]))
    )
    assert plain.series == poisoned.series
    for name in NUMBERS:
        np.testing.assert_array_equal(getattr(plain.terms, name), getattr(poisoned.terms, name))


def test_a_table_without_a_column_of_ours_and_a_lead_time_beyond_the_horizon_are_errors() -> None:
    with pytest.raises(InputError, match="none of the columns lead_time"):
        read_terms(pa.table({"item": ["1"]}), ["item"], {}, defaults=DEFAULTS, service="cycle", horizon=14)
    with pytest.raises(SettingsError, match=r"set forecast\.horizon to 23"):
        recommend(model_of(6.0), terms_of(60, lead_time=20.0), whole=np.ones(60, bool), horizon=HORIZON)


def shared_luck(rng: np.random.Generator, series: int, windows: int, deviation: float) -> np.ndarray:
    """Counts about 100 whose level is off by luck that all series of a window share."""
    luck = 1.0 + deviation * rng.normal(size=(1, windows, 1))
    return rng.poisson(100.0 * luck * np.ones((series, 1, HORIZON))).astype(float)


def test_sums_hold_what_the_luck_that_series_share_may_bring_next() -> None:
    """Three windows have seen it three times: over 100 backtests, each with its next window."""
    rng = np.random.default_rng(8)
    names, mean = [f"s{i}" for i in range(12)], np.full((12, HORIZON), 100.0)
    past = Histories(np.full(12 * 20, 100.0), np.arange(0, 241, 20))
    below = []
    for _ in range(100):
        y = shared_luck(rng, 12, 4, 0.06)
        model = fit_paths(names, mean, Backtest(names, y[:, :3], np.full_like(y[:, :3], 100.0)), past)
        at = sum_quantiles(model, np.full(12, HORIZON), (0.05, 0.95, 0.99), paths=200)
        below.append((y[:, 3].sum(1)[:, None] <= at).mean(0))
    low, high, highest = np.mean(below, axis=0)
    assert low == pytest.approx(0.05, abs=0.03)
    assert high == pytest.approx(0.95, abs=0.03)
    assert highest == pytest.approx(0.99, abs=0.02)


@pytest.mark.parametrize("power", [1.0, 2.0])
def test_errors_grow_with_the_level_as_those_of_the_backtest_did(power: float) -> None:
    """Counts, and errors in proportion to the level: a forecast at a fifth of the backtest's level has its own band."""
    rng = np.random.default_rng(9)
    level = rng.uniform(50, 500, (200, 3, 1)) * np.ones((1, 1, HORIZON))

    def sold(mean: np.ndarray) -> np.ndarray:
        return mean + rng.normal(size=mean.shape) * (0.9 * mean**power) ** 0.5 * (1.0 if power == 1.0 else 0.1)

    names, low = [f"s{i}" for i in range(200)], np.full((200, HORIZON), 40.0)
    histories = Histories(np.full(4000, 100.0), np.arange(0, 4001, 20))
    model = fit_paths(names, low, Backtest(names, sold(level), level), histories)
    assert set(model.power.tolist()) == {power}
    bounds = sum_quantiles(model, np.full(200, HORIZON), (0.1, 0.9), paths=200)
    sums = sold(np.repeat(low, 20, 0)).sum(1).reshape(200, 20)
    assert float(((sums >= bounds[:, :1]) & (sums <= bounds[:, 1:])).mean()) == pytest.approx(0.8, abs=0.05)


def test_rare_sales_whose_level_wanders_get_as_wide_sums_as_they_need() -> None:
    """A sale every four days or so, at a level that each window draws from a gamma distribution of variance 0.3."""
    rng = np.random.default_rng(10)
    names = [f"s{i}" for i in range(300)]
    luck = rng.gamma(1 / 0.3, 0.3, (300, 4, 1))
    y = np.where(
        rng.random((300, 4, HORIZON)) < np.minimum(0.25 * luck, 0.98), rng.integers(1, 7, (300, 4, HORIZON)), 0
    )
    past = np.where(rng.random((300, 200)) < 0.25, rng.integers(1, 7, (300, 200)), 0).astype(float)
    mean = np.full((300, HORIZON), 0.25 * 3.5)
    backtest = Backtest(names, y[:, :3].astype(float), np.repeat(mean[:, None], 3, 1))
    model = fit_paths(names, mean, backtest, Histories(past.ravel(), np.arange(0, 60_001, 200)))
    assert model.renewal.all()
    levels = levels_of(model.levels[0], 400)
    assert (levels.mean(), levels.var()) == (pytest.approx(1.0, abs=0.05), pytest.approx(0.3, abs=0.15))
    at = sum_quantiles(model, np.full(300, HORIZON), (0.8, 0.95, 0.99), paths=500)
    reached = (y[:, 3].sum(1)[:, None] <= at).mean(0)
    assert reached == pytest.approx([0.8, 0.95, 0.99], abs=0.04)
    nothing = Backtest(names, np.full((300, 3, HORIZON), np.nan), backtest.y_hat)
    unknown = levels_of(fit_paths(names, mean, nothing, model.histories).levels[0], 400)
    assert (unknown.mean(), np.log(unknown).std()) == pytest.approx((1.0, USUAL), abs=0.05)


def test_new_items_that_have_hardly_sold_get_what_others_got_that_had_sold_as_rarely() -> None:
    """A sale every eight days. Those with few sales by chance are like all others, though their backtest saw less."""
    rng, series, days = np.random.default_rng(12), 2000, 12
    names = [f"s{i}" for i in range(series)]
    sold = np.where(rng.random((series, 16)) < 0.12, 1.0 + rng.gamma(2.0, size=(series, 16)), 0.0)
    past, ahead = sold[:, :days], sold[:, days:].sum(1)
    windows = past.reshape(series, 3, 4)[:, 1:]
    known = np.cumsum(past, 1)[:, [3, 7, 11]] / np.array([4, 8, 12])  # a mean of what there was is the forecast
    forecast = np.repeat(known[:, :, None], 4, 2)
    histories = Histories(past.ravel(), np.arange(0, series * days + 1, days))
    model = fit_paths(names, forecast[:, 2], Backtest(names, windows, forecast[:, :2]), histories)
    at = sum_quantiles(model, np.full(series, 4), (0.8, 0.95, 0.99))
    sales = (past > 0).sum(1)
    for few in (0, 1, 2):
        reached = (ahead[sales == few, None] <= at[sales == few]).mean(0)
        assert reached == pytest.approx([0.8, 0.95, 0.99], abs=0.06), few
