"""Whether the level of a series shifted within one window of forecasts, all of which were made at one cutoff.

What the errors of such a window have in common is a level that the forecast missed, and that wanders on; around it lies
the series' own noise, which its earlier windows tell. Both are known per kind of series, so a shift stands out against
the days before it even where levels are often missed. The test is the largest likelihood ratio of all days on which a
shift may have begun (Willsky & Jones 1976), each computed from the innovations of a Kalman filter.
"""

from __future__ import annotations

from functools import lru_cache
from itertools import product
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from many_models.decisions.demand_paths import BLOCK, CLASSES, FEW_WINDOWS
from many_models.decisions.drift import KINDS, MONTH, Found, scaled_errors

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from many_models.decisions.demand_paths import Backtest, PathModel

    Floats = NDArray[np.float64]

MISSED = (0.0, 0.05, 0.1, 0.2, 0.4, 0.8)  # variance of a window's level, in variances of the series' noise
WANDERS = (0.0, 0.002, 0.005, 0.01, 0.02, 0.05)  # and what it gains each step
LARGEST = 3.0  # deviations of noise: a single day tells no more than this
LEAST_AFTER, LEAST_BEFORE = 4, 3  # days that a shift has lasted, and days before it, that the test needs
SMALLEST = 0.1  # of its kind's noise: the least that a series is taken to have
LEAST_SPREAD = 0.005  # variance of the logarithms of noise within a kind, at least
DRAWN, ESTIMATED_AT = 4000, 0.02  # windows drawn for the limit, and the share of them that it is read off


class Wander(NamedTuple):
    """How the level of a kind's windows lies off its forecasts: the variance at the first step, and what is added to
    it each step, in variances of the series' noise.
    """

    missed: float
    added: float


def window_shifts(model: PathModel, earlier: Backtest, y: Floats, y_hat: Floats, false_alarms: float = 0.001) -> Found:
    """The shifts of level in one window (`y`, NaN unknown, and `y_hat`: series × steps) that `model` does not know.

    `earlier` are the windows that `model` was made of. `false_alarms` is the share of series that alarm in `MONTH`
    periods though nothing shifted. `alarm` is the last step at which the test was over its limit, `began` where the
    likeliest shift up to the first one of them begins.
    """
    past = np.stack([scaled_errors(model, earlier.y[:, w], earlier.y_hat[:, w]) for w in range(earlier.y.shape[1])], 1)
    noise = np.sqrt(noises(past, model.kind))
    usual = wanders(np.clip(past / noise[:, None, None], -LARGEST, LARGEST), model.kind)
    scores = np.clip(scaled_errors(model, y, y_hat) / noise[:, None], -LARGEST, LARGEST)
    share = false_alarms * scores.shape[1] / MONTH
    limits = np.array([limit(of, scores.shape[1], share) for of in usual])[model.kind]
    parts = [
        statistics(scores[at : at + BLOCK], usual, model.kind[at : at + BLOCK]) for at in range(0, len(scores), BLOCK)
    ]
    tests, begins = (np.concatenate(of) for of in zip(*parts, strict=True))
    return _found(tests, begins, limits, np.isfinite(scores))


def noises(errors: Floats, kind: NDArray[np.int64]) -> Floats:
    """Each series' variance of errors within windows (series × windows × steps, NaN unknown), drawn towards that of its
    kind as far as it is uncertain and the kind's series are alike.
    """
    known = np.isfinite(errors)
    count = known.sum(2, keepdims=True)
    filled = np.where(known, errors, 0.0)
    off = np.where(known, filled - filled.sum(2, keepdims=True) / np.maximum(count, 1), 0.0)
    freedom = np.maximum(count - 1, 0).sum((1, 2))
    own = (off**2).sum((1, 2)) / np.maximum(freedom, 1)
    told = freedom > 0
    found = np.ones(len(own))
    everyone = float(np.median(own[told & (own > 0)])) if (told & (own > 0)).any() else 1.0
    for k in range(len(CLASSES) + 1):
        mine = kind == k
        good = told[mine] & (own[mine] > 0)
        typical = float(np.median(own[mine][good])) if good.sum() > 2 else everyone
        logs = np.log(np.maximum(own[mine], SMALLEST * typical) / typical)
        uncertain = 2.0 / np.maximum(freedom[mine], 1)
        spread = float(np.var(logs[good]) - uncertain[good].mean()) if good.sum() > 2 else 0.0
        weight = np.where(told[mine], max(spread, LEAST_SPREAD) / (max(spread, LEAST_SPREAD) + uncertain), 0.0)
        found[mine] = typical * np.exp(weight * logs)
    return found


def wanders(scores: Floats, kind: NDArray[np.int64]) -> list[Wander]:
    """Of each kind the likeliest of `MISSED` and `WANDERS` (scores are errors over noise: series × windows × steps); a
    kind with few windows takes that of all series.
    """
    windows = scores.reshape(-1, scores.shape[2])
    of = np.repeat(kind, scores.shape[1])
    known = np.isfinite(windows).any(1)
    choices = [Wander(*pair) for pair in product(MISSED, WANDERS)]
    likelihood = np.empty((len(choices), len(windows)))
    for at, choice in enumerate(choices):
        fresh, variance = innovations(windows[:, None], *(np.full((len(windows), 1), value) for value in choice))
        likelihood[at] = -0.5 * np.where(np.isfinite(fresh), fresh**2 + np.log(variance), 0.0).sum((1, 2))
    everyone = choices[int(likelihood.sum(1).argmax())]
    return [
        choices[int(likelihood[:, mine].sum(1).argmax())] if (mine & known).sum() >= FEW_WINDOWS else everyone
        for mine in (of == k for k in range(len(CLASSES) + 1))
    ]


