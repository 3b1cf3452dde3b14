"""What a load brings of decisions: each table under the user's key names, whatever these are."""

from __future__ import annotations

import pyarrow as pa

from many_models.adapters.lake.memory import MemoryLake
from many_models.ports import Filter
from many_models.reporting.decision_views import decision_views
from many_models.reporting.decisions import decision_parts


def test_a_key_that_is_called_as_a_column_of_decisions_keeps_its_name() -> None:
    lake = MemoryLake()
    rows = pa.table({"series_id": ["a__b"], "author": ["ann"], "reason": [""], "month": ["2024-06"], "size": ["small"],
                     "added": [0.1], "cutoff_date": ["2024-06-30"]})  # fmt: skip
    lake.replace("forecast_value_added", rows, Filter(), ("cutoff_date",))
    (part,) = decision_parts(lake, ["size", "item"], "2024-06-30")
    assert (
        part.rows.to_pylist()[0] | {"size": "a", "item": "b", "size_of_decision": "small"} == part.rows.to_pylist()[0]
    )
    assert part.key == ("series_id", "author", "reason", "month", "size_of_decision", "cutoff_date")
    assert [view.name for view in decision_views({part.table: part.rows.column_names})] == ["latest_value_added"]


def test_without_decisions_a_load_brings_nothing_of_them() -> None:
    assert decision_parts(MemoryLake(), ["item"], "2024-06-30") == []
    assert decision_views({"predictions": ["series_id"]}) == []
