"""The process in which users' own forecasters run: a child that its parent can lose without losing anything else.

It reads pickled requests from standard input and answers on standard output, both of its own parent alone. A fit that
takes too long ends the process from within, whatever holds the interpreter.
"""

from __future__ import annotations

import faulthandler
import importlib
import inspect
import json
import os
import pickle
import random
import sys
import time
import typing
import warnings
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal, cast

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from numpy.typing import NDArray

Kind = Literal["regressor", "statsforecast", "frames", "batches"]
LARGEST_OF_ALL = 20_000_000  # bytes of a regressor trained over all series; each training reads it once
WARM_UP_SECONDS = 120.0  # to import and compile what a forecaster needs, on a made-up series


@dataclass(frozen=True)
class Open:
    """Import a forecaster, `use` as module:attribute, `options` as JSON, found on `path`; it is called `name` then.

    A `pooled` one is of all series at once, and made with the option `device` unless it is a regressor. The first try
    may take `seconds`.
    """

    path: Sequence[str]
    name: str
    use: str
    options: str
    pooled: bool = False
    device: str = ""
    seconds: float = WARM_UP_SECONDS


@dataclass(frozen=True)
class Rows:
    """A series as rows of features, targets and their places; `ahead` is origins × steps × features.

    A fit for origin o takes the rows whose place is at most o.
    """

    X: NDArray[np.float32]
    y: NDArray[np.float64]
    place: NDArray[np.int64]
    ahead: NDArray[np.float32]


@dataclass(frozen=True)
class History:
    """A series as columns: `ds`, `y` (NaN where missing) and known covariates, the steps after the last origin too."""

    ds: NDArray[np.datetime64]
    y: NDArray[np.float64]
    known: Mapping[str, NDArray[Any]]


@dataclass(frozen=True)
class Fit:
    """Fit a forecaster again for each of `origins` (places of the last period known), and forecast `steps` periods.

    `keep` asks for the last fit as a file.
    """

    name: str
    seconds: float
    seed: int
    steps: int
    origins: Sequence[int]
    data: Rows | History
    keep: bool = False


@dataclass(frozen=True)
class FitRows:
    """Fit a regressor on rows of all series; the answer has it as a skops file."""

    name: str
    seconds: float
    seed: int
    X: NDArray[np.float32]
    y: NDArray[np.float64]


@dataclass(frozen=True)
class Batch:
    """Forecast `steps` periods of many series: each by a row of features a step, with the regressor in the skops file
    `fitted`, or without one each from its history (NaN where missing).
    """

    name: str
    seconds: float
    seed: int
    steps: int
    data: Sequence[NDArray[Any]]
    fitted: bytes


@dataclass(frozen=True)
class Answer:
    """Forecasts (a row per origin), or why there are none; the seconds it took; and the last fit as a skops file where
    it was asked for and can travel.
    """

    forecasts: Sequence[NDArray[np.float64]] = ()
    problem: str = ""
    seconds: float = 0.0
    fitted: bytes = b""


def kind_of(model: object) -> Kind:
    """How a forecaster wants its data: the core's features, an array, or frames."""
    homes = {base.__module__.split(".")[0] for base in type(model).__mro__}
    if "statsforecast" in homes:
        return "statsforecast"
    return "regressor" if "sklearn" in homes else "frames"


def make(maker: Callable[..., object], options: Mapping[str, object], seed: int) -> Any:
    """A fresh forecaster; one that takes `random_state` and was given none gets `seed`."""
    random.seed(seed)
    np.random.seed(seed % 2**32)  # noqa: NPY002  what users' code draws from
    model = cast("Any", maker(**options))
    if hasattr(model, "get_params") and model.get_params().get("random_state", 0) is None:
        model.set_params(random_state=seed % 2**31)
    return model


def fit_all(kind: Kind, fresh: Callable[[], Any], request: Fit) -> tuple[list[NDArray[np.float64]], bytes]:
    """A forecast for each origin, each by its own forecaster that has seen nothing later; and the last of these as
    a file, where that is asked for and possible.
    """
    from many_models.forecasting.pack.skops_writer import packed

    result: list[NDArray[np.float64]] = []
    model: object = None
    for at, origin in enumerate(request.origins):
        data = request.data
        if isinstance(data, Rows):
            known = data.place <= origin
            regressor = model = fresh()
            regressor.fit(data.X[known], data.y[known])
            forecast = regressor.predict(data.ahead[at])
        elif kind == "statsforecast":
            forecast = _by_statsforecast(fresh(), data, origin, request.steps)
        else:
            forecast = _by_frames(fresh(), data, origin, request.steps)
        result.append(_checked(forecast, request.steps))
    return result, packed(model) if request.keep and model is not None else b""


