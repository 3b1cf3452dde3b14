"""People's changes of forecasts: which of them count, what they make of the forecast, and whether they helped."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import date, datetime, timedelta
from typing import TYPE_CHECKING

import numpy as np
import pyarrow as pa

from many_models.decisions.problems import misnamed, number_in, problem_table, unread
from many_models.errors import InputError

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from numpy.typing import NDArray

    Floats = NDArray[np.float64]

ACTIONS = ("set", "add", "multiply")
NEEDED = ("from", "to", "action", "value")
MOMENTS = ("from", "to", "expires", "entered_at")
LARGE = 0.1  # a change of so large a share of the model's forecast, or more, is a large one
NO_CHANGE = -1
LONG_AGO = datetime(1, 1, 1)


@dataclass(frozen=True)
class Override:
    """One usable row: what it is about (column → value), the days, what to do, and who wrote it, when and why."""

    shown: str
    about: tuple[tuple[str, str], ...]
    first: datetime
    last: datetime
    action: str
    value: float
    author: str
    reason: str
    entered: datetime


@dataclass(frozen=True)
class Changed:
    """The `final` forecasts (series × steps), which override counts where (position in `overrides`, NO_CHANGE), and
    `problems`: what could not be used, has expired or is overruled.
    """

    final: Floats
    by: NDArray[np.int64]
    overrides: list[Override]
    problems: pa.Table


def change(  # noqa: PLR0913, PLR0917 - forecasts, and what people say of them
    rows: pa.Table,
    columns: Sequence[str],
    series: Sequence[str],
    values: Mapping[str, Mapping[str, str | None]],
    y_hat: Floats,
    ds: NDArray[np.datetime64],
    cutoff: datetime,
    *,
    nonnegative: bool = True,
    attributes: Sequence[str] = (),
) -> Changed:
    """The final forecasts after the overrides `rows`.

    `columns` say what a row can be about (keys and attributes), `values` has them for each series; a column that is
    empty is for all. For each series and day one override counts: the one that names most columns, of these the newest
    (`entered_at`). An amount for several series is spread by the model's proportions, evenly where the model forecasts
    nothing. A row that fills in one of `attributes` that `columns` lack is a problem: it would be about all series.
    Raises InputError where the table lacks a column.
    """
    if missing := [name for name in NEEDED if name not in rows.column_names]:
        raise InputError(f"the overrides table lacks {', '.join(missing)}; it has {', '.join(rows.column_names)}")
    problems = list[dict[str, str]]()
    usable = list[Override]()
    wrong = misnamed(rows.column_names, columns, (*NEEDED, *MOMENTS, "author", "reason"))
    silent = {*attributes} & {*rows.column_names} - {*columns}
    wrong |= dict.fromkeys(sorted(silent), "name it in hierarchy.levels")
    for number, row in enumerate(rows.to_pylist(), 1):
        found = _read(number, row, [name for name in columns if name in rows.column_names], cutoff, ds)
        if isinstance(found, Override):
            found = _problem(found.shown, why) if (why := unread(row, wrong)) else found
        if isinstance(found, Override):
            usable.append(found)
        elif found["reason"]:
            problems.append(found)
    usable.sort(key=lambda one: (len(one.about), one.entered))
    by = np.full(y_hat.shape, NO_CHANGE)
    final = np.array(y_hat, np.float64)
    for at, one in enumerate(usable):
        _apply(at, one, usable, series, values, y_hat, ds, final, by, problems)
    if nonnegative:
        final = np.where(by == NO_CHANGE, final, np.maximum(final, 0.0))
    return Changed(final, by, usable, problem_table(problems))


def entered_by(rows: pa.Table, moment: datetime) -> pa.Table:
    """The rows that had been written by `moment`, as `entered_at` says; none where it is missing or no date."""
    if "entered_at" not in rows.column_names:
        return rows.slice(0, 0)
    kept = list[bool]()
    for value in rows["entered_at"].to_pylist():
        try:
            entered = _moment("entered_at", value)
        except ValueError:
            entered = None
        kept.append(entered is not None and entered <= moment)
    return rows.filter(pa.array(kept, pa.bool_()))


def _apply(  # noqa: PLR0913, PLR0917 - one override onto what the earlier ones have made
    at: int,
    one: Override,
    usable: Sequence[Override],
    series: Sequence[str],
    values: Mapping[str, Mapping[str, str | None]],
    y_hat: Floats,
    ds: NDArray[np.datetime64],
    final: Floats,
    by: NDArray[np.int64],
    problems: list[dict[str, str]],
) -> None:
    """Let the override `at` count for its series and days, in place of those that it overrules."""
    mine = np.array([i for i, name in enumerate(series) if all(values[name].get(k) == v for k, v in one.about)], int)
    days = np.flatnonzero((ds >= np.datetime64(one.first)) & (ds <= np.datetime64(one.last)))
    if not len(mine):
        problems.append(_problem(one.shown, "no series that is forecast is meant: it has ended, or has another name"))
        return
    if not len(days):
        if np.datetime64(one.last) < ds[-1]:  # a later one waits for its cutoff
            said = f"no period of the data begins from {one.first:%Y-%m-%d} to {one.last:%Y-%m-%d}"
            problems.append(_problem(one.shown, f"{said}: name the first day of the period"))
        return
    for earlier in sorted({*by[np.ix_(mine, days)].ravel().tolist()} - {NO_CHANGE}):
        places = int((by[np.ix_(mine, days)] == earlier).sum())
        how = "newer" if len(usable[earlier].about) == len(one.about) else "more special"
        why = f"overruled for {places} series and days by the {how} {one.shown}"
        problems.append(_problem(usable[earlier].shown, why))
    model = y_hat[np.ix_(mine, days)]
    total = model.sum(0, keepdims=True)
    with np.errstate(divide="ignore", invalid="ignore"):
        share = np.where(total > 0, model / np.where(total > 0, total, 1.0), 1.0 / len(mine))
    amount = {"set": share * one.value, "add": model + share * one.value, "multiply": model * one.value}[one.action]
    final[np.ix_(mine, days)] = amount
    by[np.ix_(mine, days)] = at


def _problem(shown: str, reason: str) -> dict[str, str]:
    return {"origin": "overrides", "series_id": "", "row": shown, "reason": reason}


def _read(
    number: int, row: Mapping[str, object], columns: Sequence[str], cutoff: datetime, ds: NDArray[np.datetime64]
) -> Override | dict[str, str]:
    """The row as an override; else the problem with it, whose reason is empty where it is only past."""
    about = tuple((name, str(row[name])) for name in columns if row.get(name) not in {None, ""})
    author, why = (str(row.get(name) or "") for name in ("author", "reason"))
    shown = f"row {number} ({', '.join([*(value for _, value in about), author or 'no author'])})"
    try:
        first, last, expires, entered = (_moment(name, row.get(name)) for name in MOMENTS)
        value = _number(row["value"])
    except ValueError as error:
        return _problem(shown, str(error))
    action = str(row["action"] or "").strip().lower()
    if first is None or last is None or value is None:
        return _problem(shown, "from, to and value are needed")
    if action not in ACTIONS:
        return _problem(shown, f"action is {action!r}, needed set, add or multiply")
    if last < first:
        return _problem(shown, f"it ends on {last:%Y-%m-%d}, before it begins on {first:%Y-%m-%d}")
    if action != "add" and value < 0:
        return _problem(shown, f"value is {value:g}, needed 0 or more to {action}")
    if last == last.replace(hour=0, minute=0, second=0, microsecond=0):
        last += timedelta(days=1, microseconds=-1)  # a day is meant with all its hours
    if np.datetime64(last) < ds[0]:
        return _problem(shown, "")
    if expires is not None and expires <= cutoff:
        return _problem(shown, f"it expired on {expires:%Y-%m-%d}")
    return Override(shown, about, first, last, action, value, author, why, entered or LONG_AGO)


def _number(value: object) -> float | None:
    """The column `value`, None where the cell is empty. Raises ValueError with what was written, and what is needed."""
    try:
        return number_in(value)
    except ValueError:
        raise ValueError(f"value is {value!r}, needed a number") from None


def _moment(name: str, value: object) -> datetime | None:
    """The moment in the column `name` as people write it, None where the cell is empty. Raises ValueError likewise."""
    if value is None or (isinstance(value, str) and not value.strip()):
        return None
    if isinstance(value, datetime):
        return value.replace(tzinfo=None)
    if isinstance(value, date):
        return datetime(value.year, value.month, value.day)
    try:
        return datetime.fromisoformat(str(value).strip()).replace(tzinfo=None)
    except ValueError:
        raise ValueError(f"{name} is {value!r}, needed a day as 2024-12-31") from None


def final_table(
    changed: Changed, series: Sequence[str], y_hat: Floats, ds: NDArray[np.datetime64], cutoff: datetime
) -> pa.Table:
    """A row per series and step: series_id, ds, step, cutoff, y_hat (the model's), final, author, reason, action."""
    n, steps = y_hat.shape
    by = changed.by.ravel()
    said = {
        name: np.array([*(getattr(one, name) for one in changed.overrides), None], object)[by]
        for name in ("author", "reason", "action")
    }
    return pa.table(
        {
            "series_id": pa.array(np.repeat(np.array(series, object), steps), pa.string()),
            "ds": pa.array(np.tile(ds, n), pa.timestamp("us")),
            "step": pa.array(np.tile(np.arange(1, steps + 1), n), pa.int64()),
            "cutoff": pa.array([cutoff] * n * steps, pa.timestamp("us")),
            "y_hat": y_hat.ravel(),
            "final": changed.final.ravel(),
            **{name: pa.array(values, pa.string()) for name, values in said.items()},
        }
    )


def value_added(rows: pa.Table) -> pa.Table:
    """Whether changes helped: a row per series, author, reason, month and size of the change (small, large).

    `rows` are changed forecasts whose actual has come: series_id, ds, y, naive (null where unknown), y_hat, final,
    author, reason. Of each forecast the sums of absolute errors and of errors (forecast − actual), over abs_actual:
    wape_naive, wape_model, wape_people and bias_…; `added` is wape_model − wape_people, above 0 where people helped.
    What is said of naive is null where naive is unknown for one of the periods.
    """
    frame = rows.to_pandas()
    names = ("naive", "model", "people")
    frame = frame.assign(
        month=frame["ds"].dt.strftime("%Y-%m"),
        author=frame["author"].fillna(""),
        reason=frame["reason"].fillna(""),
        size=np.where((frame["final"] - frame["y_hat"]).abs() < LARGE * frame["y_hat"].abs(), "small", "large"),
        abs_actual=frame["y"].abs(),
        periods=1,
    )
    for name, column in zip(names, ("naive", "y_hat", "final"), strict=True):
        frame[f"error_{name}"] = frame[column] - frame["y"]
        frame[f"abs_error_{name}"] = frame[f"error_{name}"].abs()
    sums = ["periods", "abs_actual", *(f"{what}_{name}" for name in names for what in ("abs_error", "error"))]
    of = ["series_id", "author", "reason", "month", "size"]
    found = frame.groupby(of, as_index=False)[sums].sum()
    unknown = frame["naive"].isna().groupby([frame[name] for name in of]).any().to_numpy()
    sold = found["abs_actual"].where(found["abs_actual"] > 0)
    for name in names:
        found[f"wape_{name}"] = found[f"abs_error_{name}"] / sold
        found[f"bias_{name}"] = found[f"error_{name}"] / sold
    found.loc[unknown, [name for name in found.columns if name.endswith("_naive")]] = np.nan  # of other periods
    found["added"] = found["wape_model"] - found["wape_people"]
    return pa.Table.from_pandas(found, preserve_index=False)
