"""What a new series will sell, from its relatives: the series that share a part of its key or an attribute with it.

`priors_of_new` gives each series a level that its own history has no part in, how many observations that level is
worth, and how far sales of new series were from such levels; `with_borrowed_history` puts a history of that level
before a series' own first days, so that the pooled candidates forecast it from the first day.
"""

from __future__ import annotations

import hashlib
import math
from collections import Counter
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, TypeVar

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from many_models.forecasting.attributes import values_of
from many_models.forecasting.calibration import shortest
from many_models.forecasting.gaps import meaning_of
from many_models.forecasting.pack import mm_pack_v1 as loader
from many_models.forecasting.panel import stamps_us, usual_columns
from many_models.forecasting.priors import LARGEST, priors_from
from many_models.forecasting.spec import Prior, rhythm
from many_models.keys import SeriesKey

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from numpy.typing import NDArray

    from many_models.forecasting.evaluation import Evaluation
    from many_models.forecasting.local_fit import PooledFit
    from many_models.forecasting.panel import Layout, Panel
    from many_models.forecasting.spec import Spec

_Number = TypeVar("_Number", np.float64, np.int8)

RECENT = {"h": 672, "D": 56, "W": 52, "M": 12, "Q": 4, "Y": 3}  # periods whose mean is a series' level
NEW = 14  # observations below which errors of a series' own say too little of the next one
FEWEST = 24  # series with a history from which effects of relatives are learned
FEWEST_TO_MEASURE = 4  # such series from which intervals of new ones are measured
FOLDS = 5  # a series' level is learned without its own fold, so that errors are those of new series
ROUNDS = 20
FURTHEST = 4.0  # times what is expected that one series may sell, as others learn from it
BY_SIZE = 0.5  # power of its expected size by which a series counts: volumes must be right, small series too
WORTHS = (0.5, 1.0, 2.0, 4.0, 8.0, 16.0)  # observations that a level may be worth
DOUBTS = (0.0, 1.0, 2.0)  # powers by which it is worth less the further a series' own observations are from it
LEAST = 0.001  # of a prior that a contradicting mean is taken for at least
LEAST_SCALE = 0.1  # of a prior that misses are measured in at least
NOTHING, NOWHERE = -0.999, -100.0  # a lower bound of no sale at all, in levels; and one that is cut at zero
SEEN = (0, 1, 2, 4, 8)  # own observations for which intervals are measured
VALUES = 28  # newest values of a series that say how far sales are from a level
BANDS = 4  # of predicted levels, each with its own intervals
LEAST_OF_A_BAND = 30  # series
QUIETEST = 0.2  # of a level that all series sell in a period, below which a sale says little of the level
NUMBERS = 8  # groups that a numeric attribute parts series into


def recent_periods(spec: Spec) -> int:
    """How many newest periods say what a series' level is."""
    return max(RECENT[rhythm(spec.frequency).unit], spec.steps_per_season)


def priors_of_new(
    values: Mapping[str, NDArray[np.float64]],
    parts: Mapping[str, Sequence[str]],
    keys: Sequence[str],
    spec: Spec,
    attributes: Mapping[str, Mapping[str, object]] | None = None,
) -> dict[str, Prior]:
    """The prior of each series of `parts` (its key's parts, named by `keys`).

    `values` holds the observations of the newest `recent_periods` of each series that has any, in order of time;
    `attributes` name → series → value. Levels are products of effects of what series share, each shrunk towards one,
    learned from series with a history. Where too few have one, the levels are those of `priors_from`, and so are the
    levels that intervals are measured from.
    """
    least = max(4, min(spec.steps_per_season, 14))
    plain = priors_from(
        {name: float(y.mean()) for name, y in values.items() if len(y)}, {name: parts[name] for name in values}, keys
    )
    names = sorted(name for name, y in values.items() if len(y) >= least and y.mean() > 0)
    everyone = sorted(parts)
    facts = _facts(everyone, parts, keys, attributes or {}, set(names))
    if len(names) < FEWEST or not facts:
        return _measured(plain, {name: values[name] for name in names}, least, spec)
    place = {name: i for i, name in enumerate(everyone)}
    at = np.array([place[name] for name in names], np.int64)
    y = [values[name] for name in names]
    levels = np.array([one.mean() for one in y])
    folds = np.array([int(hashlib.sha256(name.encode()).hexdigest()[:8], 16) % FOLDS for name in everyone])
    expected = np.zeros(len(everyone))
    for fold in range(FOLDS):
        learns = folds[at] != fold
        if learns.any():
            mine = np.flatnonzero(folds == fold)
            expected[mine] = _expected(levels[learns], [f[at[learns]] for f in facts], [f[mine] for f in facts])
    bands = np.searchsorted(_edges(expected[at]), expected)
    bands = np.minimum(bands, bands[at].max())  # where levels tie, the highest band may have no series to measure
    chance = _chance(y, bands[at])
    worth, doubt = _worth(y, expected[at], chance[bands[at]])
    priors = [Prior(float(expected[i]), "", worth, (), doubt, float(chance[bands[i]])) for i in range(len(everyone))]
    misses = _misses(y, [priors[i] for i in at.tolist()], bands[at], least, spec)
    origins = _origins(everyone, parts, keys, names, plain)
    return {
        name: replace(priors[i], origin=origins[name], misses=misses[int(bands[i])])
        for i, name in enumerate(everyone)
        if expected[i] > 0 and origins[name]
    }


