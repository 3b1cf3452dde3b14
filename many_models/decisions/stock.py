"""Stock from demand: reorder point, safety stock, what to order now, expected fill rate, the newsvendor's quantile.

The policy is (R, s, nQ) of Hadley & Whitin (1963): every R periods, where the position (on hand + on order) is below
the reorder point s, order whole packs until it is not. After an order the position lies anywhere from s to s + Q, each
place alike, so with large packs s may be lower for the same service. What counts is the demand of lead time + review
period, the time until the next order can help.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal, get_args

import numpy as np
import pyarrow as pa

from many_models.decisions.demand_paths import path_sums, seeded
from many_models.decisions.problems import misnamed, number_in, problem_table, unknown, unread
from many_models.errors import InputError, SettingsError
from many_models.keys import unmatched

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from numpy.typing import NDArray

    from many_models.decisions.demand_paths import PathModel

    Floats = NDArray[np.float64]

Service = Literal["cycle", "fill"]
Place = tuple[str | None, ...]  # what a row is about: a value for each key, None for all
OVERSHOOTS = 8  # places between s and s + Q that stand for all of them
HALVINGS = 22  # of the search for a fill rate's reorder point
NUMBERS = (
    "lead_time",
    "lead_time_sd",
    "review",
    "service_level",
    "on_hand",
    "on_order",
    "pack",
    "least_order",
    "holding_cost",
    "missing_cost",
)


@dataclass(frozen=True)
class Terms:
    """What is asked of series' stock: arrays of a value per series, in the target's units and in periods.

    `lead_time_sd` is the standard deviation of the lead time, `review` the periods from one order to the next,
    `service_level` a share of cycles without a miss (`service` "cycle") or of demand that is met at once ("fill").
    `pack` 0 is any quantity, NaN in `on_hand` or in costs: not known.
    """

    lead_time: Floats
    lead_time_sd: Floats
    review: Floats
    service_level: Floats
    fill: NDArray[np.bool_]
    on_hand: Floats
    on_order: Floats
    pack: Floats
    least_order: Floats
    holding_cost: Floats
    missing_cost: Floats

    def of(self, rows: NDArray[np.int64]) -> Terms:
        """The terms of some series."""
        return Terms(**{name: getattr(self, name)[rows] for name in self.__dataclass_fields__})


def recommend(
    model: PathModel, terms: Terms, *, whole: NDArray[np.bool_], horizon: int, paths: int = 500, seed: int = 1
) -> pa.Table:
    """A row per series of `model` with its recommendation; `whole` says which series are counted in whole units.

    Columns: series_id, lead_time, review, demand_mean and demand_q50 … q99 (of lead time + review), reorder_point,
    safety_stock, order_up_to, position, order_now, expected_fill_rate, expected_cycle_service, newsvendor_ratio and
    newsvendor_stock (null without both costs). order_now is null where nothing is known of what is on hand.
    Raises SettingsError where lead time and review do not fit into `horizon`.
    """
    reach = terms.lead_time + 2 * terms.lead_time_sd + terms.review
    if (reach > horizon).any():
        at = int(np.argmax(reach > horizon))
        raise SettingsError(beyond(model.series[at], terms.of(np.array([at])), horizon))
    parts = [
        _of_block(model, rows, drawn, terms.of(rows), whole[rows], seed) for rows, drawn in model.blocks(paths, seed)
    ]
    return pa.concat_tables(parts) if parts else pa.table({"series_id": pa.array([], pa.string())})


def beyond(name: str, terms: Terms, horizon: int) -> str:
    """What is wrong with a lead time beyond the horizon, and what to change."""
    lead, spread, review = (float(column[0]) for column in (terms.lead_time, terms.lead_time_sd, terms.review))
    needed = int(np.ceil(lead + 2 * spread + review))
    varying = f" ± 2 × {spread:g}" if spread else ""
    return (
        f"series {name}: lead time {lead:g}{varying} and review {review:g} need {needed} periods, "
        f"forecast.horizon is {horizon}: set forecast.horizon to {needed} or more"
    )


def _of_block(
    model: PathModel,
    rows: NDArray[np.int64],
    drawn: NDArray[np.float32],
    terms: Terms,
    whole: NDArray[np.bool_],
    seed: int,
) -> pa.Table:
    """The recommendations of some series, of their paths (series × paths × steps)."""
    names = [model.series[i] for i in rows.tolist()]
    lead, reach = _lengths(names, terms, drawn.shape[1], drawn.shape[2], seed)
    during, until = path_sums(drawn, lead, reach)
    quantity = _quantity(terms, whole)
    overshoot = overshoots(quantity, whole)
    point = np.zeros(len(rows))
    cycle = ~terms.fill
    point[cycle] = _cycle_point(until[cycle], overshoot[cycle], terms.service_level[cycle])
    point += _fill_point(during, until, overshoot, terms.service_level, terms.fill)
    point = np.where(whole, np.ceil(point - 1e-6), point)
    mean = until.mean(1)
    position = terms.on_hand + terms.on_order
    order = order_quantity(position, point, terms.pack, terms.least_order, whole)
    short = _shortage(_Excess.of(during), _Excess.of(until), point[:, None] + overshoot)
    expected = (until - during).mean(1)
    ratio = terms.missing_cost / (terms.missing_cost + terms.holding_cost)
    columns: dict[str, object] = {
        "series_id": pa.array(names, pa.string()),
        "lead_time": terms.lead_time,
        "review": terms.review,
        "demand_mean": mean,
    }
    levels = (50, 80, 90, 95, 99)
    demand = np.quantile(until, [level / 100 for level in levels], axis=1, method="hazen")
    columns |= {f"demand_q{level}": demand[i] for i, level in enumerate(levels)}
    columns |= {
        "service": pa.array(np.where(terms.fill, "fill", "cycle"), pa.string()),
        "service_level": terms.service_level,
        "reorder_point": point,
        "safety_stock": point - mean,
        "order_up_to": point + np.maximum(quantity - np.where(whole, 1.0, 0.0), 0.0),
        "position": _nullable(position),
        "order_now": _nullable(order),
        "expected_fill_rate": np.clip(1.0 - short / np.maximum(expected, 1e-12), 0.0, 1.0),
        "expected_cycle_service": _covered(until, point[:, None] + overshoot),
        "newsvendor_ratio": _nullable(ratio),
        "newsvendor_stock": _nullable(_each_quantile(until, ratio)),
    }
    return pa.table(columns)


def _lengths(
    names: Sequence[str], terms: Terms, paths: int, steps: int, seed: int
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Whole periods of lead time, and until the order after the next arrives, for each path (series × paths).

    A lead time that varies is drawn from a gamma distribution of its mean and deviation.
    """
    lead = np.repeat(np.maximum(terms.lead_time, 0.0)[:, None], paths, 1)
    for at in np.flatnonzero((terms.lead_time_sd > 0) & (terms.lead_time > 0)).tolist():
        shape = (terms.lead_time[at] / terms.lead_time_sd[at]) ** 2
        lead[at] = seeded(seed + 1, names[at]).gamma(shape, terms.lead_time[at] / shape, paths)
    review = np.maximum(np.rint(terms.review).astype(np.int64), 1)[:, None]
    during = np.clip(np.rint(lead).astype(np.int64), 0, steps - review)
    return during, during + review


