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


def texts(markdown: str) -> list[str]:
    encoded = re.fullmatch(r"!\[plot\]\(data:image/svg\+xml;base64,([^)]+)\)", markdown)
    assert encoded
    drawing = ET.fromstring(base64.b64decode(encoded[1]))
    return [node.text for node in drawing.iter("{http://www.w3.org/2000/svg}text")]


def test_a_forecast_names_its_series_its_dates_and_its_lines():
    day = datetime(2026, 8, 1)
    history = [(day + timedelta(i), nan if i == 30 else float(i % 7)) for i in range(120)]
    ahead = [(day + timedelta(120 + i), 3.0, 1.0, 5.0) for i in range(28)]
    written = texts(plots.forecast(history, ahead, 'a <b> & "c"').value)
    assert 'a <b> & "c"' in written
    assert {"Aug", "Dec", "actual", "forecast"} <= set(written)


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