def _measured(
    plain: Mapping[str, Prior], values: Mapping[str, NDArray[np.float64]], least: int, spec: Spec
) -> dict[str, Prior]:
    """The priors `plain` with what `values` of series with a history miss them by, each taken for new, if several do:
    the few observations of a new series say too little of the next one. No sale counts beyond LARGEST times its level.
    """
    names = [name for name in values if name in plain and plain[name].level > 0]
    if len(names) < FEWEST_TO_MEASURE:
        return dict(plain)
    y = [np.minimum(values[name], LARGEST * plain[name].level) for name in names]
    misses = _misses(y, [plain[name] for name in names], np.zeros(len(names), np.int64), least, spec)[0]
    return {name: replace(prior, misses=misses) for name, prior in plain.items()}


def _facts(
    names: Sequence[str],
    parts: Mapping[str, Sequence[str]],
    keys: Sequence[str],
    attributes: Mapping[str, Mapping[str, object]],
    known: set[str],
) -> list[NDArray[np.int64]]:
    """Groups of series (a number each; -1 for none) by each part of the key, each attribute, and pairs of these that
    still hold several series with a history (`known`).
    """
    words = [[parts[name][k] for name in names] for k in range(len(keys))]
    words += [_as_words([one.get(name) for name in names]) for _, one in sorted(attributes.items())]
    there = np.array([name in known for name in names])
    found = [_numbered(column) for column in words]
    for a in range(len(words)):
        for b in range(a + 1, len(words)):
            pair = _numbered([f"{x}\0{y}" if x and y else "" for x, y in zip(words[a], words[b], strict=True)])
            finer = max(len(np.unique(found[k][there])) for k in (a, b))
            if finer < len(np.unique(pair[there])) < 0.6 * there.sum():
                found.append(pair)
    return [one for one in found if 1 < len(np.unique(one[there])) < 0.9 * there.sum()]


def _as_words(values: Sequence[object]) -> list[str]:
    """An attribute as words, "" where unknown; numbers of many values by the eighth of series that they are in."""
    known = [v for v in values if _is_known(v)]
    if len(set(known)) <= NUMBERS or not all(isinstance(v, int | float) for v in known):
        return [str(v) if _is_known(v) else "" for v in values]
    edges = np.quantile(np.array(known, float), np.arange(1, NUMBERS) / NUMBERS)
    return [str(int(np.searchsorted(edges, float(str(v))))) if _is_known(v) else "" for v in values]


def _is_known(value: object) -> bool:
    return value is not None and not (isinstance(value, float) and math.isnan(value))


def _numbered(words: Sequence[str]) -> NDArray[np.int64]:
    place = {word: i for i, word in enumerate(sorted(set(words) - {""}))}
    return np.array([place.get(word, -1) for word in words], np.int64)


