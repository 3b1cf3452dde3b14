"""What disks, people and newer versions do to packs, through the stages: named, the rest goes on, nothing unpickled."""

from __future__ import annotations

import io
import pickle
import shutil
import sqlite3
from contextlib import closing
from dataclasses import dataclass, replace
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING

import dagster as dg
import numpy as np
import pyarrow as pa
import pytest

from many_models.errors import UnavailableError
from many_models.operations.day import Day, StageReport, open_instance
from many_models.ports import Filter, PackUpload, PromotedSeries, ReleaseDraft
from many_models.promotion import approval
from many_models.wiring import build_lake, build_production, build_staging
from many_models_tests.contracts.registry import Spy
from many_models_tests.support.project import END, Project, make_project, sales

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from many_models.ports import PackVersion, StagingRegistry

pytestmark = pytest.mark.slow
DAYS = [END - timedelta(days=back) for back in (3, 2, 1)]
STORES = [f"s{i}__i0" for i in range(6)]


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Project:
    """Six stores of one item each, a pack each, after their first day."""
    made = make_project(tmp_path_factory.mktemp("packs") / "p", sales(stores=6, items=1))
    made.run(DAYS[0])
    return made


def failures(project: Project, stage: str) -> dict[str, str]:
    if "series_status" not in build_lake(project.settings()).tables():
        return {}
    rows = project.table("series_status")
    rows = rows[rows["stage"] == stage]
    return dict(zip(rows["series_id"], rows["reason"], strict=True))


def files_of(project: Project, ref: str) -> Path:
    """The folder with a production pack's data files."""
    name, _, version = ref.rpartition("/")
    with closing(sqlite3.connect(project.root / "var" / "registry" / "production.db")) as connection:
        query = "select source from model_versions where name = ? and version = ?"
        (source,) = connection.execute(query, (name, version)).fetchone()
    return Path(source.removeprefix("file://")) / "data"


def pickled(mark: Path) -> bytes:
    """An array file that leaves `mark` behind when it is unpickled."""
    buffer = io.BytesIO()
    np.save(buffer, np.array([Spy(str(mark))], dtype=object), allow_pickle=True)
    return buffer.getvalue()


@dataclass
class Damaging:
    """A staging registry whose disk spoils the files of one pack right after they were stored."""

    staging: StagingRegistry
    pack: str

    def register(self, batch: str, packs: Sequence[PackUpload]) -> Sequence[PackVersion]:
        versions = self.staging.register(batch, packs)
        for version in versions:
            if version.pack == self.pack:
                source = self.staging._store.find(version.ref).source
                file = Path(str(source).removeprefix("file://")) / "data" / "state.npy"
                file.write_bytes(file.read_bytes()[:-10])
        return versions

    def log_batch(self, batch: str, title: str, parameters: Mapping[str, str], metrics: Mapping[str, float]) -> None:
        self.staging.log_batch(batch, title, parameters, metrics)

    def newest(self, series: Sequence[str]) -> Mapping[str, PackVersion]:
        return self.staging.newest(series)

    def files(self, version: PackVersion) -> Mapping[str, bytes]:
        return self.staging.files(version)


def test_a_pack_spoilt_in_staging_is_named_and_its_champion_of_before_stays_live(project: Project) -> None:
    before = build_production(project.settings()).live()
    settings = project.settings(DAYS[1])
    with open_instance(project.home) as instance:
        reports = Day(settings, instance, resources={"staging": Damaging(build_staging(settings), "s0")}).run()
    assert before is not None
    assert by_stage(reports)["promoted_models"] == (5, 1)
    (reason,) = failures(project, "promoted_models").values()
    assert before.champions[STORES[0]].ref.rpartition("/")[0] in reason
    assert "not what was stored" in reason
    live = build_production(settings).live()
    assert live is not None
    same = {name for name in STORES if live.champions[name] == before.champions[name]}
    assert same == {STORES[0]}
    rows = project.table("predictions")
    today = rows[rows["cutoff_date"] == DAYS[1].isoformat()]
    assert set(today["series_id"]) == set(STORES)
    assert (today["model"] != "").all()


