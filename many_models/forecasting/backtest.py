"""The core alone on any table: `backtest`."""

from __future__ import annotations

from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Literal

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from many_models.errors import InputError
from many_models.forecasting import metrics
from many_models.forecasting.datasets import prepare
from many_models.forecasting.evaluation import candidate_names
from many_models.forecasting.new_items import priors_of_rows
from many_models.forecasting.pack import mm_pack_v1 as loader
from many_models.forecasting.panel import build, layout_of
from many_models.forecasting.pooling import pool
from many_models.forecasting.spec import Prior, Spec
from many_models.forecasting.train import train
from many_models.keys import SeriesKey

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence
    from datetime import datetime

    import pandas as pd
    from numpy.typing import NDArray

    from many_models.forecasting.datasets import Prepared
    from many_models.forecasting.panel import Layout
    from many_models.forecasting.pooling import PooledModels
    from many_models.forecasting.spec import Custom

CHUNK = 200
_NUMBER = "\0number"  # a column beside the user's, whatever those are called


@dataclass(frozen=True)
class BacktestReport:
    """`metrics` per candidate, "selected" and the baseline; `forecasts` of the selected one in the table's names.

    `left_out`: the series that could not be used, each with its reason, which names the first bad row (series_id,
    keys, reason). `outliers`: periods of the windows that are not scored, their values being far beyond all that
    their series did before.
    """

    metrics: pd.DataFrame
    forecasts: pd.DataFrame
    left_out: pd.DataFrame
    outliers: int = 0


def backtest(  # noqa: PLR0913 - its parameters are its settings
    data: pd.DataFrame,
    *,
    keys: Sequence[str],
    timestamp: str,
    target: str,
    known: Sequence[str] = (),
    frequency: str,
    horizon: int,
    windows: int = 3,
    country: str = "",
    holidays: Sequence[tuple[str, str]] = (),
    attributes: Sequence[str] = (),
    pool_by: Sequence[str] = (),
    missing_known: Literal["usual", "error"] = "usual",
    season: int | None = None,
    candidates: Sequence[str] = (),
    objective: str = "rmsse",
    custom: Sequence[Custom] = (),
    folder: str = "",
    levels: Sequence[int] = (80, 95),
    negatives: Literal["allow", "zero", "error"] = "allow",
    missing: Literal["unknown", "zero", "closed"] = "unknown",
    missing_on: Sequence[tuple[int, str]] = (),
    exposure: str = "",
    available: str = "",
    sold_out: str = "",
    open_hours: float = 0.0,
    progress: Callable[[str, float], None] | None = None,
    workers: int = 1,
) -> BacktestReport:
    """Backtest every candidate and their combination on `data`: one row per keys and period.

    The last cutoff is `horizon` periods before the last timestamp, the others `horizon` apart, the same for all
    series. At each one everything (weights, calibration, pooled models) is learned from rows up to it alone. Known
    covariates reach as far as the forecast; where one is missing it is taken as usual for the series, or with
    `missing_known` "error" the table is refused. `holidays` are the user's own (ISO date, name) beside those of
    `country`, `attributes` columns that do not change within a series, `pool_by` those of the `keys` whose series learn
    together. `objective` is what weights of candidates minimise (see `spec.OBJECTIVES`). `negatives`: take them, cut
    them at zero, or refuse them. `missing` and `missing_on` (weekday, 0 is Monday) say what a period without a row
    means, in what is learned and in what is scored. `exposure` is the known covariate that the target is proportional
    to. `progress` is called with a step's name and the share that is done.

    `available` or `sold_out` (see `Spec`) name a column that says where stock cut sales short: such periods teach as
    lower bounds of demand and are not among the `n` that are scored.

    `forecasts` has keys, timestamp, cutoff, y_hat and bounds; `metrics` a row per candidate with wape, mase, rmsse,
    bias, n and, for "selected", coverage and width per level, where stock cut sales short `censored` (how many
    periods) and `short` (by how much of what was sold in them forecasts fell short), for `custom` ones (found in
    `folder` too) `seconds` a series and how many series `failed`. A series that cannot be used
    is left out and named. Raises InputError for a table that cannot be used, naming column or row.
    """
    _require_names([*keys, timestamp], [target, *known, *attributes], ["cutoff", "y_hat", *_bounds(levels)])
    stock = [name for name in (available, sold_out) if name and name not in known]
    table, names = _table(data, list(keys), timestamp, target, [*known, *stock, *attributes], negatives)
    spec = Spec(
        frequency, horizon, season=season, known=tuple(known), country=country, candidates=tuple(candidates),
        objective=objective, levels=tuple(levels), nonnegative=not pc.any(pc.less(table["y"], 0.0)).as_py(),
        ended_after=10**9, custom=tuple(custom), folder=folder, holidays=tuple(holidays), attributes=tuple(attributes),
        pool_by=_places(pool_by, keys), missing=missing, missing_on=tuple(missing_on), exposure=exposure,
        available=available, sold_out=sold_out, open_hours=open_hours,
    )  # fmt: skip
    if missing_known == "error":
        _refuse_missing(table, known)
    measured = _measured(table, names, spec, windows, progress or _silent, workers)
    return replace(measured, forecasts=_named(measured.forecasts, names, timestamp, levels))


