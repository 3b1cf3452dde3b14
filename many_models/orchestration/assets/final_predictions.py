"""final_predictions: the model's forecasts and, beside them, what people made of them; and whether that helped."""

from datetime import timedelta
from typing import TYPE_CHECKING

import dagster as dg

from many_models.data import clock, lake_tables
from many_models.orchestration.cutoff_stage import Made, build_cutoff_asset
from many_models.orchestration.decision_inputs import Forecasts, forecasts_of, series_values
from many_models.orchestration.forecast_spec import spec_of
from many_models.ports import Filter, Lake, Source
from many_models.reporting.naive import seasonal_naive
from many_models.settings import Settings

if TYPE_CHECKING:
    import pyarrow as pa

LOOKED_BACK = 180  # days of the data whose changes are judged


def build(settings: Settings) -> dg.AssetsDefinition:
    """The asset final_predictions."""
    description = (
        "The model's forecast and the final one, after the overrides that people wrote into their table; and "
        "forecast_value_added: what seasonal naive, model and people reached on the changed forecasts whose actuals "
        "have come. Overrides that are bad, expired or overruled are in decision_problems."
    )
    return build_cutoff_asset(
        settings, "final_predictions", description, lambda source, lake, date: make(settings, source, lake, date)
    )


def make(settings: Settings, source: Source, lake: Lake, date: str) -> Made:
    """The final forecasts of the cutoff `date`. Raises InputError, MissingTableError."""
    import pyarrow as pa

    from many_models.decisions.overrides import NO_CHANGE, change, final_table, value_added
    from many_models.decisions.problems import problem_table

    found = forecasts_of(settings, lake, date, "overrides")
    values, _ = series_values(settings, source, found.series)
    columns = [*settings.data.keys, *dict.fromkeys(c for level in settings.hierarchy.levels for c in level)]
    changed = change(
        source.read_table(settings.overrides.table), list(dict.fromkeys(columns)), found.series, values, found.y_hat,
        found.ds, found.cutoff, nonnegative=settings.data.negatives != "allow",
    )  # fmt: skip
    table = final_table(changed, found.series, found.y_hat, found.ds, found.cutoff)
    problems = pa.concat_tables([problem_table(found.left_out), changed.problems])
    rows = judged(settings, lake, found)
    tables = {lake_tables.FINAL: table}
    if rows.num_rows:
        tables[lake_tables.VALUE_ADDED] = value_added(rows)
    return Made(tables, problems, {"dagster/row_count": table.num_rows, "changed": int((changed.by != NO_CHANGE).sum()),
                                   "overrides": len(changed.overrides)})  # fmt: skip


def judged(settings: Settings, lake: Lake, found: Forecasts) -> "pa.Table":
    """The changed forecasts of earlier cutoffs whose actual has come, with the actual and the seasonal naive."""
    import pyarrow as pa
    import pyarrow.compute as pc

    from many_models.forecasting.censoring import CENSORED

    since = found.cutoff - timedelta(days=LOOKED_BACK)
    where = Filter(since=since, before=found.cutoff + lake_tables.AFTER)
    columns = ["series_id", "ds", "step", "cutoff", "y_hat", "final", "author", "reason", "action"]
    rows = lake_tables.read_if_there(lake, lake_tables.FINAL, where, columns)
    if rows is None or not rows.num_rows:
        return pa.table({"series_id": pa.array([], pa.string())})
    changed = rows.filter(pc.is_valid(rows["action"]))
    spec = spec_of(settings)
    reach = (settings.forecast.horizon + 2 * spec.steps_per_season) * clock.step_days(settings)
    earlier = Filter(since=since - timedelta(days=2 * reach + 2), before=where.before)
    rows = lake.read(lake_tables.DATASETS.name, earlier, ["series_id", "ds", "y", "state"])
    seen = pc.and_(pc.is_valid(rows["y"]), pc.not_equal(rows["state"], CENSORED))
    history = rows.filter(seen).drop_columns(["state"])
    naive = pa.array(seasonal_naive(changed, history, spec), from_pandas=True)
    both: pa.Table = changed.append_column("naive", naive).join(history, ["series_id", "ds"], join_type="inner")
    return both.sort_by([(name, "ascending") for name in ("series_id", "cutoff", "ds")])  # a join keeps no order