def _quantity(terms: Terms, whole: NDArray[np.bool_]) -> Floats:
    """The least quantity that an order comes in: whole packs that hold the least order."""
    pack = np.where(terms.pack > 0, terms.pack, np.where(whole, 1.0, 0.0))
    with np.errstate(divide="ignore", invalid="ignore"):
        packs = np.where(pack > 0, np.ceil(np.maximum(terms.least_order, pack) / pack) * pack, terms.least_order)
    return np.maximum(packs, 0.0)


def overshoots(quantity: Floats, whole: NDArray[np.bool_]) -> Floats:
    """How far above the reorder point the position may lie after an order (series × OVERSHOOTS), each alike."""
    places = (np.arange(OVERSHOOTS) + 0.5) / OVERSHOOTS * quantity[:, None]
    return np.where(whole[:, None], np.floor(places), places)


def order_quantity(position: Floats, point: Floats, pack: Floats, least: Floats, whole: NDArray[np.bool_]) -> Floats:
    """What to order now, in whole packs: nothing at or above the reorder point, NaN where the position is unknown."""
    pack = np.where(pack > 0, pack, np.where(whole, 1.0, 0.0))
    needed = np.maximum(point - position, least)
    with np.errstate(divide="ignore", invalid="ignore"):
        packed = np.where(pack > 0, np.ceil(needed / np.where(pack > 0, pack, 1.0) - 1e-9) * pack, needed)
    return np.where(np.isnan(position), np.nan, np.where(position < point, packed, 0.0))