def _measured(
    table: pa.Table,
    names: pd.DataFrame,
    spec: Spec,
    windows: int,
    tell: Callable[[str, float], None],
    workers: int,
) -> BacktestReport:
    """The report, its forecasts in the core's names; `table` and `names` are those of `_table`."""
    import pandas as pd

    last = pc.max(table["ds"]).as_py()
    prepared = prepare(table, spec, last)
    left_out = _left_out(prepared, names)
    if not len(prepared.rows):
        raise InputError(
            f"no series can be used, for instance {left_out.iloc[0]['series_id']!r}: {left_out.iloc[0]['reason']}"
        )
    table = table.filter(pc.invert(pc.is_in(table["series_id"], pa.array(left_out["series_id"], pa.string()))))
    cutoffs = _cutoffs(last, spec, windows)
    found: list[_Window] = []
    for j, cutoff in enumerate(cutoffs):
        tell(f"window {j + 1} of {windows}: {cutoff:%Y-%m-%d}", j / windows)
        found.append(_window(prepared.rows, table, spec, cutoff, list(names.columns), workers))
    tell("scoring", 1.0)
    of_rows = ("series_id", "ds", "y", "outlier", "state", "sold")
    scored = prepared.rows.select([name for name in of_rows if name in prepared.rows.column_names])
    forecasts = pd.concat([window.forecasts for window in found], ignore_index=True)
    odd = scored.filter(pc.is_valid(scored["outlier"])).select(["series_id", "ds"]).to_pandas()
    outliers = len(odd.merge(forecasts, on=["series_id", "ds"]))
    return BacktestReport(_report(scored, spec, cutoffs, found), forecasts, left_out, outliers)


def _cutoffs(last: datetime, spec: Spec, windows: int) -> list[datetime]:
    """The last one is a horizon before the `last` timestamp, each other one a horizon before the next."""
    end = int(loader.step_number(np.array([last], "datetime64[us]"), spec.frequency)[0])
    numbers = [end - spec.horizon * k for k in range(windows, 0, -1)]
    return [loader.stamps(np.array([number]), spec.frequency)[0].astype(object) for number in numbers]


def _named(forecasts: pd.DataFrame, names: pd.DataFrame, timestamp: str, levels: Sequence[int]) -> pd.DataFrame:
    """The forecasts under the names of the user's table."""
    import pandas as pd

    made = forecasts.loc[:, ["ds", "cutoff", "y_hat", *_bounds(levels)]].rename(columns={"ds": timestamp})
    return pd.concat([names.loc[forecasts["series_id"]].reset_index(drop=True), made], axis=1)


def _bounds(levels: Sequence[int]) -> list[str]:
    return [f"{side}{level}" for level in levels for side in ("lo", "hi")]


