"""What people click in Dagster's UI, in Chromium: series that failed are asked for again, and no others."""

from __future__ import annotations

from datetime import date
from typing import TYPE_CHECKING

import dagster as dg
import pytest

from benchmarks.partitions_page import key_of, webserver
from benchmarks.reference_day import SETTINGS
from many_models.operations.day import QUIET, open_instance
from many_models.orchestration.event_log import runs
from many_models_tests.days.test_ui_day import wait_for
from many_models_tests.support.browser import chromium
from many_models_tests.support.event_assets import STORE_ITEMS

if TYPE_CHECKING:
    from pathlib import Path

STAGE = "trained_models"
PATIENCE_MS = 300_000
KEYS = [key_of(number) for number in range(12)]
BAD = [KEYS[2], KEYS[7], KEYS[8]]


def fail_some(instance: dg.DagsterInstance) -> None:
    """A run of the stage in which three series fail, as ours end."""
    instance.add_dynamic_partitions("store_items", KEYS)

    @dg.asset(
        name=STAGE,
        partitions_def=STORE_ITEMS,
        backfill_policy=dg.BackfillPolicy.single_run(),
        output_required=False,
    )
    def made(context):
        good = [dg.AssetMaterialization(STAGE, partition=key) for key in KEYS if key not in BAD]
        runs.record(context, good)
        raise dg.Failure("three series failed", allow_retries=False)
        yield

    definitions = dg.Definitions(
        [made], jobs=[dg.define_asset_job("fill", selection=[STAGE])], executor=dg.in_process_executor
    )
    tags = {runs.RANGE_START_TAG: KEYS[0], runs.RANGE_END_TAG: KEYS[-1]}
    definitions.resolve_job_def("fill").execute_in_process(QUIET, instance, tags=tags, raise_on_error=False)


@pytest.mark.long(
    "orchestration/test_events.py::test_a_failed_series_that_succeeds_is_failed_no_more",
    "orchestration/test_events.py::test_the_first_run_of_a_backfill_does_what_waits_in_the_queue_and_ends_it_as_its_keys_ended",
)
@pytest.mark.timeout(1800)
def test_failed_series_are_run_again_by_clicks(tmp_path: Path) -> None:
    """Materialize, Failed, Launch backfill: `days/test_ui_day.py` has what the daemon makes of a backfill."""
    (tmp_path / "many_models.toml").write_text(SETTINGS.format(start=date(2024, 1, 1)))
    with open_instance(tmp_path / "dagster") as instance:
        fail_some(instance)
        with webserver(tmp_path) as port, chromium() as browser:
            page = browser.new_page(viewport={"width": 1400, "height": 900})
            page.set_default_timeout(PATIENCE_MS)
            page.goto(f"http://127.0.0.1:{port}/assets/{STAGE}?view=partitions")
            page.get_by_text("Failed (3)").wait_for()
            page.get_by_role("button", name="Materialize").first.click()
            page.get_by_role("button", name="Confirm").click()  # the stages before have nothing in this instance
            page.get_by_role("button", name="Failed", exact=True).click()
            page.get_by_text("3 partitions", exact=True).wait_for()
            page.get_by_role("button", name="Launch backfill").click()
            (backfill,) = wait_for("the backfill", instance.get_backfills, PATIENCE_MS / 1000, 0.5)
    assert backfill.asset_selection == [dg.AssetKey(STAGE)]
    assert backfill.asset_backfill_data is not None
    asked = backfill.asset_backfill_data.target_subset.get_partitions_subset(dg.AssetKey(STAGE))
    assert sorted(asked.get_partition_keys()) == BAD