def _by_statsforecast(model: Any, data: History, origin: int, steps: int) -> object:
    """By a model that knows no gaps: they are filled on a straight line."""
    y = data.y[: origin + 1]
    seen = np.flatnonzero(np.isfinite(y))
    y = np.interp(np.arange(len(y)), seen, y[seen])
    numeric = [values for values in data.known.values() if values.dtype != object]
    if numeric and getattr(model, "uses_exog", False):
        columns = np.column_stack(numeric).astype(float)
        return model.forecast(y, steps, columns[: origin + 1], columns[origin + 1 : origin + 1 + steps])["mean"]
    return model.forecast(y, steps)["mean"]


def _by_frames(model: Any, data: History, origin: int, steps: int) -> object:
    import pandas as pd

    stop = origin + 1 + steps
    frame = pd.DataFrame({"ds": data.ds[:stop], **{name: values[:stop] for name, values in data.known.items()}})
    history = frame.iloc[: origin + 1].copy()
    history.insert(1, "y", data.y[: origin + 1].copy())
    model.fit(history)
    return model.predict(frame.iloc[origin + 1 :].reset_index(drop=True))


def _checked(forecast: object, steps: int) -> NDArray[np.float64]:
    values = np.asarray(forecast, np.float64).ravel()
    if len(values) != steps:
        raise ValueError(f"predict gave {len(values)} numbers, needed {steps}")
    bad = np.flatnonzero(~np.isfinite(values))
    if len(bad):
        raise ValueError(f"predict gave {values[bad[0]]} at step {bad[0] + 1}")
    return values


class _Forecasters:
    """What was opened: name → how to make one, and its kind or why it cannot be used."""

    def __init__(self) -> None:
        self._makers: dict[str, tuple[Callable[..., object], dict[str, object]]] = {}
        self._kinds: dict[str, Kind] = {}
        self._made: dict[str, Any] = {}
        self._loaded: dict[bytes, Any] = {}

    def open(self, request: Open) -> tuple[str, str]:
        """Its kind, or "" and the problem."""
        sys.path[:] = request.path
        name, use, options = request.name, request.use, request.options
        module, attribute = use.split(":")
        faulthandler.dump_traceback_later(request.seconds, exit=True)
        try:
            maker: Any = importlib.import_module(module)
            for part in attribute.split("."):
                maker = getattr(maker, part)
            values: dict[str, object] = json.loads(options)
            if problem := _no_maker(maker, pooled=request.pooled):
                return "", f"{use} {problem}"
            if request.pooled and not _is_regressor(_made_by(maker)):
                values = {"device": request.device, **values}
            model = make(maker, values, 0)
            kind = kind_of(model) if not request.pooled or _is_regressor(type(model)) else "batches"
            if inspect.isclass(model) or (problem := _no_forecaster(type(model), pooled=request.pooled)):
                return "", f"{use} makes something else than a forecaster: {problem or 'a class'}"
        except (Exception, SystemExit) as error:  # noqa: BLE001  whatever a user's module raises
            return "", f"{use} cannot be used: {_text(error)}"
        finally:
            faulthandler.cancel_dump_traceback_later()
        self._makers[name], self._kinds[name] = (maker, values), kind
        if kind == "batches":
            self._made[name] = model  # its weights are read once
        elif not request.pooled:
            self._warm_up(name)
        return kind, ""

    def answer_all(self, request: FitRows | Batch) -> Answer:
        """Fit over all series, or forecast many of them; or say why not."""
        begun = time.perf_counter()
        faulthandler.dump_traceback_later(request.seconds, exit=True)
        try:
            if isinstance(request, FitRows):
                return Answer(fitted=self._fit_rows(request), seconds=time.perf_counter() - begun)
            found = _shaped(self._predict(request), len(request.data), request.steps)
            return Answer(list(found), seconds=time.perf_counter() - begun)
        except (Exception, SystemExit) as error:  # noqa: BLE001  whatever a user's code raises
            return Answer(problem=_text(error), seconds=time.perf_counter() - begun)
        finally:
            faulthandler.cancel_dump_traceback_later()

    def _fit_rows(self, request: FitRows) -> bytes:
        from many_models.forecasting.pack.skops_writer import packed

        maker, options = self._makers[request.name]
        model = make(maker, options, request.seed)
        model.fit(request.X, request.y)
        if not (data := packed(model, LARGEST_OF_ALL)):
            raise ValueError(
                f"{type(model).__name__} cannot be stored: its class is not on the list of trusted types, "
                f"or it takes more than {LARGEST_OF_ALL // 1_000_000} MB"
            )
        return data

    def _predict(self, request: Batch) -> object:
        random.seed(request.seed)
        np.random.seed(request.seed % 2**32)  # noqa: NPY002  what users' code draws from
        if not request.fitted:
            return self._made[request.name].predict(list(request.data), request.steps)
        if request.fitted not in self._loaded:
            from many_models.forecasting.pack import mm_sklearn_v1

            mm_sklearn_v1.check(request.fitted)
            self._loaded[request.fitted] = mm_sklearn_v1.load(request.fitted)
        # one series at a time: the last bits of a product depend on how many rows it has
        return [self._loaded[request.fitted].predict(rows) for rows in request.data]

    def _warm_up(self, name: str) -> None:
        """One fit on a made-up series: what it says counts for nothing, but it compiles and imports what it needs."""
        y = 10.0 + 5.0 * np.sin(np.arange(60.0)) + np.arange(60.0) % 7
        data: Rows | History = History(np.arange(64).astype("datetime64[D]").astype("datetime64[us]"), y, {})
        if self._kinds[name] == "regressor":
            data = Rows(np.ones((60, 2), np.float32), y, np.arange(60), np.ones((1, 4, 2), np.float32))
        self.answer(Fit(name, WARM_UP_SECONDS, 0, 4, [59], data))

    def answer(self, request: Fit) -> Answer:
        """Fit and forecast, or say why not."""
        maker, options = self._makers[request.name]
        begun = time.perf_counter()
        faulthandler.dump_traceback_later(request.seconds, exit=True)
        try:
            found, fitted = fit_all(self._kinds[request.name], lambda: make(maker, options, request.seed), request)
        except (Exception, SystemExit) as error:  # noqa: BLE001  whatever a user's code raises
            return Answer(problem=_text(error), seconds=time.perf_counter() - begun)
        finally:
            faulthandler.cancel_dump_traceback_later()
        return Answer(found, "", time.perf_counter() - begun, fitted)


