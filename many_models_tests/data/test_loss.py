"""What would take away more rows than `data.max_loss` changes nothing and says so; a change of settings is no loss."""

from __future__ import annotations

from dataclasses import replace
from datetime import date, datetime, timedelta

import pyarrow as pa
import pyarrow.compute as pc
import pytest

from many_models.adapters.lake.memory import MemoryLake
from many_models.adapters.source.memory import MemorySource
from many_models.adapters.warehouse.memory import MemoryWarehouse
from many_models.data import losses
from many_models.data.ingest import Ingest, sales_table
from many_models.errors import InputError
from many_models.forecasting import Spec
from many_models.orchestration.assets.raw_covariates import refuse_loss
from many_models.ports import Chunk, ChunkResult, Filter, WarehousePart
from many_models.reporting.actuals import COPIED, PERIODS, copied_as
from many_models.reporting.losses import lost_rows
from many_models.settings import DataSettings, Settings, SourceSettings
from many_models.tasks import PrepareTask

START, END = datetime(2024, 1, 1), datetime(2024, 1, 11)


def ingest(lake: MemoryLake, stores: int, max_loss: float = 0.5) -> pa.Table:
    """Copy ten days of `stores` stores of two items each."""
    settings = Settings(data=DataSettings(max_loss=max_loss))
    names = [(f"s{store}", f"i{item}", day) for store in range(stores) for item in range(2) for day in range(10)]
    rows = pa.table({
        "store": [store for store, _, _ in names], "item": [item for _, item, _ in names],
        "date": pa.array([START + timedelta(days=day) for *_, day in names], pa.timestamp("us")),
        "sales": [float(day) for *_, day in names],
    })  # fmt: skip
    source = MemorySource({"sales": rows})
    sales = sales_table(settings, list(rows.column_names))
    copy = Ingest(settings, source, lake, sales, {"store": "text", "item": "text", "sales": "number"}, END)
    return copy.copy_span(START, END, copy.read_span(START, END))


def held(lake: MemoryLake) -> int:
    return lake.read("raw_sales").num_rows


@pytest.mark.parametrize("left", [0, 1, 4])
def test_a_source_that_lost_most_of_its_rows_is_not_copied(left: int) -> None:
    lake = MemoryLake()
    ingest(lake, 10)
    versions = lake.read("raw_versions")
    with pytest.raises(InputError, match=rf"holds 200 rows.*the source has {left * 20}.*MAX_LOSS=1"):
        ingest(lake, left)
    assert held(lake) == 200
    assert lake.read("raw_versions").equals(versions)


def test_it_is_copied_when_told_so() -> None:
    lake = MemoryLake()
    ingest(lake, 10)
    ingest(lake, 1, max_loss=1)
    assert held(lake) == 20


@pytest.mark.parametrize(("before", "after"), [(10, 5), (4, 0)])
def test_a_loss_within_the_bound_or_of_few_rows_is_a_correction(before: int, after: int) -> None:
    lake = MemoryLake()
    ingest(lake, before)
    ingest(lake, after)
    assert held(lake) == after * 20


# --- Histories --------------------------------------------------------------------------------------------------------
TASK = PrepareTask(MemoryLake(), Spec("D", 7), START + timedelta(days=299), ("item",), max_loss=0.5)
NAMES = ("a", "b")


def sold(lake: MemoryLake, days: dict[str, range]) -> None:
    """Put the sales of these days of each series into the lake."""
    found = [(name, START + timedelta(days=day)) for name, of in days.items() for day in of]
    rows = pa.table({
        "series_id": [name for name, _ in found], "ds": pa.array([ds for _, ds in found], pa.timestamp("us")),
        "y": [float(ds.day) for _, ds in found], "pack": ["p"] * len(found), "year": [ds.year for _, ds in found],
    })  # fmt: skip
    lake.replace("raw_sales", rows, Filter(), ("year",))


def prepared(task: PrepareTask, lake: MemoryLake) -> ChunkResult:
    return replace(task, lake=lake)(Chunk(0, "p", NAMES))


def first_histories(task: PrepareTask = TASK) -> MemoryLake:
    """A lake with the datasets of two series of 300 days."""
    lake = MemoryLake()
    sold(lake, dict.fromkeys(NAMES, range(300)))
    made = prepared(task, lake)
    lake.replace("store_item_datasets", made.tables["rows"], Filter(), ("pack",))
    lake.replace("series", made.tables["series"].drop_columns(["since"]), Filter(), ("pack",))
    return lake


