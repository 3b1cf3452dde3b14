"""What forecasts are made of, and what another future would change: tables of parts that add up, and sentences."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, cast

import numpy as np
import pyarrow as pa

from many_models.errors import IntegrityError
from many_models.forecasting.pack import mm_pack_v1 as loader
from many_models.forecasting.phrases import phrases
from many_models.table_columns import DRIVERS_OF_FORECASTS, schema_of

if TYPE_CHECKING:
    from collections.abc import Sequence
    from datetime import date, datetime

    from numpy.typing import NDArray

    from many_models.forecasting.pack.model import PackModel
    from many_models.forecasting.phrases import Phrases

SCHEMA = schema_of(DRIVERS_OF_FORECASTS)
NOTHING = 1e-12  # of the largest part: smaller ones are left out of tables


@dataclass(frozen=True)
class Explanation:
    """The forecast of one series in parts: `parts` (steps × drivers) add up to `y_hat` (steps,) at `ds`.

    `drivers` has (kind, driver) of each column. The kinds: level (the slow mean), recent (what the last periods say
    beside it), season, holiday, covariate, calibration, bounds (cut at zero, or far above all that was seen), closed,
    and forecaster (a user's own, whole).
    """

    series_id: str
    ds: NDArray[np.datetime64]
    drivers: tuple[tuple[str, str], ...]
    parts: NDArray[np.float64]
    y_hat: NDArray[np.float64]
    frequency: str = "D"

    def of(self, driver: str) -> NDArray[np.float64]:
        """What the driver of this name adds to each step, zero where there is none."""
        columns = [j for j, (_, name) in enumerate(self.drivers) if name == driver]
        return self.parts[:, columns].sum(1)


@dataclass(frozen=True)
class Difference:
    """What the forecast of a series changes from one future to another.

    `parts` (steps × drivers) add up to `change` (steps,). `low` and `high` (steps × levels) are bounds of the change:
    how much the candidates disagree about it, and how much wider the second forecast is than the first.
    """

    series_id: str
    ds: NDArray[np.datetime64]
    drivers: tuple[tuple[str, str], ...]
    parts: NDArray[np.float64]
    change: NDArray[np.float64]
    levels: tuple[int, ...]
    low: NDArray[np.float64]
    high: NDArray[np.float64]


def explain(
    model: PackModel,
    rows: pa.Table | None = None,
    cutoff: datetime | None = None,
    *,
    future: pa.Table | None = None,
    horizon: int | None = None,
    series: Sequence[str] | None = None,
) -> pa.Table:
    """What the forecasts of `model.predict` with the same arguments are made of, a row for each step and driver.

    Columns: series_id, ds, step, kind, driver, value (see `Explanation`); the values of a step add up to its y_hat. A
    driver that adds nothing to any step of a series has no rows there, but the level is always there. Raises what
    `predict` raises.
    """
    return table(explanations(model, rows, cutoff, future=future, horizon=horizon, series=series))


def explanations(
    model: PackModel,
    rows: pa.Table | None = None,
    cutoff: datetime | None = None,
    *,
    future: pa.Table | None = None,
    horizon: int | None = None,
    series: Sequence[str] | None = None,
) -> list[Explanation]:
    """As `explain`, one for each series."""
    pack = model.computing()
    h = horizon or int(cast("int", model.index["horizon"]))
    found: list[Explanation] = []
    for name, end, x, fresh, _ in model.aligned(pack, rows, cutoff, future=future, horizon=h, series=series):
        try:
            found.append(explain_row(pack, pack.row[name], end, h, x, fresh))
        except ValueError as error:
            raise IntegrityError(f"{error}; train and promote it again") from error
    return found


def explain_row(
    pack: loader.Pack, i: int, end: int, h: int, x: NDArray[np.float64], fresh: object = None
) -> Explanation:
    """The explanation of row `i` of a loader's pack for the `h` steps after step number `end`; `x` and `fresh` as
    `Pack.aligned` makes them.
    """
    explainer = pack.explainer()
    values, point, _ = explainer.explain(i, h, x, fresh)
    frequency = str(pack.index["frequency"])
    kept = _kept(values)
    drivers = tuple(explainer.names[j] for j in kept)
    ds = loader.stamps(np.arange(end + 1, end + 1 + h), frequency)
    return Explanation(pack.index["series"][i], ds, drivers, values[:, kept], point, frequency)


def _kept(values: NDArray[np.float64]) -> list[int]:
    """The columns that are told: the level, and those that add something."""
    size = np.abs(values).max(0, initial=0.0)
    told = size > NOTHING * max(float(size.max(initial=0.0)), 1e-300)
    told[0] = True
    return np.flatnonzero(told).tolist()


def table(parts: Sequence[Explanation]) -> pa.Table:
    """Explanations as one table, see `explain`."""
    if not parts:
        return SCHEMA.empty_table()
    columns: list[pa.Array] = []
    h = [len(one.ds) for one in parts]
    n = [len(one.drivers) for one in parts]
    counts = [steps * drivers for steps, drivers in zip(h, n, strict=True)]
    names = np.repeat(np.array([one.series_id for one in parts], object), counts)
    kinds = [np.tile(np.array([kind for kind, _ in one.drivers], object), len(one.ds)) for one in parts]
    drivers = [np.tile(np.array([name for _, name in one.drivers], object), len(one.ds)) for one in parts]
    steps = [np.repeat(np.arange(1, s + 1, dtype=np.int32), d) for s, d in zip(h, n, strict=True)]
    ds = [np.repeat(one.ds.astype("datetime64[us]"), len(one.drivers)) for one in parts]
    values = [one.parts.ravel() for one in parts]
    for column, found in zip(SCHEMA, (names, ds, steps, kinds, drivers, values), strict=True):
        whole = found if isinstance(found, np.ndarray) else np.concatenate(found)
        columns.append(pa.array(whole, column.type))
    return pa.table(columns, schema=SCHEMA)


def compare_row(
    pack: loader.Pack,
    i: int,
    end: int,
    h: int,
    futures: tuple[NDArray[np.float64], NDArray[np.float64]],
    fresh: object = None,
) -> Difference:
    """What row `i` of a loader's pack changes from the first of two futures (covariate columns, as `Pack.aligned` makes
    them) to the second.

    The variance of the change is that of the candidates' changes by their weights, plus the square of what the standard
    deviation of the forecast changes: both futures share all other chance, so that it cancels.
    """
    explainer, a = pack.explainer(), pack.arrays
    (one, before, F), (two, after, G) = (explainer.explain(i, h, x, fresh) for x in futures)
    values, change = two - one, after - before
    spread = np.zeros(h)
    if len(F):
        weights = a["weights"][i].astype(float) * float(a["factor"][i])
        mean = weights @ (G - F) / max(float(weights.sum()), 1e-12)
        spread = np.sqrt(weights @ (G - F - mean) ** 2 * max(float(weights.sum()), 0.0))
    wider = np.abs(_deviation(a["spread"][i], after) - _deviation(a["spread"][i], before))
    deviation = np.sqrt(spread**2 + wider**2)
    quantiles = np.asarray(a["quantiles"][i], float).reshape(-1, 2)
    kept = _kept(values)
    return Difference(
        pack.index["series"][i],
        loader.stamps(np.arange(end + 1, end + 1 + h), str(pack.index["frequency"])),
        tuple(explainer.names[j] for j in kept if values[:, j].any()),
        values[:, [j for j in kept if values[:, j].any()]],
        change,
        tuple(pack.levels),
        change[:, None] - deviation[:, None] * np.abs(quantiles[:, 0]),
        change[:, None] + deviation[:, None] * np.abs(quantiles[:, 1]),
    )


def _deviation(spread: NDArray[np.float64], point: NDArray[np.float64]) -> NDArray[np.float64]:
    """The standard deviation of a forecast one step ahead, as the loader's `interval` has it."""
    size = np.maximum(np.abs(point), spread[1])
    return np.sqrt(spread[0] * (size + 0.05 * size * size))


