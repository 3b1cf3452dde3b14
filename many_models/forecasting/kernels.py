"""The compiled loops: the pack's own functions and the fit of one series over all windows in one pass.

`pack` is mm_pack_v1 once more, with its functions compiled, `pack.explainer` likewise mm_explain_v1; numba caches the
machine code beside the source.
"""

# ruff: noqa: C901, PLR0912 - compiled loops over one series: a call inside costs more than a branch
from __future__ import annotations

import importlib.util
import math
import sys
from typing import TYPE_CHECKING

import numpy as np
import scipy.linalg.cython_blas  # noqa: F401 - else loaded at the first product, out of reach of on_one_thread
from numba import njit
from threadpoolctl import threadpool_limits

from many_models.forecasting.pack import mm_explain_v1, mm_pack_v1

if TYPE_CHECKING:
    from types import ModuleType

_COMPILED = (
    "season_of", "is_structural", "is_closed", "advance", "prefix", "last_year", "fill", "back_to_scale", "forecast",
    "log_mean", "recent_mean", "same_phase", "fill_extra", "recent_level", "fill_beside", "fill_course",
    "fill_plain", "tree_width", "add_trees", "add_networks", "phase_moments", "tested_season", "smoothed_trend",
)  # fmt: skip


# The cache of a loop knows its own file alone: a change of mm_pack_v1.py needs one here and in zeros.py, or the old
# loops run on.
# divisions are guarded where they can fail: numba's own checks of them would double the time to compile
compiled = njit(cache=True, nogil=True, error_model="numpy")
# sums in the order that the machine adds fastest
summed = njit(cache=True, nogil=True, error_model="numpy", fastmath={"reassoc", "contract"})


def _copy_of(module: ModuleType, name: str) -> ModuleType:
    """A second copy of a module under another name, or that copy where there is one."""
    if name in sys.modules:
        return sys.modules[name]
    spec = importlib.util.spec_from_file_location(name, module.__file__)
    assert spec is not None
    assert spec.loader is not None
    copy = importlib.util.module_from_spec(spec)
    sys.modules[name] = copy
    spec.loader.exec_module(copy)
    return copy


def _compiled_twins() -> ModuleType:
    """A second copy of mm_pack_v1 whose loops are compiled, so that one source serves training and any client; its
    `explainer` is such a copy of mm_explain_v1.
    """
    twin = _copy_of(mm_pack_v1, "many_models.forecasting._mm_pack_v1_compiled")
    explainer = _copy_of(mm_explain_v1, "many_models.forecasting.pack._mm_explain_v1_compiled")
    if not hasattr(twin, "explainer"):
        for function in _COMPILED:
            setattr(twin, function, compiled(getattr(twin, function)))
        for function in mm_explain_v1.USED:
            setattr(explainer, function, getattr(twin, function))
        for function in mm_explain_v1.LOOPS:
            setattr(explainer, function, compiled(getattr(explainer, function)))
        vars(twin)["explainer"] = explainer
    return twin


pack = _compiled_twins()
_advance, _prefix, _last_year = pack.advance, pack.prefix, pack.last_year
_fill, _back_to_scale = pack.fill, pack.back_to_scale
_forecast, _is_structural = pack.forecast, pack.is_structural
pack_log_mean, pack_recent_mean = pack.log_mean, pack.recent_mean
pack_same_phase, pack_fill_extra = pack.same_phase, pack.fill_extra
_recent_level, _fill_beside = pack.recent_level, pack.fill_beside
_fill_course, _tree_width = pack.fill_course, pack.tree_width
OBSERVED = mm_pack_v1.OBSERVED
RAW, LOG, COUNT = mm_pack_v1.RAW, mm_pack_v1.LOG, mm_pack_v1.COUNT
OVERDISPERSION = 0.08
NOT_FITTED, FITTED, FAILED = 0, 1, 2
LOUD = 25.0  # mean square of a series' values, in units, beyond which it counts no more among all series
STILL = 0.01  # mean move of a linear predictor below which a fit of counts has converged
UNIT, LOG_UNIT, NONNEGATIVE = mm_pack_v1.UNIT, mm_pack_v1.LOG_UNIT, mm_pack_v1.NONNEGATIVE
LOW, HIGH = mm_pack_v1.LOW, mm_pack_v1.HIGH


def on_one_thread() -> threadpool_limits:
    """While it lasts, products run on one thread: with more a sum depends on how many, and small ones take longer."""
    return threadpool_limits(1)


