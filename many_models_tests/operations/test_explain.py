"""`many-models explain` says of the live model what the published forecast is made of."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import numpy as np
import pytest
from click.testing import CliRunner

from many_models.cli.main import main
from many_models_tests.support.project import make_project, sales

if TYPE_CHECKING:
    from pathlib import Path

    from many_models_tests.support.project import Project

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Project:
    """A project whose day is done."""
    rows = sales(stores=1, items=3, days=120)
    made = make_project(tmp_path_factory.mktemp("explain") / "day", rows, forecast={"trees": True})
    made.run()
    return made


def explained(project: Project, series: str, *flags: str) -> tuple[int, str, str]:
    """Exit code, standard output and standard error of the command."""
    config = str(project.root / "many_models.toml")
    done = CliRunner().invoke(main, ["explain", series, "--config", config, *flags])
    return done.exit_code, done.stdout, done.stderr


def test_the_parts_add_up_to_the_forecast_that_was_published(project: Project) -> None:
    series = min(project.table("predictions")["series_id"].unique())
    code, out, _ = explained(project, series, "--json")
    assert code == 0
    told = json.loads(out)
    published = project.table("predictions").query("series_id == @series").sort_values("ds")["y_hat"].to_numpy()
    parts = np.array([part["values"] for part in told["parts"]])
    assert told["y_hat"] == pytest.approx(published)
    assert parts.sum(0) == pytest.approx(published)
    assert told["words"]


def test_people_get_sentences_and_a_table(project: Project) -> None:
    series = min(project.table("predictions")["series_id"].unique())
    code, _, err = explained(project, series, "--horizon", "7")
    assert code == 0
    dates = project.table("predictions").query("series_id == @series")["ds"].sort_values()
    assert "level" in err
    assert err.startswith("The forecast is ")
    for date in dates.head(7):
        assert f"{date:%Y-%m-%d}" in err  # whole, on a terminal of 80 columns


def test_an_unknown_series_is_an_error_that_names_what_looks_like_it(project: Project) -> None:
    series = min(project.table("predictions")["series_id"].unique())
    code, _, err = explained(project, f"{series}x")
    assert code == 1
    assert f"did you mean {series}" in err


def test_before_the_first_release_the_error_says_what_makes_one(tmp_path: Path) -> None:
    code, _, err = explained(make_project(tmp_path / "new", sales(stores=1, items=1, days=30)), "s0__i0")
    assert code == 1
    assert "many-models run" in err