def _cycle_point(until: Floats, overshoot: Floats, level: Floats) -> Floats:
    """The least reorder point at which demand exceeds the position in at most 1 − level of cycles."""
    apart = (until[:, :, None] - overshoot[:, None, :]).reshape(len(until), until.shape[1] * overshoot.shape[1])
    return np.maximum(_each_quantile(apart, level), 0.0)


def _each_quantile(values: Floats, level: Floats) -> Floats:
    """The least value of each row that at least its share `level` of the row does not exceed; NaN for NaN."""
    ordered = np.sort(values.astype(np.float32), axis=1)
    n = ordered.shape[1]
    at = np.clip(np.ceil(np.nan_to_num(level) * n - 1e-9).astype(np.int64) - 1, 0, n - 1)
    return np.where(np.isnan(level), np.nan, np.take_along_axis(ordered, at[:, None], axis=1)[:, 0])


@dataclass(frozen=True, slots=True)
class _Excess:
    """Sorted `values` (series × paths) and the sums from each place on, to ask many levels of the same demand."""

    values: Floats
    above: Floats

    @classmethod
    def of(cls, demand: Floats) -> _Excess:
        values = np.sort(demand, axis=1)
        above = np.zeros((len(values), values.shape[1] + 1))
        np.cumsum(values[:, ::-1], axis=1, out=above[:, 1:])
        return cls(values, above[:, ::-1])

    def over(self, levels: Floats) -> Floats:
        """The mean of max(demand - level, 0) for each of `levels` (series × places)."""
        paths = self.values.shape[1]
        low, high = np.zeros(levels.shape, np.int64), np.full(levels.shape, paths)
        for _ in range(paths.bit_length()):  # a binary search in each row: the first place above the level
            middle = (low + high) // 2
            under = np.take_along_axis(self.values, np.minimum(middle, paths - 1), 1) <= levels
            under &= middle < high
            low, high = np.where(under, middle + 1, low), np.where(under, high, middle)
        return (np.take_along_axis(self.above, low, 1) - (paths - low) * levels) / paths


def _shortage(during: _Excess, until: _Excess, levels: Floats) -> Floats:
    """Expected demand of a review period that is not met at once from the position `levels` (series × places)."""
    return (until.over(levels) - during.over(levels)).mean(1)


def _covered(until: Floats, levels: Floats) -> Floats:
    """The share of cycles whose demand the position covers."""
    return np.mean([(until <= levels[:, place, None] + 1e-9).mean(1) for place in range(levels.shape[1])], axis=0)


def _fill_point(during: Floats, until: Floats, overshoot: Floats, level: Floats, asked: NDArray[np.bool_]) -> Floats:
    """The least reorder point at which at least the share `level` of demand is met at once, found by halving."""
    found = np.zeros(len(until))
    rows = np.flatnonzero(asked)
    if not len(rows):
        return found
    during, until, overshoot, level = during[rows], until[rows], overshoot[rows], level[rows]
    allowed = (1.0 - level) * (until - during).mean(1)
    low, high = np.zeros(len(rows)), until.max(1)
    late, due = _Excess.of(during), _Excess.of(until)
    for _ in range(HALVINGS):
        middle = (low + high) / 2
        enough = _shortage(late, due, middle[:, None] + overshoot) <= allowed
        low, high = np.where(enough, low, middle), np.where(enough, middle, high)
    enough = _shortage(late, due, overshoot) <= allowed
    found[rows] = np.where(enough, 0.0, high)
    return found


def _nullable(values: Floats) -> pa.Array:
    return pa.array(values, pa.float64(), from_pandas=True)


# --- The table of terms ---------------------------------------------------------------------------------------------
@dataclass(frozen=True)
class Read:
    """Usable `terms` of `series`, and what could not be used (see `problem_table`)."""

    series: list[str]
    terms: Terms
    problems: pa.Table


