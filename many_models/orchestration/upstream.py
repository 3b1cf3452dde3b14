"""What each stage should have consumed, as one digest a key. Pure: no instance, no lake, no Dagster."""

from __future__ import annotations

from functools import cached_property
from typing import TYPE_CHECKING

from many_models.keys import digest
from many_models.orchestration.forecast_spec import spec_of

if TYPE_CHECKING:
    from collections.abc import Mapping
    from datetime import datetime

    from many_models.forecasting import Spec
    from many_models.settings import Settings


class Upstream:
    """What stages consume under `settings`. Make one for each look at what is due: the spec, with the holidays that are
    read from their file, and the promotion rules are the same for all series, and are read and digested once.
    """

    def __init__(self, settings: Settings) -> None:
        self._settings = settings

    @cached_property
    def spec(self) -> Spec:
        """What is forecast and how. Raises SettingsError when the holidays cannot be read."""
        return spec_of(self._settings)

    @cached_property
    def _recipe(self) -> str:
        return self.spec.recipe

    @cached_property
    def _rules(self) -> list[tuple[str, object]]:
        return sorted(self._settings.promotion.rules().items())

    def covariates(self, as_of: datetime | None, content: Mapping[str, str]) -> str:
        """raw_covariates consumes the tables that the settings name, at this `as_of`, with this `content`."""
        source, attributes = self._settings.source, self._settings.data.attributes
        listed = filter(None, [source.openings_table, content.get("openings")])
        return digest(
            "covariates",
            source.covariates_table,
            source.attributes_table,
            attributes,
            str(as_of),
            content["past"],
            content["ahead"],
            *listed,
        )

    def pooled(self, as_of: datetime | None) -> str:
        """Pooled models depend on how they are learned, and on the span of `forecast.pool_every` days of `as_of`."""
        forecast = self._settings.forecast
        span = as_of.toordinal() // forecast.pool_every if as_of else -1
        return digest("pool", self._recipe, forecast.trees, forecast.pool_series, span)

    def trained(self, dataset: str, pooled: str, ahead: str) -> str:
        """Training consumes a dataset, pooled models, what is known ahead, and the way to train."""
        packs = self._settings.packs
        kept = ["paths"] if self._settings.keeps_paths else []
        return digest("train", dataset, pooled, ahead, self._recipe, packs.by, packs.buckets, *kept)

    def promoted(self, trained: str) -> str:
        """Promotion consumes a trained model, and the rules."""
        return digest("promote", trained, self._rules)


def predicted(champion: str, dataset: str, ahead: str, answer: str = "") -> str:
    """A prediction consumes a champion ("" for none), the history it forecasts from, what is known ahead, and the
    answer to a drift ("" for none).
    """
    return digest("predict", champion, dataset, ahead, *([answer] if answer else []))


def version_of(staging: str, cutoff: str) -> str:
    """The version of a champion."""
    return digest(staging, cutoff)
