"""Histories: what `prepare` makes of raw rows."""

from __future__ import annotations

from dataclasses import replace
from datetime import datetime, timedelta

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from many_models.errors import InputError
from many_models.forecasting import ExistingHistory, Prepared, Spec, prepare
from many_models.forecasting.pack import mm_pack_v1 as loader
from many_models_tests.forecasting.histories import AS_OF, ODD, SPEC, sales, stamps, table

ORDER = [("series_id", "ascending"), ("ds", "ascending")]


def column(rows: pa.Table, series: str, name: str) -> list[object]:
    return [v for s, v in zip(rows["series_id"].to_pylist(), rows[name].to_pylist(), strict=True) if s == series]


def test_a_history_has_one_row_per_period_from_its_first_observation_to_the_cutoff():
    y = sales(30)
    y[[4, 29]] = np.nan
    y[0] = np.nan
    prepared = prepare(table({"a": y}), SPEC, AS_OF)
    ds = np.array(column(prepared.rows, "a", "ds"), "datetime64[us]")
    assert (ds == stamps(29)).all()
    assert [i for i, s in enumerate(column(prepared.rows, "a", "state")) if s == "missing"] == [3, 28]
    assert column(prepared.rows, "a", "y")[3] is None
    assert prepared.series.to_pylist()[0]["observations"] == 27


def test_rows_after_the_cutoff_do_not_count():
    raw = table({"a": sales(30)})
    early = prepare(raw, SPEC, AS_OF - timedelta(days=10))
    assert early.series.to_pylist()[0]["last"] == AS_OF - timedelta(days=10)
    assert early.rows.num_rows == 20


def test_a_series_that_fell_silent_has_ended_and_says_when():
    silent = np.r_[sales(50), np.full(100, np.nan)]
    prepared = prepare(table({"a": silent, "b": sales(150)}), SPEC, AS_OF)
    ended, alive = prepared.series.to_pylist()
    assert (ended["active"], alive["active"]) == (False, True)
    assert ended["why"] == f"ended {ended['last']:%Y-%m-%d}"
    assert column(prepared.rows, "a", "ds")[-1] == ended["last"]


@pytest.mark.parametrize(
    ("bad", "says"),
    [
        ({"ds": datetime(2023, 5, 5, 7)}, "off the frequency"),
        ({"y": 1e16}, "needed a finite number"),
        ({"y": float("inf")}, "needed a finite number"),
    ],
)
def test_one_bad_series_fails_alone_and_says_why(bad, says):
    row = {"series_id": "bad", "ds": datetime(2023, 5, 5), "y": 1.0, **bad}
    raw = pa.concat_tables([table({"good": sales(30)}), pa.Table.from_pylist([row], table({"x": sales(1)}).schema)])
    prepared = prepare(raw, SPEC, AS_OF)
    assert set(prepared.rows["series_id"].to_pylist()) == {"good"}
    (failure,) = prepared.failures
    assert (failure.series_id, failure.kind, failure.permanent) == ("bad", "SeriesError", True)
    assert says in failure.reason


def test_two_rows_for_one_period_fail_the_series():
    raw = pa.concat_tables([table({"a": sales(5)})] * 2)
    assert "rows for" in prepare(raw, SPEC, AS_OF).failures[0].reason


def test_a_target_that_is_no_number_and_a_missing_column_are_input_errors():
    raw = table({"a": sales(5)})
    with pytest.raises(InputError, match="string"):
        prepare(raw.set_column(2, "y", raw["y"].cast(pa.string())), SPEC, AS_OF)
    with pytest.raises(InputError, match="price"):
        prepare(raw, Spec("D", 7, known=("price",)), AS_OF)


def test_the_digest_is_of_the_series_own_rows_only():
    one, other = sales(30), sales(30, seed=9)
    alone = prepare(table({"a": one}), SPEC, AS_OF).series.to_pylist()[0]["digest"]
    both = {s["series_id"]: s["digest"] for s in prepare(table({"b": other, "a": one}), SPEC, AS_OF).series.to_pylist()}
    assert both["a"] == alone != both["b"]
    changed = one.copy()
    changed[3] += 1
    assert prepare(table({"a": changed}), SPEC, AS_OF).series.to_pylist()[0]["digest"] != alone


def test_order_of_rows_changes_nothing():
    raw = table({"a": sales(60), "b": sales(60, seed=1)})
    shuffled = raw.take(pa.array(np.random.default_rng(0).permutation(len(raw))))
    assert prepare(raw, SPEC, AS_OF).rows.equals(prepare(shuffled, SPEC, AS_OF).rows)
    assert prepare(raw, SPEC, AS_OF).series.equals(prepare(shuffled, SPEC, AS_OF).series)


def test_sundays_that_never_sell_become_closed_days_and_an_implausible_run_of_zeros_a_stock_out():
    y = sales(200, 40.0)
    ds = stamps(200)
    sunday = (ds.astype("datetime64[D]").astype(int) + 3) % 7 == 6
    y[sunday] = 0
    y[150:155] = 0
    states = column(prepare(table({"a": y}), SPEC, AS_OF).rows, "a", "state")
    assert all(states[i] == "closed" for i in np.flatnonzero(sunday) if i > 60)
    assert "stock_out" in states[151:155]
    assert "stock_out" not in states[:150]


