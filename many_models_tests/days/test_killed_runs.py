"""Kill -9 at every stage of a day: run again, it ends in the same tables as one clean run."""

from __future__ import annotations

import shutil
import signal
import subprocess
import sys
from datetime import timedelta
from pathlib import Path

import pandas as pd
import pytest

from many_models_tests.support.killed import killed_run
from many_models_tests.support.project import END, Project, make_project, sales

pytestmark = pytest.mark.slow

# in the order of the day; "" stands for any argument
POINTS = [
    ("lake", "replace", "raw_sales", "before"),
    ("lake", "replace", "raw_sales", "after"),
    ("lake", "replace", "raw_versions", "after"),
    ("lake", "replace", "raw_covariates", "after"),
    ("lake", "replace", "store_item_datasets", "after"),
    ("lake", "replace", "series", "after"),
    ("staging", "register", "", "after"),
    ("lake", "replace", "trained_models", "after"),
    ("production", "publish", "", "before"),
    ("production", "publish", "", "after"),
    ("lake", "replace", "decisions", "after"),
    ("lake", "replace", "champions", "after"),
    ("lake", "replace", "predictions", "after"),
    ("warehouse", "load", "", "before"),
    ("warehouse", "load", "", "after"),
]


@pytest.mark.long("days/test_killed_runs.py::test_a_first_day_killed_while_it_makes_its_tables_ends_as_a_clean_one")
def test_a_day_killed_at_every_stage_ends_in_the_tables_of_a_clean_one(tmp_path: Path) -> None:
    rows = sales(stores=2, items=2, days=90)
    clean = make_project(tmp_path / "clean", rows)
    clean.run(END - timedelta(days=1))
    beaten = Project(shutil.copytree(clean.root, tmp_path / "beaten"))
    clean.run(END)
    for point in POINTS:
        died = killed_run(beaten, END, point)
        assert died.returncode == -signal.SIGKILL, (point, died.output)
    beaten.run(END)
    expected, found = clean.contents(), beaten.contents()
    assert set(found) == set(expected)
    for name, frame in expected.items():
        pd.testing.assert_frame_equal(found[name], frame, obj=name)
    assert beaten.run(END) == []


def test_a_first_day_killed_while_it_makes_its_tables_ends_as_a_clean_one(tmp_path: Path) -> None:
    rows = sales(stores=1, items=2, days=60)
    clean, beaten = make_project(tmp_path / "clean", rows), make_project(tmp_path / "beaten", rows)
    clean.run(END)
    for point in [POINTS[1], POINTS[4], POINTS[6], POINTS[9]]:
        assert killed_run(beaten, END, point).returncode == -signal.SIGKILL, point
    beaten.run(END)
    found = beaten.contents()
    for name, frame in clean.contents().items():
        pd.testing.assert_frame_equal(found[name], frame, obj=name)


@pytest.mark.long("days/test_killed_runs.py::test_a_first_day_killed_while_it_makes_its_tables_ends_as_a_clean_one")
def test_a_day_killed_at_a_random_moment_ends_in_the_tables_of_a_clean_one() -> None:
    """One of the hundred of the benchmark, whose seeds are in its output."""
    command = [sys.executable, "-m", "benchmarks.killed_days", "--times", "1"]
    done = subprocess.run(command, cwd=Path(__file__).parents[2], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
