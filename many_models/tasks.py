"""The tasks that workers do over a chunk of series: prepare, train, score. Picklable; they read the lake themselves."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from datetime import date
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from many_models.data.lake_tables import (
    AFTER,
    DATASETS,
    NO_POOLED,
    POOLED,
    QUARANTINE,
    RAW_ATTRIBUTES,
    RAW_COVARIATES,
    RAW_OPENINGS,
    RAW_SALES,
    SERIES,
    read_if_there,
    records,
)
from many_models.errors import DamagedTableError, InputError, PermanentError, SeriesError, SeriesFailure
from many_models.forecasting.spec import Prior, Spec
from many_models.ports import Chunk, ChunkResult, Filter, Lake

if TYPE_CHECKING:
    from collections.abc import Collection, Mapping, Sequence
    from datetime import datetime

    import pyarrow as pa

    from many_models.forecasting import ExistingHistory, PackModel, PooledModels, Prepared, Trained

T = TypeVar("T")


def _of_chunk(chunk: Chunk, *, after: datetime | None = None, through: datetime | None = None) -> Filter:
    since, before = (None if moment is None else moment + AFTER for moment in (after, through))
    return Filter(among={"pack": [chunk.pack], "series_id": chunk.series}, since=since, before=before)


def covariates_of(lake: Lake, chunk: Chunk, keys: tuple[str, ...], after: datetime | None = None) -> pa.Table | None:
    """What the lake knows of the covariates of a chunk's series, all of it or `after` a period; None for nothing."""
    from many_models.data.covariates import of_series
    from many_models.keys import SeriesKey

    where = Filter(since=None if after is None else after + AFTER)
    if lake.version(RAW_COVARIATES.name) is None:
        return None
    rows = lake.read(RAW_COVARIATES.name, where)
    if rows.num_rows == 0:
        return None
    if keys[0] in rows.column_names:  # most of a covariates table is about other packs
        import pyarrow as pa
        import pyarrow.compute as pc

        firsts = {SeriesKey.parse(name).parts[0] for name in chunk.series}
        rows = rows.filter(pc.is_in(rows[keys[0]], pa.array(sorted(firsts))))
    return of_series(rows, chunk.series, keys)


def _histories(rows: Sequence[Mapping[str, Any]]) -> dict[str, ExistingHistory]:
    """The histories that the lake holds, by its `rows` of the table of series."""
    from many_models.forecasting import ExistingHistory

    return {
        row["series_id"]: ExistingHistory(row["until"], row["digest"])
        for row in rows
        if row.get("until") and row["digest"]
    }


NOTHING = Filter(among={"series_id": []})


def _beside(spec: Spec) -> list[tuple[str, Filter]]:
    """The tables about keys and dates that a task reads whole."""
    known = [(RAW_OPENINGS.name, Filter()), *([(RAW_COVARIATES.name, Filter())] if spec.known else [])]
    return known + ([(RAW_ATTRIBUTES.name, Filter())] if spec.attributes else [])


