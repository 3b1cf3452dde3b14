"""What the forecasts of a pack are made of, part by part; numpy only, travels inside the pack beside its loader.

Each candidate's forecast is g(base + what each driver adds), g being the way back to the series' units. A driver gets
its share of g(base + all) - g(base) in proportion to what it adds inside: the Aumann-Shapley value of a function of one
sum, so that parts add up exactly and keep their sign. Trees give to a split's driver what the split changes in the mean
of its node (path attribution, Saabas 2014). Drivers are measured from what is usual: a weekday from the mean of all, a
covariate from its usual value, a holiday from a plain day.
"""

# ruff: noqa: C901, PLR0912, PLR0915 - loops that numba compiles
from __future__ import annotations

import importlib
import math

import numpy as np

_HOME = __name__.rpartition(".")[0]
loader = importlib.import_module(f"{_HOME}.mm_pack_v1" if _HOME else "mm_pack_v1")  # what stands beside this file
season_of, is_closed, last_year, fill = loader.season_of, loader.is_closed, loader.last_year, loader.fill
back_to_scale, log_mean, recent_mean = loader.back_to_scale, loader.log_mean, loader.recent_mean
same_phase, fill_extra = loader.same_phase, loader.fill_extra
recent_level, fill_beside = loader.recent_level, loader.fill_beside
fill_course = loader.fill_course
smoothed_trend = loader.smoothed_trend
RAW, LOG, COUNT, DYNAMIC, EXTRA, BESIDE, FALLBACK_CANDIDATE = (
    loader.RAW, loader.LOG, loader.COUNT, loader.DYNAMIC, loader.EXTRA, loader.BESIDE, loader.FALLBACK_CANDIDATE,
)  # fmt: skip
SEASON, CALENDAR, COVARIATES, HORIZON, GAIN_SIZE = (
    loader.SEASON, loader.CALENDAR, loader.COVARIATES, loader.HORIZON, loader.GAIN_SIZE,
)  # fmt: skip
UNIT, ADDITIVE, LOW, HIGH, NONNEGATIVE, TESTED = (
    loader.UNIT, loader.ADDITIVE, loader.LOW, loader.HIGH, loader.NONNEGATIVE, loader.TESTED,
)  # fmt: skip

LEVEL, RECENT, DAY, WEEK, MONTH, YEAR, CALIBRATION, BOUNDS, CLOSED, SHAPE = range(10)
FIXED = 10  # places before those of holidays, of covariates, and of users' own forecasters
DRIVERS = (
    ("level", "level"),
    ("recent", "recent course"),
    ("season", "time of day"),
    ("season", "day of week"),
    ("season", "day of month"),
    ("season", "time of year"),
    ("calibration", "calibration"),
    ("bounds", "bounds"),
    ("closed", "closed"),
)
WAY = 20  # steps of the straight way on which networks are explained
LOOPS = ("put", "share", "path", "linear", "settle", "attribute")
USED = (
    "season_of", "is_closed", "last_year", "fill", "back_to_scale", "log_mean", "recent_mean", "same_phase",
    "fill_extra", "recent_level", "fill_beside", "fill_course", "smoothed_trend",
)  # fmt: skip
"""Of the loader; the package puts compiled ones in their place and compiles LOOPS."""


def put(a, value):
    """Write the array `value` to `a`, as a loop: numba takes seconds to compile an assignment between arrays."""
    for d in range(a.size):
        a[d] = value[d]


def share(a, con, base, way, smear, own, level):
    """Write to `a` the parts of g(base + sum of `con`): `level`, what drivers add, and the rest as recent course."""
    total = 0.0
    for d in range(con.size):
        total += con[d]
    g = back_to_scale(base, way, smear, own)
    v = back_to_scale(base + total, way, smear, own)
    if abs(total) > 1e-9:
        slope = (v - g) / total
    else:
        slope = (back_to_scale(base + 1e-6, way, smear, own) - back_to_scale(base - 1e-6, way, smear, own)) / 2e-6
    rest = v - level
    for d in range(con.size):
        a[d] = con[d] * slope
        rest -= a[d]
    a[LEVEL] += level
    a[RECENT] += rest
    return v


