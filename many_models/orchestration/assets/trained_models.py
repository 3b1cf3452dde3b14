"""trained_models: every active series backtested, fitted and registered in staging, pack by pack."""

import json
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import datetime
from typing import TYPE_CHECKING

import dagster as dg
import pyarrow as pa

from many_models.data import lake_tables
from many_models.data.lake_tables import BufferedWriter
from many_models.errors import SeriesFailure, SettingsError
from many_models.keys import digest, slug
from many_models.orchestration import metadata, stage_state
from many_models.orchestration.chunks import Results, chunks_of, concat_results, failures_of, follow, good_series
from many_models.orchestration.forecast_spec import periods_before, spec_of
from many_models.orchestration.look import tag_of
from many_models.orchestration.refits import refit_spans
from many_models.orchestration.stage_asset import stage_asset
from many_models.orchestration.stage_run import STORE_ITEMS, VERSION_TAG, KeySet, SeriesResult, finish
from many_models.orchestration.upstream import Upstream
from many_models.ports import Compute, Filter, Lake, PackUpload, StagingRegistry
from many_models.reporting.training_metrics import BASELINE, training_metrics
from many_models.settings import Settings

if TYPE_CHECKING:
    from many_models.forecasting import Prior, Spec

SERIES_A_COMMIT = 2000


def build(settings: Settings) -> dg.AssetsDefinition:
    """The asset trained_models."""

    @stage_asset(
        settings,
        partitions=STORE_ITEMS,
        deps=["store_item_datasets", dg.AssetDep("pooled_models")],
        group="models",
        kinds={"mlflow", "numpy"},
        description=(
            "One backtested model per active series, in packs in the staging registry, with metrics and tags. It never "
            "reads the production registry: what it needs to know of the champions, promotion publishes to the lake."
        ),
    )
    def trained_models(
        context: dg.AssetExecutionContext,
        config: KeySet,
        lake: dg.ResourceParam[Lake],
        compute: dg.ResourceParam[Compute],
        staging: dg.ResourceParam[StagingRegistry],
    ) -> Iterator[None]:
        from many_models.forecasting.custom.parent import check_custom
        from many_models.tasks import TrainTask

        keys = stage_state.begin_series(context, config, settings, lake)
        spec = spec_of(settings)
        datasets = stage_state.made_versions(context.instance, "store_item_datasets")
        pooled = tag_of(context.instance, "pooled_models", VERSION_TAG)
        of = Upstream(settings)
        ahead = stage_state.known_to_training(of.spec, lake)
        spans = refit_spans(settings, lake, keys)
        upstream = {key: of.trained(spans.get(key, datasets.get(key, "")), pooled, ahead) for key in keys}
        check_custom(spec)
        remember_recipe(lake, spec)
        cutoffs, inactive = cutoffs_of(lake, keys)
        done = {
            key: SeriesResult(stage_state.INACTIVE, stage_state.INACTIVE, {"inactive": why})
            for key, why in inactive.items()
        }
        failures, summaries = list[SeriesFailure](), list[pa.Table]()
        champions, priors = champion_specs(lake, spec), priors_of(settings, lake)
        reached = _Reached()
        for cutoff, series in sorted(cutoffs.items()):
            task = TrainTask(
                lake, spec, cutoff, champions, priors, pooled, tuple(settings.data.keys), settings.keeps_paths
            )
            register = _Registering(lake, staging, context.run.run_id, spec, cutoff, datasets, reached)
            for pack, results in follow(context, compute, task, chunks_of(settings, series, compute)):
                failures += failures_of(results)
                summaries += register.add(pack, results)
            summaries += register.write()
            failures += register.unwritten
        reached.log(staging, context.run.run_id, spec, max(cutoffs, default=None))
        done |= _dones(summaries, upstream, shown=not settings.partitions.by)
        finish(context, settings, lake, keys, done, failures, upstream, metadata.training_summary(summaries))
        yield from ()

    return trained_models


