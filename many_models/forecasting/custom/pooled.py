"""Users' forecasters of all series at once: regressors trained over all of them, and models that a user brings.

A regressor of scikit-learn is fitted on rows of all series that learn together, in the child process, and kept as a
skops file with the pooled models. A model that is brought (a local folder or package of the user's) is made once and
forecasts batches of histories as it is. A batch that fails is halved until what fails is one series.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from many_models.forecasting.custom.child import Answer, Batch, FitRows
from many_models.forecasting.custom.parent import CHILD, bounds_at, identity, regressor_rows
from many_models.forecasting.pack import mm_pack_v1 as loader

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from numpy.typing import NDArray

    from many_models.forecasting.custom.parent import CustomForecasts
    from many_models.forecasting.panel import Layout, Panel
    from many_models.forecasting.spec import Custom, Spec

MOST_ROWS = 200_000  # of all series together
SERIES_A_BATCH = 64
MOST_FAILURES = 10  # series on which a forecaster failed alone, after which it is not tried on the rest of a chunk
ODD = 1e29  # an attribute that is not known, as trees see it


@dataclass(frozen=True)
class Brought:
    """A regressor fitted over all series as skops files, before the backtest windows and at the cutoff, or why not."""

    early: bytes = b""
    late: bytes = b""
    problem: str = ""


@dataclass(frozen=True)
class _Item:
    """One series: its row of the panel, the origins (places in `origins`) that are wanted, and what it is seen as."""

    row: int
    wanted: NDArray[np.int64]
    ahead: NDArray[np.float32]
    unit: float


def fit_over_all(
    panel: Panel, layout: Layout, spec: Spec, origins: tuple[int, int], static: NDArray[np.float32]
) -> dict[str, Brought]:
    """Each regressor of `spec` that is trained over all series, by name, as of the two `origins`.

    What fails says so and does not compete; nothing else changes. Raises SettingsError as `check_custom`.
    """
    mine = [custom for custom in spec.competing if custom.pooled]
    if not mine:
        return {}
    with CHILD.lock:
        kinds = CHILD.kinds(spec)
        mine = [custom for custom in mine if kinds[custom.name] == "regressor"]
        if not mine:
            return {}
        X, y, place = _rows_of_all(panel, layout, spec, origins, static)
        result = dict[str, Brought]()
        for custom in mine:
            fits = [_fitted(custom, spec, X[place <= origin], y[place <= origin]) for origin in origins]
            problem = next((fit.problem for fit in fits if fit.problem), "")
            result[custom.name] = Brought(problem=problem) if problem else Brought(fits[0].fitted, fits[1].fitted)
        return result


def _fitted(custom: Custom, spec: Spec, X: NDArray[np.float32], y: NDArray[np.float64]) -> Answer:
    if not len(y):
        return Answer(problem="no series has enough history to learn from")
    return CHILD.ask(FitRows(identity(custom), custom.seconds, _seed(custom), X, y), spec)[0]


def _rows_of_all(
    panel: Panel, layout: Layout, spec: Spec, origins: tuple[int, int], static: NDArray[np.float32]
) -> tuple[NDArray[np.float32], NDArray[np.float64], NDArray[np.int64]]:
    """Features, targets in units of their series, and places of a random share of all series' periods."""
    share = min(1.0, MOST_ROWS / max(int((panel.code == loader.OBSERVED).sum()), 1))
    X: list[NDArray[np.float32]] = []
    y: list[NDArray[np.float64]] = []
    place: list[NDArray[np.int64]] = []
    for i, name in enumerate(panel.series):
        after = np.array([origin for origin in origins if origin > panel.first[i] + 2], np.int64)
        if not len(after):
            continue
        rows, _ = regressor_rows(panel, layout, spec, i, after)
        rng = np.random.default_rng(int.from_bytes(hashlib.sha256(name.encode()).digest()[:4], "big"))
        kept = rng.random(origins[1] + 1)[::-1][rows.place] < share
        X.append(_beside(rows.X[kept], static[i]))
        y.append(rows.y[kept])
        place.append(rows.place[kept])
    if not X:
        return np.zeros((0, 1), np.float32), np.zeros(0), np.zeros(0, np.int64)
    return np.concatenate(X), np.concatenate(y), np.concatenate(place)


def _beside(X: NDArray[np.float32], static: NDArray[np.float32]) -> NDArray[np.float32]:
    """Features (… × features) with what is known of the series itself after them; nothing where it is not known."""
    known = np.where(np.abs(static) < ODD, static, 0.0).astype(np.float32)
    return np.concatenate([X, np.broadcast_to(known, (*X.shape[:-1], len(known)))], -1)