def _left_out(prepared: Prepared, names: pd.DataFrame) -> pd.DataFrame:
    """The series that cannot be used, each with its reason and keys."""
    import pandas as pd

    reasons: dict[str, str] = {failure.series_id: failure.reason for failure in prepared.failures}
    empty = prepared.series.filter(pc.equal(prepared.series["observations"], 0))
    reasons |= dict(zip(empty["series_id"].to_pylist(), empty["why"].to_pylist(), strict=True))
    ids = pd.Series(list(reasons), dtype=object)
    found = names.drop(columns="series_id", errors="ignore").loc[ids].reset_index(drop=True)
    found.insert(0, "series_id", ids)
    why = pd.Series(list(reasons.values()), dtype=object)
    found.insert(found.shape[1], "reason", why, allow_duplicates=True)  # a key may be called so, too
    return found


def _require_names(named: Sequence[str], others: Sequence[str], results: Sequence[str]) -> None:
    """Raise InputError where two columns of the table or of the forecasts would have one name."""
    if twice := sorted({name for name in named if [*named, *others].count(name) > 1}):
        raise InputError(f"column {', '.join(twice)} is given twice: name it once, as key, timestamp or target")
    if taken := [name for name in named if name in results]:
        raise InputError(
            f"column {', '.join(taken)} is named like one of the forecasts' columns ({', '.join(results)}): rename it"
        )


def _places(names: Sequence[str], keys: Sequence[str]) -> tuple[int, ...]:
    if unknown := [name for name in names if name not in keys]:
        raise InputError(f"series learn together by {', '.join(unknown)}, but the keys are {', '.join(keys)}")
    return tuple(list(keys).index(name) for name in names)


def _refuse_missing(table: pa.Table, known: Sequence[str]) -> None:
    """Raise InputError for the first row, of the first series, in which a known covariate is missing."""
    for name in known:
        column = table[name]
        gone = pc.is_null(column, nan_is_null=pa.types.is_floating(column.type))
        lacking = table.select(["series_id", "ds"]).filter(gone)
        if lacking.num_rows:
            row = lacking.sort_by([("series_id", "ascending"), ("ds", "ascending")]).slice(0, 1).to_pylist()[0]
            raise InputError(
                f"{name} is missing in {lacking.num_rows} rows, first in series {row['series_id']!r} at "
                f"{row['ds']}: fill it, or let what is usual for the series replace it"
            )


def _silent(_step: str, _share: float) -> None:
    """No progress is shown."""


def _table(
    data: pd.DataFrame, keys: list[str], timestamp: str, target: str, known: list[str], negatives: str
) -> tuple[pa.Table, pd.DataFrame]:
    """`data` in the core's names, and the keys of each series, whose series_id is the index."""
    import pandas as pd

    if absent := [name for name in [*keys, timestamp, target, *known] if name not in data.columns]:
        raise InputError(f"no column {', '.join(absent)}; the table has {', '.join(map(str, data.columns))}")
    if not pd.api.types.is_numeric_dtype(data[target]):
        raise InputError(f"the target {target} has type {data[target].dtype}, needed a number")
    if negatives == "error" and (data[target] < 0).any():
        row = data[data[target] < 0].iloc[0]
        raise InputError(f"{target} is {row[target]} at {row[timestamp]}: negatives are refused by setting")
    if not len(data):
        raise InputError("the table has no rows")
    unique = data.loc[:, keys].drop_duplicates().reset_index(drop=True)
    ids = [SeriesKey(tuple(map(str, row))).series_id for row in unique.itertuples(index=False)]
    unique.index = pd.Index(ids)
    numbers = unique.assign(**{_NUMBER: range(len(ids))})
    series = np.array(ids, object)[data[keys].merge(numbers, on=keys, how="left")[_NUMBER].to_numpy()]
    try:
        stamps = pd.to_datetime(data[timestamp]).to_numpy("datetime64[us]")
    except (ValueError, TypeError) as error:
        raise InputError(f"the timestamp {timestamp} cannot be read as dates: {error}") from error
    y = data[target].to_numpy(np.float64)
    columns = {
        "series_id": pa.array(series, pa.string()),
        "ds": pa.array(stamps, pa.timestamp("us")),
        "y": pa.array(np.maximum(y, 0.0) if negatives == "zero" else y, from_pandas=True),
    }
    for name in known:
        columns[name] = pa.Array.from_pandas(data[name] if data[name].dtype != object else data[name].astype("string"))
    return pa.table(columns), unique


