"""Plots in the UI's metadata: what a person must be able to read off them."""

from __future__ import annotations

import base64
import re
from datetime import datetime, timedelta
from math import nan
from xml.etree import ElementTree as ET

from many_models.orchestration import plots


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


def test_a_chart_in_one_line_of_text_has_a_block_for_each_value():
    assert plots.blocks([0.0, 1.0, 7.0, nan, 3.5]) == "▁▂█ ▅"
    assert plots.blocks([0.0, 0.0]) == "▁▁"
    assert plots.blocks([]) == ""
    assert plots.blocks([-1.0, 2.0]) == "▁█"