def run_over_all(  # noqa: PLR0913, PLR0917 - what, whom, when and by which fits
    panel: Panel,
    layout: Layout,
    spec: Spec,
    origins: NDArray[np.int64],
    wanted: NDArray[np.bool_],
    static: NDArray[np.float32],
    brought: Mapping[str, Brought],
    result: CustomForecasts,
) -> None:
    """Put into `result` what `spec`'s forecasters of all series say at `origins` where `wanted` (series × origins)."""
    mine = [(c, custom) for c, custom in enumerate(spec.competing) if custom.pooled]
    rows = np.flatnonzero(wanted.any(1)).tolist()
    if not mine or not rows:
        return
    with CHILD.lock:
        kinds = CHILD.kinds(spec)
        items = [_item(panel, layout, spec, i, origins, wanted[i], static[i]) for i in rows]
        for c, custom in mine:
            fits = (
                brought.get(custom.name, Brought(problem="nothing was learned together"))
                if kinds[custom.name] == "regressor"
                else Brought()
            )
            run = _Run(panel, spec, origins, custom, fits)
            result.there[rows, c] = True
            for at in range(0, len(items), SERIES_A_BATCH):
                run.batch(items[at : at + SERIES_A_BATCH], c, result)


def _item(  # noqa: PLR0913, PLR0917
    panel: Panel,
    layout: Layout,
    spec: Spec,
    i: int,
    origins: NDArray[np.int64],
    wanted: NDArray[np.bool_],
    static: NDArray[np.float32],
) -> _Item:
    places = np.flatnonzero(wanted)
    rows, unit = regressor_rows(panel, layout, spec, i, origins[places])
    return _Item(i, places, _beside(rows.ahead, static), unit)


@dataclass
class _Run:
    """One forecaster over the batches of a chunk."""

    panel: Panel
    spec: Spec
    origins: NDArray[np.int64]
    custom: Custom
    fits: Brought
    failures: int = 0

    def batch(self, items: Sequence[_Item], c: int, result: CustomForecasts) -> None:
        """Forecasts of `items`, halved where they fail together."""
        if self.fits.problem or self.failures >= MOST_FAILURES:
            problem = self.fits.problem or f"not tried: it failed on {MOST_FAILURES} series before"
            for item in items:
                _refuse(result, item, c, problem, 0.0)
            return
        found, problem, seconds = self._ask(items)
        if problem and len(items) > 1:
            half = len(items) // 2
            self.batch(items[:half], c, result)
            self.batch(items[half:], c, result)
            return
        at = 0
        self.failures += bool(problem)
        for item in items:
            mine, at = found[at : at + len(item.wanted)], at + len(item.wanted)
            bad = problem or ("" if np.isfinite(mine).all() else "predict gave what is not a finite number")
            if bad:
                _refuse(result, item, c, bad, seconds)
                continue
            result.seconds[item.row, c] = seconds / len(items)
            for place, forecast in zip(item.wanted, mine, strict=True):
                low, high = bounds_at(self.panel, item.row, int(self.origins[place]), self.spec)
                result.F[item.row, c, place] = np.clip(forecast, low, high)

    def _ask(self, items: Sequence[_Item]) -> tuple[NDArray[np.float64], str, float]:
        """Forecasts (a row for each origin of each item), the problem if there is one, and the seconds."""
        answers: list[tuple[NDArray[np.int64], Answer]] = []
        steps, last = self.spec.horizon, len(self.origins) - 1
        pairs = [(item, k) for item in items for k in range(len(item.wanted))]
        final = np.array([item.wanted[k] == last for item, k in pairs])
        units = np.array([item.unit if self.fits.late else 1.0 for item, _ in pairs])
        found = np.full((len(pairs), steps), np.nan)
        for fitted, those in ((self.fits.early, ~final), (self.fits.late, final)):
            chosen = [pair for pair, mine in zip(pairs, those, strict=True) if mine]
            if not chosen:
                continue
            data = [item.ahead[k] if fitted else self._history(item, k) for item, k in chosen]
            request = Batch(identity(self.custom), self.custom.seconds, _seed(self.custom), steps, data, fitted)
            answers.append((np.flatnonzero(those), CHILD.ask(request, self.spec)[0]))
        for places, answer in answers:
            if answer.problem:
                return found, answer.problem, answer.seconds
            found[places] = np.array(answer.forecasts).reshape(len(places), steps)
        return found * units[:, None], "", sum(answer.seconds for _, answer in answers)

    def _history(self, item: _Item, k: int) -> NDArray[np.float64]:
        """What the series sold up to an origin, NaN where nothing is known."""
        first, origin = int(self.panel.first[item.row]), int(self.origins[item.wanted[k]])
        y, code = self.panel.y[item.row, first : origin + 1], self.panel.code[item.row, first : origin + 1]
        return np.where(code == loader.MISSING, np.nan, y)


def _refuse(result: CustomForecasts, item: _Item, c: int, problem: str, seconds: float) -> None:
    result.problems[item.row][c], result.there[item.row, c], result.seconds[item.row, c] = problem, False, seconds


def _seed(custom: Custom) -> int:
    return int.from_bytes(hashlib.sha256(custom.name.encode()).digest()[:4], "big")
