"""What the text in a column means: numbers, times, flags, and how they are written."""

from __future__ import annotations

import re
from dataclasses import dataclass, replace
from datetime import date
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from numpy.typing import NDArray

Kind = Literal["time", "number", "flag", "text", "empty"]

_PLAIN = r"[+-]?(\d+\.?\d*|\.\d+)([eE][+-]?\d+)?"
_NUMBER_STYLES = {
    "plain": rf"^{_PLAIN}$",
    "thousands": rf"^({_PLAIN}|[+-]?\d{{1,3}}(,\d{{3}})+(\.\d+)?)$",
    "comma": r"^[+-]?(\d{1,3}(\.\d{3})+|\d+)(,\d+)?$",
}
_LOOSE = "loose "  # before a style: money, units, signs behind the number and spaces between its digits are taken away
_POINTED = {"plain": r"^[+-]?[1-9]\d{0,2}(\.\d{3})+$", "comma": r"^[+-]?[1-9]\d{0,2}(,\d{3})+$"}
_FRACTION = {"plain": r"\.", "comma": ","}
_SPACES = str.maketrans(dict.fromkeys("\u00a0\u202f\u2009\u2007", " ") | {"\u2212": "-", "\u2019": "'"})
_MONEY = re.compile(
    r"[$€£¥₹₽₺₩฿₫₴]|\b(usd|eur|gbp|chf|jpy|cny|inr|cad|aud|nzd|sek|nok|dkk|pln|czk|huf|brl|mxn|zar|kr|zł|kč|rs|fr)\b\.?",
    re.IGNORECASE,
)
_UNIT = re.compile(r"(?<=[\d.,])(\s*)([a-zµ²³°%]{1,8})\.?$", re.IGNORECASE)
_UNITS = frozenset(
    "pc pcs piece pieces st stk stck stück ea each unit units box boxes pack packs kg g mg t lb lbs oz l ml cl hl gal "
    "kwh mwh wh gj bbl % m² m³ pallet pallets case cases bottle bottles".split()
)
_MULTIPLES = frozenset("k m mio mrd mn bn tsd e".split())  # 3k is not 3
_FLAGS = {
    **dict.fromkeys(("true", "t", "yes", "y", "ja", "j", "oui", "si", "wahr"), 1.0),
    **dict.fromkeys(("false", "f", "no", "n", "nein", "non", "falsch"), 0.0),
}
_DATES = (
    *("%Y/%m/%d", "%Y.%m.%d", "%d.%m.%Y", "%d.%m.%y", "%m/%d/%Y", "%d/%m/%Y", "%m/%d/%y", "%d/%m/%y"),
    *("%m-%d-%Y", "%d-%m-%Y", "%d-%b-%Y", "%d-%b-%y", "%d %b %Y", "%b %d, %Y", "%d %B %Y", "%B %d, %Y"),
    *("%b-%y", "%b %Y", "%B %Y", "%b-%Y", "%B-%Y", "%m/%Y", "%Y/%m", "%m.%Y"),
)
_MONTHS = {  # names in German, French, Spanish, Italian, Dutch and English → the month
    name: month
    for month, names in enumerate((
        "jan januar jänner janv janvier ene enero gen gennaio januari january",
        "feb februar febr févr fév février febrero febbraio februari february",
        "mar märz mär mrz mars marzo mrt maart march", "apr april avr avril abr abril aprile",
        "may mai mayo mag maggio mei", "jun juni juin junio giu giugno june",
        "jul juli juil juillet julio lug luglio july", "aug august août aout ago agosto augustus",
        "sep sept september septembre septiembre set settembre", "oct okt oktober octobre octubre ott ottobre october",
        "nov november novembre noviembre", "dec dez dezember déc décembre dic diciembre dicembre december",
    ), 1)
    for name in names.split()
}  # fmt: skip
_ENGLISH = "Jan Feb Mar Apr May Jun Jul Aug Sep Oct Nov Dec".split()
_QUARTER = re.compile(r"(\d{4})[-/ ]?q([1-4])|q([1-4])[-/ ]?(\d{4})", re.IGNORECASE)
_CLOCKS = ("", " %H:%M", " %H:%M:%S", " %I:%M %p", " %I:%M:%S %p")
_MOSTLY = 0.9  # of a column's values must fit, for it to be numbers or times with a few bad ones
_TRIED = 300