@dataclass(frozen=True)
class PrepareTask:
    """Make the datasets of a chunk: tables `rows` and `series` of `forecasting.prepare`, each with its `pack`.

    `series` says in `since` after which period `rows` begin, where a series only goes on from what the lake holds of
    it; null where `rows` are its whole history, as all are with `whole`. A series that would lose more than the share
    `max_loss` of its observations since `start` fails.
    """

    lake: Lake
    spec: Spec
    as_of: datetime
    keys: tuple[str, ...]
    whole: bool = False
    start: date = date.min
    max_loss: float = 1.0

    def large(self) -> tuple[str, Filter]:
        """See `ReadingTask.large`."""
        return RAW_SALES.name, Filter(before=self.as_of + AFTER)

    def small(self, chunk: Chunk) -> list[tuple[str, Filter]]:
        """See `ReadingTask.small`. Of the datasets no row: whether there are any says `series`."""
        own = Filter(among={"pack": [chunk.pack], "series_id": chunk.series})
        bad = Filter(among={"origin": ["dated"], "series_id": chunk.series})
        return [(SERIES.name, own), (QUARANTINE.name, bad), (DATASETS.name, NOTHING), *_beside(self.spec)]

    def over(self, lake: Lake) -> PrepareTask:
        """See `ReadingTask.over`."""
        return replace(self, lake=lake)

    def __call__(self, chunk: Chunk) -> ChunkResult:
        """Read the chunk's raw rows up to `as_of`, and prepare them."""
        import pyarrow as pa

        from many_models.data import openings
        from many_models.data.covariates import fill, with_attributes
        from many_models.data.losses import shorter_histories
        from many_models.forecasting import prepare

        stock = [name for name in (self.spec.available or self.spec.sold_out,) if name and name not in self.spec.known]
        columns = ["series_id", "ds", "y", *self.spec.known, *stock]
        raw = self.lake.read(RAW_SALES.name, _of_chunk(chunk, through=self.as_of))
        if self.spec.known:
            covariates = covariates_of(self.lake, chunk, self.keys)
            if covariates is not None:
                raw = fill(raw, covariates, self.spec.known)
            for name in self.spec.known:
                if name not in raw.column_names:
                    raw = raw.append_column(name, pa.nulls(raw.num_rows, pa.float64()))
        raw = raw.select(columns)
        if self.spec.fills_gaps:
            raw = with_unusable(raw, self.lake, chunk, self.as_of, self.spec)
        if names := self.spec.attributes:
            raw = with_attributes(raw, read_if_there(self.lake, RAW_ATTRIBUTES), chunk.series, self.keys, names)
        held = self._held(chunk)
        listed = openings.read(self.lake, self.keys, self.spec.frequency).of_series(chunk.series)
        prepared = prepare(raw, self.spec, self.as_of, {} if self.whole else _histories(held), listed)
        there = _with_closed(prepared.series, prepared.outside)
        prepared = _without(prepared, shorter_histories(held, there, self.spec.frequency, self.start, self.max_loss))
        names = prepared.series["series_id"].to_pylist()
        since = pa.array([prepared.since.get(name) for name in names], pa.timestamp("us"))
        series = _with_pack(prepared.series, chunk.pack).append_column("since", since)
        return ChunkResult(
            {"rows": _with_pack(prepared.rows, chunk.pack), "series": series},
            failures=[*prepared.failures, *_absent(chunk, prepared.series, prepared.failures)],
        )

    def _held(self, chunk: Chunk) -> list[dict[str, Any]]:
        """The lake's rows of the table of series about the chunk's; none where it has no datasets."""
        if self.lake.version(DATASETS.name) is None:  # someone has deleted it, to have it made again
            return []
        try:
            return records(self.lake, SERIES, Filter(among={"pack": [chunk.pack], "series_id": chunk.series}))
        except DamagedTableError:
            if self.whole:
                return []
            raise


def _with_closed(series: pa.Table, outside: Mapping[str, int]) -> pa.Table:
    """`series`, the observations of closed periods among theirs: they are in raw_sales still, and no loss."""
    import pyarrow as pa

    counts = zip(series["series_id"].to_pylist(), series["observations"].to_pylist(), strict=True)
    every = pa.array([count + outside.get(name, 0) for name, count in counts], pa.int64())
    return series.set_column(series.column_names.index("observations"), "observations", every)


def _without(prepared: Prepared, refused: Sequence[SeriesFailure]) -> Prepared:
    """`prepared`, the series of `refused` among its failures."""
    import pyarrow as pa
    import pyarrow.compute as pc

    if not refused:
        return prepared
    names = pa.array([failure.series_id for failure in refused], pa.string())
    rows, series = (of.filter(pc.invert(pc.is_in(of["series_id"], names))) for of in (prepared.rows, prepared.series))
    return replace(prepared, rows=rows, series=series, failures=[*prepared.failures, *refused])