def by_stage(reports: Sequence[StageReport]) -> dict[str, tuple[int, int]]:
    return {report.stage: (report.done, report.failed) for report in reports}


def test_bad_packs_in_production_fail_their_own_series_and_the_rest_is_scored(project: Project, tmp_path: Path) -> None:
    settings = project.settings(DAYS[1])
    production, mark = build_production(settings), tmp_path / "mark"
    live = production.live()
    assert live is not None
    # stored and hashed as they are by whoever made them: what only a loader can notice
    good = {name: dict(production.files(c.ref, c.sha256)) for name, c in live.champions.items()}
    newer = {("mm_pack_v9.py" if name == "mm_pack_v1.py" else name): data for name, data in good[STORES[0]].items()}
    planted = {**good[STORES[1]], "state.npy": pickled(mark), "model.pkl": pickle.dumps(Spy(str(mark)))}
    packs = [PackUpload("s0", newer, (STORES[0],)), PackUpload("s1", planted, (STORES[1],))]
    promoted = [PromotedSeries(name, "by hand/1", "r", "2024-01-01") for name in STORES[:2]]
    live = production.publish(ReleaseDraft(live.release_id, "somebody", "by hand", packs, promoted))
    approval.publish_champions(build_lake(settings), live)
    # and what happens to files afterwards
    folders = [files_of(project, live.champions[name].ref) for name in STORES]
    shutil.rmtree(project.root / "var" / "cache", ignore_errors=True)
    (folders[2] / "weights.npy").write_bytes((folders[2] / "weights.npy").read_bytes()[:-1] + b"\xff")
    (folders[3] / "weights.npy").write_bytes((folders[3] / "weights.npy").read_bytes()[:-7])
    for file in folders[4].iterdir():
        shutil.copy(folders[5] / file.name, file)  # another store's whole pack in its place
    settings = project.settings(DAYS[2])
    with open_instance(project.home) as instance:
        run_predictions(settings, instance)
    told = failures(project, "predictions")
    assert set(told) == set(STORES[:5])
    for name in STORES[:5]:
        assert live.champions[name].ref in told[name], told[name]
    assert "mm_pack_v9.py" in told[STORES[0]]
    assert "upgrade" in told[STORES[0]]
    assert "state.npy" in told[STORES[1]]
    assert all("not what was stored" in told[name] for name in STORES[2:5])
    assert not mark.exists()
    assert build_production(settings).live() == live


def run_predictions(settings, instance) -> None:
    """The stage predictions alone, over every series."""
    from many_models.definitions import build, build_assets
    from many_models.orchestration import automation, due

    keys = tuple(instance.get_dynamic_partitions("store_items"))
    state = due.StageState("predictions", dict.fromkeys(keys, "anew"), {})
    request = automation.request_of(
        settings, instance, build_assets(settings)["predictions"], due.Work("predictions", keys), state, {}
    )
    job = build(settings).resolve_job_def(automation.JOBS["predictions"])
    job.execute_in_process(run_config=request.run_config, instance=instance, tags=request.tags, raise_on_error=False)


def test_a_pack_damaged_in_the_cache_is_fetched_again(project: Project, tmp_path: Path) -> None:
    from many_models.data.release_cache import ReleaseCache
    from many_models.orchestration.assets.predictions import fetch_models

    production = build_production(project.settings())
    live = production.live()
    assert live is not None
    live = replace(live, champions={STORES[5]: live.champions[STORES[5]]})
    cache = ReleaseCache(production, tmp_path)
    (tmp_path / "packs").mkdir()
    (tmp_path / "packs" / "yesterday.pack").write_bytes(b"")
    assert cache.live() is not None
    models, failed = fetch_models(cache.packs, live, [STORES[5]])
    assert failed == []
    (file,) = (tmp_path / "packs").iterdir()
    whole = file.read_bytes()
    file.write_bytes(whole[:-3])
    assert fetch_models(cache.packs, live, [STORES[5]]) == (models, [])
    assert file.read_bytes() == whole


