"""What is known of series besides their sales: attributes, holidays of the user's own, covariates that are missing."""

from __future__ import annotations

from datetime import datetime, timedelta
from typing import TYPE_CHECKING

import dagster as dg
import pandas as pd
import pyarrow as pa
import pytest

from many_models.data.covariates import attributes_from_source, read_holidays, versions, with_attributes
from many_models.definitions import build
from many_models.errors import InputError, SettingsError
from many_models.operations.day import open_instance
from many_models.operations.status import status_of
from many_models.settings import Settings, load_settings
from many_models.wiring import build_lake, build_source
from many_models_tests.support.project import END, Project, make_project, sales, settings_text

if TYPE_CHECKING:
    from pathlib import Path

KEYS = ("store", "item")
END_OF_DAY = datetime.combine(END, datetime.min.time())


def test_attributes_are_joined_by_the_keys_that_their_table_has() -> None:
    raw = pa.table({"item": [1, 2], "kind": ["fresh", "dry"], "organic": [True, False], "other": [0, 0]})
    found = attributes_from_source(raw, KEYS, ["kind", "organic"])
    rows = pa.table({"series_id": ["s__1", "s__2", "s__3"], "y": [1.0, 2.0, 3.0]})
    joined = with_attributes(rows, found, ["s__1", "s__2", "s__3"], KEYS, ("kind", "organic")).sort_by("series_id")
    assert joined["kind"].to_pylist() == ["fresh", "dry", None]
    assert joined["organic"].to_pylist() == [1.0, 0.0, None]


@pytest.mark.parametrize(
    ("table", "says"),
    [
        ({"item": ["1"]}, "lacks kind; it has item"),
        ({"product": ["1"], "kind": ["dry"]}, "none of the keys store, item"),
    ],
)
def test_an_attributes_table_that_cannot_be_used_says_why(table: dict[str, list[str]], says: str) -> None:
    with pytest.raises(InputError, match=says):
        attributes_from_source(pa.table(table), KEYS, ["kind"])


def test_rows_about_one_key_agree_or_count_as_none_and_leave_the_others_as_they_are() -> None:
    good = {"item": ["1", "2", "3"], "kind": ["dry", None, "wet"], "size": [1.5, 2.0, None]}
    more = {"item": ["3", "4", "3", "4"], "kind": ["wet", "dry", None, "wet"], "size": [3.0, 4.0, None, 4.0]}
    told = list[tuple[str, str]]()
    both = pa.concat_tables([pa.table(good), pa.table(more)])
    found = attributes_from_source(both, KEYS, ["kind", "size"], told)
    assert found.slice(0, 2).equals(attributes_from_source(pa.table(good), KEYS, ["kind", "size"]).slice(0, 2))
    assert found.slice(2).to_pylist() == [
        {"item": "3", "kind": "wet", "size": 3.0}, {"item": "4", "kind": None, "size": 4.0}
    ]  # fmt: skip
    assert told == [
        ("4", "its rows of attributes give kind several values (dry, wet); it stays empty until they agree")
    ]


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("day,name\n2024-05-01,Fair\n", "no column date, needed date and name"),
        ("date,name\n2024-05-01,Fair\n1 May,Fair\n", "line 3: '1 May' is not a date"),
    ],
)
def test_a_table_of_holidays_that_cannot_be_read_says_where(tmp_path: Path, text: str, says: str) -> None:
    (tmp_path / "days.csv").write_text(text)
    with pytest.raises(SettingsError, match=says):
        read_holidays(tmp_path / "days.csv")
    with pytest.raises(SettingsError, match=r"there is no table of holidays .*none\.csv"):
        read_holidays(tmp_path / "none.csv")


@pytest.mark.parametrize(
    ("section", "says"),
    [
        ({"forecast": {"pool_by": ["brand"]}}, "forecast.pool_by names brand, but data.keys are store, item"),
        ({"data": {"attributes": ["kind"]}}, "no source.attributes_table"),
    ],
)
def test_settings_that_lead_nowhere_are_refused(
    tmp_path: Path, section: dict[str, dict[str, object]], says: str
) -> None:
    (tmp_path / "many_models.toml").write_text(settings_text(**section))
    with pytest.raises(SettingsError, match=says):
        load_settings(tmp_path / "many_models.toml")
    assert Settings().data.missing_future == "usual"