def _expected(
    levels: NDArray[np.float64], facts: Sequence[NDArray[np.int64]], of: Sequence[NDArray[np.int64]]
) -> NDArray[np.float64]:
    """Levels of the series with the groups `of`, as those with `levels` and groups `facts` say.

    Each group's effect is the ratio of what its series sell to what all other effects say, shrunk towards one by the
    ratio of the variance within groups to that between them (empirical Bayes), group by group until they settle. A
    group that none of these series is in has no effect.
    """
    levels = np.minimum(levels, FURTHEST * _usual(levels, facts))
    start = float(np.log(levels.mean()))
    eta, result = np.full(len(levels), start), np.full(len(of[0]), start)
    effects = [np.zeros(max(int(max(a.max(), b.max())) + 1, 1)) for a, b in zip(facts, of, strict=True)]
    for _ in range(ROUNDS):
        for k, group in enumerate(facts):
            there = group >= 0
            base = eta - np.where(there, effects[k][np.maximum(group, 0)], 0.0)
            weight = np.where(there, np.exp(BY_SIZE * (base - base.max())), 0.0)
            weight *= there.sum() / max(weight.sum(), 1e-300)
            ratio = np.minimum(levels / np.exp(base), FURTHEST)
            effects[k] = _shrunk(np.maximum(group, 0), weight, ratio, len(effects[k]))
            eta = base + np.where(there, effects[k][np.maximum(group, 0)], 0.0)
        size = np.exp(BY_SIZE * (eta - eta.max()))
        move = np.log((size * np.minimum(levels / np.exp(eta), FURTHEST)).sum() / size.sum())
        eta, result = eta + move, result + move
    for effect, group in zip(effects, of, strict=True):
        result += np.where(group >= 0, effect[np.maximum(group, 0)], 0.0)
    return np.exp(result)


