"""What series learn together: a shape of the calendar, coefficients to believe in, trees, and how to combine.

Learned on a deterministic sample, never inside a pack, so that a series trained alone gets what it gets in a full run.
"""

from __future__ import annotations

import hashlib
import json
import os
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import TYPE_CHECKING, Any, cast

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from many_models.errors import InputError, IntegrityError
from many_models.forecasting.attributes import Attributes, learn_attributes
from many_models.forecasting.autoregression import learn_lags
from many_models.forecasting.calibration import Evidence, gather_evidence, no_evidence
from many_models.forecasting.custom.pooled import Brought, fit_over_all
from many_models.forecasting.evaluation import evaluate, least
from many_models.forecasting.local_fit import (
    NO_TREES,
    PooledFit,
    fit_panel,
    learned_at,
    nothing_shared,
    own_numbers,
    training_steps,
)
from many_models.forecasting.networks import learn_networks
from many_models.forecasting.new_items import profile_of, recent_periods
from many_models.forecasting.pack import mm_pack_v1 as loader
from many_models.forecasting.pack.array_files import array_files, sha256_of
from many_models.forecasting.pack.mm_before_v1 import moved_features
from many_models.forecasting.pack.mm_sklearn_v1 import SUFFIX
from many_models.forecasting.panel import Layout, Panel, build, layout_of
from many_models.forecasting.pooled_fit import Moments, coefficients
from many_models.forecasting.screening import reasons_not_to_learn_from
from many_models.forecasting.spec import Spec, rhythm
from many_models.forecasting.terms import Choice, choose, words_of
from many_models.forecasting.trees import grow
from many_models.keys import SeriesKey

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence
    from datetime import datetime

    from numpy.typing import NDArray

    from many_models.forecasting.trees import TreeRows

TREE_ROWS = 200_000
LEAST_TREE_ROWS = 2_000
MOST_SERIES = 400

CUSTOM_SERIES = 40  # of them, the first by `sample_of`, for users' own forecasters of one series: they may take seconds