@dataclass(frozen=True, slots=True)
class ColumnType:
    """How a column's values are to be read.

    `style` of a number: `plain`, `thousands` (1,234.5) or `comma` (1.234,5), after `loose ` where money, units or
    signs around it are taken away; of a time: `native`, `local` (the clock time of its zone), `iso`, `isoweek`,
    `quarter`, `epoch_s`, `epoch_ms`, `excel` (days since 1899-12-30) or a strptime format. `or_else` is a second style
    that fits as well. `whole`: no fractions.
    """

    kind: Kind
    style: str = ""
    or_else: str = ""
    whole: bool = False


@dataclass(frozen=True)
class Column:
    """A column by its distinct values: row i holds `levels[codes[i]]`.

    `levels` is float64 (number, flag), datetime64[us] (time) or object (text); NaN, NaT or None where the value is
    missing or cannot be read. `unread` and `missing` count rows.
    """

    name: str
    type: ColumnType
    codes: NDArray[np.int64]
    levels: NDArray[Any]
    unread: int
    missing: int
    raw: str = ""  # the Arrow type that the file has it in

    @property
    def kind(self) -> Kind:
        """What its values are."""
        return self.type.kind

    @property
    def values(self) -> NDArray[Any]:
        """One value a row."""
        return self.levels[self.codes]


def infer_column(
    name: str, column: pa.ChunkedArray, *, comma_first: bool = False, time_like: bool = False, style: str = ""
) -> Column:
    """What a column means, from all its values; `comma_first` where 1,5 is more likely one and a half.

    `time_like` says that its name speaks of time, so that 202401 or 1700000000 may be one. `style` is how it
    is written, where that is known.
    """
    whole = column.combine_chunks() if column.num_chunks else pa.array([], column.type)
    encoded = whole.dictionary_encode("encode")
    codes, levels = encoded.indices.to_numpy(zero_copy_only=False).astype(np.int64), encoded.dictionary
    counts = np.bincount(codes, minlength=len(levels))
    column_type = infer_type(levels, counts, comma_first=comma_first, time_like=time_like)
    if style and style != column_type.style:
        column_type = replace(column_type, style=style, or_else="")
    parsed = parse(levels, column_type)
    empty = is_empty(levels)
    readable = (
        ~np.isnan(parsed)
        if column_type.kind in {"number", "flag"}
        else ~np.isnat(parsed)
        if column_type.kind == "time"
        else ~empty
    )
    return Column(
        name,
        column_type,
        codes,
        parsed,
        int(counts[~readable & ~empty].sum()),
        int(counts[empty].sum()),
        str(whole.type),
    )


def is_empty(levels: pa.Array) -> NDArray[np.bool_]:
    """Where a value is null, NaN or text of nothing but blanks."""
    null = pc.is_null(levels, nan_is_null=True).to_numpy(zero_copy_only=False)
    if pa.types.is_string(levels.type) or pa.types.is_large_string(levels.type):
        blank = pc.equal(pc.utf8_trim_whitespace(levels), "")
        null = null | pc.fill_null(blank, fill_value=True).to_numpy(zero_copy_only=False)
    return null