def with_unusable(raw: pa.Table, lake: Lake, chunk: Chunk, as_of: datetime, spec: Spec) -> pa.Table:
    """`raw` and, with an empty target, the periods of which the quarantine holds all rows: they are not periods without
    a row, so nothing is known of them.
    """
    import numpy as np
    import pyarrow as pa
    import pyarrow.compute as pc

    from many_models.forecasting.pack import mm_pack_v1 as pack

    where = Filter(among={"origin": ["dated"], "series_id": chunk.series}, before=as_of + AFTER)
    bad = read_if_there(lake, QUARANTINE, where, ["series_id", "ds"])
    if bad is None or not bad.num_rows:
        return raw
    numbers = pack.step_number(np.asarray(bad["ds"].to_numpy(), "datetime64[us]"), spec.frequency)
    bad = bad.set_column(1, "ds", pa.array(pack.stamps(numbers, spec.frequency), pa.timestamp("us")))
    bad = bad.group_by(["series_id", "ds"]).aggregate([]).filter(pc.less_equal(pc.field("ds"), as_of))
    bad = bad.join(raw.select(["series_id", "ds"]), ["series_id", "ds"], join_type="left anti")
    return pa.concat_tables([raw, bad], promote_options="permissive")


def read_pooled(lake: Lake, version: str, spec: Spec, cutoff: datetime) -> PooledModels | None:
    """The pooled models of `version`; None where nothing was learned, or only from what a training may not know.

    Raises InputError when the lake holds others by now.
    """
    from many_models.forecasting import PooledModels

    if version in {"", NO_POOLED}:
        return None
    rows = lake.read(POOLED.name).to_pylist()
    held = next((str(row["hash"]) for row in rows), "")  # as it was learned: another release writes other files of it
    if held != version:
        raise InputError(f"the lake holds pooled models {held}, needed {version}: materialize pooled_models")
    learned = PooledModels.from_files({str(row["file"]): bytes(row["content"]) for row in rows})
    return learned if learned.known_at(spec, cutoff) else None


@dataclass(frozen=True)
class TrainTask:
    """Train a chunk: tables `series`, `scores` and, with `keep_paths`, `paths` of `train`; the files of its pack."""

    lake: Lake
    spec: Spec
    cutoff: datetime
    champions: Mapping[str, Spec] = field(default_factory=dict[str, Spec])
    priors: Mapping[str, Prior] = field(default_factory=dict[str, Prior])
    pooled: str = ""
    keys: tuple[str, ...] = ()
    keep_paths: bool = False

    def large(self) -> tuple[str, Filter]:
        """See `ReadingTask.large`."""
        return DATASETS.name, Filter(before=self.cutoff + AFTER)

    def small(self, chunk: Chunk) -> list[tuple[str, Filter]]:  # noqa: ARG002
        """See `ReadingTask.small`."""
        return [*([(POOLED.name, Filter())] if self.pooled not in {"", NO_POOLED} else []), *_beside(self.spec)]

    def over(self, lake: Lake) -> TrainTask:
        """See `ReadingTask.over`."""
        return replace(self, lake=lake)

    def for_chunk(self, chunk: Chunk) -> TrainTask:
        """See `NarrowingTask.for_chunk`: the champions and priors of the chunk's series."""
        return replace(self, champions=_of(self.champions, chunk), priors=_of(self.priors, chunk))

    def __call__(self, chunk: Chunk) -> ChunkResult:
        """Read the chunk's datasets up to the cutoff, and train on them; custom forecasters see what is known ahead."""
        from many_models.data import openings
        from many_models.forecasting import train

        rows = self.lake.read(DATASETS.name, _of_chunk(chunk, through=self.cutoff))
        ahead = self.spec.known and self.spec.competing
        trained = train(
            rows.drop_columns(["pack"]),
            self.spec,
            self.cutoff,
            champions=_of(self.champions, chunk),
            priors=_of(self.priors, chunk),
            pooled=read_pooled(self.lake, self.pooled, self.spec, self.cutoff),
            future=covariates_of(self.lake, chunk, self.keys, after=self.cutoff) if ahead else None,
            keep_paths=self.keep_paths,
            openings=openings.read(self.lake, self.keys, self.spec.frequency).of_series(chunk.series),
        )
        absent = _absent(chunk, trained.series, trained.failures)
        series = trained.series.append_column("finite", _finite(trained, self.spec.horizon))
        found = {"series": _with_pack(series, chunk.pack), "scores": _with_pack(trained.scores, chunk.pack)}
        if trained.paths is not None:
            found["paths"] = _with_pack(trained.paths, chunk.pack)
        return ChunkResult(found, trained.model.files(), [*trained.failures, *absent])


