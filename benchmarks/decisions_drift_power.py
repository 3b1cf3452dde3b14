"""How soon a shift of 40 % is found, by the usual error of forecasts: `python -m benchmarks.decisions_drift_power`.

Errors are drawn: independent, normal, with a standard deviation that is a share of the level. After 60 ordinary days
the level shifts. "Charts" are those of `many_models.decisions.drift`, at the default of one false alarm in 1,000 series
and month. "Best" is the chart that knows beforehand how large the shift is, and which way it goes (Moustakides 1986: no
test finds it sooner at as many false alarms); its limit comes from Siegmund's formula for the run between false alarms,
and not from the product. "Window" is the test of a first night: 28 days that were forecast at once, with the shift in
their middle.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from benchmarks._report import Figure, flags, machine, show
from many_models.decisions.drift import MONTH, watch
from many_models.decisions.drift_windows import Wander, limit, statistics

if TYPE_CHECKING:
    from collections.abc import Callable

SHIFT, ORDINARY, WATCHED = 0.4, 60, 400  # of the level; days before the shift; and after it
FALSE_ALARMS, FOUND = 0.001, 0.9
ERRORS = (0.1, 0.15, 0.2, 0.25, 0.3, 0.4, 0.6, 0.8)
WINDOW = 28
OVERSHOOT = 1.166  # of a limit by a sum of normal steps (Siegmund 1985)


def days_until(share: Callable[[int], float]) -> float:
    """The first day after the shift by which `share` of the series found by then is `FOUND`; infinite beyond them."""
    low, high = 0, WATCHED
    if share(high) < FOUND:
        return float("inf")
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (low, middle) if share(middle) >= FOUND else (middle, high)
    return float(high)


def by_charts(scores: np.ndarray) -> Callable[[int], float]:
    """By day after the shift, the share of series (series × days) in which the product's charts have alarmed."""
    return lambda day: float((watch(scores[:, : ORDINARY + day], FALSE_ALARMS).alarm >= ORDINARY).mean())


def by_the_best(scores: np.ndarray, size: float) -> Callable[[int], float]:
    """The same of the chart that knows the shift's size and direction."""
    edge, chart = best_limit(size), np.zeros(len(scores))
    first = np.full(len(scores), np.inf)
    for day in range(ORDINARY + WATCHED):
        chart = np.maximum(chart + scores[:, day] - size / 2, 0.0)
        if day < ORDINARY:
            chart[chart > edge] = 0.0  # a false alarm before the shift is not what is measured
        else:
            first = np.where(np.isinf(first) & (chart > edge), day - ORDINARY + 1, first)
    return lambda day: float((first <= day).mean())


def best_limit(size: float) -> float:
    """The limit with which that chart runs for a month over `FALSE_ALARMS` between false alarms."""
    low, high = 0.0, 60.0
    for _ in range(60):
        middle = (low + high) / 2
        reach = size * (middle + OVERSHOOT)
        run = (np.exp(reach) - reach - 1.0) / (size**2 / 2)
        low, high = (middle, high) if run < MONTH / FALSE_ALARMS else (low, middle)
    return high


def in_a_window(rng: np.random.Generator, series: int, size: float) -> float:
    """The share of shifts in the middle of a window that the test of windows finds within ten days."""
    steady, begins = Wander(0.0, 0.0), WINDOW // 2
    scores = rng.normal(size=(series, WINDOW))
    scores[:, begins:] += size
    tests, _ = statistics(np.clip(scores, -3, 3), [steady], np.zeros(series, np.int64))
    over = np.abs(tests[:, begins : begins + 10]) > limit(steady, WINDOW, FALSE_ALARMS * WINDOW / MONTH)
    return float(over.any(1).mean())


def main() -> None:
    """Print the days until a shift is found in 9 of 10 series, for each usual error."""
    parser = flags(__doc__ or "", "200 series")
    parser.add_argument("--series", type=int, default=2000)
    given = parser.parse_args()
    series, figures = 200 if given.small else given.series, list[Figure]()
    for error in ERRORS:
        rng, size = np.random.default_rng(1), SHIFT / error
        scores = rng.normal(size=(series, ORDINARY + WATCHED))
        scores[:, ORDINARY:] += size
        what, best = f"usual error {100 * error:.0f} %", by_the_best(scores, size)
        figures += [
            Figure(f"{what}: charts find 9 of 10 within", days_until(by_charts(scores)), "days", ""),
            Figure(f"{what}: the best chart finds 9 of 10 within", days_until(best), "days", ""),
            Figure(f"{what}: found in ten days in a window", in_a_window(rng, series, size), "of all", ""),
            Figure(f"{what}: found in ten days by the best chart", best(10), "of all", ""),
        ]
    show(figures, machine(), as_json=given.json)


if __name__ == "__main__":
    main()
