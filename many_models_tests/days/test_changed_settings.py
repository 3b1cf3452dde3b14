"""Settings and sources that change between two runs: the right tables, or one sentence that says what to do."""

from __future__ import annotations

from datetime import timedelta

import pandas as pd
import pytest

from many_models import keys
from many_models.errors import SettingsError
from many_models_tests.support.project import END, SMALL, Project, make_project, sales, settings_text

QUICK = {"horizon": 7, "windows": 1, "trees": False}


def change(project: Project, **sections: dict[str, object]) -> None:
    settings = {name: {**SMALL.get(name, {}), **sections.get(name, {})} for name in {**SMALL, **sections}}
    (project.root / "many_models.toml").write_text(settings_text(**settings))


def newest(project: Project) -> pd.DataFrame:
    rows = project.warehouse("SELECT * FROM predictions")
    return rows[pd.to_datetime(rows["cutoff"]) == pd.to_datetime(rows["cutoff"]).max()]


@pytest.mark.slow
def test_another_horizon_and_another_target_end_in_whole_tables(tmp_path):
    """Horizon 7, then 3, then 10, then another target: every series has it, and nothing is left of what was before.

    An item has a name with an apostrophe, a comma and a per cent sign, and is called that everywhere.
    """
    odd = "Baker's yeast, 10% (fresh)"
    rows = sales(stores=1, items=3, days=90).assign(revenue=lambda frame: frame["sales"] * 100)
    rows = rows.replace({"item": {"i1": odd}})
    project = make_project(tmp_path, rows, forecast=QUICK)
    project.run(END)
    for horizon in (3, 10):
        change(project, forecast={**QUICK, "horizon": horizon})
        project.run(END)
        assert newest(project).groupby("series_id").size().to_dict() == dict.fromkeys(
            ["s0__i0", f"s0__{odd}", "s0__i2"], horizon
        )
        assert f"s0__{odd}" in project.partitions("predictions")
        assert set(newest(project)["fallback"].fillna("")) == {""}
    units = newest(project)["y_hat"].mean()
    change(project, forecast={**QUICK, "horizon": 10}, data={"target": "revenue"})
    project.run(END)
    assert project.table("raw_sales")["y"].min() >= 100 * rows["sales"].min()
    assert newest(project)["y_hat"].mean() == pytest.approx(100 * units, rel=0.05)
    assert project.run(END) == []
    change(project, forecast={**QUICK, "horizon": 10}, data={"target": "revenue", "keys": ["item", "store"]})
    with pytest.raises(SettingsError, match=r"data.keys are item, store, .* another order.*new folder"):
        project.run(END)


@pytest.mark.slow
def test_a_new_store_comes_with_its_history_and_a_renamed_one_leaves_nothing_behind(tmp_path, monkeypatch):
    """A store that arrives with 80 days of history, and one that gets another name: whole histories, old name ended.

    The project began with a version that escaped apostrophes: its series keep their names, and new ones get such names.
    """
    rows = sales(stores=3, items=1, days=80).replace({"store": {"s0": "O'Neill"}})
    early = rows[(rows["store"] != "s2") & (rows["date"] < END.isoformat())]
    project = make_project(tmp_path, early, forecast=QUICK)
    with monkeypatch.context() as before:
        before.setattr(keys, "name_part", keys.escape_part)
        project.run(END - timedelta(days=1))
    project.source("UPDATE sales SET store = 'new, renamed' WHERE store = 's1'")
    late = rows[(rows["store"] == "s2") | (rows["date"] == END.isoformat())].replace({"store": {"s1": "new, renamed"}})
    project.source("INSERT INTO sales VALUES (?, ?, ?, ?)", list(late.itertuples(index=False, name=None)))
    project.run(END)
    counts = project.table("raw_sales").groupby("series_id").size().to_dict()
    assert counts == {"O%27Neill__i0": 80, "s2__i0": 80, "new%2C renamed__i0": 80}
    assert set(newest(project)["series_id"]) == set(counts)
    assert project.run(END) == []


@pytest.mark.long(
    "orchestration/test_failures.py::test_a_series_that_is_set_aside_is_tried_again_with_other_settings_alone",
)
def test_a_series_set_aside_for_wrong_settings_comes_back_when_they_are_mended(tmp_path):
    """Hours in a column that the settings take for a flag: the one series that has hours fails twice; the others go on.

    With `open_hours` set it is forecast with them, without a person who asks for it.
    """
    rows = sales(stores=1, items=3, days=60)
    rows["out"] = 0.0
    odd = rows["item"] == "i1"
    rows.loc[odd & (rows["date"] == rows["date"].min()), "out"] = 4.0
    project = make_project(tmp_path, rows, forecast=QUICK, data={"sold_out": "out"})
    for day in (END - timedelta(days=1), END):
        project.run(day)
    assert project.table("series_status")[["series_id", "set_aside"]].to_numpy().tolist() == [["s0__i1", True]]
    assert set(newest(project)["item"]) == {"i0", "i2"}
    change(project, forecast=QUICK, data={"sold_out": "out", "open_hours": 12.0})
    project.run(END)
    assert project.table("series_status").empty
    assert set(newest(project)["item"]) == {"i0", "i1", "i2"}
