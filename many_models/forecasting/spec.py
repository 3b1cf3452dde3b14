"""What is forecast and how: `Spec`, the facts of a frequency, and what is known of a series from elsewhere."""

from __future__ import annotations

import json
import re
from dataclasses import asdict, dataclass, field, fields
from datetime import date
from functools import lru_cache
from typing import TYPE_CHECKING

from many_models.errors import SettingsError
from many_models.forecasting.pack.mm_pack_v1 import CANDIDATES as BUILT_IN
from many_models.keys import digest

if TYPE_CHECKING:
    from collections.abc import Iterable

CODE_VERSION = "12"

# What weights of candidates minimise: squared errors (the default: right for sums, whatever the share of zeros),
# absolute ones with series alike, absolute ones by volume, or absolute ones with intervals at equal tails.
OBJECTIVES: tuple[str, ...] = ("rmsse", "mase", "wape", "pinball")


# What a period without a row means: nothing is known of it, nothing was sold, or the shop was closed.
MISSING: tuple[str, ...] = ("unknown", "zero", "closed")


@dataclass(frozen=True, slots=True)
class FrequencyDefaults:
    """What a frequency means in steps.

    `season` the main season, `year` a year rounded to whole seasons, `taus` the memory of four moving levels,
    `window` the steps of a plain mean, `decay` the memory of a fit, `ended` the steps of silence after which a series
    has ended, `calendar` which calendar features it has.
    """

    unit: str
    season: int
    year: int
    taus: tuple[float, float, float, float]
    window: int
    decay: float
    ended: int


_RHYTHMS: dict[str, FrequencyDefaults] = {
    "h": FrequencyDefaults("h", 168, 8736, (6.0, 30.0, 168.0, 672.0), 168, 8760.0, 336),
    "D": FrequencyDefaults("D", 7, 364, (4.0, 12.0, 40.0, 125.0), 28, 1000.0, 90),
    "W": FrequencyDefaults("W", 52, 52, (2.0, 5.0, 13.0, 40.0), 13, 260.0, 26),
    "M": FrequencyDefaults("M", 12, 12, (2.0, 4.0, 8.0, 18.0), 12, 60.0, 12),
    "Q": FrequencyDefaults("Q", 4, 4, (1.5, 3.0, 5.0, 8.0), 4, 24.0, 8),
    "Y": FrequencyDefaults("Y", 1, 1, (1.5, 2.0, 4.0, 8.0), 3, 20.0, 3),
}


@lru_cache(maxsize=64)
def rhythm(frequency: str) -> FrequencyDefaults:
    """The rhythm of a pandas offset alias. Raises SettingsError when pandas does not know it or it is too odd."""
    from pandas.tseries.frequencies import to_offset

    try:
        name = to_offset(frequency).name
    except ValueError as error:
        raise SettingsError(f"frequency {frequency!r} is not a pandas offset alias: use h, D, W-SUN, MS …") from error
    head = name.split("-")[0]
    unit = {"min": "h", "B": "D", "MS": "M", "ME": "M", "QS": "Q", "QE": "Q", "YS": "Y", "YE": "Y"}.get(head, head)
    if unit not in _RHYTHMS:
        raise SettingsError(f"frequency {frequency!r} is not supported: use hourly (h) to yearly (YS)")
    found = _RHYTHMS[unit]
    return FrequencyDefaults("D", 5, 260, found.taus, 20, 700.0, 65) if head == "B" else found


DEVICES = ("cpu", "cuda")


