"""Sums that agree: against dense formulas, and with bad attributes."""

from __future__ import annotations

import numpy as np
import pytest

from many_models.decisions.hierarchy import (
    Hierarchy,
    build_hierarchy,
    node_errors,
    reconcile,
    sum_intervals,
    whole_numbers,
)

LEVELS = [["store"], ["category"], ["store", "category"], []]


def small(n: int = 24) -> Hierarchy:
    series = [f"s{i}" for i in range(n)]
    values = {name: {"store": f"st{i % 3}", "category": f"c{i % 4}"} for i, name in enumerate(series)}
    return build_hierarchy(series, LEVELS, values)[0]


def dense(hierarchy: Hierarchy, bottom: np.ndarray, upper: np.ndarray, w_u: np.ndarray, w_b: np.ndarray) -> np.ndarray:
    """The textbook formula: S (Sᵀ W⁻¹ S)⁻¹ Sᵀ W⁻¹ ŷ over all nodes, upper ones first."""
    every = np.vstack([hierarchy.sums.toarray(), np.eye(len(bottom))])
    inverse = np.diag(1.0 / np.concatenate([w_u, w_b]))
    return every @ np.linalg.inv(every.T @ inverse @ every) @ every.T @ inverse @ np.vstack([upper, bottom])


@pytest.mark.parametrize("method", ["mint_structural", "mint_variance"])
def test_trace_minimisation_is_the_textbooks_formula(method: str) -> None:
    rng = np.random.default_rng(0)
    h = small()
    bottom = rng.uniform(5, 9, (24, 3))
    upper = h.sums @ bottom * rng.uniform(0.9, 1.1, (len(h.names), 3))
    v_b, v_u = rng.uniform(1, 3, 24), rng.uniform(5, 50, len(h.names))
    w_b, w_u = (np.ones(24), h.sizes) if method == "mint_structural" else (v_b, v_u)
    found = reconcile(h, bottom, upper, method=method, bottom_variance=v_b, upper_variance=v_u)  # type: ignore[arg-type]
    expected = dense(h, bottom, upper, w_u, w_b)
    np.testing.assert_allclose(np.vstack([found[1], found[0]]), expected, rtol=1e-9)


@pytest.mark.parametrize("method", ["bottom_up", "mint_structural"])
def test_sums_agree_and_nothing_is_negative(method: str) -> None:
    rng = np.random.default_rng(1)
    h = small(200)
    bottom = rng.uniform(0, 3, (200, 28))
    upper = h.sums @ bottom * rng.uniform(0.2, 1.5, (len(h.names), 28))
    low, high = reconcile(h, bottom, upper, method=method)  # type: ignore[arg-type]
    assert (low >= 0).all()
    for i, name in enumerate(h.names):
        mine = h.sums[i].indices
        np.testing.assert_allclose(high[i], low[mine].sum(0), atol=1e-9, rtol=0, err_msg=name)


def test_whole_numbers_add_up_and_lie_within_one_of_the_forecast() -> None:
    rng = np.random.default_rng(2)
    bottom = rng.uniform(0, 4, (50, 7))
    whole = whole_numbers(bottom)
    assert (np.mod(whole, 1) == 0).all()
    assert (np.abs(whole - bottom) < 1).all()
    np.testing.assert_array_equal(whole.sum(0), np.rint(bottom.sum(0)))
    h = small(50)
    assert (np.mod(h.sums @ whole, 1) == 0).all()


def test_a_node_without_its_own_forecast_gets_the_sum() -> None:
    h = small()
    bottom = np.full((24, 2), 4.0)
    upper = h.sums @ bottom
    upper[3] = np.nan
    low, high = reconcile(h, bottom, upper, method="mint_structural")
    np.testing.assert_allclose(low, bottom)
    np.testing.assert_allclose(high[3], h.sizes[3] * 4.0)


def test_an_item_without_a_category_is_listed_and_stays_in_the_total() -> None:
    series = ["a", "b", "c"]
    values = {"a": {"category": "x"}, "b": {"category": None}, "c": {"category": "x"}}
    h, problems = build_hierarchy(series, [["category"], []], values)
    assert h.names == ["total", "category|x"]
    assert h.sizes.tolist() == [3.0, 2.0]
    assert [(p["series_id"], p["reason"].split(",")[0]) for p in problems] == [("b", "it has no category")]


def test_levels_that_are_not_a_tree_add_up() -> None:
    series = ["a", "b", "c"]
    values = {
        "a": {"region": "n", "store": "1"},
        "b": {"region": "s", "store": "1"},
        "c": {"region": "s", "store": "2"},
    }
    h, _ = build_hierarchy(series, [["region"], ["store"]], values)
    assert h.sums.toarray()[h.names.index("store|1")].tolist() == [1.0, 1.0, 0.0]  # of a store in two regions
    low, high = reconcile(h, np.ones((3, 1)), h.sums @ np.ones((3, 1)), method="mint_structural")
    np.testing.assert_allclose(high, h.sums @ low, atol=1e-12)


def test_errors_that_go_together_make_wider_sums_than_independent_ones() -> None:
    rng = np.random.default_rng(3)
    h = small(120)
    own, shared = rng.normal(0, 1, (120, 10, 14)), rng.normal(0, 1, (1, 10, 14))
    upper, past = h.sums @ np.full((120, 14), 10.0), np.repeat((h.sums @ np.full((120, 14), 10.0))[:, None], 10, 1)
    widths = []
    for errors in (own, own + shared):
        bounds = sum_intervals(h, upper, node_errors(h, errors), past, [80], nonnegative=True)
        widths.append((bounds["hi80"] - bounds["lo80"])[0].mean())
    assert widths[0] == pytest.approx(2 * 1.2816 * np.sqrt(120), rel=0.1)
    assert widths[1] == pytest.approx(2 * 1.2816 * np.sqrt(120 + 120**2), rel=0.3)


def test_a_series_without_a_backtest_changes_no_other_nodes_interval() -> None:
    rng = np.random.default_rng(4)
    h = small(24)
    errors = rng.normal(0, 1, (24, 3, 7))
    before = node_errors(h, errors)
    errors[5] = np.nan
    after = node_errors(h, errors)
    others = [i for i in range(len(h.names)) if 5 not in h.sums[i].indices]
    np.testing.assert_array_equal(before[others], after[others])
    assert np.isfinite(after[0]).all()