def path(X, con, part, root, feature, threshold, left, right, value):
    """Add to `con` what the splits on the way of `X` change in the means of nodes; the sum of the roots' means."""
    base = 0.0
    for r in range(root.size):
        node = root[r]
        base += value[node]
        while feature[node] >= 0:
            child = left[node] if X[feature[node]] <= threshold[node] else right[node]
            con[part[feature[node]]] += value[child] - value[node]
            node = child
    return base


def linear(X, con, beta, way, S, conf, own, part, C, Cref, x, xref, second, half, Z, wbar, f):
    """Write to `con` what each driver adds to the linear predictor, measured from what is usual; returns the predictor
    without it. Of what a covariate column says, its driver in `part` gets the rest of what the one in `second` gets,
    a share of `half`. `Z` says what drivers add to the shape that series share, `wbar` the mean of the season's
    feature.
    """
    nc = int(conf[CALENDAR])
    k = int(conf[COVARIATES])
    m = int(conf[SEASON])
    for d in range(con.size):
        con[d] = 0.0
    e = log_mean(S) if way == COUNT else 0.0
    for j in range(beta.size):
        e += X[j] * beta[j]
    size = 1.0
    if way == RAW and own[ADDITIVE] == 0.0:
        size = S[3]
    for j in range(nc):
        if part[j] != RECENT:
            con[part[j]] += beta[j] * (C[j] - Cref[j]) * size
    con[part[nc + 7]] += beta[nc + 7] * (X[nc + 7] - wbar)
    con[YEAR] += beta[nc + 8] * X[nc + 8]
    l2 = S[(4 + m) + 2] if way == LOG else 0.0
    c = nc + DYNAMIC
    for j in range(k):
        slope = (beta[c] + beta[c + 1]) * size + (beta[c + 2] * (l2 - 0.7) if way == LOG else beta[c + 2] * f * size)
        if j < k - 1:
            moved = slope * (x[j] - xref[j])
            con[part[c]] += moved * (1.0 - half[j])
            con[second[j]] += moved * half[j]
        else:
            for d in range(Z.size):
                con[d] += slope * Z[d]
        c += 3
    for d in range(con.size):
        e -= con[d]
    return e


def settle(con, Z):
    """Divide what trees say by the shared shape among the drivers of `Z`, and take from `con` what is no driver's: the
    level and the recent course, which it returns.
    """
    base = con[LEVEL] + con[RECENT]
    con[LEVEL] = 0.0
    con[RECENT] = 0.0
    size = 0.0
    for d in range(Z.size):
        size += abs(Z[d])
    if size > 0.0:
        for d in range(Z.size):
            con[d] += con[SHAPE] * abs(Z[d]) / size
    else:
        base += con[SHAPE]
    con[SHAPE] = 0.0
    return base


