"""Rows as a panel: dense (series × time) arrays with codes, calendar, covariates, and what fixes their scale."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from functools import lru_cache
from typing import TYPE_CHECKING

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from many_models.errors import InputError
from many_models.forecasting.censoring import CENSORED
from many_models.forecasting.pack import mm_pack_v1 as pack
from many_models.forecasting.spec import rhythm

if TYPE_CHECKING:
    from collections.abc import Collection, Sequence
    from datetime import datetime

    from numpy.typing import NDArray

    from many_models.forecasting.spec import Spec

Term = tuple[int, int, int, float]
STATES = ("missing", "observed", "closed", "stock_out")
LEVELS_PER_COVARIATE = 6
HOLIDAY_YEARS = (1985, 2045)
ANYWHERE = {
    "12-24": "Christmas Eve",
    "12-25": "Christmas Day",
    "12-26": "26 December",
    "12-31": "New Year's Eve",
    "01-01": "New Year's Day",
}
MOST_HOLIDAYS = 24  # by name
FIRST_YEAR = 365  # periods after the first sale that say how often a series sells
USUAL_OVER = 56  # newest periods that say what a number usually is
IMPLAUSIBLE = 9.2  # minus the log of a chance of 1e-4


@lru_cache(maxsize=32)
def holidays_of(
    country: str, own: tuple[tuple[str, str], ...] = ()
) -> tuple[NDArray[np.int64], NDArray[np.int64], int]:
    """Holidays as days since 1970 (sorted), their slot, and the number of slots: `own` (ISO date, name) come first.

    Days that nearly every shop keeps (25 December, 1 January and their eves) are there without a country. Raises
    SettingsError for a country that the package `holidays` does not know.
    """
    days, slots, names = _holidays(country, own)
    return days, slots, len(names)


@lru_cache(maxsize=32)
def _holidays(
    country: str, own: tuple[tuple[str, str], ...]
) -> tuple[NDArray[np.int64], NDArray[np.int64], tuple[str, ...]]:
    """As `holidays_of`, with the name of each slot."""
    days: dict[int, str] = {}
    first, last = HOLIDAY_YEARS
    if country:
        days = _national(country)
    for year in range(first, last):
        for month_day in ANYWHERE:
            days.setdefault(int(np.datetime64(f"{year}-{month_day}").astype(np.int64)), month_day)
    days |= {int(np.datetime64(day).astype(np.int64)): name for day, name in own}
    mine, words = {name for _, name in own}, list(days.values())
    names = sorted(set(words), key=lambda name: (name not in mine, -words.count(name), name))[:MOST_HOLIDAYS]
    slot = {name: i for i, name in enumerate(names)}
    kept = sorted(day for day, name in days.items() if name in slot)
    called = tuple(ANYWHERE.get(name, name) for name in names)
    return np.array(kept, np.int64), np.array([slot[days[day]] for day in kept], np.int64), called


def _national(country: str) -> dict[int, str]:
    import holidays

    from many_models.errors import SettingsError

    try:
        found = holidays.country_holidays(country, years=range(*HOLIDAY_YEARS))
    except (NotImplementedError, KeyError) as error:
        raise SettingsError(f"country {country!r} has no holiday calendar: use an ISO code such as DE or US") from error
    return {int(np.datetime64(day).astype(np.int64)): name.split(" (")[0].split("; ")[0] for day, name in found.items()}


@dataclass(frozen=True)
class Layout:
    """The shape that all models of a spec share: everything a pack needs besides its series' own numbers."""

    frequency: str
    season: int
    horizon: int
    known: tuple[str, ...]
    levels_of: tuple[int, ...]  # per known covariate: 0 numeric, else number of one-hot columns
    country: str
    own_holidays: tuple[tuple[str, str], ...] = ()
    terms: tuple[Term, ...] = ()  # columns made of the encoded ones, see `mm_pack_v1.derived`
    exposure: str = ""

    @property
    def holidays(self) -> tuple[NDArray[np.int64], NDArray[np.int64], int]:
        """Days, their slots and the number of slots, see `holidays_of`."""
        return holidays_of(self.country, self.own_holidays)

    @property
    def holiday_names(self) -> tuple[str, ...]:
        """The name of each holiday slot."""
        return _holidays(self.country, self.own_holidays)[2][: self.slots]

    @property
    def encoded(self) -> int:
        """Columns that known covariates become."""
        return sum(n or 1 for n in self.levels_of)

    @property
    def columns(self) -> int:
        """Covariate columns of the linear models: the encoded ones, terms, then the shape that series share."""
        return self.encoded + len(self.terms) + 1

    @property
    def exposed(self) -> int | None:
        """The encoded column of the exposure, None without one."""
        if not self.exposure:
            return None
        return sum(n or 1 for n in self.levels_of[: self.known.index(self.exposure)])

    def places(self, names: Sequence[str]) -> list[int]:
        """The encoded columns of these known covariates."""
        starts = np.cumsum([0, *(n or 1 for n in self.levels_of)]).tolist()
        return [
            place
            for name, start, end in zip(self.known, starts, starts[1:], strict=False)
            if name in names
            for place in range(start, end)
        ]

    def reduced(self, dropped: Collection[str], terms: Sequence[Term]) -> Layout:
        """This layout without the known covariates `dropped`, with `terms` of columns as they are numbered here."""
        kept = [(name, levels) for name, levels in zip(self.known, self.levels_of, strict=True) if name not in dropped]
        place = {old: new for new, old in enumerate(self.places([name for name, _ in kept]))}
        moved = tuple((kind, place[a], place[b] if kind == pack.PRODUCT else b, knot) for kind, a, b, knot in terms)
        return replace(self, known=tuple(name for name, _ in kept), levels_of=tuple(n for _, n in kept), terms=moved)

    @property
    def slots(self) -> int:
        """Holiday slots."""
        return 0 if rhythm(self.frequency).unit in ("M", "Q", "Y") else self.holidays[2]

    def calendar(self, ds: NDArray[np.datetime64]) -> tuple[NDArray[np.float32], NDArray[np.int64], NDArray[np.int64]]:
        """Calendar features, holiday slots and phases of stamps."""
        days, slots, _ = self.holidays
        return pack.calendar(ds, self.frequency, self.season, days, slots, self.slots)

    def shape_features(self, ds: NDArray[np.datetime64]) -> NDArray[np.float64]:
        """Calendar features of a shape that series share."""
        days, slots, _ = self.holidays
        return pack.shape_features(ds, self.frequency, self.season, days, slots, self.slots)

    def conf(self) -> NDArray[np.float64]:
        """The numbers the loops need; places are named in mm_pack_v1."""
        beat = rhythm(self.frequency)
        m = self.season
        seasons = 8 if m <= 24 and beat.unit in ("h", "D") else (3 if m <= 12 else 2)
        seasons = 4 if beat.unit == "h" and m == 168 else seasons
        half, reference = {"D": (3, 28), "W": (1, 4)}.get(beat.unit, (0, 3 if beat.unit != "h" else 24))
        year = 168 if beat.unit == "h" else beat.year
        odds, size = {"h": (0.005, 0.02), "D": (0.02, 0.05), "W": (0.05, 0.1)}.get(beat.unit, (0.1, 0.1))
        alphas = {"h": (0.01, 0.05, 0.15), "D": (0.03, 0.1, 0.25), "W": (0.06, 0.2, 0.45)}.get(
            beat.unit, (0.08, 0.2, 0.45)
        )
        gain = 0.06 if m <= 31 else 0.25
        tail = max(year + 2 * half + reference + 2, 2 * seasons * m, 2 * beat.window)
        nc = self.calendar(np.array(["2020-01-01"], "datetime64[us]"))[0].shape[1]
        return np.array(
            [
                *beat.taus,
                *alphas,
                gain,
                odds,
                size,
                half,
                reference,
                self.horizon,
                m,
                year,
                beat.window,
                seasons,
                nc,
                self.columns,
                self.slots,
                tail,
            ],
            np.float64,
        )


