"""predictions: every active series scored with its champion, into the lake, by cutoff."""

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from itertools import pairwise
from typing import TYPE_CHECKING

import dagster as dg
import pyarrow as pa

from many_models.data import lake_tables
from many_models.data.pack_folder import PackFolder
from many_models.data.release_cache import ReleaseCache
from many_models.data.release_index import PackId
from many_models.errors import ManyModelsError, SeriesFailure
from many_models.orchestration import metadata, plots, stage_state
from many_models.orchestration.assets.trained_models import cutoffs_of
from many_models.orchestration.chunks import chunks_of, concat_results, failures_of, follow, good_series
from many_models.orchestration.forecast_spec import spec_of
from many_models.orchestration.losses import ended_at_once
from many_models.orchestration.refits import drift_answers
from many_models.orchestration.stage_asset import stage_asset
from many_models.orchestration.stage_run import STORE_ITEMS, KeySet, SeriesResult, finish
from many_models.orchestration.upstream import version_of
from many_models.ports import Compute, Filter, Lake, ProductionRegistry, Release
from many_models.settings import Settings

if TYPE_CHECKING:
    from pandas import DataFrame

    from many_models.decisions.drift_answers import Drifted
    from many_models.tasks import ScoreTask

CACHE = "var/cache"  # the folder of the `ReleaseCache`


def build(settings: Settings) -> dg.AssetsDefinition:
    """The asset predictions."""

    @stage_asset(
        settings,
        partitions=STORE_ITEMS,
        deps=["promoted_models", "store_item_datasets", dg.AssetDep("raw_covariates")],
        group="serving",
        kinds={"deltalake", "table"},
        checks={
            "every_active_series": "Each active series has a forecast.",
            "no_missing_values": "No forecast is NaN or infinite.",
            "ordered_intervals": "lo95 ≤ lo80 ≤ hi80 ≤ hi95.",
            "set_aside": "Series that failed twice for one reason.",
        },
        description=(
            "Forecasts with intervals for every active series, by the champion of the live release, from the newest "
            "history. A series without a champion gets its seasonal naive, which its rows say (`fallback`)."
        ),
    )
    def predictions(
        context: dg.AssetExecutionContext,
        config: KeySet,
        lake: dg.ResourceParam[Lake],
        compute: dg.ResourceParam[Compute],
        production: dg.ResourceParam[ProductionRegistry],
    ) -> Iterator[dg.AssetCheckResult]:
        keys = stage_state.begin_series(context, config, settings, lake)
        datasets = stage_state.made_versions(context.instance, "store_item_datasets")
        champions, drifted = stage_state.champion_versions(lake), drift_answers(settings, lake)
        of_series = stage_state.prediction_versions(settings, lake, datasets)
        upstream = {key: of_series(key) for key in keys}
        cutoffs, inactive = cutoffs_of(lake, keys)
        done = {
            key: SeriesResult(stage_state.INACTIVE, stage_state.INACTIVE, {"inactive": why})
            for key, why in inactive.items()
        }
        fetched = _fetch_champions(settings, lake, production, keys, champions, drifted)
        if fetched.away:
            context.log.warning(fetched.away)
        context.instance.add_dynamic_partitions("cutoffs", [f"{cutoff:%Y-%m-%d}" for cutoff in cutoffs])
        scoring, scored = _Scoring(context, settings, lake, compute, fetched, drifted), _Scored()
        for cutoff, series in sorted(cutoffs.items()):
            if (rows := scoring.score(cutoff, series)) is not None:
                scored.add(rows)
                shown = {} if settings.partitions.by else _shown(rows, lake, fetched.away)
                done |= {
                    name: SeriesResult(upstream[name], upstream[name], shown.get(name, {})) for name in names_of(rows)
                }
            del rows  # those of all series: not to be held while the next are made
        yield from _checks(lake, cutoffs, scored.columns)
        summary = scored.summary() | metadata.plain({"registry_away": fetched.away})
        finish(context, settings, lake, keys, done, scoring.failures, upstream, summary)

    return predictions


@dataclass(frozen=True)
class _Fetched:
    """What there is to score with: series → (reference of its pack, file), and the series that have to wait."""

    models: Mapping[str, tuple[str, str]]
    failures: Sequence[SeriesFailure]
    away: str  # why the registry was not asked, "" where it answered