def attribute(
    S, y, code, P, o, ph, hol, C, x, binary, B, smear, conf, own, H, A, X, boosted, root, feature, threshold, left,
    right, value, parts, season, Cref, xref, second, half, Z, used,
):  # fmt: skip
    """Parts (candidates × H × drivers) of every candidate for the periods o + 1 … o + H, written to `A`.

    The first arguments are those of the loader's `forecast`. `parts` (H × features) says whose each feature is, of
    which the features of trees are some; `season` whose the phases are; `Cref` and `xref` (H × columns) what is usual
    of calendar columns and covariates; `second` and `half` (H × columns) as `linear` takes them; `Z` (H × drivers) what
    drivers add to the shape that series share. `value` has the mean of
    each inner node. Candidates that are not `used` may stay zero.
    """
    m = int(conf[SEASON])
    es = 2 * (4 + m) + 1
    tsb = es + m + 3
    unit = own[UNIT]
    p = B.shape[1]
    n = A.shape[0]
    D = A.shape[2]
    ly = np.zeros(3)
    two = np.zeros(2)
    con = np.zeros(D)
    mine = np.zeros(D)
    v = np.zeros(n)
    wbar = np.zeros(3)
    none = np.zeros(D)
    mean = recent_mean(y, code, o, conf)
    level = S[3]
    for i in range(m):
        level += S[4 + i] / m
        for way in range(2):
            wbar[way] += S[way * (4 + m) + 4 + i] / m
        low = 0.05 * math.exp(log_mean(S))
        wbar[COUNT] += math.log((max(S[2] + S[4 + i], 0.0) + 2.0 * low) / (max(S[2], 0.0) + 2.0 * low)) / m
    level *= unit
    if own[NONNEGATIVE] != 0.0:
        level = max(level, 0.0)
    trend, seasonal = np.zeros(H), np.zeros(H)
    trust = max(smoothed_trend(y, code, o, conf, own, trend, seasonal), 1.0 - own[TESTED])
    for i in range(H):
        t = o + 1 + i
        part = parts[i]
        last_year(P, o, t, conf, own, ly)
        same_phase(y, code, o, t, mean, conf, two)
        for c in range(n):
            put(A[c, i], none)
        f = min((i + 1) / conf[HORIZON], 1.0)
        v[0] = two[0]
        v[1] = mean
        v[2] = two[1]
        for c in range(3):
            A[c, i, LEVEL] = level
            A[c, i, RECENT] = mean - level
            A[c, i, season] += v[c] - mean
        w = season_of(S, ph[t], own, m, trust)
        for j in range(3):
            now = S[es + m + j] * unit
            v[3 + j] = now + w * unit if own[ADDITIVE] != 0.0 else now * w
            A[3 + j, i, LEVEL] = level
            A[3 + j, i, RECENT] = now - level
            A[3 + j, i, season] += v[3 + j] - now
        v[6] = S[tsb] * S[tsb + 1] * unit
        between = S[S.size - 3]
        v[7] = S[tsb + 1] / between * (1.0 - 0.5 * conf[GAIN_SIZE]) * unit if between > 0.0 else 0.0
        v[14] = trend[i]
        for c in (6, 7, 14):
            A[c, i, LEVEL] = level
            A[c, i, RECENT] = v[c] - level
        v[14] = trend[i] + seasonal[i] if own[ADDITIVE] != 0.0 else trend[i] * seasonal[i]
        A[14, i, season] += v[14] - trend[i]
        base = 0.0
        put(mine, none)
        filled = -1
        for row in range(4):
            way = min(row, COUNT)
            v[8 + row] = v[FALLBACK_CANDIDATE]
            put(A[8 + row, i], A[FALLBACK_CANDIDATE, i])
            under = row == COUNT or (row > COUNT and math.isnan(B[COUNT, 0]))  # what trees stand on
            if (used[8 + row] or used[12] or used[13]) and not math.isnan(B[row, 0]):
                if filled != way:
                    fill(X, S, way, ph[t], i + 1, C[t], x[t], ly, conf, own)
                    filled = way
                e = linear(
                    X, con, B[row], way, S, conf, own, part, C[t], Cref, x[t], xref[i], second, half[i], Z[i],
                    wbar[way], f,
                )  # fmt: skip
                if under:
                    base = e
                    put(mine, con)
                put(A[8 + row, i], none)
                v[8 + row] = share(A[8 + row, i], con, e, way, smear[row] if row < 3 else 1.0, own, level)
        v[12] = v[11]
        put(A[12, i], A[11, i])
        v[13] = v[11]
        put(A[13, i], A[11, i])
        if root.size > 0 and (used[12] or used[13]):
            b = COUNT if not math.isnan(B[COUNT, 0]) else COUNT + 1
            fill_extra(X, p, S, ph[t], hol[t], i + 1, mean, two[1], B[b], conf, own)
            now = recent_level(X, S, int(conf[CALENDAR]))
            beside = p + EXTRA + int(conf[COVARIATES])
            fill_beside(X, beside, now, mean, two[1], x[t], x[t - 1], conf, own)
            base += path(X, mine, part, root[: root.size - boosted], feature, threshold, left, right, value)
            base += settle(mine, Z[i])
            put(A[12, i], none)
            v[12] = share(A[12, i], mine, base, COUNT, 1.0, own, level)
            if boosted > 0 and used[13]:
                fill_course(X, P, y, code, o, t, mean, now, conf, own)
                put(mine, none)
                now += path(X, mine, part, root[root.size - boosted :], feature, threshold, left, right, value)
                now += settle(mine, Z[i])
                put(A[13, i], none)
                v[13] = share(A[13, i], mine, now, COUNT, 1.0, own, level)
        closed = is_closed(S, ph[t], hol[t], x[t], binary, conf)  # by weekday, flag, holiday, or day of the year
        for c in range(n):
            if not math.isfinite(v[c]):
                put(A[c, i], none)
                A[c, i, LEVEL] = level
                A[c, i, RECENT] = mean - level
                v[c] = mean
            if closed:
                A[c, i, CLOSED] = -v[c]
            else:
                A[c, i, BOUNDS] = min(max(v[c], own[LOW]), own[HIGH]) - v[c]