@dataclass(slots=True)
class _Registering:
    """Trained packs on their way to staging and the lake, many at a time: what a call costs is shared by them."""

    lake: Lake
    staging: StagingRegistry
    run_id: str
    spec: "Spec"
    cutoff: datetime
    datasets: Mapping[str, str]
    reached: "_Reached"
    held: list[tuple[str, Results]] = field(default_factory=list[tuple[str, Results]])
    unwritten: list[SeriesFailure] = field(default_factory=list[SeriesFailure])

    def add(self, pack: str, results: Results) -> list[pa.Table]:
        """Hold a pack's results; when there are many, `write`."""
        self.reached.failed += len(failures_of(results))
        if not good_series(results):
            return []
        self.held.append((pack, results))
        many = sum(len(chunk.series) for _, found in self.held for chunk, _ in found) >= SERIES_A_COMMIT
        return self.write() if many else []

    def write(self) -> list[pa.Table]:
        """Register what is held and write it down; a summary for each pack, with its staging version."""
        uploads = [self._upload(pack, results) for pack, results in self.held]
        versions = self.staging.register(self.run_id, uploads) if uploads else []
        summaries = list[pa.Table]()
        trained, scores = BufferedWriter(self.lake, lake_tables.TRAINED), BufferedWriter(self.lake, lake_tables.SCORES)
        paths = BufferedWriter(self.lake, lake_tables.BACKTEST_PATHS)
        for (pack, results), version in zip(self.held, versions, strict=True):
            good = good_series(results)
            series = _with_staging(concat_results(results, "series"), version.ref)
            summaries.append(series.select([*dict.fromkeys((*SHOWN, *metadata.OF_TRAINING))]))
            trained.add(pack, series, good)
            scores.add(pack, concat_results(results, "scores"), good)
            if any("paths" in result.tables for _, result in results):
                paths.add(pack, concat_results(results, "paths"), good)
        self.unwritten += trained.write() + scores.write() + paths.write()
        self.held = []
        return summaries

    def _upload(self, pack: str, results: Results) -> PackUpload:
        found = self.reached.add(pack, results)
        return _upload(pack, results, self.spec, self.cutoff, self.datasets, found)


@dataclass(slots=True)
class _Reached:
    """What a run has reached so far, over all cutoffs: people compare nights by it."""

    packs: dict[str, list["_Part"]] = field(default_factory=dict[str, list["_Part"]])
    failed: int = 0

    def add(self, pack: str, results: Results) -> dict[str, float]:
        """Count in what a pack has at one cutoff; its metrics there."""
        series, scores = concat_results(results, "series"), concat_results(results, "scores")
        part = _Part(series.select(MEASURED), _baseline(scores), len(failures_of(results)))
        self.packs.setdefault(pack, []).append(part)
        return _metrics_of([part])

    def log(self, staging: StagingRegistry, batch: str, spec: "Spec", cutoff: datetime | None) -> None:
        """Record the metrics over all series and pack by pack, and the settings that the models were trained with."""
        from many_models.forecasting.spec import CODE_VERSION

        if not self.packs or cutoff is None:
            return
        every = [part for parts in self.packs.values() for part in parts]
        metrics = {**_metrics_of(every), "failed": float(self.failed)}
        for pack, parts in self.packs.items():
            metrics |= {f"packs/{slug(pack)}/{name}": value for name, value in _metrics_of(parts).items()}
        settings = {name: json.dumps(value) for name, value in json.loads(spec.to_json()).items()}
        parameters = {"recipe": spec.recipe, "code_version": CODE_VERSION, "cutoff": str(cutoff), **settings}
        title = f"trained to {str(cutoff).removesuffix(' 00:00:00')}"
        staging.log_batch(batch, title, parameters, metrics)


@dataclass(frozen=True, slots=True)
class _Part:
    """A pack at one cutoff: its series (`MEASURED`), their volumes, and how many failed."""

    series: pa.Table
    scores: pa.Table
    failed: int


def _metrics_of(parts: Sequence[_Part]) -> dict[str, float]:
    series = pa.concat_tables([part.series for part in parts], promote_options="permissive")
    scores = pa.concat_tables([part.scores for part in parts], promote_options="permissive")
    return training_metrics(series, scores, sum(part.failed for part in parts))


MEASURED = ["series_id", "wape", "baseline_wape", "bias", "cover80", "cover95"]


def _baseline(scores: pa.Table) -> pa.Table:
    """The rows of `scores` that say how much each series sold."""
    import pyarrow.compute as pc

    return scores.filter(pc.equal(scores["candidate"], BASELINE)).select(["series_id", "candidate", "abs_actual"])


def cutoffs_of(lake: Lake, keys: Sequence[str]) -> tuple[dict[datetime, list[str]], dict[str, str]]:
    """The active ones of `keys` by the as_of that their datasets reach to, and the others with the reason why not.

    A series without a dataset counts as active at the newest as_of, where its task says what is missing.
    """
    rows = lake_tables.records(lake, lake_tables.SERIES, columns=["series_id", "active", "why", "as_of"])
    by_name = {row["series_id"]: row for row in rows}
    newest = max((row["as_of"] for row in by_name.values()), default=None)
    cutoffs, inactive = dict["datetime", list[str]](), dict[str, str]()
    for key in keys:
        row = by_name.get(key)
        if row is not None and not row["active"]:
            inactive[key] = row["why"]
        elif (as_of := row["as_of"] if row else newest) is not None:
            cutoffs.setdefault(as_of, []).append(key)
    return cutoffs, inactive


