"""A pack: the fitted models of a group of series as plain arrays, and their forecasts."""

from __future__ import annotations

import json
import re
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, cast

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from many_models.errors import InputError, IntegrityError
from many_models.forecasting.pack import mm_before_v1, mm_explain_v1, mm_sklearn_v1
from many_models.forecasting.pack import mm_pack_v1 as loader
from many_models.forecasting.pack.array_files import array_files, sha256_of
from many_models.forecasting.panel import STATES, stamps_us

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence
    from datetime import datetime

    from numpy.typing import NDArray

LOADER_FILE, SKOPS_LOADER_FILE, EXPLAINER_FILE, BEFORE_FILE = (
    f"{name}.py" for name in (loader.LOADER, loader.SKOPS_LOADER, loader.EXPLAINER, loader.BEFORE)
)
Fitted = dict[str, dict[str, tuple[str, float]]]


@dataclass(frozen=True)
class PackModel:
    """The fitted models of `series`, in row order: an index (JSON values), arrays with a row per series, and `blobs`,
    the skops files of users' scikit-learn regressors, which the index names under `fitted`.
    """

    index: Mapping[str, object]
    arrays: Mapping[str, NDArray[np.generic]]
    blobs: Mapping[str, bytes] = field(default_factory=dict[str, bytes])

    @property
    def series(self) -> tuple[str, ...]:
        """The series in row order."""
        return tuple(cast("list[str]", self.index["series"]))

    def files(self) -> dict[str, bytes]:
        """The pack as files: index.json, one .npy an array, skops files, and the loader; the same bytes for the same
        content.
        """
        files = {**self.blobs, **array_files(self.arrays)}
        index = {**self.index, "sha256": sha256_of(files)}
        files["index.json"] = json.dumps(index, sort_keys=True, separators=(",", ":")).encode()
        files[LOADER_FILE] = Path(loader.__file__).read_bytes()
        files[EXPLAINER_FILE] = Path(mm_explain_v1.__file__).read_bytes()
        files[BEFORE_FILE] = Path(mm_before_v1.__file__).read_bytes()
        if self.blobs:
            files[SKOPS_LOADER_FILE] = Path(mm_sklearn_v1.__file__).read_bytes()
        return dict(sorted(files.items()))

    @classmethod
    def from_files(cls, files: Mapping[str, bytes], name: str = "this") -> PackModel:
        """The inverse of `files`, which errors call `name`. Raises IntegrityError that names the file that is missing
        or damaged, InputError for the pack of a newer version.
        """
        newer = sorted(file for file in files if re.fullmatch(r"mm_pack_v\d+\.py", file) and file != LOADER_FILE)
        if newer and LOADER_FILE not in files:
            raise InputError(f"{name} is a pack for the loader {newer[-1]}, this version has {LOADER_FILE}: upgrade")
        try:
            pack = loader.read(files)
        except (ValueError, KeyError, EOFError, TypeError, AttributeError) as error:
            raise IntegrityError(f"{name} cannot be read as a pack of models: {error}; fetch it again") from error
        index = {name: value for name, value in pack.index.items() if name != "sha256"}
        return cls(index, pack.arrays, pack.blobs)

    def verified(self, name: str = "this") -> PackModel:
        """This pack, after each fitted regressor was loaded and its trees and support vectors looked through.

        Reading a pack looks at their types and hashes alone. Raises IntegrityError that names pack, file and series.
        """
        owners = {file: (series, kind) for series, own in self.fitted.items() for kind, (file, _) in own.items()}
        for file, (series, kind) in owners.items():
            try:
                mm_sklearn_v1.load(self.blobs[file])
            except ValueError as error:
                what = f"{name} is not promoted: {file}, the {kind} of series {series!r},"
                raise IntegrityError(f"{what} {error}; train it again") from error
        return self

    @property
    def fitted(self) -> Fitted:
        """Series → candidate → the skops file of its fitted regressor, and the unit that it forecasts in."""
        return cast("Fitted", self.index.get("fitted", {}))

    @property
    def gaps(self) -> list[str]:
        """What a period without a row means for each series, see the loader's GAPS."""
        return cast("list[str]", self.index.get("missing", [loader.UNKNOWN_GAPS] * len(self.series)))

    @property
    def spans(self) -> list[list[list[int]]]:
        """The open spans of each series by the list of openings, first and last step number; none: always open."""
        return cast("list[list[list[int]]]", self.index.get("open", [[] for _ in self.series]))

    def select(self, series: Sequence[str]) -> PackModel:
        """The pack of these series only, in this order. Raises InputError for one that is not in it."""
        row = {name: i for i, name in enumerate(self.series)}
        if unknown := [name for name in series if name not in row]:
            raise InputError(f"not in this pack: {', '.join(unknown[:5])}; it holds {len(row)} series")
        rows = np.array([row[name] for name in series], np.int64)
        arrays = {name: (array[rows] if name in loader.PER_SERIES else array) for name, array in self.arrays.items()}
        slots = cast("dict[str, object]", self.index["slots"])
        fallback = cast("list[str]", self.index["fallback"])
        index = {
            **self.index,
            "series": list(series),
            "fallback": [fallback[i] for i in rows],
            "slots": {name: slots[name] for name in sorted(series) if name in slots},
            "pools": _gather_pools([PackModel(self.index, arrays)], arrays),
        }
        if "missing" in self.index:
            index["missing"] = [self.gaps[i] for i in rows]
        if "open" in self.index:
            index["open"] = [self.spans[i] for i in rows]
        fitted = {name: self.fitted[name] for name in sorted(series) if name in self.fitted}
        return _with_fitted(PackModel(index, arrays, self.blobs), fitted)

    @classmethod
    def merge(cls, models: Sequence[PackModel]) -> PackModel:
        """One pack of several with the same layout, rows in their order.

        Raises InputError when the layouts differ or a series occurs twice.
        """
        if not models:
            raise InputError("no packs to merge")
        models = _same_candidates(models)
        head = models[0]
        own = {"series", "fallback", "slots", "pools", "fitted", "holidays", "missing", "open"}
        for model in models[1:]:
            for name in {*head.index, *model.index} - own:
                if head.index.get(name) != model.index.get(name):
                    raise InputError(f"packs differ in {name}: {head.index.get(name)!r} and {model.index.get(name)!r}")
            for name in loader.SHARED:
                if not np.array_equal(head.arrays[name], model.arrays[name]):
                    raise InputError(f"packs differ in {name}: train them with the same spec and code")
        series = [name for model in models for name in model.series]
        if (
            twice := sorted({name for name in series if series.count(name) > 1})
            if len(set(series)) < len(series)
            else []
        ):
            raise InputError(f"series in several packs: {', '.join(twice[:5])}")
        parts = {name: [model.arrays[name] for model in models] for name in loader.PER_SERIES}
        widest = max(part.shape[1] for part in parts["static"])
        parts["static"] = [np.pad(part, ((0, 0), (0, widest - part.shape[1]))) for part in parts["static"]]
        models = [_with_room(model, widest) for model in models]
        arrays = {
            name: np.concatenate(parts[name]) if name in loader.PER_SERIES else array
            for name, array in head.arrays.items()
        }
        pools = _gather_pools(models, arrays)
        slots: dict[str, object] = {}
        for model in models:
            slots.update(cast("dict[str, object]", model.index["slots"]))
        fallback = [step for model in models for step in cast("list[str]", model.index["fallback"])]
        index = {**head.index, "series": series, "fallback": fallback, "slots": slots, "pools": pools}
        index |= _gaps_of(models)
        named = [model.index["holidays"] for model in models if "holidays" in model.index]
        if named:  # older packs do not say how their holidays are called
            index["holidays"] = named[0]
        blobs = {name: data for model in models for name, data in model.blobs.items()}
        fitted = {name: own for model in models for name, own in model.fitted.items()}
        return _with_fitted(cls(index, arrays, blobs), fitted)

    def trained_until(self, series: Sequence[str]) -> datetime:
        """The earliest training cutoff of `series`: `predict` needs no older rows of them."""
        own = set(series)
        cutoffs = cast("NDArray[np.int64]", self.arrays["cutoff"])
        numbers = [int(number) for name, number in zip(self.series, cutoffs, strict=True) if name in own]
        earliest = min(numbers or cutoffs.tolist())
        return loader.stamps(np.array([earliest]), str(self.index["frequency"]))[0].astype(object)

    def predict(
        self,
        rows: pa.Table | None,
        cutoff: datetime | None = None,
        *,
        future: pa.Table | None = None,
        horizon: int | None = None,
        series: Sequence[str] | None = None,
    ) -> pa.Table:
        """Forecasts of `series` (default: all) for the periods after `cutoff`, sorted by row order and step.

        `rows` are prepared rows that reach at least from each training cutoff to `cutoff` (older ones are ignored);
        None: from the stored state at the training cutoff. `future` has series_id, ds and known covariates; what it
        lacks is taken as usual and flagged. Columns: series_id, ds, cutoff, step (int32), y_hat, lo80, hi80, lo95, hi95
        (per level), fallback, known_repeated. Raises InputError for unknown series or a cutoff before training.
        """
        pack = self.computing()
        h = horizon or int(cast("int", self.index["horizon"]))
        result = []
        for name, end, x, fresh, repeated in self.aligned(pack, rows, cutoff, future=future, horizon=h, series=series):
            i = pack.row[name]
            try:
                point, bound = pack.forecast(i, h, x, fresh)
            except ValueError as error:
                raise IntegrityError(f"{error}; train and promote it again") from error
            stamp = loader.stamps(np.array([end]), str(self.index["frequency"]))[0]
            result.append((i, stamp, np.arange(1, h + 1), point, bound, repeated))
        return _table(pack.table(result), pack.levels)

    def computing(self) -> loader.Pack:
        """The loader's pack of these arrays, with compiled loops."""
        from many_models.forecasting.kernels import pack as compiled

        return loader.Pack(self.index, self.arrays, compiled, self.blobs)

    def aligned(
        self,
        pack: loader.Pack,
        rows: pa.Table | None,
        cutoff: datetime | None = None,
        *,
        future: pa.Table | None = None,
        horizon: int,
        series: Sequence[str] | None = None,
    ) -> Iterator[tuple[str, int, NDArray[np.float64], object, NDArray[np.bool_]]]:
        """Of each series its name, the step number of its last known period, and the inputs of a forecast as
        `Pack.aligned` has them; see `predict`.
        """
        names = list(self.series if series is None else series)
        if unknown := [name for name in names if name not in pack.row]:
            raise InputError(f"not in this pack: {', '.join(unknown[:5])}; it holds {len(pack.row)} series")
        fresh_rows = _by_series(rows, names, pack) if rows is not None else {}
        later = _by_series(future, names, pack) if future is not None else {}
        for name in names:
            i = pack.row[name]
            trained = int(cast("NDArray[np.int64]", self.arrays["cutoff"])[i])
            end = trained
            if rows is not None and cutoff is not None:
                end = int(loader.step_number(np.array([cutoff], "datetime64[us]"), str(self.index["frequency"]))[0])
                if end < trained:
                    raise InputError(
                        f"series {name!r}: cutoff {cutoff} is before its training cutoff {pack.cutoff_of(i)}"
                    )
            x, fresh, repeated = pack.aligned(i, end, horizon, _given(later.get(name)), _past(fresh_rows.get(name)))
            yield name, end, x, fresh, repeated

    def candidates(self, future: pa.Table | None = None, horizon: int | None = None) -> NDArray[np.float64]:
        """Forecasts of every candidate (series × candidates × steps) from the stored state; see `predict`."""
        from many_models.forecasting.kernels import pack as compiled

        pack = loader.Pack(self.index, self.arrays, compiled, self.blobs)
        h = horizon or int(cast("int", self.index["horizon"]))
        later = _by_series(future, self.series, pack) if future is not None else {}
        result = np.zeros((len(self.series), len(cast("list[str]", self.index["candidates"])), h))
        for i, name in enumerate(self.series):
            end = int(cast("NDArray[np.int64]", self.arrays["cutoff"])[i])
            x, _, _ = pack.aligned(i, end, h, _given(later.get(name)))
            result[i] = pack.candidates(i, h, x)[0] * pack.exposure(x)
        return result


