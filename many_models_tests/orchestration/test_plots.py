"""Plots in the UI's metadata: what a person must be able to read off them."""

from __future__ import annotations

import base64
import re
from datetime import datetime, timedelta
from math import inf, nan
from xml.etree import ElementTree as ET

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest

from many_models.orchestration import plots
from many_models.orchestration.assets import predictions

SVG = "{http://www.w3.org/2000/svg}"


def drawing(markdown: str) -> ET.Element:
    encoded = re.fullmatch(r"!\[plot\]\(data:image/svg\+xml;base64,([^)]+)\)", markdown)
    assert encoded
    return ET.fromstring(base64.b64decode(encoded[1]))


def texts(markdown: str) -> list[str]:
    return [node.text or "" for node in drawing(markdown).iter(f"{SVG}text")]


def lines(markdown: str, color: str) -> list[list[tuple[float, float]]]:
    """The pieces of the longest line of a color, as points of the picture."""
    paths = [node.get("d") or "" for node in drawing(markdown).iter(f"{SVG}path") if node.get("stroke") == color]
    pieces = [re.findall(r"([\d.]+) ([\d.]+)", piece) for piece in max(paths, key=len).split("M") if piece]
    return [[(float(x), float(y)) for x, y in piece] for piece in pieces]


def test_a_forecast_names_its_series_its_dates_and_its_lines():
    day = datetime(2026, 8, 1)
    history = [(day + timedelta(i), nan if i == 30 else float(i % 7)) for i in range(120)]
    ahead = [(day + timedelta(120 + i), 3.0, 1.0, 5.0) for i in range(28)]
    written = texts(plots.forecast(history, ahead, 'a <b> & "c"').value)
    assert 'a <b> & "c"' in written
    assert {"Aug", "Dec", "actual", "forecast"} <= set(written)


def test_lines_are_where_their_values_are_and_have_a_gap_where_one_is_missing():
    day = datetime(2026, 8, 1)
    history = [(day + timedelta(i), nan if i == 3 else 10.0 * i) for i in range(8)]
    shown = plots.forecast(history, [(day + timedelta(8 + i), 40.0, 0.0, 70.0) for i in range(3)], "t").value
    first, second = lines(shown, plots.HISTORY)
    assert [len(first), len(second)] == [3, 4]
    across = np.array([x for x, _ in [*first, *second]])
    down = np.array([y for _, y in [*first, *second]])
    days = np.array([0, 1, 2, 4, 5, 6, 7])
    assert across == pytest.approx(np.polyval(np.polyfit(days, across, 1), days), abs=0.1)
    assert down == pytest.approx(np.polyval(np.polyfit(days, down, 1), days), abs=0.1)
    assert plots.LEFT < across[0] < across[-1] < plots.RIGHT
    assert plots.TOP < down[-1] < down[0] < plots.BOTTOM
    (ahead,) = lines(shown, plots.FORECAST)
    assert {y for _, y in ahead} == {second[0][1]}  # 40 as on the day of place 4
    assert {"0", "20", "40", "60"} <= set(texts(shown))


@pytest.mark.parametrize(("first", "last", "labels", "left_out"), [
    ("2026-08-01T10", "2026-08-02T05", ["12:00", "15:00", "18:00", "21:00", "Aug 2", "03:00"], "2 Aug 2026"),
    ("2026-08-29", "2026-09-03", ["29", "30", "31", "Sep", "2", "3"], "Sep 2026"),
    ("2026-11-20", "2027-01-10", ["22", "Dec", "8", "15", "22", "Jan", "8"], "Jan 2027"),
    ("2026-08-15", "2027-02-01", ["Sep", "Oct", "Nov", "Dec", "2027", "Feb"], "2027"),
    ("2019-03-01", "2022-12-31", ["Jul", "2020", "Jul", "2021", "Jul", "2022", "Jul"], "2022"),
    ("1999-05-01", "2026-05-01", ["2000", "2005", "2010", "2015", "2020", "2025"], ""),
    ("2026-08-05", "2026-08-05", ["Aug 5"], "5 Aug 2026"),
])  # fmt: skip
def test_times_are_labelled_as_a_calendar_is(first: str, last: str, labels: list[str], left_out: str):
    at, said, rest = plots.time_ticks(*(np.datetime64(one, "s") for one in (first, last)))
    assert (said, rest) == (labels, left_out)
    assert all(np.datetime64(first) <= moment <= np.datetime64(last) for moment in at)


def test_no_history_and_no_scored_series_are_drawn_all_the_same():
    assert "new" in texts(plots.forecast([], [(datetime(2026, 8, 1), 3.0, 1.0, 5.0)], "new").value)
    assert "series" in texts(plots.skill([]).value)


def test_the_same_values_give_the_same_picture():
    assert plots.skill([0.1, -3.0, 0.5]) == plots.skill([0.1, -1.0, 0.5])


def test_charts_in_one_line_of_text_have_a_block_for_each_value():
    values, lengths = [0.0, 1.0, 7.0, nan, 3.5, 0.0, 0.0, -1.0, 2.0, inf, 1.0], [5, 2, 2, 2]
    drawn = plots.blocks(np.array(values), np.cumsum([0, *lengths[:-1]]))
    assert drawn == ["▁▂█ ▅", "▁▁", "▁█", " █"]
    assert plots.blocks(np.array([]), np.array([], int)) == []


def test_what_the_events_of_forecasts_show_is_what_pandas_finds_series_by_series():
    chance, series, steps = np.random.default_rng(1), 60, 7
    rows = pd.DataFrame({
        "series_id": [f"s{at:03d}" for at in chance.permutation(series) for _ in range(steps)],
        "y_hat": np.where(chance.random(series * steps) < 0.05, nan, chance.normal(2, 3, series * steps)),
        "cutoff": datetime(2024, 6, 30, 1),
        "model": chance.choice(np.array([None, "m/1"], object), series * steps),
        "fallback": chance.choice(np.array([None, "", "drift"], object), series * steps),
        "known_repeated": chance.choice(np.array([None, True, False], object), series * steps),
    }).sample(frac=1, random_state=1)  # fmt: skip
    rows.loc[rows["series_id"] == "s007", ["model", "fallback"]] = None
    shown = predictions.shown_of(pa.Table.from_pandas(rows, preserve_index=False))
    assert list(shown) == sorted(rows["series_id"].unique())
    assert shown["s007"]["model"] is shown["s007"]["fallback"] is None
    for name, of in rows.groupby("series_id"):
        (chart,) = plots.blocks(of["y_hat"].to_numpy(), np.array([0]))
        texts_of = {column: next(iter(of[column].dropna()), None) for column in ("model", "fallback")}
        repeated = any(value is True for value in of["known_repeated"])
        expected = {"dagster/row_count": steps, "chart": chart, "cutoff": "2024-06-30 01:00:00", **texts_of}
        assert shown[str(name)] == {**expected, "total": pytest.approx(of["y_hat"].sum()), "known_repeated": repeated}