def _usual(levels: NDArray[np.float64], facts: Sequence[NDArray[np.int64]]) -> NDArray[np.float64]:
    """Levels as medians of groups say (median polish, Tukey 1977), which no single series moves far."""
    rest = np.log(levels)
    middle = float(np.median(rest))
    rest = rest - middle
    for _ in range(4):
        for group in facts:
            order = np.lexsort((rest, group))
            names, starts, sizes = np.unique(group[order], return_index=True, return_counts=True)
            medians = np.where((sizes > 2) & (names >= 0), rest[order][starts + (sizes - 1) // 2], 0.0)
            rest = rest - medians[np.searchsorted(names, group)]
    return levels / np.exp(rest)


def _shrunk(
    group: NDArray[np.int64], weight: NDArray[np.float64], ratio: NDArray[np.float64], size: int
) -> NDArray[np.float64]:
    """Log of each group's mean `ratio`, shrunk towards one."""
    total, number = np.bincount(group, weight, size), np.bincount(group, weight > 0, size)
    there = total > 1e-9
    mean = np.where(there, np.bincount(group, weight * ratio, size) / np.maximum(total, 1e-9), 1.0)
    miss = np.minimum(ratio / np.maximum(mean[group], 1e-9) - 1.0, 3.0)
    within = max(float((weight * miss**2).sum()) / max(int((weight > 0).sum()) - int(there.sum()), 1), 1e-6)
    logs = np.log(np.maximum(mean, 0.05))
    between = float(np.mean((logs**2 - within / np.maximum(number, 1))[there])) if there.any() else 0.0
    worth = within / max(between, 1e-4 * within)
    return np.where(there, np.log((total * mean + worth) / (total + worth)), 0.0)


def _worth(
    y: Sequence[NDArray[np.float64]], expected: NDArray[np.float64], chance: NDArray[np.float64]
) -> tuple[float, float]:
    """(worth, doubt) of `Prior`: those with which the expected level and a few own observations say best what comes.

    A series counts by a power of its size, and no more than FURTHEST times what the median one does.
    """
    size = expected**BY_SIZE
    size = np.minimum(size, FURTHEST * np.median(size))
    missed = {(doubt, worth): 0.0 for doubt in DOUBTS for worth in WORTHS}
    for n in SEEN[1:]:
        some = [i for i, one in enumerate(y) if len(one) >= 2 * n]
        if not some:
            continue
        own, ahead = (
            np.array([part.mean() for part in parts])
            for parts in zip(*((y[i][:n], y[i][n:]) for i in some), strict=True)
        )
        level = expected[some]
        for doubt, worth in missed:
            said = _blended(own, np.full(len(some), n), level, np.full(len(some), worth), doubt, chance[some])
            off = np.minimum(np.abs(ahead - said) / np.maximum(level, 1e-300), FURTHEST)
            missed[doubt, worth] += float((off * size[some]).sum())
    doubt, worth = min(missed, key=lambda pair: (missed[pair], pair))
    return worth, doubt


def _chance(y: Sequence[NDArray[np.float64]], bands: NDArray[np.int64]) -> NDArray[np.float64]:
    """Of each band of levels, what chance makes of one observation: the median over series of their variance over the
    square of their mean.
    """
    of = np.array([one.var() / max(one.mean(), 1e-150) ** 2 for one in y])
    overall = float(np.median(of))
    return np.array([float(np.median(of[bands == k])) if (bands == k).any() else overall for k in range(BANDS)])


def _blended(
    own: NDArray[np.float64], n: NDArray[np.int64], level: NDArray[np.float64], worth: NDArray[np.float64],
    doubt: float, chance: NDArray[np.float64],
) -> NDArray[np.float64]:  # fmt: skip
    """Of each series the mean of its `own` mean of `n` observations and a `level`, see `level_of`."""
    if doubt:
        believed = (n * own + chance * level) / np.maximum((n + chance) * level, 1e-300)
        less = worth / (1.0 + np.log(np.maximum(believed, LEAST)) ** 2) ** doubt
        worth = np.where((own >= 0) & (level > 0), less, worth)  # returns say nothing of a level
    return (n * own + worth * level) / np.maximum(n + worth, 1e-12)


def _edges(expected: NDArray[np.float64]) -> NDArray[np.float64]:
    """Where bands of levels part, so that each has enough series."""
    bands = max(min(BANDS, len(expected) // LEAST_OF_A_BAND), 1)
    return np.quantile(expected, np.arange(1, bands) / bands)


def _misses(
    y: Sequence[NDArray[np.float64]], priors: Sequence[Prior], bands: NDArray[np.int64], needed: int, spec: Spec
) -> list[tuple[tuple[float, ...], ...]]:
    """Of each band, of each number of own observations in SEEN, the bounds (2 × levels) of (sale − level) / `_scale`,
    each series taken for new. `needed` as in `level_of`.
    """
    result = []
    for band in range(int(bands.max()) + 1):
        rows = list[tuple[float, ...]]()
        for n in SEEN:
            parts, nothing = [], []
            for i in np.flatnonzero(bands == band).tolist():
                rest = y[i][n:]
                if len(rest):
                    level = level_of(priors[i], y[i][:n], needed)
                    scale = _scale(priors[i], level)
                    parts.append((rest[np.linspace(0, len(rest) - 1, VALUES).astype(int)] - level) / scale)
                    nothing.append(np.full(VALUES, -level / scale if spec.nonnegative else -np.inf))
            r, zero = (np.concatenate(one) if one else np.zeros(1) for one in (parts, nothing))
            rows.append(tuple(v for level in spec.levels for v in shortest(r, zero, level / 100.0)))
        result.append(tuple(rows))
    return result


def _origins(
    everyone: Sequence[str],
    parts: Mapping[str, Sequence[str]],
    keys: Sequence[str],
    names: Sequence[str],
    plain: Mapping[str, Prior],
) -> dict[str, str]:
    """What each series' level comes from, in a word: the last part of the key that another series with a history has,
    "attributes" where none has.
    """
    have = set(names)
    holders = [Counter(parts[name][k] for name in names) for k in range(len(keys))]
    result = dict[str, str]()
    for name in everyone:
        own = name in have  # it is among the holders of its parts, and does not count
        shared = [k for k in reversed(range(len(keys))) if holders[k][parts[name][k]] > own]
        result[name] = plain[name].origin if name in plain else keys[shared[0]] if shared else "attributes"
    return result


def level_of(prior: Prior, own: NDArray[np.float64], needed: int) -> float:
    """The level of a series with these few `own` observations: a mean of them and the prior, by what each is worth.

    A prior that does not say what it is worth fills up to the observations that are `needed`. Where priors are often
    wrong, one that the series' own observations contradict counts less: it is worth 1 / (1 + z²) ^ doubt of what it
    was, as an observation far out weighs in a fit with Student's t (Lange, Little & Taylor 1989). z is the log of the
    own mean over the prior, the mean shrunk towards it as far as chance explains.
    """
    n = len(own)
    mean, level, worth = float(own.mean()) if n else 0.0, prior.level, prior.worth or max(needed - n, 0)
    mine = (np.array([mean]), np.array([n]), np.array([level]), np.array([worth]))
    return float(_blended(*mine, prior.doubt, np.array([prior.chance]))[0])


def _scale(prior: Prior, level: float) -> float:
    """What a series of this `level` is off by is measured in."""
    return max(level, LEAST_SCALE * prior.level, 1e-300)


def bounds_of(prior: Prior, observations: int, level: float) -> tuple[NDArray[np.float64], NDArray[np.float64]] | None:
    """Spread (3) and quantiles (2 × levels) of `mm_pack_v1.interval` that give the bounds of new series of this
    `level` with that many observations; None where the prior says nothing of them.
    """
    if not prior.misses or level <= 0:
        return None
    at = int(np.searchsorted(SEEN, observations, side="right")) - 1
    scale = _scale(prior, level)
    size = max(level, 0.2 * scale)
    dispersion = scale**2 / (size + 0.05 * size**2)  # one standard deviation is the scale
    quantiles = np.array(prior.misses[min(at, len(prior.misses) - 1)])
    quantiles[quantiles <= NOTHING] = NOWHERE  # also in a period of which more is forecast
    return np.array([dispersion, 0.2 * scale, 0.0]), quantiles


@dataclass(frozen=True)
class Borrower:
    """A new series (`row` of a panel), and the `level` of the history that it borrows."""

    row: int
    level: float


def profile_of(panel: Panel, origin: int, periods: int, recent: int) -> NDArray[np.float64]:
    """What series sell together in each of the newest `periods` up to place `origin`, over their level. Its mean over
    the `recent` ones is one.
    """
    begin = max(origin + 1 - periods, 0)
    profile = _profile(panel.y[:, begin : origin + 1], (panel.code == loader.OBSERVED)[:, begin : origin + 1])
    usual = float(profile[-recent:].mean()) if len(profile) else 0.0
    return profile / usual if usual > 0 else np.ones(len(profile))


def _profile(y: NDArray[np.float64], seen: NDArray[np.bool_]) -> NDArray[np.float64]:
    """The mean over series of sale / level in each period (`y` and `seen` are series × periods), ones where there is
    none. A series that sells much counts by the root of it.
    """
    y = np.where(seen, np.maximum(y, 0.0), 0.0)
    level = y.sum(1) / np.maximum(seen.sum(1), 1)
    weight = np.where(level > 0, 1.0 / np.sqrt(np.maximum(level, 1e-300)), 0.0)[:, None]
    base = (weight * level[:, None] * seen).sum(0)
    return np.where(base > 0, (weight * y).sum(0) / np.maximum(base, 1e-300), 1.0)


def own_level(panel: Panel, i: int, profile: NDArray[np.float64]) -> NDArray[np.float64]:
    """The observations of series `i` as they would have been in usual periods (see `recent_values`)."""
    whole = np.ones(max(panel.periods, len(profile)))
    if len(profile):
        whole[-len(profile) :] = np.maximum(profile, QUIETEST)
    seen = panel.code[i] != loader.MISSING
    return panel.y[i][seen] / whole[-panel.periods :][seen]


def with_borrowed_history(
    panel: Panel, layout: Layout, borrowers: Sequence[Borrower], profile: NDArray[np.float64]
) -> Panel:
    """The panel of the `borrowers` alone, each with a history of its level before its first period.

    The history has the `profile` of all series, whose last period is the panel's last, and known covariates as they
    are usual for the series. How far back the panel itself reaches, which other series decide, does not matter.
    """
    part = panel.take([one.row for one in borrowers])
    until = np.where((part.code != loader.MISSING).any(1), part.first, panel.periods)
    periods = max(len(profile), panel.periods - int(until.min()))
    start, number = panel.periods - periods, panel.number + panel.periods - periods
    ds = loader.stamps(number + np.arange(periods + part.x.shape[1] - panel.periods), layout.frequency)
    usual = usual_columns(part, layout)
    y, sold, x = (_from(one, start, value) for one, value in ((part.y, 0.0), (part.sold, np.nan), (part.x, 0.0)))
    code, first = _from(part.code, start, loader.MISSING), until - start
    for i, one in enumerate(borrowers):
        begin, end = periods - len(profile), int(first[i])
        if begin < end:
            y[i, begin:end], code[i, begin:end] = one.level * profile[: end - begin], loader.OBSERVED
            x[i, begin:end, : layout.encoded] = usual[i]
            first[i] = begin
    if layout.terms:
        x[:, :, layout.encoded : -1] = loader.derived(x[:, :, : layout.encoded], layout.terms, ds)
    return replace(part, number=number, y=y, code=code, x=x, first=first, ds=ds, sold=sold)


def _from(values: NDArray[_Number], start: int, fill: float) -> NDArray[_Number]:
    """`values` (series × periods …) from period `start` on; before the first one, where it is negative, `fill`."""
    before = np.full((len(values), max(-start, 0), *values.shape[2:]), fill, values.dtype)
    return np.concatenate([before, values[:, max(start, 0) :]], 1)


def give_models_to_new(
    evaluation: Evaluation, arrays: dict[str, NDArray[np.generic]], borrowers: Sequence[Borrower], names: Sequence[str]
) -> None:
    """Put into `arrays` of a pack, in place, what forecasts the `borrowers` from what all series learned.

    Their state is that of a series with a borrowed history; `names` are the candidates that `weights` has columns of.
    Without pooled models nothing changes.
    """
    from many_models.forecasting.local_fit import Group, fit_panel

    pooled, spec, layout = evaluation.pooled, evaluation.spec, evaluation.layout
    if pooled is None or not borrowers:
        return
    for _, (_, late), mine in pooled.fits_of([evaluation.panel.series[one.row] for one in borrowers]):
        some = [borrowers[k] for k in mine]
        profile = late.profile if len(late.profile) else pooled.late.profile
        if not some or not len(profile):
            continue
        part = with_borrowed_history(evaluation.panel, layout, some, profile)
        rows = np.array([one.row for one in some], np.int64)
        origin = np.array([part.periods - 1])
        everyone = Group(np.arange(len(rows)), None)
        fits = fit_panel(part, layout, spec, origin, late, static=evaluation.static[rows], only=everyone)
        kept = min(arrays["tail_y"].shape[1], part.periods)
        new: dict[str, NDArray[np.generic]] = {
            "state": fits.state,
            "own": fits.own,
            "coef": np.full_like(arrays["coef"][rows], np.nan),
            "fixed": np.full(len(rows), np.nan),
            "weights": _weights(late, names, len(rows)),
        }
        for name, values in new.items():
            arrays[name][rows] = values
        for name, values in (("tail_y", part.y), ("tail_code", part.code)):
            arrays[name][rows, -kept:] = values[:, -kept:]


def _weights(late: PooledFit, names: Sequence[str], rows: int) -> NDArray[np.float64]:
    """What forecasts a series without a history: what all series learned together, else its borrowed season."""
    chosen = ["seasonal_mean"] if not late.anything else ["pooled", *(["boosted"] if late.boosted else [])]
    weights = np.zeros((rows, len(names)))
    weights[:, [names.index(name) for name in chosen]] = 1.0 / len(chosen)
    return weights


def priors_of_rows(
    rows: pa.Table, keys: Sequence[str], spec: Spec, attributes: pa.Table | None = None
) -> dict[str, Prior]:
    """`priors_of_new` of all series in `rows` (series_id, ds, y), whose ids hold the parts named by `keys`.

    `attributes` (series_id and those of the spec) says what is known of the series, `rows` itself where it is None.
    """
    names = [str(name) for name in pc.unique(rows["series_id"]).to_pylist()]
    parts = {name: SeriesKey.parse(name, len(keys)).parts for name in names}
    facts = rows if attributes is None else attributes
    found = {name: values_of(facts, name) for name in spec.attributes if name in facts.column_names}
    return priors_of_new(recent_values(rows, spec), parts, keys, spec, found)


def recent_values(rows: pa.Table, spec: Spec) -> dict[str, NDArray[np.float64]]:
    """Series → what it sold in each of the newest `recent_periods` of `rows` since its first one, in order of time, as
    it would have been in a usual period: over what all series sold in that period against their level.

    A period without a row is left out, or zero where the spec says that it means so.
    """
    number = loader.step_number(stamps_us(rows["ds"]), spec.frequency)
    y = np.asarray(rows["y"].cast(pa.float64()).to_numpy(), np.float64)
    if not len(y):
        return {}
    end, recent = int(number.max()), recent_periods(spec)
    ids = np.asarray(rows["series_id"].to_numpy(zero_copy_only=False), object).astype(str)
    kept = np.isfinite(y) & (number > end - recent)
    names, series = np.unique(ids[kept], return_inverse=True)
    sold = np.full((len(names), recent), np.nan)
    sold[series, number[kept] - (end - recent + 1)] = y[kept]
    first = np.isfinite(sold).argmax(1)
    zero = np.array([meaning_of(str(name), spec) != "unknown" for name in names], bool)
    sold[np.isnan(sold) & (np.arange(recent) >= first[:, None]) & zero[:, None]] = 0.0
    usual = np.maximum(_profile(sold, np.isfinite(sold)), QUIETEST)
    return {str(name): (one / usual)[np.isfinite(one)] for name, one in zip(names, sold, strict=True)}