# --- Whose a feature is ----------------------------------------------------------------------------------------------
class Explainer:
    """Explains rows of `pack`; keeps what its series have in common."""

    def __init__(self, pack):
        self.pack = pack
        a, index = pack.arrays, pack.index
        self.conf = a["conf"]
        self.slots = int(self.conf[loader.SLOTS])
        self.known = FIXED + self.slots  # the place of the first covariate
        self.own = self.known + len(index["known"])  # and of the first of the users' forecasters
        self.n = self.own + len(index["candidates"]) - len(loader.CANDIDATES)
        self.encoded = np.array(
            [self.known + j for j, levels in enumerate(index["levels_of"]) for _ in range(max(levels, 1))], np.int64
        )
        self.names = self._names()
        self.value = node_means(a)
        self._usual = usual_calendar(index["frequency"], int(self.conf[loader.SEASON]), pack.hours)
        self._parts, self._shapes = {}, {}

    def _names(self):
        """(kind, driver) of each place."""
        index = self.pack.index
        holidays = [str(name) for name in index.get("holidays", ())][: self.slots]
        holidays += [f"holiday {s + 1}" for s in range(len(holidays), self.slots)]
        first = {}  # two slots of one name, a national day and a day that every shop keeps, are one driver
        for s, name in enumerate(holidays):
            first.setdefault(name, s)
        self.slot_places = np.array([FIXED + first[name] for name in holidays], np.int64)
        holidays = [name if first[name] == s else f"{name} ({s + 1})" for s, name in enumerate(holidays)]
        own = index["candidates"][len(loader.CANDIDATES) :]
        return [
            *DRIVERS, ("season", "shared shape"), *(("holiday", name) for name in holidays),
            *(("covariate", name) for name in index["known"]), *(("forecaster", name) for name in own),
        ]  # fmt: skip

    def season(self):
        """The place of what the phases of the season say."""
        m, unit = int(self.conf[loader.SEASON]), unit_of(self.pack.index["frequency"])
        if unit == "h":
            return DAY if m == 24 else WEEK
        return WEEK if unit in ("D", "B") and m in (5, 7) else YEAR

    def columns(self, ds, n):
        """Places (periods × n) of calendar columns, in the order of the loader's `calendar`; RECENT for the trend."""
        a, index = self.pack.arrays, self.pack.index
        unit, m = unit_of(index["frequency"]), int(self.conf[loader.SEASON])
        same = [self.season()] * (m - 1 if m <= 31 else 0)
        if unit == "h":
            same += [WEEK] * 6 + [DAY] * (23 if self.pack.hours and m > 31 else 0)
        if unit in ("h", "D", "B", "W"):
            same += [YEAR] * 8
        if unit in ("D", "B"):
            same += [MONTH] * 2 + [YEAR] * 2
        same.append(RECENT)
        out = np.zeros((len(ds), n), np.int64)
        out[:, : len(same)] = same
        days, slots = a["holiday_days"], a["holiday_slots"]
        if not self.slots or not len(days) or len(same) == n:
            return out
        out[:, len(same) : len(same) + self.slots] = self.slot_places
        day = ds.astype("datetime64[D]").astype(np.int64)
        if unit == "W":  # the first holiday of the week after
            near = np.clip(np.searchsorted(days, day + 1), 0, len(days) - 1)
            out[:, -1] = self.slot_places[slots[near]]
        else:
            for j, back in enumerate((1, 2, -1)):
                near = np.clip(np.searchsorted(days, day + back), 0, len(days) - 1)
                out[:, len(same) + self.slots + j] = self.slot_places[slots[near]]
        return out

    def covariates(self, pool):
        """The places of all covariate columns of a pool: those of encoded ones, of terms, of the shared shape; and the
        places of the second column of a product, the first one's for others.
        """
        terms = self.pack.arrays["pool_terms"][pool].astype(np.int64)
        made = self.encoded[terms[:, 1]] if len(terms) else np.zeros(0, np.int64)
        product = terms[:, 0] == loader.PRODUCT
        second = np.where(product, self.encoded[np.where(product, terms[:, 2], 0)], made) if len(terms) else made
        first = np.concatenate([self.encoded, made, [SHAPE]])
        return first, np.concatenate([self.encoded, second, [SHAPE]])

    def halves(self, pool, x, xref):
        """Of what columns `x` (h × columns) say against `xref`, the share of the second driver: of a product what it
        gets in the mean of both orders (Shapley value).
        """
        out, encoded = np.zeros(x.shape), len(self.encoded)
        for j, (kind, a, b, _) in enumerate(self.pack.arrays["pool_terms"][pool]):
            if kind == loader.PRODUCT:
                one, two = ((x[:, int(c)], xref[:, int(c)]) for c in (a, b))
                whole = one[0] * two[0] - one[1] * two[1]
                mine = 0.5 * (two[0] - two[1]) * (one[0] + one[1])
                out[:, encoded + j] = np.where(np.abs(whole) > 1e-9, mine / np.where(whole == 0, 1.0, whole), 0.0)
        return out

    def parts(self, pool, after, h):
        """Places (h × features) of every feature that linear models and trees of a pool see of the periods after
        `after`.
        """
        key = (int(pool), int(after), int(h))
        if key not in self._parts:
            if len(self._parts) > 64:
                self._parts.clear()
            ds, _, hol, _ = self.pack.calendar(after, h)
            nc, k = int(self.conf[loader.CALENDAR]), int(self.conf[loader.COVARIATES])
            p = loader.width(nc, k)
            beside = p + loader.EXTRA + k
            width = loader.tree_width(p, k, self.pack.arrays["static"].shape[1])
            out = np.full((h, width), RECENT, np.int64)
            out[:, :nc] = self.columns(ds, nc)
            season = self.season()
            out[:, [nc + 7, p, p + 5, p + 8, beside + 2]] = season
            same = width - loader.COURSE + loader.NEWEST
            out[:, same : same + loader.SAME_PHASE + 1] = season
            out[:, nc + 8] = YEAR
            out[:, p + 7] = np.where(hol >= 0, self.slot_places[np.maximum(hol, 0)], RECENT) if self.slots else RECENT
            covariates = self.covariates(pool)[0]
            out[:, nc + loader.DYNAMIC : p] = np.repeat(covariates, 3)
            out[:, p + loader.EXTRA : beside] = covariates
            out[:, beside + loader.BESIDE : beside + loader.BESIDE + k] = covariates
            self._parts[key] = out
        return self._parts[key]

    def shape(self, pool, after, h):
        """What each driver adds (h × drivers) to the shape that series of a pool share, measured from what is usual."""
        key = (int(pool), int(after), int(h))
        if key not in self._shapes:
            if len(self._shapes) > 64:
                self._shapes.clear()
            a, index = self.pack.arrays, self.pack.index
            ds = self.pack.calendar(after, h)[0]
            features = loader.shape_features(
                ds, index["frequency"], int(self.conf[loader.SEASON]), a["holiday_days"], a["holiday_slots"],
                self.slots, self.pack.hours,
            )  # fmt: skip
            beta = a["pool_shape"][pool].astype(float)
            nc = int(self.conf[loader.CALENDAR])
            usual = np.zeros(features.shape[1])
            plain = self._usual
            calendar = min(len(plain[0]), nc)
            usual[:calendar] = plain[0][:calendar]
            usual[nc:] = plain[1]
            places = np.full((h, features.shape[1]), YEAR, np.int64)
            places[:, :nc] = self.columns(ds, nc)
            Z = np.zeros((h, self.n))
            added = (features - usual) * beta
            for s in range(h):
                np.add.at(Z[s], places[s], added[s])
            Z[:, RECENT] = 0.0  # a trend is no season
            self._shapes[key] = Z
        return self._shapes[key]

    def reference(self):
        """What is usual of each calendar column: its mean over years, none of holidays."""
        nc = int(self.conf[loader.CALENDAR])
        out = np.zeros(nc)
        plain = self._usual[0]
        out[: len(plain)] = plain
        return out

    def candidates(self, i, h, x, fresh=None, used=None):
        """Parts (candidates × h × drivers) of row `i`, its forecasts (candidates × h) and its bounds; see the loader's
        `candidates`. A user's own forecaster is one part. Of candidates that are not `used` there may be none.
        """
        pack, a = self.pack, self.pack.arrays
        args, now = pack.inputs(i, h, x, fresh)
        pool, X = int(a["pool"][i]), pack.room(i, h)
        F, own = pack.candidates(i, h, x, fresh, args, X)
        A = np.zeros((len(loader.CANDIDATES), h, self.n))
        xref = pack.columns(np.tile(a["last_x"][i].astype(float), (h, 1)), pool, now)
        half = self.halves(pool, pack.columns(x, pool, now), xref)
        usual = self.reference(), xref, self.covariates(pool)[1], half, self.shape(pool, now, h)
        used = np.ones(len(F), bool) if used is None else used
        trees = [*pack.trees(pool)[:-1], self.value]
        attribute(*[*args, h, A, pack.room(i)[0], *trees, self.parts(pool, now, h), self.season(), *usual, used])
        self._autoregression(A, F, args)
        if used[loader.BEFORE_NETWORK]:
            self._network(A, F, args, X, pack.networks(pool), self.parts(pool, now, h), usual[-1])
        mine = np.zeros((len(F) - len(A), h, self.n))
        for c in range(len(mine)):
            mine[c, :, self.own + c] = F[len(A) + c]
        return np.concatenate([A, mine]), F, own

    def _autoregression(self, A, F, args):
        """Put into `A` the parts of the autoregression: what the usual season makes of it, and the rest as recent
        course from the level that all candidates share.
        """
        S, o, ph, own = args[0], args[4], args[5], args[-1]
        c, m = loader.BEFORE_LAGS, int(self.conf[loader.SEASON])
        for i, v in enumerate(F[c]):
            if A[1, i, CLOSED] != 0.0:
                A[c, i] = A[1, i]
                continue
            w = season_of(S, ph[o + 1 + i], own, m, 1.0)
            now = v - w * own[UNIT] if own[ADDITIVE] != 0.0 else v / w if w > 0.0 else v
            level = A[1, i, LEVEL]
            A[c, i] = 0.0
            A[c, i, LEVEL], A[c, i, RECENT], A[c, i, self.season()] = level, now - level, v - now

    def _network(self, A, F, args, X, networks, parts, Z):
        """Put into `A` the parts of the networks: what each feature of `X` adds (see `along_the_way`) goes to its
        driver in `parts`, and what they say of the shared shape to those of `Z`.
        """
        S, own, c = args[0], args[-1], loader.BEFORE_NETWORK
        if not networks[1].size or not (F[c] != F[FALLBACK_CANDIDATE]).any():
            A[c] = A[FALLBACK_CANDIDATE]
            return
        for i, v in enumerate(F[c]):
            if A[1, i, CLOSED] != 0.0:
                A[c, i] = A[1, i]
                continue
            con, level = np.zeros(self.n), A[1, i, LEVEL]
            added, base = along_the_way(X[i], *networks)
            np.add.at(con, parts[i], added)
            base += recent_level(X[i], S, int(self.conf[CALENDAR])) + settle(con, Z[i])
            A[c, i] = 0.0
            A[c, i, BOUNDS] = v - share(A[c, i], con, base, COUNT, 1.0, own, level)

    def explain(self, i, h, x, fresh=None):
        """Parts (h × drivers) of the forecast of row `i`, its point forecast (h,), and the forecasts of its candidates
        (candidates × h), none where the forecast is fixed. Parts add up to the forecast.
        """
        a = self.pack.arrays
        out = np.zeros((h, self.n))
        ratio = self.pack.exposure(x)
        shut = self.pack.shut_ahead(i, h, fresh)
        if math.isfinite(a["fixed"][i]):
            out[:, LEVEL] = np.where(shut, 0.0, float(a["fixed"][i]))
            return self._exposed(out, ratio), out[:, LEVEL] * ratio, np.zeros((0, h))
        weights = a["weights"][i].astype(float)
        A, F, own = self.candidates(i, h, x, fresh, weights != 0.0)
        point = np.where(shut, 0.0, self.pack.point(i, F, own))
        used = np.flatnonzero(weights)
        out += np.tensordot(weights[used], A[used], 1)
        blended = weights @ F
        factor = float(a["factor"][i])
        out[:, CALIBRATION] += (factor - 1.0) * blended
        out[:, BOUNDS] += point - factor * blended
        return self._exposed(out, ratio), point * ratio, F * ratio

    def _exposed(self, parts, ratio):
        """`parts` (h × drivers) at the usual exposure, and what the exposure of each period adds to them."""
        if self.pack.exposed is not None:
            parts = parts.copy()
            parts[:, self.encoded[self.pack.exposed]] += (ratio - 1.0) * parts.sum(1)
        return parts