@dataclass(frozen=True)
class PooledModels:
    """What was learned together: `early` before the backtest windows, `late` at the cutoff, and the `evidence`.

    `groups` has early and late of each group that had enough to learn from; others take those of all series.
    `attributes` says how attributes of series become numbers, `left_out` which series of the sample taught the others
    nothing, and why, `choice` which known covariates are used and how their effects bend, `brought` users' regressors
    that were trained over all series.
    """

    spec: Spec
    early: PooledFit
    late: PooledFit
    evidence: Evidence
    groups: Mapping[str, tuple[PooledFit, PooledFit]] = field(default_factory=dict[str, "tuple[PooledFit, PooledFit]"])
    attributes: Attributes = field(default_factory=Attributes)
    left_out: Mapping[str, str] = field(default_factory=dict[str, str])
    choice: Choice = field(default_factory=Choice)
    brought: Mapping[str, Brought] = field(default_factory=dict[str, Brought])

    def layout(self, rows: pa.Table, spec: Spec) -> Layout:
        """The layout of models of `spec` over `rows` that use what was chosen."""
        return layout_of(spec, rows).reduced(self.choice.dropped, self.choice.terms)

    def bends(self) -> list[str]:
        """How effects of known covariates bend, in words."""
        return sorted({words_of(term, self.choice.columns) for term in self.choice.terms})

    def fits_of(self, series: Sequence[str]) -> list[tuple[str, tuple[PooledFit, PooledFit], NDArray[np.int64]]]:
        """What `series` learned: the group's name ("" for all), its early and late, and the places of its series."""
        names = [group_of(one, self.spec) for one in series]
        names = [name if name in self.groups else "" for name in names]
        places = {name: np.flatnonzero([other == name for other in names]) for name in sorted(set(names))}
        return [(name, self.groups.get(name, (self.early, self.late)), rows) for name, rows in places.items()]

    @property
    def hash(self) -> str:
        """16 hex digits of the content, by which trained models refer to it."""
        return hashlib.sha256(b"".join(k.encode() + v for k, v in self.files().items())).hexdigest()[:16]

    def known_at(self, spec: Spec, cutoff: datetime) -> bool:
        """Whether nothing of it was learned after `cutoff`, or after the first of the backtest windows before it."""
        end = int(loader.step_number(np.array([cutoff], "datetime64[us]"), spec.frequency)[0])
        return self.late.cutoff <= end and self.early.cutoff <= end - spec.windows * spec.horizon

    def files(self) -> dict[str, bytes]:
        """The content as files: pooled.json and one .npy an array; the same bytes for the same content."""
        arrays: dict[str, NDArray[np.generic]] = {
            "moments": self.evidence.moments,
            "factor": self.evidence.factor,
            "quantiles": self.evidence.quantiles,
            "growth": self.evidence.growth,
        }
        for when, shared in self._named():
            arrays |= {f"{when}_shape": shared.shape, f"{when}_beta": shared.beta, f"{when}_profile": shared.profile}
            arrays |= {f"{when}_lags": shared.lags, f"{when}_inputs": shared.inputs, f"{when}_layers": shared.layers}
            arrays |= {f"{when}_{name}": tree for name, tree in zip(loader.TREES, shared.trees, strict=True)}
        files = array_files(arrays)
        for name, one in sorted(self.brought.items()):
            files |= {
                f"{name}_{when}{SUFFIX}": data for when, data in (("early", one.early), ("late", one.late)) if data
            }
        about = {
            "spec": self.spec.to_json(),
            "cutoffs": [shared.cutoff for _, shared in self._named()],
            "strengths": [list(shared.strength) for _, shared in self._named()],
            "groups": sorted(self.groups),
            "attributes": self.attributes.levels,
            "left_out": dict(self.left_out),
            "problems": [shared.problem for _, shared in self._named()],
            "boosted": [shared.boosted for _, shared in self._named()],
            "terms": [list(term) for term in self.choice.terms],
            "dropped": dict(self.choice.dropped),
            "columns": list(self.choice.columns),
            **({"brought": {name: one.problem for name, one in self.brought.items()}} if self.brought else {}),
            "sha256": sha256_of(files),
        }
        files["pooled.json"] = json.dumps(about, sort_keys=True).encode()
        return dict(sorted(files.items()))

    def _named(self) -> list[tuple[str, PooledFit]]:
        """Everything that was learned, by the heads of its files' names."""
        own = [self.groups[name] for name in sorted(self.groups)]
        pairs = [(f"{k:04d}_", pair) for k, pair in enumerate(own)]
        return [
            (f"{head}{when}", shared)
            for head, pair in [("", (self.early, self.late)), *pairs]
            for when, shared in zip(("early", "late"), pair, strict=True)
        ]

    @classmethod
    def from_files(cls, files: Mapping[str, bytes]) -> PooledModels:
        """The inverse of `files`. Raises IntegrityError that names the file that is missing or damaged."""
        try:
            about = json.loads(files["pooled.json"])
            arrays = loader.stored_arrays(files, about["sha256"])
            shared = [
                PooledFit(cutoff, cast("NDArray[np.float64]", arrays[f"{when}_shape"]),
                       cast("NDArray[np.float64]", arrays[f"{when}_beta"]), tuple(strength),
                       tuple(arrays[f"{when}_{name}"] for name in loader.TREES), problem, boosted,
                       cast("NDArray[np.float64]", arrays.get(f"{when}_profile", np.zeros(0))),
                       *(cast("NDArray[np.float32]", arrays.get(f"{when}_{name}", np.zeros((0, 0), np.float32)))
                         for name in ("lags", "inputs", "layers")))
                for when, cutoff, strength, problem, boosted in zip(
                    _heads(about["groups"]), about["cutoffs"], about["strengths"], _problems(about),
                    about.get("boosted", [0] * len(about["cutoffs"])), strict=True)
            ]  # fmt: skip
            spec = Spec.from_json(about["spec"])
            if "boosted" not in about:
                shared = [_from_before(one, spec) for one in shared]
            groups = dict(zip(about["groups"], pairwise_of(shared[2:]), strict=True))
            levels = {name: None if words is None else tuple(words) for name, words in about["attributes"].items()}
            parts = [cast("NDArray[np.float64]", arrays[name]) for name in ("moments", "factor", "quantiles", "growth")]
            parts[0] = _with_later_candidates(parts[0], spec)
            return cls(
                spec,
                shared[0],
                shared[1],
                Evidence(*parts),
                groups,
                Attributes(levels),
                about.get("left_out", {}),
                _choice(about),
                _brought(about, files),
            )
        except (KeyError, ValueError, TypeError) as error:
            raise IntegrityError(f"pooled models cannot be read: {error}; fetch them again") from error