@dataclass(frozen=True)
class Custom:
    """A user's own forecaster: candidate `name`, `use` as `module:attribute` (a class or a function that makes one),
    its `options` as JSON object, and how many `seconds` all its fits of one series may take.

    A `pooled` one is of all series at once: a scikit-learn regressor that is trained over them, or a model that the
    user brings, which forecasts batches of histories on a `device` (cpu or cuda) under its own `licence`; `seconds` is
    what one fit or batch may take.
    """

    name: str
    use: str
    options: str = "{}"
    seconds: float = 10.0
    pooled: bool = False
    device: str = "cpu"
    licence: str = ""

    def __post_init__(self) -> None:
        if self.device not in DEVICES:
            raise SettingsError(f"custom forecaster {self.name!r}: device is {self.device!r}, use {', '.join(DEVICES)}")
        if not re.fullmatch(r"[A-Za-z][A-Za-z0-9_]*", self.name) or self.name in BUILT_IN:
            raise SettingsError(f"custom forecaster {self.name!r}: needs a name of letters, digits and _, not built in")
        if not re.fullmatch(r"[\w.]+:[\w.]+", self.use):
            raise SettingsError(f"custom forecaster {self.name!r}: use is {self.use!r}, needed module:attribute")
        try:
            options = json.loads(self.options)
        except ValueError as error:
            raise SettingsError(f"custom forecaster {self.name!r}: options are no JSON: {error}") from error
        if not isinstance(options, dict):
            raise SettingsError(f"custom forecaster {self.name!r}: options are {options!r}, needed names and values")
        if not self.seconds > 0:
            raise SettingsError(f"custom forecaster {self.name!r}: seconds are {self.seconds}, needed more than 0")


