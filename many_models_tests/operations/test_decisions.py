"""What the summary says that decisions brought."""

from __future__ import annotations

from datetime import datetime

import pyarrow as pa

from many_models.adapters.lake.memory import MemoryLake
from many_models.operations.decisions import brought
from many_models.ports import Filter


def test_rows_that_were_left_out_are_told_by_the_word_of_the_guide_and_not_by_an_assets_name() -> None:
    lake = MemoryLake()
    lake.replace("raw_versions", pa.table({"last": pa.array([datetime(2024, 6, 30)], pa.timestamp("us"))}), Filter())
    origins = ["coherent_predictions", "coherent_predictions", "final_predictions", "stock_recommendations", "drift"]
    rows = pa.table({"origin": origins, "cutoff_date": ["2024-06-30"] * len(origins)})
    lake.replace("decision_problems", rows, Filter())
    said = "people's rows left out or overruled: 2 of sums, 1 of changes, 1 of stock (lake table decision_problems)"
    assert brought(lake) == [said]