def _from_before(shared: PooledFit, spec: Spec) -> PooledFit:
    """What was learned before there were boosted trees: features that trees see are numbered otherwise now."""
    layout = Layout(spec.frequency, spec.steps_per_season, spec.horizon, spec.known, (), spec.country, spec.holidays)
    p, nc = shared.beta.shape[1], int(layout.conf()[loader.CALENDAR])
    feature = moved_features(np.asarray(shared.trees[1]), p, (p - nc - loader.DYNAMIC) // 3)
    return replace(shared, trees=(shared.trees[0], feature, *shared.trees[2:]))


def _with_later_candidates(moments: NDArray[np.float64], spec: Spec) -> NDArray[np.float64]:
    """Moments of files from before the newest built-in candidates: as of candidates that were not tried."""
    lacking = len(spec.every_candidate) - moments.shape[1] if len(moments) else 0
    for place in range(len(loader.CANDIDATES) - lacking, len(loader.CANDIDATES)):
        moments = np.insert(np.insert(moments, place, 10.0, axis=1), place, 10.0, axis=2)
    return moments


def _choice(about: Mapping[str, Any]) -> Choice:
    """What was chosen of known covariates; in files from before that, all of them and no terms."""
    terms = tuple((int(kind), int(a), int(b), float(knot)) for kind, a, b, knot in about.get("terms", ()))
    return Choice(terms, about.get("dropped", {}), tuple(about.get("columns", ())))


def _brought(about: Mapping[str, Any], files: Mapping[str, bytes]) -> dict[str, Brought]:
    """Users' regressors among `files`. Raises ValueError that names the one that is missing or damaged."""
    result: dict[str, Brought] = {}
    for name, problem in about.get("brought", {}).items():
        parts: list[bytes] = []
        for file in () if problem else (f"{name}_early{SUFFIX}", f"{name}_late{SUFFIX}"):
            if hashlib.sha256(files.get(file, b"")).hexdigest() != about["sha256"].get(file):
                raise ValueError(f"{file} is missing, or not what was stored")
            parts.append(bytes(files[file]))
        result[name] = Brought(*parts, problem=problem)
    return result


def _problems(about: Mapping[str, Sequence[str]]) -> Sequence[str]:
    """What went wrong in each fit; files from before there were such words say nothing."""
    return about.get("problems", [""] * len(about["cutoffs"]))


def _heads(groups: Sequence[str]) -> list[str]:
    return [f"{head}{when}" for head in ["", *(f"{k:04d}_" for k in range(len(groups)))] for when in ("early", "late")]


def pairwise_of(shared: Sequence[PooledFit]) -> list[tuple[PooledFit, PooledFit]]:
    """Early and late, in pairs."""
    return list(zip(shared[::2], shared[1::2], strict=True))


def group_of(series: str, spec: Spec) -> str:
    """The group that a series learns in: the id of those parts of its key that `spec.pool_by` names."""
    if not spec.pool_by:
        return ""
    parts = SeriesKey.parse(series).parts
    return SeriesKey(tuple(parts[i] for i in spec.pool_by if i < len(parts))).escaped_id


def sample_of(series: Iterable[str], size: int, spec: Spec) -> list[str]:
    """At most `size` of `series`, always the same ones: the smallest hashes, of each group in turn."""
    ranked = sorted(series, key=lambda name: hashlib.sha256(name.encode()).digest())
    if not spec.pool_by:
        return ranked[:size]
    turn: dict[str, int] = {}
    order: list[tuple[int, int]] = []
    for place, name in enumerate(ranked):
        group = group_of(name, spec)
        order.append((turn.get(group, 0), place))
        turn[group] = turn.get(group, 0) + 1
    return [ranked[place] for _, place in sorted(order)[:size]]


def pool(
    rows: pa.Table, spec: Spec, cutoff: datetime, *, sample: int = MOST_SERIES, trees: bool = True
) -> PooledModels:
    """Learn together from at most `sample` series of `rows` (as `Prepared.rows`), chosen by `sample_of`.

    With `spec.pool_by` each group learns from its own series too, unless these are too few for trees. Rows after
    `cutoff` are ignored. What judges the backtest windows is learned before the first of them. Raises
    InputError for missing columns or no rows.
    """
    layout = layout_of(spec, rows)
    rows = rows.filter(pc.less_equal(rows["ds"], pa.scalar(cutoff, pa.timestamp("us"))))
    names = sample_of(pc.unique(rows["series_id"]).to_pylist(), sample, spec)
    if not names:
        raise InputError(f"no rows to learn from up to {cutoff}")
    rows = rows.filter(pc.is_in(rows["series_id"], pa.array(names, rows.schema.field("series_id").type)))
    end = int(loader.step_number(np.array([cutoff], "datetime64[us]"), spec.frequency)[0])
    panel = build(rows, layout, cutoff, end - spec.windows * spec.horizon, ahead=spec.horizon, from_first_sale=True)
    left_out = {
        name: reason
        for name, reason in zip(
            panel.series, reasons_not_to_learn_from(panel, least(spec.steps_per_season)), strict=True
        )
        if reason
    }
    kept = [i for i, name in enumerate(panel.series) if name not in left_out]
    panel = panel.take(kept)
    first_window = panel.periods - 1 - spec.windows * spec.horizon
    choice = _chosen(panel, layout, spec, first_window)
    if choice.terms or choice.dropped:
        layout = layout.reduced(choice.dropped, choice.terms)
        panel = build(
            rows, layout, cutoff, end - spec.windows * spec.horizon, ahead=spec.horizon, from_first_sale=True
        ).take(kept)
    attributes = learn_attributes(rows, spec.attributes)
    static = attributes.encode(rows, panel.series)
    origins = (first_window, panel.periods - 1)
    everyone = [learn(panel, layout, spec, origin, trees=trees, static=static) for origin in origins]
    groups: dict[str, tuple[PooledFit, PooledFit]] = {}
    places: dict[str, list[int]] = {}
    for i, name in enumerate(panel.series if spec.pool_by else ()):
        places.setdefault(group_of(name, spec), []).append(i)
    for name in sorted(places):
        early, late = (
            learn(panel, layout, spec, origin, trees=trees, static=static, only=places[name]) for origin in origins
        )
        if early.anything and (len(early.trees[0]) or not trees):
            groups[name] = (early, late)
    first = PooledModels(spec, everyone[0], everyone[1], no_evidence(spec), groups, attributes, left_out, choice)
    first = replace(first, brought=fit_over_all(panel, layout, spec, origins, static))
    tried = [name for name in names if name not in left_out][:CUSTOM_SERIES]
    evidence = gather_evidence(evaluate(rows, spec, cutoff, first, custom_on=tried))
    return replace(first, evidence=evidence)


def _chosen(panel: Panel, layout: Layout, spec: Spec, origin: int) -> Choice:
    """What to make of known covariates, by periods up to place `origin`, before the backtest windows."""
    if not layout.known or origin < 2 * min(layout.season, 14) + 2:
        return Choice()
    from many_models.forecasting.kernels import on_one_thread

    with on_one_thread():
        panel.x[:, :, -1] = (layout.shape_features(panel.ds) @ learn_shape(panel, layout, origin))[None, :]
        return choose(Sample(panel, layout, spec, origin, np.zeros((len(panel.series), 0), np.float32)))


def learn(  # noqa: PLR0913 - whom from, when and what
    panel: Panel,
    layout: Layout,
    spec: Spec,
    origin: int,
    *,
    trees: bool,
    static: NDArray[np.float32],
    only: Sequence[int] | None = None,
) -> PooledFit:
    """Shape, coefficients, lags, trees and networks from the periods of `panel` up to place `origin`, of the series at
    `only`.

    `static` (series × columns) is what trees see of each series.
    """
    if only is not None:
        panel, static = panel.take(only), static[np.asarray(only)]
    profile = profile_of(panel, origin, int(layout.conf()[loader.TAIL]), recent_periods(spec))
    nothing = replace(nothing_shared(layout), profile=profile)
    if origin < 2 * min(layout.season, 14) + 2:
        return nothing
    from many_models.forecasting.kernels import on_one_thread

    # products on one thread: their sums would depend on how many there are; threads take whole series instead
    with on_one_thread(), ThreadPoolExecutor(len(os.sched_getaffinity(0))) as threads:
        shape = learn_shape(panel, layout, origin)
        panel.x[:, :, -1] = (layout.shape_features(panel.ds) @ shape)[None, :]
        sample = Sample(panel, layout, spec, origin, static)
        beta, problem = coefficients(sample, threads)
        shared = PooledFit(panel.number + origin, shape, beta, STRENGTH, NO_TREES, problem, profile=profile)
        coef = _count_fits(sample, shared)
        rows = _tree_rows(sample, coef, threads)
    if rows is None or len(rows[0]) < 10 * shared.beta.shape[1]:
        return nothing
    if problem:
        return replace(nothing, problem=problem)
    with on_one_thread():
        shared = replace(shared, lags=learn_lags(panel, origin, layout.conf(), spec.horizon))
    if len(rows[0]) < LEAST_TREE_ROWS or not trees:
        return shared
    with on_one_thread(), ThreadPoolExecutor(len(os.sched_getaffinity(0))) as threads:
        turned = _tree_rows(sample, coef, threads, turned=True)
    assert turned is not None
    grown, boosted = grow(rows, turned, sample.layout, shared.beta.shape[1])
    if not boosted:
        return replace(shared, trees=grown)
    with on_one_thread():
        inputs, layers = learn_networks(turned)
    return replace(shared, trees=grown, boosted=boosted, inputs=inputs, layers=layers)


STRENGTH = (100.0, 100.0, 100.0)


def learn_shape(panel: Panel, layout: Layout, origin: int) -> NDArray[np.float64]:
    """Coefficients of the log of what all series sell together, against each one's level of a year around.

    The ratio Σ y / Σ level over the series that are there both cancels trends and needs no common history. Zeros
    where there is less than a year.
    """
    width = layout.shape_features(panel.ds[:1]).shape[1]
    year = int(layout.conf()[loader.YEAR])
    seen = (panel.code == loader.OBSERVED)[:, : origin + 1]
    y = np.where(seen, np.maximum(panel.y[:, : origin + 1], 0.0), 0.0)
    y *= _less_loud(y.sum(1) / np.maximum(seen.sum(1), 1))[:, None]
    T = origin + 1
    sums, counts = (np.concatenate([np.zeros((len(y), 1)), np.cumsum(v, 1)], 1) for v in (y, seen.astype(float)))
    a = np.clip(np.arange(T) - year // 2, 0, max(T - year, 0))
    b = np.minimum(a + year, T)
    n = counts[:, b] - counts[:, a]
    enough = seen & (n >= 0.7 * year)
    level = np.where(enough, (sums[:, b] - sums[:, a]) / np.maximum(n, 1), 0.0)
    total, base = np.where(enough, y, 0).sum(0), level.sum(0)
    used = base > 0
    if used.sum() < 1.5 * year:
        return np.zeros(width)
    ratio = np.log(total[used] / base[used] + 0.02)
    X = layout.shape_features(panel.ds[:T][used])
    X = np.concatenate([X, np.ones((len(X), 1)), np.linspace(-1, 1, len(X))[:, None]], 1)
    w = np.exp((np.arange(T)[used] - T) / rhythm(layout.frequency).decay) * np.sqrt(
        np.minimum(base[used] / base.max(), 1)
    )
    penalty = np.r_[np.full(X.shape[1] - 2, 1.0), 1e-6, 1e-2]
    coef = np.zeros(X.shape[1])
    for _ in range(3):
        coef = np.linalg.solve((X * w[:, None]).T @ X + np.diag(penalty), (X * w[:, None]).T @ ratio)
        residual = ratio - X @ coef
        spread = 1.5 * np.median(np.abs(residual)) + 1e-6
        w = w * np.minimum(1.0, 2.5 * spread / np.maximum(np.abs(residual), 1e-9)) ** 0.5
    return coef[:width]


def _less_loud(mean: NDArray[np.float64]) -> NDArray[np.float64]:
    """Factors that bring series of more than the upper quartile's mean down to it: none of them is the whole."""
    return np.minimum(1.0, np.quantile(mean, 0.75) / np.maximum(mean, 1e-300)) if len(mean) else mean


_Series = tuple[
    "NDArray[np.float64]", "NDArray[np.int8]", "NDArray[np.int64]", "NDArray[np.int64]", "NDArray[np.float32]",
    "NDArray[np.float64]", "NDArray[np.bool_]", "NDArray[np.int64]", int, int, "NDArray[np.float64]",
    "NDArray[np.float64]", float, "NDArray[np.float64]",
]  # fmt: skip
_Room = tuple[
    "NDArray[np.float64]", "NDArray[np.float32]", "NDArray[np.float32]", "NDArray[np.float32]", "NDArray[np.float32]",
    "NDArray[np.float64]", "NDArray[np.float64]",
]  # fmt: skip
CountRows = tuple[
    "NDArray[np.float32]", "NDArray[np.float32]", "NDArray[np.float64]", "NDArray[np.float64]", int,
    "NDArray[np.float64]",
]  # fmt: skip
"""What fits of counts need of a series: features, weights, offsets, y, the place of its first observation, `own`."""
MOST_KEPT = 2**28  # bytes of features that one fit of counts over all series keeps


@dataclass(frozen=True)
class Sample:
    """The series to learn from, up to place `origin`, as `features` and `pooled_rows` read them."""

    panel: Panel
    layout: Layout
    spec: Spec
    origin: int
    static: NDArray[np.float32]

    @cached_property
    def ready(self) -> list[int]:
        """Rows of the series to learn from: logs of what may be negative say nothing of the others."""
        panel, origin = self.panel, self.origin
        return [
            i for i in range(len(panel.series)) if panel.first[i] < origin - 2 and panel.y[i, : origin + 1].min() >= 0
        ]

    @cached_property
    def _calendar(self) -> tuple[NDArray[np.float32], NDArray[np.int64], NDArray[np.int64]]:
        return self.layout.calendar(self.panel.ds)

    @cached_property
    def calendar_columns(self) -> int:
        """Number of calendar features."""
        return self._calendar[0].shape[1]

    @cached_property
    def _conf(self) -> NDArray[np.float64]:
        return self.layout.conf()

    @cached_property
    def _steps(self) -> NDArray[np.int64]:
        return training_steps(self.panel.number, len(self.panel.ds), self.spec.horizon)

    @cached_property
    def _turned(self) -> NDArray[np.int64]:
        return training_steps(self.panel.number, len(self.panel.ds), self.spec.horizon, turned=True)

    def moments(
        self, block: Sequence[int], beta: NDArray[np.float64], kept: dict[int, CountRows], *, cold: bool
    ) -> Moments:
        """Sums over the series of `block`, see `kernels.pooled_counts`, and when `cold` `kernels.pooled_moments`.

        `kept` has the rows of counts of series, which each further sum needs again, as far as they fit into memory.
        """
        from many_models.forecasting.kernels import pooled_counts, pooled_moments

        found = Moments.nothing(beta.size, self.origin + 1, cold=cold)
        products = np.empty((self.origin + 1, beta.size), np.float32)
        for i in block:
            if (rows := kept.get(i)) is None:
                series, (_, X, w, wl, z, _, off) = self._features(i)
                if cold:
                    pooled_moments(X, w, wl, z, series[8], products, found.G, found.g)
                rows = X[loader.COUNT].copy(), w.copy(), off, series[0], series[8], series[11]
                if (len(kept) + 1) * rows[0].nbytes <= MOST_KEPT:
                    kept[i] = rows
            count = found.G[loader.COUNT], found.g[loader.COUNT]
            pooled_counts(*rows, products, beta, cold, *count, found.misfit, found.together)
        return found

    def log_features(self, i: int) -> tuple[NDArray[np.float32], NDArray[np.float32], NDArray[np.float32]]:
        """Linear features (time × features) of targets of series `i` on the log scale, their weights, the targets."""
        _, (_, X, _, wl, z, _, _) = self._features(i)
        return X[loader.LOG], wl, z[1]

    def _features(self, i: int) -> tuple[_Series, _Room]:
        """Series `i`, and what `kernels.features` makes of it."""
        from many_models.forecasting.kernels import features, room

        series = self._series(i)
        p = loader.width(self.calendar_columns, self.layout.columns)
        made = room(self.origin + 1, p, 1, series[-1].size)
        features(*series[:9], np.array([self.origin]), *series[10:], *made)
        return series, made

    def tree_rows(self, i: int, beta: NDArray[np.float64], keep: NDArray[np.int8], *, turned: bool) -> TreeRows:
        """The trees' rows of series `i` where `keep`: features, y, offset, recent level, weight. `turned` as in
        `training_steps`.
        """
        from many_models.forecasting.kernels import pooled_rows

        size = int(keep.sum())
        static = self.static[i].astype(float)
        width = loader.tree_width(beta.size, self.layout.columns, static.size)
        rows = (np.zeros((size, width), np.float32), np.zeros(size), np.zeros(size), np.zeros(size), np.zeros(size))
        n = pooled_rows(*self._series(i, self._turned if turned else self._steps), beta, static, *rows, keep)
        return rows[0][:n], rows[1][:n], rows[2][:n], rows[3][:n], rows[4][:n]

    def _series(self, i: int, steps: NDArray[np.int64] | None = None) -> _Series:
        panel, layout, origin = self.panel, self.layout, self.origin
        C, hol, ph = self._calendar
        first = int(panel.first[i])
        own = own_numbers(panel.y[i], panel.code[i], self.spec, first, learned_at(panel, i, np.array([origin, origin])))
        state = np.zeros(loader.state_size(layout.season, layout.columns, layout.slots))
        return (
            panel.y[i], panel.code[i], ph, hol, C, panel.x[i], panel.encoding.binary[i],
            self._steps if steps is None else steps, first, origin, self._conf, own, rhythm(layout.frequency).decay,
            state,
        )  # fmt: skip


def _count_fits(sample: Sample, shared: PooledFit) -> NDArray[np.float64]:
    """Coefficients of each series' own count fit up to the origin (series × features), the shared ones without it."""
    origins = np.array([sample.origin])
    coef = fit_panel(sample.panel, sample.layout, sample.spec, origins, shared).coef[:, loader.COUNT]
    return np.where(np.isfinite(coef).all(1, keepdims=True), coef, shared.beta[loader.COUNT])


def _tree_rows(
    sample: Sample,
    coef: NDArray[np.float64],
    threads: ThreadPoolExecutor,
    *,
    turned: bool = False,
) -> TreeRows | None:
    """A random share of all series' targets as the trees see them, beside the count fits `coef`."""
    ready, origin = sample.ready, sample.origin
    if not ready:
        return None
    panel = sample.panel
    share = min(1.0, TREE_ROWS / max(sum(origin - int(panel.first[i]) for i in ready), 1))

    def rows_of(i: int) -> TreeRows:
        seed = int.from_bytes(hashlib.sha256(panel.series[i].encode()).digest()[:4], "big")
        # counted back from the origin: when other series begin must not matter
        keep = (np.random.default_rng([seed, 1] if turned else seed).random(origin + 1)[::-1] < share).astype(np.int8)
        return sample.tree_rows(i, coef[i], keep, turned=turned)

    parts = list(threads.map(rows_of, ready))
    return cast("TreeRows", tuple(np.concatenate(part) for part in zip(*parts, strict=True)))