@compiled
def _copy(source, target):
    """`target` = `source`, as a loop: numba takes two seconds to compile an assignment between arrays."""
    for i in range(source.size):
        target[i] = source[i]


@summed
def _product(x, beta):
    """Σ x beta."""
    s = 0.0
    for j in range(beta.size):
        s += x[j] * beta[j]
    return s


@compiled
def solve(G, g, prior, strength, n, beta):
    """`beta` = argmin of the quadratic (G, g) plus a belief in `prior`; False if singular.

    The belief in each coefficient is worth `strength` (features) observations; `n` is the number of observations in G.
    Cholesky of G + D with D = strength × mean square of each feature.
    """
    p = g.size
    A = np.empty((p, p))
    r = np.empty(p)
    for i in range(p):
        s = g[i]
        for j in range(p):
            A[i, j] = G[i, j]
            s -= G[i, j] * prior[j]
        r[i] = s
        A[i, i] += strength[i] * G[i, i] / max(n, 1e-9) + 1e-6 * G[i, i] + 1e-6
    for i in range(p):
        for j in range(i + 1):
            s = A[i, j]
            for q in range(j):
                s -= A[i, q] * A[j, q]
            if i == j:
                if not s > 0.0:
                    return False
                A[i, i] = math.sqrt(s)
            else:
                A[i, j] = s / A[j, j]
    for i in range(p):
        s = r[i]
        for q in range(i):
            s -= A[i, q] * r[q]
        r[i] = s / A[i, i]
    for i in range(p - 1, -1, -1):
        s = r[i]
        for q in range(i + 1, p):
            s -= A[q, i] * r[q]
        r[i] = s / A[i, i]
    for i in range(p):
        beta[i] = prior[i] + r[i]
        if not math.isfinite(beta[i]):
            return False
    return True


@compiled
def _warm(conf):
    """Periods of a series that only warm up its state."""
    return min(int(conf[mm_pack_v1.SEASON]), 14 if conf[mm_pack_v1.SEASON] != 12.0 else 6)


@compiled
def _top(own):
    """The largest linear predictor of a count: twice what the series may sell, as a log of its unit."""
    return math.log(max(own[HIGH] / own[UNIT], 1e-6)) + 0.7


@compiled
def _add_gram(X, w, v, a, b, XW, G, g):
    """G += X'wX and g += X'wv over the rows [a, b)."""
    if b <= a:
        return
    p = X.shape[1]
    for t in range(a, b):
        wt = w[t]
        for j in range(p):
            XW[t, j] = X[t, j] * wt
    A = np.dot(XW[a:b].T, X[a:b])
    c = np.dot(XW[a:b].T, v[a:b])
    for i in range(p):
        g[i] += c[i]
        for j in range(p):
            G[i, j] += A[i, j]


@compiled
def _smear(X, off, y, w, a, b, beta, way, own):
    """Σ y / Σ forecast over the rows [a, b), shrunk towards 1 by ten rows."""
    sy = 0.0
    sf = 0.0
    n = 0.0
    cap = own[HIGH]
    for t in range(a, b):
        if w[t] > 0.0:
            e = _product(X[t], beta) + (off[t] if way == COUNT else 0.0)
            sy += y[t]
            sf += min(max(_back_to_scale(e, way, 1.0, own), own[LOW]), cap)
            n += 1.0
    if n == 0.0 or sf <= 0.0 or sy <= 0.0:
        return 1.0
    extra = 10.0 * sy / n
    return min(max((sy + extra) / (sf + extra), 0.25), 4.0)


@compiled
def bounds(y, code, a, b, own):
    """What a forecast may be: what the series has done up to `b`, and as much again."""
    low = math.inf
    high = -math.inf
    for t in range(a, b):
        if code[t] == OBSERVED:
            low = min(low, y[t])
            high = max(high, y[t])
    if high < low:
        low, high = 0.0, 0.0
    spread = high - min(low, 0.0)
    own[HIGH] = high + spread
    own[LOW] = 0.0 if own[NONNEGATIVE] != 0.0 else min(low, 0.0) - 0.5 * spread