def _gaps_of(models: Sequence[PackModel]) -> dict[str, object]:
    """What a period without a row means, and when series are open, where one of the models says so."""
    told: dict[str, object] = {}
    if any("missing" in model.index for model in models):
        told["missing"] = [letters for model in models for letters in model.gaps]
    if any("open" in model.index for model in models):
        told["open"] = [spans for model in models for spans in model.spans]
    return told


def _with_fitted(model: PackModel, fitted: Fitted) -> PackModel:
    """The pack with these regressors, and no other files than theirs."""
    index = {name: value for name, value in model.index.items() if name != "fitted"}
    used = {file for models in fitted.values() for file, _ in models.values()}
    blobs = {name: data for name, data in sorted(model.blobs.items()) if name in used}
    return PackModel({**index, "fitted": fitted} if fitted else index, model.arrays, blobs)


def _with_room(model: PackModel, attributes: int) -> PackModel:
    """`model` with trees and networks that expect so many attributes of a series: features after these move."""
    arrays = model.arrays
    own, k = arrays["static"].shape[1], int(arrays["conf"][loader.COVARIATES])
    if own == attributes:
        return model
    end = loader.tree_width(arrays["coef"].shape[2], k, own) - loader.COURSE
    feature = arrays["feature"]
    moved = np.where(feature >= end, feature + (attributes - own), feature).astype(feature.dtype)
    inputs = np.insert(arrays["pool_inputs"], [end] * (attributes - own), 0.0, axis=2)
    return PackModel(model.index, {**arrays, "feature": moved, "pool_inputs": inputs}, model.blobs)


