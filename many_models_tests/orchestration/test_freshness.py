"""Dagster's own conventions: when an asset is late, and that its command line finds nothing to complain about."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from many_models.definitions import build
from many_models.orchestration.due import ALL_STAGES
from many_models.orchestration.freshness import freshness_policy, usual_days
from many_models.settings import Settings

ROOT = Path(__file__).resolve().parents[2]


def of(**sections: dict[str, object]) -> Settings:
    return Settings.model_validate(sections)


@pytest.mark.parametrize(
    ("settings", "days"),
    [
        (of(), 1),
        (of(data={"frequency": "h"}), 1),
        (of(data={"frequency": "B"}), 3),
        (of(data={"frequency": "W-MON"}), 7),
        (of(data={"frequency": "MS"}), 31),
        (of(data={"frequency": "2W"}), 14),
        (of(partitions={"grain": "week"}), 7),
        (of(dagster={"cron": "0 6 * * 1"}), 7),
        (of(dagster={"cron": "0 6 1 * *"}), 31),
    ],
)
def test_a_stage_is_late_by_the_slowest_of_schedule_data_and_partitions(settings: Settings, days: int) -> None:
    assert usual_days(settings, "raw_sales") == days
    assert usual_days(settings, "predictions") == days


def test_models_that_are_learned_seldom_are_late_later() -> None:
    settings = of(forecast={"pool_every": 28, "refit_every": 7})
    assert usual_days(settings, "pooled_models") == 28
    assert usual_days(settings, "trained_models") == usual_days(settings, "promoted_models") == 7
    assert usual_days(settings, "predictions") == 1


def test_every_asset_has_a_freshness_policy() -> None:
    graph = build(Settings()).get_repository_def().asset_graph
    for key in graph.get_all_asset_keys():
        policy = graph.get(key).freshness_policy
        stage = next(stage for stage in ALL_STAGES if stage == key.to_user_string())
        assert policy == freshness_policy(Settings(), stage)


@pytest.mark.slow
def test_dg_lists_the_definitions_and_finds_nothing_wrong() -> None:
    """Both commands in one process: most of their time is the start."""
    script = (
        "from dagster_dg_cli.cli import create_dg_cli as c\n"
        "c().main(['check', 'defs'], standalone_mode=False); print('LISTED')\n"
        "c().main(['list', 'defs', '--json'], standalone_mode=False)"
    )
    done = subprocess.run(
        [sys.executable, "-c", script], cwd=ROOT, capture_output=True, text=True, timeout=300, check=False
    )
    assert done.returncode == 0, done.stderr
    checked, _, listed = done.stdout.partition("LISTED\n")
    assert "All definitions loaded successfully" in checked
    found = json.loads(listed[listed.index("{") :])
    graph = build(Settings()).get_repository_def().asset_graph
    assert {asset["asset_key"] for asset in found["assets"]} >= {
        key.to_user_string() for key in graph.get_all_asset_keys()
    }