@compiled
def _misfits(X, off, y, w0, a, b, beta, own, eta, mu):
    """Minus the weighted log-likelihood of the rows [a, b) at `beta`, in nats, up to a constant; writes their linear
    predictors `eta`, kept where an exponential stays finite, and their means `mu` in units.

    Negative binomial with variance μ + OVERDISPERSION μ². Written so that neither tiny nor huge units lose digits.
    """
    share = OVERDISPERSION * own[UNIT]
    total = 0.0
    for t in range(a, b):
        if w0[t] > 0.0:
            eta[t] = min(max(off[t] + _product(X[t], beta), -20.0), 30.0)
            mu[t] = math.exp(eta[t])
            size = share * mu[t]
            missed = OVERDISPERSION * y[t] * math.log1p(1.0 / size) if y[t] > 0.0 else 0.0
            total += w0[t] * (missed + math.log1p(size)) / OVERDISPERSION
    return total


@compiled
def _penalty(beta, prior, strength, G, n, own):
    """What `beta` costs by the belief in `prior` that `solve` adds to the Gram matrix G of `n` observations."""
    cost = 0.0
    for j in range(beta.size):
        worth = strength[j] * G[j, j] / max(n, 1e-9) + 1e-6 * G[j, j] + 1e-6
        cost += 0.5 * own[UNIT] * worth * (beta[j] - prior[j]) ** 2
    return cost


@compiled
def _irls(X, off, y, w0, a, b, beta, prior, strength, cold, own, XW, w, v, eta, trial, mu):
    """Quasi-Poisson by iteratively reweighted least squares over the rows [a, b); False when it does not converge.

    Variance μ + 0.08 μ² (a usual overdispersion of retail counts); log link, offset `off`. A `cold` start takes the
    first mean halfway between each value and its offset, from where Newton's steps do not overshoot. A step that does
    not improve the penalised likelihood is halved until it does. The fit has converged when a step moves the
    forecasts by no more than STILL on average; `eta`, `trial` and `mu` have room for two predictors and a mean a row.
    """
    p = beta.size
    share = OVERDISPERSION * own[UNIT]
    new, G, g = np.empty(p), np.empty((p, p)), np.empty(p)
    moved, n = 0.0, 0.0
    for t in range(a, b):
        n += w0[t]
    told = _misfits(X, off, y, w0, a, b, beta, own, eta, mu)
    for r in range(12 if cold else 4):
        G[:] = 0.0
        g[:] = 0.0
        for t in range(a, b):
            w[t] = 0.0
            v[t] = 0.0
            if w0[t] > 0.0:
                e = eta[t]
                m = mu[t]
                z = max(y[t], 0.0) / own[UNIT]
                if cold and r == 0:
                    m = 0.5 * z + 0.5 * math.exp(off[t])
                    e = math.log(m)
                w[t] = w0[t] * m / (1.0 + share * m)
                v[t] = e - off[t] + (z - m) / m
        _add_gram(X, w, v, a, b, XW, G, g)
        if not solve(G, g, prior, strength, n, new):
            return False
        before = told + _penalty(beta, prior, strength, G, n, own)
        moved = -1.0
        for _half in range(8):
            now = _misfits(X, off, y, w0, a, b, new, own, trial, mu)
            change = 0.0
            for t in range(a, b):
                if w0[t] > 0.0:
                    change += w0[t] * abs(trial[t] - eta[t])
            if now + _penalty(new, prior, strength, G, n, own) <= before + 1e-9 * abs(before):
                moved = change / max(n, 1e-9)
                told = now
                break
            for j in range(p):
                new[j] = 0.5 * (new[j] + beta[j])
        if moved < 0.0:  # no step improves it: at its best already, or a cold start that led nowhere
            if cold and r == 0:
                told = _misfits(X, off, y, w0, a, b, beta, own, eta, mu)
                continue
            return True
        _copy(new, beta)
        for t in range(a, b):
            eta[t] = trial[t]
        if moved <= STILL:
            return True
    return moved <= 10.0 * STILL


def room(T, p, origins, state):
    """Arrays for `features` of `T` periods, `p` linear features, a number of `origins` and the size of a `state`:
    running sums P, features X (3 × T × p), weights w and wl, targets z (2 × T), states and offsets. numpy makes them,
    because zeros that a compiled loop makes cost as much as half the loop.
    """
    X, w, wl, z = np.zeros((3, T, p), np.float32), *np.zeros((2, T), np.float32), np.zeros((2, T), np.float32)
    return np.zeros((T + 1, 3)), X, w, wl, z, np.zeros((origins, state)), np.zeros(T)


