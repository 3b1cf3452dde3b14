"""Loader of a pack of forecasting models, format 1: numpy only, travels inside the pack.

The functions up to `forecast` are plain loops over one series: the package compiles them, a client that has only this
file runs them as they are. `conf` is a float64 vector whose places are named below, `own` one of a series.

It is one long file on purpose. A copy of it is stored in every pack, and MLflow loads a pack by this module's name, so
a client needs one file, one hash covers it, and packs of different ages can be open in one process. It has four parts:
the loops, time, `Pack`, and what MLflow calls.
"""

# ruff: noqa: C901, PLR0912, PLR0915, PLR1714, SIM109, B905, PLR0124 - loops that numba compiles; NaN is not itself
from __future__ import annotations

import hashlib
import json
import math
import pathlib
import sys

import numpy as np

FORMAT = 1
LOADER = "mm_pack_v1"
SKOPS_LOADER = "mm_sklearn_v1"
EXPLAINER = "mm_explain_v1"
BEFORE = "mm_before_v1"

# Places in `conf`: what a frequency and a spec fix.
TAU, ALPHA, GAIN_SEASON, GAIN_ODDS, GAIN_SIZE = 0, 4, 7, 8, 9
HALF, REFERENCE, HORIZON, SEASON, YEAR, WINDOW, SEASONS, CALENDAR, COVARIATES, SLOTS, TAIL = range(10, 21)
CONF_SIZE = 21
# Places in `own`: what the first history of a series fixes.
# Two are 0 in older packs. ZEROS: 1 where zeros of a series that hardly ever sells nothing are kept apart on the log
# scale. TESTED: 1 where smoothing has a season only as far as it is no chance.
UNIT, LOG_UNIT, ADDITIVE, LOW, HIGH, NONNEGATIVE, ZEROS, TESTED = range(8)
OWN_SIZE, LEAST_OWN_SIZE = 8, 6
# Ways to look at a series, in the order of the rows of coefficients.
RAW, LOG, COUNT = 0, 1, 2
DYNAMIC = 10
CANDIDATES = tuple(
    "seasonal_naive mean seasonal_mean smoothing_slow smoothing_medium smoothing_fast tsb croston ridge_raw ridge_log "
    "poisson pooled trees boosted smoothing_trend autoregression network".split()
)
BEFORE_BOOSTED, BEFORE_TREND, BEFORE_LAGS, BEFORE_NETWORK = 13, 14, 15, 16  # how many there were before each of these
FALLBACK_CANDIDATE = 4  # the candidate that is repeated where another has no forecast
LEARNED_TOGETHER = ("pooled", "trees", "boosted", "autoregression", "network")  # those that need what others learned
GAINS = (0.05, 0.1, 0.2, 0.35, 0.5, 0.75)  # of the smoothing with a trend, which takes those most that erred least:
SHARPNESS = 4.0  # its weights are their squared errors to this power
BY_CHANCE = 2.0  # how often what chance makes of phases is taken from what they differ by
SURE = 1.5  # how often what chance makes of phases they must differ by, and 1 more, until a season counts fully
TINY_FACTOR = 0.2  # of a season: divided by it, a few units more or less look like another level
EXTRA = 9  # features that only trees use, and one more a covariate column
BESIDE = 3  # features after these, and one more a covariate column: what surrounds the target; then come static ones
NEWEST, SAME_PHASE = 8, 3  # the newest values and the last ones of a phase, which only the second boosted trees see:
COURSE = NEWEST + SAME_PHASE + 6  # the last features, with means of six spans
FURTHEST = 3.0  # how many of its levels a value is from the level at most, as the autoregression sees it
NETWORKS, WIDE, NARROW = 4, 32, 16  # networks that the last candidate is the mean of, and neurons of their two layers
LAYERS = WIDE + (WIDE + 2) * NARROW + 1  # numbers of a network behind the weights of its features
UNUSUAL = 4.0  # deviations from what is usual that a feature has at most, as networks see it; UNKNOWN is none
UNKNOWN = 1e29
LEAST_ROWS = 8  # rows that are multiplied at once at least: fewer would be added up in another order
PLAIN = 6  # what users' regressors see besides the linear features: phase, step, age, recent mean, phase's, holiday
MISSING, OBSERVED, CLOSED, STOCK_OUT = 0, 1, 2, 3
GAPS = {"z": OBSERVED, "c": CLOSED}  # letters of index["missing"]: a period without a row is a zero, or a closed one
UNKNOWN_GAPS = "u" * 7  # and nothing is known of it, from Monday to Sunday
FAR = 10**9  # a step number beyond all dates: open spans without a beginning or an end have it
CLOSED_DAY = 1000  # added to the holiday slot of a day (-1 for none) on which this series is closed each year
CLOSED_DAYS = 32  # places for them in a pack, as days since 1970; EMPTY marks an empty one
EMPTY = -(2**31)
# Kinds of terms, columns made of encoded covariate columns: what column a exceeds a knot by, whether it does, the
# product of columns a and b, column a on weekday b, column a times a wave of b periods a day.
HINGE, ABOVE, PRODUCT, WEEKDAY, HOUR_SIN, HOUR_COS = range(6)
TERMS = 6  # places for them in a pack with known covariates; a kind below zero marks an empty one


def state_size(m: int, k: int, slots: int) -> int:
    """Length of the state of a series with season `m`, `k` covariate columns and `slots` holidays."""
    return 2 * (4 + m) + 1 + (m + 3) + 2 + m + k + 4 * k + 2 * slots + 4


def width(nc: int, k: int) -> int:
    """Number of linear features with `nc` calendar columns and `k` covariate columns."""
    return nc + DYNAMIC + 3 * k


def tree_width(p, k, static):
    """Number of features that trees see: `p` linear ones, those of `k` covariate columns, `static` ones, the course."""
    return p + EXTRA + BESIDE + 2 * k + static + COURSE


def season_of(S, ph, own, m, trust):
    """The seasonal factor (deviation, with negatives) of a phase, shrunk by `trust` and while seasons are few."""
    es = 2 * (4 + m) + 1
    n = S[S.size - 1]
    none = 0.0 if own[ADDITIVE] != 0.0 else 1.0
    if m < 2 or n < 2.0 * m:
        return none
    mean = 0.0
    for i in range(m):
        mean += S[es + i]
    mean /= m
    trust /= 1.0 + 2.0 / (n / m + 1.0)
    if own[ADDITIVE] != 0.0:
        return trust * (S[es + ph] - mean)
    return none if mean <= 0.0 else max(1.0 + trust * (S[es + ph] / mean - 1.0), 0.0)


def is_structural(S, ph, conf, own):
    """Whether a zero would say nothing of the level: the series sells most of the time, and much in such a phase.

    On the log scale such a zero is as far away as nothing else: a closed day that no column announces would be the
    whole fit. It is left out there, and the smearing factor, which sees all periods, keeps the mean right.
    """
    if own[ZEROS] == 0.0 or own[ADDITIVE] != 0.0 or S[S.size - 1] < 14.0:
        return False
    m = int(conf[SEASON])
    return S[2 * (4 + m)] > 0.5 and S[2 * (4 + m) + 1 + ph] * own[UNIT] > 9.0 * own[LOG_UNIT]


def is_closed(S, ph, hol, x, binary, conf):
    """Whether all that was seen says that nothing is sold in such a period: same phase, holiday or flag always zero."""
    if hol >= CLOSED_DAY - 1:
        return True
    m = int(conf[SEASON])
    k = int(conf[COVARIATES])
    nz = S[2 * (4 + m)]
    if nz < 0.3:
        return False
    surprise = -math.log(1.0 - nz + 1e-3)
    zc = 2 * (4 + m) + 1 + m + 3 + 2
    if (1 < m <= 31 or m == 168) and S[zc + ph] >= 4.0 and S[zc + ph] * surprise > 9.2:
        return True
    cnt = zc + m + k
    for j in range(k):
        if binary[j] != 0:
            c = cnt + 4 * j + (2 if x[j] > 0.5 else 0)
            if S[c] >= 4.0 and S[c + 1] <= 0.01 * S[c] and S[c] * surprise > 9.2:
                return True
    if hol >= 0:
        c = cnt + 4 * k + 2 * hol
        if S[c] >= 2.0 and S[c + 1] == 0.0 and S[c] * surprise > 5.0:
            return True
    return False


