"""The backtest of any table: the protocol, the figures against a slow reckoning, real tables where they are."""

from __future__ import annotations

import re

import numpy as np
import pandas as pd
import pytest

from many_models.errors import InputError
from many_models.forecasting import PooledModels, Spec, backtest, pool
from many_models.forecasting.spec import Custom
from many_models_tests.forecasting.histories import AS_OF, SPEC, rows_of, sales, stamps

OPTIONS = {"keys": ["shop", "item"], "timestamp": "day", "target": "sold", "frequency": "D", "horizon": 7, "windows": 2}


def shop_table(periods: int = 300) -> pd.DataFrame:
    parts = []
    for shop in ("a", "b"):
        for item in (1, 2, 3):
            y = sales(periods, 8.0 * item, seed=item + 10 * (shop == "b"))
            parts.append(pd.DataFrame({"shop": shop, "item": item, "day": stamps(periods), "sold": y}))
    return pd.concat(parts, ignore_index=True)


@pytest.fixture(scope="module")
def data():
    return shop_table()


@pytest.fixture(scope="module")
def report(data):
    return backtest(data, **OPTIONS)


def test_forecasts_carry_the_users_names_and_follow_the_protocol(report, data):
    f = report.forecasts
    assert list(f.columns) == ["shop", "item", "day", "cutoff", "y_hat", "lo80", "hi80", "lo95", "hi95"]
    assert sorted(pd.to_datetime(f["cutoff"].unique())) == [
        data.day.max() - pd.Timedelta(days=14),
        data.day.max() - pd.Timedelta(days=7),
    ]
    assert ((f["day"] > f["cutoff"]) & (f["day"] <= f["cutoff"] + pd.Timedelta(days=7))).all()
    assert len(f) == 6 * 2 * 7
    assert f["item"].dtype == data["item"].dtype


@pytest.mark.slow
@pytest.mark.parametrize("name", ["series_id", "ds"])
def test_a_key_may_have_a_name_of_the_core_s_own_tables(data, report, name):
    named = data.rename(columns={"shop": name}).assign(item=lambda frame: frame["item"].astype(str))
    found = backtest(named, **{**OPTIONS, "keys": [name, "item"]})
    assert list(found.forecasts[name]) == list(report.forecasts["shop"])
    assert np.array_equal(found.forecasts["y_hat"], report.forecasts["y_hat"])
    bad = named.assign(sold=named["sold"].where(named[name] != "a"))
    assert set(backtest(bad, **{**OPTIONS, "keys": [name, "item"]}).left_out["series_id"]) == {"a__1", "a__2", "a__3"}


@pytest.mark.parametrize("name", ["series_id", "reason"])
def test_the_only_key_may_be_called_like_a_column_of_the_report(data, name):
    alone = data[data["shop"] == "a"].assign(**{name: lambda frame: frame["item"].astype(str)})
    found = backtest(alone, **{**OPTIONS, "keys": [name], "known": [], "candidates": ["mean"]})
    assert set(found.forecasts[name]) == {"1", "2", "3"}
    assert not len(found.left_out)


@pytest.mark.parametrize(("keys", "says"), [(["cutoff"], "named like"), (["lo80"], "named like"), (["day"], "twice")])
def test_a_key_that_a_column_of_the_forecasts_is_called_is_refused(data, keys, says):
    with pytest.raises(InputError, match=says):
        backtest(data.rename(columns={"shop": keys[0]} if keys != ["day"] else {}), **{**OPTIONS, "keys": keys})


