"""The columns of the tables that the product makes, once: schemas, reserved names and docs/tables.md come from here."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Mapping

    import pyarrow as pa

Columns = dict[str, str]
ARROW = {
    "text": "string",
    "number": "double",
    "integer": "int64",
    "small integer": "int32",
    "time": "timestamp[us]",
    "boolean": "bool",
    "bytes": "binary",
}


def _columns(text: str) -> Columns:
    """`kind: names; kind: names` as name → kind."""
    parts = (part.split(":") for part in text.split(";"))
    return {name: kind.strip() for kind, names in parts for name in names.split()}


def schema_of(columns: Mapping[str, str]) -> pa.Schema:
    """The Arrow schema of columns of the kinds in ARROW, or `numbers` (a list), in their order."""
    import pyarrow as pa

    types = {kind: pa.type_for_alias(name) for kind, name in ARROW.items()} | {"numbers": pa.list_(pa.float64())}
    return pa.schema([(name, types[kind]) for name, kind in columns.items()])


RAW_SALES = _columns("text: series_id; time: ds; number: y; text: pack; small integer: year")
RAW_VERSIONS = _columns("text: series_id pack; small integer: year; integer: rows; time: first last; integer: hash")
QUARANTINE = _columns("text: series_id; time: ds; text: row reason detail origin; time: period")
SOURCE_COLUMNS = _columns("text: table column type")
SERIES_KEYS = _columns("text: series_id")
RAW_COVARIATES = _columns("time: ds")
RAW_ATTRIBUTES: Columns = {}
RAW_OPENINGS: Columns = {}
COVARIATE_VERSIONS = _columns("text: past ahead")
DATASETS = _columns("text: series_id; time: ds; number: y; text: state; number: outlier; text: pack")
POOLED = _columns("text: hash file; bytes: content")
DATASET_FACTS = _columns(
    "text: series_id; time: first last until; integer: rows observations; boolean: active; text: why digest; "
    "number: low high usual"
)
SERIES = DATASET_FACTS | _columns("text: pack; time: as_of")
RECIPES = _columns("text: recipe spec")
BACKTEST_OF_SERIES = _columns(
    "text: series_id fallback candidate weights; integer: history windows; number: wape baseline_wape mase rmsse bias "
    "cover80 cover95 noise_floor skill accuracy champion_wape; text: recipe; time: cutoff"
)
TRAINED = BACKTEST_OF_SERIES | _columns("boolean: finite; text: pack staging")
SCORES_OF_SERIES = _columns(
    "text: series_id candidate; integer: window; time: cutoff; number: wape mase rmsse bias abs_error abs_actual; "
    "integer: n; number: seconds; text: problem"
)
SCORES = SCORES_OF_SERIES | _columns("text: pack")
BACKTEST_PATHS = _columns("text: series_id; integer: window; time: cutoff; numbers: y y_hat; text: pack")
CHAMPIONS = _columns(
    "text: series_id ref sha256 staging recipe cutoff previous fallback release_id spec; integer: row; "
    "number: wape baseline_wape"
)
DECISIONS = _columns(
    "text: series_id action rule reason staging previous cutoff cutoff_date release_id actor policy decided_at; "
    "number: challenger_score champion_score"
)
RELEASE_LOG = _columns("text: release_id event actor reason decided_at previous; integer: series")
PREDICTIONS = _columns(
    "text: series_id; time: ds cutoff; small integer: step; number: y_hat; text: fallback; boolean: known_repeated; "
    "text: model pack cutoff_date"
)
DRIVERS_OF_FORECASTS = _columns("text: series_id; time: ds; small integer: step; text: kind driver; number: value")
DRIVERS = DRIVERS_OF_FORECASTS | _columns("text: cutoff_date; time: cutoff")
FINDINGS = _columns("text: stage text")
STOCK = _columns(
    "text: series_id; time: cutoff; number: lead_time review demand_mean; text: service; number: service_level "
    "reorder_point safety_stock order_up_to position order_now expected_fill_rate expected_cycle_service "
    "newsvendor_ratio newsvendor_stock; text: cutoff_date"
)
COHERENT = _columns(
    "text: node level series_id; time: ds; integer: step; time: cutoff; number: y_hat base; text: cutoff_date"
)
FINAL = _columns(
    "text: series_id; time: ds; integer: step; time: cutoff; number: y_hat final; "
    "text: author reason action cutoff_date"
)
VALUE_ADDED = _columns(
    "text: series_id author reason month size; integer: periods; number: abs_actual abs_error_naive error_naive "
    "abs_error_model error_model abs_error_people error_people wape_naive bias_naive wape_model bias_model wape_people "
    "bias_people added; text: cutoff_date"
)
DRIFT = _columns(
    "text: series_id; time: cutoff; boolean: drifted; text: kind direction; time: began_at alarmed_at; "
    "number: chart_level chart_bias chart_coverage widen; text: cutoff_date"
)
PROBLEMS = _columns("text: origin series_id row reason")
DECISION_PROBLEMS = PROBLEMS | _columns("text: cutoff_date")
DECISION_INPUTS = _columns("text: stage content")
COSTS_OF_NIGHT = _columns(
    "text: stage; integer: runs; number: seconds core_seconds cost; integer: models; number: cost_per_model; "
    "integer: improvements; number: cost_per_improvement wape_before wape_after"
)
COSTS = COSTS_OF_NIGHT | _columns("text: cutoff_date")
SERIES_STATUS = _columns(
    "text: stage series_id version kind reason; boolean: permanent; integer: attempts; boolean: set_aside; "
    "text: tried_with"
)

# --- The warehouse --------------------------------------------------------------------------------------------------
ACTUALS = _columns("text: series_id; time: ds; number: y; time: week_start")
ACCURACY = _columns(
    "text: series_id; time: cutoff; integer: periods; number: actual forecast wape bias cover80 cover95"
)
ACCURACY_VIEWS = ("periods", "actual", "forecast", "abs_error", "abs_actual", "wape", "accuracy", "bias")
DRIFT_ANSWER = "drift_answer"  # of predictions, where `drift.answer` is not to ask
OTHER_VIEWS = ("error", "newest", "naive")  # columns that views add, or that queries of them use
ACCURACY_VIEW_NAMES = ("week", "series_week")  # `accuracy_by_KEY` must not be one of the product's own views
PER_LEVEL = re.compile(r"(lo|hi|within|cover)\d+")

RESERVED = frozenset({"series_id", "ds", "y", "y_hat", "cutoff", "year", "pack", "state", "step"})
RESERVED_KEY_NAMES = RESERVED.union(
    PREDICTIONS, DECISIONS, ACTUALS, ACCURACY, ACCURACY_VIEWS, OTHER_VIEWS, ACCURACY_VIEW_NAMES, [DRIFT_ANSWER]
)


def is_reserved_key(name: str) -> bool:
    """Whether no key may have this `name`, in any case: columns or views of the warehouse have it."""
    name = name.casefold()
    return name in RESERVED_KEY_NAMES or PER_LEVEL.fullmatch(name) is not None
