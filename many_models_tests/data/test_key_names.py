"""Names of key columns that the product uses itself: refused at once, and every one of them known."""

from __future__ import annotations

import sqlite3
from contextlib import closing

import pytest

from many_models.data import lake_tables
from many_models.data.table_page import catalogue
from many_models.errors import SettingsError
from many_models.onboarding.guess import infer_settings
from many_models.settings import load_settings
from many_models.table_columns import is_reserved_key
from many_models.wiring import build_lake
from many_models_tests.support.project import END, make_project, sales, settings_text


@pytest.mark.parametrize("name", ["model", "Action", "reason", "Y_HAT", "lo80", "week_start", "cover95", "week"])
def test_a_key_named_like_a_column_or_view_of_the_warehouse_is_refused(tmp_path, name):
    file = tmp_path / "many_models.toml"
    file.write_text(settings_text(data={"keys": ["store", name]}))
    with pytest.raises(SettingsError, match=rf"names the product uses itself: {name}; rename them in a view"):
        load_settings(file)


def test_keys_that_differ_in_case_alone_are_refused(tmp_path):
    file = tmp_path / "many_models.toml"
    file.write_text(settings_text(data={"keys": ["Item", "item"]}))
    with pytest.raises(SettingsError, match="one name: Item, item"):
        load_settings(file)


@pytest.mark.slow
def test_init_gives_such_a_key_of_a_file_another_name(tmp_path):
    rows = sales(stores=3, items=4, days=90).rename(columns={"item": "model"})
    rows.to_csv(tmp_path / "cars.csv", index=False)
    found = infer_settings(str(tmp_path / "cars.csv"))
    assert found.renamed == {"model": "model_"}
    assert set(found.keys.value) == {"store", "model_"}


@pytest.mark.slow
def test_all_columns_beside_the_keys_and_all_views_by_a_key_are_known(tmp_path):
    project = make_project(tmp_path / "p", sales(stores=1, items=2), forecast={"windows": 1, "trees": False})
    project.run(END)
    with closing(sqlite3.connect(project.root / "var" / "warehouse.db")) as connection:
        names = [
            name for (name,) in connection.execute("SELECT name FROM sqlite_master WHERE type IN ('table', 'view')")
        ]
        columns = {
            name: {column for _, column, *_ in connection.execute(f'PRAGMA table_info("{name}")')} for name in names
        }
    assert {"predictions", "decisions", "actuals", "accuracy", "forecasts_and_actuals"} <= set(columns)
    beside = set().union(*(found - {"store", "item"} for found in columns.values() if {"store", "item"} & found))
    beside |= {name.removeprefix("accuracy_by_") for name in columns if name.startswith("accuracy_by_")}
    assert [name for name in sorted(beside - {"store", "item"}) if not is_reserved_key(name)] == []
    for table in catalogue():  # and the catalogue has the columns of each table of the lake
        if (rows := lake_tables.read_if_there(build_lake(project.settings(END)), table)) is not None:
            found = set(rows.column_names)
            assert found >= set(table.columns), table.name
            assert table.more or found == set(table.columns), table.name
