"""All local candidates of every series of a panel, at every origin, in one pass."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, cast

import numpy as np

from many_models.forecasting.closures import Closures
from many_models.forecasting.pack import mm_pack_v1 as pack
from many_models.forecasting.spec import rhythm

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    from many_models.forecasting.panel import Layout, Panel
    from many_models.forecasting.spec import Spec

    _Array = NDArray[np.generic]
    _Trees = tuple[_Array, _Array, _Array, _Array, _Array, _Array]
    _Networks = tuple[NDArray[np.float32], NDArray[np.float32], NDArray[np.float32], NDArray[np.float32]]
    _Turn = tuple[NDArray[np.float64], NDArray[np.float64], NDArray[np.float64], int, _Trees, _Networks]


@dataclass(frozen=True)
class PooledFit:
    """What series learned together, as of step number `cutoff`: a shape of the calendar, coefficients, trees.

    `shape` (columns of the shape's features), `beta` (3 × features), `strength` how many observations that belief is
    worth for each way, `trees` (root, feature, threshold, left, right, value), of which the last `boosted` stand on the
    recent level, `problem` why the pooled fit of counts does not compete, "" where it does, `profile` what all sold in
    each of the newest periods over their level, `lags` the coefficients of `autoregression.learn_lags`, `inputs` and
    `layers` what `networks.learn_networks` gave.
    """

    cutoff: int
    shape: NDArray[np.float64]
    beta: NDArray[np.float64]
    strength: tuple[float, float, float]
    trees: tuple[NDArray[np.generic], ...]
    problem: str = ""
    boosted: int = 0
    profile: NDArray[np.float64] = field(default_factory=lambda: np.zeros(0))
    lags: NDArray[np.float32] = field(default_factory=lambda: np.zeros((0, 0), np.float32))
    inputs: NDArray[np.float32] = field(default_factory=lambda: np.zeros((0, 0), np.float32))
    layers: NDArray[np.float32] = field(default_factory=lambda: np.zeros((0, 0), np.float32))

    @property
    def anything(self) -> bool:
        """Whether there was enough to learn from."""
        return self.cutoff > NEVER


NEVER = -(10**9)
NO_TREES: tuple[NDArray[np.generic], ...] = (
    np.zeros(0, np.int32),
    np.zeros(0, np.int16),
    np.zeros(0, np.float32),
    np.zeros(0, np.int32),
    np.zeros(0, np.int32),
    np.zeros(0, np.float32),
)


def nothing_shared(layout: Layout) -> PooledFit:
    """What is believed where nothing was learned together."""
    example = np.array(["2020-01-01"], "datetime64[us]")
    nc = layout.calendar(example)[0].shape[1]
    shape = np.zeros(layout.shape_features(example).shape[1])
    return PooledFit(NEVER, shape, default_prior(nc, layout.columns), (20.0, 20.0, 60.0), NO_TREES)


@dataclass
class Fits:
    """What the pass leaves: forecasts F (series × origins × candidates × horizon), and of the last origin the model.

    `fitted` (series × origins × 3, see kernels.FITTED) says which of the three linear fits are there and which did not
    converge.
    """

    F: NDArray[np.float64]
    coef: NDArray[np.float64]
    smear: NDArray[np.float64]
    state: NDArray[np.float64]
    own: NDArray[np.float64]
    fitted: NDArray[np.int8]


@dataclass(frozen=True)
class Group:
    """Some series of a panel (`rows`), and the fits of others that theirs are added to."""

    rows: NDArray[np.int64]
    fits: Fits | None

    @classmethod
    def nobody(cls) -> Group:
        """No series: fits that wait for others'."""
        return cls(np.zeros(0, np.int64), None)


def default_prior(nc: int, k: int) -> NDArray[np.float64]:
    """Coefficients (3 × features) to believe in before data: recent level plus season."""
    prior = np.zeros((3, pack.width(nc, k)))
    prior[:, nc + 1 : nc + 5] = (0.5, 0.9, 1.0, 1.0)
    prior[:, nc + 7] = 1.0
    prior[1:, -2] = 1.0  # the shared shape against its own recent level
    return prior


TURN = (
    math.sqrt(5.0) - 1.0
) / 2.0  # the golden ratio's share: its multiples are spread evenly and repeat with no season


def training_steps(number: int, periods: int, horizon: int, *, turned: bool = False) -> NDArray[np.int64]:
    """Which step ahead each period trains: all in turn, by absolute time, so that panels that begin elsewhere agree.

    In turn, a step ahead meets the same phases again where the horizon is whole seasons: with twelve months ahead, each
    month trains one step only. With `turned` steps follow the golden ratio, and every phase meets every step.
    """
    if turned:
        return 1 + (horizon * np.mod((number + np.arange(periods)) * TURN, 1.0)).astype(np.int64)
    stride = next(s for s in (11, 7, 5, 3, 1) if math.gcd(s, horizon) == 1)
    return 1 + ((number + np.arange(periods)) * stride) % horizon


def own_numbers(
    y: NDArray[np.float64], code: NDArray[np.int8], spec: Spec, first: int, learned: int
) -> NDArray[np.float64]:
    """The vector `own` of a series from its observations up to place `learned` (later ones if there are none)."""
    own = np.zeros(pack.OWN_SIZE)
    seen = y[first : learned + 1][code[first : learned + 1] == pack.OBSERVED]
    if not len(seen):
        seen = y[code == pack.OBSERVED][:1]
    mean = float(np.abs(seen).mean()) if len(seen) else 0.0
    own[pack.UNIT] = mean if mean > 0 else 1.0
    whole = bool((seen == np.round(seen)).all())
    own[pack.LOG_UNIT] = 1.0 if whole else max(0.1 * own[pack.UNIT], 1e-12)
    own[pack.ADDITIVE] = float((seen < 0).any())
    own[pack.NONNEGATIVE] = float(spec.nonnegative)
    own[pack.ZEROS] = own[pack.TESTED] = 1.0
    return own


def learned_at(panel: Panel, i: int, origins: NDArray[np.int64]) -> int:
    """Up to which place a series' own numbers may look: the first origin, or a little history where it is later."""
    return max(int(origins[0]), min(int(panel.first[i]) + 14, int(origins[-1])))


def recent_rows(layout: Layout) -> int:
    """How many periods a Poisson fit looks back."""
    return {"D": 1100, "h": 2200}.get(rhythm(layout.frequency).unit, 100_000)


def fit_panel(  # noqa: PLR0913 - what, whom, when and beside what
    panel: Panel,
    layout: Layout,
    spec: Spec,
    origins: NDArray[np.int64],
    shared: PooledFit,
    *,
    last: PooledFit | None = None,
    static: NDArray[np.float32] | None = None,
    only: Group | None = None,
) -> Fits:
    """Fit every series of `panel` at `origins` (ascending places; the last one is the final fit).

    `shared` was learned before the first origin, `last` (default: the same) before the last one. `static` (series ×
    columns) is what trees see of each series; `only` some series are fitted, into the fits of others.
    """
    from many_models.forecasting.kernels import on_one_thread

    C, hol, ph = layout.calendar(panel.ds)
    n, p = len(panel.series), pack.width(C.shape[1], layout.columns)
    chosen = np.arange(n) if only is None else only.rows
    shapes = [layout.shape_features(panel.ds) @ one.shape for one in (shared, last or shared)]
    panel.x[chosen, :, -1] = shapes[0][None, :]
    fits = only.fits if only is not None and only.fits is not None else _no_fits(panel, layout, spec, len(origins), p)
    seen = np.zeros((n, 0)) if static is None else static.astype(float)
    closures = Closures(layout, panel.ds, panel.periods)
    steps, conf = training_steps(panel.number, len(panel.ds), spec.horizon), layout.conf()
    wide = pack.tree_width(p, layout.columns, 0 if static is None else static.shape[1])
    turns = [_turn(one, p, wide) for one in (shared, *([last] if last else []))]
    with on_one_thread():
        for i in chosen.tolist():
            first = int(panel.first[i])
            mine = origins[origins >= first]
            # the windows must not know a unit from after them
            known = mine[-2] if last is not None and len(mine) > 1 else origins[-1]
            own = own_numbers(
                panel.y[i], panel.code[i], spec, first, learned_at(panel, i, np.array([origins[0], known]))
            )
            if len(mine):
                own_hol = closures.announced(hol, panel.y[i], panel.code[i], first)
                series = (
                    panel.y[i], panel.code[i], ph, own_hol, C, panel.x[i], panel.encoding.binary[i], steps, first, mine,
                    conf, own, rhythm(layout.frequency).decay, recent_rows(layout),
                )  # fmt: skip
                _fit_one(series, shapes, turns, seen[i], fits, i)
            fits.own[i] = own
        learned = [shared] * (len(origins) - 1) + [last or shared]
        _autoregress(panel, layout.conf(), origins, [lags_or_none(one, layout) for one in learned], chosen, fits)
    return fits


def _autoregress(
    panel: Panel,
    conf: NDArray[np.float64],
    origins: NDArray[np.int64],
    learned: Sequence[NDArray[np.float32]],
    chosen: NDArray[np.int64],
    fits: Fits,
) -> None:
    """Put into `fits` what the autoregression `learned` for each origin says of the series `chosen`."""
    from many_models.forecasting.kernels import bounds

    most, span = pack.lags_of(conf)
    F, own = fits.F[chosen], fits.own[chosen]
    for j, (origin, lags) in enumerate(zip(origins.tolist(), learned, strict=True)):
        places = np.arange(origin + 1 - most, origin + 1)
        there = (places >= 0) & (places >= panel.first[chosen][:, None])
        y, code = (v[chosen[:, None], np.maximum(places, 0)] for v in (panel.y, panel.code))
        for k, i in enumerate(chosen.tolist()):  # a window must not know what was sold after it
            bounds(panel.y[i], panel.code[i], panel.first[i], origin + 1, own[k])
        pack.put_autoregression(F[:, j], y, np.where(there, code, pack.MISSING), lags.astype(float), span, own)
    fits.F[chosen] = F


def lags_or_none(shared: PooledFit, layout: Layout) -> NDArray[np.float32]:
    """Coefficients of the autoregression (lags + 1 × steps), NaN where it was not learned."""
    size = pack.lags_of(layout.conf())[0] + 1
    return shared.lags if len(shared.lags) else np.full((size, layout.horizon), np.nan, np.float32)


def _no_fits(panel: Panel, layout: Layout, spec: Spec, origins: int, p: int) -> Fits:
    n = len(panel.series)
    return Fits(
        np.zeros((n, origins, len(pack.CANDIDATES), spec.horizon)),
        np.full((n, 4, p), np.nan),
        np.ones((n, 3)),
        np.zeros((n, pack.state_size(layout.season, layout.columns, layout.slots))),
        np.zeros((n, pack.OWN_SIZE)),
        np.zeros((n, origins, 3), np.int8),
    )


def networks_or_none(shared: PooledFit, wide: int) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """What was learned of networks on `wide` features, as packs hold it; NaN where they were not learned."""
    if len(shared.layers):
        return shared.inputs, shared.layers
    inputs, layers = (np.full(size[1:], np.nan, np.float32) for size in pack.network_sizes(1, wide))
    return inputs, layers


def _turn(shared: PooledFit, p: int, wide: int) -> _Turn:
    """What `fit_series` takes of what was learned together: prior and its strength, the pooled fit, trees, networks."""
    strength = np.repeat(np.array(shared.strength)[:, None], p, 1)
    pooled = shared.beta[pack.COUNT] if shared.anything else np.full(p, np.nan)
    networks = cast("_Networks", pack.networks_of(*networks_or_none(shared, wide)))
    return shared.beta, strength, pooled, shared.boosted, cast("_Trees", shared.trees), networks


def _fit_one(
    series: tuple[Any, ...],
    shapes: Sequence[NDArray[np.float64]],
    turns: Sequence[_Turn],
    static: NDArray[np.float64],
    fits: Fits,
    i: int,
) -> None:
    """Write the fits of one series (see `fit_panel`) into `fits`, in one pass over its time: at all origins by the one
    turn, or at all but the last one by the first turn and at the last one by the second.
    """
    from many_models.forecasting.kernels import change_shape, features, fit_series, room, sums_of_shape

    y, code, ph, hol, C, x, binary, steps, first, mine, conf, own, decay, recent = series
    P, X, w, wl, z, states, off = room(int(mine[-1]) + 1, fits.coef.shape[2], len(mine), fits.state.shape[1])
    features(
        y, code, ph, hol, C, x, binary, steps, first, mine, conf, own, decay, fits.state[i], P, X, w, wl, z, states, off
    )
    products, p, done = np.empty(X.shape[1:], np.float32), X.shape[2], first
    G, g = np.zeros((2, p, p)), np.zeros((2, p))
    begins = fits.F.shape[1] - len(mine)
    parts = [slice(0, len(mine))] if len(turns) == 1 else [slice(0, len(mine) - 1), slice(len(mine) - 1, len(mine))]
    for k, part in enumerate(parts):
        beta, strength, pooled, boosted, trees, networks = turns[k]
        if k > 0:
            change_shape(code, x, shapes[k], steps, first, mine, conf, own, X, w, states)
            sums_of_shape(X, w, wl, z, first, done, decay, G, g)
            fits.state[i] = states[-1]
        if part.stop > part.start:
            there = slice(begins + part.start, begins + part.stop)
            fit_series(
                y, code, ph, hol, C, x, binary, first, mine[part], conf, own, decay,
                P, X, w, wl, z, states[part], off, products, G, g, done,
                beta, strength, recent, pooled, static, boosted, *trees, *networks,
                fits.F[i, there], fits.coef[i], fits.smear[i], fits.fitted[i, there],
            )  # fmt: skip
            done = int(mine[part.stop - 1]) + 1