def remember_recipe(lake: Lake, spec: "Spec") -> None:
    """Write down what a recipe's hash stands for, so that it can be refitted as long as any champion has it."""
    if any(row["recipe"] == spec.recipe for row in lake_tables.records(lake, lake_tables.RECIPES)):
        return
    row = pa.table({"recipe": [spec.recipe], "spec": [spec.to_json()]})
    lake.replace(lake_tables.RECIPES.name, row, Filter(among={"recipe": [spec.recipe]}))


def champion_specs(lake: Lake, spec: "Spec") -> dict[str, "Spec"]:
    """The specs of those champions that another recipe than `spec` made, as promotion published them."""
    from many_models.forecasting import Spec as SpecOf

    rows = lake_tables.records(lake, lake_tables.CHAMPIONS, columns=["series_id", "recipe", "spec"])
    others = [row for row in rows if row["recipe"] != spec.recipe and row["spec"]]
    specs = dict[str, "Spec"]()
    for text in {row["spec"] for row in others}:
        with suppress(SettingsError):  # a candidate that is gone: its champions cannot be measured, and stay
            specs[text] = SpecOf.from_json(text)
    return {row["series_id"]: specs[row["spec"]] for row in others if row["spec"] in specs}


def priors_of(settings: Settings, lake: Lake) -> dict[str, "Prior"]:
    """What is known of each series from its relatives (see `priors_of_new`), from the newest sales and attributes.
    Series that are too short for a model use it.
    """
    from many_models.data.covariates import with_attributes
    from many_models.forecasting.new_items import priors_of_rows, recent_periods

    as_of, keys, spec = lake_tables.lake_as_of(lake), settings.data.keys, spec_of(settings)
    if as_of is None or (len(keys) < 2 and not spec.attributes):
        return {}
    since = periods_before(as_of, recent_periods(spec), spec)
    where = Filter(among={"year": list(range(since.year, as_of.year + 1))}, since=since)
    rows = lake.read(lake_tables.RAW_SALES.name, where, ["series_id", "ds", "y"])
    told = rows.select(["series_id"]).group_by("series_id").aggregate([])
    if spec.attributes:
        known = lake_tables.read_if_there(lake, lake_tables.RAW_ATTRIBUTES)
        told = with_attributes(told, known, told["series_id"].to_pylist(), keys, spec.attributes)
    return priors_of_rows(rows, keys, spec, told)


def _upload(
    pack: str, results: Results, spec: "Spec", cutoff: datetime, datasets: Mapping[str, str], found: Mapping[str, float]
) -> PackUpload:
    from many_models.forecasting import PackModel
    from many_models.forecasting.spec import CODE_VERSION

    models = [PackModel.from_files(result.files) for _, result in results if result.files]
    model = models[0] if len(models) == 1 else PackModel.merge(models)
    rows = concat_results(results, "series").to_pylist()
    wape = sorted(row["wape"] for row in rows if row["wape"] is not None)
    tags = {
        "recipe": spec.recipe,
        "cutoff": cutoff.isoformat(),
        "code_version": CODE_VERSION,
        "data_version": digest(sorted((name, datasets.get(name, "")) for name in model.series)),
        "median_wape": f"{wape[len(wape) // 2]:.4f}" if wape else "",
        **{name: f"{value:.4g}" for name, value in found.items()},
    }
    return PackUpload(pack, model.files(), model.series, tags)


def _with_staging(series: pa.Table, ref: str) -> pa.Table:
    return series.append_column("staging", pa.array([ref] * series.num_rows, pa.string()))


SHOWN = ("wape", "baseline_wape", "skill", "mase", "bias", "cover80", "candidate", "fallback", "history", "staging")


def _dones(summaries: Sequence[pa.Table], upstream: Mapping[str, str], *, shown: bool) -> dict[str, SeriesResult]:
    """The outcome of each series, with what its event shows where each series has an event (`shown`)."""
    found = dict[str, SeriesResult]()
    for summary in summaries:
        for row in summary.select(["series_id", *(SHOWN if shown else ("staging",))]).to_pylist():
            name = str(row.pop("series_id"))
            consumed = upstream.get(name, "")
            version = digest(consumed, str(row["staging"]))
            found[name] = SeriesResult(consumed, version, metadata.plain(row) if shown else {})
    return found
