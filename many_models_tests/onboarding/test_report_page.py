"""The page that `init` ends with."""

from __future__ import annotations

from datetime import UTC, datetime
from html.parser import HTMLParser
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd
import pytest

from many_models.onboarding.guess import infer_settings
from many_models.onboarding.report_page import noise_floor, report_page, series_facts

if TYPE_CHECKING:
    from pathlib import Path

NOW = datetime(2026, 1, 1, tzinfo=UTC)


def page_of(tmp_path: Path, frame: pd.DataFrame) -> str:
    frame.to_csv(tmp_path / "t.csv", index=False)
    return report_page(infer_settings(str(tmp_path / "t.csv"), now=NOW))


def frame() -> pd.DataFrame:
    rng = np.random.default_rng(1)
    days = pd.date_range("2024-01-01", periods=120)
    stores = ["<script>alert(1)</script>", "b & c", "d"]
    return pd.concat(
        [pd.DataFrame({"store": s, "date": days, "units": rng.poisson(3 + 9 * n, 120)}) for n, s in enumerate(stores)]
    )


def test_the_page_is_one_file_without_scripts_that_asks_no_server(tmp_path: Path) -> None:
    tags = list[tuple[str, dict[str, str | None]]]()

    class Parser(HTMLParser):
        def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
            tags.append((tag, dict(attrs)))

    text = page_of(tmp_path, frame())
    Parser().feed(text)
    assert not {"script", "link", "img", "iframe"} & {tag for tag, _ in tags}
    assert not [attrs for _, attrs in tags if {"src", "href"} & set(attrs)]
    assert "http" not in text
    assert "&lt;script&gt;alert(1)&lt;/script&gt;" in text
    assert sum(tag == "svg" for tag, _ in tags) == 3


def test_the_page_says_what_was_read_refused_guessed_and_what_to_do(tmp_path: Path) -> None:
    rows = frame().astype({"units": object}).reset_index(drop=True)
    rows.loc[3, "units"] = "n/a"
    rows["date"] = rows["date"].astype(str)
    rows.loc[5, "date"] = "soon"
    text = page_of(tmp_path, pd.concat([rows, rows.tail(1)]))
    parts = "What was read,Rows that cannot be used,Three series,Zeros and missing periods,Series by length and volume,"
    parts += "What can be forecast,What it will do,What to check"
    for part in parts.split(","):
        assert f"<h2>{part}" in text
    assert "no date in date that is understood" in text
    assert "units is missing or no number" in text
    assert "repeats a series and date" in text
    assert "noise floor" in text


def test_series_are_described_by_what_is_in_them(tmp_path: Path) -> None:
    days = pd.date_range("2024-01-01", periods=10)
    rows = pd.DataFrame(
        {
            "store": ["a"] * 10 + ["b"] * 8,
            "date": [*days, *days[[0, 2, 3, 4, 5, 6, 7, 9]]],
            "units": [*range(10), *[0] * 4, *[5] * 4],
        }
    )
    rows.to_csv(tmp_path / "t.csv", index=False)
    facts = series_facts(
        infer_settings(str(tmp_path / "t.csv"), keys=["store"], target="units", frequency="D", now=NOW)
    )
    assert (facts.names, facts.length.tolist(), facts.rows.tolist()) == (["a", "b"], [10, 10], [10, 8])
    assert (facts.total.tolist(), facts.zeros.tolist()) == ([45.0, 20.0], [0.1, 0.5])
    assert facts.missing.tolist() == pytest.approx([0.0, 0.2])


@pytest.mark.parametrize("mean", [0.1, 1.0, 5.0, 40.0, 400.0])
def test_the_noise_floor_is_that_of_poisson_counts(mean: float) -> None:
    counts = np.random.default_rng(2).poisson(mean, 400_000)
    best = min(np.abs(counts - guess).mean() for guess in range(int(mean) + 2))
    assert noise_floor(np.array([mean]))[0] == pytest.approx(best / mean, rel=0.02)
