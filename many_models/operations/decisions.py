"""What decisions brought at the newest cutoff, in sentences: sums, stock, people's changes, drift."""

from __future__ import annotations

from typing import TYPE_CHECKING

from many_models.data import lake_tables
from many_models.ports import Filter
from many_models.reporting.costs import ALL

if TYPE_CHECKING:
    import pyarrow as pa

    from many_models.data.lake_tables import LakeTable
    from many_models.ports import Lake

SHOWN = 3  # series that drifted
PARTS = {"coherent_predictions": "sums", "stock_recommendations": "stock", "final_predictions": "changes"}


def brought(lake: Lake) -> list[str]:
    """A sentence for each decision that the lake has of its newest cutoff, and one for each author of changes."""
    as_of = lake_tables.lake_as_of(lake)
    if as_of is None:
        return []
    where = Filter(among={"cutoff_date": [f"{as_of:%Y-%m-%d}"]})
    found = list[str]()
    for table, said in (
        (lake_tables.COHERENT, _sums),
        (lake_tables.STOCK, _stock),
        (lake_tables.FINAL, _changes),
        (lake_tables.VALUE_ADDED, _authors),
        (lake_tables.DRIFT, _drift),
        (lake_tables.DECISION_PROBLEMS, _problems),
        (lake_tables.COSTS, _cost),
    ):
        rows = _read(lake, table, where)
        found += said(rows) if rows is not None else []
    return found


def _read(lake: Lake, table: LakeTable, where: Filter) -> pa.Table | None:
    rows = lake_tables.read_if_there(lake, table, where)
    return rows if rows is not None and rows.num_rows else None


def _sums(rows: pa.Table) -> list[str]:
    import pyarrow.compute as pc

    total = rows.filter(pc.equal(rows["level"], "total"))
    sums = set(rows.filter(pc.is_null(rows["series_id"]))["node"].to_pylist())
    series = pc.count_distinct(rows["series_id"]).as_py()
    expected = pc.sum(total["y_hat"]).as_py()
    said = f"sums: {len(sums)} agree with {series} series"
    return [f"{said}; total of the next {total.num_rows} periods {expected:,.0f}"]


def _stock(rows: pa.Table) -> list[str]:
    import pyarrow.compute as pc

    ordering = pc.sum(pc.greater(rows["order_now"], 0.0)).as_py() or 0
    rate = pc.mean(rows["expected_fill_rate"]).as_py()
    return [f"stock: {ordering} of {rows.num_rows} series to order now; fill rate to expect {rate:.1%}"]


def _changes(rows: pa.Table) -> list[str]:
    import pyarrow.compute as pc

    changed = rows.filter(pc.is_valid(rows["action"]))
    return [f"changes: {changed.num_rows:,} of {rows.num_rows:,} coming forecasts are changed by people"]


def _authors(rows: pa.Table) -> list[str]:
    names = ["abs_error_model", "abs_error_people", "abs_actual", "periods"]
    found = list[str]()
    for author, one in rows.to_pandas().groupby("author")[names].sum().sort_index().iterrows():
        if one["abs_actual"] > 0:
            model, people = (float(one[name] / one["abs_actual"]) for name in names[:2])
            word = "better" if people < model else "worse"
            found.append(
                f"changes by {author or 'no author'}: WAPE {model:.3f} → {people:.3f}, {word}, over "
                f"{int(one['periods']):,} forecasts whose actuals have come"
            )
    return found


def _drift(rows: pa.Table) -> list[str]:
    import pyarrow.compute as pc

    drifted = rows.filter(rows["drifted"])
    names = sorted(drifted["series_id"].to_pylist())
    shown = f": {', '.join(names[:SHOWN])}{' …' if len(names) > SHOWN else ''}" if names else ""
    since = f", the first noticed on {pc.min(drifted['alarmed_at']).as_py():%Y-%m-%d}" if names else ""
    return [f"drift: {len(names)} of {rows.num_rows} series changed{since}{shown}"]


def _problems(rows: pa.Table) -> list[str]:
    counts = lake_tables.counts(rows.filter(_is_of_people(rows)), "origin")
    said = ", ".join(f"{count} of {PARTS.get(origin, origin)}" for origin, count in sorted(counts.items()))
    return [f"people's rows left out or overruled: {said} (lake table decision_problems)"] if said else []


def _cost(rows: pa.Table) -> list[str]:
    import pyarrow.compute as pc

    (night,) = rows.filter(pc.equal(rows["stage"], ALL)).to_pylist() or [None]
    if night is None:
        return []
    said = f"cost of the night: {night['cost']:.3g}, {night['core_seconds']:,.0f} core seconds"
    each = f"; {night['cost_per_model']:.2g} a model" if night["models"] else ""
    better = night["improvements"]
    won = "; no champion was replaced by a better model"
    if better:
        wape = f"WAPE {night['wape_before']:.3f} → {night['wape_after']:.3f}"
        won = f"; {night['cost_per_improvement']:.2g} for each of {better:,} improvements ({wape})"
    return [f"{said}{each}{won}"]


def _is_of_people(rows: pa.Table) -> pa.Array:
    import pyarrow.compute as pc

    return pc.not_equal(rows["origin"], "drift")
