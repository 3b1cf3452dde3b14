"""When a stage tries a series again that failed: another version, other settings, a person who asks."""

from __future__ import annotations

from datetime import datetime
from typing import Any

import pytest

from many_models.errors import SeriesFailure
from many_models.orchestration.copied_settings import tried_with
from many_models.orchestration.due import MAX_ATTEMPTS, FailureRecord, StageState, after_failure
from many_models.settings import Settings

ODD = SeriesFailure("s", "SeriesError", "its hours are odd", permanent=True)
GONE = SeriesFailure("s", "UnavailableError", "the lake does not answer", permanent=False)


def after(*failures: tuple[SeriesFailure, str, str]) -> FailureRecord:
    record = None
    for failure, version, settings in failures:
        record = after_failure(record, version, failure, settings)
    assert record is not None
    return record


def test_a_series_that_is_set_aside_is_tried_again_with_other_settings_alone() -> None:
    """On the old code it stayed set aside whatever was mended."""
    record = after((ODD, "v1", "wrong"), (ODD, "v2", "wrong"))
    assert record.set_aside
    assert record.blocks("v3", "wrong")
    assert not record.blocks("v3", "mended")
    assert after((ODD, "v1", "wrong"), (ODD, "v2", "wrong"), (ODD, "v2", "mended")).blocks("v3", "mended")


def test_a_permanent_failure_is_tried_again_at_the_same_version_with_other_settings() -> None:
    record = after((ODD, "v1", "wrong"))
    assert record.blocks("v1", "wrong")
    assert not record.blocks("v1", "mended")
    assert not record.blocks("v2", "wrong")


def test_transient_failures_have_their_attempts_with_each_settings() -> None:
    record = after(*[(GONE, "v1", "a")] * MAX_ATTEMPTS)
    assert record.blocks("v1", "a")
    assert after(*[(GONE, "v1", "a")] * MAX_ATTEMPTS, (GONE, "v1", "b")).attempts == 1


def test_only_the_series_that_failed_are_due_again() -> None:
    failed = {"bad": after((ODD, "v1", "wrong"), (ODD, "v2", "wrong"))}
    wanted, done = {"good": "v2", "bad": "v2"}, {"good": "v2"}
    assert StageState("predictions", wanted, done, failed, tried_with="wrong").due() == ()
    assert StageState("predictions", wanted, done, failed, tried_with="mended").due() == ("bad",)


@pytest.mark.parametrize(
    ("section", "change"),
    [
        ("data", {"frequency": "W-SUN"}), ("data", {"missing_future": "error"}), ("data", {"negatives": "allow"}),
        ("data", {"start": "2020-01-01"}), ("forecast", {"horizon": 3}), ("promotion", {"approval": True}),
        ("source", {"table": "other"}),
    ],
)  # fmt: skip
def test_settings_that_series_may_fail_for_are_in_the_digest(section: str, change: dict[str, Any]) -> None:
    assert tried_with(Settings.model_validate({section: change})) != tried_with(Settings())


def test_settings_of_the_run_are_not() -> None:
    """`run --until` sets one of them each day: a series that is set aside must not come back for it."""
    run = {"until": datetime(2024, 1, 1), "look_back": 1, "complete_share": 0.1}
    other = Settings.model_validate({"data": run, "compute": {"workers": 3}, "lake": {"path": "elsewhere"}})
    assert tried_with(other) == tried_with(Settings())