def _shaped(forecasts: object, series: int, steps: int) -> NDArray[np.float64]:
    found = np.asarray(forecasts, np.float64)
    if found.shape != (series, steps):
        raise ValueError(f"predict gave the shape {found.shape}, needed {(series, steps)}")
    return found


def _is_regressor(maker: object) -> bool:
    """Whether it is a class of scikit-learn's, or made of one."""
    return inspect.isclass(maker) and "sklearn" in {base.__module__.split(".")[0] for base in maker.__mro__}


def _made_by(maker: Any) -> object:
    """The class that `maker` makes forecasters of."""
    return maker if inspect.isclass(maker) else typing.get_type_hints(maker).get("return")


def _no_maker(maker: object, *, pooled: bool) -> str:
    """Why `maker` is not called; "" for a class of forecasters, or a function that says that it makes one."""
    if inspect.isclass(maker):
        return _no_forecaster(maker, pooled=pooled)
    if not callable(maker):
        return "is neither a class nor a function"
    try:
        made = typing.get_type_hints(maker).get("return")
    except Exception as error:  # noqa: BLE001  whatever a user's annotations raise
        return f"does not say what it makes: {_text(error)}"
    if not inspect.isclass(made):
        return "is not called: name a class, or a function that says which class it makes (def make() -> MyForecaster)"
    return _no_forecaster(made, pooled=pooled)


def _no_forecaster(kind: type, *, pooled: bool) -> str:
    homes = {base.__module__.split(".")[0] for base in kind.__mro__}
    needed = ("forecast",) if "statsforecast" in homes else ("fit", "predict")
    if pooled:
        needed = ("fit", "predict") if "sklearn" in homes else ("predict",)
    absent = [what for what in needed if not callable(getattr(kind, what, None))]
    return f"has no {', '.join(absent)}" if absent else ""


def _text(error: BaseException) -> str:
    return f"{type(error).__name__}: {' '.join(str(error).split())[:300]}"


def main() -> None:
    """Answer requests until the input ends."""
    warnings.simplefilter("ignore")
    incoming, outgoing = os.fdopen(os.dup(0), "rb"), os.fdopen(os.dup(1), "wb")
    os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
    os.dup2(2, 1)  # what forecasters print is not an answer
    forecasters = _Forecasters()
    while True:
        try:
            request = pickle.load(incoming)  # noqa: S301  from our own parent
        except EOFError:
            return
        if isinstance(request, Open):
            answer = forecasters.open(request)
        else:
            answer = forecasters.answer(request) if isinstance(request, Fit) else forecasters.answer_all(request)
        pickle.dump(answer, outgoing, protocol=5)
        outgoing.flush()
