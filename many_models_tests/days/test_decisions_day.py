"""One project with all decisions on: each asset by cutoff, its table in lake and warehouse, its problems listed."""

from __future__ import annotations

from datetime import timedelta

import pandas as pd
import pyarrow as pa
import pytest

from many_models.definitions import build
from many_models.operations.day import open_instance
from many_models.operations.decisions import brought
from many_models.orchestration.automation import JOBS
from many_models.ports import Filter
from many_models.wiring import build_lake
from many_models_tests.support.project import END, Project, make_project, sales, stages_of

pytestmark = pytest.mark.slow

STOCK = pd.DataFrame(
    [
        ("s0", "i0", "2", "fill", 0.95, "20", "0", "12", 1.0, 9.0),
        ("s0", "i1", "-2", "fill", 0.95, "20", "0", "12", None, None),
        ("s0", None, "3", "cycle", 0.9, "400", "0", None, None, None),
        ("s1", "i1", "30", "cycle", 0.9, "5", "0", "1", None, None),
        ("s1", "i2", "two", "cycle", 0.9, "5", "0", "0", None, None),
        ("s9", None, "2", "cycle", 0.9, "5", "0", None, None, None),
    ],
    columns=[
        "store", "item", "lead_time", "service", "service_level", "on_hand", "on_order", "pack", "holding_cost",
        "missing_cost",
    ],
)  # fmt: skip


ITEMS = pd.DataFrame({"item": ["i0", "i1", "gone"], "category": ["milk", "bread", "bread"]})


OVERRIDES = pd.DataFrame(
    [
        ("s0", "i0", None, "2024-06-30", "2024-07-02", "set", "1", "ann", "closed", "2024-06-20", None),
        (None, None, "bread", "2024-06-30", "2024-06-30", "multiply", "2", "bob", "feast", "2024-06-20", None),
        ("s0", "gone", None, "2024-06-30", "2024-07-02", "set", "1", "cid", "", "2024-06-20", None),
        ("s0", "i1", None, "2024-06-30", "2024-07-02", "add", "many", "cid", "", "2024-06-20", None),
        ("s1", "i0", None, "2024-06-17", "2024-06-18", "set", "5", "dora", "early", "2024-06-15", None),
        ("s1", "i0", None, "2024-06-17", "2024-06-18", "set", "5", "eve", "hindsight", "2024-06-20", None),
    ],
    columns=["store", "item", "category", "from", "to", "action", "value", "author", "reason", "entered_at", "expires"],
)


@pytest.fixture(scope="module")
def day(tmp_path_factory: pytest.TempPathFactory) -> Project:
    project = make_project(
        tmp_path_factory.mktemp("decisions") / "p", sales(), stock={"table": "stock", "review": 2},
        overrides={"table": "changes"},
        drift={"watch": True, "answer": "widen"},
        forecast={"refit_every": 7},
        warehouse={"drivers": 4},
        source={"attributes_table": "items"},
        hierarchy={"levels": [["store"], ["category"], ["store", "category"]], "method": "mint_variance"},
    )  # fmt: skip
    with_tables(project)
    project.run(END - timedelta(days=1))
    return project


def with_tables(project: Project) -> None:
    import sqlite3
    from contextlib import closing

    with closing(sqlite3.connect(project.root / "sales.db")) as connection, connection:
        STOCK.to_sql("stock", connection, index=False)
        ITEMS.to_sql("items", connection, index=False)
        OVERRIDES.to_sql("changes", connection, index=False)


def test_stock_is_recommended_for_the_series_with_usable_terms(day: Project) -> None:
    found = day.warehouse("SELECT * FROM latest_stock ORDER BY series_id")
    assert found["series_id"].tolist() == ["s0__i0", "s0__i1", "s0__i2"]
    assert found["store"].tolist() == ["s0"] * 3
    one = found.iloc[0]
    assert one["order_now"] % 12 == 0
    assert one["order_now"] > 0
    assert one["newsvendor_ratio"] == 0.9
    forecast = day.warehouse("SELECT * FROM latest_forecasts WHERE series_id = 's0__i0' ORDER BY ds")
    assert one["demand_mean"] == pytest.approx(forecast["y_hat"].head(4).sum(), rel=0.1)