@settings(max_examples=15, deadline=None)
@given(st.integers(80, 190), st.integers(0, 1000))
def test_states_are_causal(cut, seed):
    y = sales(200, 6.0, seed)
    y[cut - 3 : cut + 3] = 0
    whole = column(prepare(table({"a": y}), SPEC, AS_OF).rows, "a", "state")
    known = prepare(table({"a": y}), SPEC, AS_OF - timedelta(days=200 - cut))
    assert column(known.rows, "a", "state") == whole[:cut]


@settings(max_examples=60, deadline=None)
@given(
    st.sampled_from(["h", "D", "B", "W-SUN", "W-WED", "MS", "ME", "QS", "QE", "YS", "YE", "QS-FEB"]),
    st.integers(-190, 280),
)
def test_step_numbers_and_stamps_are_inverse_and_agree_with_pandas(frequency, number):
    import pandas as pd

    some = loader.stamps(np.array([number, number + 1]), frequency)
    assert (loader.step_number(some, frequency) == [number, number + 1]).all()
    assert pd.date_range(some[0], periods=2, freq=frequency)[1] == pd.Timestamp(some[1])


def test_nothing_prepared_of_no_rows():
    prepared = prepare(table({"a": sales(5)}).slice(0, 0), SPEC, AS_OF)
    assert (prepared.rows.num_rows, prepared.series.num_rows) == (0, 0)


# --- Histories that go on from what is held -------------------------------------------------------------------------
KINDS = st.sampled_from(sorted(ODD))


def held(series: pa.Table) -> dict[str, ExistingHistory]:
    known = [row for row in series.to_pylist() if row["digest"]]
    return {row["series_id"]: ExistingHistory(row["until"], row["digest"]) for row in known}


def go_on(before: Prepared, now: Prepared) -> pa.Table:
    """The histories of `before`, each replaced from where `now` says."""
    names = before.rows["series_id"].to_pylist()
    stay = [
        name in now.since and ds <= now.since[name]
        for name, ds in zip(names, before.rows["ds"].to_pylist(), strict=True)
    ]
    return pa.concat_tables([before.rows.filter(pa.array(stay, pa.bool_())), now.rows]).sort_by(ORDER)


@pytest.mark.slow
@settings(max_examples=60, deadline=None)
@given(kinds=st.lists(KINDS, min_size=1, max_size=4, unique=True), later=st.integers(0, 40), promo=st.booleans())
def test_histories_that_go_on_are_those_made_from_scratch(kinds, later, promo):
    spec = Spec("D", horizon=7, windows=2, known=("promo",) if promo else (), country="DE")
    known = {"promo": np.random.default_rng(1).integers(0, 2, 400).astype(float)} if promo else {}
    raw = table({kind: ODD[kind] for kind in kinds}, **known)
    before = prepare(raw, spec, AS_OF - timedelta(days=later))
    now, anew = prepare(raw, spec, AS_OF, held(before.series)), prepare(raw, spec, AS_OF)
    assert now.series.equals(anew.series)
    assert go_on(before, now).equals(anew.rows.sort_by(ORDER))
    assert anew.since == {}
    alive = {row["series_id"] for row in anew.series.to_pylist() if row["active"]}
    assert alive & {*before.rows["series_id"].to_pylist()} <= {*now.since}
    assert now.rows.num_rows <= later * len(kinds) + sum(
        row["rows"] for row in anew.series.to_pylist() if row["series_id"] not in now.since
    )


@pytest.mark.parametrize(
    "change", [lambda y: np.r_[y[:50], y[50] + 1, y[51:]], lambda y: np.r_[y[:50], np.nan, y[51:]], lambda y: y[1:]]
)
def test_a_history_whose_past_changed_is_remade_and_the_others_go_on(change):
    one, other = sales(200), sales(180, seed=1)
    before = prepare(table({"a": one, "b": other}), SPEC, AS_OF - timedelta(days=3))
    raw = table({"a": change(one), "b": other})
    now = prepare(raw, SPEC, AS_OF, held(before.series))
    assert set(now.since) == {"b"}
    assert now.rows.filter(pc.equal(now.rows["series_id"], "b")).num_rows == 3
    assert go_on(before, now).equals(prepare(raw, SPEC, AS_OF).rows.sort_by(ORDER))


def test_a_series_that_has_ended_is_remade_with_its_shorter_history():
    raw = table({"a": np.r_[sales(100), np.full(120, np.nan)], "b": sales(220)})
    before = prepare(raw, SPEC, AS_OF - timedelta(days=110))
    now = prepare(raw, SPEC, AS_OF, held(before.series))
    assert set(now.since) == {"b"}
    assert go_on(before, now).equals(prepare(raw, SPEC, AS_OF).rows.sort_by(ORDER))


def test_other_settings_remake_every_history():
    raw = table({"a": sales(200)})
    before = prepare(raw, SPEC, AS_OF - timedelta(days=3))
    assert prepare(raw, replace(SPEC, country="DE"), AS_OF, held(before.series)).since == {}
