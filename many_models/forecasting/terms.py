"""Which known covariates improve forecasts, and what their straight lines miss: `choose`.

Both are judged by how well a pooled linear fit on the log scale forecasts blocks of time that it has not seen. All
series of a period share its luck, so a block is one observation.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np

from many_models.forecasting.local_fit import default_prior
from many_models.forecasting.pack import mm_pack_v1 as loader
from many_models.forecasting.spec import rhythm

if TYPE_CHECKING:
    from collections.abc import Collection, Mapping, Sequence

    from numpy.typing import NDArray

    from many_models.forecasting.panel import Term
    from many_models.forecasting.pooling import Sample

BLOCKS = 6  # of time, each forecast by a fit of the others
MOST_SERIES = 100
MOST_ROWS = 1_200  # of a series
LEAST_ROWS = 500  # of all series, below which nothing is chosen and nothing dropped
STRENGTH = 50.0  # rows that what is believed before any data is worth, as in the pooled fit
SURE = 2.5  # standard errors, of the mean over blocks, that a term must gain
ENOUGH = 1.5  # the same where every block gains, and much
GAIN = 0.002  # share of the misfit that a term must gain at least
LITTLE = 0.005  # share of the misfit that a covariate whose gain is less than a standard error must gain to stay
USEFUL = 1.5  # standard errors that series' own slopes must gain to keep one that goes
HINGES = (0.1, 0.25, 0.5, 0.75, 0.9)  # quantiles of a covariate where its line may bend
STEPS = tuple(np.linspace(0.05, 0.95, 19).tolist())  # and where its effect may jump
FEW = 6  # up to this many different numbers, each is tried as a step, else as many as hinges
WAVES = (1, 2, 3)  # periods a day
NEVER_SOLD = 0.97  # share of zeros under a flag that marks closed periods


@dataclass(frozen=True)
class Choice:
    """`terms` by the encoded columns of the whole layout, the covariates that are left out, each with its reason, and
    whose each encoded column is.
    """

    terms: tuple[Term, ...] = ()
    dropped: Mapping[str, str] = field(default_factory=dict[str, str])
    columns: tuple[str, ...] = ()


def words_of(term: Term, names: Sequence[str]) -> str:
    """A term in words, by the names of the encoded columns."""
    kind, a, b, _ = term
    days = ("Monday", "Tuesday", "Wednesday", "Thursday", "Friday", "Saturday", "Sunday")
    return {
        loader.HINGE: f"{names[a]} bends",
        loader.ABOVE: f"{names[a]} has a threshold",
        loader.PRODUCT: f"{names[a]} acts together with {names[b] if b < len(names) else ''}",
        loader.WEEKDAY: f"{names[a]} acts otherwise on {days[b % 7]}",
    }.get(kind, f"{names[a]} acts by the hour")


@dataclass(frozen=True)
class _Rows:
    """Rows of all series: linear features, columns to judge, residuals of what is believed, weights, blocks, series."""

    X: NDArray[np.float64]
    Z: NDArray[np.float64]
    r: NDArray[np.float64]
    w: NDArray[np.float64]
    block: NDArray[np.int64]
    series: NDArray[np.int64]


def choose(sample: Sample) -> Choice:
    """What to make of the known covariates of `sample`, judged by periods up to its origin alone."""
    layout = sample.layout
    if not layout.known:
        return Choice()
    bends = _bends(sample)
    alone = [*bends, *_by_time(sample, layout.known)]
    rows = _rows(sample, alone)
    if len(rows.r) < LEAST_ROWS or not _many_blocks(rows):
        return Choice()
    dropped = _useless(sample, rows, alone)
    kept = [name for name in layout.known if name not in dropped]
    columns = tuple(name for name in layout.known for _ in layout.places([name]))
    if not kept:
        return Choice((), dropped, columns)
    places = set(layout.places(kept))
    everything = [term for term in bends if term[1] in places] + _products(sample, kept) + _by_time(sample, kept)
    rows = _rows(sample, everything)
    p, gone = rows.X.shape[1], layout.places(list(dropped))
    start = np.setdiff1d(np.arange(p), _linear_of(sample, gone))
    chosen = _forward(rows, start, len(everything))
    return Choice(tuple(everything[j] for j in chosen), dropped, columns)


def _numeric(sample: Sample) -> list[int]:
    """Encoded columns of numbers that are no flag in most series."""
    layout, binary = sample.layout, sample.panel.encoding.binary
    names = [
        name
        for name, levels in zip(layout.known, layout.levels_of, strict=True)
        if not levels and name != layout.exposure
    ]
    return [j for j in layout.places(names) if binary[sample.ready, j].mean() < 0.5]


def _bends(sample: Sample) -> list[Term]:
    """Hinges and thresholds of numbers at quantiles of all series."""
    terms: list[Term] = []
    x = sample.panel.x[sample.ready, : sample.origin + 1]
    numbers = _numeric(sample)
    ways = ((loader.HINGE, HINGES), (loader.ABOVE, STEPS if len(numbers) <= FEW else HINGES))
    for j in numbers if x.size else []:
        for kind, shares in ways:
            knots = np.unique(np.round(np.quantile(x[:, :, j], shares), 4)).tolist()
            terms += [(kind, j, 0, float(knot)) for knot in knots]
    return terms


def _single(sample: Sample, kept: Collection[str]) -> list[int]:
    """Encoded columns of the numbers and flags among `kept`."""
    layout = sample.layout
    return layout.places(
        [
            name
            for name, levels in zip(layout.known, layout.levels_of, strict=True)
            if name in kept and not levels and name != layout.exposure
        ]
    )


def _products(sample: Sample, kept: Collection[str]) -> list[Term]:
    single = _single(sample, kept)
    return [(loader.PRODUCT, a, b, 0.0) for i, a in enumerate(single) for b in single[i + 1 :]]


def _by_time(sample: Sample, kept: Collection[str]) -> list[Term]:
    """Effects by weekday and by hour."""
    single, unit = _single(sample, kept), rhythm(sample.layout.frequency).unit
    days = [(loader.WEEKDAY, a, day, 0.0) for a in single for day in range(7)]
    waves = [(kind, a, wave, 0.0) for a in single for wave in WAVES for kind in (loader.HOUR_SIN, loader.HOUR_COS)]
    return (days if unit in ("h", "D") else []) + (waves if unit == "h" else [])


def _rows(sample: Sample, terms: Sequence[Term]) -> _Rows:
    """Every series alike: each less its own mean, in units of its own spread."""
    panel, encoded = sample.panel, sample.layout.encoded
    start, block = _blocks(sample)
    prior = default_prior(sample.calendar_columns, sample.layout.columns)[loader.LOG]
    parts: list[tuple[NDArray[Any], ...]] = []
    stride = max(1, -(-(sample.origin + 1 - start) // MOST_ROWS))
    stride += stride % 7 == 0  # all weekdays in turn
    thinned = (panel.number + np.arange(sample.origin + 1)) % stride == 0
    for place, i in enumerate(sample.ready[:MOST_SERIES]):
        X, w, z = sample.log_features(i)
        used = np.flatnonzero((w > 0) & thinned)
        if len(used) < 2 * BLOCKS:
            continue
        x = panel.x[i, used]
        Z = np.concatenate([x[:, :encoded], loader.derived(x[:, :encoded], terms, panel.ds[used])], 1)
        X, w = X[used].astype(float), w[used].astype(float)
        r = z[used] - X @ prior
        total = w.sum()
        X, Z, r = (part - (w @ part) / total for part in (X, Z, r))
        spread = float(w @ r**2) / total
        if spread > 0:
            parts.append((X, Z, r, w / spread, block[used], np.full(len(used), place)))
    if not parts:
        none, nothing = np.zeros((0, 1)), np.zeros(0)
        return _Rows(none, none, nothing, nothing, np.zeros(0, np.int64), np.zeros(0, np.int64))
    X, Z, r, w, blocks, series = (np.concatenate(part) for part in zip(*parts, strict=True))
    return _Rows(X, Z, r, w, blocks, series)


def _blocks(sample: Sample) -> tuple[int, NDArray[np.int64]]:
    """Where most series have targets to learn from, and the block of each place: equal spans up to the origin."""
    season = sample.layout.season
    start = int(np.median(sample.panel.first[sample.ready])) if sample.ready else 0
    start += 6 if season == 12 else min(season, 14)  # what warms up the state
    at = np.arange(sample.origin + 1)
    return start, np.clip((at - start) * BLOCKS // max(sample.origin + 1 - start, 1), 0, BLOCKS - 1)


def _many_blocks(rows: _Rows) -> bool:
    return len(np.unique(rows.block)) == BLOCKS


def _linear_of(sample: Sample, places: Sequence[int]) -> NDArray[np.int64]:
    """The linear features of encoded columns."""
    first = sample.calendar_columns + loader.DYNAMIC
    return (first + 3 * np.asarray(places, np.int64)[:, None] + np.arange(3)).ravel()


def _grams(rows: _Rows) -> NDArray[np.float64]:
    """Products of features, columns and residuals (blocks × all × all), weighted."""
    whole = np.concatenate([rows.X, rows.Z, rows.r[:, None]], 1)
    out = np.zeros((BLOCKS, whole.shape[1], whole.shape[1]))
    for k in range(BLOCKS):
        mine = rows.block == k
        out[k] = (whole[mine] * rows.w[mine, None]).T @ whole[mine]
    return out


def _fits(A: NDArray[np.float64], used: NDArray[np.int64]) -> list[tuple[NDArray[np.float64], NDArray[np.float64]]]:
    """Of each block the coefficients that the others give to `used`, and the inverse of their Gram matrix."""
    total, out = A.sum(0), []
    rows = max(float(total[-1, -1]), 1.0)
    for k in range(BLOCKS):
        B = total - A[k]
        G = B[np.ix_(used, used)]
        ridge = STRENGTH * np.diag(G) / rows + 1e-8 * max(float(np.trace(G)) / max(len(G), 1), 1e-12)
        inverse = np.linalg.inv(G + np.diag(ridge))
        out.append((inverse @ B[used, -1], inverse))
    return out


def _losses(A: NDArray[np.float64], used: NDArray[np.int64]) -> NDArray[np.float64]:
    """Squared errors of each block by the fit of the others."""
    out = np.zeros(BLOCKS)
    for k, (beta, _) in enumerate(_fits(A, used)):
        out[k] = A[k, -1, -1] - 2.0 * beta @ A[k, used, -1] + beta @ A[k][np.ix_(used, used)] @ beta
    return out


def _sureness(gains: NDArray[np.float64]) -> NDArray[np.float64]:
    """Mean gain over its standard error; the last axis are blocks."""
    spread = gains.std(-1, ddof=1) / np.sqrt(gains.shape[-1])
    return gains.mean(-1) / np.maximum(spread, 1e-12 * np.abs(gains).max() + 1e-300)


def _useless(sample: Sample, rows: _Rows, terms: Sequence[Term]) -> dict[str, str]:
    """Covariates with which unseen blocks are forecast no better, straight, bent or by time, and that no series needs.

    The least useful one goes first: of two that say the same, one stays.
    """
    layout, p, encoded = sample.layout, rows.X.shape[1], sample.layout.encoded
    A = _grams(rows)
    dropped: dict[str, str] = {}
    left = [name for name in layout.known if name != layout.exposure and _may_go(sample, rows, name)]
    used = np.arange(p)
    while left:
        judged: dict[str, float] = {}
        for name in left:
            own = layout.places([name])
            without = np.setdiff1d(used, _linear_of(sample, own))
            less = _losses(A, without)
            ways: list[NDArray[np.int64]] = [np.zeros(0, np.int64)]
            for kinds in ((loader.HINGE,), (loader.WEEKDAY,), (loader.HOUR_SIN, loader.HOUR_COS)):
                more = [p + encoded + j for j, term in enumerate(terms) if term[0] in kinds and term[1] in own]
                ways += [np.array(more, np.int64)] if more else []
            judged[name] = max(_use(less, _losses(A, np.r_[used, more])) for more in ways)
        worst = min(left, key=lambda name: judged[name])
        if judged[worst] >= 1.0:
            break
        left.remove(worst)
        if _useful_alone(rows, A, used, layout.places([worst])):
            continue
        used = np.setdiff1d(used, _linear_of(sample, layout.places([worst])))
        dropped[worst] = f"it forecasts no better in {BLOCKS} spans of time that the fit has not seen"
    return dropped


def _use(less: NDArray[np.float64], more: NDArray[np.float64]) -> float:
    """How useful a covariate is by the misfit of each block without and with it: at least 1 where its gain is more
    than a standard error, or more than LITTLE. A block counts by the share of its own misfit that it gains: in units
    of sales a single one with an outlier would decide. A block with next to no misfit does not decide either.
    """
    gains = (less - more) / np.maximum(less, 0.1 * np.median(less) + 1e-300)
    return max(float(_sureness(gains)), float(gains.mean()) / LITTLE)


def _may_go(sample: Sample, rows: _Rows, name: str) -> bool:
    """Whether a covariate can be judged: it varies in several blocks, and it is not a flag of closed periods."""
    panel, origin = sample.panel, sample.origin
    own = sample.layout.places([name])
    if _blocks_in_which_it_varies(rows, own) < BLOCKS // 2:
        return False
    seen = panel.code[sample.ready, : origin + 1] != loader.MISSING
    zero = (panel.y[sample.ready, : origin + 1] == 0) & seen
    for j in own:
        if not panel.encoding.binary[sample.ready, j].any():
            continue
        on = panel.x[sample.ready, : origin + 1, j] > 0.5
        for flag in (on & seen, ~on & seen):
            if flag.sum() >= 4 and zero[flag].mean() > NEVER_SOLD and zero[seen].mean() < 0.7:
                return False
    return True


def _blocks_in_which_it_varies(rows: _Rows, own: Sequence[int]) -> int:
    """In how many blocks some series has different values: a flag that is on in one cannot be learned in the others."""
    place = rows.series * BLOCKS + rows.block
    varies = np.zeros(BLOCKS, bool)
    for j in own:
        low, high = (np.full(int(place.max()) + 1, bound) for bound in (np.inf, -np.inf))
        np.minimum.at(low, place, rows.Z[:, j])
        np.maximum.at(high, place, rows.Z[:, j])
        varies[np.flatnonzero(high - low > 1e-9) % BLOCKS] = True
    return int(varies.sum())


def _useful_alone(rows: _Rows, A: NDArray[np.float64], used: NDArray[np.int64], own: Sequence[int]) -> bool:
    """Whether each series' own slope, learned from the other blocks, forecasts better in the sum of all series: what
    moves series in opposite ways is nothing on average.
    """
    total = A.sum(0)
    G = total[np.ix_(used, used)]
    beta = np.linalg.solve(G + (1e-8 * np.trace(G) / len(G) + 1e-12) * np.eye(len(G)), total[used, -1])
    rest = (
        rows.r - rows.X @ beta[: rows.X.shape[1]] if len(used) == rows.X.shape[1] else rows.r - rows.X[:, used] @ beta
    )
    count = int(rows.series.max()) + 1
    place = rows.series * BLOCKS + rows.block
    gains = np.zeros(BLOCKS)
    for j in own:
        z = rows.Z[:, j]
        G, g = (np.bincount(place, rows.w * z * v, count * BLOCKS).reshape(count, BLOCKS) for v in (z, rest))
        n = np.bincount(rows.series, minlength=count)[:, None]
        others = G.sum(1, keepdims=True) - G
        slope = (g.sum(1, keepdims=True) - g) / np.maximum(others * (1.0 + 20.0 / np.maximum(n, 1)), 1e-12)
        gains += (2.0 * slope * g - slope**2 * G).sum(0)
    return float(_sureness(gains)) >= USEFUL and float(gains.sum()) > GAIN * float(total[-1, -1])


def _forward(rows: _Rows, used: NDArray[np.int64], count: int) -> list[int]:
    """Places of the terms that are worth it, of the last `count` columns: one at a time, the one that gains most."""
    A = _grams(rows)
    first = A.shape[1] - 1 - count
    chosen: list[int] = []
    for _ in range(loader.TERMS):
        rest = np.array([j for j in range(count) if j not in chosen], int)
        if not len(rest):
            break
        gains = _gains(A, used, first + rest)
        total = _losses(A, used).sum()
        sure, share = _sureness(gains), gains.sum(1) / max(total, 1e-300)
        steady = (sure >= SURE) & (share > GAIN) & ((gains > 0).sum(1) >= BLOCKS - 1)
        # a bend that some spans show more of than others is less steady, and yet no chance where all of them gain
        good = steady | ((sure >= ENOUGH) & (share > 5 * GAIN) & (gains > 0).all(1))
        if not good.any():
            break
        best = int(rest[np.where(good, gains.sum(1), -np.inf).argmax()])
        chosen.append(best)
        used = np.r_[used, first + best]
    return chosen


def _gains(A: NDArray[np.float64], used: NDArray[np.int64], tried: NDArray[np.int64]) -> NDArray[np.float64]:
    """How much smaller each block's squared errors are with one more column, for each one `tried` (tried × blocks)."""
    out, total = np.zeros((len(tried), BLOCKS)), A.sum(0)
    rows = max(float(total[-1, -1]), 1.0)
    for k, (beta, inverse) in enumerate(_fits(A, used)):
        B = total - A[k]
        H = inverse @ B[np.ix_(used, tried)]
        own = np.diag(B)[tried]
        rest = own * (1.0 + STRENGTH / rows) - np.einsum("uj,uj->j", B[np.ix_(used, tried)], H)
        slope = np.where(rest > 1e-4 * own, (B[tried, -1] - B[np.ix_(tried, used)] @ beta) / np.maximum(rest, 1e-12), 0)
        G = A[k][np.ix_(used, used)]
        cross = A[k][np.ix_(used, tried)]
        error = A[k, tried, -1] - cross.T @ beta - H.T @ (A[k, used, -1] - G @ beta)
        square = np.diag(A[k])[tried] - 2.0 * np.einsum("uj,uj->j", H, cross) + np.einsum("uj,uj->j", H, G @ H)
        out[:, k] = 2.0 * slope * error - slope**2 * square
    return out
