"""docs/your-own-forecaster.md, done as it says."""

from __future__ import annotations

import json
import os
import re
import shlex
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

from many_models.forecasting.custom.parent import check_custom
from many_models.orchestration.forecast_spec import spec_of
from many_models.settings import load_settings
from many_models_tests.support.project import make_project, sales

ROOT = Path(__file__).resolve().parents[2]
PAGE = (ROOT / "docs/your-own-forecaster.md").read_text()


CHRONOS = """
import numpy as np

class BaseChronosPipeline:
    @classmethod
    def from_pretrained(cls, folder, device_map):
        assert (folder, device_map) == ("/models/chronos-bolt-small", "cuda")
        return cls()

    def predict_quantiles(self, histories, prediction_length):
        return None, np.array([np.full(prediction_length, y.mean()) for y in histories])
"""


def blocks(language: str) -> str:
    """All of the page's blocks of one language, one after the other, as a reader would paste them into one file."""
    return "\n".join(re.findall(rf"^```{language}\n(.*?)^```", PAGE, re.DOTALL | re.MULTILINE))


def command(folder: Path, *words: str) -> str:
    done = subprocess.run(
        [sys.executable, "-c", "from many_models.cli.main import main; main()", *words],
        cwd=folder, env={**os.environ, "PYTHONPATH": str(ROOT)}, capture_output=True, text=True,
        timeout=600, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.mark.slow
def test_the_settings_of_the_page_make_forecasters_that_can_be_used(tmp_path):
    (tmp_path / "mine.py").write_text(blocks("python"))
    (tmp_path / "many_models.toml").write_text(blocks("toml"))
    (tmp_path / "chronos.py").write_text(CHRONOS)
    (tmp_path / "torch.py").write_text("from numpy import array as tensor\n")
    told = tomllib.loads(blocks("toml"))["forecast"]
    assert set(told["custom"]) == {"gradient", "theta", "weekdays"}
    assert set(told["pooled_custom"]) == {"forest", "chronos"}
    spec = spec_of(load_settings(tmp_path / "many_models.toml"))
    assert {mine.name: mine.seconds for mine in spec.competing} == {
        "gradient": 10.0, "theta": 20.0, "weekdays": 10.0, "forest": 600.0, "chronos": 600.0,
    }  # fmt: skip
    check_custom(spec)


@pytest.mark.slow
def test_the_command_of_the_page_measures_the_class_of_the_page(tmp_path):
    (tmp_path / "mine.py").write_text(blocks("python"))
    frame = sales(stores=2, items=2, days=200)
    frame.assign(date=frame["date"].astype("datetime64[ns]")).to_parquet(tmp_path / "sales.parquet", index=False)
    program, *words = shlex.split(blocks("bash"))
    assert program == "many-models"
    printed = json.loads(command(tmp_path, *words, "--json"))
    rows = {row["candidate"]: row for row in printed["metrics"]}
    assert rows["weekdays"]["wape"] < 1
    assert rows["weekdays"]["failed"] == 0
    assert printed["left_out"] == []


@pytest.mark.slow
def test_a_whole_day_with_it_says_what_it_scored_took_and_why_it_failed(tmp_path):
    rows = sales(stores=2, items=2, days=120)
    rows.loc[(rows["store"] == "s1") & (rows["item"] == "i1"), "sales"] += 1000
    custom = (
        '\n[forecast.custom.weekdays]\nuse = "mine:WeekdayMeans"\n'
        '\n[forecast.custom.bad]\nuse = "many_models_tests.forecasting.mine:Bad"\noptions = { how = "raise" }\n'
    )
    project = make_project(tmp_path / "shop", rows, compute={"kind": "processes", "workers": 1})
    (project.root / "mine.py").write_text(blocks("python"))
    with (project.root / "many_models.toml").open("a") as file:
        file.write(custom)
    reports = project.run()
    assert {report.failed for report in reports} == {0}
    scores = project.table("candidate_scores")
    mine = scores[scores["candidate"] == "weekdays"]
    assert len(mine) == 4 * 2
    assert (mine["seconds"] > 0).all()
    assert mine["wape"].between(0, 1).all()
    bad = scores[scores["candidate"] == "bad"].set_index("series_id")["problem"]
    assert set(bad[bad.notna()].index) == {"s1__i1"}
    assert bad["s1__i1"].iloc[0] == "RuntimeError: too much"
    assert scores[~scores["candidate"].isin(["weekdays", "bad"])]["seconds"].isna().all()
    predictions = project.table("predictions")
    assert len(predictions) == 4 * 7
    weights = project.table("trained_models").set_index("series_id")["weights"].map(json.loads)
    assert "weekdays" in set().union(*weights)
    assert "bad" not in weights["s1__i1"]