def test_sums_agree_in_the_warehouse_and_have_intervals(day: Project) -> None:
    found = day.warehouse("SELECT * FROM latest_sums")
    series = found[found["level"] == "series"]
    total = found[found["node"] == "total"].set_index("ds")["y_hat"]
    assert (series.groupby("ds")["y_hat"].sum() - total).abs().max() < 1e-9
    stores = found[found["level"] == "store"]
    assert (stores.groupby("ds")["y_hat"].sum() - total).abs().max() < 1e-9
    milk = series[series["series_id"].str.endswith("i0")].groupby("ds")["y_hat"].sum()
    assert (found[found["node"] == "category|milk"].set_index("ds")["y_hat"] - milk).abs().max() < 1e-9
    upper = found[found["level"] != "series"]
    assert upper["base"].notna().all()
    assert ((upper["lo80"] <= upper["y_hat"]) & (upper["y_hat"] <= upper["hi80"])).all()
    said = day.warehouse("SELECT * FROM latest_problems WHERE origin = 'coherent_predictions'")
    assert sorted(said["series_id"] + said["row"]) == ["gone", *["s0__i2"] * 2, *["s1__i2"] * 2]


def test_the_next_forecasts_are_in_the_warehouse_by_driver(day: Project) -> None:
    found = day.warehouse("SELECT * FROM latest_drivers WHERE cutoff_date = '2024-06-29'")
    assert set(found["store"]) == {"s0", "s1"}
    assert sorted(found["step"].unique()) == [1, 2, 3, 4]
    whole = found.groupby(["series_id", "ds"])["value"].sum()
    model = day.warehouse("SELECT * FROM predictions WHERE cutoff_date = '2024-06-29' AND step <= 4")
    assert len(whole) == len(model) == 24
    told = model.set_index(["series_id", "ds"])["y_hat"].sort_index()
    assert (whole.sort_index() - told).abs().max() < 1e-6 * told.max()


def test_the_final_forecast_is_beside_the_models_and_is_judged_later(day: Project) -> None:
    found = day.warehouse("SELECT * FROM latest_final_forecasts WHERE cutoff_date = '2024-06-29'")
    model = day.warehouse("SELECT * FROM predictions WHERE cutoff_date = '2024-06-29'")
    assert found["y_hat"].sum() == pytest.approx(model["y_hat"].sum())
    ann = found[found["author"] == "ann"]
    assert (ann["final"] == 1.0).all()
    assert len(ann) == 3
    bob = found[found["author"] == "bob"]
    assert set(bob["item"]) == {"i1"}
    assert (bob["final"] == 2 * bob["y_hat"]).all()
    assert (found[found["author"].isna()]["final"] == found[found["author"].isna()]["y_hat"]).all()


def test_changes_of_the_past_are_judged_on_the_backtest_the_first_night(day: Project) -> None:
    """Only those that were written before the window's cutoff; against the sales as they are in the source."""
    found = day.warehouse("SELECT * FROM forecast_value_added WHERE cutoff_date = '2024-06-29'")
    assert found[["author", "series_id", "periods"]].to_numpy().tolist() == [["dora", "s1__i0", 2]]
    rows = sales()
    days = rows[(rows["store"] == "s1") & (rows["item"] == "i0") & rows["date"].isin(["2024-06-17", "2024-06-18"])]
    assert found["abs_error_people"][0] == pytest.approx((days["sales"] - 5).abs().sum())
    before = rows[(rows["store"] == "s1") & (rows["item"] == "i0") & rows["date"].isin(["2024-06-10", "2024-06-11"])]
    naive = abs(days["sales"].to_numpy() - before["sales"].to_numpy()).sum()
    assert found["abs_error_naive"][0] == pytest.approx(naive)
    said = brought(build_lake(day.settings()))
    assert any(text.startswith("changes by dora: WAPE") and "worse, over 2 forecasts" in text for text in said)
    assert [text.split(":")[0] for text in said] == [
        "sums", "stock", "changes", "changes by dora", "drift", "people's rows left out or overruled",
        "cost of the night",
    ]  # fmt: skip


def test_bad_rows_of_people_are_listed_in_the_warehouse(day: Project) -> None:
    found = day.warehouse("SELECT * FROM latest_problems WHERE origin = 'stock_recommendations'")
    said = " | ".join(found["row"] + found["series_id"] + ": " + found["reason"])
    for words in ("lead_time is -2", "lead_time is 'two'", "set forecast.horizon to 32", "s1__i0: no usable row",
                  "row 6: store s9: there are no sales of it"):  # fmt: skip
        assert words in said


