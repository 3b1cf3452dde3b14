"""What each part of the forecasting core is worth: the core with one of them switched off, see `without`."""

from __future__ import annotations

from contextlib import ExitStack, contextmanager
from typing import TYPE_CHECKING, Any
from unittest.mock import patch

from many_models.forecasting import backtest, combination, pooling, spec
from many_models.forecasting.spec import BUILT_IN
from many_models.forecasting.terms import Choice

if TYPE_CHECKING:
    from collections.abc import Callable, Generator

PARTS = {
    "invariance": "every series teaches the others, odd ones too",
    "combination": "weights by the few windows alone: no candidate's own record is kept, none is too far behind",
    "boosted": "no trees on the recent level",
    "autoregression": "no linear model of the newest values that series share",
    "network": "no neural networks that series share",
    "bends": "known covariates are straight lines, and useless ones stay",
    "seasons": "hours repeat the day",
    "demand": "sales are taken for demand, though a column says where stock cut them short",
    "new_items": "a new series gets the mean of its own few observations",
    "over_all": "no regressor of the user's that is trained over all series (with it: scikit-learn's Ridge)",
}


def options(part: str, about: dict[str, Any], *, whole: bool) -> dict[str, Any]:
    """More arguments of `backtest` for a set, described by `about`, with the part or (not `whole`) without it."""
    if part in {"boosted", "autoregression", "network"} and not whole:
        return {"candidates": [name for name in BUILT_IN if name != part]}
    if part == "seasons" and not whole and about["freq"] == "h":
        return {"season": 24}
    if part == "demand" and whole and "sold_out_hours" in about.get("observed", ()):
        return {"sold_out": "sold_out_hours", "open_hours": 16.0}
    if part == "over_all" and whole:
        return {"custom": [spec.Custom("over_all", "sklearn.linear_model:Ridge", "{}", 600.0, pooled=True)]}
    return {}


@contextmanager
def without(part: str) -> Generator[None]:
    """The core with this part switched off, where that is no argument of `backtest`."""
    off: dict[str, list[tuple[object, str, object]]] = {
        "invariance": [(pooling, "reasons_not_to_learn_from", _nobody_is_odd)],
        "combination": [(combination, "KEPT", 0.0), (combination, "TOO_FAR", (1e9,))],
        "bends": [(pooling, "choose", _as_they_are)],
        "new_items": [(_module_of(backtest), "priors_of_rows", _no_priors)],
    }
    with ExitStack() as stack:
        for home, name, value in off.get(part, []):
            stack.enter_context(patch.object(home, name, value))
        yield


def _module_of(function: Callable[..., object]) -> object:
    import importlib

    return importlib.import_module(function.__module__)


def _nobody_is_odd(panel: Any, least: int) -> list[str]:  # noqa: ARG001 - it stands for a function of both
    return [""] * len(panel.series)


def _as_they_are(*_: object) -> Choice:
    return Choice()


def _no_priors(*_: object) -> dict[str, object]:
    return {}
