"""Users' own forecasters: every series' forecasts at every origin, each fit in a child process that may be lost."""

from __future__ import annotations

import atexit
import hashlib
import pickle
import signal
import subprocess
import sys
import threading
import time
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, cast

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from many_models.errors import SettingsError
from many_models.forecasting.custom.child import (
    WARM_UP_SECONDS,
    Answer,
    Batch,
    Fit,
    FitRows,
    History,
    Open,
    Rows,
)
from many_models.forecasting.custom.folder import require_own
from many_models.forecasting.pack import mm_pack_v1 as loader
from many_models.forecasting.panel import USUAL_OVER, stamps_us
from many_models.system import child_command

if TYPE_CHECKING:
    from collections.abc import Mapping

    from numpy.typing import NDArray

    from many_models.forecasting.panel import Layout, Panel
    from many_models.forecasting.spec import Custom, Spec

LOST_IN_A_ROW = 3  # series that hung or killed their process, after which a forecaster is not tried on the rest


@dataclass(frozen=True)
class CustomForecasts:
    """What users' forecasters gave: arrays are series × forecasters (× origins × steps).

    `F` is NaN where there is no forecast, `seconds` what all fits of a series took (NaN where none was tried),
    `problems` why there is no forecast ("" for none) and `there` where every fit that was asked for gave one.
    """

    names: tuple[str, ...]
    F: NDArray[np.float64]
    seconds: NDArray[np.float64]
    problems: list[list[str]]
    there: NDArray[np.bool_]
    fitted: dict[str, dict[str, tuple[bytes, float]]] = field(
        default_factory=dict[str, "dict[str, tuple[bytes, float]]"]
    )


def check_custom(spec: Spec) -> None:
    """Raise SettingsError that names each custom forecaster of `spec` that cannot be imported or made."""
    if spec.competing:
        CHILD.kinds(spec)


def run_custom(  # noqa: PLR0913, PLR0917
    rows: pa.Table,
    future: pa.Table | None,
    panel: Panel,
    layout: Layout,
    spec: Spec,
    origins: NDArray[np.int64],
    wanted: NDArray[np.bool_],
) -> CustomForecasts:
    """Forecasts of `spec`'s custom forecasters at `origins` (places of `panel`), where `wanted` (series × origins).

    Those of all series at once are left to `pooled.run_over_all`. `rows` are the panel's rows; `future` has known
    covariates after them. Raises SettingsError as `check_custom`.
    """
    n, W, H, names = len(panel.series), len(origins), spec.horizon, tuple(mine.name for mine in spec.competing)
    tried = np.asarray(wanted.any(1))
    result = CustomForecasts(
        names,
        np.full((n, len(names), W, H), np.nan),
        np.full((n, len(names)), np.nan),
        [[""] * len(names) for _ in range(n)],
        np.repeat(tried[:, None], len(names), 1),
    )
    if all(mine.pooled for mine in spec.competing):
        return result
    with CHILD.lock:
        kinds = CHILD.kinds(spec)
        known = _known_values(rows, future, panel, spec)
        lost = dict.fromkeys(names, 0)
        for i, name in enumerate(panel.series):
            mine = np.flatnonzero(wanted[i])
            if len(mine):
                _one_series(i, name, mine, kinds, known, lost, (panel, layout, spec, origins), result)
    return result


def _one_series(  # noqa: PLR0913, PLR0917
    i: int,
    series: str,
    mine: NDArray[np.int64],
    kinds: Mapping[str, str],
    known: Mapping[str, NDArray[np.generic]],
    lost: dict[str, int],
    about: tuple[Panel, Layout, Spec, NDArray[np.int64]],
    result: CustomForecasts,
) -> None:
    panel, layout, spec, origins = about
    first = int(panel.first[i])
    rows: Rows | None = None
    history = History(
        panel.ds[first:],
        np.where(panel.code[i, first:] == loader.MISSING, np.nan, panel.y[i, first:]),
        {name: values[i, first:] for name, values in known.items()},
    )
    unit = 1.0
    for c, custom in enumerate(spec.competing):
        if custom.pooled:
            continue
        if lost[custom.name] >= LOST_IN_A_ROW:
            answer = Answer(problem=f"not tried: it was lost on {LOST_IN_A_ROW} series before")
        else:
            if kinds[custom.name] == "regressor":
                if rows is None:
                    rows, unit = regressor_rows(panel, layout, spec, i, origins[mine])
                data, shift, size = rows, 0, unit
            else:
                data, shift, size = history, first, 1.0
            places = (origins[mine] - shift).tolist()
            final = len(origins) - 1 in mine
            asked = Fit(identity(custom), custom.seconds, _seed(custom, series), spec.horizon, places, data, final)
            answer, gone = CHILD.ask(asked, spec)
            lost[custom.name] = lost[custom.name] + 1 if gone else 0
            for place, forecast in zip(mine, answer.forecasts, strict=False):
                low, high = bounds_at(panel, i, int(origins[place]), spec)
                result.F[i, c, place] = np.clip(forecast * size, low, high)
            if answer.fitted:
                result.fitted.setdefault(series, {})[custom.name] = (answer.fitted, size)
        result.seconds[i, c], result.problems[i][c] = answer.seconds, answer.problem
        result.there[i, c] = not answer.problem