# --- In words ---------------------------------------------------------------------------------------------------------
WORTH_TELLING = 0.02  # of the forecast: a smaller part is not a sentence
MOST_SENTENCES = 4


def explain_in_words(found: Explanation, language: str = "en") -> list[str]:
    """What a planner would say of a forecast: what it is, and the drivers that add or take most, at most MOST_SENTENCES
    sentences. Raises InputError for a language without templates.
    """
    words = phrases(language)
    size = float(np.abs(found.y_hat).mean()) if len(found.y_hat) else 0.0
    told = [(size, _of_level(words, found))]
    for j, (kind, driver) in enumerate(found.drivers):
        told += _of_driver(words, found, kind, driver, found.parts[:, j], max(size, 1e-9))
    head, *others = told
    others.sort(key=lambda one: -one[0])
    return [text for _, text in (head, *others[: MOST_SENTENCES - 1])]


def _of_level(words: Phrases, found: Explanation) -> str:
    level, recent = found.of("level").mean(), found.of("recent course").mean()
    values = {
        "forecast": words.number(found.y_hat.mean()),
        "each": words.unit(_unit(found)),
        "level": words.number(level),
    }
    if abs(recent) <= WORTH_TELLING * max(abs(level), 1e-9):
        return words.say("level", **values)
    return words.say("level_above" if recent > 0 else "level_below", recent=words.number(abs(recent)), **values)