def innovations(scores: Floats, missed: Floats, added: Floats) -> tuple[Floats, Floats]:
    """What each step of `scores` (series × signals × steps, NaN unknown) is beyond what the steps before foretell, in
    standard deviations, NaN where unknown; and its variance (series × 1 × steps).

    The level is a random walk that begins with the variance `missed` (series × 1) and gains `added` each step; noise
    has the variance 1. A signal must be NaN where the first of its series is.
    """
    fresh = np.full(scores.shape, np.nan)
    variances = np.empty((len(scores), 1, scores.shape[2]))
    level, spread = np.zeros(scores.shape[:2]), missed.copy()
    for step in range(scores.shape[2]):
        known = np.isfinite(scores[:, :1, step])
        size = spread + 1.0
        off = np.where(known, scores[:, :, step] - level, 0.0)
        fresh[:, :, step] = np.where(known, off / np.sqrt(size), np.nan)
        variances[:, :, step] = size
        level += np.where(known, spread / size, 0.0) * off
        spread = np.where(known, spread / size, spread) + added
    return fresh, variances


def statistics(scores: Floats, usual: list[Wander], kind: NDArray[np.int64]) -> tuple[Floats, NDArray[np.int64]]:
    """For each step the largest test of a shift that began before it (series × steps; each standard normal where
    nothing shifted, above 0 upwards), and where that one begins. 0 where the test has too few days.
    """
    n, steps = scores.shape
    known = np.isfinite(scores)
    signals = np.triu(np.ones((steps, steps)))[None].repeat(n, 0)  # signal k is 1 from step k on
    together = np.concatenate([np.nan_to_num(scores)[:, None], signals], axis=1)
    together[~known[:, None].repeat(steps + 1, 1)] = np.nan
    missed, added = (np.array([of[at] for of in usual])[kind][:, None] for at in range(2))
    fresh = np.nan_to_num(innovations(together, missed, added)[0])
    told = np.cumsum(fresh[:, 1:] * fresh[:, :1], axis=2)
    power = np.cumsum(fresh[:, 1:] ** 2, axis=2)
    seen = np.concatenate([np.zeros((n, 1)), np.cumsum(known, axis=1)], axis=1)
    enough = (seen[:, :-1, None] >= LEAST_BEFORE) & (seen[:, None, 1:] - seen[:, :-1, None] >= LEAST_AFTER)
    tests = np.where(enough & (power > 0), told / np.sqrt(np.where(power > 0, power, 1.0)), 0.0)
    began = np.abs(tests).argmax(1)
    return np.take_along_axis(tests, began[:, None], axis=1)[:, 0], began


@lru_cache(maxsize=64)
def limit(usual: Wander, steps: int, share: float) -> float:
    """What the largest test of a window of `steps` exceeds in the `share` of windows in which nothing shifted.

    Windows are drawn; beyond what these few tell, the chance falls as c φ(c), that of a Gaussian process's maximum.
    """
    rng = np.random.default_rng(1)
    level = np.sqrt(usual.missed) * rng.normal(size=(DRAWN, 1))
    level = level + np.sqrt(usual.added) * np.cumsum(rng.normal(size=(DRAWN, steps)), axis=1)
    tests, _ = statistics(level + rng.normal(size=(DRAWN, steps)), [usual], np.zeros(DRAWN, np.int64))
    base = max(float(np.quantile(np.abs(tests).max(1), 1.0 - ESTIMATED_AT)), 1.0)
    at = np.linspace(1.0, 9.0, 8001)
    chance = ESTIMATED_AT * at / base * np.exp((base**2 - at**2) / 2.0)
    return float(at[np.argmax(chance <= share)])


def later(watched: Found, shifts: Found) -> Found:
    """Of each series the later of two alarms, those of the charts and those of a window."""
    take = shifts.alarm > watched.alarm
    of = {
        name: np.where(take, getattr(shifts, name), getattr(watched, name))
        for name in ("alarm", "began", "kind", "direction")
    }
    return Found(**of, charts=watched.charts)


def _found(tests: Floats, begins: NDArray[np.int64], limits: Floats, known: NDArray[np.bool_]) -> Found:
    over = known & (np.abs(tests) > limits[:, None])
    alarmed = over.any(1)
    rows, steps = np.arange(len(tests)), tests.shape[1]
    last = np.where(alarmed, steps - 1 - over[:, ::-1].argmax(1), -1)
    direction = np.where(alarmed, np.sign(tests[rows, last]), 0.0).astype(np.int64)
    charts = np.zeros((len(tests), len(KINDS)))
    charts[:, 0] = np.abs(tests[:, -1]) / limits
    began = np.where(alarmed, begins[rows, over.argmax(1)], -1)
    return Found(last, began, np.where(alarmed, 0, -1), direction, charts)
