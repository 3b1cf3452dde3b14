"""What a night's training is logged with: once, over all cutoffs, whatever the order in which packs come."""

from __future__ import annotations

from datetime import datetime

import pyarrow as pa
import pytest

from many_models.adapters.registry.memory import MemoryStaging
from many_models.errors import SeriesFailure
from many_models.forecasting.spec import CODE_VERSION, Spec
from many_models.keys import slug
from many_models.orchestration.assets.trained_models import _Reached
from many_models.ports import Chunk, ChunkResult

SPEC = Spec("D", 7, windows=2, candidates=("seasonal_naive", "ridge_raw"))
EARLY, LATE = datetime(2024, 6, 1), datetime(2024, 6, 30)


class Counting(MemoryStaging):
    calls = 0

    def log_batch(self, batch, title, parameters, metrics) -> None:
        self.calls += 1
        super().log_batch(batch, title, parameters, metrics)


def results(pack: str, *series: tuple[str, float, float], failed: tuple[str, ...] = ()):
    """A pack's results: for each series its WAPE and how much it sold; its baseline's WAPE is twice its own."""
    names = [name for name, *_ in series]
    measured = [
        {"series_id": name, "wape": wape, "baseline_wape": 2 * wape, "bias": wape / 2, "cover80": 0.8, "cover95": 0.95}
        for name, wape, _ in series
    ]
    scores = [
        {"series_id": name, "candidate": candidate, "abs_actual": sold}
        for name, _, sold in series
        for candidate in ("seasonal_naive", "ridge_raw")
    ]
    failures = [SeriesFailure(name, "Odd", "too short", permanent=True) for name in failed]
    tables = {"series": pa.Table.from_pylist(measured), "scores": pa.Table.from_pylist(scores)}
    return [(Chunk(0, pack, (*names, *failed)), ChunkResult(tables, {}, failures))]


NIGHT = [
    ("north", results("north", ("a", 0.2, 100.0), ("b", 0.4, 300.0))),
    ("south", results("south", ("c", 0.1, 50.0), failed=("d",))),
    ("north", results("north", ("e", 0.5, 100.0))),  # of the same pack, at another cutoff
]


def logged(night) -> tuple[Counting, str, dict[str, str], dict[str, float]]:
    staging, reached = Counting(), _Reached()
    for pack, found in night:
        reached.failed += sum(len(result.failures) for _, result in found)
        reached.add(pack, found)
    reached.log(staging, "run-1", SPEC, LATE)
    return staging, staging.titles["run-1"], *staging.logged["run-1"]


def test_a_night_is_logged_once_over_all_cutoffs() -> None:
    staging, title, parameters, metrics = logged(NIGHT)
    assert staging.calls == 1
    assert title == "trained to 2024-06-30"
    assert parameters["recipe"] == SPEC.recipe
    assert parameters["code_version"] == CODE_VERSION
    assert parameters["cutoff"] == str(LATE)
    assert parameters["horizon"] == "7"
    assert (metrics["series"], metrics["failed"]) == (4.0, 1.0)
    assert metrics["wape"] == pytest.approx((20 + 120 + 5 + 50) / 550)
    assert metrics["bias"] == pytest.approx((10 + 60 + 2.5 + 25) / 550)
    assert metrics["skill"] == pytest.approx(0.5)
    assert (metrics["cover80"], metrics["cover95"]) == (pytest.approx(0.8), pytest.approx(0.95))


def test_a_pack_of_two_cutoffs_has_metrics_over_both() -> None:
    """Each cutoff replaced the other: a comparison of nights then showed the last one's series alone."""
    _, _, _, metrics = logged(NIGHT)
    assert metrics[f"packs/{slug('north')}/series"] == 3.0
    assert metrics[f"packs/{slug('north')}/wape"] == pytest.approx((20 + 120 + 50) / 500)
    assert metrics[f"packs/{slug('south')}/failed"] == 1.0
    assert logged(NIGHT[::-1])[3] == pytest.approx(metrics)


def test_what_a_version_is_tagged_with_is_its_own_cutoffs() -> None:
    reached = _Reached()
    own = [reached.add(pack, found) for pack, found in NIGHT]
    assert own[0]["wape"] == pytest.approx(140 / 400)
    assert own[2]["wape"] == pytest.approx(0.5)


def test_a_run_without_a_trained_series_logs_nothing() -> None:
    staging = Counting()
    _Reached(failed=3).log(staging, "run-1", SPEC, LATE)
    _Reached().log(staging, "run-1", SPEC, None)
    assert staging.calls == 0
