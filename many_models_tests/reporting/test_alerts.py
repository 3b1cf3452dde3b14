"""Alerts are made of facts, told once, told again when something changed; what is unknown stays as it was."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime, timedelta

import pytest

from many_models.keys import SeriesKey
from many_models.reporting.alerts import Facts, Failed, Realised, Told, alerts_of, is_late, message_of, news
from many_models.setting_sections import AlertSettings, BoardSettings

NOW = datetime(2026, 11, 3, 8, 0, tzinfo=UTC)
WANTED = AlertSettings(on=True, quarantine_rows=100, no_data_by="09:00")
FINE = Facts(
    "2026-11-02", True, {}, (), {}, {}, "", Realised(0.02, 0.8, "2026-10-05", "2026-11-01"), ()
)  # fmt: skip
NIGHT = timedelta(days=1)


def failed(item: str, *, aside: bool = False, reason: str = "no observations") -> Failed:
    return Failed(SeriesKey(("Berlin", item)).series_id, "trained_models", reason, aside)


PROPOSAL = {"proposal": "release-7", "series_changed": 3, "series_leaving": 1}
BAD = {
    "stage": replace(FINE, stages={"raw_sales": "UnavailableError: nobody answers"}),
    "series": replace(FINE, series=(failed("milk"), failed("bread", aside=True))),
    "proposal": replace(FINE, proposal=PROPOSAL),
    "quarantine": replace(FINE, quarantine={"no key": 90, "duplicate": 20}),
    "no_data": replace(FINE, late="2026-10-31"),
    "accuracy": replace(FINE, realised=Realised(0.3, 0.6, "2026-10-05", "2026-11-01")),
    "drift": replace(FINE, drifted=("Berlin__milk",)),
}
PAGES = {
    "stage": "/", "series": "/items?is.state=failed&is.state=set+aside", "proposal": "/proposal", "quarantine": "/",
    "no_data": "/", "accuracy": "/", "drift": "/items?sort=drift",
}  # fmt: skip


def told(facts: Facts, before: Told | None = None, now: datetime = NOW, wanted: AlertSettings = WANTED):
    found, known = alerts_of(facts, wanted)
    return news(found, known, before or Told(), facts, now)


def test_nothing_is_told_of_a_night_that_went_well():
    assert told(FINE) == ([], Told())


@pytest.mark.parametrize("topic", BAD)
def test_each_topic_is_told_once_with_the_page_about_it(topic):
    new, after = told(BAD[topic])
    assert [alert.topic for alert in new] == [topic]
    message = message_of(new[0], BoardSettings(url="https://board.example.com"))
    assert message.text.endswith(f"\n\nhttps://board.example.com{PAGES[topic]}")
    assert told(BAD[topic], after) == ([], after)
    tomorrow = replace(BAD[topic], as_of="2026-11-03")
    assert told(tomorrow, after, NOW + NIGHT) == ([], after)


@pytest.mark.parametrize("topic", BAD)
def test_what_is_in_order_again_is_told_when_it_comes_back(topic):
    _, after = told(BAD[topic])
    new, after = told(replace(FINE, as_of="2026-11-03"), after, NOW + NIGHT)
    assert new == []
    new, _ = told(replace(BAD[topic], as_of="2026-11-04"), after, NOW + 2 * NIGHT)
    assert [alert.topic for alert in new] == [topic]


@pytest.mark.parametrize("topic", BAD)
def test_a_store_that_is_away_leaves_what_was_told(topic):
    """Unknown is neither in order nor wrong: nothing is told now, and not again when the store is back."""
    _, after = told(BAD[topic])
    away = Facts("2026-11-02", settled=True)
    assert told(away) == ([], Told())
    assert told(away, after) == ([], after)
    assert told(BAD[topic], after, NOW + NIGHT) == ([], after)


@pytest.mark.parametrize("topic", BAD)
def test_a_topic_without_a_subscriber_is_not_told(topic):
    about = [other for other in WANTED.about if other != topic]
    assert told(BAD[topic], wanted=WANTED.model_copy(update={"about": about}))[0] == []


def test_there_is_one_digest_a_night_whatever_fails_later_in_it():
    new, after = told(BAD["series"])
    assert "1 failed, 1 set aside" in new[0].title
    more = replace(BAD["series"], series=(*BAD["series"].series, failed("eggs")))
    assert told(more, after, NOW + timedelta(hours=2)) == ([], after)
    new, _ = told(replace(more, as_of="2026-11-03"), after, NOW + NIGHT)
    assert "2 failed" in new[0].title


def test_a_data_clock_that_stops_does_not_silence_the_digest():
    _, after = told(BAD["series"])
    more = replace(BAD["series"], series=(failed("eggs"),))
    assert told(more, after, NOW + timedelta(hours=21))[0]


def test_a_digest_waits_for_the_end_of_the_nights_work():
    running = replace(BAD["series"], settled=False)
    assert told(running) == ([], Told())
    assert len(told(BAD["series"])[0]) == 1


def test_a_digest_of_ten_thousand_series_names_ten_and_counts_the_rest():
    new, _ = told(replace(FINE, series=tuple(failed(f"item {n}") for n in range(10_000))))
    assert len(new[0].text) < 2000
    assert "… and 9,990 more" in new[0].text
    assert "10,000 failed" in new[0].title


def test_a_key_with_line_breaks_adds_no_line():
    new, _ = told(replace(FINE, series=(failed("a\nhttp://elsewhere.example.com"),)))
    assert "Berlin · a http://elsewhere.example.com (trained_models)" in new[0].text


def test_the_same_failure_of_a_later_run_is_not_told_again_but_another_is():
    _, after = told(BAD["stage"])
    new, _ = told(replace(FINE, stages={"raw_sales": "InputError: there is no column `sales`"}), after)
    assert "no column" in new[0].text


def test_a_growing_quarantine_is_told_again_when_it_has_doubled():
    _, after = told(BAD["quarantine"])
    assert told(replace(FINE, quarantine={"no key": 199}), after)[0] == []
    assert told(replace(FINE, quarantine={"no key": 200}), after)[0]
    assert told(replace(FINE, quarantine={"no key": 99}))[0] == []


@pytest.mark.parametrize(
    ("bias", "cover", "said"),
    [
        (0.0, 0.95, "95% of actuals lie in the 80 % interval"),
        (0.0, 0.65, "65% of actuals"),
        (-0.2, 0.8, "20% below the actuals"),
        (0.2, float("nan"), "20% above the actuals"),
    ],
)
def test_coverage_and_bias_are_told_in_either_direction(bias, cover, said):
    new, after = told(replace(FINE, realised=Realised(bias, cover, "2026-10-05", "2026-11-01")))
    assert said in new[0].title
    slightly = Realised(bias * 1.01, cover, "2026-10-06", "2026-11-02")
    assert told(replace(FINE, realised=slightly), after)[0] == []


def test_numbers_that_are_not_known_are_no_alert():
    assert told(replace(FINE, realised=Realised(float("nan"), float("nan"), "a", "b")))[0] == []


DAY = timedelta(days=1)


@pytest.mark.parametrize(
    ("moved", "now", "late"),
    [
        ("2026-11-03T06:00", "2026-11-03T09:00", False),  # today's came in the morning
        ("2026-11-02T10:00", "2026-11-03T09:30", False),  # it came late yesterday, and that was the one for today
        ("2026-11-02T06:00", "2026-11-03T08:59", False),  # the hour has not come
        ("2026-11-02T06:00", "2026-11-03T09:00", True),
        ("2026-10-20T06:00", "2026-11-03T23:00", True),
    ],
)
def test_no_new_data_by_the_hour(moved, now, late):
    moment, clock = datetime.fromisoformat(moved), datetime.fromisoformat(now)
    assert is_late(moment, clock, "09:00", DAY, frozenset()) is late


def test_nothing_is_expected_of_a_day_that_is_closed():
    """A Monday morning brings Sunday's data, which there are none of; Tuesday's brings Monday's."""
    sunday_morning = datetime(2026, 11, 1, 6, tzinfo=UTC)
    assert not is_late(sunday_morning, datetime(2026, 11, 2, 10, tzinfo=UTC), "09:00", DAY, frozenset({"sunday"}))
    assert is_late(sunday_morning, datetime(2026, 11, 3, 10, tzinfo=UTC), "09:00", DAY, frozenset({"sunday"}))


def test_weekly_data_are_late_after_a_week():
    moved = datetime(2026, 11, 2, 6, tzinfo=UTC)
    assert not is_late(moved, datetime(2026, 11, 8, 10, tzinfo=UTC), "09:00", 7 * DAY, frozenset())
    assert is_late(moved, datetime(2026, 11, 9, 10, tzinfo=UTC), "09:00", 7 * DAY, frozenset())


@pytest.mark.parametrize("text", ["9:00", "24:00", "09:60", "soon", "09:00:00"])
def test_an_hour_that_is_none_is_refused(text):
    with pytest.raises(ValueError, match="write HH:MM"):
        AlertSettings(no_data_by=text)