@pytest.mark.slow
def test_a_day_with_all_of_it(tmp_path: Path) -> None:
    """Groups by item, an attribute of items, holidays of one's own, a future that is missing for one item, and a series
    that is sold for two more days.
    """
    rows = sales(stores=2, items=2).assign(price=2.0)
    project = make_project(
        tmp_path / "p",
        rows,
        source={"covariates_table": "plans", "attributes_table": "items", "openings_table": "openings"},
        data={"known": ["price"], "attributes": ["kind"], "holidays": "days.csv", "missing_future": "error"},
        forecast={"pool_by": ["item"]},
    )
    (project.root / "days.csv").write_text(f"date,name\n2024-05-20,Fair\n{END + timedelta(days=3)},Fair\n")
    project.source("CREATE TABLE items (item TEXT, kind TEXT)")
    project.source("INSERT INTO items VALUES (?, ?)", [("i0", "fresh"), ("i1", "dry"), ("i9", "dry")])
    project.source("CREATE TABLE plans (item TEXT, date TEXT, price REAL)")
    ahead = [(END + timedelta(days=step)).isoformat() for step in range(1, 8)]
    project.source("INSERT INTO plans VALUES (?, ?, ?)", [("i0", day, 1.5) for day in ahead])
    project.source("INSERT INTO plans VALUES (?, ?, ?)", [("i1", day, 1.5) for day in ahead[:4]])
    project.source("CREATE TABLE openings (store TEXT, item TEXT, opens TEXT, closes TEXT)")
    closes = END + timedelta(days=2)
    project.source(
        "INSERT INTO openings VALUES (?, ?, ?, ?)", [("s1", "i0", None, str(closes)), ("s9", None, None, None)]
    )
    reports = {report.stage: report for report in project.run()}
    ahead_of = project.table("predictions").set_index("series_id")
    open_days = ahead_of["ds"] <= pd.Timestamp(closes)
    assert (ahead_of["y_hat"] > 0).equals(open_days | (ahead_of.index != "s1__i0"))
    (told,) = [text for text in project.table("findings")["text"] if "list of openings" in text]
    assert "names s9, and there are no sales of them" in told
    (told,) = [text for text in project.table("findings")["text"] if "attributes table" in text]
    assert told == "the attributes table names i9, and there are no sales of them: write names as the sales do"
    datasets = project.table("store_item_datasets")
    kinds = datasets.groupby("series_id")["kind"].agg(set).to_dict()
    assert kinds == {"s0__i0": {"fresh"}, "s1__i0": {"fresh"}, "s0__i1": {"dry"}, "s1__i1": {"dry"}}
    assert set(project.table("predictions")["series_id"]) == {"s0__i0", "s1__i0"}
    assert not project.table("predictions")["known_repeated"].any()
    assert reports["predictions"].done == 2
    status = project.table("series_status")
    reasons = status[status["stage"] == "predictions"].set_index("series_id")["reason"].dropna().to_dict()
    assert set(reasons) == {"s0__i1", "s1__i1"}
    missing = pd.Timestamp(END + timedelta(days=5))
    assert all(f"of price something is missing at {missing}" in reason for reason in reasons.values())


@pytest.fixture(scope="module")
def planned(tmp_path_factory: pytest.TempPathFactory) -> Project:
    """A project whose prices stand in a table beside the sales: those of the past, too. Its day is done."""
    project = make_project(
        tmp_path_factory.mktemp("planned") / "p",
        sales(stores=1, items=2, days=90),
        source={"covariates_table": "plans", "attributes_table": "items"},
        data={"known": ["price"], "attributes": ["kind"]},
        forecast={"windows": 1, "trees": False},
    )
    project.source("CREATE TABLE items (item TEXT, kind TEXT)")
    project.source("INSERT INTO items VALUES (?, ?)", [("i0", "fresh"), ("i1", "dry")])
    project.source("CREATE TABLE plans (item TEXT, date TEXT, price REAL)")
    days = [(END - timedelta(days=back)).isoformat() for back in range(-7, 90)]
    prices = [(item, day, 2.0 + (at % 5) / 4) for item in ("i0", "i1") for at, day in enumerate(days)]
    project.source("INSERT INTO plans VALUES (?, ?, ?)", prices)
    project.run(END)
    assert project.run(END) == []
    return project