def advance(S, y, code, ph, hol, x, binary, conf, own):
    """Move the state `S` over one period: value `y` with its `code`, phase, holiday slot and covariates."""
    if hol >= CLOSED_DAY - 1:
        hol -= CLOSED_DAY
    m = int(conf[SEASON])
    k = int(conf[COVARIATES])
    i_nz = 2 * (4 + m)
    es = i_nz + 1
    tsb = es + m + 3
    zc = tsb + 2
    cov = zc + m
    cnt = cov + k
    last = S.size - 1
    n = S[last]
    for j in range(k):
        S[cov + j] += (1.0 / conf[TAU + 2] if n > conf[TAU + 2] else 1.0 / (n + 1.0)) * (x[j] - S[cov + j])
    if code == MISSING or code == STOCK_OUT:
        return
    zero = y == 0.0
    S[zc + ph] = S[zc + ph] + 1.0 if zero else 0.0
    for j in range(k):
        if binary[j] != 0:
            c = cnt + 4 * j + (2 if x[j] > 0.5 else 0)
            S[c] += 1.0
            if not zero:
                S[c + 1] += 1.0
    if hol >= 0:
        c = cnt + 4 * k + 2 * hol
        S[c] += 1.0
        if not zero:
            S[c + 1] += 1.0
    if code == CLOSED:
        return
    gw = max(conf[GAIN_SEASON], 1.0 / (n // m + 2.0))
    for s in range(2):
        if s == LOG and zero and is_structural(S, ph, conf, own):
            continue
        b = s * (4 + m)
        z = y / own[UNIT] if s == 0 else math.log1p(max(y, 0.0) / own[LOG_UNIT])
        r = z - S[b + 4 + ph]
        if n >= 1.0 and m > 1:
            S[b + 4 + ph] += gw * (z - S[b + 1] - S[b + 4 + ph])
        for i in range(4):
            S[b + i] += max(1.0 / conf[TAU + i], 1.0 / (n + 1.0)) * (r - S[b + i])
    S[i_nz] += max(1.0 / conf[TAU + 2], 1.0 / (n + 1.0)) * ((0.0 if zero else 1.0) - S[i_nz])
    v = y / own[UNIT]
    w = season_of(S, ph, own, m, 1.0)
    for j in range(3):
        a = max(conf[ALPHA + j], 1.0 / (n + 1.0))
        if own[ADDITIVE] != 0.0:
            S[es + m + j] += a * (v - w - S[es + m + j])
        else:
            S[es + m + j] = max(S[es + m + j] + a * (v - S[es + m + j] * w), 0.0)
    if n == 0.0:
        for i in range(m):
            S[es + i] = v
    S[es + ph] += max(conf[GAIN_SEASON], 1.0 / (n // m + 1.0)) * (v - S[es + ph])
    g = max(conf[GAIN_ODDS], 1.0 / (n + 1.0))
    S[last - 3] += 1.0
    if zero:
        S[tsb] -= g * S[tsb]
    else:
        S[tsb] += g * (1.0 - S[tsb])
        S[last - 2] += (1.0 if S[last - 2] == 0.0 else conf[GAIN_SIZE]) * (S[last - 3] - S[last - 2])
        S[last - 3] = 0.0
        S[tsb + 1] += (1.0 if S[tsb + 1] == 0.0 else conf[GAIN_SIZE]) * (v - S[tsb + 1])
    S[last - 1] += (y / own[UNIT] - S[last - 1]) / (n + 1.0)
    S[last] = n + 1.0


def prefix(y, code, own, P):
    """Running sums over a history: `P[:, 0]` of y / unit, `P[:, 1]` of the log scale, `P[:, 2]` of what is there."""
    for k in range(3):
        P[0, k] = 0.0
    for t in range(y.size):
        P[t + 1, 0] = P[t, 0]
        P[t + 1, 1] = P[t, 1]
        P[t + 1, 2] = P[t, 2]
        if code[t] == OBSERVED:
            P[t + 1, 0] += y[t] / own[UNIT]
            P[t + 1, 1] += math.log1p(max(y[t], 0.0) / own[LOG_UNIT])
            P[t + 1, 2] += 1.0


def last_year(P, o, t, conf, own, out):
    """How the series moved a year ago between the periods that stand for `o` and `t`: raw, log, log of means."""
    out[0] = 0.0
    out[1] = 0.0
    out[2] = 0.0
    year = int(conf[YEAR])
    half = int(conf[HALF])
    ref = int(conf[REFERENCE])
    back = year
    while t - back + half > o:
        back += year
    a, b = t - back - half, t - back + half + 1
    ra, rb = o - back - ref + 1, o - back + 1
    if ra < 0:
        return
    n = P[b, 2] - P[a, 2]
    rn = P[rb, 2] - P[ra, 2]
    if n < 0.5 * (b - a) or rn < 0.5 * ref:
        return
    u = (P[b, 0] - P[a, 0]) / n
    v = (P[rb, 0] - P[ra, 0]) / rn
    out[0] = u - v
    if own[ZEROS] != 0.0:  # of means: one closed day in seven is no tenth of the level
        scale = own[UNIT] / own[LOG_UNIT]
        out[1] = math.log1p(max(u, 0.0) * scale) - math.log1p(max(v, 0.0) * scale)
    else:
        out[1] = (P[b, 1] - P[a, 1]) / n - (P[rb, 1] - P[ra, 1]) / rn
    out[2] = min(max(math.log(max(u, 0.0) + 0.1) - math.log(max(v, 0.0) + 0.1), -2.0), 2.0)


def log_mean(S):
    """Log of the mean of all that was seen, in units; where a count of levels starts from."""
    return math.log(max(S[S.size - 2], 0.0) + 0.2 / (S[S.size - 1] + 1.0) + 1e-6)


def fill(X, S, way, ph, h, calendar, x, ly, conf, own):
    """The linear features of a target `h` steps after the state `S`, written to `X`: calendar, dynamics, covariates.

    RAW features all scale with the series' own levels, COUNT features are relative to its mean so far (`log_mean`), so
    that no unit that was learned later can leak in, and coefficients mean the same for every series.
    """
    m = int(conf[SEASON])
    nc = int(conf[CALENDAR])
    k = int(conf[COVARIATES])
    b = (4 + m) if way == LOG else 0
    l0, l1, l2, l3, w = S[b], S[b + 1], S[b + 2], S[b + 3], S[b + 4 + ph]
    one, size = 1.0, 1.0
    if way == RAW and own[ADDITIVE] == 0.0:
        one = S[S.size - 2]
        size = l3
    if way == COUNT:
        mean = math.exp(log_mean(S))
        low = 0.05 * mean
        l0 = math.log((max(l0, 0.0) + low) / mean)
        l1 = math.log((max(l1, 0.0) + low) / mean)
        l2 = math.log((max(l2, 0.0) + low) / mean)
        l3 = math.log((max(l3, 0.0) + low) / mean)
        w = math.log((max(S[2] + w, 0.0) + 2.0 * low) / (max(S[2], 0.0) + 2.0 * low))
    for j in range(nc):
        X[j] = calendar[j] * size
    f = min(h / conf[HORIZON], 1.0)
    X[nc] = one
    X[nc + 1] = l0 - l1
    X[nc + 2] = l1 - l2
    X[nc + 3] = l2 - l3
    X[nc + 4] = l3
    X[nc + 5] = (l0 - l1) * f
    X[nc + 6] = (l1 - l2) * f
    X[nc + 7] = w
    X[nc + 8] = ly[way]
    X[nc + 9] = (S[2 * (4 + m)] - 0.5) * size
    cov = 2 * (4 + m) + 1 + (m + 3) + 2 + m
    c = nc + DYNAMIC
    for j in range(k):
        X[c] = x[j] * size
        X[c + 1] = (x[j] - S[cov + j]) * size
        X[c + 2] = x[j] * (l2 - 0.7) if way == LOG else x[j] * f * size
        c += 3


def back_to_scale(e, way, smear, own):
    """A linear predictor `e` in the units of the series."""
    if way == RAW:
        return e * own[UNIT]
    if way == LOG:
        return own[LOG_UNIT] * math.expm1(min(e, 40.0)) * smear
    return own[UNIT] * math.exp(min(max(e, -20.0), 30.0)) * smear


def recent_mean(y, code, o, conf):
    """Mean of the last observations at `o`."""
    oldest = max(0, o + 1 - int(conf[TAIL]))
    s, n, t = 0.0, 0, o
    while t >= oldest and n < int(conf[WINDOW]):
        if code[t] == OBSERVED:
            s += y[t]
            n += 1
        t -= 1
    return s / max(n, 1)


def same_phase(y, code, o, t, mean, conf, out):
    """The last value and the mean of the last values of the phase of `t`, known at `o`; `mean` where there are none."""
    m = int(conf[SEASON])
    oldest = max(0, o + 1 - int(conf[TAIL]))
    out[0] = mean
    s, got, tries = 0.0, 0, 0
    back = m * ((t - o - 1) // m + 1)
    while tries < 2 * int(conf[SEASONS]) and got < int(conf[SEASONS]) and t - back >= oldest:
        if code[t - back] == OBSERVED or code[t - back] == CLOSED:
            if got == 0:
                out[0] = y[t - back]
            s += y[t - back]
            got += 1
        back += m
        tries += 1
    out[1] = s / got if got > 0 else mean


def fill_extra(X, p, S, ph, hol, h, mean, phase_mean, beta, conf, own):
    """What trees see besides the `p` linear features: phase, step, volume, age, plain means, odds, holiday, and what
    the series' own coefficients `beta` make of its season and of each covariate column.
    """
    m = int(conf[SEASON])
    nc = int(conf[CALENDAR])
    X[p] = ph
    X[p + 1] = h
    X[p + 2] = math.log(own[UNIT]) + log_mean(S)
    X[p + 3] = math.log1p(S[S.size - 1])
    size = own[UNIT] * math.exp(log_mean(S))
    X[p + 4] = mean / size
    X[p + 5] = phase_mean / size
    X[p + 6] = S[2 * (4 + m) + 1 + m + 3]
    X[p + 7] = hol
    X[p + 8] = X[nc + 7] * beta[nc + 7]
    if m <= 31:
        for j in range(m - 1):
            X[p + 8] += X[j] * beta[j]
    for j in range(int(conf[COVARIATES])):
        c = nc + DYNAMIC + 3 * j
        X[p + EXTRA + j] = X[c] * beta[c] + X[c + 1] * beta[c + 1] + X[c + 2] * beta[c + 2]


def recent_level(X, S, nc):
    """Log of the recent level in units, from features `X` of a count; where boosted trees start from."""
    return log_mean(S) + X[nc + 4] + X[nc + 3] + 0.5 * X[nc + 2]


def fill_beside(X, at, level, mean, phase_mean, x, before, conf, own):
    """What trees see besides, from place `at` on: volume and plain means against the recent level, and how each
    covariate column of the target moved from the period `before`.
    """
    size = own[UNIT] * math.exp(level)
    X[at] = math.log(own[UNIT]) + level
    X[at + 1] = mean / size
    X[at + 2] = phase_mean / size
    for j in range(int(conf[COVARIATES])):
        X[at + BESIDE + j] = x[j] - before[j]


def fill_course(X, P, y, code, o, t, mean, level, conf, own):
    """What only the second boosted trees see, the last COURSE of `X`: the newest values, the last ones of the phase of
    `t`, and means of the phase's surroundings, of 2, 4 and 8 periods and of the last two seasons. All against the
    recent `level`; the recent `mean` where there is none.
    """
    m = int(conf[SEASON])
    at = X.size - COURSE
    oldest = max(0, o + 1 - int(conf[TAIL]))
    size = math.exp(level)
    usual = mean / own[UNIT] / size
    back = m * ((t - o - 1) // m + 1)
    for j in range(NEWEST + SAME_PHASE):
        s = o - j if j < NEWEST else t - back - m * (j - NEWEST)
        X[at + j] = y[s] / own[UNIT] / size if s >= oldest and code[s] == OBSERVED else usual
    for j in range(6):
        a, b = t - back - 1, t - back + 2
        if 0 < j < 4:
            a, b = o + 1 - 2**j, o + 1
        elif j > 3:
            a, b = o + 1 - m * (j - 3), o + 1 - m * (j - 4)
        a, b = max(a, oldest), min(b, o + 1)
        n = P[b, 2] - P[a, 2] if b > a else 0.0
        X[at + NEWEST + SAME_PHASE + j] = (P[b, 0] - P[a, 0]) / n / size if n > 0.0 else usual


def fill_plain(X, p, S, P, y, code, o, t, h, ph, hol, calendar, x, mean, conf, own, ly, two):
    """What a user's regressor sees of a target at `t`, `h` steps after the state `S` at `o`: `p` linear features, PLAIN
    more. `ly` (3) and `two` (2) are room to work in.
    """
    last_year(P, o, t, conf, own, ly)
    same_phase(y, code, o, t, mean, conf, two)
    fill(X, S, RAW, ph, h, calendar, x, ly, conf, own)
    X[p] = ph
    X[p + 1] = h
    X[p + 2] = math.log1p(S[S.size - 1])
    X[p + 3] = mean / own[UNIT]
    X[p + 4] = two[1] / own[UNIT]
    X[p + 5] = hol


def phase_moments(y, code, oldest, o, m, additive, sums, squares, times):
    """By phase (places, see `tested_season`): sums, sums of squares and number of the ratios (differences where
    `additive`) of the periods `oldest` … `o` to the centred moving mean of a season.
    """
    n = o + 1 - oldest
    total = np.zeros(n + 1)
    count = np.zeros(n + 1)
    for i in range(n):
        there = code[oldest + i] == OBSERVED
        total[i + 1] = total[i] + (y[oldest + i] if there else 0.0)
        count[i + 1] = count[i] + (1.0 if there else 0.0)
    for i in range(m // 2, n):
        a = i - m // 2
        b = a + 1 - m % 2  # an even season has no middle: the mean of the two windows around it
        if b + m > n:
            break
        if code[oldest + i] != OBSERVED or min(count[a + m] - count[a], count[b + m] - count[b]) < 0.6 * m:
            continue
        level = 0.5 * (total[a + m] - total[a]) / (count[a + m] - count[a])
        level += 0.5 * (total[b + m] - total[b]) / (count[b + m] - count[b])
        if additive or level > 0.0:
            k = (oldest + i - o) % m
            v = y[oldest + i] - level if additive else y[oldest + i] / level
            sums[k] += v
            squares[k] += v * v
            times[k] += 1.0


def tested_season(y, code, oldest, o, m, additive, season):
    """What a season of `m` makes of a period k steps after `o`, written to `season[k % m]`: a factor, or what it adds
    where `additive`; from the periods `oldest` … `o`. Returns the trust that there is one, 0 to 1.

    How far the mean of a phase is from that of all is shrunk by BY_CHANCE times what chance would make of it (James &
    Stein 1961, positive part): phases that differ no more are no season. Where too few tell, it is the share of sales.
    """
    none = 0.0 if additive else 1.0
    sums, squares, times = np.zeros(m), np.zeros(m), np.zeros(m)
    phase_moments(y, code, oldest, o, m, additive, sums, squares, times)
    phases_seen, seen, mean, within, sold, there, between = 0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0
    for k in range(m):
        season[k] = none
        if times[k] > 0.0:
            phases_seen += 1.0
            seen += times[k]
            mean += sums[k]
            within += squares[k] - sums[k] * sums[k] / times[k]
    if phases_seen < 2.0 or seen <= phases_seen:
        for t in range(oldest, o + 1):
            there += 1.0 if code[t] == OBSERVED else 0.0
            sold += 1.0 if code[t] == OBSERVED and y[t] != 0.0 else 0.0
        return sold / max(there, 1.0)
    mean, within = mean / seen, within / (seen - phases_seen)
    for k in range(m):
        if times[k] > 0.0:
            between += times[k] * (sums[k] / times[k] - mean) ** 2 / (phases_seen - 1.0)
    ratio = between / max(within, 1e-300)
    trust = min(max(ratio / (1.0 + 4.0 / (seen - phases_seen)) - SURE, 0.0), 1.0)  # few seasons: chance goes further
    if ratio > BY_CHANCE:
        middle = 0.0
        for k in range(m):
            if times[k] > 0.0:
                season[k] = none + (1.0 - BY_CHANCE / ratio) * (sums[k] / times[k] - mean)
            middle += season[k] / m
        for k in range(m):
            season[k] = season[k] - middle if additive else max(season[k] / middle, 0.02)
    return trust


def smoothed_trend(y, code, o, conf, own, level, season):
    """Level and season of the periods after `o`, written to `level` and `season` (a factor, or what it adds); the level
    is NaN where there is too little. Only the last TAIL periods count. Returns the trust in the season.

    The theta method (Assimakopoulos & Nikolopoulos 2000) as Hyndman & Billah (2003) write it: without its season,
    exponential smoothing plus half the drift of the straight line. Where a factor of the season is below TINY_FACTOR,
    periods weigh as the squares of their factors, at most 1: as in least squares, errors count in units of the series.
    """
    m = int(conf[SEASON])
    additive = own[ADDITIVE] != 0.0
    oldest = max(0, o + 1 - int(conf[TAIL]))
    while oldest < o and code[oldest] != OBSERVED:  # when other series begin must not matter
        oldest += 1
    phase = np.zeros(m)
    trust = tested_season(y, code, oldest, o, m, additive, phase)
    uneven = not additive and phase.min() < TINY_FACTOR
    smooth, error = np.zeros(len(GAINS)), np.zeros(len(GAINS))
    n, seen = 0.0, 0.0  # observations, and the sum of their weights
    st, sz, stt, stz = 0.0, 0.0, 0.0, 0.0
    for t in range(oldest, o + 1):
        if code[t] == OBSERVED:
            k = (t - o) % m
            z = (y[t] - phase[k] if additive else y[t] / phase[k]) / own[UNIT]
            w = min(phase[k], 1.0) ** 2 if uneven else 1.0
            st += w * (t - o)
            sz += w * z
            stt += w * (t - o) * (t - o)
            stz += w * (t - o) * z
            for j in range(len(GAINS)):
                e = z - smooth[j]
                error[j] += w * e * e if n > 2.0 else 0.0
                smooth[j] += max(GAINS[j] * w, w / (seen + w)) * e
            seen += w
            n += 1.0
    drift = (seen * stz - st * sz) / max(seen * stt - st * st, 1e-9)
    usual, best = seen / n if n > 0.0 else 1.0, error[0]
    for j in range(1, len(GAINS)):
        best = min(best, error[j])
    weights, now = 0.0, 0.0
    for j in range(len(GAINS)):
        weight = (max(best, 1e-30) / max(error[j], 1e-30)) ** SHARPNESS
        gain = GAINS[j] * usual
        behind = (1.0 - (1.0 - gain) ** n) / gain  # how far smoothing is behind a straight line
        weights += weight
        now += weight * (smooth[j] + 0.5 * drift * (behind - 1.0))
    for i in range(level.size):
        level[i] = (now / weights + 0.5 * drift * (i + 1)) * own[UNIT] if n >= 4.0 else math.nan
        season[i] = phase[(i + 1) % m]
    return trust


def add_trees(X, root, feature, threshold, left, right, value, sums):
    """Add to `sums` the leaves that the rows of `X` reach; a negative feature marks a leaf. Tree by tree: rows of
    neighbouring periods mostly take the same way.
    """
    for r in range(root.size):
        for i in range(sums.size):
            node = root[r]
            while feature[node] >= 0:
                node = left[node] if X[i, feature[node]] <= threshold[node] else right[node]
            sums[i] += value[node]


def add_networks(X, usual, first, second, ends, sums):
    """Add to `sums` the mean of what networks say of the rows of `X`: two layers of rectified linear neurons, one sum.

    `usual` (2 × features) has the centre of each feature and what makes a deviation of it, `first` (features × neurons
    of all networks) and `second` (these × those of the second layer) weights, `ends` what is added to the neurons of
    both layers, what those of the second count, and what is added to the sum.
    """
    wide, narrow = second.shape
    if narrow == 0:
        return
    Z, nothing = np.zeros((max(sums.size, LEAST_ROWS), X.shape[1]), np.float32), np.float32(0.0)
    for i in range(sums.size):
        for j in range(X.shape[1]):
            v = (X[i, j] - usual[0, j]) * usual[1, j] if abs(X[i, j]) < UNKNOWN else 0.0
            Z[i, j] = min(max(v, -UNUSUAL), UNUSUAL)
    on = np.maximum(np.dot(Z, first) + ends[:wide], nothing)
    on = np.maximum(np.dot(on, second) + ends[wide : wide + narrow], nothing)
    for i in range(sums.size):
        for j in range(narrow):
            sums[i] += on[i, j] * ends[wide + narrow + j]
        sums[i] += ends[ends.size - 1]


def forecast(
    S, y, code, P, o, ph, hol, C, x, binary, B, smear, conf, own, H, F, X, boosted, root, feature, threshold, left,
    right, value, usual, first, second, ends,
):  # fmt: skip
    """Forecasts of all but the autoregression for the periods o + 1 … o + H after the state `S` at `o`, written to `F`.

    `y`, `code` and `P` (running sums) hold the history up to `o` at the same places as `ph`, `hol`, `C` and `x` hold
    the calendar and covariates of past and future. `B` (4 × features) are coefficients of the three ways and of the
    pooled fit, NaN where not fitted: such a candidate repeats the medium smoothing. Trees stand on the series' own
    count fit, on the pooled one where there is none; the last `boosted` ones, and networks, on the recent level. TSB is
    Teunter, Syntetos & Babai 2011, Croston's method has the correction of Syntetos & Boylan 2005. `X` has room for a
    row of features and of what trees see for each period.
    """
    m, p, unit = int(conf[SEASON]), B.shape[1], own[UNIT]
    es = 2 * (4 + m) + 1
    tsb = es + m + 3
    ly, two = np.zeros(3), np.zeros(2)
    mean = recent_mean(y, code, o, conf)
    trend, season = np.zeros(H), np.zeros(H)
    trust = max(smoothed_trend(y, code, o, conf, own, trend, season), 1.0 - own[TESTED])
    for i in range(H):
        t = o + 1 + i
        last_year(P, o, t, conf, own, ly)
        same_phase(y, code, o, t, mean, conf, two)
        F[0, i] = two[0]
        F[1, i] = mean
        F[2, i] = two[1]
        w = season_of(S, ph[t], own, m, trust)
        for j in range(3):
            F[3 + j, i] = (S[es + m + j] + w if own[ADDITIVE] != 0.0 else S[es + m + j] * w) * unit
        F[6, i] = S[tsb] * S[tsb + 1] * unit
        between = S[S.size - 3]
        F[7, i] = S[tsb + 1] / between * (1.0 - 0.5 * conf[GAIN_SIZE]) * unit if between > 0.0 else 0.0
        base = 0.0
        for row in range(4):
            way = min(row, COUNT)
            F[8 + row, i] = F[4, i]
            if not math.isnan(B[row, 0]):
                if row < 3 or math.isnan(B[COUNT, 0]):
                    fill(X[i], S, way, ph[t], i + 1, C[t], x[t], ly, conf, own)
                e = log_mean(S) if way == COUNT else 0.0
                for j in range(p):
                    e += X[i, j] * B[row, j]
                F[8 + row, i] = back_to_scale(e, way, smear[row] if row < 3 else 1.0, own)
                if row == COUNT or (row > COUNT and math.isnan(B[COUNT, 0])):
                    base = e
        F[12, i], F[13, i], F[BEFORE_NETWORK, i] = F[11, i], F[11, i], F[4, i]
        F[14, i] = trend[i] + season[i] if own[ADDITIVE] != 0.0 else trend[i] * season[i]
        if root.size > 0:
            mine = COUNT if not math.isnan(B[COUNT, 0]) else COUNT + 1
            level = recent_level(X[i], S, int(conf[CALENDAR]))
            fill_extra(X[i], p, S, ph[t], hol[t], i + 1, mean, two[1], B[mine], conf, own)
            fill_beside(X[i], p + EXTRA + int(conf[COVARIATES]), level, mean, two[1], x[t], x[t - 1], conf, own)
            fill_course(X[i], P, y, code, o, t, mean, level, conf, own)
            F[12, i] = base
            F[13, i] = level if boosted > 0 else F[11, i]
            F[BEFORE_NETWORK, i] = level if first.shape[1] > 0 else F[4, i]
    if root.size > 0:
        add_networks(X, usual, first, second, ends, F[BEFORE_NETWORK])
        add_trees(X, root[: root.size - boosted], feature, threshold, left, right, value, F[12])
        add_trees(X, root[root.size - boosted :], feature, threshold, left, right, value, F[13])
    for i in range(H):
        t = o + 1 + i
        for c in (12, 13, BEFORE_NETWORK):
            if root.size > 0 and (c != 13 or boosted > 0) and (c != BEFORE_NETWORK or first.shape[1] > 0):
                F[c, i] = back_to_scale(F[c, i], COUNT, 1.0, own)
        closed = is_closed(S, ph[t], hol[t], x[t], binary, conf)
        for c in range(F.shape[0]):
            v = F[c, i] if math.isfinite(F[c, i]) else mean
            F[c, i] = 0.0 if closed else min(max(v, own[LOW]), own[HIGH])


# --- Time ------------------------------------------------------------------------------------------------------------
def step_number(ds: np.ndarray, frequency: str) -> np.ndarray:
    """Whole periods since 1970 of datetime64 stamps, int64."""
    unit = _unit(frequency)
    if unit == "h":
        return ds.astype("datetime64[h]").astype(np.int64)
    days = ds.astype("datetime64[D]")
    if unit == "B":
        return np.busday_count(np.datetime64("1970-01-01"), days, weekmask="1111100").astype(np.int64)
    if unit == "D":
        return days.astype(np.int64)
    if unit == "W":
        return (days.astype(np.int64) - _anchor_day(frequency)) // 7
    months = ds.astype("datetime64[M]").astype(np.int64)
    each = {"M": 1, "Q": 3, "Y": 12}[unit]
    return (months - _anchor_month(frequency)) // each


def stamps(number: np.ndarray, frequency: str) -> np.ndarray:
    """The inverse of `step_number`, datetime64[us]."""
    unit = _unit(frequency)
    number = np.asarray(number, np.int64)
    if unit == "h":
        out = number.astype("datetime64[h]")
    elif unit == "B":
        out = np.busday_offset(np.datetime64("1970-01-01"), number, roll="forward", weekmask="1111100")
    elif unit == "D":
        out = number.astype("datetime64[D]")
    elif unit == "W":
        out = (number * 7 + _anchor_day(frequency)).astype("datetime64[D]")
    else:
        each = {"M": 1, "Q": 3, "Y": 12}[unit]
        months = number * each + _anchor_month(frequency)
        ends = frequency.split("-", maxsplit=1)[0] in ("ME", "QE", "YE", "M", "Q", "Y", "A")
        out = (months + ends).astype("datetime64[M]").astype("datetime64[D]") - ends
    return out.astype("datetime64[us]")


def _unit(frequency: str) -> str:
    head = frequency.split("-", maxsplit=1)[0]
    return {"H": "h", "MS": "M", "ME": "M", "QS": "Q", "QE": "Q", "YS": "Y", "YE": "Y", "A": "Y", "AS": "Y"}.get(
        head, head
    )


def _anchor_day(frequency: str) -> int:
    day = frequency.split("-")[1] if "-" in frequency else "SUN"
    return ("THU", "FRI", "SAT", "SUN", "MON", "TUE", "WED").index(day)  # 1970-01-01 was a Thursday


def _anchor_month(frequency: str) -> int:
    names = ("JAN", "FEB", "MAR", "APR", "MAY", "JUN", "JUL", "AUG", "SEP", "OCT", "NOV", "DEC")
    unit = _unit(frequency)
    if unit == "M":
        return 0
    head = frequency.split("-", maxsplit=1)[0]
    ends = head in ("QE", "YE", "Q", "Y", "A")
    month = names.index(frequency.split("-")[1]) if "-" in frequency else (11 if ends else 0)
    return month % (3 if unit == "Q" else 12)


def phases(ds: np.ndarray, frequency: str, season: int) -> np.ndarray:
    """Where in the season each stamp stands, int64 in [0, season)."""
    unit = _unit(frequency)
    days = ds.astype("datetime64[D]").astype(np.int64)
    if unit in ("D", "B") and season == 7:
        return (days + 3) % 7
    if unit == "B" and season == 5:
        return np.minimum((days + 3) % 7, 4)
    if unit == "h" and season == 24:
        return ds.astype("datetime64[h]").astype(np.int64) % 24
    if unit == "W" and season == 52:
        return np.minimum(_day_of_year(ds) // 7, 51)
    return step_number(ds, frequency) % season


def _day_of_year(ds: np.ndarray) -> np.ndarray:
    return (ds.astype("datetime64[D]") - ds.astype("datetime64[Y]").astype("datetime64[D]")).astype(np.int64)


def calendar(
    ds: np.ndarray, frequency: str, season: int, days: np.ndarray, slots: np.ndarray, n_slots: int,
    hours: bool = True,  # noqa: FBT001, FBT002
):  # fmt: skip
    """Calendar features (periods × columns, float32) and holiday slot (int64, -1 for none) of stamps.

    `days` (days since 1970, sorted) and `slots` are the holidays; the columns are season, year, month, holidays.
    Hourly data have a column an hour of the day whatever the season, but not without `hours` (as in older packs).
    """
    unit = _unit(frequency)
    ph = phases(ds, frequency, season)
    columns = [(ph == i).astype(float) for i in range(season - 1)] if season <= 31 else []
    day = ds.astype("datetime64[D]").astype(np.int64)
    if unit == "h":
        columns += [((day + 3) % 7 == i).astype(float) for i in range(6)]
        if hours and season > 31:
            columns += [(ds.astype("datetime64[h]").astype(np.int64) % 24 == i).astype(float) for i in range(23)]
    doy = _day_of_year(ds)
    if unit in ("h", "D", "B", "W"):
        for k in (1, 2, 3, 4):
            columns += [np.sin(2 * np.pi * k * doy / 365.25), np.cos(2 * np.pi * k * doy / 365.25)]
    if unit in ("D", "B"):
        dom = (ds.astype("datetime64[D]") - ds.astype("datetime64[M]").astype("datetime64[D]")).astype(int)
        columns += [np.sin(2 * np.pi * dom / 30.4), np.cos(2 * np.pi * dom / 30.4)]
        left = 358 - doy
        columns += [np.where((left >= 0) & (left < 24), 1.0 - left / 24.0, 0.0), (doy > 359).astype(float)]
    number = step_number(ds, frequency)
    per_year = {"h": 8766.0, "D": 365.25, "B": 261.0, "W": 52.18, "M": 12.0, "Q": 4.0, "Y": 1.0}[unit]
    columns.append(number / per_year / 10.0 - 5.0)
    slot = np.full(len(ds), -1, np.int64)
    if n_slots and len(days) and unit in ("h", "D", "B"):
        at = np.clip(np.searchsorted(days, day), 0, len(days) - 1)
        slot = np.where(days[at] == day, slots[at], -1)
        columns += [(slot == i).astype(float) for i in range(n_slots)]
        columns += [np.isin(day + back, days).astype(float) for back in (1, 2, -1)]
    elif n_slots and len(days) and unit == "W":
        near = day[:, None] - days[None, :]
        for i in range(n_slots):
            columns.append(((near >= 0) & (near < 7) & (slots == i)).any(1).astype(float))
        columns.append(((near >= -7) & (near < 0)).any(1).astype(float))
    return np.stack(columns, 1).astype(np.float32), slot, ph


def shape_features(
    ds: np.ndarray, frequency: str, season: int, days: np.ndarray, slots: np.ndarray, n_slots: int,
    hours: bool = True,  # noqa: FBT001, FBT002
):  # fmt: skip
    """Calendar features (periods × columns, float64) of a shape that many series share: richer than `calendar`."""
    base, _, _ = calendar(ds, frequency, season, days, slots, n_slots, hours)
    columns = [base.astype(float)]
    if _unit(frequency) in ("h", "D", "B", "W"):
        month = ds.astype("datetime64[M]").astype(np.int64) % 12
        angle = 2 * np.pi * _day_of_year(ds)[:, None] * np.arange(5, 9) / 365.25
        columns += [(month[:, None] == np.arange(11)).astype(float), np.sin(angle), np.cos(angle)]
    return np.concatenate(columns, 1)


def derived(x: np.ndarray, terms, ds: np.ndarray) -> np.ndarray:
    """The columns (… × periods × terms) that `terms` (kind, a, b, knot) make of encoded covariate columns `x`
    (… × periods × columns) at the stamps `ds`; zeros for an empty term.
    """
    out = np.zeros((*x.shape[:-1], len(terms)))
    weekday = (ds.astype("datetime64[D]").astype(np.int64) + 3) % 7
    angle = 2 * np.pi * (ds.astype("datetime64[h]").astype(np.int64) % 24) / 24.0
    for j, (kind, a, b, knot) in enumerate(terms):
        column = x[..., int(a)]
        if kind == HINGE:
            out[..., j] = np.maximum(column - knot, 0.0)
        elif kind == ABOVE:
            out[..., j] = column > knot
        elif kind == PRODUCT:
            out[..., j] = column * x[..., int(b)]
        elif kind == WEEKDAY:
            out[..., j] = column * (weekday == b)
        elif kind >= HOUR_SIN:
            out[..., j] = column * (np.sin(b * angle) if kind == HOUR_SIN else np.cos(b * angle))
    return out


# --- The pack --------------------------------------------------------------------------------------------------------
PER_SERIES = (
    "cutoff", "state", "tail_y", "tail_code", "coef", "smear", "own", "weights", "factor", "fixed", "center", "scale",
    "log", "binary", "last_x", "before_x", "spread", "quantiles", "pool", "path", "static", "closed_days",
)  # fmt: skip
SHARED = ("conf", "holiday_days", "holiday_slots")
PER_POOL = (
    "pool_shape", "pool_beta", "pool_terms", "pool_lags", "pool_inputs", "pool_layers", "tree_count", "root_count",
    "boosted_count",
)  # fmt: skip
TREES = ("root", "feature", "threshold", "left", "right", "value")
INDEX = tuple("format series frequency horizon known levels_of levels slots fallback candidates pools sha256".split())
MOST_HEADER = 10_000  # bytes


def within(given, after, h):
    """Known covariates on the h periods after step number `after`: name → h values, None where a period has none.

    `given` has step numbers and values of each name; a name that none of these periods gives is left out.
    """
    out = {}
    for name, (number, values) in given.items():
        at = np.asarray(number, np.int64) - after - 1
        for k in np.flatnonzero((at >= 0) & (at < h)).tolist():
            out.setdefault(name, [None] * h)[at[k]] = values[k]
    return out


class Pack:
    """Models of `index["series"]`, row by row in `arrays`; `loops` is this module or a compiled copy of it."""

    def __init__(self, index, arrays, loops=None, blobs=None):
        self.index, self.arrays, self.blobs = index, arrays, blobs or {}
        self.loops = loops or sys.modules[__name__]
        self.row = {name: i for i, name in enumerate(index["series"])}
        self.levels = [int(level) for level in index["levels"]]
        self._calendars, self._shapes, self._fitted, self._networks = {}, {}, {}, {}
        self._explainer = None
        self.exposed = exposed_column(index)
        self.hours = has_hours(index["frequency"], arrays)

    def cutoff_of(self, i):
        """The training cutoff of row `i`, datetime64[us]."""
        return stamps(self.arrays["cutoff"][i : i + 1], self.index["frequency"])[0]

    def calendar(self, after, h):
        """Stamps, features, holiday slots and phases of the `h` periods after step number `after`."""
        key = (int(after), int(h))
        if key not in self._calendars:
            if len(self._calendars) > 64:
                self._calendars.clear()
            ds = stamps(np.arange(after + 1, after + 1 + h), self.index["frequency"])
            C, hol, ph = calendar(
                ds, self.index["frequency"], int(self.arrays["conf"][SEASON]), self.arrays["holiday_days"],
                self.arrays["holiday_slots"], int(self.arrays["conf"][SLOTS]), self.hours,
            )  # fmt: skip
            self._calendars[key] = (ds, C, hol, ph)
        return self._calendars[key]

    def shape(self, pool, after, h):
        """The shared shape of a pool over the `h` periods after step number `after`, (h, 1)."""
        key = (int(pool), int(after), int(h))
        if key not in self._shapes:
            if len(self._shapes) > 64:
                self._shapes.clear()
            a = self.arrays
            features = shape_features(
                self.calendar(after, h)[0], self.index["frequency"], int(a["conf"][SEASON]), a["holiday_days"],
                a["holiday_slots"], int(a["conf"][SLOTS]), self.hours,
            )  # fmt: skip
            self._shapes[key] = (features @ a["pool_shape"][pool].astype(float))[:, None]
        return self._shapes[key]

    def exposure(self, x):
        """How large the exposure of each period is, against what is usual (h,); ones without an exposure."""
        return np.ones(len(x)) if self.exposed is None else np.maximum(x[:, self.exposed], 0.0)

    def columns(self, x, pool, after):
        """All covariate columns of the periods after step number `after`, from the encoded ones `x` (see `encode`):
        these, what terms make of them, and the shared shape of a pool.
        """
        h, terms = len(x), self.arrays["pool_terms"][pool]
        made = derived(x, terms, self.calendar(after, h)[0]) if len(terms) else np.zeros((h, 0))
        return np.concatenate([x, made, self.shape(pool, after, h)], 1)

    def trees(self, pool):
        """The trees of a pool: how many are boosted ones, then root, feature, threshold, left, right, value."""
        a = self.arrays
        first = int(a["root_count"][:pool].sum())
        root = a["root"][first : first + int(a["root_count"][pool])]
        return (int(a["boosted_count"][pool]), root, *(a[name] for name in TREES[1:]))

    def networks(self, pool):
        """The networks of a pool, as `add_networks` takes them."""
        if pool not in self._networks:
            self._networks[pool] = networks_of(self.arrays["pool_inputs"][pool], self.arrays["pool_layers"][pool])
        return self._networks[pool]

    def encode(self, i, known, h):
        """Covariate columns (h × columns) of row `i` from raw `known` (name → h values, None where missing).

        What is missing is what is usual for the series (`last_x`): a flag is off where it mostly was, a price is its
        usual one, or the last one of `known` before it. Second result: where a value is missing, bool (h,).
        """
        a = self.arrays
        x = np.tile(a["last_x"][i], (h, 1)).astype(float).reshape(h, -1)
        repeated = np.zeros(h, bool)
        j = 0
        for name, levels in zip(self.index["known"], self.index["levels_of"]):
            values = known.get(name)
            before = a["last_x"][i][j : j + max(levels, 1)].astype(float)
            slots = self.index["slots"].get(self.index["series"][i], {}).get(name, {})
            for s in range(h):
                value = None if values is None else values[s]
                if value is None or value != value:
                    repeated[s] = repeated[s] or (values is None or levels == 0)
                    if values is not None and levels > 0:
                        before = np.zeros(levels)
                    elif a["binary"][i, j]:
                        before = a["last_x"][i][j : j + max(levels, 1)].astype(float)
                elif levels:
                    before = np.zeros(levels)
                    if str(value) in slots:
                        before[slots[str(value)]] = 1.0
                else:
                    v = float(value)
                    if a["log"][i, j]:
                        v = math.log(max(v, 1e-9))
                    v = (v - a["center"][i, j]) / a["scale"][i, j]
                    before = np.array([min(max(v, -20.0), 20.0)])
                x[s, j : j + max(levels, 1)] = before
            j += max(levels, 1)
        return x, repeated

    def silent(self, i, end, given):
        """The periods after training up to step number `end` that are not `given` and that mean something without a
        row: step numbers and codes. Their value is 0.
        """
        letters = self.index.get("missing", {i: UNKNOWN_GAPS})[i]
        if letters == UNKNOWN_GAPS:
            return [], []
        number = np.arange(int(self.arrays["cutoff"][i]) + 1, end + 1)
        number = number[~(np.isin(number, np.asarray(given, np.int64)) | self.shut(i, number))]
        day = stamps(number, self.index["frequency"]).astype("datetime64[D]").astype(np.int64)
        words = [letters[weekday] for weekday in ((day + 3) % 7).tolist()]  # 1970-01-01 was a Thursday
        meant = [(n, GAPS[word]) for n, word in zip(number.tolist(), words) if word in GAPS]
        return [n for n, _ in meant], [code for _, code in meant]

    def aligned(self, i, end, h, future, past=None):
        """Inputs of a forecast of row `i` for the h periods after step number `end`: x, fresh, repeated (see `encode`).

        `future` gives known covariates as `within` takes them. `past` is what happened since training: step numbers, y
        (NaN where not known), codes, known covariates; with None all of those periods are missing. What `future` lacks
        is what is usual (see `encode`). This one alignment serves tables, JSON requests and MLflow.
        """
        known = within(future, end, h)
        x, repeated = self.encode(i, known, h)
        n = end - int(self.arrays["cutoff"][i])
        if n <= 0:
            return x, None, repeated
        y, code, given = np.zeros(n), np.zeros(n, np.int8), {}
        if past is not None:
            number, value, state, given = past
            at = np.asarray(number, np.int64) - (end - n) - 1
            value = np.asarray(value, float)
            seen = (at >= 0) & (at < n) & ~np.isnan(value) & ~self.shut(i, np.asarray(number, np.int64))
            y[at[seen]] = value[seen]
            code[at[seen]] = np.maximum(np.asarray(state, np.int8)[seen], OBSERVED)
        before, _ = self.encode(i, within(given, end - n, n), n)
        return x, (y, code, before), repeated

    def roll(self, i, y, code, x):
        """State, last values and bounds of row `i` after further periods `y` (float), `code` (int8), `x` (columns)."""
        f = self.loops
        a = self.arrays
        S, own = a["state"][i].astype(float), a["own"][i].astype(float)
        n = len(y)
        y, code = per_exposure(np.asarray(y, float), np.asarray(code, np.int8), self.exposure(x))
        x = self.columns(x, a["pool"][i], a["cutoff"][i]) if n else x
        _, _, hol, ph = self.calendar(a["cutoff"][i], n)
        binary = a["binary"][i].astype(np.int64)
        for t in range(n):
            f.advance(S, float(y[t]), int(code[t]), int(ph[t]), int(hol[t]), x[t], binary, a["conf"], own)
            if code[t] == OBSERVED and y[t] > 0:
                own[HIGH] = max(own[HIGH], 2.0 * y[t])
            if code[t] == OBSERVED and y[t] < 0 and not own[NONNEGATIVE]:
                own[LOW] = min(own[LOW], 1.5 * y[t])
        R = a["tail_y"].shape[1]
        tail = np.concatenate([a["tail_y"][i].astype(float), np.asarray(y, float)])[-R:]
        codes = np.concatenate([a["tail_code"][i], np.asarray(code, np.int8)])[-R:]
        return S, own, tail, codes

    def inputs(self, i, h, x, fresh=None):
        """What the loops take of row `i`, up to the bounds of its series, and the step number that they begin after;
        see `candidates`.
        """
        a, f = self.arrays, self.loops
        fresh = fresh or (np.zeros(0), np.zeros(0, np.int8), np.zeros((0, a["last_x"].shape[1])))
        S, own, tail, codes = self.roll(i, *fresh)
        now = int(a["cutoff"][i]) + len(fresh[0])
        pool = int(a["pool"][i])
        x = self.columns(x, pool, now)
        last = self.columns((fresh[2] if len(fresh[0]) else a["before_x"][i][None])[-1:], pool, now - 1)[0]
        R = len(tail)
        ds, C, hol, ph = self.calendar(now, h)
        hol = self.with_closed_days(i, ds, hol)
        y, code = np.concatenate([tail, np.zeros(h)]), np.concatenate([codes, np.zeros(h, np.int8)])
        P = np.zeros((R + 1, 3))
        f.prefix(tail, codes, own, P)
        pad = np.zeros(R, np.int64)
        before = np.zeros((R, x.shape[1]))
        before[-1] = last
        B = np.concatenate([a["coef"][i], a["pool_beta"][pool : pool + 1]]).astype(float)
        return (
            S, y, code, P, R - 1, np.concatenate([pad, ph]), np.concatenate([pad, hol]),
            np.concatenate([np.zeros((R, C.shape[1]), np.float32), C]), np.concatenate([before, x]),
            a["binary"][i].astype(np.int64), B, a["smear"][i].astype(float), a["conf"], own,
        ), now  # fmt: skip

    def with_closed_days(self, i, ds, hol):
        """The holiday slots `hol` of the stamps `ds`, and CLOSED_DAY where row `i` is closed each year, or by the list
        of openings.
        """
        closed = self.shut(i, step_number(ds, self.index["frequency"]))
        days = self.arrays["closed_days"][i]
        if len(days) and days[0] != EMPTY:
            closed |= np.isin(ds.astype("datetime64[D]").astype(np.int64), days)
        return np.where(closed, hol + CLOSED_DAY, hol)

    def shut(self, i, number):
        """Whether row `i` is closed by the list of openings in each of the periods `number`."""
        return outside(number, self.index["open"][i] if "open" in self.index else ())

    def shut_ahead(self, i, h, fresh=None):
        """The same of the h periods that a forecast after `fresh` (see `candidates`) is about."""
        now = int(self.arrays["cutoff"][i]) + (len(fresh[0]) if fresh else 0)
        return self.shut(i, now + 1 + np.arange(h))

    def room(self, i, h=1):
        """Room for `h` rows of features and of what trees see, with what they see of the series `i` itself."""
        a = self.arrays
        wide = tree_width(a["coef"].shape[2], int(a["conf"][COVARIATES]), a["static"].shape[1])
        room = np.zeros((h, wide))
        room[:, wide - COURSE - a["static"].shape[1] : wide - COURSE] = a["static"][i]
        return room

    def candidates(self, i, h, x, fresh=None, args=None, room=None):
        """Forecasts (candidates × h) of row `i` for the h periods after its cutoff, or after `fresh` (y, code, x).

        Users' own forecasters come last: scikit-learn's that travel see the state as it is now, of others there is what
        they said at training; the medium smoothing where neither reaches. `args` are its `inputs` if at hand, `room`
        gets what trees see.
        """
        a = self.arrays
        args = args or self.inputs(i, h, x, fresh)[0]
        S, y, code, _, o, ph, hol, C, x = args[:9]
        own, R = args[-1], o + 1
        F = np.zeros((len(CANDIDATES), h))
        pool, X = int(a["pool"][i]), self.room(i, h) if room is None else room
        self.loops.forecast(*args, h, F, X, *self.trees(pool), *self.networks(pool))
        beta = a["pool_lags"][pool]
        put_autoregression(F[None], y[None, :R], code[None, :R], beta, lags_of(a["conf"])[1], own[None])
        past = len(fresh[0]) if fresh else 0
        path = a["path"][i].astype(float)[:, past:][:, :h]
        if len(path):
            mine = np.tile(F[FALLBACK_CANDIDATE], (len(path), 1))
            mine[:, : path.shape[1]] = np.where(np.isfinite(path), path, mine[:, : path.shape[1]])
            steps = min(h, int(a["conf"][HORIZON]))
            series = self.index["series"][i]
            for name, (file, unit) in self.index.get("fitted", {}).get(series, {}).items():
                rows = self.regressor_rows(unit, steps, S, own, y, code, o, ph[R:], hol[R:], C[R:], x[R:])
                try:
                    said = np.asarray(self.regressor(file).predict(rows), float).reshape(steps) * unit
                except (ValueError, TypeError, IndexError, AttributeError) as error:
                    raise ValueError(f"{file}, the {name} of series {series!r}, does not forecast: {error}") from error
                c = self.index["candidates"].index(name) - len(CANDIDATES)
                mine[c] = F[FALLBACK_CANDIDATE]
                mine[c, :steps] = np.where(np.isfinite(said), said, mine[c, :steps])
            closed = (F == 0.0).all(0)
            F = np.concatenate([F, np.where(closed, 0.0, np.clip(mine, own[LOW], own[HIGH]))])
        return F, own

    def regressor(self, file):
        """The fitted regressor in one of the pack's skops files, loaded once."""
        if file not in self._fitted:
            self._fitted[file] = beside(SKOPS_LOADER).load(bytes(self.blobs[file]))
        return self._fitted[file]

    def regressor_rows(self, unit, steps, S, own, y, code, o, ph, hol, C, x):
        """Features (steps × features, float32) of the steps after the state `S` as a regressor trained in `unit` saw
        such: nothing is scaled by the series' level, and the shape that series share stays away. `y` and `code` end
        after the history at `o`, what is after it in `ph`, `hol`, `C` and `x` begins at the first step.
        """
        conf = self.arrays["conf"]
        m, k = int(conf[SEASON]), int(conf[COVARIATES])
        means = 2 * (4 + m) + 1 + (m + 3) + 2 + m
        own, S, x = own.copy(), S.copy(), x.copy()
        S[: 4 + m] *= own[UNIT] / unit
        own[UNIT], own[ADDITIVE] = unit, 1.0
        x[:, -1], S[means + k - 1] = 0.0, 0.0
        p = width(int(conf[CALENDAR]), k)
        P, ly, two = np.zeros((o + 2, 3)), np.zeros(3), np.zeros(2)
        self.loops.prefix(y[: o + 1], code[: o + 1], own, P)
        mean = self.loops.recent_mean(y, code, o, conf)
        rows = np.zeros((steps, p + PLAIN), np.float32)
        for s in range(steps):
            self.loops.fill_plain(
                rows[s], p, S, P, y, code, o, o + 1 + s, s + 1, int(ph[s]), int(hol[s]), C[s], x[s], mean, conf, own,
                ly, two,
            )  # fmt: skip
        return rows

    def explainer(self):
        """What explains the rows of this pack: the module beside this one, made once."""
        if self._explainer is None:
            self._explainer = (getattr(self.loops, "explainer", None) or beside(EXPLAINER)).Explainer(self)
        return self._explainer

    def point(self, i, F, own):
        """The combination (h,) of candidates' forecasts (candidates × h) of row `i` at the usual exposure, calibrated,
        within bounds.
        """
        a = self.arrays
        used = np.flatnonzero(a["weights"][i])  # how a sum is rounded depends on its length: others change nothing
        mixture = a["weights"][i, used].astype(float) @ F[used]
        return np.clip(mixture * float(a["factor"][i]), own[LOW], own[HIGH])

    def forecast(self, i, h, x, fresh=None):
        """Point forecast (h,) and bounds (h × levels × 2) of row `i`; see `candidates`."""
        a = self.arrays
        if math.isfinite(a["fixed"][i]):
            point = np.full(h, float(a["fixed"][i]))
            own = a["own"][i]
        else:
            F, own = self.candidates(i, h, x, fresh)
            point = self.point(i, F, own)
        point, bounds = self.bounded(i, point * self.exposure(x), own)
        shut = self.shut_ahead(i, h, fresh)
        point[shut], bounds[shut] = 0.0, 0.0
        return point, bounds

    def bounded(self, i, point, own):
        """`point` (h,) of row `i` with its bounds (h × levels × 2)."""
        a = self.arrays
        return point, interval(
            point, a["spread"][i], a["quantiles"][i], bool(own[NONNEGATIVE]), float(a["conf"][HORIZON])
        )

    def table(self, rows):
        """Columns of forecasts: `rows` holds (row, cutoff stamp, steps wanted, point, bounds, repeated) per series."""
        out = {name: [] for name in ("series_id", "ds", "cutoff", "step", "y_hat", "fallback", "known_repeated")}
        bounds = {f"{side}{level}": [] for level in self.levels for side in ("lo", "hi")}
        for i, cutoff, steps, point, bound, repeated in rows:
            number = step_number(np.array([cutoff]), self.index["frequency"])[0]
            out["series_id"].append(np.full(len(steps), self.index["series"][i], object))
            out["ds"].append(stamps(number + steps, self.index["frequency"]))
            out["cutoff"].append(np.full(len(steps), cutoff, "datetime64[us]"))
            out["step"].append(np.asarray(steps, np.int32))
            out["y_hat"].append(point[steps - 1])
            out["fallback"].append(np.full(len(steps), self.index["fallback"][i], object))
            out["known_repeated"].append(repeated[steps - 1])
            for j, level in enumerate(self.levels):
                bounds[f"lo{level}"].append(bound[steps - 1, j, 0])
                bounds[f"hi{level}"].append(bound[steps - 1, j, 1])
        names = ["series_id", "ds", "cutoff", "step", "y_hat", *bounds, "fallback", "known_repeated"]
        return {name: np.concatenate({**out, **bounds}[name]) if rows else np.zeros(0) for name in names}

    def predict(self, df, params=None):
        """Forecasts of the rows of `df` (series_id, ds, known columns): the frame's rows in their order, with columns
        cutoff, step, y_hat, bounds, fallback, known_repeated. With the parameter `explain` there is also a column for
        each driver of a series in the pack, `kind: driver`, which add up to y_hat. Raises KeyError for a series that is
        not in the pack.
        """
        import pandas as pd

        df = df.reset_index(drop=True)
        if unknown := sorted(set(df["series_id"]) - set(self.row)):
            raise KeyError(f"not in this pack: {', '.join(unknown[:5])}; it holds {len(self.row)} series")
        parts = []
        for name, group in df.groupby("series_id", sort=False):
            i = self.row[name]
            number = step_number(group["ds"].to_numpy("datetime64[us]"), self.index["frequency"])
            steps = number - int(self.arrays["cutoff"][i])
            if steps.min() < 1:
                raise ValueError(f"series {name!r}: ds must be after its cutoff {self.cutoff_of(i)}")
            h = int(steps.max())
            given = {name: (number, group[name].tolist()) for name in self.index["known"] if name in group}
            x, _, repeated = self.aligned(i, int(self.arrays["cutoff"][i]), h, given)
            point, bound = self.forecast(i, h, x)
            part = pd.DataFrame(self.table([(i, self.cutoff_of(i), steps, point, bound, repeated)]))
            if params and params.get("explain"):
                added = self.explainer().explain(i, h, x)[0][steps - 1]
                names = [f"{kind}: {driver}" for kind, driver in self.explainer().names]
                part = pd.concat([part, pd.DataFrame(added, columns=pd.Index(names))], axis=1)
            part.index = group.index
            parts.append(part)
        return pd.concat(parts).sort_index() if parts else pd.DataFrame(self.table([]))


def outside(number, spans):
    """Whether each of the step numbers is outside of all `spans` (first, last); nothing is outside of none."""
    number = np.asarray(number, np.int64)
    inside = np.full(len(number), not len(spans))
    for first, last in spans:
        inside |= (number >= first) & (number <= last)
    return ~inside


def exposed_column(index):
    """The encoded column of the covariate that the target is proportional to, None without one."""
    name = index.get("exposure", "")
    if not name:
        return None
    place = index["known"].index(name)
    return sum(max(count, 1) for count in index["levels_of"][:place])


def per_exposure(y, code, ratio):
    """`y` per usual exposure, and `code`: a period without exposure says nothing of demand."""
    code = np.where(ratio > 0, code, MISSING).astype(np.int8)
    return np.where(ratio > 0, y / np.where(ratio > 0, ratio, 1.0), 0.0), code


def lags_of(conf):
    """How many of the newest values the autoregression looks at, and of how many of them the level is the mean."""
    m, tail = int(conf[SEASON]), int(conf[TAIL])
    lags = min(3 * m, 504) if m > 60 else m + 8 if m > 31 else (8 if m > 12 else 12 if m in (5, 7) else 5) * m
    return min(lags, tail), min(4 * m if m in (5, 7) else max(m, 4), lags, tail)


def scaled_lags(y, seen, span):
    """Values (series × lags) as the autoregression sees them, less their level and in its units; level and unit. The
    level is the mean of the newest `span` values; the unit is 0 where most of these sold nothing.
    """
    newest, n = np.where(seen, y, 0.0)[:, -span:], np.maximum(seen[:, -span:].sum(1), 1)
    level, unit = newest.sum(1) / n, np.where(2 * (newest != 0).sum(1) < n, 0.0, np.abs(newest).sum(1) / n)
    moved = (y - level[:, None]) / np.where(unit > 0, unit, np.inf)[:, None]
    return np.clip(np.where(seen, moved, 0.0), -FURTHEST, FURTHEST), level, unit


def put_autoregression(F, y, code, beta, span, own):
    """Put into `F` (series × candidates × steps) what the autoregression says of the periods after the last of `y` and
    `code` (series × periods), by coefficients `beta` (lags, oldest first, and a constant × steps) and within the bounds
    of each series; the medium smoothing where it was not learned (NaN), little was sold, or beyond its steps.
    """
    lags, steps = len(beta) - 1, min(F.shape[2], beta.shape[1])
    mine = F[:, FALLBACK_CANDIDATE].copy()
    if steps and len(F) and not math.isnan(beta[-1, 0]):
        X, level, unit = scaled_lags(y[:, -lags:], (code[:, -lags:] == OBSERVED) | (code[:, -lags:] == CLOSED), span)
        said = np.array([x @ beta[:-1, :steps] + beta[-1, :steps] for x in X])  # one by one: others change no bit
        said = np.clip(level[:, None] + unit[:, None] * said, own[:, LOW, None], own[:, HIGH, None])
        mine[:, :steps] = np.where((unit[:, None] > 0) & np.isfinite(said), said, mine[:, :steps])
    closed = (F[:, :BEFORE_LAGS] == 0.0).all(1)
    F[:, BEFORE_LAGS] = np.where(closed, 0.0, mine)


def networks_of(inputs, layers):
    """Networks as `add_networks` takes them from what is stored: `inputs` (2 + NETWORKS × WIDE rows of features:
    centre, deviation, weights) and `layers`; no neurons where they were not learned (NaN).
    """
    if not (np.isfinite(inputs).all() and np.isfinite(layers).all()):
        sizes = (2, inputs.shape[1]), (inputs.shape[1], 0), (0, 0), (1,)
        return tuple(np.zeros(size, np.float32) for size in sizes)
    start, weights, middle, last, end = np.split(
        layers, np.cumsum([WIDE, WIDE * NARROW, NARROW, NARROW]).tolist(), axis=1
    )
    second = np.zeros((NETWORKS, WIDE, NETWORKS, NARROW), np.float32)
    for k in range(NETWORKS):
        second[k, :, k] = weights[k].reshape(WIDE, NARROW)
    ends = [start.ravel(), middle.ravel(), last.ravel() / NETWORKS, end.mean(keepdims=True).ravel()]
    parts = inputs[:2], inputs[2:].T, second.reshape(NETWORKS * WIDE, -1), np.concatenate(ends)
    return tuple(np.array(part, np.float32, order="C") for part in parts)


def network_sizes(pools, features):
    """Sizes of what is stored of networks: inputs and layers."""
    return (pools, 2 + NETWORKS * WIDE, features), (pools, NETWORKS, LAYERS)


def has_hours(frequency, arrays):
    """Whether a pack's calendar has columns for the hours of the day beside a season that is longer than a day."""
    conf, day = arrays["conf"], np.array(["2024-01-01"], "datetime64[us]")
    if _unit(frequency) != "h":
        return True
    about = (frequency, int(conf[SEASON]), arrays["holiday_days"], arrays["holiday_slots"], int(conf[SLOTS]))
    return calendar(day, *about)[0].shape[1] == conf[CALENDAR]


def interval(point, spread, quantiles, nonnegative, horizon):
    """Bounds (h × levels × 2) around `point` (h,).

    `spread` = (dispersion, floor, growth): variance = dispersion × (μ + 0.05 μ²) with μ the forecast or at least the
    floor, growing with the step; `quantiles` (2 × levels) count standard deviations.
    """
    h = len(point)
    mu = np.maximum(np.abs(point), spread[1])
    sigma = np.sqrt(spread[0] * (mu + 0.05 * mu * mu)) * (1.0 + spread[2] * np.arange(h) / horizon)
    bounds = point[:, None, None] + sigma[:, None, None] * np.asarray(quantiles, float).reshape(1, -1, 2)
    if nonnegative:
        bounds = np.maximum(bounds, 0.0)
    # a point outside its own bounds (skewed residuals) moves the bound, never the point
    bounds[:, :, 0] = np.minimum(bounds[:, :, 0], point[:, None])
    bounds[:, :, 1] = np.maximum(bounds[:, :, 1], point[:, None])
    return bounds


# --- What a stored pack must be before anything is computed from it ---------------------------------------------------
MOST_STEPS = 10_000  # of a horizon, a season, or a tail
EARLIEST, LATEST = np.datetime64("0001-01-01", "us"), np.datetime64("9000-01-01", "us")
KINDS = {
    "conf": ("float64",), "tail_code": ("int8",), "root": ("int32",), "feature": ("int16", "int32"),
    "threshold": ("float32",), "left": ("int32",), "right": ("int32",), "value": ("float32",),
}  # fmt: skip


def check(index, arrays):
    """Raise ValueError that names what is wrong with a pack whose hashes are right.

    The compiled loops check no bounds: a place outside an array ends the process, a tree that runs in a circle never
    ends. So every shape follows from `index` and `conf`, and everything that is used as a place is within bounds.
    """
    _check_index(index)
    for name, array in arrays.items():
        if array.dtype.kind not in "biuf" or array.dtype.name not in KINDS.get(name, (array.dtype.name,)):
            raise ValueError(f"{name}.npy has numbers of the kind {array.dtype}, which is not what is stored there")
    _check_conf(arrays["conf"], index)
    _check_shapes(index, arrays)
    _check_places(index, arrays)
    _check_trees(arrays)


def _check_index(index):
    for name in ("series", "fallback", "known", "candidates", "pools"):
        if not isinstance(index[name], list | tuple) or not all(isinstance(text, str) for text in index[name]):
            raise ValueError(f"index.json: {name} is not a list of texts")
    for name in ("series", "known", "candidates", "pools"):
        if len(set(index[name])) < len(index[name]):
            raise ValueError(f"index.json: {name} holds a name twice")
    if len(index["fallback"]) != len(index["series"]):
        raise ValueError(f"index.json: {len(index['fallback'])} fallbacks for {len(index['series'])} series")
    names = index.get("holidays", [])
    if not isinstance(names, list | tuple) or not all(isinstance(name, str) for name in names):
        raise ValueError("index.json: holidays are not names")
    if tuple(index["candidates"][: len(CANDIDATES)]) != CANDIDATES:
        raise ValueError("index.json: candidates do not begin with those of this format")
    levels, levels_of = index["levels"], index["levels_of"]
    if not isinstance(levels, list | tuple) or not all(_whole(level, 1, 99) for level in levels):
        raise ValueError("index.json: levels are not whole numbers from 1 to 99")
    if not isinstance(levels_of, list | tuple) or not all(_whole(count, 0, 100_000) for count in levels_of):
        raise ValueError("index.json: levels_of are not counts")
    if len(levels_of) != len(index["known"]):
        raise ValueError(f"index.json: levels_of has {len(levels_of)} counts for {len(index['known'])} covariates")
    if not _whole(index["horizon"], 1, MOST_STEPS):
        raise ValueError(f"index.json: horizon {str(index['horizon'])[:20]} is not a number of steps")
    gaps = index.get("missing", [UNKNOWN_GAPS] * len(index["series"]))
    fits = isinstance(gaps, list | tuple) and len(gaps) == len(index["series"])
    if not fits or not all(isinstance(word, str) and len(word) == 7 and set(word) <= {"u", *GAPS} for word in gaps):
        raise ValueError("index.json: missing is not seven letters for each series")
    _check_open(index)
    _check_exposure(index)
    _check_frequency(index["frequency"])
    _check_slots(index["slots"], dict(zip(index["known"], levels_of)))
    _check_fitted(index)


def _check_open(index):
    """`open`: for each series its spans, first and last step number, in order."""
    spans = index.get("open", [[]] * len(index["series"]))
    if not isinstance(spans, list | tuple) or len(spans) != len(index["series"]):
        raise ValueError("index.json: open does not have spans for each series")
    for own in spans:
        pairs = isinstance(own, list | tuple) and all(isinstance(s, list | tuple) and len(s) == 2 for s in own)
        flat = [at for span in own for at in span] if pairs else []
        if not pairs or not all(_whole(at, -FAR, FAR) for at in flat) or flat != sorted(flat):
            raise ValueError("index.json: open does not have spans for each series")


def _whole(value, low, high):
    return isinstance(value, int) and not isinstance(value, bool) and low <= value <= high


def _check_frequency(frequency):
    try:
        day = np.array(["2024-02-29"], "datetime64[us]")
        stamps(step_number(day, frequency), frequency)
    except (ValueError, TypeError, KeyError, IndexError, AttributeError) as error:
        raise ValueError(f"index.json: frequency {str(frequency)[:20]!r} is not known") from error


def _check_slots(slots, levels_of):
    """`slots`: series → categorical covariate → text → column."""
    if not isinstance(slots, dict):
        raise ValueError("index.json: slots is not a table")  # noqa: TRY004  callers expect ValueError
    for series, columns in slots.items():
        for name, places in columns.items() if isinstance(columns, dict) else [("", None)]:
            most = levels_of.get(name, 0) - 1
            if not isinstance(places, dict) or not all(_whole(place, 0, most) for place in places.values()):
                raise ValueError(f"index.json: slots of series {series[:60]!r} do not fit its covariates")


def _check_fitted(index):
    """`fitted`: series → candidate → skops file and unit."""
    fitted, own = index.get("fitted", {}), set(index["candidates"][len(CANDIDATES) :])
    if not isinstance(fitted, dict) or not set(fitted) <= set(index["series"]):
        raise ValueError("index.json: fitted names series that are not in the pack")
    for series, models in fitted.items():
        if not isinstance(models, dict) or not set(models) <= own:
            raise ValueError(f"index.json: fitted of series {series[:60]!r} names unknown candidates")
        for entry in models.values():
            ok = isinstance(entry, list | tuple) and len(entry) == 2 and isinstance(entry[0], str)
            if not ok or not isinstance(entry[1], int | float) or not 0 < entry[1] < math.inf:
                raise ValueError(f"index.json: fitted of series {series[:60]!r} is not a file and a unit")


def _check_conf(conf, index):
    if conf.shape != (CONF_SIZE,) or not np.isfinite(conf).all() or (conf[: TAU + 4] <= 0).any():
        raise ValueError(f"conf.npy is not {CONF_SIZE} finite numbers")
    whole = conf[HALF:]
    if (whole != np.floor(whole)).any() or (whole < 0).any() or (whole > 1e6).any():
        raise ValueError("conf.npy holds a fraction or a negative number where a count is needed")
    if conf[HORIZON] != index["horizon"]:
        raise ValueError(f"conf.npy has horizon {conf[HORIZON]:g}, index.json {index['horizon']}")
    for place, name in ((SEASON, "season"), (YEAR, "year"), (TAIL, "tail")):
        if not 1 <= conf[place] <= MOST_STEPS:
            raise ValueError(f"conf.npy has {name} {conf[place]:g}, from 1 to {MOST_STEPS} are possible")
    if conf[HALF] > conf[REFERENCE]:
        raise ValueError("conf.npy: half a window is longer than what it is compared with")
    encoded = encoded_columns(index)
    columns = 1 + encoded + terms_of(encoded)
    if conf[COVARIATES] != columns:
        raise ValueError(f"conf.npy has {conf[COVARIATES]:g} covariate columns, those of index.json are {columns}")


def encoded_columns(index):
    """Columns that the known covariates of a pack become."""
    return sum(max(count, 1) for count in index["levels_of"])


def terms_of(encoded):
    """Places for terms in a pack with so many encoded columns."""
    return TERMS if encoded else 0


def _check_terms(terms, encoded):
    """`pool_terms`: kind, column a, column or number b, and a knot."""
    if not np.isfinite(terms).all() or (terms[..., :3] != np.floor(terms[..., :3])).any():
        raise ValueError("pool_terms.npy holds a fraction where a place is needed")
    kind, a, b = terms[..., 0], terms[..., 1], terms[..., 2]
    most = np.where(kind == PRODUCT, encoded - 1, 24)
    if ((kind < -1) | (kind > HOUR_COS) | (a < 0) | (a >= encoded) | (b < 0) | (b > most)).any():
        raise ValueError("pool_terms.npy names a column that is not there")


def _check_exposure(index):
    """`exposure`: the known covariate that the target is proportional to, "" for none."""
    name = index.get("exposure", "")
    if name and (name not in index["known"] or index["levels_of"][index["known"].index(name)]):
        raise ValueError(f"index.json: the exposure {str(name)[:60]!r} is not a number among the known covariates")


def _check_shapes(index, arrays):
    """Every size follows from the index and `conf`; None is any."""
    a, conf = arrays, arrays["conf"]
    n, q, own = len(index["series"]), len(index["pools"]), len(index["candidates"]) - len(CANDIDATES)
    m, k, slots, R = (int(conf[place]) for place in (SEASON, COVARIATES, SLOTS, TAIL))
    if a["holiday_days"].ndim != 1 or a["holiday_days"].shape != a["holiday_slots"].shape:
        raise ValueError("holiday_days.npy and holiday_slots.npy are not two columns of one length")
    if (a["holiday_slots"] >= max(slots, 1)).any() and slots:
        raise ValueError(f"holiday_slots.npy has a slot beyond the {slots} of conf.npy")
    about = (index["frequency"], m, a["holiday_days"], a["holiday_slots"], slots)
    day = np.array(["2024-01-01"], "datetime64[us]")
    about = (*about, has_hours(index["frequency"], arrays))
    nc, shape = calendar(day, *about)[0].shape[1], shape_features(day, *about).shape[1]
    if conf[CALENDAR] != nc:
        raise ValueError(f"conf.npy has {conf[CALENDAR]:g} calendar columns, its frequency and holidays make {nc}")
    p, e = width(nc, k), encoded_columns(index)
    wanted = {
        "cutoff": (n,), "state": (n, state_size(m, k, slots)), "tail_y": (n, R), "tail_code": (n, R),
        "coef": (n, 3, p), "smear": (n, 3), "own": (n, OWN_SIZE), "weights": (n, len(index["candidates"])),
        "factor": (n,), "fixed": (n,), "center": (n, None), "scale": (n, None), "log": (n, None), "binary": (n, k),
        "last_x": (n, e), "before_x": (n, e), "spread": (n, 3), "quantiles": (n, 2 * len(index["levels"])),
        "pool": (n,), "path": (n, own, None), "static": (n, None), "pool_shape": (q, shape), "pool_beta": (q, p),
        "root_count": (q,), "tree_count": (q,), "boosted_count": (q,), "pool_terms": (q, terms_of(e), 4),
        "closed_days": (n, CLOSED_DAYS), "pool_lags": (q, lags_of(conf)[0] + 1, index["horizon"]),
    }  # fmt: skip
    sizes = network_sizes(q, tree_width(p, k, a["static"].shape[1] if a["static"].ndim > 1 else 0))
    wanted["pool_inputs"], wanted["pool_layers"] = sizes
    for name, sizes in wanted.items():
        got = a[name].shape
        if len(got) != len(sizes) or any(size not in (None, there) for there, size in zip(got, sizes)):
            raise ValueError(f"{name}.npy has the shape {got}, needed {sizes}")
    _check_terms(a["pool_terms"], e)
    for name in ("center", "scale", "log"):
        if a[name].shape[1] < e:
            raise ValueError(f"{name}.npy has {a[name].shape[1]} columns for {e} of covariates")


def _check_places(index, arrays):
    """What says where something is, or when, is within bounds."""
    a, q = arrays, len(index["pools"])
    whole = "cutoff pool root_count tree_count boosted_count holiday_days holiday_slots closed_days"
    for name in whole.split():
        if a[name].dtype.kind not in "iu":
            raise ValueError(f"{name}.npy has numbers of the kind {a[name].dtype}, whole ones are needed")
    if len(a["pool"]) and not 0 <= a["pool"].min() <= a["pool"].max() < q:
        raise ValueError(f"pool.npy names a pool beyond the {q} of this pack")
    if len(a["tail_code"]) and not MISSING <= a["tail_code"].min() <= a["tail_code"].max() <= STOCK_OUT:
        raise ValueError("tail_code.npy has a code that is not known")
    if len(a["cutoff"]):
        ends = np.array([a["cutoff"].min(), a["cutoff"].max()], np.int64)
        if np.abs(ends).max() > 10**8 or not EARLIEST <= stamps(ends, index["frequency"]).min() <= LATEST:
            raise ValueError("cutoff.npy has a time beyond the calendar")
        if stamps(ends, index["frequency"]).max() > LATEST:
            raise ValueError("cutoff.npy has a time beyond the calendar")


def _check_trees(arrays):
    """Trees stand one after the other, parents before children, and ask for features that there are."""
    a, nodes = arrays, len(arrays["feature"])
    for name in TREES:
        if a[name].ndim != 1 or (name != "root" and len(a[name]) != nodes):
            raise ValueError(f"{name}.npy has the shape {a[name].shape}, the trees have {nodes} nodes")
    roots, counts, sizes = (a[name].astype(np.int64) for name in ("root", "root_count", "tree_count"))
    if (counts < 0).any() or (sizes < 0).any() or counts.sum() != len(roots) or sizes.sum() != nodes:
        raise ValueError("root_count.npy and tree_count.npy do not add up to the trees")
    if (a["boosted_count"] < 0).any() or (a["boosted_count"] > counts).any():
        raise ValueError("boosted_count.npy has more boosted trees than there are trees")
    if not nodes and not len(roots):
        return
    if not len(roots) or roots[0] != 0 or roots[-1] >= nodes or (np.diff(roots) <= 0).any():
        raise ValueError("root.npy: the trees do not stand one after the other")
    pool_end = np.cumsum(sizes)
    pool_of = np.repeat(np.arange(len(counts)), counts)
    if (roots < (pool_end - sizes)[pool_of]).any() or (roots >= pool_end[pool_of]).any():
        raise ValueError("root.npy: a tree is outside its pool")
    at = np.arange(nodes)
    end = np.append(roots[1:], nodes)[np.searchsorted(roots, at, side="right") - 1]
    inner = a["feature"] >= 0
    for name in ("left", "right"):
        child = a[name].astype(np.int64)
        if (inner & ((child <= at) | (child >= end))).any():
            raise ValueError(f"{name}.npy: a child is before its parent or outside its tree")
    features = tree_width(a["coef"].shape[2], int(a["conf"][COVARIATES]), a["static"].shape[1])
    if nodes and a["feature"].max() >= features:
        raise ValueError(f"feature.npy asks for feature {a['feature'].max()}, there are {features}")


# --- Reading ---------------------------------------------------------------------------------------------------------
def read(files, loops=None):
    """A pack from its files (name → bytes). Raises ValueError that names the file that is missing or damaged."""
    index = read_index(files)
    arrays = own_arrays(stored_arrays(files, index["sha256"]), index)
    return Pack(index, arrays, loops, fitted_files(index, files))


def read_index(files):
    """The index of a pack. Raises ValueError when it cannot be read, lacks a name, or is of another format."""
    if "index.json" not in files:
        raise ValueError("index.json is missing")
    try:
        index = json.loads(bytes(files["index.json"]).decode())
        lacking = sorted(set(INDEX) - set(index))
    except (ValueError, TypeError, RecursionError) as error:
        raise ValueError(f"index.json cannot be read: {error}") from error
    if index.get("format", FORMAT) != FORMAT:
        raise ValueError(f"index.json has format {index['format']!r}, this loader reads {FORMAT}")
    if lacking:
        raise ValueError(f"index.json lacks {', '.join(lacking)}")
    return index


def own_arrays(arrays, index):
    """The arrays of a pack (name → array) among `arrays`. Raises ValueError for one that is missing; see `check`."""
    n = len(index["series"])
    every = (*PER_SERIES, *SHARED, *PER_POOL, *TREES)
    names = index["candidates"]
    ours = isinstance(names, list | tuple) and tuple(names[: len(CANDIDATES)]) == CANDIDATES
    if not ours or index.get("own_size") != OWN_SIZE or not set(every) <= set(arrays):
        arrays = beside(BEFORE).completed(index, arrays)
    for name in every:
        if name not in arrays:
            raise ValueError(f"{name}.npy is missing")
        if name in PER_SERIES and arrays[name].shape[:1] != (n,):
            raise ValueError(f"{name}.npy has the shape {arrays[name].shape}, rows for {n} series are needed")
    arrays = {name: arrays[name] for name in every}
    check(index, arrays)
    return arrays


def stored_arrays(files, hashes):
    """The arrays (name → array) of the .npy files that `hashes` (file → sha256) names. Raises ValueError that names the
    file that is missing or damaged.
    """
    arrays = {}
    for file, wanted in hashes.items():
        if not file.endswith(".npy"):
            continue
        if file not in files:
            raise ValueError(f"{file} is missing")
        if hashlib.sha256(files[file]).hexdigest() != wanted:
            raise ValueError(f"{file} is not what was stored: its sha256 differs from the index")
        arrays[file[:-4]] = array_of(files[file], file).copy()  # read-only arrays would be compiled once more
    return arrays


def array_of(content, file):
    """The array of numbers in the content of an .npy file, as a view. Raises ValueError for any other kind of array."""
    import io

    head = io.BytesIO(bytes(content[:MOST_HEADER]))
    try:
        version = np.lib.format.read_magic(head)
        shape, by_column, kind = np.lib.format.read_array_header_1_0(head)
    except Exception as error:  # numpy hands a header to Python's own parsers, which raise what they like
        raise ValueError(f"{file} is not an array file: {error}") from error
    if version != (1, 0):
        raise ValueError(f"{file} is an array file of version {version}, this loader reads (1, 0)")
    if kind.kind not in "biuf" or kind.byteorder == ">" or (by_column and len(shape) > 1) or min(shape, default=0) < 0:
        raise ValueError(f"{file} is not a plain array of numbers")
    count, start = math.prod(shape), head.tell()
    if start + count * kind.itemsize != len(content):
        raise ValueError(f"{file} has {len(content) - start} bytes of numbers, {count * kind.itemsize} are needed")
    return np.frombuffer(content, kind, count, start).reshape(shape)


def fitted_files(index, files):
    """The skops files that `index` names, looked through. Raises ValueError that names file and series for one that is
    missing, not what was stored, or not on our list of trusted types.
    """
    blobs = {}
    for series, models in index.get("fitted", {}).items():
        for name, (file, _) in models.items():
            what = f"{file}, the {name} of series {series!r},"
            if file not in files:
                raise ValueError(f"{what} is missing")
            if hashlib.sha256(files[file]).hexdigest() != index["sha256"].get(file):
                raise ValueError(f"{what} is not what was stored: its sha256 differs from the index")
            try:
                beside(SKOPS_LOADER).check(bytes(files[file]))
            except ValueError as error:
                raise ValueError(f"{what} {error}") from error
            blobs[file] = files[file]
    return blobs


def beside(name):
    """The module `name` beside this one: what reads skops files, what explains forecasts."""
    import importlib

    home = __name__.rpartition(".")[0]
    return importlib.import_module(f"{home}.{name}" if home else name)


def _load_pyfunc(path):  # pyright: ignore[reportUnusedFunction] - by name
    """What MLflow calls: the pack in folder `path`."""
    folder = pathlib.Path(path)
    files = {file.name: file.read_bytes() for file in folder.iterdir() if file.suffix in (".npy", ".json", ".skops")}
    return read(files)