def infer_type(levels: pa.Array, counts: NDArray[np.int64], *, comma_first: bool, time_like: bool) -> ColumnType:
    """The type that fits at least nine tenths of the rows that are not empty; `counts` are rows per level."""
    there = ~is_empty(levels)
    if not there.any() or pa.types.is_null(levels.type):
        return ColumnType("empty")
    if pa.types.is_temporal(levels.type):
        if pa.types.is_time(levels.type) or pa.types.is_duration(levels.type):
            return ColumnType("text")
        return ColumnType("time", "local" if _at_local_midnight(levels) else "native")
    if pa.types.is_boolean(levels.type):
        return ColumnType("flag", "native")
    if _is_number(levels.type):
        return _type_of_numbers(parse(levels, ColumnType("number", "native")), counts, "native", time_like=time_like)
    if not (pa.types.is_string(levels.type) or pa.types.is_large_string(levels.type)):
        return ColumnType("text")
    weights = counts[there]
    return _type_of_texts(
        pc.utf8_trim_whitespace(levels.filter(pa.array(there)).cast(pa.string())),
        weights,
        comma_first=comma_first,
        time_like=time_like,
    )


def _type_of_texts(texts: pa.Array, weights: NDArray[np.int64], *, comma_first: bool, time_like: bool) -> ColumnType:
    total = weights.sum()
    if len(texts) <= 4 and set(pc.utf8_lower(texts).to_pylist()) <= set(_FLAGS):
        return ColumnType("flag", "words")
    styles = ("comma", "plain", "thousands") if comma_first else ("plain", "thousands", "comma")
    for style in styles:
        fits = _matches(texts, _NUMBER_STYLES[style])
        if weights[fits].sum() >= _MOSTLY * total:
            chosen, or_else = _pointed(texts, style)
            values = parse(texts, ColumnType("number", chosen))
            if not fits.all() and (loose := _loose_type(texts, weights, styles)):
                read = np.isfinite(parse(texts, loose))  # a few as (5) or 1 234 among plain ones
                if weights[read].sum() > weights[np.isfinite(values)].sum():
                    return loose
            found = _type_of_numbers(values, weights, chosen, time_like=time_like)
            return replace(found, or_else=or_else) if found.kind == "number" else found
    if found := _loose_type(texts, weights, styles):
        return found
    return _type_of_times(texts, weights) or ColumnType("text")


def mixed_decimals(columns: Iterable[Column]) -> str:
    """What is wrong with columns that have numbers with a comma before their decimals beside ones with a point, with an
    example of both and what to do; nothing where none of `columns` has.
    """
    return "; ".join(
        f"the numbers of {column.name} have two decimal signs, as in {both[0]} and {both[1]}: write all of them with a "
        f"point, then give --target {column.name} if it is the one to forecast"
        for column in columns
        if (both := _with_both_signs(column))
    )


def _with_both_signs(column: Column) -> tuple[str, str] | None:
    if column.kind != "text":
        return None
    texts = pc.utf8_trim_whitespace(pa.array([text for text in column.levels.tolist() if text], pa.string()))
    comma, point = (_matches(texts, _NUMBER_STYLES[style]) for style in ("comma", "thousands"))
    first, second = np.flatnonzero(comma & ~point), np.flatnonzero(point & ~comma)
    if not len(first) or not len(second) or (comma | point).mean() < _MOSTLY:
        return None
    return str(texts[int(first[0])]), str(texts[int(second[0])])


def _matches(texts: pa.Array, pattern: str) -> NDArray[np.bool_]:
    return pc.fill_null(pc.match_substring_regex(texts, pattern), fill_value=False).to_numpy(zero_copy_only=False)


def _at_local_midnight(levels: pa.Array) -> bool:
    """Whether moments with a zone are all the first of a local day: then the day is meant, and not the moment."""
    if not pa.types.is_timestamp(levels.type) or levels.type.tz in {None, "UTC", "+00:00"}:
        return False
    clock = pc.local_timestamp(levels.drop_null())
    return bool(pc.all(pc.equal(clock, pc.floor_temporal(clock, unit="day"))).as_py())