@dataclass(frozen=True)
class ScoreTask:
    """Forecast a chunk from `cutoff`: table `predictions` of `PackModel.predict`, with `model` and `pack`.

    `models` maps a series to the reference of the production pack that serves it and the file that holds the verified
    pack, or that `packs` has in its place; a series without one is served by its own seasonal naive
    (fallback `no_champion`). Without `repeat` a series whose model needs a known covariate that is missing fails. With
    a `factor` forecasts beyond that many times a series' extremes become its usual value (fallback `out_of_bounds`).
    With `drivers` there is the table `drivers`, too: what the first that many steps of models' forecasts are made of.
    """

    lake: Lake
    spec: Spec
    cutoff: datetime
    keys: tuple[str, ...]
    models: Mapping[str, tuple[str, str]]
    packs: Mapping[str, Mapping[str, bytes]] = field(default_factory=dict[str, "Mapping[str, bytes]"])
    repeat: bool = True
    factor: float = 0.0
    drivers: int = 0

    def large(self) -> tuple[str, Filter]:
        """See `ReadingTask.large`."""
        return DATASETS.name, Filter(before=self.cutoff + AFTER)

    def small(self, chunk: Chunk) -> list[tuple[str, Filter]]:
        """See `ReadingTask.small`."""
        return [(SERIES.name, Filter(among={"pack": [chunk.pack]})), *_beside(self.spec)]

    def over(self, lake: Lake) -> ScoreTask:
        """See `ReadingTask.over`."""
        return replace(self, lake=lake)

    def for_chunk(self, chunk: Chunk) -> ScoreTask:
        """See `NarrowingTask.for_chunk`: the models of the chunk's series, with the files of their packs."""
        models = _of(self.models, chunk)
        there = {path for _, path in models.values() if Path(path).is_file()}
        return replace(self, models=models, packs={path: _files(path) for path in sorted(there)})

    def __call__(self, chunk: Chunk) -> ChunkResult:
        """Read what the chunk's models have not seen of its datasets, and forecast what follows the cutoff."""
        import pyarrow as pa

        from many_models.errors import ManyModelsError
        from many_models.forecasting import PackModel

        future = covariates_of(self.lake, chunk, self.keys, after=self.cutoff) if self.spec.known else None
        parts, failures, explained = list["pa.Table"](), list[SeriesFailure](), list["pa.Table"]()
        for model, series in self._by_model(chunk).items():
            try:
                if model is None:
                    parts.append(self._naive(self._rows(chunk.pack, series), series, future))
                    continue
                ref, path = model
                files = self.packs[path] if path in self.packs else _files(path)
                pack = PackModel.from_files(files, f"pack {ref}")
                found, broken = self._forecasts(pack, ref, chunk.pack, series, future)
                parts += found
                failures += broken
                if self.drivers:
                    bad = {failure.series_id for failure in broken}
                    explained += self._explained(pack, chunk.pack, [name for name in series if name not in bad], future)
            except ManyModelsError as error:
                failures += [SeriesFailure.of(name, error) for name in series]
        predictions = (
            pa.concat_tables(parts, promote_options="permissive")
            if parts
            else pa.table({"series_id": pa.array([], pa.string())})
        )
        if self.factor and predictions.num_rows:
            predictions = self._within_bounds(chunk, predictions)
        predictions, closed = self._where_open(chunk, predictions)
        failures += _absent(chunk, predictions, failures)
        tables = {"predictions": _with_pack(predictions, chunk.pack)}
        if explained:
            tables["drivers"] = _of_models(pa.concat_tables(explained), predictions, closed)
        return ChunkResult(tables, failures=failures)

    def _explained(self, model: PackModel, pack: str, series: Sequence[str], future: pa.Table | None) -> list[pa.Table]:
        """What the next forecasts of `series` are made of; of those that cannot be explained there is none: a series
        is not without a forecast because of it.
        """
        from many_models.forecasting.explanation import explain

        if not series:
            return []
        try:
            rows = self._rows(pack, series, model.trained_until(series))
            steps = min(self.drivers, self.spec.horizon)
            return [explain(model, rows, self.cutoff, future=future, horizon=steps, series=series)]
        except PermanentError:
            if len(series) == 1:
                return []
        return [part for name in series for part in self._explained(model, pack, [name], future)]

    def _within_bounds(self, chunk: Chunk, predictions: pa.Table) -> pa.Table:
        """`predictions` within what their series, or all series of their pack, ever did (see `sanity.bounded`)."""
        from many_models.forecasting.sanity import Seen, bounded, kin_level

        rows = records(self.lake, SERIES, Filter(among={"pack": [chunk.pack]}))
        seen = {
            row["series_id"]: Seen(row["low"], row["high"], row["observations"], row["usual"])
            for row in rows
            if row.get("low") is not None
        }
        return bounded(predictions, seen, self.factor, kin_level(seen))[0]

    def _where_open(self, chunk: Chunk, predictions: pa.Table) -> tuple[pa.Table, set[str]]:
        """`predictions` by the list of openings as it is now, and the series whose model does not know it yet."""
        from many_models.data import openings
        from many_models.forecasting.openings import zero_where_closed

        listed = openings.read(self.lake, self.keys, self.spec.frequency).of_series(chunk.series)
        return zero_where_closed(predictions, listed, self.spec.frequency)

    def _forecasts(
        self, model: PackModel, ref: str, pack: str, series: Sequence[str], future: pa.Table | None
    ) -> tuple[list[pa.Table], list[SeriesFailure]]:
        """Forecasts of `series`; where they cannot be had together, of each alone, so that a bad one fails alone."""
        import pyarrow as pa

        try:
            rows = self._rows(pack, series, model.trained_until(series))
            part = model.predict(rows, self.cutoff, future=future, horizon=self.spec.horizon, series=series)
        except PermanentError as error:
            if len(series) == 1:
                failure = SeriesFailure.of(series[0], error)
                return [], [replace(failure, reason=f"pack {ref}: {failure.reason}")]
        else:
            part, lacking = (part, list[SeriesFailure]()) if self.repeat else _without_repeated(part, self.spec)
            return [part.append_column("model", pa.array([ref] * part.num_rows, pa.string()))], lacking
        alone = [self._forecasts(model, ref, pack, [name], future) for name in series]
        return [part for found, _ in alone for part in found], [one for _, broken in alone for one in broken]

    def _rows(self, pack: str, series: Sequence[str], trained_until: datetime | None = None) -> pa.Table:
        """The histories of `series` up to the cutoff, or what of them is newer than their models."""
        import pyarrow as pa

        if trained_until is not None and trained_until >= self.cutoff:
            return pa.table({"series_id": pa.array([], pa.string())})
        where = _of_chunk(Chunk(0, pack, tuple(series)), after=trained_until, through=self.cutoff)
        return self.lake.read(DATASETS.name, where).drop_columns(["pack"])

    def _by_model(self, chunk: Chunk) -> dict[tuple[str, str] | None, list[str]]:
        groups = dict[tuple[str, str] | None, list[str]]()
        for name in chunk.series:
            groups.setdefault(self.models.get(name), []).append(name)
        return groups

    def _naive(self, rows: pa.Table, series: list[str], future: pa.Table | None) -> pa.Table:
        import pyarrow as pa
        import pyarrow.compute as pc

        from many_models.forecasting import train

        own = rows.filter(pc.is_in(rows["series_id"], pa.array(series)))
        naive = train(own, replace(self.spec, candidates=("seasonal_naive",)), self.cutoff).model
        part = naive.predict(own, self.cutoff, future=future, horizon=self.spec.horizon)
        place = part.column_names.index("fallback")
        part = part.set_column(place, "fallback", pa.array(["no_champion"] * part.num_rows, pa.string()))
        return part.append_column("model", pa.array([""] * part.num_rows, pa.string()))