@compiled
def features(y, code, ph, hol, C, x, binary, steps, first, origins, conf, own, decay, S, P, X, w, wl, z, states, off):
    """One pass over a series' time up to the last of the `origins`, what its fits need, into `room`: running sums P,
    linear features X of every target, weights w and wl (on the log scale: without the zeros that are none of its
    level), targets z (raw and log), the state after each origin (`S` after the last), offsets of the count scale.

    The row of a target is at the target's place, `steps` periods after the state it is seen from; its weight is
    0 where the target is not observed or comes too early.
    """
    H = int(conf[mm_pack_v1.HORIZON])
    T = origins[origins.size - 1] + 1
    p = X.shape[2]
    warm = _warm(conf)
    ly, xs = np.zeros(3), np.empty(p)
    S[:] = 0.0
    _prefix(y[:T], code[:T], own, P)
    f = 0
    for o in range(first, T):
        _advance(S, y[o], code[o], ph[o], hol[o], x[o], binary, conf, own)
        if o - first >= warm:
            for h in range(1, H + 1):
                t = o + h
                if t < T and steps[t] == h and code[t] == OBSERVED:
                    _last_year(P, o, t, conf, own, ly)
                    for way in range(3):
                        _fill(xs, S, way, ph[t], h, C[t], x[t], ly, conf, own)
                        for j in range(p):
                            X[way, t, j] = xs[j]
                    w[t] = math.exp((t - T) / decay)
                    wl[t] = 0.0 if y[t] == 0.0 and _is_structural(S, ph[t], conf, own) else w[t]
                    off[t] = pack_log_mean(S)
                    z[0, t] = y[t] / own[UNIT]
                    z[1, t] = math.log1p(max(y[t], 0.0) / own[LOG_UNIT])
        if o == origins[f]:
            _copy(S, states[f])
            f += 1


@compiled
def change_shape(code, x, shape, steps, first, origins, conf, own, X, w, states):
    """Put another `shape` of the calendar into the last covariate column: of `x`, of features `X` and of `states`."""
    T = X.shape[1]
    m = int(conf[mm_pack_v1.SEASON])
    k = int(conf[mm_pack_v1.COVARIATES])
    at = 2 * (4 + m) + 1 + (m + 3) + 2 + m + k - 1
    nc = int(conf[mm_pack_v1.CALENDAR])
    c = nc + mm_pack_v1.DYNAMIC + 3 * (k - 1)
    tau = conf[mm_pack_v1.TAU + 2]
    usual = np.zeros(T)
    n, level, f = 0.0, 0.0, 0
    for t in range(x.shape[0]):
        x[t, k - 1] = shape[t]
    for o in range(first, T):
        level += (1.0 / tau if n > tau else 1.0 / (n + 1.0)) * (shape[o] - level)
        usual[o] = level
        if code[o] != mm_pack_v1.MISSING and code[o] != mm_pack_v1.STOCK_OUT and code[o] != mm_pack_v1.CLOSED:
            n += 1.0
        if o == origins[f]:
            states[f, at] = level
            f += 1
    for t in range(first, T):
        if w[t] > 0.0:
            h = steps[t]
            for way in range(3):
                size = X[RAW, t, nc + 4] if way == RAW and own[mm_pack_v1.ADDITIVE] == 0.0 else 1.0
                X[way, t, c] = shape[t] * size
                X[way, t, c + 1] = (shape[t] - usual[t - h]) * size
                ahead = min(h / conf[mm_pack_v1.HORIZON], 1.0) * size
                if way == LOG:
                    ahead = X[LOG, t, nc + 4] + X[LOG, t, nc + 3] - 0.7
                X[way, t, c + 2] = shape[t] * ahead


@compiled
def sums_of_shape(X, w, wl, z, first, done, decay, G, g):
    """Make sums `G` and `g` of `fit_series`, up to before the place `done`, those of the shape that was changed since,
    aged to the end of X: only what has to do with the shape is added up anew.
    """
    p = X.shape[2]
    at = p - 3
    aged = math.exp((done - X.shape[1]) / decay)
    few = np.empty((done - first, 3), np.float32)
    for way in range(2):
        for t in range(first, done):
            for j in range(3):
                few[t - first, j] = X[way, t, at + j] * (w[t] if way == RAW else wl[t])
        A = np.dot(X[way, first:done].T, few)
        c = np.dot(few.T, z[way, first:done])
        for i in range(p):
            g[way, i] = c[i - at] if i >= at else g[way, i] * aged
            for j in range(p):
                G[way, i, j] = A[i, j - at] if j >= at else A[j, i - at] if i >= at else G[way, i, j] * aged


