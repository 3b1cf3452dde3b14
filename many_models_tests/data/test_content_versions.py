"""Versions of raw rows: what comes day by day adds up to what a whole reading says."""

from __future__ import annotations

from datetime import datetime, timedelta

import numpy as np
import pyarrow as pa
from pandas.core.util.hashing import hash_pandas_object

from many_models.data.content_versions import SCHEMA, with_more, year_versions


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


def test_versions_are_what_pandas_groups_them_to_whatever_the_order_of_rows() -> None:
    whole = pa.concat_tables(
        [rows(datetime(2022, 12, 25), 400, ["a__1", "b__1"]), rows(datetime(2023, 2, 1), 3, ["c__é"])]
    )
    frame = whole.to_pandas()
    frame["hash"] = hash_pandas_object(frame[["ds", "y"]], index=False).to_numpy().view(np.int64)
    groups = frame.groupby(["series_id", "year"], sort=True)
    wanted = groups.agg(
        pack=("pack", "first"), rows=("ds", "size"), first=("ds", "min"), last=("ds", "max"), hash=("hash", "sum")
    ).reset_index()
    shuffled = whole.take(pa.array(np.random.default_rng(1).permutation(whole.num_rows)))
    for table in (whole, shuffled, whole.sort_by([("series_id", "ascending"), ("ds", "descending")])):
        assert year_versions(table).to_pylist() == pa.Table.from_pandas(wanted[SCHEMA.names], SCHEMA).to_pylist()


def test_versions_of_a_part_and_of_the_rest_add_up_to_those_of_the_whole() -> None:
    part = rows(datetime(2023, 12, 25), 20, ["a__1", "b__1"])
    rest = rows(datetime(2024, 1, 14), 3, ["b__1", "a__2"])
    whole = year_versions(pa.concat_tables([part, rest]))
    assert with_more(year_versions(part), year_versions(rest)) == whole
    assert with_more(year_versions(part), year_versions(part)) != whole