def _of_models(drivers: pa.Table, predictions: pa.Table, changed: Collection[str] = ()) -> pa.Table:
    """The drivers of forecasts that stayed as their model made them, so that they add up to what is served; those of
    series that are `changed` did not.
    """
    import pyarrow as pa
    import pyarrow.compute as pc

    bounded = predictions.filter(pc.equal(predictions["fallback"], "out_of_bounds"))["series_id"].to_pylist()
    return drivers.filter(pc.invert(pc.is_in(drivers["series_id"], pa.array([*bounded, *changed], pa.string()))))


def _without_repeated(part: pa.Table, spec: Spec) -> tuple[pa.Table, list[SeriesFailure]]:
    """The forecasts of series whose known covariates reach as far as they, and the other series as failures."""
    import pyarrow as pa
    import pyarrow.compute as pc

    repeated = part.filter(part["known_repeated"])
    since = repeated.group_by("series_id").aggregate([("ds", "min")]).sort_by("series_id").to_pylist()
    why = "of {names} something is missing at {ds}, needed as far as the horizon: fill the covariates table, or set "
    failures = [
        SeriesFailure.of(
            row["series_id"],
            SeriesError(
                row["series_id"],
                why.format(names=", ".join(spec.known), ds=row["ds_min"]) + 'data.missing_future = "usual"',
            ),
        )
        for row in since
    ]
    lacking = pa.array([failure.series_id for failure in failures], pa.string())
    return part.filter(pc.invert(pc.is_in(part["series_id"], lacking))), failures