@dataclass(frozen=True)
class Spec:
    """What is forecast, and how candidates compete. Hashable and picklable.

    `frequency` a pandas offset alias; `horizon` steps ahead; `windows` backtest windows; `season` steps per season
    (default: by frequency); `known` names of known covariates; `country` an ISO code whose holidays count;
    `candidates` (empty: all); `objective` what weights minimise (see `OBJECTIVES`); `levels` of the intervals in per
    cent; `nonnegative` cuts forecasts at zero; `ended_after` periods without an observation after which a series has
    ended (default: by frequency); `custom` forecasters of the user's; `holidays` of the user's own (ISO date, name)
    beside the country's; `attributes` names of static columns of series, which trees see; `pool_by` which parts of the
    key make the groups that learn together (none: all do); `missing` what a period without a row means (see `MISSING`),
    `missing_on` the same for single weekdays (0 is Monday), and `missing_at` for single values of the first key;
    `exposure` the known covariate that the target is proportional to; `available` names a column with the share of a
    period with stock, `sold_out` one that says that stock ran out, as a flag, or for how many of `open_hours`; `folder`
    where modules of `custom` are besides Python's path (no part of the recipe).
    """

    frequency: str
    horizon: int
    windows: int = 3
    season: int | None = None
    known: tuple[str, ...] = ()
    country: str = ""
    candidates: tuple[str, ...] = ()
    objective: str = "rmsse"
    levels: tuple[int, ...] = (80, 95)
    nonnegative: bool = True
    ended_after: int | None = None
    custom: tuple[Custom, ...] = ()
    holidays: tuple[tuple[str, str], ...] = ()
    attributes: tuple[str, ...] = ()
    pool_by: tuple[int, ...] = ()
    missing: str = "unknown"
    missing_on: tuple[tuple[int, str], ...] = ()
    missing_at: tuple[tuple[str, str], ...] = ()
    exposure: str = ""
    available: str = ""
    sold_out: str = ""
    open_hours: float = 0.0
    folder: str = field(default="", compare=False)

    def __post_init__(self) -> None:
        rhythm(self.frequency)
        for name in ("known", "candidates", "levels", "custom", "attributes", "pool_by"):
            object.__setattr__(self, name, tuple(getattr(self, name)))
        object.__setattr__(self, "holidays", tuple((str(day), str(name)) for day, name in self.holidays))
        pairs = tuple((int(str(day)), str(what)) for day, what in self.missing_on)
        object.__setattr__(self, "missing_on", pairs)
        object.__setattr__(self, "missing_at", tuple((str(key), str(what)) for key, what in self.missing_at))
        _check_meanings([self.missing, *(what for _, what in (*self.missing_on, *self.missing_at))])
        for day, name in self.holidays:
            if not _is_day(day):
                raise SettingsError(f"holiday {name!r}: {day!r} is not a date, write it as 2024-12-31")
        if self.horizon < 1 or self.windows < 1:
            raise SettingsError(f"horizon ({self.horizon}) and windows ({self.windows}) must be at least 1")
        self._check_stock()
        if self.season is not None and self.season < 1:
            raise SettingsError(f"season must be at least 1 step, got {self.season}")
        if self.objective not in OBJECTIVES:
            raise SettingsError(f"unknown objective {self.objective!r}: use {', '.join(OBJECTIVES)}")
        if bad := [level for level in self.levels if not 0 < level < 100]:
            raise SettingsError(f"interval levels are per cent between 1 and 99, got {bad}")
        self._check_names()

    def _check_names(self) -> None:
        if self.exposure and self.exposure not in self.known:
            raise SettingsError(f"the exposure {self.exposure!r} is not a known covariate: add it to known")
        custom = [mine.name for mine in self.custom]
        if twice := sorted({name for name in custom if custom.count(name) > 1}):
            raise SettingsError(f"custom forecasters named twice: {', '.join(twice)}")
        if unknown := [name for name in self.candidates if name not in {*BUILT_IN, *custom}]:
            raise SettingsError(f"unknown candidates {unknown}: use {', '.join([*BUILT_IN, *custom])}")

    def _check_stock(self) -> None:
        if self.available and self.sold_out:
            raise SettingsError(f"available ({self.available}) and sold_out ({self.sold_out}) say the same: name one")
        if self.open_hours < 0 or (self.open_hours and not self.sold_out):
            raise SettingsError(f"open_hours is {self.open_hours:g}, needed more than 0 and a column sold_out")

    @property
    def fills_gaps(self) -> bool:
        """Whether a period without a row means something, for some series or on some weekday."""
        return self.missing != "unknown" or bool(self.missing_on or self.missing_at)

    @property
    def competing(self) -> tuple[Custom, ...]:
        """The custom forecasters that compete."""
        return tuple(mine for mine in self.custom if not self.candidates or mine.name in self.candidates)

    @property
    def every_candidate(self) -> tuple[str, ...]:
        """All built-in candidates, then the custom ones that compete: the order of weights and evidence."""
        return (*BUILT_IN, *(mine.name for mine in self.competing))

    @property
    def steps_per_season(self) -> int:
        """The season in steps, given or by frequency."""
        return self.season or rhythm(self.frequency).season

    @property
    def recipe(self) -> str:
        """What would be built: a short hash over candidates, options and code version; no data, no fitted number."""
        return digest(CODE_VERSION, self.to_json())

    def to_json(self) -> str:
        """The spec as one JSON object, keys sorted."""
        values = asdict(self)
        del values["folder"]
        if not self.missing_at:  # so that recipes of before it stay the same
            del values["missing_at"]
        for custom in values["custom"]:
            if not custom["pooled"]:  # a recipe from before there were pooled ones stays what it was
                del custom["pooled"], custom["device"], custom["licence"]
        return json.dumps(values, sort_keys=True)

    @classmethod
    def from_json(cls, text: str) -> Spec:
        """The inverse of `to_json`. Raises SettingsError for what is not a spec."""
        try:
            values = json.loads(text)
            known = {field.name for field in fields(cls)}
            if extra := sorted(set(values) - known):
                raise SettingsError(f"a spec has no {', '.join(extra)}")
            values["custom"] = tuple(Custom(**mine) for mine in values.get("custom", ()))
            return cls(**values)
        except (AttributeError, TypeError, ValueError) as error:
            raise SettingsError(f"not a spec: {error}") from error


def _check_meanings(words: Iterable[str]) -> None:
    if bad := [word for word in words if word not in MISSING]:
        raise SettingsError(f"a missing row cannot mean {bad[0]!r}: use {', '.join(MISSING)}")


def _is_day(text: str) -> bool:
    try:
        date.fromisoformat(text)
    except ValueError:
        return False
    return True


@dataclass(frozen=True)
class Prior:
    """What is known of a series from elsewhere: the mean per period of its relatives, and which (`origin`).

    `worth` how many observations of its own that is worth (0: as many as are lacking), `misses` how far sales of new
    series were from such levels, see `new_items.bounds_of`. `doubt`: by how much it is worth less where the series'
    own observations say otherwise, with `chance` the variance of one over the squared level, see `new_items.level_of`.
    """

    level: float
    origin: str
    worth: float = 0.0
    misses: tuple[tuple[float, ...], ...] = ()
    doubt: float = 0.0
    chance: float = 1.0