@pytest.mark.parametrize("whole", [False, True])
def test_a_history_that_would_shrink_is_refused_and_the_other_one_is_as_ever(whole: bool) -> None:
    task, lake = replace(TASK, whole=whole), first_histories()
    undisturbed = prepared(task, lake)
    sold(lake, {"a": range(200, 300), "b": range(300)})
    made = prepared(task, lake)
    (failure,) = made.failures
    assert (failure.series_id, failure.kind, failure.permanent) == ("a", losses.KIND, True)
    assert "has 300 observations, and raw_sales has 100 now" in failure.reason
    assert "MAX_LOSS=1" in failure.reason
    for name, rows in made.tables.items():
        before = undisturbed.tables[name]
        assert rows.equals(before.filter(pc.equal(before["series_id"], "b")))


@pytest.mark.parametrize(
    ("task", "days"),
    [
        (replace(TASK, max_loss=1.0), range(200, 300)),
        (TASK, range(150, 300)),
        (replace(TASK, start=date(2024, 7, 1)), range(200, 300)),
        (TASK, range(200)),
    ],
    ids=["told", "within the bound", "a later start", "ended"],
)
def test_a_history_may_shrink_when_told_or_within_the_bound(task: PrepareTask, days: range) -> None:
    lake = first_histories()
    sold(lake, {"a": days, "b": range(300)})
    made = prepared(task, lake)
    assert not made.failures
    assert set(made.tables["series"]["series_id"].to_pylist()) == set(NAMES)


def test_another_frequency_makes_shorter_histories_and_no_loss() -> None:
    lake, weekly = first_histories(), replace(TASK, spec=Spec("W-MON", 4))
    sold(lake, dict.fromkeys(NAMES, range(0, 300, 7)))
    assert not prepared(weekly, lake).failures
    assert prepared(TASK, lake).failures


# --- What is known of the time ahead, and attributes ------------------------------------------------------------------
def plan(days: int, items: int, every: int = 1) -> pa.Table:
    found = [(f"i{item}", START + timedelta(days=day)) for item in range(items) for day in range(0, days, every)]
    return pa.table({
        "item": [item for item, _ in found], "ds": pa.array([ds for _, ds in found], pa.timestamp("us")),
        "price": [1.0] * len(found),
    })  # fmt: skip


NOTHING = pa.schema([("ds", pa.timestamp("us"))]).empty_table()
KNOWN = Settings(data=DataSettings(known=["price"], attributes=["size"]),
                 source=SourceSettings(covariates_table="plan", attributes_table="sizes"))  # fmt: skip


@pytest.mark.parametrize("comes", [NOTHING, plan(28, 4), plan(8, 10)], ids=["nothing", "fewer items", "fewer days"])
def test_a_plan_that_lost_most_of_the_time_ahead_is_not_copied(comes: pa.Table) -> None:
    lake = MemoryLake()
    lake.replace("raw_covariates", plan(28, 10), Filter())
    with pytest.raises(InputError, match=r"'plan': the lake holds 280 rows about the time ahead.*MAX_LOSS=1"):
        refuse_loss(KNOWN, lake, comes, None)
    refuse_loss(Settings(data=DataSettings(known=["price"], max_loss=1.0)), lake, comes, None)
    refuse_loss(Settings(), lake, NOTHING, None)


def test_a_plan_that_runs_out_or_has_another_frequency_is_no_loss() -> None:
    held = plan(28, 10)
    assert not losses.lost_plan(held, plan(28, 10, every=7), None, 0.5)
    assert not losses.lost_plan(held, plan(28, 6), None, 0.5)
    assert not losses.lost_plan(held, plan(28, 10).drop_columns(["item"]).slice(0, 28), None, 0.5)
    assert not losses.lost_plan(held, NOTHING, START + timedelta(days=27), 0.5)
    assert losses.lost_plan(held, NOTHING, START + timedelta(days=10), 0.5)


