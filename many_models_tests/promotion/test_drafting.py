"""What a release changes, decided before anything is made."""

from __future__ import annotations

from dataclasses import asdict
from datetime import UTC, datetime

from many_models.forecasting import Spec
from many_models.ports import Champion, Release
from many_models.promotion import approval
from many_models.promotion.drafting import Change, decided_already, decisions_by_date, ending
from many_models.promotion.policy import Decision

SPEC = Spec("D", 7)


def release(name: str, **staging: str) -> Release:
    """A release that serves each series with a staging version."""
    champions = {
        series: Champion(series, "pack/1", 0, "sha", version, "recipe", "2024-01-01")
        for series, version in staging.items()
    }
    return Release(name, datetime(2024, 1, 1, tzinfo=UTC), "tester", "why", "", champions)


def rows(**staging: str) -> dict[str, dict[str, object]]:
    """What training wrote of each series."""
    return {
        series: {"series_id": series, "staging": version, "cutoff": datetime(2024, 1, 2)}
        for series, version in staging.items()
    }


def decision(series: str, staging: str) -> Decision:
    """A decision to promote."""
    return Decision(series, "promote", "first", "It is the first.", 0.3, None, staging, "")


def test_a_change_names_winners_carried_and_leaving_series():
    live, waiting = release("r1", a="p/1", b="p/1", c="p/1"), release("r2", a="p/1", b="p/2", c="p/2", d="p/2")
    change = Change.of(rows(a="p/3", b="p/3"), {"a"}, ["c", "never served"], live, waiting)
    assert change.wanted == {"a": "p/3", "d": "p/2", "c": approval.LEAVES}
    assert set(change.carried) == {"d"}, "b is decided again, c leaves"
    assert change.leaving == ["c"]


def test_a_change_is_served_once_every_series_has_its_version():
    change = Change.of(rows(a="p/3", b="p/3"), {"a", "b"}, [], release("r1", a="p/1"), None)
    assert not change.is_served_by(None)
    assert not change.is_served_by(release("r2", a="p/3"))
    assert change.is_served_by(release("r2", a="p/3", b="p/3", c="p/1"))
    nothing = Change.of({}, (), [], release("r1", a="p/1"), None)
    assert not nothing.is_served_by(release("r1", a="p/1"))


def test_what_ended_is_excluded_or_outdated_leaves_what_is_served():
    longer = Spec("D", 14).to_json()
    specs = {"old": longer, "won": longer, "same": SPEC.to_json(), "unknown": "{}"}
    served = ["old", "won", "same", "unknown", "ended", "excluded"]
    assert ending(served, ["won"], ["ended", "elsewhere"], ["excluded"], specs, SPEC) == ["ended", "excluded", "old"]


def test_only_decisions_of_the_same_version_policy_and_release_are_taken_again():
    """Each of the others differs in one of the three, or is of a series that is not asked for."""
    told = {"release_id": "r1", "policy": "v1"}
    same = {**asdict(decision("a", "p/1")), **told}
    others = [
        {**asdict(decision("b", "p/0")), **told},
        {**asdict(decision("c", "p/1")), **told, "release_id": "r0"},
        {**asdict(decision("d", "p/1")), **told, "policy": "v0"},
        {**asdict(decision("e", "p/1")), **told},
    ]
    asked = rows(a="p/1", b="p/1", c="p/1", d="p/1")
    assert decided_already([same, *others], asked, ["r1"], "v1") == {"a": decision("a", "p/1")}


def test_decisions_are_written_down_by_the_date_of_their_cutoff():
    found = decisions_by_date([decision("a", "p/1")], rows(a="p/1"), {"actor": "tester"})
    assert list(found) == ["2024-01-02"]
    (row,) = found["2024-01-02"]
    assert (row["series_id"], row["actor"]) == ("a", "tester")
    assert (row["cutoff"], row["cutoff_date"]) == ("2024-01-02T00:00:00", "2024-01-02")