def test_what_is_done_is_not_done_again_and_a_later_day_goes_on(day: Project) -> None:
    """No series is due to be fitted then: no model is trained, nothing is promoted, and there is no new release."""
    assert day.run(END - timedelta(days=1)) == []
    releases = day.warehouse("SELECT DISTINCT release_id FROM decisions")
    done = stages_of(day.run(END))
    assert not {"trained_models", "promoted_models"} & {*done}
    assert done["store_item_datasets"] == done["predictions"] == 6
    assert day.warehouse("SELECT DISTINCT release_id FROM decisions").equals(releases)
    assert done["stock_recommendations"] == 1
    assert day.run(END) == []
    cutoffs = day.warehouse("SELECT DISTINCT cutoff_date FROM stock_recommendations")
    assert len(cutoffs) == 2
    drift = day.warehouse("SELECT * FROM latest_drift")
    assert len(drift) == 6
    assert not drift["drifted"].any()
    added = day.warehouse("SELECT * FROM latest_value_added").set_index("author")
    assert set(added.index) == {"ann", "bob", "dora"}
    assert (added["added"] < 0).all()  # the day was an ordinary one
    assert added.loc["ann", "wape_naive"] < added.loc["ann", "wape_people"]


def test_what_people_change_later_is_noticed_by_the_next_run(day: Project) -> None:
    """That table's stage and the warehouse alone."""
    day.source("UPDATE changes SET value = '3' WHERE author = 'ann'")
    assert stages_of(day.run(END)) == {"final_predictions": 1, "warehouse_predictions": 1}
    found = day.warehouse("SELECT * FROM latest_final_forecasts WHERE author = 'ann'")
    assert len(found) == 2
    assert (found["final"] == 3.0).all()
    assert day.run(END) == []


def test_the_answer_to_a_drift_is_given_to_its_series_alone_and_undone(day: Project) -> None:
    """A row of the table says that one series drifted; once drift is watched again, it did not."""
    lake, cutoff = build_lake(day.settings()), {"cutoff_date": [f"{END:%Y-%m-%d}"]}
    before = lake.read("predictions", Filter(among=cutoff)).to_pandas()
    assert before["drift_answer"].isna().all()
    rows = lake.read("drift", Filter(among=cutoff)).to_pandas()
    one = rows["series_id"] == "s0__i0"
    rows.loc[one, ["drifted", "kind", "direction", "widen"]] = [True, "level", "up", 3.0]
    rows.loc[one, ["began_at", "alarmed_at"]] = pd.Timestamp("2024-06-20")
    schema = lake.read("drift", Filter(among=cutoff)).schema
    lake.replace(
        "drift", pa.Table.from_pandas(rows, schema, preserve_index=False), Filter(among=cutoff), ("cutoff_date",)
    )
    job = build(day.settings(END)).resolve_job_def(JOBS["predictions"])
    with open_instance(day.home) as instance:
        assert job.execute_in_process(instance=instance, partition_key="s0__i0").success
    during = lake.read("predictions", Filter(among=cutoff)).to_pandas()
    order = ["series_id", "step"]
    before, during = (frame.sort_values(order, ignore_index=True) for frame in (before, during))
    own = before["series_id"] == "s0__i0"
    pd.testing.assert_frame_equal(before[~own], during[~own])
    assert (during[own]["y_hat"] == before[own]["y_hat"]).all()
    wide = (during["hi80"] - during["y_hat"])[own] / (before["hi80"] - before["y_hat"])[own]
    assert wide.to_numpy() == pytest.approx(3.0)
    assert during[own]["drift_answer"].str.contains("level, actuals above the forecasts, noticed 2024-06-20").all()
    day.run(END)
    after = lake.read("predictions", Filter(among=cutoff)).to_pandas().sort_values(order, ignore_index=True)
    pd.testing.assert_frame_equal(before, after)
    assert day.run(END) == []


def test_a_table_that_cannot_be_used_is_told_in_a_sentence_and_the_day_goes_on(day: Project) -> None:
    for table, column in (("stock", "lead_time"), ("items", "category"), ("changes", "value")):
        day.source(f"ALTER TABLE {table} RENAME COLUMN {column} TO other")
    day.source("CREATE TABLE less AS SELECT store, item, other FROM stock")
    day.source("DROP TABLE stock")
    day.source("ALTER TABLE less RENAME TO stock")
    kept = day.warehouse("SELECT * FROM stock_recommendations ORDER BY cutoff_date, series_id")
    assert {*stages_of(day.run(END))} == {
        "stock_recommendations", "coherent_predictions", "final_predictions", "warehouse_predictions"
    }  # fmt: skip
    found = day.warehouse("SELECT * FROM latest_problems").set_index("origin")["reason"]
    whole = "nothing was made of cutoff 2024-06-30: the "
    assert found["stock_recommendations"].startswith(whole + "stock table has none of the columns lead_time, ")
    assert found["coherent_predictions"] == whole + "attributes table lacks category; it has item, other"
    assert found["final_predictions"].startswith(whole + "attributes table lacks category")
    assert day.warehouse("SELECT * FROM stock_recommendations ORDER BY cutoff_date, series_id").equals(kept)
    assert day.run(END) == []
