"""A pack in memory: forecasts of its rows as JSON, from its training cutoff or from fresh observations."""

from __future__ import annotations

import hashlib
import json
import math
import threading
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np
from pydantic_core import to_json

from many_models.data.pack_file import arrays
from many_models.errors import IntegrityError, SeriesError
from many_models.forecasting.explanation import compare_row, explain_in_words, explain_row
from many_models.forecasting.pack import mm_pack_v1 as loader

if TYPE_CHECKING:
    import mmap
    from collections.abc import Callable, Mapping, Sequence
    from datetime import datetime

    from numpy.typing import NDArray

    from many_models.data.release_index import PackId

DIGITS = 8
TINY, HUGE = 1e-280, 1e280  # beyond them numbers are rounded as if they were about one
SMALL_OBJECTS = 24_000  # bytes of Python's own beside the arrays of a pack
QUICK_STEPS = 60
SHARED_PERIODS = 4_000  # of calendars, a few hundred bytes each
KEPT_HORIZONS = 8  # calendars kept, as a multiple of the usual horizon
PER_PERIOD = 300  # bytes of a calendar, for each
PER_SERIES = 300  # and for each of its series
REGRESSOR_TIMES = 10  # memory of a loaded regressor, as a multiple of its file
PER_TEXT = 120  # and for each text that is kept

Value = float | int | bool | str | None


@dataclass(frozen=True, slots=True)
class Observation:
    """What happened in one period: `state` is observed, missing, closed or stock_out; `known` its covariates."""

    ds: datetime
    y: float | None
    state: str = "observed"
    known: Mapping[str, Value] = field(default_factory=dict[str, Value])


@dataclass(slots=True)
class Question:
    """One series' forecast that is asked for: `horizon` steps after `cutoff` (None: after the last observation, or
    after training), with what is known of the future by time. Never changed; not frozen because that takes longer.
    """

    series_id: str
    horizon: int | None = None
    cutoff: datetime | None = None
    known: Sequence[tuple[datetime, Mapping[str, Value]]] = ()
    observations: Sequence[Observation] = ()
    against: Sequence[tuple[datetime, Mapping[str, Value]]] | None = None  # what another future has else
    explain: bool = False  # with the parts of the forecast, and sentences
    complete: bool = True  # whether nothing more is known up to the cutoff than the observations

    def is_plain(self, usual: int) -> bool:
        """Whether the answer depends on the model alone; `usual` is its horizon."""
        if self.explain or self.against is not None:
            return False
        if self.known or self.observations or self.cutoff is not None:
            return False
        return self.horizon is None or self.horizon == usual

    def is_quick(self, usual: int) -> bool:
        """Whether answering takes well under a millisecond, whatever its covariates are."""
        return not self.observations and self.cutoff is None and (self.horizon or usual) <= QUICK_STEPS


