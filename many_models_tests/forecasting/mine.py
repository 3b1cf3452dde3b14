"""Forecasters as users write them, good ones and bad ones; tests name them as module:attribute."""

from __future__ import annotations

import os
import re
import signal
import time

import numpy as np
from sklearn.linear_model import Ridge

MADE = set()  # options of brought models that were made in this process
SEEN = []  # what a careless forecaster keeps between fits


class WeekdayMeans:
    """The mean of each weekday, as in docs/your-own-forecaster.md."""

    def __init__(self, weeks=8):
        self.weeks = weeks

    def fit(self, history):
        recent = history.tail(7 * self.weeks)
        self.overall = recent["y"].mean()
        self.means = recent.groupby(recent["ds"].dt.dayofweek)["y"].mean()

    def predict(self, future):
        return future["ds"].dt.dayofweek.map(self.means).fillna(self.overall).to_numpy()


class Noisy(WeekdayMeans):
    """Draws random numbers, as many do."""

    def predict(self, future):
        return super().predict(future) * np.random.uniform(0.95, 1.05, len(future))  # noqa: NPY002  as users do


class FollowsPromotion:
    """Twice the mean where promo is on; fails where it is not told."""

    def fit(self, history):
        assert list(history.columns) == ["ds", "y", "promo"]
        self.off = history.loc[history["promo"] == 0, "y"].mean()
        self.on = history.loc[history["promo"] == 1, "y"].mean()

    def predict(self, future):
        assert list(future.columns) == ["ds", "promo"]
        return np.where(future["promo"] == 1, self.on, self.off)


class Bad(WeekdayMeans):
    """Good but for series whose mean is beyond `above`: there it does what `how` says."""

    def __init__(self, how, above=100.0):
        super().__init__()
        self.how, self.above = how, above

    def fit(self, history):
        super().fit(history)
        if history["y"].mean() <= self.above:
            return
        match self.how:
            case "raise":
                raise RuntimeError("too much")
            case "exit":
                raise SystemExit(3)
            case "sleep":
                time.sleep(3600)
            case "hold":  # minutes in C, with the interpreter's lock held
                re.match(r"(a+)+$", "a" * 40 + "b")
            case "die":
                os.kill(os.getpid(), signal.SIGKILL)

    def predict(self, future):
        found = super().predict(future)
        if self.overall > self.above and self.how == "nan":
            found[2] = np.nan
        return found[:3] if self.overall > self.above and self.how == "few" else found


class Talks(WeekdayMeans):
    """Prints while it works."""

    def fit(self, history):
        print("working" * 10_000, flush=True)  # noqa: T201
        super().fit(history)


class OwnRidge(Ridge):
    """A scikit-learn regressor that only its user knows."""


class NoPredict:
    """Half a forecaster."""

    def fit(self, history):
        pass


def made(weeks) -> WeekdayMeans:
    """A function that makes a forecaster."""
    return WeekdayMeans(weeks)


class Brought:
    """A tiny stand-in of a foundation model: batches of histories in, the last season's mean level out."""

    def __init__(self, device="cpu", season=7, break_above=None, how="raise"):
        assert device in {"cpu", "cuda"}
        assert (season, break_above, how) not in MADE, "its weights are read once"
        MADE.add((season, break_above, how))
        self.season, self.break_above, self.how = season, break_above, how

    def predict(self, histories, steps):
        found = np.array([np.tile(np.nan_to_num(y[-self.season :]), steps)[:steps] for y in histories])
        broken = np.array([self.break_above is not None and np.nanmean(y) > self.break_above for y in histories])
        if broken.any():
            match self.how:
                case "raise":
                    raise RuntimeError("out of memory")
                case "die":
                    os.kill(os.getpid(), signal.SIGKILL)
                case "nan":
                    found[broken] = np.nan
                case "shape":
                    return found[:, 1:]
        return found


class NoRegressor(Ridge):
    """Derived from scikit-learn's, not on the list of types that may be stored."""