def _same_candidates(models: Sequence[PackModel]) -> list[PackModel]:
    """The models with the candidates of all of them: one that a model lacks has no weight and no path in it."""
    built_in = list(loader.CANDIDATES)
    named = {name for model in models for name in cast("list[str]", model.index["candidates"])}
    everyone = [*built_in, *sorted(named - set(built_in))]
    result: list[PackModel] = []
    for model in models:
        there = cast("list[str]", model.index["candidates"])
        if there == everyone:
            result.append(model)
            continue
        weights, path = model.arrays["weights"], model.arrays["path"]
        wide = np.zeros((len(weights), len(everyone)), weights.dtype)
        long = np.full((len(path), len(everyone) - len(built_in), path.shape[2]), np.nan)
        for c, name in enumerate(there):
            wide[:, everyone.index(name)] = weights[:, c]
            if c >= len(built_in):
                long[:, everyone.index(name) - len(built_in)] = path[:, c - len(built_in)]
        arrays = {**model.arrays, "weights": wide, "path": long}
        result.append(PackModel({**model.index, "candidates": everyone}, arrays, model.blobs))
    return result


def _gather_pools(models: Sequence[PackModel], arrays: dict[str, NDArray[np.generic]]) -> list[str]:
    """Put each pool that series of `models` use once into `arrays` and point their rows at them; the pools' names."""
    place: dict[str, int] = {}
    kept: dict[str, list[NDArray[np.generic]]] = {name: [] for name in (*loader.PER_POOL, *loader.TREES)}
    rows: list[NDArray[np.int32]] = []
    nodes = 0
    for model in models:
        a = cast("Mapping[str, NDArray[np.int64]]", model.arrays)
        ends = {name: np.cumsum(a[name]) for name in ("root_count", "tree_count")}
        moved: list[int] = []
        names = cast("list[str]", model.index["pools"])
        used = set(a["pool"].tolist()) or {0}
        for k, name in enumerate(names):
            if k not in used:
                moved.append(-1)
                continue
            if name not in place:
                place[name] = len(place)
                r = slice(int(ends["root_count"][k] - a["root_count"][k]), int(ends["root_count"][k]))
                t = slice(int(ends["tree_count"][k] - a["tree_count"][k]), int(ends["tree_count"][k]))
                shift = nodes - t.start
                for array in loader.PER_POOL:
                    kept[array].append(a[array][k : k + 1])
                kept["root"].append((a["root"][r] + shift).astype(np.int32))
                for array in ("left", "right"):
                    kept[array].append((a[array][t] + shift).astype(np.int32))
                for array in ("feature", "threshold", "value"):
                    kept[array].append(a[array][t])
                nodes += t.stop - t.start
            moved.append(place[name])
        rows.append(np.array(moved, np.int32)[a["pool"]])
    arrays |= {name: np.concatenate(parts) for name, parts in kept.items()}
    arrays["pool"] = np.concatenate(rows)
    return list(place)