def _fetch_champions(
    settings: Settings,
    lake: Lake,
    production: ProductionRegistry,
    keys: Sequence[str],
    champions: Mapping[str, str],
    drifted: "Mapping[str, Drifted]",
) -> _Fetched:
    """Fetch the packs of the champions of `keys`; series that drifted need none where the baseline answers for them."""
    releases = ReleaseCache(production, settings.path(CACHE))
    release, away = releases.live(), releases.away
    failures = promoted_since(release, champions, keys, away)
    failures += ended_at_once(settings, lake, release, keys, "Their forecasts so far were kept.")[1]
    without = {failure.series_id for failure in failures}
    without |= {*drifted} if settings.drift.answer == "baseline" else set()
    models, unfetched = fetch_models(releases.packs, release, [key for key in keys if key not in without])
    return _Fetched(models, [*failures, *unfetched], away)


class _Scoring:
    """Scores and writes the forecasts of one cutoff after the other; `failures` grow by what cannot be scored."""

    def __init__(
        self,
        context: dg.AssetExecutionContext,
        settings: Settings,
        lake: Lake,
        compute: Compute,
        fetched: _Fetched,
        drifted: "Mapping[str, Drifted]",
    ) -> None:
        self._context, self._settings, self._lake, self._compute = context, settings, lake, compute
        self._models, self._drifted, self._spec = fetched.models, drifted, spec_of(settings)
        self._broken = {failure.series_id for failure in fetched.failures}
        self.failures = [*fetched.failures]

    def score(self, cutoff: datetime, series: Sequence[str]) -> pa.Table | None:
        """The forecasts of `series` from `cutoff`, as they were written to the lake; None where there are none."""
        chunks = chunks_of(self._settings, [name for name in series if name not in self._broken], self._compute)
        scored, explained = list[pa.Table](), list[pa.Table]()
        for _, results in follow(self._context, self._compute, self._task(cutoff), chunks):
            self.failures += failures_of(results)
            if good := good_series(results):
                scored.append(_only(concat_results(results, "predictions"), set(good)))
                explained += [_only(r.tables["drivers"], set(good)) for _, r in results if "drivers" in r.tables]
        if not scored:
            return None
        rows = _answered(self._settings, _dated(scored, cutoff), self._drifted)
        names = names_of(rows)
        part = {"cutoff_date": [f"{cutoff:%Y-%m-%d}"]}
        lake_tables.upsert(self._lake, lake_tables.PREDICTIONS, rows, names, part)
        if explained:
            write_drivers(self._lake, explained, cutoff, names)
        return rows

    def _task(self, cutoff: datetime) -> "ScoreTask":
        from many_models.tasks import ScoreTask

        return ScoreTask(
            self._lake,
            self._spec,
            cutoff,
            tuple(self._settings.data.keys),
            self._models,
            repeat=self._settings.data.missing_future == "usual",
            factor=self._settings.forecast.sane_factor,
            drivers=self._settings.warehouse.drivers,
        )


def promoted_since(
    release: Release | None, champions: Mapping[str, str], keys: Sequence[str], away: str
) -> list[SeriesFailure]:
    """The series of `keys` whose champion (see `state.champion_versions`) `release` does not know yet: they wait."""
    if not away:
        return []
    served = release.champions if release else {}
    known = {name: version_of(one.staging, one.cutoff) for name, one in served.items()}
    waiting = [name for name in keys if champions.get(name, "") != known.get(name, "")]
    why = f"a newer champion was promoted, which is not on this machine: {away}"
    return [SeriesFailure(name, "UnavailableError", why, permanent=False) for name in waiting]


def fetch_models(
    packs: PackFolder, release: Release | None, keys: Sequence[str]
) -> tuple[dict[str, tuple[str, str]], list[SeriesFailure]]:
    """Series → (reference of its production pack, file of the verified pack), and the series whose pack is missing."""
    champions = {key: release.champions[key] for key in keys if release and key in release.champions}
    files, errors = dict[PackId, str](), dict[PackId, ManyModelsError]()
    for ref, sha256 in sorted({(champion.ref, champion.sha256) for champion in champions.values()}):
        pack = PackId(ref, sha256)
        try:
            files[pack] = str(packs.fetched_file(pack))
        except ManyModelsError as error:
            errors[pack] = error
    models, failures = dict[str, tuple[str, str]](), list[SeriesFailure]()
    for key, champion in champions.items():
        pack = PackId(champion.ref, champion.sha256)
        if pack in errors:
            failures.append(SeriesFailure.of(key, errors[pack]))
        else:
            models[key] = champion.ref, files[pack]
    return models, failures