def done(project: Project) -> dict[str, int]:
    return {report.stage: report.done for report in project.run(END)}


def tick(project: Project) -> object:
    """What the schedule for the tables beside the sales decides."""
    settings = project.settings(END)
    definitions = build(settings)
    schedule = definitions.resolve_schedule_def("daily_covariates")
    with (
        open_instance(project.home) as instance,
        dg.build_schedule_context(
            instance,
            resources={"source": build_source(settings), "lake": build_lake(settings)},
            repository_def=definitions.get_repository_def(),
        ) as context,
    ):
        return schedule(context)


@pytest.mark.slow
def test_a_future_that_changes_refreshes_the_predictions_of_the_same_cutoff_and_nothing_else(
    planned: Project, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DAGSTER_HOME", str(planned.home))
    assert isinstance(tick(planned), dg.SkipReason)
    planned.source("UPDATE plans SET price = 1.0 WHERE date > ?", [(END.isoformat(),)])
    asked = tick(planned)
    assert isinstance(asked, dg.RunRequest)
    assert asked.job_name == "ingest_covariates"
    rows = status_of(planned.settings(END))["stages"]
    assert [row["stage"] for row in rows if row["due"]] == ["raw_covariates"]
    assert done(planned) == {"raw_covariates": 1, "predictions": 2, "warehouse_predictions": 1}
    assert set(planned.table("raw_covariates").query("ds > @END_OF_DAY")["price"]) == {1.0}
    assert isinstance(tick(planned), dg.SkipReason)
    planned.source("UPDATE plans SET price = price")
    assert done(planned) == {}


@pytest.mark.slow
@pytest.mark.parametrize(
    "change",
    ["UPDATE plans SET price = 9 WHERE date = '2024-06-20'", "UPDATE items SET kind = 'new' WHERE item = 'i1'"],
)
def test_a_past_or_an_attribute_that_changes_makes_new_datasets_and_models(planned: Project, change: str) -> None:
    planned.source(change)
    stages = done(planned)
    assert {name: stages[name] for name in ("raw_covariates", "store_item_datasets", "trained_models")} == {
        "raw_covariates": 1,
        "store_item_datasets": 2,
        "trained_models": 2,
    }
    assert done(planned) == {}


def test_the_version_of_what_is_known_ahead_tells_of_its_content_alone() -> None:
    def of(*lines: tuple[str, int, float | None]) -> dict[str, str]:
        names = ["item", "ds", "price"]
        table = pa.Table.from_pylist(
            [
                dict(zip(names, (item, END_OF_DAY + timedelta(days=day), price), strict=True))
                for item, day, price in lines
            ],
            pa.schema([("item", pa.string()), ("ds", pa.timestamp("us")), ("price", pa.float64())]),
        )
        return versions(table, None, END_OF_DAY)

    first = of(("a", 0, 1.0), ("a", 1, 1.0), ("b", 1, None))
    assert of(("b", 1, None), ("a", 1, 1.0), ("a", 0, 1.0)) == first
    past, ahead = of(("a", 0, 1.5), ("a", 1, 1.0), ("b", 1, None)), of(("a", 0, 1.0), ("a", 1, 1.5), ("b", 1, None))
    assert (past["ahead"], ahead["past"]) == (first["ahead"], first["past"])
    assert past["past"] != first["past"]
    assert ahead["ahead"] != first["ahead"]
    attributes = pa.table({"item": ["a"], "kind": ["x"]})
    empty = pa.schema([("ds", pa.timestamp("us"))]).empty_table()
    assert versions(empty, attributes, END_OF_DAY)["past"] != versions(empty, None, END_OF_DAY)["past"]