def _pointed(texts: pa.Array, style: str) -> tuple[str, str]:
    """The style of numbers that fit `style`, and a second one: 1.234 beside 987 is one thousand and more.

    Every value with a point has groups of three digits behind it. Values above a thousand without a point, or a zero
    before it, or groups of another length, say that it is a decimal point.
    """
    if style not in _POINTED:
        return style, ""
    with_point = _matches(texts, _FRACTION[style])
    groups = _matches(texts, _POINTED[style])
    if with_point.sum() < 3 or (with_point & ~groups).any():
        return style, ""
    other = {"plain": "comma", "comma": "thousands"}[style]
    repeated = _matches(texts, r"[.,]\d{3}[.,]")
    small = _matches(texts, r"^[+-]?\d{1,3}$")
    if repeated.any() or (small.any() and (small | with_point).all()):
        return other, "" if repeated.any() else style
    return style, other if (with_point | small).all() else ""


def _loose_type(texts: pa.Array, weights: NDArray[np.int64], styles: Sequence[str]) -> ColumnType | None:
    """Numbers with money, one unit, a sign behind them or spaces between their digits; None where they are none."""
    tried = np.unique(np.linspace(0, len(texts) - 1, min(len(texts), _TRIED)).astype(int))
    sample = texts.take(pa.array(tried)).to_pylist()
    if sum(any(sign.isdigit() for sign in text) for text in sample) < _MOSTLY * len(sample):
        return None
    units = {unit.casefold().rstrip("s") for text in sample if (unit := _unit_of(text))}
    if len(units) > 1:
        return None  # kilograms and pieces in one column are not one number
    bare = undecorated(texts)
    for style in styles:
        if weights[_matches(bare, _NUMBER_STYLES[style])].sum() >= _MOSTLY * weights.sum():
            chosen, _ = _pointed(bare, style)
            values = parse(bare, ColumnType("number", chosen))
            finite = values[np.isfinite(values)]
            return ColumnType("number", _LOOSE + chosen, whole=bool((finite == np.floor(finite)).all()))
    return None


def _unit_of(text: str) -> str:
    bare = _MONEY.sub("", text.translate(_SPACES)).strip().rstrip(")-")
    found = _UNIT.search(bare)
    return found[2] if found else ""


def undecorated(texts: pa.Array) -> pa.Array:
    """Numbers without money, units and spaces, with their sign before them: `(1 234,50 €)` becomes `-1234,50`."""
    return pa.array([None if text is None else _undecorated(text) for text in texts.to_pylist()], pa.string())


def _undecorated(text: str) -> str:
    bare = _MONEY.sub("", text.translate(_SPACES)).strip()
    if bare.startswith("(") and bare.endswith(")"):
        bare = "-" + bare[1:-1].strip()
    if bare.endswith("-"):
        bare = "-" + bare[:-1].strip()
    if found := _UNIT.search(bare):
        unit = found[2].casefold()
        if unit in _MULTIPLES or not (found[1] or unit in _UNITS):
            return text  # 12A is a name, and 3k is not 3
        bare = bare[: found.start()].strip()
    bare = re.sub(r"^([+-])\s+", r"\1", bare)
    return re.sub(r"(?<=\d)[ '](?=\d{3}(\D|$))", "", bare)


def _is_number(kind: pa.DataType) -> bool:
    return pa.types.is_integer(kind) or pa.types.is_floating(kind) or pa.types.is_decimal(kind)


def _type_of_numbers(
    values: NDArray[np.float64], weights: NDArray[np.int64], style: str, *, time_like: bool
) -> ColumnType:
    finite = np.isfinite(values)
    numbers, counts = values[finite], weights[finite]
    whole = bool(len(numbers)) and bool((numbers == np.floor(numbers)).all())
    if not whole:
        return ColumnType("number", style)

    def mostly(fits: NDArray[np.bool_]) -> bool:
        return len(numbers) > 2 and counts[fits].sum() >= 0.99 * counts.sum()

    if mostly((numbers > 19000101) & (numbers < 22001231)):
        days = parse_times(_as_text(numbers), "%Y%m%d")
        if mostly(~np.isnat(days)):
            return ColumnType("time", "%Y%m%d")
    if time_like and mostly((numbers >= 190001) & (numbers <= 220012) & (numbers % 100 >= 1) & (numbers % 100 <= 12)):
        return ColumnType("time", "%Y%m")
    if time_like and mostly((numbers > 25569) & (numbers < 73050)) and len(numbers) > 5:
        return ColumnType("time", "excel")
    if time_like and mostly((numbers > 3e8) & (numbers < 4.1e9)):
        return ColumnType("time", "epoch_s")
    if time_like and mostly((numbers > 3e11) & (numbers < 4.1e12)):
        return ColumnType("time", "epoch_ms")
    if set(numbers) <= {0.0, 1.0}:
        return ColumnType("flag", style, whole=True)
    return ColumnType("number", style, whole=True)


