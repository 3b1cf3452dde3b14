"""Versions of raw rows: what comes day by day adds up to what a whole reading says."""

from __future__ import annotations

from datetime import datetime, timedelta

import numpy as np
import pyarrow as pa

from many_models.raw_versions import with_more, year_versions


def rows(first: datetime, days: int, series: list[str]) -> pa.Table:
    stamps = [first + timedelta(days=at) for at in range(days) for _ in series]
    chance = np.random.default_rng(first.toordinal())
    return pa.table(
        {
            "series_id": series * days,
            "ds": pa.array(stamps, pa.timestamp("us")),
            "y": chance.normal(size=len(stamps)),
            "pack": pa.array([name[0] for name in series] * days, pa.string()),
            "year": pa.array([stamp.year for stamp in stamps], pa.int32()),
        }
    )


def test_versions_of_a_part_and_of_the_rest_add_up_to_those_of_the_whole() -> None:
    part = rows(datetime(2023, 12, 25), 20, ["a__1", "b__1"])
    rest = rows(datetime(2024, 1, 14), 3, ["b__1", "a__2"])
    whole = year_versions(pa.concat_tables([part, rest])).sort_by([("series_id", "ascending"), ("year", "ascending")])
    assert with_more(year_versions(part), year_versions(rest)) == whole
    assert with_more(year_versions(part), year_versions(part)) != whole