@dataclass
class Panel:
    """Dense histories: `y` (series × time), `code` (int8), `x` (series × time + future × columns; the
    last column is the shared shape, 0 until it is known).

    `number` is the step number of the first column; `first` the place of each series' first observation; `sold`
    (like `y`) the sale where stock cut it short, and `y` is the demand behind it, which teaches and is not scored; NaN
    elsewhere.
    """

    series: list[str]
    number: int
    y: NDArray[np.float64]
    code: NDArray[np.int8]
    x: NDArray[np.float64]
    first: NDArray[np.int64]
    ds: NDArray[np.datetime64]
    encoding: Encoding
    sold: NDArray[np.float64]

    @property
    def periods(self) -> int:
        """Columns of the past."""
        return self.y.shape[1]

    def take(self, rows: Sequence[int]) -> Panel:
        """The panel of the series at `rows` alone."""
        at = np.asarray(rows, np.int64)
        coding = self.encoding
        names = [self.series[i] for i in at]
        slots = [{name: levels[name] for name in names if name in levels} for levels in coding.slots]
        part = Encoding(coding.center[at], coding.scale[at], coding.log[at], coding.binary[at], slots)
        return Panel(
            names, self.number, self.y[at], self.code[at], self.x[at], self.first[at], self.ds, part, self.sold[at]
        )