@compiled
def fit_series(
    y, code, ph, hol, C, x, binary, first, origins, conf, own, decay, P, X, w_all, wl_all, z, states, off,
    XW, G, g, done, prior, strength, recent, pooled, static, boosted, root, feature, threshold, left, right, value,
    usual, first_layer, second_layer, ends, F, B, smear, state,
):  # fmt: skip
    """One series: all fits and forecasts at every origin, from what `features` gave; `XW` (time × features) is room.

    `origins` (ascending places of the last period known; the last one is the final fit) with their `states`, `prior`
    (3 × features) what is believed of coefficients with `strength` (3 × features) observations, `recent` how many
    places the Poisson fit looks back, `pooled` coefficients, trees and networks learned elsewhere, `static` what trees
    see of the series itself. `G` and `g` (RAW and LOG) hold sums up to before the place `done`, B what was fitted by
    then, or NaN.
    Writes F (origins × candidates × horizon), `state` (origins × 3: FITTED, NOT_FITTED where there is too little,
    FAILED where the fit did not converge), and of the last origin B (4 × features) and smear (3).
    """
    H = F.shape[2]
    p = B.shape[1]
    T = origins[origins.size - 1] + 1
    w, wl = np.zeros(T, np.float32), np.zeros(T, np.float32)
    ww, v = np.zeros(T, np.float32), np.zeros(T, np.float32)
    eta, trial, mu = np.zeros(T), np.zeros(T), np.zeros(T)
    newer = math.exp((w_all.size - T) / decay)  # an observation counts by its age at the last origin
    for t in range(first, T):
        w[t] = w_all[t] * newer
        wl[t] = wl_all[t] * newer
    wide = _tree_width(p, int(conf[mm_pack_v1.COVARIATES]), static.size)
    rows = np.zeros((H, wide))
    for h in range(H):
        _copy(static, rows[h, wide - static.size - mm_pack_v1.COURSE : wide - mm_pack_v1.COURSE])
    nc = int(conf[mm_pack_v1.CALENDAR])
    beta = np.empty(p)
    warmer = B[COUNT].copy()
    glm = not math.isnan(warmer[0])
    _copy(pooled, B[3])
    for f in range(origins.size):
        o = origins[f]
        bounds(y, code, first, o + 1, own)
        n = 0
        for t in range(first, o + 1):
            if w[t] > 0.0:
                n += 1
        for way in range(3):
            B[way, :] = math.nan
            smear[way] = 1.0
            state[f, way] = NOT_FITTED
        for way in range(2):
            _add_gram(X[way], w if way == RAW else wl, z[way], done, o + 1, XW, G[way], g[way])
        done = o + 1
        if n >= 8:
            for way in range(2):
                state[f, way] = FAILED
                if solve(G[way], g[way], prior[way], strength[way], G[way, nc, nc], beta):
                    _copy(beta, B[way])
                    state[f, way] = FITTED
            back = max(first, o + 1 - recent)
            if P[o + 1, 0] > 0.0:
                for cold in range(0 if glm else 1, 2):  # also where a warm start led nowhere
                    _copy(prior[COUNT] if cold else warmer, beta)
                    glm = _irls(
                        X[COUNT], off, y, w, back, o + 1, beta, prior[COUNT], strength[COUNT], cold == 1, own,
                        XW, ww, v, eta, trial, mu,
                    )  # fmt: skip
                    if glm:
                        break
                state[f, COUNT] = FITTED if glm else FAILED
                if glm:
                    _copy(beta, warmer)
                    _copy(beta, B[COUNT])
            for way in range(LOG, COUNT + 1):
                if not math.isnan(B[way, 0]):
                    smear[way] = _smear(X[way], off, y, w, back, o + 1, B[way], way, own)
        _forecast(
            states[f], y, code, P, o, ph, hol, C, x, binary, B, smear, conf, own, H, F[f], rows, boosted,
            root, feature, threshold, left, right, value, usual, first_layer, second_layer, ends,
        )  # fmt: skip


@compiled
def pooled_moments(X, w, wl, z, first, XW, G, g):
    """Add one series' Gram matrices and products of the RAW and LOG features, which `features` gave, to `G` and `g`.

    The squares of a series count at most as those of one whose values are LOUD times its mean.
    """
    T = w.size
    ww = np.zeros(T, np.float32)
    size, n = 0.0, 0.0
    for t in range(first, T):
        size += w[t] * z[RAW, t] * z[RAW, t]
        n += w[t]
    quiet = min(1.0, LOUD * n / max(size, 1e-30))
    for way in range(2):
        for t in range(first, T):
            ww[t] = w[t] * quiet if way == RAW else wl[t]
        _add_gram(X[way], ww, z[way], first, T, XW, G[way], g[way])