def read_terms(  # noqa: PLR0913 - a table, what it may be about, and what holds where it is silent
    rows: pa.Table,
    keys: Sequence[str],
    series: Mapping[str, Sequence[str]],
    *,
    defaults: Mapping[str, float | None],
    service: Service,
    horizon: int,
    others: Iterable[Sequence[str]] = (),
) -> Read:
    """The terms of `series` (name → its key parts) in the table `rows`: any of the `keys`, and columns of `NUMBERS`.

    An empty key is for all of its values; of several rows for a series, the one that names most keys is taken. A
    column that is missing, or empty in a row, is what `defaults` say. A row that cannot be used is a problem, and so
    are a row that is neither about one of `series` nor about one of `others` (key parts of series that have ended),
    and a series without usable terms; the others go on. Raises InputError where the table has none of the columns.
    """
    columns = set(rows.column_names)
    if not columns & {*NUMBERS, "service"}:
        raise InputError(f"the stock table has none of the columns {', '.join(NUMBERS)}, service")
    problems = list[dict[str, str]]()
    chosen = dict[Place, dict[str, object]]()
    given = rows.to_pylist()
    places = [tuple(None if row.get(key) in {None, ""} else str(row[key]) for key in keys) for row in given]
    strangers = unmatched(dict.fromkeys(places), [*series.values(), *others])
    wrong = misnamed(rows.column_names, [*keys, *NUMBERS, "service"])
    for number, (place, row) in enumerate(zip(places, given, strict=True), 1):
        values, reason = _checked(row, defaults, service)
        reason = reason or unread(row, wrong)
        if not reason and place in strangers:
            reason = unknown(strangers[place])
        if not reason and place in chosen:
            reason = "another row has the same keys, and the first one is taken: leave one out"
        if reason:
            named = ", ".join(f"{key} {part}" for key, part in zip(keys, place, strict=True) if part is not None)
            problems.append({"origin": "stock", "series_id": "", "row": f"row {number}: {named}", "reason": reason})
        else:
            chosen[place] = values
    return _of_series(chosen, series, horizon, problems)


def _of_series(
    chosen: Mapping[Place, dict[str, object]],
    series: Mapping[str, Sequence[str]],
    horizon: int,
    problems: list[dict[str, str]],
) -> Read:
    """The most special usable row of each series."""
    patterns = sorted({tuple(part is not None for part in place) for place in chosen}, key=lambda it: (-sum(it), it))
    names, found = list[str](), list[dict[str, object]]()
    for name, parts in series.items():
        tries = (tuple(part if used else None for part, used in zip(parts, it, strict=True)) for it in patterns)
        values = next((chosen[place] for place in tries if place in chosen), None)
        reason = "no usable row of the stock table is for it: add one"
        if values is not None:
            terms = _arrays([values])
            fits = (terms.lead_time + 2 * terms.lead_time_sd + terms.review)[0] <= horizon
            reason = "" if fits else beyond(name, terms, horizon)
        if reason or values is None:
            problems.append({"origin": "stock", "series_id": name, "row": "", "reason": reason})
        else:
            names.append(name)
            found.append(values)
    return Read(names, _arrays(found), problem_table(problems))


def _arrays(rows: Sequence[Mapping[str, object]]) -> Terms:
    columns = {name: np.array([row[name] for row in rows], np.float64) for name in NUMBERS}
    return Terms(fill=np.array([row["service"] == "fill" for row in rows], bool), **columns)


def _checked(
    row: Mapping[str, object], defaults: Mapping[str, float | None], service: str
) -> tuple[dict[str, object], str]:
    """The values of a row, and why it cannot be used ("" where it can)."""
    values = dict[str, object]()
    for name in NUMBERS:
        try:
            given = number_in(row.get(name))
        except ValueError:
            return values, f"{name} is {row.get(name)!r}, needed a number"
        default = defaults.get(name)
        values[name] = given if given is not None else np.nan if default is None else default
    said = row.get("service")
    values["service"] = str(said).strip().lower() if said not in {None, ""} else service
    return values, _wrong(values, pack_given=row.get("pack") not in {None, ""})


def _wrong(values: Mapping[str, object], *, pack_given: bool) -> str:
    """Why checked numbers cannot be used, "" where they can."""
    number = {name: float(str(values[name])) for name in NUMBERS}
    if np.isnan(number["lead_time"]):
        return "lead_time is missing: fill it in, or set stock.lead_time"
    if values["service"] not in get_args(Service):
        return f"service is {values['service']!r}, needed cycle or fill"
    if not 0 < number["service_level"] < 1:
        return f"service_level is {number['service_level']:g}, needed a share between 0 and 1, as 0.95"
    if pack_given and number["pack"] <= 0:
        return f"pack is {number['pack']:g}, needed more than 0: leave it empty where any quantity can be ordered"
    if number["review"] < 1:
        return f"review is {number['review']:g}, needed at least 1 period"
    low = [name for name in NUMBERS if name not in {"on_hand", "on_order"} and number[name] < 0]
    return f"{low[0]} is {number[low[0]]:g}, needed 0 or more" if low else ""