def test_attributes_that_lost_most_of_their_rows_are_not_copied() -> None:
    lake, sizes = MemoryLake(), pa.table({"item": [f"i{item}" for item in range(120)], "size": [1.0] * 120})
    lake.replace("raw_attributes", sizes, Filter())
    with pytest.raises(InputError, match=r"'sizes': the lake holds 120 rows, and the source has 30.*MAX_LOSS=1"):
        refuse_loss(KNOWN, lake, NOTHING, sizes.slice(0, 30))
    refuse_loss(KNOWN, lake, NOTHING, sizes.slice(0, 60))
    refuse_loss(KNOWN, lake, NOTHING, sizes.slice(0, 30).append_column("colour", pa.array(["red"] * 30)))


# --- A release --------------------------------------------------------------------------------------------------------
def test_few_that_end_leave_and_most_of_a_release_do_not() -> None:
    names = [f"s{number}" for number in range(120)]
    assert not losses.leaving_at_once(names[:60], 120, 0.5, "")
    assert not losses.leaving_at_once(names[:99], 99, 0.5, "")
    assert not losses.leaving_at_once(names, 120, 1.0, "")
    refused = losses.leaving_at_once(names[:61], 120, 0.5, "They were kept.")
    assert {failure.series_id for failure in refused} == set(names[:61])
    assert "61 of the 120 series" in refused[0].reason
    assert "They were kept." in refused[0].reason


# --- The warehouse ----------------------------------------------------------------------------------------------------
DAILY = Settings()


def load(series: int, days: range, horizon: int = 3, settings: Settings = DAILY, every: int = 1) -> list[WarehousePart]:
    """What a load brings of these series: forecasts, and the actuals of `days` (of 50 that are replaced)."""
    ahead = [(f"s{name}", step) for name in range(series) for step in range(1, horizon + 1)]
    seen = [(f"s{name}", START + timedelta(days=day)) for name in range(series) for day in days[::every]]
    forecasts = pa.table({
        "series_id": [name for name, _ in ahead], "step": pa.array([step for _, step in ahead], pa.int64()),
        "cutoff_date": ["2024-03-01"] * len(ahead),
    })  # fmt: skip
    actuals = pa.table({
        "series_id": pa.array([name for name, _ in seen], pa.string()),
        "ds": pa.array([ds for _, ds in seen], pa.timestamp("us")),
    })  # fmt: skip
    periods = pa.table({"period": ["2024-01"], "version": ["v"], COPIED: [copied_as(settings)]})
    return [
        WarehousePart("predictions", forecasts, Filter(among={"cutoff_date": ["2024-03-01"]}), ("series_id", "step")),
        WarehousePart("actuals", actuals, Filter(since=START, before=START + timedelta(days=50)), ("series_id", "ds")),
        WarehousePart(PERIODS, periods, Filter(among={"period": ["2024-01"]}), ("period",)),
    ]


@pytest.fixture(scope="module")
def loaded() -> MemoryWarehouse:
    warehouse = MemoryWarehouse()
    assert not lost_rows(warehouse, load(120, range(50)), DAILY)
    warehouse.load("cutoff 2024-03-01", "f", load(120, range(50)))
    return warehouse


@pytest.mark.parametrize(
    ("parts", "said"),
    [
        (load(50, range(50)), "'predictions' of the warehouse holds 120 series with a forecast, and the lake has 50"),
        (load(120, range(45, 50)), "'actuals' of the warehouse holds 6,000 rows from 2024-01-01 to before 2024-02-20"),
        (load(120, range(0)), "the lake has 0"),
    ],
)
def test_a_load_that_would_take_most_of_the_rows_away_is_refused(loaded, parts, said: str) -> None:
    lost = lost_rows(loaded, parts, DAILY)
    assert said in lost
    assert "MAX_LOSS=1" in lost
    assert not lost_rows(loaded, parts, Settings(data=DataSettings(max_loss=1.0)))


WEEKLY = Settings(data=DataSettings(frequency="W-MON"))
LATE = Settings(data=DataSettings(start=date(2024, 2, 15)))


@pytest.mark.parametrize(
    ("parts", "settings"),
    [
        (load(120, range(50), horizon=1), DAILY),
        (load(70, range(50)), DAILY),
        (load(120, range(50), settings=WEEKLY, every=7), WEEKLY),
        (load(120, range(45, 50), settings=LATE), LATE),
    ],
    ids=["a shorter horizon", "some have ended", "another frequency", "a later start"],
)
def test_a_change_of_settings_makes_a_smaller_load_and_no_loss(loaded, parts, settings: Settings) -> None:
    assert not lost_rows(loaded, parts, settings)