class LoadedPack:
    """The models of a pack over its files in memory. `cost` is what it takes of memory, in bytes; answers to plain
    questions are kept and add to it. `language` is that of sentences.
    """

    def __init__(self, pack: PackId, block: mmap.mmap, files: Mapping[str, memoryview], language: str = "en") -> None:
        from many_models.forecasting.kernels import pack as compiled

        self.id = pack
        self._language = language
        index, found, blobs = _content(files, pack.ref)
        series: list[str] = index["series"]
        self.series = tuple(series)
        self.known: tuple[str, ...] = tuple(index["known"])
        self.horizon = int(index["horizon"])
        self._frequency = str(index["frequency"])
        self._index = index
        self._model = ServedPack(index, found, compiled, blobs)
        self._cutoffs = np.asarray(found["cutoff"], np.int64)
        self._lock = threading.Lock()  # the model keeps calendars, and clears them
        self._answers: dict[int, bytes] = {}
        slots = len(json.dumps(index["slots"])) if index["slots"] else 0
        self.cost = len(block) + SMALL_OBJECTS + PER_SERIES * len(series) + 8 * slots
        self.cost += KEPT_HORIZONS * self.horizon * PER_PERIOD
        self.cost += REGRESSOR_TIMES * sum(map(len, blobs.values()))

    def kept(self, question: Question, row: int) -> bytes | None:
        """The answer to a plain question about a row, where it has been given before."""
        return self._answers.get(row) if question.is_plain(self.horizon) else None

    @property
    def busy(self) -> bool:
        """Whether a forecast is being made, which another would have to wait for."""
        return self._lock.locked()

    def answer(self, question: Question, row: int, *, keep: bool = True) -> bytes:
        """The forecast of a row as a JSON object without its closing brace. `keep` says whether there is room to keep
        it. Raises SeriesError for a question that cannot be answered.
        """
        name = question.series_id
        if row >= len(self.series) or self.series[row] != name:
            raise SeriesError(name, f"row {row} of pack {self.id.ref} is not its own: the release and its packs differ")
        with self._lock:
            text = self._answer(question, row)
            self._model.forget(KEPT_HORIZONS * self.horizon)
        if keep and question.is_plain(self.horizon):
            self._answers[row] = text
            self.cost += len(text) + PER_TEXT
        return text

    def trained_through(self, row: int) -> datetime:
        """The last period that training saw of a row."""
        return self._stamp(int(self._cutoffs[row]))

    def _answer(self, question: Question, row: int) -> bytes:
        h = question.horizon or self.horizon
        trained = int(self._cutoffs[row])
        seen, future, other = self._times(question)
        end = self._end(question, trained, seen)
        past = self._past(question, seen, row, end)
        x, fresh, repeated = self._model.aligned(
            row, end, h, self._given(future, [known for _, known in question.known]), past
        )
        more: dict[str, object] = {}
        try:
            if question.explain:
                point, bounds, more = self._explained(row, end, h, x, fresh)
            else:
                point, bounds = self._model.forecast(row, h, x, fresh)
            if question.against is not None:
                changed = {number: known for number, (_, known) in zip(future, question.known, strict=True)}
                for number, (_, known) in zip(other, question.against, strict=True):
                    changed[number] = {**changed.get(number, {}), **known}
                given = self._given(list(changed), list(changed.values()))
                instead, _, _ = self._model.aligned(row, end, h, given, past)
                more["difference"] = self._difference(row, end, h, (x, instead), fresh)
        except ValueError as error:
            raise SeriesError(question.series_id, f"{error}; train and promote it again") from error
        columns: dict[str, object] = {
            "trained_through": self.trained_through(row),
            "cutoff": self._stamp(end),
            "model": self.id.ref,
            "fallback": self._index["fallback"][row],
            "fresh_periods": end - trained,
            "ds": loader.stamps(np.arange(end + 1, end + 1 + h), self._frequency).tolist(),
        }
        names = ["y_hat", *(f"{side}{level}" for level in self._model.levels for side in ("lo", "hi"))]
        columns |= zip(names, rounded(np.concatenate([point[:, None], bounds.reshape(h, -1)], 1).T), strict=True)
        columns["known_repeated"] = repeated.tolist()
        columns |= more
        name = json.dumps(question.series_id).encode()  # to_json refuses half a surrogate pair
        return b'{"series_id":%b,%b' % (name, to_json(columns, inf_nan_mode="null")[1:-1])

    def _explained(
        self, row: int, end: int, h: int, x: NDArray[np.float64], fresh: object
    ) -> tuple[NDArray[np.float64], NDArray[np.float64], dict[str, object]]:
        """Point forecast, bounds, and what else an explanation says."""
        found = explain_row(self._model, row, end, h, x, fresh)
        a = self._model.arrays
        nonnegative = bool(a["own"][row][loader.NONNEGATIVE])
        horizon = float(a["conf"][loader.HORIZON])
        bounds = loader.interval(found.y_hat, a["spread"][row], a["quantiles"][row], nonnegative, horizon)
        bounds[self._model.shut_ahead(row, h, fresh)] = 0.0
        words = explain_in_words(found, self._language)
        return found.y_hat, bounds, {"parts": _parts(found.drivers, found.parts), "words": words}

    def _difference(
        self,
        row: int,
        end: int,
        h: int,
        futures: tuple[NDArray[np.float64], NDArray[np.float64]],
        fresh: object,
    ) -> dict[str, object]:
        """What the forecast changes from the first future to the second."""
        found = compare_row(self._model, row, end, h, futures, fresh)
        told: dict[str, object] = {"change": rounded(found.change[None])[0]}
        for j, level in enumerate(found.levels):
            told[f"lo{level}"], told[f"hi{level}"] = rounded(np.stack([found.low[:, j], found.high[:, j]]))
        return {**told, "parts": _parts(found.drivers, found.parts)}

    def _times(self, question: Question) -> tuple[list[int], list[int], list[int]]:
        """Step numbers of the observations, of the known covariates and of those of the other future. Raises
        SeriesError for times off the frequency, periods given twice, and covariates that the model does not have.
        """
        against = question.against or ()
        stamps = [o.ds for o in question.observations] + [ds for ds, _ in (*question.known, *against)]
        if not stamps:
            return [], [], []
        numbers = self._numbers(question.series_id, stamps)
        n = len(question.observations)
        m = n + len(question.known)
        seen, future, other = numbers[:n], numbers[n:m], numbers[m:]
        if any(len(set(some)) < len(some) for some in (seen, future, other)):
            raise SeriesError(question.series_id, "duplicate periods: give each period once")
        named = {name for o in question.observations for name in o.known}
        named |= {name for _, values in (*question.known, *against) for name in values}
        if unknown := sorted(named - set(self.known)):
            wanted = ", ".join(self.known) or "none"
            raise SeriesError(
                question.series_id, f"unknown covariates {', '.join(unknown[:3])}; this model's covariates: {wanted}"
            )
        return seen, future, other

    def _numbers(self, series_id: str, stamps: Sequence[datetime]) -> list[int]:
        """The step numbers of times. Raises SeriesError for times off the frequency."""
        known = _numbers.setdefault(self._frequency, {})
        try:  # questions about a day share their times
            return [known[stamp] for stamp in stamps]
        except KeyError:
            pass
        times = np.array(stamps, "datetime64[us]")
        numbers = loader.step_number(times, self._frequency)
        off = loader.stamps(numbers, self._frequency) != times
        if off.any():
            raise SeriesError(series_id, f"time {times[off][0]} is off the frequency {self._frequency}")
        if len(known) > SHARED_PERIODS:
            known.clear()
        found: list[int] = numbers.tolist()
        known.update(zip(stamps, found, strict=True))
        return found

    def _end(self, question: Question, trained: int, seen: Sequence[int]) -> int:
        end = max([trained, *seen])
        if question.cutoff is not None:
            end = int(loader.step_number(np.array([question.cutoff], "datetime64[us]"), self._frequency)[0])
        if end < trained:
            through = self._stamp(trained)
            raise SeriesError(
                question.series_id, f"cutoff {question.cutoff} is before its model's training ended ({through})"
            )
        if (periods := end - trained) > MOST_FRESH:
            raise SeriesError(
                question.series_id, f"{periods} periods since training, at most {MOST_FRESH} are carried on: retrain it"
            )
        return end

    def _given(
        self, numbers: Sequence[int], known: Sequence[Mapping[str, Value]]
    ) -> dict[str, tuple[list[int], list[Value]]]:
        """Each covariate's step numbers and values, as `Pack.aligned` takes them."""
        rows = [(number, values) for number, values in zip(numbers, known, strict=True) if values]
        given = {name: [(number, values[name]) for number, values in rows if name in values] for name in self.known}
        return {name: ([n for n, _ in pairs], [v for _, v in pairs]) for name, pairs in given.items() if pairs}

    def _past(self, question: Question, numbers: Sequence[int], row: int, end: int) -> tuple[object, ...]:
        """The observations as `Pack.aligned` takes them, and between them what a period without a row means."""
        seen = question.observations
        y = [np.nan if o.y is None else o.y for o in seen]
        codes = [CODES.index(o.state) if o.state in CODES else OBSERVED for o in seen]
        given = self._given(numbers, [o.known for o in seen])
        if not seen:
            return numbers, y, codes, given
        silent, meant = self._model.silent(row, end if question.complete else max(numbers), numbers)
        return [*numbers, *silent], [*y, *([0.0] * len(silent))], [*codes, *meant], given

    def _stamp(self, number: int) -> datetime:
        return loader.stamps(np.array([number]), self._frequency)[0].item()