def _only(rows: pa.Table, series: set[str]) -> pa.Table:
    import pyarrow.compute as pc

    return rows.filter(pc.is_in(rows["series_id"], pa.array(sorted(series), pa.string())))


def _dated(parts: Sequence[pa.Table], cutoff: datetime) -> pa.Table:
    rows = pa.concat_tables(parts, promote_options="permissive")
    return rows.append_column("cutoff_date", pa.array([f"{cutoff:%Y-%m-%d}"] * rows.num_rows, pa.string()))


def _answered(settings: Settings, rows: pa.Table, drifted: "Mapping[str, Drifted]") -> pa.Table:
    """The rows with what `drift.answer` makes of series that drifted; as they are where it is to ask."""
    from many_models.decisions.drift_answers import answered

    wanted = settings.drift
    if not wanted.watch or wanted.answer == "ask":
        return rows
    return answered(rows, drifted, wanted.answer, nonnegative=settings.data.negatives != "allow")


def write_drivers(lake: Lake, parts: Sequence[pa.Table], cutoff: datetime, series: Sequence[str]) -> None:
    """Put what forecasts are made of in place of what the lake has of these series and this cutoff."""
    rows = _dated(parts, cutoff)
    rows = rows.append_column("cutoff", pa.array([cutoff] * rows.num_rows, pa.timestamp("us")))
    lake_tables.upsert(lake, lake_tables.DRIVERS, rows, series, {"cutoff_date": [f"{cutoff:%Y-%m-%d}"]})


def names_of(rows: pa.Table) -> list[str]:
    """The series of `rows`, sorted."""
    import pyarrow.compute as pc

    return sorted(pc.unique(rows["series_id"]).to_pylist())


def _shown(rows: pa.Table, lake: Lake, away: str) -> dict[str, metadata.Metadata]:
    """What each series' event says, why the registry was not asked too; with a plot where there are few series."""
    import pyarrow.compute as pc

    found, each = dict[str, metadata.Metadata](), shown_of(rows)
    for name, values in each.items():
        shown = metadata.plain({**values, "registry_away": away})
        if len(each) <= metadata.SINGLE:
            shown["plot"] = _plot(name, rows.filter(pc.equal(rows["series_id"], name)).to_pandas(), lake)
        found[name] = shown
    return found


def shown_of(rows: pa.Table) -> dict[str, dict[str, object]]:
    """What the event of each series shows of its forecast: of texts the first that is there."""
    import numpy as np
    import pyarrow.compute as pc

    ids = rows["series_id"].combine_chunks().dictionary_encode()
    codes = ids.indices.to_numpy()
    order = np.argsort(codes, kind="stable")
    starts = np.flatnonzero(np.diff(codes[order], prepend=-1))

    def first(column: str) -> list[object]:
        there = np.where(pc.is_valid(rows[column]).to_numpy()[order], np.arange(len(order)), len(order))
        found = np.minimum.reduceat(there, starts)
        found = np.where(found < len(order), found, starts)  # it has none: its first row says so
        return rows[column].take(pa.array(order[found])).to_pylist()

    y_hat = rows["y_hat"].to_numpy()[order]
    repeated = pc.fill_null(rows["known_repeated"], fill_value=False).to_numpy()[order]
    columns = {
        "dagster/row_count": np.diff(starts, append=len(order)).tolist(),
        "total": np.add.reduceat(np.where(np.isnan(y_hat), 0.0, y_hat), starts).tolist(),
        "chart": plots.blocks(y_hat, starts),
        "cutoff": [str(moment) for moment in first("cutoff")],
        "model": first("model"),
        "fallback": first("fallback"),
        "known_repeated": np.logical_or.reduceat(repeated, starts).tolist(),
    }
    each = [dict(zip(columns, values, strict=True)) for values in zip(*columns.values(), strict=True)]
    return dict(sorted(zip(map(str, first("series_id")), each, strict=True)))