def test_metrics_agree_with_a_slow_reckoning(report, data):
    j = report.forecasts.merge(data, on=["shop", "item", "day"])
    error = j["y_hat"] - j["sold"]
    row = report.metrics.set_index("candidate").loc["selected"]
    assert row["wape"] == pytest.approx(error.abs().sum() / j["sold"].sum())
    assert row["bias"] == pytest.approx(error.sum() / j["sold"].sum())
    assert row["cover80"] == pytest.approx(((j["sold"] >= j["lo80"]) & (j["sold"] <= j["hi80"])).mean())
    assert row["width95"] == pytest.approx((j["hi95"] - j["lo95"]).mean() / j["sold"].mean())
    mase, rmsse = [], []
    for _, series in j.groupby(["shop", "item"]):
        values = []
        for cutoff, window in series.groupby("cutoff"):
            own = data[
                (data.shop == series.shop.iloc[0]) & (data.item == series.item.iloc[0]) & (data.day <= cutoff)
            ].sold.to_numpy()
            d, e = own[7:] - own[:-7], (window.y_hat - window.sold).to_numpy()
            values.append((np.abs(e).mean() / np.abs(d).mean(), np.sqrt((e**2).mean() / (d**2).mean())))
        mase.append(np.mean([v[0] for v in values]))
        rmsse.append(np.mean([v[1] for v in values]))
    assert row["mase"] == pytest.approx(np.mean(mase))
    assert row["rmsse"] == pytest.approx(np.mean(rmsse))


def test_errors_are_measured_against_all_that_a_series_did_outliers_too():
    """As others measure: what learning leaves out does not make the scale of MASE and RMSSE smaller."""
    y = sales(300, 8.0, seed=1)
    y[150] = 9000.0
    table = pd.DataFrame({"shop": "a", "item": 1, "day": stamps(300), "sold": y})
    row = backtest(table, **{**OPTIONS, "windows": 1}).metrics.set_index("candidate").loc["seasonal_naive"]
    scale = np.abs(y[7:-7] - y[:-14]).mean()
    assert row["mase"] == pytest.approx(np.abs(y[-7:] - y[-14:-7]).mean() / scale)


def test_outliers_of_the_windows_are_not_scored_and_are_counted():
    y = sales(300, 8.0, seed=1)
    table = pd.DataFrame({"shop": "a", "item": 1, "day": stamps(300), "sold": y})
    plain = backtest(table, **{**OPTIONS, "windows": 1})
    table.loc[[150, 296], "sold"] = 9000.0
    found = backtest(table, **{**OPTIONS, "windows": 1})
    assert (plain.outliers, found.outliers) == (0, 1), "that of day 150 is in no window"
    before, after = (report.metrics.set_index("candidate") for report in (plain, found))
    assert (after["n"] == before["n"] - 1).all()
    assert after.loc["selected", "wape"] < 2.0 * before.loc["selected", "wape"]


def test_the_selected_forecast_beats_the_baseline(report):
    by = report.metrics.set_index("candidate")
    assert by.loc["selected", "wape"] < 0.9 * by.loc["seasonal_naive", "wape"]


def test_what_comes_after_a_cutoff_changes_no_forecast_made_at_it(report, data):
    poisoned = data.copy()
    last = data.day.max() - pd.Timedelta(days=7)
    poisoned.loc[poisoned.day > last, "sold"] = 1e5
    first = report.forecasts.cutoff == report.forecasts.cutoff.min()
    again = backtest(poisoned, **OPTIONS).forecasts
    pd.testing.assert_frame_equal(again[first.to_numpy()], report.forecasts[first])


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (lambda d: d.rename(columns={"sold": "x"}), "no column sold"),
        (lambda d: d.assign(sold=d.sold.astype(str)), "needed a number"),
        (lambda d: d.assign(day=d.day + pd.Timedelta(hours=3)), "no series can be used.*off the frequency"),
        (lambda d: d.head(0), "no rows"),
    ],
)
def test_bad_input_is_named(data, change, says):
    with pytest.raises(InputError, match=says):
        backtest(change(data), **OPTIONS)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("change", "says"),
    [
        (lambda d: d.assign(day=d.day.where(d.index != 5, d.day + pd.Timedelta(hours=3))), "03:00:00.* off the freq"),
        (lambda d: pd.concat([d, d.iloc[[5]]]), "2 rows for 2023-03-12"),
        (lambda d: d.assign(sold=d.sold.where(d.index != 5, np.inf)), "y is .*inf.* at 2023-03-12"),
        (lambda d: d.assign(sold=d.sold.where(d.index != 5, 1e16)), "at 2023-03-12"),
        (lambda d: d.assign(sold=d.sold.where((d.shop != "a") | (d.item != 1))), "no observation"),
    ],
)
def test_a_bad_series_is_left_out_with_its_name_and_row_and_the_others_are_as_without_it(data, change, says):
    found = backtest(change(data), **OPTIONS)
    assert found.left_out[["series_id", "shop", "item"]].to_numpy().tolist() == [["a__1", "a", 1]]
    assert re.search(says, found.left_out["reason"].iloc[0])
    without = backtest(data[(data.shop != "a") | (data.item != 1)], **OPTIONS)
    pd.testing.assert_frame_equal(found.forecasts, without.forecasts)
    pd.testing.assert_frame_equal(found.metrics, without.metrics)