def test_a_production_store_that_is_away_is_an_error_and_not_a_day_without_models(project: Project) -> None:
    settings = project.settings(DAYS[2])
    before = project.table("predictions")
    with open_instance(project.home) as instance, pytest.raises(UnavailableError, match=r"127\.0\.0\.1:9"):
        Day(moved_away(settings), instance).run()
    assert len(project.table("predictions")) == len(before)


def moved_away(settings):
    return settings.model_copy(
        update={"registry": settings.registry.model_copy(update={"production": "http://127.0.0.1:9"})}
    )


def predictions_of(project: Project) -> dict[str, tuple[str, float]]:
    rows = project.table("predictions")
    rows = rows[(rows["cutoff_date"] == rows["cutoff_date"].max()) & (rows["step"] == 1)]
    return {row.series_id: (row.model, row.y_hat) for row in rows.itertuples()}


def metadata_of(instance, series: str) -> dict[str, object]:
    records = instance.fetch_materializations(
        dg.AssetRecordsFilter(dg.AssetKey("predictions"), asset_partitions=[series]), limit=1
    )
    return {name: value.value for name, value in records.records[0].asset_materialization.metadata.items()}


def test_while_the_production_store_is_away_the_last_release_scores_and_says_so(tmp_path: Path) -> None:
    project = make_project(tmp_path / "p", sales(stores=3, items=1))
    project.run(DAYS[0])
    settings = project.settings(DAYS[0])
    before, live = predictions_of(project), build_production(settings).live()
    assert live is not None
    assert len(before) == 3

    # everything at hand: the same forecasts, and everybody is told why
    with open_instance(project.home) as instance:
        run_predictions(moved_away(settings), instance)
        told = metadata_of(instance, STORES[0])["registry_away"]
    assert predictions_of(project) == before
    assert failures(project, "predictions") == {}
    assert "127.0.0.1:9" in str(told)
    assert live.release_id in str(told)

    # one pack is not at hand, one series has been promoted since: these wait, the third is scored
    packs = project.root / "var" / "cache" / "packs"
    (packs / f"{live.champions[STORES[1]].sha256}.pack").unlink()
    table = build_lake(settings).read("champions")
    staging = ["newer/9" if name == STORES[2] else old for name, old in zip(
        table["series_id"].to_pylist(), table["staging"].to_pylist(), strict=True)]  # fmt: skip
    place = table.column_names.index("staging")
    build_lake(settings).replace("champions", table.set_column(place, "staging", pa.array(staging)), Filter())
    with open_instance(project.home) as instance:
        run_predictions(moved_away(settings), instance)
    waiting = failures(project, "predictions")
    assert set(waiting) == {STORES[1], STORES[2]}
    assert "127.0.0.1:9" in waiting[STORES[1]]
    assert "newer champion" in waiting[STORES[2]]
    status = project.table("series_status")
    assert not status[status["stage"] == "predictions"]["permanent"].any()

    # back again
    build_lake(settings).replace("champions", table, Filter())
    with open_instance(project.home) as instance:
        run_predictions(settings, instance)
        assert "registry_away" not in metadata_of(instance, STORES[0])
    assert failures(project, "predictions") == {}
    assert predictions_of(project) == before


@pytest.mark.parametrize("memory", [None, b"", b'{"champions": 3}', b"PK"])
def test_without_a_release_to_remember_a_store_that_is_away_is_an_error(tmp_path: Path, memory: bytes | None) -> None:
    from many_models.adapters.registry.mlflow_production import MlflowProduction
    from many_models.data.release_cache import ReleaseCache

    if memory is not None:
        (tmp_path / "release.npz").write_bytes(memory)
    with pytest.raises(UnavailableError, match=r"127\.0\.0\.1:9"):
        ReleaseCache(MlflowProduction("http://127.0.0.1:9"), tmp_path).live()
