"""Columns of the source that go, come or change: an error where they are needed, else a warning that is recorded."""

from __future__ import annotations

import pytest

from many_models.adapters.lake.memory import MemoryLake
from many_models.data.row_checks import check_columns
from many_models.errors import InputError
from many_models.orchestration.schema_check import drift, schema_check
from many_models.ports import SalesTable
from many_models.settings import Settings

BEFORE = {"store": "string", "item": "string", "date": "timestamp[us]", "sales": "double", "promo": "bool"}


@pytest.mark.parametrize(
    ("now", "said"),
    [
        (BEFORE, []),
        (BEFORE | {"sales": "int64"}, []),
        (BEFORE | {"price": "double"}, ["price (double) is new"]),
        ({name: kind for name, kind in BEFORE.items() if name != "promo"}, ["promo is gone"]),
        (BEFORE | {"sales": "string"}, ["sales was double, is string"]),
        (dict(reversed(BEFORE.items())), []),
    ],
)
def test_a_change_of_the_columns_is_a_warning_once(now, said):
    lake, settings = MemoryLake(), Settings()
    assert schema_check(settings, lake, BEFORE).passed
    result = schema_check(settings, lake, now)
    assert result.passed == (not said)
    assert result.severity.value == "WARN"
    assert getattr(result.metadata.get("changed"), "value", "") == "; ".join(said)
    assert drift(BEFORE, now) == said
    assert schema_check(settings, lake, now).passed


def test_a_needed_column_that_is_gone_or_of_another_type_is_an_error_that_names_it():
    sales = SalesTable("sales", ("store", "item"), "date", "sales", changed="written_at")
    renamed = {("sold" if name == "sales" else name): kind for name, kind in BEFORE.items()}
    with pytest.raises(InputError, match=r"no column 'sales'.*no column 'written_at'.*'sold'"):
        check_columns(renamed, sales)
    with pytest.raises(InputError, match="the timestamp 'date' is double"):
        check_columns(BEFORE | {"date": "double", "written_at": "int64"}, sales)