def test_a_series_of_one_row_is_forecast_by_a_fallback(data):
    lonely = pd.DataFrame({"shop": "c", "item": 9, "day": [data.day.max() - pd.Timedelta(days=20)], "sold": [3.0]})
    found = backtest(pd.concat([data, lonely]), **OPTIONS)
    mine = found.forecasts[found.forecasts["shop"] == "c"]
    assert len(mine) == 14
    assert np.isfinite(mine[["y_hat", "lo80", "hi95"]].to_numpy()).all()
    assert found.left_out.empty


@pytest.mark.slow
def test_infinite_covariates_count_as_missing(data):
    price = np.where(np.arange(len(data)) % 50 == 0, np.inf, 2.0 + np.arange(len(data)) % 3)
    hole = data.assign(price=np.where(np.isinf(price), np.nan, price))
    one, two = (backtest(d, known=["price"], **OPTIONS).forecasts for d in (data.assign(price=price), hole))
    assert np.isfinite(one["y_hat"].to_numpy()).all()
    pd.testing.assert_frame_equal(one, two)


@pytest.mark.slow
def test_a_custom_forecaster_is_among_the_candidates_timed(data):
    custom = Custom("weekdays", "many_models_tests.forecasting.mine:WeekdayMeans")
    metrics = backtest(data, custom=[custom], **OPTIONS).metrics.set_index("candidate")
    assert metrics.loc["weekdays", "wape"] < 1.3 * metrics.loc["selected", "wape"]
    assert 0 < metrics.loc["weekdays", "seconds"] < 5
    assert metrics.loc["weekdays", "failed"] == 0
    assert metrics.drop("weekdays")[["seconds", "failed"]].isna().all(axis=None)


def test_pooled_models_keep_their_bytes_and_notice_damage():
    from many_models.errors import IntegrityError

    rows = rows_of({f"s{i}": sales(300, 10.0, seed=i) for i in range(4)})
    pooled = pool(rows, SPEC, AS_OF)
    files = pooled.files()
    assert PooledModels.from_files(files).hash == pooled.hash == pool(rows, SPEC, AS_OF).hash
    with pytest.raises(IntegrityError, match=r"moments\.npy"):
        PooledModels.from_files({**files, "moments.npy": files["moments.npy"][:-1] + b"!"})


def test_a_spec_comes_back_from_json_and_its_recipe_changes_with_its_options():
    spec = Spec("W-SUN", 8, known=("price",), country="DE", candidates=("trees",), ended_after=9)
    assert Spec.from_json(spec.to_json()) == spec
    assert Spec("W-SUN", 8).recipe != Spec("W-SUN", 9).recipe


def test_missing_covariates_are_an_error_where_they_are_asked_to_be(data):
    frame = data.assign(price=2.0)
    frame.loc[frame.index[5], "price"] = np.nan
    with pytest.raises(InputError, match=r"price is missing in 1 rows, first in series .* at 20\d\d-"):
        backtest(frame, **OPTIONS, known=["price"], missing_known="error")


def test_series_learn_together_by_a_key_only(data):
    with pytest.raises(InputError, match="learn together by brand, but the keys are"):
        backtest(data, **OPTIONS, pool_by=["brand"])