def _seed(custom: Custom, series: str) -> int:
    return int.from_bytes(hashlib.sha256(f"{custom.name} {series}".encode()).digest()[:4], "big")


def identity(custom: Custom) -> str:
    """What the child calls it: the same name may mean another forecaster in another spec."""
    return f"{custom.name} {custom.use} {custom.options}{f' {custom.device}' if custom.pooled else ''}"


def bounds_at(panel: Panel, i: int, origin: int, spec: Spec) -> tuple[float, float]:
    """What a forecast may be, as for built-in candidates: what the series has done so far, and as much again."""
    first = int(panel.first[i])
    y = panel.y[i, first : origin + 1][panel.code[i, first : origin + 1] == loader.OBSERVED]
    low, high = (float(y.min()), float(y.max())) if len(y) else (0.0, 0.0)
    spread = high - min(low, 0.0)
    return (0.0 if spec.nonnegative else min(low, 0.0) - 0.5 * spread), high + spread


def _known_values(rows: pa.Table, future: pa.Table | None, panel: Panel, spec: Spec) -> dict[str, NDArray[np.generic]]:
    """Raw known covariates (series × periods of the panel). Where one is missing the last value is repeated, and after
    the past the usual one stands for it, as in a pack (see `usual_columns`).

    Numbers and flags are float64, everything else is text or None.
    """
    import pandas as pd

    parts = [rows] if future is None else [rows, future]
    place = {name: i for i, name in enumerate(panel.series)}
    result: dict[str, NDArray[np.generic]] = {}
    for name in spec.known:
        kind = rows.schema.field(name).type
        number = not (pa.types.is_string(kind) or pa.types.is_large_string(kind) or pa.types.is_dictionary(kind))
        values = np.full((len(panel.series), len(panel.ds)), np.nan if number else None, float if number else object)
        for part in parts:
            if name not in part.column_names or not part.num_rows:
                continue
            part = part.filter(pc.is_in(part["series_id"], pa.array(panel.series, pa.string())))  # noqa: PLW2901
            at = loader.step_number(stamps_us(part["ds"]), spec.frequency) - panel.number
            inside = (at >= 0) & (at < len(panel.ds))
            sid = np.array([place[series] for series in part["series_id"].to_pylist()], np.int64)
            column = part[name].cast(pa.float64() if number else pa.string()).to_numpy(zero_copy_only=False)
            values[sid[inside], at[inside]] = column[inside]
        past = pd.DataFrame(values[:, : panel.periods].T).ffill().to_numpy().T
        result[name] = np.concatenate([past, _ahead(past, values[:, panel.periods :], number=number)], 1)
    return result


def _ahead(past: NDArray[Any], ahead: NDArray[Any], *, number: bool) -> NDArray[Any]:
    """`ahead` (series × periods), its missing values as `past` usually was."""
    import pandas as pd

    filled = ahead.copy()
    for i, row in enumerate(ahead):
        known = pd.Series(past[i]).dropna()
        flag = number and bool(np.isin(known, (0.0, 1.0)).all())
        after = pd.Series(row).ffill() if number and not flag else pd.Series(row)
        if len(known) and len(after):
            usual = known.mode().iloc[0] if flag or not number else known.iloc[-USUAL_OVER:].median()
            after = after.fillna(usual)
        filled[i] = after.to_numpy()
    return filled