def _as_text(numbers: NDArray[np.float64]) -> pa.Array:
    whole = np.where(np.isfinite(numbers), numbers, 0).astype(np.int64)
    return pa.array(whole.astype(str), pa.string(), mask=~np.isfinite(numbers))


def _type_of_times(texts: pa.Array, weights: NDArray[np.int64]) -> ColumnType | None:
    with_digits = pc.match_substring_regex(texts, r"\d").to_numpy(zero_copy_only=False)
    if weights[with_digits].sum() < _MOSTLY * weights.sum():
        return None
    tried = np.unique(np.linspace(0, len(texts) - 1, min(len(texts), _TRIED)).astype(int))
    some = texts.take(pa.array(tried))
    candidates = ["iso", "isoweek", "quarter", *(day + clock for day in _DATES for clock in _CLOCKS)]
    shares = {style: float((~np.isnat(parse_times(some, style))).mean()) for style in candidates}
    best = max(shares.values())
    if best < _MOSTLY * 0.9:
        return None
    good = [style for style in candidates if shares[style] >= best - 1e-9]
    parsed = {style: parse_times(texts, style) for style in good[:4]}
    fits = {style: weights[~np.isnat(times)].sum() / weights.sum() for style, times in parsed.items()}
    style = max(fits, key=lambda name: (fits[name], round(_regularity(parsed[name]), 2)))
    if fits[style] < _MOSTLY:
        return None
    days = parsed[style][~np.isnat(parsed[style])]
    rivals = [
        name
        for name, times in parsed.items()
        if fits[name] == fits[style] and not np.array_equal(times[~np.isnat(times)], days)
    ]
    return ColumnType("time", style, or_else=rivals[0] if rivals else "")


def _regularity(times: NDArray[np.datetime64]) -> float:
    """The share of the most frequent distance between neighbours, months counting as equally long."""
    days = np.unique(times[~np.isnat(times)].astype("datetime64[D]")).astype(np.int64)
    steps = np.diff(days)
    if not len(steps):
        return 0.0
    steps = np.where((steps >= 28) & (steps <= 31), 30, steps)
    return float(np.bincount(np.minimum(steps, 400)).max() / len(steps))


def parse(levels: pa.Array, column_type: ColumnType) -> NDArray[Any]:
    """`levels` as float64 (NaN), datetime64[us] (NaT) or objects (None), by their type."""
    if column_type.kind == "time":
        return parse_times(levels, column_type.style)
    if column_type.kind in {"text", "empty"}:
        return np.array(levels.to_pylist(), object)
    if column_type.style == "words":
        words = levels.cast(pa.string()).to_pylist()
        return np.array([_FLAGS.get((word or "").strip().lower(), np.nan) for word in words])
    if not (pa.types.is_string(levels.type) or pa.types.is_large_string(levels.type)):
        plain = levels.cast(pa.uint8()) if pa.types.is_boolean(levels.type) else levels
        return pc.fill_null(plain.cast(pa.float64(), safe=False), np.nan).to_numpy(zero_copy_only=False)
    style = "plain" if column_type.style == "native" else column_type.style
    texts = pc.utf8_trim_whitespace(levels.cast(pa.string()))
    if style.startswith(_LOOSE):
        texts, style = undecorated(texts), style.removeprefix(_LOOSE)
    fits = pc.fill_null(pc.match_substring_regex(texts, _NUMBER_STYLES[style]), fill_value=False)
    texts = pc.if_else(fits, texts, pa.scalar(None, pa.string()))
    if style != "plain":
        texts = pc.replace_substring(texts, "," if style == "thousands" else ".", "")
    if style == "comma":
        texts = pc.replace_substring(texts, ",", ".")
    return pc.fill_null(texts.cast(pa.float64()), np.nan).to_numpy(zero_copy_only=False)