@dataclass
class Encoding:
    """How each series' covariates become columns: centre, scale, log per numeric column; slots of levels."""

    center: NDArray[np.float64]
    scale: NDArray[np.float64]
    log: NDArray[np.bool_]
    binary: NDArray[np.int64]
    slots: list[dict[str, dict[str, int]]] = field(default_factory=list)


def layout_of(spec: Spec, rows: pa.Table) -> Layout:
    """The layout of models of `spec` over `rows`. Raises InputError for a missing column."""
    need = ["series_id", "ds", "y", *spec.known, *spec.attributes]
    if absent := [name for name in need if name not in rows.column_names]:
        raise InputError(f"rows lack {', '.join(absent)}; they have {', '.join(rows.column_names)}")
    kinds = tuple(0 if is_number(rows.schema.field(name).type) else LEVELS_PER_COVARIATE for name in spec.known)
    season = spec.steps_per_season
    if spec.exposure and kinds[spec.known.index(spec.exposure)]:
        raise InputError(
            f"the exposure {spec.exposure} has type {rows.schema.field(spec.exposure).type}, needed a number"
        )
    return Layout(
        spec.frequency, season, spec.horizon, spec.known, kinds, spec.country, spec.holidays, exposure=spec.exposure
    )


def is_number(kind: pa.DataType) -> bool:
    """Whether a column of this type is numeric; flags are."""
    return (
        pa.types.is_integer(kind)
        or pa.types.is_floating(kind)
        or pa.types.is_boolean(kind)
        or pa.types.is_decimal(kind)
    )


def stamps_us(column: pa.ChunkedArray) -> NDArray[np.datetime64]:
    """A timestamp column as datetime64[us]."""
    return np.asarray(column.cast(pa.timestamp("us")).to_numpy(), "datetime64[us]")


def build(
    rows: pa.Table,
    layout: Layout,
    cutoff: datetime,
    learned_until: int | None = None,
    ahead: int = 0,
    *,
    from_first_sale: bool = False,
) -> Panel:
    """The panel of `rows` up to `cutoff`; covariates reach `ahead` periods further where rows have them.

    Scales of covariates are learned from periods up to step number `learned_until` (default: the cutoff), or from
    all periods there are for a series that begins later. With `from_first_sale` zeros before a series' opening are
    missing, see `not_yet_open`.
    """
    told = [name for name in ("state", "sold") if name in rows.column_names]
    rows = rows.select(["series_id", "ds", "y", *told, *layout.known])
    encoded = rows["series_id"].combine_chunks().dictionary_encode()
    if isinstance(encoded, pa.ChunkedArray):
        encoded = encoded.combine_chunks()
    names = encoded.dictionary.to_pylist()
    order = np.argsort(np.array(names, object)) if names else np.zeros(0, int)
    rank = np.empty(len(names), np.int64)
    rank[order] = np.arange(len(names))
    sid = rank[np.asarray(encoded.indices)] if names else np.zeros(0, np.int64)
    number = pack.step_number(stamps_us(rows["ds"]), layout.frequency)
    end = int(pack.step_number(np.array([cutoff], "datetime64[us]"), layout.frequency)[0])
    y = np.asarray(rows["y"].cast(pa.float64()).to_numpy(), np.float64)
    past = number <= end
    t0 = int(number[past].min()) if past.any() else end
    n, periods = len(names), end - t0 + 1
    Y = np.full((n, periods), np.nan)
    Y[sid[past], number[past] - t0] = y[past]
    code = np.where(np.isfinite(Y), pack.OBSERVED, pack.MISSING).astype(np.int8)
    sold = np.full((n, periods), np.nan)
    if told == ["state", "sold"]:
        cut = pc.if_else(pc.equal(rows["state"], CENSORED), rows["sold"], pa.scalar(None, pa.float64()))
        sold[sid[past], number[past] - t0] = np.asarray(cut.to_numpy(), np.float64)[past]
    if "state" in rows.column_names:
        states = pc.index_in(rows["state"], pa.array(STATES)).fill_null(1).to_numpy().astype(np.int8)
        state = np.zeros((n, periods), np.int8)
        state[sid[past], number[past] - t0] = states[past]
        code = np.where(code == pack.OBSERVED, np.maximum(state, 1), pack.MISSING).astype(np.int8)
    seen = np.isfinite(Y)
    closed = not_yet_open(Y, code) if from_first_sale else np.zeros(Y.shape, np.bool_)
    seen &= ~closed
    code[closed] = pack.MISSING
    first = np.where(seen.any(1), seen.argmax(1), periods - 1).astype(np.int64)
    learned = min((end if learned_until is None else learned_until) - t0, periods - 1)
    x, encoding = _covariates(
        rows, layout, sid, number - t0, n, periods + ahead, first, max(learned, 0), [names[i] for i in order]
    )
    ds = pack.stamps(np.arange(t0, end + 1 + ahead), layout.frequency)
    if layout.terms:
        x[:, :, layout.encoded : -1] = pack.derived(x[:, :, : layout.encoded], layout.terms, ds)
    Y = np.nan_to_num(Y)
    if layout.exposed is not None:
        Y, code = pack.per_exposure(Y, code, np.maximum(x[:, :periods, layout.exposed], 0.0))
        seen = code != pack.MISSING
        first = np.where(seen.any(1), seen.argmax(1), periods - 1).astype(np.int64)
    return Panel([names[i] for i in order], t0, Y, code, x, first, ds, encoding, sold)