def along_the_way(row, usual, *networks):
    """What each feature of `row` adds to the mean of networks, and what they say of usual features: integrated
    gradients (Sundararajan et al. 2017) on the straight way from what is usual, scaled so that they add up exactly.
    """
    z = np.where(np.abs(row) < loader.UNKNOWN, (row - usual[0]) * usual[1], 0.0)
    z = np.clip(z, -loader.UNUSUAL, loader.UNUSUAL)
    base, said = (network_at(far * z, *networks)[0] for far in (0.0, 1.0))
    added = z * sum(network_at((step + 0.5) / WAY * z, *networks)[1] for step in range(WAY)) / WAY
    size, left = np.abs(added).sum(), said - base - added.sum()  # what the steps leave out goes where most is added
    return (added + left * np.abs(added) / size, base) if size > 0.0 else (added, said)


def network_at(z, first, second, ends):
    """What networks say of scaled features `z`, and their slopes there; see the loader's `add_networks`."""
    wide, narrow = second.shape
    start, middle, last = ends[:wide], ends[wide : wide + narrow], ends[wide + narrow : -1]
    one = z @ first + start
    two = np.maximum(one, 0.0) @ second + middle
    return np.maximum(two, 0.0) @ last + ends[-1], first @ ((second @ (last * (two > 0))) * (one > 0))


