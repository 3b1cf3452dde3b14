"""The endpoint leaves out the loader's work for what a pack does not have; its answers are the loader's to the bit."""

from __future__ import annotations

from dataclasses import replace
from datetime import datetime, timedelta
from functools import cache
from typing import TYPE_CHECKING

import numpy as np
import pytest

from many_models.data.pack_file import in_memory, joined, parted
from many_models.data.release_index import PackId
from many_models.errors import SeriesError
from many_models.forecasting import PackModel, train
from many_models.forecasting.kernels import pack as compiled
from many_models.forecasting.pack import mm_pack_v1 as loader
from many_models.serving.loaded_pack import LoadedPack, Observation, Question, ServedPack
from many_models_tests.forecasting.histories import AS_OF, SPEC, rows_of, sales

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from many_models.serving.loaded_pack import Value

NAMES, DAYS = ("salt", "tea"), 200
SPEC_OF_BOTH = replace(SPEC, known=("price", "kind"))


@cache
def trained() -> PackModel:
    """Two series with a price, a number, and a kind, a text."""
    price = 1.0 + (np.arange(DAYS) // 20) % 3 * 0.5
    kind = np.array([("none", "flyer", "poster")[day // 30 % 3] for day in range(DAYS)])
    rows = rows_of({name: sales(seed=i) for i, name in enumerate(NAMES)}, SPEC_OF_BOTH, price=price, kind=kind)
    return train(rows, SPEC_OF_BOTH, AS_OF).model


def pack(variant: str) -> PackModel:
    """The trained pack: without its text, with a term, with a closed day, with a list of openings, or as it is."""
    model = trained()
    index, arrays = dict(model.index), {name: array.copy() for name, array in model.arrays.items()}
    first = int(arrays["cutoff"][0]) + 1
    if variant == "a term":
        arrays["pool_terms"][0, 0] = [loader.HINGE, 0.0, 0.0, 0.1]
    elif variant == "a closed day":
        arrays["closed_days"][1, 0] = first + 2
    elif variant == "openings":
        index["open"] = [[[first - DAYS, first + 3]], []]
    elif variant == "a plain scale":
        arrays["log"][:], arrays["scale"][0, 0] = False, 0.0
    return PackModel(index, arrays)


def loaded(model: PackModel) -> LoadedPack:
    block = in_memory(joined(model.files()))
    return LoadedPack(PackId("pack/1", "0" * 64), block, parted(memoryview(block)))


class Loader(loader.Pack):
    """The loader as it is."""

    def forget(self, periods: int) -> None:
        """Keep everything."""


def days(values: Sequence[Mapping[str, Value]], after: int = 0) -> list[tuple[datetime, Mapping[str, Value]]]:
    return [(AS_OF + timedelta(days=after + 1 + i), value) for i, value in enumerate(values)]


FULL: list[dict[str, Value]] = [
    {"price": 1.0 + i / 10, "kind": ("flyer", "poster", "new")[i % 3]} for i in range(SPEC.horizon)
]
GAPS: list[dict[str, Value]] = [
    {} if i == 1 else {"price": None if i == 2 else float("nan") if i == 3 else 2, "kind": None} for i in range(6)
]
SEEN = [Observation(AS_OF + timedelta(days=1), 3.0, "observed", FULL[0]), Observation(AS_OF + timedelta(days=3), 1.0)]
QUESTIONS = (
    Question("tea", known=days(FULL)),
    Question("salt", known=days(FULL), explain=True),
    Question("tea", horizon=9, known=days([{"price": True}, *FULL])),
    Question("salt", known=days([{"price": 0.0}, {"price": -1.0}, {"price": 1e300}] + [{"price": 1.5}] * 4)),
    Question("tea", known=days(GAPS)),
    Question("salt"),
    Question("tea", known=days(FULL, 3), observations=SEEN, against=days([{"price": 1.2}] * 4, 3)),
)


@pytest.mark.parametrize("variant", ["as it is", "a term", "a closed day", "openings", "a plain scale"])
def test_an_answer_is_that_of_the_loader_byte_by_byte(variant: str) -> None:
    ours, theirs = loaded(pack(variant)), loaded(pack(variant))
    theirs._model = Loader(theirs._index, theirs._model.arrays, compiled)  # type: ignore[assignment]
    for question in QUESTIONS * 2:  # the second time from what the first has left behind
        row = NAMES.index(question.series_id)
        assert ours.answer(question, row, keep=False) == theirs.answer(question, row, keep=False)


def test_covariates_without_a_gap_are_encoded_as_the_loader_does() -> None:
    model = trained()
    price = {**model.index, "known": ["price"], "levels_of": [0]}
    arrays = {**model.arrays, "last_x": model.arrays["last_x"][:, :1], "before_x": model.arrays["before_x"][:, :1]}
    known = {"price": [1.0, 2, True, "1.5", 0.0, -3.0, 1e308]}
    for row in range(len(NAMES)):
        (x, repeated), (wanted, gaps) = (
            kind(price, arrays).encode(row, known, 7) for kind in (ServedPack, loader.Pack)
        )
        assert x.dtype == wanted.dtype
        assert x.tobytes() == np.ascontiguousarray(wanted).tobytes()
        assert repeated.tolist() == gaps.tolist()


def test_a_time_off_the_frequency_is_refused_whatever_was_asked_before() -> None:
    model = loaded(trained())
    odd = [(ds + timedelta(hours=1), values) for ds, values in days(FULL)]
    for _ in range(2):
        model.answer(QUESTIONS[0], 1)
        with pytest.raises(SeriesError, match="off the frequency D"):
            model.answer(Question("tea", known=odd), 1)
