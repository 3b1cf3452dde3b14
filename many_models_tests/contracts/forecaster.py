"""What every candidate does, built in or a user's own."""

from __future__ import annotations

import json
from datetime import timedelta
from functools import cache
from typing import TYPE_CHECKING

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pytest

from many_models.forecasting import PackModel, PooledModels, Spec, Trained, pool, train
from many_models_tests.contracts import Contract
from many_models_tests.forecasting.histories import AS_OF, ODD, rows_of, sales

if TYPE_CHECKING:
    from many_models.forecasting.spec import Custom

CUT = AS_OF - timedelta(days=30)
LONG = {f"s{i}": sales(250, 5.0 + 10 * i, seed=i) for i in range(3)}
NOT_FITTED = {"zero", "constant", "single", "short"}  # what these are forecast by is no candidate's business


def untimed(scores: pa.Table) -> pa.Table:
    """Scores without what differs from run to run."""
    return scores.drop_columns(["seconds"])


def poisoned(rows: pa.Table, after, value: float = 1e6) -> pa.Table:
    late = pc.greater(rows["ds"], pa.scalar(after, pa.timestamp("us")))
    return rows.set_column(rows.column_names.index("y"), "y", pc.if_else(late, pa.scalar(value), rows["y"]))


@cache
def odd_rows_of(spec: Spec) -> pa.Table:
    return rows_of(ODD, spec)


@cache
def pooled_of(spec: Spec) -> PooledModels:
    return pool(rows_of({f"s{i}": sales(400, 5.0 + 10 * i, seed=i) for i in range(6)}), spec, CUT)


@cache
def trained_of(spec: Spec) -> Trained:
    return train(odd_rows_of(spec), spec, AS_OF, pooled=pooled_of(spec))