def unit_of(frequency):
    """The unit of a frequency: h, D, B, W, M, Q or Y."""
    return loader._unit(frequency)  # noqa: SLF001  of the file beside this one


_usual_calendars = {}


def usual_calendar(frequency, season, hours):
    """Means over four years of calendar columns, and of what a shared shape has more; holidays have none, and the trend
    is left at zero.
    """
    key = (frequency, season, hours)
    if key not in _usual_calendars:
        none = np.zeros(0, np.int64)
        first = loader.step_number(np.array(["2021-01-01"], "datetime64[us]"), frequency)[0]
        last = loader.step_number(np.array(["2025-01-01"], "datetime64[us]"), frequency)[0]
        ds = loader.stamps(np.arange(first, last), frequency)
        nc = loader.calendar(ds[:1], frequency, season, none, none, 0, hours)[0].shape[1]
        means = loader.shape_features(ds, frequency, season, none, none, 0, hours).mean(0)
        means[nc - 1] = 0.0
        _usual_calendars[key] = means[:nc], means[nc:]
    return _usual_calendars[key]


def node_means(arrays):
    """The value of each node of the trees, inner ones included: as stored, or where packs from before store none the
    mean of both children.
    """
    feature, value = arrays["feature"], arrays["value"].astype(np.float64)
    inner = feature >= 0
    if not inner.any() or value[inner].any():
        return value
    for node in np.flatnonzero(inner)[::-1]:  # children stand after their parents
        value[node] = 0.5 * (value[arrays["left"][node]] + value[arrays["right"][node]])
    return value