SENTENCES = {  # kind of driver → its template where it adds, and where it takes
    "covariate": ("more", "less"),
    "holiday": ("more", "less"),
    "season": ("more", "less"),
    "forecaster": ("forecaster", "forecaster"),
    "closed": ("closed", "closed"),
    "bounds": ("cut_low", "cut_high"),
    "calibration": ("calibration_more", "calibration_less"),
}


def _of_driver(
    words: Phrases, found: Explanation, kind: str, driver: str, values: NDArray[np.float64], size: float
) -> list[tuple[float, str]]:
    """Sentences about a driver, each with how much it moves."""
    least = WORTH_TELLING * size
    if kind == "season" and driver == "day of week" and _unit(found) in ("D", "B"):
        return _of_weekdays(words, found, values, least)
    if kind in ("level", "recent"):
        return []
    up, down = np.flatnonzero(values > least), np.flatnonzero(values < -least)
    at = up if values[up].sum() >= -values[down].sum() else down  # what it does most, not the mean of both
    if not len(at):
        return []
    mean = float(values[at].mean())
    template = SENTENCES[kind][0 if mean > 0 else 1]
    text = words.say(
        template,
        driver=driver if kind == "forecaster" else words.driver(driver),
        when=_when(words, found, at),
        amount=words.number(abs(mean)),
        each=words.unit(_unit(found)),
    )
    return [(float(np.abs(values[at]).sum()), text)]


def _of_weekdays(
    words: Phrases, found: Explanation, values: NDArray[np.float64], least: float
) -> list[tuple[float, str]]:
    """The weekday that is furthest from the mean."""
    days = (found.ds.astype("datetime64[D]").astype(np.int64) + 3) % 7
    means = {day: float(values[days == day].mean()) for day in sorted(set(days.tolist()))}
    day = max(means, key=lambda day: abs(means[day]))
    rest = float((found.y_hat - values).mean())
    if abs(means[day]) < least or rest <= 0:
        return []
    share = 100.0 * means[day] / rest
    template = "weekday_above" if share > 0 else "weekday_below"
    text = words.say(template, weekday=words.weekdays[day], share=f"{abs(share):.0f}")
    return [(float(np.abs(values).sum()), text)]


def _unit(found: Explanation) -> str:
    unit = found.frequency.split("-", maxsplit=1)[0]
    return {"MS": "M", "ME": "M", "QS": "Q", "QE": "Q", "YS": "Y", "YE": "Y", "H": "h"}.get(unit, unit)


def _when(words: Phrases, found: Explanation, at: NDArray[np.int64]) -> str:
    """Where in the horizon steps are: from … to …, or on single days."""
    if len(at) == len(found.ds):
        return words.say("throughout")
    days: list[date] = found.ds.astype("datetime64[D]")[at].tolist()
    first, last = words.day(days[0]), words.day(days[-1])
    if days[0] == days[-1]:
        return words.say("on", day=first)
    if at[-1] - at[0] + 1 == len(at):
        return words.say("from_to", first=first, last=last)
    if len(at) <= 3:
        named = dict.fromkeys(words.day(day) for day in days[:-1] if day != days[-1])
        return words.say("on_days", days=", ".join(named), last=last)
    return words.say("scattered", n=str(len(at)), all=str(len(found.ds)), first=first, last=last)
