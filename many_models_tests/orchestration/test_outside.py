"""Production and the warehouse as looks ask them: what has gone back is followed, what fails makes nothing due."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import dagster as dg
import pytest

from many_models.adapters.lake.memory import MemoryLake
from many_models.adapters.registry.memory import MemoryProduction
from many_models.errors import ManyModelsError, TransientError
from many_models.orchestration.live_release import GoneBack, follow_release, gone_back, told_release
from many_models.orchestration.outside import Outside
from many_models.ports import PackUpload, PromotedSeries, ReleaseDraft
from many_models.promotion.approval import publish_champions
from many_models.settings import Settings
from many_models.wiring import build_production, build_warehouse

if TYPE_CHECKING:
    from pathlib import Path

    from many_models.ports import Release


def published(production: MemoryProduction, base: str = "") -> Release:
    pack = PackUpload("p", {"file": base.encode()}, ("a",), {})
    promoted = PromotedSeries("a", f"staging {base}", "recipe", "2024-06-30", "")
    return production.publish(ReleaseDraft(base, "me", "why", [pack], [promoted], []))


def test_a_release_that_was_only_just_published_has_not_gone_back():
    production, lake = MemoryProduction(), MemoryLake()
    assert gone_back(lake, production) is None
    first = published(production)
    publish_champions(lake, first)
    assert gone_back(lake, production) is None
    published(production, first.release_id)
    assert gone_back(lake, production) is None


@pytest.mark.slow
@pytest.mark.parametrize("forgotten", [False, True])
def test_the_lake_follows_production_and_promotion_decides_again_where_the_newer_release_is_forgotten(forgotten):
    production, lake = MemoryProduction(), MemoryLake()
    first = published(production)
    second = published(production, first.release_id)
    publish_champions(lake, replace(second, release_id="lost") if forgotten else second)
    third = production.activate(first.release_id)
    told = told_release(lake)
    with dg.instance_for_test() as instance:
        instance.report_runless_asset_event(dg.AssetMaterialization("promoted_models"))
        assert gone_back(lake, production) == GoneBack(told, third.release_id, forgotten)
        (said,) = follow_release(instance, lake, production)
        assert said.endswith("promotion decides again" if forgotten else "predictions follow it")
        decided = instance.get_latest_materialization_event(dg.AssetKey("promoted_models"))
        assert (decided is None) is forgotten
        assert told_release(lake) == first.release_id
        assert follow_release(instance, lake, production) == []


def stores(url: str, folder: Path) -> Settings:
    registry = {"production": url, "production_artifacts": str(folder / "artifacts")}
    return Settings.model_validate({"registry": registry, "warehouse": {"url": url}})


@pytest.mark.slow
@pytest.mark.parametrize(
    "url",
    ["sqlite:///{}/damaged.db", "sqlite:///{}/folder", "sqlite:///{}/damaged.db/below/it.db",
     "postgresql://nobody@127.0.0.1:1/none", "postgresql+nodriver://nobody@127.0.0.1/none"],
)  # fmt: skip
def test_real_stores_that_fail_are_said_and_raise_nothing_that_would_stop_the_sensors(tmp_path, url):
    (tmp_path / "damaged.db").write_bytes(b"this is no database" * 500)
    (tmp_path / "folder").mkdir()
    settings, said = stores(url.format(tmp_path), tmp_path), list[str]()
    lake, known = MemoryLake(), MemoryProduction()
    publish_champions(lake, published(known))
    outside = Outside(
        lambda: build_production(settings, light=True), lambda: build_warehouse(settings), say=said.append
    )
    with dg.instance_for_test() as instance:
        assert outside.loads() is None
        outside.follow_release(instance, lake)
    assert [text.partition(":")[0] for text in said] == [
        "the warehouse was not asked what it holds", "production was not asked which release is live"
    ]  # fmt: skip


def test_a_run_passes_over_what_may_pass_alone(tmp_path):
    (tmp_path / "damaged.db").write_bytes(b"this is no database" * 500)
    settings, said = stores(f"sqlite:///{tmp_path}/damaged.db", tmp_path), list[str]()
    outside = Outside(MemoryProduction, lambda: build_warehouse(settings), passed_over=TransientError, say=said.append)
    with pytest.raises(ManyModelsError, match="not a database"):
        outside.loads()
    assert said == []