@dataclass(frozen=True)
class _Rows:
    """Rows of one series: step numbers (int64), y (float64, NaN where missing), codes (int8), and known covariates."""

    number: NDArray[np.int64]
    y: NDArray[np.float64]
    code: NDArray[np.int8]
    known: Mapping[str, list[object]]


def _by_series(table: pa.Table, names: Sequence[str], pack: loader.Pack) -> dict[str, _Rows]:
    """The rows of each series in `table`, by time."""
    table = table.filter(pc.is_in(table["series_id"], pa.array(list(names), table.schema.field("series_id").type)))
    if not len(table):
        return {}
    known = [name for name in pack.index["known"] if name in table.column_names]
    columns = [name for name in ("y", "state") if name in table.column_names]
    table = table.select(["series_id", "ds", *columns, *known])
    table = table.sort_by([("series_id", "ascending"), ("ds", "ascending")])
    ids = np.asarray(table["series_id"].to_numpy(), object)
    number = loader.step_number(stamps_us(table["ds"]), pack.index["frequency"])
    y, code = np.full(len(ids), np.nan), np.full(len(ids), loader.OBSERVED, np.int8)
    if "y" in columns:
        y = pc.fill_null(table["y"].cast(pa.float64()), np.nan).to_numpy()
    if "state" in columns:
        code = pc.index_in(table["state"], pa.array(STATES)).fill_null(loader.OBSERVED).to_numpy().astype(np.int8)
    starts = np.r_[0, np.flatnonzero(ids[1:] != ids[:-1]) + 1, len(ids)]
    values = {name: table[name].to_pylist() for name in known}
    return {
        str(ids[a]): _Rows(number[a:b], y[a:b], code[a:b], {name: value[a:b] for name, value in values.items()})
        for a, b in pairwise(starts)
    }


def _given(rows: _Rows | None) -> dict[str, tuple[NDArray[np.int64], list[object]]]:
    """The known covariates of `rows` as `Pack.aligned` takes them."""
    return {} if rows is None else {name: (rows.number, values) for name, values in rows.known.items()}


def _past(rows: _Rows | None) -> tuple[object, ...] | None:
    """What `rows` say of the periods since training, as `Pack.aligned` takes it."""
    return None if rows is None else (rows.number, rows.y, rows.code, _given(rows))


def _table(columns: Mapping[str, NDArray[np.generic]], levels: Sequence[int]) -> pa.Table:
    kinds: dict[str, pa.DataType] = {
        "series_id": pa.string(),
        "ds": pa.timestamp("us"),
        "cutoff": pa.timestamp("us"),
        "step": pa.int32(),
        "y_hat": pa.float64(),
        **{f"{side}{level}": pa.float64() for level in levels for side in ("lo", "hi")},
        "fallback": pa.string(),
        "known_repeated": pa.bool_(),
    }
    return pa.table(
        {
            name: pa.array(columns[name], kind) if len(columns[name]) else pa.array([], kind)
            for name, kind in kinds.items()
        }
    )