def _scales(
    table: pa.Table, layout: Layout, origins: NDArray[np.int64], season: int
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """See `metrics.scales`, of all that each series did: others' figures are not without outliers either."""
    y = pc.coalesce(table["y"], table["outlier"])
    panel = build(
        pa.table({"series_id": table["series_id"], "ds": table["ds"], "y": y}), layout, pc.max(table["ds"]).as_py()
    )
    return metrics.scales(panel.y, panel.code != loader.MISSING, origins, season)


_Tried = tuple[str, str, float | None, str]  # series, custom forecaster, seconds, problem


@dataclass
class _Window:
    """One cutoff: forecasts of the selected combination, and of every candidate (series × candidates × steps)."""

    forecasts: pd.DataFrame
    series: list[str]
    F: NDArray[np.float64]
    custom: list[_Tried]


def _window(
    rows: pa.Table, table: pa.Table, spec: Spec, cutoff: datetime, keys: Sequence[str], workers: int
) -> _Window:
    import pandas as pd

    past = rows.filter(pc.less_equal(rows["ds"], pa.scalar(cutoff, pa.timestamp("us"))))
    ahead = loader.stamps(
        loader.step_number(np.array([cutoff], "datetime64[us]"), spec.frequency) + spec.horizon, spec.frequency
    )[0].astype(object)
    later = pc.and_(
        pc.greater(table["ds"], pa.scalar(cutoff, pa.timestamp("us"))),
        pc.less_equal(table["ds"], pa.scalar(ahead, pa.timestamp("us"))),
    )
    future = table.filter(later).drop_columns(["y"])
    pooled, priors = pool(past, spec, cutoff), priors_of_rows(past, keys, spec)
    names = sorted(pc.unique(past["series_id"]).to_pylist())
    jobs = []
    for begin in range(0, len(names), CHUNK):
        chunk = pa.array(names[begin : begin + CHUNK], pa.string())
        mine = [part.filter(pc.is_in(part["series_id"], chunk)) for part in (past, future)]
        own = {name: priors[name] for name in chunk.to_pylist() if name in priors}
        jobs.append((*mine, spec, cutoff, pooled, own))
    if workers > 1:
        import multiprocessing

        with ProcessPoolExecutor(workers, multiprocessing.get_context("spawn")) as pool_of_workers:
            parts = list(pool_of_workers.map(_chunk, *zip(*jobs, strict=True)))
    else:
        parts = [_chunk(*job) for job in jobs]
    return _Window(
        pd.concat([part.forecasts for part in parts], ignore_index=True),
        [name for part in parts for name in part.series],
        np.concatenate([part.F for part in parts]),
        [row for part in parts for row in part.custom],
    )


def _chunk(
    past: pa.Table, future: pa.Table, spec: Spec, cutoff: datetime, pooled: PooledModels, priors: Mapping[str, Prior]
) -> _Window:
    trained = train(past, spec, cutoff, priors=priors, pooled=pooled, future=future)
    model = trained.model
    F = model.candidates(future=future)
    forecasts = model.predict(None, future=future).drop_columns(["step", "fallback", "known_repeated"]).to_pandas()
    mine = [custom.name for custom in spec.competing]
    rows = trained.scores.filter(pc.is_in(trained.scores["candidate"], pa.array(mine, pa.string()))).to_pylist()
    custom = {(r["series_id"], r["candidate"], r["seconds"], r["problem"] or "") for r in rows}
    return _Window(forecasts, list(model.series), F, sorted(custom, key=lambda row: row[:2]))


def _custom_figures(tried: Sequence[_Tried]) -> dict[str, tuple[float, float]]:
    """Custom forecaster → mean seconds a series, and the number of series on which it failed in any window."""
    seconds, failed = dict[str, list[float]](), dict[str, set[str]]()
    for series, name, took, problem in tried:
        failed.setdefault(name, set()).update({series} if problem else ())
        seconds.setdefault(name, []).extend([] if took is None else [took])
    return {name: (sum(took) / max(len(took), 1), float(len(failed[name]))) for name, took in seconds.items()}


def _report(table: pa.Table, spec: Spec, cutoffs: Sequence[datetime], found: Sequence[_Window]) -> pd.DataFrame:
    """Metrics of each candidate and of the selected forecast, pooled over windows and series."""
    import pandas as pd

    scored = _Scored.of(table, spec, cutoffs, found)
    frame = pd.DataFrame(scored.figures(spec.levels))
    more: list[str] = []
    if "sold" in table.column_names:
        sold = scored.sold
        frame["censored"] = float(np.isfinite(sold).sum())
        frame["short"] = [float(np.nansum(np.maximum(sold - f, 0.0)) / max(np.nansum(sold), 1e-300)) for f in scored.F]
        more = ["censored", "short"]
    if spec.competing:
        tried = _custom_figures([row for window in found for row in window.custom])
        frame["seconds"] = [tried.get(name, (np.nan, np.nan))[0] for name in scored.names]
        frame["failed"] = [tried.get(name, (np.nan, np.nan))[1] for name in scored.names]
        more += ["seconds", "failed"]
    of_levels = [f"{figure}{level}" for figure in ("cover", "width") for level in spec.levels]
    order = ["candidate", "wape", "mase", "rmsse", "bias", *of_levels, "n", *more]
    return frame.loc[:, order].astype({"n": int})


@dataclass
class _Scored:
    """Forecasts beside what came: arrays are series × windows × steps, those of `F` one for each of `names`.

    `mask` is what scores; `sold` is what was sold where stock cut a sale short, else NaN.
    """

    names: list[str]
    F: NDArray[np.float64]
    bounds: dict[str, NDArray[np.float64]]
    Y: NDArray[np.float64]
    mask: NDArray[np.bool_]
    sold: NDArray[np.float64]
    scales: tuple[NDArray[np.float64], NDArray[np.float64]]

    @classmethod
    def of(cls, table: pa.Table, spec: Spec, cutoffs: Sequence[datetime], found: Sequence[_Window]) -> _Scored:
        """Lay out the forecasts of each window in the order of the panel's series."""
        layout = layout_of(Spec(spec.frequency, spec.horizon), table)
        there = table.select([name for name in table.column_names if name != "outlier"])
        panel = build(there, layout, pc.max(table["ds"]).as_py())
        H, row = spec.horizon, {name: i for i, name in enumerate(panel.series)}
        origins = panel.periods - 1 - H * np.arange(len(cutoffs), 0, -1)
        seen = (panel.code != loader.MISSING) & np.isnan(panel.sold)
        names = [*candidate_names(spec, pooled=True), "selected"]
        chosen = [spec.every_candidate.index(name) for name in names[:-1]]
        shape = (len(panel.series), len(cutoffs), H)
        F, mask = np.zeros((len(names), *shape)), np.zeros(shape, bool)
        bounds = {name: np.zeros(shape) for name in _bounds(spec.levels)}
        steps = [slice(origin + 1, origin + 1 + H) for origin in origins]
        for j, (step, window) in enumerate(zip(steps, found, strict=True)):
            mine = np.array([row[name] for name in window.series])
            mask[mine, j] = seen[mine, step]
            F[:-1, mine, j] = np.moveaxis(window.F[:, chosen], 1, 0)
            F[-1, mine, j] = window.forecasts["y_hat"].to_numpy().reshape(len(mine), H)
            for name, values in bounds.items():
                values[mine, j] = window.forecasts[name].to_numpy().reshape(len(mine), H)
        Y, sold = (np.stack([values[:, step] for step in steps], 1) for values in (panel.y, panel.sold))
        return cls(names, F, bounds, Y, mask, sold, _scales(table, layout, origins, spec.steps_per_season))

    def figures(self, levels: Sequence[int]) -> list[dict[str, object]]:
        """A row for each candidate; the selected one's has coverage and width of each level, too."""
        Y, mask = self.Y, self.mask
        rows = list[dict[str, object]]()
        for name, F in zip(self.names, self.F, strict=True):
            rows.append({"candidate": name, **metrics.pooled_scores(metrics.window_scores(F, Y, mask, *self.scales))})
        for level in levels:
            low, high = self.bounds[f"lo{level}"], self.bounds[f"hi{level}"]
            rows[-1][f"cover{level}"] = float(metrics.coverage(Y, mask, low, high))
            rows[-1][f"width{level}"] = float((high - low)[mask].mean() / max(np.abs(Y[mask]).mean(), 1e-300))
        return rows
