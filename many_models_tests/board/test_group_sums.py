"""The sum of a group: coherent, with its interval, where there is such a level; not for people who see some items."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pyarrow as pa

from many_models.adapters.lake.memory import MemoryLake
from many_models.board.access import Keys
from many_models.board.group_page import coherent_sum
from many_models.data import lake_tables
from many_models.ports import Filter
from many_models_tests.board.shop import AS_OF, READER, shop

if TYPE_CHECKING:
    from pathlib import Path


def with_sums(lake: MemoryLake) -> MemoryLake:
    """Sums of the newest cutoff, two steps, the later one first, and of an older one."""
    rows = pa.table({
        "node": ["total", "store|Rome", "store|Rome", "store|Rome"], "ds": [AS_OF.replace(day=n) for n in (1, 3, 2, 1)],
        "y_hat": [9000.0, 4322.0, 4321.0, 1.0], "lo80": [8000.0, 4001.0, 4000.0, 0.0],
        "hi80": [9900.0, 5001.0, 5000.0, 2.0],
        "cutoff_date": [f"{AS_OF:%Y-%m-%d}"] * 3 + ["2026-10-01"],
    })  # fmt: skip
    lake.replace(lake_tables.COHERENT.name, rows, Filter(), lake_tables.COHERENT.partition_by)
    return lake


def test_the_coherent_sum_of_a_group_is_that_of_its_node_and_cutoff() -> None:
    lake = with_sums(MemoryLake())
    assert [row["y_hat"] for row in coherent_sum(lake, AS_OF, "store", "Rome")] == [4321.0, 4322.0]
    assert [row["hi80"] for row in coherent_sum(lake, AS_OF, "", "")] == [9900.0]
    assert coherent_sum(lake, AS_OF, "store", "Berlin") == []
    assert coherent_sum(MemoryLake(), AS_OF, "store", "Rome") == []


def test_a_groups_page_shows_its_sum_with_an_interval_where_there_is_one(tmp_path: Path) -> None:
    found = shop(tmp_path, hierarchy={"levels": [["store"]]})
    with_sums(found.lake)
    with found.client() as client:
        rome, berlin = client.get("/groups/store/Rome").text, client.get("/groups/store/Berlin").text
    assert "8,643" in rome
    assert "4,000 to 5,000" in rome
    assert "so the sum has none" in berlin


def test_who_sees_some_items_sees_no_sums_of_others(tmp_path: Path) -> None:
    (tmp_path / "rows.csv").write_text("user,store,item\n*,Rome,bread\n")
    found = shop(tmp_path, hierarchy={"levels": [["store"]]}, board={"rows": "rows.csv"})
    with_sums(found.lake)
    with found.client(Keys([READER]), signed_in=READER) as client:
        page = client.get("/groups/store/Rome")
    assert page.status_code == 200
    assert "4,000" not in page.text