def _of(values: Mapping[str, T], chunk: Chunk) -> dict[str, T]:
    return {name: values[name] for name in chunk.series if name in values}


def _files(pack: str) -> dict[str, bytes]:
    """The files of a pack that was fetched (see `data.pack_folder`) into the file `pack`."""
    from many_models.data.pack_file import parted

    return {name: bytes(view) for name, view in parted(memoryview(Path(pack).read_bytes())).items()}


def _finite(trained: Trained, horizon: int) -> pa.Array:
    """Whether all that each series' model forecasts from its training cutoff is finite, in the order of `series`."""
    import pyarrow as pa
    import pyarrow.compute as pc

    ahead = trained.model.predict(None, horizon=horizon)
    numbers = [name for name in ahead.column_names if name == "y_hat" or name[:2] in {"lo", "hi"}]
    good = pa.array([True] * ahead.num_rows, pa.bool_())
    for name in numbers:
        good = pc.and_(good, pc.fill_null(pc.is_finite(ahead[name]), fill_value=False))
    broken = set(ahead.filter(pc.invert(good))["series_id"].to_pylist())
    return pa.array([name not in broken for name in trained.series["series_id"].to_pylist()], pa.bool_())


def _with_pack(rows: pa.Table, pack: str) -> pa.Table:
    import pyarrow as pa

    return rows.append_column("pack", pa.array([pack] * rows.num_rows, pa.string()))


def _absent(chunk: Chunk, found: pa.Table, failures: Sequence[SeriesFailure]) -> list[SeriesFailure]:
    """A failure for each series of the chunk that came back neither good nor failed: nothing is dropped in silence."""
    there = set(found["series_id"].to_pylist()) | {failure.series_id for failure in failures}
    why = "its rows are not in the lake: materialize raw_sales and store_item_datasets for it first"
    return [SeriesFailure(name, "MissingRows", why, permanent=True) for name in chunk.series if name not in there]
