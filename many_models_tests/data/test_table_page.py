"""docs/tables.md says what the catalogue of tables says."""

from __future__ import annotations

from pathlib import Path

import many_models
from many_models.data.lake_tables import BACKTEST_PATHS
from many_models.data.table_page import catalogue, page

PAGE = Path(many_models.__file__).parents[1] / "docs" / "tables.md"


def test_the_page_of_tables_is_current() -> None:
    """Mend it: `python -m many_models.data.table_page > docs/tables.md`."""
    assert PAGE.read_text(encoding="utf-8") == page()


def test_every_table_says_what_it_is_for_and_has_columns_of_known_kinds() -> None:
    tables = catalogue()
    assert BACKTEST_PATHS in tables
    assert len({table.name for table in tables}) == len(tables)
    for table in tables:
        assert table.why.endswith("."), table.name
        assert table.columns or table.more, table.name
        assert set(table.schema.names) == set(table.columns)