class ForecasterContract(Contract):
    """`candidate` is its name, `custom` what the spec says of users' forecasters."""

    @pytest.fixture
    def candidate(self):
        raise NotImplementedError

    @pytest.fixture
    def custom(self):
        raise NotImplementedError

    @pytest.fixture
    def spec(self, candidate: str, custom: tuple[Custom, ...]) -> Spec:
        return Spec("D", 7, windows=2, candidates=(candidate,), custom=custom)

    @pytest.fixture
    def odd_rows(self, spec):
        return odd_rows_of(spec)

    @pytest.fixture
    def pooled(self, spec):
        return pooled_of(spec)

    @pytest.fixture
    def trained(self, spec):
        return trained_of(spec)

    def test_it_competes_with_the_baseline_alone_and_has_its_own_forecasts(self, candidate, trained):
        shares = [set(json.loads(row["weights"])) for row in trained.series.to_pylist() if not row["fallback"]]
        assert set().union(*shares) <= {candidate, "seasonal_naive"}
        wape = {name: [] for name in (candidate, "seasonal_naive")}
        for row in trained.scores.to_pylist():
            wape[row["candidate"]].append(row["wape"])
        assert candidate == "seasonal_naive" or wape[candidate] != wape["seasonal_naive"]

    def test_every_odd_series_gets_an_answer_at_the_right_stamps(self, trained):
        assert not trained.failures
        forecast = trained.model.predict(None)
        assert forecast["series_id"].to_pylist() == [name for name in trained.model.series for _ in range(7)]
        assert forecast["ds"].to_pylist() == [AS_OF + timedelta(days=k) for k in range(1, 8)] * len(ODD)
        y = forecast["y_hat"].to_numpy().reshape(len(ODD), 7)
        assert np.isfinite(y).all()
        for name, row in zip(trained.model.series, y, strict=True):
            assert (row >= 0).all()
            assert row.max() <= 2 * ODD[name][~np.isnan(ODD[name])].max() + 1e-9
        for bound in ("lo80", "hi80", "lo95", "hi95"):
            assert np.isfinite(forecast[bound].to_numpy()).all()

    def test_what_it_scored_is_a_number_for_every_window_with_sales(self, trained, candidate):
        mine = trained.scores.filter(pc.equal(trained.scores["candidate"], candidate)).to_pylist()
        scored = {row["series_id"] for row in mine if row["wape"] is not None}
        sold_lately = {name for name in ODD if np.nansum(ODD[name][-14:]) > 0}
        assert scored >= sold_lately - NOT_FITTED
        assert all(row["problem"] is None for row in mine)

    def test_saved_and_loaded_it_forecasts_the_same(self, trained):
        assert PackModel.from_files(trained.model.files()).predict(None).equals(trained.model.predict(None))

    def test_it_forgets_what_it_was_fitted_on_before(self, odd_rows, spec, pooled, trained):
        other = odd_rows.set_column(2, "y", pc.multiply(odd_rows["y"], 3.0))
        assert train(other, spec, AS_OF, pooled=pooled).model.files() != trained.model.files()
        again = train(odd_rows, spec, AS_OF, pooled=pooled)
        assert again.model.files() == trained.model.files()
        assert again.series.equals(trained.series)
        assert untimed(again.scores).equals(untimed(trained.scores))

    def test_order_and_chunks_change_nothing(self, odd_rows, spec, pooled, trained):
        shuffled = odd_rows.take(pa.array(np.random.default_rng(1).permutation(len(odd_rows))))
        assert train(shuffled, spec, AS_OF, pooled=pooled).model.files() == trained.model.files()
        for name in ("plain", "gappy", "zero"):
            alone = train(odd_rows.filter(pc.equal(odd_rows["series_id"], name)), spec, AS_OF, pooled=pooled)
            assert alone.model.files() == trained.model.select([name]).files(), name

    def test_what_comes_after_the_cutoff_changes_nothing(self, spec):
        clean = rows_of(LONG)
        one, two = (train(rows, spec, CUT, pooled=pool(rows, spec, CUT)) for rows in (clean, poisoned(clean, CUT)))
        assert one.model.files() == two.model.files()
        assert one.series.equals(two.series)
        assert untimed(one.scores).equals(untimed(two.scores))

    def test_a_window_sees_nothing_after_its_cutoff(self, spec, pooled):
        clean = rows_of(LONG)
        rows = [clean, poisoned(clean, AS_OF - timedelta(days=7), 50.0)]
        one, two = (untimed(train(part, spec, AS_OF, pooled=pooled).scores) for part in rows)
        first = pc.equal(one["window"], 1)
        assert one.filter(first).equals(two.filter(first))
        assert not one.equals(two)

    def test_negatives_are_forecast_where_they_are_allowed(self, candidate, custom):
        spec = Spec("D", 7, windows=2, candidates=(candidate,), custom=custom, nonnegative=False)
        y = np.random.default_rng(0).normal(-5.0, 1.0, 200)
        rows = rows_of({"a": y}, spec)
        forecast = train(rows, spec, AS_OF, pooled=pool(rows, spec, CUT)).model.predict(None)
        assert forecast["y_hat"].to_numpy() == pytest.approx(np.full(7, -5.0), abs=3.0)

    def test_weeks_are_forecast_at_their_own_stamps(self, candidate, custom):
        spec = Spec("W-SUN", 4, windows=2, candidates=(candidate,), custom=custom)
        rows = rows_of({"a": sales(160)}, spec)
        forecast = train(rows, spec, AS_OF, pooled=pool(rows, spec, AS_OF)).model.predict(None)
        assert forecast["ds"].to_pylist() == [AS_OF + timedelta(weeks=k) for k in range(1, 5)]
        assert np.isfinite(forecast["y_hat"].to_numpy()).all()

    def test_no_rows_are_no_forecasts(self, spec, odd_rows, pooled):
        nothing = train(odd_rows.slice(0, 0), spec, AS_OF, pooled=pooled)
        assert nothing.series.num_rows == nothing.scores.num_rows == nothing.model.predict(None).num_rows == 0