def regressor_rows(panel: Panel, layout: Layout, spec: Spec, i: int, origins: NDArray[np.int64]) -> tuple[Rows, float]:
    """One series as rows of the core's features and targets in units of its mean size (the second result).

    A row of a target is seen from a state some steps before it, all steps up to the horizon in turn. Features are the
    calendar, levels, season and last year in units of the series, known covariates, phase, step, age and holiday.
    """
    from many_models.forecasting.custom.features import regressor_features
    from many_models.forecasting.local_fit import learned_at, own_numbers, training_steps

    first, last = int(panel.first[i]), int(origins[-1])
    own = own_numbers(panel.y[i], panel.code[i], spec, first, learned_at(panel, i, origins))
    own[loader.ADDITIVE] = 1.0  # features of a series' own: nothing is scaled by its level
    calendar, hol, ph = layout.calendar(panel.ds)
    width = loader.width(calendar.shape[1], layout.columns) + loader.PLAIN
    x = panel.x[i].copy()
    x[:, -1] = 0.0  # the shape that series share may know what comes after a window
    X, ahead = np.zeros((last + 1, width), np.float32), np.zeros((len(origins), spec.horizon, width), np.float32)
    used = np.zeros(last + 1, np.bool_)
    state = np.zeros(loader.state_size(layout.season, layout.columns, layout.slots))
    regressor_features(
        panel.y[i], panel.code[i], ph, hol, calendar, x, panel.encoding.binary[i],
        training_steps(panel.number, len(panel.ds), spec.horizon), first, origins, layout.conf(), own, state, X, used,
        ahead,
    )  # fmt: skip
    place = np.flatnonzero(used)
    unit = float(own[loader.UNIT])
    return Rows(X[place], panel.y[i, place] / unit, place, ahead), unit


# --- The child --------------------------------------------------------------------------------------------------------
@dataclass
class _Child:
    """The child process of this one, started when it is needed, again after it was lost."""

    lock: threading.RLock = field(default_factory=threading.RLock)
    _process: subprocess.Popen[bytes] | None = None
    _path: tuple[str, ...] = ()
    _kinds: dict[Custom, str] = field(default_factory=dict["Custom", str])

    def kinds(self, spec: Spec) -> Mapping[str, str]:
        """How each custom forecaster of `spec` wants its data. Raises SettingsError for one that cannot be used."""
        with self.lock:
            path = (*([spec.folder] if spec.folder else []), *sys.path)
            if self._process is None or self._process.poll() is not None or self._path != path:
                self.stop()
                self._path = path
            untried = [custom for custom in spec.competing if custom not in self._kinds]
            if untried and spec.folder:
                require_own(spec.folder, [custom.use for custom in untried])
            for custom in untried:
                if custom not in self._kinds:
                    self._kinds[custom] = self._first_try(custom)
            return {custom.name: self._kinds[custom] for custom in spec.competing}

    def _first_try(self, custom: Custom) -> str:
        seconds = max(WARM_UP_SECONDS, custom.seconds if custom.pooled else 0.0)  # weights of gigabytes take longer
        device = custom.device if custom.pooled else ""
        opened = Open(self._path, identity(custom), custom.use, custom.options, custom.pooled, device, seconds)
        answer = self._say(opened)
        if answer is None:
            how = self._end(seconds)
            raise SettingsError(f"custom forecaster {custom.name!r}: {custom.use} {how} on its first try")
        kind, problem = cast("tuple[str, str]", answer)
        if problem:
            raise SettingsError(f"custom forecaster {custom.name!r}: {problem}")
        return kind

    def ask(self, request: Fit | FitRows | Batch, spec: Spec) -> tuple[Answer, bool]:
        """What it says, and whether it was lost on the way."""
        self.kinds(spec)
        begun = time.perf_counter()
        answer = self._say(request)
        if isinstance(answer, Answer):
            return answer, False
        took = time.perf_counter() - begun
        return Answer(problem=self._end(request.seconds if took >= request.seconds else 0.0), seconds=took), True

    def stop(self) -> None:
        """End the child, if there is one."""
        if self._process is not None:
            self._process.kill()
            self._process.communicate()
        self._process = None
        self._kinds.clear()

    def _say(self, message: object) -> object | None:
        """Its answer to `message`; None when it died."""
        if self._process is None or self._process.poll() is not None:
            command = child_command("many_models.forecasting.custom.child", "main")
            self._process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE)  # noqa: S603 -- ours
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        try:
            pickle.dump(message, self._process.stdin, protocol=5)
            self._process.stdin.flush()
            return pickle.load(self._process.stdout)  # noqa: S301  from our own child
        except (OSError, EOFError, pickle.UnpicklingError):
            return None

    def _end(self, seconds: float) -> str:
        """How the child ended; `seconds` that it had, 0 when it was not for time."""
        assert self._process is not None
        code = self._process.wait()
        self.stop()
        if seconds and code == 1:
            return f"took longer than {seconds:g} s, and was stopped"
        return f"killed its process ({signal.Signals(-code).name if code < 0 else f'exit code {code}'})"


CHILD = _Child()
atexit.register(CHILD.stop)