def _plot(name: str, forecast: "DataFrame", lake: Lake) -> dg.MarkdownMetadataValue:
    where = Filter(among={"series_id": [name], "pack": [forecast["pack"].iloc[0]]})
    history = lake.read(lake_tables.DATASETS.name, where, ["ds", "y"]).to_pandas().sort_values("ds")
    tail = history.tail(metadata.HISTORY_SHOWN)
    past = list(zip(tail["ds"], tail["y"], strict=True))
    ahead = forecast.sort_values("ds")
    low, high = ("lo80", "hi80") if "lo80" in ahead else ("y_hat", "y_hat")
    band = list(zip(ahead["ds"], ahead["y_hat"], ahead[low], ahead[high], strict=True))
    return plots.forecast(past, band, f"{name}: history, forecast and 80 % interval")


@dataclass(slots=True)
class _Scored:
    """What is kept of the forecasts of a run when they are in the lake: how many, with which columns and fallbacks."""

    rows: int = 0
    columns: list[str] = field(default_factory=list[str])
    fallbacks: Counter[str] = field(default_factory=Counter[str])

    def add(self, rows: pa.Table) -> None:
        """Count in the forecasts of one cutoff."""
        import pyarrow.compute as pc

        self.rows += rows.num_rows
        self.columns = self.columns or rows.column_names
        self.fallbacks.update(lake_tables.counts(rows.filter(pc.equal(rows["step"], 1)), "fallback"))

    def summary(self) -> metadata.Metadata:
        """The numbers that the run shows."""
        if not self.rows:
            return {}
        table = metadata.table([{"fallback": name, "series": n} for name, n in self.fallbacks.items() if name])
        return {"dagster/row_count": self.rows, "fallbacks": table}


def _checks(
    lake: Lake, cutoffs: Mapping[datetime, Sequence[str]], columns: Sequence[str]
) -> Iterator[dg.AssetCheckResult]:
    """The state of the newest cutoff in the lake, whatever part of it this run made; `columns` are those it made."""
    newest = max(cutoffs, default=lake_tables.lake_as_of(lake))
    date = f"{newest:%Y-%m-%d}" if newest else ""
    checked = [name for name in columns if name == "series_id" or _is_forecast(name)]  # without its texts, it is small
    rows = lake_tables.read_if_there(lake, lake_tables.PREDICTIONS, Filter(among={"cutoff_date": [date]}), checked)
    there = set(names_of(rows)) if rows is not None else set[str]()
    missing = sorted(stage_state.active_series(lake) - there)
    yield dg.AssetCheckResult(
        passed=not missing,
        check_name="every_active_series",
        metadata={"missing": len(missing), "first": ", ".join(missing[:20])},
    )
    bad, crossed = _missing_values(rows), _crossed_intervals(rows)
    yield dg.AssetCheckResult(passed=bad == 0, check_name="no_missing_values", metadata={"values": bad})
    yield dg.AssetCheckResult(passed=crossed == 0, check_name="ordered_intervals", metadata={"rows": crossed})
    aside = sorted(stage_state.series_set_aside(lake))
    yield dg.AssetCheckResult(
        passed=not aside,
        check_name="set_aside",
        severity=dg.AssetCheckSeverity.WARN,
        metadata={
            "series": len(aside),
            "bring_back": "correct the settings, or materialize the series' partition",
            "first": ", ".join(aside[:20]),
        },
    )


def _missing_values(rows: pa.Table | None) -> int:
    """How many forecasts and interval bounds are NaN, infinite or null."""
    import pyarrow.compute as pc

    if rows is None:
        return 0
    columns = filter(_is_forecast, rows.column_names)
    return sum(rows.num_rows - (pc.sum(pc.is_finite(rows[name])).as_py() or 0) for name in columns)


def _is_forecast(column: str) -> bool:
    """Whether a column of predictions is the forecast or a bound of an interval."""
    return column == "y_hat" or column[:2] in {"lo", "hi"}


def _crossed_intervals(rows: pa.Table | None) -> int:
    """How many times a bound is above the next one of lo95, lo80, hi80, hi95."""
    import pyarrow.compute as pc

    if rows is None:
        return 0
    order = [name for name in ("lo95", "lo80", "hi80", "hi95") if name in rows.column_names]
    return sum(pc.sum(pc.greater(rows[low], rows[high])).as_py() or 0 for low, high in pairwise(order))