CODES = ("missing", "observed", "closed", "stock_out")
OBSERVED = 1  # what a dataset's other states are to a model: demand behind a censored sale, and nothing for an outlier
MOST_FRESH = 5_000


class _Shared:
    """Calendars and shapes, which packs have in common; all of them go when there are too many. Threads may race."""

    def __init__(self) -> None:
        self._found: dict[tuple[object, ...], Any] = {}
        self._periods = 0

    def get(self, key: tuple[object, ...], h: int, make: Callable[[], Any]) -> Any:
        """What `make` made for `key`, of `h` periods. Callers must not change it."""
        found = self._found.get(key)
        if found is None:
            if self._periods > SHARED_PERIODS:
                self._found, self._periods = {}, 0
            found = self._found[key] = make()
            self._periods += h + 1
        return found


_shared = _Shared()
_numbers: dict[str, dict[datetime, int]] = {}  # frequency → the step numbers of times that were asked about


class ServedPack(loader.Pack):
    """The loader's pack, which shares calendars with others and forgets them when odd cutoffs and horizons add up. It
    answers as the loader does, to the last bit, without the loader's work for what a pack does not have.
    """

    def __init__(self, index: dict[str, Any], arrays: Mapping[str, NDArray[Any]], *more: object) -> None:
        super().__init__(index, arrays, *more)
        self._has_terms = np.any(np.asarray(arrays["pool_terms"][..., 0] >= 0), axis=1)  # by pool
        closing = np.any(np.asarray(arrays["closed_days"][:, :1] != loader.EMPTY), axis=1)
        self._closing = closing | ("open" in index)
        self._plain_numbers = arrays["center"].dtype == arrays["scale"].dtype == np.float64
        holidays = hashlib.sha256(arrays["holiday_days"].tobytes() + arrays["holiday_slots"].tobytes()).digest()
        conf = arrays["conf"]
        about = (float(conf[place]) for place in (loader.SEASON, loader.SLOTS, loader.CALENDAR))
        self._kind = (index["frequency"], *about, holidays)

    def calendar(self, after: int, h: int) -> Any:
        """See the loader."""
        key = (self._kind, int(after), int(h))
        return _shared.get(key, key[2], lambda: super(ServedPack, self).calendar(after, h))

    def shape(self, pool: int, after: int, h: int) -> Any:
        """See the loader."""
        key = (self._kind, int(after), int(h), self.arrays["pool_shape"][pool].tobytes())
        return _shared.get(key, key[2], lambda: super(ServedPack, self).shape(pool, after, h))

    def columns(self, x: NDArray[np.float64], pool: int, after: int) -> NDArray[np.float64]:
        """See the loader."""
        if self._has_terms[pool]:
            return super().columns(x, pool, after)
        terms = self.arrays["pool_terms"].shape[1]
        found = np.zeros((len(x), x.shape[1] + terms + 1))
        found[:, : x.shape[1]] = x
        found[:, -1:] = self.shape(pool, after, len(x))
        return found

    def with_closed_days(self, i: int, ds: NDArray[np.datetime64], hol: NDArray[np.int64]) -> NDArray[np.int64]:
        """See the loader."""
        return super().with_closed_days(i, ds, hol) if self._closing[i] else hol

    def shut(self, i: int, number: NDArray[np.int64]) -> NDArray[np.bool_]:
        """See the loader."""
        return super().shut(i, number) if "open" in self.index else np.zeros(len(number), bool)

    def encode(
        self, i: int, known: Mapping[str, Sequence[Value]], h: int
    ) -> tuple[NDArray[np.float64], NDArray[np.bool_]]:
        """See the loader: covariate by covariate where no value is missing, which is what most requests give."""
        columns: list[list[float]] = []
        for j, (name, levels) in enumerate(zip(self.index["known"], self.index["levels_of"], strict=True)):
            values = known.get(name)
            column = None if values is None or levels or not self._plain_numbers else self._encoded(i, j, values)
            if column is None:
                return super().encode(i, known, h)
            columns.append(column)
        return np.array(columns, float).reshape(-1, h).T.copy(), np.zeros(h, bool)

    def _encoded(self, i: int, j: int, values: Sequence[Value]) -> list[float] | None:
        """The encoded values of numeric column `j`; None where one is missing."""
        a = self.arrays
        center, scale = float(a["center"][i, j]), float(a["scale"][i, j])
        if not scale or any(value is None or value != value for value in values):  # noqa: PLR0124 -- NaN
            return None
        numbers = [float(value) for value in values if value is not None]
        if a["log"][i, j]:
            numbers = [math.log(max(number, 1e-9)) for number in numbers]
        return [min(max((number - center) / scale, -20.0), 20.0) for number in numbers]

    def forget(self, periods: int) -> None:
        """Keep calendars of at most this many periods."""
        if sum(h for _, h in self._calendars) > periods:
            self._calendars.clear()
            self._shapes.clear()


