"""What decisions cost: `python -m benchmarks.decisions [--series 10000]`. Seconds and peak memory of each on made data.

The share of a step in the whole is printed, too: it holds on any machine.
"""

from __future__ import annotations

import resource
import time
from typing import TYPE_CHECKING

import numpy as np

from benchmarks._report import Figure, flags, machine, show
from many_models.decisions import drift, drift_windows, hierarchy, stock
from many_models.decisions.demand_paths import Backtest, Histories, PathModel, fit_paths, sum_quantiles

if TYPE_CHECKING:
    from collections.abc import Callable

STEPS, YEAR = 28, 365


def made(series: int) -> PathModel:
    """Path model of counts: a fifth of the series sells rarely."""
    rng = np.random.default_rng(1)
    mean = np.where(rng.random(series) < 0.2, 0.2, np.exp(rng.normal(2.3, 1.0, series)))
    y = rng.poisson(mean[:, None, None], (series, 3, STEPS)).astype(float)
    past = rng.poisson(mean[:, None], (series, YEAR)).astype(float)
    names = [f"s{i:05d}" for i in range(series)]
    y_hat = np.repeat(mean[:, None], STEPS, 1)
    start = np.arange(0, series * YEAR + 1, YEAR)
    return fit_paths(names, y_hat, Backtest(names, y, np.repeat(y_hat[:, None], 3, 1)), Histories(past.ravel(), start))


def sums(model: PathModel) -> None:
    """Four levels and the total, by trace minimisation, with intervals."""
    n = len(model.series)
    values: dict[str, dict[str, str | None]] = {
        name: {"store": f"{i % 50}", "category": f"{i % 10}", "region": f"{i % 5}", "item": f"{i % 535}"}
        for i, name in enumerate(model.series)
    }
    tree, _ = hierarchy.build_hierarchy(model.series, [["store"], ["category"], ["region"], ["item"]], values)
    rng = np.random.default_rng(2)
    errors = rng.normal(size=(n, 3, STEPS)) * np.sqrt(model.y_hat.mean(1))[:, None, None]
    upper = np.asarray(tree.sums @ model.y_hat) * rng.uniform(0.95, 1.05, (len(tree.names), STEPS))
    variance = np.asarray(tree.sums @ (errors**2).mean((1, 2)))
    _, above = hierarchy.reconcile(tree, model.y_hat, upper, method="mint_variance",
                                   bottom_variance=(errors**2).mean((1, 2)), upper_variance=variance)  # fmt: skip
    past = np.repeat(above[:, None], 3, 1)
    hierarchy.sum_intervals(tree, above, hierarchy.node_errors(tree, errors), past, [80, 95], nonnegative=True)


def recommendations(model: PathModel) -> None:
    """Stock for all series: half by fill rate, packs of 12."""
    n = len(model.series)
    full = {name: np.zeros(n) for name in stock.NUMBERS} | {
        "lead_time": np.full(n, 7.0), "review": np.full(n, 7.0), "service_level": np.full(n, 0.95),
        "pack": np.full(n, 12.0), "holding_cost": np.full(n, 1.0), "missing_cost": np.full(n, 9.0),
    }  # fmt: skip
    terms = stock.Terms(fill=np.arange(n) % 2 == 0, **full)
    stock.recommend(model, terms, whole=np.ones(n, bool), horizon=STEPS, paths=500)


def watched(model: PathModel) -> None:
    """A year of actuals, and the newest window of the backtest."""
    rng, n = np.random.default_rng(3), len(model.series)
    y = rng.poisson(model.y_hat[:, :1], (n, YEAR)).astype(float)
    drift.watch(drift.scores_of(model, y, np.repeat(model.y_hat[:, :1], YEAR, 1)))
    windows = rng.poisson(model.y_hat[:, None], (n, 3, STEPS)).astype(float)
    earlier = Backtest(model.series, windows[:, :2], np.repeat(model.y_hat[:, None], 2, 1))
    drift_windows.window_shifts(model, earlier, windows[:, 2], model.y_hat)


def quantiles(model: PathModel) -> None:
    """Lead-time demand at four quantiles, 500 paths."""
    sum_quantiles(model, np.full(len(model.series), 14), (0.5, 0.8, 0.95, 0.99), paths=500)


LIMITS: dict[str, tuple[Callable[[PathModel], None], float]] = {
    "reconcile, with intervals": (sums, 10), "lead-time quantiles": (quantiles, 15), "stock": (recommendations, 5),
    "drift over a year": (watched, 5),
}  # fmt: skip


def main() -> None:
    """Print each step's seconds, CPU seconds, its limit, and the share of all."""
    parser = flags(__doc__ or "", "500 series")
    parser.add_argument("--series", type=int, default=10_000)
    given = parser.parse_args()
    model, figures = made(500 if given.small else given.series), list[Figure]()
    before = time.process_time()
    for name, (step, limit) in LIMITS.items():
        began, cpu = time.perf_counter(), time.process_time()
        step(model)
        figures.append(Figure(name, time.perf_counter() - began, "s", f"at most {limit:g} at 10,000"))
        figures.append(Figure(f"{name}: CPU", time.process_time() - cpu, "s", ""))
    whole = time.process_time() - before
    shares = [Figure(f"{of.name}, share", of.value / whole, "of all", "") for of in figures[1::2]]
    memory = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e6
    show([*figures, *shares, Figure("peak memory", memory, "GB", "at most 2")], machine(), as_json=given.json)


if __name__ == "__main__":
    main()