def not_yet_open(Y: NDArray[np.float64], code: NDArray[np.int8]) -> NDArray[np.bool_]:
    """Zeros (series × time) before the first sale that do not mean zero demand: the table was filled from before.

    A series that sells as often as this one does after its first sale would have such a run with a chance below 1e-4.
    A series that sells seldom keeps its zeros, and one that never sold keeps all of them.
    """
    result = np.zeros(Y.shape, np.bool_)
    seen = code == pack.OBSERVED
    sold = seen & (Y != 0)
    for i in np.flatnonzero(sold.any(1)):
        start = int(sold[i].argmax())
        before = int(seen[i, :start].sum())
        if not before:
            continue
        after = seen[i, start + 1 :]
        share = float(sold[i, start + 1 :][after][:FIRST_YEAR].mean()) if after.any() else 0.0
        if -before * np.log(1.0 - share + 1e-3) > IMPLAUSIBLE:
            result[i, :start] = code[i, :start] != pack.MISSING
    return result


def _covariates(  # noqa: PLR0913, PLR0917
    rows: pa.Table,
    layout: Layout,
    sid: NDArray[np.int64],
    at: NDArray[np.int64],
    n: int,
    periods: int,
    first: NDArray[np.int64],
    learned: int,
    names: list[str],
) -> tuple[NDArray[np.float64], Encoding]:
    k = layout.columns
    x = np.zeros((n, periods, k))
    coding = Encoding(np.zeros((n, k)), np.ones((n, k)), np.zeros((n, k), bool), np.zeros((n, k), np.int64))
    inside = (at >= 0) & (at < periods)
    column = 0
    for name, levels in zip(layout.known, layout.levels_of, strict=True):
        if levels == 0:
            values = np.asarray(rows[name].cast(pa.float64()).to_numpy(zero_copy_only=False), np.float64)
            block = np.full((n, periods), np.nan)
            block[sid[inside], at[inside]] = values[inside]
            if name == layout.exposure:
                _encode_exposure(block, first, learned, coding, column)
            else:
                _encode_numeric(block, first, learned, coding, column)
            x[:, :, column] = apply_numeric(block, coding, column)
            coding.slots.append({})
            column += 1
        else:
            slots = _encode_levels(rows[name], sid, at, inside, x, column, levels, learned, names)
            coding.slots.append(slots)
            coding.binary[:, column : column + levels] = 1
            column += levels
    return x, coding


def _encode_numeric(
    block: NDArray[np.float64], first: NDArray[np.int64], learned: int, coding: Encoding, j: int
) -> None:
    """Centre, scale and log of one numeric covariate per series, from the periods up to `learned`."""
    for i in range(len(block)):
        v = block[i, : max(learned, first[i]) + 1]
        v = v[np.isfinite(v)]
        if not len(v):
            v = block[i][np.isfinite(block[i])][:1]
        if not len(v) or np.isin(v, (0.0, 1.0)).all():
            coding.binary[i, j] = 1
        elif (v > 0).all():
            coding.log[i, j] = True
            coding.center[i, j] = np.log(v).mean()
        else:
            spread = v.std()
            coding.center[i, j], coding.scale[i, j] = (
                v.mean(),
                spread if spread > 1e-9 * abs(v).max() else max(abs(v).max(), 1.0),
            )