@compiled
def pooled_counts(X, w, off, y, first, own, XW, beta, cold, G, g, misfit, together):
    """Add one series' Gram matrix and products of an IRLS step of counts at `beta` to `G` and `g`, from the COUNT
    features X, weights and offsets that `features` gave.

    `misfit` (2) gets the misfit at `beta` and the weight of its rows. `together` (3 + 2 × features, time) gets what
    says how much of a period all series share: sums by period of rows, residuals and their squares, and when `cold`
    each feature and its square (else 3 rows are enough).
    """
    T = w.size
    p = beta.size
    ww, v = np.zeros(T, np.float32), np.zeros(T, np.float32)
    eta, mean = np.zeros(T), np.zeros(T)
    share = OVERDISPERSION * own[UNIT]
    misfit[0] += _misfits(X, off, y, w, first, T, beta, own, eta, mean)
    for t in range(first, T):
        ww[t] = 0.0
        if w[t] > 0.0:
            e = eta[t]
            count = max(y[t], 0.0) / own[UNIT]
            mu = mean[t]
            misfit[1] += w[t]
            information = own[UNIT] * mu / (1.0 + share * mu)
            residual = min((count - mu) / mu * math.sqrt(information), 10.0)
            together[0, t] += 1.0
            together[1, t] += residual
            together[2, t] += residual * residual
            if cold:
                for j in range(p):
                    together[3 + j, t] += X[t, j]
                    together[3 + p + j, t] += X[t, j] * X[t, j]
                e = math.log(0.5 * count + 0.5 * math.exp(off[t]))
                mu = math.exp(e)
            ww[t] = w[t] * own[UNIT] * mu / (1.0 + share * mu)
            v[t] = e - off[t] + (count - mu) / mu
    _add_gram(X, ww, v, first, T, XW, G, g)


@compiled
def pooled_rows(
    y, code, ph, hol, C, x, binary, steps, first, origin, conf, own, decay, S, beta,
    static, rows, target, offset, level, weight, keep,
):  # fmt: skip
    """Write a row of tree features for each target of one series where `keep`, up to `origin`; returns their number.

    `rows`, `target` (y), `offset` (linear predictor at `beta` plus log unit), `level` (the recent one) and `weight`.
    """
    T = origin + 1
    p = beta.size
    H = int(conf[mm_pack_v1.HORIZON])
    warm = _warm(conf)
    P = np.zeros((T + 1, 3))
    _prefix(y[:T], code[:T], own, P)
    bounds(y, code, first, T, own)
    top = _top(own)
    ly, two, row = np.zeros(3), np.zeros(2), np.empty(rows.shape[1])
    linear = row[:p]
    beside = p + mm_pack_v1.EXTRA + int(conf[mm_pack_v1.COVARIATES])
    _copy(static, row[row.size - static.size - mm_pack_v1.COURSE : row.size - mm_pack_v1.COURSE])
    n = 0
    S[:] = 0.0
    for o in range(first, T):
        _advance(S, y[o], code[o], ph[o], hol[o], x[o], binary, conf, own)
        if o - first < warm:
            continue
        for h in range(1, H + 1):
            t = o + h
            if t < T and steps[t] == h and keep[t] != 0 and code[t] == OBSERVED:
                _last_year(P, o, t, conf, own, ly)
                _fill(linear, S, COUNT, ph[t], h, C[t], x[t], ly, conf, own)
                log_mean = pack_log_mean(S)
                e = log_mean
                for j in range(p):
                    row[j] = np.float32(row[j])
                    e += row[j] * beta[j]
                mean = pack_recent_mean(y, code, o, conf)
                pack_same_phase(y, code, o, t, mean, conf, two)
                recent = _recent_level(row, S, int(conf[mm_pack_v1.CALENDAR]))
                pack_fill_extra(row, p, S, ph[t], hol[t], h, mean, two[1], beta, conf, own)
                _fill_beside(row, beside, recent, mean, two[1], x[t], x[t - 1], conf, own)
                _fill_course(row, P, y, code, o, t, mean, recent, conf, own)
                for j in range(row.size):
                    rows[n, j] = row[j]
                e = min(max(e, log_mean - 6.0), top)
                target[n] = max(y[t], 0.0)
                offset[n] = e + math.log(own[UNIT])
                level[n] = min(recent, top) + math.log(own[UNIT])
                weight[n] = math.exp((t - T) / decay) / (1.0 + 0.08 * math.exp(e) * own[UNIT])
                n += 1
    return n