def parse_times(levels: pa.Array, style: str) -> NDArray[np.datetime64]:
    """`levels` as datetime64[us]; NaT for what is not written in this style.

    A text with an offset keeps the clock time that is written, since 2024-06-02T00:00:00+02:00 is the second of June;
    other moments with a zone are in UTC.
    """
    import pandas as pd

    if style == "local":
        return pc.local_timestamp(levels).cast(pa.timestamp("us"), safe=False).to_numpy(zero_copy_only=False)
    if style == "native":
        kind = levels.type
        stamps = levels.cast(
            pa.timestamp("us", kind.tz) if pa.types.is_timestamp(kind) else pa.timestamp("us"), safe=False
        )
        return stamps.cast(pa.timestamp("us"), safe=False).to_numpy(zero_copy_only=False)
    if style.startswith("epoch"):
        unit = 1_000_000 if style == "epoch_s" else 1_000
        numbers = parse(levels, ColumnType("number", "native"))
        return pd.to_datetime(pd.Series(numbers) * unit, unit="us", errors="coerce").to_numpy().astype("datetime64[us]")
    if style == "excel":
        numbers = parse(levels, ColumnType("number", "native"))
        return pd.to_datetime(pd.Series(numbers) - 25569, unit="D", errors="coerce").to_numpy().astype("datetime64[us]")
    if _is_number(levels.type):
        levels = _as_text(parse(levels, ColumnType("number", "native")))
    texts = pd.Series(pc.utf8_trim_whitespace(levels.cast(pa.string())).to_pylist(), dtype=object)
    if style == "isoweek":
        weeks = texts.str.extract(r"^(\d{4})-?[Ww](\d{2})$")
        last = (weeks[0] + "-12-28").map(_iso_week_of, na_action="ignore")  # a year's last week has its 28 December
        weeks = weeks[weeks[1].astype(float).between(1, last.astype(float))].reindex(texts.index)
        texts, style = weeks[0] + "-W" + weeks[1] + "-1", "%G-W%V-%u"
    if style == "quarter":
        texts, style = texts.map(_first_month_of_quarter, na_action="ignore"), "%Y-%m"
    if "%b" in style:
        texts = texts.map(_with_english_month, na_action="ignore")
    if style == "iso":
        texts = texts.str.replace(r"(?<=:\d\d)(\.\d+)?\s*[+-]\d\d:?\d\d$", r"\1", regex=True)
    pattern = "ISO8601" if style == "iso" else style
    stamps = pd.to_datetime(texts, format=pattern, errors="coerce", utc=True)
    return stamps.dt.tz_localize(None).to_numpy().astype("datetime64[us]")


def _first_month_of_quarter(text: str) -> str:
    """`2025Q2` or `Q2 2025` as `2025-4`; nothing else."""
    found = _QUARTER.fullmatch(text)
    if found is None:
        return ""
    year, quarter = found[1] or found[4], int(found[2] or found[3])
    return f"{year}-{3 * quarter - 2}"


def _with_english_month(text: str) -> str:
    """`3. März 2025`, `3 de marzo de 2025` and `3 March 2025` as `3 Mar 2025`."""
    text = re.sub(r"(?<=\d)\.\s*(?=[^\W\d_])|\s+de\s+", " ", text)

    def english(found: re.Match[str]) -> str:
        month = _MONTHS.get(found[1].casefold())
        return _ENGLISH[month - 1] if month else found[0]

    return re.sub(r"([^\W\d_]+)\.?", english, text, count=1)


def _iso_week_of(day: str) -> int:
    return date.fromisoformat(day).isocalendar().week