def _encode_exposure(
    block: NDArray[np.float64], first: NDArray[np.int64], learned: int, coding: Encoding, j: int
) -> None:
    """Encode the exposure per series as a share of its mean where there is any, from the periods up to `learned`."""
    for i in range(len(block)):
        v = block[i, : max(learned, first[i]) + 1]
        v = v[np.isfinite(v) & (v > 0)]
        coding.scale[i, j] = v.mean() if len(v) else 1.0


def apply_numeric(block: NDArray[np.float64], coding: Encoding, j: int) -> NDArray[np.float64]:
    """A numeric covariate (series × periods) on its encoded scale, holes filled with the value before them."""
    with np.errstate(divide="ignore", invalid="ignore"):
        v = np.where(coding.log[:, j, None], np.log(np.maximum(block, 1e-9)), block)
    v = (v - coding.center[:, j, None]) / coding.scale[:, j, None]
    v = np.where(np.isfinite(block), np.clip(v, -20, 20), np.nan)
    place = np.where(np.isfinite(v), np.arange(v.shape[1]), -1)
    np.maximum.accumulate(place, axis=1, out=place)
    filled = np.take_along_axis(v, np.maximum(place, 0), 1)
    return np.where(place >= 0, filled, 0.0)


def _encode_levels(  # noqa: PLR0913, PLR0917
    column: pa.ChunkedArray,
    sid: NDArray[np.int64],
    at: NDArray[np.int64],
    inside: NDArray[np.bool_],
    x: NDArray[np.float64],
    start: int,
    levels: int,
    learned: int,
    names: list[str],
) -> dict[str, dict[str, int]]:
    """One-hot columns of each series' most frequent levels; returns level → slot per series."""
    encoded = column.cast(pa.string()).combine_chunks().dictionary_encode()
    if isinstance(encoded, pa.ChunkedArray):
        encoded = encoded.combine_chunks()
    words = encoded.dictionary.to_pylist()
    code = encoded.indices.fill_null(-1).to_numpy(zero_copy_only=False).astype(np.int64)
    used = inside & (code >= 0) & (at <= learned)
    counts = np.zeros((len(names), max(len(words), 1)), np.int64)
    np.add.at(counts, (sid[used], code[used]), 1)
    by_word = np.argsort(np.array(words, object)) if words else np.zeros(1, np.int64)
    result: dict[str, dict[str, int]] = {}
    slot_of = np.full(counts.shape, -1, np.int64)
    for i, name in enumerate(names):
        ranked = sorted((w for w in by_word if counts[i, w] > 0), key=lambda w: -counts[i, w])[:levels]
        result[name] = {words[w]: s for s, w in enumerate(ranked)}
        slot_of[i, ranked] = np.arange(len(ranked))
    use = inside & (code >= 0)
    slot = np.where(use, slot_of[sid, np.maximum(code, 0)], -1)
    hit = slot >= 0
    x[sid[hit], at[hit], start + slot[hit]] = 1.0
    return result


def usual_columns(panel: Panel, layout: Layout) -> NDArray[np.float64]:
    """What is usual in each series' covariate columns, (series, columns): a flag as it mostly was, of a text's levels
    the most frequent one or none, of a number the median of the newest USUAL_OVER periods.
    """
    result = np.zeros((len(panel.series), layout.encoded))
    for i, first in enumerate(np.minimum(panel.first, panel.periods - 1)):
        past, j = panel.x[i, first : panel.periods], 0
        for levels in layout.levels_of:
            columns = slice(j, j + max(levels, 1))
            if levels:
                counts = past[:, columns].sum(0)
                if counts.max() > len(past) - counts.sum():
                    result[i, j + int(counts.argmax())] = 1.0
            elif j == layout.exposed:
                shown = past[-USUAL_OVER:, j]
                result[i, j] = float(np.median(shown[shown > 0])) if (shown > 0).any() else 1.0
            elif panel.encoding.binary[i, j]:
                result[i, j] = float(past[:, j].mean() > 0.5)
            else:
                result[i, j] = float(np.median(past[-USUAL_OVER:, j]))
            j = columns.stop
    return result
