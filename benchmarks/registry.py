"""What the registries cost on SQLite: registering, finding, promoting and rolling back 10,000 series, against MLflow as
it is usually written. `python -m benchmarks.registry [--small] [--azureml] [--json]`.
"""

from __future__ import annotations

import io
import json
import sqlite3
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from benchmarks._report import Figure, flags, machine, show
from many_models.adapters.registry.mlflow_production import MlflowProduction, MlflowStaging
from many_models.ports import PackUpload, PromotedSeries, ReleaseDraft
from many_models.promotion.policy import Evidence, Policy, decide

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from many_models.ports import PackVersion, Release

FLOATS = 128  # parameters of one series


@dataclass(frozen=True)
class Size:
    """How much is measured."""

    series: int
    entries: int
    logged: int
    singles: int


FULL, SMALL = Size(10_000, 300_000, 3, 200), Size(1_000, 20_000, 1, 30)


def packs_of(series: int, each: int, seed: int) -> list[PackUpload]:
    """Packs of `each` series with random parameters and the loader that real ones carry."""
    from many_models.forecasting.pack import mm_pack_v1

    loader = Path(mm_pack_v1.__file__).read_bytes()
    chance = np.random.default_rng(seed)
    packs: list[PackUpload] = []
    for number in range(series // each):
        names = tuple(f"store-{number:05d}__item-{i:03d}" for i in range(each))
        array = io.BytesIO()
        np.save(array, chance.normal(size=(each, FLOATS)), allow_pickle=False)
        index = json.dumps({"series": names, "known": []}).encode()
        files = {"index.json": index, "weights.npy": array.getvalue(), "mm_pack_v1.py": loader}
        packs.append(PackUpload(f"store-{number:05d}", files, names, {"recipe": "r", "cutoff": "2017-01-01"}))
    return packs


def seconds(work: Callable[[], object], times: int = 1) -> float:
    """The least time that `work` takes: what others do on the machine only adds."""
    taken: list[float] = []
    for _ in range(times):
        start = time.perf_counter()
        work()
        taken.append(time.perf_counter() - start)
    return min(taken)


def log_model_seconds(folder: Path, models: int, *, pinned: bool) -> float:
    """Seconds a model of `mlflow.sklearn.log_model(registered_model_name=…)`, requirements inferred or `pinned`."""
    import mlflow
    from mlflow.sklearn import log_model
    from sklearn.linear_model import Ridge

    model = Ridge().fit(np.arange(10.0)[:, None], np.arange(10.0))
    requirements = ["scikit-learn", "numpy"] if pinned else None
    before = mlflow.get_tracking_uri()
    mlflow.set_tracking_uri(f"sqlite:///{folder}/usual.db")
    try:
        mlflow.create_experiment(f"usual-{pinned}", artifact_location=(folder / "usual").as_uri())
        mlflow.set_experiment(f"usual-{pinned}")

        def log(name: str) -> None:
            with mlflow.start_run():
                log_model(model, name="model", registered_model_name=name, pip_requirements=requirements)

        log(f"warm-up-{pinned}")
        return seconds(lambda: [log(f"usual-{pinned}-{i}") for i in range(models)]) / models
    finally:
        mlflow.set_tracking_uri(before)


def grow(database: Path, entries: int) -> None:
    """Fills the database with `entries` old versions of its packs, tags and all, as years of training would."""
    with sqlite3.connect(database) as connection:
        (space,) = connection.execute("select workspace from registered_models limit 1").fetchone()
        rows = connection.execute("select name from registered_models where name like 'many_models-store%'")
        names = sorted(name for (name,) in rows)
        per_name = entries // len(names)
        tags = dict(
            connection.execute(
                "select key, value from model_version_tags where name = ? and version = 1 and key != 'mm.current'",
                (names[0],),
            )
        )
        connection.executemany(
            "insert into model_versions (workspace, name, version, creation_time, last_updated_time, current_stage,"
            " source, storage_location, status) values (?, ?, ?, 1, 1, 'None', 'gone', 'gone', 'READY')",
            ((space, name, 1000 + i) for name in names for i in range(per_name)),
        )
        connection.executemany(
            "insert into model_version_tags (workspace, name, version, key, value) values (?, ?, ?, ?, ?)",
            (
                (space, name, 1000 + i, key, value)
                for name in names
                for i in range(per_name)
                for key, value in tags.items()
            ),
        )
        connection.execute("analyze")


def promote(
    staging: MlflowStaging, production: MlflowProduction, base: Release | None, names: Sequence[str]
) -> Release:
    """Everything from the newest staging versions to the live release."""
    newest = staging.newest(names)
    evidence = [
        Evidence(
            name, newest[name].ref, "r", "2017-01-01", 700, 3, 0.3, 0.4, 0.0, 0.8, 0.7, "", finite=True, champion=None
        )
        for name in names
    ]
    won = [decision for decision in decide(evidence, Policy()) if decision.action == "promote"]
    versions: dict[str, PackVersion] = {version.ref: version for version in newest.values()}
    packs = [PackUpload(v.pack, staging.files(v), v.series, v.tags) for v in versions.values()]
    rows = [PromotedSeries(d.series_id, d.staging, "r", "2017-01-01") for d in won]
    return production.publish(ReleaseDraft(base.release_id if base else "", "benchmark", "", packs, rows))


def measure(size: Size, folder: Path) -> list[Figure]:
    """All figures, in one run."""
    staging = MlflowStaging(f"sqlite:///{folder}/staging.db", str(folder / "staging"))
    production = MlflowProduction(f"sqlite:///{folder}/production.db", str(folder / "production"))
    staging.check()
    production.check()
    usual = log_model_seconds(folder, size.logged, pinned=False)
    pinned = log_model_seconds(folder, 5 * size.logged, pinned=True)
    batches = [packs_of(size.series, 100, seed) for seed in range(2)]
    names = [name for upload in batches[0] for name in upload.series]
    staging.register("warm-up", packs_of(100, 100, 9))
    packed = seconds(lambda: staging.register("one", batches[0])) / size.series
    singles = MlflowStaging(f"sqlite:///{folder}/staging.db", str(folder / "staging"), "singles")
    one_each = packs_of(size.singles, 1, 5)
    alone = seconds(lambda: singles.register("alone", one_each)) / size.singles
    releases: list[Release] = []
    promoting = seconds(lambda: releases.append(promote(staging, production, None, names)))
    logging = seconds(lambda: log_night(staging, size.series), 3)
    staging.register("two", batches[1])
    promoting_again = seconds(lambda: releases.append(promote(staging, production, releases[0], names)))
    rollback = seconds(lambda: production.activate(releases[0].release_id))
    resolving = seconds(lambda: resolve(production, len(names)), 9)
    finding = seconds(lambda: staging.newest(names), 5)
    for part in ("staging", "production"):
        grow(folder / f"{part}.db", size.entries)
    resolving_later = seconds(lambda: resolve(production, len(names)), 9)
    finding_later = seconds(lambda: staging.newest(names), 5)
    rollback_later = seconds(lambda: production.activate(releases[1].release_id))
    kept = f"with {size.entries:,} model entries kept"
    return [
        Figure("log_model as people write it", usual, "s a model", ""),
        Figure("log_model with pinned requirements", pinned, "s a model", ""),
        Figure("models registered per second, packs of 100", 1 / packed, "models a second", ""),
        Figure("registering in packs of 100 against log_model", usual / packed, "times", "at least 2,000"),
        Figure("registering in packs of 100 against pinned log_model", pinned / packed, "times", "at least 50"),
        Figure("registering packs of one against log_model", usual / alone, "times", "at least 100"),
        Figure("parameters and metrics of a night, per series", 1000 * logging / size.series, "ms", "at most 0.2"),
        Figure(f"resolving {size.series:,} champions", resolving, "s", "at most 0.2"),
        Figure(f"resolving them {kept}", resolving_later, "s", "at most 0.2"),
        Figure(f"resolving them {kept}, against without", resolving_later / resolving, "times", "at most 1.2"),
        Figure(f"finding {size.series:,} newest versions in staging", finding, "s", ""),
        Figure(f"finding them {kept}", finding_later, "s", ""),
        Figure(f"promoting {size.series:,} series for the first time", promoting, "s", "at most 20"),
        Figure(f"promoting {size.series:,} series again", promoting_again, "s", "at most 20"),
        Figure("rollback", rollback, "s", "at most 2"),
        Figure(f"rollback {kept}", rollback_later, "s", "at most 2"),
    ]


def log_night(staging: MlflowStaging, series: int) -> None:
    """Measure what a night reached over `series` in packs of 100, and record it as training does."""
    import pyarrow as pa

    from many_models.reporting.training_metrics import training_metrics

    chance = np.random.default_rng(1)
    metrics: dict[str, float] = {}
    for pack in range(series // 100):
        names = [f"store-{pack:05d}__item-{i:03d}" for i in range(100)]
        columns = ("wape", "baseline_wape", "bias", "cover80", "cover95")
        found = pa.table({"series_id": names, **{name: chance.uniform(size=100) for name in columns}})
        windows = pa.table(
            {"series_id": 3 * names, "candidate": 300 * ["seasonal_naive"], "abs_actual": chance.uniform(size=300)}
        )
        of_pack = training_metrics(found, windows, 0)
        metrics |= {f"packs/store-{pack:05d}/{name}": value for name, value in of_pack.items()}
    staging.log_batch("one", "trained to 2017-01-01", {f"setting {at}": "1" for at in range(40)}, metrics)


CALL_SECONDS = 0.1


def measure_azureml(size: Size, folder: Path) -> list[Figure]:
    """The same series in an Azure ML workspace that takes CALL_SECONDS a call, with its files in Azurite."""
    from many_models.adapters.azure.blob_folder import BlobFolder
    from many_models.adapters.azure.storage import AzureStorage
    from many_models.adapters.registry.azureml import AzureMLStaging
    from many_models.adapters.registry.azureml_assets import ModelAssets
    from many_models_tests.stand_ins.azureml_models import Workspace
    from many_models_tests.stand_ins.azurite import running

    with running(folder / "azurite") as azurite:
        url = f"{azurite.container('registry')}/staging"
        files = BlobFolder(AzureStorage(url, "key", lambda _: azurite.key, endpoint=azurite.endpoint))
        workspace = Workspace(files, seconds=CALL_SECONDS)
        staging = AzureMLStaging(files, ModelAssets(lambda: workspace, "registry"))
        packs = packs_of(size.series, 100, 0)
        names = [name for upload in packs for name in upload.series]
        registering = seconds(lambda: staging.register("one", packs))
        finding = seconds(lambda: staging.newest(names), 3)
    told = f"Azure ML, {CALL_SECONDS:g} s a call"
    return [
        Figure(f"registering {size.series:,} series in packs of 100, {told}", registering, "s", "at most 60"),
        Figure(f"finding {size.series:,} newest versions, {told}", finding, "s", ""),
    ]


def resolve(production: MlflowProduction, expected: int) -> None:
    """Which pack version and row serves each series."""
    live = production.live()
    found = len(live.champions) if live else 0
    if found != expected:
        raise RuntimeError(f"{found} champions instead of {expected}")


def main() -> None:
    """Measures, and prints a table or JSON."""
    parser = flags(__doc__ or "", "1,000 series instead of 10,000")
    parser.add_argument("--azureml", action="store_true", help="only the registry on Azure ML, against a stand-in")
    options = parser.parse_args()
    how = measure_azureml if options.azureml else measure
    with tempfile.TemporaryDirectory() as folder:
        figures = how(SMALL if options.small else FULL, Path(folder))
    show(figures, machine("mlflow"), as_json=options.json)


if __name__ == "__main__":
    sys.exit(main())