def _parts(drivers: Sequence[tuple[str, str]], values: NDArray[np.float64]) -> list[dict[str, object]]:
    """The columns of `values` (steps × drivers) for JSON, in full: rounded ones would not add up."""
    return [
        {"kind": kind, "driver": driver, "values": values[:, j].tolist()} for j, (kind, driver) in enumerate(drivers)
    ]


def rounded(values: NDArray[np.float64]) -> list[list[float]]:
    """`values` with DIGITS significant digits; NaN and infinity stay."""
    size = np.abs(values)
    magnitude = np.log10(size, out=np.zeros_like(size), where=(size > TINY) & (size < HUGE))
    scale = 10.0 ** (DIGITS - 1 - np.floor(magnitude))
    return (np.rint(values * scale) / scale).tolist()


def _content(
    files: Mapping[str, memoryview], ref: str
) -> tuple[dict[str, Any], dict[str, NDArray[Any]], Mapping[str, memoryview]]:
    """Index, arrays and skops files of a pack. Raises IntegrityError for one that is not to be served, naming the file,
    and the series whose regressor it is.
    """
    try:
        index = loader.read_index(files)
        return index, loader.own_arrays(arrays(files), index), loader.fitted_files(index, files)
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise IntegrityError(f"pack {ref} cannot be served: {error}; train and promote it again") from error
