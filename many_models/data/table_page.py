"""docs/tables.md, from the catalogue of tables: `python -m many_models.data.table_page > docs/tables.md`."""

from __future__ import annotations

from many_models.data import lake_tables
from many_models.data.lake_tables import LakeTable

HEAD = """# Tables of the lake

`python -m many_models.data.table_page` writes this page from `many_models/data/lake_tables.py`. Times are UTC without a
zone, in microseconds. `cutoff` is the newest time that a forecast or a model knows; `pack` is the group of series that
are trained and stored together. `cutoff_date` is the date of `cutoff`.
"""


def catalogue() -> list[LakeTable]:
    """The tables in the order in which the day makes them."""
    return [table for table in vars(lake_tables).values() if isinstance(table, LakeTable)]


def page() -> str:
    """The page as Markdown: for each table what it is for, its partitions and its columns."""
    parts = [HEAD]
    for table in catalogue():
        parted = (
            f" Partitioned by {', '.join(f'`{name}`' for name in table.partition_by)}." if table.partition_by else ""
        )
        columns = ", ".join(f"`{name}` ({kind})" for name, kind in table.columns.items())
        listed = "; ".join(part for part in (columns, table.more) if part)
        parts.append(f"## {table.name}\n\n{table.why}{parted}\n\n{listed}.\n")
    return "\n".join(parts)


if __name__ == "__main__":
    print(page(), end="")  # noqa: T201  (its output is the page)
